//! Make: a primer or an updater of the original → the text of a file of kck, checked as kck reads it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    product::{Fault, Kind, file, parse},
    quote,
};

use super::{
    path::{self, Part},
    shape::{Form, Parameter, Primer, Said, Updater},
    template::{self, Bad, Taken},
    yaml::Place,
};

/// So much of a line that is wrong is shown.
const SHOWN_CHARS: usize = 80;

/// What one file became.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// Path below the target and text.
    pub(super) files: Vec<(PathBuf, String)>,
    /// What is another now than it was.
    pub(super) notes: Vec<String>,
    /// What is to be done by hand.
    pub(super) by_hand: Vec<Fault>,
}

/// A file of the original and what it becomes.
pub(super) struct Of<'a> {
    pub(super) file: &'a Path,
    /// The name of the product or update.
    pub(super) name: &'a str,
}

/// The primers of the project, by the original's names, for who takes its keys from one.
pub(super) type Primers<'a> = BTreeMap<&'a str, Result<&'a Primer, &'static str>>;

/// A text that stands in the header, and what it means to TOML.
fn toml_text(text: &str) -> String {
    if text.contains("'''") || text.contains('\r') {
        // A string of JSON is one of TOML, and what TOML alone refuses is written as JSON may.
        return serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f");
    }
    if text.contains(['\n', '"', '\\', '\'']) {
        return format!("'''\n{text}'''");
    }
    format!("\"{text}\"")
}

/// The original's parameters as kck names them. Keys hold values, so that names are free.
struct Names(Vec<(String, String)>);

impl Names {
    fn of(parameters: &[Parameter], kind: Kind, notes: &mut Vec<String>) -> Self {
        let mut names: Vec<(String, String)> = Vec::new();
        for Parameter { name: original, .. } in parameters {
            let mut name = super::allowed(original, "p");
            let reserved = kind == Kind::Product && parse::is_reserved(&name);
            while reserved && parse::is_reserved(&name) || names.iter().any(|(_, own)| *own == name)
            {
                name.push('_');
            }
            if name != *original {
                let calls = match kind {
                    Kind::Product => "keys stay as they were",
                    Kind::Update | Kind::Process => "send the field by this name",
                };
                notes.push(format!("the parameter '{original}' is named '{name}' here; {calls}"));
            }
            names.push((original.clone(), name));
        }
        Self(names)
    }

    fn find(&self, original: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == original).map(|(_, name)| name.as_str())
    }

    fn hole(&self, original: &str) -> Option<String> {
        self.find(original).map(|name| format!(":{name}"))
    }
}

/// A primer → a product's file.
pub(super) fn product(of: &Of<'_>, primer: &Primer, primers: &Primers<'_>) -> Made {
    let mut made = Made::default();
    let names = Names::of(&primer.parameters, Kind::Product, &mut made.notes);
    let taken = taken(of.file, &primer.template, |name| names.hole(name), &mut made);
    let Some(taken) = taken else { return made };
    unused(of, primer, &taken, &mut made);
    let Some((result, sql)) = shaped(of, primer, &taken.sql, &mut made) else { return made };
    if !made.by_hand.is_empty() {
        return made;
    }
    let mut header = String::from("/* kck\n");
    if result != "rows" {
        header += &format!("result = \"{result}\"\n");
    }
    if let Some(seconds) = expiry(primer, &mut made.notes) {
        header += &format!("expire = \"{}\"\n", duration(seconds));
    }
    if let Some(params) = params(primer, &names, &taken.used) {
        header += &format!("params = {params}\n");
    }
    if let Some(warm) = warm(of, primer, primers, &mut made) {
        header += &format!("warm = {}\n", toml_text(&warm));
    }
    let header = if header == "/* kck\n" { String::new() } else { header + "*/\n" };
    let text = format!("{header}{}{sql}\n", comments(of, primer, &mut made.notes));
    finish(Path::new("products"), Kind::Product, of, (of.name, text), made)
}

