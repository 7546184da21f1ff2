//! Paths → replies, over one kept-alive connection.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http1, http::request::Builder};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::{
    cli::{Stop, client::Reply},
    postgres::describe_chain,
};

/// A client that asks one thing after the other.
pub(in crate::cli) struct Reader {
    address: SocketAddr,
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Reader {
    pub(in crate::cli) async fn connect(address: SocketAddr) -> Result<Self, Stop> {
        let stream = TcpStream::connect(address).await.map_err(|error| away(address, &error))?;
        stream.set_nodelay(true).map_err(|error| away(address, &error))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| away(address, &error))?;
        // Its end shows in the next answer.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { address, sender })
    }

    pub(in crate::cli) async fn get(&mut self, path: &str) -> Result<Reply, Stop> {
        self.ask(Request::get(path), Bytes::new()).await
    }

    /// Sends JSON.
    pub(in crate::cli) async fn post(&mut self, path: &str, json: &str) -> Result<Reply, Stop> {
        let request = Request::post(path).header("content-type", "application/json");
        self.ask(request, Bytes::copy_from_slice(json.as_bytes())).await
    }

    async fn ask(&mut self, request: Builder, body: Bytes) -> Result<Reply, Stop> {
        let address = self.address;
        let request = request.header("host", address.to_string()).body(Full::new(body));
        let request = request.map_err(|error| Stop::cannot(format!("ask {address}: {error}")))?;
        // The connection takes the next request a moment after the last answer has ended.
        self.sender.ready().await.map_err(|error| away(address, &error))?;
        let response =
            self.sender.send_request(request).await.map_err(|error| away(address, &error))?;
        let status = response.status().as_u16();
        let body =
            response.into_body().collect().await.map_err(|error| away(address, &error))?.to_bytes();
        Ok(Reply { status, body })
    }
}

fn away(address: SocketAddr, error: &dyn std::error::Error) -> Stop {
    Stop::cannot(format!("ask {address}: {}", describe_chain(error)))
}
