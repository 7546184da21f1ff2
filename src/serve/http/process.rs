//! `/processes`: what runs on schedule → a list with what became of its runs; a name → a run.

use std::sync::Arc;

use serde::Serialize;
use warp::reply::Response;

use crate::{
    process::Run,
    product::ProcessSlot,
    serve::{Context, process::Listed},
};

use super::{
    catalogue::{FaultView, duration_text},
    query, reply,
};

#[derive(Serialize)]
struct ProcessView {
    name: String,
    /// `ready` or `broken`.
    state: &'static str,
    description: Option<String>,
    /// `every 30s`, `cron 0 6 * * *`; null where it only runs when asked.
    schedule: Option<String>,
    timeout: Option<String>,
    next: Option<String>,
    /// The run that goes on.
    running: Option<RunView>,
    /// The newest first.
    history: Vec<RunView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<FaultView>,
}

#[derive(Serialize)]
struct RunView {
    run: u64,
    /// The tick that it is of; null where somebody asked for it.
    due: Option<String>,
    started: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sqlstate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl From<&Run> for RunView {
    fn from(run: &Run) -> Self {
        let said = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let end = run.end.as_ref();
        let took = end.and_then(|end| end.took);
        Self {
            run: run.number,
            due: run.tick.map(|tick| tick.to_string()),
            started: run.started.to_string(),
            took_ms: took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            outcome: end.map(|end| end.outcome.name()),
            sqlstate: end.and_then(|end| said(end.outcome.code())),
            error: end.and_then(|end| said(end.outcome.why())),
        }
    }
}

impl ProcessView {
    fn of(name: &str, listed: &Listed) -> Self {
        let Listed { slot, next, runs } = listed;
        let process = slot.process();
        let (ended, running): (Vec<&Run>, Vec<&Run>) =
            runs.iter().partition(|run| run.end.is_some());
        Self {
            name: name.to_owned(),
            state: match slot {
                ProcessSlot::Ready { .. } => "ready",
                ProcessSlot::Broken { .. } => "broken",
            },
            description: process.and_then(|process| process.draft.policy.description.clone()),
            schedule: process.and_then(|process| Some(process.schedule()?.to_string())),
            timeout: process.map(|process| duration_text(process.timeout)),
            next: next.map(|next| next.to_string()),
            running: running.into_iter().next().map(Into::into),
            history: ended.into_iter().rev().map(Into::into).collect(),
            faults: slot.faults().iter().map(FaultView::of).collect(),
        }
    }
}

/// `GET /processes`.
pub(super) fn list(context: Arc<Context>, raw_query: Option<String>) -> Response {
    #[derive(Serialize)]
    struct View {
        success: bool,
        processes: Vec<ProcessView>,
        faults: Vec<FaultView>,
    }
    if let Err(problem) = query::nothing(raw_query.as_deref()) {
        return reply::problem(&problem);
    }
    let listing = Arc::clone(&context.processes.listing.borrow());
    let processes = listing.processes.iter().map(|(name, listed)| ProcessView::of(name, listed));
    let faults = listing.faults.iter().map(FaultView::of).collect();
    reply::json(&View { success: true, processes: processes.collect(), faults })
}

/// `POST /processes/NAME/run`: answers when the run has begun.
pub(super) async fn run(
    context: Arc<Context>,
    raw_query: Option<String>,
    name: String,
) -> Response {
    #[derive(Serialize)]
    struct View {
        success: bool,
        process: String,
        run: u64,
    }
    let begun = async {
        query::nothing(raw_query.as_deref())?;
        let run = context.processes.run(&name).await?;
        Ok(reply::json(&View { success: true, process: name.clone(), run }))
    };
    reply::settled(begun.await)
}
