//! Events and the catalogue → how kck is, for `/readyz` and `/status`.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::{broadcast, watch};

use crate::{
    change::SourceTime,
    observe::Event,
    product::{Catalog, Slot, UpdateSlot},
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
    ("product", "KCK302", "GET /products says why; the others are answered as ever"),
    ("recipe", "KCK401", "GET /products says why; other products are answered as ever"),
    ("update", "KCK303", "GET /products says why; the others run as ever"),
    ("process", "KCK304", "GET /processes says why; the others run as ever"),
    (
        "canary",
        "KCK105",
        "certificates stand still: see the other reasons, and the log of the source; kck opens the stream anew by itself when the server is silent",
    ),
    (
        "tls",
        "KCK616",
        "check [http] tls_cert and tls_key; connections go on with the certificate of before",
    ),
    ("store", "KCK501", "check the store; nothing is acknowledged until marks are durable again"),
];

/// Keeps the list of what is not well, from what is noticed and from the products as they are.
pub async fn keep(
    mut events: broadcast::Receiver<Event>,
    mut catalog: watch::Receiver<Arc<Catalog>>,
    health: watch::Sender<Arc<Health>>,
) {
    catalog.mark_changed();
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            Ok(()) = catalog.changed() => {
                let (products, updates) = {
                    let catalog = catalog.borrow_and_update();
                    (trouble(&catalog), update_trouble(&catalog))
                };
                change(&health, "product", products);
                change(&health, "update", updates);
                continue;
            }
        };
        match event {
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

/// The products that are not as their files say.
fn trouble(catalog: &Catalog) -> Option<String> {
    let broken = |slot: &Slot| matches!(slot, Slot::Broken { .. });
    let slots = catalog.products.iter();
    faulty(slots.map(|(name, slot)| (name.as_str(), broken(slot), slot.faults().is_empty())))
}

/// The updates that are not as their files say.
fn update_trouble(catalog: &Catalog) -> Option<String> {
    let broken = |slot: &UpdateSlot| matches!(slot, UpdateSlot::Broken { .. });
    let slots = catalog.updates.iter();
    faulty(slots.map(|(name, slot)| (name.as_str(), broken(slot), slot.faults().is_empty())))
}

/// Of names, each broken or not, without faults or not.
fn faulty<'a>(all: impl Iterator<Item = (&'a str, bool, bool)>) -> Option<String> {
    let (mut broken, mut kept) = (Vec::new(), Vec::new());
    for (name, is_broken, is_well) in all {
        match (is_broken, is_well) {
            (true, _) => broken.push(name),
            (false, false) => kept.push(name),
            (false, true) => {}
        }
    }
    let those = [("broken", broken), ("running as before an edit that does not load", kept)];
    let those = those.into_iter().filter(|(_, names)| !names.is_empty());
    let those: Vec<String> =
        those.map(|(what, names)| format!("{what}: {}", names.join(", "))).collect();
    (!those.is_empty()).then(|| those.join("; "))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_that_are_not_well_are_named() {
        let mut catalog = Catalog::default();
        assert_eq!(trouble(&catalog), None);
        for name in ["b", "a"] {
            catalog.products.insert(name.into(), Slot::Broken { last: None, faults: Vec::new() });
        }
        assert_eq!(trouble(&catalog).as_deref(), Some("broken: a, b"));
    }
}
