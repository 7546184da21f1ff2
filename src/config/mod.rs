//! `kck.toml` and the environment → checked settings, a section a stage.
//!
//! Every setting stands once, in `SETTINGS`; reading, refusing, printing and `kck.example.toml` follow it.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{observe::Point, recompute::queue::Order, serve};

mod auth;
mod raw;

use raw::Raw;

/// The annotated example: every setting, its default and its reason.
pub const EXAMPLE: &str = include_str!("../../kck.example.toml");

/// Section, name, default, and whether its value is a secret.
const SETTINGS: &[(&str, &str, &str, bool)] = &[
    ("source", "url", "", true),
    ("source", "password_file", "", false),
    ("source", "replication_url", "", true),
    ("source", "slot", "kck", false),
    ("source", "publication", "kck", false),
    ("source", "wal_limit", "10GB", false),
    ("store", "kind", "embedded", false),
    ("store", "path", "kck-data", false),
    ("store", "contact_points", "127.0.0.1:9042", false),
    ("store", "keyspace", "kck", false),
    ("store", "local_datacenter", "datacenter1", false),
    ("store", "replication", "1", false),
    ("store", "username", "", false),
    ("store", "password", "", true),
    ("store", "tls", "false", false),
    ("http", "listen", "127.0.0.1:8080", false),
    ("http", "allow_open", "false", false),
    ("http", "tls_cert", "", false),
    ("http", "tls_key", "", false),
    ("http", "cors_origins", "", false),
    ("http", "stale_if_error", "0s", false),
    ("refresh", "connections", "4", false),
    ("refresh", "database_share", "0.5", false),
    ("refresh", "strategy", "worth", false),
    ("refresh", "statement_timeout", "30s", false),
    ("limits", "tracked_keys", "1000000", false),
    ("limits", "stored", "10GB", false),
    ("limits", "near_cache", "256MB", false),
    ("limits", "wait", "30s", false),
    ("limits", "answer", "8MB", false),
    ("limits", "keys_per_request", "1000", false),
    ("limits", "connections", "4096", false),
    ("limits", "connections_per_address", "1024", false),
    ("limits", "misses", "1000", false),
    ("limits", "subscriptions", "1000", false),
    ("auth.jwt", "algorithms", "", false),
    ("auth.jwt", "secret_file", "", false),
    ("auth.jwt", "secret", "", true),
    ("auth.jwt", "key_file", "", false),
    ("auth.jwt", "jwks_file", "", false),
    ("auth.jwt", "jwks_url", "", false),
    ("auth.jwt", "issuer", "", false),
    ("auth.jwt", "audience", "", false),
    ("auth.jwt", "leeway", "30s", false),
    ("auth.login", "query", "", false),
    ("auth.login", "lifetime", "1h", false),
    ("auth.login", "signing_key_file", "", false),
    // For tests of crashes: everyone who reaches this point of the protocol waits there.
    ("test", "halt_at", "", false),
    // For tests of programs: the kck that guards them, where it is not this one.
    ("test", "guard", "", false),
];

/// What the design names and this version does not have yet.
const NOT_YET: &[(&str, &str)] = &[("pg", ""), ("bus", ""), ("sources", "")];

/// A setting that cannot be used: which, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {fact}\n  hint: {hint}")]
pub struct BadSetting {
    /// `[source] url`, or the file.
    pub name: String,
    /// What is wrong.
    pub fact: String,
    /// What to do.
    pub hint: String,
}

/// Which store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreKind {
    /// Gone with the process.
    Memory,
    /// A directory.
    Embedded(PathBuf),
    /// Cassandra.
    Cassandra(Cassandra),
}

/// How to reach Cassandra.
#[derive(Clone, PartialEq, Eq)]
pub struct Cassandra {
    /// `host:port`.
    pub contact_points: Vec<String>,
    /// Made if allowed.
    pub keyspace: String,
    /// Nodes elsewhere are not asked.
    pub local_datacenter: Option<String>,
    /// Copies of each entry.
    pub replication: u32,
    /// For the login.
    pub username: Option<String>,
    /// For the login.
    pub password: Option<String>,
    /// Encrypt.
    pub tls: bool,
}

impl fmt::Debug for Cassandra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cassandra")
            .field("contact_points", &self.contact_points)
            .finish_non_exhaustive()
    }
}

