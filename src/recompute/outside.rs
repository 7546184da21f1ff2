//! Outside: a product → who makes its answers: the source, a program, an address.
//!
//! What programs and addresses say carries no snapshot, and no position of the source's own but that of a barrier which
//! was sent after they said it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Notify, watch as latest};

use crate::{
    change::{Lsn, Position, SourceTime},
    key::Key,
    product::{Catalog, Means, Outside, Product, Slot},
    progress::Progress,
    web::Origin,
};

use super::{
    Handle, Ran, Run, RunError,
    exec::{
        self, Programs,
        pool::Permit as ProgramPermit,
        protocol::{Ask, Of},
    },
    http::{self, Addresses},
};

/// How long an answer waits for a barrier that is sent after it.
const BARRIER_WITHIN: Duration = Duration::from_secs(1);

/// Every recipe.
pub struct Recipes {
    /// The source's own.
    pub sql: Arc<dyn Run>,
    /// Programs.
    pub programs: Programs,
    /// Addresses.
    pub addresses: Addresses,
    /// Of products by programs and addresses: how many places they leave to others, and their own; locked to look.
    pub levels: Mutex<BTreeMap<String, usize>>,
    /// Programs and addresses that processes need; locked to look.
    pub beside: Mutex<Vec<Means>>,
    /// Told when some place is free again.
    pub freed: Arc<Notify>,
    /// For the source's clock.
    pub progress: latest::Receiver<Progress>,
    /// To have barriers sent sooner.
    pub recompute: Handle,
}

/// A place for one key; it is free again when this is dropped.
pub enum Permit {
    /// At a program.
    Program(ProgramPermit),
    /// At an address.
    Address(http::Permit),
}

impl Recipes {
    /// A place for one key of this product, where there is one now.
    ///
    /// # Errors
    /// When to ask again; `None`: when some place is free again.
    pub fn room(&self, product: &Product, urgent: bool) -> Result<Permit, Option<Instant>> {
        let level = {
            let levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
            levels.get(product.name()).copied().unwrap_or(1)
        };
        match product.draft.recipe.outside().map(|outside| &outside.means) {
            Some(Means::Exec { command, workers }) => {
                self.programs.room((command, *workers), level, urgent).map(Permit::Program)
            }
            Some(Means::Http { url, .. }) => {
                self.addresses.room(url, level).map(Permit::Address).ok_or(None)
            }
            None => Err(None),
        }
    }

    /// What no product needs any more ends.
    pub fn follow(&self, catalog: &Catalog) {
        let means = || {
            let products = catalog.products.iter();
            let products = products.filter_map(|(name, slot)| Some((name, slot.product()?)));
            products
                .filter_map(|(name, product)| Some((name, &product.draft.recipe.outside()?.means)))
        };
        let beside = self.beside.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let levels = levels(catalog);
        let others = beside.iter().filter_map(|means| match means {
            Means::Exec { command, workers } => {
                Some((command.as_slice(), exec::Use { workers: *workers, levels: 1 }))
            }
            Means::Http { .. } => None,
        });
        let commands = means().filter_map(|(name, means)| match means {
            Means::Exec { command, workers } => {
                let levels = levels.get(name).copied().unwrap_or(1);
                Some((command.as_slice(), exec::Use { workers: *workers, levels }))
            }
            Means::Http { .. } => None,
        });
        let used = exec::used(commands.chain(others));
        self.programs.keep(used);
        *self.levels.lock().unwrap_or_else(PoisonError::into_inner) = levels;
        self.addresses.keep(means().filter_map(|(_, means)| match means {
            Means::Http { url, .. } => Some(url.as_str()),
            Means::Exec { .. } => None,
        }));
    }

    /// From now on processes need these as well.
    pub fn beside(&self, means: Vec<Means>, catalog: &Catalog) {
        *self.beside.lock().unwrap_or_else(PoisonError::into_inner) = means;
        self.follow(catalog);
    }

    /// Ends what runs.
    pub async fn close(&self) {
        self.programs.close().await;
    }

