//! What the stream does not say: hashes over the definitions of what products read (R14).

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};
use tokio_postgres::{GenericClient, ToStatement};

use super::{Error, describe::tree_numbers};
use crate::{change::Lsn, description::Description};

/// The question; prepare it once on a connection that asks it every second.
pub const QUESTION: &str = include_str!("../../sql/postgres/catalogue.sql");

/// Objects below this were made with the database and never change.
const FIRST_OWN_OID: u32 = 16_384;

/// What to ask about. Finding it means reading trees: keep it with the product.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Objects {
    relations: BTreeSet<u32>,
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
        Self {
            relations: description.tables.iter().map(|table| table.id.0).filter(own).collect(),
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

    fn each(&self) -> impl Iterator<Item = (Kind, u32)> {
        let of = |kind: Kind, oids: &'_ BTreeSet<u32>| {
            oids.iter().map(move |oid| (kind, *oid)).collect::<Vec<_>>()
        };
        [
            of(Kind::Relation, &self.relations),
            of(Kind::Function, &self.functions),
            of(Kind::Type, &self.types),
        ]
        .into_iter()
        .flatten()
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

/// One look at the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalogue {
    /// The source's insert position when it was taken.
    pub insert: Lsn,
    /// Object → hash of its definition, hash of where its rows lie. What is gone is not here.
    hashes: BTreeMap<(Kind, u32), (String, String)>,
}

impl Catalogue {
    /// The fingerprint of all that the stream does not say of these objects: [`Description::catalogue`].
    #[must_use]
    pub fn fingerprint(&self, objects: &Objects) -> String {
        self.hash(objects, |(definition, state)| [definition, state])
    }

    /// The fingerprint of their definitions alone: [`Description::definitions`].
    #[must_use]
    pub fn definitions(&self, objects: &Objects) -> String {
        self.hash(objects, |(definition, _)| [definition, ""])
    }

    fn hash<'a>(
        &'a self,
        objects: &Objects,
        part: impl Fn((&'a str, &'a str)) -> [&'a str; 2],
    ) -> String {
        let mut hash = Sha256::new();
        for object in objects.each() {
            let found =
                self.hashes.get(&object).map(|(definition, state)| part((definition, state)));
            let [first, second] = found.unwrap_or(["gone", ""]);
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
    let (relations, functions, types) =
        (list(&objects.relations), list(&objects.functions), list(&objects.types));
    let rows = client.query(question, &[&relations, &functions, &types]).await.map_err(fail)?;
    let mut catalogue = Catalogue::default();
    for row in rows {
        let (kind, oid): (&str, u32) =
            (row.try_get(0).map_err(fail)?, row.try_get(1).map_err(fail)?);
        let (definition, state): (&str, &str) =
            (row.try_get(2).map_err(fail)?, row.try_get(3).map_err(fail)?);
        match Kind::read(kind) {
            Some(kind) => {
                catalogue.hashes.insert((kind, oid), (definition.to_owned(), state.to_owned()));
            }
            None => {
                catalogue.insert =
                    definition.parse().map_err(|bad: crate::change::BadLsn| Error::Statement {
                        sqlstate: "XX000".to_owned(),
                        message: bad.to_string(),
                        position: None,
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
            ((*kind, *oid), ((*definition).to_owned(), (*state).to_owned()))
        };
        Catalogue { insert: Lsn(1), hashes: hashes.iter().map(hash).collect() }
    }

    #[test]
    fn a_fingerprint_is_of_the_asked_objects_only() {
        let asked = Objects { relations: BTreeSet::from([16_400]), ..Objects::default() };
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
    }
}
