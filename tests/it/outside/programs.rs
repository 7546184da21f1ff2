//! Programs that answer, and programs that misbehave: what they do harms no product but their own.

use serde_json::{Value, json};

use super::{PATIENCE, command, lives, none_left, noted, until};
use crate::support::{
    client::get,
    kck::{Kck, Project},
    process::Process,
    run,
    servers::Database,
};

/// `sum_of` in SQL, `steady` by a program of its own, and `odd`, which does what its parameter says.
async fn shop(name: &str) -> (Database, Project) {
    let database = Database::new(name).await;
    let project = Project::sums(&database).await;
    let steady = command(&project, &["steady"]);
    project.recipe("steady", &format!("{steady}params = {{ n = \"int\" }}\nrefresh = []"));
    let odd = command(&project, &[]);
    project.recipe(
        "odd",
        &format!("{odd}params = {{ what = \"text\" }}\nrefresh = []\ntimeout = \"3s\""),
    );
    (database, project)
}

/// The others are computed, each anew.
async fn others_answer(kck: &Kck, n: u32) {
    let steady = kck.get(&format!("/fetch/steady/{n}?fresh=true&wait=20s")).await.value();
    assert_eq!(steady["params"], json!({ "n": n.to_string() }));
    assert_eq!(kck.get("/fetch/sum_of/1?fresh=true&wait=20s").await.value(), json!(0));
}

async fn shown(kck: &Kck, name: &str) -> Value {
    let products = kck.get("/products").await.json();
    let all = products["products"].as_array().unwrap();
    all.iter().find(|product| product["name"] == name).unwrap().clone()
}

#[test]
fn a_program_answers() {
    run(async {
        let (_database, project) = shop("outside_answers").await;
        let kck = project.start().await;
        let reply = kck.get("/fetch/odd/caf%C3%A9%20%22x%22").await;
        let want = json!({ "name": "odd", "params": { "what": "café \"x\"" }, "server": "http" });
        assert_eq!(reply.value(), want);
        assert_eq!(reply.header("kck-source"), "miss");
        assert_eq!(kck.get("/fetch/odd/caf%C3%A9%20%22x%22").await.header("kck-source"), "hit");
        // The canonical text is the key and the parameter.
        assert_eq!(kck.get("/fetch/steady/007").await.value()["params"], json!({ "n": "7" }));
        assert_eq!(kck.get("/fetch/steady/x").await.status, 400);
        assert_eq!(noted(&project, "log"), ["odd/café \"x\"", "steady/7"]);
        assert_eq!(shown(&kck, "odd").await["kind"], "exec");
        let document = kck.get("/openapi.json").await.json();
        let schema = document["components"]["schemas"]["product_odd"]["properties"].clone();
        assert_eq!(schema["value"], json!({}));
        kck.stop().await;
        none_left(&project, 2).await;
    });
}

#[test]
fn whatever_a_program_does_others_go_on() {
    const WAYS: [(&str, &str, &str); 8] = [
        ("crash", "its program was lost", "exit status: 3"),
        ("hang", "its program did not answer in time", "2000 ms"),
        ("flood", "its program was lost", "a line of more than"),
        ("nonsense", "its program was lost", "it wrote what is no answer"),
        ("stranger", "its program was lost", "123456"),
        ("fork", "its program was lost", "exit status: 4"),
        ("ignore", "its program did not answer in time", "2000 ms"),
        ("refuse", "its program says that it cannot", "it does not want to"),
    ];
    run(async {
        let (_database, project) = shop("outside_misbehaves").await;
        for (what, ..) in WAYS {
            // Each has programs of its own, which are tried again at their own pace.
            let text = command(&project, &[&format!("odd_{what},more")]);
            let policy = "params = { what = \"text\" }\nrefresh = []\ntimeout = \"2s\"";
            project.recipe(&format!("odd_{what}"), &format!("{text}{policy}"));
        }
        let kck = project.start().await;
        others_answer(&kck, 0).await;
        for (n, (what, fact, why)) in WAYS.into_iter().enumerate() {
            let (address, product) = (kck.address.clone(), format!("odd_{what}"));
            let path = format!("/fetch/{product}/{what}?wait=30s");
            let asked = tokio::spawn(async move { get(&address, &path, &[]).await.unwrap() });
            others_answer(&kck, u32::try_from(n).unwrap() + 1).await;
            let reply = asked.await.unwrap();
            assert_eq!(reply.status, 503, "{what}");
            let error = &reply.json()["error"];
            assert_eq!(error["name"], "product_broken", "{what}");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(fact), "{what}: {message}");
            let trouble = shown(&kck, &product).await["trouble"].to_string();
            assert!(trouble.contains(why), "{what}: {trouble}");
            let ready = kck.get("/readyz").await;
            assert_eq!(ready.status, 200);
            assert!(ready.json()["reasons"].to_string().contains("no answer of late: odd_"));
            // Another program answers what the next one asks for.
            let well = async {
                while kck.get(&format!("/fetch/{product}/well?wait=20s")).await.status != 200 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, well).await.expect("it works again");
            assert_eq!(shown(&kck, &product).await["trouble"], Value::Null);
        }
        assert_eq!(kck.get("/fetch/odd/chatter?wait=30s").await.status, 200);
        kck.stop().await;
        none_left(&project, 10).await;
    });
}

