//! Depend: Change → the keys it can touch.
//!
//! [`analyse`] reads what Postgres says of a product and finds, for every table, the strongest rule that is
//! sound; [`Index`] holds the rules of all products; [`Matcher::fold`] turns changes into [`Touched`] keys.
//! It must never do I/O or fail: what is not understood becomes a coarser rule.
//!
//! Invariant: if a change alters what a product's SQL returns for a key, folding it touches that key or the
//! whole product. Touching more is only cost.

mod affected;
mod analysis;
mod explain;
pub mod firm;
mod graph;
pub mod links;
pub mod lookup;
pub mod pending;
mod plan;
#[cfg(test)]
mod property;
mod rule;
pub mod settle;

pub use affected::{Matcher, Touched};
pub use analysis::analyse;
pub use graph::Index;
pub use links::{Links, Need};
pub use rule::{AnyOf, Binding, Class, Column, Is, Reach, Rule, Rules, TableRules, Test};
