//! A pipeline that stands still is noticed and named, and the time in each stage is told.

use kck::observe::{Event, Point};
use serde_json::json;

use crate::support::{
    kck::{Kck, Project},
    run,
    servers::Database,
};

async fn started(name: &str) -> (Database, Project, Kck) {
    let database = Database::new(name).await;
    let project = Project::sums(&database).await;
    let kck = project.start().await;
    assert_eq!(kck.get("/fetch/sum_of/1").await.value(), json!(0));
    (database, project, kck)
}

async fn state(kck: &Kck) -> (serde_json::Value, Vec<String>) {
    let body = kck.get("/readyz").await.json();
    let parts = body["reasons"].as_array().unwrap().iter();
    (body["state"].clone(), parts.map(|reason| reason["part"].to_string()).collect())
}

/// Goal: a silent stall is no silence. Method: marking halts; within two looks the canary says where things stand,
/// `/readyz` is degraded and answers go on; when marking goes on, all is well again.
#[test]
fn a_pipeline_that_stands_still_is_named() {
    run(async {
        let (database, _project, kck) = started("canary").await;
        let mut events = kck.observer.subscribe();
        kck.observer.halt_at(Some(Point::Mark));
        database.run("update items set n = 1 where owner = 1").await;
        let late = |event: &Event| {
            matches!(event, Event::Part { part: "canary", trouble: Some(trouble) }
                if trouble.starts_with("everything up to ") && trouble.contains("matched up to"))
        };
        Kck::event(&mut events, late).await;
        let (degraded, parts) = state(&kck).await;
        assert_eq!(degraded, json!("degraded"));
        assert!(parts.contains(&"\"canary\"".to_owned()), "{parts:?}");
        assert_eq!(kck.get("/fetch/sum_of/1").await.status, 200);
        kck.observer.halt_at(None);
        let well = |event: &Event| matches!(event, Event::Part { part: "canary", trouble: None });
        Kck::event(&mut events, well).await;
        assert_eq!(state(&kck).await.0, json!("ready"));
        kck.stop().await;
    });
}

#[test]
fn the_time_in_each_stage_is_told() {
    run(async {
        let (database, _project, kck) = started("stages").await;
        let position = database.commit("update items set n = 1 where owner = 1").await;
        assert_eq!(kck.at_least("sum_of/1", &position).await.value(), json!(3));
        let status = kck.get("/status").await.json();
        let metrics = String::from_utf8(kck.get("/metrics").await.body.to_vec()).unwrap();
        for stage in ["decode", "match", "barrier", "mark", "recompute"] {
            assert!(status["stages"][stage]["count"].as_u64() > Some(0), "{stage}: {status}");
            assert!(status["stages"][stage]["p99_ms"].as_f64() > Some(0.0), "{stage}: {status}");
            let counted = format!("kck_stage_seconds_count{{stage=\"{stage}\"}} ");
            assert!(metrics.contains(&counted), "{metrics}");
        }
        assert!(status["lag"]["bytes"].is_u64(), "{status}");
        assert!(status["slot"].get("hours_left").is_some(), "{status}");
        assert!(metrics.contains("kck_lag_bytes "), "{metrics}");
        kck.stop().await;
    });
}
