//! A Postgres of one version, its client programs, and kcks over it that start and stop: what is measured on.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    process::{Child, Command},
    time::Instant,
};

use crate::{
    app::App,
    change::Lsn,
    cli::{
        Stop,
        demo::own::{self, Folder, POSITION, refused},
        environment, say, told_to_stop,
    },
    local::{self, Postgres, PostgresSettings},
    observe::{Event, Observer},
    parts::Failure,
    postgres::{Client, publication, slot},
    progress::Progress,
};

/// The products that follow what the workloads write, each by its table's key.
const PRODUCTS: &[(&str, &str)] = &[
    ("one_of.sql", "select id, v from one where k = :k order by id"),
    ("bulk_of.sql", "select id, v from bulk where k = :k order by id"),
    ("multi_of.sql", "select n, v from multi where id = :id"),
    ("account.sql", "select abalance from pgbench_accounts where aid = :aid"),
    ("teller.sql", "select tbalance from pgbench_tellers where tid = :tid"),
    ("branch.sql", "select bbalance from pgbench_branches where bid = :bid"),
    ("marks.sql", "select count(*) from marker"),
];
const SCHEMA: &str = include_str!("../../../sql/bench/capture_schema.sql");
/// A hundred thousand accounts each.
const PGBENCH_SCALE: &str = "10";

/// A server with the workloads' tables.
pub(super) struct Side {
    pub(super) client: Client,
    url: String,
    postgres: Postgres,
    folder: Folder,
}

impl Side {
    /// Starts a server of this version and fills its tables. What survives a crash does not matter here.
    async fn start(version: Option<u16>, fsync: bool) -> Result<Self, Stop> {
        let environment = environment();
        let cache = environment.iter().find(|(name, _)| name == "KCK_CACHE");
        let extra = [("max_wal_size", "32GB"), ("checkpoint_timeout", "1h")];
        let settings = PostgresSettings {
            version,
            fsync,
            cache: cache.map(|(_, value)| value.into()),
            extra: extra.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..PostgresSettings::default()
        };
        let postgres = Postgres::start(settings, &|line| say(line)).await?;
        let making = |error| refused("make a database", error);
        let admin = own::client(&postgres.url("postgres"), "bench").await?;
        admin.batch_execute("create database bench").await.map_err(making)?;
        let url = postgres.url("bench");
        let client = own::client(&url, "bench").await?;
        client.batch_execute(SCHEMA).await.map_err(making)?;
        let folder = Folder::create("bench")?;
        let side = Self { client, url, postgres, folder };
        side.pgbench(&["-i", "-q", "-s", PGBENCH_SCALE]).await?;
        Ok(side)
    }

    /// Measures on a server that is started for it and stopped after it, also at Ctrl-C.
    pub(super) async fn during(
        version: Option<u16>,
        fsync: bool,
        measure: impl AsyncFnOnce(&Self) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let mut side = Self::start(version, fsync).await?;
        let ended = tokio::select! {
            ended = measure(&side) => ended,
            () = told_to_stop() => Err(Stop::cannot("told to stop before the end")),
        };
        side.postgres.stop().await?;
        ended
    }

    pub(super) async fn version(&self) -> Result<String, Stop> {
        self.text("show server_version").await
    }

    /// The one value of a statement.
    pub(super) async fn text(&self, sql: &str) -> Result<String, Stop> {
        let row = self.client.query_one(sql, &[]).await;
        row.and_then(|row| row.try_get(0)).map_err(|error| refused("ask the database", error))
    }

    pub(super) async fn run(&self, sql: &str) -> Result<(), Stop> {
        let ran = self.client.batch_execute(sql).await;
        ran.map_err(|error| refused("write to the database", error))
    }

    pub(super) async fn position(&self) -> Result<Lsn, Stop> {
        let text = self.text(POSITION).await?;
        text.parse().map_err(|_| Stop::cannot(format!("the database's position is '{text}'")))
    }

