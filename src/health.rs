//! Events → how kck is, for `/readyz` and `/status`.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::{broadcast, watch};

use crate::{
    change::SourceTime,
    observe::Event,
    serve::{Health, Reason},
};

/// What is said of a part that is down: code and hint.
const PARTS: &[(&str, &str, &str)] = &[
    (
        "source",
        "KCK101",
        "check that the source runs; answers go on from the store, stale where commits touched them",
    ),
    ("stream", "KCK102", "see the log; kck opens the stream again by itself"),
    ("slot", "KCK103", "check the role's right to read pg_replication_slots"),
    ("join", "KCK104", "see the log; products that are new are answered uncached meanwhile"),
    (
        "reload",
        "KCK301",
        "see the log; products run as they did until the source can be asked of them",
    ),
    (
        "definitions",
        "KCK201",
        "check the role's right to read the catalogue; certificates wait for it",
    ),
    ("store", "KCK501", "check the store; nothing is acknowledged until marks are durable again"),
];

/// Keeps the list of what is not well, from what is noticed.
pub async fn keep(mut events: broadcast::Receiver<Event>, health: watch::Sender<Arc<Health>>) {
    loop {
        match events.recv().await {
            Ok(Event::Part { part, trouble }) => change(&health, part, trouble),
            Ok(Event::StandingBy { holder }) => {
                change(&health, "stream", Some(format!("the slot is read by {holder}")));
            }
            Ok(Event::StreamLost { error, .. }) => change(&health, "stream", Some(error)),
            Ok(Event::StreamOpened { .. }) => {
                health.send_modify(|health| Arc::make_mut(health).ready = true);
                change(&health, "stream", None);
            }
            // What was missed while lagging is said again when it changes again.
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

fn change(health: &watch::Sender<Arc<Health>>, part: &'static str, trouble: Option<String>) {
    health.send_modify(|health| {
        let mut changed = (**health).clone();
        let earlier = changed
            .reasons
            .iter()
            .find(|reason| reason.part == part)
            .map(|reason| reason.since.clone());
        changed.reasons.retain(|reason| reason.part != part);
        if let Some(message) = trouble {
            let (_, code, hint) = PARTS
                .iter()
                .find(|(known, ..)| *known == part)
                .copied()
                .unwrap_or((part, "KCK100", "see the log"));
            let since = earlier.unwrap_or_else(now);
            changed.reasons.push(Reason { part, since, code, message, hint: hint.to_owned() });
        }
        *health = Arc::new(changed);
    });
}

/// kck's own clock: only shown, never compared.
fn now() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SourceTime(i64::try_from(since.as_micros()).unwrap_or(0)).to_string()
}
