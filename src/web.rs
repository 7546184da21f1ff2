//! Web: an address → a connection that HTTP is spoken on.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use crate::postgres::{describe_chain, tls};

/// Addresses of one name that are tried.
const ENDPOINTS_MAX: usize = 4;

/// A connection on which questions without a body are asked.
pub type Sender = SendRequest<Empty<Bytes>>;

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// By TLS, with the machine's own authorities.
    pub secure: bool,
    /// Its name or address.
    pub host: String,
    /// Where it listens.
    pub port: u16,
}

impl Origin {
    /// Reads `https://HOST[:PORT]/PATH`: who is asked, and for what.
    ///
    /// # Errors
    /// Why it is no address.
    pub fn parse(text: &str) -> Result<(Self, String), &'static str> {
        let (secure, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err("it does not begin with https://"),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let path = path.split('#').next().unwrap_or_default();
        if authority.contains('@') {
            return Err("it has a user in it");
        }
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':').or(port.is_empty().then_some(""))),
            None => authority.split_once(':').map_or((authority, Some("")), |(h, p)| (h, Some(p))),
        };
        let port = match port {
            Some("") => Some(if secure { 443 } else { 80 }),
            Some(port) => port.parse().ok().filter(|port| *port != 0),
            None => None,
        };
        let port = port.ok_or("its port is no port")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || !host.chars().all(plain) {
            return Err("its host is no host");
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok((Self { secure, host: host.to_owned(), port }, path))
    }

    /// Host and port, as a request names them.
    #[must_use]
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Opens a connection to one of its endpoints that `may` be asked.
    ///
    /// # Errors
    /// What was tried, and the fact that matters.
    pub async fn open(&self, may: impl Fn(&SocketAddr) -> bool) -> Result<Sender, String> {
        let stream = self.connect(may).await?;
        if !self.secure {
            return spoken(stream).await;
        }
        let config = tls::of_this_machine().map_err(|error| describe_chain(&error))?;
        let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())?;
        spoken(stream).await
    }

    async fn connect(&self, may: impl Fn(&SocketAddr) -> bool) -> Result<TcpStream, String> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let found = found.map_err(|error| format!("look its host up: {error}"))?;
        let mut last = "its host leads nowhere that may be asked".to_owned();
        for endpoint in found.filter(may).take(ENDPOINTS_MAX) {
            match TcpStream::connect(endpoint).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = format!("connect to {endpoint}: {error}"),
            }
        }
        Err(last)
    }
}

async fn spoken<S>(stream: S) -> Result<Sender, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(|error| describe_chain(&error))?;
    // Its end shows in the answer.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}
