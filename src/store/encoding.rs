//! Encoding: cells ↔ versioned bytes, and the order of their writes.
//!
//! Every form begins with a version byte; numbers are little-endian. Decoding is checked: any bytes give a
//! value or the fact that is wrong with them. An entry's header stands apart from its body, so that a scan
//! reads headers only.

use bytes::Bytes;

use super::Error;
use crate::{
    change::{Epoch, Lsn, Position, SourceTime},
    entry::{Entry, Fingerprint, Lease, Meta, Stamp},
};

/// The version of all forms in this file.
const VERSION: u8 = 1;

/// What both local stores and Cassandra can take as the text of a key or the name of a state cell, in bytes.
const NAME_BYTES_MAX: usize = 65_535;

const TRUNCATED: &str = "it ends too early";
const TRAILING: &str = "bytes are left over";
const UNKNOWN_TAG: &str = "unknown tag";

/// What is wrong with stored bytes.
type Fact = &'static str;

/// One cell: what was last written and when. The higher write time wins; at equal times a delete does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Cell<T> {
    /// Nothing was ever written.
    #[default]
    Unwritten,
    /// It holds a value.
    Live {
        /// Its write time.
        time: u64,
        /// The value.
        value: T,
    },
    /// It was deleted: kept to hide writes that arrive late.
    Deleted {
        /// The delete's write time.
        time: u64,
    },
}

impl<T> Cell<T> {
    /// Applies a write, `None` being a delete. False when what it has wins.
    pub fn write(&mut self, time: u64, value: Option<T>) -> bool {
        let wins = match self {
            Self::Unwritten => true,
            Self::Live { time: held, .. } => *held < time || (*held == time && value.is_none()),
            Self::Deleted { time: held } => *held < time,
        };
        if wins {
            *self = match value {
                Some(value) => Self::Live { time, value },
                None => Self::Deleted { time },
            };
        }
        wins
    }

    /// What it holds.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Live { value, .. } => Some(value),
            Self::Unwritten | Self::Deleted { .. } => None,
        }
    }
}

/// The three cells of a key; `E` is as much of the entry as is at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cells<E> {
    /// The entry, or its header.
    pub entry: Cell<E>,
    /// The track record.
    pub lease: Cell<Lease>,
    /// The mark; its write time is its packed position.
    pub mark: Cell<Position>,
}

impl<E> Default for Cells<E> {
    fn default() -> Self {
        Self { entry: Cell::Unwritten, lease: Cell::Unwritten, mark: Cell::Unwritten }
    }
}

impl<E> Cells<E> {
    /// Whether any cell holds a value.
    pub fn is_live(&self) -> bool {
        self.entry.value().is_some() || self.lease.value().is_some() || self.mark.value().is_some()
    }
}

/// The header of an entry: everything but the bytes, and how many there are.
pub(super) fn header(entry: &Entry) -> Meta {
    // Nothing so long is kept, by far.
    Meta { bytes: u32::try_from(entry.body.len()).unwrap_or(u32::MAX), ..entry.meta.clone() }
}

/// The entry that a header and a body are: two that are not of one write do not pass for one.
pub(super) fn join(header: Meta, body: Option<Bytes>) -> Result<Entry, Fact> {
    let body = body.ok_or("its body is missing")?;
    if body.len() == header.bytes as usize {
        Ok(Entry { meta: header, body })
    } else {
        Err("its body has another length than its header says")
    }
}

/// A header → bytes.
pub(super) fn encode_header(meta: &Meta) -> Vec<u8> {
    let mut out = vec![VERSION];
    write_header(&mut out, meta);
    out
}

/// Bytes → a header.
pub(super) fn decode_header(bytes: &[u8]) -> Result<Meta, Fact> {
    whole(bytes, read_header)
}

/// A lease → bytes.
pub(super) fn encode_lease(lease: Lease) -> Vec<u8> {
    let mut out = vec![VERSION];
    write_lease(&mut out, &lease);
    out
}

/// Bytes → a lease.
pub(super) fn decode_lease(bytes: &[u8]) -> Result<Lease, Fact> {
    whole(bytes, read_lease)
}

/// A key's cells → bytes.
pub(super) fn encode_cells(cells: &Cells<Meta>) -> Vec<u8> {
    let mut out = vec![VERSION];
    write_cell(&mut out, &cells.entry, write_header);
    write_cell(&mut out, &cells.lease, write_lease);
    write_cell(&mut out, &cells.mark, |out, mark| out.extend(mark.packed().to_le_bytes()));
    out
}

/// Bytes → a key's cells.
pub(super) fn decode_cells(bytes: &[u8]) -> Result<Cells<Meta>, Fact> {
    whole(bytes, |reader| {
        Ok(Cells {
            entry: read_cell(reader, read_header)?,
            lease: read_cell(reader, read_lease)?,
            mark: read_cell(reader, |reader| Ok(Position::unpack(reader.u64()?)))?,
        })
    })
}

