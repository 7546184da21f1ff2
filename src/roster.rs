//! What runs, and on what it stands: agreed upon by all who change it while kck runs.
//!
//! A look at definitions, a reload, a join and a new epoch each change what is listed, matched or answered, and
//! each does so while it holds [`Members`]. Invariant: the list in the state table names no product that is not
//! known here and working; one that is known and not joining is listed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::{Mutex, MutexGuard, Notify};

use crate::{
    change::TableId,
    depend::Index,
    entry::Fingerprint,
    load,
    postgres::{
        catalogue::{Catalogue, Objects},
        publication::Publication,
    },
    product::{Outside, Product},
    store::state::{Matched, Seen},
};

/// What a product stands on, as it was analysed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What it means, without the generation.
    pub definition: Fingerprint,
    /// Told from an earlier matching of the same definition; zero where it follows no changes.
    pub generation: u64,
    /// Changes are matched for it.
    pub followed: bool,
    /// The source takes it; else it is only looked at to see when to try again.
    pub works: bool,
    /// The products whose answers it reads: it joins after them.
    pub depends: BTreeSet<String>,
    /// The tables that must be published for it.
    pub tables: BTreeSet<TableId>,
    /// What to ask the catalogue about.
    pub objects: Objects,
    /// A hash over the definitions that the analysis stands on.
    pub definitions: String,
    /// As it was last seen; `None` before the first look.
    pub seen: Option<Seen>,
}

impl Known {
    /// A product as it was analysed.
    #[must_use]
    pub fn new(
        product: &Product,
        index: &Index,
        definition: Fingerprint,
        generation: u64,
        seen: Seen,
    ) -> Self {
        let description = &product.description;
        Self {
            definition,
            generation,
            followed: product.draft.policy.change,
            works: true,
            depends: product
                .draft
                .recipe
                .outside()
                .into_iter()
                .flat_map(Outside::products)
                .map(|(name, _)| name.to_owned())
                .collect(),
            tables: load::tables_of(index, product.name()),
            objects: Objects::of(description),
            definitions: description.definitions.clone(),
            seen: Some(seen),
        }
    }

    /// A product that worked before.
    #[must_use]
    pub fn broken(last: &Product) -> Self {
        Self {
            definition: last.fingerprint,
            generation: 0,
            followed: false,
            works: false,
            depends: BTreeSet::new(),
            tables: BTreeSet::new(),
            objects: Objects::of(&last.description),
            definitions: last.description.definitions.clone(),
            seen: None,
        }
    }

    /// What one look says of it.
    #[must_use]
    pub fn seen_in(&self, found: &Catalogue, publication: &Publication) -> Seen {
        Seen {
            catalogue: found.fingerprint(&self.objects),
            growth: found.growth(&self.objects),
            membership: load::membership(self.followed, publication, &self.tables),
        }
    }

    /// Whether nothing moved but that columns came.
    #[must_use]
    pub fn grew(&self, seen: &Seen) -> bool {
        self.seen.as_ref().is_some_and(|before| {
            before.catalogue == seen.catalogue && before.membership == seen.membership
        })
    }

    /// What is listed of it while it is matched.
    #[must_use]
    pub fn matched(&self) -> Matched {
        let seen = self.seen.clone().unwrap_or_default();
        Matched { definition: self.definition, generation: self.generation, seen }
    }
}

/// Who runs.
#[derive(Debug, Default)]
pub struct Members {
    known: BTreeMap<String, Arc<Known>>,
    joining: BTreeSet<String>,
    asked: BTreeSet<String>,
    /// Tables published since the replication connection was last opened for them, and at which count (R11).
    published: BTreeMap<TableId, u64>,
    count: u64,
}

impl Members {
    /// Everyone.
    #[must_use]
    pub fn known(&self) -> &BTreeMap<String, Arc<Known>> {
        &self.known
    }

    /// Grows with every change of [`Members::known`].
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether this is still what is known of the product.
    #[must_use]
    pub fn knows(&self, product: &str, known: &Arc<Known>) -> bool {
        self.known.get(product).is_some_and(|now| Arc::ptr_eq(now, known))
    }

    /// The product runs as this, or is broken; one that is followed joins.
    pub fn enter(&mut self, product: &str, known: Known) {
        self.count += 1;
        if known.followed {
            self.joining.insert(product.to_owned());
        }
        self.known.insert(product.to_owned(), Arc::new(known));
    }

    /// The same product, seen again.
    pub fn see(&mut self, product: &str, seen: Seen) {
        if let Some(known) = self.known.get_mut(product) {
            self.count += 1;
            *known = Arc::new(Known { seen: Some(seen), ..(**known).clone() });
        }
    }

    /// Nothing is known of it any more.
    pub fn leave(&mut self, product: &str) {
        self.count += 1;
        self.known.remove(product);
        self.joining.remove(product);
    }

    /// It must join again.
    pub fn rejoin(&mut self, product: &str) {
        self.joining.insert(product.to_owned());
    }

    /// Those that are matched and read its answers, through others too.
    #[must_use]
    pub fn dependents(&self, product: &str) -> BTreeSet<String> {
        let (mut found, mut next) = (BTreeSet::new(), vec![product.to_owned()]);
        while let Some(name) = next.pop() {
            let readers = self.known.iter().filter(|(_, known)| known.depends.contains(&name));
            for (reader, _) in readers {
                if found.insert(reader.clone()) {
                    next.push(reader.clone());
                }
            }
        }
        found.retain(|name| self.known.get(name).is_some_and(|known| known.followed));
        found
    }

