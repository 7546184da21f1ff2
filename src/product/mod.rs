//! Product: a file → what a key means.
//!
//! A product is one SELECT with `:name` parameters and a TOML header. This folder reads files, finds every
//! fault in them with file, line, column and hint, turns texts into canonical keys, and knows fingerprints.
//! It must never ask the source; what Postgres says comes in as a [`Description`].
//! An update is a statement that writes, in a file of the same form.
//!
//! Invariant: a [`Product`] was checked whole: its SQL is one SELECT, its settings are known, its parameters
//! have types that keys can be made of.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    description::{Description, Question},
    entry::Fingerprint,
};

pub mod build;
pub mod canonical;
mod compose;
mod depends;
pub mod file;
pub mod files;
#[cfg(test)]
pub(crate) mod fixture;
pub mod parameter;
pub mod parse;
pub mod policy;
pub mod process;
pub mod recipe;
pub mod resolve;
pub mod schedule;
mod script;
pub mod update;
pub mod warm;

pub use process::{Process, ProcessSlot, Work};
pub use recipe::{Means, Outside, Recipe};
pub use schedule::Schedule;
pub use update::{Update, UpdateSlot};
pub use warm::Warm;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// It answers.
    #[default]
    Product,
    /// It writes.
    Update,
    /// It runs on schedule.
    Process,
}

impl Kind {
    fn many(self) -> &'static str {
        match self {
            Self::Product => "products",
            Self::Update => "updates",
            Self::Process => "processes",
        }
    }

    fn one(self) -> &'static str {
        match self {
            Self::Product => "a product",
            Self::Update => "an update",
            Self::Process => "a process",
        }
    }
}

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
    /// Postgres's code, where it is Postgres that says so; else empty.
    pub sqlstate: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, message, hint, .. } = self;
        write!(f, "{}:{line}:{column}: {message}\n  hint: {hint}", file.display())
    }
}

/// Faults as people read them, each with its hint.
#[must_use]
pub fn listed(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
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
        Self {
            file: file.to_owned(),
            line,
            column,
            message: what.into(),
            hint: hint.into(),
            sqlstate: String::new(),
        }
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

/// Who may read a product's answers, where kck asks who reads. Answers do not depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// Everybody, without a token.
    pub public: bool,
    /// The scope that a token must carry.
    pub scope: Option<String>,
    /// Parameters that must equal claims of the token.
    pub claims: Vec<Binding>,
}

/// A parameter that must equal a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The parameter's name.
    pub parameter: String,
    /// The claim's.
    pub claim: String,
    /// Where the file says so, in bytes.
    pub offset: usize,
}

/// The header's settings, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// For people.
    pub description: Option<String>,
    /// Follow changes (`refresh` has `"change"`).
    pub change: bool,
    /// When its keys are computed again, whatever changes.
    pub schedules: Vec<Schedule>,
    /// Keys that are tracked and computed before anybody reads them.
    pub warm: Option<Warm>,
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
    /// Who may read it.
    pub access: Access,
    /// Of a process: a run is given up after this.
    pub timeout: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            description: None,
            change: true,
            schedules: Vec::new(),
            warm: None,
            expire: None,
            stale: Stale::default(),
            result: ResultKind::default(),
            eager: Eager::default(),
            min_interval: Duration::ZERO,
            own_row_security: false,
            access: Access::default(),
            timeout: None,
        }
    }
}

impl Policy {
    /// Its keys are computed again when kck starts.
    #[must_use]
    pub fn at_boot(&self) -> bool {
        self.schedules.iter().any(Schedule::is_boot)
    }

    /// Its keys are computed again as time passes.
    #[must_use]
    pub fn is_timed(&self) -> bool {
        self.clocks().next().is_some()
    }

    /// What is struck as time passes.
    pub fn clocks(&self) -> impl Iterator<Item = &Schedule> {
        self.schedules.iter().filter(|schedule| !schedule.is_boot())
    }

    /// `refresh`, as a header says it.
    #[must_use]
    pub fn refreshes(&self) -> Vec<String> {
        let change = self.change.then(|| "change".to_owned());
        change.into_iter().chain(self.schedules.iter().map(ToString::to_string)).collect()
    }
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
    /// What the source is asked; its offsets are those of `text`. Of another recipe than SQL nobody runs it: it reads
    /// what the answers depend on.
    pub question: Question,
    /// By what its answers are made.
    pub recipe: Recipe,
    /// The file's own text.
    pub text: String,
    /// The products that it reads; their SQL is a part of the question.
    pub calls: Vec<Call>,
}

