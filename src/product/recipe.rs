//! Recipe: a product's TOML file → by what its answers are made, and what they depend on.
//!
//! What such a product depends on is written as SQL that reads it: tables with what must be equal, and the SQL of
//! other products in their place. Nobody runs it; Postgres is asked what it means, and so its rules, its types and
//! whatever moves under it are found as those of any product.

use std::{collections::BTreeMap, ops::Range, path::Path, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Draft, Fault, Policy,
    depends::{NOTHING, table_name},
    file, parse,
    policy::{Header, Reader, SETTINGS_OF_PROCESS_RECIPES, SETTINGS_OF_RECIPES},
};
use crate::{
    description::{ParameterSpec, Question},
    entry::Fingerprint,
};

/// How long a program may take for one answer, where nothing else is said.
const EXEC_WITHIN: Duration = Duration::from_secs(30);
/// The same of an address.
const HTTP_WITHIN: Duration = Duration::from_secs(10);
/// Nobody waits longer for one answer.
const WITHIN_MOST: Duration = Duration::from_secs(3600);
/// Programs of one command at once.
const WORKERS_MAX: usize = 64;
/// Words of a command.
const WORDS_MAX: usize = 256;
/// Entries of `depends`.
const DEPENDS_MAX: usize = 64;
/// Headers of a request.
const HEADERS_MAX: usize = 64;

/// How a product's answers come about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Recipe {
    /// Its SQL, run by the source.
    #[default]
    Sql,
    /// By somebody else.
    Outside(Box<Outside>),
}

/// Who makes the answers of a product, and what they depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// Who.
    pub means: Means,
    /// Of one answer.
    pub timeout: Duration,
    /// In the order of the file.
    pub depends: Vec<Dependency>,
    /// So many of the question's last parameters are not the product's own: nothing is said of them.
    pub hidden: usize,
    /// What the products mean that it depends on, as their files say it, and all that they depend on.
    pub made_of: Vec<Fingerprint>,
}

/// Who makes answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Means {
    /// A program that is kept running.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
        /// So many of it at once, at most.
        workers: usize,
    },
    /// An address.
    Http {
        /// With `{parameter}` where a value stands.
        url: String,
        /// Name → value, or `env:NAME`.
        headers: Vec<(String, String)>,
    },
}

/// What a product says that its answers depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// Which table or product.
    pub on: On,
    /// What of it says which answers: in the order of the file.
    pub matches: Vec<Match>,
    /// Where the file names it, in bytes.
    pub offset: usize,
}

/// A table or a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum On {
    /// As SQL writes its name.
    Table(String),
    /// By its name.
    Product(String),
}

/// One of its columns or parameters is equal to one of the product's own parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Of the other.
    pub theirs: String,
    /// Of the product itself.
    pub own: String,
    /// Where the file says so, in bytes.
    pub offset: usize,
}

impl Recipe {
    /// Whether the source makes its answers.
    #[must_use]
    pub fn is_sql(&self) -> bool {
        matches!(self, Self::Sql)
    }

    /// What is said of another recipe than SQL.
    #[must_use]
    pub fn outside(&self) -> Option<&Outside> {
        match self {
            Self::Sql => None,
            Self::Outside(outside) => Some(outside),
        }
    }

    /// `sql`, `exec` or `http`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.outside().map(|outside| &outside.means) {
            None => "sql",
            Some(Means::Exec { .. }) => "exec",
            Some(Means::Http { .. }) => "http",
        }
    }
}

impl Outside {
    /// The products that it depends on.
    pub fn products(&self) -> impl Iterator<Item = (&str, &Dependency)> {
        self.depends.iter().filter_map(|depends| match &depends.on {
            On::Product(name) => Some((name.as_str(), depends)),
            On::Table(_) => None,
        })
    }
}

type Value<'a> = Spanned<DeValue<'a>>;

/// The settings of a recipe, each with its value, as the file has them.
type Settings<'a> = BTreeMap<&'a str, (Range<usize>, &'a Value<'a>)>;

/// Settings that are of one kind alone.
const OF_EXEC: [&str; 2] = ["command", "workers"];
const OF_HTTP: [&str; 2] = ["url", "headers"];
const OF_BOTH: [&str; 3] = ["kind", "timeout", "depends"];

