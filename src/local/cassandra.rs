//! Settings → a running Cassandra of one node.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use sha2::{Digest, Sha256};

use super::{
    Error, PORT_ATTEMPTS, Report,
    account::Account,
    directory::{Directory, Log},
    fetch::{Cache, MAVEN_COPIER, apt_install, hex, sha256},
    free_ports, java, on_path,
    process::{Launch, Process, run},
};

/// The version that `cassandra.pom.xml` names.
const VERSION: &str = "5.0.9";
/// The SHA-256 of the sorted lines `name sha256` of all its jars.
const JARS_SHA256: &str = "b697e0079e316c9d9b43979d8d940d7fcd72c0120afd685e0982b3768af14b07";
/// Downloads of this many files break now and then; Maven keeps those it has.
const MAVEN_ATTEMPTS: usize = 3;
/// How long a start may take on a busy machine.
const READY_TIME: Duration = Duration::from_secs(180);
/// How long an answer over the loopback may take.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Packages of the runtime that Cassandra and its libraries reach into.
const EXPORTS: [&str; 9] = [
    "java.base/java.lang.ref",
    "java.base/jdk.internal.misc",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "jdk.attach/sun.tools.attach",
    "jdk.compiler/com.sun.tools.javac.file",
    "jdk.unsupported/sun.misc",
];
/// Those that it reaches into by reflection.
const OPENS: [&str; 15] = [
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.module",
    "java.base/java.lang.reflect",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "jdk.compiler/com.sun.tools.javac",
    "jdk.management/com.sun.management.internal",
];
/// A small heap, a short pause between two collections, and no waiting for other nodes.
const FLAGS: [&str; 20] = [
    "-ea",
    "-Xss256k",
    "-Xms768M",
    "-Xmx768M",
    "-XX:+UseG1GC",
    "-XX:+ParallelRefProcEnabled",
    "-XX:+PerfDisableSharedMem",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:MaxDirectMemorySize=256M",
    "-Djava.net.preferIPv4Stack=true",
    "-Djdk.attach.allowAttachSelf=true",
    "-Dio.netty.tryReflectionSetAccessible=true",
    "-Dcassandra-foreground=yes",
    "-Dcassandra.skip_wait_for_gossip_to_settle=0",
    "-Dcassandra.ring_delay_ms=0",
    "-Dcassandra.superuser_setup_delay_ms=0",
    "-Dcassandra.shutdown_announce_in_ms=0",
    "-Dcassandra.disable_paxos_auto_repairs=true",
    "-Dcassandra.expiration_date_overflow_policy=CAP_NOWARN",
    "-da:net.openhft...",
];

/// What a Cassandra of one's own should be like.
#[derive(Debug, Clone, Default)]
pub struct CassandraSettings {
    /// Where it keeps its data, which then stays; none: a temporary folder, removed in the end.
    pub directory: Option<PathBuf>,
    /// Its port for clients on 127.0.0.1; none: a free one.
    pub port: Option<u16>,
    /// Whether tables are created ten times as fast, and lost if the server is then killed.
    pub fast_schema: bool,
    /// Where fetched programs are kept; none: the user's cache.
    pub cache: Option<PathBuf>,
}

/// A running Cassandra. Dropping it ends it.
#[derive(Debug)]
pub struct Cassandra {
    // before the folder, which goes when the server has gone
    process: Option<Process>,
    port: u16,
    plan: Plan,
    directory: Directory,
}

/// What it takes to start the server, the first time and again.
#[derive(Debug)]
struct Plan {
    settings: CassandraSettings,
    account: Account,
    java: PathBuf,
    jars: PathBuf,
}

impl Cassandra {
    /// Finds or fetches Java and Cassandra, starts one node, and waits until it answers clients.
    pub async fn start(
        settings: CassandraSettings,
        report: Report<'_>,
    ) -> Result<Cassandra, Error> {
        let account = Account::for_server("cassandra")?;
        let directory = Directory::open(settings.directory.as_deref(), "cassandra")?;
        account.check(directory.path()).await?;
        let cache = Cache::open(settings.cache.as_deref())?;
        // apt's Maven brings a Java with it, so the jars come first
        let jars = jars(&cache, report).await?;
        let java = java::find(&cache, &account, report).await?;
        let plan = Plan { settings, account, java, jars };
        let log = directory.claim().await?;
        report("starting Cassandra…");
        let (process, port) = plan.launch(&directory, &log, plan.settings.port).await?;
        Ok(Cassandra { process: Some(process), port, plan, directory })
    }

