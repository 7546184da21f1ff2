//! A URL or keyword string → [`Address`]: where the source is and how to get in.
//!
//! The forms are libpq's (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING>).
//! What libpq looks for beside them (a service file, `~/.pgpass`, certificates in the home folder) is not
//! looked for here.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use tokio_postgres::config::{ChannelBinding, Config, Host, SslMode, SslNegotiation};

/// How long a connection may take to be made, where the address does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the source is and how to get in. Neither `Debug` nor `Display` shows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    config: Config,
    tls: Tls,
}

/// What of TLS the address asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Whether, and what is verified.
    pub mode: TlsMode,
    /// PEM file of the authorities to trust instead of the machine's own (`sslrootcert`).
    pub authorities: Option<PathBuf>,
    /// PEM file of the client's certificate (`sslcert`).
    pub certificate: Option<PathBuf>,
    /// PEM file of its key (`sslkey`).
    pub key: Option<PathBuf>,
}

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// If the server can, unverified; otherwise without. libpq's default, and so the default here.
    #[default]
    Prefer,
    /// Encrypted, but the server is not verified.
    Require,
    /// The certificate must come from a trusted authority.
    VerifyCa,
    /// And it must be for this host.
    VerifyFull,
}

/// One place to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP.
    Tcp {
        /// The name, which TLS verifies.
        host: String,
        /// Where it is, if the name need not be looked up.
        address: Option<IpAddr>,
        /// The port.
        port: u16,
    },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// An address that cannot be understood. The text never holds a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("address of the source: {0}")]
pub struct BadAddress(pub String);

impl Address {
    /// Parses a URL or keyword string. What it leaves out comes from `environment`, asked by libpq's names
    /// (`PGHOST`, `PGUSER`, …), then from libpq's defaults.
    pub fn parse(
        text: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BadAddress> {
        let (rest, mut own) = take_own_options(text)?;
        for (option, variable) in OWN_OPTIONS {
            if !own.iter().any(|(name, _)| name == option)
                && let Some(value) = variable.and_then(&environment)
            {
                own.push(((*option).to_owned(), value));
            }
        }
        let mut config = Config::from_str(&rest).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            BadAddress(cause.unwrap_or_else(|| error.to_string()))
        })?;
        complete(&mut config, environment)?;
        check(&config)?;
        let tls = Tls::from_options(&own)?;
        Ok(Self { config, tls })
    }

    /// The same with another password.
    #[must_use]
    pub fn with_password(mut self, password: impl AsRef<[u8]>) -> Self {
        self.config.password(password);
        self
    }

    /// What of TLS it asks for.
    #[must_use]
    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// The places to try, in order.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let ports = self.config.get_ports();
        let addresses = self.config.get_hostaddrs();
        let port_of = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        let endpoint = |(index, host): (usize, &Host)| match host {
            Host::Tcp(host) => Endpoint::Tcp {
                host: host.clone(),
                address: addresses.get(index).copied(),
                port: port_of(index),
            },
            Host::Unix(folder) => {
                Endpoint::Unix(folder.join(format!(".s.PGSQL.{}", port_of(index))))
            }
        };
        self.config.get_hosts().iter().enumerate().map(endpoint).collect()
    }

    /// The role.
    #[must_use]
    pub fn user(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_else(|| self.user())
    }

    /// The password, if there is one.
    #[must_use]
    pub fn password(&self) -> Option<&[u8]> {
        self.config.get_password()
    }

    /// Whether a password may only be proved over a connection bound to the server's certificate.
    #[must_use]
    pub fn requires_channel_binding(&self) -> bool {
        self.config.get_channel_binding() == ChannelBinding::Require
    }

    /// Whether a password is to be proved without channel binding.
    #[must_use]
    pub fn disables_channel_binding(&self) -> bool {
        self.config.get_channel_binding() == ChannelBinding::Disable
    }

    /// How long making one connection may take.
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        self.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT)
    }

    /// The server's options (`-c name=value …`): the address's own, then `settings`.
    #[must_use]
    pub fn options(&self, settings: &[(&str, &str)]) -> String {
        let mut options = self.config.get_options().unwrap_or_default().to_owned();
        for (name, value) in settings {
            // The server splits options at spaces that no backslash precedes.
            let value = value.replace('\\', "\\\\").replace(' ', "\\ ");
            options.push_str(&format!(" -c {name}={value}"));
        }
        options.trim_start().to_owned()
    }

    /// As the driver wants it; TLS and what a connection is for are decided in `connect`.
    pub(super) fn config(&self) -> Config {
        self.config.clone()
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        Self::parse(text, |_| None)
    }
}

