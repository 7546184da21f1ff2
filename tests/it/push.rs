//! Subscriptions: what a reader is told, and when; how it goes on after it was cut off.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

use crate::support::{
    client::Events,
    kck::{Kck, Project},
    run,
    servers::Database,
};

async fn sums(name: &str) -> (Database, Project, Kck) {
    let database = Database::new(name).await;
    let project = Project::sums(&database).await;
    let kck = project.start().await;
    (database, project, kck)
}

async fn subscribe(kck: &Kck, query: &str) -> Events {
    let events = Events::open(&kck.address, &format!("/subscribe?{query}"), &[]).await;
    assert_eq!(events.status, 200);
    events
}

fn value(json: &Value) -> (&str, &Value) {
    (json["key"].as_str().unwrap(), &json["value"])
}

#[test]
fn a_reader_gets_the_value_and_every_change_of_it() {
    run(async {
        let (database, _project, kck) = sums("push_value").await;
        let mut events = subscribe(&kck, "key=sum_of/1").await;
        assert_eq!(events.headers["content-type"], "text/event-stream");
        let first = events.next().await.unwrap();
        assert_eq!((first.name.as_str(), value(&first.json())), ("value", ("sum_of/1", &json!(0))));
        assert_eq!(first.json()["success"], json!(true));
        database.run("update items set n = 5 where id = 1").await;
        let second = events.named("value").await;
        assert_eq!(value(&second.json()), ("sum_of/1", &json!(5)));
        let (version, before) = (&second.json()["version"], &first.json()["version"]);
        assert!(version.as_u64() > before.as_u64());
        // A commit beside it is none of its business, and one that leaves the bytes alone neither.
        database.run("update items set n = 1 where id = 2").await;
        database.run("update items set n = 5 where id = 1").await;
        database.run("update items set n = 7 where id = 4").await;
        assert_eq!(value(&events.named("value").await.json()), ("sum_of/1", &json!(12)));
        kck.stop().await;
    });
}

#[test]
fn many_keys_come_first_once_each_and_are_said_to_be_fresh() {
    run(async {
        let (_database, _project, kck) = sums("push_many").await;
        let mut events =
            subscribe(&kck, "key=sum_of/0&key=sum_of/1&key=sum_of%2F2&key=sum_of/1").await;
        let mut seen = Vec::new();
        for _ in 0..3 {
            let event = events.next().await.unwrap();
            seen.push(value(&event.json()).0.to_owned());
        }
        seen.sort();
        assert_eq!(seen, ["sum_of/0", "sum_of/1", "sum_of/2"]);
        let fresh = events.named("fresh").await.json();
        assert_eq!(fresh["keys"], json!(["sum_of/0", "sum_of/1", "sum_of/2"]));
        let again = events.named("fresh").await.json();
        assert!(again["as_of"]["time"].as_str() > fresh["as_of"]["time"].as_str());
        kck.stop().await;
    });
}

#[test]
fn a_reader_that_was_cut_off_gets_what_it_has_not_seen() {
    run(async {
        let (database, _project, kck) = sums("push_resume").await;
        let query = "/subscribe?key=sum_of/0&key=sum_of/1";
        let mut events = Events::open(&kck.address, query, &[]).await;
        let mut last = String::new();
        for _ in 0..2 {
            let event = events.next().await.unwrap();
            last = if event.id.is_empty() { last } else { event.id };
        }
        drop(events);
        database.run("update items set n = 3 where id = 1").await;
        let headers = [("last-event-id", last.as_str())];
        let mut again = Events::open(&kck.address, query, &headers).await;
        assert_eq!(value(&again.next().await.unwrap().json()), ("sum_of/1", &json!(3)));
        // The id of other keys is no use, and no harm.
        let mut other = Events::open(&kck.address, "/subscribe?key=sum_of/0", &headers).await;
        assert_eq!(value(&other.next().await.unwrap().json()), ("sum_of/0", &json!(0)));
        kck.stop().await;
    });
}

