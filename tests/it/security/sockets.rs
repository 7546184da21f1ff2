//! Streams without end and their readers: WebSockets as bytes, server-sent events that nobody takes.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{Bystander, PATIENCE, all_gone, connect_from, exchange, status};
use crate::support::{client::Events, kck::Project, process::Process, run, servers::Database};

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const FINAL: u8 = 0x80;

/// A WebSocket whose client says what it likes.
pub(super) struct Socket {
    stream: TcpStream,
}

fn opening(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

/// A frame (RFC 6455, 5.2), masked by zeros.
fn message(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..126 => bytes.push(mask | u8::try_from(short).unwrap()),
        middle @ 126..65_536 => {
            bytes.push(mask | 126);
            bytes.extend(u16::try_from(middle).unwrap().to_be_bytes());
        }
        long => {
            bytes.push(mask | 127);
            bytes.extend(u64::try_from(long).unwrap().to_be_bytes());
        }
    }
    if masked {
        bytes.extend([0; 4]);
    }
    bytes.extend_from_slice(payload);
    bytes
}

impl Socket {
    /// Opens one, which must succeed.
    pub(super) async fn open(address: &str, path: &str, more: &str) -> Self {
        let mut stream = connect_from(1, address).await.unwrap();
        stream.write_all(opening(path, more).as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        Self { stream }
    }

    /// All that is said until the server closes.
    pub(super) async fn until_closed(&mut self) -> String {
        let mut said = Vec::new();
        let read = self.stream.read_to_end(&mut said);
        drop(timeout(PATIENCE, read).await.expect("the server closes"));
        String::from_utf8_lossy(&said).into_owned()
    }
}

/// Goal: whoever misuses a WebSocket loses it, and nothing else happens. Method: each misuse on a socket of its own,
/// whose answer has come before.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of frames")]
fn d3_misused_sockets_are_closed() {
    run(async {
        let database = Database::new("abuse_sockets").await;
        let project = Project::sums(&database).await;
        let kck = project.start().await;
        let bystander = Bystander::start(&kck.address, "/fetch/sum_of/1");
        let path = "/subscribe/ws?key=sum_of/1";
        for (what, bytes) in [
            ("a frame over the limit", message(FINAL | TEXT, &[b'x'; 70_000], true)),
            (
                "a frame said to be of exabytes",
                [&[FINAL | TEXT, 0xff, 0x7f][..], &[0xff; 7], &[0; 4]].concat(),
            ),
            ("no mask", message(FINAL | TEXT, b"hello", false)),
            ("an unknown kind", message(FINAL | 3, b"", true)),
            ("reserved bits", message(FINAL | 0x70 | TEXT, b"", true)),
            ("a long ping", message(FINAL | PING, &[0; 200], true)),
            ("a ping in pieces", message(PING, b"", true)),
            ("the rest of nothing", message(FINAL, b"x", true)),
            ("no UTF-8", message(FINAL | TEXT, &[0xff, 0xfe], true)),
            ("a close", message(FINAL | CLOSE, &1000u16.to_be_bytes(), true)),
            ("a close of one byte", message(FINAL | CLOSE, &[3], true)),
            ("HTTP again", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ] {
            let mut socket = Socket::open(&kck.address, path, "").await;
            drop(socket.stream.write_all(&bytes).await);
            let said = socket.until_closed().await;
            assert!(!said.contains("HTTP/1.1 200"), "{what}: {said}");
        }
        // Pieces without end.
        let mut socket = Socket::open(&kck.address, path, "").await;
        let mut sent = 0;
        let mut piece = message(TEXT, &[b'x'; 1000], true);
        while timeout(PATIENCE, socket.stream.write_all(&piece)).await.unwrap().is_ok()
            && sent < 100_000
        {
            (sent, piece) = (sent + 1, message(0, &[b'x'; 1000], true));
        }
        assert!(sent < 100_000, "it ends");
        // Pings whose answers nobody reads, and one that is gone without a word.
        let mut pings = Socket::open(&kck.address, path, "").await;
        let many = message(FINAL | PING, b"12345678", true).repeat(1000);
        for _ in 0..200 {
            if !matches!(
                timeout(Duration::from_secs(2), pings.stream.write_all(&many)).await,
                Ok(Ok(()))
            ) {
                break;
            }
        }
        drop(pings);
        drop(Socket::open(&kck.address, path, "").await);

        let ask = async |line: &str, more: &str| {
            let text =
                opening(line, more).replace("Connection: Upgrade", "Connection: Upgrade, close");
            status(&exchange(&kck.address, text.as_bytes()).await)
        };
        for origin in ["http://evil.example", "null", "https://localhost.evil.example", "file://"] {
            assert_eq!(ask(path, &format!("Origin: {origin}\r\n")).await, 403, "{origin}");
        }
        assert_eq!(ask("/subscribe/ws?key=nothing/1", "").await, 404);
        assert_eq!(ask("/subscribe/ws", "").await, 400);
        assert_eq!(ask("/fetch/sum_of/1", "").await, 200, "other routes upgrade nothing");
        let old = opening(path, "")
            .replace("Version: 13", "Version: 8")
            .replace("Connection: Upgrade", "Connection: Upgrade, close");
        assert!(matches!(
            status(&exchange(&kck.address, old.as_bytes()).await),
            400 | 404 | 405 | 426
        ));
        bystander.stop("misused sockets").await;
        all_gone(&kck.address, PATIENCE).await;
        kck.stop().await;
    });
}

/// Goal: readers who take nothing cost a bounded memory while what they watch changes fast, and others are told.
/// Method: the binary; fifty readers of either protocol that never read a 200 kB value, which changes 200 times; one
/// that reads.
#[test]
fn d3_readers_who_never_read_cost_little_and_others_are_told() {
    run(async {
        let database = Database::new("abuse_unread").await;
        let mut project = Project::sums(&database).await;
        project.settings += "[limits]\nnear_cache = \"16MB\"\n";
        project.product(
            "long",
            "/* kck\nresult = \"value\"\n*/\nselect repeat('x', 200000) || sum(n)::text from items where owner = :owner",
        );
        let mut kck = Process::start(&project, "").await;
        drop(kck.gather());
        let mut reader = Events::open(&kck.address, "/subscribe?key=long/1", &[]).await;
        reader.named("value").await;
        let (before, _) = kck.memory();
        let mut unread = Vec::new();
        for n in 0..50 {
            let mut stream = connect_from(1, &kck.address).await.unwrap();
            let text = if n % 2 == 0 {
                "GET /subscribe?key=long/1 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()
            } else {
                opening("/subscribe/ws?key=long/1", "")
            };
            stream.write_all(text.as_bytes()).await.unwrap();
            unread.push(stream);
        }
        let began = std::time::Instant::now();
        for n in 1..=200 {
            database.run(&format!("update items set n = {n} where id = 1")).await;
        }
        loop {
            let value = reader.named("value").await.json()["value"].as_str().unwrap().to_owned();
            if value.ends_with("x200") {
                break;
            }
        }
        let (after, most) = kck.memory();
        eprintln!(
            "50 readers who read nothing, 200 changes of 200 kB in {:?}: {} MB before, {} MB after, {} MB at most",
            began.elapsed(),
            before >> 20,
            after >> 20,
            most >> 20
        );
        assert!(most < before + (150 << 20), "10 GB were written past them");
        drop(unread);
        drop(reader);
        all_gone(&kck.address, PATIENCE).await;
        let text =
            String::from_utf8(exchange(&kck.address, &super::plain("/metrics")).await).unwrap();
        assert!(text.contains("kck_subscriptions 0"), "{text}");
        kck.kill().await;
    });
}
