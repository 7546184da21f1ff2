//! A request's path and body → an update that is run, and where its commit lies, whatever the protocol.
//!
//! Invariant: what is answered of a failure says whether anything was written, or that nobody knows.

use std::sync::Arc;

use crate::{
    description::has_clock_word,
    key::{self, BadSegment},
    observe::Event,
    postgres::write::{Write, WriteError, Written},
    product::{Update, UpdateSlot, parameter::Parameter},
};

use super::{
    Context, Who,
    auth::permission,
    fields::{Fields, Misfit, Value},
    problem::{KeyFault, Kind, Problem, echo, listed},
};

/// Runs the update of this name, with what the segments of a path, still encoded, and a body give it.
///
/// # Errors
/// The request's fault, the source's, or that of the update's own rules.
pub async fn write(
    context: &Context,
    who: &Who,
    name: &str,
    segments: &[&str],
    fields: &Fields<'_>,
) -> Result<Written, Problem> {
    let update = named(context, name).map_err(|problem| who.may_learn(problem))?;
    if !update.draft.policy.access.public {
        permission::known(&who.identity)?;
    }
    let arguments = arguments(&update, segments, fields)?;
    who.may_write(context, &update, &arguments).await?;
    let (sql, atomic) = (Arc::clone(&update.sql), update.atomic);
    let written = context.writer.run(Write { sql, arguments, atomic }).await;
    let update = name.to_owned();
    written.inspect(|_| context.observer.note(Event::Updated { update })).map_err(|error| {
        note(context, name, &error);
        problem(name, atomic, error)
    })
}

fn named(context: &Context, name: &str) -> Result<Arc<Update>, Problem> {
    match context.catalog.borrow().updates.get(name) {
        Some(UpdateSlot::Ready { update, .. }) => Ok(Arc::clone(update)),
        Some(broken) => Err(Problem::new(
            Kind::ProductBroken,
            format!("the update '{name}' does not work"),
            "GET /products says why",
        )
        .with_args([name, broken.sqlstate()].into_iter().filter(|arg| !arg.is_empty()))),
        None => {
            let name = echo(name);
            let message = format!("there is no update '{name}'");
            Err(Problem::new(Kind::UnknownUpdate, message, "GET /products lists them")
                .with_args([name]))
        }
    }
}

/// The parameters' values: those of the body, then in order those of the path. The original's clients say some in
/// both: what is left of the path must say again, in order, what the body said.
fn arguments(
    update: &Update,
    segments: &[&str],
    fields: &Fields<'_>,
) -> Result<Vec<Value>, Problem> {
    let parameters = &update.parameters;
    known(update, fields)?;
    let given = parameters.iter().map(|parameter| {
        fields.value(parameter).transpose().map_err(|Misfit { text, fact }| {
            let (name, type_name) = (parameter.name.clone(), parameter.type_.name.clone());
            KeyFault::Bad { parameter: name, type_name, text, fact }
        })
    });
    let given: Vec<Option<Value>> = given.collect::<Result<_, _>>()?;
    let mut segments = segments.iter();
    let mut values = Vec::with_capacity(parameters.len());
    for (parameter, given) in parameters.iter().zip(&given) {
        values.push(match (given, parameter) {
            (Some(value), _) => Some(value.clone()),
            (None, parameter) => match segments.next() {
                Some(raw) => Some(Some(decoded(parameter, raw)?)),
                None => parameter.default.clone().map(Some),
            },
        });
    }
    let mut said = given.iter().flatten().flatten();
    for raw in segments {
        let again = key::decode(raw).is_ok_and(|text| said.any(|said| *said == text));
        if !again {
            return Err(count(update, "there are more segments than parameters", []));
        }
    }
    let missing = parameters.iter().zip(&values).filter(|(_, value)| value.is_none());
    let missing: Vec<&str> = missing.map(|(parameter, _)| parameter.name.as_str()).collect();
    if !missing.is_empty() {
        let what = format!("not given: {}", missing.join(", "));
        return Err(count(update, &what, missing));
    }
    let values: Vec<Value> = values.into_iter().flatten().collect();
    for (parameter, value) in parameters.iter().zip(&values) {
        checked(parameter, value.as_deref())?;
    }
    Ok(values)
}

