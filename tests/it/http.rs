//! HTTP beyond a plain answer: forms, deflated bytes, pages of other sites, HTTP/2, TLS, lists of keys, and what is
//! done to them.

use std::{io::Read as _, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kck::observe::Event;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::{
    client::{Reply, answered, connected, get, send},
    kck::{Kck, Project, Store},
    run,
    servers::Database,
};

const ITEMS: &str = "select id, name, price from items where owner = :owner order by id";

async fn items(name: &str) -> (Database, Project) {
    let database = Database::new(name).await;
    database
        .run(
            "create table items (id bigint primary key, owner bigint not null, name text, price numeric);
             alter table items replica identity full;
             insert into items values (1, 1, 'a, \"b\"', 10.50), (2, 1, '', 1e3), (3, 1, null, null);
             insert into items select n, 2, repeat('name ', 20), n from generate_series(100, 300) n",
        )
        .await;
    let project = Project::new(&database, Store::Embedded).await;
    project.product("items_of", ITEMS);
    project.product("by_two", "select id from items where owner = :owner and name = :name");
    (database, project)
}

async fn asked(kck: &Kck, path: &str, headers: &[(&str, &str)]) -> Reply {
    get(&kck.address, path, headers).await.unwrap()
}

#[test]
fn an_answer_comes_as_json_lines_or_table() {
    run(async {
        let (_database, project) = items("http_forms").await;
        let kck = project.start().await;
        let csv = asked(&kck, "/fetch/items_of/1?format=csv", &[]).await;
        assert_eq!(
            String::from_utf8_lossy(&csv.body),
            "id,name,price\r\n1,\"a, \"\"b\"\"\",10.50\r\n2,\"\",1000\r\n3,,\r\n"
        );
        assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8; header=present");
        let tag = csv.header("etag").to_owned();
        assert!(tag.starts_with('"'), "{tag} is strong");
        let lines = asked(&kck, "/fetch/items_of/1", &[("accept", "application/x-ndjson")]).await;
        let rows: Vec<Value> = String::from_utf8_lossy(&lines.body)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(rows[2], json!({"id": 3, "name": null, "price": null}));
        assert_eq!((rows.len(), lines.header("kck-stale")), (3, "false"));
        let again = [("if-none-match", tag.as_str())];
        let unchanged = asked(&kck, "/fetch/items_of/1?format=csv", &again).await;
        assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
        assert_eq!(asked(&kck, "/fetch/items_of/1?format=ndjson", &again).await.status, 200);
        assert_eq!(asked(&kck, "/fetch/items_of/1?format=xml", &[]).await.status, 400);
        assert_eq!(asked(&kck, "/fetch?key=items_of/1&format=csv", &[]).await.status, 400);
        kck.stop().await;
    });
}

#[test]
fn a_long_answer_is_deflated_for_who_takes_it() {
    run(async {
        let (_database, project) = items("http_gzip").await;
        let kck = project.start().await;
        for (path, plain) in [("/fetch/items_of/2", 200), ("/fetch/items_of/2?format=csv", 200)] {
            let whole = asked(&kck, path, &[]).await;
            assert_eq!((whole.status, whole.header("content-encoding")), (plain, ""));
            for _ in 0..2 {
                let packed = asked(&kck, path, &[("accept-encoding", "br, gzip")]).await;
                assert_eq!(packed.header("content-encoding"), "gzip");
                assert_eq!(packed.header("vary"), "Accept, Accept-Encoding");
                assert!(packed.body.len() * 5 < whole.body.len(), "{}", packed.body.len());
                let mut text = String::new();
                flate2::read::GzDecoder::new(&packed.body[..]).read_to_string(&mut text).unwrap();
                if path.ends_with("csv") {
                    assert_eq!(text.as_bytes(), whole.body);
                } else {
                    let (one, other): (Value, Value) =
                        (serde_json::from_str(&text).unwrap(), whole.json());
                    assert_eq!(one["value"], other["value"]);
                    assert_eq!(one["version"], other["version"]);
                }
            }
        }
        let short = asked(&kck, "/fetch/items_of/1", &[("accept-encoding", "gzip")]).await;
        assert_eq!(short.header("content-encoding"), "");
        kck.stop().await;
    });
}

#[test]
fn pages_of_other_sites_may_do_what_the_settings_say() {
    run(async {
        let (_database, mut project) = items("http_cors").await;
        project.settings = project
            .settings
            .replace("[http]\n", "[http]\ncors_origins = [\"https://shop.example\"]\n");
        let kck = project.start().await;
        let shop = asked(&kck, "/fetch/items_of/1", &[("origin", "https://shop.example")]).await;
        assert_eq!(shop.header("access-control-allow-origin"), "https://shop.example");
        assert!(shop.header("access-control-expose-headers").contains("Kck-As-Of"));
        let evil = asked(&kck, "/fetch/items_of/1", &[("origin", "https://evil.example")]).await;
        assert_eq!((evil.status, evil.header("access-control-allow-origin")), (200, ""));
        // A form of another site would do without asking.
        for (origin, status) in
            [("https://evil.example", 403), ("null", 403), ("https://shop.example", 200)]
        {
            let mut sender = connected(&kck.address).await.unwrap();
            let request = Request::post("/refresh/items_of/1").header("host", &kck.address);
            let request = request.header("origin", origin).body(Empty::<Bytes>::new()).unwrap();
            let reply = answered(&mut sender, request).await.unwrap();
            assert_eq!(reply.status, status, "{origin}");
        }
        kck.stop().await;
    });
}

#[test]
fn http_2_is_spoken_without_and_with_tls() {
    run(async {
        let (_database, mut project) = items("http_two").await;
        let kck = project.start().await;
        let stream = TcpStream::connect(&kck.address).await.unwrap();
        assert_eq!(over_http2(stream, &kck.address).await["key"], json!("items_of/1"));
        kck.stop().await;

        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/fixtures/tls");
        project.settings = project.settings.replace(
            "[http]\n",
            &format!("[http]\ntls_cert = \"{fixtures}/server.crt\"\ntls_key = \"{fixtures}/server.key\"\n"),
        );
        let kck = project.start().await;
        let stream = TcpStream::connect(&kck.address).await.unwrap();
        let tls = connector(b"h2").connect("localhost".try_into().unwrap(), stream).await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(over_http2(tls, &kck.address).await["key"], json!("items_of/1"));
        // Who speaks no TLS is let go, and others do not notice.
        assert!(get(&kck.address, "/healthz", &[]).await.is_err());
        let stream = TcpStream::connect(&kck.address).await.unwrap();
        let tls = connector(b"http/1.1").connect("localhost".try_into().unwrap(), stream);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls.await.unwrap())).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/healthz").header("host", "localhost");
        let reply = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await;
        assert_eq!(reply.unwrap().status(), 200);
        kck.stop().await;
    });
}

