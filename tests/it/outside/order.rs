//! What programs depend on: tables, products, each other. A commit reaches every answer that it touches, once.

use std::collections::BTreeMap;

use kck::observe::Event;
use serde_json::json;
use tokio::sync::broadcast::Receiver;

use super::{PATIENCE, command, noted};
use crate::support::{
    client::get,
    kck::{Kck, Project},
    process::{output, stdout},
    run,
    servers::Database,
};

/// `sum_of` in SQL, and programs over tables and over each other; one of them over everything of one.
async fn levels(name: &str) -> (Database, Project) {
    levels_by(name, &[]).await
}

async fn levels_by(name: &str, arguments: &[&str]) -> (Database, Project) {
    let database = Database::new(name).await;
    let project = Project::sums(&database).await;
    let by_owner = "params = { owner = \"bigint\" }\neager = \"always\"\n";
    let on = |names: &[&str]| {
        let entry =
            |name: &&str| format!("{{ product = {name:?}, match = {{ owner = \"owner\" }} }}");
        format!("depends = [{}]\n", names.iter().map(entry).collect::<Vec<_>>().join(", "))
    };
    let text = command(&project, arguments);
    for name in ["twice", "thrice"] {
        project.recipe(name, &format!("{text}{by_owner}{}", on(&["sum_of"])));
    }
    project.recipe("total", &format!("{text}{by_owner}{}", on(&["twice", "thrice"])));
    project.recipe(
        "sums",
        &format!("{text}params = {{ owners = \"text\" }}\neager = \"always\"\ndepends = [{{ product = \"sum_of\" }}]"),
    );
    project.recipe(
        "seen",
        &format!("{text}params = {{ owner = \"int\" }}\neager = \"always\"\ndepends = [{{ table = \"public.items\", match = {{ owner = \"owner\" }} }}]"),
    );
    (database, project)
}

/// Returns when these keys have been computed; how often each key was comes back.
async fn refreshed(events: &mut Receiver<Event>, keys: &[&str]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    while !keys.iter().all(|key| counts.contains_key(*key)) {
        let event = Kck::event(events, |event| matches!(event, Event::Refreshed { .. })).await;
        let Event::Refreshed { key, .. } = event else { unreachable!() };
        *counts.entry(key.to_string()).or_default() += 1;
    }
    counts
}