#[test]
fn what_cannot_be_subscribed_to_is_refused_at_once() {
    run(async {
        let (_database, _project, kck) = sums("push_refused").await;
        for (query, status, name) in [
            ("", 400, "bad_request"),
            ("key=nothing/1", 404, "unknown_product"),
            ("key=sum_of/x", 400, "bad_parameter"),
            ("key=sum_of/1&fresh=true", 400, "bad_request"),
        ] {
            let reply = kck.get(&format!("/subscribe?{query}")).await;
            assert_eq!(
                (reply.status, reply.json()["error"]["name"].as_str()),
                (status, Some(name))
            );
        }
        kck.stop().await;
    });
}

#[test]
fn a_product_that_breaks_is_told_once_and_its_value_comes_back() {
    run(async {
        let (database, project, kck) = sums("push_broken").await;
        let mut events = subscribe(&kck, "key=sum_of/1").await;
        events.named("value").await;
        std::fs::remove_file(project.folder.0.join("products/sum_of.sql")).unwrap();
        let trouble = events.named("error").await.json();
        assert_eq!(trouble["key"], json!("sum_of/1"));
        assert_eq!(trouble["error"]["name"], json!("unknown_product"));
        project.product("sum_of", "/* kck\nresult = \"value\"\n*/\nselect 1 + sum(n)::bigint from items where owner = :owner");
        assert_eq!(value(&events.named("value").await.json()), ("sum_of/1", &json!(1)));
        database.run("update items set n = 5 where id = 1").await;
        assert_eq!(value(&events.named("value").await.json()), ("sum_of/1", &json!(6)));
        kck.stop().await;
    });
}

#[test]
fn subscriptions_end_with_the_server_and_do_not_hold_it_up() {
    run(async {
        let (_database, _project, kck) = sums("push_drain").await;
        let mut events = subscribe(&kck, "key=sum_of/1").await;
        events.named("value").await;
        let stopped = std::time::Instant::now();
        kck.stop().await;
        assert!(stopped.elapsed() < Duration::from_secs(10));
        let last = events.named("error").await.json();
        assert_eq!(last["error"]["name"], json!("draining"));
        assert_eq!(events.next().await, None);
    });
}

/// The next message that is JSON.
async fn message<S>(socket: &mut S) -> Value
where
    S: futures_util::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    let next = async {
        loop {
            if let Message::Text(text) = socket.next().await.expect("the socket is open").unwrap() {
                return serde_json::from_str(&text).unwrap();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), next).await.expect("a message comes")
}

#[test]
fn a_socket_is_told_the_same_and_goes_on_where_it_was() {
    run(async {
        let (database, _project, kck) = sums("push_socket").await;
        let at = |query: &str| format!("ws://{}/subscribe/ws?{query}", kck.address);
        let mut request = at("key=sum_of/1").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "kck, kck.token.x".parse().unwrap());
        let (mut socket, response) = tokio_tungstenite::connect_async(request).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], "kck");
        let first = message(&mut socket).await;
        assert_eq!(
            (&first["event"], value(&first["data"])),
            (&json!("value"), ("sum_of/1", &json!(0)))
        );
        database.run("update items set n = 5 where id = 1").await;
        let second = message(&mut socket).await;
        assert_eq!(value(&second["data"]), ("sum_of/1", &json!(5)));
        drop(socket);
        database.run("update items set n = 6 where id = 1").await;
        let id = second["id"].as_str().unwrap();
        let again = at(&format!("key=sum_of/1&last_event_id={id}"));
        let (mut socket, _) = tokio_tungstenite::connect_async(again).await.unwrap();
        assert_eq!(value(&message(&mut socket).await["data"]), ("sum_of/1", &json!(6)));
        let fresh = message(&mut socket).await;
        assert_eq!(
            (&fresh["event"], &fresh["data"]["keys"]),
            (&json!("fresh"), &json!(["sum_of/1"]))
        );
        // A page of another site opens none.
        let mut foreign = at("key=sum_of/1").into_client_request().unwrap();
        foreign.headers_mut().insert("origin", "https://evil.example".parse().unwrap());
        let refused = tokio_tungstenite::connect_async(foreign).await.unwrap_err();
        assert!(refused.to_string().contains("403"), "{refused}");
        kck.stop().await;
        let last = message(&mut socket).await;
        assert_eq!(last["data"]["error"]["name"], json!("draining"));
    });
}
