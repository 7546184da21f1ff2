//! Processes that programs and addresses do: what became of each is known as far as it can be.

use kck::{
    observe::Event,
    process::{Outcome, Said},
};
use tokio::sync::broadcast::Receiver;

use super::{PATIENCE, addresses::Server, noted};
use crate::support::{
    client::send,
    kck::{Kck, Project, Store},
    run,
    servers::Database,
};

const PROGRAM: &str = include_str!("../fixtures/processes.py");

/// Begins a run, as soon as kck knows the time at the source.
pub(super) async fn begin(kck: &Kck, name: &str) {
    let path = format!("/processes/{name}/run");
    let begun = async {
        loop {
            let reply = send(&kck.address, ("POST", path.as_str()), "", String::new()).await;
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
            "hangs" => format!("{text}timeout = \"300ms\""),
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
        let shown = kck.get("/processes").await.json();
        let does = shown["processes"].as_array().unwrap();
        let does = does.iter().find(|process| process["name"] == "does").unwrap();
        assert_eq!(does["history"].as_array().unwrap().len(), 2, "{does}");
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