impl fmt::Display for Address {
    /// `postgres://user@host:port/database`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://{}@", self.user())?;
        for (index, endpoint) in self.endpoints().iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{endpoint}")?;
        }
        write!(f, "/{}", self.database())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self}, {:?})", self.tls.mode)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Tls {
    fn from_options(options: &[(String, String)]) -> Result<Self, BadAddress> {
        let last = |name: &str| {
            let found = options.iter().rev().find(|(option, _)| option == name);
            found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
        };
        let system = last("sslrootcert") == Some("system");
        let mode = match last("sslmode") {
            // As libpq: the machine's own authorities vouch for anybody, so the name must be right too.
            None | Some("verify-full") if system => TlsMode::VerifyFull,
            Some(_) if system => {
                return Err(BadAddress("sslrootcert=system needs sslmode=verify-full".to_owned()));
            }
            None | Some("prefer") => TlsMode::Prefer,
            Some("disable") => TlsMode::Disable,
            // As libpq: whoever names an authority wants it to be asked.
            Some("require") if last("sslrootcert").is_some() => TlsMode::VerifyCa,
            Some("require") => TlsMode::Require,
            Some("verify-ca") => TlsMode::VerifyCa,
            Some("verify-full") => TlsMode::VerifyFull,
            Some(other) => {
                return Err(BadAddress(format!(
                    "sslmode '{other}' is none of disable, prefer, require, verify-ca, verify-full"
                )));
            }
        };
        let tls = Self {
            mode,
            authorities: last("sslrootcert").filter(|_| !system).map(PathBuf::from),
            certificate: last("sslcert").map(PathBuf::from),
            key: last("sslkey").map(PathBuf::from),
        };
        if tls.certificate.is_some() != tls.key.is_some() {
            return Err(BadAddress("sslcert and sslkey go together".to_owned()));
        }
        Ok(tls)
    }
}

/// Options that the driver does not know, or not with all their values, and their environment variables.
const OWN_OPTIONS: &[(&str, Option<&str>)] = &[
    ("sslmode", Some("PGSSLMODE")),
    ("sslrootcert", Some("PGSSLROOTCERT")),
    ("sslcert", Some("PGSSLCERT")),
    ("sslkey", Some("PGSSLKEY")),
    // Nothing here speaks GSSAPI, so whatever it says is so.
    ("gssencmode", None),
];

fn is_own(name: &str) -> bool {
    OWN_OPTIONS.iter().any(|(option, _)| *option == name)
}

/// Splits off the options that are ours → (what the driver parses, ours with their values).
fn take_own_options(text: &str) -> Result<(String, Vec<(String, String)>), BadAddress> {
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        take_from_url(text)
    } else {
        take_from_keywords(text)
    }
}

fn take_from_url(text: &str) -> Result<(String, Vec<(String, String)>), BadAddress> {
    let Some((before, query)) = text.split_once('?') else {
        return Ok((text.to_owned(), Vec::new()));
    };
    let mut own = Vec::new();
    let mut rest = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some((name, value)) if is_own(name) => own.push((name.to_owned(), decode(value)?)),
            _ => rest.push(part),
        }
    }
    let question = if rest.is_empty() { "" } else { "?" };
    Ok((format!("{before}{question}{}", rest.join("&")), own))
}

fn take_from_keywords(text: &str) -> Result<(String, Vec<(String, String)>), BadAddress> {
    let mut own = Vec::new();
    let mut rest = String::new();
    let mut left = text.trim_start();
    while !left.is_empty() {
        let (name, after) = left
            .split_once('=')
            .ok_or_else(|| BadAddress("a keyword without '=' and a value".to_owned()))?;
        let (name, after) = (name.trim_end(), after.trim_start());
        let (value, after) = keyword_value(after)?;
        if is_own(name) {
            own.push((name.to_owned(), value));
        } else {
            let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
            rest.push_str(&format!("{name}='{quoted}' "));
        }
        left = after.trim_start();
    }
    Ok((rest, own))
}

/// A value, quoted or up to the next space, backslashes undone → (value, what follows).
fn keyword_value(text: &str) -> Result<(String, &str), BadAddress> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            _ if !quoted && character.is_whitespace() => {
                return Ok((value, text.get(at..).unwrap_or_default()));
            }
            _ => value.push(character),
        }
    }
    if quoted {
        return Err(BadAddress("a quote is not closed".to_owned()));
    }
    Ok((value, ""))
}