/// Refuses fields that are no parameters. In a form they may be: the original's clients send more than is asked.
fn known(update: &Update, fields: &Fields<'_>) -> Result<(), Problem> {
    let unknown = |name: &&str| !update.parameters.iter().any(|known| known.name == **name);
    if let Some((name, misfit)) = fields.undecodable().filter(|(name, _)| unknown(name)) {
        let message = format!("'{}' is no text: {}", echo(name), misfit.fact);
        return Err(Problem::bad_request(name, message, "percent-encode it as UTF-8, once"));
    }
    if let Fields::Form(_) = fields {
        return Ok(());
    }
    const NAMED_MAX: usize = 10;
    let unknown: Vec<String> = fields.names().filter(unknown).take(NAMED_MAX).map(echo).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let message = format!("'{}' has no parameter {}", update.name(), unknown.join(", "));
    let hint = format!("its parameters: {}", names(update));
    Err(Problem::new(Kind::BadRequest, message, hint).with_args(unknown))
}

fn decoded(parameter: &Parameter, raw: &str) -> Result<String, KeyFault> {
    key::decode(raw).map_err(|fault: BadSegment| {
        let (name, type_name) = (parameter.name.clone(), parameter.type_.name.clone());
        KeyFault::Bad { parameter: name, type_name, text: raw.into(), fact: fault.to_string() }
    })
}

/// Says what the source would refuse, with the parameter's name. Words that ask the clock are values here.
fn checked(parameter: &Parameter, value: Option<&str>) -> Result<(), KeyFault> {
    let Some(text) = value.filter(|text| !has_clock_word(text)) else { return Ok(()) };
    parameter.canonical(text).map(drop).map_err(|bad| KeyFault::Bad {
        parameter: bad.name,
        type_name: bad.type_name,
        text: bad.text,
        fact: bad.reason,
    })
}

fn names(update: &Update) -> String {
    let names: Vec<String> = update.parameters.iter().map(|one| one.name.clone()).collect();
    listed(&names)
}

fn count<'a>(update: &'a Update, what: &str, args: impl IntoIterator<Item = &'a str>) -> Problem {
    let message = format!("parameters of '{}': {what}", update.name());
    let hint = format!("its parameters: {}", names(update));
    let args = std::iter::once(update.name()).chain(args);
    Problem::new(Kind::ParameterCount, message, hint).with_args(args)
}

fn note(context: &Context, name: &str, error: &WriteError) {
    let (code, why) = match error {
        WriteError::Refused { sqlstate, message, .. } => {
            // What is said of names and rights holds no row's values.
            let why = if sqlstate.starts_with("42") { message.clone() } else { String::new() };
            (sqlstate.clone(), why)
        }
        error => (String::new(), crate::postgres::describe_chain(error)),
    };
    context.observer.note(Event::UpdateFailed { update: name.to_owned(), code, why });
}

/// What a failure is to whoever asked; what is not `atomic` may have committed in between.
fn problem(name: &str, atomic: bool, error: WriteError) -> Problem {
    let unavailable = |message: &'static str, hint: &'static str| {
        Problem::new(Kind::SourceUnavailable, message, hint)
    };
    match error {
        WriteError::Full | WriteError::Late => Problem::new(
            Kind::TooManyRequests,
            "too many updates are waiting; nothing was written",
            "try again later, or give the source more connections (refresh.connections)",
        ),
        WriteError::NotSent(_) => unavailable(
            "the source cannot be asked now; nothing was written",
            "try again; /readyz says since when",
        ),
        WriteError::Unknown(_) => unavailable(
            "the connection was lost after the statement was sent: it is not known whether the write happened",
            "read what it should have written before you try again",
        ),
        WriteError::Unplaced(_) => unavailable(
            "the write happened, and the connection was lost before its position was known",
            "do not write it again; read with fresh=true",
        ),
        WriteError::Refused { sqlstate, constraint, .. } => {
            let undone = if atomic {
                "nothing was written"
            } else {
                "what the procedure had not committed was undone"
            };
            refused(name, undone, sqlstate, constraint)
        }
    }
}

/// What a SQLSTATE means to whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// Of the rules of the data, or raised by the user's own functions.
    Conflict,
    /// Of a value: not of its type, too long, too large for an index.
    Value,
    /// It took too long.
    Late,
    /// Another try may succeed.
    Passing,
    /// Of the update itself.
    Broken,
}

