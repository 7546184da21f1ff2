//! A reader of server-sent events that costs little, so that very many fit into one process.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use super::load;

const EVENT_END: &[u8] = b"\n\n";
/// How much is read at once.
const READ: usize = 4096;

/// A subscription as its reader has it.
pub(super) struct Events {
    stream: TcpStream,
    /// Received, the parts' lengths between the parts still there.
    raw: Vec<u8>,
    /// Whole parts, one after the other; events end where they do not.
    text: Vec<u8>,
}

impl Events {
    /// Subscribes to a key.
    pub(super) async fn open(address: SocketAddr, key: &str) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let request = load::request(address, &format!("/subscribe?key={key}"), &[]);
        stream.write_all(&request).await?;
        let mut events = Self { stream, raw: Vec::new(), text: Vec::new() };
        loop {
            if let Some(end) = find(&events.raw, b"\r\n\r\n") {
                if events.raw.starts_with(b"HTTP/1.1 200 ") {
                    events.raw.drain(..end + 4);
                    return Ok(events);
                }
                let answer = String::from_utf8_lossy(&events.raw).into_owned();
                return Err(io::Error::other(answer));
            }
            events.read().await?;
        }
    }

    /// The text of the next event that has this in it, and when it was here.
    pub(super) async fn next_with(&mut self, needle: &[u8]) -> io::Result<(Vec<u8>, Instant)> {
        loop {
            // The first may have come with the head.
            self.join_parts();
            while let Some(end) = find(&self.text, EVENT_END) {
                let event: Vec<u8> = self.text.drain(..end + EVENT_END.len()).collect();
                if find(&event, needle).is_some() {
                    return Ok((event, Instant::now()));
                }
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        self.raw.reserve(READ);
        match self.stream.read_buf(&mut self.raw).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Takes whole parts out of what was received (RFC 9112, 7.1).
    fn join_parts(&mut self) {
        let mut taken = 0;
        while let Some(rest) = self.raw.get(taken..)
            && let Some(end) = find(rest, b"\r\n")
            && let Some(length) = rest.get(..end).and_then(length)
            && let Some(part) = rest.get(end + 2..end + 2 + length)
            && rest.len() >= end + length + 4
        {
            self.text.extend_from_slice(part);
            taken += end + length + 4;
        }
        self.raw.drain(..taken);
        // What is idle keeps no memory of what was large.
        if self.raw.is_empty() {
            self.raw = Vec::new();
        }
    }
}

fn length(line: &[u8]) -> Option<usize> {
    usize::from_str_radix(std::str::from_utf8(line).ok()?, 16).ok()
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

/// The answer in a `value` event.
pub(super) fn answer(event: &[u8]) -> Option<serde_json::Value> {
    let text = std::str::from_utf8(event).ok()?;
    let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    serde_json::from_str(&data.join("\n")).ok()
}
