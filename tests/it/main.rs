//! The whole of kck on real servers, which are started here once for all tests and end with them.

#![expect(clippy::unwrap_used, reason = "a panic here is a failed test")]
#![expect(clippy::print_stderr, reason = "fetching a server says how far it is")]
#![expect(clippy::indexing_slicing, reason = "a panic here is a failed test")]

mod after_restart;
mod auth;
mod bad_input;
mod canary;
mod canonical;
mod capture;
mod churn;
mod clients;
mod commands;
mod crash;
mod describe;
mod doctor;
mod dump;
mod epoch;
mod explain;
mod faults;
mod flow;
mod http;
mod import;
mod invisible;
mod login;
mod oracle;
mod original;
mod outside;
mod processes;
mod push;
mod push_many;
mod reading;
mod refreshing;
mod reload;
mod schedule;
mod security;
mod store;
mod storm;
mod support;
mod unfollowed;
mod update;
