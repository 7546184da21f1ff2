//! Lane: queued keys of programs and addresses → their recipes, beside the workers of the source.
//!
//! They spend no time of the source, so neither its connections nor its budget hold them up, and none of them holds up
//! what is in SQL. Each key has a task and a place of its own pool; where a pool has none, others go on.

use std::{sync::Arc, time::Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Handle,
    outside::{Permit, Recipes},
    worker::{Worker, past, sooner},
};
use crate::{
    observe::Event,
    product::{Product, Slot},
};

/// Of so many turns one is for what nobody waits for.
const TURNS: u64 = 8;

/// Computes what is queued of programs and addresses until told to stop.
pub async fn run(handle: Handle, recipes: Arc<Recipes>, shutdown: CancellationToken) {
    let worker = Arc::new(Worker::new(handle.clone(), Arc::<Recipes>::clone(&recipes)));
    let mut lane = Lane { handle, recipes, worker, running: JoinSet::new(), turn: 0 };
    let mut catalog = lane.handle.shared.catalog.clone();
    catalog.mark_changed();
    loop {
        let handle = lane.handle.clone();
        let recipes = Arc::clone(&lane.recipes);
        let asked = handle.shared.asked_outside.notified();
        let until = lane.start();
        tokio::select! {
            () = asked => {}
            () = recipes.freed.notified() => {}
            () = past(until) => {}
            Some(ended) = lane.running.join_next() => {
                if let Err(why) = ended {
                    handle.shared.observer.note(Event::WorkerDied { why: why.to_string() });
                }
            }
            Ok(()) = catalog.changed() => {
                let catalog = Arc::clone(&catalog.borrow_and_update());
                recipes.follow(&catalog);
            }
            () = shutdown.cancelled() => break,
        }
    }
    lane.recipes.close().await;
}

struct Lane {
    handle: Handle,
    recipes: Arc<Recipes>,
    worker: Arc<Worker>,
    running: JoinSet<()>,
    turn: u64,
}

impl Lane {
    /// Starts every key for which there is a place; when to look again comes back.
    fn start(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.turn += 1;
        let held = self.handle.let_go_overdue(now);
        let candidates = {
            let mut queue = self.handle.queue();
            let rest_first = self.turn.is_multiple_of(TURNS);
            queue.candidates_in(now, rest_first)
        };
        let due = self.handle.queue().due();
        let mut wait = sooner(due, held);
        for candidate in candidates {
            let Some(product) = self.product(&candidate.product) else { continue };
            if !candidate.urgent
                && let Some(until) = self.handle.crew().rests.until(product.name(), now)
            {
                wait = sooner(wait, Some(until));
                continue;
            }
            loop {
                match self.recipes.room(&product, candidate.urgent) {
                    Ok(permit) => {
                        let claim = self.handle.queue().take(&candidate, 1, now);
                        if claim.keys.is_empty() {
                            break;
                        }
                        let worker = Arc::clone(&self.worker);
                        self.running.spawn(async move {
                            let _place: Permit = permit;
                            worker.take_turn(claim, now).await;
                        });
                    }
                    Err(later) => {
                        wait = sooner(wait, later);
                        break;
                    }
                }
            }
        }
        wait
    }

    /// A product of this lane.
    fn product(&self, name: &str) -> Option<Arc<Product>> {
        let catalog = self.handle.shared.catalog.borrow();
        match catalog.products.get(name) {
            Some(Slot::Ready { product, .. }) if !product.draft.recipe.is_sql() => {
                Some(Arc::clone(product))
            }
            _ => None,
        }
    }
}
