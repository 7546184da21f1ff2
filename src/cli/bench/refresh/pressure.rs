//! A thousand clients that poll a hundred keys, on the source and on kck, while rows change.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use super::source::{self, Asked, application, failed};
use crate::{
    cli::{
        Stop,
        demo::{own::Own, reader::Reader},
        say,
    },
    product::Slot,
};

/// Each asks once a second for one of the keys.
const CLIENTS: u32 = 1_000;
const KEYS: i64 = 100;
/// Rows a second that change, all of them of these keys.
const CHANGES: u32 = 200;
/// Connections that the clients share, as an application's pool does.
const CONNECTIONS: u32 = 20;

/// Both sides at the same time.
pub(super) async fn measure(own: &Own, span: Duration) -> Result<(), Stop> {
    say("\nA THOUSAND POLLING CLIENTS");
    let slot = own.context.catalog.borrow().products.get("orders_of").cloned();
    let Some(Slot::Ready { product, .. }) = slot else {
        return Err(Stop::cannot("load orders_of: it is broken"));
    };
    let sql: Arc<str> = product.draft.question.sql(|hole| format!("${}", hole + 1)).into();
    source::reset(own).await?;
    let mut tasks = JoinSet::new();
    let end = Instant::now() + span;
    for connection in 0..CONNECTIONS {
        tasks.spawn(directly(application(own).await?, Arc::clone(&sql), connection, end));
        let reader = Reader::connect(own.address).await?;
        tasks.spawn(through_kck(reader, connection, end));
    }
    let writer = application(own).await?;
    let write = async {
        let update = "update orders set total = total + 1 where id = $1";
        let update = writer.prepare(update).await.map_err(failed)?;
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / CHANGES);
        let mut rows = 0_i64;
        while Instant::now() < end {
            ticks.tick().await;
            // Orders of the customers 1 to 100, one after the other.
            let order = rows % KEYS + 1000 * (rows / KEYS % 10);
            writer.execute(&update, &[&order.max(1)]).await.map_err(failed)?;
            rows += 1;
        }
        Ok::<_, Stop>(rows)
    };
    let rows = write.await?;
    let mut asked = 0_u64;
    while let Some(ended) = tasks.join_next().await {
        asked += ended.map_err(|error| Stop::cannot(format!("poll: {error}")))??;
    }
    let counted = source::counted(own).await?;
    let seconds = span.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rates = (asked as f64 / seconds / 2.0, rows as f64 / seconds);
    say(&format!("{:.0} answers/s to each side, {:.0} rows/s change\n", rates.0, rates.1));
    say(&format!("{:<28}{:>14}{:>18}", "on the source", "statements", "execution time"));
    let Asked { calls, time } = counted.products;
    let all = Asked {
        calls: calls + counted.lookups.calls + counted.housekeeping.calls,
        time: time + counted.lookups.time + counted.housekeeping.time,
    };
    print("directly", counted.reads);
    print("kck", all);
    print("  of which answers", counted.products);
    print("  of which its own", counted.housekeeping);
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let calls = counted.reads.calls as f64 / all.calls.max(1) as f64;
    let time = counted.reads.time.as_secs_f64() / all.time.as_secs_f64();
    say(&format!(
        "{:<28}{:>14}{:>18}",
        "directly ÷ kck",
        format!("{calls:.1} ×"),
        format!("{time:.1} ×")
    ));
    Ok(())
}

fn print(name: &str, asked: Asked) {
    let time = format!("{:.0} ms", asked.time.as_secs_f64() * 1e3);
    say(&format!("{name:<28}{:>14}{time:>18}", asked.calls));
}

/// One of the connections' share of all the clients' questions.
fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) * CONNECTIONS / CLIENTS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks
}

async fn directly(
    client: crate::postgres::Client,
    sql: Arc<str>,
    connection: u32,
    end: Instant,
) -> Result<u64, Stop> {
    let query = client.prepare(&sql).await.map_err(failed)?;
    let (mut ticks, mut asked) = (ticks(), 0);
    let mut key = i64::from(connection);
    while Instant::now() < end {
        ticks.tick().await;
        key = key % KEYS + 1;
        client.query(&query, &[&key]).await.map_err(failed)?;
        asked += 1;
    }
    Ok(asked)
}

async fn through_kck(mut reader: Reader, connection: u32, end: Instant) -> Result<u64, Stop> {
    let (mut ticks, mut asked) = (ticks(), 0);
    let mut key = i64::from(connection);
    while Instant::now() < end {
        ticks.tick().await;
        key = key % KEYS + 1;
        let reply = reader.get(&format!("/fetch/orders_of/{key}")).await?;
        if reply.status != 200 {
            return Err(Stop::cannot(format!("fetch orders_of/{key}: {}", reply.status)));
        }
        asked += 1;
    }
    Ok(asked)
}