    /// Runs pgbench, and gives what it printed.
    pub(super) async fn pgbench(&self, arguments: &[&str]) -> Result<String, Stop> {
        let program = program("pgbench", &self.postgres).await?;
        let output = Command::new(program).args(arguments).arg(&self.url).output().await;
        let output = output.map_err(|error| Stop::cannot(format!("run pgbench: {error}")))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Stop::cannot(format!("run pgbench: {}", String::from_utf8_lossy(&output.stderr))))
    }

    /// Drops what a kck of this name has in the source; a reader of its slot that is going is waited for.
    pub(super) async fn remove(&self, name: &str) -> Result<(), Stop> {
        slot::drop_slot(&self.client, name).await.map_err(Failure::from)?;
        publication::drop_publication(&self.client, name).await.map_err(Failure::from)?;
        Ok(())
    }

    /// A file for pgbench to read.
    pub(super) fn script(&self, name: &str, text: &str) -> Result<PathBuf, Stop> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text)
            .map_err(|error| Stop::cannot(format!("write {}: {error}", path.display())))?;
        Ok(path)
    }

    /// `pg_recvlogical` on a slot, to nowhere; until `end`, or until it is killed.
    pub(super) async fn recvlogical(
        &self,
        slot: &str,
        publication: &str,
        end: Option<Lsn>,
    ) -> Result<Child, Stop> {
        let program = program("pg_recvlogical", &self.postgres).await?;
        let mut command = Command::new(program);
        command.args(["--start", "--no-loop", "-f", "/dev/null", "-s", "1", "-F", "0", "-S", slot]);
        command.args(["-o", "proto_version=1", "-o", &format!("publication_names={publication}")]);
        command.args(["-d", &self.url]).kill_on_drop(true).stderr(Stdio::null());
        if let Some(end) = end {
            command.args(["-E", &end.to_string()]);
        }
        command.spawn().map_err(|error| Stop::cannot(format!("run pg_recvlogical: {error}")))
    }

    /// Prepares a kck that is not running: its slot keeps the log from here on.
    pub(super) async fn kck(&self, name: &str) -> Result<Kck, Stop> {
        let directory = self.folder.path().join(name);
        let products = directory.join("products");
        let write = || {
            std::fs::create_dir_all(&products)?;
            PRODUCTS.iter().try_for_each(|(file, text)| std::fs::write(products.join(file), text))
        };
        write().map_err(|error| Stop::cannot(format!("write {}: {error}", products.display())))?;
        let kck = Kck { name: name.to_owned(), url: self.url.clone(), directory };
        let running = kck.start().await?;
        own::followed(&running.app.context).await?;
        running.app.stop().await;
        Ok(kck)
    }
}

/// A kck with a slot, a publication and a store of its own, all under its name.
pub(super) struct Kck {
    pub(super) name: String,
    url: String,
    directory: PathBuf,
}

/// It runs.
pub(super) struct Running {
    pub(super) app: App,
    /// When its stream was open.
    pub(super) opened: Instant,
}

impl Kck {
    /// Starts it; the stream is open when this returns.
    pub(super) async fn start(&self) -> Result<Running, Stop> {
        let Self { name, url, directory } = self;
        let text = format!(
            "source = {{ url = '{url}', slot = '{name}', publication = '{name}' }}\nhttp = {{ listen = '127.0.0.1:0' }}\n"
        );
        let config = own::parsed(&text, directory)?;
        let observer = Observer::default();
        let mut events = observer.subscribe();
        let app = Box::pin(App::start(config, &[], observer)).await?;
        loop {
            match events.recv().await {
                Ok(Event::StreamOpened { .. }) => break,
                Ok(_) => {}
                Err(error) => return Err(Stop::cannot(format!("wait for the stream: {error}"))),
            }
        }
        Ok(Running { app, opened: Instant::now() })
    }

    /// How long it takes to have matched everything up to `end`, marks durable.
    pub(super) async fn drains(&self, end: Lsn) -> Result<std::time::Duration, Stop> {
        let running = self.start().await?;
        let mut progress = running.app.context.progress.clone();
        let reached = |progress: &Progress| progress.visible >= end;
        let waited = progress.wait_for(reached).await.map(drop);
        let took = running.opened.elapsed();
        running.app.stop().await;
        waited.map_err(|error| Stop::cannot(format!("follow kck: {error}")))?;
        Ok(took)
    }
}

/// A client program of Postgres: those of any version serve.
async fn program(name: &str, postgres: &Postgres) -> Result<PathBuf, Stop> {
    let own = Path::new(postgres.programs()).join(name);
    if own.is_file() {
        return Ok(own);
    }
    local::installed_program(name).await.ok_or_else(|| {
        Stop::cannot(format!(
            "there is no {name} to compare with\n  hint: install PostgreSQL with its client programs (apt-get install postgresql)"
        ))
    })
}
