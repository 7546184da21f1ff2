//! Who waits for keys to move: key → the watchers to wake.
//!
//! A watcher of a thousand keys waits at one place: it is told which of them moved, each at most once however often
//! that happens before it looks. So a reader that is slow costs what it watches, never what happened meanwhile.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio::sync::Notify;

use crate::key::Key;

/// All watchers of one process.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    /// By key, each watcher with its own number for it. Locked to enter, to leave, and to tell.
    by_key: Mutex<ByKey>,
    next: AtomicU64,
}

type ByKey = HashMap<Key, HashMap<u64, (usize, Arc<Signal>)>>;

/// What one watcher has not looked at yet.
#[derive(Debug, Default)]
struct Signal {
    /// Locked to add one, or to take all.
    moved: Mutex<Moved>,
    notify: Notify,
}

/// Keys that moved, by the watcher's own numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Moved {
    /// Which.
    pub keys: BTreeSet<usize>,
    /// When the first of them did.
    pub since: Option<Instant>,
}

impl Signal {
    fn moved(&self) -> MutexGuard<'_, Moved> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watchers {
    fn by_key(&self) -> MutexGuard<'_, ByKey> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches these keys, numbered as they come, until dropped.
    pub(super) fn watch(self: &Arc<Self>, keys: Vec<Key>) -> Watching {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let signal = Arc::new(Signal::default());
        let mut by_key = self.by_key();
        for (number, key) in keys.iter().enumerate() {
            by_key.entry(key.clone()).or_default().insert(id, (number, Arc::clone(&signal)));
        }
        drop(by_key);
        Watching { watchers: Arc::clone(self), id, keys, signal }
    }

    /// Whether anybody watches this key.
    pub(super) fn is_watched(&self, key: &Key) -> bool {
        self.by_key().contains_key(key)
    }

    /// The key's answer has moved.
    pub(super) fn moved(&self, key: &Key) {
        if let Some(watchers) = self.by_key().get(key) {
            let now = Instant::now();
            for (number, signal) in watchers.values() {
                let mut moved = signal.moved();
                moved.since.get_or_insert(now);
                moved.keys.insert(*number);
                drop(moved);
                signal.notify.notify_one();
            }
        }
    }
}

/// A reader's interest in some keys, each at most once; ends when dropped.
#[derive(Debug)]
pub struct Watching {
    watchers: Arc<Watchers>,
    id: u64,
    keys: Vec<Key>,
    signal: Arc<Signal>,
}

impl Watching {
    /// Returns once a key has moved that was not taken yet; many waits may be given up on the way.
    pub async fn moved(&self) {
        loop {
            if !self.signal.moved().keys.is_empty() {
                return;
            }
            self.signal.notify.notified().await;
        }
    }

    /// What has moved since the last time. Take before looking at a key, so that a move meanwhile shows again.
    pub fn take(&self) -> Moved {
        std::mem::take(&mut self.signal.moved())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut by_key = self.watchers.by_key();
        for key in &self.keys {
            if let Some(watchers) = by_key.get_mut(key) {
                watchers.remove(&self.id);
                if watchers.is_empty() {
                    by_key.remove(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::from_stored(text)
    }

    #[tokio::test]
    async fn a_key_that_moves_often_shows_once() {
        let watchers = Arc::new(Watchers::default());
        let watching = watchers.watch(vec![key("p/1"), key("p/2")]);
        for _ in 0..3 {
            watchers.moved(&key("p/2"));
        }
        watchers.moved(&key("p/3"));
        watching.moved().await;
        let moved = watching.take();
        assert_eq!(moved.keys, BTreeSet::from([1]));
        assert!(moved.since.is_some());
        assert_eq!(watching.take(), Moved::default());
    }

    #[tokio::test]
    async fn a_move_before_the_wait_is_not_lost() {
        let watchers = Arc::new(Watchers::default());
        let watching = watchers.watch(vec![key("p/1")]);
        watchers.moved(&key("p/1"));
        watching.moved().await;
        watching.moved().await;
        assert_eq!(watching.take().keys.len(), 1);
        assert!(futures_util::FutureExt::now_or_never(watching.moved()).is_none());
    }

    #[test]
    fn who_leaves_is_forgotten() {
        let watchers = Arc::new(Watchers::default());
        let (one, other) = (watchers.watch(vec![key("p/1")]), watchers.watch(vec![key("p/1")]));
        drop(one);
        assert!(watchers.is_watched(&key("p/1")));
        drop(other);
        assert!(!watchers.is_watched(&key("p/1")) && watchers.by_key().is_empty());
    }
}
