//! Problem: a fault → name, code, HTTP status, message, hint, args: one table, one JSON.
//!
//! Everything a reader is told of a failure goes through here, whatever the protocol, so that nothing internal
//! gets out: no SQL, no row's values, no text of Postgres.

use std::{borrow::Cow, time::Duration};

use serde::Serialize;

use crate::{key::BadSegment, recompute};

use super::read::AsOf;

/// How much of a reader's own text is repeated to it.
const ECHO_CHARS: usize = 200;

/// What kind of failure it is. Names and codes are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No file of that name.
    UnknownProduct,
    /// Too few or too many parameters.
    ParameterCount,
    /// A text that is no value of its parameter's type.
    BadParameter,
    /// The request cannot be understood.
    BadRequest,
    /// No such route.
    NotFound,
    /// The route does not take this method.
    MethodNotAllowed,
    /// A body, a list of keys or an answer over its limit.
    TooLarge,
    /// More is waiting than may wait.
    TooManyRequests,
    /// A defect of kck.
    Internal,
    /// The product's file or SQL does not work.
    ProductBroken,
    /// The source cannot be asked.
    SourceUnavailable,
    /// kck is stopping.
    Draining,
    /// The demand was not met within `wait`.
    NotFreshInTime,
    /// No token, or none that is good.
    Unauthorized,
    /// A good token, and not for this.
    Forbidden,
    /// No update of that name.
    UnknownUpdate,
    /// No process of that name.
    UnknownProcess,
    /// A write against the rules of the data, or a process that runs already.
    Conflict,
}

impl Kind {
    /// The table: name, code, HTTP status.
    #[must_use]
    pub const fn row(self) -> (&'static str, &'static str, u16) {
        match self {
            Self::UnknownProduct => ("unknown_product", "KCK601", 404),
            Self::ParameterCount => ("parameter_count", "KCK602", 400),
            Self::BadParameter => ("bad_parameter", "KCK603", 400),
            Self::BadRequest => ("bad_request", "KCK604", 400),
            Self::NotFound => ("not_found", "KCK605", 404),
            Self::MethodNotAllowed => ("method_not_allowed", "KCK606", 405),
            Self::TooLarge => ("too_large", "KCK607", 413),
            Self::TooManyRequests => ("too_many_requests", "KCK608", 429),
            Self::Internal => ("internal", "KCK609", 500),
            Self::ProductBroken => ("product_broken", "KCK610", 503),
            Self::SourceUnavailable => ("source_unavailable", "KCK611", 503),
            Self::Draining => ("draining", "KCK612", 503),
            Self::NotFreshInTime => ("not_fresh_in_time", "KCK613", 504),
            Self::Unauthorized => ("unauthorized", "KCK701", 401),
            Self::Forbidden => ("forbidden", "KCK702", 403),
            Self::UnknownUpdate => ("unknown_update", "KCK614", 404),
            Self::Conflict => ("conflict", "KCK615", 409),
            Self::UnknownProcess => ("unknown_process", "KCK617", 404),
        }
    }
}

/// A failure as readers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What kind of failure it is.
    pub kind: Kind,
    /// What is wrong.
    pub message: Cow<'static, str>,
    /// What to do.
    pub hint: Cow<'static, str>,
    /// The facts of the message, one by one, for programs.
    pub args: Vec<String>,
    /// How far kck was when it gave up.
    pub reached: Option<AsOf>,
    /// When to try again.
    pub retry: Option<Duration>,
}

impl Problem {
    /// A failure without facts.
    #[must_use]
    pub fn new(
        kind: Kind,
        message: impl Into<Cow<'static, str>>,
        hint: impl Into<Cow<'static, str>>,
    ) -> Self {
        let (message, hint) = (message.into(), hint.into());
        Self { kind, message, hint, args: Vec::new(), reached: None, retry: None }
    }

    /// The same with the facts of its message.
    #[must_use]
    pub fn with_args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// The same with when to try again.
    #[must_use]
    pub fn after(mut self, retry: Duration) -> Self {
        self.retry = Some(retry);
        self
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.kind.row().2
    }

    /// The body: `{"success":false,"error":{…}}`, and `"reached"` where something was waited for.
    #[must_use]
    pub fn to_json(&self) -> String {
        self.json(None)
    }

    /// The same with the key that was asked: an element of a list of answers.
    #[must_use]
    pub fn to_json_of(&self, key: &str) -> String {
        self.json(Some(key))
    }

