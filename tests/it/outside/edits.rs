//! Products that others depend on come, go and change, whatever the store and the source say to it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use kck::{
    change::Position,
    entry::{Entry, Stamp},
    key::Key,
    observe::Event,
    store::{Error, Forget, Scanned, StateCell, Store, Track, memory::Memory},
};
use serde_json::json;

use super::command;
use crate::support::{
    kck::{Kck, Project},
    run,
    servers::Database,
};

/// Nobody matches changes for it.
const ALONE: &str = "refresh = []\n";

/// A clock that a file says, and a program that adds ten to it; which has these lines too.
async fn clock(name: &str, beside: &str) -> (Database, Project) {
    let database = Database::new(name).await;
    let project = Project::sums(&database).await;
    now(&project, 1);
    write_clock(&project, &[], "");
    let text = command(&project, &[]);
    let depends = "{ product = \"clock\", match = { owner = \"owner\" } }";
    // It says nothing where there is no clock.
    let own = format!(
        "params = {{ owner = \"int\" }}\ntimeout = \"3s\"\n{beside}depends = [{depends}]\n"
    );
    project.recipe("beside", &format!("{text}{own}"));
    (database, project)
}

fn write_clock(project: &Project, arguments: &[&str], more: &str) {
    let text = command(project, arguments);
    project.recipe("clock", &format!("{text}params = {{ owner = \"bigint\" }}\n{ALONE}{more}"));
}

fn now(project: &Project, now: i32) {
    std::fs::write(project.folder.0.join("now"), now.to_string()).unwrap();
}

fn is_loaded(event: &Event, name: &str) -> bool {
    matches!(event, Event::ProductLoaded { product, .. } if product == name)
}

/// What was made of the clock when it said one is not called fresh.
async fn is_not_of_before(kck: &Kck) {
    let reply = kck.get("/fetch/beside/1").await;
    let fresh = reply.status == 200 && reply.header("kck-stale") == "false";
    assert!(!fresh || reply.value() == json!(12), "{reply:?}");
}

#[test]
fn nothing_is_fresh_above_what_was_removed() {
    for (name, own) in [("outside_gone", ""), ("outside_gone_alone", ALONE)] {
        run(async {
            let (_database, project) = clock(name, own).await;
            let kck = project.start_unjoined().await;
            kck.kept("beside/1", &json!(11)).await;
            let mut events = kck.observer.subscribe();
            std::fs::remove_file(project.folder.0.join("products/clock.toml")).unwrap();
            let gone = |event: &Event| matches!(event, Event::ProductRemoved { product } if product == "clock");
            Kck::event(&mut events, gone).await;
            is_not_of_before(&kck).await;
            // It comes again, and says something else.
            now(&project, 2);
            write_clock(&project, &[], "");
            kck.kept("beside/1", &json!(12)).await;
            kck.stop().await;
        });
    }
}

#[test]
fn nothing_is_fresh_above_an_edit_that_the_source_takes_later() {
    run(async {
        let (database, project) = clock("outside_later", ALONE).await;
        let kck = project.start_unjoined().await;
        kck.kept("beside/1", &json!(11)).await;
        let mut events = kck.observer.subscribe();
        write_clock(&project, &[], "depends = [{ table = \"later\" }]\n");
        // What it is made of is another text; the clock runs on as it was.
        Kck::event(&mut events, |event| is_loaded(event, "beside")).await;
        kck.kept("beside/1", &json!(11)).await;
        now(&project, 2);
        database.run("create table later (id int primary key)").await;
        Kck::event(&mut events, |event| is_loaded(event, "clock")).await;
        is_not_of_before(&kck).await;
        kck.kept("beside/1", &json!(12)).await;
        kck.stop().await;
    });
}

