//! A request while kck starts, or stands by for its slot → 503, save for `/healthz`.

use std::convert::Infallible;

use serde_json::{Value, json};
use warp::{Filter, http::StatusCode, path::FullPath, reply::Response};

use crate::{
    observe::{Counter, Observer},
    serve::problem::{Kind, Problem},
};

use super::reply;

/// What answers until every part is there.
pub(super) fn routes(
    observer: Observer,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone {
    warp::path::full()
        .map(move |path: FullPath| answer(path.as_str(), observer.counted(Counter::Rebuilt)))
}

fn answer(path: &str, rebuilt: u64) -> Response {
    match path {
        "/healthz" => reply::json(&json!({"success": true})),
        "/readyz" => {
            let mut response = reply::json(&readiness(rebuilt));
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

/// While the list of tracked keys is read from the store, it tells how far that is.
fn readiness(rebuilt: u64) -> Value {
    let reading = json!({
        "part": "store",
        "since": "",
        "code": "rebuilding",
        "message": format!("{rebuilt} tracked keys are read from the store"),
        "hint": "wait; it goes on by itself",
    });
    let reasons = if rebuilt > 0 { vec![reading] } else { Vec::new() };
    json!({"state": "starting", "certificate": null, "reasons": reasons})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_tells_how_many_keys_are_read() {
        assert_eq!(readiness(0)["reasons"], json!([]));
        let told = readiness(412_000);
        assert_eq!(told["reasons"][0]["code"], "rebuilding");
        let message = told["reasons"][0]["message"].as_str().unwrap();
        assert!(message.starts_with("412000 tracked keys"), "{message}");
    }
}