async fn over_http2<T>(stream: T, address: &str) -> Value
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let uri = format!("http://{address}/fetch/items_of/1");
    let replies = (0..50)
        .map(|_| sender.send_request(Request::get(&uri).body(Empty::<Bytes>::new()).unwrap()));
    let replies = futures_util::future::join_all(replies.collect::<Vec<_>>()).await;
    let mut last = Bytes::new();
    for reply in replies {
        last = reply.unwrap().into_body().collect().await.unwrap().to_bytes();
    }
    serde_json::from_slice(&last).unwrap()
}

fn connector(protocol: &[u8]) -> tokio_rustls::TlsConnector {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/fixtures/tls/authority.crt");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config).into()
}

#[test]
fn keys_are_listed_in_parts_and_forgotten_or_computed_by_prefix() {
    run(async {
        let (database, project) = items("http_manage").await;
        let kck = project.start().await;
        for owner in 0..5 {
            kck.get(&format!("/fetch/items_of/{owner}")).await;
            kck.get(&format!("/fetch/by_two/{owner}/a%2Fb")).await;
        }
        kck.get("/fetch/by_two/1/c").await;
        kck.get("/fetch?key=by_two/1/").await;
        let page = kck.get("/keys/items_of?limit=3").await.json();
        let keys = |page: &Value| -> Vec<String> {
            let keys = page["keys"].as_array().unwrap().iter();
            keys.map(|entry| entry["key"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(keys(&page), ["items_of/0", "items_of/1", "items_of/2"]);
        assert_eq!(page["keys"][0]["stale"], json!(false));
        let next = page["next"].as_str().unwrap();
        let page = kck.get(&format!("/keys/items_of?after={next}")).await.json();
        assert_eq!(
            (keys(&page), &page["next"]),
            (vec!["items_of/3".into(), "items_of/4".into()], &Value::Null)
        );

        let post = async |path: &str| send(&kck.address, ("POST", path), "", "").await.json();
        assert_eq!(
            post("/refresh/by_two/1").await,
            json!({"success": true, "keys": 3, "failed": 0})
        );
        assert_eq!(post("/refresh/by_two/1/").await["keys"], json!(3));
        assert_eq!(post("/refresh?key=by_two/1/").await["keys"], json!(1));
        assert_eq!(post("/refresh/items_of/77").await["keys"], json!(1));
        assert_eq!(post("/purge/by_two/1/a%2Fb").await, json!({"success": true, "keys": 1}));
        assert_eq!(post("/purge/by_two/01/a%2Fb").await["keys"], json!(0));
        assert_eq!(post("/purge/by_two/1").await["keys"], json!(2));
        assert_eq!(post("/purge/by_two").await["keys"], json!(4));
        assert_eq!(post("/purge/items_of").await["keys"], json!(6));
        assert_eq!(post("/purge/nothing").await["error"]["name"], json!("unknown_product"));
        assert_eq!(post("/purge/by_two/1/2/3").await["error"]["name"], json!("parameter_count"));
        assert_eq!(keys(&kck.get("/keys/items_of").await.json()), [""; 0]);

        // A version is never used again, also after what it named was forgotten.
        let first = kck.get("/fetch/items_of/1").await.json();
        post("/purge/items_of/1").await;
        let second = kck.get("/fetch/items_of/1").await.json();
        assert!(second["version"].as_u64() > first["version"].as_u64());

        let why = kck.get("/why/items_of/1").await.json();
        assert_eq!((&why["tracked"], &why["watched"]), (&json!(true), &json!(false)));
        let lsn = database.commit("update items set name = 'z' where id = 1").await;
        kck.at_least("items_of/1", &lsn).await;
        let why = kck.get("/why/items_of/1").await.json();
        assert_eq!(why["changes"].as_array().unwrap().len(), 1, "{why}");
        kck.stop().await;
    });
}

#[test]
fn the_near_cache_says_how_it_does() {
    run(async {
        let (_database, project) = items("http_near").await;
        let kck = project.start().await;
        kck.kept("items_of/1", &kck.get("/fetch/items_of/1").await.value()).await;
        let metrics = String::from_utf8_lossy(&kck.get("/metrics").await.body).into_owned();
        let gauge = |name: &str| -> u64 {
            let line = metrics.lines().find(|line| line.starts_with(&format!("{name} ")));
            line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert_eq!(gauge("kck_near_entries"), 1);
        assert!(gauge("kck_near_hits") >= 1 && gauge("kck_near_bytes") > 100);
        assert_eq!(gauge("kck_near_capacity_bytes"), 256 << 20);
        kck.stop().await;
    });
}

#[test]
fn a_stopping_server_ends_what_is_open() {
    run(async {
        let (_database, project) = items("http_stop").await;
        let kck = project.start().await;
        // Half a head, and a connection that says nothing.
        let mut half = TcpStream::connect(&kck.address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut half, b"GET /fetch/items_of/1 HT").await.unwrap();
        let _silent = TcpStream::connect(&kck.address).await.unwrap();
        let stopped = std::time::Instant::now();
        kck.stop().await;
        // Neither is waited for as a request is that is being answered.
        assert!(stopped.elapsed() < Duration::from_secs(8));
    });
}

#[test]
fn a_certificate_that_is_replaced_is_taken_up_and_a_bad_one_is_not() {
    run(async {
        let (_database, mut project) = items("http_tls").await;
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/fixtures/tls");
        let file = |name: &str| project.folder.0.join(name);
        for (from, to) in [("server.crt", "own.crt"), ("server.key", "own.key")] {
            std::fs::copy(format!("{fixtures}/{from}"), file(to)).unwrap();
        }
        let (certificate, key) = (file("own.crt"), file("own.key"));
        project.settings = project
            .settings
            .replace("[http]\n", "[http]\ntls_cert = \"own.crt\"\ntls_key = \"own.key\"\n");
        let kck = project.start().await;
        let mut events = kck.observer.subscribe();
        // Whose key it is not.
        std::fs::copy(format!("{fixtures}/client.crt"), &certificate).unwrap();
        let is = |event: &Event, well: bool| matches!(event, Event::Part { part: "tls", trouble } if trouble.is_none() == well);
        Kck::event(&mut events, |event| is(event, false)).await;
        assert_eq!(shown(&kck).await, certificate_of(&format!("{fixtures}/server.crt")));
        std::fs::copy(format!("{fixtures}/client.key"), &key).unwrap();
        Kck::event(&mut events, |event| is(event, true)).await;
        assert_eq!(shown(&kck).await, certificate_of(&format!("{fixtures}/client.crt")));
        kck.stop().await;
    });
}

/// The certificate that is shown, whoever made it.
async fn shown(kck: &Kck) -> Vec<u8> {
    #[derive(Debug)]
    struct Anybody;
    impl rustls::client::danger::ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &[rustls::pki_types::CertificateDer<'_>],
            _: &rustls::pki_types::ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            let provider = rustls::crypto::aws_lc_rs::default_provider();
            provider.signature_verification_algorithms.supported_schemes()
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let stream = TcpStream::connect(&kck.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tls = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn certificate_of(file: &str) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    CertificateDer::from_pem_file(file).unwrap().to_vec()
}
