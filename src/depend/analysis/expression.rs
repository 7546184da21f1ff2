//! An expression of one table's columns in a tree → SQL that a lookup can ask.
//!
//! Only what is NULL when a column of it is NULL (strict) and depends on nothing else (immutable): then it may stand
//! for a column. Functions are written by name with all arguments as the tree has them, so that Postgres finds the same.

use super::{
    fact::{Term, Tuple},
    term::{Parameters, Scope, both_text, oid},
    tree::{Node, Value},
};
use crate::quote;

/// Deeper ones are not worth following.
const DEPTH_MAX: usize = 20;

/// SQL with holes for columns of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expression {
    pub(super) tuple: Tuple,
    pub(super) pieces: Vec<Piece>,
}

/// A part of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Sql(String),
    Column(i16),
}

/// The expression and its type.
pub(super) fn expression(
    parameters: &Parameters<'_>,
    node: &Node<'_>,
    scope: &Scope<'_, '_>,
) -> Option<(Expression, u32)> {
    let type_oid = match node.name {
        "FUNCEXPR" => node.number("funcresulttype")?,
        "OPEXPR" => node.number("opresulttype")?,
        _ => return None,
    };
    let mut writer = Writer { parameters, scope, tuple: None, pieces: Vec::new() };
    writer.node(node, 0)?;
    Some((Expression { tuple: writer.tuple?, pieces: writer.pieces }, type_oid))
}

struct Writer<'w, 's, 't, 'd> {
    parameters: &'w Parameters<'d>,
    scope: &'w Scope<'s, 't>,
    tuple: Option<Tuple>,
    pieces: Vec<Piece>,
}

impl Writer<'_, '_, '_, '_> {
    fn sql(&mut self, sql: &str) {
        match self.pieces.last_mut() {
            Some(Piece::Sql(text)) => text.push_str(sql),
            _ => self.pieces.push(Piece::Sql(sql.to_owned())),
        }
    }

    fn value(&mut self, value: &Value<'_>, depth: usize) -> Option<()> {
        if let Some((text, type_oid)) = self.parameters.constant(value) {
            let cast = match type_oid {
                oid::SMALLINT => "smallint",
                oid::INTEGER => "integer",
                oid::BIGINT => "bigint",
                oid::BOOLEAN => "boolean",
                oid::TEXT => "text",
                oid::VARCHAR => "character varying",
                oid::NUMERIC => "numeric",
                oid::DATE => "date",
                oid::TIMESTAMP => "timestamp without time zone",
                oid::TIMESTAMPTZ => "timestamp with time zone",
                _ => return None,
            };
            self.sql(&format!("{}::{cast}", quote::literal(&text)));
            return Some(());
        }
        self.node(value.node()?, depth)
    }

    fn node(&mut self, node: &Node<'_>, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        match node.name {
            "VAR" => self.column(node),
            "RELABELTYPE" => {
                let to: u32 = node.number("resulttype")?;
                let inner = node.field("arg")?;
                let from = inner.named("VAR").and_then(|var| var.number("vartype"))?;
                both_text(from, to).then_some(())?;
                self.sql("(");
                self.value(inner, depth + 1)?;
                self.sql(if to == oid::TEXT { ")::text" } else { ")::character varying" });
                Some(())
            }
            "FUNCEXPR" if !node.flag("funcretset")? && !node.flag("funcvariadic")? => {
                self.call(node.number("funcid")?, node, depth)
            }
            "OPEXPR" if !node.flag("opretset")? => self.call(node.number("opfuncid")?, node, depth),
            _ => None,
        }
    }

    fn column(&mut self, node: &Node<'_>) -> Option<()> {
        let scope = self.scope.out(node.number("varlevelsup")?)?;
        let term = scope.column(node.number("varno")?, node.number("varattno")?)?;
        let Term::Column { tuple, column } = term else { return None };
        let is_table = scope.entry(tuple.table)?.number::<u8>("rtekind") == Some(0);
        // Default collation, or none: another one would not come with the column's text.
        let plain = matches!(node.number::<u32>("varcollid")?, 0 | 100);
        if !is_table || !plain || self.tuple.is_some_and(|known| known != tuple) {
            return None;
        }
        self.tuple = Some(tuple);
        self.pieces.push(Piece::Column(column));
        Some(())
    }

    fn call(&mut self, function: u32, node: &Node<'_>, depth: usize) -> Option<()> {
        let functions = &self.parameters.description.functions;
        let called = functions.iter().find(|known| known.oid == function)?;
        let known = called.language == "internal" && called.schema == "pg_catalog"
            || matches!(called.language.as_str(), "c" | "sql");
        let plain = matches!(node.number::<u32>("inputcollid")?, 0 | 100);
        if called.volatility != 'i' || !called.strict || !known || !plain {
            return None;
        }
        let name = format!("{}(", quote::qualified(&called.schema, &called.name));
        self.sql(&name);
        for (at, argument) in node.list("args")?.iter().enumerate() {
            if at > 0 {
                self.sql(", ");
            }
            self.value(argument, depth + 1)?;
        }
        self.sql(")");
        Some(())
    }
}