/// What a TOML file says of a product. What it asks of the source is of its own tables only; `compose` brings in the
/// products that it depends on.
///
/// # Errors
/// Every fault found.
pub(super) fn read(name: &str, file: &Path, text: String) -> Result<Draft, Vec<Fault>> {
    let mut reader = Reader::new(file, &text, &SETTINGS_OF_RECIPES, "a product of this kind");
    let mut header = Header::default();
    let parsed = DeTable::parse(&text);
    let own = [&OF_BOTH[..], &OF_EXEC, &OF_HTTP].concat();
    let Some((table, own)) = settings(&mut reader, &mut header, &parsed, &own) else {
        return Err(reader.faults);
    };
    let parameters = header.parameters.take().unwrap_or_default();
    check_parameters(&mut reader, &parameters);
    let means = means(&mut reader, &own, &parameters);
    let longest = match &means {
        Some(Means::Http { .. }) => HTTP_WITHIN,
        _ => EXEC_WITHIN,
    };
    let timeout = own.get("timeout").and_then(|(at, value)| {
        let timeout = reader.duration("timeout", value, Duration::from_millis(1))?;
        if timeout > WITHIN_MOST {
            reader.fault(at, "timeout is longer than an hour", "a reader waits for it");
        }
        Some(timeout)
    });
    let depends = own.get("depends").map(|(_, value)| depends(&mut reader, value, &parameters));
    let said = table.contains_key("refresh");
    follow(&mut reader, &mut header, depends.as_ref().is_some_and(|all| !all.is_empty()), said);
    let (Some(means), true) = (means, reader.faults.is_empty()) else { return Err(reader.faults) };
    file::bound(file, &text, &header.policy.access, &parameters)?;
    let depends = depends.unwrap_or_default();
    let timeout = timeout.unwrap_or(longest);
    let outside = Outside { means, timeout, depends, hidden: 0, made_of: Vec::new() };
    Ok(Draft {
        name: name.to_owned(),
        file: file.to_owned(),
        policy: header.policy,
        question: nothing_of(parameters),
        recipe: Recipe::Outside(Box::new(outside)),
        text,
        calls: Vec::new(),
    })
}

