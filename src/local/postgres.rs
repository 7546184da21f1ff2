//! Settings → a running Postgres, ready for logical replication.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Error, PORT_ATTEMPTS, Report,
    account::Account,
    directory::{Directory, Log},
    free_ports,
    process::{Launch, Process, run},
    programs::{VERSIONS, Wanted},
};

/// The superuser of every server started here.
const USER: &str = "postgres";
/// How long a start may take; recovery after a kill is part of it.
const READY_TIME: Duration = Duration::from_secs(60);
/// The longest folder whose sockets have an address, which is 107 bytes.
const SOCKET_FOLDER_BYTES_MAX: usize = 107 - "/.s.PGSQL.65535.lock".len();

/// What a Postgres of one's own should be like.
#[derive(Debug, Clone, Default)]
pub struct PostgresSettings {
    /// Where it keeps its data, which then stays; none: a temporary folder, removed in the end.
    pub directory: Option<PathBuf>,
    /// Its major version, 14 to 18; none: that of the data, else the newest installed, else the newest.
    pub version: Option<u16>,
    /// Its port on 127.0.0.1; none: a free one.
    pub port: Option<u16>,
    /// The superuser's password, set when the data is first made; none: everybody on this machine may enter.
    pub password: Option<String>,
    /// Whether commits survive a crash of the machine; without, they are much faster.
    pub fsync: bool,
    /// Whether `pg_stat_statements` is loaded.
    pub statements: bool,
    /// Further settings; they win over those made here.
    pub extra: Vec<(String, String)>,
    /// Further arguments of `initdb`, such as `--wal-segsize=1`.
    pub initdb: Vec<String>,
    /// Where fetched programs are kept; none: the user's cache.
    pub cache: Option<PathBuf>,
}

/// A running Postgres. Dropping it ends it.
#[derive(Debug)]
pub struct Postgres {
    // before the folder, which goes when the server has gone
    process: Option<Process>,
    port: u16,
    plan: Plan,
    directory: Directory,
}

/// What it takes to start the server, the first time and again.
#[derive(Debug)]
struct Plan {
    settings: PostgresSettings,
    account: Account,
    programs: PathBuf,
}

impl Postgres {
    /// Finds or fetches a server, makes its data where there is none, starts it, and waits until it accepts
    /// connections.
    pub async fn start(settings: PostgresSettings, report: Report<'_>) -> Result<Postgres, Error> {
        let account = Account::for_server("postgres")?;
        let directory = Directory::open(settings.directory.as_deref(), "postgres")?;
        account.check(directory.path()).await?;
        let wanted = Wanted {
            version: version_wanted(&settings, directory.path())?,
            statements: settings.statements,
            cache: settings.cache.as_deref(),
        };
        let programs = wanted.find(&account, report).await?;
        let plan = Plan { settings, account, programs };
        let log = directory.claim().await?;
        if !directory.path().join("data").exists() {
            report("making the data of a new PostgreSQL…");
            plan.make_data(directory.path()).await?;
        }
        let (process, port) = plan.launch(&directory, &log, plan.settings.port).await?;
        Ok(Postgres { process: Some(process), port, plan, directory })
    }

