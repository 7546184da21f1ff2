//! Run: what a process does → what became of it. One arm a kind of work.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    parts::Parts,
    postgres,
    process::{End, Outcome},
    product::{Means, Process, Work},
    recompute::{
        exec::{
            Fault,
            protocol::{Ask, Of},
        },
        http::Told,
        outside::Recipes,
    },
};

/// Carries a process out, to its end. When `stop` is cancelled it is given up.
pub(super) async fn run(
    parts: &Parts,
    recipes: &Recipes,
    process: &Process,
    stop: &CancellationToken,
) -> End {
    let began = Instant::now();
    let (name, timeout) = (process.name(), process.timeout);
    let of = postgres::process::Which { name, slot: &parts.names.slot };
    let outcome = match &process.work {
        Work::Sql { text, .. } => {
            let script = postgres::process::Script { of, text, timeout };
            postgres::process::run(&parts.source, script, stop).await
        }
        Work::Outside(means) => {
            let as_of = parts.progress.borrow().as_of();
            let ask = Ask { of: Of::Process(name.to_owned()), params: BTreeMap::new(), as_of };
            let does = outside(recipes, means, &ask, timeout);
            postgres::process::locked(&parts.source, of, does, stop).await
        }
    };
    End { took: Some(began.elapsed()), outcome }
}

async fn outside(recipes: &Recipes, means: &Means, ask: &Ask, timeout: Duration) -> Outcome {
    let failed = |why: String| Outcome::Failed { code: String::new(), why };
    match means {
        Means::Exec { command, workers } => {
            match recipes.programs.ask((command, *workers), ask, timeout).await {
                Ok(_) => Outcome::Done,
                Err(Fault::Late(_)) => Outcome::TimedOut,
                Err(Fault::Lost(why)) => Outcome::Unknown { why },
                Err(fault) => failed(fault.to_string()),
            }
        }
        Means::Http { url, headers } => match recipes.addresses.tell(url, headers, timeout).await {
            Ok(()) => Outcome::Done,
            Err(Told::Late) => Outcome::TimedOut,
            Err(Told::Lost(why)) => Outcome::Unknown { why },
            Err(Told::Refused(why)) => failed(why),
        },
    }
}