/// Reads a file's settings: those of `names` come back, and the others are read. `None` where it is no TOML.
fn settings<'v, 'a>(
    reader: &mut Reader<'_>,
    header: &mut Header,
    parsed: &'v Result<Spanned<DeTable<'a>>, toml::de::Error>,
    names: &[&'static str],
) -> Option<(&'v DeTable<'a>, Settings<'v>)>
where
    'a: 'v,
{
    let table = match parsed {
        Ok(table) => table.get_ref(),
        Err(error) => {
            let at = error.span().unwrap_or_default();
            reader.fault(&at, error.message().replace('\n', ", "), "the file holds TOML");
            return None;
        }
    };
    let mut own = Settings::new();
    for (key, value) in table {
        match names.iter().find(|own| **own == key.get_ref()) {
            Some(name) => drop(own.insert(name, (key.span(), value))),
            None => reader.setting(header, key, value),
        }
    }
    Some((table, own))
}

/// What a TOML file says of a process: who does it, and what else it says. Nothing is asked with parameters.
///
/// # Errors
/// Every fault found.
pub(super) fn of_process(file: &Path, text: &str) -> Result<(Means, Policy), Vec<Fault>> {
    let mut reader = Reader::new(file, text, &SETTINGS_OF_PROCESS_RECIPES, "a process");
    let mut header = Header::default();
    let parsed = DeTable::parse(text);
    let own = [&["kind"][..], &OF_EXEC, &OF_HTTP].concat();
    let Some((_, own)) = settings(&mut reader, &mut header, &parsed, &own) else {
        return Err(reader.faults);
    };
    match means(&mut reader, &own, &[]) {
        Some(means) if reader.faults.is_empty() => Ok((means, header.policy)),
        _ => Err(reader.faults),
    }
}

/// A question that reads nothing.
pub(super) fn nothing_of(parameters: Vec<ParameterSpec>) -> Question {
    Question {
        parameters,
        pieces: vec![NOTHING.to_owned()],
        holes: Vec::new(),
        mentions: Some(crate::description::Mentions::default()),
        offset: 0,
        parts: vec![(0, 0)],
    }
}

/// Whether it follows changes: by default where it says what it depends on.
fn follow(reader: &mut Reader<'_>, header: &mut Header, depends: bool, said: bool) {
    let policy = &mut header.policy;
    if !said {
        policy.change = depends;
        if !depends && policy.expire.is_none() {
            let hint = "say what it depends on (depends), how long an answer is good (expire), or when it is computed again (refresh); refresh = [] computes it on demand only";
            reader.fault(&(0..0), "nothing says when its answers move", hint);
        }
    } else if policy.change && !depends {
        let hint = "say what it depends on, or leave \"change\" out of refresh";
        reader.fault(&(0..0), "it follows changes of nothing: depends is missing", hint);
    }
}

fn check_parameters(reader: &mut Reader<'_>, parameters: &[ParameterSpec]) {
    for spec in parameters {
        let at = spec.offset..spec.offset;
        if let Err((what, hint)) = parse::check_parameter_name(&spec.name) {
            reader.fault(&at, what, hint);
        }
        if spec.type_name.is_none() {
            let hint = format!("say it: {} = \"text\"", spec.name);
            reader.fault(&at, format!("parameter '{}' has no type", spec.name), hint);
        }
    }
    let (file, text) = (reader.file, reader.text);
    reader.faults.extend(file::gaps(file, text, parameters));
    if parameters.len() > parse::PARAMETERS_MAX {
        let hint = format!("there may be at most {}", parse::PARAMETERS_MAX);
        reader.fault(&(0..0), "there are too many parameters", hint);
    }
}

/// Who makes its answers; `None` where that is not said rightly.
fn means(
    reader: &mut Reader<'_>,
    own: &Settings<'_>,
    parameters: &[ParameterSpec],
) -> Option<Means> {
    let hint = "kind = \"exec\" runs a program, kind = \"http\" asks an address";
    let Some((_, kind)) = own.get("kind") else {
        reader.fault(&(0..0), "kind is missing", hint);
        return None;
    };
    let kind = reader.string("kind", kind)?;
    let (own_settings, strange, other) = match kind {
        "exec" => (OF_EXEC, OF_HTTP, "http"),
        "http" => (OF_HTTP, OF_EXEC, "exec"),
        _ => {
            let (at, _) = own.get("kind")?;
            reader.fault(at, format!("there is no kind '{kind}'"), hint);
            return None;
        }
    };
    for name in strange {
        if let Some((at, _)) = own.get(name) {
            let what = format!("{name} is a setting of kind {other}");
            reader.fault(at, what, format!("kind {kind} has {}", own_settings.join(" and ")));
        }
    }
    if kind == "exec" { exec(reader, own) } else { http(reader, own, parameters) }
}

fn exec(reader: &mut Reader<'_>, own: &Settings<'_>) -> Option<Means> {
    let wanted = "an array of the program and its arguments: [\"python3\", \"-m\", \"worker\"]";
    let Some((at, value)) = own.get("command") else {
        reader.fault(&(0..0), "command is missing", format!("it takes {wanted}"));
        return None;
    };
    let Some(words) = value.get_ref().as_array() else {
        let hint = format!("it takes {wanted}; no shell reads it");
        reader.fault(&value.span(), "command is no array", hint);
        return None;
    };
    let command: Vec<String> = words
        .iter()
        .filter_map(|word| reader.string("a word of command", word).map(str::to_owned))
        .collect();
    let sound = command.first().is_some_and(|program| !program.is_empty())
        && command.len() <= WORDS_MAX
        && !command.iter().any(|word| word.contains('\0'));
    if !sound {
        reader.fault(at, "command is no command", format!("it takes {wanted}"));
    }
    let workers = own.get("workers").map_or(1, |(at, value)| {
        let number = value.get_ref().as_integer();
        let number = number.and_then(|one| usize::from_str_radix(one.as_str(), one.radix()).ok());
        let number = number.filter(|number| (1..=WORKERS_MAX).contains(number));
        if number.is_none() {
            let hint = format!("it takes a number from 1 to {WORKERS_MAX}");
            reader.fault(at, "workers is no number of programs", hint);
        }
        number.unwrap_or(1)
    });
    Some(Means::Exec { command, workers })
}

fn http(
    reader: &mut Reader<'_>,
    own: &Settings<'_>,
    parameters: &[ParameterSpec],
) -> Option<Means> {
    let Some((_, value)) = own.get("url") else {
        let hint = "it takes an address like \"https://api.example.com/rates/{base}\"";
        reader.fault(&(0..0), "url is missing", hint);
        return None;
    };
    let url = reader.string("url", value)?.to_owned();
    let names: Vec<&str> = parameters.iter().map(|spec| spec.name.as_str()).collect();
    match url_pieces(&url) {
        Err(fact) => {
            let hint = "write https://HOST/PATH, with {parameter} behind the host";
            reader.fault(&value.span(), format!("url cannot be asked: {fact}"), hint);
        }
        Ok(pieces) => {
            let holes: Vec<&str> = pieces.iter().filter_map(|(_, hole)| *hole).collect();
            for hole in holes.iter().filter(|hole| !names.contains(hole)) {
                let hint = match names.as_slice() {
                    [] => "name it in params".to_owned(),
                    names => format!("its parameters: {}", names.join(", ")),
                };
                let what = format!("there is no parameter '{hole}' for url");
                reader.fault(&value.span(), what, hint);
            }
            for spec in parameters.iter().filter(|spec| !holes.contains(&spec.name.as_str())) {
                let hint = format!("write {{{}}} where it belongs in url", spec.name);
                let at = spec.offset..spec.offset;
                reader.fault(&at, format!("url does not use parameter '{}'", spec.name), hint);
            }
        }
    }
    let headers = own.get("headers").map(|(_, value)| headers(reader, value)).unwrap_or_default();
    Some(Means::Http { url, headers })
}

/// Headers that the client itself writes.
const OWN_HEADERS: [&str; 7] =
    ["host", "content-length", "transfer-encoding", "connection", "if-none-match", "upgrade", "te"];

fn headers(reader: &mut Reader<'_>, value: &Value<'_>) -> Vec<(String, String)> {
    let Some(table) = value.get_ref().as_table() else {
        reader.wrong("headers", value, "a table like { authorization = \"env:RATES_TOKEN\" }");
        return Vec::new();
    };
    let mut headers = Vec::new();
    for (key, value) in table {
        let Some(text) = reader.string("a header", value) else { continue };
        let name = key.get_ref().to_ascii_lowercase();
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) {
            reader.fault(&key.span(), format!("'{name}' is no header's name"), "rename it");
        } else if OWN_HEADERS.contains(&name.as_str()) {
            reader.fault(&key.span(), format!("kck writes {name} itself"), "leave it out");
        } else if !text.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b)) {
            let hint = "it takes letters, digits and signs of ASCII, or env:NAME";
            reader.fault(&value.span(), format!("the value of {name} is no header"), hint);
        }
        headers.push((name, text.to_owned()));
    }
    if headers.len() > HEADERS_MAX {
        let hint = format!("there may be at most {HEADERS_MAX}");
        reader.fault(&value.span(), "there are too many headers", hint);
    }
    headers
}

