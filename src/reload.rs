//! Files and definitions that move while kck runs → products that leave, run on as they were, or join anew.
//!
//! Whatever moved, a product is *settled*: what its file says now, what runs of it and what the source says of both
//! come together in one place. A product that is settled twice is as it was.
//!
//! Invariant: what runs is described by the source, followed where it says so, and matched by its own rules from the
//! position on at which it joined.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::MutexGuard,
};

use crate::{
    change::{Lsn, Position, TableId},
    depend::Index,
    key::Key,
    load,
    observe::Event,
    parts::Parts,
    postgres::{
        Client, Error as SourceError, describe_chain,
        publication::{self, Publication, Unusable},
    },
    product::{Draft, Fault, Product, Slot, files::Files, listed},
    recompute::ledger::Terms,
    roster::{Known, Members},
    store::{
        self,
        state::{self, Seen},
    },
};

/// Between two looks at the files.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What the source refuses is tried again after this, doubling …
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// … up to this.
const RETRY_MOST: Duration = Duration::from_secs(8);
/// Products settled between two looks at the files, at most.
const SETTLED_AT_ONCE: usize = 100;
/// Of all products together, tries of what the source refuses come at least this far apart.
const RETRY_EACH: Duration = Duration::from_millis(50);
/// Keys let go of in one write.
const FORGET_AT_ONCE: usize = 1000;

#[derive(Debug, thiserror::Error)]
enum Error {
    /// Nothing can be said of any product for now.
    #[error(transparent)]
    Source(SourceError),
    /// Nothing can be said of this product for now.
    #[error(transparent)]
    Product(SourceError),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the tables of a product change while it is loaded")]
    Moves,
}

impl From<SourceError> for Error {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Gone { .. } | SourceError::Unreachable { .. } => Self::Source(error),
            SourceError::Refused { .. } | SourceError::Statement { .. } => Self::Product(error),
        }
    }
}

/// When a product is settled next, and after which pause once more.
#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    pause: Duration,
}

impl Due {
    fn now() -> Self {
        Self { at: Instant::now(), pause: RETRY_FIRST }
    }

    /// One of `all` that are due.
    fn later(self, all: usize) -> Self {
        let each = RETRY_EACH * u32::try_from(all).unwrap_or(u32::MAX);
        Self { at: Instant::now() + self.pause.max(each), pause: (self.pause * 2).min(RETRY_MOST) }
    }
}

/// Keeps what runs as files and source say.
pub(crate) struct Reload {
    parts: Arc<Parts>,
    client: Option<(Client, u64)>,
    files: Files,
    looked_at: Instant,
    due: BTreeMap<String, Due>,
    /// Products of which every key must go: they are no more, or their keys mean something else.
    rubbish: BTreeSet<String>,
    /// Tables that may have been published, though nothing was heard of it.
    unsure: BTreeSet<TableId>,
    /// The publication may have tables that nobody reads any more.
    surplus: bool,
}

/// Looks at files where that keeps nobody waiting.
pub(crate) async fn aside<T: Send + 'static, R: Send + 'static>(
    mut files: T,
    look: impl FnOnce(&mut T) -> R + Send + 'static,
) -> (T, R) {
    let looked = tokio::task::spawn_blocking(move || {
        let moved = look(&mut files);
        (files, moved)
    });
    match looked.await {
        Ok(looked) => looked,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime ends, and this task with it.
        Err(_) => std::future::pending().await,
    }
}

