//! The rules of the import, one by one.

use super::*;

fn source(file: &str, text: &str) -> Source {
    let role = match file.split('/').next() {
        Some("kprimers") => Role::Primer,
        Some("kupdaters") => Role::Updater,
        Some("config") => Role::Settings,
        _ => Role::Any,
    };
    Source { file: file.into(), role, text: Ok(text.to_owned()) }
}

fn imported(files: &[(&str, &str)]) -> Report {
    let sources: Vec<Source> = files.iter().map(|(file, text)| source(file, text)).collect();
    import(&sources, None).unwrap()
}

/// What one primer became: its text without where it came from, its notes, what is left to do.
fn primer(body: &str) -> (String, Vec<String>, Vec<String>) {
    let text = format!("database: test\n{body}");
    of(imported(&[("kprimers/p.yml", &text)]))
}

fn of(report: Report) -> (String, Vec<String>, Vec<String>) {
    let file = report.files.into_iter().next().unwrap();
    let text = file.writes.first().map(|(_, text)| text.clone()).unwrap_or_default();
    let by_hand = file.by_hand.iter().map(ToString::to_string).collect();
    (text.replace(&format!("-- From {}.\n", file.file.display()), ""), file.notes, by_hand)
}

fn sql(body: &str) -> String {
    let (text, _, by_hand) = primer(body);
    assert!(by_hand.is_empty(), "{by_hand:?}");
    text
}

fn by_hand(body: &str) -> String {
    let (text, _, by_hand) = primer(body);
    assert_eq!((text.as_str(), by_hand.len()), ("", 1), "{by_hand:?}");
    by_hand.into_iter().next().unwrap()
}

#[test]
fn rows_are_arrays_and_dicts_are_rows() {
    assert_eq!(
        sql("query: {template: select a from t}"),
        "/* kck\nresult = \"arrays\"\n*/\nselect a from t\n"
    );
    assert_eq!(sql("query: {type: dicts, template: select a from t;}"), "select a from t\n");
}

#[test]
fn the_first_match_of_a_path_is_a_row_or_a_value() {
    let value = |sql: &str| format!("/* kck\nresult = \"value\"\n*/\n{sql}\n");
    for (kind, template, path, want) in [
        ("rows", "select a, b from t", "$[0][0]", value("select a, b from t")),
        (
            "rows",
            "select a, b from t",
            "$[0][1]",
            value(
                "select t.kck_column_1 from (\nselect a, b from t\n) t(kck_column_0, kck_column_1)",
            ),
        ),
        (
            "rows",
            "select a from t",
            "$",
            "/* kck\nresult = \"arrays\"\n*/\nselect a from t\n".to_owned(),
        ),
        ("dicts", "select a from t", "$[0].a", value("select a from t")),
        ("dicts", "select x as a, b from t", "$[0].a", value("select x as a, b from t")),
        (
            "dicts",
            "select b, a from t",
            "$[0].a",
            value("select t.\"a\" from (\nselect b, a from t\n) t"),
        ),
        (
            "dicts",
            "select * from t",
            "$[0].a",
            value("select t.\"a\" from (\nselect * from t\n) t"),
        ),
        // Which of two is meant, Postgres is asked: it refuses.
        (
            "dicts",
            "select a, b as a from t",
            "$[0].a",
            value("select t.\"a\" from (\nselect a, b as a from t\n) t"),
        ),
        (
            "dicts",
            "select a from t",
            "$[0]",
            "/* kck\nresult = \"row\"\n*/\nselect a from t\n".to_owned(),
        ),
    ] {
        let body = format!(
            "query:\n  type: {kind}\n  template: '{template}'\n  process_result: {{jsonpath_first: \"{path}\"}}"
        );
        assert_eq!(sql(&body), want, "{kind} {template} {path}");
    }
    for (kind, path) in
        [("rows", "$[0]"), ("rows", "$[0].a"), ("dicts", "$[0][0]"), ("dicts", "$..a")]
    {
        let body = format!(
            "query:\n  type: {kind}\n  template: select a from t\n  process_result: {{jsonpath_first: '{path}'}}"
        );
        let fault = by_hand(&body);
        assert!(
            fault.starts_with(&format!("kprimers/p.yml:5:36: jsonpath_first '{path}' over")),
            "{fault}"
        );
    }
}

