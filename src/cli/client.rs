//! A request to a running kck → its status and body, or its events.

use std::fmt::Display;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use super::{Stop, complain, environment, say};
use crate::postgres::{describe_chain, tls};

/// Where the running kck is.
#[derive(Debug, Args)]
pub(super) struct Server {
    /// Its address; else KCK_SERVER, else listen of section http in ./kck.toml.
    #[arg(long, value_name = "[https://]HOST:PORT")]
    server: Option<String>,
    /// The token that says who asks; else KCK_TOKEN, which other users of this machine do not see.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
}

/// What is asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Question {
    pub(super) method: hyper::Method,
    /// With its query.
    pub(super) path: String,
    /// JSON, if there is a body.
    pub(super) body: Option<String>,
    /// The last event that was seen.
    pub(super) last_event: Option<String>,
}

/// What it answered.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

impl Reply {
    /// Prints the answer, or the complaint.
    pub(super) fn print(&self) -> Result<(), Stop> {
        let text = String::from_utf8_lossy(&self.body);
        if self.status == 200 {
            say(&text);
            return Ok(());
        }
        complain(&text);
        Err(Stop::no())
    }
}

impl Server {
    /// Asks for a path with its query.
    pub(super) async fn get(&self, path: &str) -> Result<Reply, Stop> {
        self.send(Question { path: path.to_owned(), ..Question::default() }).await
    }

    /// Asks, and gives the whole answer.
    pub(super) async fn send(&self, question: Question) -> Result<Reply, Stop> {
        let address = self.address()?;
        let response = self.open(question).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|error| away(&address, &error))?;
        Ok(Reply { status, body: body.to_bytes() })
    }

    /// Asks, and gives the answer as it begins.
    pub(super) async fn open(&self, question: Question) -> Result<Response<Incoming>, Stop> {
        let address = self.address()?;
        let (secure, authority) = match address.split_once("://") {
            Some(("https", authority)) => (true, authority),
            Some((_, authority)) => (false, authority),
            None => (false, address.as_str()),
        };
        let stream = TcpStream::connect(authority).await.map_err(|error| away(&address, &error))?;
        let mut sender = if secure {
            let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
            spoken(encrypted(host, stream).await.map_err(|error| away(&address, &error))?).await
        } else {
            spoken(stream).await
        }
        .map_err(|error| away(&address, &describe_chain(&error)))?;
        let path = question.path.clone();
        let request = self
            .request(authority, question)
            .map_err(|error| Stop::usage(format!("'{path}' cannot be asked for: {error}")))?;
        sender.send_request(request).await.map_err(|error| away(&address, &describe_chain(&error)))
    }

    fn request(
        &self,
        authority: &str,
        question: Question,
    ) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let Question { method, path, body, last_event } = question;
        let mut request = Request::builder().method(method).uri(path).header("host", authority);
        if let Some(token) = self.token.clone().or_else(|| named("KCK_TOKEN")) {
            request = request.header("authorization", format!("Bearer {}", token.trim()));
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        if let Some(id) = last_event {
            request = request.header("last-event-id", id);
        }
        request.body(Full::from(body.unwrap_or_default()))
    }

    fn address(&self) -> Result<String, Stop> {
        let address = match self.server.clone().or_else(|| named("KCK_SERVER")) {
            Some(address) => address,
            None => super::ConfigArgs { config: None }.load()?.listen.to_string(),
        };
        Ok(address.trim_end_matches('/').to_owned())
    }
}

fn away(address: &str, error: &dyn Display) -> Stop {
    Stop::cannot(format!("ask {address}: {error}\n  hint: start kck run, or name it with --server"))
}

async fn encrypted(
    host: &str,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let config = tls::of_this_machine().map_err(|error| describe_chain(&error))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| error.to_string())
}

async fn spoken<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Its end shows in the answer.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

fn named(variable: &str) -> Option<String> {
    environment().into_iter().find(|(name, _)| name == variable).map(|(_, value)| value)
}
