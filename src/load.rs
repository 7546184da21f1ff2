//! Files, and what the source says of them → the catalogue: every product ready, or broken with the reason.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use crate::{
    change::TableId,
    depend::{self, Index},
    description::{Description, Type},
    entry::Fingerprint,
    postgres::{
        self, Client, describe,
        publication::{Publication, Unusable},
    },
    product::{
        Catalog, Draft, Fault, Process, Product, Slot, Update, UpdateSlot, Work, build, file,
        recipe::On,
        update,
        warm::{self, Domain},
    },
    store::state::Seen,
};

/// Reads the products below `folder`, without asking the source: those that are sound so far, and all faults.
#[must_use]
pub fn files(folder: &Path) -> file::Loaded {
    file::load(folder)
}

/// Reads the updates below `folder`, likewise.
#[must_use]
pub fn update_files(folder: &Path) -> file::Loaded {
    file::load_updates(folder)
}

/// Reads the processes below `folder`, likewise.
#[must_use]
pub fn process_files(folder: &Path) -> file::Loaded {
    file::load_processes(folder)
}

/// What the source says against a process, where it can be asked before it is run.
///
/// # Errors
/// When the source cannot be asked.
pub async fn process(client: &Client, process: &Process) -> Result<Option<Fault>, postgres::Error> {
    let Work::Sql { question: true, .. } = &process.work else { return Ok(None) };
    match describe::parameters(client, &process.draft.question).await {
        Ok(_) => Ok(None),
        Err(describe::DescribeError::Refused(why)) => Ok(Some(refusal(&process.draft, why))),
        Err(describe::DescribeError::Source(error)) => Err(error),
    }
}

/// Asks the source about each sound file.
///
/// # Errors
/// When the source cannot be asked at all; what it says against one product is that product's fault.
pub async fn catalog(
    client: &mut Client,
    loaded: file::Loaded,
) -> Result<Catalog, postgres::Error> {
    let mut catalog = Catalog { faults: loaded.faults, ..Catalog::default() };
    catalog.products.extend(
        loaded.broken.into_iter().map(|(name, faults)| (name, Slot::Broken { last: None, faults })),
    );
    for draft in loaded.drafts {
        let name = draft.name.clone();
        let slot = match product(client, draft).await? {
            Ok(product) => Slot::ready(Arc::new(product)),
            Err(faults) => Slot::Broken { last: None, faults },
        };
        catalog.products.insert(name, slot);
    }
    refuse_strangers(&mut catalog);
    Ok(catalog)
}

/// Products whose warm keys are those of another that has no such keys are broken.
fn refuse_strangers(catalog: &mut Catalog) {
    let strangers: Vec<_> = catalog
        .ready()
        .filter_map(|product| Some((product.name().to_owned(), stranger(product, catalog)?)))
        .collect();
    for (name, fault) in strangers {
        catalog.products.insert(name, Slot::Broken { last: None, faults: vec![fault] });
    }
}

/// What is wrong with a product's taking the keys of another one of the catalogue.
#[must_use]
pub fn stranger(product: &Product, catalog: &Catalog) -> Option<Fault> {
    let Domain::KeysOf(name) = &product.draft.policy.warm.as_ref()?.domain else { return None };
    let other = catalog.products.get(name).and_then(Slot::product);
    warm::stranger(product, other.map(|other| &**other))
}

/// One product, or what is wrong with it.
///
/// # Errors
/// When the source cannot be asked.
pub async fn product(
    client: &mut Client,
    draft: Draft,
) -> Result<Result<Product, Vec<Fault>>, postgres::Error> {
    let description = match describe::describe(client, &draft.question).await {
        Ok(description) => description,
        Err(describe::DescribeError::Refused(why)) => {
            return Ok(Err(vec![refusal(&draft, plainly(&draft, why))]));
        }
        Err(describe::DescribeError::Source(error)) => return Err(error),
    };
    let mut product = match build::build(draft, description) {
        Ok(product) => product,
        Err(faults) => return Ok(Err(faults)),
    };
    let rules = depend::analyse(&product, &product.description);
    product.by_time = !rules.time.is_empty();
    // What moves with time in a product that it depends on shows in that one's answers.
    let told = product.by_time
        && product
            .draft
            .recipe
            .outside()
            .is_some_and(|outside| outside.products().next().is_some());
    if let Some(refusal) = rules.refusal(&product.draft.policy).filter(|_| !told) {
        let (what, hint) = refusal.split_once(": ").unwrap_or((&refusal, ""));
        return Ok(Err(vec![product.draft.fault(product.draft.question.offset, what, hint)]));
    }
    Ok(match domain(client, &product).await? {
        None => Ok(product),
        Some(fault) => Err(vec![fault]),
    })
}

/// What is wrong with a product's warm query; `None` where it has none.
async fn domain(client: &Client, product: &Product) -> Result<Option<Fault>, postgres::Error> {
    let policy = &product.draft.policy;
    let Some((said, question)) =
        policy.warm.as_ref().and_then(|warm| Some((warm, warm.question()?)))
    else {
        return Ok(None);
    };
    let columns = match describe::columns(client, &question).await {
        Ok(columns) => columns,
        Err(describe::DescribeError::Refused(why)) => {
            let fault = warm::fault(&product.draft, said, why.offset, &why.message, &why.hint);
            return Ok(Some(Fault { sqlstate: why.sqlstate, ..fault }));
        }
        Err(describe::DescribeError::Source(error)) => return Err(error),
    };
    let of = |type_: &Type| type_.oid;
    let from: Vec<u32> = columns.iter().map(|column| of(&column.type_)).collect();
    let to: Vec<u32> = product.parameters.iter().map(|parameter| of(&parameter.type_)).collect();
    let fits =
        if from.len() == to.len() { describe::fits(client, &from, &to).await? } else { Vec::new() };
    Ok(warm::misfit(product, &columns, &fits))
}