#[test]
fn parameters_are_named_where_order_or_types_need_it() {
    for (parameters, template, want) in [
        ("[{name: a}, {name: b, type: str}]", "select :a || :b", ""),
        ("[{name: a}, {name: b}]", "select :b || :a", "params = { a = {}, b = {} }\n"),
        (
            "[{name: a, type: int}, {name: b, type: float}, {name: c, type: string}]",
            "select :a, :b, :c",
            "params = { a = \"bigint\", b = \"numeric\", c = {} }\n",
        ),
    ] {
        let body = format!("parameters: {parameters}\nquery: {{template: '{template}'}}");
        let text = sql(&body);
        assert!(text.contains(&format!("result = \"arrays\"\n{want}*/")), "{text}");
    }
    let unused = by_hand("parameters: [{name: a}, {name: b}]\nquery: {template: 'select :a'}");
    assert!(
        unused.starts_with("kprimers/p.yml:2:32: the template has no use for the parameter 'b'"),
        "{unused}"
    );
    let (text, notes, _) = primer(
        "parameters: [{name: Day}, {name: after}]\nquery: {template: 'select :Day, :after'}",
    );
    assert!(text.contains("select :day, :after_\n"), "{text}");
    assert_eq!(notes.len(), 2, "{notes:?}");
}

#[test]
fn an_expiry_is_what_the_file_says() {
    for (seconds, want, noted) in [
        ("3600", "expire = \"1h\"\n", false),
        ("90", "expire = \"90s\"\n", false),
        ("1_200", "expire = \"20m\"\n", false),
        ("86400", "expire = \"24h\"\n", true),
        ("90000", "expire = \"25h\"\n", true),
        ("0", "", true),
        ("~", "", false),
    ] {
        let body =
            format!("expire_seconds: {seconds}\nquery: {{type: dicts, template: select 1 as a}}");
        let (text, notes, by_hand) = primer(&body);
        assert!(by_hand.is_empty(), "{by_hand:?}");
        let header = if want.is_empty() { String::new() } else { format!("/* kck\n{want}*/\n") };
        assert_eq!(
            (text, notes.len()),
            (format!("{header}select 1 as a\n"), usize::from(noted)),
            "{seconds}"
        );
    }
    let bad = by_hand("expire_seconds: 'soon'\nquery: {template: select 1}");
    assert_eq!(
        bad,
        "kprimers/p.yml:2:17: expire_seconds cannot be 'soon'\n  hint: it takes a whole number of seconds"
    );
}

#[test]
fn what_kck_does_by_itself_is_said_in_the_file() {
    let body = "parameters: [{name: id}]\nquery: {template: 'select :id'}\nrefresh:\n  after_primes: [simple1/:id]\n  after_updates:\n    - up/:id\n    - \"odd\\n*/ select 2\"\n";
    let (text, notes, by_hand) = primer(body);
    assert!(by_hand.is_empty());
    assert_eq!(
        text,
        "/* kck\nresult = \"arrays\"\n*/\n-- after_primes simple1/:id: not needed, kck follows the tables that are read here.\n-- after_updates up/:id, odd */ select 2: not needed, kck follows the tables that are read here.\nselect :id\n"
    );
    assert_eq!(notes.len(), 2);
}

const DOMAIN: &str = "database: test\nquery: {type: dicts, template: select id from t}\n";

#[test]
fn a_domain_is_the_query_that_gave_it() {
    let user = |key: &str| {
        format!(
            "database: test\nparameters: [{{name: id, type: int}}]\nquery: {{template: 'select a from t where id = :id'}}\nrefresh: {{domain_key: {key}}}\n"
        )
    };
    let domain_of = |files: &[(&str, &str)]| {
        let mut report = imported(files);
        report.files.retain(|file| file.file.ends_with("z.yml"));
        of(report)
    };
    let (text, _, by_hand) =
        domain_of(&[("kprimers/all.yml", DOMAIN), ("kprimers/z.yml", &user("all"))]);
    assert!(by_hand.is_empty(), "{by_hand:?}");
    assert!(
        text.contains("warm = '''\nselect d.\"id\" from (\nselect id from t\n) d'''\n"),
        "{text}"
    );
    let some = "database: test\nparameters: [{name: n, type: int}, {name: s}]\nquery: {type: dicts, template: 'select id from t where n = :n and s = :s'}\n";
    let (text, _, _) =
        domain_of(&[("kprimers/some.yml", some), ("kprimers/z.yml", &user("some/7/it"))]);
    assert!(text.contains("select id from t where n = (7) and s = E'it'\n"), "{text}");
    let quotes =
        "database: test\nquery: {type: dicts, template: \"select '''' || id as id from t\"}\n";
    let (text, _, by_hand) =
        domain_of(&[("kprimers/all.yml", quotes), ("kprimers/z.yml", &user("all"))]);
    assert!(by_hand.is_empty(), "{by_hand:?}");
    let want = r#"warm = "select d.\"id\" from (\nselect '''' || id as id from t\n) d""#;
    assert!(text.contains(want), "{text}");
    let comment = "database: test\nquery: {type: dicts, template: 'select id /* key */ from t'}\n";
    let (text, _, by_hand) =
        domain_of(&[("kprimers/all.yml", comment), ("kprimers/z.yml", &user("all"))]);
    assert!(
        !text.contains("warm") && by_hand[0].contains("has a comment of SQL in it"),
        "{by_hand:?}"
    );
    let rows = "database: test\nquery: {template: select id from t}\n";
    for (key, other, why) in [
        ("gone", DOMAIN, "there is no primer 'gone' in YAML"),
        ("all", rows, "the primer 'all' gives no list of objects (type: dicts)"),
        ("all/1", DOMAIN, "'all' takes 0 parameters, and the key has 1"),
        (
            "all",
            "database: test\nquery: {type: lists, template: x}\n",
            "the primer 'all' is not taken over itself",
        ),
    ] {
        let (text, _, by_hand) =
            domain_of(&[("kprimers/all.yml", other), ("kprimers/z.yml", &user(key))]);
        assert!(!text.is_empty() && !text.contains("warm"), "the product itself is there");
        assert_eq!(
            by_hand,
            [format!(
                "kprimers/z.yml:4:23: refresh.domain_key '{key}' is not taken over: {why}\n  hint: write `warm = \"select id from …\"` into the product's header"
            )]
        );
    }
}

