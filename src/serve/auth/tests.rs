//! The gate as a whole: what it remembers, and where its keys come from.

use std::{
    sync::{Mutex, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{
    fixture::{self, File, Hand, NOW_S, hs256, jwk, signed},
    *,
};
use jsonwebtoken::Header;

fn claims(lifetime: u64) -> Value {
    json!({ "sub": "42", "aud": "shop", "exp": NOW_S + lifetime })
}

fn gate(settings: &Settings) -> (Gate, Hand) {
    let (clock, hand) = Hand::clock();
    (Gate::with_clock(settings, clock).unwrap(), hand)
}

async fn takes(gate: &Gate, token: &str) -> bool {
    gate.identify(Some(token.as_bytes())).await.is_ok()
}

#[tokio::test]
async fn a_token_is_verified_once_and_then_remembered_until_it_ends() {
    let (gate, hand) = gate(&fixture::settings());
    let token = format!("Bearer {}", hs256(&claims(60)));
    assert!(gate.remembered(token.as_bytes()).is_none());
    assert!(takes(&gate, &token).await);
    assert_eq!(gate.remembered(token.as_bytes()).unwrap().subject(), Some("42"));
    hand.pass(89);
    assert!(gate.remembered(token.as_bytes()).is_some());
    hand.pass(1);
    assert!(gate.remembered(token.as_bytes()).is_none() && !takes(&gate, &token).await);
}

#[tokio::test]
async fn s13_a_stream_ends_with_its_token() {
    let (gate, hand) = gate(&fixture::settings());
    let identity = gate.identify(Some(hs256(&claims(60)).as_bytes())).await.unwrap();
    let ends = gate.ends(&identity).unwrap();
    hand.pass(20);
    assert_eq!(gate.ends(&identity), Some(ends));
    hand.pass(50);
    assert!(gate.ends(&identity).unwrap() > ends, "it is over: now");
    assert_eq!(gate.ends(&Identity::nobody()), None);
}

#[tokio::test]
async fn a_token_comes_bare_or_behind_its_scheme() {
    let (gate, _) = gate(&fixture::settings());
    let token = hs256(&claims(60));
    for header in [
        token.clone(),
        format!("Bearer {token}"),
        format!("bearer {token}"),
        format!("  BEARER   {token} "),
    ] {
        assert!(takes(&gate, &header).await, "{header}");
    }
    for header in
        [format!("Basic {token}"), format!("Bearer{token}"), "Bearer".into(), String::new()]
    {
        let denied = gate.identify(Some(header.as_bytes())).await.unwrap_err();
        assert!(!denied.is_missing(), "{header}");
    }
}

#[tokio::test]
async fn without_a_header_nobody_comes_in_but_to_what_is_public() {
    let (gate, _) = gate(&fixture::settings());
    assert!(gate.identify(None).await.unwrap_err().is_missing());
    assert!(gate.identify_or_nobody(None).await.unwrap().is_nobody());
    assert!(gate.identify_or_nobody(Some(b"x")).await.is_err());
    let open = Gate::wide_open();
    assert!(open.is_open() && !gate.is_open());
    assert!(open.identify(None).await.unwrap().is_everyone());
    assert!(open.identify_or_nobody(None).await.unwrap().is_everyone());
    assert!(open.remembered(b"anything").unwrap().is_everyone());
}

#[tokio::test]
async fn a_refusal_tells_nothing_of_why() {
    let (gate, _) = gate(&fixture::settings());
    let body = |denied: Denied| crate::serve::problem::Problem::from(denied).to_json();
    let missing = body(gate.identify(None).await.unwrap_err());
    for token in [hs256(&json!({ "aud": "shop", "exp": 1 })), hs256(&json!({})), "x".into()] {
        let denied = gate.identify(Some(token.as_bytes())).await.unwrap_err();
        assert_eq!(body(denied), missing);
    }
    assert!(missing.contains("\"KCK701\""));
}

#[tokio::test]
async fn a_token_over_its_limit_is_not_looked_at() {
    let (gate, _) = gate(&fixture::settings());
    let mut long = claims(60);
    long["pad"] = json!("x".repeat(8000));
    let token = hs256(&long);
    assert!(token.len() > TOKEN_BYTES_MAX && !takes(&gate, &token).await);
}

#[tokio::test]
async fn a_subject_may_be_a_number() {
    let (gate, _) = gate(&fixture::settings());
    let token = hs256(&json!({ "sub": 7, "aud": "shop", "exp": NOW_S + 9 }));
    let identity = gate.identify(Some(token.as_bytes())).await.unwrap();
    assert_eq!(identity.subject(), Some("7"));
    assert_eq!(format!("{identity:?}"), "the holder of a token");
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes_and_what_was_verified_is_forgotten() {
    let file = File::new("secret", fixture::SECRET.as_bytes());
    let keys = KeySource::SecretFile(file.path().to_owned());
    let (gate, hand) = gate(&Settings { keys, ..fixture::settings() });
    let token = hs256(&claims(3600));
    assert!(takes(&gate, &token).await);
    file.write(b"another secret of tests, with another length\n");
    assert!(gate.remembered(token.as_bytes()).is_some(), "it is looked at every five seconds");
    hand.pass(5);
    assert!(gate.remembered(token.as_bytes()).is_none());
    assert!(!takes(&gate, &token).await);
    let secret = b"another secret of tests, with another length";
    let other = fixture::hs(Algorithm::HS256, &claims(3600), secret);
    assert!(takes(&gate, &other).await);
    file.write(b"short");
    hand.pass(5);
    assert!(takes(&gate, &other).await, "a file that cannot be used leaves the keys of before");
}

#[test]
fn s09_keys_that_are_weak_keep_kck_from_starting() {
    let weak = File::new("k.pem", fixture::RSA_1024_PUBLIC.as_bytes());
    let settings = Settings {
        keys: KeySource::KeyFile(weak.path().to_owned()),
        algorithms: vec![Algorithm::RS256],
        ..fixture::settings()
    };
    let opened = |settings: &Settings| {
        let (clock, _) = Hand::clock();
        Gate::with_clock(settings, clock).err().map(|bad| bad.to_string()).unwrap_or_default()
    };
    assert!(opened(&settings).contains("an RSA key of 1024 bits is not taken\n  hint: 2048"));
    let short = Settings { keys: KeySource::Secret("short".into()), ..fixture::settings() };
    assert!(opened(&short).contains("5 bytes are too short"));
    let public =
        Settings { keys: KeySource::Secret(fixture::RSA_PUBLIC.into()), ..fixture::settings() };
    assert!(opened(&public).contains("it is a key, not a shared secret"));
    let empty = File::new("set", br#"{"keys":[]}"#);
    let keys = KeySource::JwksFile(empty.path().to_owned());
    assert!(opened(&Settings { keys, ..settings.clone() }).contains("no key that can be used"));
    let keys = KeySource::JwksUrl("http://169.254.169.254/keys".into());
    assert!(opened(&Settings { keys, ..settings }).contains("http is taken only on this machine"));
}

#[test]
fn s10_no_cryptography_with_a_known_leak_is_in_the_program() {
    let lock = include_str!("../../../Cargo.lock");
    assert!(lock.contains("name = \"aws-lc-rs\"") && !lock.contains("name = \"rsa\""));
}

/// What a server of key sets says to each request, and how many came.
struct Server {
    url: String,
    says: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    async fn start(says: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let server = Self { url, says: Arc::new(Mutex::new(says)), asked: Arc::default() };
        let (says, asked) = (Arc::clone(&server.says), Arc::clone(&server.asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _read = stream.read(&mut request).await;
                asked.fetch_add(1, Ordering::SeqCst);
                let answer = says.lock().unwrap().clone();
                let _written = stream.write_all(answer.as_bytes()).await;
            }
        });
        server
    }

    fn say(&self, answer: String) {
        *self.says.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn settings(&self) -> Settings {
        Settings {
            keys: KeySource::JwksUrl(self.url.clone()),
            algorithms: vec![Algorithm::ES256],
            ..fixture::settings()
        }
    }
}

fn answer(headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
}

/// Sets with the key `a`, `b`, or both.
fn set(names: &[&str]) -> String {
    let key = |name: &&str| match *name {
        "a" => jwk(fixture::P256_PRIVATE, Algorithm::ES256, "a"),
        other => jwk(fixture::OTHER_P256_PRIVATE, Algorithm::ES256, other),
    };
    let keys: Vec<Value> = names.iter().map(key).collect();
    answer("", &json!({ "keys": keys }).to_string())
}

fn of(id: &str) -> String {
    let private = if id == "a" { fixture::P256_PRIVATE } else { fixture::OTHER_P256_PRIVATE };
    let header = Header { kid: Some(id.to_owned()), ..Header::new(Algorithm::ES256) };
    signed(&header, &claims(1_000_000), private)
}

/// Until what runs beside has come so far; it needs no time to pass, only its turns.
async fn until(come: impl Fn() -> bool) {
    let turns = async {
        while !come() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), turns).await.unwrap();
}

fn number(gate: &Gate) -> u64 {
    gate.0.as_ref().unwrap().keys.number()
}

#[tokio::test]
async fn an_address_is_asked_when_the_first_token_comes_and_by_one_request() {
    let server = Server::start(set(&["a"])).await;
    let (gate, _) = gate(&server.settings());
    assert_eq!(server.asked(), 0);
    let tokens: Vec<String> = (0..20).map(|_| of("a")).collect();
    let all = futures_util::future::join_all(tokens.iter().map(|token| takes(&gate, token))).await;
    assert!(all.into_iter().all(|taken| taken));
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn s03_an_unknown_kid_makes_the_address_be_asked_once_a_minute() {
    let server = Server::start(set(&["a"])).await;
    let (gate, hand) = gate(&server.settings());
    assert!(takes(&gate, &of("a")).await);
    for id in ["b", "c", "../../etc/passwd", "b"] {
        assert!(!takes(&gate, &of(id)).await, "{id}");
    }
    assert_eq!(server.asked(), 1);
    server.say(set(&["a", "b"]));
    hand.pass(59);
    assert!(!takes(&gate, &of("b")).await);
    hand.pass(1);
    assert!(takes(&gate, &of("b")).await, "a new key is found a minute later");
    assert!(!takes(&gate, &of("c")).await);
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn keys_are_asked_for_again_and_one_that_is_gone_verifies_nothing_more() {
    let server = Server::start(set(&["a"])).await;
    let (gate, hand) = gate(&server.settings());
    let token = of("a");
    assert!(takes(&gate, &token).await);
    hand.pass(599);
    assert!(gate.remembered(token.as_bytes()).is_some());
    server.say(set(&["b"]));
    hand.pass(1);
    let before = number(&gate);
    assert!(takes(&gate, &token).await, "nobody waits while there are keys");
    until(|| number(&gate) != before).await;
    assert!(gate.remembered(token.as_bytes()).is_none() && !takes(&gate, &token).await);
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn an_answer_says_how_long_it_is_good_within_limits() {
    let (_, body) =
        set(&["a"]).split_once("\r\n\r\n").map(|(h, b)| (h.to_owned(), b.to_owned())).unwrap();
    for (said, least) in [("max-age=1", 60), ("max-age=120", 120), ("max-age=999999", 3600)] {
        let headers = format!("cache-control: public, {said}\r\n");
        let server = Server::start(answer(&headers, &body)).await;
        let (gate, hand) = gate(&server.settings());
        assert!(takes(&gate, &of("a")).await);
        hand.pass(least - 1);
        assert!(takes(&gate, &of("a")).await);
        assert_eq!(server.asked(), 1, "{said}");
        hand.pass(1);
        assert!(takes(&gate, &of("a")).await);
        until(|| server.asked() == 2).await;
    }
}

#[tokio::test]
async fn s08_keys_outlive_an_address_that_is_down_by_a_day() {
    let server = Server::start(set(&["a"])).await;
    let (gate, hand) = gate(&server.settings());
    assert!(takes(&gate, &of("a")).await);
    let bodies = [
        "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".to_owned(),
        answer("", "{}"),
        answer("", &" ".repeat(300_000)),
        String::new(),
    ];
    for body in bodies {
        server.say(body);
        hand.pass(3600);
        let asked = server.asked();
        assert!(takes(&gate, &of("a")).await);
        until(|| server.asked() > asked).await;
        // The next ask begins when this one has ended.
        drop(gate.0.as_ref().unwrap().keys.asking().await);
    }
    hand.pass(24 * 3600);
    assert!(!takes(&gate, &of("a")).await, "after a day nobody knows whether they are still good");
    server.say(set(&["a"]));
    hand.pass(60);
    assert!(takes(&gate, &of("a")).await);
}

#[tokio::test]
async fn s08_no_redirect_is_followed() {
    let elsewhere = Server::start(set(&["a"])).await;
    let redirect =
        format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url);
    let server = Server::start(redirect).await;
    let (gate, _) = gate(&server.settings());
    assert!(!takes(&gate, &of("a")).await);
    assert_eq!((server.asked(), elsewhere.asked()), (1, 0));
}
