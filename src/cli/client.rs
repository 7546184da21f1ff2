//! A request to a running kck → its status and body.

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Stop, environment};

/// Where the running kck is.
#[derive(Debug, Args)]
pub(super) struct Server {
    /// Its address; else KCK_SERVER, else listen of section http in ./kck.toml.
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,
    /// The token that says who asks; else KCK_TOKEN, which other users of this machine do not see.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
}

/// What it answered.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

impl Server {
    /// Asks for a path with its query.
    pub(super) async fn get(&self, path: &str) -> Result<Reply, Stop> {
        let address = self.address()?;
        let away = |error: &dyn std::fmt::Display| {
            Stop::cannot(format!(
                "ask {address}: {error}\n  hint: start kck run, or name it with --server"
            ))
        };
        let stream = TcpStream::connect(&address).await.map_err(|error| away(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| away(&error))?;
        // Its end shows in the answer.
        tokio::spawn(async move { drop(connection.await) });
        let mut request = Request::get(path).header("host", &address);
        if let Some(token) = self.token.clone().or_else(|| named("KCK_TOKEN")) {
            request = request.header("authorization", format!("Bearer {}", token.trim()));
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|error| Stop::usage(format!("'{path}' cannot be asked for: {error}")))?;
        let response = sender.send_request(request).await.map_err(|error| away(&error))?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|error| away(&error))?.to_bytes();
        Ok(Reply { status, body })
    }

    fn address(&self) -> Result<String, Stop> {
        let address = match self.server.clone().or_else(|| named("KCK_SERVER")) {
            Some(address) => address,
            None => super::ConfigArgs { config: None }.load()?.listen.to_string(),
        };
        Ok(address.trim_start_matches("http://").trim_end_matches('/').to_owned())
    }
}

fn named(variable: &str) -> Option<String> {
    environment().into_iter().find(|(name, _)| name == variable).map(|(_, value)| value)
}
