//! Source and store → where to go on: which epoch, which position, which products start anew (R1, R10, R11, R14).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    change::{Epoch, Lsn, Position, TableId, Xid},
    entry::Fingerprint,
    observe::{Event, Observer},
    postgres::{Client, Error as SourceError, publication, slot},
    store::{
        self, StateCell, Store,
        state::{self, Matched, Origin, Seen, State},
    },
};

/// The last epoch that packs into seven bits.
const EPOCH_MOST: u8 = 127;

/// Why kck cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source said no, or nothing.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The store did.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The epochs are used up.
    #[error(
        "the source's history broke {EPOCH_MOST} times, and no more can be told apart in this store"
    )]
    Epochs,
    /// Somebody else's slot has the name.
    #[error("slot '{0}' exists and is not a logical slot of this database for pgoutput")]
    ForeignSlot(String),
}

/// The names that kck goes by at the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Of the slot.
    pub slot: String,
    /// Of the publication.
    pub publication: String,
}

/// Where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    /// The source's history, and the position up to which everything is matched.
    pub position: Position,
    /// Acknowledged and not seen visible.
    pub early: Vec<(Xid, Lsn)>,
    /// The epoch is new: every product joins.
    pub new_epoch: bool,
    /// Why the last epoch ended, where there was one; for whoever tells it, once it shows.
    pub began: Option<String>,
    /// Tables that were published just now, or by a start that did not get further (R11).
    pub published: BTreeSet<TableId>,
    /// The publication as it is now.
    pub publication: publication::Publication,
    /// Tables that must not be published.
    pub unusable: Vec<publication::Unusable>,
    /// What the server says of itself.
    pub facts: slot::Facts,
}

/// Between two looks at a slot that somebody else reads.
const STAND_BY: Duration = Duration::from_secs(1);

/// Returns when nobody reads the slot: a slot has one reader, and that is the leader.
///
/// # Errors
/// What the source said.
pub async fn stand_by(client: &Client, slot: &str, observer: &Observer) -> Result<(), SourceError> {
    let mut said = None;
    while let Some(holder) = slot::slot(client, slot).await?.and_then(|slot| slot.holder) {
        if said.as_ref() != Some(&holder) {
            observer.note(Event::StandingBy { holder: holder.to_string() });
            said = Some(holder);
        }
        tokio::time::sleep(STAND_BY).await;
    }
    Ok(())
}

/// What deciding where to go on stands on.
pub struct Resuming<'a> {
    /// A connection to whatever history answers now.
    pub client: &'a Client,
    /// Where the record lies.
    pub store: &'a Arc<dyn Store>,
    /// Of slot and publication.
    pub names: &'a Names,
    /// Where events go.
    pub observer: &'a Observer,
}

