//! `kck bench flow`: how long after a commit a reader has the fresh answer, beside the bare query.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
};

use clap::Args;
use serde_json::Value;
use tokio::time::Instant;

use super::{apart::Store, pushed::Pushed};
use crate::{
    cli::{
        Stop, complain,
        demo::{
            latency::{self, Latencies, Spread},
            own::{Own, POSITION, Setup, refused},
            reader::Reader,
        },
        say, told_to_stop,
    },
    postgres::{Client, Statement},
    product::Slot,
};

const SCHEMA: &str = include_str!("../../../sql/bench/flow_schema.sql");
const PRODUCT: &str = include_str!("../../../sql/bench/orders_of.sql");
/// As in the schema.
pub(super) const ORDERS: i64 = 10_000;
pub(super) const CUSTOMERS: i64 = 1000;
pub(super) const UPDATE: &str = "update orders set total = total + 1 where id = $1 returning total";

/// From a commit to the fresh answer, beside the time of the bare query.
#[derive(Debug, Args)]
pub(super) struct Flow {
    /// How many, one at a time.
    #[arg(long, value_name = "N", default_value = "500")]
    commits: NonZeroU32,
    /// Where answers lie.
    #[arg(long, value_enum, default_value_t = Store::Embedded)]
    store: Store,
    /// Also measure until an event tells a subscriber, and print the time in each stage.
    #[arg(long)]
    push: bool,
    /// Commits a second to other keys while a subscriber waits.
    #[arg(long, value_name = "N", requires = "push")]
    rate: Option<NonZeroU32>,
}

impl Flow {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let mut told = std::pin::pin!(told_to_stop());
        let interrupted = || Stop::cannot("told to stop before the end");
        if self.store == Store::Cassandra {
            return Err(Stop::usage("bench flow has no Cassandra of its own yet"));
        }
        let store = format!("kind = '{}'", self.store.name());
        let setup = Setup {
            name: "bench",
            schema: SCHEMA,
            products: &[("orders_of.sql", PRODUCT)],
            store: &store,
            more: "",
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            statements: false,
        };
        let own = tokio::select! {
            own = Box::pin(Own::start(setup)) => own?,
            () = &mut told => return Err(interrupted()),
        };
        let ended = Box::pin(async {
            tokio::select! {
                ended = self.measure(&own) => ended,
                () = own.ended() => Ok(()),
                () = &mut told => Err(interrupted()),
            }
        });
        let ended = ended.await;
        own.stop().await?;
        ended
    }

    async fn measure(&self, own: &Own) -> Result<(), Stop> {
        let mut sides = Sides::open(own).await?;
        say(&format!("measuring {} commits…", self.commits));
        for round in 0..self.commits.get() {
            sides.round(1 + i64::from(round) % ORDERS).await?;
        }
        let cores = std::thread::available_parallelism()
            .map_or_else(|_| "?".to_owned(), |cores| cores.to_string());
        say(&format!(
            "\n{cores} cores · PostgreSQL {}, fsync on · store {} · {} commits, one at a time\n",
            sides.version().await?,
            self.store.name(),
            self.commits,
        ));
        sides.print();
        if self.push {
            let pushed = Pushed { commits: self.commits, rate: self.rate };
            Box::pin(pushed.measure(own, &bare_query(own)?)).await?;
        }
        Ok(())
    }
}

/// What kck runs for the product, as anybody could.
fn bare_query(own: &Own) -> Result<String, Stop> {
    match own.context.catalog.borrow().products.get("orders_of") {
        Some(Slot::Ready { product, .. }) => {
            Ok(product.draft.question.sql(|hole| format!("${}", hole + 1)))
        }
        _ => Err(Stop::cannot("load orders_of: it is broken\n  hint: KCK_LOG=info tells why")),
    }
}

/// Both sides of the comparison, in turns.
struct Sides {
    client: Client,
    query: Statement,
    update: Statement,
    position: Statement,
    reader: Reader,
    bare: Latencies,
    hit: Latencies,
    fresh: Latencies,
}

