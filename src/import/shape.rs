//! Shape: a file's tree → a primer, an updater or settings, with all that is wrong with it.
//!
//! What the original passed over in silence is said: a name that nobody knows was meant for something.

use std::path::Path;

use crate::product::Fault;

use super::yaml::{Name, Node, Place, Value};

/// What a file says that makes answers.
#[derive(Debug, Clone, Default)]
pub(super) struct Primer {
    pub(super) database: Said,
    pub(super) parameters: Vec<Parameter>,
    pub(super) expire_seconds: Option<i64>,
    /// Rows as objects, else as arrays.
    pub(super) dicts: bool,
    pub(super) template: Said,
    pub(super) jsonpath: Option<Said>,
    pub(super) after_primes: Vec<String>,
    pub(super) after_updates: Vec<String>,
    pub(super) domain_key: Option<Said>,
}

/// What a file says that writes.
#[derive(Debug, Clone, Default)]
pub(super) struct Updater {
    pub(super) database: Said,
    pub(super) parameters: Vec<Parameter>,
    pub(super) insert: Option<Said>,
    pub(super) update: Option<Said>,
}

/// A text and where it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) at: Place,
    pub(super) text: String,
}

/// One of `parameters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) at: Place,
    pub(super) name: String,
    pub(super) form: Form,
    pub(super) primary_key: bool,
}

/// How the original read a parameter's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As it is.
    Text,
    Int,
    Float,
}

/// One of `databases`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Database {
    pub(super) name: String,
    /// Before `://`: `postgresql+psycopg2`. The rest may hold a password.
    pub(super) scheme: String,
}

/// Reads trees of one file.
pub(super) struct Shape<'a> {
    file: &'a Path,
    /// Why it is not taken over.
    pub(super) faults: Vec<Fault>,
    /// What is left out, and harms nothing.
    pub(super) notes: Vec<String>,
}

type Entries<'n> = &'n [(Name, Node)];

impl<'a> Shape<'a> {
    pub(super) fn new(file: &'a Path) -> Self {
        Self { file, faults: Vec::new(), notes: Vec::new() }
    }

    fn fault(&mut self, at: Place, what: impl Into<String>, hint: impl Into<String>) {
        self.faults.push(at.fault(self.file, what, hint));
    }

    fn wrong(&mut self, name: &str, node: &Node, wanted: &str) {
        let what = format!("{name} is {}", node.kind());
        self.fault(node.at, what, format!("it takes {wanted}"));
    }

    fn unknown(&mut self, inside: &str, name: &Name) {
        let Name { at, text } = name;
        let hint = match text.as_str() {
            "augment_functions" => "the original took it and did nothing with it",
            "processes" => "a process of kck is a file processes/NAME.sql; write it by hand",
            _ => "the original did nothing with it",
        };
        let place = if inside.is_empty() { text.clone() } else { format!("{inside}.{text}") };
        self.notes.push(format!("{place} (line {}) is left out: {hint}", at.line));
    }

    fn said(&mut self, name: &str, node: &Node) -> Option<Said> {
        let said = node.text().map(|text| Said { at: node.at, text: text.to_owned() });
        if said.is_none() {
            self.wrong(name, node, "a text");
        }
        said
    }