/// Text, and the name of the parameter behind it.
pub type UrlPieces<'a> = Vec<(&'a str, Option<&'a str>)>;

/// An address cut at its holes. The last piece has none.
///
/// # Errors
/// Why it is no address.
pub fn url_pieces(url: &str) -> Result<UrlPieces<'_>, &'static str> {
    let (scheme, behind) = url.split_once("://").ok_or("it does not begin with https://")?;
    if !matches!(scheme, "http" | "https") {
        return Err("it does not begin with https:// or http://");
    }
    let path = behind.find(['/', '?', '#']).unwrap_or(behind.len());
    if behind.get(..path).is_none_or(|host| host.contains(['{', '}'])) {
        return Err("a parameter in its host would say where kck connects to");
    }
    if behind.contains('#') {
        return Err("it has a #, which no server sees");
    }
    if !url.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("it has characters that must be percent-encoded");
    }
    let (mut pieces, mut rest) = (Vec::new(), url);
    while let Some((text, behind)) = rest.split_once('{') {
        let (hole, behind) = behind.split_once('}').ok_or("a { is not closed")?;
        if text.contains('}') || hole.is_empty() {
            return Err("a } closes nothing");
        }
        pieces.push((text, Some(hole)));
        rest = behind;
    }
    if rest.contains('}') {
        return Err("a } closes nothing");
    }
    pieces.push((rest, None));
    Ok(pieces)
}

fn depends(
    reader: &mut Reader<'_>,
    value: &Value<'_>,
    parameters: &[ParameterSpec],
) -> Vec<Dependency> {
    const WANTED: &str = "an array like [{ table = \"sales\", match = { city = \"city\" } }, { product = \"orders_of\" }]";
    let Some(entries) = value.get_ref().as_array() else {
        reader.wrong("depends", value, WANTED);
        return Vec::new();
    };
    if entries.len() > DEPENDS_MAX {
        let hint = format!("there may be at most {DEPENDS_MAX}");
        reader.fault(&value.span(), "depends has too many entries", hint);
    }
    entries.iter().filter_map(|entry| dependency(reader, entry, parameters)).collect()
}

