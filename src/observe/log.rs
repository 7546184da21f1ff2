//! Log: an event → a line for people, at the level of who must look.

use std::time::Duration;

use super::Event;
use crate::process::Said;

/// ERROR: someone must look. WARN: went on, unexpectedly. INFO: rare and good to know.
pub(super) fn log(event: &Event) {
    match event {
        Event::StreamOpened { at } => tracing::info!(%at, "replication stream open"),
        Event::StreamLost { error, retry } => {
            tracing::warn!(error, ?retry, "replication stream lost");
        }
        Event::StandingBy { holder } => tracing::warn!(holder, "slot is taken, standing by"),
        Event::EpochBegan { epoch, why } => {
            tracing::warn!(
                epoch = epoch.0,
                why,
                "new epoch: every entry is stale until recomputed"
            );
        }
        Event::ComputeFailed { key, code } => {
            tracing::warn!(
                product = key.product(),
                code,
                "computing a key was refused by the source"
            );
        }
        Event::CostJumped { product, before, after } => log_jump(product, *before, *after),
        Event::WorkerDied { why } => {
            tracing::error!(why, "who computed keys came to an unexpected end, others go on");
        }
        Event::Part { part, trouble: Some(trouble) } => tracing::error!(part, trouble, "down"),
        Event::Part { part, trouble: None } => tracing::info!(part, "well again"),
        Event::ProductBroken { .. }
        | Event::ProductKept { .. }
        | Event::ProductLoaded { .. }
        | Event::ProductRemoved { .. }
        | Event::UpdateBroken { .. }
        | Event::UpdateKept { .. }
        | Event::UpdateLoaded { .. }
        | Event::UpdateRemoved { .. } => log_file(event),
        Event::UpdateFailed { update, code, why } => {
            tracing::warn!(update, code, why, "an update failed");
        }
        Event::Process { process, said } => of_process(process, said),
        Event::ProductJoined { product, until } => tracing::info!(product, %until, "product joins"),
        Event::Rebuilding { keys } => tracing::info!(keys, "reading tracked keys from the store"),
        Event::Rebuilt { keys, took } => {
            tracing::info!(keys, ms = took.as_millis(), "tracked keys are read from the store");
        }
        Event::DefinitionChanged { product } => {
            tracing::warn!(product, "a definition it reads changed: marked as a whole");
        }
        Event::Warmed { product, left_out, .. } if *left_out > 0 => {
            tracing::warn!(
                product,
                left_out,
                "warm keys are left out: limits.tracked_keys is reached"
            );
        }
        Event::WarmFailed { product, why } => {
            tracing::warn!(product, why, "warm keys could not be asked for");
        }
        Event::SlotDropped { retained_bytes } => {
            tracing::error!(retained_bytes, "slot held too much WAL and was dropped");
        }
        Event::Halted { point } => tracing::warn!(?point, "halted as asked"),
        Event::MarkedEarly { end, transactions } => {
            tracing::warn!(%end, transactions, "commits not visible yet: their products are marked as a whole");
        }
        Event::Marked { .. }
        | Event::Refreshed { .. }
        | Event::Updated { .. }
        | Event::Ticked { .. }
        | Event::Warmed { .. }
        | Event::Computed { .. } => {}
    }
}

/// What became of a file.
fn log_file(event: &Event) {
    match event {
        Event::ProductBroken { product, why } => tracing::error!(product, why, "product broken"),
        Event::ProductKept { product, why } => {
            tracing::error!(product, why, "file does not load, the product runs as it was");
        }
        Event::ProductLoaded { product, anew } => tracing::info!(product, anew, "product loaded"),
        Event::ProductRemoved { product } => tracing::info!(product, "product removed"),
        Event::UpdateBroken { update, why } => tracing::error!(update, why, "update broken"),
        Event::UpdateKept { update, why } => {
            tracing::error!(update, why, "file does not load, the update runs as it was");
        }
        Event::UpdateLoaded { update } => tracing::info!(update, "update loaded"),
        Event::UpdateRemoved { update } => tracing::info!(update, "update removed"),
        _ => {}
    }
}

fn log_jump(product: &str, before: Duration, after: Duration) {
    let [before_ms, after_ms] = [before, after].map(|cost| cost.as_secs_f64() * 1e3);
    tracing::warn!(
        product,
        before_ms,
        after_ms,
        "a key costs the source a multiple of what it did: its plan may have changed; run ANALYZE on the tables that it reads, then look at EXPLAIN"
    );
}

fn of_process(process: &str, said: &Said) {
    match said {
        Said::Loaded => tracing::info!(process, "process loaded"),
        Said::Kept { why } => {
            tracing::error!(process, why, "file does not load, the process runs as it was");
        }
        Said::Broken { why } => tracing::error!(process, why, "process broken"),
        Said::Removed => tracing::info!(process, "process removed"),
        Said::Began { run } => tracing::info!(process, run, "process begins"),
        Said::Ended { run, outcome } if outcome.is_well() => {
            tracing::info!(process, run, "process is done");
        }
        Said::Ended { run, outcome } => {
            tracing::error!(
                process,
                run,
                outcome = outcome.name(),
                why = outcome.why(),
                "process ended"
            );
        }
    }
}