impl Resuming<'_> {
    /// Makes publication and slot fit, decides whether the source's history goes on where the record left it, and
    /// makes a new epoch durable before a slot is dropped or made. `verdict` is why it is known not to go on.
    ///
    /// # Errors
    /// What the source or the store said; whatever was done before holds and is found by the next try.
    pub async fn resume(
        &self,
        wanted: &BTreeSet<TableId>,
        verdict: Option<&str>,
        stamp: impl Fn() -> u64,
    ) -> Result<Resumed, Error> {
        let Self { client, store, names, .. } = *self;
        let facts = slot::facts(client).await?;
        facts.check()?;
        // Before the record: a position that is acknowledged meanwhile was recorded before.
        let slot = slot::slot(client, &names.slot).await?;
        if slot.as_ref().is_some_and(|slot| !slot.ours) {
            return Err(Error::ForeignSlot(names.slot.clone()));
        }
        let state = State::decode(&store.load().await?)?;
        // The publication before a slot: a slot looks it up as of each change's own position.
        let (published, publication, unusable) = self.publish(wanted, &state, &stamp).await?;
        let origin = Origin {
            system_identifier: facts.history.system_identifier.clone(),
            timeline: i64::from(facts.history.timeline),
            slot: names.slot.clone(),
            database: facts.database.clone(),
        };
        let found = broken(&state, &origin, slot.as_ref(), facts.insert_lsn);
        let Some(why) = verdict.or(found) else {
            let (position, early) = (state.recorded, state.early);
            // Again, under this start's stamps: what an earlier start wrote may arrive late, and be older than what
            // is gone on from here.
            let renewed = [state::recorded(position, stamp()), state::early_cell(&early, stamp())];
            store.save(&renewed).await?;
            let began = None;
            return Ok(Resumed {
                position,
                early,
                new_epoch: false,
                began,
                published,
                publication,
                unusable,
                facts,
            });
        };
        let position = self.begin_epoch(&state, &origin, facts.version_num, &stamp).await?;
        let began = (state.epoch.0 > 0).then(|| why.to_owned());
        Ok(Resumed {
            position,
            early: Vec::new(),
            new_epoch: true,
            began,
            published,
            publication,
            unusable,
            facts,
        })
    }

    /// Makes the publication name the wanted tables. Which were added stays on record until their readers have
    /// joined: whoever is stopped in between must find it (R11).
    async fn publish(
        &self,
        wanted: &BTreeSet<TableId>,
        state: &State,
        stamp: &impl Fn() -> u64,
    ) -> Result<(BTreeSet<TableId>, publication::Publication, Vec<publication::Unusable>), Error>
    {
        let Self { client, store, names, .. } = *self;
        let existing = publication::publication(client, &names.publication).await?;
        let complete = existing.map(|existing| existing.complete()).unwrap_or_default();
        let mut publishing = wanted - &complete;
        publishing.extend(&state.publishing);
        if publishing != state.publishing {
            store.save(&[state::publishing(&publishing, stamp())]).await?;
        }
        let ensured = publication::ensure_publication(client, &names.publication, wanted).await?;
        publishing.extend(ensured.added);
        let now = publication::publication(client, &names.publication).await?;
        Ok((publishing, now.unwrap_or_default(), ensured.unusable))
    }

    /// The epoch is durable before the slot goes, and its origin last: without that the next try begins anew. One
    /// that was begun and had no slot yet is gone on with, since nothing was computed in it.
    async fn begin_epoch(
        &self,
        state: &State,
        origin: &Origin,
        version_num: i32,
        stamp: &impl Fn() -> u64,
    ) -> Result<Position, Error> {
        let Self { client, store, names, .. } = *self;
        let unused = state.recorded == Position { epoch: state.epoch, lsn: Lsn(0) };
        if state.epoch.0 >= EPOCH_MOST && !unused {
            return Err(Error::Epochs);
        }
        let epoch =
            if unused && state.epoch.0 > 0 { state.epoch } else { Epoch(state.epoch.0 + 1) };
        store.save(&[state::epoch(epoch, stamp())]).await?;
        let nothing = Position { epoch, lsn: Lsn(0) };
        store.save(&[state::recorded(nothing, stamp()), state::early_cell(&[], stamp())]).await?;
        // Nothing is matched any more: a start that is stopped before they join again must find that.
        let leave = |name: &String| state::matched(name, None, stamp());
        store.save(&state.matched.keys().map(leave).collect::<Vec<_>>()).await?;
        slot::drop_slot(client, &names.slot).await?;
        let created = slot::create_slot(client, &names.slot, version_num).await?;
        let position = Position { epoch, lsn: created };
        store.save(&[state::recorded(position, stamp())]).await?;
        store.save(&[state::origin(origin, stamp())]).await?;
        Ok(position)
    }
}

/// Why the recorded position cannot be gone on from (R10, R14).
#[must_use]
pub fn broken(
    state: &State,
    origin: &Origin,
    slot: Option<&slot::Slot>,
    insert: Option<Lsn>,
) -> Option<&'static str> {
    let Some(recorded_origin) = &state.origin else { return Some("the store is new") };
    if state.recorded.epoch != state.epoch || state.recorded.lsn == Lsn(0) {
        return Some("an epoch was not begun completely");
    }
    if recorded_origin.system_identifier != origin.system_identifier {
        return Some("the source is another server");
    }
    if recorded_origin.timeline != origin.timeline {
        return Some("the source is on another timeline");
    }
    if recorded_origin != origin {
        return Some("the slot or the database has another name");
    }
    let Some(slot) = slot else { return Some("the slot is gone") };
    if slot.lost() {
        return Some("the slot was invalidated");
    }
    if slot.confirmed_flush_lsn > Some(state.recorded.lsn) {
        return Some("more was acknowledged than is recorded");
    }
    if insert.is_some_and(|insert| insert < state.recorded.lsn) {
        return Some("the source is behind what it had delivered");
    }
    None
}

