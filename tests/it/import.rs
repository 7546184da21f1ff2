//! `kck import`: projects of the original, as its documents have them, taken over by the command and served by a kck
//! that runs on what came out.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{
    Folder,
    client::send,
    kck::{Project, Store},
    process::{command, stderr, stdout},
    run,
    servers::Database,
};

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (file, text) in files {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// Runs the command; its exit code, what it prints and what it complains of.
async fn import(arguments: &[&str]) -> (i32, String, String) {
    let mut command = command();
    command.arg("import").args(arguments).env("NO_COLOR", "1").kill_on_drop(true);
    let output = command.output().await.unwrap();
    (output.status.code().unwrap(), stdout(&output), stderr(&output))
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

const ORIGINAL: &[(&str, &str)] = &[
    (
        "config/test.yml",
        "kck: {enable_auth: false, prime_on_cache_miss: true}\ncassandra: {hosts: [127.0.0.1], keyspace: kck}\ndatabases: {test: {connection_url: 'postgresql+psycopg2://u@h:5432/db'}}\n",
    ),
    ("kprimers/__init__.py", ""),
    (
        "kprimers/simple1.yml",
        "database: test\nparameters:\n  - name: id\n    type: int\nexpire_seconds: 3600\nquery:\n  template: >\n    select testcol1\n    from testtbl1\n    where id = :id\n",
    ),
    (
        "kprimers/deep/er/simple2.yml",
        "database: test\nparameters:\n  - {name: id, type: int}\n  - {name: day, type: string}\nquery:\n  type: dicts\n  template: >\n    select id, testcol1, day from testtbl1 where day = :day and id = :id\nrefresh:\n  after_primes:\n    - simple1/:id\n  after_updates:\n    - simple_updater1/:id\n",
    ),
    (
        "kprimers/name_of.yml",
        "database: test\nparameters: [{name: id, type: int}]\nquery:\n  type: dicts\n  template: select id, testcol1 from testtbl1 where id = :id\n  process_result: {jsonpath_first: '$[0].testcol1'}\nrefresh: {domain_key: all_ids}\n",
    ),
    (
        "kprimers/all_ids.yml",
        "database: test\nquery: {type: dicts, template: 'select id from testtbl1 order by id desc'}\n",
    ),
    (
        "kprimers/first_of.yml",
        "database: test\nparameters: [{name: prefix, type: str}]\nquery:\n  template: |\n    select testcol1\\:\\:varchar, array_length((array[1,2,3])[1:2], 1), :prefix || ':x' -- :nothing\n    from testtbl1 where testcol1 like :prefix || '%' order by id\n  process_result: {jsonpath_first: '$[0][0]'}\n",
    ),
    (
        "kprimers/second_of.yml",
        "database: test\nparameters: [{name: x, type: float}]\nquery:\n  template: select id, price from testtbl1 where price > :x order by price\n  process_result: {jsonpath_first: '$[0][1]'}\n",
    ),
    (
        "kprimers/row_of.yml",
        "database: test\nparameters: [{name: id, type: int}]\nquery:\n  type: dicts\n  template: select :id as asked, * from testtbl1 where id = :id\n  process_result: {jsonpath_first: '$[0]'}\n",
    ),
    (
        "kprimers/auth.yml",
        "database: test\nparameters: [{name: email, type: string}, {name: passwd_hash, type: string}]\nquery:\n  template: select id from testtbl1 where testcol1 = :email and testcol1 = :passwd_hash\n  process_result: {jsonpath_first: \"$[0][0]\"}\n",
    ),
    (
        "kupdaters/simple_updater1.yml",
        "database: test\nparameters:\n  - {name: id, type: int, primary_key: true}\n  - {name: testcol1, type: string}\nquery:\n  template:\n    insert: insert into testtbl1 (testcol1) values (:testcol1)\n    update: update testtbl1 set testcol1 = :testcol1 where id = :id\n",
    ),
    (
        "kupdaters/add.yml",
        "database: test\nparameters: [{name: testcol1, type: string}]\nquery:\n  template:\n    insert: insert into testtbl1 (testcol1) values (:testcol1)\n",
    ),
];

async fn table(name: &str) -> Database {
    let database = Database::new(name).await;
    database
        .run(
            "create table testtbl1 (id serial primary key, testcol1 text, day date, price numeric(10,2));
             alter table testtbl1 replica identity full;
             insert into testtbl1 (testcol1, day, price) values
               ('name1', '2026-01-31', 1.50), ('na''me2', '2026-02-28', 2.50), (null, null, null)",
        )
        .await;
    database
}

/// Every answer is what the file's SQL gives, follows changes, and both of the updater's statements write.
#[test]
fn a_project_of_the_original_is_served() {
    run(async {
        let database = table("import_served").await;
        let project = Project::new(&database, Store::Embedded).await;
        let original = Folder::new("import_served_original");
        write(&original.0, ORIGINAL);
        let (from, to) = (original.0.to_str().unwrap(), project.folder.0.to_str().unwrap());
        let (code, report, complaint) = import(&[from, "--to", to]).await;
        assert_eq!((code, complaint.as_str()), (0, ""), "{report}");
        assert!(report.contains("kprimers/simple1.yml: -> products/simple1.sql\n"), "{report}");
        assert!(report.contains("11 files for "), "{report}");

        let kck = project.start().await;
        for (key, want) in [
            ("simple1/1", json!([["name1"]])),
            ("simple1/9", json!([])),
            ("simple2/1/2026-01-31", json!([{"id": 1, "testcol1": "name1", "day": "2026-01-31"}])),
            ("name_of/2", json!("na'me2")),
            ("name_of/3", Value::Null),
            ("name_of/9", Value::Null),
            ("all_ids", json!([{"id": 3}, {"id": 2}, {"id": 1}])),
            ("first_of/na", json!("name1")),
            ("second_of/1.75", json!(2.50)),
            (
                "row_of/1",
                json!({"asked": 1, "id": 1, "testcol1": "name1", "day": "2026-01-31", "price": 1.50}),
            ),
            ("auth/name1/name1", json!(1)),
        ] {
            let reply = kck.get(&format!("/fetch/{key}")).await;
            assert_eq!((reply.status, reply.value()), (200, want), "{key}");
        }
        // A number as the original read it is compared with a column as narrow as serial, and a wrapped SELECT is seen
        // through.
        for product in ["simple1", "simple2", "name_of"] {
            let explained = kck.get(&format!("/explain/{product}")).await.json();
            assert_eq!(explained["class"], json!("direct"), "{explained}");
        }
        let put = |path, body: &str| {
            let form = "application/x-www-form-urlencoded";
            send(&kck.address, ("PUT", path), form, body.to_owned())
        };
        let written = put("/update/simple_updater1_update/1", "id=1&testcol1=changed").await;
        let lsn = written.json()["lsn"].as_str().unwrap().to_owned();
        assert_eq!(kck.at_least("simple1/1", &lsn).await.value(), json!([["changed"]]));
        assert_eq!(kck.at_least("name_of/1", &lsn).await.value(), json!("changed"));
        for path in ["/create/simple_updater1_create", "/create/add"] {
            assert_eq!(put(path, "testcol1=new").await.json()["rows"], json!(1));
        }
        assert_eq!(database.one("select count(*) from testtbl1 where testcol1 = 'new'").await, 2);
        // What named one of two statements names none: it must not become the other.
        assert_eq!(put("/update/simple_updater1", "id=1&testcol1=x").await.status, 404);
        kck.stop().await;
        let checked = crate::support::process::output(&project, &["check"]).await;
        assert!(checked.status.success(), "{}", stdout(&checked));
    });
}

/// Warm keys are those that `domain_key` named.
#[test]
fn a_domain_of_the_original_is_warm() {
    run(async {
        let database = table("import_domain").await;
        let project = Project::new(&database, Store::Embedded).await;
        let original = Folder::new("import_domain_original");
        write(&original.0, ORIGINAL);
        let (from, to) = (original.0.to_str().unwrap(), project.folder.0.to_str().unwrap());
        assert_eq!(import(&[from, "--to", to]).await.0, 0);
        let kck = project.start().await;
        let listed = async {
            loop {
                let keys = kck.get("/keys/name_of").await.json();
                if keys["keys"].as_array().unwrap().len() == 3 {
                    return;
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), listed)
            .await
            .expect("warm keys come");
        kck.stop().await;
    });
}

/// Good, broken YAML, no template, an unknown type, two of one name, Python.
const BAD: &[(&str, &str)] = &[
    ("kprimers/good.yml", "database: test\nquery: {template: select 1}\n"),
    ("kprimers/broken.yml", "database: test\nquery: {template: 'select 1}\n"),
    ("kprimers/empty.yml", "database: test\nquery: {type: rows}\n"),
    (
        "kprimers/typed.yml",
        "database: test\nparameters: [{name: d, type: date}]\nquery: {template: 'select :d'}\n",
    ),
    ("kprimers/a-b.yml", "database: test\nquery: {template: select 1}\n"),
    ("kprimers/deep/a_b.yml", "database: test\nquery: {template: select 2}\n"),
    ("kprimers/top.py", "class Top: pass\n"),
];

/// Nothing of a project is written where something cannot be taken over, unless told; and nothing is written over.
#[test]
fn a_bad_project_is_refused_with_what_to_do() {
    run(async {
        let original = Folder::new("import_bad_original");
        let to = Folder::new("import_bad_to");
        write(&original.0, BAD);
        let (from, target) = (original.0.to_str().unwrap(), to.0.to_str().unwrap());
        let (code, report, complaint) = import(&[from, "--to", target]).await;
        assert_eq!((code, complaint.as_str()), (1, ""));
        let want = format!(
            "kprimers/a-b.yml: not imported
  note: 'a-b' is named 'a_b' here: keys and calls begin with that
  1:1: 'a_b' is also the name of kprimers/deep/a_b.yml
    hint: rename one; the original took the last
kprimers/broken.yml: not imported
  2:19: this is no YAML: while scanning a quoted scalar, found unexpected end of stream
    hint: mend it here or above
kprimers/deep/a_b.yml: not imported
  1:1: 'a_b' is also the name of kprimers/a-b.yml
    hint: rename one; the original took the last
kprimers/empty.yml: not imported
  1:1: query.template is missing
    hint: write the SQL there
kprimers/good.yml: -> products/good.sql
kprimers/top.py: not imported
  1:1: it is Python
    hint: write products/top.toml of kind exec, whose program is Python with kck_worker
kprimers/typed.yml: not imported
  2:30: a parameter's type cannot be 'date'
    hint: the original took int, float, str and string
of all:
  the source is database 'test': its address, which no settings in YAML tell, is [source] url of kck.toml; then run `kck check`
  no rows is an empty answer, which is kept; the original answered an error
  keys are one text a value, and parameters too many are refused
1 files for {target}, 6 of the original's need a hand; nothing was written: --partial writes what can be taken over
"
        );
        assert_eq!(report, want);
        assert!(files_below(&to.0).is_empty());
    });
}

/// What can be taken over is written when told, never over what is there, and the exit code says that some is missing.
#[test]
fn the_rest_of_a_bad_project_is_written_when_told() {
    run(async {
        let original = Folder::new("import_part_original");
        let to = Folder::new("import_part_to");
        write(&original.0, BAD);
        let (from, target) = (original.0.to_str().unwrap(), to.0.to_str().unwrap());
        assert_eq!(import(&[from, "--to", target, "--partial", "--dry-run"]).await.0, 1);
        assert!(files_below(&to.0).is_empty());
        let (code, report, _) = import(&[from, "--to", target, "--partial", "--json"]).await;
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(
            (code, &report["success"], &report["written"]),
            (1, &json!(false), &json!(true))
        );
        assert_eq!(files_below(&to.0), ["products/good.sql"]);

        fs::write(to.0.join("products/good.sql"), "select 'mine'").unwrap();
        let (code, _, complaint) = import(&[from, "--to", target, "--partial"]).await;
        assert_eq!(code, 1);
        assert_eq!(
            complaint,
            format!(
                "kck: {target}/products/good.sql is there already; nothing was written\n  hint: --force writes over, --to names another folder\n"
            )
        );
        assert_eq!(fs::read_to_string(to.0.join("products/good.sql")).unwrap(), "select 'mine'");
        import(&[from, "--to", target, "--partial", "--force"]).await;
        assert!(
            fs::read_to_string(to.0.join("products/good.sql")).unwrap().ends_with("select 1\n")
        );

        fs::create_dir(to.0.join("products/deep")).unwrap();
        fs::rename(to.0.join("products/good.sql"), to.0.join("products/deep/good.sql")).unwrap();
        let (code, _, complaint) = import(&[from, "--to", target, "--partial", "--force"]).await;
        let there = format!("the same names are there already: {target}/products/deep/good.sql");
        assert!(code == 1 && complaint.contains(&there), "{complaint}");
        fs::remove_file(to.0.join("products/deep/good.sql")).unwrap();

        let (code, _, complaint) = import(&[to.0.join("nowhere").to_str().unwrap()]).await;
        assert!(code == 2 && complaint.contains("nowhere: it cannot be read"), "{complaint}");
        let (code, _, complaint) = import(&[target]).await;
        assert_eq!(
            (code, complaint.as_str()),
            (
                2,
                "kck: there is nothing to import\n  hint: name a folder that has kprimers/ or kupdaters/, or YAML files\n"
            )
        );
        let (code, report, _) = import(&[
            original.0.join("kprimers/good.yml").to_str().unwrap(),
            "--to",
            target,
            "--force",
        ])
        .await;
        assert!(code == 0 && report.contains("1 files for"), "{report}");
    });
}
