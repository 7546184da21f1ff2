//! A text with products and their keys → product files for kck, and the same questions for Postgres.

/// One subject: its tables, the products over them, and what is written to them.
pub(super) struct Subject {
    pub(super) name: &'static str,
    pub(super) schema: &'static str,
    pub(super) shapes: &'static str,
    pub(super) writes: &'static str,
}

macro_rules! subjects {
    ($($name:literal),*) => {
        &[$(Subject {
            name: $name,
            schema: include_str!(concat!("schema/", $name, ".sql")),
            shapes: include_str!(concat!("shapes/", $name, ".sql")),
            writes: include_str!(concat!("writes/", $name, ".sql")),
        }),*]
    };
}

pub(super) const SUBJECTS: &[Subject] =
    subjects!("shop", "tree", "blog", "events", "kinds", "bulk", "owned", "citext");

/// A product, and the keys that are asked of it.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    /// `rows`, `row`, `value` or `arrays`.
    form: &'static str,
    parameters: Vec<(&'static str, &'static str)>,
    pub(super) keys: Vec<Vec<&'static str>>,
    sql: &'static str,
}

/// Every product of a text. A header names it: `-- NAME(PARAMETER TYPE, …) FORM: KEY | KEY`, where the values of
/// a key stand apart by ` ; ` and may be quoted.
pub(super) fn shapes(text: &'static str) -> Vec<Shape> {
    let mut shapes: Vec<Shape> = Vec::new();
    let mut sql_begins = 0;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if let Some(shape) = header(line.trim_end()) {
            if let Some(last) = shapes.last_mut() {
                last.sql = statement(&text[sql_begins..at]);
            }
            shapes.push(shape);
            sql_begins = at + line.len();
        }
        at += line.len();
    }
    if let Some(last) = shapes.last_mut() {
        last.sql = statement(&text[sql_begins..]);
    }
    shapes
}

fn statement(text: &'static str) -> &'static str {
    text.trim().trim_end_matches(';')
}

fn header(line: &'static str) -> Option<Shape> {
    let (name, rest) = line.strip_prefix("-- ")?.split_once('(')?;
    if name.is_empty() || !name.chars().all(is_word) {
        return None;
    }
    let (parameters, rest) = rest.split_once(')').unwrap();
    let (form, keys) = rest.split_once(": ").unwrap();
    let parameters: Vec<_> = parameters
        .split(", ")
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| parameter.split_once(' ').unwrap())
        .collect();
    let values = |key: &'static str| key.split(" ; ").map(unquoted).collect::<Vec<_>>();
    let keys = match parameters.len() {
        0 => vec![vec![]],
        _ => keys.split(" | ").map(values).collect(),
    };
    for key in &keys {
        assert_eq!(key.len(), parameters.len(), "{line}");
    }
    let form = if form.is_empty() { "rows" } else { form.trim() };
    Some(Shape { name, form, parameters, keys, sql: "" })
}

fn unquoted(value: &'static str) -> &'static str {
    value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')).unwrap_or(value)
}

fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

impl Shape {
    /// The product's file.
    pub(super) fn file(&self) -> String {
        let parameters: Vec<String> =
            self.parameters.iter().map(|(name, type_)| format!("{name} = \"{type_}\"")).collect();
        format!(
            "/* kck\nresult = \"{}\"\nparams = {{ {} }}\n*/\n{}\n",
            self.form,
            parameters.join(", "),
            self.sql
        )
    }

    /// A key as a path has it.
    pub(super) fn path(&self, values: &[&str]) -> String {
        let mut path = String::new();
        kck::key::write_key(&mut path, self.name, values.iter().copied());
        path
    }

    /// The statement that gives the text of a key's answer, its parameters being literals of their types.
    pub(super) fn question(&self, values: &[&str]) -> String {
        let inner = self.bound(values);
        let json = "coalesce(to_json(answer.c1)::text, 'null')";
        match self.form {
            "rows" => format!(
                "select '[' || coalesce(string_agg(row_to_json(answer)::text, ','), '') || ']' from ({inner}) answer"
            ),
            "row" => format!(
                "select coalesce((select row_to_json(answer)::text from ({inner}) answer limit 1), 'null')"
            ),
            "value" => format!(
                "select coalesce((select {json} from ({inner}) answer(c1) limit 1), 'null')"
            ),
            "arrays" => format!(
                "select '[' || coalesce(string_agg('[' || {json} || ',' || coalesce(to_json(answer.c2)::text, 'null') || ',' || coalesce(to_json(answer.c3)::text, 'null') || ']', ','), '') || ']' from ({inner}) answer(c1, c2, c3)"
            ),
            form => panic!("{}: there is no form {form}", self.name),
        }
    }

    /// The product's SQL with a literal for each parameter.
    fn bound(&self, values: &[&str]) -> String {
        let mut bound = String::new();
        let mut rest = self.sql;
        while let Some(colon) = rest.find(':') {
            let (before, after) = rest.split_at(colon);
            bound.push_str(before);
            let length = after[1..].find(|c| !is_word(c)).unwrap_or(after.len() - 1);
            let word = &after[1..=length];
            let parameter = self.parameters.iter().zip(values).find(|((name, _), _)| *name == word);
            if let Some(((_, type_), value)) = parameter {
                bound.push_str(&format!("('{}'::{type_})", value.replace('\'', "''")));
                rest = &after[1 + length..];
            } else {
                // A cast, or a colon in a text.
                let length = if after.starts_with("::") { 2 } else { 1 };
                bound.push_str(&after[..length]);
                rest = &after[length..];
            }
        }
        bound + rest
    }
}