/// A state cell → bytes.
pub(super) fn encode_state(cell: &Cell<Bytes>) -> Vec<u8> {
    let mut out = vec![VERSION];
    write_cell(&mut out, cell, |out, value| out.extend_from_slice(value));
    out
}

/// Bytes → a state cell.
pub(super) fn decode_state(bytes: &[u8]) -> Result<Cell<Bytes>, Fact> {
    whole(bytes, |reader| read_cell(reader, |reader| Ok(reader.rest())))
}

/// The text of a key or the name of a state cell, if every store can take it.
pub(super) fn checked_name(name: &str) -> Result<&str, Error> {
    if (1..=NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(name);
    }
    let bytes = name.len();
    Err(Error::Unavailable {
        action: "name a cell",
        source: format!("a name of {bytes} bytes, where 1 to {NAME_BYTES_MAX} can be stored")
            .into(),
    })
}

fn write_header(out: &mut Vec<u8>, meta: &Meta) {
    out.extend(meta.stamp.0.to_le_bytes());
    write_lease(out, &meta.lease);
    out.push(meta.as_of.epoch.0);
    out.extend(meta.as_of.lsn.0.to_le_bytes());
    out.extend(meta.as_of_time.0.to_le_bytes());
    out.extend(meta.snapshot.0.to_le_bytes());
    out.extend(meta.insert.0.to_le_bytes());
    out.extend(meta.fingerprint.0);
    out.extend(meta.shape.0);
    out.extend(meta.digest.to_le_bytes());
    out.extend(meta.version.to_le_bytes());
    out.extend(meta.modified.0.to_le_bytes());
    out.push(u8::from(meta.expires.is_some()));
    out.extend(meta.expires.unwrap_or_default().0.to_le_bytes());
    out.extend(meta.cost_us.to_le_bytes());
    out.extend(u64::from(meta.bytes).to_le_bytes());
}

fn read_header(reader: &mut Reader<'_>) -> Result<Meta, Fact> {
    Ok(Meta {
        stamp: Stamp(reader.u64()?),
        lease: read_lease(reader)?,
        as_of: Position { epoch: Epoch(reader.u8()?), lsn: Lsn(reader.u64()?) },
        as_of_time: SourceTime(reader.i64()?),
        snapshot: Stamp(reader.u64()?),
        insert: Lsn(reader.u64()?),
        fingerprint: Fingerprint(reader.take()?),
        shape: Fingerprint(reader.take()?),
        digest: reader.u64()?,
        version: reader.u64()?,
        modified: SourceTime(reader.i64()?),
        expires: {
            let tag = reader.u8()?;
            let time = SourceTime(reader.i64()?);
            match tag {
                0 => None,
                1 => Some(time),
                _ => return Err(UNKNOWN_TAG),
            }
        },
        cost_us: u32::from_le_bytes(reader.take()?),
        bytes: u32::try_from(reader.u64()?).map_err(|_| "its body is too long")?,
    })
}

fn write_lease(out: &mut Vec<u8>, lease: &Lease) {
    out.extend(lease.term.to_le_bytes());
    out.extend(lease.counter.to_le_bytes());
}

fn read_lease(reader: &mut Reader<'_>) -> Result<Lease, Fact> {
    Ok(Lease { term: u32::from_le_bytes(reader.take()?), counter: reader.u64()? })
}

fn write_cell<T>(out: &mut Vec<u8>, cell: &Cell<T>, write: impl FnOnce(&mut Vec<u8>, &T)) {
    match cell {
        Cell::Unwritten => out.push(0),
        Cell::Live { time, value } => {
            out.push(1);
            out.extend(time.to_le_bytes());
            write(out, value);
        }
        Cell::Deleted { time } => {
            out.push(2);
            out.extend(time.to_le_bytes());
        }
    }
}

fn read_cell<'a, T>(
    reader: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, Fact>,
) -> Result<Cell<T>, Fact> {
    match reader.u8()? {
        0 => Ok(Cell::Unwritten),
        1 => Ok(Cell::Live { time: reader.u64()?, value: read(reader)? }),
        2 => Ok(Cell::Deleted { time: reader.u64()? }),
        _ => Err(UNKNOWN_TAG),
    }
}

