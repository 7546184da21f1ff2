//! Random writes, many shapes of products: at quiet points every key equals its SQL byte for byte, and what is
//! demanded while others write is not older than demanded.
//!
//! `KCK_ORACLE__SEED` plays a history again (that of one writer exactly, those of several as far as the servers
//! let it), `KCK_ORACLE__SECONDS` says how long all together are written.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;
use kck::{change::Position, key::Key};

mod explained;
mod judge;
mod precision;
mod random;
mod shape;
mod sound;
mod world;
mod write;
mod writer;

use crate::support::{
    kck::{Kck, Store},
    run, setting,
};
use judge::{Given, given, position};
use precision::Precision;
use world::{Asked, World, class_of, truth};
use writer::Writer;

const WRITERS: u64 = 4;
const SECONDS: u64 = 45;
/// What each writer does at most between two quiet points.
const TRANSACTIONS_A_ROUND: u64 = 12;
/// Rounds from one start of kck to the next, and in which of them the first ends.
const ROUNDS_A_LIFE: u64 = 12;
const FIRST_ENDS: u64 = 4;
/// Commits between two looks at what Postgres answers, with one writer.
const COMMITS_A_LOOK: usize = 2;

/// The seed that is set, or another one each time; said where a failed test shows it.
fn seed(test: &str) -> u64 {
    let clock = SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    let seed = setting("KCK_ORACLE__SEED").unwrap_or_else(|| u64::from(clock / 1000));
    eprintln!("{test}: KCK_ORACLE__SEED={seed}");
    seed
}

/// How long each of the three histories is written, starting servers not counted.
fn third() -> Duration {
    Duration::from_secs(setting("KCK_ORACLE__SECONDS").unwrap_or(SECONDS)) / 3
}

fn marks(kck: &Kck, given: &[Given]) -> Vec<Position> {
    let ledger = kck.app.context.recompute.ledger();
    given.iter().map(|given| ledger.mark_of(&Key::from_stored(&given.key))).collect()
}

/// Goal: with one writer, each commit's answers are right, and how many keys a commit touches in vain is known.
/// Method: every key is read at the position of each commit, its mark and answer compared with those before.
async fn alone(name: &str, granted: bool, seed: u64, time: Duration) -> Precision {
    let world = World::new(name, Store::Memory).await;
    if granted {
        world.grant().await;
    }
    let kck = world.serve().await;
    let judge = world.connect().await;
    let keys: Vec<&Asked> = world.keys.iter().collect();
    let classes: Vec<String> =
        world.shapes.iter().map(|shape| class_of(&kck, shape.name).to_string()).collect();
    let mut precision = Precision::default();
    let mut writer = Writer::new(&world, 0, seed).await;
    let mut before = world.agrees(&kck, &judge, &[]).await;
    let begun = Instant::now();
    let mut looks = 0;
    while begun.elapsed() < time || looks < 2 {
        for _ in 0..COMMITS_A_LOOK {
            let marked = marks(&kck, &before);
            writer.owner = writer.random.below(WRITERS);
            let position = writer.write(&world).await;
            let after = given(&kck.address, &keys, &format!("min_lsn={position}")).await;
            let touched = marks(&kck, &after);
            precision.commits += 1;
            for (number, asked) in keys.iter().enumerate() {
                precision.count(
                    &classes[asked.shape],
                    world.shapes[asked.shape].name,
                    touched[number] > marked[number],
                    after[number].text != before[number].text,
                );
            }
            before = after;
        }
        world.agrees(&kck, &judge, &writer.story).await;
        writer.story.clear();
        looks += 1;
        if looks % 8 == 0 {
            writer.define(&world).await;
            before = world.agrees(&kck, &judge, &writer.story).await;
        }
    }
    kck.stop().await;
    precision
}

/// A writer's part of a round. What only it writes equals its SQL after its own commit, while others write.
async fn round(world: Arc<World>, address: String, mut writer: Writer) -> Writer {
    for _ in 0..=writer.random.below(TRANSACTIONS_A_ROUND) {
        let position = writer.write(&world).await;
        own_is_exact(&world, &address, &mut writer, &position).await;
        never_less(&world, &address, &mut writer).await;
        // Others' keys are read without a demand, so that they are hot while they change.
        let some: Vec<&Asked> = (0..10).map(|_| writer.random.of(&world.keys)).collect();
        for answer in given(&address, &some, "").await {
            assert!(!answer.text.starts_with("refused"), "{answer:?}");
        }
    }
    writer
}