#[test]
fn who_depended_on_nothing_for_a_while_missed_what_moved() {
    run(async {
        let (_database, project) = clock("outside_while", ALONE).await;
        let kck = project.start_unjoined().await;
        kck.kept("beside/1", &json!(11)).await;
        let file = project.folder.0.join("products/beside.toml");
        let before = std::fs::read_to_string(&file).unwrap();
        let without = before.lines().filter(|line| !line.starts_with("depends"));
        let mut events = kck.observer.subscribe();
        std::fs::write(&file, without.collect::<Vec<_>>().join("\n")).unwrap();
        Kck::event(&mut events, |event| is_loaded(event, "beside")).await;
        now(&project, 2);
        assert_eq!(kck.get("/fetch/clock/1?fresh=true&wait=20s").await.value(), json!(2));
        // It means what it meant, and nobody told it what moved meanwhile.
        std::fs::write(&file, before).unwrap();
        Kck::event(&mut events, |event| is_loaded(event, "beside")).await;
        is_not_of_before(&kck).await;
        kck.kept("beside/1", &json!(12)).await;
        kck.stop().await;
    });
}

#[test]
fn a_start_computes_again_what_was_made_from_others_answers() {
    for (name, own) in [("outside_start", ""), ("outside_start_alone", ALONE)] {
        run(async {
            let (_database, mut project) = clock(name, own).await;
            let path = project.folder.0.join("kck-data");
            project.settings += &format!("path = \"{}\"\n", path.display());
            let kck = project.start_unjoined().await;
            kck.kept("beside/1", &json!(11)).await;
            kck.stop().await;
            let kck = project.start_unjoined().await;
            let reply = kck.get("/fetch/beside/1").await;
            assert_eq!((reply.value(), reply.header("kck-stale")), (json!(11), "true"));
            kck.kept("beside/1", &json!(11)).await;
            kck.stop().await;
        });
    }
}

/// A store that does not take that `beside` leaves the list, of so many times the last.
struct Refuses {
    inner: Memory,
    left: AtomicUsize,
}

#[async_trait]
impl Store for Refuses {
    async fn load(&self) -> Result<Vec<StateCell>, Error> {
        self.inner.load().await
    }
    async fn save(&self, cells: &[StateCell]) -> Result<(), Error> {
        let leaves = |cell: &StateCell| cell.name.ends_with("beside") && cell.value.is_none();
        let less = |left: usize| left.checked_sub(1);
        if cells.iter().any(leaves)
            && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) == Ok(1)
        {
            return Err(Error::Unavailable { action: "save", source: "a refusal".into() });
        }
        self.inner.save(cells).await
    }
    async fn scan(&self, visit: &mut (dyn FnMut(Scanned) + Send)) -> Result<(), Error> {
        self.inner.scan(visit).await
    }
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.inner.get(key).await
    }
    async fn put(&self, key: &Key, entry: &Entry) -> Result<(), Error> {
        self.inner.put(key, entry).await
    }
    async fn track(&self, tracks: &[Track]) -> Result<(), Error> {
        self.inner.track(tracks).await
    }
    async fn mark(&self, marks: &[(Key, Position)]) -> Result<(), Error> {
        self.inner.mark(marks).await
    }
    async fn purge(&self, keys: &[(Key, Stamp)]) -> Result<(), Error> {
        self.inner.purge(keys).await
    }
    async fn forget(&self, keys: &[Forget]) -> Result<(), Error> {
        self.inner.forget(keys).await
    }
}

#[test]
fn an_edit_that_the_store_does_not_take_at_once_is_an_edit() {
    run(async {
        let (_database, project) = clock("outside_refusal", "").await;
        let store = Arc::new(Refuses { inner: Memory::default(), left: AtomicUsize::new(0) });
        let kck = project.start_over(Some(Arc::clone(&store) as Arc<dyn Store>)).await;
        kck.joined().await;
        kck.kept("beside/1", &json!(11)).await;
        let mut events = kck.observer.subscribe();
        now(&project, 2);
        // First it leaves for its own sake, being made of another text, then for the clock's.
        store.left.store(2, Ordering::SeqCst);
        write_clock(&project, &["", "2"], "");
        Kck::event(&mut events, |event| is_loaded(event, "clock")).await;
        assert_eq!(store.left.load(Ordering::SeqCst), 0);
        let reply = kck.get("/fetch/clock/1").await;
        let fresh = reply.header("kck-stale") == "false";
        assert!(!fresh || reply.value() == json!(2), "{reply:?}");
        kck.kept("beside/1", &json!(12)).await;
        kck.stop().await;
    });
}
