//! What the source did, by its own count: `pg_stat_statements`, by who asked and what for.

use std::time::Duration;

use crate::{
    cli::{
        Stop,
        demo::own::{self, Own, refused},
    },
    postgres::Client,
};

/// Statements and their time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    pub(super) calls: u64,
    pub(super) time: Duration,
}

impl Asked {
    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self { calls: self.calls + other.calls, time: self.time + other.time }
    }
}

/// What was asked since the last reset.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted {
    /// By kck: products' statements.
    pub(super) products: Asked,
    /// By kck: statements of the product with a `min_interval` that clients poll.
    pub(super) paced: Asked,
    /// By kck: which keys changed rows lead to.
    pub(super) lookups: Asked,
    /// By kck: all else.
    pub(super) housekeeping: Asked,
    /// By the application.
    pub(super) application: Asked,
    /// The application's reads alone.
    pub(super) reads: Asked,
}

const COUNTED: &str = include_str!("../../../../sql/bench/counted.sql");

/// Counts from now on.
pub(super) async fn reset(own: &Own) -> Result<(), Stop> {
    let client = own.connect("bench").await?;
    let reset = client.batch_execute("select pg_stat_statements_reset()").await;
    reset.map_err(failed)
}

/// What was asked since.
pub(super) async fn counted(own: &Own) -> Result<Counted, Stop> {
    let client = own.connect("bench").await?;
    let mut counted = Counted::default();
    for row in client.query(COUNTED, &[]).await.map_err(failed)? {
        let what: String = row.try_get(0).map_err(failed)?;
        let calls: i64 = row.try_get(1).map_err(failed)?;
        let ms: f64 = row.try_get(2).map_err(failed)?;
        let asked = Asked {
            calls: calls.try_into().unwrap_or(0),
            time: Duration::from_secs_f64(ms.max(0.0) / 1e3),
        };
        match what.as_str() {
            "products" => counted.products = asked,
            "paced" => counted.paced = asked,
            "lookups" => counted.lookups = asked,
            "housekeeping" => counted.housekeeping = asked,
            "reads" => counted.reads = asked,
            _ => counted.application = asked,
        }
    }
    Ok(counted)
}

/// The one value of a statement.
pub(super) async fn text(own: &Own, sql: &str) -> Result<String, Stop> {
    let client = own.connect("bench").await?;
    let row = client.query_one(sql, &[]).await;
    row.and_then(|row| row.try_get(0)).map_err(failed)
}

/// A connection as the application's: another role than kck's.
pub(super) async fn application(own: &Own) -> Result<Client, Stop> {
    let admin = own.connect("bench").await?;
    let (_, rest) = own.ground.url.split_once("://postgres:").unwrap_or_default();
    let (password, rest) = rest.split_once('@').unwrap_or_default();
    let word = format!("alter role application password '{password}'");
    admin.batch_execute(&word).await.map_err(failed)?;
    own::client(&format!("postgres://application:{password}@{rest}"), "application").await
}

pub(super) fn failed(error: impl std::error::Error) -> Stop {
    refused("ask the database", error)
}
