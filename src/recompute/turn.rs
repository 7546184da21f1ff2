//! Keys that a worker computes, and its place among those that execute. Whatever ends it, the place is given back, and
//! keys that were not answered go to the next worker: nobody waits for one that is gone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::key::Key;

use super::{Error, Fresh, Handle, budget::Ticket, crew::Why, queue::Claim};

/// See the module.
pub(super) struct Turn<'w> {
    handle: &'w Handle,
    pub(super) claim: Claim,
    /// What it takes of the source's budget, and its place among those who do; neither where the source has no part.
    held: Option<(Ticket, u64)>,
    began: Instant,
    /// The keys of the statement that executes.
    pub(super) executing: Vec<Key>,
    /// How long the source was at work; what was lost on the way to it was not its time. `None` until that is known.
    pub(super) spent: Option<Duration>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        let spent = self.spent.unwrap_or_else(|| self.began.elapsed());
        if let Some((ticket, place)) = &self.held {
            self.handle.budget().end(ticket, spent, now);
            self.handle.crew().places.leave(*place);
        }
        if self.spent.is_none() {
            self.abandon(now);
        }
        // What had to wait for the budget or for a place may go now.
        self.handle.ask_workers();
    }
}

impl<'w> Turn<'w> {
    /// It begins.
    pub(super) fn new(
        handle: &'w Handle,
        claim: Claim,
        held: Option<(Ticket, u64)>,
        began: Instant,
    ) -> Self {
        Self { handle, claim, held, began, executing: Vec::new(), spent: None }
    }

    /// The keys that were being computed go alone from now on, so that one of them that does this again does it to itself
    /// only; whoever waits for it then is told.
    fn abandon(&self, now: Instant) {
        let keys = self.handle.queue().claimed(self.claim.id);
        for key in &keys {
            let again = self.executing.contains(key) && {
                let alone = &mut self.handle.crew().alone;
                let again = alone.why(key, now) == Some(Why::Died);
                alone.remember(key, Why::Died, now);
                again
            };
            if again {
                let sqlstate = "XX000".to_owned();
                answer(self.handle, key, &Err(Error::ProductBroken { sqlstate }));
            } else if !self.handle.queue().abandon(key, now) {
                self.handle.queue_refresh(key, None);
            }
        }
    }
}

/// Ends the computation of a key; who waited for it gets this.
pub(super) fn answer(handle: &Handle, key: &Key, result: &Result<Arc<Fresh>, Error>) {
    for waiter in handle.finish(key) {
        // A reader that has gone needs no answer.
        drop(waiter.send(result.clone()));
    }
}
