//! The oracle looked at itself: every statement can be carried out, and every product answers something.

use super::{
    random::Random,
    world::{Asked, World, truths},
    write::Writes,
    writer::may_happen,
};
use crate::support::{kck::Store, run};

/// How often a statement may fail on a fresh database before it counts as one that never does anything.
const TRIES: u64 = 60;

/// Whether the statement goes through for some choice of values; nothing is kept of it.
async fn can_be_done(world: &World, writes: &Writes, template: &str) -> bool {
    for seed in 0..TRIES {
        let mut random = Random::new(seed);
        let sql = writes.filled(template, random.clone().below(4), &mut random);
        let done = world.database.client.batch_execute(&format!("begin; {sql}; rollback")).await;
        let Err(error) = done else { return true };
        world.database.run("rollback").await;
        assert!(error.code().is_some_and(may_happen), "{error:?} from {sql}");
    }
    false
}

#[test]
fn every_statement_of_the_oracle_can_be_carried_out() {
    run(async {
        let world = World::new("oracle_sound", Store::Memory).await;
        for writes in world.shared.iter().chain([&world.owned]) {
            for template in writes.often.iter().chain(&writes.rarely).chain(&writes.definitions) {
                assert_eq!(writes.unknown_holes(template), [""; 0], "{template}");
                assert!(can_be_done(&world, writes, template).await, "never done: {template}");
            }
        }
        let keys: Vec<&Asked> = world.keys.iter().collect();
        let truths = truths(&world.database.client, &keys).await;
        let empty = |truth: &String| ["[]", "null", "0"].contains(&truth.as_str());
        let silent = world.shapes.iter().enumerate().filter(|(number, _)| {
            let mut answers = keys.iter().zip(&truths).filter(|(asked, _)| asked.shape == *number);
            answers.all(|(_, truth)| empty(truth))
        });
        let silent: Vec<&str> = silent.map(|(_, shape)| shape.name).collect();
        assert_eq!(silent, [""; 0], "these answer nothing on a fresh database");
    });
}
