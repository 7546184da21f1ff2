//! `/subscribe`: a subscription → server-sent events; `/subscribe/ws`: the same → messages of a WebSocket.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, Stream, StreamExt, stream};
use tokio_util::sync::CancellationToken;
use warp::{
    Reply as _,
    http::{HeaderMap, HeaderValue, header},
    reply::Response,
    ws::{Message, WebSocket, Ws},
};

use crate::{
    observe::Counter,
    serve::{
        Context, Who,
        problem::Problem,
        read::AsOf,
        subscribe::{Event, Subscription},
    },
};

use super::{
    door::Asked,
    patience::Phase,
    query,
    reply::{self, Text},
};

const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

/// The subprotocol of kck's messages; with a token behind it, the way in for pages, which can send no other header.
const PROTOCOL: &str = "kck";

/// What a client may send in one message: nothing of it is read.
const MESSAGE_BYTES_MAX: usize = 4096;

/// How long a client may take to take one message.
const MESSAGE_WITHIN: Duration = Duration::from_secs(30);

/// Opens subscriptions for either protocol.
#[derive(Clone)]
pub(super) struct Opener {
    pub(super) context: Arc<Context>,
    pub(super) shutdown: CancellationToken,
}

/// A connection that becomes a WebSocket.
pub(super) struct Upgrade {
    /// It is being served until the socket ends.
    pub(super) phase: Phase,
    pub(super) ws: Ws,
}

impl Opener {
    async fn open(
        &self,
        who: Arc<Who>,
        raw_query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Subscription, Problem> {
        let (keys, last) = query::subscription(raw_query)?;
        let keys_max = self.context.limits.keys_per_request;
        if keys.is_empty() {
            let hint = "GET /subscribe?key=A&key=B";
            return Err(Problem::bad_request("key", "no key is asked for", hint));
        }
        if keys.len() > keys_max {
            let hint = "subscribe more than once, or raise limits.keys_per_request";
            return Err(Problem::too_large("more keys are asked for", keys_max as u64, hint));
        }
        let named = headers.get("last-event-id").and_then(|id| id.to_str().ok());
        let last = named.map(str::to_owned).or(last);
        let (context, shutdown) = (Arc::clone(&self.context), self.shutdown.clone());
        Subscription::open(context, who, keys, last.as_deref(), shutdown).await
    }
}

/// `GET /subscribe?key=A&key=B`.
pub(super) async fn events(
    opener: Opener,
    asked: Asked,
    raw_query: Option<String>,
    headers: HeaderMap,
) -> Response {
    match opener.open(asked.who, raw_query.as_deref(), &headers).await {
        Ok(subscription) => {
            let mut response = reply::flowing(EVENTS, flow(subscription));
            let headers = response.headers_mut();
            headers.insert(header::CACHE_CONTROL, reply::NO_STORE);
            // A proxy that gathers answers would hold events back.
            headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
            response
        }
        Err(problem) => reply::problem(&problem),
    }
}

fn flow(subscription: Subscription) -> impl Stream<Item = Bytes> + Send {
    let parts = stream::unfold(subscription, async |mut subscription| {
        let event = subscription.next().await?;
        subscription.observer().count(Counter::Events, 1);
        let parts = lines(&event, &subscription);
        Some((stream::iter(parts), subscription))
    });
    parts.flatten()
}

/// One event as the protocol has it (WHATWG HTML, 9.2): every line of the data behind `data:`.
fn lines(event: &Event, subscription: &Subscription) -> Vec<Bytes> {
    let mut text = Text::default();
    let name = match event {
        Event::Beat => {
            text.push(":\n\n");
            return text.into_parts();
        }
        Event::Value(..) => "value",
        Event::Fresh(..) => "fresh",
        Event::Trouble(..) => "error",
    };
    text.push("event: ");
    text.push(name);
    if subscription.is_told() {
        text.push("\nid: ");
        text.push(&subscription.id());
    }
    text.push("\ndata: ");
    match event {
        Event::Value(key, answer) => text.answer_in_lines(key.as_str(), answer),
        other => text.push(&data(other)),
    }
    text.push("\n\n");
    text.into_parts()
}

/// What an event says, in one line.
fn data(event: &Event) -> String {
    match event {
        Event::Value(..) | Event::Beat => String::new(),
        Event::Fresh(keys, AsOf { lsn, time }) => {
            // A canonical key has no character that JSON would escape.
            let keys: Vec<String> = keys.iter().map(|key| format!("\"{key}\"")).collect();
            let keys = keys.join(",");
            format!(r#"{{"keys":[{keys}],"as_of":{{"lsn":"{lsn}","time":"{time}"}}}}"#)
        }
        Event::Trouble(None, problem) => problem.to_json(),
        Event::Trouble(Some(key), problem) => problem.to_json_of(key),
    }
}

/// `GET /subscribe/ws?key=A&key=B`.
pub(super) async fn socket(
    opener: Opener,
    asked: Asked,
    raw_query: Option<String>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Response {
    let Upgrade { phase, ws } = upgrade;
    let subscription = match opener.open(asked.who, raw_query.as_deref(), &headers).await {
        Ok(subscription) => subscription,
        Err(problem) => return reply::problem(&problem),
    };
    let serving = phase.serving();
    let ws = ws.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX);
    let upgraded = ws.on_upgrade(async move |socket| {
        talk(socket, subscription).await;
        drop(serving);
    });
    let mut response = upgraded.into_response();
    if offers(&headers).any(|offered| offered == PROTOCOL) {
        let chosen = HeaderValue::from_static(PROTOCOL);
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, chosen);
    }
    response
}

/// The subprotocols that a client offers.
fn offers(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    all.filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(',')).map(str::trim)
}

/// The token among the subprotocols, behind kck's own name: `kck.token.TOKEN`.
pub(super) fn token(headers: &HeaderMap) -> Option<&str> {
    offers(headers).find_map(|offered| offered.strip_prefix(PROTOCOL)?.strip_prefix(".token."))
}

async fn talk(socket: WebSocket, mut subscription: Subscription) {
    let (mut to, mut from) = socket.split();
    loop {
        let event = tokio::select! {
            event = subscription.next() => event,
            // What a client says is of no interest; that it goes is.
            said = from.next() => match said {
                Some(Ok(message)) if !message.is_close() => continue,
                _ => return,
            },
        };
        let Some(event) = event else { break };
        subscription.observer().count(Counter::Events, 1);
        let sent = tokio::time::timeout(MESSAGE_WITHIN, to.send(message(&event, &subscription)));
        if !matches!(sent.await, Ok(Ok(()))) {
            return;
        }
    }
    // Whoever is gone already need not be told.
    drop(tokio::time::timeout(MESSAGE_WITHIN, to.send(Message::close())).await);
}

fn message(event: &Event, subscription: &Subscription) -> Message {
    let mut text = Text::default();
    let name = match event {
        Event::Beat => return Message::ping(Bytes::new()),
        Event::Value(..) => "value",
        Event::Fresh(..) => "fresh",
        Event::Trouble(..) => "error",
    };
    text.push("{\"event\":\"");
    text.push(name);
    if subscription.is_told() {
        text.push("\",\"id\":\"");
        text.push(&subscription.id());
    }
    text.push("\",\"data\":");
    match event {
        Event::Value(key, answer) => text.answer(key.as_str(), answer),
        other => text.push(&data(other)),
    }
    text.push("}");
    Message::text(text.into_string())
}
