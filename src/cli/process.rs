//! `kck process`: what runs on schedule, and how it ran; one of it now.

use std::time::Duration;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value;

use super::{
    Stop,
    client::{Question, Server},
    say,
};

/// Between two looks at a run that goes on.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// List the processes of a running kck, or run one.
#[derive(Debug, Args)]
pub(super) struct Process {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What runs on schedule, when it runs next, and how it ran.
    List(List),
    /// Run a process now, and wait for its end.
    Run(Run),
}

#[derive(Debug, Args)]
struct List {
    /// As JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
struct Run {
    /// Its name.
    name: String,
    /// Do not wait for its end.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    server: Server,
}

impl Process {
    pub(super) async fn run(self) -> Result<(), Stop> {
        match self.command {
            None => list(&self.server, false).await,
            Some(Command::List(List { json, server })) => list(&server, json).await,
            Some(Command::Run(run)) => run.run().await,
        }
    }
}

async fn list(server: &Server, json: bool) -> Result<(), Stop> {
    let reply = server.get("/processes").await?;
    if json || reply.status != 200 {
        return reply.print();
    }
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let all =
        body.get("processes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if all.is_empty() {
        say("there are no processes: put SQL into processes/NAME.sql");
    }
    all.iter().for_each(|process| say(&line(process)));
    Ok(())
}

/// A process in two lines or three.
fn line(process: &Value) -> String {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let of = |name: &str| text(process.get(name));
    let schedule = Some(of("schedule")).filter(|when| !when.is_empty());
    let mut line = format!("{}: {}", of("name"), schedule.unwrap_or("when asked".to_owned()));
    if of("state") == "broken" {
        line += ", broken";
    }
    if !of("next").is_empty() {
        line += &format!(", next {}", of("next"));
    }
    if let Some(running) = process.get("running").filter(|running| running.is_object()) {
        line += &format!("\n  runs since {}", text(running.get("started")));
    }
    if let Some(last) = process.pointer("/history/0") {
        line += &format!("\n  last {} {}", text(last.get("started")), ended(last));
    }
    line
}

/// How a run ended, for people.
fn ended(run: &Value) -> String {
    let text = |name: &str| run.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut ended = text("outcome").replace('_', " ");
    if let Some(took) = run.get("took_ms").and_then(Value::as_u64) {
        ended += &format!(" after {took} ms");
    }
    for name in ["sqlstate", "error"] {
        if !text(name).is_empty() {
            ended += &format!(", {}", text(name));
        }
    }
    ended
}

impl Run {
    async fn run(self) -> Result<(), Stop> {
        let mut path = String::from("/processes/");
        crate::key::encode(&mut path, &self.name);
        path.push_str("/run");
        let question = Question { method: Method::POST, path, ..Question::default() };
        let reply = self.server.send(question).await?;
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let Some(number) = body.get("run").and_then(Value::as_u64).filter(|_| !self.no_wait) else {
            return reply.print();
        };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let reply = self.server.get("/processes").await?;
            if reply.status != 200 {
                return reply.print();
            }
            let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            if let Some(end) = end_of(&body, &self.name, number) {
                say(&format!("{} run {number}: {}", self.name, ended(&end)));
                let well = end.get("outcome").and_then(Value::as_str) == Some("done");
                return if well { Ok(()) } else { Err(Stop::no()) };
            }
        }
    }
}

/// How a run of a process ended; `None` while it runs. One that is not remembered any more has ended long ago.
fn end_of(body: &Value, name: &str, number: u64) -> Option<Value> {
    let all = body.get("processes")?.as_array()?;
    let named = |process: &&Value| process.get("name").and_then(Value::as_str) == Some(name);
    let gone = || serde_json::json!({ "outcome": "forgotten" });
    let Some(process) = all.iter().find(named) else { return Some(gone()) };
    let of = |run: &Value| run.get("run").and_then(Value::as_u64);
    let history = process.get("history").and_then(Value::as_array);
    let mut runs = history.into_iter().flatten();
    if let Some(run) = runs.find(|run| of(run) == Some(number)) {
        return Some(run.clone());
    }
    let running = process.get("running").and_then(of);
    let newest = process.pointer("/history/0").and_then(of);
    (running.is_none_or(|running| running > number) && newest.is_some_and(|newest| newest > number))
        .then(gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn body(running: &Value, runs: &[u64]) -> Value {
        let history: Vec<Value> =
            runs.iter().map(|run| json!({ "run": run, "outcome": "done", "took_ms": 5 })).collect();
        json!({ "processes": [{ "name": "p", "running": running, "history": history }] })
    }

    #[test]
    fn a_run_is_waited_for_until_it_has_ended() {
        assert_eq!(end_of(&body(&json!({ "run": 7 }), &[6]), "p", 7), None);
        assert_eq!(end_of(&body(&Value::Null, &[6]), "p", 7), None, "it is not shown yet");
        assert_eq!(end_of(&body(&Value::Null, &[7, 6]), "p", 7).unwrap()["outcome"], "done");
        assert_eq!(
            end_of(&body(&json!({ "run": 40 }), &[39, 38]), "p", 7).unwrap()["outcome"],
            "forgotten"
        );
        assert_eq!(end_of(&body(&Value::Null, &[]), "q", 7).unwrap()["outcome"], "forgotten");
    }

    #[test]
    fn a_process_is_a_line_for_people() {
        let process = json!({
            "name": "p", "state": "ready", "schedule": "every 30s", "next": "2026-01-01T00:00:30Z", "running": null,
            "history": [{ "started": "2026-01-01T00:00:00Z", "outcome": "timed_out", "took_ms": 5, "sqlstate": "42P01" }],
        });
        assert_eq!(
            line(&process),
            "p: every 30s, next 2026-01-01T00:00:30Z\n  last 2026-01-01T00:00:00Z timed out after 5 ms, 42P01"
        );
    }
}
