//! An answer or a problem → a response: the JSON around Postgres's bytes, the headers, the conditions.
//!
//! Invariant: an answer's bytes go out as they were stored; nothing here reads them.

use std::{
    collections::VecDeque,
    fmt::{self, Write as _},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use hyper::body::{Frame, SizeHint};
use serde::Serialize;
use warp::{
    Reply as _,
    http::{
        HeaderName, HeaderValue, Response, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, ETAG},
    },
};

use crate::{
    observe::ReadSource,
    serve::{problem::Problem, read::Answer},
};

/// Above this an answer's bytes are sent as a part of their own instead of being copied.
const COPY_MAX: usize = 32 * 1024;

/// Room for the envelope around an answer's bytes.
const ENVELOPE: usize = 256;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
const KCK_AS_OF: HeaderName = HeaderName::from_static("kck-as-of");
const KCK_AS_OF_LSN: HeaderName = HeaderName::from_static("kck-as-of-lsn");
const KCK_STALE: HeaderName = HeaderName::from_static("kck-stale");
const KCK_SOURCE: HeaderName = HeaderName::from_static("kck-source");

/// A body under construction: small texts are gathered, large ones become parts of their own.
#[derive(Debug, Default)]
pub(super) struct Text {
    parts: Vec<Bytes>,
    open: BytesMut,
}

impl Text {
    /// Adds these bytes.
    pub(super) fn push(&mut self, text: &str) {
        self.open.extend_from_slice(text.as_bytes());
    }

    /// Adds a shared slice, without copying a large one.
    fn splice(&mut self, bytes: &Bytes) {
        if bytes.len() <= COPY_MAX {
            self.open.extend_from_slice(bytes);
        } else {
            self.parts.push(self.open.split().freeze());
            self.parts.push(bytes.clone());
        }
    }

    /// Adds formatted text.
    fn print(&mut self, arguments: fmt::Arguments<'_>) {
        self.open.write_fmt(arguments).expect("a buffer in memory grows");
    }