    /// It has joined: it is listed.
    pub fn joined(&mut self, product: &str) {
        self.joining.remove(product);
    }

    /// Whether it is not listed yet.
    #[must_use]
    pub fn is_joining(&self, product: &str) -> bool {
        self.joining.contains(product)
    }

    /// Those that wait to join.
    pub fn joiners(&self) -> impl Iterator<Item = (&String, &Arc<Known>)> {
        self.joining.iter().filter_map(|name| self.known.get_key_value(name))
    }

    /// These tables were published: the connection may not know it.
    pub fn publish(&mut self, tables: &BTreeSet<TableId>) {
        self.count += 1;
        self.published.extend(tables.iter().map(|table| (*table, self.count)));
    }

    /// Those of these tables that the connection may not know, each with when it was published.
    #[must_use]
    pub fn unopened(&self, tables: &BTreeSet<TableId>) -> BTreeMap<TableId, u64> {
        let unopened = self.published.iter().filter(|(table, _)| tables.contains(table));
        unopened.map(|(table, count)| (*table, *count)).collect()
    }

    /// The connection was opened after these were published.
    pub fn opened(&mut self, unopened: &BTreeMap<TableId, u64>) {
        self.published.retain(|table, count| unopened.get(table) != Some(count));
    }

    /// It is to be analysed again.
    pub fn ask(&mut self, product: &str) {
        self.asked.insert(product.to_owned());
    }

    /// Those that are to be analysed again.
    #[must_use]
    pub fn asked(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.asked)
    }
}

/// Where those who change what runs meet.
#[derive(Debug, Default)]
pub struct Roster {
    /// Locked from the first write to the last of one change.
    members: Mutex<Members>,
    /// Locked while the publication is changed, until what it is changed for is known; before `members`.
    publishing: Mutex<()>,
    joiners_came: Notify,
    was_asked: Notify,
}

impl Roster {
    /// As it is after the start.
    #[must_use]
    pub fn new(members: Members) -> Self {
        Self { members: Mutex::new(members), ..Self::default() }
    }

    /// Everyone, for one change.
    pub async fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().await
    }

    /// The publication is the caller's to change.
    pub async fn publishing(&self) -> MutexGuard<'_, ()> {
        self.publishing.lock().await
    }

    /// Tells whoever waits for joiners.
    pub fn wake_joiners(&self) {
        self.joiners_came.notify_one();
    }

    /// Tells whoever waits for products to be analysed.
    pub fn wake_reload(&self) {
        self.was_asked.notify_one();
    }

    /// Returns when somebody may have come to join.
    pub async fn joiners_came(&self) {
        self.joiners_came.notified().await;
    }

    /// Returns when something may be to be analysed.
    pub async fn was_asked(&self) {
        self.was_asked.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(followed: bool) -> Known {
        Known {
            definition: Fingerprint([1; 16]),
            generation: 1,
            followed,
            works: true,
            depends: BTreeSet::new(),
            tables: BTreeSet::new(),
            objects: Objects::default(),
            definitions: String::new(),
            seen: Some(Seen::default()),
        }
    }

    #[test]
    fn who_is_followed_joins_and_who_comes_again_joins_again() {
        let mut members = Members::default();
        members.enter("a", known(true));
        members.enter("b", known(false));
        let joiners =
            |members: &Members| members.joiners().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(joiners(&members), ["a"]);
        members.joined("a");
        assert!(joiners(&members).is_empty());
        let before = Arc::clone(&members.known()["a"]);
        members.enter("a", known(true));
        assert!(members.is_joining("a") && !members.knows("a", &before));
        members.leave("a");
        assert!(joiners(&members).is_empty());
    }

    #[test]
    fn what_is_seen_again_goes_on_joining() {
        let mut members = Members::default();
        members.enter("a", known(true));
        let count = members.count();
        members.see("a", Seen { catalogue: "moved".into(), ..Seen::default() });
        assert!(members.is_joining("a") && members.count() > count);
        assert_eq!(members.known()["a"].matched().seen.catalogue, "moved");
    }

    #[test]
    fn who_reads_answers_depends_through_others_too() {
        let mut members = Members::default();
        let on = |name: &str, followed| Known {
            depends: BTreeSet::from([name.to_owned()]),
            ..known(followed)
        };
        members.enter("a", known(true));
        members.enter("b", on("a", false));
        members.enter("c", on("b", true));
        members.enter("d", on("x", true));
        assert_eq!(members.dependents("a"), BTreeSet::from(["c".to_owned()]));
    }

    #[test]
    fn growth_is_told_from_what_moved() {
        let known = known(true);
        assert!(known.grew(&Seen { growth: "3".into(), ..Seen::default() }));
        assert!(!known.grew(&Seen { catalogue: "d".into(), ..Seen::default() }));
        assert!(!known.grew(&Seen { membership: "5 7".into(), ..Seen::default() }));
    }

    #[test]
    fn a_table_published_again_while_the_connection_opens_is_not_known_to_it() {
        let mut members = Members::default();
        let (one, both) = (BTreeSet::from([TableId(1)]), BTreeSet::from([TableId(1), TableId(2)]));
        members.publish(&both);
        let unopened = members.unopened(&both);
        members.publish(&one);
        members.opened(&unopened);
        assert_eq!(members.unopened(&both).into_keys().collect::<BTreeSet<_>>(), one);
    }
}
