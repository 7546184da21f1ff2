//! Counters and gauges → `/metrics`, in Prometheus's text format.

use std::{fmt::Display, sync::Arc, time::Instant};

use bytes::Bytes;
use warp::{
    Reply as _,
    http::{HeaderValue, Response as HttpResponse, header::CONTENT_TYPE},
    reply::Response,
};

use crate::{observe::Refreshes, recompute::batches::Shown, serve::Context};

use super::{query, reply};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// `GET /metrics`.
pub(super) fn metrics(context: Arc<Context>, raw_query: Option<String>) -> Response {
    if let Err(problem) = query::nothing(raw_query.as_deref()) {
        return reply::problem(&problem);
    }
    let text = context.observer.metrics() + &gauges(&context);
    let mut response = HttpResponse::new(Bytes::from(text)).into_response();
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

fn gauges(context: &Context) -> String {
    let progress = *context.progress.borrow();
    let health = Arc::clone(&context.health.borrow());
    let counts = context.recompute.counts();
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, labels: &str, value: &dyn Display| {
        text += &format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name}{labels} {value}\n");
    };
    let version = concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
    gauge("kck_build_info", "Which kck this is.", version, &1);
    // Without a certificate there is no age: a number would be a lie either way.
    if let Some(age) = progress.certificate_age(Instant::now()) {
        let help = "How old the newest certificate is.";
        gauge("kck_certificate_age_seconds", help, "", &age.as_secs_f64());
    }
    let streaming = u8::from(health.streaming());
    gauge("kck_streaming", "Whether the replication stream is open.", "", &streaming);
    gauge("kck_epoch", "The source's history that positions belong to.", "", &progress.epoch.0);
    gauge("kck_stored_bytes", "Answers of tracked keys, as they are sent.", "", &counts.bytes);
    gauge("kck_tracked_keys", "Keys that changes are matched against.", "", &counts.tracked);
    gauge("kck_warm_keys", "Keys that a warm query names.", "", &counts.warm);
    gauge("kck_queued_keys", "Keys that wait to be computed.", "", &counts.queued);
    gauge("kck_running_keys", "Keys that are being computed.", "", &counts.running);
    gauge("kck_waiting_readers", "Readers that wait for a computation.", "", &counts.waiters);
    let used = context.recompute.budget_used();
    let help = "Of what may be spent at the source in ten seconds, the part that was.";
    gauge("kck_budget_used_ratio", help, "", &used);
    let near = context.near.usage();
    gauge("kck_near_bytes", "Answer bytes kept in memory.", "", &near.bytes);
    gauge(
        "kck_near_capacity_bytes",
        "Answer bytes that may be kept in memory.",
        "",
        &near.capacity,
    );
    gauge(
        "kck_near_entries",
        "Answers, and other forms of them, kept in memory.",
        "",
        &near.entries,
    );
    gauge("kck_near_hits", "Looks into memory that found the answer.", "", &near.hits);
    gauge("kck_near_misses", "Looks into memory that did not.", "", &near.misses);
    let subscriptions = context.subscriptions.taken();
    gauge("kck_subscriptions", "Readers who are told of changes.", "", &subscriptions);
    let connections = context.connections.taken();
    gauge("kck_connections", "HTTP connections that are open.", "", &connections);
    let processes = context.processes.listing.borrow().running();
    gauge("kck_running_processes", "Processes that run now.", "", &processes);
    let retained = health.slot.retained_bytes;
    gauge("kck_slot_retained_bytes", "WAL that the source keeps for kck.", "", &retained);
    gauge("kck_lag_bytes", "WAL that is written and not matched.", "", &progress.lag_bytes());
    // Nobody knows how long without a rate.
    if let Some(left) = health.slot.left {
        let help =
            "Until the slot is given up at the present rate, should nothing be acknowledged.";
        gauge("kck_slot_left_seconds", help, "", &left.as_secs());
    }
    text + &refreshes(context) + &statements(context)
}

/// By product: what a key costs, how many go together, and whether that has become far more than it was.
fn statements(context: &Context) -> String {
    let catalog = Arc::clone(&context.catalog.borrow());
    let all: Vec<(&str, Shown)> = catalog
        .ready()
        .filter_map(|product| Some((product.name(), context.recompute.statements(product.name())?)))
        .collect();
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, of: fn(&Shown) -> f64| {
        text += &format!("# HELP {name} {help}\n# TYPE {name} gauge\n");
        for (product, shown) in &all {
            text += &format!("{name}{{product=\"{product}\"}} {}\n", of(shown));
        }
    };
    let help = "What computing one key takes of late.";
    gauge("kck_key_seconds", help, |shown| shown.key.as_secs_f64());
    let help = "Keys in one statement at most; 1 where each has its own.";
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    gauge("kck_statement_keys", help, |shown| shown.keys as f64);
    let help = "Whether a key costs a multiple of what it used to: its plan may have flipped.";
    gauge("kck_cost_jumped", help, |shown| f64::from(u8::from(shown.jump.is_some())));
    text
}

/// By product: what commits marked, and what of it had not changed.
fn refreshes(context: &Context) -> String {
    let all = context.observer.refreshes();
    let mut text = String::new();
    for (name, help, of) in [
        (
            "kck_marked_refreshes_total",
            "Marked keys that were computed again.",
            (|counted| counted.marked) as fn(&Refreshes) -> u64,
        ),
        (
            "kck_false_positives_total",
            "Those of them whose bytes did not change.",
            |counted: &Refreshes| counted.unchanged,
        ),
    ] {
        text += &format!("# HELP {name} {help}\n# TYPE {name} counter\n");
        for (product, counted) in &all {
            text += &format!("{name}{{product=\"{product}\"}} {}\n", of(counted));
        }
    }
    text
}
