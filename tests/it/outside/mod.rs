//! Products whose answers programs and addresses make.

use std::{path::PathBuf, time::Duration};

use crate::support::kck::Project;

mod addresses;
mod edits;
mod order;
mod processes;
mod programs;
mod python;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

const WORKER: &str = include_str!("../fixtures/worker.py");

/// The command that runs the worker of these tests.
fn command(project: &Project, arguments: &[&str]) -> String {
    let file = project.folder.0.join("worker.py");
    std::fs::write(&file, WORKER).unwrap();
    let folder = project.folder.0.to_str().unwrap();
    let words = ["python3", "worker.py", folder].into_iter().chain(arguments.iter().copied());
    let words: Vec<String> = words.map(|word| format!("{word:?}")).collect();
    format!("kind = \"exec\"\ncommand = [{}]\n", words.join(", "))
}

/// The lines of a file that the worker writes.
fn noted(project: &Project, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(project.folder.0.join(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Waits until this holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

/// Whether a process of this number is there, and has not ended.
fn lives(process: &str) -> bool {
    let stat = std::fs::read_to_string(PathBuf::from("/proc").join(process).join("stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

/// Waits until no process is left that the worker noted; there must have been some.
async fn none_left(project: &Project, least: usize) {
    let processes = noted(project, "pids");
    assert!(processes.len() >= least, "{processes:?}");
    until("nothing is left of the programs", || !processes.iter().any(|one| lives(one))).await;
}
