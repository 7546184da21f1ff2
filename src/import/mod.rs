//! Import: the files of a KCK 0.6 project → files of kck, and a report of what became of each.
//!
//! Pure: who calls it reads the files and writes what comes out. Nothing is left out in silence: what is not taken
//! over is in the report with what to do, and so is whatever means something else now.
//!
//! Invariant: every text that comes out is one that kck loads, as far as that can be told without the source.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use crate::product::Fault;

mod make;
mod path;
mod report;
mod shape;
mod template;
#[cfg(test)]
mod tests;
mod yaml;

pub use report::{FileReport, Report};

use make::{Made, Of};
use shape::{Database, Primer, Said, Shape, Updater};
use yaml::{Node, Place, Value};

/// What a file is, as far as its place tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Below `kprimers/`.
    Primer,
    /// Below `kupdaters/`.
    Updater,
    /// Settings.
    Settings,
    /// Nobody knows: what it says tells.
    Any,
}

/// A file of the original.
#[derive(Debug, Clone)]
pub struct Source {
    /// As people know it.
    pub file: PathBuf,
    /// What it is.
    pub role: Role,
    /// What it says, or why it cannot be read.
    pub text: Result<String, String>,
}

/// What a file turned out to be.
enum Read {
    Primer(Primer),
    Updater(Updater),
    Settings,
}

/// A file and what is known of it so far.
struct Item {
    file: PathBuf,
    /// The original's name of it.
    original: String,
    read: Option<Read>,
    notes: Vec<String>,
    faults: Vec<Fault>,
}

/// Imports the files. `database` names the one of several that is kck's source.
///
/// # Errors
/// Where it is not said which database is meant.
pub fn import(sources: &[Source], database: Option<&str>) -> Result<Report, String> {
    let mut databases = Vec::new();
    let mut items: Vec<Item> = sources
        .iter()
        .filter(|source| !is_python(&source.file))
        .map(|source| item(source, &mut databases))
        .collect();
    let chosen = chosen(&items, &databases, database)?;
    for item in &mut items {
        elsewhere(item, &databases, chosen.as_deref());
    }
    let names = named(&mut items);
    let mut files: Vec<FileReport> = made(items, &names);
    files.extend(sources.iter().filter(|source| is_python(&source.file)).filter_map(python));
    files.sort_by(|one, other| one.file.cmp(&other.file));
    let notes = report::general(&files, &databases, chosen.as_deref());
    Ok(Report { files, notes })
}

fn is_python(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "py")
}

fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn item(source: &Source, databases: &mut Vec<Database>) -> Item {
    let file = source.file.clone();
    let mut item =
        Item { original: stem(&file), file, read: None, notes: Vec::new(), faults: Vec::new() };
    if item.file.extension().is_some_and(|extension| extension == "yaml") {
        item.notes.push("the original did not read it: it took files named .yml".to_owned());
    }
    let read = source.text.as_ref().map_err(|why| {
        let hint = "check its rights, and that it is a text in UTF-8";
        Place { line: 1, column: 1 }.fault(&source.file, why.clone(), hint)
    });
    let node = match read.and_then(|text| yaml::read(&source.file, text)) {
        Ok(node) => node,
        Err(fault) => {
            item.faults.push(fault);
            return item;
        }
    };
    let mut shape = Shape::new(&source.file);
    item.read = Some(match role(source.role, &node) {
        Role::Updater => Read::Updater(shape.updater(&node)),
        Role::Settings => {
            databases.append(&mut shape.settings(&node));
            Read::Settings
        }
        Role::Primer | Role::Any => Read::Primer(shape.primer(&node)),
    });
    item.faults.append(&mut shape.faults);
    item.notes.append(&mut shape.notes);
    item
}

/// Of a file that lies anywhere: settings name databases, and an updater has a map of templates.
fn role(role: Role, node: &Node) -> Role {
    if role != Role::Any {
        return role;
    }
    let get = |node: &Node, wanted: &str| {
        let entries = node.map().unwrap_or_default();
        entries.iter().find(|(name, _)| name.text == wanted).map(|(_, node)| node.clone())
    };
    let template = get(node, "query").and_then(|query| get(&query, "template"));
    if get(node, "databases").is_some() {
        Role::Settings
    } else if template.is_some_and(|template| matches!(template.value, Value::Map(_))) {
        Role::Updater
    } else {
        Role::Primer
    }
}

