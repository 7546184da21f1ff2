//! `/keys`, `/why`, `/refresh` and `/purge`: tracked keys → lists, what is known of one, and what was done to them.

use std::sync::Arc;

use serde::Serialize;
use warp::{path::Tail, reply::Response};

use crate::serve::{
    Context,
    manage::{Done, Standing, Target, Why},
    problem::Problem,
    resolve,
};

use super::{door::Asked, query, reply};

#[derive(Serialize)]
struct KeyView {
    key: String,
    #[serde(flatten)]
    entry: Option<EntryView>,
}

/// An entry, as a list and `/why` show it.
#[derive(Serialize)]
struct EntryView {
    version: u64,
    modified: String,
    as_of: PositionView,
    stale: bool,
    cost_us: u64,
}

#[derive(Serialize)]
struct PositionView {
    lsn: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
}

impl From<Standing> for EntryView {
    fn from(standing: Standing) -> Self {
        let Standing { stands, version, modified, cost } = standing;
        Self {
            version,
            modified: modified.to_string(),
            as_of: PositionView {
                lsn: stands.position.lsn.to_string(),
                time: Some(stands.time.to_string()),
            },
            stale: stands.stale,
            cost_us: u64::try_from(cost.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

/// `GET /keys/PRODUCT?limit=&after=`.
pub(super) async fn keys(
    context: Arc<Context>,
    asked: Asked,
    raw_query: Option<String>,
    product: String,
) -> Response {
    #[derive(Serialize)]
    struct View {
        success: bool,
        keys: Vec<KeyView>,
        /// The value of `after` for what follows; null at the end.
        next: Option<String>,
    }
    let listed = async {
        let most = context.limits.keys_per_request;
        let page = query::page(raw_query.as_deref(), most)?;
        let product = resolve::named(&context, &product)?;
        let (listed, next) = context.list(&asked.who, &product, &page.after, page.limit).await;
        let next = next.map(|last| last.to_string());
        let keys = listed.into_iter().map(|listed| KeyView {
            key: listed.key.to_string(),
            entry: listed.entry.map(Into::into),
        });
        Ok::<_, Problem>(reply::json(&View { success: true, keys: keys.collect(), next }))
    };
    listed.await.unwrap_or_else(|problem| reply::problem(&problem))
}

/// `GET /why/KEY`, and `GET /why?key=KEY`.
pub(super) async fn why(
    context: Arc<Context>,
    _asked: Asked,
    raw_query: Option<String>,
    path: Tail,
) -> Response {
    #[derive(Serialize)]
    struct ChangeView {
        commit: String,
    }
    #[derive(Serialize)]
    struct View {
        success: bool,
        key: String,
        tracked: bool,
        watched: bool,
        hot: bool,
        entry: Option<EntryView>,
        /// The newest first.
        changes: Vec<ChangeView>,
    }
    let known = async {
        let path = query::one_key(path.as_str(), raw_query.as_deref())?;
        let (_, key) = resolve::from_path(&context, &path).await?;
        let Why { key, tracked, watched, hot, entry, mark } = context.why(&key);
        let changes = mark.map(|at| ChangeView { commit: at.lsn.to_string() });
        Ok::<_, Problem>(reply::json(&View {
            success: true,
            key: key.to_string(),
            tracked,
            watched,
            hot,
            entry: entry.map(Into::into),
            changes: changes.into_iter().collect(),
        }))
    };
    known.await.unwrap_or_else(|problem| reply::problem(&problem))
}

/// `POST /refresh/KEY-OR-PREFIX`, and `POST /refresh?key=KEY`.
pub(super) async fn refresh(
    context: Arc<Context>,
    _asked: Asked,
    raw_query: Option<String>,
    path: Tail,
) -> Response {
    #[derive(Serialize)]
    struct View {
        success: bool,
        keys: u64,
        failed: u64,
    }
    let refreshed = async {
        let target = target(&context, &path, raw_query.as_deref()).await?;
        let Done { keys, failed } = context.refresh(&target).await;
        Ok::<_, Problem>(reply::json(&View { success: true, keys, failed }))
    };
    refreshed.await.unwrap_or_else(|problem| reply::problem(&problem))
}

/// `POST /purge/KEY-OR-PREFIX`, and `POST /purge?key=KEY`.
pub(super) async fn purge(
    context: Arc<Context>,
    _asked: Asked,
    raw_query: Option<String>,
    path: Tail,
) -> Response {
    #[derive(Serialize)]
    struct View {
        success: bool,
        keys: u64,
    }
    let purged = async {
        let target = target(&context, &path, raw_query.as_deref()).await?;
        let Done { keys, .. } = context.purge(&target).await?;
        Ok::<_, Problem>(reply::json(&View { success: true, keys }))
    };
    purged.await.unwrap_or_else(|problem| reply::problem(&problem))
}

/// In the path a key or a prefix, in the query a key.
async fn target(
    context: &Context,
    path: &Tail,
    raw_query: Option<&str>,
) -> Result<Target, Problem> {
    let named = query::one_key(path.as_str(), raw_query)?;
    if path.as_str().is_empty() {
        let (_, key) = resolve::from_path(context, &named).await?;
        return Ok(Target::Key(key));
    }
    context.target(&named).await
}
