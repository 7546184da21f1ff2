//! Slow clients, all in one test: what takes ten or thirty seconds is waited for once.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    Bystander, all_gone, connect_from, connections,
    http2::{Http2, frame, head},
};
use crate::support::{kck::Project, process::Process, run, servers::Database};

/// How long kck lets a reader take nothing (30 s), and room for a slow machine.
const LONGEST: Duration = Duration::from_secs(60);

async fn says(address: &str, text: &str) -> TcpStream {
    let mut stream = connect_from(1, address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// Sends a byte now and then until the server closes.
fn trickles(mut stream: TcpStream, byte: &'static [u8]) -> tokio::task::JoinHandle<Vec<u8>> {
    tokio::spawn(async move {
        let (mut reader, mut writer) = stream.split();
        let mut beat = tokio::time::interval(Duration::from_millis(300));
        let sends = async {
            loop {
                beat.tick().await;
                if writer.write_all(byte).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut answer = Vec::new();
        tokio::select! {
            _ = reader.read_to_end(&mut answer) => answer,
            () = sends => unreachable!("it never ends"),
        }
    })
}

/// Goal: whoever is slow on purpose is ended, by the kind of slowness in ten or thirty seconds, and costs others nothing.
/// Method: the binary; hundreds of half heads, heads and bodies that trickle or never end, and readers of 8 MB who read
/// nothing over either protocol; another client asks all the while; in the end no connection is left.
#[test]
#[expect(clippy::too_many_lines, reason = "what takes long is waited for once")]
fn d3_slow_clients_are_ended_and_others_are_served() {
    run(async {
        let database = Database::new("abuse_slow").await;
        let mut project = Project::sums(&database).await;
        project.product(
            "long",
            "/* kck\nresult = \"value\"\n*/\nselect repeat('x', 8000000) from items where owner = :owner limit 1",
        );
        project.settings += "[limits]\nnear_cache = \"64MB\"\n";
        let mut kck = Process::start(&project, "").await;
        drop(kck.gather());
        let address = kck.address.clone();
        let bystander = Bystander::start(&address, "/fetch/sum_of/1");
        let long = super::exchange(&address, &super::plain("/fetch/long/1")).await;
        assert!(long.len() > 8_000_000);
        let (before, _) = kck.memory();
        let began = Instant::now();

        let mut held = Vec::new();
        for n in 0..100 {
            let half = ["G", "GET /fetch/su", "GET /fetch/sum_of/1 HTTP/1.1\r\nHost: x\r\nX-"];
            held.push(says(&address, half[n % half.len()]).await);
        }
        let mut tasks = Vec::new();
        for _ in 0..50 {
            tasks.push(trickles(
                says(&address, "GET /fetch/sum_of/1 HTTP/1.1\r\nHost: x\r\n").await,
                b"X-A: b\r\n",
            ));
            let post = "POST /fetch HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{";
            tasks.push(trickles(says(&address, post).await, b" "));
            let update =
                "PUT /update/nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
            tasks.push(trickles(says(&address, update).await, b"1\r\nx\r\n"));
            let get =
                "GET /fetch/sum_of/1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
            tasks.push(trickles(says(&address, get).await, b"1\r\nx\r\n"));
            held.push(
                says(
                    &address,
                    "POST /fetch HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{\"keys\"",
                )
                .await,
            );
        }
        for _ in 0..10 {
            held.push(says(&address, "GET /fetch/long/1 HTTP/1.1\r\nHost: x\r\n\r\n").await);
            held.push(
                says(
                    &address,
                    "GET /fetch?key=long/1&key=long/1&key=long/1 HTTP/1.1\r\nHost: x\r\n\r\n",
                )
                .await,
            );
        }
        let mut streams = Vec::new();
        for n in 0..10 {
            // A window of nothing: the answer cannot be sent, and pings are answered.
            let mut reader = Http2::open(&address, &[(4, 0)]).await;
            let asks: Vec<u8> = (0..10)
                .flat_map(|id| frame(1, 5, 2 * id + 1, &head("GET", "/fetch/long/1")))
                .collect();
            reader.stream.write_all(&asks).await.unwrap();
            streams.push(pongs(reader, false));
            // A body that never ends.
            let mut writer = Http2::open(&address, &[]).await;
            let half = frame(1, 4, 1, &head(if n % 2 == 0 { "POST" } else { "GET" }, "/fetch"));
            writer.stream.write_all(&half).await.unwrap();
            streams.push(pongs(writer, true));
        }
        let most_open = connections(&address).await;
        assert!(most_open > 300, "{most_open}");
        for task in tasks {
            let answer = task.await.unwrap();
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert!(
                answer.is_empty() || text.starts_with("HTTP/1.1 4") || text.contains("sum_of/1"),
                "{text:.300}"
            );
        }
        eprintln!("slow heads and bodies ended after {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(35));
        let (_, most) = kck.memory();
        all_gone(&address, LONGEST).await;
        eprintln!("{most_open} slow connections, all gone after {:?}", began.elapsed());
        bystander.stop("slow clients").await;
        drop((held, streams));
        let (after, _) = kck.memory();
        eprintln!(
            "memory: {} MB before, {} MB at most, {} MB after",
            before >> 20,
            most >> 20,
            after >> 20
        );
        assert!(most < before + (200 << 20));
        kck.kill().await;
    });
}

/// Answers pings, and leaves when it is answered if it should.
fn pongs(connection: Http2, leaves: bool) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let (mut reader, mut writer) = connection.stream.into_split();
        let mut head = [0; 9];
        while reader.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            if reader.read_exact(&mut payload).await.is_err() {
                return;
            }
            let answer = match (head[3], head[4]) {
                (6, 0) => frame(6, 1, 0, &payload),
                (4, 0) => frame(4, 1, 0, &[]),
                (1, _) if leaves => return,
                _ => continue,
            };
            if writer.write_all(&answer).await.is_err() {
                return;
            }
        }
    })
}

/// Goal: a list of long answers is not gathered whole for a reader who does not take it. Method: the binary; lists of 200
/// answers of 1 MB each to eight readers who read nothing.
#[test]
fn d3_a_list_of_long_answers_is_not_held_whole() {
    run(async {
        let database = Database::new("abuse_list").await;
        let mut project = Project::sums(&database).await;
        project.product(
            "long",
            "/* kck\nresult = \"value\"\n*/\nselect repeat(:n::text, 1000000) || count(*)::text from items",
        );
        project.settings += "[limits]\nnear_cache = \"16MB\"\n";
        let mut kck = Process::start(&project, "").await;
        drop(kck.gather());
        let path: Vec<String> = (100..200).map(|n| format!("key=long/{}", n % 10)).collect();
        let path = format!("/fetch?{}", path.join("&"));
        let bystander = Bystander::start(&kck.address, "/fetch/sum_of/1");
        let whole = super::exchange(&kck.address, &super::plain(&path)).await;
        assert!(whole.len() > 100_000_000, "{}", whole.len());
        let (before, most) = kck.memory();
        eprintln!(
            "a list of 100 MB was sent with {} MB at most, {} MB after",
            most >> 20,
            before >> 20
        );
        drop(whole);
        let path: Vec<String> = (100..300).map(|n| format!("key=long/{n}")).collect();
        let path = format!("/fetch?{}", path.join("&"));
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(says(&kck.address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await);
        }
        // Each has begun to be answered, or its connection would be read on.
        let mut first = [0; 12];
        for stream in &mut held {
            tokio::time::timeout(LONGEST, stream.read_exact(&mut first)).await.unwrap().unwrap();
        }
        let (now, most) = kck.memory();
        eprintln!(
            "8 lists of 200 MB that nobody takes: {} MB, {} MB at most",
            now >> 20,
            most >> 20
        );
        assert!(most < before + (120 << 20), "nobody took more than the first of them");
        drop(held);
        bystander.stop("long lists").await;
        all_gone(&kck.address, LONGEST).await;
        kck.kill().await;
    });
}