/// Undoes percent encoding.
fn decode(text: &str) -> Result<String, BadAddress> {
    let bad = || BadAddress("a percent code is not two hexadecimal digits of UTF-8".to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.bytes();
    while let Some(byte) = left.next() {
        if byte == b'%' {
            let mut digit = || left.next().and_then(|digit| char::from(digit).to_digit(16));
            let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
            bytes.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// Fills what the text left out.
fn complete(
    config: &mut Config,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<(), BadAddress> {
    let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
    if config.get_hosts().is_empty() {
        let hosts = variable("PGHOST").unwrap_or_else(|| "localhost".to_owned());
        for host in hosts.split(',') {
            config.host(host);
        }
    }
    if config.get_ports().is_empty() {
        for port in variable("PGPORT").iter().flat_map(|ports| ports.split(',')) {
            let port =
                port.parse().map_err(|_| BadAddress(format!("PGPORT '{port}' is no port")))?;
            config.port(port);
        }
    }
    if config.get_user().is_none()
        && let Some(user) = variable("PGUSER")
    {
        config.user(user);
    }
    if config.get_password().is_none()
        && let Some(password) = variable("PGPASSWORD")
    {
        config.password(password);
    }
    if config.get_dbname().is_none()
        && let Some(database) = variable("PGDATABASE")
    {
        config.dbname(database);
    }
    Ok(())
}

/// What the driver would only find out while connecting.
fn check(config: &Config) -> Result<(), BadAddress> {
    let bad = |text: &str| Err(BadAddress(text.to_owned()));
    let (hosts, ports) = (config.get_hosts().len(), config.get_ports().len());
    let addresses = config.get_hostaddrs().len();
    if config.get_user().is_none_or(str::is_empty) {
        return bad("it names no user");
    }
    if ports > 1 && ports != hosts {
        return bad("there must be one port, or one for each host");
    }
    if addresses > 0 && addresses != hosts {
        return bad("there must be no hostaddr, or one for each host");
    }
    if config.get_ssl_negotiation() != SslNegotiation::Postgres {
        return bad("sslnegotiation=direct is not supported");
    }
    Ok(())
}

impl From<TlsMode> for SslMode {
    fn from(mode: TlsMode) -> Self {
        match mode {
            TlsMode::Disable => Self::Disable,
            TlsMode::Prefer => Self::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => Self::Require,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn a_url_and_its_keywords_are_one_address() {
        let url = parse(
            "postgres://kck:s%3Fcret@db.example:6000/shop?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem&connect_timeout=3",
        );
        let keywords = parse(
            "user=kck password=s?cret host = db.example port=6000 dbname='shop' sslmode=verify-full sslrootcert='/etc/ca.pem' connect_timeout=3",
        );
        assert_eq!(url, keywords);
        assert_eq!(url.password(), Some(b"s?cret".as_slice()));
        assert_eq!(url.connect_timeout(), Duration::from_secs(3));
        assert_eq!(url.tls().authorities, Some(PathBuf::from("/etc/ca.pem")));
    }

    #[test]
    fn never_shows_the_password() {
        let address = parse("postgres://kck:verysecret@localhost/shop");
        assert_eq!(address.to_string(), "postgres://kck@localhost:5432/shop");
        assert!(!format!("{address:?}").contains("secret"));
        let error =
            "host=h password=verysecret nonsense=verysecret".parse::<Address>().unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn a_socket_is_a_folder_and_a_port() {
        let address = parse("host=/run/postgresql port=5433 user=kck");
        let path = PathBuf::from("/run/postgresql/.s.PGSQL.5433");
        assert_eq!(address.endpoints(), [Endpoint::Unix(path)]);
        assert_eq!(parse("postgres://kck@%2Frun/shop").endpoints().len(), 1);
    }

    #[test]
    fn the_environment_fills_what_is_left_out() {
        let environment = |name: &str| match name {
            "PGHOST" => Some("a,b".to_owned()),
            "PGPORT" => Some("1,2".to_owned()),
            "PGUSER" => Some("eve".to_owned()),
            "PGSSLMODE" => Some("require".to_owned()),
            _ => None,
        };
        let address = Address::parse("user=kck", environment).unwrap();
        assert_eq!(address.to_string(), "postgres://kck@a:1,b:2/kck");
        assert_eq!(address.tls().mode, TlsMode::Require);
    }

    #[test]
    fn sslmode_means_what_libpq_means() {
        let mode = |options: &str| parse(&format!("user=kck {options}")).tls().mode;
        assert_eq!(mode(""), TlsMode::Prefer);
        assert_eq!(mode("sslmode=require"), TlsMode::Require);
        assert_eq!(mode("sslmode=require sslrootcert=ca.pem"), TlsMode::VerifyCa);
        assert_eq!(mode("sslrootcert=system"), TlsMode::VerifyFull);
    }

    #[test]
    fn refuses_what_cannot_work() {
        for text in [
            "host=localhost",
            "user=kck sslmode=sometimes",
            "user=kck sslcert=only.pem",
            "user=kck sslrootcert=system sslmode=require",
            "user=kck host=a,b,c port=1,2",
            "user=kck sslnegotiation=direct",
            "user=kck colour=blue",
            "user='kck",
            "user",
            "postgres://kck@localhost/shop?sslrootcert=%zz",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn options_are_the_addresss_own_and_ours() {
        let address = parse("postgres://kck@localhost/shop?options=endpoint%3Dblue");
        let options = address.options(&[("TimeZone", "UTC"), ("a.b", "repeatable read\\")]);
        assert_eq!(options, "endpoint=blue -c TimeZone=UTC -c a.b=repeatable\\ read\\\\");
    }

    proptest! {
        #[test]
        fn keyword_values_come_back(value in "\\PC{0,20}", path in "\\PC{1,20}") {
            let quote = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
            let text = format!("user=kck password='{}' sslrootcert='{}' sslmode=verify-ca", quote(&value), quote(&path));
            let address = text.parse::<Address>();
            prop_assume!(path != "system");
            let address = address.unwrap();
            prop_assert_eq!(address.password(), Some(value.as_bytes()));
            prop_assert_eq!(address.tls().authorities.clone(), Some(PathBuf::from(path)));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,60}") {
            drop(text.parse::<Address>());
            drop(format!("postgres://{text}").parse::<Address>());
        }
    }
}
