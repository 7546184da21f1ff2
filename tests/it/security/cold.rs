//! Clients that make the source work: keys that nobody asked for before, and texts that only the source can judge.

use kck::observe::Counter;
use serde_json::json;

use super::{exchange_from, plain, status};
use crate::support::{
    kck::{Project, Store},
    run,
    servers::Database,
};

async fn asked(address: &str, last: u8, path: &str) -> (u16, String) {
    let answer = exchange_from(last, address, &plain(path)).await;
    (status(&answer), String::from_utf8_lossy(&answer).into_owned())
}

/// Goal: who asks for ever new keys is slowed down, and neither the source nor anyone else notices. Method: a client
/// with a small share asks for a thousand keys, another for one.
#[test]
fn s31_who_enumerates_cold_keys_has_to_wait() {
    run(async {
        let database = Database::new("abuse_cold").await;
        let mut project = Project::sums(&database).await;
        project.settings += "[limits]\nmisses = 10\n";
        let kck = project.start().await;
        let before = kck.counted(Counter::Computed);
        let began = std::time::Instant::now();
        let (mut answered, mut refused) = (0, 0);
        for key in 0..1000 {
            let (status, text) = asked(&kck.address, 1, &format!("/fetch/sum_of/{key}")).await;
            match status {
                200 => answered += 1,
                429 => {
                    refused += 1;
                    let text = text.to_lowercase();
                    assert!(
                        text.contains("retry-after: ") && text.contains("too_many_requests"),
                        "{text}"
                    );
                }
                _ => panic!("{text}"),
            }
        }
        assert_eq!(
            asked(&kck.address, 2, "/fetch/sum_of/5000").await.0,
            200,
            "another has a share of its own"
        );
        // What is kept is free, also for who has no share left.
        assert_eq!(asked(&kck.address, 1, "/fetch/sum_of/0").await.0, 200);
        // A list, a stream and a demand are no way around.
        let (_, list) =
            asked(&kck.address, 1, "/fetch?key=sum_of/9001&key=sum_of/9002&key=sum_of/9003").await;
        assert!(list.contains("too_many_requests"), "{list}");
        let share = 100 + 10 * began.elapsed().as_secs() + 10;
        let computed = kck.counted(Counter::Computed) - before;
        assert!(computed <= share + 10, "{computed} of {share}");
        assert!(answered >= 100 && refused >= 100, "{answered} answered, {refused} refused");
        eprintln!(
            "s31: {answered} answered, {refused} refused, {computed} computed, in {:?}",
            began.elapsed()
        );
        kck.stop().await;
    });
}

/// Goal: the same for texts that only the source can judge. Method: ever new texts that are no value of an enum, and one
/// long array again and again; the source's own count of statements.
#[test]
fn s31_who_makes_the_source_judge_texts_has_to_wait() {
    run(async {
        let database = Database::new("abuse_judge").await;
        database
            .run(
                "create extension pg_stat_statements;
                 create type mood as enum ('calm', 'wild');
                 create table moods (id bigint primary key, mood mood, tags text[]);
                 alter table moods replica identity full",
            )
            .await;
        let mut project = Project::new(&database, Store::Embedded).await;
        project.product(
            "by_mood",
            "/* kck\nparams = { mood = \"mood\" }\n*/\nselect id from moods where mood = :mood",
        );
        project.product(
            "by_tags",
            "/* kck\nparams = { tags = \"text[]\" }\n*/\nselect id from moods where tags = :tags",
        );
        project.settings += "[limits]\nmisses = 10\n";
        let kck = project.start().await;
        let (mut wrong, mut waits) = (0, 0);
        for n in 0..400 {
            match asked(&kck.address, 1, &format!("/fetch/by_mood/sad{n}")).await.0 {
                400 => wrong += 1,
                429 => waits += 1,
                other => panic!("{other}"),
            }
        }
        let long = format!("/fetch/by_tags/%7B{}%7D", "x".repeat(5000));
        for _ in 0..400 {
            match asked(&kck.address, 3, &long).await.0 {
                200 => wrong += 1,
                429 => waits += 1,
                other => panic!("{other}"),
            }
        }
        let asked_of_source = "select coalesce(sum(calls), 0)::bigint from pg_stat_statements
             where query like 'select pg_catalog.format(%' and dbid = (select oid from pg_database where datname = current_database())";
        let calls = database.one(asked_of_source).await;
        eprintln!("s31: {wrong} judged, {waits} refused, {calls} statements");
        assert!(calls <= 400 && waits >= 200, "{calls} statements, {waits} refused");
        // Others are answered, and what is remembered is free.
        assert_eq!(asked(&kck.address, 2, "/fetch/by_mood/calm").await.0, 200);
        assert_eq!(kck.get("/fetch/by_mood/calm").await.json()["success"], json!(true));
        kck.stop().await;
    });
}
