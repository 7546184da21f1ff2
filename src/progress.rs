//! How far kck is: V, F and the certificate, for everyone who may know.

use std::time::Instant;

use crate::change::{Epoch, Lsn, Position, SourceTime};

/// "An unmarked answer equals the query run on the source at some moment not before `time`" (R8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate {
    /// Every commit up to here is matched.
    pub lsn: Lsn,
    /// The source's clock when the barrier was taken.
    pub time: SourceTime,
    /// When the barrier was sent, on kck's own monotonic clock: ages are counted from here.
    pub sent: Instant,
}

/// Published by the pipeline after every step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// The source's history that positions belong to.
    pub epoch: Epoch,
    /// The source's `wal_segment_size`.
    pub segment_bytes: u64,
    /// Where the source's log stood at the newest barrier.
    pub insert: Lsn,
    /// The newest position the stream has delivered.
    pub received: Lsn,
    /// V: every commit up to here is matched, durably marked and visible.
    pub visible: Lsn,
    /// F: no commit up to here can still turn out to touch a key it has not marked.
    pub settled: Lsn,
    /// The position last recorded and acknowledged.
    pub acknowledged: Lsn,
    /// The newest certificate of this epoch.
    pub certificate: Option<Certificate>,
    /// The newest look at definitions that found them as they were analysed (R14).
    pub definitions: Option<Certificate>,
    /// The source's clock at the newest barrier, and when that was sent.
    pub clock: Option<(SourceTime, Instant)>,
    /// Counts the openings of the replication connection.
    pub connection: u64,
}

impl Progress {
    /// V with its epoch, as entries carry it.
    #[must_use]
    pub fn as_of(&self) -> Position {
        Position { epoch: self.epoch, lsn: self.visible }
    }

    /// What an unmarked answer of a matched product is exact as of: the lower of F's certificate and the
    /// definitions' (R8, R14).
    #[must_use]
    pub fn certified(&self) -> Option<Certificate> {
        let (own, definitions) = (self.certificate?, self.definitions?);
        Some(Certificate {
            lsn: own.lsn.min(definitions.lsn),
            time: own.time.min(definitions.time),
            sent: own.sent.min(definitions.sent),
        })
    }

    /// The source's clock now, as far as kck's own monotonic clock tells.
    #[must_use]
    pub fn source_now(&self, now: Instant) -> Option<SourceTime> {
        let (time, sent) = self.clock?;
        let elapsed = now.saturating_duration_since(sent).as_micros();
        Some(SourceTime(time.0.saturating_add(i64::try_from(elapsed).unwrap_or(i64::MAX))))
    }

    /// How much of the log has been written and is not matched.
    #[must_use]
    pub fn lag_bytes(&self) -> u64 {
        self.insert.0.saturating_sub(self.visible.0)
    }

    /// How old the certificate is at `now`.
    #[must_use]
    pub fn certificate_age(&self, now: Instant) -> Option<std::time::Duration> {
        self.certified().map(|certificate| now.saturating_duration_since(certificate.sent))
    }
}
