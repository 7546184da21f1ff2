//! Rules about the code itself, checked like any other behaviour.

#![expect(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::{collections::BTreeSet, fs, path::Path};

/// Plain values: no I/O, no async, no clock. Everyone may use them and what is noticed.
const VOCABULARY: &[&str] = &[
    "change",
    "description",
    "entry",
    "explanation",
    "key",
    "observe",
    "pattern",
    "process",
    "progress",
    "quote",
    "stage",
];

/// Module → what it may name beside the vocabulary. A new module is added here first.
const MAY_USE: &[(&str, &[&str])] = &[
    ("change", &[]),
    ("description", &[]),
    ("entry", &[]),
    ("explanation", &[]),
    ("key", &[]),
    ("pattern", &[]),
    ("process", &[]),
    ("progress", &[]),
    ("quote", &[]),
    ("stage", &[]),
    ("observe", &[]),
    // What a stage is given it is given in the stage's own words.
    ("config", &["recompute", "serve"]),
    // A Postgres and a Cassandra of one's own: knows nothing of kck.
    ("local", &[]),
    // The stages. They do not know each other, save that readers of the store may use it and ask for a refresh.
    ("product", &[]),
    ("depend", &["product"]),
    ("store", &[]),
    ("postgres", &[]),
    // Connections to other services, for whoever asks them.
    ("web", &["postgres"]),
    ("capture", &["postgres"]),
    ("recompute", &["postgres", "product", "store", "web"]),
    ("serve", &["postgres", "product", "recompute", "store", "web"]),
    // What ties them together, from the inside out.
    ("inbox", &["capture", "depend"]),
    ("advance", &["capture", "depend", "inbox", "postgres", "recompute", "store"]),
    ("pipeline", &["advance", "inbox", "capture", "depend", "recompute"]),
    ("join", &["capture", "postgres", "recompute", "roster", "store"]),
    ("definitions", &["postgres", "product", "recompute", "roster", "store"]),
    ("load", &["depend", "postgres", "product", "store"]),
    ("roster", &["depend", "load", "postgres", "product", "store"]),
    ("resume", &["postgres", "store"]),
    ("health", &["product", "serve"]),
    // Texts of the original's files to texts of kck's.
    ("import", &["product"]),
    // Judges plain values of many parts, and asks none.
    ("doctor", &["capture", "config", "postgres", "store"]),
    (
        "parts",
        &[
            "config",
            "depend",
            "postgres",
            "product",
            "recompute",
            "resume",
            "roster",
            "serve",
            "store",
        ],
    ),
    ("canary", &["inbox", "postgres", "recompute"]),
    (
        "follow",
        &[
            "advance", "canary", "capture", "inbox", "join", "parts", "pipeline", "postgres",
            "resume", "store",
        ],
    ),
    ("reload", &["depend", "load", "parts", "postgres", "product", "recompute", "roster", "store"]),
    ("updates", &["load", "parts", "postgres", "product", "reload"]),
    ("processes", &["parts", "postgres", "product", "recompute", "reload", "serve", "store"]),
    ("stores", &["config", "doctor", "parts", "store"]),
    (
        "rebuild",
        &[
            "config",
            "depend",
            "load",
            "parts",
            "postgres",
            "product",
            "recompute",
            "resume",
            "roster",
            "store",
            "stores",
        ],
    ),
    (
        "app",
        &[
            "inbox",
            "config",
            "definitions",
            "depend",
            "follow",
            "health",
            "parts",
            "postgres",
            "processes",
            "product",
            "rebuild",
            "recompute",
            "reload",
            "roster",
            "serve",
            "store",
            "updates",
        ],
    ),
    (
        "cli",
        &[
            "app",
            "capture",
            "config",
            "depend",
            "doctor",
            "import",
            "load",
            "local",
            "parts",
            "postgres",
            "product",
            "recompute",
            "serve",
            "store",
            "stores",
        ],
    ),
    ("main", &["cli"]),
];

