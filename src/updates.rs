//! Files of updates that move while kck runs → what `/update` runs.
//!
//! An update has no state: what its file says takes the place of what it said, once the source has taken it. What the
//! source refuses is asked again, for its tables may come; SIGHUP asks of all.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    load,
    observe::Event,
    parts::Parts,
    postgres::{Client, Error, describe_chain},
    product::{Draft, Fault, Update, UpdateSlot, files::Drafts, listed},
    reload::{LOOK_EVERY, aside, told},
};

/// What the source refused is asked again after this, doubling …
const RETRY_FIRST: Duration = Duration::from_secs(2);
/// … up to this.
const RETRY_MOST: Duration = Duration::from_secs(30);
/// Updates loaded between two looks at the files, at most.
const LOADED_AT_ONCE: usize = 100;

/// Keeps what runs as the files say.
pub(crate) struct Updates {
    parts: Arc<Parts>,
    drafts: Drafts,
    client: Option<Client>,
    /// Files that moved.
    due: BTreeSet<String>,
    /// What the source refused.
    refused: BTreeSet<String>,
    retry: (Instant, Duration),
}

impl Updates {
    /// Goes on from the files as the start read them.
    pub(crate) fn new(parts: Arc<Parts>, drafts: Drafts) -> Self {
        let broken = |(name, slot): (&String, &UpdateSlot)| {
            let sound = matches!(drafts.said(name), Some(Ok(_)));
            (sound && !slot.faults().is_empty()).then(|| name.clone())
        };
        let refused = parts.catalog.borrow().updates.iter().filter_map(broken).collect();
        let retry = (Instant::now() + RETRY_FIRST, RETRY_FIRST);
        Self { parts, drafts, client: None, due: BTreeSet::new(), refused, retry }
    }

    /// Looks at files every second, and at once when told by SIGHUP; for as long as kck runs.
    pub(crate) async fn run(mut self) {
        let mut hangups = signal(SignalKind::hangup()).ok();
        loop {
            let all = tokio::select! {
                () = told(&mut hangups) => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            self.look(all).await;
            self.load().await;
        }
    }

    async fn look(&mut self, all: bool) {
        let drafts = std::mem::take(&mut self.drafts);
        let (drafts, moved) = aside(drafts, move |drafts| drafts.look(all)).await;
        self.drafts = drafts;
        let (at, pause) = self.retry;
        if !moved.is_empty() || all {
            self.retry = (Instant::now(), RETRY_FIRST);
        } else if at <= Instant::now() {
            self.retry = (Instant::now() + pause, (pause * 2).min(RETRY_MOST));
            self.due.append(&mut self.refused);
        }
        if all {
            self.due.extend(self.drafts.names().cloned());
        }
        self.due.extend(moved);
        let faults = self.drafts.faults();
        if self.parts.catalog.borrow().update_faults != faults {
            let faults = faults.to_vec();
            self.parts.catalog.send_modify(|catalog| Arc::make_mut(catalog).update_faults = faults);
        }
    }

    async fn load(&mut self) {
        let names: Vec<String> = self.due.iter().take(LOADED_AT_ONCE).cloned().collect();
        for name in names {
            self.refused.remove(&name);
            match self.drafts.said(&name).cloned() {
                None => self.remove(&name),
                Some(Err(faults)) => self.place(&name, Err(faults)),
                Some(Ok(draft)) => match self.ask(draft).await {
                    Ok(loaded) => {
                        if loaded.is_err() {
                            self.refused.insert(name.clone());
                        }
                        self.place(&name, loaded);
                    }
                    // The source cannot be asked now: all that is left is due at the next look.
                    Err(error) => {
                        let error = describe_chain(&error);
                        tracing::warn!(update = name, error, "loaded later");
                        self.client = None;
                        return;
                    }
                },
            }
            self.due.remove(&name);
        }
        if self.due.is_empty() {
            self.client = None;
        }
    }

    async fn ask(&mut self, draft: Draft) -> Result<Result<Update, Vec<Fault>>, Error> {
        let open = match self.client.take().filter(|client| !client.is_closed()) {
            Some(open) => open,
            None => {
                let settings = [("lock_timeout", "2s"), ("statement_timeout", "20s")];
                self.parts.source.connect("describe", &settings).await?
            }
        };
        load::update(self.client.insert(open), draft).await
    }

    /// An update runs as it was just loaded, or its file does not load.
    fn place(&self, name: &str, loaded: Result<Update, Vec<Fault>>) {
        let mut event = None;
        self.parts.catalog.send_modify(|catalog| {
            let updates = &mut Arc::make_mut(catalog).updates;
            let before = updates.get(name).cloned();
            let slot = placed(before.as_ref(), loaded);
            if before.as_ref() != Some(&slot) {
                event = Some(said_of(name, &slot));
                updates.insert(name.to_owned(), slot);
            }
        });
        if let Some(event) = event {
            self.parts.observer.note(event);
        }
    }

    fn remove(&self, name: &str) {
        self.parts.catalog.send_modify(|catalog| {
            Arc::make_mut(catalog).updates.remove(name);
        });
        self.parts.observer.note(Event::UpdateRemoved { update: name.to_owned() });
    }
}

/// The place of an update in the catalogue, by what it was and what became of its file.
fn placed(before: Option<&UpdateSlot>, loaded: Result<Update, Vec<Fault>>) -> UpdateSlot {
    match (loaded, before) {
        (Ok(update), _) => UpdateSlot::Ready { update: Arc::new(update), faults: Vec::new() },
        (Err(faults), Some(UpdateSlot::Ready { update, .. })) => {
            UpdateSlot::Ready { update: Arc::clone(update), faults }
        }
        (Err(faults), _) => UpdateSlot::Broken { faults },
    }
}

fn said_of(name: &str, slot: &UpdateSlot) -> Event {
    let why = listed(slot.faults());
    let update = name.to_owned();
    match slot {
        UpdateSlot::Ready { faults, .. } if faults.is_empty() => Event::UpdateLoaded { update },
        UpdateSlot::Ready { .. } => Event::UpdateKept { update, why },
        UpdateSlot::Broken { .. } => Event::UpdateBroken { update, why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::update::tests::update;

    fn running() -> UpdateSlot {
        let update = Arc::new(update("delete from t", &[]));
        UpdateSlot::Ready { update, faults: Vec::new() }
    }

    fn faults() -> Vec<Fault> {
        vec![Fault::at(std::path::Path::new("u.sql"), "", 0, "what", "hint")]
    }

    #[test]
    fn a_broken_edit_keeps_what_runs() {
        let kept = placed(Some(&running()), Err(faults()));
        assert!(matches!(&kept, UpdateSlot::Ready { faults, .. } if faults.len() == 1));
        assert!(matches!(said_of("u", &kept), Event::UpdateKept { .. }));
        let again = placed(Some(&kept), Ok(update("delete from t", &[])));
        assert_eq!(again, running());
        assert!(matches!(said_of("u", &again), Event::UpdateLoaded { .. }));
    }

    #[test]
    fn what_never_ran_is_broken_until_it_loads() {
        let broken = placed(None, Err(faults()));
        assert!(matches!(said_of("u", &broken), Event::UpdateBroken { .. }));
        let update = update("delete from t", &[]);
        assert_eq!(placed(Some(&broken), Ok(update)), running());
    }
}
