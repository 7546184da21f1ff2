//! The state table's cells ↔ what kck must remember beside entries: epoch, term, floors, positions, products.
//!
//! Values are short texts, so that a person can read them with any client of the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    str::FromStr,
    time::Duration,
};

use bytes::Bytes;

use crate::{
    change::{Epoch, Lsn, Position, SourceTime, TableId, Xid},
    entry::{Fingerprint, Stamp},
    process::{End, Kept, Outcome, Run},
};

use super::{Error, StateCell};

/// Which history of which source the positions belong to (DESIGN section 7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// `pg_control_system().system_identifier`.
    pub system_identifier: String,
    /// Its timeline.
    pub timeline: i64,
    /// The slot.
    pub slot: String,
    /// The database.
    pub database: String,
}

/// A product that is being matched (R1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// What it meant when it joined, without the generation.
    pub definition: Fingerprint,
    /// Told from an earlier matching of the same definition.
    pub generation: u64,
    /// As it was last seen.
    pub seen: Seen,
}

/// All that the stream does not say of what a product reads (R14). What was seen before and is another now may have
/// hidden changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// A hash over the definitions of what it reads.
    pub catalogue: String,
    /// A hash over the columns that came to its tables since.
    pub growth: String,
    /// Tells the membership of its tables in the publication from every other that they ever had.
    pub membership: String,
}

/// A start of kck, as it found the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Every stamp issued before it is at most this.
    pub floor: Stamp,
    /// The position that was recorded.
    pub recorded: Position,
}

/// Starts that are told apart; of more the oldest count as one, which only makes entries stale.
const STARTS_KEPT: usize = 32;

/// Everything the state table holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// The source's history, from 1; 0 before the first.
    pub epoch: Epoch,
    /// How often kck was started on this store.
    pub term: u32,
    /// Every stamp issued so far is at most this.
    pub stamp_floor: Stamp,
    /// Every version issued so far is at most this.
    pub version_floor: u64,
    /// The position last recorded before it was acknowledged (R14).
    pub recorded: Position,
    /// Whole-product marks.
    pub marks: BTreeMap<String, Position>,
    /// Products being matched.
    pub matched: BTreeMap<String, Matched>,
    /// Acknowledged before they were seen visible (R3).
    pub early: Vec<(Xid, Lsn)>,
    /// Tables that are being published, until whoever reads them has joined (R11).
    pub publishing: BTreeSet<TableId>,
    /// The starts of this epoch, the oldest first.
    pub starts: Vec<Start>,
    /// Whose positions these are.
    pub origin: Option<Origin>,
    /// The last tick of products that are computed on schedule.
    pub ticks: BTreeMap<String, SourceTime>,
    /// When processes were due last, and how they ran.
    pub processes: BTreeMap<String, Kept>,
}

const PROCESS: &str = "process/";
const TICK: &str = "tick/";
const MARK: &str = "mark/";
const MATCHED: &str = "matched/";

impl State {
    /// Reads the table's cells; unknown names are left for newer versions.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a cell that says nothing sensible.
    pub fn decode(cells: &[StateCell]) -> Result<Self, Error> {
        let mut state = Self::default();
        for cell in cells {
            let Some(value) = &cell.value else { continue };
            let text = std::str::from_utf8(value).map_err(|_| corrupt(&cell.name, "not UTF-8"))?;
            let words: Vec<&str> = text.split('\n').collect();
            let word = |at: usize| {
                words.get(at).copied().ok_or_else(|| corrupt(&cell.name, "too few lines"))
            };
            match cell.name.as_str() {
                "epoch" => state.epoch = Epoch(number(&cell.name, word(0)?)?),
                "term" => state.term = number(&cell.name, word(0)?)?,
                "floors" => {
                    state.stamp_floor = Stamp(number(&cell.name, word(0)?)?);
                    state.version_floor = number(&cell.name, word(1)?)?;
                }
                "recorded" => state.recorded = position(&cell.name, word(0)?)?,
                "early" => state.early = early(&cell.name, &words)?,
                "starts" => state.starts = starts_of(&cell.name, &words)?,
                "publishing" => {
                    let oids = words.iter().filter(|word| !word.is_empty());
                    let table = |word: &&str| number(&cell.name, word).map(TableId);
                    state.publishing = oids.map(table).collect::<Result<_, _>>()?;
                }
                "origin" => {
                    state.origin = Some(Origin {
                        system_identifier: word(0)?.to_owned(),
                        timeline: number(&cell.name, word(1)?)?,
                        slot: word(2)?.to_owned(),
                        database: word(3)?.to_owned(),
                    });
                }
                name => {
                    if let Some(product) = name.strip_prefix(MARK) {
                        state.marks.insert(product.to_owned(), position(name, word(0)?)?);
                    } else if let Some(product) = name.strip_prefix(TICK) {
                        let at = SourceTime(number(name, word(0)?)?);
                        state.ticks.insert(product.to_owned(), at);
                    } else if let Some(process) = name.strip_prefix(PROCESS) {
                        state.processes.insert(process.to_owned(), kept(name, &words)?);
                    } else if let Some(product) = name.strip_prefix(MATCHED) {
                        let definition = fingerprint(name, word(0)?)?;
                        let generation = number(name, word(1)?)?;
                        let seen = Seen {
                            catalogue: word(2)?.to_owned(),
                            // Not there in what an earlier version wrote: it is seen anew then.
                            growth: word(3).unwrap_or_default().to_owned(),
                            membership: word(4).unwrap_or_default().to_owned(),
                        };
                        let matched = Matched { definition, generation, seen };
                        state.matched.insert(product.to_owned(), matched);
                    }
                }
            }
        }
        Ok(state)
    }