impl Item {
    /// The database that it asks.
    fn database(&self) -> Option<&Said> {
        let said = match self.read.as_ref()? {
            Read::Primer(primer) => &primer.database,
            Read::Updater(updater) => &updater.database,
            Read::Settings => return None,
        };
        (!said.text.is_empty()).then_some(said)
    }
}

/// The database that is kck's source.
fn chosen(
    items: &[Item],
    databases: &[Database],
    named: Option<&str>,
) -> Result<Option<String>, String> {
    let used: BTreeSet<&str> =
        items.iter().filter_map(Item::database).map(|said| said.text.as_str()).collect();
    let postgres = |name: &str| {
        let known = databases.iter().find(|database| database.name == name);
        known.is_none_or(Database::is_postgres)
    };
    if let Some(named) = named {
        let known = used.contains(named) || databases.iter().any(|one| one.name == named);
        let all: BTreeSet<&str> =
            used.into_iter().chain(databases.iter().map(|one| one.name.as_str())).collect();
        let all = all.into_iter().collect::<Vec<_>>().join(", ");
        return if known {
            Ok(Some(named.to_owned()))
        } else {
            Err(format!("there is no database '{named}'\n  hint: --database takes one of {all}"))
        };
    }
    let candidates: Vec<&str> = used.into_iter().filter(|name| postgres(name)).collect();
    match candidates.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some((*one).to_owned())),
        many => {
            let many = many.join(", ");
            Err(format!(
                "the files name several databases: {many}\n  hint: a kck has one source; say which it is with --database, and give each other one a kck of its own"
            ))
        }
    }
}

/// What asks another database than the source is not taken over.
fn elsewhere(item: &mut Item, databases: &[Database], chosen: Option<&str>) {
    let Some(Said { at, text }) = item.database().cloned() else { return };
    let known = databases.iter().find(|database| database.name == text);
    let fault = match known {
        Some(other) if !other.is_postgres() => {
            let what = format!("database '{text}' is not PostgreSQL but {}", other.scheme);
            let hint = "kck follows PostgreSQL only: copy the tables there, or make a product of kind exec or http";
            at.fault(&item.file, what, hint)
        }
        _ if chosen != Some(&*text) => {
            let what = format!("database '{text}' is not the source");
            let hint =
                "a kck has one source: import it with --database into the folder of another kck";
            at.fault(&item.file, what, hint)
        }
        None if !databases.is_empty() => {
            let what = format!("the settings have no database '{text}'");
            at.fault(&item.file, what, "add it to `databases`, or name one that is there")
        }
        _ => return,
    };
    item.faults.push(fault);
}

/// The name of the product that a primer of this name becomes.
#[must_use]
pub fn product_name(primer: &str) -> String {
    allowed(primer, "p")
}

/// A name that kck allows, as near to the original's as can be.
fn allowed(name: &str, prefix: &str) -> String {
    const BYTES_MAX: usize = 63;
    let lower = name.chars().flat_map(char::to_lowercase);
    let sign = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    let mut allowed: String = lower.map(sign).collect();
    if !allowed.starts_with(|c: char| c.is_ascii_lowercase()) {
        let joint = if allowed.starts_with('_') { "" } else { "_" };
        allowed = format!("{prefix}{joint}{allowed}");
    }
    allowed.truncate(BYTES_MAX);
    allowed
}

/// The names of all files, and a fault for those that come twice.
fn named(items: &mut [Item]) -> Vec<String> {
    let mut by_name: BTreeMap<(bool, String), Vec<usize>> = BTreeMap::new();
    let mut names = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let updater = matches!(item.read, Some(Read::Updater(_)));
        let name = allowed(&item.original, if updater { "u" } else { "p" });
        if !matches!(item.read, None | Some(Read::Settings)) {
            by_name.entry((updater, name.clone())).or_default().push(at);
        }
        names.push(name);
    }
    let files: Vec<PathBuf> = items.iter().map(|item| item.file.clone()).collect();
    for ((_, name), places) in by_name {
        for at in &places {
            let Some(item) = items.get_mut(*at) else { continue };
            if item.original != name {
                item.notes.push(format!(
                    "'{}' is named '{name}' here: keys and calls begin with that",
                    item.original
                ));
            }
            let others = places.iter().filter(|other| *other != at).filter_map(|at| files.get(*at));
            let others: Vec<String> = others.map(|file| file.display().to_string()).collect();
            if !others.is_empty() {
                let what = format!("'{name}' is also the name of {}", others.join(", "));
                let at = Place { line: 1, column: 1 };
                item.faults.push(at.fault(
                    &item.file,
                    what,
                    "rename one; the original took the last",
                ));
            }
        }
    }
    names
}

