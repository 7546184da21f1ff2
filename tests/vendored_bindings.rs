//! The bindings of `vendor/bindgen` and the C headers of pg_query → every declaration that differs.
//!
//! The compiler believes a binding whatever the header says, so a field that moved would be read from the wrong
//! place. Both texts are therefore read here, brought to one form, and compared declaration by declaration.

#![expect(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::{collections::BTreeMap, env, fs, path::PathBuf};

const BINDINGS: &str = include_str!("../vendor/bindgen/pg_query.rs");
const HEADERS: [&str; 3] = ["postgres_deparse.h", "pg_query_scan_tokens.h", "pg_query.h"];

#[test]
fn vendored_bindings_match_the_header() {
    let different = differences(&header(), BINDINGS);
    assert!(different.is_empty(), "\n{}\n", different.join("\n"));
}

#[test]
fn every_difference_is_noticed() {
    let header = header();
    for (right, wrong, name) in [
        (
            "pub len: usize,\n    pub data: *mut c_char,",
            "pub data: *mut c_char,\n    pub len: usize,",
            "PgQueryProtobuf",
        ),
        ("pub fingerprint: u64,", "pub fingerprint: c_int,", "PgQueryFingerprintResult"),
        ("    pub indent_size: c_int,\n", "", "PostgresDeparseOpts"),
        (
            "pg_query_scan(input: *const c_char)",
            "pg_query_scan(input: *mut c_char)",
            "pg_query_scan",
        ),
        ("PgQueryToken = c_uint", "PgQueryToken = u64", "PgQueryToken"),
        ("FULL_RELNAME: u32 = 16", "FULL_RELNAME: u32 = 8", "PG_QUERY_FINGERPRINT_FULL_RELNAME"),
        (
            "#[repr(C)]\n#[derive(Debug, Copy, Clone)]\npub struct PgQueryError ",
            "pub struct PgQueryError ",
            "PgQueryError",
        ),
        ("pub fn pg_query_parse_opts(", "pub fn pg_query_parse_options(", "pg_query_parse_options"),
    ] {
        let changed = BINDINGS.replacen(right, wrong, 1);
        assert_ne!(changed, BINDINGS, "the bindings have no '{right}'");
        let different = differences(&header, &changed);
        let start = format!("{name}: ");
        assert!(
            matches!(different.as_slice(), [one] if one.starts_with(&start)),
            "{name}: {different:?}"
        );
    }
}

/// Name → declaration in one form.
type Declarations = BTreeMap<String, String>;

fn differences(header: &str, bindings: &str) -> Vec<String> {
    let (header, bindings) = (c_declarations(header), rust_declarations(bindings));
    let differing = bindings.iter().filter_map(|(name, binding)| match header.get(name) {
        Some(declared) if declared == binding => None,
        declared => Some(format!("{name}: the header has {declared:?}, the bindings {binding:?}")),
    });
    differing.collect()
}

/// The headers of the very version that is built.
fn header() -> String {
    let lock = include_str!("../Cargo.lock");
    let version =
        lock.split_once("name = \"pg_query\"\nversion = \"").unwrap().1.split('"').next().unwrap();
    let home = env::var_os("CARGO_HOME")
        .map_or_else(|| env::home_dir().unwrap().join(".cargo"), PathBuf::from);
    let registries = fs::read_dir(home.join("registry/src")).unwrap();
    let crates = registries
        .map(|entry| entry.unwrap().path().join(format!("pg_query-{version}/libpg_query")));
    let folder = crates.into_iter().find(|path| path.is_dir()).expect("cargo has fetched pg_query");
    HEADERS.map(|name| fs::read_to_string(folder.join(name)).unwrap()).concat()
}