/// Returns at SIGHUP.
pub(crate) async fn told(hangups: &mut Option<Signal>) {
    if let Some(hangups) = hangups
        && hangups.recv().await.is_some()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// What to ask the source of a product, and what is wrong without asking.
#[derive(Debug, PartialEq, Eq, Default)]
struct Question {
    /// The first that the source takes runs.
    drafts: Vec<Draft>,
    faults: Vec<Fault>,
}

/// What is to be decided of a product with this file, `said`, and this place in the catalogue; `works` says whether
/// what runs is what the source knows.
fn question(said: &Result<Draft, Vec<Fault>>, slot: Option<&Slot>, works: bool) -> Question {
    let mut question = Question::default();
    let running = slot.and_then(Slot::product);
    match said {
        Ok(draft) if works && running.is_some_and(|running| running.draft == *draft) => {}
        Ok(draft) => question.drafts.push(draft.clone()),
        Err(faults) => question.faults.clone_from(faults),
    }
    let last = running.filter(|_| !works).map(|running| &running.draft);
    // What broke by the hand of another may work again, whatever became of its file.
    question.drafts.extend(last.filter(|last| said.as_ref() != Ok(last)).cloned());
    question
}

/// The place of a product of which the source took no draft.
fn unplaced(slot: Option<&Slot>, works: bool, faults: Vec<Fault>) -> Slot {
    match slot.and_then(Slot::product).cloned() {
        Some(product) if works => Slot::Ready { product, faults },
        last => Slot::Broken { last, faults },
    }
}

/// What is to be told of a product in this place.
fn trouble(name: &str, slot: &Slot) -> Option<Event> {
    let faults = slot.faults();
    let why = listed(faults);
    let product = name.to_owned();
    match slot {
        Slot::Ready { .. } if faults.is_empty() => None,
        Slot::Ready { .. } => Some(Event::ProductKept { product, why }),
        Slot::Broken { .. } => Some(Event::ProductBroken { product, why }),
    }
}

/// A draft that the source takes, with what it stands on.
struct Analysed {
    product: Product,
    /// With this product's rules.
    index: Index,
    seen: Seen,
}

impl Reload {
    /// Goes on from the files as the start read them.
    pub(crate) fn new(parts: Arc<Parts>, files: Files) -> Self {
        let broken = |(name, slot): (&String, &Slot)| {
            let refused =
                matches!(slot, Slot::Broken { .. }) && matches!(files.said(name), Some(Ok(_)));
            refused.then(|| (name.clone(), Due::now().later(1)))
        };
        let due = parts.catalog.borrow().products.iter().filter_map(broken).collect();
        Self {
            parts,
            client: None,
            files,
            looked_at: Instant::now(),
            due,
            rubbish: BTreeSet::new(),
            unsure: BTreeSet::new(),
            surplus: false,
        }
    }

    /// Looks at files every second, at once when told by SIGHUP or by whoever sees definitions move; for as long as
    /// kck runs.
    pub(crate) async fn run(mut self) {
        let mut hangups = signal(SignalKind::hangup()).ok();
        let mut all = false;
        loop {
            if all || self.looked_at.elapsed() >= LOOK_EVERY {
                self.look(all).await;
            }
            let asked = self.parts.roster.members().await.asked();
            self.due.extend(asked.into_iter().map(|name| (name, Due::now())));
            self.settle_due().await;
            let roster = Arc::clone(&self.parts.roster);
            all = tokio::select! {
                () = told(&mut hangups) => true,
                () = roster.was_asked() => false,
                () = tokio::time::sleep(self.pause()) => false,
            };
        }
    }

    fn pause(&self) -> Duration {
        let now = Instant::now();
        let waits = self.due.values().all(|due| due.at > now);
        if waits { LOOK_EVERY.saturating_sub(self.looked_at.elapsed()) } else { Duration::ZERO }
    }

    /// Gathers what has moved.
    async fn look(&mut self, all: bool) {
        let files = std::mem::take(&mut self.files);
        let (files, moved) = aside(files, move |files| files.look(all)).await;
        (self.files, self.looked_at) = (files, Instant::now());
        self.due.extend(moved.into_iter().map(|name| (name, Due::now())));
        if all {
            self.due.values_mut().for_each(|due| *due = Due::now());
        }
        let faults = self.files.faults();
        if self.parts.catalog.borrow().faults != faults {
            let faults = faults.to_vec();
            self.parts.catalog.send_modify(|catalog| Arc::make_mut(catalog).faults = faults);
        }
    }

    async fn settle_due(&mut self) {
        let now = Instant::now();
        let due = self.due.iter().filter(|(_, due)| due.at <= now);
        let names: Vec<String> = due.map(|(name, _)| name.clone()).take(SETTLED_AT_ONCE).collect();
        let mut trouble = None;
        for name in names {
            let roster = Arc::clone(&self.parts.roster);
            let publishing = roster.publishing().await;
            match self.settle(&name, &publishing).await {
                Ok(true) => {
                    self.due.remove(&name);
                }
                Ok(false) => self.later(&name),
                Err(error @ (Error::Source(_) | Error::Store(_))) => {
                    self.later(&name);
                    trouble = Some(describe_chain(&error));
                    break;
                }
                // It runs as it did, or is answered uncached; others go on.
                Err(error) => {
                    self.later(&name);
                    tracing::warn!(product = name, error = describe_chain(&error), "loaded later");
                }
            }
        }
        self.parts.observer.part("reload", trouble);
        if self.surplus
            && let Err(error) = self.retire().await
        {
            tracing::warn!(error = describe_chain(&error), "the publication keeps tables for now");
        }
        if self.due.is_empty() {
            self.client = None;
        }
    }

    fn later(&mut self, name: &str) {
        let all = self.due.len();
        if let Some(due) = self.due.get_mut(name) {
            *due = due.later(all);
        }
    }

    /// One product, as its file and the source have it now. Whether nothing is left to be tried again comes back.
    async fn settle(&mut self, name: &str, publishing: &MutexGuard<'_, ()>) -> Result<bool, Error> {
        let Some(said) = self.files.said(name).cloned() else {
            self.remove(name).await?;
            return Ok(true);
        };
        let slot = self.parts.catalog.borrow().products.get(name).cloned();
        let works = {
            let members = self.parts.roster.members().await;
            members.known().get(name).is_some_and(|known| known.works)
        };
        let Question { drafts, mut faults } = question(&said, slot.as_ref(), works);
        let tried = !drafts.is_empty();
        for draft in drafts {
            match self.analyse(draft, publishing).await? {
                Ok(analysed) => {
                    // What the file says now may have been refused before this one was taken.
                    let done = faults.is_empty() || said.is_err();
                    self.place(slot.as_ref(), analysed, faults).await?;
                    return Ok(done);
                }
                Err(found) => faults.extend(found),
            }
        }
        self.leave_unplaced(name, slot.as_ref(), works, faults).await;
        Ok(!tried)
    }

    /// Asks the source of a draft, and publishes what it reads.
    async fn analyse(
        &mut self,
        draft: Draft,
        _publishing: &MutexGuard<'_, ()>,
    ) -> Result<Result<Analysed, Vec<Fault>>, Error> {
        let index = Arc::clone(&self.parts.index.borrow());
        let product = match load::product(self.client().await?, draft).await? {
            Ok(product) => product,
            Err(faults) => return Ok(Err(faults)),
        };
        if let Some(fault) = load::stranger(&product, &self.parts.catalog.borrow()) {
            return Ok(Err(vec![fault]));
        }
        if !product.draft.policy.change {
            let seen = load::seen(&product, &Publication::default(), &BTreeSet::new());
            let index = index.without(product.name());
            return Ok(Ok(Analysed { product, index, seen }));
        }
        let shared = Arc::new(product);
        let next = index.with(&shared);
        let tables = load::tables_of(&next, shared.name());
        let wanted: BTreeSet<TableId> = index.tables().chain(tables.iter().copied()).collect();
        let (publication, unusable) = match self.publish(&wanted).await {
            // The table's owner must help; others go on.
            Err(Error::Product(SourceError::Refused { message, hint, sqlstate, .. })) => {
                let fault = shared.draft.fault(shared.draft.question.offset, message, hint);
                return Ok(Err(vec![Fault { sqlstate, ..fault }]));
            }
            published => published?,
        };
        let unusable = unusable.iter().filter(|table| tables.contains(&table.table));
        let faults: Vec<Fault> =
            unusable.map(|table| load::unfollowed(&shared.draft, table)).collect();
        if !faults.is_empty() {
            self.surplus = true;
            return Ok(Err(faults));
        }
        let seen = load::seen(&shared, &publication, &tables);
        if !tables.is_subset(&publication.complete()) {
            return Err(Error::Moves);
        }
        let product = Arc::unwrap_or_clone(shared);
        Ok(Ok(Analysed { product, index: next, seen }))
    }

    /// A product runs as it was just analysed.
    ///
    /// Where it means what it meant and is matched, only its settings are exchanged. Else the order is this; after a
    /// crash between any two steps it is not listed, and the next start joins it by what its file says then:
    /// 1. its tables are published (before this is called);
    /// 2. it leaves the list, durably: no start goes on with what was marked by its old rules alone;
    /// 3. its keys go, durably, where the same text is another key now;
    /// 4. the ledger takes its new fingerprint, under another generation: no entry and no result of before is fresh,
    ///    and nothing is kept of it;
    /// 5. the index is published: every transaction of which the first change is received from here on is folded by its
    ///    new rules as a whole; of those folded by the old ones each ended below the source's insert position here;
    /// 6. it joins ([`crate::join`]): writers of newly published tables end, the connection is opened anew, a barrier
    ///    gives an insert position, up to there it is marked as a whole, durably; then it is listed, durably; then
    ///    entries may be kept that were begun with V at or past that position. Commits folded by the old rules are
    ///    all visible to those.
    async fn place(
        &mut self,
        slot: Option<&Slot>,
        analysed: Analysed,
        faults: Vec<Fault>,
    ) -> Result<(), Error> {
        let Analysed { mut product, index, seen } = analysed;
        let (name, definition) = (product.name().to_owned(), product.fingerprint);
        let before = slot.and_then(Slot::product);
        let parts = Arc::clone(&self.parts);
        let mut members = parts.roster.members().await;
        let known = members.known().get(&name);
        if let (Some(before), Some(known)) = (before, known)
            && known.works
            && known.definition == definition
        {
            product.fingerprint = before.fingerprint;
            self.run_as(product, index, faults, false);
            return Ok(());
        }
        let stamp = parts.recompute.state_stamp();
        parts.store.save(&[state::matched(&name, None, stamp)]).await?;
        members.leave(&name);
        if before.is_some_and(|before| before.parameters != product.parameters) {
            parts.recompute.ledger().leave(&name);
            self.rubbish.insert(name.clone());
        }
        if self.rubbish.contains(&name) {
            drop(members);
            self.sweep(&name).await?;
            members = parts.roster.members().await;
        }
        let generation = parts.recompute.state_stamp();
        let followed = product.draft.policy.change;
        if followed {
            product.fingerprint = load::with_generation(definition, generation);
        }
        // Nothing that may fail comes between this and what runs: it is known only as it runs.
        self.rejoin_dependents(&mut members, &name).await?;
        members.enter(&name, Known::new(&product, &index, definition, generation, seen));
        self.run_as(product, index, faults, true);
        parts.roster.wake_joiners();
        self.surplus = true;
        Ok(())
    }

    /// Who reads its answers may have read those of before: they join again, after it.
    async fn rejoin_dependents(&self, members: &mut Members, name: &str) -> Result<(), Error> {
        let mut cells = Vec::new();
        for dependent in members.dependents(name) {
            members.rejoin(&dependent);
            self.parts.recompute.ledger().joins(&dependent, Lsn(u64::MAX));
            cells.push(state::matched(&dependent, None, self.parts.recompute.state_stamp()));
        }
        Ok(self.parts.store.save(&cells).await?)
    }

    /// Steps 4 and 5 of [`Reload::place`].
    fn run_as(&self, product: Product, index: Index, faults: Vec<Fault>, anew: bool) {
        let name = product.name().to_owned();
        {
            let mut ledger = self.parts.recompute.ledger();
            ledger.product(&name, Terms::of(&product), Position::default());
            if anew {
                ledger.come_back(&name);
                if !product.draft.policy.change {
                    // Nothing is matched for it: what is computed from now on is kept.
                    ledger.joins(&name, Lsn(0));
                }
            }
        }
        self.parts.index.send_replace(Arc::new(index));
        self.show(&name, Slot::Ready { product: Arc::new(product), faults });
        if anew {
            self.parts.recompute.definition_moved(&name);
        }
        self.parts.observer.note(Event::ProductLoaded { product: name, anew });
    }

    /// The source takes no draft of a product: it runs as it was, or is broken. Its last entries may stand in then.
    async fn leave_unplaced(
        &mut self,
        name: &str,
        slot: Option<&Slot>,
        works: bool,
        faults: Vec<Fault>,
    ) {
        let unplaced = unplaced(slot, works, faults);
        if !works {
            let mut members = self.parts.roster.members().await;
            if let Some(last) = unplaced.product() {
                // It left when it was found moved.
                self.parts.recompute.ledger().come_back(name);
                members.enter(name, Known::broken(last));
            }
            self.parts.index.send_modify(|index| *index = Arc::new(index.without(name)));
            self.surplus = true;
        }
        self.show(name, unplaced);
    }

    /// A product's place is this from now on; what is wrong with it is noted where that is news.
    fn show(&self, name: &str, slot: Slot) {
        let event = trouble(name, &slot);
        let mut news = false;
        self.parts.catalog.send_modify(|catalog| {
            let before = Arc::make_mut(catalog).products.insert(name.to_owned(), slot);
            let now = catalog.products.get(name).and_then(|slot| trouble(name, slot));
            news = before.and_then(|before| trouble(name, &before)) != now;
        });
        if let Some(event) = event.filter(|_| news) {
            self.parts.observer.note(event);
        }
    }

    /// Its file is gone: it leaves the list durably before its matching stops, and its entries go (R1, R13). A crash
    /// between leaves entries that no file has any more; the next start deletes them.
    async fn remove(&mut self, name: &str) -> Result<(), Error> {
        let parts = Arc::clone(&self.parts);
        {
            let mut members = parts.roster.members().await;
            let stamp = parts.recompute.state_stamp();
            parts.store.save(&[state::matched(name, None, stamp)]).await?;
            members.leave(name);
            parts.recompute.ledger().leave(name);
            parts.index.send_modify(|index| *index = Arc::new(index.without(name)));
            parts.catalog.send_modify(|catalog| {
                Arc::make_mut(catalog).products.remove(name);
            });
        }
        self.surplus = true;
        self.rubbish.insert(name.to_owned());
        self.sweep(name).await?;
        parts.recompute.ledger().drop_product(name);
        parts.recompute.wake_outdated();
        parts.observer.note(Event::ProductRemoved { product: name.to_owned() });
        Ok(())
    }

    /// Lets go of every key of a product that has left, so that none comes meanwhile.
    async fn sweep(&mut self, name: &str) -> Result<(), Error> {
        let keys: Vec<Key> = self.parts.recompute.ledger().keys_of(name).cloned().collect();
        for some in keys.chunks(FORGET_AT_ONCE) {
            self.parts.recompute.untrack_all(some).await?;
        }
        self.rubbish.remove(name);
        Ok(())
    }

    /// Takes tables that nobody reads any more out of the publication.
    async fn retire(&mut self) -> Result<(), Error> {
        let parts = Arc::clone(&self.parts);
        let _publishing = parts.roster.publishing().await;
        let wanted: BTreeSet<TableId> = parts.index.borrow().tables().collect();
        self.publish(&wanted).await?;
        self.surplus = false;
        Ok(())
    }

    /// Makes the publication name these tables, as far as they can be in one. The connection may not know those that
    /// came, also where the source was lost before it said so.
    async fn publish(
        &mut self,
        wanted: &BTreeSet<TableId>,
    ) -> Result<(Publication, Vec<Unusable>), Error> {
        let parts = Arc::clone(&self.parts);
        let name = &parts.names.publication;
        let before = publication::publication(self.client().await?, name).await?;
        self.unsure.extend(wanted - &before.unwrap_or_default().complete());
        let client = self.client().await?;
        let ensured = publication::ensure_publication(client, name, wanted).await?;
        let now = publication::publication(client, name).await?.unwrap_or_default();
        self.unsure.extend(ensured.added);
        parts.roster.members().await.publish(&std::mem::take(&mut self.unsure));
        Ok((now, ensured.unusable))
    }

    /// A connection of its own: what waits for locks here holds nobody else up.
    async fn client(&mut self) -> Result<&mut Client, Error> {
        let source = &self.parts.source;
        let history = source.history();
        let usable = |(client, of): &(Client, u64)| !client.is_closed() && *of == history;
        let open = match self.client.take().filter(usable) {
            Some(open) => open,
            None => {
                let settings = [
                    ("lock_timeout", "2s"),
                    ("statement_timeout", "20s"),
                    ("synchronous_commit", "local"),
                ];
                let client = source.connect("describe", &settings).await.map_err(Error::Source)?;
                (client, history)
            }
        };
        Ok(&mut self.client.insert(open).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        description::{Description, OutputColumn, Type},
        product::{build, file},
    };
    use std::path::Path;

    fn draft(text: &str) -> Draft {
        file::draft("p", Path::new("p.sql"), text.to_owned()).unwrap()
    }

    fn running(text: &str) -> Slot {
        let type_ = Type { oid: 23, name: "integer".to_owned(), kind: 'b' };
        let columns = vec![OutputColumn { name: "c".to_owned(), type_ }];
        let description = Description { columns, ..Description::default() };
        Slot::ready(Arc::new(build::build(draft(text), description).unwrap()))
    }

    fn fault(what: &str) -> Fault {
        draft("select 1").fault(0, what, "")
    }

    /// The texts to ask the source about, and the faults known without asking.
    fn check(
        said: Result<&str, &str>,
        slot: Option<&Slot>,
        works: bool,
        drafts: &[&str],
        faults: &[&str],
    ) {
        let said = said.map(draft).map_err(|what| vec![fault(what)]);
        let question = question(&said, slot, works);
        let texts: Vec<&str> = question.drafts.iter().map(|draft| draft.text.as_str()).collect();
        let messages: Vec<&str> =
            question.faults.iter().map(|fault| fault.message.as_str()).collect();
        assert_eq!((texts.as_slice(), messages.as_slice()), (drafts, faults));
    }

    #[test]
    fn what_runs_as_its_file_says_stays() {
        check(Ok("select 1"), Some(&running("select 1")), true, &[], &[]);
    }

    #[test]
    fn a_new_or_edited_file_is_asked_about() {
        check(Ok("select 1"), None, false, &["select 1"], &[]);
        check(Ok("select 2"), Some(&running("select 1")), true, &["select 2"], &[]);
    }

    #[test]
    fn a_faulty_file_leaves_what_works() {
        check(Err("bad"), Some(&running("select 1")), true, &[], &["bad"]);
        check(Err("bad"), None, false, &[], &["bad"]);
    }

    #[test]
    fn what_moved_is_asked_about_again_also_beside_an_edit() {
        let before = running("select 1");
        check(Ok("select 1"), Some(&before), false, &["select 1"], &[]);
        check(Ok("select 2"), Some(&before), false, &["select 2", "select 1"], &[]);
        check(Err("bad"), Some(&before), false, &["select 1"], &["bad"]);
    }

    #[test]
    fn what_is_not_taken_runs_on_only_if_it_works() {
        let before = running("select 1");
        let runs = unplaced(Some(&before), true, vec![fault("new")]);
        assert!(matches!(&runs, Slot::Ready { faults, .. } if faults.len() == 1));
        let broke = unplaced(Some(&before), false, vec![fault("gone")]);
        assert!(matches!(&broke, Slot::Broken { last: Some(_), .. }));
        let again = unplaced(Some(&broke), false, vec![fault("gone")]);
        assert!(matches!(&again, Slot::Broken { last: Some(_), .. }), "its entries stand in still");
        assert!(matches!(unplaced(None, false, vec![]), Slot::Broken { last: None, .. }));
    }

    #[test]
    fn trouble_is_told_by_what_became_of_the_product() {
        let Slot::Ready { product, .. } = running("select 1") else { unreachable!() };
        let faults = || vec![fault("x")];
        assert_eq!(trouble("p", &Slot::ready(Arc::clone(&product))), None);
        let kept = Slot::Ready { product, faults: faults() };
        assert!(matches!(trouble("p", &kept), Some(Event::ProductKept { .. })));
        let broken = Slot::Broken { last: None, faults: faults() };
        assert!(matches!(trouble("p", &broken), Some(Event::ProductBroken { .. })));
    }
}
