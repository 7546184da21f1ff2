//! `/fetch`: a key or a list of keys → answers.

use std::{sync::Arc, time::Instant};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use warp::reply::Response;

use crate::{
    entry::Stamp,
    key::Key,
    product::{Product, Slot},
    serve::{
        Context, Who,
        form::Form,
        pack::{self, Packed},
        problem::{KeyFault, Problem},
        read::{self, Answer, Demand, Outcome},
        resolve,
        share::Client,
    },
};

use super::{
    body,
    door::{self, Asked},
    query::{self, Query},
    reply::{self, Manner, Text},
};

/// How many keys of one list are read at once.
const READS_AT_ONCE: usize = 16;

/// A list that is longer is sent as it is read, so that no reader makes kck hold a thousand long answers.
const LIST_BYTES_HELD: usize = 4 * 1024 * 1024;

/// `GET /fetch?key=A&key=B`.
pub(super) async fn list(
    context: Arc<Context>,
    asked: Asked,
    raw_query: Option<String>,
) -> Response {
    let listed = async {
        let client = asked.who.client.clone();
        let query = Query::parse(raw_query.as_deref(), context.limits.wait, client)?;
        many(Arc::clone(&context), asked.who, query).await
    };
    reply::settled(listed.await)
}

/// `GET /fetch/KEY` and `GET /fetch/NAME?parameter=value`: what lies at this path behind `/fetch/`.
pub(super) async fn at(
    context: &Context,
    asked: &Asked,
    raw_query: Option<&str>,
    path: &str,
) -> Response {
    let query = match Query::parse(raw_query, context.limits.wait, asked.who.client.clone()) {
        Ok(query) => query,
        Err(problem) => return reply::problem(&problem),
    };
    reply::settled(one(context, asked, path, query).await)
}

/// `POST /fetch` with `{"keys":[…]}`.
pub(super) async fn post(
    context: Arc<Context>,
    asked: Asked,
    raw_query: Option<String>,
    chunks: impl Stream<Item = Result<impl Buf, warp::Error>>,
) -> Response {
    let who = asked.who;
    let query = asked_in(chunks, raw_query.as_deref(), &context, &who).await;
    let answered = match query {
        Ok(query) => many(context, who, query).await,
        Err(problem) => Err(problem),
    };
    reply::settled(answered)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<String>,
}

async fn asked_in(
    chunks: impl Stream<Item = Result<impl Buf, warp::Error>>,
    raw_query: Option<&str>,
    context: &Context,
    who: &Who,
) -> Result<Query, Problem> {
    let query = Query::parse(raw_query, context.limits.wait, who.client.clone())?;
    if !query.keys.is_empty() {
        let hint = "give all keys in the body";
        return Err(Problem::bad_request("key", "'key' in the query beside a body", hint));
    }
    let body = body::whole(chunks, context.limits.body_bytes).await?;
    let asked: Keys = serde_json::from_slice(&body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let message = format!("the body is not a list of keys, at line {line} column {column}");
        Problem::bad_request("body", message, r#"send {"keys":["PRODUCT/PARAMETER",…]}"#)
    })?;
    Ok(Query { keys: asked.keys, ..query })
}

async fn one(
    context: &Context,
    asked: &Asked,
    path: &str,
    query: Query,
) -> Result<Response, Problem> {
    if !query.keys.is_empty() {
        let hint = "give the key in the path, or keys in the query of /fetch";
        return Err(Problem::bad_request(
            "key",
            "'key' in the query beside a key in the path",
            hint,
        ));
    }
    asked.who.may_name(context, path)?;
    let (product, key) = resolved(context, &asked.who.client, path, &query.named).await?;
    asked.who.may_read(context, &product, &key).await?;
    let accepted = || door::text(&asked.accept).map(Form::accepted);
    let form = query.form.or_else(accepted).unwrap_or_default();
    let (mut answer, unchanged) = match read::read(context, &product, &key, &query.demand).await? {
        Outcome::Unchanged(answer) => (answer, true),
        Outcome::Answer(answer) => {
            let tags = door::text(&asked.if_none_match);
            let known = |tags| reply::names_version(tags, answer.version, form);
            let unchanged = tags.is_some_and(known);
            (answer, unchanged)
        }
    };
    let product = asked.who.still_reads(context, product, &key, &answer).await?;
    let public = context.gate.is_open() || product.draft.policy.access.public;
    let stale_if_error = context.limits.stale_if_error.as_secs();
    let manner = Manner { form, public, stale_if_error };
    if unchanged {
        return Ok(reply::not_modified(&answer, manner));
    }
    if form != Form::Json {
        answer.body = formed(context, &product, &key, &answer, form)?;
    }
    let packs = door::text(&asked.accept_encoding).is_some_and(accepts_gzip);
    let packed = if packs { Box::pin(packed(context, &key, &answer, form)).await } else { None };
    Ok(reply::answer(key.as_str(), &answer, manner, packed.as_ref()))
}

/// An answer's bytes in another form, made once a stamp.
fn formed(
    context: &Context,
    product: &Product,
    key: &Key,
    answer: &Answer,
    form: Form,
) -> Result<Bytes, Problem> {
    if let Some(bytes) = context.near.formed(key, form, answer.stamp) {
        return Ok(bytes);
    }
    let bytes = form.of(product, &answer.body).map_err(|error| {
        tracing::error!(%error, product = product.name(), "an answer in another form");
        Problem::internal()
    })?;
    if answer.stamp != Stamp(0) {
        context.near.insert(key.clone(), form, answer.stamp, bytes.clone());
    }
    Ok(bytes)
}

/// Above this deflating takes longer than others on this thread should wait.
const PACK_HERE_MAX: usize = 64 * 1024;

