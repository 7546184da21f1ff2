//! A product's `warm` → its warm keys: rows of a query, or the keys of another product.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    key::Key,
    observe::Counter,
    postgres::{self, describe_chain},
    product::{
        Product,
        warm::{self, Domain},
    },
};

use super::{Handle, budget::Refusal};

/// Keys looked at while the ledger is locked once.
pub(super) const AT_ONCE: usize = 500;

/// A warm query waits so long for room at most: those that readers wait for could take all of it for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a warm query is taken to cost beforehand.
const ESTIMATE: Duration = Duration::from_millis(50);

/// A key's bytes, encoded, at most: no reader could ask for a longer one.
const KEY_BYTES_MAX: usize = 16 * 1024;

/// The keys that the product's domain names now, each once.
///
/// # Errors
/// Why the source did not say.
pub(super) async fn keys(
    handle: &Handle,
    source: &postgres::run::Pool,
    product: &Arc<Product>,
) -> Result<Vec<Key>, String> {
    let most = handle.shared.config.tracked_keys;
    match product.draft.policy.warm.as_ref().map(|warm| &warm.domain) {
        None => Ok(Vec::new()),
        Some(Domain::KeysOf(other)) => Ok(of_other(handle, product, other).await),
        Some(Domain::Query(sql)) => {
            // One more than there is room for, so that it is told that there are more.
            let sql = warm::statement(product, sql, most.saturating_add(1));
            let mut named = Named { product, seen: HashSet::new(), keys: Vec::new() };
            let asked = source.texts(&sql, |row| named.row(&row));
            let asked = within_budget(handle, product.name(), asked).await;
            asked.map_err(|error| match &error {
                // What Postgres says may hold a row's values.
                postgres::Error::Statement { sqlstate, .. } => format!("SQLSTATE {sqlstate}"),
                _ => describe_chain(&error),
            })?;
            Ok(named.keys)
        }
    }
}

/// Asks when there is room for it, as for a key that nobody waits for. How long that will take is not known: what it
/// took is what others have less.
async fn within_budget<T>(handle: &Handle, product: &str, asked: impl Future<Output = T>) -> T {
    let patience = Instant::now() + PATIENCE;
    let ticket = loop {
        let now = Instant::now();
        let later = {
            let mut budget = handle.budget();
            match budget.may(product, false, ESTIMATE, now) {
                Err(Refusal::All(later) | Refusal::Product(later)) if now < patience => later,
                _ => break budget.begin(product, ESTIMATE, now),
            }
        };
        handle.shared.observer.count(Counter::OverBudget, 1);
        tokio::time::sleep_until(later.min(patience).into()).await;
    };
    let began = Instant::now();
    let result = asked.await;
    handle.budget().end(&ticket, began.elapsed(), Instant::now());
    // What had to wait for the budget may go now.
    handle.shared.asked.notify_one();
    result
}

/// The keys that rows name.
struct Named<'a> {
    product: &'a Product,
    seen: HashSet<Key>,
    keys: Vec<Key>,
}

impl Named<'_> {
    /// A row with a NULL names none.
    fn row(&mut self, row: &[Option<String>]) {
        let values: Option<Vec<&str>> = row.iter().map(Option::as_deref).collect();
        let Some(values) = values else { return };
        let key = Key::new(self.product.name(), values);
        if key.as_str().len() <= KEY_BYTES_MAX && self.seen.insert(key.clone()) {
            self.keys.push(key);
        }
    }
}

async fn of_other(handle: &Handle, product: &Product, other: &str) -> Vec<Key> {
    let slot = handle.shared.catalog.borrow().products.get(other).cloned();
    let Some(source) = slot.as_ref().and_then(|slot| slot.product()) else { return Vec::new() };
    let place = |parameter: &crate::product::parameter::Parameter| {
        source
            .parameters
            .iter()
            .position(|twin| twin.name == parameter.name && twin.type_ == parameter.type_)
    };
    let places: Option<Vec<usize>> = product.parameters.iter().map(place).collect();
    // It was edited since, and is refused at its next load.
    let Some(places) = places else { return Vec::new() };
    let (mut from, mut seen, mut keys) = (String::new(), HashSet::new(), Vec::new());
    loop {
        let some = handle.ledger().some_from(other, &from, AT_ONCE);
        let Some(last) = some.last() else { return keys };
        from = after(last);
        for key in &some {
            let values = key.values();
            let own = places.iter().filter_map(|place| values.get(*place).map(String::as_str));
            let own = Key::new(product.name(), own);
            if seen.insert(own.clone()) {
                keys.push(own);
            }
        }
        tokio::task::yield_now().await;
    }
}

/// The first text behind this key's.
pub(super) fn after(key: &Key) -> String {
    format!("{}\0", key.as_str())
}
