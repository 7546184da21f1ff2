//! A connection and a seed → commits, one after the other.

use tokio_postgres::{Client, error::SqlState};

use super::{
    judge::position,
    random::Random,
    world::World,
    write::{Writes, definition, transaction},
};

/// Somebody who writes.
pub(super) struct Writer {
    pub(super) client: Client,
    pub(super) random: Random,
    /// The rows that are its own; nobody else's numbers.
    pub(super) owner: u64,
    /// What it wrote, and what came of it.
    pub(super) story: Vec<String>,
}

impl Writer {
    pub(super) async fn new(world: &World, owner: u64, seed: u64) -> Self {
        let client = world.connect().await;
        Self { client, random: Random::new(seed), owner, story: vec![] }
    }

    /// One transaction, and a position at or after its end.
    pub(super) async fn write(&mut self, world: &World) -> String {
        let shared: Vec<&Writes> = world.shared.iter().collect();
        let owned = [&world.owned];
        let subjects: &[&Writes] = if self.random.one_in(4) { &owned } else { &shared };
        let sql = transaction(subjects, self.owner, &mut self.random);
        self.run(sql).await
    }

    /// A change of definitions that no answer shows, but for partitions.
    pub(super) async fn define(&mut self, world: &World) -> String {
        let shared: Vec<&Writes> = world.shared.iter().collect();
        let sql = definition(&shared, &mut self.random);
        self.run(sql).await
    }

    async fn run(&mut self, sql: String) -> String {
        let done = self.client.batch_execute(&sql).await;
        let came_of_it = match &done {
            Ok(()) => "done".to_owned(),
            Err(error) => {
                let state = error.code().unwrap_or_else(|| panic!("{error:?} from {sql}"));
                assert!(may_happen(state), "{error:?} from {sql}");
                self.client.batch_execute("rollback").await.unwrap();
                state.code().to_owned()
            }
        };
        let position = position(&self.client).await;
        self.story.push(format!("{sql} -- {came_of_it}, {position}, writer {}", self.owner));
        position
    }
}

/// Constraints, deadlocks, serialization failures and locks that are not to be had are a writer's daily life.
pub(super) fn may_happen(state: &SqlState) -> bool {
    ["23", "40", "55"].iter().any(|class| state.code().starts_with(class))
}
