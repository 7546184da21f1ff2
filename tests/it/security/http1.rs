//! HTTP/1 that is broken, double or absurd: each request is refused or answered, ends its connection where its framing is
//! in doubt, and nobody else notices.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    Bystander, all_gone, connect_from, connections, exchange, exchange_from, plain, status,
};
use crate::support::{kck::Project, process::Process, run, servers::Database};

/// What is sent after the request line; `close` is added by the test where the server would keep the connection.
fn get(rest: &str) -> Vec<u8> {
    format!("GET /fetch/sum_of/1 HTTP/1.1\r\n{rest}Connection: close\r\n\r\n").into_bytes()
}

fn post(rest: &str, body: &str) -> Vec<u8> {
    format!("POST /fetch HTTP/1.1\r\nHost: x\r\n{rest}Connection: close\r\n\r\n{body}").into_bytes()
}

const BODY: &str = r#"{"keys":["sum_of/1"]}"#;

/// Goal: what is no request, or could be read in two ways, is never answered as if it were one. Method: each of them on
/// a connection of its own; the status, and that the connection ends.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of requests")]
fn d3_requests_that_are_none_are_refused_and_end_their_connection() {
    run(async {
        let database = Database::new("abuse_http1").await;
        let project = Project::sums(&database).await;
        let kck = project.start().await;
        let bystander = Bystander::start(&kck.address, "/fetch/sum_of/1");
        let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
        let good = format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len());
        let many = |count: usize| (0..count).map(|n| format!("X-{n}: y\r\n")).collect::<String>();
        let smuggled = "0\r\n\r\nGET /status HTTP/1.1\r\nHost: x\r\n\r\n";
        let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
            ("plain", get("Host: x\r\n"), &[200]),
            ("HTTP/0.9", b"GET /fetch/sum_of/1\r\n\r\n".to_vec(), &[400]),
            ("HTTP/1.0", b"GET /fetch/sum_of/1 HTTP/1.0\r\n\r\n".to_vec(), &[200]),
            ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: x\r\n\r\n".to_vec(), &[400, 505]),
            ("HTTP/3.0", b"GET / HTTP/3.0\r\nHost: x\r\n\r\n".to_vec(), &[400, 505]),
            ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[400]),
            ("another protocol", b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), &[400]),
            ("a Postgres client", b"\x00\x00\x00\x08\x04\xd2\x16\x2f".to_vec(), &[400]),
            ("no Host", get(""), &[400]),
            ("two Hosts", get("Host: a\r\nHost: b\r\n"), &[400]),
            ("the same Host twice", get("Host: a\r\nHost: a\r\n"), &[400]),
            ("a Host with blanks", get("Host: a b\r\n"), &[400]),
            ("a Host with a path", get("Host: a/b\r\n"), &[400]),
            ("a Host with a user", get("Host: a@b\r\n"), &[400]),
            ("CONNECT", b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nConnection: close\r\n\r\n".to_vec(), &[400, 404, 405]),
            ("OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(), &[404, 405]),
            ("GET *", b"GET * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(), &[400, 404]),
            ("absolute", b"GET http://localhost/fetch/sum_of/1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_vec(), &[200]),
            ("absolute, of another scheme", b"GET file:///etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(), &[400, 404]),
            ("no slash", b"GET fetch/sum_of/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(), &[400, 404]),
            ("a method of small letters", b"get /fetch/sum_of/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(), &[400, 405]),
            ("TRACE", b"TRACE /fetch/sum_of/1 HTTP/1.1\r\nHost: x\r\nCookie: s\r\nConnection: close\r\n\r\n".to_vec(), &[405]),
            ("a method of 20 kB", [b"A".repeat(20_000), b" / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec()].concat(), &[400, 404, 405, 431]),
            ("a method with NUL", b"G\0T / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), &[400]),
            ("a blank in a name", get("Host: x\r\nBad Name: y\r\n"), &[400]),
            ("a blank behind a name", get("Host: x\r\nContent-Length : 5\r\n"), &[400]),
            ("no name", get("Host: x\r\n: y\r\n"), &[400]),
            ("no colon", get("Host: x\r\nnonsense\r\n"), &[400]),
            ("a folded line", get("Host: x\r\nX-A: b\r\n c\r\n"), &[400]),
            ("NUL in a value", get("Host: x\r\nX-A: b\0c\r\n"), &[400]),
            ("an end of line in a value", get("Host: x\r\nX-A: b\rc\r\n"), &[400]),
            ("bytes above 127 in a value", [&b"GET /fetch/sum_of/1 HTTP/1.1\r\nHost: x\r\nX-A: \xff\xfe\r\nAuthorization: \xff\r\nConnection: close\r\n\r\n"[..]].concat(), &[200]),
            ("150 headers", get(&format!("Host: x\r\n{}", many(150))), &[431]),
            ("a header of 70 kB", get(&format!("Host: x\r\nX: {}\r\n", "y".repeat(70_000))), &[431]),
            ("a path of 10 kB", plain(&format!("/fetch/sum_of/{}", "9".repeat(10_000))), &[400]),
            ("a path of 70 kB", plain(&format!("/{}", "x".repeat(70_000))), &[414, 431]),
            ("a query of 60 kB", plain(&format!("/fetch/sum_of/1?{}", "a=b&".repeat(15_000))), &[400]),
            ("a path that climbs", plain("/fetch/../../etc/passwd"), &[404]),
            ("a path that climbs, encoded", plain("/fetch/%2e%2e/%2e%2e/etc/passwd"), &[404]),
            ("two slashes", plain("//fetch/sum_of/1"), &[404]),
            ("a fragment", plain("/fetch/sum_of/1#x"), &[200, 400]),
            ("no number", post("Content-Length: abc\r\n", BODY), &[400]),
            ("a sign", post("Content-Length: +21\r\n", BODY), &[400]),
            ("below zero", post("Content-Length: -1\r\n", BODY), &[400]),
            ("two lengths", post("Content-Length: 21\r\nContent-Length: 22\r\n", BODY), &[400]),
            ("a list of lengths", post("Content-Length: 21, 22\r\n", BODY), &[400]),
            ("a length beyond numbers", post("Content-Length: 99999999999999999999\r\n", BODY), &[400, 413]),
            ("a length beyond limits", post("Content-Length: 99999999999\r\n", &"x".repeat(2 << 20)), &[413]),
            ("length and chunks", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", &good), &[200, 400]),
            ("chunks and length", post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", &good), &[200, 400]),
            (
                "a request behind chunks and length",
                [
                    b"POST /fetch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
                    good.as_bytes(),
                    b"GET /fetch/sum_of/1 HTTP/1.1\r\nHost: x\r\n\r\n",
                ]
                .concat(),
                &[200, 400],
            ),
            ("another coding", post("Transfer-Encoding: xchunked\r\n", &good), &[400, 501]),
            ("chunks, then another coding", post("Transfer-Encoding: chunked, identity\r\n", &good), &[400, 501]),
            ("chunks twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", &good), &[400, 501]),
            ("packed chunks", post("Transfer-Encoding: gzip, chunked\r\n", &good), &[200, 400, 501]),
            ("chunks of HTTP/1.0", b"POST /fetch HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(), &[400, 501]),
            ("good chunks", chunked(&good), &[200]),
            ("no size", chunked("zz\r\nabc\r\n0\r\n\r\n"), &[400]),
            ("a size beyond numbers", chunked("fffffffffffffffff\r\nabc\r\n0\r\n\r\n"), &[400]),
            ("a size of 16 exabytes", chunked(&format!("ffffffffffffffff\r\n{}", "x".repeat(2 << 20))), &[400, 413]),
            ("a size below zero", chunked("-1\r\nabc\r\n0\r\n\r\n"), &[400]),
            ("a size with 0x", chunked("0x5\r\nabcde\r\n0\r\n\r\n"), &[400]),
            ("a chunk without its end", chunked("5\r\nabcdeX0\r\n\r\n"), &[400]),
            ("20 kB behind a size", chunked(&format!("5;{}\r\nabcde\r\n0\r\n\r\n", "x".repeat(20_000))), &[400]),
            ("trailers without end", chunked(&format!("0\r\n{}\r\n", many(2000))), &[400]),
            ("a million chunks", chunked(&"1\r\nx\r\n".repeat(1_100_000)), &[400, 413]),
            ("a request in a body", post("Content-Length: 5\r\n", smuggled), &[400]),
        ];
        for (what, bytes, wanted) in &cases {
            let answer = exchange(&kck.address, bytes).await;
            let text = String::from_utf8_lossy(&answer);
            let (seen, answers) = (status(&answer), text.matches("HTTP/1.").count());
            assert!(
                wanted.contains(&seen) && answers == 1,
                "{what}: {wanted:?} wanted, {seen} seen: {text:.600}"
            );
            if seen != 200 {
                assert!(!text.contains("\"value\"") && !text.contains("root:"), "{what}: {text}");
            }
        }
        bystander.stop("broken HTTP/1").await;
        all_gone(&kck.address, super::PATIENCE).await;
        kck.stop().await;
    });
}

/// A body that breaks off is refused, and whoever sent it is not waited for.
#[test]
fn d3_a_body_that_breaks_off_is_no_body() {
    run(async {
        let database = Database::new("abuse_half").await;
        let project = Project::sums(&database).await;
        let kck = project.start().await;
        for head in ["Content-Length: 100\r\n", "Transfer-Encoding: chunked\r\n"] {
            let mut stream = connect_from(1, &kck.address).await.unwrap();
            let text = format!("POST /fetch HTTP/1.1\r\nHost: x\r\n{head}\r\n15\r\n{BODY}");
            stream.write_all(text.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            drop(stream.read_to_end(&mut answer).await);
            assert!(matches!(status(&answer), 0 | 400), "{}", String::from_utf8_lossy(&answer));
        }
        all_gone(&kck.address, super::PATIENCE).await;
        kck.stop().await;
    });
}

#[test]
fn d3_requests_sent_at_once_are_answered_in_order() {
    run(async {
        let database = Database::new("abuse_pipe").await;
        let project = Project::sums(&database).await;
        let kck = project.start().await;
        let mut bytes = Vec::new();
        for n in 0..500 {
            let close = if n == 499 { "Connection: close\r\n" } else { "" };
            // One in the middle has a body.
            let request = match n % 3 {
                0 => format!("GET /fetch/sum_of/{n} HTTP/1.1\r\nHost: x\r\n{close}\r\n"),
                1 => {
                    let body = format!(r#"{{"keys":["sum_of/{n}"]}}"#);
                    format!(
                        "POST /fetch HTTP/1.1\r\nHost: x\r\n{close}Content-Length: {}\r\n\r\n{body}",
                        body.len()
                    )
                }
                _ => format!("GET /fetch?key=sum_of/{n} HTTP/1.1\r\nHost: x\r\n{close}\r\n"),
            };
            bytes.extend_from_slice(request.as_bytes());
        }
        let (mut reader, mut writer) = connect_from(1, &kck.address).await.unwrap().into_split();
        let sent = tokio::spawn(async move { writer.write_all(&bytes).await.map(|()| writer) });
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).await.unwrap();
        drop(sent.await.unwrap().unwrap());
        let text = String::from_utf8(answer).unwrap();
        let failed = text.find("\"success\":false").map(|at| &text[at..text.len().min(at + 300)]);
        assert_eq!(failed, None);
        let keys: Vec<String> = text
            .split("\"key\":\"sum_of/")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap().to_owned())
            .collect();
        assert_eq!(keys, (0..500).map(|n| n.to_string()).collect::<Vec<_>>());
        kck.stop().await;
    });
}

/// Goal: a page whose name was bound to this machine's address (DNS rebinding) reads and does nothing on a kck that is
/// open because it is only here. Method: its Host and Origin, on reads and writes; names of this machine go on.
#[test]
fn d3_a_page_that_was_bound_to_this_machine_is_not_kcks_own() {
    run(async {
        let database = Database::new("abuse_rebind").await;
        let mut project = Project::sums(&database).await;
        let kck = project.start().await;
        let ask = async |address: &str, line: &str, rest: &str| {
            status(
                &exchange(
                    address,
                    format!("{line} HTTP/1.1\r\n{rest}Connection: close\r\n\r\n").as_bytes(),
                )
                .await,
            )
        };
        let evil = "Host: evil.example:8080\r\n";
        assert_eq!(ask(&kck.address, "GET /fetch/sum_of/1", evil).await, 403);
        assert_eq!(
            ask(&kck.address, "GET /products", "Host: 127.0.0.1.evil.example\r\n").await,
            403
        );
        assert_eq!(
            ask(
                &kck.address,
                "POST /refresh/sum_of",
                &format!("{evil}Origin: http://evil.example:8080\r\n")
            )
            .await,
            403
        );
        assert_eq!(ask(&kck.address, "GET /subscribe?key=sum_of/1", evil).await, 403);
        for host in [
            "localhost",
            "localhost:8080",
            "127.0.0.1:1",
            "[::1]:8080",
            "kck",
            "app.localhost",
            "10.1.2.3",
            "",
        ] {
            assert_eq!(
                ask(&kck.address, "GET /fetch/sum_of/1", &format!("Host: {host}\r\n")).await,
                200,
                "{host}"
            );
        }
        let refused = exchange(
            &kck.address,
            format!("GET / HTTP/1.1\r\n{evil}Connection: close\r\n\r\n").as_bytes(),
        )
        .await;
        assert!(
            String::from_utf8_lossy(&refused).contains("http.allow_open"),
            "it says what to do"
        );
        kck.stop().await;
        let plain = project.settings.clone();
        for allowed in ["cors_origins = [\"http://evil.example:8080\"]", "allow_open = true"] {
            project.settings = plain.replace("[http]\n", &format!("[http]\n{allowed}\n"));
            let kck = project.start().await;
            assert_eq!(ask(&kck.address, "GET /fetch/sum_of/1", evil).await, 200, "{allowed}");
            kck.stop().await;
        }
    });
}

/// Goal: one address takes what it may and no more, and others are served all the while. Method: two thousand
/// connections from one address, most of which the server closes.
#[test]
fn d3_one_address_cannot_take_all_connections() {
    run(async {
        let database = Database::new("abuse_many").await;
        let mut project = Project::sums(&database).await;
        project.settings += "[limits]\nconnections_per_address = 50\n";
        let kck = project.start().await;
        let bystander = Bystander::start(&kck.address, "/fetch/sum_of/1");
        let mut held = Vec::new();
        for _ in 0..2000 {
            let mut stream = connect_from(1, &kck.address).await.unwrap();
            drop(stream.write_all(b"GET /fetch/sum_of/1 HTTP/1.1\r\nHost: x\r\n\r\n").await);
            held.push(stream);
        }
        let mut open = 0;
        for stream in &mut held {
            let mut first = [0; 12];
            open += usize::from(stream.read_exact(&mut first).await.is_ok());
        }
        assert_eq!(open, 50);
        // The bystander may have one beside.
        let seen = connections(&kck.address).await;
        assert!((50..=51).contains(&seen), "{seen}");
        bystander.stop("2000 connections of one address").await;
        drop(held);
        all_gone(&kck.address, super::PATIENCE).await;
        assert_eq!(status(&exchange(&kck.address, &plain("/fetch/sum_of/1")).await), 200);
        kck.stop().await;
    });
}

/// Goal: readers, however many, do not take the descriptors that kck needs for its source and store. Method: the binary
/// with few descriptors, more connections than those from ten addresses; then a first write, which needs a connection.
#[test]
fn d3_readers_leave_descriptors_for_the_source() {
    run(async {
        let database = Database::new("abuse_descriptors").await;
        let project = Project::sums(&database).await;
        std::fs::create_dir_all(project.folder.0.join("updates")).unwrap();
        std::fs::write(
            project.folder.0.join("updates/set_n.sql"),
            "update items set n = :n where id = :id",
        )
        .unwrap();
        let mut kck = Process::start_with_descriptors(&project, 200).await;
        drop(kck.gather());
        let mut kept = connect_from(2, &kck.address).await.unwrap();
        kept.write_all(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(kept.read_u8().await.unwrap());
        }
        let mut held = Vec::new();
        for n in 0..800 {
            let connecting = connect_from(u8::try_from(10 + n % 10).unwrap(), &kck.address);
            // Whoever finds the listener's queue full waits: enough are there.
            match tokio::time::timeout(Duration::from_millis(200), connecting).await {
                Ok(stream) => held.extend(stream.ok()),
                Err(_) => break,
            }
        }
        let body = "n=5&id=1";
        let text = format!(
            "PUT /update/set_n HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        kept.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        kept.read_to_end(&mut answer).await.unwrap();
        let text = String::from_utf8_lossy(&answer).into_owned();
        eprintln!("{} connections beside a write: {text}", held.len());
        assert!(text.contains("\"rows\":1"), "{text}");
        drop(held);
        all_gone(&kck.address, super::PATIENCE).await;
        kck.kill().await;
    });
}

#[test]
fn d3_an_answer_to_head_has_no_body_and_keeps_the_connection() {
    run(async {
        let database = Database::new("abuse_head").await;
        let project = Project::sums(&database).await;
        let kck = project.start().await;
        let bytes = b"HEAD /fetch/sum_of/1 HTTP/1.1\r\nHost: x\r\n\r\nHEAD /nowhere HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let text = String::from_utf8(exchange_from(1, &kck.address, bytes).await).unwrap();
        assert_eq!(text.matches("HTTP/1.1 200").count(), 2, "{text}");
        assert_eq!(
            (text.matches("HTTP/1.1 404").count(), text.matches('{').count()),
            (1, 1),
            "{text}"
        );
        kck.stop().await;
    });
}
