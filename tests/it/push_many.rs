//! Very many subscriptions of one key: each gets its change, which is computed once.

use kck::observe::Counter;
use serde_json::json;

use crate::support::{client::Events, kck::Project, run, servers::Database};

#[test]
fn very_many_readers_of_one_key_each_get_its_change() {
    run(async {
        const READERS: usize = 200;
        let database = Database::new("push_crowd").await;
        let project = Project::sums(&database).await;
        let kck = project.start().await;
        let mut readers = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            let mut events = Events::open(&kck.address, "/subscribe?key=sum_of/1", &[]).await;
            assert_eq!(events.named("value").await.json()["value"], json!(0));
            readers.push(events);
        }
        let computed = kck.counted(Counter::Computed);
        database.run("update items set n = 5 where id = 1").await;
        for events in &mut readers {
            assert_eq!(events.named("value").await.json()["value"], json!(5));
        }
        // Once for all of them.
        assert_eq!(kck.counted(Counter::Computed), computed + 1);
        kck.stop().await;
    });
}
