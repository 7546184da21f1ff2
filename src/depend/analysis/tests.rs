//! Cases on the rule trees of real servers: see `tests/it/fixtures/trees`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use proptest::{prelude::*, sample::Index};

use super::*;
use crate::{
    depend::{Binding, Is, Test},
    description::{Comparison, Function, OutputColumn, Type},
    product::{Policy, fixture},
};

/// What one server says of the fixtures' schema and cases.
#[derive(Default)]
struct Server {
    types: Vec<Type>,
    tables: Vec<Table>,
    functions: Vec<Function>,
    comparisons: BTreeMap<u32, (Comparison, u32, u32)>,
    enums: BTreeSet<u32>,
    labels: BTreeMap<u32, String>,
    collations: Vec<u32>,
    views: BTreeMap<u32, String>,
    trees: BTreeMap<String, String>,
}

struct Case {
    name: String,
    parameters: Vec<String>,
    /// Table → its rules in short, sorted.
    tables: BTreeMap<String, Vec<String>>,
    time: Option<String>,
    sql: String,
}

fn fixture(name: &str) -> String {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "tests/it/fixtures/trees", name].iter().collect();
    fs::read_to_string(&path).unwrap()
}

fn server(version: &str) -> Server {
    let mut server = Server::default();
    for line in fixture(&format!("postgres-{version}.txt")).lines() {
        let (kind, rest) = line.split_once(' ').unwrap();
        let words: Vec<&str> = rest.split(' ').collect();
        let number = |at: usize| words[at].parse::<u32>().unwrap();
        let letter = |at: usize| words[at].chars().next().unwrap();
        match kind {
            "type" => server.types.push(Type {
                oid: number(0),
                kind: letter(1),
                name: words[2..].join(" "),
            }),
            "table" => server.tables.push(table(&words)),
            "function" => server.functions.push(Function {
                oid: number(0),
                schema: words[1].into(),
                name: words[2].into(),
                volatility: letter(3),
                language: words[4].into(),
                strict: words[5] == "t",
                reads_tables: (words[4] == "sql").then_some(false),
                signature: words[2].into(),
            }),
            "comparison" => {
                let means = match words[1] {
                    "<>" => Comparison::Unequal,
                    "<" => Comparison::Less,
                    "<=" => Comparison::AtMost,
                    "=" => Comparison::Equal,
                    ">=" => Comparison::AtLeast,
                    ">" => Comparison::Greater,
                    other => panic!("{other}"),
                };
                server.comparisons.insert(number(0), (means, number(2), number(3)));
            }
            "label" => {
                server.enums.insert(number(0));
                server.labels.insert(number(1), words[2..].join(" "));
            }
            "collation" => server.collations.push(number(0)),
            "view" => drop(server.views.insert(number(0), words[1..].join(" "))),
            "case" => drop(server.trees.insert(words[0].into(), words[1..].join(" "))),
            _ => panic!("{kind}"),
        }
    }
    server
}

fn table(words: &[&str]) -> Table {
    let columns = words[6].split(',').map(|column| {
        let parts: Vec<&str> = column.split(':').collect();
        (parts[0].parse().unwrap(), (parts[1].to_owned(), parts[2].parse().unwrap()))
    });
    Table {
        schema: words[1].into(),
        kind: words[3].chars().next().unwrap(),
        persistence: words[4].chars().next().unwrap(),
        system: words[5] == "t",
        key: words[7].split(',').filter_map(|column| column.parse().ok()).collect(),
        columns: columns.collect(),
        ..Table::plain(words[0].parse().unwrap(), words[2])
    }
}

/// The numbers that stand behind one of these fields, in a tree and in the trees of the views it reads.
fn numbers(server: &Server, tree: &str, fields: &[&str]) -> BTreeSet<u32> {
    let numbers_in = |tree: &str, fields: &[&str]| -> Vec<u32> {
        let words: Vec<&str> = tree.split([' ', ')', '}']).collect();
        let pairs = words.windows(2).filter(|pair| fields.contains(&pair[0]));
        pairs.filter_map(|pair| pair[1].parse().ok()).collect()
    };
    let (mut found, mut opened, mut trees) = (BTreeSet::new(), BTreeSet::new(), vec![tree]);
    while let Some(tree) = trees.pop() {
        found.extend(numbers_in(tree, fields));
        let views = numbers_in(tree, &[":relid"]).into_iter().filter(|view| opened.insert(*view));
        trees.extend(views.filter_map(|view| server.views.get(&view)).map(String::as_str));
    }
    found
}

