//! Encryption and logins, over the connection for questions and the one that streams alike.

use std::path::Path;

use kck::{
    capture::{
        Error,
        stream::{Replication, Settings},
    },
    change::{Change, Lsn},
    local::Postgres,
    observe::Observer,
    postgres::{
        address::Address,
        connect::connect,
        describe_chain,
        slot::{History, facts},
    },
};
use tokio::sync::OnceCell;

use super::{ONE_TABLE, Source, opened, text, transaction};
use crate::support::{
    run,
    servers::{Database, own_postgres},
};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/fixtures/tls");

/// Who may enter how: by the role's name, over TLS only where a test says so.
const ENTRIES: &str = "
    local all all trust
    host all postgres 127.0.0.1/32 trust
    host all by_scram 127.0.0.1/32 scram-sha-256
    hostssl all by_tls 127.0.0.1/32 scram-sha-256
    host all by_md5 127.0.0.1/32 md5
    host all by_clear_text 127.0.0.1/32 password
    hostssl all by_certificate 127.0.0.1/32 cert
";

const ROLES: &str = "
    create role by_scram superuser login password 'it''s';
    create role by_tls superuser login password 'it''s';
    create role by_clear_text superuser login password 'it''s';
    create role by_certificate superuser login;
    set password_encryption = 'md5';
    create role by_md5 superuser login password 'it''s';
";

static ENCRYPTED: OnceCell<Postgres> = OnceCell::const_new();

async fn encrypted_server() -> &'static Postgres {
    ENCRYPTED.get_or_init(start_encrypted).await
}

/// A server with TLS on. It writes its files itself: a key must be its own.
async fn start_encrypted() -> Postgres {
    let mut server = own_postgres(&[]).await;
    let database = Database::on(&server, "settings").await;
    database.run(ROLES).await;
    let fixture = |name: &str| std::fs::read_to_string(Path::new(FIXTURES).join(name)).unwrap();
    for (name, contents) in [
        ("server.crt", fixture("server.crt")),
        ("server.key", fixture("server.key")),
        ("authority.crt", fixture("authority.crt")),
        ("entries.conf", ENTRIES.to_owned()),
    ] {
        let lines = format!("select unnest(string_to_array($${contents}$$, E'\\n'))");
        database.run(&format!("copy ({lines}) to program 'umask 077; cat > {name}'")).await;
    }
    let folder = database.client.query_one("show data_directory", &[]).await.unwrap();
    let folder: String = folder.get(0);
    for setting in [
        "ssl = on",
        "ssl_cert_file = 'server.crt'",
        "ssl_key_file = 'server.key'",
        "ssl_ca_file = 'authority.crt'",
        &format!("hba_file = '{folder}/entries.conf'"),
    ] {
        database.run(&format!("alter system set {setting}")).await;
    }
    server.restart().await.unwrap();
    server
}

/// What comes of logging in, on each connection: nothing is wrong, or what is.
async fn outcomes(address: &Address, history: &History) -> [Result<(), String>; 2] {
    let question = connect(address, "test", &[]).await;
    let question = question.map(drop).map_err(|error| describe_chain(&error));
    // There is no slot; whoever is told so is in.
    let settings = Settings::new(address.clone(), history.clone(), Lsn(1));
    let stream = match Replication::start(settings, Observer::default()).await.unwrap_err() {
        Error::SlotLost { .. } => Ok(()),
        error => Err(describe_chain(&error)),
    };
    [question, stream]
}

