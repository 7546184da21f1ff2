//! Addresses that answer, well and badly.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    kck::{Kck, Project, Store},
    run,
    servers::Database,
};

/// A server that does what its path says, and the heads of the requests that came.
pub(super) struct Server {
    pub(super) address: String,
    heads: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
}

impl Server {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (heads, connections) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<_>>::default());
        let (seen, count) = (Arc::clone(&heads), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *count.lock().unwrap() += 1;
                tokio::spawn(serve(stream, Arc::clone(&seen)));
            }
        });
        Self { address, heads, connections }
    }

    pub(super) fn last(&self) -> String {
        self.heads.lock().unwrap().last().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, heads: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    loop {
        let mut byte = [0];
        if stream.read(&mut byte).await.unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
        let path = text.split(' ').nth(1).unwrap().to_owned();
        heads.lock().unwrap().push(text.clone());
        let reply = |status: &str, headers: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
        };
        let reply = match path.split(['?', '/']).nth(1).unwrap() {
            "kept" if text.contains("if-none-match: \"7\"") => {
                "HTTP/1.1 304 Not Modified\r\n\r\n".to_owned()
            }
            "kept" => reply("200 OK", "etag: \"7\"\r\n", "{ \"b\" : 1.50 }"),
            "moved" => reply("302 Found", "location: /kept/there\r\n", ""),
            "away" => reply("302 Found", "location: http://127.0.0.1:1/secret\r\n", ""),
            "round" => reply("302 Found", "location: /round\r\n", ""),
            "text" => reply("200 OK", "", "hello"),
            "large" => reply("200 OK", "", &format!("\"{}\"", "x".repeat(2000))),
            "none" => reply("404 Not Found", "", "{}"),
            "slow" => std::future::pending().await,
            _ => reply("200 OK", "", "null"),
        };
        if stream.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn shop(name: &str, server: &Server) -> (Database, Project) {
    let database = Database::new(name).await;
    let mut project = Project::new(&database, Store::Memory).await;
    project.settings += "[limits]\nanswer = \"1KB\"\n";
    for (name, path) in [("what", "{what}/{more}?q={more}"), ("other", "kept/{what}/{more}")] {
        let text = format!(
            "kind = \"http\"\nurl = \"http://{}/{path}\"\nheaders = {{ x-token = \"t0ps3cret\" }}\nparams = {{ what = \"text\", more = {{ type = \"text\", default = \"x\" }} }}\ntimeout = \"1s\"\nrefresh = []",
            server.address
        );
        project.recipe(name, &text);
    }
    (database, project)
}

async fn trouble(kck: &Kck) -> String {
    let products = kck.get("/products").await.json();
    let all = products["products"].as_array().unwrap();
    let what = all.iter().find(|product| product["name"] == "what").unwrap();
    assert_eq!(what["kind"], "http");
    what["trouble"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn an_address_answers_and_its_versions_are_kept() {
    run(async {
        let server = Server::start().await;
        let (_database, project) = shop("outside_http", &server).await;
        let kck = project.start().await;
        // What is computed while the stream opens is computed once more.
        assert_eq!(kck.get("/fetch/what/plain").await.value(), Value::Null);
        let first = kck.get("/fetch/what/kept/a%20b%2F%C3%A9").await;
        assert_eq!(first.value(), json!({ "b": 1.5 }));
        assert!(String::from_utf8_lossy(&first.body).contains("{ \"b\" : 1.50 }"));
        let head = server.last();
        assert!(
            head.starts_with("GET /kept/a%20b%2F%C3%A9?q=a%20b%2F%C3%A9 HTTP/1.1\r\n"),
            "{head}"
        );
        for line in
            ["x-token: t0ps3cret", "accept: application/json", &format!("host: {}", server.address)]
        {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
        }
        assert!(!head.contains("if-none-match"), "{:?}", server.heads.lock().unwrap());
        let second = kck.get("/fetch/what/kept/a%20b%2F%C3%A9?fresh=true").await;
        assert!(server.last().contains("if-none-match: \"7\""));
        assert_eq!(second.json()["version"], first.json()["version"]);
        assert_eq!(second.value(), first.value());
        // Another key has its own, and all of it came over one connection.
        assert_eq!(kck.get("/fetch/what/kept/c").await.status, 200);
        assert!(!server.last().contains("if-none-match"));
        assert_eq!(*server.connections.lock().unwrap(), 1);
        assert_eq!(kck.get("/fetch/what/moved").await.value(), json!({ "b": 1.5 }));
        kck.stop().await;
    });
}

#[test]
fn what_is_no_answer_is_said_and_tells_no_secrets() {
    run(async {
        let server = Server::start().await;
        let (_database, project) = shop("outside_http_bad", &server).await;
        let kck = project.start().await;
        for (what, fact, why) in [
            ("away", "leads elsewhere", "redirects to another host, port or scheme"),
            ("round", "leads in a circle", "again and again"),
            ("text", "answers no JSON", "its answer is no JSON"),
            ("large", "answers too much", "more than 1024 bytes"),
            ("none", "answers with an error", "answers 404"),
            ("slow", "did not answer in time", "within 1000 ms"),
        ] {
            let reply = kck.get(&format!("/fetch/what/{what}/hidden?wait=20s")).await;
            assert_eq!(reply.status, 503, "{what}");
            let error = reply.json()["error"].clone();
            assert_eq!(error["name"], "product_broken");
            assert!(error["message"].as_str().unwrap().contains(fact), "{what}: {error}");
            let trouble = trouble(&kck).await;
            assert!(trouble.contains(why), "{what}: {trouble}");
            let said = format!("{error} {trouble}");
            assert!(
                !said.contains("hidden") && !said.contains("t0ps3cret") && !said.contains("secret")
            );
            // The same host goes on answering others.
            assert_eq!(kck.get("/fetch/other/a?fresh=true").await.status, 200);
        }
        kck.stop().await;
    });
}
