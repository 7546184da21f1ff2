//! Readers beside what happens to their key: a mark at that very moment, a write under way, a key of any length.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use futures_util::{future::join_all, poll};
use kck::{
    change::Lsn,
    key::Key,
    observe::{Counter, Event, Point},
    product::{Product, Slot},
    serve::{
        near::Near,
        read::{self, Answer, Demand, Outcome, Token},
        share::Client,
    },
    store::faulty::{Faulty, Method},
};
use serde_json::{Value, json};

use crate::support::{
    client::send,
    kck::{Kck, Project, Store},
    run,
    servers::Database,
};

const SUM: &str =
    "/* kck\nresult = \"value\"\n*/\nselect sum(n)::bigint from items where owner = :owner";

async fn shop(name: &str, store: Store) -> (Database, Project) {
    let database = Database::new(name).await;
    database
        .run(
            "create table items (id bigint primary key, owner bigint not null, n bigint not null);
             alter table items replica identity full;
             insert into items select n, n % 3, 0 from generate_series(1, 9) n;
             create table notes (id bigint primary key, title text not null);
             alter table notes replica identity full",
        )
        .await;
    let project = Project::new(&database, store).await;
    project.product("sum_of", SUM);
    (database, project)
}

/// A reader without HTTP, so that many reads fit between two steps of kck.
struct Reader {
    context: kck::serve::Context,
    product: Arc<Product>,
    key: Key,
}

impl Reader {
    fn new(kck: &Kck, key: &Key) -> Self {
        let context = kck.app.context.clone();
        let slot = context.catalog.borrow().products.get(key.product()).cloned();
        let Some(Slot::Ready { product, .. }) = slot else { panic!("{key} has a product") };
        Self { context, product, key: key.clone() }
    }