/// An answer's bytes deflated, once a stamp; `None` where that is not worth it.
async fn packed(context: &Context, key: &Key, answer: &Answer, form: Form) -> Option<Packed> {
    if answer.body.len() < pack::BYTES_MIN || answer.stamp == Stamp(0) {
        return None;
    }
    if let Some(packed) = context.near.packed(key, form, answer.stamp) {
        return Some(packed);
    }
    let body = answer.body.clone();
    let packed = if body.len() <= PACK_HERE_MAX {
        Packed::of(&body)
    } else {
        tokio::task::spawn_blocking(move || Packed::of(&body)).await.ok()?
    };
    context.near.insert_packed(key.clone(), form, answer.stamp, packed.clone());
    Some(packed)
}

/// Whether gzip is among what the reader takes (RFC 9110, 12.5.3).
fn accepts_gzip(accept: &str) -> bool {
    accept.split(',').any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        (coding.eq_ignore_ascii_case("gzip") || coding == "*") && !refused
    })
}

/// The key that a path and named parameters mean, and its product.
async fn resolved(
    context: &Context,
    client: &Client,
    path: &str,
    named: &[(String, String)],
) -> Result<(Arc<Product>, Key), Problem> {
    let Some((first, _)) = named.first() else {
        return resolve::from_path(context, client, path).await;
    };
    let (name, rest) = path.split_once('/').unwrap_or((path, ""));
    if name.len() + rest.len() < path.len() {
        let parameter = first.clone();
        return Err(match type_of(context, name, first) {
            Some(_) => KeyFault::Mixed { parameter }.into(),
            None => Problem::unknown_query(first, query::READ_TAKES),
        });
    }
    let decoded = |(parameter, raw): &(String, String)| match query::decode(raw) {
        Ok(value) => Ok((parameter.clone(), value)),
        Err(fault) => Err(match type_of(context, name, parameter) {
            Some(type_name) => {
                let (parameter, text) = (parameter.clone(), raw.clone());
                KeyFault::Bad { parameter, type_name, text, fact: fault.to_string() }.into()
            }
            None => Problem::bad_encoding(parameter, fault),
        }),
    };
    let pairs = named.iter().map(decoded).collect::<Result<Vec<_>, _>>()?;
    Box::pin(resolve::from_names(context, client, name, &pairs)).await
}

/// The type of a product's parameter, if there are such a product and parameter.
fn type_of(context: &Context, product: &str, parameter: &str) -> Option<String> {
    let catalog = context.catalog.borrow();
    let product = catalog.products.get(product).and_then(Slot::product)?;
    let named = product.draft.question.parameters.iter().zip(&product.description.parameters);
    named.filter(|(spec, _)| spec.name == parameter).map(|(_, type_)| type_.name.clone()).next()
}

/// Answers in the order asked; all of them within the one `wait`.
async fn many(context: Arc<Context>, who: Arc<Who>, query: Query) -> Result<Response, Problem> {
    query.without_names()?;
    let Query { keys, demand, form, .. } = query;
    if form.is_some_and(|form| form != Form::Json) {
        let hint = "ask for one key, or leave 'format' out";
        return Err(Problem::bad_request("format", "a list of answers is JSON", hint));
    }
    if demand.after.is_some() {
        let hint = "versions belong to one key: ask /fetch/KEY?after=VERSION";
        return Err(Problem::bad_request("after", "'after' with a list of keys", hint));
    }
    if keys.is_empty() {
        let hint = "GET /fetch/PRODUCT/PARAMETER…, or /fetch?key=A&key=B";
        return Err(Problem::bad_request("key", "no key is asked for", hint));
    }
    let keys_max = context.limits.keys_per_request;
    if keys.len() > keys_max {
        let hint = "ask for less at once, or raise limits.keys_per_request";
        return Err(Problem::too_large("more keys are asked for", keys_max as u64, hint));
    }
    let deadline = Instant::now() + demand.wait;
    let reads = keys.into_iter().map(move |path| {
        let (context, who, demand) = (Arc::clone(&context), Arc::clone(&who), demand.clone());
        async move {
            let wait = deadline.saturating_duration_since(Instant::now());
            let answered = listed(&context, &who, &path, Demand { wait, ..demand }).await;
            (path, answered)
        }
    });
    let mut reads = Box::pin(stream::iter(reads).buffered(READS_AT_ONCE));
    let mut text = Text::default();
    let mut separator = r#"{"success":true,"results":["#;
    while let Some((path, answered)) = reads.next().await {
        text.push(separator);
        listed_in(&mut text, &path, answered);
        separator = ",";
        if text.len() >= LIST_BYTES_HELD {
            let rest = reads.map(|(path, answered)| {
                let mut text = Text::default();
                text.push(",");
                listed_in(&mut text, &path, answered);
                text
            });
            return Ok(reply::flowing_json(text, rest));
        }
    }
    text.push("]}");
    Ok(text.into_json())
}

fn listed_in(text: &mut Text, path: &str, answered: Result<(Key, Answer), Problem>) {
    match answered {
        Ok((key, answer)) => text.answer(key.as_str(), &answer),
        Err(problem) => text.push(&problem.to_json_of(path)),
    }
}

async fn listed(
    context: &Context,
    who: &Who,
    path: &str,
    demand: Demand,
) -> Result<(Key, Answer), Problem> {
    let (product, key) = who.reads(context, path).await?;
    let (Outcome::Answer(answer) | Outcome::Unchanged(answer)) =
        read::read(context, &product, &key, &demand).await?;
    who.still_reads(context, product, &key, &answer).await?;
    Ok((key, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_taken_unless_refused() {
        for (accept, takes) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("*", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0, br", false),
            ("br, identity", false),
            ("", false),
        ] {
            assert_eq!(accepts_gzip(accept), takes, "{accept}");
        }
    }
}