impl Server {
    fn description(&self, case: &Case) -> Description {
        let tree = &self.trees[&case.name];
        let relations = numbers(self, tree, &[":relid"]);
        let called = numbers(self, tree, &[":funcid", ":opfuncid", ":aggfnoid", ":winfnoid"]);
        let operators = numbers(self, tree, &[":opno"]);
        let collations = numbers(self, tree, &[":inputcollid", ":varcollid"]);
        let type_of =
            |name: &String| self.types.iter().find(|known| known.name == *name).unwrap().clone();
        Description {
            parameters: case.parameters.iter().map(type_of).collect(),
            tree: Some(tree.clone()),
            view_trees: self
                .views
                .clone()
                .into_iter()
                .filter(|(view, _)| relations.contains(view))
                .collect(),
            tables: self
                .tables
                .iter()
                .filter(|table| relations.contains(&table.id.0))
                .cloned()
                .collect(),
            functions: self
                .functions
                .iter()
                .filter(|function| called.contains(&function.oid))
                .cloned()
                .collect(),
            little_endian: true,
            enums: self.enums.clone(),
            labels: self.labels.clone(),
            types: self.types.iter().map(|known| (known.oid, known.name.clone())).collect(),
            comparisons: self
                .comparisons
                .clone()
                .into_iter()
                .filter(|(oid, _)| operators.contains(oid))
                .collect(),
            nondeterministic_collations: self
                .collations
                .iter()
                .copied()
                .filter(|oid| collations.contains(oid))
                .collect(),
            ..Description::default()
        }
    }
}

