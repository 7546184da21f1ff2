//! Keys that the queue had no room for → woken again when it has.
//!
//! What is remembered is coarse: the products of which a key did not fit. Their keys are gone through once there is room
//! again, some at a time, and those that are stale and were to be computed are asked for.

use std::sync::{Arc, PoisonError};

use crate::key::Key;

use super::{Handle, warm::after};

/// Keys looked at in one turn.
const AT_ONCE: usize = 1024;

/// How far a product's keys have been gone through.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// From this text on they have not.
    from: String,
    /// More did not fit meanwhile.
    again: bool,
}

impl Handle {
    /// A key of this product did not fit.
    pub(super) fn did_not_fit(&self, product: &str) {
        let mut missed = self.shared.missed.lock().unwrap_or_else(PoisonError::into_inner);
        match missed.get_mut(product) {
            Some(walk) => walk.again = true,
            None => drop(missed.insert(product.to_owned(), Walk::default())),
        }
    }

    /// Goes on with the keys that did not fit, if the queue has room; whether there may be more to do at once.
    pub(super) fn take_up(&self) -> bool {
        let mut missed = self.shared.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if missed.is_empty() || !self.queue().has_room() {
            return false;
        }
        // One that has no room of its own keeps no other waiting.
        let next = missed.keys().find(|product| self.has_room_for(product)).cloned();
        let Some((product, mut walk)) = next.and_then(|product| missed.remove_entry(&product))
        else {
            return false;
        };
        // Whoever does not fit meanwhile is noted beside it.
        drop(missed);
        let end = self.walk(&product, &mut walk.from);
        let mut missed = self.shared.missed.lock().unwrap_or_else(PoisonError::into_inner);
        walk.again |= missed.remove(&product).is_some();
        if !end || walk.again {
            let walk = if end { Walk::default() } else { walk };
            missed.insert(product, walk);
        }
        missed.keys().any(|product| self.has_room_for(product))
    }

    fn has_room_for(&self, product: &str) -> bool {
        let most = self.shared.config.queued_outside() / 2;
        !self.is_outside(product) || self.queue().waiting_of(product) <= most
    }

    /// Wakes some of a product's keys from this text on; whether there are no more.
    fn walk(&self, product: &str, from: &mut String) -> bool {
        let catalog = Arc::clone(&self.shared.catalog.borrow());
        let keys = self.ledger().some_from(product, from, AT_ONCE);
        for key in &keys {
            if self.is_stale(key) && !self.wake_key(&catalog, key) {
                *from = key.as_str().to_owned();
                return false;
            }
        }
        let Some(last) = keys.last() else { return true };
        *from = after(last);
        keys.len() < AT_ONCE
    }

    /// Whether a key is to be computed: V has passed what marked it, and what is kept is older.
    fn is_stale(&self, key: &Key) -> bool {
        let as_of = self.shared.progress.borrow().as_of();
        let passed = as_of >= self.ledger().mark_of(key);
        passed && self.look(key).is_none_or(|(standing, _)| !standing.fresh)
    }
}
