//! An entry: what the store holds for a key, its answer and when that was right.

use bytes::Bytes;

use crate::change::{Epoch, Lsn, Position, Snapshot, SourceTime};

/// Orders the writes of one key (R6): at least the packed snapshot it was computed from, and above
/// every stamp issued for the key before. 63 bits: 7 of epoch, 40 of xmax, 16 of in-progress count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The lowest stamp for an answer seen by `snapshot` in `epoch`.
    #[must_use]
    pub fn packed(epoch: Epoch, snapshot: &Snapshot) -> Self {
        Self(u64::from(epoch.0 & 0x7F) << 56 | snapshot.packed())
    }

    /// The next one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Names one tracking of a key: which start of kck, and which tracking of that start. An entry whose
/// lease is not its track record's is rubbish (R14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Lease {
    /// Counts the starts of kck on this store.
    pub term: u32,
    /// Counts the trackings within a term.
    pub counter: u64,
}

/// What an answer means: see DESIGN section 1. The first 128 bits of a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Fingerprint(pub [u8; 16]);

/// Everything about an entry but its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// Orders the writes of this key.
    pub stamp: Stamp,
    /// The tracking it was computed under.
    pub lease: Lease,
    /// V when its statement began.
    pub as_of: Position,
    /// The source's clock when its statement began.
    pub as_of_time: SourceTime,
    /// The packed snapshot of its statement; zero when it had none.
    pub snapshot: Stamp,
    /// The source's insert position seen by its statement: firm once the stream has reached it (R10).
    pub insert: Lsn,
    /// The product's definition and analysis that it answers.
    pub fingerprint: Fingerprint,
    /// `result`, column names and types: entries of one shape may stand in for each other as stale.
    pub shape: Fingerprint,
    /// Tells equal bytes from others without keeping them: the first 64 bits of their SHA-256.
    pub digest: u64,
    /// Grows with every change of the bytes.
    pub version: u64,
    /// When the bytes last changed, on the source's clock.
    pub modified: SourceTime,
    /// When it stops being an answer, on the source's clock.
    pub expires: Option<SourceTime>,
    /// What its computation cost, in microseconds.
    pub cost_us: u32,
    /// How long its body is.
    pub bytes: u32,
}

/// An answer and when it was right.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// Everything but the bytes.
    pub meta: Meta,
    /// The JSON as Postgres made it.
    pub body: Bytes,
}
