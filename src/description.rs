//! What Postgres says of a product's SQL: parameters, columns, tables, operators, and its rule tree.
//!
//! `postgres::describe` makes one; `depend` reads it. Everything is by oid, never by spelling.

use std::collections::BTreeMap;

use crate::change::TableId;

/// A type, as far as keys and rules need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    /// `pg_type.oid`.
    pub oid: u32,
    /// As `format_type` prints it, good in a cast: `bigint`, `character varying`, `shop.state`.
    pub name: String,
    /// `pg_type.typtype`: `b`ase, `d`omain, `e`num, `c`omposite, `r`ange, `p`seudo.
    pub kind: char,
}

/// A column of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputColumn {
    /// Its name; may repeat within an answer.
    pub name: String,
    /// Its type.
    pub type_: Type,
}

/// A relation that the SQL reads, itself or through views.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// `pg_class.oid`.
    pub id: TableId,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `pg_class.relkind`: `r` table, `p` partitioned, `v` view, `m` materialized view, `f` foreign.
    pub kind: char,
    /// `pg_class.relpersistence`: `p`ermanent, `u`nlogged, `t`emporary.
    pub persistence: char,
    /// Whether it lies in `pg_catalog` or `information_schema`.
    pub system: bool,
    /// Whether row security applies to kck's role.
    pub row_security: bool,
    /// Whether it has a replica identity that can be used for UPDATE and DELETE.
    pub identity: bool,
    /// Whether it is read otherwise than by its own name in a tree, also if it is named there too: as an
    /// inheritance child or the root above a named partition, or by a function's body or a policy.
    pub indirect: bool,
    /// Column number → (name, type oid), without dropped ones.
    pub columns: BTreeMap<i16, (String, u32)>,
}

/// A function that the SQL calls, itself or through views.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// `pg_proc.oid`.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `pg_proc.provolatile`: `i`mmutable, `s`table, `v`olatile.
    pub volatility: char,
    /// Its language: `internal`, `c`, `sql`, `plpgsql`, …
    pub language: String,
}

/// What Postgres says of a product.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// The types of the parameters, in their order.
    pub parameters: Vec<Type>,
    /// The columns of the answer.
    pub columns: Vec<OutputColumn>,
    /// `pg_rewrite.ev_action` of the temporary view in which parameter N (from 1) is written
    /// `current_setting('kck.pN')::type`. `None` where no temporary view could be made.
    pub tree: Option<String>,
    /// Why there is no tree, for people.
    pub note: Option<String>,
    /// `pg_rewrite.ev_action` of every view read: view oid → tree. Tables that come in only through a
    /// function's body, a policy or inheritance are in `tables` and occur in no tree.
    pub view_trees: BTreeMap<u32, String>,
    /// Every relation read, views expanded; of views also the views themselves.
    pub tables: Vec<Table>,
    /// Every function called, in the SQL or in the views below it.
    pub functions: Vec<Function>,
    /// Operators of the tree that are the equality of the default btree or hash operator class of both
    /// their input types: oid → (left type oid, right type oid).
    pub equalities: BTreeMap<u32, (u32, u32)>,
    /// Collations of the tree that are not deterministic.
    pub nondeterministic_collations: Vec<u32>,
    /// A hash over the definitions read: columns, views, functions, types, policies. A part of the fingerprint.
    pub definitions: String,
    /// A hash over all that the stream does not say of the objects read, definitions included: see
    /// `sql/postgres/catalogue.sql`. It also moves when rows change silently (TRUNCATE of a partition).
    pub catalogue: String,
}
