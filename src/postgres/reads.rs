//! Trees and recorded dependencies → every relation, function, operator and collation that a statement reads.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Row, Transaction};

use super::{
    Error,
    describe::{Failed, Refusal, fail},
};
use crate::description::Question;

/// Far more than statements have; a limit on what a catalogue may make kck read.
const OBJECTS_MAX: usize = 10_000;

/// Who reads, and whether by a name in a tree that `depend` follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reader {
    /// 0 is the current role.
    pub(super) role: u32,
    pub(super) named: bool,
}

impl Reader {
    pub(super) const CURRENT: Self = Self { role: 0, named: true };
}

/// What is read, as far as it is known.
#[derive(Default)]
pub(super) struct Reads {
    /// The temporary view itself: rule trees name the view they belong to.
    pub(super) skip: u32,
    pub(super) relations: BTreeSet<(u32, Reader)>,
    pub(super) functions: BTreeSet<u32>,
    pub(super) operators: BTreeSet<u32>,
    pub(super) collations: BTreeSet<u32>,
    pub(super) view_trees: BTreeMap<u32, String>,
    /// Functions with a body of SQL, and whether it reads tables.
    pub(super) bodies: BTreeMap<u32, bool>,
}

/// Statements that make twins of functions, and the trees of those that Postgres could read.
#[derive(Default)]
pub(super) struct Twins(BTreeMap<u32, (u32, Option<String>)>);

impl Twins {
    /// Reads the bodies of functions that are texts, as Postgres does: each becomes a function with a body that is
    /// read when it is made. A body that cannot be read so stays unknown.
    async fn read(
        &mut self,
        transaction: &Transaction<'_>,
        reads: &mut Reads,
    ) -> Result<(), Failed> {
        let unread = reads.functions.iter().filter(|function| !self.0.contains_key(function));
        let oids: Vec<u32> = unread.copied().collect();
        let sql = include_str!("../../sql/postgres/describe_bodies.sql");
        let rows = if oids.is_empty() {
            Vec::new()
        } else {
            transaction.query(sql, &[&oids]).await.map_err(fail)?
        };
        for row in &rows {
            let oid: u32 = row.try_get(0).map_err(fail)?;
            let role: u32 = row.try_get(1).map_err(fail)?;
            let twin: &str = row.try_get(2).map_err(fail)?;
            self.0.insert(oid, (role, make_twin(transaction, oid, twin).await?));
        }
        for (oid, (role, tree)) in &self.0 {
            if let Some(tree) = tree.as_ref().filter(|_| reads.functions.contains(oid)) {
                reads.body(*oid, tree, *role);
            }
        }
        Ok(())
    }
}

/// One statement and no more, whatever the text holds: it is prepared, never run as a script.
async fn make_twin(
    transaction: &Transaction<'_>,
    oid: u32,
    twin: &str,
) -> Result<Option<String>, Failed> {
    transaction.execute("savepoint kck_twin", &[]).await.map_err(fail)?;
    let made = transaction.execute(twin, &[]).await;
    let tree = match made {
        Ok(_) => {
            let sql = include_str!("../../sql/postgres/describe_body.sql");
            let name = format!("kck_twin_{oid}");
            let row = transaction.query_opt(sql, &[&name]).await.map_err(fail)?;
            row.map(|row| row.try_get(0)).transpose().map_err(fail)?
        }
        Err(error) if error.as_db_error().is_some() => None,
        Err(error) => return Err(fail(error)),
    };
    transaction.execute("rollback to savepoint kck_twin", &[]).await.map_err(fail)?;
    Ok(tree)
}

impl Reads {
    /// The body of a function, itself read by role `role`.
    fn body(&mut self, function: u32, tree: &str, role: u32) {
        let reads_tables =
            tree_numbers(tree).any(|(field, number)| field == "relid" && number != 0);
        self.bodies.insert(function, reads_tables);
        self.tree(tree, Reader { role, named: false });
    }

    pub(super) fn tree(&mut self, tree: &str, reader: Reader) {
        for (field, number) in tree_numbers(tree) {
            match field {
                "relid" => self.relation(number, reader),
                "funcid" | "opfuncid" | "aggfnoid" | "winfnoid" => self.function(number),
                "opno" | "opnos" | "eqop" | "sortop" | "cycle_mark_neop" => {
                    self.operators.insert(number);
                }
                _ if field.contains("coll") => {
                    self.collations.insert(number);
                }
                _ => {}
            }
        }
    }

    pub(super) fn relation(&mut self, oid: u32, reader: Reader) {
        if oid != 0 && oid != self.skip {
            self.relations.insert((oid, reader));
        }
    }

    pub(super) fn function(&mut self, oid: u32) {
        if oid != 0 {
            self.functions.insert(oid);
        }
    }

    fn count(&self) -> usize {
        self.relations.len() + self.functions.len() + self.operators.len()
    }
}