    fn json(&self, key: Option<&str>) -> String {
        let (name, code, _) = self.kind.row();
        let Self { message, hint, args, reached, .. } = self;
        let error = Error { name, code, message, hint, args };
        let reached = reached
            .map(|as_of| Reached { lsn: as_of.lsn.to_string(), time: as_of.time.to_string() });
        serde_json::to_string(&Body { success: false, key, error, reached })
            .expect("texts are always JSON")
    }
}

#[derive(Serialize)]
struct Body<'a> {
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    error: Error<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reached: Option<Reached>,
}

#[derive(Serialize)]
struct Error<'a> {
    name: &'a str,
    code: &'a str,
    message: &'a str,
    hint: &'a str,
    args: &'a [String],
}

#[derive(Serialize)]
struct Reached {
    lsn: String,
    time: String,
}

/// What keeps a text from being a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyFault {
    /// No product of that name.
    Unknown {
        /// As asked.
        product: String,
    },
    /// Its file does not load or does not fit the source.
    Broken {
        /// Its name.
        product: String,
        /// Postgres's code, where Postgres refused it; else empty.
        sqlstate: String,
    },
    /// Too few or too many parameters.
    Count {
        /// Its name.
        product: String,
        /// The parameters it has, in order.
        expected: Vec<String>,
        /// How many were given.
        got: usize,
    },
    /// A text that is no value of its parameter's type.
    Bad {
        /// The parameter.
        parameter: String,
        /// Its type, as Postgres prints it.
        type_name: String,
        /// What was given.
        text: String,
        /// What is wrong with it, without Postgres's own words.
        fact: String,
    },
    /// A name that no parameter of the product has.
    NoSuchParameter {
        /// Its name.
        product: String,
        /// What was given.
        parameter: String,
        /// The parameters it has, in order.
        expected: Vec<String>,
    },
    /// Some parameters in the path and some by name.
    Mixed {
        /// One that came by name.
        parameter: String,
    },
}

impl From<KeyFault> for Problem {
    fn from(fault: KeyFault) -> Self {
        match fault {
            KeyFault::Unknown { product } => {
                let product = echo(&product);
                Self::new(
                    Kind::UnknownProduct,
                    format!("there is no product '{product}'"),
                    "GET /products lists them",
                )
                .with_args([product])
            }
            KeyFault::Broken { product, sqlstate } => Self::new(
                Kind::ProductBroken,
                format!("the product '{product}' does not work"),
                "GET /products says why",
            )
            .with_args([product, sqlstate].into_iter().filter(|arg| !arg.is_empty())),
            KeyFault::Count { product, expected, got } => count(product, &expected, got),
            KeyFault::Bad { parameter, type_name, text, fact } => {
                let text = echo(&text);
                Self::new(
                    Kind::BadParameter,
                    format!("{parameter}: '{text}' is not a {type_name}: {fact}"),
                    format!("give {parameter} as Postgres writes a {type_name}"),
                )
                .with_args([parameter, type_name, text])
            }
            KeyFault::NoSuchParameter { product, parameter, expected } => {
                let parameter = echo(&parameter);
                Self::new(
                    Kind::BadRequest,
                    format!(
                        "'{parameter}' is no parameter of '{product}' and no setting of a read"
                    ),
                    format!("its parameters: {}", listed(&expected)),
                )
                .with_args([parameter])
            }
            KeyFault::Mixed { parameter } => {
                let parameter = echo(&parameter);
                Self::new(
                    Kind::BadRequest,
                    format!("'{parameter}' is given by name beside parameters in the path"),
                    "give all parameters in the path, or all by name in the query",
                )
                .with_args([parameter])
            }
        }
    }
}

fn count(product: String, expected: &[String], got: usize) -> Problem {
    let message = format!("parameters of '{product}': {} expected, {got} given", expected.len());
    let hint = format!("its parameters: {}", listed(expected));
    let args = [product, expected.len().to_string(), got.to_string()];
    Problem::new(Kind::ParameterCount, message, hint).with_args(args)
}

