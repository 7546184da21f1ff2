//! What Postgres says of a product: a [`Question`] → a [`Description`].
//!
//! The statement becomes a temporary view in a transaction that is rolled back; its rule tree, and the trees of
//! the views, functions and policies below it, name by oid everything that is read.

use std::collections::BTreeSet;

use tokio_postgres::{
    Client, GenericClient, Row, Statement, Transaction,
    error::ErrorPosition,
    types::{Kind as WireKind, Type as WireType},
};

use super::{
    Error,
    catalogue::{self, Objects},
    reads::{Reader, Reads, Twins, close, mentioned},
};
use crate::{
    change::TableId,
    description::{Comparison, Description, Function, OutputColumn, Question, Table, Type},
};

/// How often a catalogue that changes meanwhile is read again.
const TRIES_MAX: usize = 5;

const VIEW: &str = "pg_temp.kck_described_product";

/// What Postgres refuses of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Byte offset in the file of what is wrong.
    pub offset: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// Postgres's code; empty where it is not Postgres that refuses.
    pub sqlstate: String,
}

/// Why a product has no description.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// The product's fault.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// Nothing can be said of the product for now.
    #[error(transparent)]
    Source(#[from] Error),
}

/// Asks Postgres what a statement means. The connection has kck's settings.
///
/// # Errors
/// [`DescribeError`]
pub async fn describe(
    client: &mut Client,
    question: &Question,
) -> Result<Description, DescribeError> {
    let mut base = Description::default();
    let (parameters, columns) = types(client, question).await?;
    base.parameters = parameters;
    base.columns = columns;
    match in_transaction(client, question, &base, true).await {
        Err(Failed::NoView(why)) => {
            base.note = Some(format!("no temporary view can be made of it: {why}"));
            in_transaction(client, question, &base, false).await.map_err(DescribeError::from)
        }
        other => other.map_err(DescribeError::from),
    }
}

/// Asks Postgres only for the types of a statement's parameters. The statement may write; it is not run.
///
/// # Errors
/// [`DescribeError`]
pub async fn parameters(client: &Client, question: &Question) -> Result<Vec<Type>, DescribeError> {
    Ok(prepared(client, question).await?.0)
}

/// Asks Postgres only for the columns of a query, which is not run.
///
/// # Errors
/// [`DescribeError`]
pub async fn columns(
    client: &Client,
    question: &Question,
) -> Result<Vec<OutputColumn>, DescribeError> {
    Ok(types(client, question).await?.1)
}

/// Whether values of these types may become parameters of those, each by itself, as an INSERT would take them.
///
/// # Errors
/// What the source said.
pub async fn fits(client: &Client, from: &[u32], to: &[u32]) -> Result<Vec<bool>, Error> {
    let fail = |error| Error::from_postgres("compare types", error);
    let sql = include_str!("../../sql/postgres/warm_fits.sql");
    let rows = client.query(sql, &[&from, &to]).await.map_err(fail)?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(fail)
}

/// Why a transaction gave nothing.
pub(super) enum Failed {
    NoView(String),
    Refused(Refusal),
    Source(Error),
}

impl From<Failed> for DescribeError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Refused(why) => Self::Refused(why),
            Failed::Source(error) => Self::Source(error),
            Failed::NoView(message) => Self::Source(Error::Statement {
                sqlstate: "XX000".to_owned(),
                message,
                position: None,
            }),
        }
    }
}

pub(super) fn fail(error: tokio_postgres::Error) -> Failed {
    Failed::Source(Error::from_postgres("describe a product", error))
}

/// The types of parameters and columns.
async fn types(
    client: &Client,
    question: &Question,
) -> Result<(Vec<Type>, Vec<OutputColumn>), DescribeError> {
    let (parameters, prepared) = prepared(client, question).await?;
    let columns = named_types(client, column_types(&prepared)).await?;
    let names = prepared.columns().iter().map(|column| column.name().to_owned());
    let columns = names.zip(columns).map(|(name, type_)| OutputColumn { name, type_ }).collect();
    Ok((parameters, columns))
}

/// The statement, and the types of its parameters. Those of which nothing is said are inferred first, and then it is
/// read again with all of them, as it will run.
async fn prepared(
    client: &Client,
    question: &Question,
) -> Result<(Vec<Type>, Statement), DescribeError> {
    let mut said = Vec::with_capacity(question.parameters.len());
    let mut modifiers = Vec::with_capacity(question.parameters.len());
    for parameter in &question.parameters {
        let (type_, modifier) = match &parameter.type_name {
            Some(name) => said_type(client, name)
                .await
                .map_err(|error| refused(question, error, |_| parameter.offset))?,
            None => (WireType::UNKNOWN, -1),
        };
        said.push(type_);
        modifiers.push(modifier);
    }
    let numbered = |index: usize| format!("${}", index + 1);
    let sql = question.sql(numbered);
    let at = |position: usize| question.offset_of(position, numbered);
    let mut prepared =
        client.prepare_typed(&sql, &said).await.map_err(|error| refused(question, error, at))?;
    if said.contains(&WireType::UNKNOWN) {
        let inferred = prepared.params().to_vec();
        prepared = client
            .prepare_typed(&sql, &inferred)
            .await
            .map_err(|error| refused(question, error, at))?;
    }
    let parameters = prepared.params().iter().map(WireType::oid).zip(modifiers).collect();
    Ok((named_types(client, parameters).await?, prepared))
}

