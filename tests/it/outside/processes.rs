//! Processes that programs and addresses do: what became of each is known as far as it can be.

use kck::{
    observe::Event,
    process::{Outcome, Said},
};
use tokio::sync::broadcast::Receiver;

use super::{PATIENCE, addresses::Server, none_left, noted, until};
use crate::support::{
    client::{get, send},
    kck::{Kck, Project, Store},
    process::Process,
    run,
    servers::Database,
};

const PROGRAM: &str = include_str!("../fixtures/processes.py");

/// Begins a run, as soon as kck knows the time at the source.
pub(super) async fn begin(kck: &Kck, name: &str) {
    begin_at(&kck.address, name).await;
}

async fn begin_at(address: &str, name: &str) {
    let path = format!("/processes/{name}/run");
    let begun = async {
        loop {
            let reply = send(address, ("POST", path.as_str()), "", String::new()).await;
            match reply.status {
                200 => return,
                503 => {}
                _ => panic!("{}", reply.json()),
            }
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.expect("it begins");
}

/// The end of a run that is asked for.
async fn run_of(kck: &Kck, events: &mut Receiver<Event>, name: &str) -> Outcome {
    begin(kck, name).await;
    let is = |event: &Event| matches!(event, Event::Process { process, said: Said::Ended { .. } } if process == name);
    match Kck::event(events, is).await {
        Event::Process { said: Said::Ended { outcome, .. }, .. } => outcome,
        other => panic!("{other:?}"),
    }
}

async fn project(name: &str, files: &[(&str, String)]) -> (Database, Project) {
    let database = Database::new(name).await;
    let project = Project::new(&database, Store::Memory).await;
    let folder = project.folder.0.join("processes");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, text) in files {
        std::fs::write(folder.join(format!("{name}.toml")), text).unwrap();
    }
    (database, project)
}

#[test]
fn programs_do_processes_once_and_say_what_became_of_them() {
    run(async {
        let text = "kind = \"exec\"\ncommand = [\"python3\", \"program.py\"]\n";
        let files = ["does", "hangs", "refuses", "dies", "strange"];
        let file = |name: &str| match name {
            // Long enough that it has heard of it.
            "hangs" => format!("{text}timeout = \"2s\""),
            _ => text.to_owned(),
        };
        let files: Vec<(&str, String)> = files.iter().map(|name| (*name, file(name))).collect();
        let (_database, project) = project("outside_processes", &files).await;
        std::fs::write(project.folder.0.join("program.py"), PROGRAM).unwrap();
        let kck = project.start().await;
        let mut events = kck.observer.subscribe();
        assert_eq!(run_of(&kck, &mut events, "does").await, Outcome::Done);
        let refused = run_of(&kck, &mut events, "refuses").await;
        assert!(refused.why().contains("not today") && refused.name() == "failed", "{refused:?}");
        let strange = run_of(&kck, &mut events, "strange").await;
        assert_eq!(strange.name(), "failed", "{strange:?}");
        assert_eq!(run_of(&kck, &mut events, "hangs").await, Outcome::TimedOut);
        let died = run_of(&kck, &mut events, "dies").await;
        assert_eq!(died.name(), "unknown", "{died:?}");
        assert_eq!(noted(&project, "asked"), ["does", "refuses", "hangs", "dies"], "each once");
        assert_eq!(run_of(&kck, &mut events, "does").await, Outcome::Done, "it goes on");
        history_is(&kck.address, "does", &[(2, "done"), (1, "done")]).await;
        kck.stop().await;
    });
}

#[test]
fn an_address_is_told_once_by_post() {
    run(async {
        let server = Server::start().await;
        let file =
            |path: &str| format!("kind = \"http\"\nurl = \"http://{}/{path}\"\n", server.address);
        let files = [("tells", file("plain")), ("fails", file("none"))];
        let (_database, project) = project("outside_told", &files).await;
        let kck = project.start().await;
        let mut events = kck.observer.subscribe();
        assert_eq!(run_of(&kck, &mut events, "tells").await, Outcome::Done);
        assert!(server.last().starts_with("POST /plain HTTP/1.1"), "{}", server.last());
        let failed = run_of(&kck, &mut events, "fails").await;
        assert!(failed.name() == "failed" && failed.why().contains("answers 404"), "{failed:?}");
        kck.stop().await;
    });
}

/// The connection that keeps others from running a process is lost: nobody would keep them from it any more.
#[test]
fn a_run_whose_lock_is_lost_is_given_up() {
    run(async {
        let text = "kind = \"exec\"\ncommand = [\"python3\", \"program.py\"]\n";
        let (database, project) =
            project("outside_lost", &[("holds", text.to_owned()), ("does", text.to_owned())]).await;
        std::fs::write(project.folder.0.join("program.py"), PROGRAM).unwrap();
        let kck = project.start().await;
        let mut events = kck.observer.subscribe();
        begin(&kck, "holds").await;
        until("it runs", || noted(&project, "asked") == ["holds"]).await;
        let lost = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() and application_name = 'kck/process'";
        assert_eq!(database.one(lost).await, 1);
        let is = |event: &Event| matches!(event, Event::Process { said: Said::Ended { .. }, .. });
        let Event::Process { said: Said::Ended { outcome, .. }, .. } =
            Kck::event(&mut events, is).await
        else {
            panic!("it ends");
        };
        assert_eq!(outcome.name(), "unknown", "{outcome:?}");
        // What it was asked is not done to its end by anybody.
        none_left(&project, 1).await;
        std::fs::write(project.folder.0.join("go"), "").unwrap();
        assert_eq!(run_of(&kck, &mut events, "does").await, Outcome::Done);
        assert_eq!(noted(&project, "ended"), ["does"]);
        kck.stop().await;
    });
}

/// What a kck remembers of a process: its runs and what became of them, the newest first.
async fn history(address: &str, name: &str) -> Vec<(u64, String)> {
    let shown = get(address, "/processes", &[]).await.unwrap().json();
    let all = shown["processes"].as_array().cloned().unwrap_or_default();
    // Before the time is known no file is taken up.
    let process = all.iter().find(|process| process["name"] == name);
    let runs = process.and_then(|process| process["history"].as_array().cloned());
    let runs = runs.unwrap_or_default();
    let one = |run: &serde_json::Value| {
        (run["run"].as_u64().unwrap(), run["outcome"].as_str().unwrap_or("running").to_owned())
    };
    runs.iter().map(one).collect()
}

async fn history_is(address: &str, name: &str, want: &[(u64, &str)]) {
    let want: Vec<(u64, String)> =
        want.iter().map(|(run, outcome)| (*run, (*outcome).to_owned())).collect();
    let equal = async { while history(address, name).await != want {} };
    if tokio::time::timeout(PATIENCE, equal).await.is_err() {
        assert_eq!(history(address, name).await, want);
    }
}

/// Returns when whoever reads the slot has acknowledged a commit that is made now.
async fn acknowledges(database: &Database, slot: &str) {
    let position = database.commit("select pg_logical_emit_message(true, 'other', '')").await;
    let behind = format!(
        "select count(*) from pg_replication_slots where slot_name = '{slot}' and confirmed_flush_lsn < '{position}'"
    );
    let there = async { while database.one(&behind).await > 0 {} };
    tokio::time::timeout(PATIENCE, there).await.expect("it is acknowledged");
}

/// Two nodes' projects, of one source and one store.
async fn pair(name: &str) -> (Database, Project, Project) {
    let database = Database::new(name).await;
    let first = Project::new(&database, Store::Cassandra).await;
    let mut second = Project::named(&format!("{name}_b"), &database.url, Store::Memory).await;
    second.settings.clone_from(&first.settings);
    (database, first, second)
}

/// Goal: who was led over ends, though nobody reads the slot any more, and does not begin a new epoch in the other's
/// place. Method: the leader stands still while another takes its slot, acknowledges more, and is killed.
#[test]
fn who_was_led_over_ends_and_leaves_the_slot() {
    run(async {
        let (database, first, second) = pair("outside_over").await;
        let leader = Process::start(&first, "").await;
        let leads =
            "select count(*) from pg_replication_slots where slot_name = 'outside_over' and active";
        let open = async { while database.one(leads).await == 0 {} };
        tokio::time::timeout(PATIENCE, open).await.expect("it reads the slot");
        let mut other = Process::launch(&second, "");
        other.says("standing by").await;
        leader.signal("STOP");
        let reader = "select count(pg_terminate_backend(active_pid)) from pg_replication_slots where slot_name = 'outside_over' and active";
        assert_eq!(database.one(reader).await, 1);
        other.ready().await;
        acknowledges(&database, "outside_over").await;
        other.kill().await;
        let made = "select count(*) from pg_replication_slots where slot_name = 'outside_over' and not active";
        let free = async { while database.one(made).await == 0 {} };
        tokio::time::timeout(PATIENCE, free).await.expect("nobody reads it");
        let position = "select (confirmed_flush_lsn - '0/0')::bigint from pg_replication_slots where slot_name = 'outside_over'";
        let before = database.one(position).await;
        leader.signal("CONT");
        assert!(!leader.ended().await.success(), "another has led since");
        assert_eq!(database.one(position).await, before, "the slot is as the other left it");
    });
}

/// Goal: one node runs a process at a time, and what is remembered of it goes over. Method: two live on one store; the
/// one that leads stands still in the middle of a run, while its program goes on, and loses its slot to the other.
#[test]
fn two_nodes_never_run_a_process_at_once() {
    run(async {
        let (database, first, second) = pair("outside_two").await;
        std::fs::write(first.folder.0.join("program.py"), PROGRAM).unwrap();
        let folder = first.folder.0.display();
        let text = format!(
            "kind = \"exec\"\ncommand = [\"sh\", \"-c\", \"cd {folder} && exec python3 program.py\"]\n"
        );
        for project in [&first, &second] {
            std::fs::create_dir_all(project.folder.0.join("processes")).unwrap();
            std::fs::write(project.folder.0.join("processes/holds.toml"), &text).unwrap();
        }
        let leader = Process::start(&first, "").await;
        begin_at(&leader.address, "holds").await;
        until("it runs", || noted(&first, "asked").len() == 1).await;
        let mut other = Process::launch(&second, "");
        other.says("standing by").await;
        leader.signal("STOP");
        database
            .run("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 'outside_two'")
            .await;
        other.ready().await;
        acknowledges(&database, "outside_two").await;
        begin_at(&other.address, "holds").await;
        history_is(&other.address, "holds", &[(2, "overlapped"), (1, "interrupted")]).await;
        assert_eq!(noted(&first, "asked").len(), 1, "one goes on");
        std::fs::write(first.folder.0.join("go"), "").unwrap();
        until("it has ended", || noted(&first, "ended").len() == 1).await;
        leader.signal("CONT");
        assert!(!leader.ended().await.success(), "it has lost its slot");
        begin_at(&other.address, "holds").await;
        let want = [(3, "done"), (2, "overlapped"), (1, "interrupted")];
        history_is(&other.address, "holds", &want).await;
        other.kill().await;
        // What the first wrote at its end has not taken the place of what the second knew.
        let again = Process::start(&second, "").await;
        history_is(&again.address, "holds", &want).await;
        again.kill().await;
    });
}