/// Names for a hint.
pub(super) fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl From<recompute::Error> for Problem {
    fn from(error: recompute::Error) -> Self {
        use recompute::Error;
        match error {
            Error::NotFreshInTime { lsn, time, fact } => {
                let message = if fact.is_empty() {
                    Cow::Borrowed("no answer as fresh as demanded within `wait`")
                } else {
                    Cow::Owned(format!("no answer as fresh as demanded within `wait`: {fact}"))
                };
                let hint =
                    "demand less, or give a longer `wait`; /readyz says how far kck is behind";
                let problem = Self::new(Kind::NotFreshInTime, message, hint);
                Self { reached: Some(AsOf { lsn, time }), ..problem }
            }
            // The text may hold host names and Postgres's own words: it is for the log.
            Error::SourceUnavailable(_) => Self::new(
                Kind::SourceUnavailable,
                "the answer has to be computed and the source cannot be asked now",
                "try again; /readyz says since when",
            ),
            Error::ProductBroken { sqlstate } if sqlstate.is_empty() => Self::new(
                Kind::ProductBroken,
                "the product does not work",
                "GET /products says why",
            ),
            Error::ProductBroken { sqlstate } => Self::new(
                Kind::ProductBroken,
                format!("the source refused the product's SQL with SQLSTATE {sqlstate}"),
                "GET /products shows the product's state; kck's log has the statement's failure",
            )
            .with_args([sqlstate]),
            Error::NoAnswer { fact } => Self::new(
                Kind::ProductBroken,
                format!("the product gave no answer: {fact}"),
                "GET /products says more; kck's log has what the program wrote",
            )
            .with_args([fact]),
            Error::TooLarge { bytes, limit } => Self::new(
                Kind::TooLarge,
                format!("the answer has {bytes} bytes, at most {limit} are kept"),
                "narrow the product's SQL, or raise limits.answer",
            )
            .with_args([bytes.to_string(), limit.to_string()]),
            Error::Overloaded => Self::new(
                Kind::TooManyRequests,
                "too many computations are waiting",
                "try again later, or give the source more connections (refresh.connections)",
            )
            .after(Duration::from_secs(1)),
            Error::OverShare { retry } => Self::new(
                Kind::TooManyRequests,
                "this client has caused more computations than its share",
                "ask for less that is not kept, or raise limits.misses",
            )
            .after(retry),
            Error::Stopping => Self::draining(),
        }
    }
}

/// Failures of the request itself.
impl Problem {
    /// A query parameter or body that cannot be understood; `named` is what it is about.
    #[must_use]
    pub fn bad_request(
        named: &str,
        message: impl Into<Cow<'static, str>>,
        hint: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(Kind::BadRequest, message, hint).with_args([echo(named)])
    }

    /// A query parameter that the route does not have.
    #[must_use]
    pub fn unknown_query(name: &str, known: &str) -> Self {
        let message = format!("unknown query parameter '{}'", echo(name));
        Self::bad_request(name, message, format!("this route takes: {known}"))
    }

    /// A text in the query that encodes nothing.
    #[must_use]
    pub fn bad_encoding(named: &str, fault: BadSegment) -> Self {
        let message = format!("'{}' in the query: {fault}", echo(named));
        Self::bad_request(named, message, "percent-encode it as UTF-8, once")
    }

    /// No such route.
    #[must_use]
    pub fn not_found(path: &str) -> Self {
        let message = format!("nothing is at '{}'", echo(path));
        Self::new(Kind::NotFound, message, "answers are at /fetch/PRODUCT/PARAMETER…")
            .with_args([echo(path)])
    }

    /// A route that this version does not have yet.
    #[must_use]
    pub fn not_supported_yet(path: &str) -> Self {
        Self { hint: Cow::Borrowed("not supported yet"), ..Self::not_found(path) }
    }

    /// The route does not take this method.
    #[must_use]
    pub fn method_not_allowed(method: &str, allowed: &'static str) -> Self {
        let method = echo(method);
        let message = format!("{method} is not taken here");
        Self::new(Kind::MethodNotAllowed, message, format!("use {allowed}")).with_args([method])
    }

    /// Something of the request is over its limit.
    #[must_use]
    pub fn too_large(what: &'static str, limit: u64, hint: &'static str) -> Self {
        Self::new(Kind::TooLarge, format!("{what} than the limit of {limit}"), hint)
            .with_args([limit.to_string()])
    }

    /// No token or none that holds, a wrong password: the answer is the same whatever it was.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(
            Kind::Unauthorized,
            "a valid token is needed",
            "send `Authorization: Bearer TOKEN`; kck's log says at level debug what is wrong with one",
        )
    }

    /// A token that does not allow this: the same whatever is missing, and whether or not the key exists.
    #[must_use]
    pub fn forbidden() -> Self {
        let hint = "ask with another token; the product's [auth] says what it must carry";
        Self::new(Kind::Forbidden, "the token does not allow this", hint)
    }

    /// Too many logins that failed.
    #[must_use]
    pub fn too_many_logins(seconds: u64) -> Self {
        let hint = format!("try again in {seconds} seconds");
        Self::new(Kind::TooManyRequests, "too many logins failed", hint)
            .with_args([seconds.to_string()])
            .after(Duration::from_secs(seconds))
    }

    /// A defect of kck; what it was is in the log.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(Kind::Internal, "kck has a defect here", "the log says more; please report it")
    }

    /// kck is stopping.
    #[must_use]
    pub fn draining() -> Self {
        Self::new(Kind::Draining, "kck is stopping", "ask another node, or try again")
    }
}

