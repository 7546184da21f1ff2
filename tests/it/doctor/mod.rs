//! What the doctor says of sources that are not as kck needs them, kept beside the tests; and what it says to type
//! mends them.
//!
//! `KCK_UPDATE=1` writes the files in `tests/it/snapshots/doctor` anew.

use std::path::Path;

use kck::local::Postgres;
use serde_json::Value;

use crate::support::{
    kck::{Project, Store},
    process::{output as command, stderr, stdout},
    run,
    servers::{Database, connect, own_postgres},
    setting,
};

mod pooler;
mod teardown;

const FOLDER: &str = "tests/it/snapshots/doctor";

const SCHEMA: &str = "
    create table orders (id bigint primary key, customer_id bigint not null, total numeric);
    alter table orders replica identity full;
";

const ORDERS_OF: &str = "select id, total from orders where customer_id = :customer_id order by id";

/// A database with a table, and a product that reads it.
async fn shop(server: &Postgres, name: &str) -> (Database, Project) {
    let database = Database::on(server, name).await;
    database.run(SCHEMA).await;
    let project = Project::new(&database, Store::Embedded).await;
    project.product("orders_of", ORDERS_OF);
    (database, project)
}

/// What differs from run to run is taken out: numbers with their units, and the test's folder.
fn masked(text: &str, project: &Project) -> String {
    let folder = project.folder.0.display().to_string();
    let mut masked = String::new();
    // That an older server is one is no part of what was kept.
    let text = text.replace(&folder, "FOLDER").replace("WARN  D02", "PASS  D02");
    let aged = |line: &&str| line.contains("upgrade the server when you can");
    for line in text.lines().filter(|line| !aged(line)) {
        let is_finding = ["PASS", "WARN", "FAIL"].iter().any(|verdict| line.starts_with(verdict));
        let (id, rest) = line.split_at(if is_finding { 9 } else { 0 });
        masked.push_str(id);
        let mut left = rest;
        while let Some(at) = left.find(|sign: char| sign.is_ascii_digit()) {
            masked.push_str(&left[..at]);
            if masked.ends_with(" D") || masked.ends_with("(D") {
                // Another finding's id.
                masked.push_str(&left[at..at + 2]);
                left = &left[at + 2..];
                continue;
            }
            masked.push('#');
            left = left[at..].trim_start_matches(|sign: char| sign.is_ascii_digit());
            let unit = ["kB", "MB'", "MB ", "MB:", "MB)", "GB"]
                .iter()
                .find(|unit| left.starts_with(**unit));
            left = unit.map_or(left, |_| &left[2..]);
        }
        masked.push_str(left);
        masked.push('\n');
    }
    masked
}

/// Runs the doctor, and compares what it says with what is kept under this name.
async fn says(project: &Project, name: &str) {
    let output = command(project, &["doctor"]).await;
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
    let found = masked(&stdout(&output), project);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER).join(format!("{name}.txt"));
    if setting("KCK_UPDATE").is_some_and(|update| update == 1) {
        std::fs::write(&path, &found).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == found,
        "{FOLDER}/{name}.txt is not what is said; KCK_UPDATE=1 writes it anew\nkept:\n{kept}\nsaid:\n{found}"
    );
}

async fn report(project: &Project, arguments: &[&str]) -> Value {
    let output = command(project, &[&["doctor", "--json"], arguments].concat()).await;
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}{}", stdout(&output), stderr(&output)));
    let fails = report["summary"]["fail"].as_u64().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(fails > 0)), "{report:#}");
    report
}

/// The findings of this id: verdict and what was found.
fn of(report: &Value, id: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap().iter();
    let findings = findings.filter(|finding| finding["id"] == id);
    findings.map(|finding| (text(&finding["verdict"]), text(&finding["found"]))).collect()
}

/// Types what the doctor says of all that fails, as the superuser and in the settings; then nothing fails.
async fn heals(server: &mut Postgres, database: &str, project: &mut Project) {
    let before = report(project, &[]).await;
    for finding in before["findings"].as_array().unwrap() {
        if finding["verdict"] != "fail" {
            continue;
        }
        for step in finding["fix"].as_array().unwrap() {
            let step = step.as_str().unwrap();
            if step.ends_with(';') {
                let admin = connect(&server.url(database)).await;
                admin.batch_execute(step).await.unwrap_or_else(|error| panic!("{step}: {error:?}"));
            } else if step == "restart the server" {
                server.restart().await.unwrap();
            } else if let Some(line) = step.strip_prefix("in kck.toml, below [source]: ") {
                project.settings =
                    project.settings.replacen("[source]", &format!("[source]\n{line}"), 1);
            }
        }
    }
    let after = report(project, &[]).await;
    assert_eq!(after["summary"]["fail"], 0, "{after:#}");
}

#[test]
fn a_server_without_logical_log_is_told_how_to_have_one() {
    run(async {
        let mut server = own_postgres(&[("wal_level", "replica")]).await;
        let (_database, mut project) = shop(&server, "replica").await;
        says(&project, "wal_level").await;
        heals(&mut server, "replica", &mut project).await;
        // As healthy as it says: kck starts, and the doctor is as content beside it.
        let kck = project.start().await;
        let beside = report(&project, &[]).await;
        assert_eq!(beside["summary"]["fail"], 0, "{beside:#}");
        assert!(of(&beside, "D26")[0].1.contains("a running kck has the store"), "{beside:#}");
        assert!(of(&beside, "D22")[0].1.contains("read by pid"), "{beside:#}");
        kck.stop().await;
        let after = report(&project, &[]).await;
        assert!(of(&after, "D26")[0].1.contains("the store is of this source"), "{after:#}");
    });
}