/// A type that the header names, with its modifier.
async fn said_type(client: &Client, name: &str) -> Result<(WireType, i32), tokio_postgres::Error> {
    let row = client.query_typed_one("select $1::regtype::oid", &[(&name, WireType::TEXT)]).await?;
    let oid: u32 = row.try_get(0)?;
    let type_ = WireType::from_oid(oid)
        .unwrap_or_else(|| WireType::new(name.to_owned(), oid, WireKind::Simple, String::new()));
    // The file's own text, which product::parse found to be a type and nothing else. A domain would answer with
    // what it is made of: its modifier is no part of its name.
    let prepared = client.prepare(&format!("select null::{name}")).await?;
    let column = prepared.columns().first().filter(|column| column.type_().oid() == oid);
    Ok((type_, column.map_or(-1, tokio_postgres::Column::type_modifier)))
}

fn column_types(prepared: &Statement) -> Vec<(u32, i32)> {
    prepared.columns().iter().map(|column| (column.type_().oid(), -1)).collect()
}

async fn named_types(
    client: &impl GenericClient,
    types: Vec<(u32, i32)>,
) -> Result<Vec<Type>, Error> {
    let fail = |error| Error::from_postgres("name types", error);
    let (oids, modifiers): (Vec<u32>, Vec<i32>) = types.into_iter().unzip();
    let sql = include_str!("../../sql/postgres/describe_types.sql");
    let rows = client.query(sql, &[&oids, &modifiers]).await.map_err(fail)?;
    let read =
        |row: &Row| Ok(Type { oid: row.try_get(0)?, name: row.try_get(1)?, kind: letter(row, 2)? });
    rows.iter().map(read).collect::<Result<_, _>>().map_err(fail)
}

/// A `"char"` of the catalogue, asked for as text.
fn letter(row: &Row, column: usize) -> Result<char, tokio_postgres::Error> {
    let text: &str = row.try_get(column)?;
    Ok(text.chars().next().unwrap_or(' '))
}

/// Sorts what Postgres said to the statement: its fault, or the source's.
fn refused(
    question: &Question,
    error: tokio_postgres::Error,
    offset: impl Fn(usize) -> usize,
) -> DescribeError {
    let Some(said) = error.as_db_error() else {
        return Error::from_postgres("describe a product", error).into();
    };
    if !is_of_the_statement(said.code().code()) {
        return Error::from_postgres("describe a product", error).into();
    }
    let offset = match said.position() {
        Some(ErrorPosition::Original(position)) => {
            offset(usize::try_from(*position).unwrap_or(1).saturating_sub(1))
        }
        // What cannot be inferred has no position.
        _ => {
            let numbered = |index: usize| said.message().ends_with(&format!(" ${}", index + 1));
            let named = (0..question.parameters.len()).find(|index| numbered(*index));
            let parameter = named.and_then(|index| question.parameters.get(index));
            parameter.map_or_else(|| offset(0), |parameter| parameter.offset)
        }
    };
    let hint = match (said.hint(), said.code().code()) {
        (Some(hint), _) => hint.to_owned(),
        (None, "42P01" | "42703" | "42883" | "3F000") => {
            "check the name, and the search_path of kck's role".to_owned()
        }
        (None, "42P18") => "say its type in params".to_owned(),
        (None, "42704") => "write a type that the source has".to_owned(),
        (None, "42501") => "grant kck's role what it needs to read this".to_owned(),
        (None, _) => "try the statement in psql".to_owned(),
    };
    let names = question.parameters.iter().enumerate().rev();
    let message = names.fold(said.message().to_owned(), |message, (index, parameter)| {
        message.replace(&format!("${}", index + 1), &format!(":{}", parameter.name))
    });
    let sqlstate = said.code().code().to_owned();
    DescribeError::Refused(Refusal { offset, message, hint, sqlstate })
}

/// Syntax, names, rights and types; values; what is not supported; what only reads; schemas; too complex.
fn is_of_the_statement(sqlstate: &str) -> bool {
    ["42", "22", "0A", "25", "3F", "54"].iter().any(|class| sqlstate.starts_with(class))
}

