//! How kck is → `/healthz`, `/readyz`, `/status`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use warp::{http::StatusCode, reply::Response};

use crate::{
    product::Slot,
    progress::Progress,
    serve::{Context, Health, Reason, SlotHealth, problem::Kind},
    stage::{Stage, Taken},
};

use super::{catalogue::FaultView, query, reply};

/// Whether reads can be answered, and how well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Starting,
    Ready,
    Degraded,
    Draining,
}

/// The certificate as clients see it.
#[derive(Debug, Serialize)]
struct CertificateView {
    lsn: String,
    time: String,
    age_ms: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct ReasonView {
    part: &'static str,
    since: String,
    code: &'static str,
    message: String,
    hint: String,
}

/// `GET /healthz`: the process can answer.
pub(super) fn healthz() -> Response {
    #[derive(Serialize)]
    struct Alive {
        success: bool,
    }
    reply::json(&Alive { success: true })
}

/// `GET /readyz`: reads can be answered.
pub(super) fn readyz(context: Arc<Context>, raw_query: Option<String>) -> Response {
    #[derive(Serialize)]
    struct Readiness {
        state: State,
        certificate: Option<CertificateView>,
        reasons: Vec<ReasonView>,
    }
    let allowed = match query::max_staleness(raw_query.as_deref()) {
        Ok(allowed) => allowed,
        Err(problem) => return reply::problem(&problem),
    };
    let progress = *context.progress.borrow();
    let health = Arc::clone(&context.health.borrow());
    let now = Instant::now();
    let (mut state, mut answers) = judge(&health);
    let mut reasons: Vec<ReasonView> = health.reasons.iter().map(ReasonView::of).collect();
    if let Some(late) = allowed.and_then(|allowed| too_old(&progress, allowed, now)) {
        answers = false;
        state = if state == State::Ready { State::Degraded } else { state };
        reasons.push(late);
    }
    let certificate = CertificateView::of(&progress, now);
    let mut response = reply::json(&Readiness { state, certificate, reasons });
    if !answers {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// The state, and whether reads can be answered in it.
fn judge(health: &Health) -> (State, bool) {
    // A broken product or update is shown and harms nobody else.
    let away = |part: &str| health.reasons.iter().any(|reason| reason.part == part);
    let harmless = |reason: &Reason| matches!(reason.part, "product" | "update");
    let well = health.reasons.iter().all(harmless);
    match health {
        Health { draining: true, .. } => (State::Draining, false),
        Health { ready: false, .. } => (State::Starting, false),
        _ if well => (State::Ready, true),
        _ => (State::Degraded, !(away("store") && away("source"))),
    }
}

/// Why the certificate is not as young as demanded, if it is not.
fn too_old(progress: &Progress, allowed: Duration, now: Instant) -> Option<ReasonView> {
    let age = progress.certificate_age(now);
    if age.is_some_and(|age| age <= allowed) {
        return None;
    }
    let message = match age {
        Some(age) => format!("the certificate is {age:.1?} old, {allowed:?} are allowed"),
        None => "there is no certificate yet in this epoch".to_owned(),
    };
    Some(ReasonView {
        part: "certificate",
        since: progress.certified().map_or_else(String::new, |given| given.time.to_string()),
        code: Kind::NotFreshInTime.row().1,
        message,
        hint: "the other reasons and /status say which part stands still".to_owned(),
    })
}

/// `GET /status`: everything an operator looks at first.
pub(super) fn status(context: Arc<Context>, raw_query: Option<String>) -> Response {
    if let Err(problem) = query::nothing(raw_query.as_deref()) {
        return reply::problem(&problem);
    }
    let progress = *context.progress.borrow();
    let health = Arc::clone(&context.health.borrow());
    let counts = context.recompute.counts();
    reply::json(&Status {
        success: true,
        state: judge(&health).0,
        certificate: CertificateView::of(&progress, Instant::now()),
        epoch: progress.epoch.0,
        received: progress.received.to_string(),
        visible: progress.visible.to_string(),
        settled: progress.settled.to_string(),
        acknowledged: progress.acknowledged.to_string(),
        streaming: health.streaming(),
        lag: LagView { bytes: progress.lag_bytes(), seconds: age_seconds(&progress) },
        slot: SlotView::of(&health.slot),
        stages: stages(&context),
        keys: KeysView { tracked: counts.tracked, queued: counts.queued, running: counts.running },
        products: ProductsView::of(&context),
        reasons: health.reasons.iter().map(ReasonView::of).collect(),
    })
}

fn age_seconds(progress: &Progress) -> Option<f64> {
    progress.certificate_age(Instant::now()).map(|age| tenths(age.as_secs_f64()))
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// How long each stage took so far, as far as it ran.
fn stages(context: &Context) -> BTreeMap<&'static str, StageView> {
    let view = |stage: Stage| {
        let Taken { count, p50, p99, .. } = context.observer.stages().taken(stage)?;
        let millis = |time: Duration| time.as_secs_f64() * 1000.0;
        Some((stage.name(), StageView { count, p50_ms: millis(p50), p99_ms: millis(p99) }))
    };
    Stage::ALL.into_iter().filter_map(view).collect()
}

#[derive(Serialize)]
struct Status<N: Serialize> {
    success: bool,
    state: State,
    certificate: Option<CertificateView>,
    epoch: u8,
    received: String,
    visible: String,
    settled: String,
    acknowledged: String,
    streaming: bool,
    lag: LagView,
    slot: SlotView,
    stages: BTreeMap<&'static str, StageView>,
    keys: KeysView<N>,
    products: ProductsView,
    reasons: Vec<ReasonView>,
}

/// How far V is behind the source.
#[derive(Serialize)]
struct LagView {
    /// Of its log.
    bytes: u64,
    /// Since a certificate reached where the log was; null before the first.
    seconds: Option<f64>,
}

#[derive(Serialize)]
struct SlotView {
    name: String,
    retained_bytes: u64,
    wal_status: String,
    safe_wal_bytes: Option<u64>,
    /// Until it is given up at the present rate, should nothing be acknowledged any more.
    hours_left: Option<f64>,
}

#[derive(Serialize)]
struct StageView {
    count: u64,
    p50_ms: f64,
    p99_ms: f64,
}

#[derive(Serialize)]
struct KeysView<N: Serialize> {
    tracked: N,
    queued: N,
    running: N,
}

#[derive(Serialize)]
struct ProductsView {
    ready: Vec<String>,
    /// Of the ready ones those that run as they were, since their files as they are now do not load.
    kept: Vec<FaultyView>,
    broken: Vec<FaultyView>,
}

#[derive(Serialize)]
struct FaultyView {
    name: String,
    faults: Vec<FaultView>,
}

impl CertificateView {
    fn of(progress: &Progress, now: Instant) -> Option<Self> {
        let (certificate, age) = progress.certified().zip(progress.certificate_age(now))?;
        Some(Self {
            lsn: certificate.lsn.to_string(),
            time: certificate.time.to_string(),
            age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

impl ReasonView {
    fn of(reason: &Reason) -> Self {
        let Reason { part, since, code, message, hint } = reason.clone();
        Self { part, since, code, message, hint }
    }
}

impl SlotView {
    fn of(slot: &SlotHealth) -> Self {
        let SlotHealth { name, retained_bytes, wal_status, safe_wal_bytes, left } = slot.clone();
        let hours_left = left.map(|left| tenths(left.as_secs_f64() / 3600.0));
        Self { name, retained_bytes, wal_status, safe_wal_bytes, hours_left }
    }
}

impl ProductsView {
    fn of(context: &Context) -> Self {
        let mut view = Self { ready: Vec::new(), kept: Vec::new(), broken: Vec::new() };
        for (name, slot) in &context.catalog.borrow().products {
            let faults: Vec<_> = slot.faults().iter().map(FaultView::of).collect();
            let faulty = || FaultyView { name: name.clone(), faults };
            match slot {
                Slot::Broken { .. } => view.broken.push(faulty()),
                Slot::Ready { faults, .. } => {
                    view.ready.push(name.clone());
                    if !faults.is_empty() {
                        view.kept.push(faulty());
                    }
                }
            }
        }
        view
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(ready: bool, draining: bool, parts: &[&'static str]) -> Health {
        let reason = |part: &&'static str| Reason {
            part,
            since: String::new(),
            code: "KCK100",
            message: String::new(),
            hint: String::new(),
        };
        Health { ready, draining, reasons: parts.iter().map(reason).collect(), ..Health::default() }
    }

    #[test]
    fn states_are_judged_so() {
        for (health, want) in [
            (health(false, false, &[]), (State::Starting, false)),
            (health(false, false, &["source"]), (State::Starting, false)),
            (health(true, false, &[]), (State::Ready, true)),
            (health(true, false, &["product", "update"]), (State::Ready, true)),
            (health(true, false, &["source", "product"]), (State::Degraded, true)),
            (health(true, false, &["stream"]), (State::Degraded, true)),
            (health(true, false, &["store"]), (State::Degraded, true)),
            (health(true, false, &["store", "source"]), (State::Degraded, false)),
            (health(true, true, &[]), (State::Draining, false)),
            (health(false, true, &[]), (State::Draining, false)),
        ] {
            assert_eq!(judge(&health), want, "{health:?}");
        }
    }

    #[test]
    fn a_missing_certificate_is_too_old() {
        let reason = too_old(&Progress::default(), Duration::from_secs(3600), Instant::now());
        assert_eq!(reason.unwrap().part, "certificate");
    }
}
