//! A kck in a process of its own, which can be killed.

use std::process::{Output, Stdio};

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

/// Runs a command of kck on the project to its end.
pub(crate) async fn output(project: &Project, arguments: &[&str]) -> Output {
    let file = project.folder.0.join("kck.toml");
    std::fs::write(&file, &project.settings).unwrap();
    let mut command = command();
    command.args(arguments).arg("--config").arg(&file).env("NO_COLOR", "1");
    let ended = tokio::time::timeout(
        std::time::Duration::from_secs(60),
        command.kill_on_drop(true).output(),
    );
    ended.await.expect("it ends").unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) struct Process {
    child: Child,
    /// None once it is gathered.
    log: Option<Lines<BufReader<ChildStderr>>>,
    /// Empty until it is ready.
    pub(crate) address: String,
}

impl Process {
    /// Starts `kck run` on the project, and waits until it answers. `halt_at` names the point where it stops.
    pub(crate) async fn start(project: &Project, halt_at: &str) -> Self {
        let mut process = Self::launch(project, halt_at);
        process.ready().await;
        process
    }

    /// Starts `kck run` on the project, and does not wait.
    pub(crate) fn launch(project: &Project, halt_at: &str) -> Self {
        let file = project.folder.0.join("kck.toml");
        std::fs::write(&file, &project.settings).unwrap();
        let mut command = command();
        command.env("KCK_TEST__HALT_AT", halt_at).envs(project.environment());
        command.args(["run", "--config"]).arg(&file);
        Self::spawn(command)
    }

    /// The same with other lines in its log.
    pub(crate) async fn start_logging(project: &Project, filter: &str) -> Self {
        let file = project.folder.0.join("kck.toml");
        std::fs::write(&file, &project.settings).unwrap();
        let mut command = command();
        command.env("KCK_LOG", filter).args(["run", "--config"]).arg(&file);
        let mut process = Self::spawn(command);
        process.ready().await;
        process
    }

    /// The same with so many descriptors, which nothing can raise.
    pub(crate) async fn start_with_descriptors(project: &Project, descriptors: u32) -> Self {
        let file = project.folder.0.join("kck.toml");
        std::fs::write(&file, &project.settings).unwrap();
        let mut shell = Command::new("sh");
        let script = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_kck"), "run", "--config"]).arg(&file);
        let mut process = Self::spawn(shell);
        process.ready().await;
        process
    }

    fn spawn(mut command: Command) -> Self {
        command.env("NO_COLOR", "1").stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let log = Some(BufReader::new(child.stderr.take().unwrap()).lines());
        Self { child, log, address: String::new() }
    }

    /// All that it logs from now on, once it has ended.
    pub(crate) fn gather(&mut self) -> tokio::task::JoinHandle<String> {
        let mut log = self.log.take().expect("gathered once");
        tokio::spawn(async move {
            let mut text = String::new();
            while let Ok(Some(line)) = log.next_line().await {
                text += &line;
                text.push('\n');
            }
            text
        })
    }

    /// Waits until it answers.
    pub(crate) async fn ready(&mut self) {
        let ready = self.says("ready address=").await;
        self.address = ready.split("address=").nth(1).unwrap().trim().to_owned();
    }

    /// Waits for a line of the log.
    pub(crate) async fn says(&mut self, what: &str) -> String {
        line(self.log.as_mut().expect("not gathered"), what).await
    }

    /// kill -HUP.
    pub(crate) fn hang_up(&self) {
        self.signal("HUP");
    }

    /// Sends it a signal by its name: `STOP`, `CONT`, `TERM`.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = std::process::Command::new("kill").args([&format!("-{signal}"), &id]).status();
        assert!(sent.unwrap().success());
    }

    /// What it holds in memory now, and the most that it ever held, in bytes.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let id = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let of = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    /// The processor time that it has used, in milliseconds.
    pub(crate) fn processor_ms(&self) -> u64 {
        let id = self.child.id().expect("it runs");
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
        // After the name in parentheses: user and system time are the 12th and 13th, in hundredths of a second.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
        (ticks(11) + ticks(12)) * 10
    }

    /// Waits until it has ended by itself, and gives how.
    pub(crate) async fn ended(mut self) -> std::process::ExitStatus {
        let ended = tokio::time::timeout(std::time::Duration::from_secs(60), self.child.wait());
        ended.await.expect("it ends").unwrap()
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
