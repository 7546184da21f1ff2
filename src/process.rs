//! Process: what a run of a process was, and what it came to.

use std::time::Duration;

use crate::change::SourceTime;

/// One run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Counted by process, from 1.
    pub number: u64,
    /// The tick that it is of; `None` where somebody asked for it.
    pub tick: Option<SourceTime>,
    /// By the source's clock.
    pub started: SourceTime,
    /// How it ended; `None` while it runs.
    pub end: Option<End>,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// How long it took, where somebody saw that.
    pub took: Option<Duration>,
    /// How.
    pub outcome: Outcome,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it does.
    Done,
    /// It was refused, and what it did is undone as far as it had not committed it.
    Failed {
        /// The SQLSTATE; empty where it was not the source that refused.
        code: String,
        /// Why, as far as that holds no row's values.
        why: String,
    },
    /// It took longer than it may.
    TimedOut,
    /// kck ended while it ran: some of it may have been done.
    Interrupted,
    /// The connection was lost: nobody knows what became of it.
    Unknown {
        /// What was lost.
        why: String,
    },
    /// An earlier run of it still went on at the source, so that this one did nothing.
    Overlapped,
}

impl Outcome {
    /// Nobody has to look.
    #[must_use]
    pub fn is_well(&self) -> bool {
        *self == Self::Done
    }

    /// As people and programs read it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed { .. } => "failed",
            Self::TimedOut => "timed_out",
            Self::Interrupted => "interrupted",
            Self::Unknown { .. } => "unknown",
            Self::Overlapped => "overlapped",
        }
    }

    /// Its SQLSTATE, if it has one.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Failed { code, .. } => code,
            _ => "",
        }
    }

    /// Why, if that is known.
    #[must_use]
    pub fn why(&self) -> &str {
        match self {
            Self::Failed { why, .. } | Self::Unknown { why } => why,
            _ => "",
        }
    }

    /// From its name and what is said of it.
    #[must_use]
    pub fn named(name: &str, code: &str, why: &str) -> Option<Self> {
        Some(match name {
            "done" => Self::Done,
            "failed" => Self::Failed { code: code.to_owned(), why: why.to_owned() },
            "timed_out" => Self::TimedOut,
            "interrupted" => Self::Interrupted,
            "unknown" => Self::Unknown { why: why.to_owned() },
            "overlapped" => Self::Overlapped,
            _ => return None,
        })
    }
}

/// What is remembered of a process over a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// Ticks up to here were run, or are not made up for.
    pub last: Option<SourceTime>,
    /// Its last runs, the oldest first.
    pub runs: Vec<Run>,
}

/// What is worth noticing of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Its file was taken up.
    Loaded,
    /// Its file does not load as it is now: it runs as it was.
    Kept {
        /// Why, for people.
        why: String,
    },
    /// It does not run.
    Broken {
        /// Why, for people.
        why: String,
    },
    /// Its file is gone.
    Removed,
    /// A run began.
    Began {
        /// Its number.
        run: u64,
    },
    /// A run ended.
    Ended {
        /// Its number.
        run: u64,
        /// How.
        outcome: Outcome,
    },
}
