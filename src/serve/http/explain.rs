//! A product's rules, and how well they did → `/explain/PRODUCT`.

use std::sync::Arc;

use serde::Serialize;
use warp::reply::Response;

use crate::{
    explanation::Explanation,
    observe::Refreshes,
    product::Slot,
    serve::{
        Context,
        problem::{KeyFault, Problem},
    },
};

use super::{query, reply};

#[derive(Serialize)]
struct View {
    success: bool,
    /// Changes are matched for it; without, its answers are only as new as their own computation.
    matched: bool,
    #[serde(flatten)]
    explanation: Option<Explanation>,
    #[serde(flatten)]
    header: Option<HeaderView>,
    refreshes: RefreshesView,
}

/// What the header of a product says that is not matched; of another it is in the explanation.
#[derive(Serialize)]
struct HeaderView {
    refresh: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warm: Option<String>,
}

/// What became of its keys that commits had marked.
#[derive(Serialize)]
struct RefreshesView {
    marked: u64,
    unchanged: u64,
    false_positive_ratio: Option<f64>,
}

impl From<Refreshes> for RefreshesView {
    fn from(counted: Refreshes) -> Self {
        let Refreshes { marked, unchanged } = counted;
        Self { marked, unchanged, false_positive_ratio: counted.false_positive_ratio() }
    }
}

/// `GET /explain/PRODUCT`.
pub(super) fn explain(
    context: Arc<Context>,
    raw_query: Option<String>,
    product: String,
) -> Response {
    if let Err(problem) = query::nothing(raw_query.as_deref()) {
        return reply::problem(&problem);
    }
    let slot = context.catalog.borrow().products.get(&product).cloned();
    match slot {
        None => reply::problem(&Problem::from(KeyFault::Unknown { product })),
        Some(broken @ Slot::Broken { .. }) => {
            let sqlstate = broken.sqlstate().to_owned();
            reply::problem(&Problem::from(KeyFault::Broken { product, sqlstate }))
        }
        Some(Slot::Ready { product: ready, .. }) => {
            let policy = &ready.draft.policy;
            let (refresh, warm) =
                (policy.refreshes(), policy.warm.as_ref().map(ToString::to_string));
            let mut explanation = (context.explain)(&product);
            let header = match &mut explanation {
                Some(explanation) => {
                    (explanation.refresh, explanation.warm) = (refresh, warm);
                    None
                }
                None => Some(HeaderView { refresh, warm }),
            };
            let refreshes = context.observer.refreshes().get(&product).copied().unwrap_or_default();
            let matched = explanation.is_some();
            let refreshes = refreshes.into();
            reply::json(&View { success: true, matched, explanation, header, refreshes })
        }
    }
}
