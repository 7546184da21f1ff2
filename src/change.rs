//! What a commit did, as plain values: positions, rows, changes, transactions.
//!
//! Shapes follow PostgreSQL's logical replication message formats
//! (<https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>).

use std::{fmt, str::FromStr, sync::Arc};

use bytes::Bytes;

/// A position in the source's write-ahead log, in bytes. A commit is named by the *end* of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A page of the log, and the header that begins each; a segment's first page has a longer one.
const PAGE: u64 = 8192;
const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: u64 = 40;

impl Lsn {
    /// An insert position inside a page's header counts as the page's start: nothing can end there, and the stream
    /// names the end of the record before (`XLogBytePosToRecPtr` and `XLogBytePosToEndRecPtr` in xlog.c).
    #[must_use]
    pub fn floor_to_record_end(self, segment_bytes: u64) -> Self {
        let within = self.0 % PAGE;
        let start = self.0 - within;
        let first = segment_bytes != 0 && start.is_multiple_of(segment_bytes);
        if within <= if first { SEGMENT_HEADER } else { PAGE_HEADER } { Self(start) } else { self }
    }
}

/// A text that is not a position of the form `0/16B3748`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a log position like 0/16B3748")]
pub struct BadLsn(pub String);

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Self, BadLsn> {
        let half = |part: &str| {
            let digits =
                (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| BadLsn(text.to_owned()))
    }
}

/// Counts the times that the source's history broke (R10): 1 to 127.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u8);

/// A position within an epoch: later epochs are later, whatever their positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Which history of the source.
    pub epoch: Epoch,
    /// Where in it.
    pub lsn: Lsn,
}

impl Position {
    /// Seven bits of epoch above 56 bits of position: the order of the packed form is the order of
    /// positions, so it serves as a cell's write time.
    #[must_use]
    pub fn packed(self) -> u64 {
        u64::from(self.epoch.0 & 0x7F) << 56 | (self.lsn.0 & 0x00FF_FFFF_FFFF_FFFF)
    }

    /// The reverse of [`Position::packed`].
    #[must_use]
    pub fn unpack(packed: u64) -> Self {
        let epoch = Epoch(((packed >> 56) & 0x7F).to_le_bytes()[0]);
        Self { epoch, lsn: Lsn(packed & 0x00FF_FFFF_FFFF_FFFF) }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch.0, self.lsn)
    }
}

/// Microseconds since 1970-01-01 UTC on the *source's* clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SourceTime(pub i64);

impl fmt::Display for SourceTime {
    /// `YYYY-MM-DDTHH:MM:SS.ffffffZ`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, micros) = (self.0.div_euclid(86_400_000_000), self.0.rem_euclid(86_400_000_000));
        let (year, month, day) = civil_from_days(days);
        let seconds = micros / 1_000_000;
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let fraction = micros % 1_000_000;
        if !(0..=9999).contains(&year) {
            return write!(
                f,
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z"
            );
        }
        // Digit by digit: every answer says three of these, which the line above makes of seven padded numbers.
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let places = [0..4, 5..7, 8..10, 11..13, 14..16, 17..19, 20..26];
        for (place, number) in
            places.into_iter().zip([year, month, day, hour, minute, second, fraction])
        {
            let mut rest = number;
            for digit in text.get_mut(place).into_iter().flatten().rev() {
                *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
                rest /= 10;
            }
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// Days since 1970-01-01 → (year, month, day) in the proleptic Gregorian calendar.
#[must_use]
pub(crate) fn civil_from_days(days: i64) -> (i64, i64, i64) {
    // Years start in March, so that a leap day is the last of its year; eras are 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// A top-level transaction id as the stream gives it: 32 bits, without its wrap count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Xid(pub u32);

/// What one statement could see: PostgreSQL's `pg_current_snapshot()`, ids widened to 64 bits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Everything below is finished.
    pub xmin: u64,
    /// Everything from here on had not started.
    pub xmax: u64,
    /// In progress between the two, ascending.
    pub in_progress: Vec<u64>,
}

impl Snapshot {
    /// Whether the snapshot sees what this transaction did, given that it committed.
    #[must_use]
    pub fn sees(&self, xid: Xid) -> bool {
        let xid = self.widen(xid);
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }

    /// The 64-bit id nearest to this snapshot's xmax (modular difference, as Postgres compares).
    fn widen(&self, xid: Xid) -> u64 {
        let [a, b, c, d, ..] = self.xmax.to_le_bytes();
        let behind = u32::from_le_bytes([a, b, c, d]).wrapping_sub(xid.0).cast_signed();
        self.xmax.saturating_add_signed(-i64::from(behind))
    }

    /// 40 bits of xmax above 16 bits of `65535 - |in progress|`: grows with nested snapshots of one
    /// primary, so a larger one has seen at least as much (R6; the epoch goes above it).
    #[must_use]
    pub fn packed(&self) -> u64 {
        let in_progress = self.in_progress.len().min(65_535) as u64;
        (self.xmax & 0xFF_FFFF_FFFF) << 16 | (65_535 - in_progress)
    }
}

impl FromStr for Snapshot {
    type Err = BadSnapshot;

    fn from_str(text: &str) -> Result<Self, BadSnapshot> {
        let bad = || BadSnapshot(text.to_owned());
        let number = |part: &str| part.parse::<u64>().map_err(|_| bad());
        let mut parts = text.splitn(3, ':');
        let (Some(xmin), Some(xmax), Some(list)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        let mut in_progress = list
            .split(',')
            .filter(|id| !id.is_empty())
            .map(number)
            .collect::<Result<Vec<_>, _>>()?;
        in_progress.sort_unstable();
        Ok(Self { xmin: number(xmin)?, xmax: number(xmax)?, in_progress })
    }
}

/// A text that is not a snapshot of the form `xmin:xmax:xid,xid`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a snapshot like 10:20:10,14")]
pub struct BadSnapshot(pub String);

/// A table's oid (`pg_class.oid`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u32);

/// A table as the stream announces it (Relation message).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Its oid.
    pub table: TableId,
    /// Its schema; an empty one on the wire is `pg_catalog`.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Replica identity: `d`efault, `n`othing, `f`ull, `i`ndex.
    pub identity: u8,
    /// Columns in the order that rows have.
    pub columns: Vec<Column>,
}

/// A column as the stream announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type's oid.
    pub type_oid: u32,
    /// Whether it belongs to the replica identity.
    pub identity: bool,
}

/// One column of a row, in its type's output text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datum {
    /// SQL's NULL.
    Null,
    /// A TOASTed value that the update left alone: not sent, so unknown, never NULL.
    Unchanged,
    /// Output text under kck's fixed settings.
    Text(Bytes),
}