    async fn one(
        &self,
        product: &Product,
        outside: &Outside,
        key: &Key,
        as_of: Position,
    ) -> Result<Bytes, RunError> {
        let names = product.parameters.iter().map(|parameter| parameter.name.clone());
        let params: BTreeMap<String, String> = names.zip(key.values()).collect();
        match &outside.means {
            Means::Exec { command, workers } => {
                let ask = Ask { of: Of::Product(product.name().to_owned()), params, as_of };
                let command = (command.as_slice(), *workers);
                let asked = self.programs.ask(command, &ask, outside.timeout).await;
                asked.map_err(|fault| RunError::Outside {
                    fact: fault.fact(),
                    why: fault.to_string(),
                })
            }
            Means::Http { url, headers } => {
                let ask = http::Ask { product: product.name(), url, headers, params: &params };
                let asked = self.addresses.ask(&ask, outside.timeout).await;
                asked.map_err(|http::Fault { fact, why }| RunError::Outside { fact, why })
            }
        }
    }

    /// The source's clock now: no answer is dated by another. Before the first barrier nobody knows it.
    async fn clock(&self) -> Result<SourceTime, RunError> {
        let mut progress = self.progress.clone();
        let known = progress.wait_for(|progress| progress.clock.is_some()).await;
        let now = known.ok().and_then(|progress| progress.source_now(Instant::now()));
        now.ok_or_else(|| RunError::Unavailable("the source's clock is not known yet".to_owned()))
    }
}

/// Products within each other, as where they are composed.
const DEPTH_MAX: usize = 64;

/// Where a product's answers are made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Command(Vec<String>),
    Site(Option<Origin>),
}

/// By product: 1 and how many places of its own pool it leaves to those there that others wait for sooner. What asks
/// nobody always finds one, whatever waits for it in whichever pools; so does what asks only such, and so on.
fn levels(catalog: &Catalog) -> BTreeMap<String, usize> {
    let mut known = BTreeMap::new();
    let mut places: BTreeMap<Place, BTreeMap<&str, usize>> = BTreeMap::new();
    for (name, slot) in &catalog.products {
        let outside = slot.product().and_then(|product| product.draft.recipe.outside());
        let place = match outside.map(|outside| &outside.means) {
            Some(Means::Exec { command, .. }) => Place::Command(command.clone()),
            Some(Means::Http { url, .. }) => {
                Place::Site(Origin::parse(url).ok().map(|(origin, _)| origin))
            }
            None => continue,
        };
        let height = height(catalog, name, &mut known, 0);
        places.entry(place).or_default().insert(name, height);
    }
    let mut levels = BTreeMap::new();
    for heights in places.values() {
        let distinct: BTreeSet<usize> = heights.values().copied().collect();
        let level = |height: usize| 1 + distinct.range(..height).count();
        levels.extend(heights.iter().map(|(name, height)| ((*name).to_owned(), level(*height))));
    }
    levels
}

/// How many programs and addresses are on the longest way down from a product, itself counted.
fn height<'c>(
    catalog: &'c Catalog,
    name: &'c str,
    known: &mut BTreeMap<&'c str, usize>,
    depth: usize,
) -> usize {
    if let Some(height) = known.get(name) {
        return *height;
    }
    let product = catalog.products.get(name).and_then(Slot::product);
    let Some(product) = product.filter(|_| depth < DEPTH_MAX) else { return 0 };
    // In a circle, which no files make, somebody is the last.
    known.insert(name, 0);
    let below = product.draft.products().map(|name| height(catalog, name, known, depth + 1));
    let height = below.max().unwrap_or(0) + usize::from(!product.draft.recipe.is_sql());
    known.insert(name, height);
    height
}

#[async_trait]
impl Run for Recipes {
    async fn run(&self, product: &Product, keys: &[Key], as_of: Position) -> Result<Ran, RunError> {
        let Some(outside) = product.draft.recipe.outside() else {
            return self.sql.run(product, keys, as_of).await;
        };
        let clock = tokio::time::timeout(outside.timeout, self.clock()).await;
        let time = clock.map_err(|_| {
            RunError::Unavailable("the source's clock is not known yet".to_owned())
        })??;
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            values.push(self.one(product, outside, key, as_of).await?);
        }
        let came = Instant::now();
        self.recompute.hasten();
        let insert = insert_after(self.progress.clone(), came, BARRIER_WITHIN).await;
        Ok(Ran { values, insert, time, ..Ran::default() })
    }
}