fn cases() -> Vec<Case> {
    let text = fixture("cases.txt");
    let blocks = text.split("== ").skip(1);
    blocks
        .map(|block| {
            let mut lines = block.trim().lines();
            let name = lines.next().unwrap().to_owned();
            let mut case = Case {
                name,
                parameters: vec![],
                tables: BTreeMap::new(),
                time: None,
                sql: String::new(),
            };
            for line in lines {
                match line
                    .split_once(':')
                    .filter(|(field, _)| field.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
                {
                    Some(("parameters", types)) => {
                        case.parameters = types
                            .split(',')
                            .map(|name| name.trim().to_owned())
                            .filter(|name| !name.is_empty())
                            .collect();
                    }
                    Some(("time", reason)) => case.time = Some(reason.trim().to_owned()),
                    Some((table, rules)) => {
                        let mut rules: Vec<String> =
                            rules.split(';').map(|rule| rule.trim().to_owned()).collect();
                        rules.sort();
                        case.tables.insert(table.to_owned(), rules);
                    }
                    None => case.sql = line.to_owned(),
                }
            }
            case
        })
        .collect()
}

fn in_short(rule: &Rule) -> String {
    let test = |test: &Test| match &test.is {
        Is::Null => format!("{} null", test.column.name),
        Is::NotNull => format!("{} given", test.column.name),
        Is::OneOf(texts) => {
            format!("{} in {}", test.column.name, Vec::from_iter(texts.clone()).join("|"))
        }
        Is::NoneOf(texts) => {
            format!("{} not {}", test.column.name, Vec::from_iter(texts.clone()).join("|"))
        }
        Is::AtMost(_, _, text) => format!("{} <= {text}", test.column.name),
        Is::AtLeast(_, _, text) => format!("{} >= {text}", test.column.name),
    };
    let tests = rule.only.iter();
    let tests = tests.map(|any| any.iter().map(test).collect::<Vec<_>>().join(" or "));
    let tests: Vec<String> = tests.collect();
    let only =
        if tests.is_empty() { String::new() } else { format!(" if {}", tests.join(" and ")) };
    let reach = match &rule.reach {
        Reach::Product(_) => "whole".into(),
        Reach::Row(bindings) => {
            let names = |columns: &Vec<Column>| {
                columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join("|")
            };
            format!("{} {}", rule.class(), bound(bindings, names))
        }
        Reach::Lookup(lookup) => {
            let by = bound(&lookup.parameters, |operand| lookup.in_words(operand));
            let tables = lookup.tables.iter().map(|table| table.replace('"', ""));
            let tables: Vec<String> = tables.collect();
            let row: Vec<&str> = lookup.row.iter().map(|column| column.name.as_str()).collect();
            format!("{} {} by {} over {}", rule.class(), by, row.join("|"), tables.join("|"))
        }
    };
    (reach.trim_end().to_owned() + &only)
        .replace('"', "")
        .replace("public.", "")
        .replace("(r.", "(")
}

fn bound<T>(bindings: &[Binding<T>], by: impl Fn(&T) -> String) -> String {
    let one = |binding: &Binding<T>| match binding {
        Binding::Any => "*".to_owned(),
        Binding::Text(of) => by(of),
        Binding::Number(of) => format!("~{}", by(of)),
        Binding::AtMost(_, of) => format!("<={}", by(of)),
        Binding::AtLeast(_, of) => format!(">={}", by(of)),
    };
    bindings.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn check(version: &str) {
    let server = server(version);
    let mut wrong = Vec::new();
    let cases = cases();
    assert_eq!(cases.len(), server.trees.len());
    for case in cases {
        let description = server.description(&case);
        let rules =
            analyse(&fixture::product(&case.name, case.parameters.len(), &case.sql), &description);
        let named = |table: &TableRules| table.name.split('.').nth(1).unwrap().to_owned();
        let mut found: BTreeMap<String, Vec<String>> = rules
            .tables
            .values()
            .map(|table| (named(table), table.rules.iter().map(in_short).collect()))
            .collect();
        found.values_mut().for_each(|rules| rules.sort());
        found.remove("pg_namespace");
        let timed = match &case.time {
            Some(reason) => rules.time.iter().any(|found| found.contains(reason)),
            None => rules.time.is_empty(),
        };
        if found != case.tables || !timed {
            wrong.push(format!(
                "{}: {} is\n  {found:?} {:?}, not\n  {:?} {:?}",
                case.name, case.sql, rules.time, case.tables, case.time
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn cases_of_postgres_14() {
    check("14");
}

#[test]
fn cases_of_postgres_15() {
    check("15");
}

#[test]
fn cases_of_postgres_17() {
    check("17");
}

#[test]
fn cases_of_postgres_18() {
    check("18");
}

fn sale(kind: char, indirect: bool) -> Description {
    let table = Table { schema: "shop".into(), kind, indirect, ..Table::plain(9, "sales") };
    Description { tables: vec![table], ..Description::default() }
}

#[test]
fn without_a_tree_every_table_is_whole() {
    let rules = analyse(&fixture::product("p", 1, "select"), &sale('r', false));
    assert_eq!(rules.explain(), ["shop.sales: product: Postgres gave no rule tree"]);
}

#[test]
fn a_tree_that_is_not_understood_makes_every_table_whole() {
    for tree in [
        "",
        "()",
        "({QUERY})",
        "({QUERY :commandType 2})",
        "({QUERY :commandType 1 :jointree <>})",
        "\\",
    ] {
        let description = Description { tree: Some(tree.into()), ..sale('p', false) };
        let rules = analyse(&fixture::product("p", 1, "select"), &description);
        assert_eq!(
            rules.tables.values().flat_map(|table| &table.rules).map(in_short).collect::<Vec<_>>(),
            ["whole"],
            "{tree}"
        );
    }
}

#[test]
fn what_is_read_behind_its_name_is_whole() {
    let server = server("17");
    let case = cases().into_iter().find(|case| case.name == "one_table").unwrap();
    let mut description = server.description(&case);
    description.tables[0].indirect = true;
    let rules = analyse(&fixture::product("p", 1, &case.sql), &description);
    assert_eq!(
        rules.explain(),
        ["public.orders: product: it is also read by inheritance, a function or a policy"]
    );
}

#[test]
fn a_view_whose_rule_is_not_known_makes_every_table_whole() {
    let server = server("17");
    let case = cases().into_iter().find(|case| case.name == "view_joined").unwrap();
    let description = Description { view_trees: BTreeMap::new(), ..server.description(&case) };
    let rules = analyse(&fixture::product("p", 1, &case.sql), &description);
    assert!(
        rules
            .tables
            .values()
            .all(|table| matches!(table.rules[..], [Rule { reach: Reach::Product(_), .. }]))
    );
}

#[test]
fn a_view_of_itself_is_not_followed_for_ever() {
    let server = server("17");
    let case = cases().into_iter().find(|case| case.name == "view").unwrap();
    let mut description = server.description(&case);
    for view in description.view_trees.values_mut() {
        view.clone_from(&server.trees["view"]);
    }
    let rules = analyse(&fixture::product("p", 1, &case.sql), &description);
    assert_eq!(
        rules.explain(),
        ["public.orders: product: its joins, views and subqueries nest too deep"]
    );
}

#[test]
fn an_operator_that_is_no_equality_restricts_nothing() {
    let server = server("17");
    let case = cases().into_iter().find(|case| case.name == "one_table").unwrap();
    let description = Description { comparisons: BTreeMap::new(), ..server.description(&case) };
    let rules = analyse(&fixture::product("p", 1, &case.sql), &description);
    assert_eq!(rules.explain(), ["public.orders: product: no condition leads from it to :p1"]);
}

#[test]
fn a_function_that_was_not_described_is_of_class_time() {
    let server = server("17");
    let case = cases().into_iter().find(|case| case.name == "immutable_sql_function").unwrap();
    let mut description = server.description(&case);
    description.functions.retain(|function| function.name != "pure");
    let rules = analyse(&fixture::product("p", 1, &case.sql), &description);
    assert!(
        rules.time.iter().any(|reason| reason.contains("did not describe")),
        "{:?}",
        rules.time
    );
}

#[test]
fn a_name_from_the_catalogues_is_of_class_time() {
    let type_ = Type { oid: 2205, name: "regclass".into(), kind: 'b' };
    let columns = vec![OutputColumn { name: "c".into(), type_ }];
    let rules =
        analyse(&fixture::product("p", 0, "select"), &Description { columns, ..sale('r', false) });
    assert_eq!(rules.time.len(), 1);
}

#[test]
fn class_time_needs_an_expiry() {
    let rules = analyse(&fixture::product("p", 0, "select 'today'::date"), &sale('m', false));
    assert!(rules.tables.is_empty());
    assert_eq!(rules.time, ["has the literal 'today'", "reads materialized view shop.sales"]);
    let policy = |change, expire| Policy { change, expire, ..Policy::default() };
    assert!(rules.refusal(&policy(true, None)).unwrap().contains("expire"));
    assert_eq!(rules.refusal(&policy(false, None)), None);
    assert_eq!(rules.refusal(&policy(true, Some(std::time::Duration::from_secs(1)))), None);
}

#[test]
fn row_security_must_be_meant() {
    let mut description = sale('r', false);
    description.tables[0].row_security = true;
    let rules = analyse(&fixture::product("p", 0, "select"), &description);
    assert!(rules.refusal(&Policy::default()).unwrap().contains("shop.sales"));
    assert_eq!(rules.refusal(&Policy { own_row_security: true, ..Policy::default() }), None);
}

#[test]
fn literals_of_two_lines_are_one() {
    for (sql, found) in [
        ("'to'\n 'day'", true),
        ("'to' || 'day'", false),
        ("E'\\x6eow'", true),
        ("known", false),
        ("'NOW '", true),
    ] {
        let rules = analyse(&fixture::product("p", 0, sql), &Description::default());
        assert_eq!(!rules.time.is_empty(), found, "{sql}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_tree_panics_and_every_table_has_a_rule(case: Index, cuts in prop::collection::vec((any::<Index>(), any::<Index>()), 1..4)) {
        let server = server("18");
        let cases = cases();
        let case = case.get(&cases);
        let mut description = server.description(case);
        let mut words: Vec<String> = server.trees[&case.name].split(' ').map(str::to_owned).collect();
        for (from, to) in cuts {
            let word = from.get(&words).clone();
            let to = to.index(words.len());
            words[to] = word;
        }
        description.tree = Some(words.join(" "));
        let rules = analyse(&fixture::product("p", case.parameters.len(), &case.sql), &description);
        for table in description.tables.iter().filter(|table| matches!(table.kind, 'r' | 'p')) {
            prop_assert!(!rules.tables[&table.id].rules.is_empty());
        }
    }
}
