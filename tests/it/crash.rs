//! kck is killed at each named point of the protocol and started again: no answer is wrong, nothing is missed.

use serde_json::json;

use crate::support::{
    client::get,
    kck::{Project, Store},
    process::Process,
    run,
    servers::Database,
};

const SCHEMA: &str = "
    create table items (id bigint primary key, owner bigint not null, n bigint not null);
    alter table items replica identity full;
    insert into items select n, n % 3, 0 from generate_series(1, 9) n;
";

async fn project(name: &str, store: Store) -> (Database, Project) {
    let database = Database::new(name).await;
    database.run(SCHEMA).await;
    let project = Project::new(&database, store).await;
    project.product(
        "sum_of",
        "/* kck\nresult = \"value\"\n*/\nselect sum(n)::bigint from items where owner = :owner",
    );
    (database, project)
}

/// Goal: whatever point of the way from a commit to its entry kck dies at, the next start answers right.
/// Method: it runs once and keeps an entry; runs again with the order to stop at the point; a commit drives it
/// there; it is killed; more commits happen while it is away; started again, every demanded answer is right.
async fn killed_at(point: &str, store: Store) {
    let name = format!("killed_at_{point}_{store:?}").to_lowercase();
    let (database, project) = project(&name, store).await;
    let fetch = async |address: &str, owner: u8, lsn: &str| {
        get(address, &format!("/fetch/sum_of/{owner}?min_lsn={lsn}&wait=20s"), &[]).await.unwrap()
    };
    let kck = project.start().await;
    let start = database.commit("select 1").await;
    for owner in 0..3 {
        assert_eq!(kck.at_least(&format!("sum_of/{owner}"), &start).await.value(), json!(0));
    }
    kck.stop().await;

    let mut process = Process::start(&project, point).await;
    let commit = database.commit("update items set n = 1 where owner = 1").await;
    if point == "put" {
        // The point is reached by a computation: somebody must ask for one.
        let address = process.address.clone();
        let asked = tokio::spawn(async move {
            drop(get(&address, &format!("/fetch/sum_of/1?min_lsn={commit}&wait=20s"), &[]).await);
        });
        process.says("halted").await;
        asked.abort();
    } else {
        process.says("halted").await;
    }
    process.kill().await;
    database.run("update items set n = 5 where owner = 2").await;
    let commit = database.commit("update items set owner = 0 where id = 1").await;

    let process = Process::start(&project, "").await;
    for (owner, sum) in [(0, 1), (1, 2), (2, 15)] {
        let reply = fetch(&process.address, owner, &commit).await;
        assert_eq!(reply.value(), json!(sum), "owner {owner} after a kill at {point}");
    }
    process.kill().await;
}

#[test]
fn killed_anywhere_it_answers_right() {
    run(async {
        for point in ["match", "mark", "acknowledge", "put"] {
            killed_at(point, Store::Embedded).await;
            killed_at(point, Store::Cassandra).await;
        }
    });
}