/// The insert position of a barrier that was sent after an answer `came`: what its maker saw was committed at or below
/// it. Where none comes in time nobody knows, and the answer is never firm.
async fn insert_after(
    mut progress: latest::Receiver<Progress>,
    came: Instant,
    within: Duration,
) -> Lsn {
    let later = |progress: &Progress| progress.clock.is_some_and(|(_, sent)| came <= sent);
    match tokio::time::timeout(within, progress.wait_for(later)).await {
        Ok(Ok(progress)) => progress.insert,
        Ok(Err(_)) | Err(_) => Lsn(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::{
        Recipe, fixture,
        recipe::{Dependency, On},
    };

    fn exec(command: &str) -> Means {
        Means::Exec { command: vec![command.to_owned()], workers: 1 }
    }

    fn http(path: &str) -> Means {
        Means::Http { url: format!("http://localhost:7{path}"), headers: vec![] }
    }

    fn catalog(products: &[(&str, Means, &[&str])]) -> Catalog {
        let mut catalog = Catalog::default();
        for (name, means, on) in products {
            let on = on.iter().map(|name| On::Product((*name).to_owned()));
            let depends = on.map(|on| Dependency { on, matches: vec![], offset: 0 }).collect();
            let (means, timeout) = (means.clone(), Duration::from_secs(1));
            let outside = Outside { means, timeout, depends, hidden: 0, made_of: vec![] };
            let mut product = (*fixture::product(name, 0, "")).clone();
            product.draft.recipe = Recipe::Outside(Box::new(outside));
            catalog.products.insert((*name).to_owned(), Slot::ready(Arc::new(product)));
        }
        catalog
    }

    #[test]
    fn whoever_asks_others_leaves_a_place_to_those_who_ask_nobody() {
        // Those who ask, of one command, wait for those of another, who ask, and the other way round.
        let crossed = [
            ("asks", exec("one"), &["told"][..]),
            ("told", exec("two"), &[]),
            ("wants", exec("two"), &["given"]),
            ("given", exec("one"), &[]),
        ];
        let levels = levels(&catalog(&crossed));
        for (above, below) in [("asks", "given"), ("wants", "told")] {
            assert!(levels[above] > levels[below], "{levels:?}");
        }
    }

    #[test]
    fn addresses_of_one_host_that_ask_each_other_leave_a_place() {
        let chain = [("above", http("/a"), &["below"][..]), ("below", http("/b"), &[])];
        let levels = levels(&catalog(&chain));
        assert_eq!((levels.get("above"), levels.get("below")), (Some(&2), Some(&1)));
    }

    #[test]
    fn many_ways_down_are_gone_once() {
        let names: Vec<String> = (0..40).map(|n| format!("{n:02}")).collect();
        let below = |n: usize| names.get(n..).unwrap_or_default().iter().take(2);
        let on: Vec<Vec<&str>> =
            (0..40).map(|n| below(n + 1).map(String::as_str).collect()).collect();
        let products: Vec<_> =
            names.iter().zip(&on).map(|(name, on)| (name.as_str(), exec("one"), &on[..])).collect();
        assert_eq!(levels(&catalog(&products))["00"], 40);
    }

    #[tokio::test]
    async fn what_a_program_saw_is_at_or_before_a_barrier_sent_after_it() {
        let progress = latest::Sender::new(Progress::default());
        let sent = |sent, insert| {
            progress.send_modify(|progress| {
                (progress.clock, progress.insert) = (Some((SourceTime(1), sent)), Lsn(insert));
            });
        };
        let before = Instant::now();
        sent(before, 5);
        let came = before + Duration::from_nanos(1);
        let barriers = async {
            // Its answer comes now, but it was asked before.
            sent(before, 6);
            tokio::task::yield_now().await;
            sent(came, 9);
        };
        let (insert, ()) =
            tokio::join!(insert_after(progress.subscribe(), came, BARRIER_WITHIN * 60), barriers);
        assert_eq!(insert, Lsn(9));
        let later = came + Duration::from_secs(9);
        let never = insert_after(progress.subscribe(), later, Duration::from_millis(1)).await;
        assert_eq!(never, Lsn(u64::MAX));
    }
}
