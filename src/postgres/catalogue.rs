//! What the stream does not say: hashes over the definitions of what products read (R14).

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};
use tokio_postgres::{GenericClient, ToStatement};

use super::{Error, reads::tree_numbers};
use crate::{
    change::Lsn,
    description::{Description, Table},
};

/// The question; prepare it once on a connection that asks it every second.
pub const QUESTION: &str = include_str!("../../sql/postgres/catalogue.sql");

/// Objects below this were made with the database and never change.
const FIRST_OWN_OID: u32 = 16_384;

/// What to ask about. Finding it means reading trees: keep it with the product.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Objects {
    /// With how many columns were there: what comes after them is growth.
    relations: BTreeSet<(u32, i16)>,
    functions: BTreeSet<u32>,
    types: BTreeSet<u32>,
}

impl Objects {
    /// What a product stands on.
    #[must_use]
    pub fn of(description: &Description) -> Self {
        let columns = description
            .tables
            .iter()
            .flat_map(|table| table.columns.values().map(|(_, type_oid)| *type_oid));
        let ends = description
            .parameters
            .iter()
            .chain(description.columns.iter().map(|column| &column.type_));
        let trees = description.tree.iter().chain(description.view_trees.values());
        let in_trees =
            trees.flat_map(|tree| tree_numbers(tree)).filter(|(field, _)| field.contains("type"));
        let types = columns.chain(ends.map(|type_| type_.oid)).chain(in_trees.map(|(_, oid)| oid));
        let own = |oid: &u32| *oid >= FIRST_OWN_OID;
        let relation = |table: &Table| {
            let columns = table.columns.last_key_value().map_or(0, |(number, _)| *number);
            (table.id.0, columns)
        };
        let relations = description.tables.iter().map(relation);
        Self {
            relations: relations.filter(|(oid, _)| own(oid)).collect(),
            functions: description
                .functions
                .iter()
                .map(|function| function.oid)
                .filter(own)
                .collect(),
            types: types.filter(own).collect(),
        }
    }

    /// Both together.
    pub fn extend(&mut self, other: &Self) {
        self.relations.extend(&other.relations);
        self.functions.extend(&other.functions);
        self.types.extend(&other.types);
    }

    fn each(&self) -> impl Iterator<Item = Object> {
        let relations =
            self.relations.iter().map(|(oid, columns)| (Kind::Relation, *oid, *columns));
        let functions = self.functions.iter().map(|oid| (Kind::Function, *oid, 0));
        relations.chain(functions).chain(self.types.iter().map(|oid| (Kind::Type, *oid, 0)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Relation,
    Function,
    Type,
}

impl Kind {
    fn read(name: &str) -> Option<Self> {
        match name {
            "relation" => Some(Self::Relation),
            "function" => Some(Self::Function),
            "type" => Some(Self::Type),
            _ => None,
        }
    }
}

/// Its kind, its oid, and how many columns of it are known.
type Object = (Kind, u32, i16);

/// What was found of an object, as hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    definition: String,
    /// Of where its rows lie.
    state: String,
    /// Of the columns beyond those that are known.
    growth: String,
}

/// One look at the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalogue {
    /// The source's insert position when it was taken.
    pub insert: Lsn,
    /// What is gone is not here.
    found: BTreeMap<Object, Found>,
}

impl Catalogue {
    /// The fingerprint of all that the stream does not say of these objects: [`Description::catalogue`].
    #[must_use]
    pub fn fingerprint(&self, objects: &Objects) -> String {
        self.hash(objects, |found| [&found.definition, &found.state])
    }

    /// The fingerprint of the columns that came to them since: [`Description::growth`].
    #[must_use]
    pub fn growth(&self, objects: &Objects) -> String {
        self.hash(objects, |found| [&found.growth, ""])
    }

    /// The fingerprint of their definitions alone: [`Description::definitions`].
    #[must_use]
    pub fn definitions(&self, objects: &Objects) -> String {
        self.hash(objects, |found| [&found.definition, ""])
    }