impl Sides {
    async fn open(own: &Own) -> Result<Self, Stop> {
        let client = own.connect("bench").await?;
        Ok(Self {
            query: client.prepare(&bare_query(own)?).await.map_err(failed)?,
            update: client.prepare(UPDATE).await.map_err(failed)?,
            position: client.prepare(POSITION).await.map_err(failed)?,
            reader: Reader::connect(own.address).await?,
            client,
            bare: Latencies::default(),
            hit: Latencies::default(),
            fresh: Latencies::default(),
        })
    }

    /// Measures a hit, the bare query, and the way from a commit to the answer with it.
    async fn round(&mut self, order: i64) -> Result<(), Stop> {
        let customer = 1 + order % CUSTOMERS;
        let path = format!("/fetch/orders_of/{customer}");
        self.fetch(&path).await?;

        let start = Instant::now();
        self.fetch(&path).await?;
        self.hit.push(start, start.elapsed());

        let start = Instant::now();
        self.client.query(&self.query, &[&customer]).await.map_err(failed)?;
        self.bare.push(start, start.elapsed());

        let updated = self.client.query_one(&self.update, &[&order]).await.map_err(failed)?;
        let start = Instant::now();
        let position = self.client.query_one(&self.position, &[]).await.map_err(failed)?;
        let position: String = position.try_get(0).map_err(failed)?;
        let answer = self.fetch(&format!("{path}?min_lsn={position}&wait=5s")).await?;
        self.fresh.push(start, start.elapsed());

        let total: i64 = updated.try_get(0).map_err(failed)?;
        if has(&answer, order, total) {
            return Ok(());
        }
        complain(&format!(
            "the answer for {position} lacks order {order} with the total {total}: {answer}"
        ));
        Err(Stop::no())
    }

    async fn fetch(&mut self, path: &str) -> Result<Value, Stop> {
        let reply = self.reader.get(path).await?;
        let text = String::from_utf8_lossy(&reply.body);
        match serde_json::from_slice(&reply.body) {
            Ok(answer) if reply.status == 200 => Ok(answer),
            _ => Err(Stop::cannot(format!("fetch {path}: {} {text}", reply.status))),
        }
    }

    async fn version(&self) -> Result<String, Stop> {
        let row = self
            .client
            .query_one("select current_setting('server_version')", &[])
            .await
            .map_err(failed)?;
        row.try_get(0).map_err(failed)
    }

    fn print(&mut self) {
        let spreads = (self.bare.since(None), self.hit.since(None), self.fresh.since(None));
        let (Some(bare), Some(hit), Some(fresh)) = spreads else { return };
        say(&format!("{:<28}{:>12}{:>12}{:>12}", "", "p50", "p99", "max"));
        for (name, spread) in
            [("bare query", &bare), ("hit over HTTP", &hit), ("commit → fresh over HTTP", &fresh)]
        {
            let Spread { p50, p99, max } = *spread;
            say(&line(name, [p50, p99, max].map(latency::shown)));
        }
        let pairs = [(fresh.p50, bare.p50), (fresh.p99, bare.p99), (fresh.max, bare.max)];
        say(&line("fresh − bare", pairs.map(|(fresh, bare)| latency::difference(fresh, bare))));
        say(&line(
            "fresh ÷ bare",
            pairs.map(|(fresh, bare)| format!("{:.1}", fresh.as_secs_f64() / bare.as_secs_f64())),
        ));
    }
}

pub(super) fn line(name: &str, columns: [String; 3]) -> String {
    let [p50, p99, max] = columns;
    format!("{name:<28}{p50:>12}{p99:>12}{max:>12}")
}

/// Whether the answer has the order as it was committed.
pub(super) fn has(answer: &Value, order: i64, total: i64) -> bool {
    let mut rows = answer.get("value").and_then(Value::as_array).into_iter().flatten();
    let is = |row: &Value, name: &str, number: i64| {
        row.get(name).and_then(Value::as_i64) == Some(number)
    };
    rows.any(|row| is(row, "id", order) && is(row, "total", total))
}

pub(super) fn failed(error: impl std::error::Error) -> Stop {
    refused("ask the database", error)
}
