//! One row that is written very often, and many watched keys that one commit touches.

use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::{
    ORDERS,
    quiet::settled,
    source::{self, application, failed},
};
use crate::{
    cli::{
        Stop,
        demo::{latency, own::Own, reader::Reader},
        say,
    },
    key::Key,
    observe::Counter,
};

/// Commits a second to one row, sent so many at once.
const RATE: u32 = 5_000;
const AT_ONCE: u32 = 50;

/// One row that is written all the time, under two products.
pub(super) async fn hot(own: &Own, span: Duration) -> Result<(), Stop> {
    say("\nONE HOT ROW");
    say(&format!(
        "{:<26}{:>12}{:>14}{:>14}{:>14}",
        "", "commits", "statements", "a second", "at the end"
    ));
    let client = application(own).await?;
    // The row's lock would else be held while each commit is flushed.
    client.batch_execute("set synchronous_commit = off").await.map_err(failed)?;
    for (name, id) in [("hot_now", 1_i64), ("hot_paced", 2)] {
        let key = format!("{name}/{id}");
        let update =
            client.prepare("update hot set n = n + 1 where id = $1").await.map_err(failed)?;
        let _watching = own.context.recompute.watch(vec![Key::from_stored(&key)]);
        let mut reader = Reader::connect(own.address).await?;
        reader.get(&format!("/fetch/{key}")).await?;
        source::reset(own).await?;
        let mut ticks = tokio::time::interval(Duration::from_secs(1) * AT_ONCE / RATE);
        let (start, mut commits) = (Instant::now(), 0_u32);
        while start.elapsed() < span {
            ticks.tick().await;
            try_join_all((0..AT_ONCE).map(async |_| client.execute(&update, &[&id]).await))
                .await
                .map_err(failed)?;
            commits += AT_ONCE;
        }
        let took = start.elapsed();
        settled(own, std::slice::from_ref(&key)).await?;
        let asked = source::counted(own).await?.products;
        let text = format!("select n::text from hot where id = {id}");
        let newest = source::text(own, &text).await?;
        let answer = reader.get(&format!("/fetch/{key}")).await?;
        let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let is_newest =
            answer.get("value").and_then(serde_json::Value::as_i64) == newest.parse().ok();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = asked.calls as f64 / took.as_secs_f64();
        say(&format!(
            "{:<26}{:>12}{:>14}{:>14}{:>14}",
            format!("min_interval = {}", if id == 1 { "0s" } else { "1s" }),
            format!("{:.0}/s", f64::from(commits) / took.as_secs_f64()),
            asked.calls,
            format!("{rate:.1}/s"),
            if is_newest { "newest" } else { "OLD" },
        ));
        if !is_newest {
            return Err(Stop::no());
        }
    }
    Ok(())
}

/// Ten thousand watched keys that one commit touches.
pub(super) async fn burst(own: &Own) -> Result<(), Stop> {
    say("\nTEN THOUSAND WATCHED KEYS AND ONE COMMIT");
    let keys: Vec<String> = (1..=ORDERS).map(|n| format!("order_of/{n}")).collect();
    let watched: Vec<Key> = keys.iter().map(|key| Key::from_stored(key)).collect();
    let _watching = own.context.recompute.watch(watched);
    for part in keys.chunks(500) {
        let list = serde_json::json!({ "keys": part }).to_string();
        post(own, &list).await?;
    }
    settled(own, &keys).await?;
    let client = application(own).await?;
    let observer = &own.context.observer;
    let before = [Counter::Batches, Counter::Computed].map(|counter| observer.counted(counter));
    source::reset(own).await?;
    client.execute("update orders set total = total + 1", &[]).await.map_err(failed)?;
    let start = Instant::now();
    settled(own, &keys).await?;
    let took = start.elapsed();
    let after = [Counter::Batches, Counter::Computed].map(|counter| observer.counted(counter));
    let [statements, computed] =
        std::array::from_fn(|at| after.get(at).zip(before.get(at)).map_or(0, |(a, b)| a - b));
    let asked = source::counted(own).await?.products;
    say(&format!(
        "all fresh {} after the commit: {computed} keys in {statements} statements, {} on the source",
        latency::shown(took),
        latency::shown(asked.time)
    ));
    Ok(())
}

/// Asks for many keys at once.
async fn post(own: &Own, list: &str) -> Result<(), Stop> {
    let mut reader = Reader::connect(own.address).await?;
    let reply = reader.post("/fetch", list).await?;
    if reply.status == 200 {
        return Ok(());
    }
    Err(Stop::cannot(format!("ask for keys: {}", String::from_utf8_lossy(&reply.body))))
}
