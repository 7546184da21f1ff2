//! `kck bench capture`: how fast a backlog is captured and matched, beside `pg_recvlogical` on the same log.

use std::{num::NonZeroU32, time::Duration};

use clap::{Args, ValueEnum};
use tokio::time::Instant;

use super::side::Side;
use crate::{
    change::Lsn,
    cli::{Stop, demo::latency, say},
};

/// What is written before it is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backlog {
    /// Commits of one row.
    One,
    /// One commit of very many.
    Bulk,
    /// What pgbench writes by itself.
    Tpcb,
    /// Commits of ten rows.
    Multi,
}

impl Backlog {
    fn title(self) -> &'static str {
        match self {
            Self::One => "one-row commits",
            Self::Bulk => "one big commit",
            Self::Tpcb => "TPC-B of pgbench",
            Self::Multi => "ten-row commits",
        }
    }
}

/// Capture and match a backlog, beside pg_recvlogical on the same log.
#[derive(Debug, Args)]
pub(super) struct Capture {
    /// The server's major version; without it the newest installed.
    #[arg(long, value_name = "MAJOR")]
    postgres: Option<u16>,
    /// Commits of one row; the other workloads are sized alike.
    #[arg(long, value_name = "N", default_value = "200000")]
    commits: NonZeroU32,
    /// This backlog alone.
    #[arg(long, value_enum)]
    backlog: Option<Backlog>,
    /// How often each backlog is drained by each side, in turns.
    #[arg(long, value_name = "N", default_value = "3")]
    runs: NonZeroU32,
}

impl Capture {
    pub(super) async fn run(self) -> Result<(), Stop> {
        Side::during(self.postgres, false, async |side| self.measure(side).await).await
    }

    async fn measure(&self, side: &Side) -> Result<(), Stop> {
        say(&format!(
            "PostgreSQL {} · {} runs each, in turns · best of them\n",
            side.version().await?,
            self.runs
        ));
        say(&format!(
            "{:<20}{:>10}{:>12}{:>16}{:>12}{:>10}",
            "backlog", "WAL", "changes", "pg_recvlogical", "kck", "ratio"
        ));
        let wanted = |backlog: &&Backlog| self.backlog.is_none_or(|only| only == **backlog);
        for backlog in Backlog::value_variants().iter().filter(wanted) {
            self.drain(side, *backlog).await?;
        }
        say(
            "\nratio: pg_recvlogical's time ÷ kck's; kck's ends when marks are durable and V has passed the backlog",
        );
        Ok(())
    }

    /// Loads a backlog in front of as many slots as there are runs, and drains each with both sides.
    async fn drain(&self, side: &Side, backlog: Backlog) -> Result<(), Stop> {
        let mut kcks = Vec::new();
        for run in 0..self.runs.get() {
            kcks.push(side.kck(&format!("kck_{backlog:?}_{run}").to_lowercase()).await?);
        }
        let begin = side.position().await?;
        let changes = self.load(side, backlog).await?;
        let end = side.position().await?;
        // A commit behind the end, so that nobody waits for a keepalive.
        side.run("insert into marker default values").await?;
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for kck in &kcks {
            theirs.push(drained(side, &kck.name, end).await?);
            ours.push(kck.drains(end).await?);
            side.remove(&kck.name).await?;
        }
        let best = |times: &[Duration]| times.iter().min().copied().unwrap_or_default();
        let (theirs, ours) = (best(&theirs), best(&ours));
        say(&format!(
            "{:<20}{:>10}{changes:>12}{:>16}{:>12}{:>10.2}",
            backlog.title(),
            format!("{} MB", (end.0 - begin.0) >> 20),
            latency::shown(theirs),
            latency::shown(ours),
            theirs.as_secs_f64() / ours.as_secs_f64(),
        ));
        Ok(())
    }

    /// Writes a backlog; gives how many changes the stream will have.
    async fn load(&self, side: &Side, backlog: Backlog) -> Result<u64, Stop> {
        const CLIENTS: u32 = 4;
        let commits = self.commits.get();
        let each = (commits / CLIENTS).max(1);
        let pgbench = async |name: &str, text: Option<&str>, each: u32| {
            let each = each.to_string();
            let clients = CLIENTS.to_string();
            let mut arguments = vec!["-n", "-c", &clients, "-j", "2", "-t", &each];
            let script = text.map(|text| side.script(&format!("{name}.sql"), text)).transpose()?;
            let script = script.map(|path| path.display().to_string());
            if let Some(script) = &script {
                arguments.extend(["-f", script]);
            }
            side.pgbench(&arguments).await
        };
        match backlog {
            Backlog::One => {
                pgbench("one", Some(include_str!("../../../sql/bench/one.sql")), each).await?;
                Ok(u64::from(each * CLIENTS))
            }
            Backlog::Multi => {
                let each = (each / 10).max(1);
                pgbench("multi", Some(include_str!("../../../sql/bench/multi.sql")), each).await?;
                Ok(u64::from(each * CLIENTS) * 10)
            }
            Backlog::Tpcb => {
                let each = (each / 3).max(1);
                pgbench("tpcb", None, each).await?;
                Ok(u64::from(each * CLIENTS) * 3)
            }
            Backlog::Bulk => {
                let rows = u64::from(commits) * 5;
                let sql = include_str!("../../../sql/bench/bulk.sql");
                side.run(&sql.replace("1000000", &rows.to_string())).await?;
                Ok(rows)
            }
        }
    }
}

/// How long `pg_recvlogical` takes, on a copy of the slot.
async fn drained(side: &Side, slot: &str, end: Lsn) -> Result<Duration, Stop> {
    let copy = format!("{slot}_copy");
    side.run(&format!("select pg_copy_logical_replication_slot('{slot}', '{copy}')")).await?;
    let start = Instant::now();
    let ended = side.recvlogical(&copy, slot, Some(end)).await?.wait().await;
    let took = start.elapsed();
    let ended = ended.map_err(|error| Stop::cannot(format!("wait for pg_recvlogical: {error}")))?;
    if !ended.success() {
        return Err(Stop::cannot(format!("pg_recvlogical ended with {ended}")));
    }
    side.remove(&copy).await?;
    Ok(took)
}
