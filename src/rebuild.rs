//! Source and store → where kck stopped, and how it goes on: the products, who of them is matched, the ledger.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use crate::{
    change::{Lsn, SourceTime},
    config::Config,
    depend::{Index, Links},
    entry::Stamp,
    key::Key,
    load,
    observe::{Counter, Event, Observer},
    parts::Failure,
    postgres::Source,
    process::Kept,
    product::{
        Catalog, Kind, Outside, Product, Slot, UpdateSlot,
        files::{Drafts, Files},
        listed,
    },
    recompute::{
        ledger::{Ledger, Terms},
        reserve::{Floors, Reserve},
        schedule::Punctual,
    },
    resume::{self, Joins, Names, Resumed, Resuming},
    roster::{Known, Members},
    store::{
        Forget, Store,
        state::{self, Matched, State},
    },
    stores::open_store,
};

/// Keys deleted by one call.
const FORGET_AT_ONCE: usize = 1000;
/// Keys counted together while they are read …
const COUNTED_AT_ONCE: u64 = 1000;
/// … and of which it is told.
const TOLD_EVERY: u64 = 250_000;

/// Compares the products with those that were matched when kck last stopped; the generations go into their
/// fingerprints.
fn join_at_start(
    catalog: &mut Catalog,
    index: &Index,
    state: &State,
    resumed: &Resumed,
    stamp: impl Fn() -> u64,
) -> Joins {
    let matched = catalog.ready().filter(|product| product.draft.policy.change);
    let means = |product: &Arc<Product>| {
        let tables = load::tables_of(index, product.name());
        let seen = load::seen(product, &resumed.publication, &tables);
        (product.name().to_owned(), (product.fingerprint, seen))
    };
    let wanted = matched.map(means).collect();
    let anew = |name: &str| resumed.new_epoch || is_published(index, resumed, name);
    let made_from = |name: &str| made_from(catalog, name);
    let joins = resume::joins(&state.matched, &wanted, anew, made_from, stamp);
    for slot in catalog.products.values_mut() {
        if let Slot::Ready { product, .. } = slot
            && let Some(matched) = joins.matched.get(product.name())
        {
            let mut own = (**product).clone();
            own.fingerprint = load::with_generation(own.fingerprint, matched.generation);
            *product = Arc::new(own);
        }
    }
    joins
}

/// All products whose answers a product's were made from.
fn made_from(catalog: &Catalog, name: &str) -> BTreeSet<String> {
    let (mut found, mut next) = (BTreeSet::new(), vec![name.to_owned()]);
    while let Some(name) = next.pop() {
        let product = catalog.products.get(&name).and_then(Slot::product);
        let outside = product.and_then(|product| product.draft.recipe.outside());
        for (other, _) in outside.into_iter().flat_map(Outside::products) {
            if found.insert(other.to_owned()) {
                next.push(other.to_owned());
            }
        }
    }
    found
}

fn is_published(index: &Index, resumed: &Resumed, product: &str) -> bool {
    load::tables_of(index, product).iter().any(|table| resumed.published.contains(table))
}

/// Who runs from the start on.
fn members(catalog: &Catalog, index: &Index, joins: &Joins, resumed: &Resumed) -> Members {
    let mut members = Members::default();
    for product in catalog.ready() {
        let name = product.name();
        let known = match joins.matched.get(name) {
            Some(Matched { definition, generation, seen }) => {
                Known::new(product, index, *definition, *generation, seen.clone())
            }
            None => {
                let seen = load::seen(product, &resumed.publication, &BTreeSet::new());
                Known::new(product, index, product.fingerprint, 0, seen)
            }
        };
        members.enter(name, known);
        if !joins.joining.contains(name) {
            members.joined(name);
        }
    }
    members.publish(&resumed.published);
    members
}

/// What source and store together say of where kck stopped, and goes on.
pub(crate) struct Rebuilt {
    pub(crate) names: Names,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) catalog: Catalog,
    pub(crate) index: Index,
    pub(crate) resumed: Resumed,
    pub(crate) members: Members,
    pub(crate) files: Files,
    pub(crate) updates: Drafts,
    pub(crate) processes: Drafts,
    /// When processes were due last, and how they ran.
    pub(crate) ran: BTreeMap<String, Kept>,
    pub(crate) ledger: Ledger,
    /// Entries that are not firm.
    pub(crate) doubts: Vec<(Key, Stamp)>,
    pub(crate) reserve: Reserve,
    /// The last ticks of products that are computed on schedule.
    pub(crate) ticks: BTreeMap<String, SourceTime>,
}

