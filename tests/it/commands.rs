//! The commands that ask a running kck: fetch, subscribe, update, refresh, purge, token; their output and exit codes.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::{
    kck::{Kck, Project},
    process::{command, output, stderr, stdout},
    run,
    servers::Database,
};

const SET: &str = "update items set n = :n where id = :id";

async fn served(name: &str, settings: &str) -> (Database, Project, Kck) {
    let database = Database::new(name).await;
    let mut project = Project::sums(&database).await;
    std::fs::create_dir_all(project.folder.0.join("updates")).unwrap();
    std::fs::write(project.folder.0.join("updates/set_n.sql"), SET).unwrap();
    project.settings += settings;
    let kck = project.start().await;
    (database, project, kck)
}

/// What the command said, and how it ended.
async fn says(kck: &Kck, arguments: &[&str]) -> (Output, i32) {
    let output = command().args(arguments).env("KCK_SERVER", &kck.address).output().await.unwrap();
    let code = output.status.code().unwrap();
    (output, code)
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap_or_else(|_| panic!("{}", stderr(output)))
}

#[test]
fn what_is_written_is_read_and_told() {
    run(async {
        let (_database, _project, kck) = served("commands", "").await;
        let told = tokio::spawn({
            let address = kck.address.clone();
            async move {
                let mut subscribe = command();
                subscribe
                    .args(["subscribe", "sum_of/1", "--values", "2"])
                    .env("KCK_SERVER", address);
                subscribe.output().await.unwrap()
            }
        });
        let mut progress = kck.app.context.subscriptions.taken();
        while progress == 0 {
            tokio::task::yield_now().await;
            progress = kck.app.context.subscriptions.taken();
        }
        let (written, code) = says(&kck, &["update", "set_n", "id=1", "n=5"]).await;
        assert_eq!((code, &json(&written)["rows"]), (0, &json!(1)));
        let lsn = json(&written)["lsn"].as_str().unwrap().to_owned();
        let (read, _) = says(&kck, &["fetch", "sum_of/1", "--min-lsn", &lsn]).await;
        assert_eq!(json(&read)["value"], json!(5));
        let (csv, _) = says(&kck, &["fetch", "sum_of/1", "--format", "csv"]).await;
        assert_eq!(stdout(&csv), "sum\r\n5\r\n\n");

        let told = stdout(&told.await.unwrap());
        let events: Vec<Value> =
            told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let values = events.iter().filter(|event| event["event"] == "value");
        let values: Vec<&Value> = values.map(|event| &event["data"]["value"]).collect();
        assert_eq!(values, [&json!(0), &json!(5)]);

        let (refreshed, code) = says(&kck, &["refresh", "sum_of"]).await;
        assert_eq!((code, &json(&refreshed)["keys"]), (0, &json!(1)));
        let (purged, code) = says(&kck, &["purge", "sum_of/1"]).await;
        assert_eq!((code, &json(&purged)["keys"]), (0, &json!(1)));
        for (arguments, want) in [
            (&["fetch", "nothing"][..], 1),
            (&["subscribe", "nothing"], 1),
            (&["update", "nothing"], 1),
            (&["update", "set_n", "id"], 2),
            (&["purge", "nothing"], 1),
        ] {
            let (output, code) = says(&kck, arguments).await;
            assert_eq!(code, want, "{arguments:?}: {}", stderr(&output));
            assert!(!stderr(&output).is_empty());
        }
        kck.stop().await;
        let away = command().args(["fetch", "sum_of/1", "--server", "127.0.0.1:1"]).output().await;
        assert_eq!(away.unwrap().status.code(), Some(3));
    });
}

#[test]
fn a_token_of_kcks_own_opens_it() {
    run(async {
        let auth =
            "[auth.jwt]\nsecret = \"a secret of tests and of nothing else\"\naudience = \"shop\"\n";
        let (_database, project, kck) = served("commands_token", auth).await;
        let (refused, code) = says(&kck, &["fetch", "sum_of/1"]).await;
        assert_eq!(code, 1);
        assert!(stderr(&refused).contains("unauthorized"));
        let printed = output(&project, &["token", "--sub", "ann", "--scope", "kck:admin"]).await;
        let token = stdout(&printed);
        let (read, code) = says(&kck, &["fetch", "sum_of/1", "--token", token.trim()]).await;
        assert_eq!((code, &json(&read)["value"]), (0, &json!(0)));
        let (status, code) = says(&kck, &["status", "--token", token.trim()]).await;
        assert_eq!(code, 0, "{}", stderr(&status));
        kck.stop().await;
    });
}
