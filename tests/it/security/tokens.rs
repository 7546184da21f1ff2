//! Tokens that must not open anything, end to end: every one gets the same answer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as URL};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::{
    client::{Events, Reply, get, send},
    kck::{Kck, Project},
    process::Process,
    run,
    servers::Database,
};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/fixtures/auth");
const OWN: &str = "/* kck\nresult = \"value\"\n[auth]\nscope = \"sums:read\"\nclaims = { owner = \"tenant\" }\n*/\nselect sum(n)::bigint from items where owner = :owner";

fn fixture(name: &str) -> String {
    std::fs::read_to_string(format!("{FIXTURES}/{name}")).unwrap()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims that hold.
fn claims() -> Value {
    json!({ "sub": "ann", "iss": "https://id.example", "aud": "shop", "exp": now_s() + 600,
            "tenant": 1, "scope": "sums:read" })
}

fn with(change: Value) -> Value {
    let mut claims = claims();
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn signed(header: &Header, claims: &Value) -> String {
    let key = EncodingKey::from_rsa_pem(fixture("rsa.pem").as_bytes()).unwrap();
    encode(header, claims, &key).unwrap()
}

fn token(claims: &Value) -> String {
    signed(&Header::new(Algorithm::RS256), claims)
}

/// A token of any header, signed as RS256 whatever it says of itself.
fn forged(header: &Value, claims: &Value) -> String {
    let own = token(claims);
    let [_, body, signature] = *own.split('.').collect::<Vec<_>>() else { panic!("three parts") };
    format!("{}.{body}.{signature}", URL.encode(header.to_string()))
}

async fn project(database: &Database) -> Project {
    let mut project = Project::sums(database).await;
    project.product("own_sum", OWN);
    let auth = format!(
        "[auth.jwt]\nalgorithms = [\"RS256\"]\nkey_file = \"{FIXTURES}/rsa.pub.pem\"\nissuer = \"https://id.example\"\naudience = \"shop\"\nleeway = \"60s\"\n"
    );
    project.settings += &auth;
    project
}

async fn asked(kck: &Kck, path: &str, token: &str) -> Reply {
    get(&kck.address, path, &[("authorization", &format!("Bearer {token}"))]).await.unwrap()
}

/// Goal: whatever is wrong with a token, its sender is told the same and reads nothing. Method: one kck with a public
/// key, each kind of wrong token, beside one that holds.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of tokens")]
fn s01_to_s07_every_token_that_does_not_hold_gets_the_same_401() {
    run(async {
        let database = Database::new("abuse_tokens").await;
        let project = project(&database).await;
        let kck = project.start().await;
        let path = "/fetch/own_sum/1";
        assert_eq!(asked(&kck, path, &token(&claims())).await.status, 200);
        let constant = kck.get(path).await;
        assert_eq!(constant.status, 401);

        let none = |alg: &str, signature: &str| {
            let (header, body) = (json!({ "alg": alg, "typ": "JWT" }), claims());
            format!(
                "{}.{}.{signature}",
                URL.encode(header.to_string()),
                URL.encode(body.to_string())
            )
        };
        let good = token(&claims());
        let unsigned = &good[..=good.rfind('.').unwrap()];
        let public = fixture("rsa.pub.pem");
        let confused = |algorithm, secret: &[u8]| {
            encode(&Header::new(algorithm), &claims(), &EncodingKey::from_secret(secret)).unwrap()
        };
        let kid = |kid: String| {
            signed(&Header { kid: Some(kid), ..Header::new(Algorithm::RS256) }, &claims())
        };
        let other = EncodingKey::from_ec_pem(fixture("p256.pem").as_bytes()).unwrap();
        let ec = |header: Header| encode(&header, &claims(), &other).unwrap();
        let jwk = json!({ "alg": "RS256", "jwk": { "kty": "RSA", "n": "AQAB", "e": "AQAB" }, "jku": "http://127.0.0.1:1/" });
        let now = now_s();
        let wrong = [
            ("s01 none", none("none", "")),
            ("s01 None", none("None", "")),
            ("s01 nOnE with a signature", none("nOnE", "AAAA")),
            ("s01 no signature", unsigned.to_owned()),
            ("s01 a signature cut off", good[..good.len() - 4].to_owned()),
            ("s02 HS256 with the public key", confused(Algorithm::HS256, public.as_bytes())),
            (
                "s02 HS512 with the public key, trimmed",
                confused(Algorithm::HS512, public.trim().as_bytes()),
            ),
            ("s02 ES256", ec(Header::new(Algorithm::ES256))),
            ("s02 RS512 of the same key", signed(&Header::new(Algorithm::RS512), &claims())),
            (
                "s03 a header that is another's",
                forged(&json!({ "alg": "RS256", "kid": "'; drop table items; --" }), &claims()),
            ),
            ("s03 ten kilobytes of kid", kid("k".repeat(10_000))),
            ("s04 a key that the token brings", forged(&jwk, &claims())),
            ("s05 exp as a text", token(&with(json!({ "exp": (now + 600).to_string() })))),
            ("s05 nbf as a text", token(&with(json!({ "nbf": "0" })))),
            ("s05 no exp", token(&with(json!({ "exp": null })))),
            ("s05 an endless exp", token(&with(json!({ "exp": 1e300 })))),
            ("s06 another audience", token(&with(json!({ "aud": "other" })))),
            ("s06 other audiences", token(&with(json!({ "aud": ["other", "shops"] })))),
            ("s06 no audience", token(&with(json!({ "aud": null })))),
            ("s06 another issuer", token(&with(json!({ "iss": "https://id.example.evil" })))),
            ("s06 issuers", token(&with(json!({ "iss": ["https://id.example"] })))),
            ("s07 ended 90 s ago", token(&with(json!({ "exp": now - 90 })))),
            ("s07 begins in 90 s", token(&with(json!({ "nbf": now + 90 })))),
            ("nothing", String::new()),
            ("dots", "..".to_owned()),
            ("nine kilobytes", "x".repeat(9000)),
        ];
        for (what, token) in &wrong {
            for path in
                [path, "/fetch?key=own_sum/1", "/subscribe?key=own_sum/1", "/products", "/nowhere"]
            {
                let reply = asked(&kck, path, token).await;
                assert_eq!((reply.status, &reply.body), (401, &constant.body), "{what}: {path}");
                assert_eq!(reply.header("www-authenticate"), "Bearer");
            }
        }
        for (what, good) in [
            (
                "s04 a key brought along is not looked at",
                signed(
                    &Header {
                        jku: Some("http://169.254.169.254/".into()),
                        x5u: Some("file:///etc/passwd".into()),
                        ..Header::new(Algorithm::RS256)
                    },
                    &claims(),
                ),
            ),
            ("s06 one of some audiences", token(&with(json!({ "aud": ["other", "shop"] })))),
            ("s07 ended 30 s ago", token(&with(json!({ "exp": now - 30 })))),
            ("s07 begins in 30 s", token(&with(json!({ "nbf": now + 30 })))),
        ] {
            assert_eq!(asked(&kck, path, &good).await.status, 200, "{what}");
        }
        kck.stop().await;
    });
}

/// Goal: keys that are weak, double or elsewhere keep kck from starting, or are not used. Method: the running binary.
#[test]
fn s08_and_s09_keys_that_must_not_be_used_end_the_start() {
    run(async {
        let database = Database::new("abuse_keys").await;
        let base = Project::sums(&database).await;
        let plain = base.settings.clone();
        let mut project = base;
        for (auth, says) in [
            (
                format!("key_file = \"{FIXTURES}/rsa-1024.pub.pem\"\nalgorithms = [\"RS256\"]"),
                "1024 bits",
            ),
            (format!("key_file = \"{FIXTURES}/p256.pub.pem\"\nalgorithms = [\"ES384\"]"), "hint: "),
            (
                format!(
                    "key_file = \"{FIXTURES}/rsa.pub.pem\"\nalgorithms = [\"RS256\", \"HS256\"]"
                ),
                "HS256",
            ),
            (
                "jwks_url = \"http://169.254.169.254/keys\"\nalgorithms = [\"RS256\"]".to_owned(),
                "only on this machine",
            ),
            (
                "jwks_url = \"http://id.example/keys\"\nalgorithms = [\"RS256\"]".to_owned(),
                "only on this machine",
            ),
            ("secret = \"short\"".to_owned(), "too short"),
        ] {
            project.settings = format!("{plain}[auth.jwt]\naudience = \"shop\"\n{auth}\n");
            let output = crate::support::process::output(&project, &["run"]).await;
            let said = crate::support::process::stderr(&output);
            assert!(
                matches!(output.status.code(), Some(2 | 3)) && said.contains(says),
                "{auth}: {said}"
            );
            assert!(!said.contains("short\""), "{said}");
        }
        // S06: without an audience any token of the issuer would do.
        project.settings = format!(
            "{plain}[auth.jwt]\nalgorithms = [\"RS256\"]\nkey_file = \"{FIXTURES}/rsa.pub.pem\"\n"
        );
        let output = crate::support::process::output(&project, &["run"]).await;
        let said = crate::support::process::stderr(&output);
        assert!(output.status.code() != Some(0) && said.contains("audience"), "{said}");
    });
}

/// Goal: a token where proxies and logs would keep it is of no use, and never in kck's own log. Method: the binary
/// with every line of its log, asked with the token in every place but the right one, then in the right one.
#[test]
fn s11_a_token_in_the_query_is_refused_and_never_logged() {
    run(async {
        let database = Database::new("abuse_query").await;
        let project = project(&database).await;
        let mut kck = Process::start_logging(&project, "kck=trace,warp=trace,hyper=debug").await;
        let log = kck.gather();
        let token = token(&claims());
        for query in ["token", "access_token", "authorization", "jwt", "key"] {
            for path in ["/fetch/own_sum/1", "/fetch", "/subscribe", "/products", "/status"] {
                let reply =
                    get(&kck.address, &format!("{path}?{query}={token}"), &[]).await.unwrap();
                assert!(
                    matches!(reply.status, 400 | 401) || path == "/fetch",
                    "{path}?{query}: {}",
                    reply.status
                );
                let text = String::from_utf8_lossy(&reply.body).into_owned();
                assert!(!text.contains("\"value\""), "{text}");
            }
        }
        let wrong = format!("{token}x");
        for header in [
            format!("Bearer {token}"),
            token.clone(),
            format!("Basic {token}"),
            format!("Bearer {wrong}"),
        ] {
            get(&kck.address, "/fetch/own_sum/1", &[("authorization", &header)]).await.unwrap();
            get(
                &kck.address,
                "/fetch/own_sum/x",
                &[("authorization", &header), ("cookie", &token)],
            )
            .await
            .unwrap();
        }
        kck.signal("TERM");
        assert!(kck.ended().await.success());
        let log = log.await.unwrap();
        let part = token.split('.').nth(2).unwrap();
        assert!(log.lines().count() > 20, "the log is there: {log}");
        assert!(
            !log.contains(part) && !log.contains(token.split('.').nth(1).unwrap()),
            "a token is in the log"
        );
    });
}

/// What one token may read never shows to another, and what is not there looks as what is not theirs.
#[test]
fn s12_a_bound_parameter_is_the_claim_and_nothing_else() {
    run(async {
        let database = Database::new("abuse_claims").await;
        let project = project(&database).await;
        let kck = project.start().await;
        let own = token(&claims());
        assert_eq!(asked(&kck, "/fetch/own_sum/1", &own).await.status, 200);
        let refused = asked(&kck, "/fetch/own_sum/2", &own).await;
        assert_eq!(refused.status, 403);
        for (tenant, key) in [
            (json!(1), "2"),
            (json!(1), "999999"),
            (json!("1"), "2"),
            (json!([1, 2]), "2"),
            (json!({ "1": 2 }), "2"),
            (json!(null), "2"),
            (json!(true), "1"),
            (json!("1 or 1=1"), "2"),
            (json!("*"), "2"),
            (json!(2.0), "2"),
            (json!("２"), "2"),
        ] {
            let reply = asked(
                &kck,
                &format!("/fetch/own_sum/{key}"),
                &token(&with(json!({ "tenant": tenant }))),
            )
            .await;
            assert_eq!(
                (reply.status, &reply.body),
                (403, &refused.body),
                "{tenant} asks for {key}"
            );
        }
        for path in [
            "/fetch/own_sum?owner=2",
            "/subscribe?key=own_sum/2",
            "/subscribe?key=own_sum%2F2&key=own_sum/1",
        ] {
            assert_eq!(asked(&kck, path, &own).await.status, 403, "{path}");
        }
        kck.stop().await;
    });
}

#[test]
fn s13_a_stream_ends_with_its_token_whichever_way_it_came() {
    run(async {
        let database = Database::new("abuse_stream").await;
        let project = project(&database).await;
        let kck = project.start().await;
        // The leeway is a minute, and a stream has none of it.
        let short = token(&with(json!({ "exp": now_s() + 2 })));
        let path = "/subscribe?key=own_sum/1";
        let mut events = Events::open(&kck.address, path, &[("authorization", &short)]).await;
        events.named("value").await;
        let mut socket = super::sockets::Socket::open(
            &kck.address,
            "/subscribe/ws?key=own_sum/1",
            &format!("Sec-WebSocket-Protocol: kck, kck.token.{short}\r\n"),
        )
        .await;
        let began = std::time::Instant::now();
        assert_eq!(events.named("error").await.json()["error"]["name"], json!("unauthorized"));
        assert_eq!(events.next().await, None);
        let said = socket.until_closed().await;
        assert!(said.contains("unauthorized"), "{said}");
        assert!(began.elapsed() < Duration::from_secs(10));
        kck.stop().await;
    });
}

/// Without a token of the admin nothing of kck's own is told or done.
#[test]
fn s15_kcks_own_routes_are_the_admins() {
    run(async {
        let database = Database::new("abuse_admin").await;
        let project = project(&database).await;
        let kck = project.start().await;
        let own = token(&claims());
        let admin = token(&with(json!({ "scope": "x kck:admin y" })));
        let almost = token(&with(json!({ "scope": "kck:administrator kck: admin" })));
        for path in [
            "/status",
            "/metrics",
            "/why/own_sum/1",
            "//metrics",
            "/metrics/",
            "/why?key=own_sum/1",
        ] {
            for token in [&own, &almost] {
                assert_eq!(asked(&kck, path, token).await.status, 403, "{path}");
            }
            assert!(matches!(asked(&kck, path, &admin).await.status, 200 | 404), "{path}");
            assert_eq!(kck.get(path).await.status, 401, "{path}");
        }
        for path in ["/refresh/own_sum/1", "/purge/own_sum", "/purge?key=own_sum/1", "/refresh/"] {
            let reply = send(&kck.address, ("POST", path), "", "").await;
            assert_eq!(reply.status, 401, "{path}");
        }
        kck.stop().await;
    });
}