#[test]
fn a_role_without_rights_is_told_which_it_needs() {
    run(async {
        let mut server = own_postgres(&[]).await;
        let database = Database::on(&server, "rights").await;
        database
            .run("create schema app; create table app.orders (id bigint primary key, customer_id bigint not null);
                alter table app.orders replica identity full; create role \"Reader\" login")
            .await;
        let url = database.url.replacen("postgres@", "Reader@", 1);
        let mut project = Project::named("rights", &url, Store::Memory).await;
        project.product("orders_of", "select id from app.orders where customer_id = :customer_id");
        says(&project, "no_rights").await;
        heals(&mut server, "rights", &mut project).await;
        project.start().await.stop().await;
    });
}

#[test]
fn a_table_without_key_is_told_how_to_be_followed() {
    run(async {
        let mut server = own_postgres(&[]).await;
        let (database, mut project) = shop(&server, "keys").await;
        database.run("create table notes (id bigint, note text)").await;
        project.product("notes_of", "select note from notes where id = :id");
        says(&project, "no_key").await;
        heals(&mut server, "keys", &mut project).await;
    });
}

#[test]
fn a_table_that_fails_its_writers_leaves_the_publication_and_stays_as_it_is() {
    run(async {
        let server = own_postgres(&[]).await;
        let (database, project) = shop(&server, "harmed").await;
        database.run("create table notes (id bigint, note text)").await;
        database.run("create publication harmed for table notes").await;
        project.product("notes_of", "select note from notes where id = :id");
        let update = "update notes set note = 'x'";
        assert!(database.client.batch_execute(update).await.is_err());
        says(&project, "published_without_key").await;
        let fixed = report(&project, &["--fix"]).await;
        assert!(fixed["fixed"].to_string().contains("drop table only public.notes"), "{fixed:#}");
        assert!(fixed["fixed"].to_string().contains("add table only public.orders"), "{fixed:#}");
        database.run(update).await;
        let identity =
            "select count(*) from pg_class where relname = 'notes' and relreplident = 'd'";
        assert_eq!(database.one(identity).await, 1, "the table is the user's");
        let again = report(&project, &["--fix"]).await;
        assert_eq!(again["fixed"][0], "nothing: there is nothing that kck mends");
    });
}

#[test]
fn a_server_without_a_free_slot_is_told_how_to_have_one() {
    run(async {
        let mut server = own_postgres(&[("max_replication_slots", "2")]).await;
        let (database, mut project) = shop(&server, "no_slot").await;
        for slot in ["one", "other"] {
            database
                .run(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')"))
                .await;
        }
        says(&project, "no_free_slot").await;
        heals(&mut server, "no_slot", &mut project).await;
    });
}

#[test]
fn a_lost_slot_is_told_how_to_go_and_to_stay() {
    run(async {
        let mut server = own_postgres(&[("max_slot_wal_keep_size", "1MB")]).await;
        let (database, mut project) = shop(&server, "lost").await;
        database.run("select pg_create_logical_replication_slot('lost', 'pgoutput')").await;
        let lost =
            "select count(*) from pg_replication_slots where coalesce(wal_status, 'lost') = 'lost'";
        while database.one(lost).await == 0 {
            database.run("insert into orders values (1, 1, 1) on conflict do nothing").await;
            database.run("update orders set total = 2").await;
            database.run("select pg_switch_wal()").await;
            database.run("checkpoint").await;
        }
        says(&project, "lost_slot").await;
        heals(&mut server, "lost", &mut project).await;
    });
}

#[test]
fn a_publication_of_all_tables_is_told_whom_it_harms() {
    run(async {
        let mut server = own_postgres(&[]).await;
        let (database, mut project) = shop(&server, "whole").await;
        database.run("create table notes (id bigint, note text)").await;
        database.run("create publication whole for all tables").await;
        says(&project, "all_tables").await;
        heals(&mut server, "whole", &mut project).await;
    });
}

#[test]
fn a_source_that_is_away_leaves_the_rest_to_be_judged() {
    run(async {
        let url = "postgres://kck:geheim@127.0.0.1:1/shop";
        let project = Project::named("away", url, Store::Embedded).await;
        project.product("two", "select 1; select 2");
        says(&project, "away").await;
        let output = command(&project, &["doctor", "--fix"]).await;
        let said = stdout(&output) + &stderr(&output);
        assert!(output.status.code() == Some(1) && !said.contains("geheim"), "{said}");
    });
}

#[test]
fn settings_that_cannot_be_read_are_no_finding() {
    run(async {
        let mut project = Project::named("unread", "host=", Store::Memory).await;
        project.settings = project.settings.replace("host=", "colour=blue");
        let output = command(&project, &["doctor"]).await;
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        project.settings = "[source]\nslott = \"kck\"\n".to_owned();
        let output = command(&project, &["doctor"]).await;
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("slott"), "{}", stderr(&output));
    });
}

#[test]
fn a_cassandra_is_looked_into_and_nothing_is_made() {
    run(async {
        let server = own_postgres(&[]).await;
        let database = Database::on(&server, "doctor_cassandra").await;
        database.run(SCHEMA).await;
        let project = Project::new(&database, Store::Cassandra).await;
        project.product("orders_of", ORDERS_OF);
        for _ in 0..2 {
            let empty = report(&project, &[]).await;
            assert!(of(&empty, "D33")[0].1.contains("not there yet"), "{empty:#}");
        }
        let kck = project.start().await;
        let beside = report(&project, &[]).await;
        assert!(of(&beside, "D33")[0].1.contains("one copy"), "{beside:#}");
        assert!(of(&beside, "D26")[0].1.contains("the store is of this source"), "{beside:#}");
        kck.stop().await;
    });
}