fn made(items: Vec<Item>, names: &[String]) -> Vec<FileReport> {
    let mut primers = make::Primers::new();
    for item in &items {
        if let Some(Read::Primer(primer)) = &item.read {
            let sound = item.faults.is_empty();
            let known = if sound { Ok(primer) } else { Err("is not taken over itself") };
            primers.insert(&item.original, known);
        }
    }
    let mut reports = Vec::new();
    for (item, name) in items.iter().zip(names) {
        let of = Of { file: &item.file, name };
        let (what, mut made) = match &item.read {
            _ if !item.faults.is_empty() => ("file", Made::default()),
            Some(Read::Primer(primer)) => ("primer", make::product(&of, primer, &primers)),
            Some(Read::Updater(updater)) => ("updater", make::updates(&of, updater)),
            Some(Read::Settings) => ("settings", Made::default()),
            None => ("file", Made::default()),
        };
        let mut by_hand = item.faults.clone();
        by_hand.append(&mut made.by_hand);
        let notes = item.notes.iter().cloned().chain(made.notes).collect();
        let (file, writes) = (item.file.clone(), made.files);
        reports.push(FileReport { file, what, writes, notes, by_hand });
    }
    collided(&mut reports);
    reports
}

/// Two files of kck of one name, which came from different names.
fn collided(reports: &mut [FileReport]) {
    let mut from: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for report in reports.iter() {
        for (path, _) in &report.writes {
            from.entry(path.clone()).or_default().push(report.file.clone());
        }
    }
    from.retain(|_, files| files.len() > 1);
    for report in reports.iter_mut() {
        let twice = report.writes.iter().find_map(|(path, _)| Some((path, from.get(path)?)));
        let Some((path, files)) = twice else { continue };
        let others = files.iter().filter(|file| **file != report.file);
        let others: Vec<String> = others.map(|file| file.display().to_string()).collect();
        let what = format!("{} would also come from {}", path.display(), others.join(", "));
        let at = Place { line: 1, column: 1 };
        report.by_hand.push(at.fault(&report.file, what, "rename one"));
        report.writes.clear();
    }
}

/// What Python does is done by Python: where it goes now.
fn python(source: &Source) -> Option<FileReport> {
    let name = stem(&source.file);
    let text = source.text.as_deref().unwrap_or_default();
    let place = |word: &str| text.lines().position(|line| line.contains(word)).map(|at| at + 1);
    let own = allowed(&name, "p");
    let (what, line, said, hint) = match source.role {
        _ if name == "__init__" => return None,
        Role::Primer => (
            "primer",
            place("class ").or(place("def ")),
            "it is Python",
            format!(
                "write products/{own}.toml of kind exec, whose program is Python with kck_worker"
            ),
        ),
        Role::Updater => (
            "updater",
            place("class "),
            "it is Python",
            format!("write the statement into updates/{own}.sql, or CALL a procedure there"),
        ),
        Role::Settings | Role::Any => (
            "settings",
            place("KCK"),
            "a settings module is not run",
            "put the address of its database into [source] url of kck.toml".to_owned(),
        ),
    };
    let at = |line: Option<usize>| Place { line: line.unwrap_or(1), column: 1 };
    let mut notes = Vec::new();
    let mut by_hand = Vec::new();
    if what == "settings" {
        notes.push(format!("{said}: {hint}"));
    } else {
        by_hand.push(at(line).fault(&source.file, said, hint));
    }
    if let Some(line) = place("processes").filter(|_| what == "primer") {
        let hint = format!("write processes/{own}.sql with `every` or `cron`");
        by_hand.push(at(Some(line)).fault(&source.file, "it has processes", hint));
    }
    let file = source.file.clone();
    Some(FileReport { file, what, writes: Vec::new(), notes, by_hand })
}
