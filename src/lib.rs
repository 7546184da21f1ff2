//! SQL files over an existing Postgres become HTTP endpoints, served from a cache that the database's own
//! change stream keeps right.
//!
//! ```text
//!   Postgres WAL
//!        │ capture      a commit becomes a Transaction of Changes
//!        ▼
//!     Change ──────────────────────────────┐
//!        │ depend       which keys read it │
//!        ▼                                 │
//!       Key ◀── product (what a key means) │ acknowledge(position)
//!        │ recompute    run its recipe     │
//!        ▼                                 │
//!     Entry ──▶ store ─────────────────────┘
//!                 ▲
//!                 │ serve   HTTP
//!               readers
//! ```
//!
//! Read [`pipeline`] first: it is the whole system in one function.

// The vocabulary: plain values, no I/O.
pub mod change;
pub mod description;
pub mod entry;
pub mod explanation;
pub mod key;
pub mod pattern;
pub mod process;
pub mod progress;
pub mod quote;
pub mod stage;

// The stages, in the order that data flows.
pub mod capture;
pub mod depend;
pub mod product;
pub mod recompute;
pub mod serve;
pub mod store;

// What ties them together.
pub mod advance;
pub mod app;
mod canary;
pub mod cli;
pub mod config;
pub mod definitions;
pub mod doctor;
pub mod follow;
pub mod health;
pub mod import;
pub mod inbox;
pub mod join;
pub mod load;
pub mod local;
pub mod observe;
pub mod parts;
pub mod pipeline;
pub mod postgres;
pub mod processes;
mod rebuild;
pub mod reload;
pub mod resume;
pub mod roster;
pub mod stores;
pub mod updates;
pub mod web;
