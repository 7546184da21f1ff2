//! Who may read what over HTTP: tokens, scopes, claims bound to parameters, on every hit and for as long as a stream
//! lasts; logins.

use std::time::{Duration, SystemTime};

use crate::support::{
    client::{Events, Reply, answered, connected, get, send},
    kck::{Kck, Project},
    run,
    servers::Database,
};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{Empty, Full};
use hyper::Request;
use kck::serve::auth::mint::{Grant, Signer};
use serde_json::{Map, Value, json};

const SECRET: &str = "a secret of tests and of nothing else";
const OWN: &str = "/* kck\nresult = \"value\"\n[auth]\nscope = \"sums:read\"\nclaims = { owner = \"tenant\" }\n*/\nselect sum(n)::bigint from items where owner = :owner";
const OPEN: &str =
    "/* kck\nresult = \"value\"\n[auth]\npublic = true\n*/\nselect count(*) from items";
const SET: &str = "/* kck\nparams = { owner = \"bigint\", n = \"bigint\" }\n[auth]\nclaims = { owner = \"tenant\" }\n*/\nupdate items set n = :n where owner = :owner";

async fn project(database: &Database) -> Project {
    let mut project = Project::sums(database).await;
    project.product("own_sum", OWN).product("open_count", OPEN);
    std::fs::create_dir_all(project.folder.0.join("updates")).unwrap();
    std::fs::write(project.folder.0.join("updates/set_own.sql"), SET).unwrap();
    let auth = format!("[auth.jwt]\nsecret = \"{SECRET}\"\naudience = \"shop\"\n");
    project.settings += &auth;
    project
}

struct Tokens(Signer);

impl Tokens {
    fn of(project: &Project) -> Self {
        Self(Signer::open(&project.config().auth.unwrap()).unwrap().unwrap())
    }

    /// A bearer's header with these claims.
    fn bearer(&self, kck: &Kck, claims: Value, lifetime: Duration) -> String {
        let Value::Object(claims) = claims else { panic!("claims are an object") };
        let subject = claims.get("sub").map_or("ann", |sub| sub.as_str().unwrap()).to_owned();
        let claims: Map<String, Value> =
            claims.into_iter().filter(|(name, _)| name != "sub").collect();
        let grant = Grant { subject, claims, lifetime };
        let token = self.0.mint(&grant, SystemTime::now(), &kck.app.context.gate);
        format!("Bearer {}", token.unwrap())
    }

    fn tenant(&self, kck: &Kck, tenant: impl Into<Value>) -> String {
        let claims = json!({ "scope": "sums:read", "tenant": tenant.into() });
        self.bearer(kck, claims, Duration::from_secs(3600))
    }
}

async fn asked(kck: &Kck, path: &str, bearer: &str) -> Reply {
    get(&kck.address, path, &[("authorization", bearer)]).await.unwrap()
}

async fn status(kck: &Kck, path: &str, bearer: &str) -> u16 {
    asked(kck, path, bearer).await.status
}