    /// The starts of this epoch, with the one that reads this.
    #[must_use]
    pub fn begun(&self) -> Vec<Start> {
        let epoch = self.recorded.epoch;
        let mut starts = self.starts.clone();
        starts.retain(|start| start.recorded.epoch == epoch);
        starts.push(Start { floor: self.stamp_floor, recorded: self.recorded });
        while starts.len() > STARTS_KEPT {
            let oldest = starts.remove(0);
            if let Some(next) = starts.first_mut() {
                next.recorded = oldest.recorded;
            }
        }
        starts
    }
}

/// Up to where the log had survived when an entry with this stamp was written, as far as the starts since then tell: an
/// entry whose statement saw more is not firm (R10). It may be one that was on its way while kck was started, and again,
/// and the source lost what it saw in between.
#[must_use]
pub fn firm_up_to(starts: &[Start], stamp: Stamp) -> Lsn {
    let since = starts.iter().filter(|start| stamp <= start.floor);
    since.map(|start| start.recorded.lsn).min().unwrap_or_default()
}

/// The epoch's cell.
#[must_use]
pub fn epoch(epoch: Epoch, stamp: u64) -> StateCell {
    cell("epoch", epoch.0, stamp)
}

/// The term's cell.
#[must_use]
pub fn term(term: u32, stamp: u64) -> StateCell {
    cell("term", term, stamp)
}

/// The floors' cell.
#[must_use]
pub fn floors(of_stamps: Stamp, of_versions: u64, stamp: u64) -> StateCell {
    cell("floors", format!("{}\n{of_versions}", of_stamps.0), stamp)
}

/// The recorded position's cell.
#[must_use]
pub fn recorded(position: Position, stamp: u64) -> StateCell {
    cell("recorded", position, stamp)
}

/// A whole-product mark's cell: written with the mark itself, so that the highest wins.
#[must_use]
pub fn mark(product: &str, position: Position) -> StateCell {
    cell(&format!("{MARK}{product}"), position, position.packed())
}

/// A product's last tick; `None` where there is no such product any more.
#[must_use]
pub fn tick(product: &str, at: Option<SourceTime>, stamp: u64) -> StateCell {
    let text = at.map(|at| Bytes::from(format!("{}\n{at}", at.0)));
    StateCell { name: format!("{TICK}{product}"), value: text, stamp }
}

/// A process's last tick and its last runs; `None` where there is no such process any more.
#[must_use]
pub fn process(process: &str, kept: Option<&Kept>, stamp: u64) -> StateCell {
    let time = |at: Option<SourceTime>| at.map_or("-".to_owned(), |at| at.0.to_string());
    let line = |run: &Run| {
        let Run { number, tick, started, end } = run;
        let mut line = format!("{number} {} {}", time(*tick), started.0);
        if let Some(End { took, outcome }) = end {
            let took = took.map_or("-".to_owned(), |took| took.as_micros().to_string());
            let code = Some(outcome.code()).filter(|code| !code.is_empty()).unwrap_or("-");
            // What follows is for people, and the rest of the line.
            let why = outcome.why().replace(|c: char| c.is_control(), " ");
            line += &format!(" {took} {} {code} {why}", outcome.name());
        }
        line
    };
    let text = kept.map(|kept| {
        let lines = std::iter::once(time(kept.last)).chain(kept.runs.iter().map(line));
        Bytes::from(lines.collect::<Vec<_>>().join("\n"))
    });
    StateCell { name: format!("{PROCESS}{process}"), value: text, stamp }
}

/// A product joins the list of those matched, or leaves it.
#[must_use]
pub fn matched(product: &str, matched: Option<Matched>, stamp: u64) -> StateCell {
    let text = matched.map(|Matched { definition, generation, seen }| {
        let Seen { catalogue, growth, membership } = seen;
        format!("{}\n{generation}\n{catalogue}\n{growth}\n{membership}", hex(definition))
    });
    StateCell { name: format!("{MATCHED}{product}"), value: text.map(Bytes::from), stamp }
}

