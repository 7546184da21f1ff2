//! Process: a file's statements, with when they run → what is carried out.

use std::{ops::Range, path::Path, sync::Arc, time::Duration};

use super::{Draft, Fault, Means, Outside, Policy, Recipe, Schedule, policy, recipe, script};
use crate::description::Question;

/// How long a run may take, where nothing else is said.
const WITHIN: Duration = Duration::from_secs(600);
/// How long a file may let it.
const WITHIN_MOST: Duration = Duration::from_secs(7 * 86_400);

/// A process: checked, as far as its file tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The file it came from.
    pub draft: Draft,
    /// A run is given up after this.
    pub timeout: Duration,
    /// What is carried out.
    pub work: Work,
}

/// What a process does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Statements, sent to the source as one text: one transaction, unless it is a single one that makes its own.
    Sql {
        /// As they stand in the file.
        text: Arc<str>,
        /// Postgres can be asked of it before it is run.
        question: bool,
    },
    /// A program does it, or an address that is asked by POST.
    Outside(Means),
}

impl Process {
    /// The file's stem.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.draft.name
    }

    /// When it runs; `None` where it only runs when asked.
    #[must_use]
    pub fn schedule(&self) -> Option<&Schedule> {
        self.draft.policy.schedules.first()
    }
}

impl From<Draft> for Process {
    fn from(draft: Draft) -> Self {
        let work = match draft.recipe.outside() {
            Some(outside) => Work::Outside(outside.means.clone()),
            None => {
                let text: Arc<str> = draft.question.pieces.concat().into();
                let question = script::is_one_question(&text);
                Work::Sql { text, question }
            }
        };
        Self { timeout: draft.policy.timeout.unwrap_or(WITHIN), work, draft }
    }
}

/// A process's place among all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessSlot {
    /// It can be run.
    Ready {
        /// As it runs.
        process: Arc<Process>,
        /// What is wrong with its file as it is now; empty where it runs as its file says.
        faults: Vec<Fault>,
    },
    /// It cannot, and says why.
    Broken {
        /// Why.
        faults: Vec<Fault>,
    },
}

impl ProcessSlot {
    /// As it runs.
    #[must_use]
    pub fn process(&self) -> Option<&Arc<Process>> {
        match self {
            Self::Ready { process, .. } => Some(process),
            Self::Broken { .. } => None,
        }
    }

    /// What is wrong with it, or with its file as it is now.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        match self {
            Self::Ready { faults, .. } | Self::Broken { faults } => faults,
        }
    }

    /// What takes its place when its file says this: a file that does not load leaves the process as it was.
    #[must_use]
    pub fn after(before: Option<&Self>, said: Result<Draft, Vec<Fault>>) -> Self {
        match (said, before) {
            (Ok(draft), _) => {
                Self::Ready { process: Arc::new(Process::from(draft)), faults: Vec::new() }
            }
            (Err(faults), Some(Self::Ready { process, .. })) => {
                Self::Ready { process: Arc::clone(process), faults }
            }
            (Err(faults), _) => Self::Broken { faults },
        }
    }
}

/// What the file of a process says.
///
/// # Errors
/// Every fault found.
pub(super) fn draft(
    name: &str,
    file: &Path,
    text: String,
    header: Range<usize>,
    start: usize,
) -> Result<Draft, Vec<Fault>> {
    let policy = policy::read_process(file, &text, header.clone());
    let sql = script::read(file, &text, start);
    let (said, sql) = match (policy, sql) {
        (Ok(header), Ok(sql)) => (header, sql),
        (header, sql) => {
            let mut faults = header.err().unwrap_or_default();
            faults.extend(sql.err());
            return Err(faults);
        }
    };
    within(file, &text, header.start, &said.policy)?;
    let offset = text.get(start..).and_then(|rest| rest.find(&sql)).map_or(start, |at| start + at);
    let question = Question {
        holes: Vec::new(),
        parameters: Vec::new(),
        pieces: vec![sql],
        mentions: None,
        offset,
        parts: Vec::new(),
    };
    let (name, file) = (name.to_owned(), file.to_owned());
    Ok(Draft {
        name,
        file,
        policy: said.policy,
        question,
        text,
        calls: Vec::new(),
        recipe: Recipe::Sql,
    })
}

/// What the TOML file of a process says.
///
/// # Errors
/// Every fault found.
pub(super) fn of_toml(name: &str, file: &Path, text: String) -> Result<Draft, Vec<Fault>> {
    let (means, policy) = recipe::of_process(file, &text)?;
    within(file, &text, 0, &policy)?;
    let timeout = policy.timeout.unwrap_or(WITHIN);
    let outside = Outside { means, timeout, depends: Vec::new(), hidden: 0, made_of: Vec::new() };
    Ok(Draft {
        name: name.to_owned(),
        file: file.to_owned(),
        policy,
        question: recipe::nothing_of(Vec::new()),
        text,
        calls: Vec::new(),
        recipe: Recipe::Outside(Box::new(outside)),
    })
}