/// All settings, checked.
#[derive(Clone)]
pub struct Config {
    /// Where `kck.toml` is, or would be: `products/` lies beside it.
    pub directory: PathBuf,
    /// The source's address, as written.
    pub source_url: String,
    /// The server itself, where the address is a pooler's.
    pub replication_url: Option<String>,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// Most log, in bytes, that the source may keep for the slot.
    pub wal_limit_bytes: u64,
    /// Where entries lie.
    pub store: StoreKind,
    /// Where answers are served.
    pub listen: SocketAddr,
    /// Serve without authentication beyond loopback.
    pub allow_open: bool,
    /// Certificate and key for HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Sites whose pages may ask.
    pub origins: Vec<String>,
    /// How long caches may answer while kck cannot.
    pub stale_if_error: Duration,
    /// Statements at once.
    pub refresh_connections: usize,
    /// The share of wall time that they may be executing together.
    pub database_share: f64,
    /// In which order keys go for which nobody waits.
    pub strategy: Order,
    /// The source gives a product's statement up after this.
    pub statement_timeout: Duration,
    /// Keys followed at most.
    pub tracked_keys: usize,
    /// Bytes of all answers in the store.
    pub stored_bytes: u64,
    /// Answer bytes kept in memory.
    pub near_cache_bytes: u64,
    /// The longest a read may wait.
    pub wait: Duration,
    /// Bytes of one answer.
    pub answer_bytes: usize,
    /// Keys in one request.
    pub keys_per_request: usize,
    /// HTTP connections at once.
    pub http_connections: usize,
    /// Of them from one address.
    pub connections_per_address: usize,
    /// Computations a second that one client may cause.
    pub misses: u32,
    /// Subscriptions at once of one client.
    pub subscriptions: usize,
    /// How readers say who they are; without it nobody is asked.
    pub auth: Option<serve::auth::Settings>,
    /// For tests of crashes.
    pub halt_at: Option<Point>,
    /// Variables of the environment that are kck's own.
    pub own_variables: Vec<String>,
    /// kck itself, as a program.
    pub guard: PathBuf,
    printed: String,
}

impl Config {
    /// Reads the file, if there is one, under the environment, and checks every setting.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn load(
        path: &Path,
        required: bool,
        environment: &[(String, String)],
    ) -> Result<Self, BadSetting> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => {
                String::new()
            }
            Err(error) => {
                return Err(bad(
                    &path.display().to_string(),
                    format!("cannot be read: {error}"),
                    "give another file with --config",
                ));
            }
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Self::parse(&text, path, parent.unwrap_or(Path::new(".")), environment)
    }

    /// As [`Config::load`], from a text.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn parse(
        text: &str,
        file: &Path,
        directory: &Path,
        environment: &[(String, String)],
    ) -> Result<Self, BadSetting> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .map_or(1, |span| text.get(..span.start).unwrap_or("").lines().count().max(1));
            bad(
                &format!("{}:{line}", file.display()),
                error.message().to_owned(),
                "see kck.example.toml for every setting",
            )
        })?;
        let mut values = BTreeMap::new();
        for (section, settings) in sections(&table)? {
            if settings.is_empty() {
                known(&section, "")?;
            }
            if auth::SECTIONS.contains(&&*section) {
                // What stands there empty was meant to be something.
                values.insert((section.clone(), String::new()), String::new());
            }
            for (name, value) in settings {
                known(&section, name)?;
                values.insert((section.clone(), name.clone()), plain(&section, name, value)?);
            }
        }
        for (variable, value) in environment {
            let Some((section, name)) =
                variable.strip_prefix("KCK_").and_then(|rest| rest.rsplit_once("__"))
            else {
                continue;
            };
            let (section, name) = (section.to_lowercase().replace("__", "."), name.to_lowercase());
            known(&section, &name).map_err(|mut error| {
                error.name = variable.clone();
                error
            })?;
            values.insert((section, name), value.clone());
        }
        let own = environment.iter().map(|(name, _)| name).filter(|name| name.starts_with("KCK_"));
        let own_variables = own.cloned().collect();
        Ok(Self { own_variables, ..Self::check(&Raw(values), directory)? })
    }

    fn check(raw: &Raw, directory: &Path) -> Result<Self, BadSetting> {
        let text = |section, name| raw.text(section, name);
        let optional = |section, name| raw.optional(section, name);
        let halt_at = optional("test", "halt_at").map(|point| point.parse::<Point>()).transpose();
        let config = Self {
            directory: directory.to_owned(),
            source_url: text("source", "url"),
            replication_url: optional("source", "replication_url"),
            password_file: optional("source", "password_file").map(|path| directory.join(path)),
            slot: raw.name("source", "slot")?,
            publication: raw.name("source", "publication")?,
            wal_limit_bytes: raw.bytes("source", "wal_limit")?,
            store: raw.store(directory)?,
            listen: raw.parsed("http", "listen", "an address like 127.0.0.1:8080")?,
            allow_open: raw.parsed("http", "allow_open", "true or false")?,
            tls: raw.pair("http", "tls_cert", "tls_key", directory)?,
            origins: raw.list("http", "cors_origins"),
            stale_if_error: raw.duration("http", "stale_if_error")?,
            refresh_connections: raw.number("refresh", "connections")?,
            database_share: raw.share("refresh", "database_share")?,
            strategy: raw.parsed(
                "refresh",
                "strategy",
                "worth, most_requested, first_requested or first_requested_gte_avg",
            )?,
            statement_timeout: raw.duration("refresh", "statement_timeout")?,
            tracked_keys: raw.number("limits", "tracked_keys")?,
            stored_bytes: raw.bytes("limits", "stored")?,
            near_cache_bytes: raw.bytes("limits", "near_cache")?,
            wait: raw.duration("limits", "wait")?,
            answer_bytes: usize::try_from(raw.bytes("limits", "answer")?).unwrap_or(usize::MAX),
            keys_per_request: raw.number("limits", "keys_per_request")?,
            http_connections: raw.number("limits", "connections")?,
            connections_per_address: raw.number("limits", "connections_per_address")?,
            misses: raw.number("limits", "misses")?,
            subscriptions: raw.number("limits", "subscriptions")?,
            auth: auth::check(raw, directory)?,
            own_variables: Vec::new(),
            // Also where the file was replaced or taken away meanwhile.
            guard: optional("test", "guard").map_or_else(|| "/proc/self/exe".into(), PathBuf::from),
            halt_at: halt_at.map_err(|fact| bad("[test] halt_at", fact, "leave it out"))?,
            printed: raw.print(),
        };
        let asks = config.auth.is_some() || config.allow_open;
        if !config.listen.ip().is_loopback() && !asks {
            return Err(bad(
                "[http] listen",
                format!(
                    "{} is not a loopback address, and nothing asks readers who they are",
                    config.listen
                ),
                "listen on 127.0.0.1, set [auth.jwt], or say allow_open = true",
            ));
        }
        Ok(config)
    }

    /// Every setting as it is used, as TOML, without secrets.
    #[must_use]
    pub fn print(&self) -> &str {
        &self.printed
    }
}