    /// Where `database` of this server is, for its superuser.
    pub fn url(&self, database: &str) -> String {
        let password = self.plan.settings.password.as_deref();
        let password = password.map(|word| format!(":{}", percent_encoded(word)));
        let password = password.unwrap_or_default();
        let database = percent_encoded(database);
        format!("postgres://{USER}{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Where its programs lie; `pgbench` and `pg_recvlogical` are among them where they came along.
    pub fn programs(&self) -> &Path {
        &self.plan.programs
    }

    /// Where its data lie.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Ends it at once, as `pg_ctl stop -m immediate` does: nothing is written, the next start recovers.
    pub async fn abort(&mut self) -> Result<(), Error> {
        match self.process.take() {
            Some(process) => process.end("QUIT").await,
            None => Ok(()),
        }
    }

    /// Ends it in order: clients are disconnected, everything is written.
    pub async fn stop(&mut self) -> Result<(), Error> {
        match self.process.take() {
            Some(process) => process.end("INT").await,
            None => Ok(()),
        }
    }

    /// Kills it, as a crash would.
    pub async fn kill9(&mut self) -> Result<(), Error> {
        match self.process.take() {
            Some(process) => process.end("KILL").await,
            None => Ok(()),
        }
    }

    /// Starts it again with the same data on the same port; one that runs is stopped before.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.stop().await?;
        let log = self.directory.claim().await?;
        let (process, _) = self.plan.launch(&self.directory, &log, Some(self.port)).await?;
        self.process = Some(process);
        Ok(())
    }
}

impl Plan {
    /// Makes the data of a new server in the folder `data`, which is there when it is whole.
    async fn make_data(&self, directory: &Path) -> Result<(), Error> {
        let unfinished = directory.join("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)
                .map_err(Error::machine(format!("remove {}", unfinished.display())))?;
        }
        self.make_folder(&unfinished)?;
        let mut initdb = self.account.command(&self.programs.join("initdb"), directory);
        initdb.args(["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--auth=trust"]);
        initdb.args(&self.settings.initdb);
        initdb.args(["--username", USER, "--pgdata"]).arg(&unfinished);
        let secret = directory.join("password");
        if let Some(password) = &self.settings.password {
            write_secret(&secret, password)
                .map_err(Error::machine(format!("write {}", secret.display())))?;
            self.account.give(&secret)?;
            initdb.arg("--pwfile").arg(&secret);
        }
        let made = run(initdb).await;
        if self.settings.password.is_some() {
            fs::remove_file(&secret)
                .map_err(Error::machine(format!("remove {}", secret.display())))?;
        }
        made?;
        let data = directory.join("data");
        fs::rename(&unfinished, &data).map_err(Error::machine(format!("make {}", data.display())))
    }

    fn make_folder(&self, path: &Path) -> Result<(), Error> {
        fs::create_dir(path).map_err(Error::machine(format!("create {}", path.display())))?;
        self.account.give(path)
    }

    /// Starts the server on `port`, or on a free one: another if somebody was quicker to take it.
    async fn launch(
        &self,
        directory: &Directory,
        log: &Log,
        port: Option<u16>,
    ) -> Result<(Process, u16), Error> {
        let sockets = directory.path().join("run");
        if !sockets.exists() {
            self.make_folder(&sockets)?;
        }
        let mut attempt = 1;
        loop {
            let port = match port {
                Some(port) => port,
                None => free_ports::<1>()?[0],
            };
            let settings =
                directory.write("postgresql.conf", &self.configuration(directory, port))?;
            directory.write("pg_hba.conf", &self.entries())?;
            let data = directory.path().join("data");
            let launch = Launch {
                server: "PostgreSQL",
                program: &self.programs.join("postgres"),
                arguments: vec![
                    "-D".to_owned(),
                    data.display().to_string(),
                    format!("--config-file={}", settings.display()),
                ],
                // nobody needs what was temporary, so it need not be written
                last_signal: if directory.is_temporary() { "QUIT" } else { "INT" },
                ready_within: READY_TIME,
            };
            let status = data.join("postmaster.pid");
            let ready = |id| is_ready(&fs::read_to_string(&status).unwrap_or_default(), id);
            match Process::start(launch, &self.account, directory, log, ready).await {
                Err(Error::Start { .. })
                    if self.settings.port.is_none()
                        && attempt < PORT_ATTEMPTS
                        && log.text().contains("Address already in use") =>
                {
                    attempt += 1;
                }
                started => return started.map(|process| (process, port)),
            }
        }
    }

    /// The settings in full: none that `initdb` chose is used.
    fn configuration(&self, directory: &Directory, port: u16) -> String {
        let PostgresSettings { fsync, statements, extra, .. } = &self.settings;
        let path = |name: &str| directory.path().join(name).display().to_string();
        let sockets = path("run");
        let sockets =
            if sockets.len() <= SOCKET_FOLDER_BYTES_MAX { sockets } else { String::new() };
        let on = |whether: bool| if whether { "on" } else { "off" }.to_owned();
        let own = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", port.to_string()),
            ("unix_socket_directories", sockets),
            ("hba_file", path("pg_hba.conf")),
            ("wal_level", "logical".to_owned()),
            ("max_replication_slots", "20".to_owned()),
            ("max_wal_senders", "20".to_owned()),
            ("max_prepared_transactions", "20".to_owned()),
            (
                "shared_preload_libraries",
                if *statements { "pg_stat_statements" } else { "" }.to_owned(),
            ),
            ("password_encryption", "scram-sha-256".to_owned()),
            ("timezone", "UTC".to_owned()),
            ("fsync", on(*fsync)),
            ("full_page_writes", on(*fsync)),
        ];
        let extra = extra.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let line = |(name, value): (&str, String)| {
            format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''"))
        };
        own.into_iter().chain(extra).map(line).collect()
    }