#[test]
fn one_statement_is_one_update_and_two_are_two() {
    let updater = |templates: &str| {
        let text = format!(
            "database: test\nparameters: [{{name: id, type: int, primary_key: true}}, {{name: c}}]\nquery: {{template: {{{templates}}}}}\n"
        );
        imported(&[("kupdaters/up.yml", &text)]).files.remove(0)
    };
    let insert = "insert: insert into t (c) values (:c)";
    let update = "update: 'update t set c = :c where id = :id'";
    let one = updater(insert);
    assert_eq!(
        one.writes,
        [(
            "updates/up.sql".into(),
            "-- From kupdaters/up.yml.\ninsert into t (c) values (:c)\n".to_owned()
        )]
    );
    let both = updater(&format!("{insert}, {update}"));
    let paths: Vec<_> = both.writes.iter().map(|(path, _)| path.to_str().unwrap()).collect();
    assert_eq!(paths, ["updates/up_create.sql", "updates/up_update.sql"]);
    assert_eq!(
        both.writes[1].1,
        "/* kck\nparams = { id = {}, c = {} }\n*/\n-- From kupdaters/up.yml.\nupdate t set c = :c where id = :id\n"
    );
    assert!(both.notes[0].contains("call /create/up_create"), "{:?}", both.notes);
    let broken = updater(&format!("{insert}, update: select 1"));
    assert!(broken.writes.is_empty() && broken.by_hand[0].message.contains("this is SELECT"));
}

#[test]
fn what_nobody_knows_is_said() {
    let (_, notes, by_hand) = primer(
        "augment_functions: {}\nprocesses: {}\nqueri: 1\nquery: {template: select 1, tpe: x}",
    );
    assert!(by_hand.is_empty());
    assert_eq!(
        notes,
        [
            "augment_functions (line 2) is left out: the original took it and did nothing with it",
            "processes (line 3) is left out: a process of kck is a file processes/NAME.sql; write it by hand",
            "queri (line 4) is left out: the original did nothing with it",
            "query.tpe (line 5) is left out: the original did nothing with it",
        ]
    );
}