/// C → declarations. Enums become what a C compiler makes of one without negative values.
fn c_declarations(header: &str) -> Declarations {
    let (directives, code): (Vec<&str>, Vec<&str>) =
        header.lines().map(str::trim).partition(|line| line.starts_with('#'));
    let code: Vec<&str> = code.iter().map(|line| line.split("//").next().unwrap()).collect();
    let code = code.join(" ");
    let mut declarations = Declarations::new();
    for directive in directives {
        let mut words = directive.split("//").next().unwrap().split_whitespace();
        if let (Some("#define"), Some(name)) = (words.next(), words.next())
            && let Some(value) = c_number(&words.collect::<String>())
        {
            declarations.insert(name.to_owned(), format!("const {value}"));
        }
    }
    for typedef in code.split("typedef ").skip(1) {
        let Some((kind, rest)) = typedef.split_once('{') else { continue };
        let (body, rest) = rest.split_once('}').unwrap();
        let name = rest.split_once(';').unwrap().0.trim();
        let declaration = if kind.starts_with("enum") {
            "type c_uint".to_owned()
        } else {
            let fields: Vec<String> =
                body.split(';').filter(|field| !field.trim().is_empty()).map(c_variable).collect();
            format!("struct {{ {} }}", fields.join(", "))
        };
        declarations.insert(name.to_owned(), declaration);
    }
    for statement in code.split([';', '{', '}']).filter(|statement| statement.contains(')')) {
        let (function, parameters) =
            statement.trim().trim_end_matches(')').split_once('(').unwrap();
        let (name, result) = c_declarator(function);
        let parameters: Vec<String> = parameters
            .split(',')
            .filter(|parameter| parameter.trim() != "void")
            .map(c_variable)
            .collect();
        declarations.insert(name, format!("fn({}) -> {result}", parameters.join(", ")));
    }
    declarations
}

fn c_variable(text: &str) -> String {
    let (name, of) = c_declarator(text);
    // `str` is a type in Rust.
    let name = if name == "str" { "str_".to_owned() } else { name };
    format!("{name}: {of}")
}

/// `const char* input` → its name and its type as Rust has it.
fn c_declarator(text: &str) -> (String, String) {
    let spaced = text.replace('*', " * ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (name, of) = words.split_last().unwrap();
    let base = of.iter().find(|word| !["const", "struct", "extern", "*"].contains(word)).unwrap();
    let mut rust = match *base {
        "char" => "c_char",
        "int" => "c_int",
        "size_t" => "usize",
        "uint64_t" => "u64",
        "void" => "()",
        other => other,
    }
    .to_owned();
    for depth in 0..of.iter().filter(|word| **word == "*").count() {
        let kind = if depth == 0 && of.contains(&"const") { "*const" } else { "*mut" };
        rust = format!("{kind} {rust}");
    }
    ((*name).to_owned(), rust)
}

/// `180006`, `(1 << 4)`.
fn c_number(text: &str) -> Option<u64> {
    let text = text.trim_start_matches('(').trim_end_matches(')');
    match text.split_once("<<") {
        Some((one, shift)) => Some(one.parse::<u64>().ok()? << shift.parse::<u32>().ok()?),
        None => text.parse().ok(),
    }
}

/// Rust → declarations. Each `pub` that begins a line or stands in the `extern` block is one.
fn rust_declarations(bindings: &str) -> Declarations {
    let mut declarations = Declarations::new();
    let mut attributes = String::new();
    let mut lines = bindings.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line.starts_with("#[") {
            attributes.push_str(line);
            continue;
        }
        if let Some(rest) = line.strip_prefix("pub struct ") {
            let fields = lines.by_ref().take_while(|line| *line != "}");
            let fields: Vec<&str> = fields
                .map(|line| line.strip_prefix("pub ").unwrap().trim_end_matches(','))
                .collect();
            let layout = if attributes.contains("#[repr(C)]") { "" } else { "not repr(C) " };
            let name = rest.trim_end_matches(" {").to_owned();
            declarations.insert(name, format!("{layout}struct {{ {} }}", fields.join(", ")));
        } else if let Some(rest) = line.strip_prefix("pub fn ") {
            let (name, rest) = rest.trim_end_matches(';').split_once('(').unwrap();
            let (parameters, result) = rest.split_once(')').unwrap();
            let result = result.trim_start_matches(" -> ");
            let result = if result.is_empty() { "()" } else { result };
            declarations.insert(name.to_owned(), format!("fn({parameters}) -> {result}"));
        } else if let Some(rest) = line.strip_prefix("pub type ") {
            let (name, of) = rest.trim_end_matches(';').split_once(" = ").unwrap();
            declarations.insert(name.to_owned(), format!("type {of}"));
        } else if let Some(rest) = line.strip_prefix("pub const ") {
            let (name, value) = rest.trim_end_matches(';').split_once(": u32 = ").unwrap();
            declarations.insert(name.to_owned(), format!("const {value}"));
        } else {
            let known =
                ["", "}", "unsafe extern \"C\" {"].contains(&line) || line.starts_with("//");
            assert!(
                known || line.starts_with("use std::os::raw::"),
                "the bindings have '{line}', which is not compared"
            );
        }
        attributes.clear();
    }
    declarations
}