/// The template's SQL, or what is wrong with it.
fn taken(
    file: &Path,
    template: &Said,
    write: impl Fn(&str) -> Option<String>,
    made: &mut Made,
) -> Option<Taken> {
    match template::take(&template.text, write) {
        Ok(mut taken) => {
            made.notes.append(&mut taken.notes);
            Some(taken)
        }
        Err(Bad { offset, what, hint }) => {
            // Folded text has other lines than the file.
            let line = template.text.get(..offset).unwrap_or_default().matches('\n').count() + 1;
            let many = template.text.trim_end().contains('\n');
            let place =
                if many { format!(", in line {line} of the template") } else { String::new() };
            made.by_hand.push(template.at.fault(file, what + &place, hint));
            None
        }
    }
}

/// A parameter of the key that the SQL has no use for has no place in kck's key.
fn unused(of: &Of<'_>, primer: &Primer, taken: &Taken, made: &mut Made) {
    for parameter in &primer.parameters {
        let name = &parameter.name;
        if !taken.used.contains(name) {
            let what = format!("the template has no use for the parameter '{name}'");
            let hint = format!(
                "take it out of `parameters`, and keys have one value less; or use it: and :{name}::text is not null"
            );
            made.by_hand.push(parameter.at.fault(of.file, what, hint));
        }
    }
}

/// `result` and the SQL that gives it.
fn shaped(
    of: &Of<'_>,
    primer: &Primer,
    sql: &str,
    made: &mut Made,
) -> Option<(&'static str, String)> {
    let whole = if primer.dicts { "rows" } else { "arrays" };
    let Some(said) = &primer.jsonpath else { return Some((whole, sql.to_owned())) };
    let part = path::read(&said.text);
    let column = |name: &str| format!("select t.{} from (\n{sql}\n) t", quote::name(name));
    let null = |made: &mut Made| {
        made.notes
            .push("without a row the answer is null; the original answered an error".to_owned());
    };
    let shaped = match part {
        Some(Part::Whole) => return Some((whole, sql.to_owned())),
        Some(Part::Row) if primer.dicts => ("row", sql.to_owned()),
        Some(Part::Place(0)) if !primer.dicts => ("value", sql.to_owned()),
        Some(Part::Place(place)) if !primer.dicts && place < 100 => {
            let names: Vec<String> = (0..=place).map(|at| format!("kck_column_{at}")).collect();
            let last = names.last().cloned().unwrap_or_default();
            ("value", format!("select t.{last} from (\n{sql}\n) t({})", names.join(", ")))
        }
        Some(Part::Column(name)) if primer.dicts => {
            // Without parameters in it, the text is one of Postgres.
            let plain = template::take(&primer.template.text, |_| Some("null".to_owned()));
            let columns = plain.map(|plain| parse::column_names(&plain.sql)).unwrap_or_default();
            let known = columns.iter().all(Option::is_some);
            let first = columns.first().is_some_and(|first| first.as_deref() == Some(&*name));
            let once = columns.iter().filter(|own| own.as_deref() == Some(&*name)).count() == 1;
            ("value", if known && first && once { sql.to_owned() } else { column(&name) })
        }
        _ => {
            let rows = if primer.dicts { "objects" } else { "arrays" };
            let what = format!("jsonpath_first '{}' over {rows} has no counterpart", said.text);
            let hint = "select just that in the SQL, and say $[0][0] over rows: the first column of the first row";
            made.by_hand.push(said.at.fault(of.file, what, hint));
            return None;
        }
    };
    null(made);
    Some(shaped)
}

/// `expire_seconds`, which the original took modulo a day.
fn expiry(primer: &Primer, notes: &mut Vec<String>) -> Option<u64> {
    const DAY: u64 = 86_400;
    let seconds = primer.expire_seconds?;
    let Some(seconds) = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0) else {
        notes.push(format!("expire_seconds {seconds} is left out: it never expires, as before"));
        return None;
    };
    if seconds >= DAY {
        let did = match seconds % DAY {
            0 => "never".to_owned(),
            left => format!("after {left} seconds"),
        };
        notes.push(format!(
            "expire_seconds {seconds} is a day or more, of which the original took the rest: its answers expired {did}, and these do as it says"
        ));
    }
    Some(seconds)
}