/// Crate → the only places that name it, so that it can be replaced there.
const LIVES_IN: &[(&str, &[&str])] = &[
    ("tokio_postgres", &["postgres"]),
    ("tokio_postgres_rustls", &["postgres/connect"]),
    ("postgres_protocol", &["capture"]),
    ("pg_query", &["product/parse", "product/script"]),
    ("croner", &["product/schedule"]),
    ("jiff", &["product/schedule"]),
    ("rustls", &["postgres", "capture", "cli/client", "serve/http/tls", "store/cassandra", "web"]),
    ("rustls_native_certs", &["postgres/tls", "store/cassandra"]),
    ("tokio_rustls", &["capture", "cli/client", "serve/http/tls", "web"]),
    ("jsonwebtoken", &["serve/auth"]),
    ("aws_lc_rs", &["serve/auth"]),
    ("argon2", &["serve/auth/password"]),
    ("stringprep", &["serve/auth/password"]),
    ("base64", &["serve/auth"]),
    ("petgraph", &["depend"]),
    ("fjall", &["store/embedded"]),
    ("scylla", &["store/cassandra"]),
    ("warp", &["serve/http"]),
    ("hashbrown", &["recompute/keys"]),
    ("hyper", &["serve/http", "serve/auth/fetch", "recompute/http", "web", "cli"]),
    ("hyper_util", &["serve/http", "web", "cli"]),
    ("http_body_util", &["serve/auth/fetch", "recompute/http", "web", "cli"]),
    ("quick_cache", &["serve"]),
    ("flate2", &["serve/pack"]),
    ("crc32fast", &["serve/pack"]),
    ("socket2", &["serve/http"]),
    ("toml", &["config", "product/policy", "product/recipe"]),
    ("saphyr_parser", &["import/yaml"]),
    ("clap", &["cli"]),
    ("rustix", &["cli/guard", "recompute/exec"]),
    ("tracing_subscriber", &["cli"]),
];

/// Crates that are part of the language here.
const EVERYWHERE: &[&str] = &[
    "async_trait",
    "bytes",
    "futures_util",
    "serde",
    "serde_json",
    "sha2",
    "thiserror",
    "tokio",
    "tokio_util",
    "tracing",
];

/// Folders and files that read the environment: settings once, and where programs and caches are.
const READS_ENVIRONMENT: &[&str] = &["cli", "config", "local"];

const LINES_MAX: usize = 600;
const PIPELINE_LINES_MAX: usize = 150;

#[test]
fn modules_respect_the_layers() {
    let mut broken = Vec::new();
    for file in production() {
        if file.module == "lib" {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(module, _)| *module == file.module) else {
            broken.push(format!("{}: {} has no line in MAY_USE", file.path, file.module));
            continue;
        };
        let vocabulary = if file.module == "local" { &[] } else { VOCABULARY };
        for named in named_modules(&file.code()) {
            let is_module = MAY_USE.iter().any(|(module, _)| *module == named);
            let may =
                named == file.module || vocabulary.contains(&&*named) || allowed.contains(&&*named);
            if is_module && !may {
                broken.push(format!("{}: {} may not use {named}", file.path, file.module));
            }
        }
    }
    none(&broken);
}

#[test]
fn the_vocabulary_does_no_input_or_output() {
    let mut broken = Vec::new();
    for file in production()
        .iter()
        .filter(|file| VOCABULARY.contains(&&*file.module) || file.module == "depend")
    {
        let code = file.code();
        // `observe` sends what it is told to whoever listens.
        let also = if file.module == "observe" { "std::fs" } else { "tokio::" };
        for forbidden in
            ["std::fs", "std::net", "std::process", "SystemTime::now", "Instant::now", also]
        {
            if code.contains(forbidden) {
                broken.push(format!("{}: {forbidden}", file.path));
            }
        }
    }
    none(&broken);
}

#[test]
fn every_crate_has_one_home() {
    let mut broken = Vec::new();
    for file in sources("src") {
        let code = file.code();
        for (name, homes) in LIVES_IN {
            if names_crate(&code, name) && !homes.iter().any(|home| file.is_in(home)) {
                broken.push(format!("{}: {name} lives in {homes:?}", file.path));
            }
        }
    }
    let manifest = read("Cargo.toml");
    let dependencies =
        manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    for line in dependencies.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, _)) = line.split_once(" = ") else { continue };
        let name = name.replace('-', "_");
        if !EVERYWHERE.contains(&&*name) && !LIVES_IN.iter().any(|(known, _)| *known == name) {
            broken.push(format!("Cargo.toml: {name} has no home in LIVES_IN"));
        }
    }
    none(&broken);
}

#[test]
fn every_file_starts_by_saying_what_it_is_for() {
    let silent =
        [sources("src"), sources("tests"), sources("benches"), sources("examples")].concat();
    let silent = silent.iter().filter(|file| !file.text.starts_with("//! "));
    none(&silent.map(|file| format!("{}: no module doc on line 1", file.path)).collect::<Vec<_>>());
    // What lies in `sql/demo` and `sql/bench` is written as users write, who may begin with the statement.
    let own = [files("sql/postgres", "sql"), files("sql/cassandra", "cql")].concat();
    let silent = own.iter().filter(|path| !read(path).starts_with("-- "));
    none(&silent.map(|path| format!("{path}: no comment on line 1")).collect::<Vec<_>>());
}

