//! The publication: exactly the tables that products read, and never one that its writers would suffer for.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::error::Error;
use crate::{change::TableId, quote};

/// How long changing the publication may wait for locks on its tables.
const LOCK_WAIT: &str = "set local lock_timeout = '10s'";

/// A publication as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Publication {
    /// Its tables, by name.
    pub tables: BTreeSet<TableId>,
    /// Those of which a row filter hides rows.
    pub filtered: BTreeSet<TableId>,
    /// Those of which a column list hides columns.
    pub narrowed: BTreeSet<TableId>,
    /// It has tables that it does not name: all of the database, or of a schema.
    pub unnamed: bool,
    /// It sends INSERT, UPDATE, DELETE and TRUNCATE, all four.
    pub all_actions: bool,
    /// Changes of a partition come as its root's.
    pub via_root: bool,
    /// Tells its own catalogue row from every other that it ever had.
    pub row: String,
    /// Tells each table's membership from every other that it ever had.
    pub rows: BTreeMap<TableId, String>,
}

impl Publication {
    /// Changes whenever changes of these tables may have been missed.
    #[must_use]
    pub fn identity(&self, tables: &BTreeSet<TableId>) -> String {
        let rows = tables.iter().map(|table| self.rows.get(table).map_or("none", String::as_str));
        std::iter::once(self.row.as_str()).chain(rows).collect::<Vec<_>>().join(",")
    }
    /// The tables of which every change is sent.
    #[must_use]
    pub fn complete(&self) -> BTreeSet<TableId> {
        if self.all_actions && self.via_root {
            &(&self.tables - &self.filtered) - &self.narrowed
        } else {
            BTreeSet::new()
        }
    }
}

/// A table that must not be published, or its writers' UPDATE and DELETE would fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// Which.
    pub table: TableId,
    /// Its name, quoted.
    pub name: String,
    /// Why not.
    pub reason: String,
    /// The SQL that changes it; empty if there is none.
    pub fix: String,
}

/// What [`ensure_publication`] left behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ensured {
    /// Tables of which earlier changes may be missing in the stream: R11 holds for them.
    pub added: BTreeSet<TableId>,
    /// Tables that were asked for and left out.
    pub unusable: Vec<Unusable>,
    /// What was said to the server.
    pub statements: Vec<String>,
}

/// Reads a publication, if it exists.
pub async fn publication(client: &Client, name: &str) -> Result<Option<Publication>, Error> {
    const ACTION: &str = "read the publication";
    let row = client
        .query_opt(include_str!("../../sql/postgres/publication.sql"), &[&name])
        .await
        .map_err(|error| Error::from_postgres(ACTION, error))?;
    let Some(row) = row else { return Ok(None) };
    let tables = |column: &str| -> Result<BTreeSet<TableId>, tokio_postgres::Error> {
        Ok(row.try_get::<_, Vec<u32>>(column)?.into_iter().map(TableId).collect())
    };
    let read = || {
        let members = tables("tables")?;
        let rows: Vec<String> = row.try_get("rows")?;
        Ok(Publication {
            row: row.try_get("row")?,
            rows: members.iter().copied().zip(rows).collect(),
            tables: members,
            filtered: tables("filtered")?,
            narrowed: tables("narrowed")?,
            unnamed: row.try_get("unnamed")?,
            all_actions: row.try_get("all_actions")?,
            via_root: row.try_get("via_root")?,
        })
    };
    read().map(Some).map_err(|error| Error::from_postgres(ACTION, error))
}

/// Which of these tables must not be published, with a line for each thing to mend.
pub async fn unusable_identities(
    client: &Client,
    tables: &BTreeSet<TableId>,
) -> Result<Vec<Unusable>, Error> {
    const ACTION: &str = "look at replica identities";
    let rows = client
        .query(include_str!("../../sql/postgres/unusable_identities.sql"), &[&oids(tables)])
        .await
        .map_err(|error| Error::from_postgres(ACTION, error))?;
    let read = |row: &tokio_postgres::Row| {
        Ok(Unusable {
            table: TableId(row.try_get("oid")?),
            name: row.try_get("name")?,
            reason: row.try_get("reason")?,
            fix: row.try_get("fix")?,
        })
    };
    let all: Result<_, tokio_postgres::Error> = rows.iter().map(read).collect();
    all.map_err(|error| Error::from_postgres(ACTION, error))
}

/// Makes the publication name exactly `wanted`, less the tables without a usable identity and those that do
/// not exist; they are looked at here, however recently the caller did.
pub async fn ensure_publication(
    client: &Client,
    name: &str,
    wanted: &BTreeSet<TableId>,
) -> Result<Ensured, Error> {
    let unusable = unusable_identities(client, wanted).await?;
    let bad: BTreeSet<TableId> = unusable.iter().map(|unusable| unusable.table).collect();
    let usable: BTreeSet<TableId> = wanted.difference(&bad).copied().collect();
    let existing = publication(client, name).await?;
    if existing.as_ref().is_some_and(|existing| existing.unnamed) {
        let name = quote::name(name);
        return Err(Error::Refused {
            action: "change the publication",
            sqlstate: String::new(),
            message: format!("publication {name} has tables that it does not name"),
            hint: format!("drop publication {name}; kck makes one of the tables it reads"),
        });
    }
    let concerned = existing.iter().flat_map(|existing| &existing.tables).chain(&usable).copied();
    let names = table_names(client, &concerned.collect()).await?;
    let plan = plan(name, existing.as_ref(), &usable, &names);
    if !plan.statements.is_empty() {
        run(client, &plan.statements).await?;
    }
    Ok(Ensured { added: plan.added, unusable, statements: plan.statements })
}

