//! What the source is asked while nothing matches, and while much does.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::{
    CUSTOMERS, ORDERS, REGIONS,
    source::{self, Counted, application, failed},
};
use crate::{
    cli::{
        Stop,
        demo::{own::Own, reader::Reader},
        say,
    },
    observe::{Counter, Event},
    postgres::Client,
};

/// Rows a second that are written.
const RATE: u32 = 500;
/// Keys of each product that are read, so that they are computed again when they change.
const KEYS: i64 = 100;
/// Commits that match, each with so many rows.
const COMMITS: i64 = 300;
const ROWS: i64 = 20;

/// Both.
pub(super) async fn measure(own: &Own, span: Duration) -> Result<(), Stop> {
    let client = application(own).await?;
    let keys = keys();
    read(own, &keys).await?;
    say("\nWHAT THE SOURCE IS ASKED");
    say(&format!(
        "{:<34}{:>12}{:>12}{:>12}{:>16}",
        "", "products", "lookups", "other", "one connection"
    ));
    for reading in [false, true] {
        source::reset(own).await?;
        let (written, took) = unrelated(own, &client, span, reading.then_some(&keys)).await?;
        let name =
            if reading { "unrelated rows, keys read" } else { "unrelated rows, nobody reads" };
        print(&format!("{name}, {written:.0}/s"), source::counted(own).await?, took);
    }
    matches(own, &client, &keys).await
}

fn keys() -> Vec<String> {
    let orders_of = (1..=KEYS).map(|n| format!("orders_of/{n}"));
    orders_of.chain((0..REGIONS).map(|n| format!("orders_in/{n}"))).collect()
}

async fn read(own: &Own, keys: &[String]) -> Result<(), Stop> {
    let mut reader = Reader::connect(own.address).await?;
    for key in keys {
        reader.get(&format!("/fetch/{key}")).await?;
    }
    Ok(())
}

/// Writes to a table that no product reads; how often, and how long that took.
async fn unrelated(
    own: &Own,
    client: &Client,
    span: Duration,
    keys: Option<&Vec<String>>,
) -> Result<(f64, Duration), Stop> {
    let insert =
        client.prepare("insert into unrelated (text) values ('x')").await.map_err(failed)?;
    let start = Instant::now();
    let mut reader = Reader::connect(own.address).await?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut rows = 0_u32;
    while start.elapsed() < span {
        ticks.tick().await;
        client.execute(&insert, &[]).await.map_err(failed)?;
        if let Some(key) = keys.and_then(|keys| keys.get(rows as usize % keys.len())) {
            reader.get(&format!("/fetch/{key}")).await?;
        }
        rows += 1;
    }
    let took = start.elapsed();
    Ok((f64::from(rows) / took.as_secs_f64(), took))
}

fn print(name: &str, counted: Counted, took: Duration) {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = |calls: u64| format!("{:.1}/s", calls as f64 / took.as_secs_f64());
    let Counted { products, lookups, housekeeping, .. } = counted;
    let time = products.time + lookups.time + housekeeping.time;
    say(&format!(
        "{name:<34}{:>12}{:>12}{:>12}{:>16}",
        rate(products.calls),
        rate(lookups.calls),
        rate(housekeeping.calls),
        format!("{:.2} %", 100.0 * time.as_secs_f64() / took.as_secs_f64()),
    ));
}

/// Commits that touch keys of two products, one of them by lookups: how many groups, and what each asked.
async fn matches(own: &Own, client: &Client, keys: &[String]) -> Result<(), Stop> {
    let update = "update orders set total = 96 - total where id % $1 = $2 and id <= $3";
    let update = client.prepare(update).await.map_err(failed)?;
    let observer = &own.context.observer;
    let mut events = observer.subscribe();
    let before =
        [Counter::Lookups, Counter::Batches, Counter::Computed].map(|c| observer.counted(c));
    source::reset(own).await?;
    let watching = own
        .context
        .recompute
        .watch(keys.iter().map(|key| crate::key::Key::from_stored(key)).collect());
    let (mut groups, start) = (0_u64, Instant::now());
    for commit in 0..COMMITS {
        let part = CUSTOMERS / ROWS;
        client
            .execute(&update, &[&part, &(commit % part), &(ORDERS / 10)])
            .await
            .map_err(failed)?;
        while let Ok(event) = events.try_recv() {
            groups += u64::from(matches!(event, Event::Marked { keys, .. } if keys > 0));
        }
    }
    settled(own, keys).await?;
    let took = start.elapsed();
    drop(watching);
    while let Ok(event) = events.try_recv() {
        groups += u64::from(matches!(event, Event::Marked { keys, .. } if keys > 0));
    }
    print(&format!("{COMMITS} commits that match"), source::counted(own).await?, took);
    let after =
        [Counter::Lookups, Counter::Batches, Counter::Computed].map(|c| observer.counted(c));
    let [lookups, batches, computed] =
        std::array::from_fn(|at| after.get(at).zip(before.get(at)).map_or(0, |(a, b)| a - b));
    say(&format!(
        "of {COMMITS} commits {groups} groups: {lookups} lookups, {batches} statements for {computed} keys of two products"
    ));
    Ok(())
}

/// Returns when all keys are fresh and V is where the source is.
pub(super) async fn settled(own: &Own, keys: &[String]) -> Result<(), Stop> {
    let here: crate::change::Lsn = source::text(own, crate::cli::demo::own::POSITION)
        .await?
        .parse()
        .map_err(|_| Stop::cannot("read the position"))?;
    let keys: Vec<crate::key::Key> =
        keys.iter().map(|key| crate::key::Key::from_stored(key)).collect();
    let recompute = &own.context.recompute;
    let mut progress = own.context.progress.clone();
    let passed = progress.wait_for(|progress| {
        recompute.hasten();
        progress.settled >= here
    });
    passed.await.map_err(|_| Stop::cannot("follow kck: it ended"))?;
    let mut events = own.context.observer.subscribe();
    while !keys.iter().all(|key| recompute.look(key).is_some_and(|(standing, _)| standing.fresh)) {
        // That some were missed is an event as well.
        drop(tokio::time::timeout(Duration::from_millis(50), events.recv()).await);
    }
    Ok(())
}