/// Asks source and store.
///
/// # Errors
/// What cannot be read, and what to do.
pub(crate) async fn rebuild(
    config: &Config,
    source: &Arc<Source>,
    observer: &Observer,
    store: Option<Arc<dyn Store>>,
) -> Result<Rebuilt, Failure> {
    let mut client = source.connect("describe", &[]).await?;
    let names = Names { slot: config.slot.clone(), publication: config.publication.clone() };
    resume::stand_by(&client, &names.slot, observer).await?;
    let store = match store {
        Some(store) => store,
        None => open_store(config).await?,
    };
    let files = Files::read(&config.directory.join("products"));
    let updates = Drafts::read(&config.directory.join("updates"), Kind::Update);
    let processes = Drafts::read(&config.directory.join("processes"), Kind::Process);
    let mut catalog = load::catalog(&mut client, files.loaded()).await?;
    load::updates(&client, updates.loaded(), &mut catalog).await?;
    let index = load::index(&catalog);
    let state = State::decode(&store.load().await?)?;
    let term = state.term + 1;
    let (stamp, begun) = (u64::from(term) << 32, state.begun());
    store.save(&[state::term(term, stamp), state::starts(&begun, stamp)]).await?;
    let floors = Floors { stamp: state.stamp_floor, version: state.version_floor };
    let reserve = Reserve::new(Arc::clone(&store), term, floors);
    let wanted = index.tables().collect();
    let resumed = Resuming { client: &client, store: &store, names: &names, observer }
        .resume(&wanted, None, || reserve.state_stamp())
        .await?;
    source.expect(resumed.facts.history.clone());
    load::refuse_unpublished(&mut catalog, &index, &resumed.unusable);
    // Analysing every product again is only worth it where some were refused.
    let index = if resumed.unusable.is_empty() { index } else { load::index(&catalog) };
    let joins = join_at_start(&mut catalog, &index, &state, &resumed, || reserve.state_stamp());
    store.save(&joins.cells).await?;
    let members = members(&catalog, &index, &joins, &resumed);
    // The first stamp of this start is below what is reserved here, for what may be deleted at once.
    reserve.ensure(floors.stamp.next(), floors.version).await?;
    if let Some(why) = resumed.began.clone() {
        observer.note(Event::EpochBegan { epoch: resumed.position.epoch, why });
    }
    note_broken(&catalog, observer);
    let ledger = Ledger::new(resumed.position.epoch, term, floors.stamp.next(), floors.version);
    let (ledger, doubts) = recover(ledger, &catalog, &joins, &state, (&store, observer)).await?;
    Ok(Rebuilt {
        names,
        store,
        catalog,
        index,
        resumed,
        members,
        files,
        updates,
        processes,
        ran: state.processes,
        ledger,
        doubts,
        reserve,
        ticks: state.ticks,
    })
}

fn note_broken(catalog: &Catalog, observer: &Observer) {
    for (name, slot) in &catalog.products {
        if let Slot::Broken { faults, .. } = slot {
            observer.note(Event::ProductBroken { product: name.clone(), why: listed(faults) });
        }
    }
    for (name, slot) in &catalog.updates {
        if let UpdateSlot::Broken { faults } = slot {
            observer.note(Event::UpdateBroken { update: name.clone(), why: listed(faults) });
        }
    }
}

/// The ledger from products with their marks, track records, marks and entries (R14). What no product and no
/// track record keeps is rubbish, and deleted.
async fn recover(
    mut ledger: Ledger,
    catalog: &Catalog,
    joins: &Joins,
    state: &State,
    (store, observer): (&Arc<dyn Store>, &Observer),
) -> Result<(Ledger, Vec<(Key, Stamp)>), Failure> {
    for product in catalog.ready() {
        let mark = state.marks.get(product.name()).copied().unwrap_or_default();
        ledger.product(product.name(), Terms::of(product), mark);
        if product.goes_by_schedule() {
            // Until somebody knows the time.
            ledger.judge(product.name(), Some(Punctual::UNKNOWN));
        }
    }
    for joining in &joins.joining {
        ledger.joins(joining, Lsn(u64::MAX));
    }
    let (stamp, begun) = (state.stamp_floor.next(), state.begun());
    let (mut rubbish, mut doubts) = (Vec::new(), Vec::new());
    let (mut keys, began) = (0, Instant::now());
    store
        .scan(&mut |scanned| {
            keys += 1;
            if keys % COUNTED_AT_ONCE == 0 {
                observer.count(Counter::Rebuilt, COUNTED_AT_ONCE);
            }
            if keys % TOLD_EVERY == 0 {
                observer.note(Event::Rebuilding { keys });
            }
            if scanned.lease.is_some() && catalog.products.contains_key(scanned.key.product()) {
                let issued = scanned.meta.as_ref().map_or(stamp, |meta| meta.stamp);
                doubts.extend(ledger.recover(scanned, state::firm_up_to(&begun, issued)));
            } else {
                let mark = scanned.mark.unwrap_or_default();
                rubbish.push(Forget { key: scanned.key, stamp, mark });
            }
        })
        .await?;
    // What others answered may have been another answer when this start found it.
    let links = Links::of(catalog);
    let names = catalog.ready().map(|product| product.name());
    names.filter(|name| links.reads(name)).for_each(|name| ledger.outdate_product(name));
    observer.count(Counter::Rebuilt, keys % COUNTED_AT_ONCE);
    observer.note(Event::Rebuilt { keys, took: began.elapsed() });
    for some in rubbish.chunks(FORGET_AT_ONCE) {
        store.forget(some).await?;
    }
    Ok((ledger, doubts))
}