/// Reads a whole form: its version, what `read` takes, and nothing behind it.
fn whole<'a, T>(
    bytes: &'a [u8],
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, Fact>,
) -> Result<T, Fact> {
    let mut reader = Reader(bytes);
    if reader.u8()? != VERSION {
        return Err("it was written by another version of kck");
    }
    let value = read(&mut reader)?;
    if reader.0.is_empty() { Ok(value) } else { Err(TRAILING) }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Fact> {
        let (head, rest) = self.0.split_first_chunk().ok_or(TRUNCATED)?;
        self.0 = rest;
        Ok(*head)
    }

    fn rest(&mut self) -> Bytes {
        Bytes::copy_from_slice(std::mem::take(&mut self.0))
    }

    fn u8(&mut self) -> Result<u8, Fact> {
        self.take().map(u8::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Fact> {
        self.take().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, Fact> {
        self.take().map(i64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_header() -> impl Strategy<Value = Meta> {
        let times = (any::<i64>(), any::<i64>(), any::<Option<i64>>());
        let numbers = any::<[u64; 7]>();
        let small = (any::<u32>(), any::<u8>(), any::<u32>(), any::<u32>());
        let prints = (any::<[u8; 16]>(), any::<[u8; 16]>());
        (times, numbers, small, prints).prop_map(|(times, numbers, small, prints)| Meta {
            stamp: Stamp(numbers[0]),
            lease: Lease { term: small.0, counter: numbers[1] },
            as_of: Position { epoch: Epoch(small.1), lsn: Lsn(numbers[2]) },
            as_of_time: SourceTime(times.0),
            snapshot: Stamp(numbers[3]),
            insert: Lsn(numbers[4]),
            fingerprint: Fingerprint(prints.0),
            shape: Fingerprint(prints.1),
            digest: numbers[6],
            version: numbers[5],
            modified: SourceTime(times.1),
            expires: times.2.map(SourceTime),
            cost_us: small.2,
            bytes: small.3,
        })
    }

    fn any_cell<T: Clone + std::fmt::Debug>(
        value: impl Strategy<Value = T> + 'static,
    ) -> impl Strategy<Value = Cell<T>> {
        prop_oneof![
            Just(Cell::Unwritten),
            (any::<u64>(), value).prop_map(|(time, value)| Cell::Live { time, value }),
            any::<u64>().prop_map(|time| Cell::Deleted { time }),
        ]
    }

    fn any_cells() -> impl Strategy<Value = Cells<Meta>> {
        let lease =
            (any::<u32>(), any::<u64>()).prop_map(|(term, counter)| Lease { term, counter });
        let mark = (0u64..1 << 63).prop_map(Position::unpack);
        (any_cell(any_header()), any_cell(lease), any_cell(mark))
            .prop_map(|(entry, lease, mark)| Cells { entry, lease, mark })
    }

    proptest! {
        #[test]
        fn cells_come_back(cells in any_cells()) {
            let bytes = encode_cells(&cells);
            prop_assert_eq!(decode_cells(&bytes), Ok(cells));
        }

        #[test]
        fn headers_and_leases_come_back(header in any_header()) {
            prop_assert_eq!(decode_header(&encode_header(&header)), Ok(header.clone()));
            prop_assert_eq!(decode_lease(&encode_lease(header.lease)), Ok(header.lease));
        }

        #[test]
        fn state_comes_back(cell in any_cell(any::<Vec<u8>>().prop_map(Bytes::from))) {
            prop_assert_eq!(decode_state(&encode_state(&cell)), Ok(cell));
        }

        #[test]
        fn any_bytes_decode_to_something(mut bytes: Vec<u8>, versioned: bool) {
            if versioned && let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            drop((decode_cells(&bytes), decode_header(&bytes), decode_lease(&bytes), decode_state(&bytes)));
        }

        #[test]
        fn every_shortened_or_lengthened_form_is_refused(cells in any_cells(), cut in any::<prop::sample::Index>()) {
            let mut bytes = encode_cells(&cells);
            prop_assert!(decode_cells(&bytes[..cut.index(bytes.len())]).is_err());
            bytes.push(0);
            prop_assert_eq!(decode_cells(&bytes), Err(TRAILING));
        }

        #[test]
        fn the_order_of_arrival_does_not_matter(writes in prop::collection::vec((0u64..6, any::<bool>()), 0..8).prop_shuffle()) {
            // A live value is named by its time: two different values never share one.
            let value = |(time, live): (u64, bool)| live.then_some(time);
            let mut cell = Cell::Unwritten;
            for write in &writes {
                cell.write(write.0, value(*write));
            }
            let last = writes.iter().copied().max_by_key(|(time, live)| (*time, !live));
            prop_assert_eq!(cell.value().copied(), last.and_then(value));
        }
    }

    #[test]
    fn refuses_another_version() {
        let mut bytes = encode_lease(Lease { term: 1, counter: 2 });
        bytes[0] = 9;
        assert_eq!(decode_lease(&bytes), Err("it was written by another version of kck"));
    }

    #[test]
    fn a_header_takes_no_body_but_its_own() {
        let meta = Meta { bytes: 3, ..Meta::default() };
        let entry = Entry { meta, body: Bytes::from_static(b"[1]") };
        let header = header(&entry);
        assert_eq!(join(header.clone(), Some(entry.body.clone())), Ok(entry));
        assert!(join(header.clone(), Some(Bytes::from_static(b"[12]"))).is_err());
        assert!(join(header, None).is_err());
    }

    #[test]
    fn names_have_limits() {
        assert!(checked_name("a").is_ok() && checked_name(&"k".repeat(65_535)).is_ok());
        assert!(checked_name("").is_err() && checked_name(&"k".repeat(65_536)).is_err());
    }
}
