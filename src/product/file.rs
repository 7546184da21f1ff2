//! File: the folder `products/` → drafts, and every fault in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    Access, Draft, Fault, Kind, Recipe,
    files::{Drafts, Files},
    parse, policy, process, recipe,
};
use crate::description::{ParameterSpec, Question};

/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// The most products.
const FILES_MAX: usize = 10_000;
/// The deepest folder.
const DEPTH_MAX: usize = 32;
/// The longest name: it is a part of every key, and of names in metrics.
const NAME_BYTES_MAX: usize = 63;

/// What a folder of products holds.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Sound files.
    pub drafts: Vec<Draft>,
    /// Name → what is wrong with the file of that name.
    pub broken: BTreeMap<String, Vec<Fault>>,
    /// Faults that belong to no name.
    pub faults: Vec<Fault>,
}

/// Reads every product below `folder`; a folder that is not there is an empty one.
#[must_use]
pub fn load(folder: &Path) -> Loaded {
    Files::read(folder).loaded()
}

/// Reads every update below `folder`, likewise.
#[must_use]
pub fn load_updates(folder: &Path) -> Loaded {
    Drafts::read(folder, Kind::Update).loaded()
}

/// Reads every process below `folder`, likewise.
#[must_use]
pub fn load_processes(folder: &Path) -> Loaded {
    Drafts::read(folder, Kind::Process).loaded()
}

/// What a name's files say: there may only be one.
pub(super) fn said(kind: Kind, name: &str, files: &[&Path]) -> Result<Draft, Vec<Fault>> {
    match files {
        [file] => read_draft(kind, name, file),
        _ => Err(files.iter().map(|file| same_name(name, file, files)).collect()),
    }
}

fn read_draft(kind: Kind, name: &str, file: &Path) -> Result<Draft, Vec<Fault>> {
    let toml = file.extension().is_some_and(|extension| extension == "toml");
    if toml && kind == Kind::Update {
        let hint = "write the statement in a file NAME.sql";
        return Err(vec![whole(file, "an update is an SQL file", hint)]);
    }
    let text = read_text(kind, file).map_err(|fault| vec![fault])?;
    if toml {
        return match kind {
            Kind::Process => process::of_toml(name, file, text),
            Kind::Product | Kind::Update => recipe::read(name, file, text),
        };
    }
    draft_of(kind, name, file, text)
}

/// What a product's text says.
///
/// # Errors
/// Every fault found.
pub fn draft(name: &str, file: &Path, text: String) -> Result<Draft, Vec<Fault>> {
    draft_of(Kind::Product, name, file, text)
}

/// What a file's text says.
///
/// # Errors
/// Every fault found.
pub fn draft_of(kind: Kind, name: &str, file: &Path, text: String) -> Result<Draft, Vec<Fault>> {
    let (header, start) = header(file, &text).map_err(|fault| vec![fault])?;
    if kind == Kind::Process {
        return super::process::draft(name, file, text, header, start);
    }
    let (header, statement) = match kind {
        Kind::Product => (policy::read(file, &text, header), parse::read(file, &text, start)),
        Kind::Update | Kind::Process => {
            (policy::read_update(file, &text, header), parse::read_update(file, &text, start))
        }
    };
    let (header, statement) = match (header, statement) {
        (Ok(header), Ok(statement)) => (header, statement),
        (header, statement) => {
            let mut faults = header.err().unwrap_or_default();
            faults.extend(statement.err());
            return Err(faults);
        }
    };
    let parameters = parameters(file, &text, header.parameters, &statement.names)?;
    bound(file, &text, &header.policy.access, &parameters)?;
    let place = |hole: &usize| {
        let (name, _) = statement.names.get(*hole)?;
        parameters.iter().position(|parameter| parameter.name == *name)
    };
    let holes = statement.holes.iter().filter_map(place).collect();
    let question = Question {
        holes,
        parameters,
        pieces: statement.pieces,
        mentions: statement.mentions,
        offset: statement.offset,
        parts: Vec::new(),
    };
    Ok(Draft {
        name: name.to_owned(),
        file: file.to_owned(),
        policy: header.policy,
        question,
        recipe: Recipe::Sql,
        text,
        calls: statement.calls,
    })
}