#[test]
fn what_is_wrong_has_its_place_and_a_hint() {
    for (file, want) in [
        (
            "database: test\n",
            "kprimers/p.yml:1:1: query.template is missing\n  hint: write the SQL there",
        ),
        (
            "query: {template: select 1}\n",
            "kprimers/p.yml:1:1: database is missing\n  hint: name one of the settings' `databases`",
        ),
        (
            "database: test\nparameters: [{name: d, type: date}]\nquery: {template: 'select :d'}\n",
            "kprimers/p.yml:2:30: a parameter's type cannot be 'date'\n  hint: the original took int, float, str and string",
        ),
        (
            "database: test\nparameters: [{type: int}]\nquery: {template: select 1}\n",
            "kprimers/p.yml:2:14: a parameter's name is missing\n  hint: write {name: id, type: int}",
        ),
        (
            "database: test\nquery: {type: lists, template: select 1}\n",
            "kprimers/p.yml:2:15: query.type cannot be 'lists'\n  hint: it takes rows or dicts",
        ),
        (
            "database: test\nquery: {template: {insert: insert into t values (1)}}\n",
            "kprimers/p.yml:2:19: query.template is a map\n  hint: a primer has one; a file with insert and update belongs below kupdaters/",
        ),
        (
            "database: test\nquery: {template: delete from t}\n",
            "kprimers/p.yml:1:1: this is DELETE, in `delete from t`\n  hint: a product is one SELECT; statements that write belong in updates/",
        ),
        (
            "database: test\nquery:\n  template: |\n    select\n    :x\n",
            "kprimers/p.yml:4:5: the template has :x, and `parameters` has not, in line 2 of the template\n  hint: add x to `parameters`, or write \\:x where a colon is meant",
        ),
        (
            "database: test\nquery: {template: \"select 1 from from from from from from from from from from from from from from from from from\"}\n",
            "kprimers/p.yml:1:1: syntax error at 'from', in `select 1 from from from from from from from from from from from from from from f`\n  hint: PostgreSQL's grammar stops here; try the statement in psql",
        ),
        (
            "- 1\n",
            "kprimers/p.yml:1:1: a primer's file is a list\n  hint: it takes a map of settings",
        ),
    ] {
        let (text, _, by_hand) = of(imported(&[("kprimers/p.yml", file)]));
        assert_eq!((text.as_str(), by_hand), ("", vec![want.to_owned()]), "{file}");
    }
}

#[test]
fn names_are_made_ones_that_kck_allows_and_never_two_the_same() {
    for (name, want) in [
        ("a_1", "a_1"),
        ("Orders-Of", "orders_of"),
        ("7days", "p_7days"),
        ("_x", "p_x"),
        ("año", "a_o"),
    ] {
        assert_eq!(allowed(name, "p"), want);
    }
    assert_eq!(allowed(&"x".repeat(100), "p").len(), 63);
    let one = imported(&[("kprimers/Orders-Of.yml", DOMAIN)]);
    assert_eq!(one.files[0].writes[0].0, PathBuf::from("products/orders_of.sql"));
    assert_eq!(
        one.files[0].notes,
        ["'Orders-Of' is named 'orders_of' here: keys and calls begin with that"]
    );
    let two = imported(&[("kprimers/a-b.yml", DOMAIN), ("kprimers/deep/a_b.yml", DOMAIN)]);
    for (file, other) in
        [(&two.files[0], "kprimers/deep/a_b.yml"), (&two.files[1], "kprimers/a-b.yml")]
    {
        assert!(file.writes.is_empty());
        assert_eq!(file.by_hand[0].message, format!("'a_b' is also the name of {other}"));
    }
    let up = |templates: &str| format!("database: test\nquery: {{template: {{{templates}}}}}\n");
    let both = up("insert: insert into t values (1), update: update t set a = 1");
    let made = imported(&[
        ("kupdaters/u.yml", &both),
        ("kupdaters/u_create.yml", &up("insert: insert into t values (1)")),
    ]);
    assert!(made.writes().next().is_none());
    assert_eq!(
        made.files[0].by_hand[0].message,
        "updates/u_create.sql would also come from kupdaters/u_create.yml"
    );
}

#[test]
fn one_database_is_the_source() {
    let asks = |name: &str| format!("database: {name}\nquery: {{template: select 1}}\n");
    let settings = "kck: {enable_auth: true}\ndatabases:\n  a: {connection_url: 'postgresql+psycopg2://u:secret@h/d'}\n  b: {connection_url: postgresql://h/d}\n  m: {connection_url: mysql://h/d}\n";
    let all = |files: &[(&str, &str)], database: Option<&str>| {
        let sources: Vec<Source> = files.iter().map(|(file, text)| source(file, text)).collect();
        import(&sources, database)
    };
    let (a, b, m) = (asks("a"), asks("b"), asks("m"));
    let files = [
        ("config/dev.yml", settings),
        ("kprimers/a.yml", &a),
        ("kprimers/b.yml", &b),
        ("kprimers/m.yml", &m),
    ];
    assert_eq!(
        all(&files, None).unwrap_err(),
        "the files name several databases: a, b\n  hint: a kck has one source; say which it is with --database, and give each other one a kck of its own"
    );
    assert_eq!(
        all(&files, Some("x")).unwrap_err(),
        "there is no database 'x'\n  hint: --database takes one of a, b, m"
    );
    let report = all(&files, Some("a")).unwrap();
    let messages: Vec<_> = report
        .files
        .iter()
        .flat_map(|file| &file.by_hand)
        .map(|fault| fault.message.as_str())
        .collect();
    assert_eq!(
        messages,
        ["database 'b' is not the source", "database 'm' is not PostgreSQL but mysql"]
    );
    assert_eq!(report.writes().count(), 1);
    assert!(
        report.notes[0].contains("its connection_url without `+psycopg2`"),
        "{:?}",
        report.notes
    );
    assert!(!report.to_string().contains("secret") && !report.json(false).contains("secret"));
    let unknown =
        all(&[("config/dev.yml", settings), ("kprimers/a.yml", &asks("c"))], None).unwrap();
    assert_eq!(unknown.files[1].by_hand[0].message, "the settings have no database 'c'");
}