/// Follows views, policies, function bodies and operators until nothing new comes.
pub(super) async fn close(
    transaction: &Transaction<'_>,
    reads: &mut Reads,
    mut twins: Option<&mut Twins>,
) -> Result<(), Failed> {
    let sql = include_str!("../../sql/postgres/describe_reads.sql");
    let question = transaction.prepare(sql).await.map_err(fail)?;
    let mut known = 0;
    while known < reads.count() {
        known = reads.count();
        if known > OBJECTS_MAX {
            let message = format!("it reads more than {OBJECTS_MAX} objects");
            return Err(Failed::Source(Error::Statement {
                sqlstate: "54000".to_owned(),
                message,
                position: None,
            }));
        }
        if let Some(twins) = twins.as_deref_mut() {
            twins.read(transaction, reads).await?;
        }
        for named in [true, false] {
            let relations = reads.relations.iter().filter(|(_, reader)| reader.named == named);
            let (oids, roles): (Vec<u32>, Vec<u32>) =
                relations.map(|(oid, reader)| (*oid, reader.role)).unzip();
            let functions: Vec<u32> = reads.functions.iter().copied().collect();
            let operators: Vec<u32> = reads.operators.iter().copied().collect();
            let rows = transaction
                .query(&question, &[&oids, &roles, &functions, &operators])
                .await
                .map_err(fail)?;
            // Trees first: what else is recorded of them counts only where they do not name it.
            for trees in [true, false] {
                for row in &rows {
                    absorb(reads, row, named, trees).map_err(fail)?;
                }
            }
        }
    }
    Ok(())
}

/// Takes in one row of `describe_reads.sql`, if it is a tree, or if it is not one.
fn absorb(
    reads: &mut Reads,
    row: &Row,
    named: bool,
    trees: bool,
) -> Result<(), tokio_postgres::Error> {
    let (kind, oid): (&str, u32) = (row.try_get(0)?, row.try_get(1)?);
    let (tree, role): (Option<&str>, u32) = (row.try_get(2)?, row.try_get(3)?);
    match (kind, tree) {
        ("view", Some(tree)) if trees => {
            reads.tree(tree, Reader { role, named });
            reads.view_trees.insert(oid, tree.to_owned());
        }
        ("body", Some(tree)) if trees => reads.body(oid, tree, role),
        (_, Some(tree)) if trees => reads.tree(tree, Reader { role, named: false }),
        ("relation", None) if !trees && !reads.relations.iter().any(|(known, _)| *known == oid) => {
            reads.relation(oid, Reader { role, named: false });
        }
        ("function", None) if !trees => reads.function(oid),
        _ => {}
    }
    Ok(())
}

/// Without a tree: whatever the statement's names may stand for.
pub(super) async fn mentioned(
    transaction: &Transaction<'_>,
    question: &Question,
    reads: &mut Reads,
) -> Result<(), Failed> {
    let sql = include_str!("../../sql/postgres/describe_mentions.sql");
    let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<String>>();
    let Some(mentions) = &question.mentions else {
        return Err(Failed::Refused(Refusal {
            offset: question.offset,
            message: "nobody can tell which tables it reads".to_owned(),
            hint: "grant kck's role TEMP on the database, or nest the statement less".to_owned(),
            sqlstate: String::new(),
        }));
    };
    let (relations, functions) = (list(&mentions.relations), list(&mentions.functions));
    let (columns, operators) = (list(&mentions.columns), list(&mentions.operators));
    let rows = transaction
        .query(sql, &[&relations, &functions, &columns, &operators])
        .await
        .map_err(fail)?;
    for row in rows {
        let (kind, oid): (&str, u32) =
            (row.try_get(0).map_err(fail)?, row.try_get(1).map_err(fail)?);
        match kind {
            "relation" => reads.relation(oid, Reader { role: 0, named: false }),
            _ => reads.function(oid),
        }
    }
    Ok(())
}

/// Every number of a node tree with the field that it stands under: `:relid 16384`, `:opnos (o 96 97)`.
///
/// A text in a tree may look like a field; so there may be more here than the tree means, never less.
pub(super) fn tree_numbers(tree: &str) -> impl Iterator<Item = (&str, u32)> {
    let mut field = "";
    tree.split_ascii_whitespace().filter_map(move |word| {
        if let Some(name) = word.strip_prefix(':') {
            field = name;
            return None;
        }
        word.trim_matches(['(', ')', '{', '}']).parse().ok().map(|number| (field, number))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_tree_have_their_field() {
        let tree = "({QUERY :rtable ({RTE :relid 16384 :inh true}) :quals {OPEXPR :opno 96 :args ({VAR :varno 1}) \
                    :location -1} :rowcompare {X :opnos (o 97 410)} :utilityStmt <>})";
        let numbers: Vec<_> = tree_numbers(tree).collect();
        assert_eq!(
            numbers,
            [("relid", 16_384), ("opno", 96), ("varno", 1), ("opnos", 97), ("opnos", 410)]
        );
    }

    #[test]
    fn reads_are_taken_from_fields() {
        let mut reads = Reads { skip: 5, ..Reads::default() };
        reads.tree(":relid 5 :relid 7 :funcid 0 :aggfnoid 2803 :eqop 96 :inputcollid 100 :funccolcollations (o 12)", Reader::CURRENT);
        assert_eq!(reads.relations, BTreeSet::from([(7, Reader::CURRENT)]));
        assert_eq!(reads.functions, BTreeSet::from([2803]));
        assert_eq!(reads.operators, BTreeSet::from([96]));
        assert_eq!(reads.collations, BTreeSet::from([12, 100]));
    }
}