fn dependency(
    reader: &mut Reader<'_>,
    entry: &Value<'_>,
    parameters: &[ParameterSpec],
) -> Option<Dependency> {
    let hint = "an entry has `table` or `product`, and `match`";
    let Some(table) = entry.get_ref().as_table() else {
        reader.fault(&entry.span(), "an entry of depends is no table", hint);
        return None;
    };
    let (mut on, mut matched) = (Vec::new(), None);
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "table" => {
                let said = reader.string("table", value)?;
                match table_name(said) {
                    Some(name) => on.push((On::Table(name), value.span().start)),
                    None => {
                        let hint = "write its name as SQL does: \"sales\", \"shop.sales\"";
                        reader.fault(&value.span(), format!("'{said}' names no table"), hint);
                        return None;
                    }
                }
            }
            "product" => {
                let said = reader.string("product", value)?.to_owned();
                on.push((On::Product(said), value.span().start));
            }
            "match" => matched = Some(value),
            other => {
                reader.fault(&key.span(), format!("unknown setting '{other}' of depends"), hint);
            }
        }
    }
    if on.len() != 1 {
        reader.fault(&entry.span(), "it is of one table or of one product", hint);
    }
    let (on, offset) = on.pop()?;
    let matches = matched.map(|value| matches(reader, value, &on, parameters)).unwrap_or_default();
    Some(Dependency { on, matches, offset })
}

