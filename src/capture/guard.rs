//! The slot's weight at the source → whether kck must give it up: the disk guard. The source comes first.

use std::time::Duration;

use crate::{
    observe::Observer,
    postgres::{Housekeeping, describe_chain, slot},
};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why the slot cannot be gone on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The source keeps more log for it than it may.
    OverLimit {
        /// How much, in bytes.
        retained_bytes: u64,
    },
    /// The source has invalidated it, or it is gone.
    Lost,
}

/// Looks at the slot until it must be given up. What is seen goes to `seen`.
pub async fn watch(
    mut source: Housekeeping,
    slot: &str,
    wal_limit_bytes: u64,
    seen: impl Fn(&slot::Slot),
    observer: &Observer,
) -> Verdict {
    loop {
        match source.slot(slot).await {
            Ok(None) => return Verdict::Lost,
            Ok(Some(found)) => {
                seen(&found);
                if found.lost() {
                    return Verdict::Lost;
                }
                if found.retained_bytes > wal_limit_bytes {
                    return Verdict::OverLimit { retained_bytes: found.retained_bytes };
                }
                observer.part("slot", None);
            }
            Err(error) => observer.part("slot", Some(describe_chain(&error))),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
