//! Fetch: an address → the bytes that it gives, within narrow limits.
//!
//! Only https, or http on this machine; no redirect is followed, and addresses that lead to a machine's own
//! metadata are not asked: whoever writes the answers of another service must not choose what kck connects to.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, Response, StatusCode, body::Incoming};

use super::settings::FILE_BYTES_MAX;
use crate::{postgres::describe_chain, web::Origin};

/// An address has so long to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// An address that may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    origin: Origin,
    path: String,
    /// Looking up, connecting and reading together take no longer.
    within: Duration,
}

/// What came.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) body: Bytes,
    /// How long the answer says that it is good.
    pub(super) max_age: Option<Duration>,
}

impl Address {
    /// Reads `https://HOST[:PORT]/PATH`.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let (origin, path) = Origin::parse(text)?;
        let host = &origin.host;
        let here = host.parse().map_or(host == "localhost", |ip: IpAddr| ip.is_loopback());
        if !origin.secure && !here {
            return Err("http is taken only on this machine");
        }
        Ok(Self { origin, path, within: ANSWER_WITHIN })
    }

    /// Asks it once.
    pub(super) async fn get(&self) -> Result<Fetched, String> {
        let answer = tokio::time::timeout(self.within, Box::pin(self.ask())).await;
        answer.unwrap_or_else(|_| Err(format!("no answer in {} ms", self.within.as_millis())))
    }

    async fn ask(&self) -> Result<Fetched, String> {
        let mut sender = self.origin.open(|endpoint| self.may_ask(endpoint)).await?;
        let request = Request::get(&self.path)
            .header("host", self.origin.authority())
            .header("accept", "application/json")
            .header("user-agent", "kck")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await;
        read(response.map_err(|error| describe_chain(&error))?).await
    }

    fn may_ask(&self, endpoint: &SocketAddr) -> bool {
        let ip = endpoint.ip().to_canonical();
        if self.origin.secure { !is_forbidden(ip) } else { ip.is_loopback() }
    }
}

async fn read(response: Response<Incoming>) -> Result<Fetched, String> {
    if response.status() != StatusCode::OK {
        // A redirect is one of them: it would lead where nobody has looked.
        return Err(format!("it answers {}", response.status().as_u16()));
    }
    let said = response.headers().get("cache-control").and_then(|value| value.to_str().ok());
    let max_age = said.and_then(max_age);
    let most = usize::try_from(FILE_BYTES_MAX).unwrap_or(usize::MAX);
    let body = Limited::new(response.into_body(), most).collect().await;
    let body = body.map_err(|error| format!("read its answer: {error}"))?.to_bytes();
    Ok(Fetched { body, max_age })
}

fn max_age(said: &str) -> Option<Duration> {
    let mut parts = said.split(',').map(str::trim);
    let seconds =
        parts.find_map(|part| part.to_ascii_lowercase().strip_prefix("max-age=")?.parse().ok());
    seconds.map(Duration::from_secs)
}

/// Where machines tell who they are to whoever asks, and what is no address of another machine.
fn is_forbidden(ip: IpAddr) -> bool {
    /// Metadata outside link-local: Amazon's over IPv6, Alibaba's, Oracle's.
    const METADATA: [&str; 3] = ["fd00:ec2::254", "100.100.100.200", "192.0.0.192"];
    let special = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast() || ip.is_multicast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_multicast(),
    };
    special
        || ip.is_unspecified()
        || METADATA.iter().any(|known| known.parse::<IpAddr>().is_ok_and(|known| known == ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        Address::parse(text).map_or_else(str::to_owned, |a| {
            format!("{} {} {} {}", a.origin.secure, a.origin.host, a.origin.port, a.path)
        })
    }

    #[test]
    fn an_address_is_https_or_on_this_machine() {
        assert_eq!(parsed("https://id.example/keys?v=1#x"), "true id.example 443 /keys?v=1");
        assert_eq!(parsed("https://id.example"), "true id.example 443 /");
        assert_eq!(parsed("http://127.0.0.1:8081/k"), "false 127.0.0.1 8081 /k");
        assert_eq!(parsed("http://[::1]:81/k"), "false ::1 81 /k");
        assert_eq!(parsed("http://localhost/"), "false localhost 80 /");
        for (text, want) in [
            ("http://id.example/keys", "http is taken only on this machine"),
            ("http://127.0.0.1.example/", "http is taken only on this machine"),
            ("file:///etc/passwd", "it does not begin with https://"),
            ("id.example/keys", "it does not begin with https://"),
            ("https://u:p@id.example/", "it has a user in it"),
            ("https:///keys", "its host is no host"),
            ("https://id.example:0/", "its port is no port"),
            ("https://[::1]x/", "its port is no port"),
            ("https://a b/", "its host is no host"),
        ] {
            assert_eq!(parsed(text), want, "{text}");
        }
    }

    #[test]
    fn s08_metadata_and_link_local_addresses_are_not_asked() {
        let address = Address::parse("https://id.example/").unwrap();
        for ip in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "0.0.0.0",
            "::",
        ] {
            assert!(!address.may_ask(&SocketAddr::new(ip.parse().unwrap(), 443)), "{ip}");
        }
        assert!(address.may_ask(&"10.1.2.3:443".parse().unwrap()));
        let here = Address::parse("http://localhost/").unwrap();
        assert!(!here.may_ask(&"10.1.2.3:80".parse().unwrap()));
    }

    #[tokio::test]
    async fn s08_an_address_that_says_nothing_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let address = Address::parse(&url).unwrap();
        assert_eq!(address.within, Duration::from_secs(3));
        let hasty = Address { within: Duration::from_millis(20), ..address };
        assert_eq!(hasty.get().await.unwrap_err(), "no answer in 20 ms");
    }

    #[test]
    fn an_age_is_read_among_others() {
        assert_eq!(max_age("public, Max-Age=90 , must-revalidate"), Some(Duration::from_secs(90)));
        assert_eq!(max_age("no-store"), None);
        assert_eq!(max_age("max-age=-1"), None);
    }
}