fn matches(
    reader: &mut Reader<'_>,
    value: &Value<'_>,
    on: &On,
    parameters: &[ParameterSpec],
) -> Vec<Match> {
    let theirs = match on {
        On::Table(_) => "column",
        On::Product(_) => "parameter",
    };
    let Some(table) = value.get_ref().as_table() else {
        let wanted = format!("a table of their {theirs} and this product's parameter");
        reader.wrong("match", value, &wanted);
        return Vec::new();
    };
    let known = |name: &str| parameters.iter().any(|spec| spec.name == name);
    let mut matches = Vec::new();
    for (key, value) in table {
        let Some(own) = reader.string("a parameter of match", value) else { continue };
        let left = key.get_ref().as_ref();
        if !known(own) {
            let names: Vec<&str> = parameters.iter().map(|spec| spec.name.as_str()).collect();
            let hint = if known(left) {
                format!(
                    "turn it around: their {theirs} is left, this product's parameter right: {{ {own} = \"{left}\" }}"
                )
            } else if names.is_empty() {
                "it has no parameters: leave match out".to_owned()
            } else {
                format!("its parameters: {}", names.join(", "))
            };
            reader.fault(&value.span(), format!("this product has no parameter '{own}'"), hint);
        }
        let (theirs, own, offset) = (left.to_owned(), own.to_owned(), key.span().start);
        matches.push(Match { theirs, own, offset });
    }
    // The table is sorted by name; faults are told in the order of the text.
    matches.sort_by_key(|one| one.offset);
    matches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Draft, String> {
        read("p", Path::new("p.toml"), text.to_owned())
            .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    const EXEC: &str = "kind = \"exec\"\ncommand = [\"python3\", \"w.py\"]\n";
    const HTTP: &str = "kind = \"http\"\nexpire = \"1m\"\n";

    /// What is wrong with a program whose file says this too.
    fn exec(more: &str) -> String {
        one(&format!("{EXEC}{more}")).unwrap_err()
    }

    fn http(more: &str) -> String {
        one(&format!("{HTTP}{more}")).unwrap_err()
    }

    #[test]
    fn a_program_follows_what_it_depends_on() {
        let text = "params = { city = \"text\", day = { type = \"date\", default = \"2026-01-01\" } }\nworkers = 0x2\ndepends = [{ match = { city = \"city\" }, table = \"Shop.\\\"Sales\\\"\" }, { product = \"orders_of\" }]";
        let draft = one(&format!("{EXEC}{text}")).unwrap();
        assert!(draft.policy.change);
        assert_eq!(draft.products().collect::<Vec<_>>(), ["orders_of"]);
        let outside = draft.recipe.outside().unwrap();
        assert_eq!(outside.timeout, Duration::from_secs(30));
        assert_eq!(outside.depends[0].on, On::Table("\"shop\".\"Sales\"".into()));
        assert!(
            matches!(&outside.means, Means::Exec { workers: 2, command } if command.len() == 2)
        );
        let timed = one(&format!("{EXEC}refresh = [\"every 30s\"]")).unwrap();
        assert!(!timed.policy.change && timed.policy.is_timed());
        assert!(!one(&format!("{EXEC}expire = \"1h\"")).unwrap().policy.change);
    }

    #[test]
    fn a_file_says_all_that_is_needed() {
        let said = |text: &str| one(text).unwrap_err();
        let kinds = "hint: kind = \"exec\" runs a program, kind = \"http\" asks an address";
        assert_eq!(said("refresh = []"), format!("p.toml:1:1: kind is missing\n  {kinds}"));
        assert_eq!(
            said("refresh = []\nkind = \"sql\""),
            format!("p.toml:2:1: there is no kind 'sql'\n  {kinds}")
        );
        assert!(said("kind = ").starts_with("p.toml:1:"));
        assert!(said("kind = \"exec\"\nrefresh = []").contains("1:1: command is missing"));
        assert!(said("kind = \"http\"\nrefresh = []").contains("1:1: url is missing"));
        assert!(exec("").contains("1:1: nothing says when its answers move\n  hint: say what it"));
        assert!(exec("refresh = [\"change\"]").contains("depends is missing"));
    }

    #[test]
    fn settings_are_those_of_its_kind() {
        assert_eq!(
            exec("refresh = []\nurl = \"x\""),
            "p.toml:4:1: url is a setting of kind http\n  hint: kind exec has command and workers"
        );
        assert!(
            exec("refresh = []\nresult = \"row\"")
                .contains("result is a setting of products in SQL")
        );
        assert!(exec("refresh = []\ncomand = []").contains("did you mean `command`?"));
        assert!(
            exec("refresh = []\nworkers = 65").contains("4:1: workers is no number of programs")
        );
        assert!(exec("refresh = []\ntimeout = \"2h\"").contains("timeout is longer than an hour"));
        let shell = one("kind = \"exec\"\ncommand = \"python3 w.py\"\nrefresh = []").unwrap_err();
        assert!(shell.contains("2:11: command is no array") && shell.contains("no shell reads it"));
    }

    #[test]
    fn parameters_have_names_and_types() {
        assert_eq!(
            exec("refresh = []\nparams = { a = { default = \"1\" } }"),
            "p.toml:4:12: parameter 'a' has no type\n  hint: say it: a = \"text\""
        );
        assert!(
            exec("refresh = []\nparams = { wait = \"int\" }").contains("cannot be named 'wait'")
        );
        assert!(exec("refresh = []\nparams = { A = \"int\" }").contains("cannot be named 'A'"));
        let gap = "refresh = []\nparams = { a = { type = \"int\", default = \"1\" }, b = \"int\" }";
        assert!(exec(gap).contains("parameter 'b' has no default"));
    }

    #[test]
    fn what_it_depends_on_is_a_table_or_a_product() {
        let bad =
            |entry: &str| exec(&format!("params = {{ city = \"text\" }}\ndepends = [{entry}]"));
        assert!(bad("{}").contains("4:12: it is of one table or of one product"));
        assert!(bad("{ table = \"a\", product = \"b\" }").contains("one table or of one product"));
        assert!(bad("{ table = \"a; drop\" }").contains("'a; drop' names no table"));
        assert!(bad("{ table = \"a.b.c\" }").contains("'a.b.c' names no table"));
        assert!(bad("{ tabel = \"a\" }").contains("unknown setting 'tabel' of depends"));
        assert_eq!(
            bad("{ table = \"sales\", match = { town = \"place\" } }"),
            "p.toml:4:48: this product has no parameter 'place'\n  hint: its parameters: city"
        );
        assert!(bad("{ table = \"sales\", match = { city = \"town\" } }").contains(
            "hint: turn it around: their column is left, this product's parameter right: { town = \"city\" }"
        ));
    }

    #[test]
    fn an_address_has_holes_behind_its_host() {
        let url = |url: &str| http(&format!("params = {{ a = \"text\" }}\nurl = \"{url}\""));
        assert!(url("ftp://h/{a}").contains("it does not begin with https:// or http://"));
        assert!(url("https://{a}.h/").contains("would say where kck connects to"));
        assert!(url("https://h/{b}/{a}").contains("4:7: there is no parameter 'b' for url"));
        assert!(url("https://h/").contains("url does not use parameter 'a'"));
        assert!(url("https://h/{a").contains("a { is not closed"));
        let header =
            |header: &str| http(&format!("url = \"https://h/\"\nheaders = {{ {header} }}"));
        assert!(header("host = \"x\"").contains("kck writes host itself"));
        assert!(header("\"a b\" = \"x\"").contains("'a b' is no header's name"));
        assert!(header("a = \"\\n\"").contains("the value of a is no header"));
    }
}