fn within(file: &Path, text: &str, at: usize, policy: &Policy) -> Result<(), Vec<Fault>> {
    if policy.timeout.is_some_and(|timeout| timeout > WITHIN_MOST) {
        let hint = "a run takes seven days at most";
        return Err(vec![Fault::at(file, text, at, "timeout is too long", hint)]);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::product::{Kind, file};

    /// A process of this text.
    pub(crate) fn process(text: &str) -> Process {
        file::draft_of(Kind::Process, "p", Path::new("p.sql"), text.to_owned()).unwrap().into()
    }

    fn fault(text: &str) -> String {
        let draft = file::draft_of(Kind::Process, "p", Path::new("p.sql"), text.to_owned());
        draft.unwrap_err()[0].to_string()
    }

    #[test]
    fn a_header_says_when() {
        let every = process("/* kck\nevery = \"30s\"\ntimeout = \"5s\"\n*/\ndelete from t");
        assert_eq!(every.schedule().unwrap().to_string(), "every 30s");
        assert_eq!(every.timeout, Duration::from_secs(5));
        let cron = process("/* kck\ncron = \"0 6 * * * Europe/Oslo\"\n*/\nselect 1; select 2");
        assert_eq!(cron.schedule().unwrap().to_string(), "cron 0 6 * * * Europe/Oslo");
        assert!(
            matches!(&cron.work, Work::Sql { text, question: false } if &**text == "select 1; select 2")
        );
        let plain = process("vacuum");
        assert_eq!((plain.schedule(), plain.timeout), (None, WITHIN));
    }

    #[test]
    fn what_is_wrong_with_a_header_is_said() {
        for (header, want) in [
            (
                "every = \"30s\"\ncron = \"0 6 * * *\"",
                "p.sql:2:1: it has every and cron\n  hint: say one of them",
            ),
            (
                "every = \"30\"",
                "p.sql:2:9: every cannot be '30': it names no duration\n  hint: write a duration of at least one second, like \"30s\" or \"15m\"",
            ),
            ("cron = \"0 6\"", "p.sql:2:8: cron cannot be '0 6': it has 2 fields"),
            (
                "refresh = []",
                "p.sql:2:1: refresh is a setting of products\n  hint: a process takes description, every, cron, timeout",
            ),
            ("evry = \"1s\"", "p.sql:2:1: unknown setting 'evry'\n  hint: did you mean `every`?"),
            ("timeout = \"8d\"", "p.sql:1:7: timeout is too long"),
        ] {
            let fault = fault(&format!("/* kck\n{header}\n*/\nselect 1"));
            assert!(fault.starts_with(want), "{fault}");
        }
    }

    #[test]
    fn a_broken_edit_keeps_what_runs() {
        let running =
            ProcessSlot::Ready { process: Arc::new(process("select 1")), faults: Vec::new() };
        let faults = vec![Fault::at(Path::new("p.sql"), "", 0, "what", "hint")];
        let kept = ProcessSlot::after(Some(&running), Err(faults.clone()));
        assert!(kept.process().is_some() && kept.faults().len() == 1);
        assert!(ProcessSlot::after(None, Err(faults)).process().is_none());
    }

    #[test]
    fn who_does_it_is_read() {
        let read = |text: &str| of_toml("p", Path::new("p.toml"), text.to_owned());
        let exec = "kind = \"exec\"\ncommand = [\"python3\", \"-m\", \"kck_worker\", \"shop\"]\n";
        let process = Process::from(read(&format!("{exec}cron = \"0 6 * * *\"")).unwrap());
        assert!(matches!(&process.work, Work::Outside(Means::Exec { workers: 1, .. })));
        assert_eq!(process.schedule().unwrap().to_string(), "cron 0 6 * * *");
        let http = "kind = \"http\"\nurl = \"https://example.com/run\"\nevery = \"1h\"";
        let process = Process::from(read(http).unwrap());
        assert!(matches!(&process.work, Work::Outside(Means::Http { .. })));
        for (text, want) in [
            ("command = [\"x\"]", "p.toml:1:1: kind is missing"),
            ("kind = \"sql\"", "p.toml:1:1: there is no kind 'sql'"),
            (
                "kind = \"http\"\nurl = \"https://example.com/{x}\"",
                "p.toml:2:7: there is no parameter 'x' for url",
            ),
            (
                "kind = \"exec\"\ncommand = [\"x\"]\nrefresh = []",
                "p.toml:3:1: refresh is a setting of products",
            ),
            (
                "kind = \"exec\"\ncommand = [\"x\"]\ntimeout = \"8d\"",
                "p.toml:1:1: timeout is too long",
            ),
        ] {
            let fault = read(text).unwrap_err()[0].to_string();
            assert!(fault.starts_with(want), "{fault}");
        }
    }
}