/// Returns when nothing is queued or being computed.
async fn quiet(kck: &Kck) {
    let recompute = &kck.app.context.recompute;
    let wait = async {
        while recompute.counts().queued + recompute.counts().running > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("everything is computed");
}

#[test]
fn a_program_sees_what_was_committed_to_the_tables_it_names() {
    run(async {
        let (database, project) = levels("outside_tables").await;
        let kck = project.start().await;
        for owner in [1, 2] {
            assert_eq!(kck.get(&format!("/fetch/seen/{owner}")).await.status, 200);
        }
        let two = kck.get("/fetch/seen/2").await.json();
        let mut events = kck.observer.subscribe();
        database.run("update items set n = 5 where id = 1").await;
        assert_eq!(refreshed(&mut events, &["seen/1"]).await["seen/1"], 1);
        let one = kck.get("/fetch/seen/1").await;
        assert_eq!((one.status, one.header("kck-stale")), (200, "false"));
        // A row that moves touches both, any other column counts, and others are left alone.
        database.run("update items set owner = 2 where id = 4").await;
        refreshed(&mut events, &["seen/1", "seen/2"]).await;
        quiet(&kck).await;
        let log = noted(&project, "log");
        let times = |key: &str| log.iter().filter(|line| *line == key).count();
        assert_eq!((times("seen/1"), times("seen/2")), (3, 2));
        assert_ne!(kck.get("/fetch/seen/2").await.json()["as_of"], two["as_of"]);
        // Without a certificate its own position must be there; what is not is computed.
        let lsn = database.commit("update items set n = 6 where id = 3").await;
        let one = kck.at_least("seen/1", &lsn).await;
        assert_eq!((one.status, one.header("kck-source")), (200, "wait"));
        kck.stop().await;
    });
}

#[test]
fn three_levels_and_a_diamond_are_computed_once_each_in_order() {
    run(async {
        let (database, project) = levels("outside_levels").await;
        let kck = project.start().await;
        assert_eq!(kck.get("/fetch/total/1?wait=20s").await.value(), json!(0));
        assert_eq!(kck.get("/fetch/sums/1,2?wait=20s").await.value(), json!(0));
        quiet(&kck).await;
        for n in 1..=5 {
            let before = noted(&project, "log").len();
            let mut events = kck.observer.subscribe();
            database.run(&format!("update items set n = {n} where id = 1")).await;
            let keys = ["sum_of/1", "twice/1", "thrice/1", "total/1", "sums/1%2C2"];
            let counts = refreshed(&mut events, &keys).await;
            quiet(&kck).await;
            assert!(counts.values().all(|count| *count == 1), "{counts:?}");
            let mut log = noted(&project, "log").split_off(before);
            log.retain(|line| !line.starts_with("sums/"));
            assert_eq!(log.len(), 3, "{log:?}");
            assert_eq!(log[2], "total/1");
            for (key, want) in [("total/1", 5 * n), ("sums/1,2", n), ("twice/1", 2 * n)] {
                let reply = kck.get(&format!("/fetch/{key}")).await;
                assert_eq!((reply.value(), reply.header("kck-stale")), (json!(want), "false"));
            }
        }
        kck.stop().await;
    });
}

#[test]
fn a_reader_that_demands_a_commit_gets_it_through_every_level() {
    run(async {
        let (database, project) = levels("outside_demands").await;
        let kck = project.start().await;
        for n in 1..=5 {
            let lsn = database.commit(&format!("update items set n = {n} where id = 2")).await;
            assert_eq!(kck.at_least("total/2", &lsn).await.value(), json!(5 * n));
            assert_eq!(kck.at_least("sums/0,2", &lsn).await.value(), json!(n));
        }
        kck.stop().await;
    });
}

#[test]
fn an_edit_below_reaches_programs_above() {
    run(async {
        let (database, project) = levels("outside_edited").await;
        let kck = project.start().await;
        database.run("update items set n = 1 where id = 1").await;
        kck.kept("total/1", &json!(5)).await;
        let mut events = kck.observer.subscribe();
        project.product(
            "sum_of",
            "/* kck\nresult = \"value\"\n*/\nselect 10 * sum(n)::bigint from items where owner = :owner",
        );
        // Whoever depends on it joins after it.
        for name in ["sum_of", "total"] {
            let joined = |event: &Event| matches!(event, Event::ProductJoined { product, .. } if product == name);
            Kck::event(&mut events, joined).await;
        }
        kck.kept("twice/1", &json!(20)).await;
        kck.kept("total/1", &json!(50)).await;
        // A column that comes may be one that a program reads.
        let mut events = kck.observer.subscribe();
        database.run("alter table items add column more int").await;
        let moved = |event: &Event| matches!(event, Event::ProductJoined { product, .. } if product == "seen");
        Kck::event(&mut events, moved).await;
        database.run("update items set n = 2 where id = 1").await;
        kck.joined().await;
        kck.stop().await;
    });
}

#[test]
fn a_demand_is_not_met_by_an_answer_of_another_definition() {
    run(async {
        let (database, project) = levels("outside_redefined").await;
        let kck = project.start().await;
        let lsn = database.commit("update items set n = 1 where id = 1").await;
        assert_eq!(kck.at_least("sum_of/1", &lsn).await.value(), json!(1));
        let mut events = kck.observer.subscribe();
        project.product(
            "sum_of",
            "/* kck\nresult = \"value\"\n*/\nselect (10 * sum(n))::bigint as sum from items where owner = :owner",
        );
        let loaded = |event: &Event| matches!(event, Event::ProductLoaded { product, .. } if product == "sum_of");
        Kck::event(&mut events, loaded).await;
        for _ in 0..3 {
            assert_eq!(kck.at_least("sum_of/1", &lsn).await.value(), json!(10));
        }
        kck.stop().await;
    });
}

#[test]
fn an_edit_below_while_kck_is_stopped_reaches_programs_above() {
    run(async {
        let (_database, project) = levels("outside_stopped").await;
        let now = |now: &str| std::fs::write(project.folder.0.join("now"), now).unwrap();
        let clock = |arguments: &[&str]| {
            let text = command(&project, arguments);
            let clock = format!("{text}params = {{ owner = \"bigint\" }}\nrefresh = []");
            project.recipe("clock", &clock);
        };
        let depends = "depends = [{ product = \"clock\", match = { owner = \"owner\" } }]";
        let text = command(&project, &[]);
        let beside = format!("{text}params = {{ owner = \"int\" }}\n{depends}");
        project.recipe("beside", &beside);
        for (n, arguments) in [(1, &[][..]), (2, &["", "2"]), (3, &["", "3"])] {
            now(&n.to_string());
            clock(arguments);
            let kck = project.start_unjoined().await;
            kck.kept("beside/1", &json!(10 + n)).await;
            kck.stop().await;
        }
    });
}

#[test]
fn programs_of_one_command_do_not_wait_for_each_other_for_ever() {
    run(async {
        // One request at once, and no more than one program is asked for.
        let (_database, project) = levels_by("outside_chain", &["", "1"]).await;
        let kck = project.start().await;
        let asked = (0..6).map(|owner| {
            let address = kck.address.clone();
            tokio::spawn(async move {
                get(&address, &format!("/fetch/total/{owner}?wait=25s"), &[]).await.unwrap().status
            })
        });
        for status in futures_util::future::join_all(asked).await {
            assert_eq!(status.unwrap(), 200);
        }
        kck.stop().await;
    });
}

#[test]
fn an_answer_that_no_commit_changes_reaches_those_that_depend_on_it() {
    run(async {
        let (_database, project) = levels("outside_entries").await;
        let text = command(&project, &[]);
        std::fs::write(project.folder.0.join("now"), "1").unwrap();
        let clock = format!("{text}params = {{ owner = \"bigint\" }}\nrefresh = []");
        project.recipe("clock", &clock);
        let depends = "depends = [{ product = \"clock\", match = { owner = \"owner\" } }]";
        let beside = format!("{text}params = {{ owner = \"int\" }}\neager = \"always\"\n{depends}");
        project.recipe("beside", &beside);
        let kck = project.start().await;
        assert_eq!(kck.get("/fetch/beside/1?wait=20s").await.value(), json!(11));
        assert_eq!(kck.get("/fetch/beside/2?wait=20s").await.value(), json!(11));
        quiet(&kck).await;
        for n in 2..5 {
            std::fs::write(project.folder.0.join("now"), n.to_string()).unwrap();
            let mut events = kck.observer.subscribe();
            assert_eq!(kck.get("/fetch/clock/1?fresh=true&wait=20s").await.value(), json!(n));
            refreshed(&mut events, &["beside/1"]).await;
            quiet(&kck).await;
            let reply = kck.get("/fetch/beside/1").await;
            assert_eq!((reply.value(), reply.header("kck-stale")), (json!(10 + n), "false"));
        }
        // Nobody asked for the other's clock.
        assert_eq!(kck.get("/fetch/beside/2").await.value(), json!(11));
        kck.stop().await;
    });
}

#[test]
fn what_depends_on_what_is_shown() {
    run(async {
        let (_database, project) = levels("outside_shown").await;
        let check = output(&project, &["check"]).await;
        assert!(check.status.success(), "{}", stdout(&check));
        let explain = stdout(&output(&project, &["explain", "total"]).await);
        for line in [
            "total (:owner): direct",
            "depends on product twice",
            "public.items: direct, a change costs a hash",
            "direct: owner = :owner",
        ] {
            assert!(explain.contains(line), "{line} in {explain}");
        }
        let sums = stdout(&output(&project, &["explain", "sums"]).await);
        assert!(sums.contains("nothing of it is matched with a parameter"), "{sums}");
        let dot = stdout(&output(&project, &["explain", "--dot"]).await);
        assert!(dot.contains("label=\"product\"") && dot.contains("label=\"twice\""), "{dot}");
        let kck = project.start().await;
        let explained = kck.get("/explain/total").await.json();
        assert_eq!(explained["depends"], json!(["twice", "thrice"]), "{explained}");
        kck.stop().await;
    });
}

#[test]
fn what_cannot_be_depended_on_is_refused() {
    run(async {
        let (database, project) = levels("outside_refused").await;
        database
            .run("create table bare (n int); create table moods (id uuid primary key, city text)")
            .await;
        let text =
            "kind = \"exec\"\ncommand = [\"true\"]\nparams = { city = \"text\", n = \"int\" }\n";
        for (name, depends) in [
            ("table", "{ table = \"nowhere\" }"),
            ("column", "{ table = \"moods\", match = { town = \"city\" } }"),
            ("kind", "{ table = \"moods\", match = { id = \"n\" } }"),
            ("bare", "{ table = \"bare\" }"),
            ("types", "{ product = \"seen\", match = { owner = \"city\" } }"),
            ("fine", "{ table = \"moods\", match = { city = \"city\" } }"),
        ] {
            project.recipe(&format!("bad_{name}"), &format!("{text}depends = [{depends}]"));
        }
        let checked = output(&project, &["check"]).await;
        let said = stdout(&checked);
        assert_eq!(checked.status.code(), Some(1));
        for want in [
            "bad_table.toml:4:22: relation \"nowhere\" does not exist\n  hint: name a table",
            "bad_column.toml:4:41: column moods.town does not exist\n  hint: match has a column of the table on the left",
            "bad_kind.toml:4:41: operator does not exist: uuid = integer\n  hint: these two cannot be compared",
            "bad_types.toml:4:42: operator does not exist: text = integer\n  hint: these two cannot be compared",
            "bad_bare.toml:1:1: table public.bare cannot be followed",
            "bad_fine: ready",
        ] {
            assert!(said.contains(want), "{want}\nin\n{said}");
        }
    });
}
