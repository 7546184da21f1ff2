//! `kck update`, `kck refresh` and `kck purge`: what a running kck is asked to do.

use clap::Args;
use hyper::Method;
use serde_json::{Map, Value};

use super::{
    Stop,
    client::{Question, Server},
};

/// Run an update, and print the position of its commit.
#[derive(Debug, Args)]
pub(super) struct Update {
    /// Its name.
    name: String,
    /// Its parameters as texts: id=7.
    #[arg(value_name = "PARAMETER=VALUE")]
    parameters: Vec<String>,
    /// Its parameters as one JSON object; null is SQL's NULL.
    #[arg(long, value_name = "OBJECT", conflicts_with = "parameters")]
    json: Option<String>,
    #[command(flatten)]
    server: Server,
}

impl Update {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let body = match self.json {
            Some(json) => json,
            None => fields(&self.parameters)?.to_string(),
        };
        let mut path = String::from("/update/");
        crate::key::encode(&mut path, &self.name);
        let method = Method::POST;
        let question = Question { method, path, body: Some(body), last_event: None };
        self.server.send(question).await?.print()
    }
}

fn fields(parameters: &[String]) -> Result<Value, Stop> {
    let mut fields = Map::new();
    for parameter in parameters {
        let (name, value) = parameter.split_once('=').ok_or_else(|| {
            Stop::usage(format!("{parameter}: no value\n  hint: PARAMETER=VALUE, as in id=7"))
        })?;
        if fields.insert(name.to_owned(), value.into()).is_some() {
            return Err(Stop::usage(format!("{name} is given twice\n  hint: give it once")));
        }
    }
    Ok(Value::Object(fields))
}

/// Compute a key now, or all tracked keys that begin so.
#[derive(Debug, Args)]
pub(super) struct Refresh {
    /// The key, or a product with maybe some of its parameters: orders_of/42, orders_of.
    #[arg(value_name = "KEY-OR-PREFIX")]
    target: String,
    #[command(flatten)]
    server: Server,
}

impl Refresh {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let reply = done(&self.server, "refresh", &self.target).await?;
        reply.print()?;
        let failed = serde_json::from_slice::<Value>(&reply.body).ok();
        let failed = failed.and_then(|body| body.get("failed")?.as_u64()).unwrap_or(0);
        if failed == 0 { Ok(()) } else { Err(Stop::no()) }
    }
}

/// Forget a key, or all tracked keys that begin so; the next read computes anew.
#[derive(Debug, Args)]
pub(super) struct Purge {
    /// The key, or a product with maybe some of its parameters: orders_of/42, orders_of.
    #[arg(value_name = "KEY-OR-PREFIX")]
    target: String,
    #[command(flatten)]
    server: Server,
}

impl Purge {
    pub(super) async fn run(self) -> Result<(), Stop> {
        done(&self.server, "purge", &self.target).await?.print()
    }
}

async fn done(server: &Server, what: &str, target: &str) -> Result<super::client::Reply, Stop> {
    let (method, path) = (Method::POST, format!("/{what}/{target}"));
    server.send(Question { method, path, ..Question::default() }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_texts() {
        let given = ["id=7".to_owned(), "name=a=b".to_owned()];
        assert_eq!(fields(&given).unwrap(), serde_json::json!({ "id": "7", "name": "a=b" }));
        assert_eq!(fields(&["id".to_owned()]).unwrap_err().code, 2);
        assert_eq!(fields(&["id=1".to_owned(), "id=2".to_owned()]).unwrap_err().code, 2);
    }
}
