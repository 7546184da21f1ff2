//! Report: what became of each file → what people and programs read.

use std::{fmt, path::PathBuf};

use serde::Serialize;

use crate::product::Fault;

use super::shape::Database;

/// What became of everything.
#[derive(Debug)]
pub struct Report {
    /// In the order of their names.
    pub files: Vec<FileReport>,
    /// What is to be known of all.
    pub notes: Vec<String>,
}

/// What became of one file.
#[derive(Debug)]
pub struct FileReport {
    /// Which.
    pub file: PathBuf,
    /// What it is: `primer`, `updater`, `settings`; `file` where nobody can tell.
    pub what: &'static str,
    /// Below the target: path and text.
    pub writes: Vec<(PathBuf, String)>,
    /// What is another now than it was.
    pub notes: Vec<String>,
    /// What is to be done by hand, and why.
    pub by_hand: Vec<Fault>,
}

impl Report {
    /// Whether everything was taken over, and whole.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.files.iter().all(|file| file.by_hand.is_empty())
    }

    /// What is to be written.
    pub fn writes(&self) -> impl Iterator<Item = &(PathBuf, String)> {
        self.files.iter().flat_map(|file| &file.writes)
    }

    /// As programs read it. `written` says whether the files are there now.
    #[must_use]
    pub fn json(&self, written: bool) -> String {
        #[derive(Serialize)]
        struct View<'a> {
            success: bool,
            written: bool,
            files: Vec<FileView<'a>>,
            notes: &'a [String],
        }
        let files = self.files.iter().map(FileView::of).collect();
        let view = View { success: self.is_whole(), written, files, notes: &self.notes };
        serde_json::to_string_pretty(&view).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct FileView<'a> {
    file: String,
    what: &'a str,
    /// `imported`, `partly`, `not_imported`, `read`.
    outcome: &'static str,
    writes: Vec<String>,
    notes: &'a [String],
    by_hand: Vec<HandView<'a>>,
}

#[derive(Serialize)]
struct HandView<'a> {
    line: usize,
    column: usize,
    message: &'a str,
    hint: &'a str,
}

impl<'a> FileView<'a> {
    fn of(report: &'a FileReport) -> Self {
        let hand = |fault: &'a Fault| HandView {
            line: fault.line,
            column: fault.column,
            message: &fault.message,
            hint: &fault.hint,
        };
        Self {
            file: report.file.display().to_string(),
            what: report.what,
            outcome: report.outcome(),
            writes: report.writes.iter().map(|(path, _)| path.display().to_string()).collect(),
            notes: &report.notes,
            by_hand: report.by_hand.iter().map(hand).collect(),
        }
    }
}

impl FileReport {
    fn outcome(&self) -> &'static str {
        match (self.writes.is_empty(), self.by_hand.is_empty()) {
            (false, true) => "imported",
            (false, false) => "partly",
            (true, false) => "not_imported",
            (true, true) => "read",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            writeln!(f, "{file}")?;
        }
        if !self.notes.is_empty() {
            writeln!(f, "of all:")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  {note}"))
    }
}

impl fmt::Display for FileReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<String> =
            self.writes.iter().map(|(path, _)| path.display().to_string()).collect();
        let became = match self.outcome() {
            "imported" => format!("-> {}", paths.join(", ")),
            "partly" => format!("-> {}, with something left to do", paths.join(", ")),
            "not_imported" => "not imported".to_owned(),
            _ => "read".to_owned(),
        };
        write!(f, "{}: {became}", self.file.display())?;
        for note in &self.notes {
            write!(f, "\n  note: {note}")?;
        }
        for Fault { line, column, message, hint, .. } in &self.by_hand {
            write!(f, "\n  {line}:{column}: {message}\n    hint: {hint}")?;
        }
        Ok(())
    }
}

/// What is to be known of all files.
pub(super) fn general(
    files: &[FileReport],
    databases: &[Database],
    chosen: Option<&str>,
) -> Vec<String> {
    let mut notes = Vec::new();
    let wrote = |folder: &str| {
        files.iter().flat_map(|file| &file.writes).any(|(path, _)| path.starts_with(folder))
    };
    if let Some(chosen) = chosen {
        let known = databases.iter().find(|database| database.name == chosen);
        let url = match known {
            Some(known) if known.scheme.contains('+') => {
                let (_, driver) = known.scheme.split_once('+').unwrap_or_default();
                format!("its connection_url without `+{driver}`")
            }
            Some(_) => "its connection_url".to_owned(),
            None => "its address, which no settings in YAML tell,".to_owned(),
        };
        notes.push(format!(
            "the source is database '{chosen}': {url} is [source] url of kck.toml; then run `kck check`"
        ));
    }
    if wrote("products") {
        notes.push(
            "no rows is an empty answer, which is kept; the original answered an error".to_owned(),
        );
        notes.push("keys are one text a value, and parameters too many are refused".to_owned());
    }
    let expires = |text: &str| text.lines().any(|line| line.starts_with("expire = "));
    if files.iter().flat_map(|file| &file.writes).any(|(_, text)| expires(text)) {
        notes.push("expire is kept as it was, and seldom needed: answers follow changes, and prove it only without expire".to_owned());
    }
    let typed = |text: &str| {
        text.lines().any(|line| line.starts_with("params = ") && line.contains("\"bigint\""))
    };
    if files.iter().flat_map(|file| &file.writes).any(|(_, text)| typed(text)) {
        notes.push("an int is a bigint in params; where `kck check` knows no operator or function for one, write \"integer\" there".to_owned());
    }
    if wrote("updates") {
        notes.push("values of updates have the types of their columns; a field that comes twice is refused".to_owned());
    }
    notes
}
