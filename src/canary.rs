//! A small commit of kck's own, again and again → how long the way from the source to V is, and where it stops.
//!
//! A stream that delivers nothing looks like a source that writes nothing. The canary tells one from the other: it
//! is known to be there, so when it does not come through, something stands still, and it is said which half.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    change::Lsn,
    inbox::Inbox,
    observe::Observer,
    postgres::{Housekeeping, describe_chain},
    progress::Progress,
    recompute,
    stage::Stage,
};

/// Between two canaries; a few hundred bytes of log each.
const EVERY: Duration = Duration::from_secs(5);
/// One that takes longer is late, and looked at again this often.
const LATE: Duration = Duration::from_secs(4);

/// What a canary needs.
pub(crate) struct Canary {
    pub(crate) source: Housekeeping,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) recompute: recompute::Handle,
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) observer: Observer,
}

impl Canary {
    /// Runs until dropped.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(EVERY).await;
            let sent = Instant::now();
            match self.source.nudge().await {
                Ok(at) => {
                    self.arrived(at).await;
                    self.observer.part("canary", None);
                    self.observer.took(Stage::Canary, sent.elapsed());
                }
                // That the source is away is said by whoever else asks it.
                Err(error) => {
                    tracing::debug!(error = describe_chain(&error), "no canary was sent");
                }
            }
        }
    }

    /// Returns when V has passed `at`, and says where it stands meanwhile.
    async fn arrived(&mut self, at: Lsn) {
        loop {
            self.recompute.hasten();
            let reached = self.progress.wait_for(|progress| progress.visible >= at);
            if timeout(LATE, reached).await.is_ok() {
                return;
            }
            let (received, visible) =
                (self.inbox.pending().received(), self.progress.borrow().visible);
            self.observer.part("canary", Some(standing(at, received, visible)));
        }
    }
}

/// Which half stands still.
fn standing(at: Lsn, received: Lsn, visible: Lsn) -> String {
    if received < at {
        format!("the stream has delivered {received}, and the source has written {at}")
    } else {
        format!("everything up to {received} has been delivered, and matched up to {visible}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_which_half_stands_still() {
        let said = standing(Lsn(0x30), Lsn(0x20), Lsn(0x10));
        assert_eq!(said, "the stream has delivered 0/20, and the source has written 0/30");
        let said = standing(Lsn(0x30), Lsn(0x30), Lsn(0x10));
        assert_eq!(said, "everything up to 0/30 has been delivered, and matched up to 0/10");
    }
}