#[test]
fn others_are_computed_while_one_hangs() {
    run(async {
        let (_database, project) = shop("outside_hangs").await;
        let odd = command(&project, &[]);
        let odd = format!("{odd}params = {{ what = \"text\" }}\nrefresh = []\ntimeout = \"60s\"");
        project.recipe("odd", &odd);
        let kck = project.start().await;
        let hanging: Vec<_> = (0..8)
            .map(|_| {
                let address = kck.address.clone();
                tokio::spawn(async move {
                    get(&address, "/fetch/odd/hang?wait=30s&fresh=true", &[]).await.unwrap()
                })
            })
            .collect();
        until("it hangs", || !noted(&project, "log").is_empty()).await;
        for n in 0..20 {
            others_answer(&kck, n).await;
        }
        assert!(hanging.iter().all(|one| !one.is_finished()));
        hanging.iter().for_each(tokio::task::JoinHandle::abort);
        kck.stop().await;
        none_left(&project, 2).await;
    });
}

#[test]
fn a_program_that_cannot_be_spoken_with_says_why() {
    run(async {
        let database = Database::new("outside_greets").await;
        let project = Project::sums(&database).await;
        let none = "kind = \"exec\"\ncommand = [\"/no/such/program\"]\n";
        for (name, text) in [
            ("old", command(&project, &["old"])),
            ("missing", command(&project, &["another"])),
            ("none", none.to_owned()),
        ] {
            project.recipe(name, &format!("{text}refresh = []"));
        }
        let kck = project.start().await;
        for (name, fact, why) in [
            ("old", "its program does not run", "version 0 of the protocol, not 1"),
            (
                "missing",
                "its program does not know it",
                "does not know 'missing': it knows another",
            ),
            ("none", "its program does not run", "it ended before it greeted (exit status: 127)"),
        ] {
            let reply = kck.get(&format!("/fetch/{name}?wait=30s")).await;
            assert_eq!(reply.status, 503, "{name}");
            assert!(reply.json()["error"]["message"].as_str().unwrap().contains(fact), "{name}");
            let trouble = shown(&kck, name).await["trouble"].to_string();
            assert!(trouble.contains(why), "{name}: {trouble}");
        }
        kck.stop().await;
    });
}

#[test]
fn the_last_answer_stands_in_for_a_program_that_fails() {
    run(async {
        let database = Database::new("outside_stands_in").await;
        let project = Project::sums(&database).await;
        let text = command(&project, &[]);
        let depends = "depends = [{ table = \"items\" }]";
        project.recipe("seen", &format!("{text}{depends}"));
        project.recipe("awaited", &format!("{text}{depends}\nstale = \"wait\""));
        let kck = project.start().await;
        let (seen, _) = (kck.get("/fetch/seen").await.value(), kck.get("/fetch/awaited").await);
        std::fs::write(project.folder.0.join("sick"), "").unwrap();
        let lsn = database.commit("update items set n = 1 where id = 1").await;
        // Who demands it is told; whoever takes what there is gets the last answer, and that it is stale.
        assert_eq!(kck.at_least("seen", &lsn).await.status, 503);
        let reply = kck.get("/fetch/seen").await;
        assert_eq!((reply.value(), reply.header("kck-stale")), (seen, "true"));
        assert_eq!(kck.get("/fetch/awaited").await.status, 503);
        std::fs::remove_file(project.folder.0.join("sick")).unwrap();
        assert_eq!(kck.at_least("seen", &lsn).await.header("kck-stale"), "false");
        kck.stop().await;
    });
}

#[test]
fn nothing_outlives_a_kck_that_is_killed() {
    run(async {
        let (_database, project) = shop("outside_killed").await;
        let process = Process::start(&project, "").await;
        let address = process.address.clone();
        let asked =
            tokio::spawn(async move { get(&address, "/fetch/odd/ignore?wait=1s", &[]).await });
        assert_eq!(get(&process.address, "/fetch/steady/1", &[]).await.unwrap().status, 200);
        until("its programs run", || noted(&project, "pids").len() >= 4).await;
        assert!(noted(&project, "pids").iter().all(|one| lives(one)));
        process.kill().await;
        none_left(&project, 4).await;
        drop(asked.await);
    });
}

#[test]
fn files_come_change_and_go() {
    run(async {
        let (_database, project) = shop("outside_files").await;
        let kck = project.start().await;
        let mut events = kck.observer.subscribe();
        let text = command(&project, &["late"]);
        project.recipe("late", &format!("{text}refresh = []"));
        let loaded = |event: &kck::observe::Event| matches!(event, kck::observe::Event::ProductLoaded { product, .. } if product == "late");
        Kck::event(&mut events, loaded).await;
        assert_eq!(kck.get("/fetch/late").await.value()["name"], "late");
        let running = noted(&project, "pids");
        project.recipe("late", "kind = \"exec\"\ncommand = []");
        let kept = |event: &kck::observe::Event| matches!(event, kck::observe::Event::ProductKept { product, .. } if product == "late");
        let kck::observe::Event::ProductKept { why, .. } = Kck::event(&mut events, kept).await
        else {
            unreachable!()
        };
        assert!(why.contains("late.toml:2:1: command is no command"), "{why}");
        assert_eq!(kck.get("/fetch/late?fresh=true").await.status, 200);
        std::fs::remove_file(project.folder.0.join("products/late.toml")).unwrap();
        let gone = |event: &kck::observe::Event| matches!(event, kck::observe::Event::ProductRemoved { product } if product == "late");
        Kck::event(&mut events, gone).await;
        assert_eq!(kck.get("/fetch/late").await.status, 404);
        until("its program ends", || !running.iter().any(|one| lives(one))).await;
        kck.stop().await;
    });
}