/// The early acknowledged transactions' cell.
#[must_use]
pub fn early_cell(early: &[(Xid, Lsn)], stamp: u64) -> StateCell {
    let lines: Vec<String> = early.iter().map(|(xid, end)| format!("{} {end}", xid.0)).collect();
    cell("early", lines.join("\n"), stamp)
}

/// The starts' cell.
#[must_use]
pub fn starts(starts: &[Start], stamp: u64) -> StateCell {
    let line = |start: &Start| format!("{} {}", start.floor.0, start.recorded);
    cell("starts", starts.iter().map(line).collect::<Vec<_>>().join("\n"), stamp)
}

/// The tables being published.
#[must_use]
pub fn publishing(tables: &BTreeSet<TableId>, stamp: u64) -> StateCell {
    let lines: Vec<String> = tables.iter().map(|table| table.0.to_string()).collect();
    cell("publishing", lines.join("\n"), stamp)
}

/// The origin's cell.
#[must_use]
pub fn origin(origin: &Origin, stamp: u64) -> StateCell {
    let Origin { system_identifier, timeline, slot, database } = origin;
    cell("origin", format!("{system_identifier}\n{timeline}\n{slot}\n{database}"), stamp)
}

fn cell(name: &str, value: impl Display, stamp: u64) -> StateCell {
    StateCell { name: name.to_owned(), value: Some(Bytes::from(value.to_string())), stamp }
}

fn corrupt(cell: &str, fact: &'static str) -> Error {
    Error::Corrupt { what: format!("state cell {cell}"), fact }
}

fn number<T: FromStr>(cell: &str, text: &str) -> Result<T, Error> {
    text.parse().map_err(|_| corrupt(cell, "not a number"))
}

fn position(cell: &str, text: &str) -> Result<Position, Error> {
    let bad = || corrupt(cell, "not a position");
    let (epoch, lsn) = text.split_once(':').ok_or_else(bad)?;
    Ok(Position { epoch: Epoch(number(cell, epoch)?), lsn: lsn.parse().map_err(|_| bad())? })
}

fn early(cell: &str, lines: &[&str]) -> Result<Vec<(Xid, Lsn)>, Error> {
    let bad = || corrupt(cell, "not a transaction");
    let line = |line: &&str| {
        let (xid, end) = line.split_once(' ').ok_or_else(bad)?;
        Ok((Xid(number(cell, xid)?), end.parse().map_err(|_| bad())?))
    };
    lines.iter().filter(|line| !line.is_empty()).map(line).collect()
}

fn starts_of(cell: &str, lines: &[&str]) -> Result<Vec<Start>, Error> {
    let line = |line: &&str| {
        let (floor, recorded) = line.split_once(' ').ok_or_else(|| corrupt(cell, "not a start"))?;
        Ok(Start { floor: Stamp(number(cell, floor)?), recorded: position(cell, recorded)? })
    };
    lines.iter().filter(|line| !line.is_empty()).map(line).collect()
}

fn kept(cell: &str, lines: &[&str]) -> Result<Kept, Error> {
    let time = |text: &str| match text {
        "-" => Ok(None),
        text => number(cell, text).map(|at| Some(SourceTime(at))),
    };
    let run = |line: &&str| {
        let bad = || corrupt(cell, "not a run");
        let mut words = line.splitn(7, ' ');
        let mut word = || words.next().ok_or_else(bad);
        let (number_, tick, started) = (number(cell, word()?)?, time(word()?)?, time(word()?)?);
        let started = started.ok_or_else(bad)?;
        let mut run = Run { number: number_, tick, started, end: None };
        if let Ok(took) = word() {
            let took = match took {
                "-" => None,
                took => Some(Duration::from_micros(number(cell, took)?)),
            };
            let (name, code) = (word()?, word()?);
            let code = if code == "-" { "" } else { code };
            let outcome = Outcome::named(name, code, word().unwrap_or_default());
            run.end = Some(End { took, outcome: outcome.ok_or_else(bad)? });
        }
        Ok(run)
    };
    let (last, runs) = lines.split_first().ok_or_else(|| corrupt(cell, "too few lines"))?;
    let runs = runs.iter().filter(|line| !line.is_empty()).map(run);
    Ok(Kept { last: time(last)?, runs: runs.collect::<Result<_, _>>()? })
}