/// A writer's part of a round while there is no kck.
async fn blind_round(world: Arc<World>, mut writer: Writer) -> Writer {
    for _ in 0..=writer.random.below(TRANSACTIONS_A_ROUND) {
        writer.write(&world).await;
    }
    writer
}

async fn own_is_exact(world: &World, address: &str, writer: &mut Writer, position: &str) {
    let ending = format!("/{}", writer.owner);
    let is_own = |asked: &&Asked| asked.path.starts_with("own_") && asked.path.ends_with(&ending);
    let own: Vec<&Asked> = world.keys.iter().filter(is_own).collect();
    let asked = *writer.random.of(&own);
    let answer = given(address, &[asked], &format!("min_lsn={position}")).await.remove(0);
    let own_truth = truth(&writer.client, &asked.question).await;
    let story = writer.story.join("\n--\n");
    assert_eq!(answer.text, own_truth, "{} at {position}:\n{story}", asked.path);
}

/// What is only ever added to is not less than what its reader has seen before it demanded.
async fn never_less(world: &World, address: &str, writer: &mut Writer) {
    let is_count = |asked: &&Asked| {
        asked.path.starts_with("hits_on/") || asked.path.starts_with("sessions_on/")
    };
    let counted: Vec<&Asked> = world.keys.iter().filter(is_count).collect();
    let asked = *writer.random.of(&counted);
    let seen: u64 = truth(&writer.client, &asked.question).await.parse().unwrap();
    let position = position(&writer.client).await;
    let answer = given(address, &[asked], &format!("min_lsn={position}")).await.remove(0);
    let answered: u64 = answer.text.parse().unwrap_or_else(|_| panic!("{answer:?}"));
    assert!(answered >= seen, "{answered} < {seen}: {} at {position}", asked.path);
}

/// Several writers at once, and what each wrote.
async fn all_at_once<F>(writers: Vec<Writer>, write: impl Fn(Writer) -> F) -> Vec<Writer>
where
    F: Future<Output = Writer> + Send + 'static,
{
    let writing: Vec<_> = writers.into_iter().map(|writer| tokio::spawn(write(writer))).collect();
    join_all(writing).await.into_iter().map(Result::unwrap).collect()
}

/// Goal: with several writers nothing is missed. Method: rounds of writing, and a quiet point after each; now and
/// then definitions change, and some commits come while kck is away.
async fn together(name: &str, store: Store, seed: u64, time: Duration) {
    let world = Arc::new(World::new(name, store).await);
    let mut kck = world.serve().await;
    let judge = world.connect().await;
    let mut writers = Vec::new();
    for owner in 0..WRITERS {
        writers.push(Writer::new(&world, owner, seed + owner).await);
    }
    let mut definer = Writer::new(&world, 0, seed + WRITERS).await;
    let mut begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < time || rounds < FIRST_ENDS {
        rounds += 1;
        if rounds % ROUNDS_A_LIFE == FIRST_ENDS {
            let stopped = Instant::now();
            kck.stop().await;
            writers = all_at_once(writers, |writer| blind_round(Arc::clone(&world), writer)).await;
            kck = world.serve().await;
            begun += stopped.elapsed();
        }
        let address = &kck.address;
        let writing =
            all_at_once(writers, |writer| round(Arc::clone(&world), address.clone(), writer));
        let defining = async {
            if rounds % 2 == 0 {
                definer.define(&world).await;
            }
        };
        (writers, ()) = tokio::join!(writing, defining);
        let mut story: Vec<String> = definer.story.drain(..).collect();
        story.extend(writers.iter_mut().flat_map(|writer| writer.story.drain(..)));
        world.agrees(&kck, &judge, &story).await;
    }
    eprintln!("{name}: {rounds} rounds, {} keys", world.keys.len());
    kck.stop().await;
}

#[test]
fn every_answer_equals_its_sql_after_each_commit() {
    run(async {
        let seed = seed("alone");
        let precision = alone("oracle_alone", false, seed, third() / 2).await;
        println!("{precision}");
        let precision = alone("oracle_granted", true, seed + 1, third() / 2).await;
        println!("with everything granted that kck explain asks for:\n{precision}");
    });
}

#[test]
fn every_answer_equals_its_sql_among_writers() {
    run(async {
        let seed = seed("together");
        together("oracle_embedded", Store::Embedded, seed, third()).await;
        together("oracle_cassandra", Store::Cassandra, seed + 1000, third()).await;
    });
}
