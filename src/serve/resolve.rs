//! A request's parameters → a product and a key. What only the source can canonicalise it is asked once.

use std::{sync::Arc, time::Instant};

use quick_cache::sync::Cache;

use crate::{
    description::Type,
    key::Key,
    postgres::{Error as SourceError, Source, canonical::Asker},
    product::{
        Product, Slot,
        parameter::{Canonical, Parameter},
        resolve::{KeyError, Pending, Raw, Resolution, resolve},
    },
    recompute,
};

use super::{
    Context,
    problem::{KeyFault, Kind, Problem},
    share::{Budget, Client},
};

/// A key's bytes, encoded: far above what parameters need, far below what any store takes.
const KEY_BYTES_MAX: usize = 16 * 1024;

/// Raw texts whose canonical form is remembered.
const TEXTS_KEPT: usize = 100_000;

/// Texts longer than this are not remembered.
const TEXT_BYTES_KEPT: usize = 1024;

/// Canonical texts of types that kck does not print itself: asked of the source once a raw text, remembered.
pub struct Canonicaliser {
    source: Arc<Source>,
    /// One question at a time on one connection: only texts never seen before come here.
    asker: tokio::sync::Mutex<Option<Asker>>,
    known: Cache<(String, String), Arc<str>>,
    /// A question is work for the source as a computation is, and counts against the same share.
    misses: Arc<Budget>,
}

impl Canonicaliser {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(source: Arc<Source>, misses: Arc<Budget>) -> Self {
        let (asker, known) = (tokio::sync::Mutex::new(None), Cache::new(TEXTS_KEPT));
        Self { source, asker, known, misses }
    }

    /// The canonical text of a parameter's value; `None` when it is no value of its type.
    ///
    /// # Errors
    /// When the source must be asked and cannot, or this client has caused enough work.
    pub async fn of(
        &self,
        client: &Client,
        parameter: &Parameter,
        raw: &str,
    ) -> Result<Option<Arc<str>>, Problem> {
        let type_ = &parameter.type_;
        let known = (type_.name.clone(), raw.to_owned());
        if let Some(text) = self.known.get(&known) {
            return Ok(Some(text));
        }
        let share = self.misses.take(client, Instant::now());
        share.map_err(|retry| recompute::Error::OverShare { retry })?;
        // Boxed because it is rare: what is large here is moved with every request.
        Box::pin(self.ask(known, type_)).await.map_err(|error| {
            tracing::warn!(%error, "a parameter waits for the source");
            Problem::new(
                Kind::SourceUnavailable,
                "the source is needed to read a parameter and cannot be asked",
                "try again",
            )
        })
    }

    /// What the source prints for a text as this type; `None` when it is no value of it.
    async fn ask(
        &self,
        asked: (String, String),
        type_: &Type,
    ) -> Result<Option<Arc<str>>, SourceError> {
        let mut asker = self.asker.lock().await;
        if asker.as_ref().is_none_or(Asker::is_closed) {
            *asker = Some(Asker::new(
                self.source.connect("describe", &[("statement_timeout", "5s")]).await?,
            ));
        }
        let Some(open) = asker.as_ref() else { return Ok(None) };
        let text: Option<Arc<str>> = open.canonical(type_, &asked.1).await?.map(Into::into);
        if let Some(text) = &text
            && asked.1.len() + text.len() <= TEXT_BYTES_KEPT
        {
            self.known.insert(asked, Arc::clone(text));
        }
        Ok(text)
    }
}

/// The key that a path means: a product's name and its parameters, still encoded.
///
/// # Errors
/// The request's fault, or the source's when it must be asked and cannot.
pub async fn from_path(
    context: &Context,
    client: &Client,
    path: &str,
) -> Result<(Arc<Product>, Key), Problem> {
    let mut segments = path.split('/');
    let name = segments.next().unwrap_or_default();
    let segments: Vec<&str> = segments.collect();
    key(context, client, name, Raw::Path(&segments)).await
}

/// The key that decoded values by name make.
///
/// # Errors
/// As [`from_path`].
pub async fn from_names(
    context: &Context,
    client: &Client,
    product: &str,
    pairs: &[(String, String)],
) -> Result<(Arc<Product>, Key), Problem> {
    key(context, client, product, Raw::Named(pairs)).await
}

async fn key(
    context: &Context,
    client: &Client,
    name: &str,
    raw: Raw<'_>,
) -> Result<(Arc<Product>, Key), Problem> {
    let product = named(context, name)?;
    let key = match resolve(&product, raw).map_err(|error| fault(&product, error))? {
        Resolution::Key(key) => key,
        // Boxed because it is rare: what is large here is moved with every request.
        Resolution::Ask(pending) => Box::pin(asked_key(context, client, &product, pending)).await?,
    };
    within_limits(product, key)
}

