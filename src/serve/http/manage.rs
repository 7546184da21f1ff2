//! `/keys`, `/why`, `/refresh` and `/purge`: tracked keys → lists, what is known of one, and what was done to them.

use std::sync::Arc;

use serde::Serialize;
use warp::{path::Tail, reply::Response};

use crate::serve::{
    Context,
    manage::{Done, Standing, Target, Why},
    problem::Problem,
    resolve,
    share::Client,
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
        Ok(reply::json(&View { success: true, keys: keys.collect(), next }))
    };
    reply::settled(listed.await)
}

/// `GET /why/KEY`, and `GET /why?key=KEY`.
pub(super) async fn why(
    context: Arc<Context>,
    asked: Asked,
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
        let (_, key) = resolve::from_path(&context, &asked.who.client, &path).await?;
        let Why { key, tracked, watched, hot, entry, mark } = context.why(&key);
        let changes = mark.map(|at| ChangeView { commit: at.lsn.to_string() });
        Ok(reply::json(&View {
            success: true,
            key: key.to_string(),
            tracked,
            watched,
            hot,
            entry: entry.map(Into::into),
            changes: changes.into_iter().collect(),
        }))
    };
    reply::settled(known.await)
}

#[derive(Serialize)]
struct DoneView {
    success: bool,
    keys: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<u64>,
}

/// `POST /refresh/KEY-OR-PREFIX`, and `POST /refresh?key=KEY`.
pub(super) async fn refresh(
    context: Arc<Context>,
    asked: Asked,
    raw_query: Option<String>,
    path: Tail,
) -> Response {
    let refreshed = async {
        let target = target(&context, &asked.who.client, &path, raw_query.as_deref()).await?;
        let Done { keys, failed } = context.refresh(&target).await;
        Ok(reply::json(&DoneView { success: true, keys, failed: Some(failed) }))
    };
    reply::settled(refreshed.await)
}

/// `POST /purge/KEY-OR-PREFIX`, and `POST /purge?key=KEY`.
pub(super) async fn purge(
    context: Arc<Context>,
    asked: Asked,
    raw_query: Option<String>,
    path: Tail,
) -> Response {
    let purged = async {
        let target = target(&context, &asked.who.client, &path, raw_query.as_deref()).await?;
        let Done { keys, .. } = context.purge(&target).await?;
        Ok(reply::json(&DoneView { success: true, keys, failed: None }))
    };
    reply::settled(purged.await)
}

/// In the path a key or a prefix, in the query a key.
async fn target(
    context: &Context,
    client: &Client,
    path: &Tail,
    raw_query: Option<&str>,
) -> Result<Target, Problem> {
    let named = query::one_key(path.as_str(), raw_query)?;
    if path.as_str().is_empty() {
        let (_, key) = resolve::from_path(context, client, &named).await?;
        return Ok(Target::Key(key));
    }
    context.target(client, &named).await
}