/// The parameters in key order: that of the header, else of first use.
fn parameters(
    file: &Path,
    text: &str,
    said: Option<Vec<ParameterSpec>>,
    used: &[(String, usize)],
) -> Result<Vec<ParameterSpec>, Vec<Fault>> {
    let unsaid = |(name, offset): &(String, usize)| ParameterSpec {
        name: name.clone(),
        type_name: None,
        default: None,
        offset: *offset,
    };
    let Some(said) = said else { return Ok(used.iter().map(unsaid).collect()) };
    let mut faults = Vec::new();
    for (name, offset) in used {
        if !said.iter().any(|spec| spec.name == *name) {
            let what = format!("parameter '{name}' is missing in params");
            faults.push(Fault::at(
                file,
                text,
                *offset,
                what,
                "params names every parameter, in the order of the key",
            ));
        }
    }
    for spec in &said {
        if !used.iter().any(|(name, _)| *name == spec.name) {
            let what = format!("the statement has no parameter '{}'", spec.name);
            faults.push(Fault::at(
                file,
                text,
                spec.offset,
                what,
                "params names only what the statement uses",
            ));
        }
    }
    faults.extend(gaps(file, text, &said));
    if faults.is_empty() { Ok(said) } else { Err(faults) }
}

/// Parameters without a default behind one that has one.
pub(super) fn gaps(file: &Path, text: &str, said: &[ParameterSpec]) -> Vec<Fault> {
    let first_default = said.iter().position(|spec| spec.default.is_some());
    let behind = said.iter().skip(first_default.unwrap_or(said.len()));
    let gap = |spec: &ParameterSpec| {
        let what = format!("parameter '{}' has no default, but one before it has", spec.name);
        let hint = "only the last parameters can be left out of a key";
        Fault::at(file, text, spec.offset, what, hint)
    };
    behind.filter(|spec| spec.default.is_none()).map(gap).collect()
}

/// Claims are bound to parameters that there are.
pub(super) fn bound(
    file: &Path,
    text: &str,
    access: &Access,
    parameters: &[ParameterSpec],
) -> Result<(), Vec<Fault>> {
    let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    let hint = match names.as_slice() {
        [] => "it has no parameters; leave `claims` out".to_owned(),
        names => format!("its parameters: {}", names.join(", ")),
    };
    let unknown = access.claims.iter().filter(|binding| !names.contains(&&*binding.parameter));
    let faults: Vec<Fault> = unknown
        .map(|binding| {
            let what = format!("the statement has no parameter '{}'", binding.parameter);
            Fault::at(file, text, binding.offset, what, &hint)
        })
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Where the header's TOML lies, and where the statement begins.
fn header(file: &Path, text: &str) -> Result<(Range<usize>, usize), Fault> {
    let body = text.strip_prefix('\u{FEFF}').unwrap_or(text).trim_start();
    let start = text.len() - body.len();
    let inside =
        body.strip_prefix("/*").map(str::trim_start).and_then(|rest| rest.strip_prefix("kck"));
    let Some(inside) =
        inside.filter(|rest| rest.starts_with(char::is_whitespace) || rest.starts_with("*/"))
    else {
        return Ok((start..start, start));
    };
    let toml = text.len() - inside.len();
    let Some(length) = inside.find("*/") else {
        return Err(Fault::at(file, text, start, "the comment is not closed", "end it with */"));
    };
    if let Some(nested) = inside.get(..length).and_then(|inside| inside.find("/*")) {
        let hint = "Postgres nests comments; write the text without it";
        return Err(Fault::at(file, text, toml + nested, "the header opens another comment", hint));
    }
    Ok((toml..toml + length, toml + length + 2))
}

fn read_text(kind: Kind, file: &Path) -> Result<String, Fault> {
    let unreadable =
        |error: io::Error| whole(file, &format!("it cannot be read: {error}"), "check its rights");
    if fs::metadata(file).map_err(unreadable)?.len() > FILE_BYTES_MAX {
        return Err(whole(
            file,
            "it is too large",
            &format!("{} has at most {FILE_BYTES_MAX} bytes", kind.one()),
        ));
    }
    let bytes = fs::read(file).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        Fault::at(file, &text, good, "the text is not UTF-8", "save it as UTF-8")
    })?;
    match text.find('\0') {
        Some(nul) => {
            Err(Fault::at(file, &text, nul, "the text has a NUL character", "take it out"))
        }
        None => Ok(text),
    }
}

fn whole(file: &Path, what: &str, hint: &str) -> Fault {
    Fault::at(file, "", 0, what, hint)
}

fn same_name(name: &str, file: &Path, files: &[&Path]) -> Fault {
    let others: Vec<_> = files
        .iter()
        .filter(|other| **other != file)
        .map(|other| other.display().to_string())
        .collect();
    whole(
        file,
        &format!("'{name}' is also the name of {}", others.join(", ")),
        "names are unique; rename one",
    )
}

/// When a file was last written, and how long it is.
pub(super) type Stamp = (Option<SystemTime>, u64);

/// What lies below a folder, unread.
pub(super) struct Found {
    kind: Kind,
    /// Name → files.
    pub(super) files: BTreeMap<String, Vec<(PathBuf, Stamp)>>,
    pub(super) faults: Vec<Fault>,
    /// Some folder could not be read: what is not found may be there.
    pub(super) incomplete: bool,
    /// Real paths of the folders entered: a symbolic link may lead back.
    entered: BTreeSet<PathBuf>,
    count: usize,
}

