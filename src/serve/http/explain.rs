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
    refreshes: RefreshesView,
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
        Some(Slot::Ready { .. }) => {
            let explanation = (context.explain)(&product);
            let refreshes = context.observer.refreshes().get(&product).copied().unwrap_or_default();
            let matched = explanation.is_some();
            reply::json(&View { success: true, matched, explanation, refreshes: refreshes.into() })
        }
    }
}