    /// Who may enter, and how.
    fn entries(&self) -> String {
        let how = if self.settings.password.is_some() { "scram-sha-256" } else { "trust" };
        let line = |database| {
            format!("local {database} all {how}\nhost {database} all 127.0.0.1/32 {how}\n")
        };
        line("all") + &line("replication")
    }
}

/// The version asked for, or else that of the data that is there.
fn version_wanted(settings: &PostgresSettings, directory: &Path) -> Result<Option<u16>, Error> {
    let refused = |why: String| Err(Error::Directory { directory: directory.to_owned(), why });
    let Ok(text) = fs::read_to_string(directory.join("data/PG_VERSION")) else {
        return Ok(settings.version);
    };
    match (text.trim().parse::<u16>(), settings.version) {
        (Ok(found), Some(wanted)) if found != wanted => {
            refused(format!("its data are of PostgreSQL {found}, asked for was {wanted}"))
        }
        (Ok(found), _) if VERSIONS.contains(&found) => Ok(Some(found)),
        _ => refused(format!("its data are of PostgreSQL {}", text.trim())),
    }
}

/// Whether the server `id` says in its status file that it accepts connections.
fn is_ready(status: &str, id: u32) -> bool {
    let mut lines = status.lines();
    let ours = lines.next().is_some_and(|line| line.trim() == id.to_string());
    ours && lines.nth(6).is_some_and(|line| line.trim() == "ready")
}

/// Writes a file that only its owner may read.
fn write_secret(path: &Path, secret: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .write_all(secret.as_bytes())
}

/// `text` for the parts of a URL.
fn percent_encoded(text: &str) -> String {
    let sign = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(sign).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_when_the_status_of_this_very_server_says_so() {
        let status = "41\n/data\n1700000000\n5433\n/run\n127.0.0.1\n  1  2\nready   \n";
        assert!(is_ready(status, 41));
        assert!(!is_ready(status, 4));
        assert!(!is_ready(&status.replace("ready   ", "starting"), 41));
        assert!(!is_ready("", 41));
    }

    #[test]
    fn urls_keep_odd_signs() {
        assert_eq!(percent_encoded("a b/ü@-1"), "a%20b%2F%C3%BC%40-1");
    }

    #[tokio::test]
    async fn a_killed_server_starts_again_and_nothing_stays() {
        let settings = PostgresSettings { password: Some("it's".to_owned()), ..Default::default() };
        let mut postgres = Postgres::start(settings, &|_| {}).await.unwrap();
        let directory = postgres.directory.path().to_owned();
        let first = postgres.pid().unwrap();
        postgres.kill9().await.unwrap();
        assert_eq!(postgres.pid(), None);
        std::net::TcpStream::connect(("127.0.0.1", postgres.port())).unwrap_err();
        postgres.restart().await.unwrap();
        let second = postgres.pid().unwrap();
        assert_ne!(first, second);
        std::net::TcpStream::connect(("127.0.0.1", postgres.port())).unwrap();
        drop(postgres);
        assert!(!directory.exists());
        for id in [first, second] {
            assert!(!Path::new("/proc").join(id.to_string()).exists());
        }
    }

    #[tokio::test]
    async fn a_start_that_goes_wrong_says_what_the_server_said() {
        let extra = vec![("wal_level".to_owned(), "it's \\wrong".to_owned())];
        let settings = PostgresSettings { extra, ..Default::default() };
        let error = Postgres::start(settings, &|_| {}).await.unwrap_err();
        assert!(matches!(error, Error::Start { .. }), "{error}");
        assert!(error.to_string().contains(r#"parameter "wal_level": "it's \wrong""#), "{error}");
    }

    #[tokio::test]
    async fn a_folder_is_for_one_version() {
        let directory = Directory::open(None, "version-test").unwrap();
        fs::create_dir(directory.path().join("data")).unwrap();
        fs::write(directory.path().join("data/PG_VERSION"), "15\n").unwrap();
        let settings = PostgresSettings {
            directory: Some(directory.path().to_owned()),
            version: Some(17),
            ..Default::default()
        };
        let error = Postgres::start(settings, &|_| {}).await.unwrap_err();
        assert!(matches!(error, Error::Directory { .. }), "{error}");
    }
}