async fn asked_key(
    context: &Context,
    client: &Client,
    product: &Product,
    pending: Pending,
) -> Result<Key, Problem> {
    let mut answers = Vec::new();
    for (index, raw) in pending.questions() {
        let Some(parameter) = product.parameters.get(index) else { continue };
        let answer = context.canonical.of(client, parameter, raw).await?;
        answers.push(answer.ok_or_else(|| not_of_its_type(product, parameter, raw))?);
    }
    Ok(pending.key(answers.iter().map(|answer| &**answer)))
}

/// A product, as it runs or last ran.
///
/// # Errors
/// None of that name, or one that never ran.
pub fn named(context: &Context, name: &str) -> Result<Arc<Product>, Problem> {
    let slot = context.catalog.borrow().products.get(name).cloned();
    match slot {
        Some(Slot::Ready { product, .. } | Slot::Broken { last: Some(product), .. }) => Ok(product),
        Some(broken @ Slot::Broken { last: None, .. }) => {
            let (product, sqlstate) = (name.to_owned(), broken.sqlstate().to_owned());
            Err(KeyFault::Broken { product, sqlstate }.into())
        }
        None => Err(KeyFault::Unknown { product: name.to_owned() }.into()),
    }
}

fn not_of_its_type(product: &Product, parameter: &Parameter, raw: &str) -> Problem {
    fault(product, parameter.bad(raw, "not a value of this type").into())
}

/// The canonical text of one parameter's raw text.
///
/// # Errors
/// As [`from_path`].
pub async fn canonical(
    context: &Context,
    client: &Client,
    product: &Product,
    parameter: &Parameter,
    raw: &str,
) -> Result<String, Problem> {
    match parameter.canonical(raw).map_err(|bad| fault(product, bad.into()))? {
        Canonical::Text(text) => Ok(text),
        Canonical::AskSource => {
            let answer = context.canonical.of(client, parameter, raw).await?;
            answer
                .map(|text| text.to_string())
                .ok_or_else(|| not_of_its_type(product, parameter, raw))
        }
    }
}

/// A product's name and the canonical texts of its first parameters, from a path without the rest of them.
///
/// # Errors
/// As [`from_path`]; more segments than parameters.
pub async fn prefix(
    context: &Context,
    client: &Client,
    path: &str,
) -> Result<(String, Vec<String>), Problem> {
    let mut segments = path.split('/');
    let product = named(context, segments.next().unwrap_or_default())?;
    let segments: Vec<&str> = segments.collect();
    let (most, got) = (product.parameters.len(), segments.len());
    if got > most {
        let product_name = product.name().to_owned();
        let error = KeyError::Count { product: product_name, least: 0, most, got };
        return Err(fault(&product, error));
    }
    let mut values = Vec::with_capacity(got);
    for (parameter, segment) in product.parameters.iter().zip(segments) {
        let raw = crate::key::decode(segment);
        let raw =
            raw.map_err(|bad| fault(&product, parameter.bad(segment, bad.to_string()).into()))?;
        values.push(canonical(context, client, &product, parameter, &raw).await?);
    }
    Ok((product.name().to_owned(), values))
}

/// No store takes a key without limit, and one that is not taken could never be marked.
fn within_limits(product: Arc<Product>, key: Key) -> Result<(Arc<Product>, Key), Problem> {
    let bytes = key.as_str().len();
    if bytes <= KEY_BYTES_MAX {
        return Ok((product, key));
    }
    let hint = format!("a key has at most {KEY_BYTES_MAX} bytes");
    let args = [bytes.to_string(), KEY_BYTES_MAX.to_string()];
    Err(Problem::new(Kind::BadRequest, format!("the key has {bytes} bytes"), hint).with_args(args))
}

fn fault(product: &Product, error: KeyError) -> Problem {
    let names = || product.parameters.iter().map(|parameter| parameter.name.clone()).collect();
    match error {
        KeyError::Count { product, got, .. } => {
            KeyFault::Count { product, expected: names(), got }.into()
        }
        KeyError::Unknown { product, name } => {
            KeyFault::NoSuchParameter { product, parameter: name, expected: names() }.into()
        }
        KeyError::Bad(bad) => KeyFault::Bad {
            parameter: bad.name,
            type_name: bad.type_name,
            text: bad.text,
            fact: bad.reason,
        }
        .into(),
        KeyError::Twice { name } => Problem::new(
            Kind::BadRequest,
            format!("parameter '{name}' is given twice"),
            "give it once",
        )
        .with_args([name]),
    }
}