/// Where a statement reads another product: `kck.orders_of(:customer)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// In bytes of the file.
    pub at: Range<usize>,
    /// Its name.
    pub product: String,
    /// Its parameters' values.
    pub arguments: Vec<Argument>,
    /// Whether a name follows in FROM.
    pub named: bool,
}

/// What a parameter of a product that is read is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// In bytes of the file.
    pub at: Range<usize>,
    /// One parameter or one constant, which means the same wherever it stands.
    pub plain: bool,
}

impl Draft {
    /// How many parameters are its own.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let hidden = self.recipe.outside().map_or(0, |outside| outside.hidden);
        self.question.parameters.len().saturating_sub(hidden)
    }

    /// The products that it reads or depends on, as its file names them.
    pub fn products(&self) -> impl Iterator<Item = &str> {
        let depends = self.recipe.outside().into_iter().flat_map(Outside::products);
        let read = self.calls.iter().map(|call| call.product.as_str());
        read.chain(depends.map(|(name, _)| name))
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
    /// Parameters, `result`, column names and types.
    pub shape: Fingerprint,
    /// Its answer may change without a change of a row: class time.
    pub by_time: bool,
}

impl Product {
    /// The file's stem.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.draft.name
    }

    /// Whether an unmarked entry is exact as of the newest certificate (DESIGN section 10, "No certificate").
    #[must_use]
    pub fn is_certified(&self) -> bool {
        let Draft { policy, recipe, .. } = &self.draft;
        policy.change && policy.expire.is_none() && !self.by_time && recipe.is_sql()
    }

    /// Whether an entry is stale when its schedule is overdue: there is no certificate that says more.
    #[must_use]
    pub fn goes_by_schedule(&self) -> bool {
        let Draft { policy, recipe, .. } = &self.draft;
        policy.is_timed() && (!policy.change || self.by_time || !recipe.is_sql())
    }
}

/// A product's place in the catalogue: working, or broken with the reason.
#[derive(Debug, Clone)]
pub enum Slot {
    /// It can be asked.
    Ready {
        /// As it runs.
        product: Arc<Product>,
        /// What is wrong with its file as it is now; empty where it runs as its file says.
        faults: Vec<Fault>,
    },
    /// It cannot, and says why.
    Broken {
        /// As it ran before: its entries may stand in, as stale.
        last: Option<Arc<Product>>,
        /// Why.
        faults: Vec<Fault>,
    },
}

impl Slot {
    /// One that runs as its file says.
    #[must_use]
    pub fn ready(product: Arc<Product>) -> Self {
        Self::Ready { product, faults: Vec::new() }
    }

    /// As it runs, or ran before it broke.
    #[must_use]
    pub fn product(&self) -> Option<&Arc<Product>> {
        match self {
            Self::Ready { product, .. } => Some(product),
            Self::Broken { last, .. } => last.as_ref(),
        }
    }

    /// What is wrong with it, or with its file as it is now.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        match self {
            Self::Ready { faults, .. } | Self::Broken { faults, .. } => faults,
        }
    }

    /// Postgres's code for what is wrong; empty where it is not Postgres that says so.
    #[must_use]
    pub fn sqlstate(&self) -> &str {
        let mut codes = self.faults().iter().map(|fault| fault.sqlstate.as_str());
        codes.find(|code| !code.is_empty()).unwrap_or_default()
    }
}

/// All products and updates by name.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// Name → product.
    pub products: BTreeMap<String, Slot>,
    /// Faults that belong to no name: files that are no products.
    pub faults: Vec<Fault>,
    /// Name → update.
    pub updates: BTreeMap<String, UpdateSlot>,
    /// Faults of files that are no updates.
    pub update_faults: Vec<Fault>,
}

impl Catalog {
    /// The working products.
    pub fn ready(&self) -> impl Iterator<Item = &Arc<Product>> {
        self.products.values().filter_map(|slot| match slot {
            Slot::Ready { product, .. } => Some(product),
            Slot::Broken { .. } => None,
        })
    }
}