/// A URL keeps what is no secret; anything else is hidden whole.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return "(hidden)".to_owned() };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let user = user.split(':').next().unwrap_or("");
    let path = path.split('?').next().unwrap_or("");
    format!("{scheme}://{user}{}{host}/{path}", if user.is_empty() { "" } else { "@" })
}

/// `250ms`, `5s`, `10m`, `24h`, `7d`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text.get(..digits)?.parse().ok()?;
    let millis = match text.get(digits..)?.trim() {
        "ms" => number,
        "s" => number.checked_mul(1000)?,
        "m" | "min" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        "d" => number.checked_mul(86_400_000)?,
        _ => return None,
    };
    Some(Duration::from_millis(millis))
}

/// `512kB`, `256MB`, `10GB`: as Postgres counts, in powers of 1024.
fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text.get(..digits)?.parse().ok()?;
    let unit = match text.get(digits..)?.trim() {
        "B" | "" => 1,
        "kB" | "KB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// Each section with its settings; `[auth.jwt]` is one, and `[auth]` above it none.
fn sections(table: &toml::Table) -> Result<Vec<(String, &toml::Table)>, BadSetting> {
    let mut sections = Vec::new();
    for (section, value) in table {
        let settings = value.as_table().ok_or_else(|| unknown(section, ""))?;
        let prefix = format!("{section}.");
        let has_parts = auth::SECTIONS.iter().any(|part| part.starts_with(&prefix));
        if !has_parts || settings.is_empty() {
            sections.push((section.clone(), settings));
            continue;
        }
        for (part, value) in settings {
            let settings = value.as_table().ok_or_else(|| unknown(section, part))?;
            sections.push((format!("{prefix}{part}"), settings));
        }
    }
    Ok(sections)
}

fn plain(section: &str, name: &str, value: &toml::Value) -> Result<String, BadSetting> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(yes) => Ok(yes.to_string()),
        toml::Value::Array(list) if list.iter().all(toml::Value::is_str) => {
            Ok(list.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(","))
        }
        other => Err(bad(
            &format!("[{section}] {name}"),
            format!("a {} is not taken here", other.type_str()),
            "see kck.example.toml",
        )),
    }
}

