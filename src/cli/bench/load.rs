//! A load generator: kept-alive connections that ask for one thing, each for one answer at a time.
//!
//! It does as little as possible for each request, because it takes its processor time from the server it measures.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::future::try_join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use crate::cli::Stop;

/// More than a head and an answer of the sizes that are measured.
const BUFFER: usize = 8 * 1024;

/// The bytes of a request, with these headers beside the needed one.
pub(super) fn request(address: SocketAddr, path: &str, headers: &[(&str, String)]) -> Vec<u8> {
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{more}\r\n").into_bytes()
}

/// A connection that asks one thing after the other.
pub(super) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

/// An answer, as long as nothing else is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer<'a> {
    /// Status and headers, each line with its end.
    pub(super) head: &'a [u8],
    pub(super) body: &'a [u8],
}

impl Answer<'_> {
    pub(super) fn is_fine(&self) -> bool {
        self.head.starts_with(b"HTTP/1.1 200 ")
    }

    /// Status line left out.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = std::str::from_utf8(self.head).unwrap_or_default().lines().skip(1);
        lines.filter_map(|line| line.split_once(": "))
    }

    pub(super) fn has_header(&self, name: &str, value: &str) -> bool {
        self.headers().any(|(own, has)| own.eq_ignore_ascii_case(name) && has == value)
    }
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::with_capacity(BUFFER) })
    }

    /// Asks, and waits for the whole answer.
    pub(super) async fn ask(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.read.clear();
        let mut sizes = None;
        loop {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            sizes = sizes.or_else(|| sizes_of(&self.read));
            let Some((head, body)) = sizes else { continue };
            if self.read.len() >= head + body {
                let (head, body) = self.read.split_at(head);
                return Ok(Answer { head, body });
            }
        }
    }
}

/// The bytes of head and body, once the head is whole.
fn sizes_of(read: &[u8]) -> Option<(usize, usize)> {
    const LENGTH: &[u8] = b"content-length: ";
    let head = read.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let mut lines = read.get(..head)?.split(|byte| *byte == b'\n');
    let length = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(LENGTH.len())?;
        name.eq_ignore_ascii_case(LENGTH).then_some(value)
    });
    let length = length.and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok());
    Some((head, length.unwrap_or(0)))
}

/// What was asked and answered within a time.
pub(super) struct Loaded {
    pub(super) requests: u64,
    pub(super) took: Duration,
    /// Sorted.
    latencies: Vec<Duration>,
}

impl Loaded {
    pub(super) fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let requests = self.requests as f64;
        requests / self.took.as_secs_f64()
    }

    /// The smallest that at least so many in a hundred do not exceed.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.latencies.len() * percent).div_ceil(100).saturating_sub(1);
        self.latencies.get(rank).copied().unwrap_or_default()
    }
}

/// Open connections to one server.
pub(super) struct Load(Vec<Connection>);

impl Load {
    /// Opens so many, each of which asks once.
    pub(super) async fn open(
        address: SocketAddr,
        connections: usize,
        request: &[u8],
    ) -> Result<Self, Stop> {
        let opened = (0..connections).map(async |_| {
            let mut connection = Connection::open(address).await?;
            connection.ask(request).await?;
            Ok(connection)
        });
        let opened = try_join_all(opened).await;
        opened.map(Self).map_err(|error: io::Error| failed(address, &error))
    }

    /// All of them ask again and again, until the time is over.
    pub(super) async fn run(
        self,
        address: SocketAddr,
        request: &[u8],
        span: Duration,
    ) -> Result<Loaded, Stop> {
        let start = Instant::now();
        let asking = self.0.into_iter().map(|mut connection| {
            let request = request.to_vec();
            tokio::spawn(async move {
                let mut latencies = Vec::with_capacity(1 << 16);
                let mut now = Instant::now();
                while now < start + span {
                    let answer = connection.ask(&request).await?;
                    if !answer.is_fine() {
                        let head = String::from_utf8_lossy(answer.head).into_owned();
                        return Err(io::Error::other(head));
                    }
                    let before = std::mem::replace(&mut now, Instant::now());
                    latencies.push(now - before);
                }
                Ok(latencies)
            })
        });
        let mut latencies = Vec::new();
        for asked in asking.collect::<Vec<_>>() {
            let asked = asked.await.map_err(|error| failed(address, &error))?;
            latencies.extend(asked.map_err(|error| failed(address, &error))?);
        }
        let took = start.elapsed();
        latencies.sort_unstable();
        Ok(Loaded { requests: latencies.len() as u64, took, latencies })
    }
}

fn failed(address: SocketAddr, error: &dyn std::error::Error) -> Stop {
    Stop::cannot(format!("ask {address}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_known_when_the_head_is_whole() {
        assert_eq!(sizes_of(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n"), None);
        assert_eq!(sizes_of(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"), Some((38, 3)));
        assert_eq!(sizes_of(b"HTTP/1.1 304 Not Modified\r\n\r\n"), Some((29, 0)));
    }
}
