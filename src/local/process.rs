//! A command → a running server that ends when this process does.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    Error,
    account::Account,
    directory::{Directory, Log},
};

/// How often a server is asked whether it is ready, or gone.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How long a server may take to end in order before it is made to.
const STOP_TIME: Duration = Duration::from_secs(30);

/// What to run, and how it ends.
pub(super) struct Launch<'a> {
    /// For messages.
    pub(super) server: &'a str,
    pub(super) program: &'a Path,
    pub(super) arguments: Vec<String>,
    /// The signal it gets when our pipe closes; SIGKILL follows after ten seconds.
    pub(super) last_signal: &'static str,
    pub(super) ready_within: Duration,
}

/// A running server, under a shell that ends it when the pipe to us closes.
#[derive(Debug)]
pub(super) struct Process {
    /// Its standard input is the pipe; waiting for it closes the pipe.
    keeper: Child,
    server: u32,
}

impl Process {
    /// Starts a server in `directory` and waits until `ready`, given its process id, says so.
    pub(super) async fn start(
        launch: Launch<'_>,
        account: &Account,
        directory: &Directory,
        log: &Log,
        ready: impl Fn(u32) -> bool,
    ) -> Result<Process, Error> {
        let mut process = Process::spawn(&launch, account, directory, log)?;
        let deadline = Instant::now() + launch.ready_within;
        let why = loop {
            if process.has_ended() {
                break "it ended before it was ready".to_owned();
            }
            if ready(process.server) {
                return Ok(process);
            }
            if deadline < Instant::now() {
                break format!("it was not ready within {} s", launch.ready_within.as_secs());
            }
            sleep(ASK_EVERY).await;
        };
        Err(Error::Start { server: launch.server.to_owned(), why, log: log.excerpt() })
    }

    fn spawn(
        launch: &Launch<'_>,
        account: &Account,
        directory: &Directory,
        log: &Log,
    ) -> Result<Process, Error> {
        let doing = || {
            format!(
                "run {} in {} as {}",
                launch.program.display(),
                directory.path().display(),
                account.name()
            )
        };
        // what is temporary goes with whoever started the server, also when that is killed
        let left_over = if directory.is_temporary() { directory.path() } else { Path::new("") };
        if directory.is_temporary() {
            account.give(directory.path())?;
        }
        let mut keeper = account
            .command(Path::new("/bin/sh"), directory.path())
            .args(["-c", include_str!("keeper.sh"), "kck-keeper", launch.last_signal])
            .arg(left_over)
            .arg(launch.program)
            .args(&launch.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.writer()?)
            // a Ctrl-C in the terminal is for us; the server must not go before us
            .process_group(0)
            .spawn()
            .map_err(Error::machine(doing()))?;
        // the shell says the server's id as its first act, so this does not wait for the server
        let mut line = String::new();
        if let Some(said) = keeper.stdout.take() {
            BufReader::new(said).read_line(&mut line).map_err(Error::machine(doing()))?;
        }
        let server = line.trim().parse().map_err(|_| Error::Program {
            command: "/bin/sh".to_owned(),
            output: format!("'{}' where the server's process id was expected", line.trim()),
        })?;
        Ok(Process { keeper, server })
    }

    /// The server's process id.
    pub(super) fn id(&self) -> u32 {
        self.server
    }

    /// Sends `signal` and waits until the server is gone; one that stays too long is killed.
    pub(super) async fn end(mut self, signal: &str) -> Result<(), Error> {
        if let Some(pipe) = self.keeper.stdin.as_mut() {
            match writeln!(pipe, "{signal}") {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    return Err(Error::machine(format!("send SIG{signal} to {}", self.server))(
                        error,
                    ));
                }
                // a broken pipe: the keeper has gone with its server
                _ => {}
            }
        }
        let deadline = Instant::now() + STOP_TIME;
        while !self.has_ended() && Instant::now() < deadline {
            sleep(ASK_EVERY).await;
        }
        Ok(())
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.keeper.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.keeper.wait() {
            tracing::warn!("wait for the end of process {}: {error}", self.server);
        }
    }
}

/// Runs a program to its end as `account`, in `directory`, and gives what it wrote.
pub(super) async fn output(
    account: &Account,
    program: &Path,
    arguments: &[&str],
    directory: &Path,
) -> Result<String, Error> {
    let mut command = account.command(program, directory);
    command.args(arguments);
    run(command).await
}

/// Runs a command to its end and gives what it wrote; a status other than 0 is an error.
pub(super) async fn run(command: std::process::Command) -> Result<String, Error> {
    /// No client of a package registry and no first start takes as long.
    const TIME: Duration = Duration::from_mins(15);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let words = words.join(" ");
    let mut command = tokio::process::Command::from(command);
    let finished = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let finished = tokio::time::timeout(TIME, finished)
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
        .map_err(Error::machine(format!("run {words}")))?;
    let mut written = String::from_utf8_lossy(&finished.stdout).into_owned();
    written.push_str(&String::from_utf8_lossy(&finished.stderr));
    if finished.status.success() {
        return Ok(written);
    }
    let output = format!("{}\n{}", finished.status, super::excerpt(&written));
    Err(Error::Program { command: words, output })
}
