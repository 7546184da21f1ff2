//! Run: what a process does → what became of it. One arm a kind of work.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::{
    postgres::{self, Source},
    process::End,
    product::{Process, Work},
};

/// Carries a process out, to its end. When `stop` is cancelled it is given up.
pub(super) async fn run(
    source: &Source,
    slot: &str,
    process: &Process,
    stop: &CancellationToken,
) -> End {
    let began = Instant::now();
    let outcome = match &process.work {
        Work::Sql { text, .. } => {
            let (name, timeout) = (process.name(), process.timeout);
            let script = postgres::process::Script { name, slot, text, timeout };
            postgres::process::run(source, script, stop).await
        }
    };
    End { took: Some(began.elapsed()), outcome }
}