    /// The entries of a map; none where it is something else, which is said.
    fn entries<'n>(&mut self, name: &str, node: &'n Node) -> Entries<'n> {
        if node.map().is_none() {
            self.wrong(name, node, "a map of settings");
        }
        node.map().unwrap_or_default()
    }

    fn missing(&mut self, root: &Node, name: &str, hint: &str) {
        self.fault(root.at, format!("{name} is missing"), hint);
    }

    pub(super) fn primer(&mut self, root: &Node) -> Primer {
        let mut primer = Primer::default();
        for (name, node) in self.entries("a primer's file", root) {
            match name.text.as_str() {
                "database" => primer.database = self.said("database", node).unwrap_or_default(),
                "parameters" => primer.parameters = self.parameters(node),
                "expire_seconds" => primer.expire_seconds = self.number("expire_seconds", node),
                "query" => self.query(&mut primer, node),
                "refresh" => self.refresh(&mut primer, node),
                _ => self.unknown("", name),
            }
        }
        self.needs(root, &primer.database);
        if primer.template.text.trim().is_empty() && self.faults.is_empty() {
            self.missing(root, "query.template", "write the SQL there");
        }
        primer
    }

    fn needs(&mut self, root: &Node, database: &Said) {
        if database.text.is_empty() && self.faults.is_empty() {
            self.missing(root, "database", "name one of the settings' `databases`");
        }
    }

    fn number(&mut self, name: &str, node: &Node) -> Option<i64> {
        if node.is_nothing() {
            return None;
        }
        let number = node.number();
        if number.is_none() {
            let what = match node.text() {
                Some(text) => format!("{name} cannot be '{text}'"),
                None => format!("{name} is {}", node.kind()),
            };
            self.fault(node.at, what, "it takes a whole number of seconds");
        }
        number
    }

    fn query(&mut self, primer: &mut Primer, node: &Node) {
        for (name, node) in self.entries("query", node) {
            match name.text.as_str() {
                "type" => match node.text() {
                    Some("rows") => primer.dicts = false,
                    Some("dicts") => primer.dicts = true,
                    Some(other) => {
                        let what = format!("query.type cannot be '{other}'");
                        self.fault(node.at, what, "it takes rows or dicts");
                    }
                    None => self.wrong("query.type", node, "rows or dicts"),
                },
                "template" if matches!(node.value, Value::Map(_)) => {
                    let hint =
                        "a primer has one; a file with insert and update belongs below kupdaters/";
                    self.fault(node.at, "query.template is a map", hint);
                }
                "template" => {
                    primer.template = self.said("query.template", node).unwrap_or_default();
                }
                "process_result" => self.process_result(primer, node),
                _ => self.unknown("query", name),
            }
        }
    }

    fn process_result(&mut self, primer: &mut Primer, node: &Node) {
        for (name, node) in self.entries("query.process_result", node) {
            match name.text.as_str() {
                "jsonpath_first" if node.is_nothing() => {}
                "jsonpath_first" => primer.jsonpath = self.said("jsonpath_first", node),
                other => {
                    let what = format!("query.process_result.{other} is not known");
                    let hint = "the original knew jsonpath_first; say it in the SQL";
                    self.fault(name.at, what, hint);
                }
            }
        }
    }

    fn refresh(&mut self, primer: &mut Primer, node: &Node) {
        for (name, node) in self.entries("refresh", node) {
            match name.text.as_str() {
                "after_primes" => primer.after_primes = self.keys("refresh.after_primes", node),
                "after_updates" => primer.after_updates = self.keys("refresh.after_updates", node),
                "domain_key" if node.is_nothing() => {}
                "domain_key" => primer.domain_key = self.said("refresh.domain_key", node),
                _ => self.unknown("refresh", name),
            }
        }
    }

    fn keys(&mut self, name: &str, node: &Node) -> Vec<String> {
        let one = std::slice::from_ref(node);
        let items = if node.text().is_some() { one } else { node.list().unwrap_or_default() };
        if node.map().is_some_and(|entries| !entries.is_empty()) {
            self.wrong(name, node, "a list of keys");
        }
        items.iter().filter_map(|item| Some(self.said(name, item)?.text)).collect()
    }

    fn parameters(&mut self, node: &Node) -> Vec<Parameter> {
        let Some(items) = node.list() else {
            self.wrong("parameters", node, "a list like [{name: id, type: int}]");
            return Vec::new();
        };
        let mut parameters: Vec<Parameter> = Vec::new();
        for item in items {
            let Some(parameter) = self.parameter(item) else { continue };
            if parameters.iter().any(|known| known.name == parameter.name) {
                let what = format!("the parameter '{}' is there twice", parameter.name);
                self.fault(parameter.at, what, "take one out");
            }
            parameters.push(parameter);
        }
        parameters
    }

    fn parameter(&mut self, item: &Node) -> Option<Parameter> {
        let (mut name, mut form, mut primary_key) = (None, Form::Text, false);
        let before = self.faults.len();
        for (key, node) in self.entries("a parameter", item) {
            match key.text.as_str() {
                "name" => name = self.said("a parameter's name", node),
                "type" if node.is_nothing() => {}
                "type" => form = self.form(node),
                "primary_key" => {
                    primary_key = node.truth().unwrap_or_default();
                    if node.truth().is_none() {
                        self.wrong("primary_key", node, "true or false");
                    }
                }
                _ => self.unknown("parameters", key),
            }
        }
        if name.is_none() && self.faults.len() == before {
            self.missing(item, "a parameter's name", "write {name: id, type: int}");
        }
        name.map(|Said { at, text }| Parameter { at, name: text, form, primary_key })
    }

    fn form(&mut self, node: &Node) -> Form {
        match node.text() {
            Some("int") => Form::Int,
            Some("float") => Form::Float,
            Some("str" | "string") => Form::Text,
            Some(other) => {
                let what = format!("a parameter's type cannot be '{other}'");
                self.fault(node.at, what, "the original took int, float, str and string");
                Form::Text
            }
            None => {
                self.wrong("a parameter's type", node, "int, float, str or string");
                Form::Text
            }
        }
    }

    pub(super) fn updater(&mut self, root: &Node) -> Updater {
        let mut updater = Updater::default();
        let mut templates = false;
        for (name, node) in self.entries("an updater's file", root) {
            match name.text.as_str() {
                "database" => updater.database = self.said("database", node).unwrap_or_default(),
                "parameters" => updater.parameters = self.parameters(node),
                "query" => {
                    for (name, node) in self.entries("query", node) {
                        match name.text.as_str() {
                            "template" => {
                                templates = true;
                                self.templates(&mut updater, node);
                            }
                            _ => self.unknown("query", name),
                        }
                    }
                }
                _ => self.unknown("", name),
            }
        }
        self.needs(root, &updater.database);
        let none = updater.insert.is_none() && updater.update.is_none();
        if none && self.faults.is_empty() {
            let name = if templates { "query.template.insert" } else { "query.template" };
            self.missing(root, name, "write insert, update or both below query.template");
        }
        updater
    }

    fn templates(&mut self, updater: &mut Updater, node: &Node) {
        for (name, node) in self.entries("query.template", node) {
            let place = match name.text.as_str() {
                "insert" => &mut updater.insert,
                "update" => &mut updater.update,
                _ => {
                    self.unknown("query.template", name);
                    continue;
                }
            };
            if !node.is_nothing() {
                let what = format!("query.template.{}", name.text);
                *place = self.said(&what, node);
            }
        }
    }

    /// The databases that settings name; what else they say becomes notes.
    pub(super) fn settings(&mut self, root: &Node) -> Vec<Database> {
        let mut databases = Vec::new();
        for (name, node) in self.entries("settings", root) {
            match name.text.as_str() {
                "databases" => {
                    for (name, node) in self.entries("databases", node) {
                        databases.extend(self.database(name, node));
                    }
                }
                "kck" => {
                    for (name, _) in self.entries("kck", node) {
                        self.setting(name);
                    }
                }
                "cassandra" => self.notes.push(
                    "cassandra: name hosts and keyspace in [store] of kck.toml; kck makes tables of its own and reads none of the original's".to_owned(),
                ),
                "auth" => self.notes.push(
                    "auth: see docs/guide/auth.md; passwords in MD5 are not taken, and tokens are signed by [auth.jwt]".to_owned(),
                ),
                other => self.notes.push(format!("{other} (line {}) is left out: nobody knows it", name.at.line)),
            }
        }
        databases
    }

    fn setting(&mut self, name: &Name) {
        let what = match name.text.as_str() {
            "enable_auth" | "use_auth" => "say who may ask in [auth] of kck.toml",
            "prime_on_cache_miss" => "kck always computes what is not there",
            "primers_dirpath" | "updaters_dirpath" => "the folders that were named here are read",
            _ => "nobody knows it",
        };
        self.notes.push(format!("kck.{} (line {}) is left out: {what}", name.text, name.at.line));
    }

    fn database(&mut self, name: &Name, node: &Node) -> Option<Database> {
        let mut url = None;
        for (key, node) in self.entries("a database", node) {
            match key.text.as_str() {
                "connection_url" => url = self.said("connection_url", node),
                _ => self.unknown(&format!("databases.{}", name.text), key),
            }
        }
        let scheme = url.map(|url| url.text.split(':').next().unwrap_or_default().to_owned());
        if scheme.is_none() {
            self.fault(
                name.at,
                format!("database '{}' has no connection_url", name.text),
                "name it",
            );
        }
        Some(Database { name: name.text.clone(), scheme: scheme? })
    }
}

impl Database {
    /// `postgresql`, perhaps with the driver of the original.
    pub(super) fn is_postgres(&self) -> bool {
        matches!(self.scheme.split('+').next(), Some("postgresql" | "postgres"))
    }
}
