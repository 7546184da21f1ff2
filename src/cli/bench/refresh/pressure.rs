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

/// All sides at the same time.
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
        for product in ["orders_of", "orders_paced"] {
            let reader = Reader::connect(own.address).await?;
            tasks.spawn(through_kck(reader, product, connection, end));
        }
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
    let rates = (asked as f64 / seconds / 3.0, rows as f64 / seconds);
    say(&format!(
        "{:.0} answers/s to each side, {:.0} rows/s change, all of them in what is polled\n",
        rates.0, rates.1
    ));
    say(&format!(
        "{:<30}{:>12}{:>18}{:>24}",
        "on the source", "statements", "execution time", "directly ÷ this"
    ));
    let own = counted.housekeeping.and(counted.lookups);
    let direct = counted.reads;
    print("directly", direct, None);
    print("kck", counted.products.and(own), Some(direct));
    print("kck, min_interval = 1s", counted.paced.and(own), Some(direct));
    print("kck's own part of each", own, None);
    Ok(())
}

fn print(name: &str, asked: Asked, direct: Option<Asked>) {
    let time = format!("{:.0} ms", asked.time.as_secs_f64() * 1e3);
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let ratio = direct.map_or_else(String::new, |direct| {
        let calls = direct.calls as f64 / asked.calls.max(1) as f64;
        let time = direct.time.as_secs_f64() / asked.time.as_secs_f64().max(1e-6);
        format!("{calls:.1} × · {time:.1} ×")
    });
    say(&format!("{name:<30}{:>12}{time:>18}{ratio:>24}", asked.calls));
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

async fn through_kck(
    mut reader: Reader,
    product: &str,
    connection: u32,
    end: Instant,
) -> Result<u64, Stop> {
    let (mut ticks, mut asked) = (ticks(), 0);
    let mut key = i64::from(connection);
    while Instant::now() < end {
        ticks.tick().await;
        key = key % KEYS + 1;
        let reply = reader.get(&format!("/fetch/{product}/{key}")).await?;
        if reply.status != 200 {
            return Err(Stop::cannot(format!("fetch {product}/{key}: {}", reply.status)));
        }
        asked += 1;
    }
    Ok(asked)
}