/// Asks the source about each sound update, and puts all of them into the catalogue.
///
/// # Errors
/// When the source cannot be asked at all; what it says against one update is that update's fault.
pub async fn updates(
    client: &Client,
    loaded: file::Loaded,
    catalog: &mut Catalog,
) -> Result<(), postgres::Error> {
    catalog.update_faults = loaded.faults;
    let broken = loaded.broken.into_iter();
    catalog.updates = broken.map(|(name, faults)| (name, UpdateSlot::Broken { faults })).collect();
    for draft in loaded.drafts {
        let name = draft.name.clone();
        let slot = match self::update(client, draft).await? {
            Ok(update) => UpdateSlot::Ready { update: Arc::new(update), faults: Vec::new() },
            Err(faults) => UpdateSlot::Broken { faults },
        };
        catalog.updates.insert(name, slot);
    }
    Ok(())
}

/// One update, or what is wrong with it.
///
/// # Errors
/// When the source cannot be asked.
pub async fn update(
    client: &Client,
    draft: Draft,
) -> Result<Result<Update, Vec<Fault>>, postgres::Error> {
    match describe::parameters(client, &draft.question).await {
        Ok(types) => Ok(update::build(draft, &types)),
        Err(describe::DescribeError::Refused(why)) => Ok(Err(vec![refusal(&draft, why)])),
        Err(describe::DescribeError::Source(error)) => Err(error),
    }
}

/// What a product of another recipe depends on is read by SQL that nobody wrote: what is said of it is said of the
/// file.
fn plainly(draft: &Draft, why: describe::Refusal) -> describe::Refusal {
    let Some(outside) = draft.recipe.outside() else { return why };
    let depends = outside.depends.iter().rfind(|depends| depends.offset <= why.offset);
    let hint = match (why.sqlstate.as_str(), depends.map(|depends| &depends.on)) {
        ("42P01" | "3F000", _) => "name a table that kck's role sees: \"shop.sales\"",
        ("42703", Some(On::Table(_))) => {
            "match has a column of the table on the left, and a parameter of this product on the right"
        }
        ("42883" | "42804" | "42846" | "42725", _) => {
            "these two cannot be compared: give the parameter the other's type in params"
        }
        _ => return why,
    };
    describe::Refusal { hint: hint.to_owned(), ..why }
}

fn refusal(draft: &Draft, why: describe::Refusal) -> Fault {
    let fault = draft.fault(why.offset, why.message, why.hint);
    Fault { sqlstate: why.sqlstate, ..fault }
}

/// The index of the products that follow changes.
#[must_use]
pub fn index(catalog: &Catalog) -> Index {
    Index::new(catalog.ready().filter(|product| product.draft.policy.change))
}

/// Products that read a table which must not be published are broken, with the SQL that mends it.
pub fn refuse_unpublished(catalog: &mut Catalog, index: &Index, unusable: &[Unusable]) {
    for table in unusable {
        for product in index.readers(table.table) {
            let fault = unfollowed(&product.draft, table);
            match catalog.products.get_mut(product.name()) {
                Some(Slot::Broken { faults, .. }) => faults.push(fault),
                Some(slot) => *slot = Slot::Broken { last: None, faults: vec![fault] },
                None => {}
            }
        }
    }
}

/// Why a product that reads this table cannot be.
#[must_use]
pub fn unfollowed(draft: &Draft, table: &Unusable) -> Fault {
    let what = format!("table {} cannot be followed: {}", table.name, table.reason);
    let hint = if table.fix.is_empty() {
        "read another table".to_owned()
    } else {
        format!("run {}", table.fix)
    };
    draft.fault(draft.question.offset, what, hint)
}

/// The tables a product's changes come from.
#[must_use]
pub fn tables_of(index: &Index, product: &str) -> BTreeSet<TableId> {
    let rules = index.rules(product);
    let tables =
        rules.iter().flat_map(|rules| &rules.tables).filter(|(_, rules)| rules.publishable);
    tables.map(|(table, _)| *table).collect()
}

/// What its analysis saw of a product, and its tables in this publication where it is followed.
#[must_use]
pub fn seen(product: &Product, publication: &Publication, tables: &BTreeSet<TableId>) -> Seen {
    let Description { catalogue, growth, .. } = &product.description;
    Seen {
        catalogue: catalogue.clone(),
        growth: growth.clone(),
        membership: membership(product.draft.policy.change, publication, tables),
    }
}

/// Of tables in a publication; nothing for a product that follows no changes.
#[must_use]
pub fn membership(followed: bool, publication: &Publication, tables: &BTreeSet<TableId>) -> String {
    if followed { publication.identity(tables) } else { String::new() }
}

/// A definition and the generation it is matched under, as one fingerprint (R1).
#[must_use]
pub fn with_generation(definition: Fingerprint, generation: u64) -> Fingerprint {
    use sha2::{Digest, Sha256};
    let hash =
        Sha256::new().chain_update(definition.0).chain_update(generation.to_le_bytes()).finalize();
    Fingerprint(hash.first_chunk().copied().unwrap_or_default())
}