#[test]
fn python_is_listed_with_where_it_goes() {
    let text = "from kck import KCKPrimer\n\nclass P(KCKPrimer):\n    processes = {}\n";
    let report = imported(&[
        ("kprimers/__init__.py", ""),
        ("kprimers/Top-Ten.py", text),
        ("kupdaters/up.py", "class U: pass\n"),
        ("settings.py", "import os\nKCK = {}\n"),
    ]);
    assert_eq!(report.files.len(), 3);
    let said: Vec<String> =
        report.files.iter().flat_map(|file| &file.by_hand).map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "kprimers/Top-Ten.py:3:1: it is Python\n  hint: write products/top_ten.toml of kind exec, whose program is Python with kck_worker",
            "kprimers/Top-Ten.py:4:1: it has processes\n  hint: write processes/top_ten.sql with `every` or `cron`",
            "kupdaters/up.py:1:1: it is Python\n  hint: write the statement into updates/up.sql, or CALL a procedure there",
        ]
    );
    assert!(report.files[2].notes[0].starts_with("a settings module is not run"));
}

#[test]
fn the_report_says_what_became_of_each() {
    let report = imported(&[
        ("kprimers/a.yml", "database: test\nquery: {template: select 1}\nx: 1\n"),
        ("kprimers/b.yml", "database: [\n"),
    ]);
    let text = report.to_string();
    assert!(text.starts_with("kprimers/a.yml: -> products/a.sql\n  note: x (line 3) is left out: the original did nothing with it\nkprimers/b.yml: not imported\n  2:1: this is no YAML:"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&report.json(false)).unwrap();
    assert_eq!((&json["success"], &json["written"]), (&false.into(), &false.into()));
    assert_eq!(
        (&json["files"][0]["outcome"], &json["files"][1]["outcome"]),
        (&"imported".into(), &"not_imported".into())
    );
    assert_eq!(json["files"][1]["by_hand"][0]["line"], 2);
}

/// Pieces of SQL that mean the same to both, or are made to; `id`, `day` and `n` are parameters.
const EXPRESSIONS: &[&str] = &[
    ":id",
    "a::int",
    "'x :zz'",
    r":id\:\:text",
    ":day::text",
    "(array[1,2])[1:2]",
    "b[1:n]",
    r"b[1\:n]",
    "b[:n]",
    "\"q:zz\"",
    "$t$ :zz $t$",
    r"E'it\'s :zz'",
    "/* :id /* :n */ */ 1",
    "1 -- :id\n",
    "f(n := :n)",
    r"now()\:\:date",
    r"'12\:30'",
    "'a' || :day",
    ":id+:n",
    "'it''s :zz'",
    "a:: text",
];

proptest::proptest! {
    /// What is a parameter to the original is one to kck, in the same order, and nothing else is.
    #[test]
    fn parameters_are_the_same_to_both(picks in proptest::collection::vec(0..EXPRESSIONS.len(), 1..12)) {
        let chosen: Vec<&str> = picks.iter().map(|pick| EXPRESSIONS[*pick]).collect();
        let template = format!("select {} from t", chosen.join(", "));
        let known = |name: &str| ["id", "day", "n"].contains(&name).then(|| format!(":{name}"));
        let taken = template::take(&template, known).unwrap();
        let draft = crate::product::file::draft("p", Path::new("p.sql"), taken.sql.clone());
        let draft = draft.map_err(|faults| faults[0].to_string());
        let names: Vec<String> =
            draft.unwrap().question.parameters.into_iter().map(|parameter| parameter.name).collect();
        proptest::prop_assert_eq!(names, taken.used, "{}", taken.sql);
    }

    #[test]
    fn no_file_makes_it_panic(text in "(database: test\n)?(parameters: \\[\\{name: [a-c]\\}\\]\n)?query: (\\{template: ['\"]?[ :a-c;*/\\\\{}-]{0,30}['\"]?\\}|[a-z\\[{]{0,4})\n?") {
        drop(import(&[source("kprimers/p.yml", &text), source("x.yml", &text)], None));
    }
}
