//! `kck bench refresh`: what refreshing asks of the source, and how fast stale keys become fresh.
//!
//! kck runs in this process, so that its counters and its ledger can be looked at. What the source did it says itself
//! (`pg_stat_statements`): kck and the application are two roles there.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    time::Duration,
};

use clap::{Args, ValueEnum};

use crate::cli::{
    Stop,
    demo::own::{Own, Setup},
    say, told_to_stop,
};

mod bursts;
mod engine;
mod pressure;
mod quiet;
mod slow;
mod source;

const SCHEMA: &str = include_str!("../../../../sql/bench/refresh_schema.sql");
const PRODUCTS: &[(&str, &str)] = &[
    ("order_of.sql", include_str!("../../../../sql/bench/order_of.sql")),
    ("orders_of.sql", include_str!("../../../../sql/bench/orders_of.sql")),
    ("orders_paced.sql", include_str!("../../../../sql/bench/orders_paced.sql")),
    ("orders_in.sql", include_str!("../../../../sql/bench/orders_in.sql")),
    ("hot_now.sql", include_str!("../../../../sql/bench/hot_now.sql")),
    ("hot_paced.sql", include_str!("../../../../sql/bench/hot_paced.sql")),
];
/// As in the schema.
const ORDERS: i64 = 10_000;
const CUSTOMERS: i64 = 1_000;
const REGIONS: i64 = 10;
/// Readers here are many, and of one address.
const LIMITS: &str =
    "limits = { connections = 4096, connections_per_address = 4096, misses = 1000000 }\n";

/// What refreshing asks of the source, and how fast stale keys become fresh.
#[derive(Debug, Args)]
pub(super) struct Refresh {
    /// What is measured; all if nothing is said.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// How long clients poll; the other parts take a part of it.
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    seconds: NonZeroU32,
    /// How many turns each side has, where they take turns.
    #[arg(long, value_name = "N", default_value = "5")]
    rounds: NonZeroU32,
}

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// What the source is asked while nothing matches, and while much does.
    Quiet,
    /// A thousand stale keys as batches and one by one.
    Batches,
    /// One row that is written very often.
    Hot,
    /// Ten thousand watched keys that one commit touches.
    Burst,
    /// A product that takes two seconds, with the budget and without.
    Slow,
    /// A thousand polling clients, on the source and on kck.
    Pressure,
}

impl Refresh {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let all = [Part::Quiet, Part::Batches, Part::Hot, Part::Burst, Part::Pressure, Part::Slow];
        let parts = if self.parts.is_empty() { all.to_vec() } else { self.parts.clone() };
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        if parts.iter().any(|part| *part != Part::Slow) {
            during(SCHEMA, PRODUCTS, LIMITS, async |own| {
                let version = source::text(own, "show server_version").await?;
                say(&format!("\n{cores} cores · PostgreSQL {version} · store memory"));
                for part in parts.iter().filter(|part| **part != Part::Slow) {
                    Box::pin(self.part(own, *part)).await?;
                }
                Ok(())
            })
            .await?;
        }
        if parts.contains(&Part::Slow) {
            Box::pin(slow::measure(self.part_of(0.5))).await?;
        }
        Ok(())
    }

    async fn part(&self, own: &Own, part: Part) -> Result<(), Stop> {
        match part {
            Part::Quiet => quiet::measure(own, self.part_of(0.2)).await,
            Part::Batches => engine::measure(own, self.rounds.get()).await,
            Part::Hot => bursts::hot(own, self.part_of(0.1)).await,
            Part::Burst => bursts::burst(own).await,
            Part::Pressure => pressure::measure(own, self.part_of(1.0)).await,
            Part::Slow => Ok(()),
        }
    }

    fn part_of(&self, part: f64) -> Duration {
        Duration::from_secs(self.seconds.get().into()).mul_f64(part).max(Duration::from_secs(2))
    }
}

/// Measures on a Postgres and a kck that are started for it and stopped after it.
async fn during(
    schema: &str,
    products: &[(&str, &str)],
    more: &str,
    measure: impl AsyncFnOnce(&Own) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let setup = Setup {
        name: "bench",
        schema,
        products,
        store: "kind = 'memory'",
        more,
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        statements: true,
    };
    let mut told = std::pin::pin!(told_to_stop());
    let interrupted = || Stop::cannot("told to stop before the end");
    let own = tokio::select! {
        own = Box::pin(Own::start(setup)) => own?,
        () = &mut told => return Err(interrupted()),
    };
    let ended = tokio::select! {
        ended = measure(&own) => ended,
        () = own.ended() => Ok(()),
        () = &mut told => Err(interrupted()),
    };
    own.stop().await?;
    ended
}
