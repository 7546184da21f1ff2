//! Processes beside this one: started from the same program, and what the system says of them.

use std::{
    ffi::OsStr,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::Stdio,
    time::Duration,
};

use tokio::process::{Child, Command};

use crate::cli::Stop;

/// The unit of times in `/proc/PID/stat`: the same on every machine (proc(5), `USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// Descriptors that a process needs beside one for each client.
const DESCRIPTORS_BESIDE: u64 = 256;

/// A server in a process of its own; it ends when dropped.
pub(super) struct Server {
    /// Where it answers.
    pub(super) address: SocketAddr,
    id: u32,
    child: Child,
}

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It is told to, by SIGTERM.
    Told,
    /// It is not asked.
    Killed,
}

impl Server {
    /// Starts this program with these arguments; it is told, or knows, to listen on `address`.
    pub(super) fn start<S: AsRef<OsStr>>(
        address: SocketAddr,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Self, Stop> {
        let starting = |error| Stop::cannot(format!("start another kck: {error}"));
        let program = std::env::current_exe().map_err(starting)?;
        let mut command = Command::new(program);
        command.args(arguments).env("KCK_LOG", "error").stdin(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().map_err(starting)?;
        let id = child.id().ok_or_else(|| Stop::cannot("start another kck: it ended at once"))?;
        Ok(Self { address, id, child })
    }

    /// Returns when it has ended.
    pub(super) async fn end(&mut self, ending: Ending) -> Result<(), Stop> {
        let stopping = |error| Stop::cannot(format!("stop another kck: {error}"));
        match ending {
            Ending::Killed => self.child.kill().await.map_err(stopping),
            Ending::Told => {
                let id = self.id.to_string();
                Command::new("kill").args(["-TERM", &id]).status().await.map_err(stopping)?;
                self.child.wait().await.map(drop).map_err(stopping)
            }
        }
    }

    /// The processor time that it has taken so far.
    pub(super) fn cpu(&self) -> Result<Duration, Stop> {
        let text = self.file("stat")?;
        // The name in parentheses may have spaces; of what follows, these are the 12th and 13th (proc(5)).
        let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
        let ticks = fields.map(|fields| fields.skip(11).take(2).map(str::parse::<u32>));
        let ticks = ticks.and_then(|ticks| ticks.sum::<Result<u32, _>>().ok());
        ticks.map(|ticks| TICK * ticks).ok_or_else(|| self.unreadable("stat"))
    }

    /// The memory that it has, in bytes.
    pub(super) fn memory(&self) -> Result<u64, Stop> {
        memory(&self.id.to_string())
    }

    fn file(&self, name: &str) -> Result<String, Stop> {
        fs::read_to_string(format!("/proc/{}/{name}", self.id)).map_err(|_| self.unreadable(name))
    }

    fn unreadable(&self, name: &str) -> Stop {
        Stop::cannot(format!("read /proc/{}/{name}: the process is gone", self.id))
    }
}

/// The memory that a process has, in bytes; `self` is this one.
pub(super) fn memory(process: &str) -> Result<u64, Stop> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let kilobytes = text.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    let unreadable = || Stop::cannot(format!("read {path}: the process is gone"));
    kilobytes.map(|kilobytes| kilobytes * 1024).ok_or_else(unreadable)
}

/// What this program prints when it is given these arguments.
pub(super) async fn output<S: AsRef<OsStr>>(
    arguments: impl IntoIterator<Item = S>,
) -> Result<String, Stop> {
    let running = |error| Stop::cannot(format!("run another kck: {error}"));
    let program = std::env::current_exe().map_err(running)?;
    let output = Command::new(program).args(arguments).output().await.map_err(running)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Stop::cannot(String::from_utf8_lossy(&output.stderr).trim()))
}

/// An address that nobody listens on.
pub(super) fn free_address() -> Result<SocketAddr, Stop> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|open| open.local_addr());
    free.map_err(|error| Stop::cannot(format!("find a free port: {error}")))
}

/// Refuses where a process may not have as many connections open.
pub(super) fn allows_connections(clients: u64) -> Result<(), Stop> {
    let needed = clients + DESCRIPTORS_BESIDE;
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    // What is no number has no limit.
    match soft.and_then(|soft| soft.parse::<u64>().ok()) {
        Some(soft) if soft < needed => Err(Stop::cannot(format!(
            "{clients} clients need {needed} open files in each of two processes, and the limit is {soft}\n  hint: ulimit -n {needed}"
        ))),
        _ => Ok(()),
    }
}
