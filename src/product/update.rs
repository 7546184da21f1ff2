//! Update: a file's statement that writes, with the types of its parameters → what is run.
//!
//! Parameters travel as texts and are cast where they stand, so that each is read by its own type's input function.

use std::sync::Arc;

use super::{Draft, Fault, build, parameter::Parameter};
use crate::description::Type;

/// An update: checked, its parameters' types known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The file it came from; of its settings only those of updates say something.
    pub draft: Draft,
    /// In the order of paths, with their types.
    pub parameters: Vec<Parameter>,
    /// The statement; its parameter N is the N-th parameter's text.
    pub sql: Arc<str>,
    /// What failed is undone whole. A procedure may have committed in between.
    pub atomic: bool,
}

impl Update {
    /// The file's stem.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.draft.name
    }
}

/// An update's place in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateSlot {
    /// It can be run.
    Ready {
        /// As it runs.
        update: Arc<Update>,
        /// What is wrong with its file as it is now; empty where it runs as its file says.
        faults: Vec<Fault>,
    },
    /// It cannot, and says why.
    Broken {
        /// Why.
        faults: Vec<Fault>,
    },
}

impl UpdateSlot {
    /// What is wrong with it, or with its file as it is now.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        match self {
            Self::Ready { faults, .. } | Self::Broken { faults } => faults,
        }
    }

    /// Postgres's code for what is wrong; empty where it is not Postgres that says so.
    #[must_use]
    pub fn sqlstate(&self) -> &str {
        let mut codes = self.faults().iter().map(|fault| fault.sqlstate.as_str());
        codes.find(|code| !code.is_empty()).unwrap_or_default()
    }
}

/// Makes the update of a draft, whose parameters have these types.
///
/// # Errors
/// Every fault found.
pub fn build(draft: Draft, types: &[Type]) -> Result<Update, Vec<Fault>> {
    let mut faults = Vec::new();
    let parameters = build::parameters(&draft, types, &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    // The parentheses keep what follows, as in `:list[1]`, off the name of the type.
    let hole = |index: usize| {
        let cast = parameters.get(index).map_or("text", |parameter| parameter.type_.name.as_str());
        format!("(${}::pg_catalog.text::{cast})", index + 1)
    };
    let sql = draft.question.sql(hole).into();
    let first = draft.question.pieces.first().map_or("", String::as_str);
    let word = first.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    let atomic = !word.eq_ignore_ascii_case("call");
    Ok(Update { draft, parameters, sql, atomic })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::product::{Kind, file};
    use std::path::Path;

    /// An update whose parameters have these types, by oid and name.
    pub(crate) fn update(text: &str, types: &[(u32, &str)]) -> Update {
        let draft = file::draft_of(Kind::Update, "u", Path::new("u.sql"), text.to_owned()).unwrap();
        let type_ = |(oid, name): &(u32, &str)| Type { oid: *oid, name: (*name).into(), kind: 'b' };
        build(draft, &types.iter().map(type_).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn parameters_are_cast_where_they_stand() {
        let update = update(
            "update t set a = :list[1], b = ':id' where id = :id::int",
            &[(1007, "integer[]"), (20, "bigint")],
        );
        assert_eq!(
            &*update.sql,
            [
                "update t set a = ($1::pg_catalog.text::integer[])[1], b = ':id' where id = ",
                "($2::pg_catalog.text::bigint)::int",
            ]
            .concat()
        );
        assert!(update.atomic);
    }

    #[test]
    fn a_procedure_may_commit_in_between() {
        assert!(!update("CALL p(:a)", &[(25, "text")]).atomic);
        assert!(!update("/* c */ call\n p()", &[]).atomic);
        assert!(update("delete from calls", &[]).atomic);
    }
}
