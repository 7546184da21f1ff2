//! The slot's weight at the source → whether kck must give it up: the disk guard. The source comes first.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    change::Lsn,
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
    seen: impl Fn(&slot::Slot, Option<Duration>),
    observer: &Observer,
) -> Verdict {
    let mut growth = Growth::default();
    loop {
        match source.slot(slot).await {
            Ok(None) => return Verdict::Lost,
            Ok(Some(found)) => {
                let rate = growth.rate(Instant::now(), &found);
                seen(&found, rate.and_then(|rate| left(&found, wal_limit_bytes, rate)));
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

/// How fast the source writes its log, of late.
#[derive(Debug, Default)]
struct Growth {
    last: Option<(Instant, Lsn)>,
    /// Bytes a second.
    rate: Option<f64>,
}

/// What a new sample counts beside those before: about a minute of looks is remembered.
const SAMPLE_SHARE: f64 = 0.1;

impl Growth {
    /// Bytes a second; `None` before the second look.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn rate(&mut self, now: Instant, slot: &slot::Slot) -> Option<f64> {
        let end = Lsn(slot.restart_lsn?.0.saturating_add(slot.retained_bytes));
        let last = self.last.replace((now, end));
        let (then, before) = last?;
        let seconds = now.saturating_duration_since(then).as_secs_f64();
        if seconds > 0.0 {
            let sample = end.0.saturating_sub(before.0) as f64 / seconds;
            let known = self.rate.map(|rate| rate + (sample - rate) * SAMPLE_SHARE);
            self.rate = Some(known.unwrap_or(sample));
        }
        self.rate
    }
}

/// How long it takes at this rate until kck or the source gives the slot up, should nothing be acknowledged.
#[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
fn left(slot: &slot::Slot, limit_bytes: u64, rate: f64) -> Option<Duration> {
    let own = limit_bytes.saturating_sub(slot.retained_bytes);
    let bytes = match slot.safe_wal_size {
        Some(safe) => own.min(u64::try_from(safe).unwrap_or(0)),
        None => own,
    };
    // At less than a byte a second it is longer than anybody plans for.
    (rate >= 1.0).then(|| Duration::from_secs_f64(bytes as f64 / rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(retained_bytes: u64, safe_wal_size: Option<i64>) -> slot::Slot {
        slot::Slot {
            ours: true,
            holder: None,
            wal_status: "reserved".to_owned(),
            safe_wal_size,
            confirmed_flush_lsn: None,
            restart_lsn: Some(Lsn(1000)),
            retained_bytes,
            invalidation_reason: None,
            failover: false,
        }
    }

    #[test]
    fn the_rate_is_that_of_the_log() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut growth = Growth::default();
        assert_eq!(growth.rate(start, &slot(0, None)), None);
        assert_eq!(growth.rate(start + second, &slot(500, None)), Some(500.0));
        assert_eq!(growth.rate(start + second * 2, &slot(500, None)), Some(450.0));
    }

    #[test]
    fn the_lower_limit_counts() {
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(left(&slot(1000, None), 37_000, 10.0), hour);
        assert_eq!(left(&slot(1000, Some(36_000)), 1 << 40, 10.0), hour);
        assert_eq!(left(&slot(1000, Some(-5)), 1 << 40, 10.0), Some(Duration::ZERO));
        assert_eq!(left(&slot(1000, None), 10, 10.0), Some(Duration::ZERO));
        assert_eq!(left(&slot(0, None), 1 << 40, 0.0), None);
    }
}