    /// Where clients reach it.
    pub fn contact_point(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Ends it in order: what is in memory is written.
    pub async fn stop(&mut self) -> Result<(), Error> {
        match self.process.take() {
            Some(process) => process.end("TERM").await,
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
    /// Starts the node on `port`, or on a free one: another if somebody was quicker to take it.
    async fn launch(
        &self,
        directory: &Directory,
        log: &Log,
        port: Option<u16>,
    ) -> Result<(Process, u16), Error> {
        directory.write("cassandra.yaml", include_str!("cassandra.yaml"))?;
        directory.write("logback.xml", include_str!("cassandra.logback.xml"))?;
        let data = directory.path().join("data");
        if !data.exists() {
            fs::create_dir(&data).map_err(Error::machine(format!("create {}", data.display())))?;
            self.account.give(&data)?;
        }
        let mut attempt = 1;
        loop {
            let [free, internode] = free_ports()?;
            let port = port.unwrap_or(free);
            let launch = Launch {
                server: "Cassandra",
                program: &self.java,
                arguments: self.arguments(directory.path(), port, internode)?,
                // nobody needs what was temporary, so it need not be written
                last_signal: if directory.is_temporary() { "KILL" } else { "TERM" },
                ready_within: READY_TIME,
            };
            // its own word first: behind a port may be somebody else's server
            let ready =
                |_| log.text().contains("Starting listening for CQL clients") && answers(port);
            match Process::start(launch, &self.account, directory, log, ready).await {
                Err(Error::Start { .. })
                    if self.settings.port.is_none()
                        && attempt < PORT_ATTEMPTS
                        && log.text().contains("ddress already in use") =>
                {
                    attempt += 1;
                }
                started => return started.map(|process| (process, port)),
            }
        }
    }

    /// The command line of `java`.
    fn arguments(&self, directory: &Path, port: u16, internode: u16) -> Result<Vec<String>, Error> {
        let jars = jar_files(&self.jars)
            .map_err(Error::machine(format!("read {}", self.jars.display())))?;
        let agent = jars.iter().find(|jar| {
            jar.file_name().is_some_and(|name| name.to_string_lossy().starts_with("jamm-"))
        });
        let agent = agent.map(|jar| format!("-javaagent:{}", jar.display()));
        let path: Vec<_> = jars.iter().map(|jar| jar.display().to_string()).collect();
        let directory = directory.display();
        let mut arguments: Vec<String> = FLAGS.map(str::to_owned).into();
        arguments.extend([
            format!("-Djava.io.tmpdir={directory}/data"),
            format!("-Dcassandra.config=file://{directory}/cassandra.yaml"),
            format!("-Dlogback.configurationFile={directory}/logback.xml"),
            format!("-Dcassandra.storagedir={directory}/data"),
            format!("-Dcassandra.logdir={directory}/data"),
            format!("-Dcassandra.native_transport_port={port}"),
            format!("-Dcassandra.storage_port={internode}"),
        ]);
        if self.settings.fast_schema {
            arguments.push("-Dcassandra.test.flush_local_schema_changes=false".to_owned());
        }
        arguments.extend(EXPORTS.map(|name| format!("--add-exports={name}=ALL-UNNAMED")));
        arguments.extend(OPENS.map(|name| format!("--add-opens={name}=ALL-UNNAMED")));
        arguments.extend(agent);
        arguments.extend(["-cp".to_owned(), path.join(":")]);
        arguments.push("org.apache.cassandra.service.CassandraDaemon".to_owned());
        Ok(arguments)
    }
}

/// The folder with Cassandra's jars, fetched with Maven unless it is there.
async fn jars(cache: &Cache, report: Report<'_>) -> Result<PathBuf, Error> {
    let name = format!("cassandra-{VERSION}");
    if let Some(folder) = cache.find(&name) {
        return Ok(folder);
    }
    let lock = cache.lock(report).await?;
    if let Some(folder) = cache.find(&name) {
        return Ok(folder);
    }
    if on_path("mvn").is_none() {
        apt_install(&["maven"], report).await.map_err(|error| Error::Unavailable {
            server: format!("Cassandra {VERSION}"),
            attempts: format!("  mvn: not on the path\n  apt: {}", error.chain()),
            hint: "install mvn, which can fetch it (as root: apt-get install maven)".to_owned(),
        })?;
    }
    report(&format!("fetching Cassandra {VERSION} with mvn (63 MB)…"));
    let work = cache.work(&lock)?;
    let pom = work.path.join("pom.xml");
    fs::write(&pom, include_str!("cassandra.pom.xml"))
        .map_err(Error::machine(format!("write {}", pom.display())))?;
    let folder = work.path.join("jars");
    let copy = || {
        let mut maven = Command::new("mvn");
        maven.args([
            "--quiet",
            "--batch-mode",
            "-Dstyle.color=never",
            &format!("{MAVEN_COPIER}:copy-dependencies"),
        ]);
        maven.args(["-DincludeScope=runtime", "--file"]).arg(&pom);
        maven.arg("-DexcludeClassifiers=osx-x86_64,osx-aarch_64,windows-x86_64");
        maven.arg(format!("-DoutputDirectory={}", folder.display()));
        maven
    };
    let mut copied = run(copy()).await;
    for _ in 1..MAVEN_ATTEMPTS {
        if let Err(error) = &copied {
            report(&format!("again, after: {}", error.chain()));
            copied = run(copy()).await;
        }
    }
    copied?;
    let found = sum_of_jars(&folder).await?;
    if found != JARS_SHA256 {
        let package = format!("the jars of Cassandra {VERSION}");
        return Err(Error::Checksum { package, pinned: JARS_SHA256.to_owned(), found });
    }
    work.keep(&folder, cache, &name)
}

/// The SHA-256 of the sorted lines `name sha256` of all jars in `folder`.
async fn sum_of_jars(folder: &Path) -> Result<String, Error> {
    let jars = jar_files(folder).map_err(Error::machine(format!("read {}", folder.display())))?;
    let mut sum = Sha256::new();
    for jar in jars {
        let name = jar.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let line = format!("{name} {}\n", sha256(jar).await?);
        sum.update(line.as_bytes());
    }
    Ok(hex(sum))
}

/// The jars in `folder`, sorted.
fn jar_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut jars = Vec::new();
    for entry in fs::read_dir(folder)? {
        jars.push(entry?.path());
    }
    jars.retain(|path| path.extension().is_some_and(|ending| ending == "jar"));
    jars.sort();
    Ok(jars)
}

/// Whether the native protocol is spoken at `port`: OPTIONS is answered with SUPPORTED.
fn answers(port: u16) -> bool {
    const OPTIONS: [u8; 9] = [4, 0, 0, 0, 5, 0, 0, 0, 0];
    const SUPPORTED: u8 = 6;
    let ask = || -> std::io::Result<u8> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIME)?;
        stream.set_read_timeout(Some(ANSWER_TIME))?;
        stream.write_all(&OPTIONS)?;
        let mut header = [0; 5];
        stream.read_exact(&mut header)?;
        Ok(header[4])
    };
    ask().is_ok_and(|kind| kind == SUPPORTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_sum_of_jars_depends_on_names_and_contents() {
        let directory = Directory::open(None, "jars-test").unwrap();
        fs::write(directory.path().join("b.jar"), "abc").unwrap();
        fs::write(directory.path().join("a.jar"), "").unwrap();
        fs::write(directory.path().join("notes"), "other").unwrap();
        let first = sum_of_jars(directory.path()).await.unwrap();
        fs::write(directory.path().join("notes"), "changed").unwrap();
        assert_eq!(sum_of_jars(directory.path()).await.unwrap(), first);
        fs::rename(directory.path().join("b.jar"), directory.path().join("c.jar")).unwrap();
        let renamed = sum_of_jars(directory.path()).await.unwrap();
        assert_ne!(renamed, first);
        fs::write(directory.path().join("c.jar"), "abd").unwrap();
        assert_ne!(sum_of_jars(directory.path()).await.unwrap(), renamed);
    }
}
