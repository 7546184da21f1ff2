//! Settings → everything that the doctor judges, asked of source, files, store and machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{net::TcpListener, time::Instant};

use super::Addresses;
use crate::{
    capture::probe,
    change::TableId,
    config::Config,
    depend::Index,
    doctor::{Facts, Products, Read, Refusal, Source, Stored},
    load,
    parts::Failure,
    postgres::{self, Client, connect, publication, server, slot},
    product::{Catalog, Fault, file::Loaded},
    stores,
};

/// No question takes longer.
pub(super) const STATEMENT_TIMEOUT: &str = "20s";
/// Between two looks at how fast the log grows.
const GROWS_DURING: Duration = Duration::from_secs(1);
/// Names of relations that are looked up.
const MENTIONS_MAX: usize = 1000;

/// What was asked.
pub(super) struct Asked {
    pub(super) source: Result<Box<Source>, Refusal>,
    /// The tables that the publication should have.
    pub(super) publishable: BTreeSet<TableId>,
    products: Products,
    store: Result<Stored, Refusal>,
    listening: Result<(), String>,
}

impl Asked {
    pub(super) async fn ask(config: &Config, addresses: &Addresses) -> Self {
        let folder = config.directory.join("products");
        let loaded = load::files(&folder);
        let mut products = Products { folder: folder.display().to_string(), ..Products::default() };
        let store = stores::stored(config).await.map_err(refusal);
        let listening = TcpListener::bind(config.listen).await;
        let listening = listening.map(drop).map_err(|error| error.to_string());
        let mut publishable = BTreeSet::new();
        let files = faults(&loaded);
        let asked =
            Asking { config, addresses, products: &mut products, publishable: &mut publishable };
        let source = asked.source(loaded).await.map_err(|error| refusal(error.into()));
        if source.is_err() {
            products.broken = files;
        }
        Self { source, publishable, products, store, listening }
    }

    /// Consumes what was asked.
    pub(super) fn facts<'a>(self, config: &'a Config, addresses: &'a Addresses) -> Facts<'a> {
        let Self { source, products, store, listening, .. } = self;
        Facts { config, address: &addresses.url, source, products, store, listening }
    }
}

/// What is asked of the source, and what is learned of the products on the way.
struct Asking<'a> {
    config: &'a Config,
    addresses: &'a Addresses,
    products: &'a mut Products,
    publishable: &'a mut BTreeSet<TableId>,
}