/// A row's columns, in the order of its relation.
pub type Row = Vec<Datum>;

/// What is known of a row before an UPDATE or DELETE; decided per message, never per table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Old {
    /// Not sent: the identity columns did not change (UPDATE only).
    Unsent,
    /// The identity columns; the others are NULL on the wire and unknown here.
    Identity(Row),
    /// The whole row (REPLICA IDENTITY FULL).
    Whole(Row),
}

/// One row change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A row came.
    Insert {
        /// Where.
        relation: Arc<Relation>,
        /// The row.
        new: Row,
    },
    /// A row changed.
    Update {
        /// Where.
        relation: Arc<Relation>,
        /// Before.
        old: Old,
        /// After.
        new: Row,
    },
    /// A row went.
    Delete {
        /// Where.
        relation: Arc<Relation>,
        /// Before.
        old: Old,
    },
    /// All rows of these tables went.
    Truncate {
        /// Every table the message names.
        relations: Vec<Arc<Relation>>,
    },
}

/// A commit as the stream ends it; its changes came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// Its top-level id.
    pub xid: Xid,
    /// The end of its commit record: its name everywhere in kck.
    pub end: Lsn,
    /// When it committed.
    pub time: SourceTime,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lsn_prints_what_it_parsed(raw: u64) {
            prop_assert_eq!(Lsn(raw).to_string().parse(), Ok(Lsn(raw)));
        }

        #[test]
        fn packed_positions_keep_their_order(a in 0u8..=127, b in 0u8..=127, x in 0u64..1 << 56, y in 0u64..1 << 56) {
            let (p, q) = (Position { epoch: Epoch(a), lsn: Lsn(x) }, Position { epoch: Epoch(b), lsn: Lsn(y) });
            prop_assert_eq!(p.cmp(&q), p.packed().cmp(&q.packed()));
            prop_assert_eq!(Position::unpack(p.packed()), p);
        }

        #[test]
        fn widening_survives_the_wrap(xmax in 1u64 << 33..1 << 40, behind in 1u64..1 << 31) {
            let xid = xmax - behind;
            let snapshot = Snapshot { xmin: xmax, xmax, in_progress: vec![] };
            prop_assert_eq!(snapshot.widen(Xid((xid & 0xFFFF_FFFF) as u32)), xid);
        }
    }

    #[test]
    fn a_snapshot_sees_what_was_finished() {
        let snapshot: Snapshot = "10:20:12,15".parse().unwrap();
        for (xid, seen) in
            [(9, true), (11, true), (12, false), (15, false), (19, true), (20, false)]
        {
            assert_eq!(snapshot.sees(Xid(xid)), seen, "{xid}");
        }
    }

    #[test]
    fn a_transaction_ahead_of_the_snapshot_is_unseen() {
        let snapshot = Snapshot { xmin: 1 << 32, xmax: 1 << 32, in_progress: vec![] };
        assert!(!snapshot.sees(Xid(5)));
        assert!(snapshot.sees(Xid(u32::MAX)));
    }

    #[test]
    fn times_print_in_utc_with_microseconds() {
        assert_eq!(SourceTime(0).to_string(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(SourceTime(951_782_400_000_001).to_string(), "2000-02-29T00:00:00.000001Z");
        assert_eq!(SourceTime(-1).to_string(), "1969-12-31T23:59:59.999999Z");
        assert_eq!(SourceTime(253_402_300_800_000_000).to_string(), "10000-01-01T00:00:00.000000Z");
        assert_eq!(SourceTime(1_795_367_311_123_456).to_string(), "2026-11-22T17:08:31.123456Z");
    }

    #[test]
    fn header_positions_count_as_the_page_start() {
        let segment = 16 << 20;
        for (insert, want) in [
            (segment + 40, segment),
            (segment + 8192 + 24, segment + 8192),
            (segment + 8192 + 40, segment + 8192 + 40),
            (segment + 8192 + 48, segment + 8192 + 48),
            (segment + 8192, segment + 8192),
        ] {
            assert_eq!(Lsn(insert).floor_to_record_end(segment), Lsn(want), "{insert}");
        }
    }

    #[test]
    fn refuses_texts_that_are_no_position() {
        for text in ["", "0", "0/", "/1", "0/G", "123456789/0", "0/123456789", "+1/2"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