#[test]
fn a_token_opens_what_its_scope_and_claims_say() {
    run(async {
        let database = Database::new("auth_reads").await;
        let project = project(&database).await;
        let kck = project.start().await;
        let tokens = Tokens::of(&project);
        let one = tokens.tenant(&kck, 1);
        let answer = asked(&kck, "/fetch/own_sum/1", &one).await;
        assert_eq!(
            (answer.value(), answer.header("cache-control")),
            (json!(0), "private, no-cache")
        );
        // The claim is read as the parameter's type is.
        assert_eq!(status(&kck, "/fetch/own_sum/01", &tokens.tenant(&kck, "1")).await, 200);
        assert_eq!(status(&kck, "/fetch/own_sum?owner=1", &one).await, 200);
        for (path, bearer, want) in [
            ("/fetch/own_sum/2", one.as_str(), 403),
            ("/fetch/own_sum/77", one.as_str(), 403),
            ("/fetch/own_sum?owner=2", one.as_str(), 403),
            ("/fetch/own_sum?key=own_sum/1", one.as_str(), 400),
            ("/subscribe?key=own_sum/1&key=own_sum/2", one.as_str(), 403),
            ("/fetch/sum_of/2", one.as_str(), 200),
            ("/fetch/sum_of/2", "Bearer x.y.z", 401),
            ("/fetch/open_count", "Bearer x.y.z", 401),
            ("/products", one.as_str(), 200),
            ("/openapi.json", one.as_str(), 200),
            ("/metrics", one.as_str(), 403),
            ("/status", one.as_str(), 403),
            ("/why/own_sum/1", one.as_str(), 403),
            ("/healthz", "Bearer x.y.z", 200),
        ] {
            assert_eq!(status(&kck, path, bearer).await, want, "{path}");
        }
        let no_scope = tokens.bearer(&kck, json!({ "tenant": 1 }), Duration::from_secs(60));
        assert_eq!(status(&kck, "/fetch/own_sum/1", &no_scope).await, 403);
        let admin = json!({ "scope": "kck:admin" });
        let admin = tokens.bearer(&kck, admin, Duration::from_secs(60));
        assert_eq!(status(&kck, "/metrics", &admin).await, 200);
        assert_eq!(status(&kck, "/fetch/own_sum/1", &admin).await, 403);
        // Of a list everyone gets their own.
        let list = asked(&kck, "/fetch?key=own_sum/1&key=own_sum/2", &one).await.json();
        let seen = |at: usize| list["results"][at]["success"].as_bool().unwrap();
        assert_eq!((seen(0), seen(1)), (true, false));
        let keys = asked(&kck, "/keys/own_sum", &one).await.json();
        assert_eq!(keys["keys"].as_array().unwrap().len(), 1, "{keys}");
        kck.stop().await;
    });
}

#[test]
fn without_a_token_only_what_is_public_shows_and_nothing_else_is_told() {
    run(async {
        let database = Database::new("auth_nobody").await;
        let project = project(&database).await;
        let kck = project.start().await;
        let public = kck.get("/fetch/open_count").await;
        assert_eq!((public.value(), public.header("cache-control")), (json!(9), "no-cache"));
        let refused = kck.get("/fetch/own_sum/1").await;
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, "Bearer"));
        for path in [
            "/fetch/own_sum/x",
            "/fetch/nothing/1",
            "/fetch/sum_of/1",
            "/subscribe?key=sum_of/1",
            "/products",
            "/keys/open_count",
            "/explain/open_count",
            "/metrics",
            "/nothing",
            "/",
        ] {
            let reply = kck.get(path).await;
            assert_eq!((reply.status, reply.body == refused.body), (401, true), "{path}");
        }
        for path in ["/update/set_own", "/update/nothing", "/refresh/open_count", "/purge/own_sum"]
        {
            let reply = send(&kck.address, ("POST", path), "", "{}").await;
            assert_eq!((reply.status, reply.body == refused.body), (401, true), "{path}");
        }
        let list = kck.get("/fetch?key=open_count&key=own_sum/1").await.json();
        assert_eq!(list["results"][0]["value"], json!(9));
        assert_eq!(list["results"][1]["error"]["name"], json!("unauthorized"));
        assert_eq!(kck.get("/readyz").await.status, 200);
        kck.stop().await;
    });
}

/// Goal: no token ever sees the cached answer of another tenant.
/// Method: all keys are in memory; readers of three tenants ask for all three at once, over kept connections.
#[test]
fn a_token_of_another_tenant_never_sees_a_cached_answer() {
    run(async {
        let database = Database::new("auth_tenants").await;
        database.run("select 1").await;
        let project = project(&database).await;
        let kck = project.start().await;
        let tokens = Tokens::of(&project);
        let bearers: Vec<String> = (0..3).map(|tenant| tokens.tenant(&kck, tenant)).collect();
        for (tenant, bearer) in bearers.iter().enumerate() {
            assert_eq!(status(&kck, &format!("/fetch/own_sum/{tenant}"), bearer).await, 200);
        }
        let readers = (0..12).map(|reader| {
            let (kck, bearers) = (&kck, &bearers);
            async move {
                let own = reader % 3;
                let mut sender = connected(&kck.address).await.unwrap();
                for round in 0..300 {
                    let asked = (reader + round) % 3;
                    let request = Request::get(format!("/fetch/own_sum/{asked}"))
                        .header("host", &kck.address)
                        .header("authorization", &bearers[own]);
                    let request = request.body(Empty::<Bytes>::new()).unwrap();
                    let reply = answered(&mut sender, request).await.unwrap();
                    let body = reply.json();
                    let want = if asked == own { 200 } else { 403 };
                    assert_eq!(
                        (reply.status, body["success"].as_bool()),
                        (want, Some(want == 200))
                    );
                    assert!(want == 200 || body.get("value").is_none());
                }
            }
        });
        join_all(readers).await;
        kck.stop().await;
    });
}