async fn in_transaction(
    client: &mut Client,
    question: &Question,
    base: &Description,
    with_view: bool,
) -> Result<Description, Failed> {
    let transaction =
        client.build_transaction().read_only(!with_view).start().await.map_err(fail)?;
    let view = if with_view { Some(make_view(&transaction, question, base).await?) } else { None };
    let (mut before, mut twins) = (None, Twins::default());
    for _ in 0..TRIES_MAX {
        let read = read(&transaction, question, base, view.as_ref(), &mut twins).await?;
        // Each question sees the catalogue of its own moment: what is read twice alike was so throughout.
        if before.as_ref() == Some(&read) {
            transaction.rollback().await.map_err(fail)?;
            return Ok(read);
        }
        before = Some(read);
    }
    let message = "its tables or views change while they are described".to_owned();
    Err(Failed::Source(Error::Statement { sqlstate: "55000".to_owned(), message, position: None }))
}

struct View {
    oid: u32,
    tree: String,
    little_endian: bool,
    canonical: String,
}

async fn make_view(
    transaction: &Transaction<'_>,
    question: &Question,
    base: &Description,
) -> Result<View, Failed> {
    let sql = question.sql(|index| {
        let type_ = base.parameters.get(index).map_or("text", |type_| type_.name.as_str());
        format!("(pg_catalog.current_setting('kck.p{}')::{type_})", index + 1)
    });
    // Columns of an answer may have equal names, those of a view may not.
    let columns: Vec<_> = (1..=base.columns.len()).map(|number| format!("c{number}")).collect();
    let list = if columns.is_empty() { String::new() } else { format!("({})", columns.join(", ")) };
    let made =
        transaction.execute(&format!("create temporary view {VIEW} {list} as {sql}"), &[]).await;
    if let Err(error) = made {
        return match error.as_db_error() {
            // No right to make one, columns of a type that no relation has, a source that only reads.
            Some(said) if is_of_the_statement(said.code().code()) => {
                Err(Failed::NoView(said.message().to_owned()))
            }
            _ => Err(fail(error)),
        };
    }
    let row =
        transaction.query_one("select $1::text::regclass::oid", &[&VIEW]).await.map_err(fail)?;
    let oid: u32 = row.try_get(0).map_err(fail)?;
    let sql = include_str!("../../sql/postgres/describe_view.sql");
    let row = transaction.query_one(sql, &[&oid]).await.map_err(fail)?;
    let (tree, canonical) = (row.try_get(0).map_err(fail)?, row.try_get(1).map_err(fail)?);
    let little_endian = row.try_get(2).map_err(fail)?;
    Ok(View { oid, tree, little_endian, canonical })
}

async fn read(
    transaction: &Transaction<'_>,
    question: &Question,
    base: &Description,
    view: Option<&View>,
    twins: &mut Twins,
) -> Result<Description, Failed> {
    let mut reads = Reads::default();
    match view {
        Some(view) => {
            reads.skip = view.oid;
            reads.tree(&view.tree, Reader::CURRENT);
        }
        None => mentioned(transaction, question, &mut reads).await?,
    }
    // Only a transaction that may make a view may make anything.
    let twins = view.is_some().then_some(twins);
    close(transaction, &mut reads, twins).await?;
    let mut description = Description {
        tree: view.map(|view| view.tree.clone()),
        canonical: view.map(|view| view.canonical.clone()),
        little_endian: view.is_some_and(|view| view.little_endian),
        ..base.clone()
    };
    tables(transaction, question, &reads, &mut description).await?;
    column_types_of(transaction, &mut description).await?;
    functions(transaction, &reads, &mut description).await?;
    operators(transaction, &reads, &mut description).await?;
    description.view_trees = reads.view_trees;
    let objects = Objects::of(&description);
    let catalogue = catalogue::look(transaction, catalogue::QUESTION, &objects)
        .await
        .map_err(Failed::Source)?;
    description.catalogue = catalogue.fingerprint(&objects);
    description.definitions = catalogue.definitions(&objects);
    description.growth = catalogue.growth(&objects);
    Ok(description)
}

async fn tables(
    transaction: &Transaction<'_>,
    question: &Question,
    reads: &Reads,
    description: &mut Description,
) -> Result<(), Failed> {
    let oids: Vec<u32> = reads.relations.iter().map(|(oid, _)| *oid).collect();
    let roles: Vec<u32> = reads.relations.iter().map(|(_, reader)| reader.role).collect();
    let named: Vec<bool> = reads.relations.iter().map(|(_, reader)| reader.named).collect();
    let sql = include_str!("../../sql/postgres/describe_tables.sql");
    let rows = transaction.query(sql, &[&oids, &roles, &named]).await.map_err(fail)?;
    for row in &rows {
        let (table, readable) = table(row).map_err(fail)?;
        if !readable {
            let message = format!("kck's role may not read {}.{}", table.schema, table.name);
            let hint = format!("grant select on {}.{} to it", table.schema, table.name);
            let (offset, sqlstate) = (question.offset, String::new());
            return Err(Failed::Refused(Refusal { offset, message, hint, sqlstate }));
        }
        description.tables.push(table);
    }
    Ok(())
}