    /// Adds a fetch answer: the stored bytes with what is known of them around.
    pub(super) fn answer(&mut self, key: &str, answer: &Answer) {
        let Answer { body, version, modified, as_of, stale, expires, ttl, .. } = answer;
        self.open.reserve(ENVELOPE + key.len() + body.len().min(COPY_MAX));
        // A canonical key has no character that JSON would escape.
        self.print(format_args!(r#"{{"success":true,"key":"{key}","value":"#));
        self.splice(body);
        let (lsn, time) = (as_of.lsn, as_of.time);
        self.print(format_args!(
            r#","version":{version},"modified":"{modified}","as_of":{{"lsn":"{lsn}","time":"{time}"}},"stale":{stale},"expires":"#
        ));
        match expires {
            Some(expires) => self.print(format_args!("\"{expires}\"")),
            None => self.push("null"),
        }
        if let Some(ttl) = ttl {
            self.print(format_args!(",\"ttl\":{ttl}"));
        }
        self.push("}");
    }

    /// A response of this text.
    pub(super) fn into_json(mut self) -> warp::reply::Response {
        let last = self.open.freeze();
        if self.parts.is_empty() {
            return json_bytes(last);
        }
        self.parts.push(last);
        let mut response = json_bytes(Bytes::new());
        response.extensions_mut().insert(Parts(self.parts.into()));
        response
    }
}

/// A fetch answer.
pub(super) fn answer(key: &str, answer: &Answer) -> warp::reply::Response {
    let mut text = Text::default();
    text.answer(key, answer);
    let mut response = text.into_json();
    describe(&mut response, answer);
    response
}

/// 304: the reader has these bytes already.
pub(super) fn not_modified(answer: &Answer) -> warp::reply::Response {
    let mut response = Response::new(Bytes::new()).into_response();
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    describe(&mut response, answer);
    response
}

/// What the headers say of an answer.
fn describe(response: &mut warp::reply::Response, answer: &Answer) {
    // One buffer for all three: a header's value is a slice of it.
    let mut buffer = BytesMut::with_capacity(96);
    let mut value = |text: fmt::Arguments<'_>| {
        buffer.write_fmt(text).expect("a buffer in memory grows");
        HeaderValue::from_maybe_shared(buffer.split().freeze()).expect("digits and punctuation")
    };
    let headers = response.headers_mut();
    headers.reserve(8);
    headers.insert(ETAG, value(format_args!("W/\"{}\"", answer.version)));
    headers.insert(CACHE_CONTROL, NO_CACHE);
    headers.insert(KCK_AS_OF, value(format_args!("{}", answer.as_of.time)));
    headers.insert(KCK_AS_OF_LSN, value(format_args!("{}", answer.as_of.lsn)));
    let stale = if answer.stale { "true" } else { "false" };
    headers.insert(KCK_STALE, HeaderValue::from_static(stale));
    let source = match answer.source {
        ReadSource::Hit => "hit",
        ReadSource::Miss => "miss",
        ReadSource::Wait => "wait",
    };
    headers.insert(KCK_SOURCE, HeaderValue::from_static(source));
}

/// A failure.
pub(super) fn problem(problem: &Problem) -> warp::reply::Response {
    let mut response = json_bytes(problem.to_json().into());
    let status = StatusCode::from_u16(problem.status());
    *response.status_mut() = status.expect("the table has statuses only");
    response.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    response
}

/// Any value as JSON, in its fields' order.
pub(super) fn json(value: &impl Serialize) -> warp::reply::Response {
    let text = serde_json::to_vec(value).expect("plain structs are always JSON");
    let mut response = json_bytes(text.into());
    response.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    response
}

fn json_bytes(bytes: Bytes) -> warp::reply::Response {
    let mut response = Response::new(bytes).into_response();
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// Whether an `If-None-Match` names this version, by weak comparison (RFC 9110, 8.8.3.2 and 13.1.2).
pub(super) fn names_version(if_none_match: &str, version: u64) -> bool {
    let list = if_none_match.trim();
    if list == "*" {
        return true;
    }
    let version = version.to_string();
    // Between the quotes commas are part of a tag, so the quotes are what is split at.
    list.split('"').skip(1).step_by(2).any(|tag| tag == version)
}

/// Rides on a response from its route to the connection, which sends it in place of the empty body.
#[derive(Debug, Clone)]
struct Parts(VecDeque<Bytes>);

/// What the connection sends: a route's own body, or the parts of a spliced one.
#[derive(Debug)]
pub(super) enum Body<B> {
    /// The body as the route made it.
    Whole(B),
    /// These, one after the other.
    Parts(VecDeque<Bytes>),
}

impl<B> Body<B> {
    /// Puts the parts, if there are any, in the place of the route's own body.
    pub(super) fn of(response: Response<B>) -> Response<Self> {
        let (mut head, body) = response.into_parts();
        let parts = head.extensions.remove::<Parts>();
        let body = parts.map_or(Self::Whole(body), |Parts(parts)| Self::Parts(parts));
        Response::from_parts(head, body)
    }
}

impl<B: hyper::body::Body<Data = Bytes> + Unpin> hyper::body::Body for Body<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Parts(parts) => Poll::Ready(parts.pop_front().map(|part| Ok(Frame::data(part)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Parts(parts) => parts.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Parts(parts) => {
                SizeHint::with_exact(parts.iter().map(|part| part.len() as u64).sum())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::{Lsn, SourceTime},
        serve::read::AsOf,
    };

    fn sample(body: Bytes) -> Answer {
        Answer {
            body,
            version: 7,
            modified: SourceTime(0),
            as_of: AsOf { lsn: Lsn(0x16B_3748), time: SourceTime(1_000_000) },
            stale: false,
            expires: None,
            ttl: None,
            source: ReadSource::Hit,
        }
    }

    fn text(answer: &Answer) -> String {
        let mut text = Text::default();
        text.answer("orders_of/42", answer);
        text.parts.push(text.open.freeze());
        String::from_utf8(text.parts.concat()).unwrap()
    }

    #[test]
    fn the_envelope_is_this() {
        assert_eq!(
            text(&sample(Bytes::from_static(b"[{\"id\": 1}]"))),
            r#"{"success":true,"key":"orders_of/42","value":[{"id": 1}],"version":7,"modified":"1970-01-01T00:00:00.000000Z","as_of":{"lsn":"0/16B3748","time":"1970-01-01T00:00:01.000000Z"},"stale":false,"expires":null}"#
        );
    }

    #[test]
    fn an_expiring_answer_says_when_and_how_long() {
        let answer = Answer {
            expires: Some(SourceTime(2_000_000)),
            ttl: Some(1),
            stale: true,
            ..sample(Bytes::from_static(b"1"))
        };
        let want = r#""stale":true,"expires":"1970-01-01T00:00:02.000000Z","ttl":1}"#;
        assert!(text(&answer).ends_with(want), "{}", text(&answer));
    }

    #[test]
    fn large_bytes_are_shared_and_give_the_same_text() {
        let large = Bytes::from(format!("\"{}\"", "x".repeat(COPY_MAX)));
        let mut spliced = Text::default();
        spliced.answer("orders_of/42", &sample(large.clone()));
        assert_eq!(spliced.parts[1].as_ptr(), large.as_ptr());
        let body: serde_json::Value = serde_json::from_str(&text(&sample(large))).unwrap();
        assert_eq!(body["value"].as_str().unwrap().len(), COPY_MAX);
        assert_eq!(body["version"], 7);
    }

    #[test]
    fn conditions_compare_weakly() {
        for (header, named) in [
            ("*", true),
            (" * ", true),
            ("W/\"7\"", true),
            ("\"7\"", true),
            ("\"6\", W/\"7\"", true),
            ("\"a,b\",\"7\"", true),
            ("W/\"6\"", false),
            ("\"77\"", false),
            ("7", false),
            ("\"a\" 7 \"b\"", false),
            ("", false),
        ] {
            assert_eq!(names_version(header, 7), named, "{header}");
        }
    }
}
