//! A product that takes two seconds under constant change: what it takes of the source, and what others notice.

use std::{collections::VecDeque, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use super::{
    LIMITS, SCHEMA, during,
    source::{application, failed},
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
    key::Key,
};

const PRODUCTS: &[(&str, &str)] = &[
    ("orders_of.sql", include_str!("../../../../sql/bench/orders_of.sql")),
    ("slow_sum.sql", include_str!("../../../../sql/bench/slow_sum.sql")),
];
/// Slow keys that are watched: as many as there are connections.
const SLOW: i64 = 4;
/// What a statement counts at its end is too coarse for one of two seconds: activity is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const WINDOW: Duration = Duration::from_secs(10);
const EXECUTING: &str = "select count(*) from pg_stat_activity where application_name = 'kck/work' and state = 'active'";

/// With the usual share, with all connections' time, and without the slow product.
pub(super) async fn measure(span: Duration) -> Result<(), Stop> {
    let mut lines = Vec::new();
    for (name, share, slow) in [
        ("without it", "0.5", false),
        ("database_share = 0.5", "0.5", true),
        ("unlimited (4 connections)", "4", true),
    ] {
        let more = format!("{LIMITS}refresh = {{ database_share = {share} }}\n");
        let lines = &mut lines;
        during(SCHEMA, PRODUCTS, &more, async move |own| {
            let span = if slow { span.max(WINDOW * 2) } else { WINDOW };
            lines.push(format!("{name:<28}{}", Box::pin(side(own, slow, span)).await?));
            Ok(())
        })
        .await?;
    }
    say("\nA PRODUCT OF TWO SECONDS UNDER CONSTANT CHANGE");
    say(&format!(
        "{:<28}{:>20}{:>13}{:>13}{:>13}{:>13}",
        "", "worst 10 s", "hit p50", "hit p99", "miss p50", "miss p99"
    ));
    lines.iter().for_each(|line| say(line));
    Ok(())
}

/// One side, as its line.
async fn side(own: &Own, slow: bool, span: Duration) -> Result<String, Stop> {
    let keys = (1..=SLOW).map(|n| Key::from_stored(&format!("slow_sum/{}", n - SLOW)));
    let _watching = slow.then(|| own.context.recompute.watch(keys.collect()));
    let mut tasks = JoinSet::new();
    let end = Instant::now() + span;
    if slow {
        let client = application(own).await?;
        for n in 1..=SLOW {
            own.context.recompute.queue_stale(&Key::from_stored(&format!("slow_sum/{}", n - SLOW)));
        }
        tasks.spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(10));
            while Instant::now() < end {
                ticks.tick().await;
                let change = "update hot set n = n + 1 where id = 1";
                client.execute(change, &[]).await.map_err(failed)?;
            }
            Ok::<_, Stop>(())
        });
    }
    let hits = asked(own, 200, end, |_| "/fetch/orders_of/1".to_owned());
    let misses = asked(own, 20, end, |n| format!("/fetch/orders_of/{}", 2 + n));
    let (worst, hits, misses) = tokio::join!(executing(own, end), hits, misses);
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| Stop::cannot(format!("write: {error}")))??;
    }
    let (hits, misses) = (hits?, misses?);
    let [a, b, c, d] = [hits.p50, hits.p99, misses.p50, misses.p99].map(latency::shown);
    let worst = format!("{:.2} s executing", worst?.as_secs_f64());
    Ok(format!("{worst:>20}{a:>13}{b:>13}{c:>13}{d:>13}"))
}

/// The most that kck's statements executed within ten seconds.
async fn executing(own: &Own, end: Instant) -> Result<Duration, Stop> {
    let client = own.connect("bench").await?;
    let look = client.prepare(EXECUTING).await.map_err(failed)?;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let (mut looks, mut sum, mut worst) = (VecDeque::new(), 0, 0);
    while Instant::now() < end {
        ticks.tick().await;
        let row = client.query_one(&look, &[]).await.map_err(failed)?;
        let count: i64 = row.try_get(0).map_err(failed)?;
        looks.push_back(count);
        sum += count;
        if looks.len() as u128 > WINDOW.as_millis() / LOOK_EVERY.as_millis() {
            sum -= looks.pop_front().unwrap_or_default();
        }
        worst = worst.max(sum);
    }
    Ok(LOOK_EVERY * u32::try_from(worst).unwrap_or(0))
}

/// Asks so often a second.
async fn asked(
    own: &Own,
    rate: u32,
    end: Instant,
    path: impl Fn(u64) -> String,
) -> Result<Spread, Stop> {
    let mut reader = Reader::connect(own.address).await?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut latencies, mut n) = (Latencies::default(), 0);
    while Instant::now() < end {
        ticks.tick().await;
        let start = Instant::now();
        reader.get(&path(n)).await?;
        latencies.push(start, start.elapsed());
        n += 1;
    }
    latencies.since(None).ok_or_else(|| Stop::cannot("nothing was asked"))
}
