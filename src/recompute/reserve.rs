//! Floors of stamps and versions, reserved ahead in blocks so that no start issues one twice (R6).

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    entry::Stamp,
    store::{Error, Store, state},
};

/// Stamps are reserved for this much growth of the packed snapshot: 65,536 transaction ids.
const STAMP_BLOCK: u64 = 1 << 32;

/// Versions are microseconds of the source's clock: a minute's worth.
const VERSION_BLOCK: u64 = 60_000_000;

/// Every stamp and version issued is at most these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floors {
    /// Of stamps.
    pub stamp: Stamp,
    /// Of versions.
    pub version: u64,
}

/// Issues state stamps and keeps the floors ahead of what is issued.
pub struct Reserve {
    store: Arc<dyn Store>,
    durable: Mutex<Floors>,
    /// One reservation at a time; others wait for it and look again.
    turn: tokio::sync::Mutex<()>,
    sequence: AtomicU64,
}

impl Reserve {
    /// Goes on from the floors of earlier starts. State cells of this start are written with stamps of `term`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, term: u32, floors: Floors) -> Self {
        let sequence = AtomicU64::new(u64::from(term) << 32);
        Self { store, durable: Mutex::new(floors), turn: tokio::sync::Mutex::new(()), sequence }
    }

    /// The write time of the next state cell: later ones are higher, also over restarts.
    pub fn state_stamp(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns when nothing up to `stamp` and `version` can be issued again after a restart.
    ///
    /// # Errors
    /// When the store does not take the reservation; nothing may be written with that stamp then.
    pub async fn ensure(&self, stamp: Stamp, version: u64) -> Result<(), Error> {
        while !self.covers(stamp, version) {
            let _turn = self.turn.lock().await;
            if self.covers(stamp, version) {
                break;
            }
            let durable = self.floors();
            let next = Floors {
                stamp: Stamp(stamp.0.max(durable.stamp.0).saturating_add(STAMP_BLOCK)),
                version: version.max(durable.version).saturating_add(VERSION_BLOCK),
            };
            let cell = state::floors(next.stamp, next.version, self.state_stamp());
            self.store.save(&[cell]).await?;
            *self.durable.lock().unwrap_or_else(PoisonError::into_inner) = next;
        }
        Ok(())
    }

    fn covers(&self, stamp: Stamp, version: u64) -> bool {
        let floors = self.floors();
        stamp <= floors.stamp && version <= floors.version
    }

    fn floors(&self) -> Floors {
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
