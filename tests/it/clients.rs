//! The clients for Python and JavaScript: their own tests, and each against a kck that runs.

use std::path::Path;

use tokio::process::Command;

use crate::support::{
    kck::{Kck, Project},
    programs::{PYTHON, node},
    run,
    servers::Database,
};

const ITEMS: &str = "select id, n from items where owner = :owner order by id";
const SET: &str = "/* kck\nparams = { id = \"bigint\", n = \"bigint\" }\n*/\nupdate items set n = :n where id = :id";

async fn served(name: &str) -> (Database, Project, Kck) {
    let database = Database::new(name).await;
    let project = Project::sums(&database).await;
    project.product("items_of", ITEMS);
    std::fs::create_dir_all(project.folder.0.join("updates")).unwrap();
    std::fs::write(project.folder.0.join("updates/set_n.sql"), SET).unwrap();
    let kck = project.start().await;
    (database, project, kck)
}

/// Runs a program in a folder of the clients to its end, which must be a good one.
async fn succeeds(mut command: Command, folder: &str, server: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(folder);
    let output = command.current_dir(folder).env("KCK_SERVER", server).env_remove("KCK_TOKEN");
    let output = output.kill_on_drop(true).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn python(arguments: &[&str]) -> Command {
    let mut command = Command::new(PYTHON);
    command.args(arguments).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

#[test]
fn the_python_client_keeps_its_own_promises() {
    run(async {
        succeeds(python(&["-m", "unittest"]), "python", "").await;
    });
}

#[test]
fn the_javascript_client_keeps_its_own_promises() {
    run(async {
        let mut command = Command::new(node().await);
        command.arg("--test");
        succeeds(command, "js", "").await;
    });
}

#[test]
fn the_python_client_reads_writes_and_is_told() {
    run(async {
        let (_database, _project, kck) = served("clients_python").await;
        let server = format!("http://{}", kck.address);
        let said = succeeds(python(&["tests/live.py"]), "python", &server).await;
        assert_eq!(said, "ok\n");
        kck.stop().await;
    });
}

#[test]
fn the_javascript_client_reads_writes_and_is_told() {
    run(async {
        let (_database, _project, kck) = served("clients_js").await;
        let server = format!("http://{}", kck.address);
        let mut command = Command::new(node().await);
        command.arg("test/live.mjs");
        assert_eq!(succeeds(command, "js", &server).await, "ok\n");
        kck.stop().await;
    });
}