impl Refusal {
    fn of(sqlstate: &str) -> Self {
        let (class, _) = sqlstate.split_at_checked(2).unwrap_or((sqlstate, ""));
        match (sqlstate, class) {
            ("P0001", _) | (_, "23" | "44") => Self::Conflict,
            (_, "22" | "54") => Self::Value,
            ("57014", _) => Self::Late,
            ("55P03" | "57P03", _) | (_, "40" | "53" | "58") => Self::Passing,
            (_, "72" | "F0" | "HV" | "P0" | "XX") => Self::Broken,
            // The standard and Postgres leave the other classes to users.
            (code, _) if code.starts_with(|c: char| ('6'..='9').contains(&c) || c >= 'I') => {
                Self::Conflict
            }
            _ => Self::Broken,
        }
    }
}

fn refused(name: &str, undone: &str, sqlstate: String, constraint: Option<String>) -> Problem {
    let of_constraint = constraint.filter(|_| sqlstate.starts_with("23"));
    let (kind, message, hint) = match Refusal::of(&sqlstate) {
        Refusal::Conflict => {
            let by = of_constraint.as_ref().map_or_else(String::new, |by| format!(" by {by}"));
            let message = format!("the write was refused{by} with SQLSTATE {sqlstate}; {undone}");
            (Kind::Conflict, message, "read what is there, and decide anew")
        }
        Refusal::Value => (
            Kind::BadParameter,
            format!("a value was refused with SQLSTATE {sqlstate}; {undone}"),
            "GET /products lists the parameters with their types",
        ),
        Refusal::Late => (
            Kind::SourceUnavailable,
            format!("the write took too long; {undone}"),
            "try again; something may hold locks, or refresh.statement_timeout is short",
        ),
        Refusal::Passing => (
            Kind::SourceUnavailable,
            format!("the source refused the write for now with SQLSTATE {sqlstate}; {undone}"),
            "try again",
        ),
        Refusal::Broken => (
            Kind::ProductBroken,
            format!("the source refused the SQL of '{name}' with SQLSTATE {sqlstate}; {undone}"),
            "kck's log has the statement's failure",
        ),
    };
    Problem::new(kind, message, hint).with_args(std::iter::once(sqlstate).chain(of_constraint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::update::tests::update;

    const BOTH: &str = "update t set name = :name where id = :id";
    const DEFAULTED: &str = "/* kck\nparams = { id = \"bigint\", n = { default = \"7\" } } */ update t set n = :n where id = :id";

    fn given(text: &str, segments: &[&str], body: &str) -> Result<Vec<Value>, Problem> {
        let types: &[_] = if text == BOTH {
            &[(25, "text"), (20, "bigint")]
        } else {
            &[(20, "bigint"), (23, "integer")]
        };
        let fields = Fields::of(body.as_bytes(), false)?;
        arguments(&update(text, types), segments, &fields)
    }

    #[track_caller]
    fn takes(text: &str, segments: &[&str], body: &str, want: &[Option<&str>]) {
        let values = given(text, segments, body).unwrap_or_else(|problem| panic!("{problem:?}"));
        assert_eq!(values.iter().map(Option::as_deref).collect::<Vec<_>>(), want);
    }

    #[track_caller]
    fn refuses(text: &str, segments: &[&str], body: &str, name: &str, args: &[&str]) {
        let problem = given(text, segments, body).unwrap_err();
        assert_eq!((problem.kind.row().0, problem.status()), (name, 400), "{problem:?}");
        assert_eq!(problem.args, args, "{problem:?}");
    }

    #[test]
    fn the_path_fills_what_the_body_leaves() {
        takes(BOTH, &[], r#"{"id":7,"name":"a"}"#, &[Some("a"), Some("7")]);
        takes(BOTH, &["7"], "name=a+b", &[Some("a b"), Some("7")]);
        takes(BOTH, &["a%20b", "7"], "", &[Some("a b"), Some("7")]);
        takes(BOTH, &["7"], r#"{"name":null}"#, &[None, Some("7")]);
        takes(BOTH, &["", "7"], "", &[Some(""), Some("7")]);
    }

    #[test]
    fn the_originals_clients_say_the_id_twice_and_more_than_is_asked() {
        takes(BOTH, &["7"], "id=7&name=x&csrf=1", &[Some("x"), Some("7")]);
        takes(BOTH, &["x", "7"], r#"{"id":7,"name":"x"}"#, &[Some("x"), Some("7")]);
        refuses(BOTH, &["8"], "id=7&name=x", "parameter_count", &["u"]);
        refuses(BOTH, &["7", "x"], "id=7&name=x", "parameter_count", &["u"]);
        refuses(BOTH, &["7", "7"], "id=7&name=x", "parameter_count", &["u"]);
    }

    #[test]
    fn what_is_missing_has_a_default_or_is_named() {
        takes(DEFAULTED, &["1"], "", &[Some("1"), Some("7")]);
        takes(DEFAULTED, &["1", "8"], "", &[Some("1"), Some("8")]);
        refuses(BOTH, &[], "", "parameter_count", &["u", "name", "id"]);
        refuses(BOTH, &["x"], "", "parameter_count", &["u", "id"]);
        refuses(DEFAULTED, &["1", "2", "3"], "", "parameter_count", &["u"]);
    }

    #[test]
    fn unknown_fields_are_refused_in_json() {
        refuses(BOTH, &[], r#"{"id":1,"name":"x","z":1,"y":2}"#, "bad_request", &["y", "z"]);
    }

    #[test]
    fn what_is_no_value_is_named() {
        refuses(BOTH, &["1x"], "name=x", "bad_parameter", &["id", "bigint", "1x"]);
        refuses(BOTH, &["%ff"], "id=1", "bad_parameter", &["name", "text", "%ff"]);
        refuses(BOTH, &["1"], "name=%00", "bad_parameter", &["name", "text", "%00"]);
        refuses(BOTH, &["1"], "name=x&other=%00", "bad_request", &["other"]);
        refuses(BOTH, &[], r#"{"id":[1],"name":"x"}"#, "bad_parameter", &["id", "bigint", "[1]"]);
        refuses(BOTH, &["1"], r#"{"name":{}}"#, "bad_parameter", &["name", "text", "{}"]);
    }

    #[test]
    fn every_code_has_one_meaning() {
        for (sqlstate, refusal) in [
            ("23505", Refusal::Conflict),
            ("44000", Refusal::Conflict),
            ("P0001", Refusal::Conflict),
            ("KX001", Refusal::Conflict),
            ("72000", Refusal::Broken),
            ("P0002", Refusal::Broken),
            ("22P02", Refusal::Value),
            ("54000", Refusal::Value),
            ("57014", Refusal::Late),
            ("40001", Refusal::Passing),
            ("55P03", Refusal::Passing),
            ("53100", Refusal::Passing),
            ("25006", Refusal::Broken),
            ("42P01", Refusal::Broken),
            ("42501", Refusal::Broken),
            ("XX000", Refusal::Broken),
            ("", Refusal::Broken),
        ] {
            assert_eq!(Refusal::of(sqlstate), refusal, "{sqlstate}");
        }
    }

    #[test]
    fn a_constraint_is_named_and_nothing_else() {
        let refused = |sqlstate: &str, constraint: Option<&str>| {
            let constraint = constraint.map(str::to_owned);
            let message = "Key (secret)=(1)".to_owned();
            problem(
                "u",
                true,
                WriteError::Refused { sqlstate: sqlstate.into(), constraint, message },
            )
        };
        let conflict = refused("23505", Some("items_pkey"));
        assert_eq!((conflict.status(), conflict.kind), (409, Kind::Conflict));
        assert_eq!(conflict.args, ["23505", "items_pkey"]);
        assert!(!conflict.to_json().contains("secret"));
        assert_eq!(refused("P0001", Some("x")).args, ["P0001"]);
        assert_eq!(refused("22001", None).status(), 400);
        assert_eq!(refused("42P01", None).status(), 503);
    }

    #[test]
    fn what_is_not_known_is_said() {
        let lost = || crate::postgres::Error::Gone { action: "x", source: "db.internal".into() };
        let unknown = problem("u", true, WriteError::Unknown(lost()));
        assert_eq!(unknown.status(), 503);
        assert!(unknown.message.contains("not known whether the write happened"));
        assert!(!unknown.to_json().contains("db.internal"));
        let not_sent = problem("u", false, WriteError::NotSent(lost()));
        assert!(not_sent.message.contains("nothing was written"));
        assert_eq!(problem("u", true, WriteError::Full).status(), 429);
        let (sqlstate, message) = ("40001".to_owned(), String::new());
        let refused = WriteError::Refused { sqlstate, constraint: None, message };
        assert!(problem("u", false, refused).message.contains("had not committed"));
    }
}
