//! `kck status`: how a running kck is.

use clap::Args;

use super::{Stop, client::Server, say};

/// Show how a running kck is.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// As JSON, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

impl Status {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let reply = self.server.get("/status").await?;
        let value: serde_json::Value = serde_json::from_slice(&reply.body)
            .map_err(|error| Stop::cannot(format!("read the answer of /status: {error}")))?;
        if self.json {
            say(&value.to_string());
        } else {
            let mut lines = Vec::new();
            list(&mut lines, "", &value);
            say(&lines.join("\n"));
        }
        if value.get("state").and_then(serde_json::Value::as_str) == Some("ready") {
            Ok(())
        } else {
            Err(Stop::no())
        }
    }
}

/// `certificate.age_ms  12`: every leaf on a line of its own.
fn list(lines: &mut Vec<String>, path: &str, value: &serde_json::Value) {
    let below =
        |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        serde_json::Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| list(lines, &below(name), value));
        }
        serde_json::Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, value)| list(lines, &below(&index.to_string()), value));
        }
        serde_json::Value::String(text) => lines.push(format!("{path:<32} {text}")),
        other => lines.push(format!("{path:<32} {other}")),
    }
}
