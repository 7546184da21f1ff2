//! A kck in a process of its own, which can be killed.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

use super::kck::Project;

/// The kck of this build, without what the environment tells these tests.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kck"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KCK_") {
            command.env_remove(name);
        }
    }
    command
}

pub(crate) struct Process {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    pub(crate) address: String,
}

impl Process {
    /// Starts `kck run` on the project, and waits until it answers. `halt_at` names the point where it stops.
    pub(crate) async fn start(project: &Project, halt_at: &str) -> Self {
        let file = project.folder.0.join("kck.toml");
        std::fs::write(&file, &project.settings).unwrap();
        let mut child = command()
            .args(["run", "--config"])
            .arg(&file)
            .env("KCK_TEST__HALT_AT", halt_at)
            .env("NO_COLOR", "1")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = line(&mut log, "ready address=").await;
        let address = ready.split("address=").nth(1).unwrap().trim().to_owned();
        Self { child, log, address }
    }

    /// Waits for a line of the log.
    pub(crate) async fn says(&mut self, what: &str) -> String {
        line(&mut self.log, what).await
    }

    /// kill -HUP.
    pub(crate) fn hang_up(&self) {
        let id = self.child.id().expect("it runs").to_string();
        assert!(std::process::Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    }

    /// kill -9.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

async fn line(log: &mut Lines<BufReader<ChildStderr>>, what: &str) -> String {
    let mut seen = String::new();
    let wait = async {
        while let Some(line) = log.next_line().await.unwrap() {
            if line.contains(what) {
                return line;
            }
            seen.push_str(&line);
            seen.push('\n');
        }
        panic!("the log ended without '{what}':\n{seen}")
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), wait)
        .await
        .unwrap_or_else(|_| panic!("no '{what}' in the log"))
}
