//! A name and a password are looked up in the source by the settings' SQL, and nothing else is done there.

use std::{net::IpAddr, sync::Arc, time::Duration};

use kck::{
    postgres::Source,
    serve::auth::{
        Algorithm, Gate, KeySource, LoginSettings, Settings,
        login::{Login, LoginError},
    },
};
use serde_json::json;

use crate::support::{run, servers::Database};

/// RFC 7677: password `pencil`.
const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

async fn database(name: &str) -> Database {
    let database = Database::new(name).await;
    let schema = format!(
        "create table users (id bigint primary key, name text, account text, tenant text, roles text[], extra jsonb);
         insert into users values
            (9007199254740993, 'ann', '{PENCIL}', 'acme', '{{a,b}}', '{{\"n\": 1}}'),
            (2, 'o''neil', '{PENCIL}', null, null, null),
            (3, 'two', '{PENCIL}', null, null, null), (4, 'two', '{PENCIL}', null, null, null);
         create table tries (name text);
         create function noted(who text) returns text language plpgsql as
            'begin insert into tries values (who); return who; end'"
    );
    database.run(&schema).await;
    database
}

fn login(database: &Database, query: &str) -> (Login, Gate) {
    let settings = Settings {
        algorithms: vec![Algorithm::HS256],
        keys: KeySource::Secret("a secret of tests and of nothing else".to_owned()),
        issuer: None,
        audience: "shop".to_owned(),
        leeway: Duration::from_secs(30),
        signing_key_file: None,
        login: Some(LoginSettings { query: query.to_owned(), lifetime: Duration::from_secs(3600) }),
    };
    let gate = Gate::open(&settings).unwrap();
    let source = Arc::new(Source::new(database.url.parse().unwrap()));
    (Login::open(&settings, &gate, source).unwrap().unwrap(), gate)
}

fn from(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

const QUERY: &str =
    "select id as sub, account as hash, tenant, roles, extra, account from users -- who
     where name = :user and ':user' <> :user;";

#[test]
fn a_login_finds_its_row_and_the_columns_become_claims() {
    run(async {
        let database = database("login_row").await;
        let (login, gate) = login(&database, QUERY);
        let token = login.attempt("ann", "pencil", from(1)).await.unwrap();
        let identity = gate.identify(Some(token.as_bytes())).await.unwrap();
        assert_eq!(identity.subject(), Some("9007199254740993"));
        assert_eq!(identity.claim("tenant"), Some(&json!("acme")));
        assert_eq!(identity.claim("roles"), Some(&json!(["a", "b"])));
        assert_eq!(identity.claim("extra"), Some(&json!({ "n": 1 })));
        assert!(login.attempt("o'neil", "pencil", from(1)).await.is_ok());
        for user in ["' or 1=1 --", "$1", "ann'", "two", "%", "o''neil", ":user"] {
            let refused = login.attempt(user, "pencil", from(2)).await;
            assert!(matches!(refused, Err(LoginError::Refused | LoginError::TooMany { .. })));
        }
    });
}

#[test]
fn a_login_that_writes_is_not_run() {
    run(async {
        let database = database("login_write").await;
        let query = "select account as hash from users where name = noted(:user)";
        let (login, _) = login(&database, query);
        let refused = login.attempt("ann", "pencil", from(1)).await;
        assert_eq!(refused, Err(LoginError::Unavailable));
        assert_eq!(database.one("select count(*) from tries").await, 0);
    });
}

#[test]
fn a_login_survives_the_loss_of_its_connection() {
    run(async {
        let database = database("login_lost").await;
        let (login, _) = login(&database, QUERY);
        assert!(login.attempt("ann", "pencil", from(1)).await.is_ok());
        let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity
             where application_name = 'kck/login' and datname = current_database()";
        assert_eq!(database.one(ended).await, 1);
        assert!(login.attempt("ann", "pencil", from(1)).await.is_ok());
    });
}
