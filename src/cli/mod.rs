//! Command line → one command; one file a command. Exit codes: 0 fine, 1 the answer is no, 2 usage, 3 cannot run.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{config::Config, parts::Failure};

mod bench;
mod change;
mod check;
mod client;
mod demo;
mod doctor;
mod dump;
mod explain;
mod fetch;
mod guard;
mod import;
mod process;
mod run;
mod status;
mod subscribe;
mod teardown;
mod token;

/// SQL files over an existing Postgres become HTTP endpoints, served from a cache that the database's own change
/// stream keeps right.
#[derive(Debug, Parser)]
#[command(name = "kck", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the products of this folder.
    #[command(after_help = "Example: kck run --config shop/kck.toml")]
    Run(run::Run),
    /// Check the product files, and what the source says of them.
    #[command(after_help = "Example: kck check --files-only")]
    Check(check::Check),
    /// Check source, rights, slot, publication, tables, products and store: what is wrong, and what to type.
    #[command(after_help = "Example: kck doctor --fix")]
    Doctor(doctor::Doctor),
    /// Show how a product follows its tables, what that costs, and what would make it finer.
    #[command(after_help = "Example: kck explain orders_of --json")]
    Explain(explain::Explain),
    /// Fetch an answer from a running kck.
    #[command(after_help = "Example: kck fetch orders_of/42 --min-lsn 0/16B3748")]
    Fetch(fetch::Fetch),
    /// Print the values of keys as they change.
    #[command(after_help = "Example: kck subscribe orders_of/42 orders_of/43 --values 10")]
    Subscribe(subscribe::Subscribe),
    /// Take the files of a KCK 0.6 project over.
    #[command(after_help = "Example: kck import ../shop --to . --dry-run")]
    Import(import::Import),
    /// Write every tracked key's answer of a running kck into a file, as the original did.
    #[command(after_help = "Example: kck dump answers.csv")]
    Dump(dump::Dump),
    /// Have a running kck follow and compute the keys of a dump.
    #[command(after_help = "Example: kck load answers.csv --compare")]
    Load(dump::load::Load),
    /// Run an update of a running kck.
    #[command(after_help = "Example: kck update set_state id=7 state=paid")]
    Update(change::Update),
    /// Have a running kck compute keys now.
    #[command(after_help = "Example: kck refresh orders_of")]
    Refresh(change::Refresh),
    /// Have a running kck forget keys.
    #[command(after_help = "Example: kck purge orders_of/42")]
    Purge(change::Purge),
    /// List the processes of a running kck, or run one.
    #[command(alias = "processes", after_help = "Example: kck process run nightly")]
    Process(process::Process),
    /// Show how a running kck is.
    #[command(after_help = "Example: kck status --server 127.0.0.1:8080")]
    Status(status::Status),
    /// Print a token that this kck takes, signed with the key of its settings.
    #[command(
        after_help = "Example: kck token --sub 42 --scope \"orders:read kck:admin\" --ttl 1h"
    )]
    Token(token::Token),
    /// Remove what kck made in the source: its slot and its publication.
    #[command(after_help = "Example: kck teardown --yes")]
    Teardown(teardown::Teardown),
    /// A shop with live traffic and everything it needs, to look at.
    #[command(after_help = "Example: kck demo")]
    Demo(demo::Demo),
    /// Run a program until standard input ends, and leave nothing of it behind: for kck itself.
    #[command(hide = true)]
    Guard(guard::Guard),
    /// Measure on a Postgres of kck's own.
    #[command(after_help = "Example: kck bench flow")]
    Bench(bench::Bench),
}

/// Where the settings are.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The settings; without the option ./kck.toml, and defaults where that does not exist.
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    fn load(&self) -> Result<Config, Stop> {
        let path = self.config.clone().unwrap_or_else(|| PathBuf::from("kck.toml"));
        Config::load(&path, self.config.is_some(), &environment())
            .map_err(|bad| Stop::usage(bad.to_string()))
    }
}

/// Why a command ends with another code than 0.
#[derive(Debug)]
struct Stop {
    code: u8,
    text: String,
}

impl Stop {
    /// The answer is no; it was printed already.
    fn no() -> Self {
        Self { code: 1, text: String::new() }
    }

    fn usage(text: impl Into<String>) -> Self {
        Self { code: 2, text: text.into() }
    }

    fn cannot(text: impl Into<String>) -> Self {
        Self { code: 3, text: text.into() }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::cannot(failure.to_string())
    }
}

/// Parses the command line, runs the command, says why it failed.
#[must_use]
pub fn main() -> ExitCode {
    let command = match Cli::parse().command {
        Command::Guard(guard) => return guard.main(),
        command => command,
    };
    log_to_stderr(&command);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("start the runtime: {error}"));
            return ExitCode::from(3);
        }
    };
    let ended = runtime.block_on(async {
        match command {
            Command::Run(run) => run.run().await,
            Command::Check(check) => check.run().await,
            Command::Doctor(doctor) => doctor.run().await,
            Command::Explain(explain) => explain.run().await,
            Command::Fetch(fetch) => fetch.run().await,
            Command::Subscribe(subscribe) => subscribe.run().await,
            Command::Import(import) => import.run(),
            Command::Dump(dump) => dump.run().await,
            Command::Load(load) => load.run().await,
            Command::Update(update) => update.run().await,
            Command::Refresh(refresh) => refresh.run().await,
            Command::Purge(purge) => purge.run().await,
            Command::Process(process) => process.run().await,
            Command::Status(status) => status.run().await,
            Command::Token(token) => token.run().await,
            Command::Teardown(teardown) => teardown.run().await,
            Command::Demo(demo) => demo.run().await,
            Command::Bench(bench) => bench.run().await,
            // It was taken above, before a runtime of this size.
            Command::Guard(_) => Ok(()),
        }
    });
    // A task that hangs must not keep the process: everything that had to be done was waited for.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop { code, text }) => {
            if !text.is_empty() {
                complain(&text);
            }
            ExitCode::from(code)
        }
    }
}

/// `KCK_LOG` as in `info` or `kck=debug`; commands that print their own story say only what is wrong.
fn log_to_stderr(command: &Command) {
    let quiet = if matches!(command, Command::Run(_)) { "info" } else { "error" };
    let asked =
        environment().into_iter().find(|(name, _)| name == "KCK_LOG").map(|(_, value)| value);
    let filter = tracing_subscriber::EnvFilter::new(asked.as_deref().unwrap_or(quiet));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
}

/// Everything the environment says, read once; what is not UTF-8 is no setting.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// One line for people, where answers go.
fn say(text: &str) {
    // Nobody reads any more: there is nobody to tell.
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// One line for people, where complaints go.
fn complain(text: &str) {
    drop(writeln!(std::io::stderr(), "kck: {text}"));
}

/// Returns at Ctrl-C or SIGTERM.
async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