fn hex(fingerprint: Fingerprint) -> String {
    fingerprint.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fingerprint(cell: &str, text: &str) -> Result<Fingerprint, Error> {
    let number = u128::from_str_radix(text, 16).map_err(|_| corrupt(cell, "not a fingerprint"))?;
    Ok(Fingerprint(number.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs of every kind.
    fn ran() -> Kept {
        let at = |seconds: i64| SourceTime(seconds * 1_000_000);
        let took = Some(Duration::from_micros(1_500));
        let why = "relation \"t\" does not exist".to_owned();
        let ends = [
            Some(End { took, outcome: Outcome::Done }),
            Some(End { took, outcome: Outcome::Failed { code: "42P01".into(), why: why.clone() } }),
            Some(End {
                took,
                outcome: Outcome::Failed { code: String::new(), why: String::new() },
            }),
            Some(End { took: None, outcome: Outcome::Interrupted }),
            Some(End { took, outcome: Outcome::TimedOut }),
            Some(End { took, outcome: Outcome::Unknown { why } }),
            Some(End { took, outcome: Outcome::Overlapped }),
            None,
        ];
        let run = |(number, end)| {
            let tick = (number % 2 == 0).then(|| at(number));
            Run { number: number.unsigned_abs(), tick, started: at(number + 1), end }
        };
        Kept { last: Some(at(6)), runs: (0..).zip(ends).map(run).collect() }
    }

    #[test]
    fn state_reads_what_was_written() {
        let at = |lsn| Position { epoch: Epoch(3), lsn: Lsn(lsn) };
        let state = State {
            epoch: Epoch(3),
            term: 7,
            stamp_floor: Stamp(1 << 60),
            version_floor: 9,
            recorded: at(0x16B_3748),
            marks: [("p".to_owned(), at(5))].into(),
            matched: [(
                "p".to_owned(),
                Matched {
                    definition: Fingerprint([7; 16]),
                    generation: 12,
                    seen: Seen {
                        catalogue: "c".into(),
                        growth: "g".into(),
                        membership: "5 6,none".into(),
                    },
                },
            )]
            .into(),
            publishing: [TableId(5), TableId(6)].into(),
            starts: vec![Start { floor: Stamp(5), recorded: at(6) }],
            early: vec![(Xid(5), Lsn(6)), (Xid(u32::MAX), Lsn(u64::MAX))],
            origin: Some(Origin {
                system_identifier: "7".into(),
                timeline: 1,
                slot: "kck".into(),
                database: "shop".into(),
            }),
            ticks: [("p".to_owned(), SourceTime(1_774_656_000_000_000))].into(),
            processes: [("nightly".to_owned(), ran())].into(),
        };
        let cells = [
            epoch(state.epoch, 1),
            term(state.term, 1),
            floors(state.stamp_floor, state.version_floor, 1),
            recorded(state.recorded, 1),
            mark("p", at(5)),
            tick("p", state.ticks.get("p").copied(), 1),
            tick("gone", None, 1),
            process("nightly", Some(&ran()), 1),
            process("gone", None, 1),
            matched("p", state.matched.get("p").cloned(), 1),
            matched("gone", None, 1),
            early_cell(&state.early, 1),
            publishing(&state.publishing, 1),
            starts(&state.starts, 1),
            origin(state.origin.as_ref().unwrap(), 1),
        ];
        assert_eq!(State::decode(&cells).unwrap(), state);
    }

    #[test]
    fn a_late_entry_is_judged_by_the_first_start_after_it() {
        let at = |epoch, lsn| Position { epoch: Epoch(epoch), lsn: Lsn(lsn) };
        let mut state = State { stamp_floor: Stamp(10), recorded: at(1, 100), ..State::default() };
        state.starts = state.begun();
        (state.stamp_floor, state.recorded) = (Stamp(20), at(1, 200));
        let starts = state.begun();
        assert_eq!(firm_up_to(&starts, Stamp(7)), Lsn(100), "it was on its way at both starts");
        assert_eq!(firm_up_to(&starts, Stamp(15)), Lsn(200));
        (state.stamp_floor, state.recorded) = (Stamp(30), at(2, 50));
        assert_eq!(firm_up_to(&state.begun(), Stamp(7)), Lsn(50), "another history");
    }

    #[test]
    fn of_many_starts_the_oldest_count_as_one() {
        let mut state = State::default();
        for number in 1..=100 {
            state.starts = state.begun();
            state.stamp_floor = Stamp(number * 10);
            state.recorded = Position { epoch: Epoch(1), lsn: Lsn(number * 100) };
        }
        let starts = state.begun();
        assert_eq!(starts.len(), STARTS_KEPT);
        assert_eq!(firm_up_to(&starts, Stamp(500)), Lsn(100));
        assert_eq!(firm_up_to(&starts, Stamp(1000)), Lsn(10_000));
    }

    #[test]
    fn a_cell_that_makes_no_sense_is_named() {
        let cell = StateCell { name: "recorded".into(), value: Some("x".into()), stamp: 1 };
        assert!(State::decode(&[cell]).unwrap_err().to_string().contains("recorded"));
    }
}
