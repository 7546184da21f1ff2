//! A Postgres and a Cassandra for all tests, each started when the first test asks for it.

use kck::local::{Cassandra, CassandraSettings, Postgres, PostgresSettings};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use super::setting;

static POSTGRES: OnceCell<Postgres> = OnceCell::const_new();
static CASSANDRA: OnceCell<Cassandra> = OnceCell::const_new();

fn cache() -> Option<std::path::PathBuf> {
    std::env::var_os("KCK_CACHE").map(Into::into)
}

fn report(line: &str) {
    eprintln!("{line}");
}

/// The major version that is asked for; none: the newest installed.
fn version() -> Option<u16> {
    setting("KCK_POSTGRES__VERSION").map(|version| u16::try_from(version).unwrap())
}

async fn postgres() -> &'static Postgres {
    let start = || async {
        let settings = PostgresSettings {
            version: version(),
            statements: true,
            extra: vec![
                ("max_replication_slots".into(), "400".into()),
                ("max_wal_senders".into(), "200".into()),
                ("max_connections".into(), "400".into()),
            ],
            cache: cache(),
            ..PostgresSettings::default()
        };
        Postgres::start(settings, &report).await.unwrap()
    };
    POSTGRES.get_or_init(start).await
}

/// Where Cassandra answers.
pub(crate) async fn cassandra() -> String {
    let start = || async {
        let settings =
            CassandraSettings { fast_schema: true, cache: cache(), ..CassandraSettings::default() };
        Cassandra::start(settings, &report).await.unwrap()
    };
    CASSANDRA.get_or_init(start).await.contact_point()
}

/// A Postgres of one test's own, for what concerns the whole server.
pub(crate) async fn own_postgres(extra: &[(&str, &str)]) -> Postgres {
    own_postgres_like(extra, PostgresSettings::default()).await
}

/// The same, with what else it should be like.
pub(crate) async fn own_postgres_like(extra: &[(&str, &str)], like: PostgresSettings) -> Postgres {
    let extra =
        extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let settings = PostgresSettings { version: version(), extra, cache: cache(), ..like };
    Postgres::start(settings, &report).await.unwrap()
}

/// A database of a test's own on the shared server.
pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) client: Client,
}

impl Database {
    pub(crate) async fn new(name: &str) -> Self {
        Self::on(postgres().await, name).await
    }

    pub(crate) async fn on(server: &Postgres, name: &str) -> Self {
        let admin = connect(&server.url("postgres")).await;
        admin.batch_execute(&format!("create database {name}")).await.unwrap();
        let url = server.url(name);
        let client = connect(&url).await;
        Self { name: name.to_owned(), url, client }
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    /// Runs a statement, and gives the position that its commit ends at or before.
    pub(crate) async fn commit(&self, sql: &str) -> String {
        commit(&self.client, sql).await
    }

    /// Drops the slot of the database's name under its reader, who must be ended first and whose return is raced.
    pub(crate) async fn lose_slot(&self) {
        let slot = &self.name;
        self.run(&format!(
            "do $$ begin
                    for try in 1..1000 loop
                        perform pg_terminate_backend(active_pid) from pg_replication_slots
                            where slot_name = '{slot}' and active;
                        begin
                            perform pg_drop_replication_slot('{slot}');
                            return;
                        exception when object_in_use then null;
                        end;
                    end loop;
                end $$"
        ))
        .await;
    }

    pub(crate) async fn one(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }
}

/// Runs a statement on a connection, and gives the position that its commit ends at or before.
pub(crate) async fn commit(client: &Client, sql: &str) -> String {
    client.batch_execute(sql).await.unwrap();
    client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await.unwrap().get(0)
}

/// A connection like a user's own.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Makes commits wait for standbys of this name; `''` lets them go.
pub(crate) async fn wait_for_standby(database: &Database, name: &str) {
    database.run(&format!("alter system set synchronous_standby_names = '{name}'")).await;
    database.run("select pg_reload_conf()").await;
    // A session of this server has taken the setting when it shows it.
    loop {
        let shown: String =
            database.client.query_one("show synchronous_standby_names", &[]).await.unwrap().get(0);
        if shown == name {
            return;
        }
        tokio::task::yield_now().await;
    }
}