    async fn read(&self, at_least: Option<Lsn>) -> Answer {
        let min_lsn = at_least.map(|lsn| Token { epoch: None, lsn });
        let wait = Duration::from_secs(20);
        let client = Client::Address(std::net::Ipv4Addr::LOCALHOST.into());
        let demand = Demand { min_lsn, ..Demand::plain(wait, client) };
        match read::read(&self.context, &self.product, &self.key, &demand).await {
            Ok(Outcome::Answer(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }
}

fn number(answer: &Answer) -> i64 {
    std::str::from_utf8(&answer.body).unwrap().parse().unwrap()
}

/// Commits with a position behind each, and answers with what they are exact as of.
#[derive(Default)]
struct History {
    commits: Mutex<Vec<(Lsn, i64)>>,
    answers: Mutex<Vec<Answer>>,
    newest: AtomicI64,
    over: AtomicBool,
}

impl History {
    async fn read_on(&self, reader: &Reader, demanding: bool) {
        while !self.over.load(Ordering::Relaxed) {
            let last = self.commits.lock().unwrap().last().copied();
            let answer = reader.read(last.map(|(lsn, _)| lsn).filter(|_| demanding)).await;
            if demanding && let Some((lsn, n)) = last {
                assert!(number(&answer) >= 3 * n, "{n} was committed before {lsn}: {answer:?}");
            }
            // Every answer may only have what was sent to be committed.
            assert!(number(&answer) <= 3 * self.newest.load(Ordering::SeqCst), "{answer:?}");
            self.answers.lock().unwrap().push(answer);
            tokio::task::yield_now().await;
        }
    }

    fn holds(&self) {
        let commits = self.commits.lock().unwrap();
        for answer in self.answers.lock().unwrap().iter() {
            let known = commits.partition_point(|(lsn, _)| *lsn <= answer.as_of.lsn);
            let Some((lsn, n)) = known.checked_sub(1).map(|last| commits[last]) else { continue };
            assert!(number(answer) >= 3 * n, "{n} was committed before {lsn}: {answer:?}");
        }
    }
}

const ROUNDS: i64 = 150;

/// Goal: an answer has every commit up to the position it claims, however close to a mark it was read. Method: one
/// writer, and readers that never pause; what each answer claims is held against all commits afterwards.
#[test]
fn an_answer_read_at_the_moment_of_a_mark_has_what_it_claims() {
    run(async {
        for (store, name) in
            [(Store::Memory, "moment_memory"), (Store::Embedded, "moment_embedded")]
        {
            let (database, mut project) = shop(name, store).await;
            // Every read asks the store, and is between two looks for longer.
            project.settings.push_str("[limits]\nnear_cache = \"0MB\"\n");
            let kck = project.start().await;
            let history = Arc::new(History::default());
            let key = Key::new("sum_of", ["1"]);
            let readers = [false, false, true].map(|demanding| {
                let (reader, history) = (Reader::new(&kck, &key), Arc::clone(&history));
                tokio::spawn(async move { history.read_on(&reader, demanding).await })
            });
            for n in 1..=ROUNDS {
                history.newest.store(n, Ordering::SeqCst);
                let update = format!("update items set n = {n} where owner = 1");
                let position = database.commit(&update).await.parse().unwrap();
                history.commits.lock().unwrap().push((position, n));
            }
            let last = history.commits.lock().unwrap().last().map(|(lsn, _)| *lsn);
            assert_eq!(number(&Reader::new(&kck, &key).read(last).await), 3 * ROUNDS);
            history.over.store(true, Ordering::Relaxed);
            for reader in readers {
                reader.await.unwrap();
            }
            history.holds();
            kck.stop().await;
        }
    });
}

/// Goal: a certificate given after an entry was looked at says nothing of that entry. Method: a reader is held between
/// its look and the bytes; meanwhile a commit marks the key and certificates pass it; nothing computes it again.
#[test]
fn a_certificate_given_after_the_look_raises_no_answer() {
    run(async {
        let (database, project) = shop("raised", Store::Memory).await;
        project.product("quiet", &SUM.replace("result", "eager = \"never\"\nresult"));
        let kck = project.start().await;
        let key = Key::new("quiet", ["1"]);
        let mut reader = Reader::new(&kck, &key);
        assert_eq!(number(&reader.read(None).await), 0);
        let store = Arc::new(Faulty::new(Arc::clone(&reader.context.store)));
        reader.context.store = Arc::clone(&store) as Arc<dyn kck::store::Store>;
        reader.context.near = Arc::new(Near::new(0));
        let mut held = store.hold(Method::Get);
        let mut read = pin!(reader.read(None));
        assert!(poll!(&mut read).is_pending());
        held.reached().await;

        let mut events = kck.observer.subscribe();
        database.run("update items set n = 1 where owner = 1").await;
        let marked = |event: &Event| matches!(event, Event::Marked { keys: 1, .. });
        let Event::Marked { end, .. } = Kck::event(&mut events, marked).await else {
            unreachable!()
        };
        let mut progress = kck.app.context.progress.clone();
        let certified = progress.wait_for(|progress| {
            kck.app.context.recompute.hasten();
            progress.certified().is_some_and(|certificate| certificate.lsn >= end)
        });
        let certified = tokio::time::timeout(Duration::from_secs(20), certified).await;
        drop(certified.expect("a certificate passes the commit").unwrap());
        held.release();
        let answer = read.await;
        assert!(
            number(&answer) == 3 || answer.stale || answer.as_of.lsn < end,
            "without the commit that ended at {end}: {answer:?}"
        );
        // The look was before the mark: that this very answer was held is what the test is about.
        assert_eq!(number(&answer), 0);
        kck.stop().await;
    });
}

/// Goal: a key whose answer is being written is not computed again for whoever comes meanwhile. Method: the write is
/// held; readers come, each as far as it gets; the write goes on.
#[test]
fn an_answer_that_is_being_written_is_not_computed_again() {
    run(async {
        for (store, name) in [(Store::Memory, "put_memory"), (Store::Embedded, "put_embedded")] {
            let (_database, project) = shop(name, store).await;
            let kck = project.start().await;
            let mut events = kck.observer.subscribe();
            kck.observer.halt_at(Some(Point::Put));
            let key = Key::new("sum_of", ["1"]);
            let readers: Vec<Reader> = (0..8).map(|_| Reader::new(&kck, &key)).collect();
            let mut first = pin!(readers[0].read(None));
            assert!(poll!(&mut first).is_pending());
            Kck::event(&mut events, |event| matches!(event, Event::Halted { .. })).await;

            let mut later: Vec<_> =
                readers[1..].iter().map(|reader| Box::pin(reader.read(None))).collect();
            for read in &mut later {
                assert!(poll!(read).is_pending(), "nothing is answered before it is written");
            }
            // The embedded store answers on threads of its own; whoever has passed it waits with the first.
            let all = async {
                while kck.app.context.recompute.counts().waiters < readers.len() {
                    for read in &mut later {
                        assert!(poll!(read).is_pending());
                    }
                    tokio::task::yield_now().await;
                }
            };
            let joined = tokio::time::timeout(Duration::from_secs(20), all).await;
            joined.expect("they all wait");
            assert_eq!(kck.app.context.recompute.counts().queued, 0, "they join what runs");
            kck.observer.halt_at(None);
            let answers = join_all(later).await;
            assert!(answers.iter().chain([&first.await]).all(|answer| number(answer) == 0));
            assert_eq!(kck.counted(Counter::Computed), 1);
            kck.stop().await;
        }
    });
}

async fn post(kck: &Kck, path: &str, body: &Value) -> (u16, Value) {
    let reply = send(&kck.address, ("POST", path), "", body.to_string()).await;
    (reply.status, reply.json())
}

/// Goal: a key that no store takes is refused before it can stand in the way of marks. Method: keys of more than
/// 16 KiB, as they are written and once encoded, by every way to ask; then a commit that touches them all.
#[test]
fn a_key_too_long_for_any_store_is_refused_and_wedges_nothing() {
    run(async {
        for (store, name) in [(Store::Embedded, "long_embedded"), (Store::Memory, "long_memory")] {
            let (database, project) = shop(name, store).await;
            let count =
                "/* kck\nresult = \"value\"\n*/\nselect count(*) from notes where title = :title";
            project.product("titled", count);
            let kck = project.start().await;
            let long = "x".repeat(16 * 1024);
            let wide = "é".repeat(3 * 1024);
            let encoded = "%C3%A9".repeat(3 * 1024);
            for path in [
                format!("/fetch/titled/{long}"),
                format!("/fetch/titled/{encoded}"),
                format!("/fetch/titled?title={encoded}"),
                format!("/fetch?key=titled/{long}&key=titled/short"),
            ] {
                let reply = kck.get(&path).await;
                let error = if path.starts_with("/fetch?") {
                    assert_eq!(reply.json()["results"][1]["value"], json!(0));
                    reply.json()["results"][0]["error"].clone()
                } else {
                    assert_eq!(reply.status, 400);
                    reply.json()["error"].clone()
                };
                assert_eq!(error["name"], json!("bad_request"), "{}", &path[..40]);
                assert!(error.to_string().contains("16384 bytes"), "{}", &path[..40]);
            }
            let keys = [format!("titled/{long}"), "titled/short".into(), format!("titled/{wide}")];
            let (status, body) = post(&kck, "/fetch", &json!({"keys": keys})).await;
            assert_eq!(status, 200);
            for refused in [0, 2] {
                assert_eq!(body["results"][refused]["error"]["name"], json!("bad_request"));
            }
            assert_eq!(body["results"][1]["value"], json!(0));
            assert_eq!(kck.app.context.recompute.ledger().len(), 1, "the short one is tracked");

            let insert = format!(
                "insert into notes values (1, '{long}'), (2, '{wide}'), (3, 'short'), (4, 'short')"
            );
            let position = database.commit(&insert).await;
            assert_eq!(kck.at_least("titled/short", &position).await.value(), json!(2));
            // The longest that is taken is followed like any other.
            let longest = "x".repeat(16 * 1024 - "titled/".len());
            assert_eq!(kck.get(&format!("/fetch/titled/{longest}")).await.value(), json!(0));
            let insert = format!("insert into notes values (5, '{longest}')");
            let position = database.commit(&insert).await;
            let path = format!("titled/{longest}");
            assert_eq!(kck.at_least(&path, &position).await.value(), json!(1));
            kck.stop().await;
        }
    });
}
