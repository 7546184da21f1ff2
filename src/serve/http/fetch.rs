//! `/fetch`: a key or a list of keys → answers.

use std::{sync::Arc, time::Instant};

use bytes::Buf;
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use warp::{http::HeaderValue, path::Tail, reply::Response};

use crate::{
    key::Key,
    product::{Product, Slot},
    serve::{
        Context,
        problem::{KeyFault, Problem},
        read::{self, Answer, Demand, Outcome},
        resolve,
    },
};

use super::{
    body,
    query::{self, Query},
    reply::{self, Text},
};

/// How many keys of one list are read at once.
const READS_AT_ONCE: usize = 16;

/// `GET /fetch/KEY`, `GET /fetch/NAME?parameter=value` and `GET /fetch?key=A&key=B`.
pub(super) async fn get(
    context: Arc<Context>,
    raw_query: Option<String>,
    path: Tail,
    if_none_match: Option<HeaderValue>,
) -> Response {
    let query = match Query::parse(raw_query.as_deref(), context.limits.wait) {
        Ok(query) => query,
        Err(problem) => return reply::problem(&problem),
    };
    let answered = if path.as_str().is_empty() {
        many(context, query).await
    } else {
        one(&context, path.as_str(), query, if_none_match.as_ref()).await
    };
    answered.unwrap_or_else(|problem| reply::problem(&problem))
}

/// `POST /fetch` with `{"keys":[…]}`.
pub(super) async fn post(
    context: Arc<Context>,
    raw_query: Option<String>,
    chunks: impl Stream<Item = Result<impl Buf, warp::Error>>,
) -> Response {
    let asked = asked_in(chunks, raw_query.as_deref(), &context).await;
    let answered = match asked {
        Ok(query) => many(context, query).await,
        Err(problem) => Err(problem),
    };
    answered.unwrap_or_else(|problem| reply::problem(&problem))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    keys: Vec<String>,
}

async fn asked_in(
    chunks: impl Stream<Item = Result<impl Buf, warp::Error>>,
    raw_query: Option<&str>,
    context: &Context,
) -> Result<Query, Problem> {
    let query = Query::parse(raw_query, context.limits.wait)?;
    if !query.keys.is_empty() {
        let hint = "give all keys in the body";
        return Err(Problem::bad_request("key", "'key' in the query beside a body", hint));
    }
    let body = body::whole(chunks, context.limits.body_bytes).await?;
    let asked: Asked = serde_json::from_slice(&body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let message = format!("the body is not a list of keys, at line {line} column {column}");
        Problem::bad_request("body", message, r#"send {"keys":["PRODUCT/PARAMETER",…]}"#)
    })?;
    Ok(Query { keys: asked.keys, ..query })
}

async fn one(
    context: &Context,
    path: &str,
    query: Query,
    if_none_match: Option<&HeaderValue>,
) -> Result<Response, Problem> {
    if !query.keys.is_empty() {
        let hint = "give the key in the path, or keys in the query of /fetch";
        return Err(Problem::bad_request(
            "key",
            "'key' in the query beside a key in the path",
            hint,
        ));
    }
    let (product, key) = resolved(context, path, &query.named).await?;
    let known = |answer: &Answer| {
        let condition = if_none_match.and_then(|header| header.to_str().ok());
        condition.is_some_and(|condition| reply::names_version(condition, answer.version))
    };
    Ok(match read::read(context, &product, &key, &query.demand).await? {
        Outcome::Unchanged(answer) => reply::not_modified(&answer),
        Outcome::Answer(answer) if known(&answer) => reply::not_modified(&answer),
        Outcome::Answer(answer) => reply::answer(key.as_str(), &answer),
    })
}

/// The key that a path and named parameters mean, and its product.
async fn resolved(
    context: &Context,
    path: &str,
    named: &[(String, String)],
) -> Result<(Arc<Product>, Key), Problem> {
    let mut segments = path.split('/');
    let name = segments.next().unwrap_or_default();
    let segments: Vec<String> = segments.map(str::to_owned).collect();
    let Some((first, _)) = named.first() else {
        return resolve::from_segments(context, name, &segments).await;
    };
    if !segments.is_empty() {
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
    resolve::from_names(context, name, &pairs).await
}

/// The type of a product's parameter, if there are such a product and parameter.
fn type_of(context: &Context, product: &str, parameter: &str) -> Option<String> {
    let catalog = context.catalog.borrow();
    let product = catalog.products.get(product).and_then(Slot::product)?;
    let named = product.draft.question.parameters.iter().zip(&product.description.parameters);
    named.filter(|(spec, _)| spec.name == parameter).map(|(_, type_)| type_.name.clone()).next()
}

/// Answers in the order asked; all of them within the one `wait`.
async fn many(context: Arc<Context>, query: Query) -> Result<Response, Problem> {
    query.without_names()?;
    let Query { keys, demand, .. } = query;
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
        let context = Arc::clone(&context);
        async move {
            let wait = deadline.saturating_duration_since(Instant::now());
            let answered = listed(&context, &path, Demand { wait, ..demand }).await;
            (path, answered)
        }
    });
    let mut reads = stream::iter(reads).buffered(READS_AT_ONCE);
    let mut text = Text::default();
    let mut separator = r#"{"success":true,"results":["#;
    while let Some((path, answered)) = reads.next().await {
        text.push(separator);
        match answered {
            Ok((key, answer)) => text.answer(key.as_str(), &answer),
            Err(problem) => text.push(&problem.to_json_of(&path)),
        }
        separator = ",";
    }
    text.push("]}");
    Ok(text.into_json())
}

async fn listed(context: &Context, path: &str, demand: Demand) -> Result<(Key, Answer), Problem> {
    let (product, key) = resolved(context, path, &[]).await?;
    let (Outcome::Answer(answer) | Outcome::Unchanged(answer)) =
        read::read(context, &product, &key, &demand).await?;
    Ok((key, answer))
}