/// A reader's own text, cut so that an answer is never as long as a hostile request.
pub(super) fn echo(text: &str) -> String {
    match text.char_indices().nth(ECHO_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Lsn, SourceTime};

    const ALL: [Kind; 17] = [
        Kind::UnknownProduct,
        Kind::ParameterCount,
        Kind::BadParameter,
        Kind::BadRequest,
        Kind::NotFound,
        Kind::MethodNotAllowed,
        Kind::TooLarge,
        Kind::TooManyRequests,
        Kind::Internal,
        Kind::ProductBroken,
        Kind::SourceUnavailable,
        Kind::Draining,
        Kind::NotFreshInTime,
        Kind::Unauthorized,
        Kind::Forbidden,
        Kind::UnknownUpdate,
        Kind::Conflict,
    ];

    #[test]
    fn the_table_is_this() {
        let rows = ALL.map(|kind| {
            let (name, code, status) = kind.row();
            format!("{code} {status} {name}")
        });
        assert_eq!(
            rows.join("\n"),
            "KCK601 404 unknown_product\n\
             KCK602 400 parameter_count\n\
             KCK603 400 bad_parameter\n\
             KCK604 400 bad_request\n\
             KCK605 404 not_found\n\
             KCK606 405 method_not_allowed\n\
             KCK607 413 too_large\n\
             KCK608 429 too_many_requests\n\
             KCK609 500 internal\n\
             KCK610 503 product_broken\n\
             KCK611 503 source_unavailable\n\
             KCK612 503 draining\n\
             KCK613 504 not_fresh_in_time\n\
             KCK701 401 unauthorized\n\
             KCK702 403 forbidden\n\
             KCK614 404 unknown_update\n\
             KCK615 409 conflict"
        );
    }

    fn check(problem: impl Into<Problem>, want: &str) {
        assert_eq!(problem.into().to_json(), want);
    }

    #[test]
    fn an_unknown_product_is_named() {
        check(
            KeyFault::Unknown { product: "orderz".into() },
            r#"{"success":false,"error":{"name":"unknown_product","code":"KCK601","message":"there is no product 'orderz'","hint":"GET /products lists them","args":["orderz"]}}"#,
        );
    }

    #[test]
    fn a_wrong_count_names_the_parameters() {
        check(
            KeyFault::Count { product: "p".into(), expected: vec!["a".into(), "b".into()], got: 3 },
            r#"{"success":false,"error":{"name":"parameter_count","code":"KCK602","message":"parameters of 'p': 2 expected, 3 given","hint":"its parameters: a, b","args":["p","2","3"]}}"#,
        );
    }

    #[test]
    fn a_bad_parameter_names_parameter_type_and_text() {
        let fault = KeyFault::Bad {
            parameter: "id".into(),
            type_name: "bigint".into(),
            text: "x".into(),
            fact: "no digits".into(),
        };
        check(
            fault,
            r#"{"success":false,"error":{"name":"bad_parameter","code":"KCK603","message":"id: 'x' is not a bigint: no digits","hint":"give id as Postgres writes a bigint","args":["id","bigint","x"]}}"#,
        );
    }

    #[test]
    fn what_was_reached_stands_beside_the_error() {
        let error = recompute::Error::NotFreshInTime {
            lsn: Lsn(0x16B_3748),
            time: SourceTime(0),
            fact: "another epoch",
        };
        check(
            error,
            r#"{"success":false,"error":{"name":"not_fresh_in_time","code":"KCK613","message":"no answer as fresh as demanded within `wait`: another epoch","hint":"demand less, or give a longer `wait`; /readyz says how far kck is behind","args":[]},"reached":{"lsn":"0/16B3748","time":"1970-01-01T00:00:00.000000Z"}}"#,
        );
    }

    #[test]
    fn the_sources_own_words_stay_inside() {
        let error = recompute::Error::SourceUnavailable("connect db.internal:5432".into());
        assert!(!Problem::from(error).to_json().contains("db.internal"));
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let problem = Problem::not_found(&"é".repeat(10_000));
        assert!(problem.to_json().len() < 2_000);
    }
}