    fn hash<'a>(&'a self, objects: &Objects, part: impl Fn(&'a Found) -> [&'a str; 2]) -> String {
        let mut hash = Sha256::new();
        for object in objects.each() {
            let [first, second] = self.found.get(&object).map_or(["gone", ""], &part);
            hash.update(format!("{object:?} {first} {second};"));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Looks at the catalogue. `question` is [`QUESTION`], as a text or prepared.
///
/// # Errors
/// What the source said.
pub async fn look<S>(
    client: &impl GenericClient,
    question: &S,
    objects: &Objects,
) -> Result<Catalogue, Error>
where
    S: ?Sized + ToStatement + Sync + Send,
{
    let fail = |error| Error::from_postgres("look at the catalogue", error);
    let list = |oids: &BTreeSet<u32>| oids.iter().copied().collect::<Vec<u32>>();
    let (functions, types) = (list(&objects.functions), list(&objects.types));
    let (relations, columns): (Vec<u32>, Vec<i16>) = objects.relations.iter().copied().unzip();
    let rows =
        client.query(question, &[&relations, &functions, &types, &columns]).await.map_err(fail)?;
    let mut catalogue = Catalogue::default();
    for row in rows {
        let text = |column: &str| row.try_get::<_, Option<String>>(column).map_err(fail);
        let found = Found {
            definition: text("definition")?.unwrap_or_default(),
            state: text("state")?.unwrap_or_default(),
            growth: text("growth")?.unwrap_or_default(),
        };
        let (oid, columns) = (row.try_get(1).map_err(fail)?, row.try_get(2).map_err(fail)?);
        match Kind::read(row.try_get(0).map_err(fail)?) {
            Some(kind) => {
                catalogue.found.insert((kind, oid, columns), found);
            }
            None => {
                catalogue.insert =
                    found.definition.parse().map_err(|bad: crate::change::BadLsn| {
                        Error::Statement {
                            sqlstate: "XX000".to_owned(),
                            message: bad.to_string(),
                            position: None,
                        }
                    })?;
            }
        }
    }
    Ok(catalogue)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(hashes: &[(Kind, u32, &str, &str)]) -> Catalogue {
        let hash = |(kind, oid, definition, state): &(Kind, u32, &str, &str)| {
            let (definition, state) = ((*definition).to_owned(), (*state).to_owned());
            ((*kind, *oid, 2), Found { definition, state, growth: String::new() })
        };
        Catalogue { insert: Lsn(1), found: hashes.iter().map(hash).collect() }
    }

    #[test]
    fn a_fingerprint_is_of_the_asked_objects_only() {
        let asked = Objects { relations: BTreeSet::from([(16_400, 2)]), ..Objects::default() };
        let base = look(&[(Kind::Relation, 16_400, "d", "s")]);
        let beside =
            look(&[(Kind::Relation, 16_400, "d", "s"), (Kind::Relation, 16_401, "x", "x")]);
        assert_eq!(base.fingerprint(&asked), beside.fingerprint(&asked));
        for other in [
            look(&[]),
            look(&[(Kind::Type, 16_400, "d", "s")]),
            look(&[(Kind::Relation, 16_400, "e", "s")]),
        ] {
            assert_ne!(base.fingerprint(&asked), other.fingerprint(&asked));
            assert_ne!(base.definitions(&asked), other.definitions(&asked));
        }
        let moved = look(&[(Kind::Relation, 16_400, "d", "t")]);
        assert_ne!(base.fingerprint(&asked), moved.fingerprint(&asked));
        assert_eq!(base.definitions(&asked), moved.definitions(&asked));
        let mut grown = base.clone();
        grown.found.values_mut().for_each(|found| found.growth = "3".to_owned());
        assert_eq!(base.fingerprint(&asked), grown.fingerprint(&asked));
        assert_ne!(base.growth(&asked), grown.growth(&asked));
    }
}