/// `24h`, `90s`.
fn duration(seconds: u64) -> String {
    let units = [(3600, "h"), (60, "m")];
    let whole = units.into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit));
    let (unit, name) = whole.unwrap_or((1, "s"));
    format!("{}{name}", seconds / unit)
}

/// `params`, where the types or the order need it. Texts have none: the original sent them as SQL's own untyped texts,
/// whose types Postgres finds as it does those of parameters. Numbers it sent as numbers.
fn params(primer: &Primer, names: &Names, used: &[String]) -> Option<String> {
    let declared: Vec<&str> = primer.parameters.iter().map(|one| one.name.as_str()).collect();
    let typed = primer.parameters.iter().any(|parameter| parameter.form != Form::Text);
    if !typed && declared.iter().eq(used.iter()) {
        return None;
    }
    let one = |parameter: &Parameter| {
        let form = match parameter.form {
            Form::Text => "{}",
            Form::Int => "\"bigint\"",
            Form::Float => "\"numeric\"",
        };
        format!("{} = {form}", names.find(&parameter.name).unwrap_or_default())
    };
    let all: Vec<String> = primer.parameters.iter().map(one).collect();
    Some(format!("{{ {} }}", all.join(", ")))
}

/// The keys that `domain_key` names, as a query; none where it is left to do by hand.
fn warm(of: &Of<'_>, primer: &Primer, primers: &Primers<'_>, made: &mut Made) -> Option<String> {
    let said = primer.domain_key.as_ref()?;
    match domain(primer, &said.text, primers) {
        Ok(sql) if sql.contains("/*") || sql.contains("*/") => {
            let what = format!("refresh.domain_key '{}' has a comment of SQL in it", said.text);
            let hint = "take the comment out, or write `warm` by hand";
            made.by_hand.push(said.at.fault(of.file, what, hint));
            None
        }
        Ok(sql) => Some(sql),
        Err(why) => {
            let what = format!("refresh.domain_key '{}' is not taken over: {why}", said.text);
            let wanted: Vec<&str> = primer.parameters.iter().map(|one| one.name.as_str()).collect();
            let hint = format!(
                "write `warm = \"select {} from …\"` into the product's header",
                wanted.join(", ")
            );
            made.by_hand.push(said.at.fault(of.file, what, hint));
            None
        }
    }
}

fn domain(primer: &Primer, key: &str, primers: &Primers<'_>) -> Result<String, String> {
    let mut segments = key.split('/');
    let name = segments.next().unwrap_or_default();
    let other = match primers.get(name) {
        None => return Err(format!("there is no primer '{name}' in YAML")),
        Some(Err(why)) => return Err(format!("the primer '{name}' {why}")),
        Some(Ok(other)) => other,
    };
    if !other.dicts || other.jsonpath.is_some() {
        return Err(format!("the primer '{name}' gives no list of objects (type: dicts)"));
    }
    if other.database.text != primer.database.text {
        return Err(format!("the primer '{name}' asks another database"));
    }
    let values: Vec<&str> = segments.collect();
    if values.len() != other.parameters.len() {
        let wanted = other.parameters.len();
        return Err(format!(
            "'{name}' takes {wanted} parameters, and the key has {}",
            values.len()
        ));
    }
    let mut literals = BTreeMap::new();
    for (parameter, value) in other.parameters.iter().zip(values) {
        let literal = match parameter.form {
            Form::Text => Some(quote::literal(value)),
            Form::Int => value.trim().parse::<i64>().ok().map(|number| format!("({number})")),
            Form::Float => {
                let number = value.trim().parse::<f64>().ok().filter(|number| number.is_finite());
                number.map(|number| format!("({number})"))
            }
        };
        let literal = literal.ok_or_else(|| format!("'{value}' is no number"))?;
        literals.insert(parameter.name.clone(), literal);
    }
    let taken = template::take(&other.template.text, |name| literals.get(name).cloned());
    let taken = taken.map_err(|bad| format!("in '{name}', {}", bad.what))?;
    let columns = primer.parameters.iter().map(|one| format!("d.{}", quote::name(&one.name)));
    let columns: Vec<String> = columns.collect();
    Ok(format!("select {} from (\n{}\n) d", columns.join(", "), taken.sql))
}

