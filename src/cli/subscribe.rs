//! `kck subscribe`: keys → a line for each event, for as long as somebody reads.

use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt as _, Collected};
use hyper::body::Incoming;

use super::{
    Stop,
    client::{Question, Reply, Server},
    complain, say,
};

/// Before the connection is opened again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Print values as they change, each event a line of JSON.
#[derive(Debug, Args)]
pub(super) struct Subscribe {
    /// The keys, as in the path: orders_of/42.
    #[arg(required = true)]
    keys: Vec<String>,
    /// End after so many values.
    #[arg(long, value_name = "N")]
    values: Option<u64>,
    #[command(flatten)]
    server: Server,
}

impl Subscribe {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let mut path = String::from("/subscribe?");
        for key in &self.keys {
            path.push_str("key=");
            crate::key::encode(&mut path, key);
            path.push('&');
        }
        path.pop();
        let mut last_event = None;
        let mut left = self.values.unwrap_or(u64::MAX);
        let mut opened = false;
        while left > 0 {
            let question = Question {
                path: path.clone(),
                last_event: last_event.clone(),
                ..Question::default()
            };
            match self.server.open(question).await {
                Ok(response) if response.status() == 200 => {
                    opened = true;
                    read(response.into_body(), &mut last_event, &mut left).await?;
                }
                Ok(response) => {
                    let status = response.status().as_u16();
                    let body = response.into_body().collect().await;
                    let body = body.map(Collected::to_bytes).unwrap_or_default();
                    // Only what passes by itself is asked for again.
                    if !matches!(status, 429 | 503) || !opened {
                        return Reply { status, body }.print();
                    }
                }
                Err(stop) if !opened => return Err(stop),
                Err(_) => {}
            }
            if left > 0 {
                complain("the stream ended; it is opened again");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
        Ok(())
    }
}

/// Prints events until the stream ends, or enough values came.
async fn read(
    mut body: Incoming,
    last_event: &mut Option<String>,
    left: &mut u64,
) -> Result<(), Stop> {
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        text.extend_from_slice(&frame.into_data().unwrap_or_default());
        while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
            let block = String::from_utf8_lossy(text.get(..end).unwrap_or_default()).into_owned();
            text.drain(..end + 2);
            let Event { name, id, data } = Event::of(&block);
            *last_event = id.or(last_event.take());
            if name.is_empty() {
                continue;
            }
            say(&format!("{{\"event\":\"{name}\",\"data\":{data}}}"));
            // Without a key it is about the whole stream; a token does not come back.
            if name == "error" && data.contains("\"name\":\"unauthorized\"") {
                return Err(Stop::no());
            }
            if name == "value" {
                *left -= 1;
                if *left == 0 {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// One event, its data on one line.
#[derive(Debug, PartialEq, Eq, Default)]
struct Event {
    name: String,
    id: Option<String>,
    data: String,
}

impl Event {
    fn of(block: &str) -> Self {
        let mut event = Self::default();
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("event", name)) => name.clone_into(&mut event.name),
                Some(("id", id)) => event.id = Some(id.to_owned()),
                // Between two tokens of JSON the end of a line means nothing.
                Some(("data", text)) => event.data.push_str(text),
                _ => {}
            }
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let event = Event::of("event: value\nid: a-1\ndata: [1,\ndata: 2]");
        let (name, data) = ("value".to_owned(), "[1,2]".to_owned());
        assert_eq!(event, Event { name, id: Some("a-1".to_owned()), data });
        assert_eq!(Event::of(":"), Event::default());
    }
}
