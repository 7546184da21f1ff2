//! A request while kck starts, or stands by for its slot → 503, save for `/healthz`.

use warp::{Filter, Rejection, http::StatusCode, path::FullPath, reply::Response};

use crate::serve::problem::{Kind, Problem};

use super::reply;

/// What answers until every part is there.
pub(super) fn routes() -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path::full().and_then(async |path: FullPath| Ok::<_, Rejection>(answer(path.as_str())))
}

fn answer(path: &str) -> Response {
    match path {
        "/healthz" => reply::json(&serde_json::json!({"success": true})),
        "/readyz" => {
            let state =
                serde_json::json!({"state": "starting", "certificate": null, "reasons": []});
            let mut response = reply::json(&state);
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }
        _ => {
            let hint = "try again; /readyz says when it is ready, and the log what it waits for";
            let starting = Problem::new(Kind::SourceUnavailable, "kck is starting", hint);
            reply::problem(&starting)
        }
    }
}