/// Which products go on being matched and which join, and the cells that say so (R1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Joins {
    /// Product → what it is matched as from now on; listed once it has joined, so that one that is stopped
    /// before must join again.
    pub matched: BTreeMap<String, Matched>,
    /// Products that are answered uncached until they have joined.
    pub joining: BTreeSet<String>,
    /// To be durable before matching begins: what leaves the list, for good or until it has joined.
    pub cells: Vec<StateCell>,
}

/// Compares the products to be matched, by name, definition and catalogue, with the list in the state table. `anew` are
/// those that join whatever the list says: their tables were published just now, or the epoch is new. Whoever was made
/// from the answers of one that joins, `made_from` says so through others too, joins as well.
pub fn joins(
    listed: &BTreeMap<String, Matched>,
    wanted: &BTreeMap<String, (Fingerprint, Seen)>,
    anew: impl Fn(&str) -> bool,
    made_from: impl Fn(&str) -> BTreeSet<String>,
    stamp: impl Fn() -> u64,
) -> Joins {
    let mut joins = Joins::default();
    let is_listed = |name: &str| {
        let same = |(definition, seen): &(Fingerprint, Seen)| {
            let listed = listed.get(name);
            listed.is_some_and(|one| one.definition == *definition && one.seen == *seen)
        };
        wanted.get(name).is_none_or(same) && !anew(name)
    };
    for (name, (definition, seen)) in wanted {
        let stays = is_listed(name) && made_from(name).iter().all(|other| is_listed(other));
        let goes_on = listed.get(name).filter(|_| stays);
        if goes_on.is_none() {
            joins.cells.push(state::matched(name, None, stamp()));
            joins.joining.insert(name.clone());
        }
        let generation = goes_on.map_or_else(&stamp, |listed| listed.generation);
        let (definition, seen) = (*definition, seen.clone());
        joins.matched.insert(name.clone(), Matched { definition, generation, seen });
    }
    for name in listed.keys().filter(|name| !wanted.contains_key(*name)) {
        joins.cells.push(state::matched(name, None, stamp()));
    }
    joins
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin {
            system_identifier: "7".into(),
            timeline: 1,
            slot: "kck".into(),
            database: "shop".into(),
        }
    }

    fn state() -> State {
        State {
            epoch: Epoch(1),
            recorded: Position { epoch: Epoch(1), lsn: Lsn(100) },
            origin: Some(origin()),
            ..State::default()
        }
    }

    fn slot(confirmed: u64, wal_status: &str) -> slot::Slot {
        slot::Slot {
            ours: true,
            holder: None,
            wal_status: wal_status.to_owned(),
            safe_wal_size: None,
            confirmed_flush_lsn: Some(Lsn(confirmed)),
            restart_lsn: None,
            retained_bytes: 0,
            invalidation_reason: None,
            failover: false,
        }
    }

    #[test]
    fn a_history_goes_on_only_where_everything_agrees() {
        let insert = Some(Lsn(200));
        assert_eq!(broken(&state(), &origin(), Some(&slot(100, "reserved")), insert), None);
        // `confirmed_flush_lsn` may go back on a clean restart.
        assert_eq!(broken(&state(), &origin(), Some(&slot(50, "extended")), insert), None);
        let elsewhere = |change: fn(&mut Origin)| {
            let mut origin = origin();
            change(&mut origin);
            broken(&state(), &origin, Some(&slot(100, "reserved")), insert)
        };
        assert_eq!(
            elsewhere(|origin| origin.system_identifier = "8".into()),
            Some("the source is another server")
        );
        assert_eq!(
            elsewhere(|origin| origin.timeline = 2),
            Some("the source is on another timeline")
        );
        assert!(elsewhere(|origin| origin.slot = "other".into()).is_some());
        assert_eq!(broken(&state(), &origin(), None, insert), Some("the slot is gone"));
        assert_eq!(
            broken(&state(), &origin(), Some(&slot(100, "lost")), insert),
            Some("the slot was invalidated")
        );
        assert_eq!(
            broken(&state(), &origin(), Some(&slot(101, "reserved")), insert),
            Some("more was acknowledged than is recorded")
        );
        assert_eq!(
            broken(&state(), &origin(), Some(&slot(100, "reserved")), Some(Lsn(99))),
            Some("the source is behind what it had delivered")
        );
        assert_eq!(broken(&State::default(), &origin(), None, insert), Some("the store is new"));
        let half_begun = State { epoch: Epoch(2), ..state() };
        assert!(broken(&half_begun, &origin(), Some(&slot(100, "reserved")), insert).is_some());
    }

    #[test]
    fn a_product_that_left_and_comes_back_gets_another_generation() {
        let definition = Fingerprint([1; 16]);
        let seen = |catalogue: &str| Seen { catalogue: catalogue.to_owned(), ..Seen::default() };
        let stamps = std::cell::Cell::new(10);
        let stamp = || {
            stamps.set(stamps.get() + 1);
            stamps.get()
        };
        let matched = |definition, generation, catalogue: &str| Matched {
            definition,
            generation,
            seen: seen(catalogue),
        };
        let listed = BTreeMap::from([
            ("stays".to_owned(), matched(definition, 5, "c")),
            ("edited".to_owned(), matched(Fingerprint([2; 16]), 6, "c")),
            ("gone".to_owned(), matched(definition, 7, "c")),
            ("published".to_owned(), matched(definition, 8, "c")),
            ("silently".to_owned(), matched(definition, 9, "before")),
        ]);
        let wanted = ["stays", "edited", "new", "published", "silently"]
            .map(|name| (name.to_owned(), (definition, seen("c"))))
            .into();
        let joins = joins(&listed, &wanted, |name| name == "published", |_| BTreeSet::new(), stamp);
        assert_eq!(joins.matched["stays"].generation, 5);
        let joining: Vec<&str> = joins.joining.iter().map(String::as_str).collect();
        assert_eq!(joining, ["edited", "new", "published", "silently"]);
        assert!(joining.iter().all(|name| joins.matched[*name].generation > 10));
        let left: Vec<&str> = joins.cells.iter().map(|cell| cell.name.as_str()).collect();
        let names = ["edited", "new", "published", "silently", "gone"];
        assert_eq!(left, names.map(|name| format!("matched/{name}")));
        assert!(joins.cells.iter().all(|cell| cell.value.is_none()));
    }

    #[test]
    fn what_was_made_from_answers_of_one_that_joins_joins_with_it() {
        let of = |one: u8| Fingerprint([one; 16]);
        let matched = |definition| Matched { definition, generation: 5, seen: Seen::default() };
        let names = ["edited", "above", "beside", "published", "over"];
        let listed = names.map(|name| (name.to_owned(), matched(of(1)))).into();
        let wanted = names.map(|name| {
            let definition = of(if name == "edited" { 2 } else { 1 });
            (name.to_owned(), (definition, Seen::default()))
        });
        let made_from = |name: &str| match name {
            // Through one that follows nothing, which is not listed.
            "above" => BTreeSet::from(["timed".to_owned(), "edited".to_owned()]),
            "beside" => BTreeSet::from(["timed".to_owned()]),
            "over" => BTreeSet::from(["published".to_owned()]),
            _ => BTreeSet::new(),
        };
        let anew = |name: &str| name == "published";
        let joins = joins(&listed, &wanted.into(), anew, made_from, || 9);
        let joining: Vec<&str> = joins.joining.iter().map(String::as_str).collect();
        assert_eq!(joining, ["above", "edited", "over", "published"]);
        assert_eq!((joins.matched["above"].generation, joins.matched["beside"].generation), (9, 5));
    }
}