/// What [`ensure_publication`] would say to the server, one statement each; nothing where all is as wanted.
pub async fn missing(
    client: &Client,
    name: &str,
    existing: Option<&Publication>,
    usable: &BTreeSet<TableId>,
) -> Result<Vec<String>, Error> {
    // One with tables that it does not name cannot be altered into one that names them.
    let altered = existing.filter(|existing| !existing.unnamed);
    let concerned = altered.iter().flat_map(|existing| &existing.tables).chain(usable).copied();
    let names = table_names(client, &concerned.collect()).await?;
    let mut statements = plan(name, altered, usable, &names).statements;
    if existing.is_some() && altered.is_none() {
        statements.insert(0, format!("drop publication {}", quote::name(name)));
    }
    Ok(statements)
}

/// What has to be said to the server, and for which tables the past is incomplete.
#[derive(Debug, PartialEq, Eq, Default)]
struct Plan {
    statements: Vec<String>,
    added: BTreeSet<TableId>,
}

/// Compares what is with what is wanted. `names` are the quoted names of all tables that still exist.
fn plan(
    name: &str,
    existing: Option<&Publication>,
    wanted: &BTreeSet<TableId>,
    names: &BTreeMap<TableId, String>,
) -> Plan {
    let name = quote::name(name);
    // ONLY: children by plain inheritance are tables of their own, with identities of their own.
    let list = |tables: &BTreeSet<TableId>| {
        let names = tables.iter().filter_map(|table| names.get(table));
        names.map(|name| format!("only {name}")).collect::<Vec<_>>().join(", ")
    };
    let wanted: BTreeSet<TableId> =
        wanted.iter().filter(|table| names.contains_key(table)).copied().collect();
    let options = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true";
    let Some(existing) = existing else {
        let tables =
            if wanted.is_empty() { String::new() } else { format!(" for table {}", list(&wanted)) };
        let create = format!("create publication {name}{tables} with ({options})");
        return Plan { statements: vec![create], added: wanted };
    };
    let restricted: BTreeSet<TableId> =
        existing.filtered.union(&existing.narrowed).copied().collect();
    // A restricted table leaves and comes back whole, in one transaction.
    let sound: BTreeSet<TableId> = existing.tables.difference(&restricted).copied().collect();
    let leaving: BTreeSet<TableId> = existing
        .tables
        .iter()
        .filter(|t| !sound.contains(t) || !wanted.contains(t))
        .copied()
        .collect();
    let coming: BTreeSet<TableId> = wanted.difference(&sound).copied().collect();
    let mut statements = Vec::new();
    if !leaving.is_empty() {
        statements.push(format!("alter publication {name} drop table {}", list(&leaving)));
    }
    if !coming.is_empty() {
        statements.push(format!("alter publication {name} add table {}", list(&coming)));
    }
    let deaf = !existing.all_actions || !existing.via_root;
    if deaf {
        statements.push(format!("alter publication {name} set ({options})"));
    }
    Plan { statements, added: if deaf { wanted } else { coming } }
}

async fn run(client: &Client, statements: &[String]) -> Result<(), Error> {
    let script = format!("begin; {LOCK_WAIT}; {}; commit", statements.join("; "));
    let Err(error) = client.batch_execute(&script).await else { return Ok(()) };
    let error = Error::from_postgres("change the publication", error);
    if !matches!(error, Error::Gone { .. } | Error::Unreachable { .. }) {
        client
            .batch_execute("rollback")
            .await
            .map_err(|error| Error::from_postgres("change the publication", error))?;
    }
    Err(match error {
        Error::Refused { action, sqlstate, message, .. } => {
            let hint = format!("let somebody who may run: {};", statements.join("; "));
            Error::Refused { action, sqlstate, message, hint }
        }
        error => error,
    })
}

/// Takes those of these tables that must not be published any more out of a publication: their writers come
/// first. They come back.
pub async fn withdraw(
    client: &Client,
    name: &str,
    tables: &BTreeSet<TableId>,
) -> Result<BTreeSet<TableId>, Error> {
    let Some(existing) = publication(client, name).await? else { return Ok(BTreeSet::new()) };
    let unusable = unusable_identities(client, &(tables & &existing.tables)).await?;
    let tables: BTreeSet<TableId> = unusable.iter().map(|unusable| unusable.table).collect();
    if tables.is_empty() {
        return Ok(tables);
    }
    let names = table_names(client, &tables).await?;
    let list = names.values().map(|name| format!("only {name}")).collect::<Vec<_>>().join(", ");
    run(client, &[format!("alter publication {} drop table {list}", quote::name(name))]).await?;
    Ok(tables)
}