#[test]
fn files_stay_readable() {
    let mut long = Vec::new();
    for file in production() {
        let lines = file.production().lines().count();
        let most = if file.module == "pipeline" { PIPELINE_LINES_MAX } else { LINES_MAX };
        if lines > most {
            long.push(format!("{}: {lines} lines above its tests, at most {most}", file.path));
        }
    }
    none(&long);
}

#[test]
fn nothing_is_left_for_later() {
    let mut left = Vec::new();
    let text = ["src", "sql", "tests", "docs", "docker", "benches", "examples"];
    let mut paths: Vec<String> = text.iter().flat_map(|folder| files(folder, "")).collect();
    paths.extend(
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", ".ci/run", ".ci/fresh"]
            .map(str::to_owned),
    );
    let leftovers = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("un", "implemented!"),
    ];
    for path in paths.iter().filter(|path| !path.contains("/fixtures/")) {
        for (number, line) in read(path).lines().enumerate() {
            if leftovers.iter().any(|word| line.contains(word)) {
                left.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none(&left);
}

#[test]
fn tests_run_and_wait_for_events() {
    let mut broken = Vec::new();
    let skipped = concat!("#[ig", "nore");
    let pause = [concat!("sle", "ep("), concat!("sle", "ep_until(")];
    // `pg_sleep` makes a statement slow, which is an event like any other.
    let pauses = |code: &str| {
        let mut found = pause.iter().flat_map(|pause| code.match_indices(pause));
        found.any(|(at, _)| !code[..at].ends_with(|c: char| c == '_' || c.is_alphanumeric()))
    };
    for file in [sources("src"), sources("tests")].concat() {
        let tests = if file.path.starts_with("src/") && !file.only_for_tests {
            file.tests()
        } else {
            file.text.clone()
        };
        if file.text.contains(skipped) {
            broken.push(format!("{}: a test that does not run", file.path));
        }
        if pauses(&tests) {
            broken.push(format!("{}: a test that waits for time to pass", file.path));
        }
    }
    none(&broken);
}

#[test]
fn long_statements_live_in_sql() {
    let mut broken = Vec::new();
    for file in production() {
        for literal in literals(&file.production()) {
            let first = literal.split_whitespace().next().unwrap_or("").to_lowercase();
            let is_statement =
                ["select", "with", "insert", "update", "delete", "create", "alter", "drop"]
                    .contains(&&*first);
            if is_statement && literal.contains('\n') {
                broken.push(format!("{}: {}…", file.path, literal.lines().next().unwrap_or("")));
            }
        }
    }
    none(&broken);
}

#[test]
fn every_statement_file_is_used() {
    let code: String = sources("src").iter().map(|file| file.text.clone()).collect();
    let statements = [files("sql", "sql"), files("sql", "cql")].concat();
    let unused = statements.into_iter().filter(|path| !code.contains(&format!("/{path}\"")));
    none(&unused.collect::<Vec<_>>());
}

#[test]
fn settings_are_read_in_one_place() {
    let reads = |file: &&Source| file.code().contains("env::var");
    let elsewhere = production();
    let elsewhere = elsewhere
        .iter()
        .filter(reads)
        .filter(|file| !READS_ENVIRONMENT.iter().any(|home| file.is_in(home)));
    none(
        &elsewhere.map(|file| format!("{}: reads the environment", file.path)).collect::<Vec<_>>(),
    );
}

#[test]
fn the_map_shows_every_module_and_names_real_tests() {
    let map = read("ARCHITECTURE.md");
    let mut broken = Vec::new();
    for (module, _) in MAY_USE {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module).is_dir();
        let shown = if folder { format!("`{module}/`") } else { format!("`{module}.rs`") };
        if !map.contains(&shown) {
            broken.push(format!("the map does not show {shown}"));
        }
    }
    let tests: String =
        [sources("src"), sources("tests")].concat().iter().map(|file| file.text.clone()).collect();
    let invariants = map.split("\n## Invariants\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut named = 0;
    for line in invariants.lines().filter(|line| line.contains("Held by ")) {
        for name in line.split("Held by ").nth(1).unwrap().split('`').skip(1).step_by(2) {
            named += 1;
            if !tests.contains(&format!("fn {name}(")) {
                broken.push(format!("there is no test {name}"));
            }
        }
    }
    assert!(named > 0, "no invariant names a test");
    none(&broken);
}

#[test]
fn links_lead_somewhere() {
    let pages = files("docs", "md");
    let roots =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned);
    let mut broken = Vec::new();
    for page in pages.into_iter().chain(roots) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(&page).parent().unwrap().to_owned();
        for link in
            read(&page).split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned())
        {
            let file = link.split('#').next().unwrap();
            if !file.is_empty() && !file.contains("://") && !folder.join(file).exists() {
                broken.push(format!("{page}: {link}"));
            }
        }
    }
    none(&broken);
}

