//! Product: a file → what a key means.
//!
//! A product is one SELECT with `:name` parameters and a TOML header. This folder reads files, finds every
//! fault in them with file, line, column and hint, turns texts into canonical keys, and knows fingerprints.
//! It must never ask the source; what Postgres says comes in as a [`Description`].
//!
//! Invariant: a [`Product`] was checked whole: its SQL is one SELECT, its settings are known, its parameters
//! have types that keys can be made of.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{description::Description, entry::Fingerprint};

pub mod build;
pub mod canonical;
pub mod file;
pub mod parameter;
pub mod parse;
pub mod policy;
pub mod resolve;

/// One thing that is wrong with a file, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file, as it was found.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, message, hint } = self;
        write!(f, "{}:{line}:{column}: {message}\n  hint: {hint}", file.display())
    }
}

impl Fault {
    /// A fault at a byte offset of the file's text.
    #[must_use]
    pub fn at(
        file: &Path,
        text: &str,
        offset: usize,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Self { file: file.to_owned(), line, column, message: what.into(), hint: hint.into() }
    }
}

/// How the answer looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResultKind {
    /// An array of objects.
    #[default]
    Rows,
    /// An array of arrays.
    Arrays,
    /// The first row as an object, or null.
    Row,
    /// The first row's first column, or null.
    Value,
}

/// What a read of a stale entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stale {
    /// Answer with it at once.
    #[default]
    Serve,
    /// Wait for the fresh one.
    Wait,
}

/// Which keys are recomputed when they change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Eager {
    /// Those that are read.
    #[default]
    Hot,
    /// All.
    Always,
    /// None.
    Never,
}

/// The header's settings, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// For people.
    pub description: Option<String>,
    /// Follow changes (`refresh` has `"change"`).
    pub change: bool,
    /// After this an entry is a miss.
    pub expire: Option<Duration>,
    /// What a stale read does.
    pub stale: Stale,
    /// How the answer looks.
    pub result: ResultKind,
    /// Which keys are recomputed on change.
    pub eager: Eager,
    /// Recompute one key at most this often on change.
    pub min_interval: Duration,
    /// `rls = "kck"`: answers are those of kck's own role, knowingly.
    pub own_row_security: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            description: None,
            change: true,
            expire: None,
            stale: Stale::default(),
            result: ResultKind::default(),
            eager: Eager::default(),
            min_interval: Duration::ZERO,
            own_row_security: false,
        }
    }
}

/// A parameter as the file gives it; its type may be left to Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSpec {
    /// `[a-z_][a-z0-9_]*`.
    pub name: String,
    /// What the header says: `bigint`.
    pub type_name: Option<String>,
    /// For trailing parameters that may be left out.
    pub default: Option<String>,
    /// Byte offset in the file of what the header says of it, else of its first use.
    pub offset: usize,
}

/// The names that a statement mentions. Only where Postgres gives no tree do tables and functions come from
/// these: more than the statement reads, never less.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mentions {
    /// Relations, quoted and qualified as written.
    pub relations: BTreeSet<String>,
    /// Functions, without their schema.
    pub functions: BTreeSet<String>,
    /// Columns: `o.total` may call the function `total(o)`.
    pub columns: BTreeSet<String>,
    /// Operators, without their schema.
    pub operators: BTreeSet<String>,
}

/// A file that was read and found sound, before Postgres was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The file's stem.
    pub name: String,
    /// Where it was read.
    pub file: PathBuf,
    /// Its settings.
    pub policy: Policy,
    /// In key order.
    pub parameters: Vec<ParameterSpec>,
    /// The statement cut at its parameters: `pieces[0] :p pieces[1] :q pieces[2]`, without comment header
    /// and trailing semicolon. See [`Draft::sql`].
    pub pieces: Vec<String>,
    /// Which parameter (index into `parameters`) stands between `pieces[i]` and `pieces[i + 1]`.
    pub holes: Vec<usize>,
    /// What the statement names; unknown where it nests very deeply.
    pub mentions: Option<Mentions>,
    /// Byte offset of `pieces[0]` in the file, so that Postgres's error positions can be mapped back.
    pub offset: usize,
    /// The file's own text.
    pub text: String,
}

impl Draft {
    /// The statement with each parameter written as `write` says; it is given the parameter's index.
    pub fn sql(&self, mut write: impl FnMut(usize) -> String) -> String {
        let mut sql = String::with_capacity(self.text.len());
        for (index, piece) in self.pieces.iter().enumerate() {
            sql.push_str(piece);
            if let Some(parameter) = self.holes.get(index) {
                sql.push_str(&write(*parameter));
            }
        }
        sql
    }

    /// The byte offset in the file of a character (from 0) of [`Draft::sql`] with the same `write`.
    pub fn offset_of(&self, character: usize, mut write: impl FnMut(usize) -> String) -> usize {
        let (mut offset, mut left) = (self.offset, character);
        for (index, piece) in self.pieces.iter().enumerate() {
            if let Some((inside, _)) = piece.char_indices().nth(left) {
                return offset + inside;
            }
            left -= piece.chars().count();
            offset += piece.len();
            let Some((hole, parameter)) =
                self.holes.get(index).and_then(|hole| Some((*hole, self.parameters.get(*hole)?)))
            else {
                break;
            };
            let written = write(hole).chars().count();
            if left < written {
                return offset;
            }
            left -= written;
            offset += 1 + parameter.name.len();
        }
        offset
    }

    /// A fault at a byte offset of the file.
    #[must_use]
    pub fn fault(&self, offset: usize, what: impl Into<String>, hint: impl Into<String>) -> Fault {
        Fault::at(&self.file, &self.text, offset, what, hint)
    }
}

/// A product: checked, described, ready to be computed and matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// The file it came from.
    pub draft: Draft,
    /// In key order, with their types.
    pub parameters: Vec<parameter::Parameter>,
    /// What Postgres said of it.
    pub description: Description,
    /// Changes whenever an answer might mean something else.
    pub fingerprint: Fingerprint,
    /// `result`, column names and types.
    pub shape: Fingerprint,
}

impl Product {
    /// The file's stem.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.draft.name
    }
}

/// A product's place in the catalogue: working, or broken with the reason.
#[derive(Debug, Clone)]
pub enum Slot {
    /// It can be asked.
    Ready(Arc<Product>),
    /// It cannot, and says why.
    Broken(Vec<Fault>),
}

/// All products by name.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// Name → product.
    pub products: BTreeMap<String, Slot>,
    /// Faults that belong to no name: files that are no products.
    pub faults: Vec<Fault>,
}

impl Catalog {
    /// The working products.
    pub fn ready(&self) -> impl Iterator<Item = &Arc<Product>> {
        self.products.values().filter_map(|slot| match slot {
            Slot::Ready(product) => Some(product),
            Slot::Broken(_) => None,
        })
    }
}
