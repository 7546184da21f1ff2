//! Leaving removes what kck made in the source, and nothing else.

use super::shop;
use crate::support::{
    process::{output as command, stderr, stdout},
    run,
    servers::own_postgres,
};

const SLOTS: &str = "select count(*) from pg_replication_slots";
const PUBLICATIONS: &str = "select count(*) from pg_publication";

#[test]
fn leaving_removes_slot_and_publication_and_nothing_else() {
    run(async {
        let server = own_postgres(&[]).await;
        let (database, project) = shop(&server, "leaving").await;
        database.run("create publication others for table orders").await;
        database.run("select pg_create_logical_replication_slot('others', 'pgoutput')").await;
        project.start().await.stop().await;
        assert_eq!((database.one(SLOTS).await, database.one(PUBLICATIONS).await), (2, 2));

        // Nobody can be asked here.
        let asked = command(&project, &["teardown"]).await;
        assert_eq!(asked.status.code(), Some(2), "{}", stderr(&asked));
        assert!(stderr(&asked).contains("--yes"), "{}", stderr(&asked));
        assert_eq!((database.one(SLOTS).await, database.one(PUBLICATIONS).await), (2, 2));

        let removed = command(&project, &["teardown", "--yes"]).await;
        assert_eq!(removed.status.code(), Some(0), "{}", stderr(&removed));
        let said = stdout(&removed);
        for line in ["removed slot leaving\n", "removed publication leaving\n", "rm -r "] {
            assert!(said.contains(line), "{line} in {said}");
        }
        let left = "select count(*) from pg_replication_slots s, pg_publication p
            where s.slot_name = 'others' and p.pubname = 'others'";
        assert_eq!(database.one(left).await, 1);
        assert_eq!((database.one(SLOTS).await, database.one(PUBLICATIONS).await), (1, 1));

        let again = command(&project, &["teardown", "--yes"]).await;
        assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
        assert!(stdout(&again).contains("nothing to remove"), "{}", stdout(&again));
    });
}

#[test]
fn a_slot_that_is_read_is_not_taken_away() {
    run(async {
        let server = own_postgres(&[]).await;
        let (database, project) = shop(&server, "reading").await;
        let kck = project.start().await;
        let refused = command(&project, &["teardown", "--yes"]).await;
        assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
        let said = stderr(&refused);
        assert!(said.contains("is read by pid") && said.contains("kck/"), "{said}");
        assert_eq!((database.one(SLOTS).await, database.one(PUBLICATIONS).await), (1, 1));
        kck.stop().await;
        let removed = command(&project, &["teardown", "--yes"]).await;
        assert_eq!(removed.status.code(), Some(0), "{}", stderr(&removed));
    });
}

#[test]
fn a_slot_of_somebody_else_is_not_taken_away() {
    run(async {
        let server = own_postgres(&[]).await;
        let (database, project) = shop(&server, "foreign_slot").await;
        database.run("select pg_create_physical_replication_slot('foreign_slot')").await;
        let refused = command(&project, &["teardown", "--yes"]).await;
        assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
        assert_eq!(database.one(SLOTS).await, 1);
    });
}
