//! `kck bench push`: very many subscribers of one key: what each costs, and when each has a change.
//!
//! The subscribers are in this process, kck is in one of its own.

use std::{io, num::NonZeroU32, time::Duration};

use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{task::JoinHandle, time::Instant};

use super::{
    apart::{Apart, Store, Wanted},
    events::Events,
    load, process,
};
use crate::cli::{
    Stop,
    demo::{latency, own::refused},
    say,
};

const SCHEMA: &str = include_str!("../../../sql/bench/pages_schema.sql");
const PRODUCT: &str = include_str!("../../../sql/bench/page.sql");
const KEY: &str = "page/7";
const UPDATE: &str = "update pages set title = $1 where id = 7";
/// How many subscribe at once.
const OPENED_AT_ONCE: usize = 64;
/// Whoever has not got an event by then gets none.
const EVENT_WITHIN: Duration = Duration::from_secs(60);

/// Very many subscribers of one key: what each costs, and when each has a change.
#[derive(Debug, Args)]
pub(super) struct Push {
    /// Subscribers.
    #[arg(long, value_name = "N", default_value = "10000")]
    clients: NonZeroU32,
    /// Commits, one after the other.
    #[arg(long, value_name = "N", default_value = "3")]
    commits: NonZeroU32,
    /// Where answers lie.
    #[arg(long, value_enum, default_value_t = Store::Embedded)]
    store: Store,
}

impl Push {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let clients = u64::from(self.clients.get());
        process::allows_connections(clients)?;
        let room = clients + 16;
        let more = format!(
            "limits = {{ connections = {room}, connections_per_address = {room}, subscriptions = {room} }}"
        );
        let wanted = Wanted {
            schema: SCHEMA,
            products: &[("page.sql", PRODUCT)],
            store: self.store,
            more: &more,
        };
        Apart::during(wanted, async |apart| self.measure(apart).await).await
    }

    async fn measure(&self, apart: &Apart) -> Result<(), Stop> {
        apart.hits(&load::request(apart.kck.address, &format!("/fetch/{KEY}"), &[])).await?;
        let writer = apart.ground.connect("bench").await?;
        let update = writer.prepare(UPDATE).await.map_err(unwritten)?;
        let mut subscribers = self.subscribe(apart).await?;
        say("from the return of COMMIT until an event with its value has reached …");
        say(&format!(
            "{:<8}{:>12}{:>12}{:>12}{:>12}{:>14}",
            "commit", "the first", "the median", "99 of 100", "the last", "CPU of kck"
        ));
        for commit in 1..=self.commits.get() {
            let title = format!("after commit {commit} of the writer");
            let cpu = apart.kck.cpu()?;
            let waiting: Vec<_> = subscribers.into_iter().map(|own| told(own, &title)).collect();
            writer.execute(&update, &[&title]).await.map_err(unwritten)?;
            let committed = Instant::now();
            let (mut took, mut still) = (Vec::new(), Vec::new());
            for told in waiting {
                let told = tokio::time::timeout(EVENT_WITHIN, told).await;
                let told = told.map_err(|_| Stop::cannot("a subscriber got no event"))?;
                let (events, at) = told.map_err(io::Error::from).flatten().map_err(away)?;
                took.push(at.saturating_duration_since(committed));
                still.push(events);
            }
            subscribers = still;
            let cpu = apart.kck.cpu()?.saturating_sub(cpu);
            took.sort_unstable();
            let at = |percent: usize| {
                let rank = (took.len() * percent).div_ceil(100).saturating_sub(1);
                latency::shown(took.get(rank).copied().unwrap_or_default())
            };
            let [first, median, most, last] = [0, 50, 99, 100].map(at);
            let cpu = latency::shown(cpu);
            say(&format!("{commit:<8}{first:>12}{median:>12}{most:>12}{last:>12}{cpu:>14}"));
        }
        Ok(())
    }

    /// All of them, each with the first value.
    async fn subscribe(&self, apart: &Apart) -> Result<Vec<Events>, Stop> {
        let address = apart.kck.address;
        let open = async || {
            let mut events = Events::open(address, KEY).await.map_err(away)?;
            events.next_with(b"event: value").await.map_err(away)?;
            Ok::<_, Stop>(events)
        };
        // One comes and goes, so that what is made once is not counted for the others.
        drop(open().await?);
        let (before, start) = (apart.kck.memory()?, Instant::now());
        let opening = (0..self.clients.get()).map(async |_| open().await);
        let opening = stream::iter(opening).buffer_unordered(OPENED_AT_ONCE);
        let subscribers: Vec<Events> = opening.try_collect().await?;
        let (opened, after) = (start.elapsed(), apart.kck.memory()?);
        say(&format!(
            "\nstore {} · {} subscribers of one key, open in {}\nmemory of kck: {} MB before, {} MB with them, {} bytes each\n",
            self.store.name(),
            self.clients,
            latency::shown(opened),
            before >> 20,
            after >> 20,
            after.saturating_sub(before) / u64::from(self.clients.get()),
        ));
        Ok(subscribers)
    }
}

/// Waits for an event with this title beside everything else.
fn told(mut events: Events, title: &str) -> JoinHandle<io::Result<(Events, Instant)>> {
    let title = title.to_owned();
    tokio::spawn(async move {
        let (_, at) = events.next_with(title.as_bytes()).await?;
        Ok((events, at))
    })
}

fn away(error: io::Error) -> Stop {
    Stop::cannot(format!("follow a key: {error}"))
}

fn unwritten(error: impl std::error::Error) -> Stop {
    refused("write to the database", error)
}
