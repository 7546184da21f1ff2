//! HTTP/2 as frames, so that what no client would send can be sent.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, tcp::OwnedReadHalf},
    time::timeout,
};

use super::{Bystander, PATIENCE, all_gone, connect_from};
use crate::support::{kck::Project, process::Process, run, servers::Database};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// One frame (RFC 9113, 4.1).
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A field, literal and never indexed (RFC 7541, 6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let mut bytes = Vec::new();
        match text.len() {
            short @ 0..127 => bytes.push(u8::try_from(short).unwrap()),
            long => {
                bytes.push(127);
                let mut rest = long - 127;
                while rest >= 128 {
                    bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                bytes.push(u8::try_from(rest).unwrap());
            }
        }
        bytes.extend_from_slice(text.as_bytes());
        bytes
    };
    [vec![0], text(name), text(value)].concat()
}

/// The head of a request.
pub(super) fn head(method: &str, path: &str) -> Vec<u8> {
    let fields =
        [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost")];
    fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

/// A connection whose client says what it likes.
pub(super) struct Http2 {
    pub(super) stream: TcpStream,
}

impl Http2 {
    /// Connects, with these settings.
    pub(super) async fn open(address: &str, settings: &[(u16, u32)]) -> Self {
        let mut stream = connect_from(1, address).await.unwrap();
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        let hello =
            [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &payload)].concat();
        stream.write_all(&hello).await.unwrap();
        Self { stream }
    }

    /// Sends until all is sent, the server has closed, or takes no more for a while; gives how many bytes went.
    async fn flood(&mut self, bytes: &[u8], times: usize) -> usize {
        for sent in 0..times {
            match timeout(Duration::from_secs(3), self.stream.write_all(bytes)).await {
                Ok(Ok(())) => {}
                _ => return sent * bytes.len(),
            }
        }
        times * bytes.len()
    }

    /// What the server says until it closes, or until nothing comes for a second.
    async fn said(self) -> Said {
        let (mut reader, _writer) = self.stream.into_split();
        let mut said = Said::default();
        while let Ok(Some((kind, _, payload))) =
            timeout(Duration::from_secs(1), next(&mut reader)).await
        {
            said.kinds.push(kind);
            if kind == GOAWAY {
                said.away =
                    payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().unwrap()));
            }
            if kind == HEADERS {
                said.heads.push(payload);
            }
        }
        said
    }
}

async fn next(reader: &mut OwnedReadHalf) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    reader.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    reader.read_exact(&mut payload).await.ok()?;
    Some((head[3], u32::from_be_bytes(head[5..9].try_into().unwrap()), payload))
}

#[derive(Debug, Default)]
struct Said {
    kinds: Vec<u8>,
    /// The code of GOAWAY.
    away: Option<u32>,
    heads: Vec<Vec<u8>>,
}

impl Said {
    fn count(&self, kind: u8) -> usize {
        self.kinds.iter().filter(|one| **one == kind).count()
    }
}

fn asks(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &head("GET", path))
}