/// Where it came from, and what of it kck does by itself.
fn comments(of: &Of<'_>, primer: &Primer, notes: &mut Vec<String>) -> String {
    let mut comments = format!("-- From {}.\n", plain(&of.file.display().to_string()));
    let lists = [("after_primes", &primer.after_primes), ("after_updates", &primer.after_updates)];
    for (what, keys) in lists {
        if keys.is_empty() {
            continue;
        }
        let keys = plain(&keys.join(", "));
        comments +=
            &format!("-- {what} {keys}: not needed, kck follows the tables that are read here.\n");
        notes.push(format!(
            "refresh.{what} ({keys}) is not needed: kck follows the tables that the SQL reads"
        ));
    }
    comments
}

/// A text that ends no comment and no line.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// An updater → the files of updates.
pub(super) fn updates(of: &Of<'_>, updater: &Updater) -> Made {
    let mut made = Made::default();
    let names = Names::of(&updater.parameters, Kind::Update, &mut made.notes);
    let both = updater.insert.is_some() && updater.update.is_some();
    let statements = [("create", &updater.insert), ("update", &updater.update)];
    for (what, statement) in statements {
        let Some(template) = statement else { continue };
        let taken = taken(of.file, template, |name| names.hole(name), &mut made);
        let Some(taken) = taken else { continue };
        let used = updater.parameters.iter().filter(|one| taken.used.contains(&one.name));
        let used: Vec<&str> = used.map(|one| one.name.as_str()).collect();
        // By first use it is anyway.
        let ordered = used.iter().eq(taken.used.iter());
        let listed = used.iter().filter_map(|name| Some(format!("{} = {{}}", names.find(name)?)));
        let listed: Vec<String> = listed.collect();
        let header = if ordered {
            String::new()
        } else {
            format!("/* kck\nparams = {{ {} }}\n*/\n", listed.join(", "))
        };
        let from = plain(&of.file.display().to_string());
        let text = format!("{header}-- From {from}.\n{}\n", taken.sql);
        let name = if both { format!("{}_{what}", of.name) } else { of.name.to_owned() };
        made = finish(Path::new("updates"), Kind::Update, of, (&name, text), made);
    }
    if both && made.by_hand.is_empty() {
        let name = of.name;
        made.notes.push(format!(
            "two statements are two updates: call /create/{name}_create where the fields lacked the primary key, and /update/{name}_update where they had it"
        ));
    }
    if !made.by_hand.is_empty() {
        made.files.clear();
    }
    made
}

/// Adds the file, if kck reads it as one.
fn finish(
    folder: &Path,
    kind: Kind,
    of: &Of<'_>,
    (name, text): (&str, String),
    mut made: Made,
) -> Made {
    let path = folder.join(format!("{name}.sql"));
    match file::draft_of(kind, name, &path, text.clone()) {
        Ok(_) => made.files.push((path, text)),
        Err(faults) => {
            // Its place is in a text that nobody has seen: the file that it came from is named, with the line there.
            made.by_hand.extend(faults.into_iter().map(|fault| {
                let line = text.lines().nth(fault.line.saturating_sub(1)).unwrap_or_default();
                let line: String = line.trim().chars().take(SHOWN_CHARS).collect();
                let what = format!("{}, in `{line}`", fault.message);
                Place { line: 1, column: 1 }.fault(of.file, what, fault.hint)
            }));
        }
    }
    made
}
