//! The clock → commits of a small shop, each with a key that it touches and its position.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::own::{POSITION, refused};
use crate::{
    cli::Stop,
    postgres::{Client, Statement},
};

/// What the shop does, over and over; each returns a key that it touches, or nothing where there is nothing to do.
const STEPS: &[&str] =
    &[PLACE, PAY, PLACE, MOVE, SHIP, PLACE, PAY, SHIP, CHANGE_PRICE, PLACE, CANCEL];

const PLACE: &str = include_str!("../../../sql/demo/traffic/place_order.sql");
const PAY: &str = include_str!("../../../sql/demo/traffic/pay_order.sql");
const SHIP: &str = include_str!("../../../sql/demo/traffic/ship_order.sql");
const CANCEL: &str = include_str!("../../../sql/demo/traffic/cancel_order.sql");
const MOVE: &str = include_str!("../../../sql/demo/traffic/move_stock.sql");
const CHANGE_PRICE: &str = include_str!("../../../sql/demo/traffic/change_price.sql");

const PACE: Duration = Duration::from_millis(75);

/// The shop's own connection.
pub(super) struct Traffic {
    client: Client,
    position: Statement,
    steps: std::iter::Cycle<std::vec::IntoIter<Statement>>,
}

/// What one commit did.
pub(super) struct Commit {
    /// A key that it touches.
    pub(super) key: String,
    /// A position that it is not above.
    pub(super) position: String,
    /// When it had returned.
    pub(super) at: Instant,
}

impl Traffic {
    pub(super) async fn prepare(client: Client) -> Result<Self, Stop> {
        let position = client.prepare(POSITION).await.map_err(failed)?;
        let mut steps = Vec::new();
        for step in STEPS {
            steps.push(client.prepare(step).await.map_err(failed)?);
        }
        Ok(Self { client, position, steps: steps.into_iter().cycle() })
    }

    /// Commits at a steady pace, for ever.
    pub(super) async fn run(&mut self, mut committed: impl FnMut(Commit)) -> Result<(), Stop> {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            if let Some(commit) = self.step().await? {
                committed(commit);
            }
        }
    }

    /// One commit, where there was something to do.
    pub(super) async fn step(&mut self) -> Result<Option<Commit>, Stop> {
        let Some(step) = self.steps.next() else { return Ok(None) };
        let row = self.client.query_opt(&step, &[]).await.map_err(failed)?;
        let at = Instant::now();
        let key: Option<String> =
            row.map(|row| row.try_get(0)).transpose().map_err(failed)?.flatten();
        let Some(key) = key else { return Ok(None) };
        let position = self.client.query_one(&self.position, &[]).await.map_err(failed)?;
        Ok(Some(Commit { key, position: position.try_get(0).map_err(failed)?, at }))
    }
}

fn failed(error: impl std::error::Error) -> Stop {
    refused("trade in the shop", error)
}