/// Goal: floods of every kind of frame cost kck neither its memory nor its other readers, and a connection that breaks the
/// protocol ends. Method: the binary; each flood on a connection of its own, its memory before and after.
#[test]
#[expect(clippy::too_many_lines, reason = "tables of frames, on one server")]
fn d3_floods_of_frames_end_their_connection_and_nothing_else() {
    run(async {
        let database = Database::new("abuse_http2").await;
        let project = Project::sums(&database).await;
        let mut kck = Process::start(&project, "").await;
        drop(kck.gather());
        let bystander = Bystander::start(&kck.address, "/fetch/sum_of/1");
        // What a connection is worth, before it is broken.
        let mut sound = Http2::open(&kck.address, &[]).await;
        sound.stream.write_all(&asks(1, "/fetch/sum_of/1")).await.unwrap();
        let said = sound.said().await;
        assert_eq!(
            (said.heads[0][0], said.count(DATA)),
            (0x88, 1),
            "status 200 of the static table: {said:?}"
        );
        let (before, _) = kck.memory();

        // Rapid reset: CVE-2023-44487.
        let mut rapid = Http2::open(&kck.address, &[]).await;
        let mut stream = 1;
        let mut resets = 0;
        while stream < 20_000 {
            let bytes = [
                asks(stream, "/fetch/sum_of/1"),
                frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()),
            ]
            .concat();
            if rapid.flood(&bytes, 1).await == 0 {
                break;
            }
            (stream, resets) = (stream + 2, resets + 1);
        }
        let said = rapid.said().await;
        eprintln!("rapid reset: {resets} sent, GOAWAY {:?}", said.away);

        // More streams than may be: refused, not queued.
        let mut many = Http2::open(&kck.address, &[]).await;
        let opened: Vec<u8> = (0..2000)
            .flat_map(|n| frame(HEADERS, END_HEADERS, 2 * n + 1, &head("POST", "/fetch")))
            .collect();
        many.flood(&opened, 1).await;
        let said = many.said().await;
        assert!(
            said.count(RST_STREAM) > 1000 || said.away.is_some(),
            "{:?} {}",
            said.away,
            said.count(RST_STREAM)
        );

        for (what, bytes, times) in [
            ("settings", frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]), 200_000),
            ("pings", frame(PING, 0, 0, &[7; 8]), 200_000),
            ("empty data", frame(DATA, 0, 1, &[]), 200_000),
            ("priorities", frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 0]), 200_000),
            ("windows", frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()), 200_000),
            ("unknown frames", frame(0x77, 0, 0, &[0; 1000]), 20_000),
        ] {
            let mut flood = Http2::open(&kck.address, &[]).await;
            // A stream that is open, for what needs one.
            let open = frame(HEADERS, END_HEADERS, 1, &head("POST", "/fetch"));
            flood.flood(&open, 1).await;
            // The answers are not read, as far as the buffers go.
            let chunk = bytes.repeat(100);
            let sent = flood.flood(&chunk, times / 100).await;
            let said = flood.said().await;
            eprintln!(
                "{what}: {sent} bytes taken, GOAWAY {:?}, {} frames back",
                said.away,
                said.kinds.len()
            );
        }

        // A head without end: CVE-2024-27316.
        let mut endless = Http2::open(&kck.address, &[]).await;
        endless.flood(&frame(HEADERS, END_STREAM, 1, &head("GET", "/fetch/sum_of/1")), 1).await;
        let part: Vec<u8> =
            (0..100).flat_map(|n| literal(&format!("x-{n}"), &"y".repeat(100))).collect();
        let sent = endless.flood(&frame(CONTINUATION, 0, 1, &part), 10_000).await;
        let said = endless.said().await;
        eprintln!("continuations: {sent} bytes taken, GOAWAY {:?}", said.away);
        assert!(
            sent < 50_000_000
                && (said.away.is_some() || said.kinds.is_empty() || said.count(RST_STREAM) > 0),
            "{said:?}"
        );

        let large = literal("x", &"y".repeat(16_000));
        let mut list = Http2::open(&kck.address, &[]).await;
        let mut bytes = frame(HEADERS, END_STREAM, 1, &head("GET", "/fetch/sum_of/1"));
        for n in 0..8 {
            bytes.extend(frame(CONTINUATION, if n == 7 { END_HEADERS } else { 0 }, 1, &large));
        }
        list.flood(&bytes, 1).await;
        let said = list.said().await;
        let refused =
            said.heads.first().is_some_and(|head| head.windows(3).any(|digits| digits == b"431"));
        assert!(
            refused
                || said.count(RST_STREAM) > 0
                || said.away.is_some()
                || !said.heads.iter().any(|head| head[0] == 0x88),
            "{said:?}"
        );

        for (what, bytes) in [
            (
                "a frame of 16 MB",
                [&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1][..], &[0; 70_000]].concat(),
            ),
            ("data of no stream", frame(DATA, 0, 0, b"x")),
            ("data of a stream that is not there", frame(DATA, 0, 99, b"x")),
            ("a stream of the server's", frame(HEADERS, END_HEADERS, 2, &head("GET", "/"))),
            ("a promise", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
            (
                "a window beyond numbers",
                frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes()).repeat(2),
            ),
            ("a window of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
            ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7])),
            ("settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
            ("a head that is none", frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 40])),
            ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &[0x82])),
            ("nonsense", vec![0x55; 5000]),
        ] {
            let mut broken = Http2::open(&kck.address, &[]).await;
            broken.flood(&bytes, 1).await;
            let said = broken.said().await;
            assert!(
                said.away.is_some_and(|code| code != 0) || said.kinds.is_empty(),
                "{what}: {said:?}"
            );
        }
        // Heads that HTTP/2 forbids (RFC 9113, 8.2 and 8.3) reach no route.
        let bare = |fields: &[(&str, &str)]| {
            fields.iter().flat_map(|(name, value)| literal(name, value)).collect::<Vec<u8>>()
        };
        for (what, fields) in [
            ("large letters", [head("GET", "/fetch/sum_of/1"), literal("X-A", "b")].concat()),
            (
                "an end of line",
                [head("GET", "/fetch/sum_of/1"), literal("x-a", "b\r\nc: d")].concat(),
            ),
            ("no path", bare(&[(":method", "GET"), (":scheme", "http")])),
            ("an empty path", bare(&[(":method", "GET"), (":scheme", "http"), (":path", "")])),
            ("two paths", [head("GET", "/fetch/sum_of/1"), literal(":path", "/status")].concat()),
            ("a blank in a path", head("GET", "/fetch/sum_of/1 HTTP/1.1\r\nx: y")),
            (
                "a connection header",
                [head("GET", "/fetch/sum_of/1"), literal("connection", "close")].concat(),
            ),
            ("chunks", [head("POST", "/fetch"), literal("transfer-encoding", "chunked")].concat()),
            ("CONNECT", bare(&[(":method", "CONNECT"), (":authority", "x:1")])),
        ] {
            let mut odd = Http2::open(&kck.address, &[]).await;
            odd.flood(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields), 1).await;
            let said = odd.said().await;
            assert!(
                !said.heads.iter().any(|head| head[0] == 0x88),
                "{what} is answered 200: {said:?}"
            );
        }
        bystander.stop("floods of HTTP/2 frames").await;
        all_gone(&kck.address, PATIENCE).await;
        let (after, most) = kck.memory();
        eprintln!(
            "memory: {} MB before, {} MB after, {} MB at most",
            before >> 20,
            after >> 20,
            most >> 20
        );
        assert!(most < before + (200 << 20));
        kck.kill().await;
    });
}