#[track_caller]
fn none(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[derive(Debug, Clone)]
struct Source {
    /// From the root: `src/store/mod.rs`.
    path: String,
    /// The folder or file right below `src`.
    module: String,
    text: String,
    /// Declared under `#[cfg(test)]` elsewhere.
    only_for_tests: bool,
}

impl Source {
    /// The file above its unit tests.
    fn production(&self) -> String {
        self.text[..self.tests_begin()].to_owned()
    }

    fn tests(&self) -> String {
        self.text[self.tests_begin()..].to_owned()
    }

    fn tests_begin(&self) -> usize {
        self.text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(self.text.len())
    }

    /// The production part without comments.
    fn code(&self) -> String {
        let text = self.production();
        text.lines()
            .map(|line| line.split("//").next().unwrap_or(""))
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn is_in(&self, home: &str) -> bool {
        self.path.starts_with(&format!("src/{home}/")) || self.path == format!("src/{home}.rs")
    }
}

/// The modules that `crate::a::B` and `crate::{a::B, c}` name.
fn named_modules(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in code.split("crate::").skip(1) {
        let Some(list) = path.strip_prefix('{') else {
            names.insert(first_word(path));
            continue;
        };
        let mut depth = 1;
        for item in list.split_inclusive([',', '{', '}']) {
            if depth == 1 {
                names.insert(first_word(item));
            }
            depth += i32::from(item.ends_with('{')) - i32::from(item.ends_with('}'));
            if depth == 0 {
                break;
            }
        }
    }
    names
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Whether the code has the path `name::…` or `use name;`.
fn names_crate(code: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        !before.ends_with(word)
            && (after.starts_with("::") || before.ends_with("use ") && after.starts_with(';'))
    })
}

/// Texts in quotes that stand alone: what is put together from parts by `format!` is code.
fn literals(code: &str) -> Vec<String> {
    let mut literals = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find(['"', '\'', '/']) {
        let (before, found) = rest.split_at(at);
        let skip = if found.starts_with("//") {
            found.find('\n')
        } else if found.starts_with("'\"'") {
            Some(3)
        } else if !found.starts_with('"') {
            Some(1)
        } else {
            let hashes = before.len() - before.trim_end_matches('#').len();
            let raw = before.trim_end_matches('#').ends_with('r');
            let end = if raw {
                found[1..].find(&format!("\"{}", "#".repeat(hashes)))
            } else {
                end_of_text(&found[1..])
            };
            if let Some(end) = end
                && !before.trim_end().ends_with("format!(")
            {
                literals.push(found[1..=end].to_owned());
            }
            end.map(|end| end + 2)
        };
        let Some(skip) = skip else { break };
        rest = &found[skip..];
    }
    literals
}

fn end_of_text(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.find(|c: char| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })
}

#[test]
fn a_long_statement_is_found_among_other_texts() {
    let code = "let a = '\"'; // \"select\n1\nb(\"say \\\"x\\\"\", r#\"select \"a\",\n b\"#, format!(\"select {a},\n b\"))";
    assert_eq!(literals(code), ["say \\\"x\\\"", "select \"a\",\n b"]);
}

fn production() -> Vec<Source> {
    sources("src").into_iter().filter(|file| !file.only_for_tests).collect()
}

fn sources(folder: &str) -> Vec<Source> {
    let paths = files(folder, "rs");
    let source = |path: &String| {
        let module = path.split('/').nth(1).unwrap().trim_end_matches(".rs").to_owned();
        Source { path: path.clone(), module, text: read(path), only_for_tests: false }
    };
    let mut sources: Vec<Source> = paths.iter().map(source).collect();
    let declared: Vec<String> = sources.iter().flat_map(modules_for_tests).collect();
    for source in &mut sources {
        source.only_for_tests = declared.contains(&source.path);
    }
    sources
}

/// The files of `#[cfg(test)] mod name;`.
fn modules_for_tests(file: &Source) -> Vec<String> {
    let Some(folder) = file.path.strip_suffix("mod.rs") else { return Vec::new() };
    let after = file.text.split("#[cfg(test)]\n").skip(1);
    let names = after.filter_map(|rest| {
        rest.lines()
            .next()?
            .trim_start_matches("pub(crate) ")
            .strip_prefix("mod ")?
            .strip_suffix(';')
    });
    names.map(|name| format!("{folder}{name}.rs")).collect()
}

/// Every file below `folder` with this extension, or with any, as paths from the root.
fn files(folder: &str, extension: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pending = vec![root.join(folder)];
    let mut found = Vec::new();
    while let Some(next) = pending.pop() {
        let Ok(entries) = fs::read_dir(&next) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                pending.push(path);
            } else if extension.is_empty()
                || path.extension().is_some_and(|found| found == extension)
            {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}