/// Drops a publication, if there is one.
pub async fn drop_publication(client: &Client, name: &str) -> Result<(), Error> {
    let drop = format!("drop publication if exists {}", quote::name(name));
    client
        .batch_execute(&drop)
        .await
        .map_err(|error| Error::from_postgres("drop the publication", error))
}

/// A transaction that may have written to a table before it was published; opaque.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Writer(String);

/// Who may have written rows of these tables, or of their partitions, and has not ended (R11).
pub async fn writers(client: &Client, tables: &BTreeSet<TableId>) -> Result<Vec<Writer>, Error> {
    let sql = include_str!("../../sql/postgres/writers.sql");
    let rows = client.query(sql, &[&oids(tables)]).await;
    rows.and_then(|rows| rows.iter().map(|row| row.try_get(0).map(Writer)).collect())
        .map_err(|error| Error::from_postgres("look who writes to new tables", error))
}

/// Which of these have still not ended.
pub async fn still_there(client: &Client, writers: &[Writer]) -> Result<Vec<Writer>, Error> {
    let asked: Vec<&str> = writers.iter().map(|Writer(id)| id.as_str()).collect();
    let rows = client.query(include_str!("../../sql/postgres/still_there.sql"), &[&asked]).await;
    rows.and_then(|rows| rows.iter().map(|row| row.try_get(0).map(Writer)).collect())
        .map_err(|error| Error::from_postgres("wait for who writes to new tables", error))
}

async fn table_names(
    client: &Client,
    tables: &BTreeSet<TableId>,
) -> Result<BTreeMap<TableId, String>, Error> {
    let sql = include_str!("../../sql/postgres/table_names.sql");
    let rows = client.query(sql, &[&oids(tables)]).await;
    rows.and_then(|rows| {
        let name = |row: &tokio_postgres::Row| Ok((TableId(row.try_get(0)?), row.try_get(1)?));
        rows.iter().map(name).collect()
    })
    .map_err(|error| Error::from_postgres("name the tables to publish", error))
}

fn oids(tables: &BTreeSet<TableId>) -> Vec<u32> {
    tables.iter().map(|table| table.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(tables: &[u32]) -> BTreeSet<TableId> {
        tables.iter().copied().map(TableId).collect()
    }

    fn sound(tables: &[u32]) -> Publication {
        Publication {
            tables: set(tables),
            filtered: set(&[]),
            narrowed: set(&[]),
            unnamed: false,
            all_actions: true,
            via_root: true,
            ..Publication::default()
        }
    }

    fn check(existing: Option<&Publication>, wanted: &[u32], statements: &[&str], added: &[u32]) {
        let names = (1..9).map(|oid| (TableId(oid), format!("s.t{oid}"))).collect();
        let plan = plan("k\"ck", existing, &set(wanted), &names);
        assert_eq!(plan.statements, statements);
        assert_eq!(plan.added, set(added));
    }

    const OPTIONS: &str =
        "publish = 'insert, update, delete, truncate', publish_via_partition_root = true";

    #[test]
    fn what_is_right_is_left_alone() {
        check(Some(&sound(&[1, 2])), &[1, 2], &[], &[]);
    }

    #[test]
    fn a_missing_publication_is_made() {
        let create = format!(
            r#"create publication "k""ck" for table only s.t1, only s.t2 with ({OPTIONS})"#
        );
        check(None, &[1, 2], &[&create], &[1, 2]);
        check(None, &[], &[&format!(r#"create publication "k""ck" with ({OPTIONS})"#)], &[]);
    }

    #[test]
    fn only_the_missing_table_is_added() {
        let add = r#"alter publication "k""ck" add table only s.t3"#;
        check(Some(&sound(&[1, 2])), &[1, 2, 3], &[add], &[3]);
    }

    #[test]
    fn surplus_tables_go() {
        let drop = r#"alter publication "k""ck" drop table only s.t2"#;
        let add = r#"alter publication "k""ck" add table only s.t3"#;
        check(Some(&sound(&[1, 2])), &[1, 3], &[drop, add], &[3]);
        check(Some(&sound(&[1, 2])), &[1], &[drop], &[]);
    }

    #[test]
    fn a_table_that_is_gone_is_not_asked_for() {
        check(Some(&sound(&[1])), &[1, 99], &[], &[]);
    }

    #[test]
    fn a_filter_or_a_column_list_goes_and_counts_as_added() {
        let filtered = Publication { filtered: set(&[1]), ..sound(&[1, 2]) };
        let drop = r#"alter publication "k""ck" drop table only s.t1"#;
        let add = r#"alter publication "k""ck" add table only s.t1"#;
        check(Some(&filtered), &[1, 2], &[drop, add], &[1]);
    }

    #[test]
    fn missing_actions_count_as_all_added() {
        let deaf = Publication { all_actions: false, ..sound(&[1]) };
        check(Some(&deaf), &[1], &[&format!(r#"alter publication "k""ck" set ({OPTIONS})"#)], &[1]);
    }
}