impl Asking<'_> {
    async fn source(mut self, loaded: Loaded) -> Result<Box<Source>, postgres::Error> {
        let Self { config, addresses, .. } = self;
        let settings =
            [("default_transaction_read_only", "on"), ("statement_timeout", STATEMENT_TIMEOUT)];
        let client = connect::connect(&addresses.url, "doctor", &settings).await?;
        let begun = Instant::now();
        let facts = slot::facts(&client).await?;
        let slot = slot::slot(&client, &config.slot).await?;
        let server = server::server(&client, &config.slot, &config.publication).await?;
        let clock_micros = now_micros();
        let mut source = Source {
            // After the server was asked: knocking takes a walsender for a moment.
            direct: probe::probe(&addresses.replication).await,
            changes_session: server::changes_session(&client).await?,
            clock_micros,
            written: (0, GROWS_DURING),
            slot,
            publication: publication::publication(&client, &config.publication).await?,
            unusable: Vec::new(),
            unpublished: Vec::new(),
            identity_less: Vec::new(),
            rights: Vec::new(),
            entries: server::replication_entries(&client).await?,
            facts,
            server,
        };
        if source.facts.in_recovery {
            return Ok(Box::new(source));
        }
        // Before products are described: the temporary views of that are log too.
        tokio::time::sleep_until(begun + GROWS_DURING).await;
        let later = slot::facts(&client).await?.insert_lsn.unwrap_or_default();
        let before = source.facts.insert_lsn.unwrap_or_default();
        source.written = (later.0.saturating_sub(before.0), begun.elapsed());
        let refused = self.products(loaded).await?;
        self.tables(&client, &mut source, &refused).await?;
        Ok(Box::new(source))
    }

    /// Describes and analyses every product; gives the relations that those name which may not be read.
    async fn products(&mut self, loaded: Loaded) -> Result<BTreeSet<String>, postgres::Error> {
        // Reading a statement's tree takes a temporary view, which no read-only session makes.
        let settings = [("statement_timeout", STATEMENT_TIMEOUT)];
        let mut client = connect::connect(&self.addresses.url, "describe", &settings).await?;
        let named: BTreeMap<String, BTreeSet<String>> = loaded
            .drafts
            .iter()
            .map(|draft| (draft.name.clone(), mentions(draft.question.mentions.as_ref())))
            .collect();
        let catalog = load::catalog(&mut client, loaded).await?;
        let index = load::index(&catalog);
        learn(self.products, &catalog, &index);
        self.products.mentions = named.values().flatten().take(MENTIONS_MAX).cloned().collect();
        let refused = catalog.products.iter().filter(|(_, slot)| slot.sqlstate() == "42501");
        Ok(refused.filter_map(|(name, _)| named.get(name)).flatten().cloned().collect())
    }

    /// Which tables are read, what the role may do with them, and how they are published.
    async fn tables(
        &mut self,
        client: &Client,
        source: &mut Source,
        refused: &BTreeSet<String>,
    ) -> Result<(), postgres::Error> {
        let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>();
        // Once kck may read them, they will have to be published too.
        for right in server::rights(client, &list(refused), &[]).await? {
            if right.publishable && !right.system {
                self.products.tables.insert(TableId(right.table), right.name);
            }
        }
        let published = source.publication.iter().flat_map(|publication| &publication.tables);
        let all: BTreeSet<TableId> =
            self.products.tables.keys().chain(published).copied().collect();
        let oids: Vec<u32> = all.iter().map(|table| table.0).collect();
        source.rights = server::rights(client, &list(&self.products.mentions), &oids).await?;
        source.unusable = publication::unusable_identities(client, &all).await?;
        let unusable: BTreeSet<TableId> = source.unusable.iter().map(|table| table.table).collect();
        let wanted: BTreeSet<TableId> = self.products.tables.keys().copied().collect();
        *self.publishable = &wanted - &unusable;
        let name = &self.config.publication;
        let existing = source.publication.as_ref();
        source.unpublished = publication::missing(client, name, existing, self.publishable).await?;
        if existing.is_some_and(|existing| existing.unnamed) {
            source.identity_less = server::identity_less(client).await?;
        }
        Ok(())
    }
}

/// Takes from catalogue and index what is judged.
fn learn(products: &mut Products, catalog: &Catalog, index: &Index) {
    products.ready = catalog.ready().count();
    products.broken.extend(catalog.faults.iter().map(file_fault));
    for (name, slot) in &catalog.products {
        let said = slot.faults().iter();
        products.broken.extend(said.map(|fault| product_fault(name, fault)));
    }
    for product in catalog.ready() {
        let Some(rules) = index.rules(product.name()) else { continue };
        products.explained.push(rules.explanation(product.name()));
        for (table, of) in rules.tables.iter().filter(|(_, of)| of.publishable) {
            products.tables.insert(*table, of.name.clone());
            products.readers.entry(*table).or_default().push(product.name().to_owned());
            let columns = rules.key_columns(*table).into_iter().map(str::to_owned).collect();
            products.keys.push(Read { product: product.name().to_owned(), table: *table, columns });
        }
    }
}

/// What is wrong with the files alone.
fn faults(loaded: &Loaded) -> Vec<(String, String, String)> {
    let files = loaded.faults.iter().map(file_fault);
    let products = loaded
        .broken
        .iter()
        .flat_map(|(name, faults)| faults.iter().map(move |fault| product_fault(name, fault)));
    files.chain(products).collect()
}

fn file_fault(fault: &Fault) -> (String, String, String) {
    (fault.file.display().to_string(), fault.message.clone(), fault.hint.clone())
}

fn product_fault(name: &str, fault: &Fault) -> (String, String, String) {
    let what = format!("line {}: {}", fault.line, fault.message);
    (format!("product {name}"), what, fault.hint.clone())
}

fn mentions(mentions: Option<&crate::description::Mentions>) -> BTreeSet<String> {
    mentions.map(|mentions| mentions.relations.clone()).unwrap_or_default()
}

fn refusal(failure: Failure) -> Refusal {
    Refusal { what: failure.what, hint: failure.hint }
}

fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
