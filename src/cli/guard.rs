//! `kck guard`: runs a program for as long as standard input is open, and leaves nothing of it behind.
//!
//! kck starts programs under it, never people. It passes on what comes on standard input. When that ends, however
//! kck ended, the program is told to end too, and after a while it is killed: with all that it started, since whoever
//! loses its parent becomes a child of this process, also in a session of its own.

use std::{
    collections::HashMap,
    ffi::OsString,
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, ChildStdin, Command, ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use clap::Args;
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper,
    waitpid,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::{interval, sleep, timeout},
};

use super::complain;

/// From the end of its input until a program is killed.
const GRACE: Duration = Duration::from_secs(5);
/// Between two looks at who is left.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Looks at who is left, at most: who cannot be killed waits for the machine, not for kck.
const LOOKS_MAX: usize = 1000;
/// Between two looks at who has ended and was left behind.
const REAP_EVERY: Duration = Duration::from_secs(2);

/// Run a program until standard input ends.
#[derive(Debug, Args)]
pub(super) struct Guard {
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Guard {
    /// Ends as the program does.
    pub(super) fn main(self) -> ExitCode {
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(self.run()),
            Err(error) => {
                complain(&format!("start the runtime: {error}"));
                ExitCode::from(3)
            }
        }
    }

    async fn run(self) -> ExitCode {
        if let Err(error) = set_child_subreaper(Some(getpid())) {
            complain(&format!("become the parent of what loses its own: {error}"));
            return ExitCode::from(3);
        }
        let Ok(mut told) = signal(SignalKind::terminate()) else { return ExitCode::from(3) };
        let mut words = self.command.into_iter();
        let program = words.next().unwrap_or_default();
        // A group of its own: a signal to all of it does not reach this process.
        let started =
            Command::new(&program).args(words).stdin(Stdio::piped()).process_group(0).spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) => {
                complain(&format!("start {}: {error}", program.to_string_lossy()));
                return ExitCode::from(127);
            }
        };
        let own = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let input = fed(child.stdin.take());
        let mut ended = ended(child);
        let mut reap = interval(REAP_EVERY);
        let mut input = input;
        let status = loop {
            tokio::select! {
                status = &mut ended => break status.ok(),
                _ = &mut input => {
                    if let Some(own) = own {
                        let _ended_by_itself = kill_process_group(own, Signal::TERM);
                    }
                    break tokio::select! {
                        status = timeout(GRACE, &mut ended) => status.ok().and_then(Result::ok),
                        _ = told.recv() => None,
                    };
                }
                _ = told.recv() => break None,
                _ = reap.tick() => gather(own),
            }
        };
        end_all(own).await;
        match status {
            Some(status) => code(status),
            None => ExitCode::from(137),
        }
    }
}

/// As a shell would say it.
fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(u8::try_from(code.unwrap_or(1)).unwrap_or(1))
}

/// Passes standard input on; says when either end is closed.
fn fed(input: Option<ChildStdin>) -> oneshot::Receiver<()> {
    let (done, end) = oneshot::channel();
    std::thread::spawn(move || {
        if let Some(mut input) = input {
            // Which end was closed does not matter: there is nothing more to say to it.
            drop(io::copy(&mut io::stdin().lock(), &mut input));
        }
        let _nobody_asks = done.send(());
    });
    end
}

/// Says how it ended.
fn ended(mut child: Child) -> oneshot::Receiver<ExitStatus> {
    let (done, end) = oneshot::channel();
    std::thread::spawn(move || {
        if let Ok(status) = child.wait() {
            let _nobody_asks = done.send(status);
        }
    });
    end
}

/// Kills until nobody is left.
async fn end_all(own: Option<Pid>) {
    for _ in 0..LOOKS_MAX {
        gather(own);
        let left = left();
        if left.is_empty() {
            return;
        }
        for process in left {
            let _gone_meanwhile = kill_process(process, Signal::KILL);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// A process as `/proc` shows it.
struct Seen {
    process: Pid,
    parent: i32,
    /// It has ended and waits to be asked how.
    ended: bool,
}

fn all() -> Vec<Seen> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let seen = |entry: std::fs::DirEntry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name in parentheses may hold anything.
        let mut fields = stat.rsplit(')').next()?.split_whitespace();
        let ended = matches!(fields.next()?, "Z" | "X");
        Some(Seen { process: Pid::from_raw(number)?, parent: fields.next()?.parse().ok()?, ended })
    };
    entries.flatten().filter_map(seen).collect()
}

/// Every living descendant of this process.
fn left() -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<Seen>> = HashMap::new();
    for seen in all() {
        children.entry(seen.parent).or_default().push(seen);
    }
    let (mut found, mut parents) = (Vec::new(), vec![getpid().as_raw_pid()]);
    while let Some(parent) = parents.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            parents.push(child.process.as_raw_pid());
            if !child.ended {
                found.push(child.process);
            }
        }
    }
    found
}

/// Takes note of those that have ended and whose parents had gone. The program itself is waited for elsewhere.
fn gather(own: Option<Pid>) {
    let me = getpid().as_raw_pid();
    let orphans = all().into_iter().filter(|seen| seen.parent == me && seen.ended);
    for orphan in orphans.filter(|seen| Some(seen.process) != own) {
        let _gathered_before = waitpid(Some(orphan.process), WaitOptions::NOHANG);
    }
}