#[test]
fn who_may_enter_enters_and_who_may_not_is_told_why() {
    let scram = "user=by_scram password=it\\'s";
    let tls = "user=by_tls password=it\\'s";
    let clear = "user=by_clear_text password=it\\'s";
    let certificate = format!("sslcert={FIXTURES}/client.crt sslkey={FIXTURES}/client.key");
    let full = format!("sslmode=verify-full sslrootcert={FIXTURES}/authority.crt");
    let ca = format!("sslmode=verify-ca sslrootcert={FIXTURES}/authority.crt");
    let other = format!("sslrootcert={FIXTURES}/other_authority.crt");
    let cases = [
        (format!("{scram} sslmode=disable"), ""),
        (format!("{scram} sslmode=prefer"), ""),
        (format!("{scram} sslmode=require"), ""),
        (format!("{scram} {full}"), ""),
        (format!("{scram} {full} channel_binding=require"), ""),
        (format!("{scram} {full} channel_binding=disable"), ""),
        (format!("{scram} sslmode=require channel_binding=require"), ""),
        (format!("{scram} sslmode=disable channel_binding=require"), "channel binding"),
        (format!("{tls} {full} channel_binding=require"), ""),
        (tls.to_owned(), ""),
        (format!("{tls} sslmode=disable"), "no pg_hba.conf entry"),
        (format!("{scram} host=localhost {full}"), ""),
        (
            format!("{scram} host=elsewhere hostaddr=127.0.0.1 {full}"),
            "certificate not valid for name",
        ),
        (format!("{scram} host=elsewhere hostaddr=127.0.0.1 {ca}"), ""),
        (format!("{scram} sslmode=verify-full {other}"), "UnknownIssuer"),
        (format!("{scram} sslmode=verify-ca {other}"), "UnknownIssuer"),
        // As libpq: whoever names an authority wants it to be asked.
        (format!("{scram} sslmode=require {other}"), "UnknownIssuer"),
        (format!("{scram} sslmode=verify-full sslrootcert={FIXTURES}/none.crt"), "none.crt"),
        ("user=by_scram password=wrong".to_owned(), "password authentication failed"),
        ("user=by_scram".to_owned(), "password"),
        ("user=by_md5 password=it\\'s sslmode=disable".to_owned(), ""),
        ("user=by_md5 password=wrong sslmode=disable".to_owned(), "password authentication failed"),
        (format!("{clear} sslmode=require"), ""),
        ("user=postgres".to_owned(), ""),
        ("user=postgres channel_binding=require".to_owned(), "channel binding"),
        (format!("user=by_certificate sslmode=require {certificate}"), ""),
        ("user=by_certificate sslmode=require".to_owned(), "certificate"),
        (format!("user=by_scram sslmode=require {certificate} password=it\\'s"), ""),
    ];
    run(async {
        let server = encrypted_server().await;
        let port = server.port();
        let at_home = |keywords: &str| -> Address {
            let host = if keywords.contains("host=") { "" } else { "host=127.0.0.1" };
            format!("{host} port={port} dbname=settings {keywords}").parse().unwrap()
        };
        let known = connect(&at_home("user=postgres"), "test", &[]).await.unwrap();
        let history = facts(&known).await.unwrap().history;
        for (keywords, want) in cases {
            for outcome in outcomes(&at_home(&keywords), &history).await {
                let as_wanted = match &outcome {
                    Ok(()) => want.is_empty(),
                    Err(error) => !want.is_empty() && error.contains(want),
                };
                assert!(as_wanted, "{keywords}: {outcome:?}, not '{want}'");
            }
        }
        // Where kck sends the password itself, it never does in clear text over a wire.
        let [_, stream] = outcomes(&at_home(&format!("{clear} sslmode=disable")), &history).await;
        assert!(stream.unwrap_err().contains("in clear text, without TLS"));
        // The second of two servers is the one that is up.
        let two = format!("{scram} host=127.0.0.1,127.0.0.1 port=1,{port} dbname=settings");
        assert_eq!(outcomes(&two.parse().unwrap(), &history).await, [Ok(()), Ok(())]);
    });
}

#[test]
fn an_encrypted_stream_carries_what_an_open_one_does() {
    run(async {
        let server = encrypted_server().await;
        let source =
            Source::of(Database::on(server, "capture_encrypted").await, ONE_TABLE, &["numbers"])
                .await;
        let address = format!(
            "host=127.0.0.1 port={} dbname=capture_encrypted user=by_tls password=it\\'s channel_binding=require sslmode=verify-full sslrootcert={FIXTURES}/authority.crt",
            server.port(),
        );
        let settings = Settings { address: address.parse().unwrap(), ..source.settings() };
        let mut stream = Replication::start(settings, Observer::default()).await.unwrap();
        let (_, pid) = opened(&mut stream).await;
        let sql = "select ssl from pg_stat_ssl where pid = $1";
        assert!(source.database.client.query_one(sql, &[&pid]).await.unwrap().get::<_, bool>(0));
        source
            .run("insert into numbers select n, repeat('y', 5000) from generate_series(1, 5000) n")
            .await;
        assert_eq!(transaction(&mut stream).await.0.len(), 5000);
        source.run("insert into numbers values (0, repeat('y', 20000000))").await;
        let (changes, _) = transaction(&mut stream).await;
        let Change::Insert { new, .. } = &changes[0] else { panic!("{changes:?}") };
        assert_eq!(text(&new[1]), "20000000 bytes");
    });
}
