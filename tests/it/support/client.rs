//! A reader over HTTP.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::{
    Request,
    body::Body,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The answer, which must be one.
    pub(crate) fn value(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()["value"].clone()
    }
}

pub(crate) type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// A connection that is kept for as long as what comes back.
pub(crate) async fn connected<B>(address: &str) -> Result<SendRequest<B>, Trouble>
where
    B: Body<Data: Send, Error: Into<Trouble>> + Send + 'static,
{
    let stream = TcpStream::connect(address).await?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends one request on this connection, and gives the whole answer.
pub(crate) async fn answered<B>(
    sender: &mut SendRequest<B>,
    request: Request<B>,
) -> Result<Reply, Trouble>
where
    B: Body + 'static,
{
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Reply { status, headers, body: response.into_body().collect().await?.to_bytes() })
}

/// Asks once, on a connection of its own.
pub(crate) async fn get(
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<Reply, Trouble> {
    let mut request = Request::get(path).header("host", address);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut sender = connected(address).await?;
    answered(&mut sender, request.body(Empty::<Bytes>::new())?).await
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: String,
}

impl Event {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {}", self.data))
    }
}

/// A reader of server-sent events.
pub(crate) struct Events {
    body: hyper::body::Incoming,
    text: String,
    pub(crate) status: u16,
    pub(crate) headers: hyper::HeaderMap,
    _sender: SendRequest<Empty<Bytes>>,
}

impl Events {
    /// Subscribes, on a connection of its own.
    pub(crate) async fn open(address: &str, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut sender = connected(address).await.unwrap();
        let mut request = Request::get(path).header("host", address);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { body: response.into_body(), text: String::new(), status, headers, _sender: sender }
    }

    /// The next event, comments left out; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        let wait = async {
            loop {
                while let Some((block, rest)) = self.text.split_once("\n\n") {
                    let event = event(block);
                    self.text = rest.to_owned();
                    if !event.name.is_empty() {
                        return Some(event);
                    }
                }
                let frame = self.body.frame().await?.ok()?;
                let data = frame.into_data().unwrap_or_default();
                self.text.push_str(std::str::from_utf8(&data).unwrap());
            }
        };
        let next = tokio::time::timeout(std::time::Duration::from_secs(30), wait).await;
        next.expect("an event comes")
    }

    /// The next of this name.
    pub(crate) async fn named(&mut self, name: &str) -> Event {
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("ended before '{name}'"));
            if event.name == name {
                return event;
            }
        }
    }
}

fn event(block: &str) -> Event {
    let (mut event, mut data) = (Event::default(), Vec::new());
    for line in block.lines() {
        match line.split_once(": ") {
            Some(("event", name)) => event.name = name.to_owned(),
            Some(("id", id)) => event.id = id.to_owned(),
            Some(("data", text)) => data.push(text),
            _ => {}
        }
    }
    event.data = data.join("\n");
    event
}

/// Sends a body once, on a connection of its own.
pub(crate) async fn send(
    address: &str,
    (method, path): (&str, &str),
    content_type: &str,
    body: impl Into<Bytes>,
) -> Reply {
    let mut request = Request::builder().method(method).uri(path).header("host", address);
    if !content_type.is_empty() {
        request = request.header("content-type", content_type);
    }
    let mut sender = connected(address).await.unwrap();
    answered(&mut sender, request.body(Full::new(body.into())).unwrap()).await.unwrap()
}