fn known(section: &str, name: &str) -> Result<(), BadSetting> {
    let later = NOT_YET
        .iter()
        .any(|(s, n)| section.split('.').next() == Some(*s) && (n.is_empty() || *n == name));
    if later {
        return Err(bad(
            &setting_name(section, name),
            "not supported yet".to_owned(),
            "leave it out",
        ));
    }
    let exists = SETTINGS.iter().any(|(s, n, ..)| *s == section && (name.is_empty() || *n == name));
    if exists { Ok(()) } else { Err(unknown(section, name)) }
}

fn unknown(section: &str, name: &str) -> BadSetting {
    let wanted = setting_name(section, name);
    let names = SETTINGS
        .iter()
        .filter(|(section, ..)| *section != "test")
        .map(|(s, n, ..)| setting_name(s, n));
    let nearest = names.min_by_key(|known| distance(known, &wanted));
    bad(
        &wanted,
        "no such setting".to_owned(),
        &format!("did you mean {}?", nearest.unwrap_or_default()),
    )
}

fn setting_name(section: &str, name: &str) -> String {
    format!("[{section}] {name}").trim_end().to_owned()
}

fn bad(name: &str, fact: String, hint: &str) -> BadSetting {
    BadSetting { name: name.to_owned(), fact, hint: hint.to_owned() }
}

/// How many letters must be changed, added or left out to make one of the other (Levenshtein).
#[must_use]
pub fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (b, cell) in other.chars().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            *cell = (diagonal + usize::from(a != b)).min(above + 1).min(left + 1);
            (diagonal, left) = (above, *cell);
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, BadSetting> {
        let environment: Vec<_> =
            environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::parse(text, Path::new("kck.toml"), Path::new("."), &environment)
    }

    fn refused(text: &str) -> String {
        parse(text, &[]).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_example_names_every_setting_with_its_default() {
        let uncommented: String = EXAMPLE
            .lines()
            .map(|line| {
                line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line)
            })
            .fold(String::new(), |text, line| text + line + "\n");
        let table: toml::Table = uncommented.parse().unwrap();
        let sections = sections(&table).unwrap();
        let named: BTreeMap<(String, String), String> = sections
            .iter()
            .flat_map(|(section, settings)| {
                settings.iter().map(move |(name, value)| {
                    ((section.clone(), name.clone()), plain(section, name, value).unwrap())
                })
            })
            .collect();
        for (section, name, default, _) in
            SETTINGS.iter().filter(|(section, ..)| *section != "test")
        {
            let value = named.get(&((*section).to_owned(), (*name).to_owned()));
            let value = value.unwrap_or_else(|| panic!("[{section}] {name} is missing"));
            assert!(
                *value == *default || (*section, *name) == ("source", "url"),
                "[{section}] {name} says {value}"
            );
        }
        let settings = SETTINGS.iter().filter(|(section, ..)| *section != "test").count();
        assert_eq!(named.len(), settings, "the example names what does not exist");
        assert!(parse(EXAMPLE, &[]).is_ok());
    }

    #[test]
    fn unknown_settings_are_refused_with_the_nearest_name() {
        assert!(refused("[source]\nslott = \"x\"").contains("did you mean [source] slot?"));
        assert!(refused("[http]\nlisten = 3.5").contains("is not an address"));
        assert!(refused("[pg]\nlisten = \"127.0.0.1:1\"").contains("not supported yet"));
        assert!(refused("[source").contains("kck.toml:1"));
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let config = parse(
            "[source]\nslot = \"file\"",
            &[("KCK_SOURCE__SLOT", "environment"), ("KCK_SERVER", "ignored")],
        )
        .unwrap();
        assert_eq!(config.slot, "environment");
        assert!(parse("", &[("KCK_SOURCE__SLOTT", "x")]).is_err());
    }

    #[test]
    fn listening_beyond_loopback_must_be_said() {
        assert!(refused("[http]\nlisten = \"0.0.0.0:80\"").contains("allow_open"));
        assert!(parse("[http]\nlisten = \"0.0.0.0:80\"\nallow_open = true", &[]).is_ok());
    }

    #[test]
    fn printing_keeps_secrets() {
        let config = parse("[source]\nurl = \"postgres://u:geheim@h:1/d?password=geheim\"\n[store]\npassword = \"geheim\"", &[]).unwrap();
        assert!(!config.print().contains("geheim"), "{}", config.print());
        assert!(config.print().contains("postgres://u@h:1/d"));
        assert!(parse(config.print(), &[]).is_ok(), "what is printed can be read");
    }

    #[test]
    fn durations_and_sizes() {
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("7d"), Some(Duration::from_secs(604_800)));
        assert_eq!(parse_duration("7"), None);
        assert_eq!(parse_bytes("10GB"), Some(10 << 30));
        assert_eq!(parse_bytes("1.5GB"), None);
    }
}