impl Found {
    /// Everything below `folder`.
    pub(super) fn below(folder: &Path, kind: Kind) -> Self {
        let mut found = Self {
            kind,
            files: BTreeMap::new(),
            faults: Vec::new(),
            incomplete: false,
            entered: BTreeSet::new(),
            count: 0,
        };
        found.folder(folder, 0);
        found
    }

    fn folder(&mut self, folder: &Path, depth: usize) {
        let real = match fs::canonicalize(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && depth == 0 => return,
            other => other,
        };
        let entries = match real.and_then(|real| {
            if !self.entered.insert(real) {
                return Ok(Vec::new());
            }
            fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()
        }) {
            Ok(entries) => entries,
            Err(error) => {
                self.incomplete = true;
                self.faults.push(whole(
                    folder,
                    &format!("it cannot be read: {error}"),
                    "check its rights",
                ));
                return;
            }
        };
        if depth > DEPTH_MAX {
            self.faults.push(whole(
                folder,
                "folders lie too deep",
                &format!("at most {DEPTH_MAX}"),
            ));
            return;
        }
        let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let hidden =
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            match fs::metadata(&path) {
                _ if hidden => {}
                Ok(metadata) if metadata.is_dir() => self.folder(&path, depth + 1),
                Ok(metadata) if metadata.is_file() => {
                    self.file(path, (metadata.modified().ok(), metadata.len()));
                }
                Ok(_) => {}
                Err(error) => self.faults.push(whole(
                    &path,
                    &format!("it cannot be read: {error}"),
                    "check its rights",
                )),
            }
        }
    }

    fn file(&mut self, file: PathBuf, stamp: Stamp) {
        let extension = file.extension().map(|extension| extension.to_string_lossy().into_owned());
        if !extension.is_some_and(|extension| matches!(extension.as_str(), "sql" | "toml")) {
            return;
        }
        self.count += 1;
        if self.count > FILES_MAX {
            if self.count == FILES_MAX + 1 {
                self.faults.push(whole(
                    &file,
                    &format!("there are too many {}", self.kind.many()),
                    &format!("at most {FILES_MAX}"),
                ));
            }
            return;
        }
        let name =
            file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        if is_name(&name) {
            self.files.entry(name).or_default().push((file, stamp));
        } else {
            let hint = format!(
                "a name is made of a-z, 0-9 and _, begins with a letter, and has at most {NAME_BYTES_MAX} characters"
            );
            let what = format!("{} cannot be named '{name}'", self.kind.one());
            self.faults.push(whole(&file, &what, &hint));
        }
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A folder that goes when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new(files: &[(&str, &str)]) -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let name = format!(
                "kck-file-{}-{}",
                std::process::id(),
                COUNT.fetch_add(1, Ordering::Relaxed)
            );
            let folder = Self(std::env::temp_dir().join(name));
            for (file, text) in files {
                let path = folder.0.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            folder
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn one(text: &str) -> Result<Draft, Vec<Fault>> {
        draft("p", Path::new("p.sql"), text.to_owned())
    }

    fn fault(text: &str) -> String {
        one(text).unwrap_err()[0].to_string()
    }

    #[test]
    fn a_folder_is_read_at_any_depth() {
        let folder = Folder::new(&[
            ("a.sql", "select 1"),
            ("deep/er/b.sql", "/* kck\nstale = \"wait\" */ select :x::int"),
            ("README.md", "no product"),
            (".c.sql.swp", ""),
            (".d.sql", "half written"),
            ("Bad.sql", "select 1"),
            ("e.toml", "kind = \"exec\""),
            ("h.toml", "kind = \"http\"\nurl = \"https://api.example.com/now\"\nexpire = \"1m\""),
            ("f.sql", "selec"),
            ("one/g.sql", "select 1"),
            ("two/g.sql", "select 2"),
        ]);
        std::os::unix::fs::symlink(&folder.0, folder.0.join("deep/loop")).unwrap();
        let loaded = load(&folder.0);
        let names: Vec<_> = loaded.drafts.iter().map(|draft| draft.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "h"]);
        assert_eq!(Vec::from_iter(loaded.broken.keys()), ["e", "f", "g"]);
        assert!(loaded.broken["e"][0].message.contains("command is missing"));
        assert_eq!(loaded.broken["g"].len(), 2);
        assert!(loaded.broken["g"][0].message.contains("two/g.sql"));
        assert_eq!(loaded.faults.len(), 1);
        assert!(loaded.faults[0].message.contains("'Bad'"));
    }

    #[test]
    fn a_claim_is_bound_to_a_parameter_that_there_is() {
        let bound = |name: &str| {
            format!("/* kck\n[auth]\nclaims = {{ {name} = \"sub\" }} */\nselect :id::int")
        };
        assert_eq!(one(&bound("id")).unwrap().policy.access.claims[0].claim, "sub");
        assert_eq!(
            fault(&bound("idd")),
            "p.sql:3:12: the statement has no parameter 'idd'\n  hint: its parameters: id"
        );
    }

    #[test]
    fn updates_are_read_from_a_folder_of_their_own() {
        let folder = Folder::new(&[
            ("a.sql", "/* kck\ndescription = \"d\" */ delete from t where id = :id"),
            ("deep/b.sql", "select 1"),
            ("c.toml", ""),
            ("Bad.sql", "delete from t"),
            ("d.sql", "/* kck\nstale = \"wait\" */ delete from t"),
        ]);
        let loaded = load_updates(&folder.0);
        assert_eq!(loaded.drafts.len(), 1);
        assert_eq!(loaded.drafts[0].policy.description.as_deref(), Some("d"));
        assert_eq!(Vec::from_iter(loaded.broken.keys()), ["b", "c", "d"]);
        assert!(loaded.broken["b"][0].hint.contains("belong in products/"));
        assert!(loaded.broken["d"][0].message.contains("setting of products"));
        assert!(loaded.faults[0].message.contains("an update cannot be named 'Bad'"));
    }

    #[test]
    fn no_folder_is_an_empty_one() {
        let loaded = load(Path::new("/nonexistent/products"));
        assert!(loaded.drafts.is_empty() && loaded.faults.is_empty());
    }

    #[test]
    fn the_key_has_the_order_of_params() {
        let draft = one(
            "/* kck\nparams = { b = \"int\", a = { default = \"2\" } } */\nselect :a + :b * :a",
        )
        .unwrap();
        let names: Vec<_> =
            draft.question.parameters.iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(draft.question.sql(|i| format!("${}", i + 1)), "select $2 + $1 * $2");
    }

    #[test]
    fn params_name_exactly_what_is_used() {
        let missing = fault("/* kck\nparams = { a = \"int\" } */ select :a, :b");
        assert!(missing.starts_with("p.sql:2:38: parameter 'b' is missing in params"), "{missing}");
        let extra = fault("/* kck\nparams = { a = \"int\", c = \"int\" } */ select :a");
        assert!(extra.starts_with("p.sql:2:23: the statement has no parameter 'c'"), "{extra}");
        let gap =
            fault("/* kck\nparams = { a = { default = \"1\" }, b = \"int\" } */ select :a, :b");
        assert!(gap.contains("parameter 'b' has no default"), "{gap}");
    }

    #[test]
    fn a_header_is_one_comment() {
        assert!(
            fault("/* kck\nstale = \"wait\"\nselect 1")
                .starts_with("p.sql:1:1: the comment is not closed")
        );
        assert!(
            fault("/* kck\ndescription = \"/*\" */ select 1")
                .starts_with("p.sql:2:16: the header opens another")
        );
        assert!(one("/* kckoo */ select 1").is_ok());
        assert!(one("/*kck*/select 1").is_ok());
        assert!(one("\u{FEFF}/* kck stale = \"wait\" */ select 1").is_ok());
    }

    #[test]
    fn positions_lead_back_to_the_file() {
        let draft = one("/* kck */\nselect :name, 'æ', missing\nfrom t where :b = :name").unwrap();
        let write = |index: usize| format!("${}", index + 1);
        let sql = draft.question.sql(write);
        for word in ["select", "missing", "from", "where", "= "] {
            let character = sql[..sql.find(word).unwrap()].chars().count();
            assert_eq!(
                draft.question.offset_of(character, write),
                draft.text.find(word).unwrap(),
                "{word}"
            );
        }
        let at = sql[..sql.find("$2").unwrap()].chars().count();
        assert_eq!(draft.question.offset_of(at + 1, write), draft.text.find(":b").unwrap());
        let fault = draft.fault(draft.text.find("missing").unwrap(), "x", "y");
        assert_eq!((fault.line, fault.column), (2, 20));
    }

    #[test]
    fn unreadable_texts_are_faults() {
        let folder = Folder::new(&[("nul.sql", "select\0"), ("large.sql", &" ".repeat(300_000))]);
        fs::write(folder.0.join("latin.sql"), b"select 'a\n\xe6'").unwrap();
        let loaded = load(&folder.0);
        assert!(loaded.broken["nul"][0].message.contains("NUL"));
        assert!(loaded.broken["large"][0].message.contains("too large"));
        assert_eq!((loaded.broken["latin"][0].line, loaded.broken["latin"][0].column), (2, 1));
    }
}