#[test]
fn a_stream_ends_when_its_token_does() {
    run(async {
        let database = Database::new("auth_stream").await;
        let project = project(&database).await;
        let kck = project.start().await;
        let tokens = Tokens::of(&project);
        let claims = json!({ "scope": "sums:read", "tenant": 1 });
        let short = tokens.bearer(&kck, claims, Duration::from_secs(3));
        let mut events =
            Events::open(&kck.address, "/subscribe?key=own_sum/1", &[("authorization", &short)])
                .await;
        events.named("value").await;
        let last = events.named("error").await.json();
        assert_eq!(last["error"]["name"], json!("unauthorized"));
        assert_eq!(events.next().await, None);
        kck.stop().await;
    });
}

#[test]
fn an_update_is_bound_to_the_token_too() {
    run(async {
        let database = Database::new("auth_writes").await;
        let project = project(&database).await;
        let kck = project.start().await;
        let one = Tokens::of(&project).tenant(&kck, 1);
        let put = async |body: &str| {
            let mut sender = connected(&kck.address).await.unwrap();
            let request = Request::put("/update/set_own").header("host", &kck.address);
            let request = request.header("authorization", &one);
            let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
            answered(&mut sender, request).await.unwrap().status
        };
        assert_eq!(put(r#"{"owner":1,"n":5}"#).await, 200);
        assert_eq!(put(r#"{"owner":"01","n":5}"#).await, 200);
        assert_eq!(put(r#"{"owner":2,"n":5}"#).await, 403);
        assert_eq!(put(r#"{"owner":null,"n":5}"#).await, 403);
        assert_eq!(database.one("select sum(n)::bigint from items").await, 15);
        kck.stop().await;
    });
}

#[test]
fn who_logs_in_gets_a_token_that_opens_their_own() {
    run(async {
        const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        let database = Database::new("auth_login").await;
        database
            .run(&format!(
                "create table users (name text, hash text, tenant bigint);
                 insert into users values ('ann@shop.example', '{PENCIL}', 1)"
            ))
            .await;
        let mut project = project(&database).await;
        project.settings += "[auth.login]\nquery = \"select name as sub, hash, tenant, 'sums:read' as scope from users where name = :user\"\n";
        let kck = project.start().await;
        let login = async |user: &str, body: &str| {
            send(&kck.address, ("POST", &format!("/login/{user}")), "", body.to_owned()).await
        };
        for body in ["password=pencil", r#"{"password":"pencil"}"#] {
            let reply = login("ann%40shop.example", body).await;
            let token = reply.json()["auth_token"].as_str().unwrap().to_owned();
            assert_eq!(reply.header("cache-control"), "no-store");
            // The original's clients send it bare.
            assert_eq!(asked(&kck, "/fetch/own_sum/1", &token).await.value(), json!(0));
            assert_eq!(status(&kck, "/fetch/own_sum/2", &token).await, 403);
        }
        assert_eq!(login("ann%40shop.example", "passwd=pencil").await.status, 400);
        let wrong = login("ann%40shop.example", "password=pen").await;
        let unknown = login("nobody", "password=pencil").await;
        assert_eq!((wrong.status, unknown.status), (401, 401));
        assert_eq!(wrong.body, unknown.body);
        let mut last = wrong;
        for _ in 0..10 {
            last = login("ann%40shop.example", "password=pen").await;
        }
        assert_eq!(last.status, 429);
        assert!(last.header("retry-after").parse::<u64>().unwrap() > 0);
        kck.stop().await;
    });
}
