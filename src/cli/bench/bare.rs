//! The twin that hits are measured against: a bare hyper server that answers everything with the same bytes.
//!
//! It is a command of this program, so that it runs as kck does: the same runtime, allocator and build.

use std::{convert::Infallible, net::SocketAddr, path::PathBuf};

use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::{
    HeaderMap, Request, Response,
    body::Incoming,
    header::{HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use super::load::Answer;
use crate::cli::Stop;

/// Answer everything with the same bytes.
#[derive(Debug, Args)]
pub(super) struct Bare {
    /// Where it answers.
    #[arg(long)]
    listen: SocketAddr,
    /// A file with an answer as another server sent it.
    #[arg(long)]
    answer: PathBuf,
}

/// An answer that never changes.
struct Frozen {
    headers: HeaderMap,
    body: Bytes,
}

impl Bare {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let Self { listen, answer } = self;
        let failed = |error| Stop::cannot(format!("answer on {listen}: {error}"));
        let bytes = std::fs::read(answer).map_err(failed)?;
        let frozen: &'static Frozen = Box::leak(Box::new(Frozen::of(&bytes)));
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        loop {
            let (stream, _) = listener.accept().await.map_err(failed)?;
            tokio::spawn(serve(stream, frozen));
        }
    }
}

impl Frozen {
    fn of(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
        let (head, body) = bytes.split_at(end);
        let mut headers = HeaderMap::new();
        for (name, value) in (Answer { head, body }).headers() {
            // hyper sends these by itself.
            let own = matches!(name, "date" | "content-length");
            if let (false, Ok(name), Ok(value)) =
                (own, HeaderName::try_from(name), HeaderValue::try_from(value))
            {
                headers.append(name, value);
            }
        }
        Self { headers, body: Bytes::copy_from_slice(body) }
    }
}

async fn serve(stream: TcpStream, frozen: &'static Frozen) {
    drop(stream.set_nodelay(true));
    let service = service_fn(async move |_: Request<Incoming>| {
        let mut response = Response::new(Full::new(frozen.body.clone()));
        response.headers_mut().clone_from(&frozen.headers);
        Ok::<_, Infallible>(response)
    });
    // Its end is its client's matter.
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}
