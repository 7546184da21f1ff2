//! An answer or a problem → a response: the JSON around Postgres's bytes, the headers, the conditions.
//!
//! Invariant: an answer's bytes go out as they were stored; nothing here reads them.

use std::{
    collections::VecDeque,
    fmt::{self, Write as _},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use hyper::body::{Frame, SizeHint};
use serde::Serialize;
use warp::{
    Reply as _,
    http::{
        HeaderName, HeaderValue, Response, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, RETRY_AFTER, VARY,
            WWW_AUTHENTICATE,
        },
    },
};

use crate::{
    observe::ReadSource,
    serve::{
        auth,
        form::Form,
        pack::Packed,
        problem::{Kind, Problem},
        read::Answer,
    },
};

use super::patience::Serving;

/// Above this an answer's bytes are sent as a part of their own instead of being copied.
const COPY_MAX: usize = 32 * 1024;

/// What is given at once where a reader is timed by the piece.
const PIECE: usize = 16 * 1024;

/// Room for the envelope around an answer's bytes.
const ENVELOPE: usize = 256;

/// Headers of an answer, with those that the door adds.
const HEADERS: usize = 12;

const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
const CSV: HeaderValue = HeaderValue::from_static("text/csv; charset=utf-8; header=present");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");
const ACCEPTS: HeaderValue = HeaderValue::from_static("Accept, Accept-Encoding");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-cache");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
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

    /// How many bytes it has.
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum::<usize>() + self.open.len()
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
        self.answer_with(key, answer, &answer.body);
    }

    /// The same for server-sent events, whose data is told line by line.
    pub(super) fn answer_in_lines(&mut self, key: &str, answer: &Answer) {
        self.answer_with(key, answer, &in_lines(&answer.body));
    }

    fn answer_with(&mut self, key: &str, answer: &Answer, body: &Bytes) {
        self.open.reserve(ENVELOPE + key.len() + body.len().min(COPY_MAX));
        self.before(key);
        self.splice(body);
        self.after(answer);
    }

    /// What stands before an answer's bytes.
    fn before(&mut self, key: &str) {
        // A canonical key has no character that JSON would escape.
        self.print(format_args!(r#"{{"success":true,"key":"{key}","value":"#));
    }

    /// What stands behind them.
    fn after(&mut self, answer: &Answer) {
        let Answer { version, modified, as_of, stale, expires, ttl, .. } = answer;
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

    /// The text, part by part.
    pub(super) fn into_parts(mut self) -> Vec<Bytes> {
        self.parts.push(self.open.freeze());
        self.parts
    }

    /// The text in one piece.
    pub(super) fn into_string(self) -> String {
        String::from_utf8(self.into_parts().concat()).expect("Postgres gives UTF-8")
    }

    /// A list: whoever may have one of its answers may not have another's.
    pub(super) fn into_json(self) -> warp::reply::Response {
        let mut response = self.into_response();
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        response.headers_mut().insert(CACHE_CONTROL, PRIVATE);
        response
    }

    fn into_response(mut self) -> warp::reply::Response {
        let last = self.open.freeze();
        if self.parts.is_empty() {
            return bytes(last);
        }
        self.parts.push(last);
        parts(self.parts.into())
    }
}

fn bytes(bytes: Bytes) -> warp::reply::Response {
    Response::new(bytes).into_response()
}

/// A response whose body comes in parts.
fn parts(parts: VecDeque<Bytes>) -> warp::reply::Response {
    let mut response = bytes(Bytes::new());
    response.extensions_mut().insert(Parts(parts));
    response
}

/// Between two tokens of JSON a line may end anywhere, by any of the three ends of lines that events know.
fn in_lines(body: &Bytes) -> Bytes {
    let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    if !body.iter().any(is_end) {
        return body.clone();
    }
    let mut lines = BytesMut::with_capacity(body.len() + 64);
    let mut rest = body.as_ref();
    while let Some(at) = rest.iter().position(is_end) {
        let (line, end) = rest.split_at(at);
        lines.extend_from_slice(line);
        lines.extend_from_slice(b"\ndata: ");
        let length = if end.starts_with(b"\r\n") { 2 } else { 1 };
        rest = end.get(length..).unwrap_or_default();
    }
    lines.extend_from_slice(rest);
    lines.freeze()
}

/// How an answer is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// As what.
    pub(super) form: Form,
    /// Caches that others share may keep it.
    pub(super) public: bool,
    /// How long caches may answer with it while kck answers with failures, in seconds.
    pub(super) stale_if_error: u64,
}

/// A fetch answer, deflated where `packed` is given.
pub(super) fn answer(
    key: &str,
    answer: &Answer,
    manner: Manner,
    packed: Option<&Packed>,
) -> warp::reply::Response {
    let mut response = match (manner.form, packed) {
        (Form::Json, None) => {
            let mut text = Text::default();
            text.answer(key, answer);
            text.into_response()
        }
        (Form::Json, Some(packed)) => {
            let (mut before, mut after) = (Text::default(), Text::default());
            before.before(key);
            after.after(answer);
            parts(packed.within(&before.open, &after.open).into())
        }
        (_, None) => bytes(answer.body.clone()),
        (_, Some(packed)) => parts(packed.within(b"", b"").into()),
    };
    let headers = response.headers_mut();
    headers.reserve(HEADERS);
    headers.insert(CONTENT_TYPE, kind(manner.form));
    if packed.is_some() {
        headers.insert(CONTENT_ENCODING, GZIP);
    }
    describe(&mut response, answer, manner, packed.is_some());
    response
}

/// 304: the reader has these bytes already.
pub(super) fn not_modified(answer: &Answer, manner: Manner) -> warp::reply::Response {
    let mut response = Response::new(Bytes::new()).into_response();
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    describe(&mut response, answer, manner, false);
    response
}

const fn kind(form: Form) -> HeaderValue {
    match form {
        Form::Json => JSON,
        Form::Ndjson => NDJSON,
        Form::Csv => CSV,
    }
}

/// What the headers say of an answer.
fn describe(response: &mut warp::reply::Response, answer: &Answer, manner: Manner, packed: bool) {
    // One buffer for all: a header's value is a slice of it.
    let mut buffer = BytesMut::with_capacity(128);
    let mut value = |text: fmt::Arguments<'_>| {
        buffer.write_fmt(text).expect("a buffer in memory grows");
        HeaderValue::from_maybe_shared(buffer.split().freeze()).expect("digits and punctuation")
    };
    let headers = response.headers_mut();
    let version = answer.version;
    // The envelope moves while its answer does not; bare bytes are these very bytes.
    let tag = match (manner.form, packed) {
        (Form::Json, _) => value(format_args!("W/\"{version}\"")),
        (form, false) => value(format_args!("\"{version}-{}\"", form.name())),
        (form, true) => value(format_args!("\"{version}-{}-gzip\"", form.name())),
    };
    headers.insert(ETAG, tag);
    let control = match (manner.public, manner.stale_if_error) {
        (true, 0) => NO_CACHE,
        (false, 0) => PRIVATE,
        (true, seconds) => value(format_args!("max-age=0, stale-if-error={seconds}")),
        (false, seconds) => value(format_args!("private, max-age=0, stale-if-error={seconds}")),
    };
    headers.insert(CACHE_CONTROL, control);
    headers.insert(VARY, ACCEPTS);
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
    if problem.kind == Kind::Unauthorized {
        let challenge = HeaderValue::from_static(auth::CHALLENGE);
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    if let Some(retry) = problem.retry {
        let seconds = retry.as_secs() + u64::from(retry.subsec_nanos() > 0);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

/// What a route came to.
pub(super) fn settled(result: Result<warp::reply::Response, Problem>) -> warp::reply::Response {
    result.unwrap_or_else(|failure| problem(&failure))
}

/// The same for what no cache may keep, failures included.
pub(super) fn unstored(result: Result<warp::reply::Response, Problem>) -> warp::reply::Response {
    let mut response = settled(result);
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
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

/// Whether an `If-None-Match` names this version in this form, by weak comparison (RFC 9110, 8.8.3.2 and 13.1.2);
/// whether it was deflated makes no difference to who has it.
pub(super) fn names_version(if_none_match: &str, version: u64, form: Form) -> bool {
    let list = if_none_match.trim();
    if list == "*" {
        return true;
    }
    let mut wanted = version.to_string();
    if form != Form::Json {
        wanted.push('-');
        wanted.push_str(form.name());
    }
    // Between the quotes commas are part of a tag, so the quotes are what is split at.
    list.split('"').skip(1).step_by(2).any(|tag| tag.strip_suffix("-gzip").unwrap_or(tag) == wanted)
}

/// Rides on a response from its route to the connection, which sends it in place of the empty body.
#[derive(Debug, Clone)]
struct Parts(VecDeque<Bytes>);

/// A body that comes as it is made; taken by the connection.
#[derive(Clone)]
struct Flow(Arc<Mutex<Option<BoxStream<'static, Bytes>>>>);

/// A response whose body is what this stream gives.
pub(super) fn flowing(
    kind: HeaderValue,
    stream: impl Stream<Item = Bytes> + Send + 'static,
) -> warp::reply::Response {
    let mut response = Response::new(Bytes::new()).into_response();
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.extensions_mut().insert(Flow(Arc::new(Mutex::new(Some(stream.boxed())))));
    response
}

/// A list in JSON: this much of it, the rest as it comes, and its end.
pub(super) fn flowing_json(
    begun: Text,
    rest: impl Stream<Item = Text> + Send + 'static,
) -> warp::reply::Response {
    let mut end = Text::default();
    end.push("]}");
    let texts = stream::iter([begun]).chain(rest).chain(stream::iter([end]));
    let mut response = flowing(JSON, texts.flat_map(|text| stream::iter(text.into_parts())));
    response.headers_mut().insert(CACHE_CONTROL, PRIVATE);
    response
}

/// What the connection sends, and a sign that it is doing so.
pub(super) struct Body<B> {
    content: Content<B>,
    /// What is left of a part that is given in pieces.
    rest: Bytes,
    /// `None` once all is handed over: what then comes is another request.
    serving: Option<Serving>,
}

enum Content<B> {
    /// The body as the route made it.
    Whole(B),
    /// These, one after the other.
    Parts(VecDeque<Bytes>),
    /// Whatever comes.
    Flow(BoxStream<'static, Bytes>),
}

impl<B> Body<B> {
    /// Puts the parts or the flow, if there is one, in the place of the route's own body.
    pub(super) fn of(response: Response<B>, serving: Serving) -> Response<Self> {
        let (mut head, body) = response.into_parts();
        let flow = head.extensions.remove::<Flow>();
        let flow =
            flow.and_then(|flow| flow.0.lock().unwrap_or_else(PoisonError::into_inner).take());
        let content = match (flow, head.extensions.remove::<Parts>()) {
            (Some(flow), _) => Content::Flow(flow),
            (None, Some(Parts(parts))) => Content::Parts(parts),
            (None, None) => Content::Whole(body),
        };
        serving.waits(true);
        let rest = Bytes::new();
        Response::from_parts(head, Self { content, rest, serving: Some(serving) })
    }
}

impl<B> Body<B> {
    /// All of it, or where pieces are timed the first and the rest later.
    fn piece(&mut self, mut data: Bytes) -> Option<Frame<Bytes>> {
        if let Some(serving) = self.serving.as_ref().filter(|serving| serving.in_pieces()) {
            if data.len() > PIECE {
                self.rest = data.split_off(PIECE);
            }
            serving.waits(true);
        }
        Some(Frame::data(data))
    }
}

impl<B: hyper::body::Body<Data = Bytes> + Unpin> hyper::body::Body for Body<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        if let Some(serving) = &this.serving {
            serving.waits(false);
        }
        if !this.rest.is_empty() {
            let rest = std::mem::take(&mut this.rest);
            return Poll::Ready(this.piece(rest).map(Ok));
        }
        let frame = match &mut this.content {
            Content::Whole(body) => ready!(Pin::new(body).poll_frame(cx)),
            Content::Parts(parts) => parts.pop_front().map(|part| Ok(Frame::data(part))),
            Content::Flow(flow) => {
                ready!(flow.as_mut().poll_next(cx)).map(|part| Ok(Frame::data(part)))
            }
        };
        let Some(frame) = frame.transpose()? else {
            this.serving = None;
            return Poll::Ready(None);
        };
        match frame.into_data() {
            Ok(data) => Poll::Ready(this.piece(data).map(Ok)),
            Err(other) => Poll::Ready(Some(Ok(other))),
        }
    }

    fn is_end_stream(&self) -> bool {
        if !self.rest.is_empty() {
            return false;
        }
        match &self.content {
            Content::Whole(body) => body.is_end_stream(),
            Content::Parts(parts) => parts.is_empty(),
            Content::Flow(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        // It is asked before the first piece is given.
        match &self.content {
            Content::Whole(body) => body.size_hint(),
            Content::Parts(parts) => {
                SizeHint::with_exact(parts.iter().map(|part| part.len() as u64).sum())
            }
            Content::Flow(_) => SizeHint::default(),
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
            stamp: crate::entry::Stamp(1),
            fingerprint: crate::entry::Fingerprint::default(),
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
    fn every_line_of_an_event_is_data() {
        let lines = in_lines(&Bytes::from_static(b"[1,\n2,\r\n3,\r4]"));
        assert_eq!(lines, "[1,\ndata: 2,\ndata: 3,\ndata: 4]");
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
            assert_eq!(names_version(header, 7, Form::Json), named, "{header}");
        }
        assert!(names_version("\"7-csv-gzip\"", 7, Form::Csv));
        assert!(!names_version("\"7-csv\"", 7, Form::Ndjson));
        assert!(!names_version("\"7\"", 7, Form::Csv));
    }
}
