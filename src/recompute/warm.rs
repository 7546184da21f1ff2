//! A product's `warm` → its warm keys: rows of a query, or the keys of another product.

use std::{collections::HashSet, sync::Arc};

use crate::{
    key::Key,
    postgres::{self, describe_chain},
    product::{
        Product,
        warm::{self, Domain},
    },
};

use super::Handle;

/// Keys looked at while the ledger is locked once.
pub(super) const AT_ONCE: usize = 500;

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
            let rows = source.texts(&warm::statement(product, sql, most)).await;
            let rows = rows.map_err(|error| match &error {
                // What Postgres says may hold a row's values.
                postgres::Error::Statement { sqlstate, .. } => format!("SQLSTATE {sqlstate}"),
                _ => describe_chain(&error),
            })?;
            Ok(of_rows(product, &rows))
        }
    }
}

/// One key a row; a row with a NULL names none.
fn of_rows(product: &Product, rows: &[Vec<Option<String>>]) -> Vec<Key> {
    let mut seen = HashSet::with_capacity(rows.len());
    let key = |row: &Vec<Option<String>>| {
        let values: Option<Vec<&str>> = row.iter().map(Option::as_deref).collect();
        let key = Key::new(product.name(), values?);
        let sound = key.as_str().len() <= KEY_BYTES_MAX && seen.insert(key.clone());
        sound.then_some(key)
    };
    rows.iter().filter_map(key).collect()
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
