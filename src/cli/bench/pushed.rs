//! `kck bench flow --push`: from the return of COMMIT to the event with its value, beside the bare query.

use std::{
    io,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use super::{
    events::{self, Events},
    flow::{UPDATE, failed, has, line},
};
use crate::{
    cli::{
        Stop,
        demo::{
            latency::{self, Latencies, Spread},
            own::Own,
            reader::Reader,
        },
        say,
    },
    postgres::{Client, Statement},
    stage::{Stage, Taken},
};

/// The watched key's customer, and its orders: every thousandth.
const WATCHED: i64 = 1;
const ORDERS_WATCHED: [i64; 10] = [1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 10_000];
/// Connections that write beside the watched key.
const WRITERS: u32 = 8;
/// Whoever has not got an event by then gets none.
const EVENT_WITHIN: Duration = Duration::from_secs(30);

/// What is measured.
pub(super) struct Pushed {
    pub(super) commits: NonZeroU32,
    /// Commits a second to other keys meanwhile.
    pub(super) rate: Option<NonZeroU32>,
}

impl Pushed {
    /// Measures with this statement for the bare query.
    pub(super) async fn measure(&self, own: &Own, bare: &str) -> Result<(), Stop> {
        let client = own.connect("bench").await?;
        let query = client.prepare(bare).await.map_err(failed)?;
        let update = client.prepare(UPDATE).await.map_err(failed)?;
        let key = format!("orders_of/{WATCHED}");
        let mut events = Events::open(own.address, &key).await.map_err(away)?;
        events.next_with(b"event: value").await.map_err(away)?;
        let beside = Arc::new(AtomicU64::new(0));
        let mut writers = JoinSet::new();
        if let Some(rate) = self.rate {
            track_all(own).await?;
            for writer in 0..WRITERS {
                let client = own.connect("bench").await?;
                let statement = client.prepare(UPDATE).await.map_err(failed)?;
                let every = Duration::from_secs(1) * WRITERS / rate.get();
                writers.spawn(write(client, statement, every, (writer, Arc::clone(&beside))));
            }
        }
        say(&format!("\nmeasuring {} commits with a subscriber…", self.commits));
        let start = Instant::now();
        let (bare, pushed) = (Latencies::default(), Latencies::default());
        let mut sides = Sides { client, query, update, events, bare, pushed };
        for (_, order) in (0..self.commits.get()).zip(ORDERS_WATCHED.into_iter().cycle()) {
            sides.round(order).await?;
        }
        let took = start.elapsed();
        writers.abort_all();
        let others = beside.load(Ordering::Relaxed);
        say(&format!(
            "\n{} commits to the watched key, one at a time; {:.0} a second to other keys meanwhile\n",
            self.commits,
            f64::from(u32::try_from(others).unwrap_or(u32::MAX)) / took.as_secs_f64(),
        ));
        sides.print();
        stages(own);
        Ok(())
    }
}

/// Both sides of the comparison, in turns.
struct Sides {
    client: Client,
    query: Statement,
    update: Statement,
    events: Events,
    bare: Latencies,
    pushed: Latencies,
}

impl Sides {
    async fn round(&mut self, order: i64) -> Result<(), Stop> {
        let start = Instant::now();
        self.client.query(&self.query, &[&WATCHED]).await.map_err(failed)?;
        self.bare.push(start, start.elapsed());

        let updated = self.client.query_one(&self.update, &[&order]).await.map_err(failed)?;
        let committed = Instant::now();
        let total: i64 = updated.try_get(0).map_err(failed)?;
        let arrived = async {
            loop {
                let (event, at) = self.events.next_with(b"event: value").await.map_err(away)?;
                if events::answer(&event).is_some_and(|answer| has(&answer, order, total)) {
                    return Ok::<_, Stop>(at);
                }
            }
        };
        let arrived = tokio::time::timeout(EVENT_WITHIN, arrived).await;
        let at = arrived.map_err(|_| {
            Stop::cannot(format!("no event told that order {order} has the total {total}"))
        })??;
        self.pushed.push(committed, at.saturating_duration_since(committed));
        Ok(())
    }

    fn print(&mut self) {
        let (Some(bare), Some(pushed)) = (self.bare.since(None), self.pushed.since(None)) else {
            return;
        };
        say(&format!("{:<28}{:>12}{:>12}{:>12}", "", "p50", "p99", "max"));
        for (name, spread) in [("bare query", &bare), ("commit → event", &pushed)] {
            let Spread { p50, p99, max } = *spread;
            say(&line(name, [p50, p99, max].map(latency::shown)));
        }
        let pairs = [(pushed.p50, bare.p50), (pushed.p99, bare.p99), (pushed.max, bare.max)];
        let pairs = pairs.map(|(pushed, bare)| latency::difference(pushed, bare));
        say(&line("event − bare", pairs));
    }
}

/// Where time went since kck started, the way over HTTP included.
fn stages(own: &Own) {
    say(&format!("\n{:<28}{:>12}{:>12}{:>12}{:>12}", "stage", "times", "mean", "p50 ≤", "p99 ≤"));
    for stage in Stage::ALL {
        let taken = own.context.observer.stages().taken(stage);
        let Some(Taken { count, mean, p50, p99 }) = taken else { continue };
        let [mean, p50, p99] = [mean, p50, p99].map(latency::shown);
        say(&format!("{:<28}{count:>12}{mean:>12}{p50:>12}{p99:>12}", stage.name()));
    }
}

/// Has every key's answer kept, so that each commit touches one that is.
async fn track_all(own: &Own) -> Result<(), Stop> {
    let mut reader = Reader::connect(own.address).await?;
    for customer in 1..=super::flow::CUSTOMERS {
        reader.get(&format!("/fetch/orders_of/{customer}")).await?;
    }
    Ok(())
}

/// Commits to other keys, one every so often, and says how many.
async fn write(
    client: Client,
    update: Statement,
    every: Duration,
    (writer, count): (u32, Arc<AtomicU64>),
) {
    let mut beat = tokio::time::interval(every);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let orders = (1..=super::flow::ORDERS).filter(|order| !ORDERS_WATCHED.contains(order));
    for order in orders.cycle().skip(writer as usize * 1237) {
        beat.tick().await;
        if client.query_one(&update, &[&order]).await.is_err() {
            return;
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn away(error: io::Error) -> Stop {
    Stop::cannot(format!("follow a key: {error}"))
}