fn table(row: &Row) -> Result<(Table, bool), tokio_postgres::Error> {
    let numbers: Vec<i16> = row.try_get("numbers")?;
    let names: Vec<String> = row.try_get("names")?;
    let types: Vec<u32> = row.try_get("types")?;
    let table = Table {
        id: TableId(row.try_get(0)?),
        schema: row.try_get(1)?,
        name: row.try_get(2)?,
        kind: letter(row, 3)?,
        persistence: letter(row, 4)?,
        system: row.try_get("system")?,
        row_security: row.try_get("row_security")?,
        identity: row.try_get("identity")?,
        indirect: row.try_get("indirect")?,
        key: row.try_get::<_, Vec<i16>>("key")?.into_iter().collect(),
        replicated: row
            .try_get::<_, Option<Vec<i16>>>("replicated")?
            .map(|columns| columns.into_iter().collect()),
        indexed: row.try_get::<_, Vec<i16>>("indexed")?.into_iter().collect(),
        leaves: row.try_get("leaves")?,
        columns: numbers.into_iter().zip(names.into_iter().zip(types)).collect(),
    };
    Ok((table, row.try_get("readable")?))
}

/// The names of the types of all columns, and the labels of enums among them.
async fn column_types_of(
    transaction: &Transaction<'_>,
    description: &mut Description,
) -> Result<(), Failed> {
    let columns = description.tables.iter().flat_map(|table| table.columns.values());
    let oids: BTreeSet<u32> = columns.map(|(_, type_oid)| *type_oid).collect();
    let asked = oids.iter().map(|oid| (*oid, -1)).collect();
    let named = named_types(transaction, asked).await.map_err(Failed::Source)?;
    description.types = named.into_iter().map(|type_| (type_.oid, type_.name)).collect();
    let oids: Vec<u32> = oids.into_iter().collect();
    let sql = include_str!("../../sql/postgres/describe_enums.sql");
    for row in transaction.query(sql, &[&oids]).await.map_err(fail)? {
        description.enums.insert(row.try_get(0).map_err(fail)?);
        description.labels.insert(row.try_get(1).map_err(fail)?, row.try_get(2).map_err(fail)?);
    }
    Ok(())
}

async fn functions(
    transaction: &Transaction<'_>,
    reads: &Reads,
    description: &mut Description,
) -> Result<(), Failed> {
    let oids: Vec<u32> = reads.functions.iter().copied().collect();
    let sql = include_str!("../../sql/postgres/describe_functions.sql");
    let rows = transaction.query(sql, &[&oids]).await.map_err(fail)?;
    let read = |row: &Row| {
        Ok(Function {
            oid: row.try_get(0)?,
            schema: row.try_get(1)?,
            name: row.try_get(2)?,
            volatility: letter(row, 3)?,
            language: row.try_get(4)?,
            strict: row.try_get(5)?,
            reads_tables: reads.bodies.get(&row.try_get(0)?).copied(),
            signature: row.try_get(6)?,
        })
    };
    description.functions = rows.iter().map(read).collect::<Result<_, _>>().map_err(fail)?;
    Ok(())
}

async fn operators(
    transaction: &Transaction<'_>,
    reads: &Reads,
    description: &mut Description,
) -> Result<(), Failed> {
    let oids: Vec<u32> = reads.operators.iter().copied().collect();
    let sql = include_str!("../../sql/postgres/describe_comparisons.sql");
    for row in transaction.query(sql, &[&oids]).await.map_err(fail)? {
        let means = match row.try_get::<_, i32>(1).map_err(fail)? {
            0 => Comparison::Unequal,
            1 => Comparison::Less,
            2 => Comparison::AtMost,
            3 => Comparison::Equal,
            4 => Comparison::AtLeast,
            5 => Comparison::Greater,
            _ => continue,
        };
        let types = (row.try_get(2).map_err(fail)?, row.try_get(3).map_err(fail)?);
        description.comparisons.insert(row.try_get(0).map_err(fail)?, (means, types.0, types.1));
    }
    let oids: Vec<u32> = reads.collations.iter().copied().collect();
    let sql = include_str!("../../sql/postgres/describe_collations.sql");
    for row in transaction.query(sql, &[&oids]).await.map_err(fail)? {
        description.nondeterministic_collations.push(row.try_get(0).map_err(fail)?);
    }
    Ok(())
}
