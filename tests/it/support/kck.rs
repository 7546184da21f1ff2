//! A kck in this process, over a folder of products.

use std::{path::Path, sync::Arc, time::Duration};

use kck::{
    app::App,
    config::Config,
    observe::{Counter, Event, Observer},
};

use serde_json::Value;

use super::{
    Folder,
    client::{Reply, get},
    servers::{Database, cassandra},
};

/// Where entries lie in a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Memory,
    Embedded,
    Cassandra,
}

/// Settings and products of a test; outlives the kck that runs on it.
pub(crate) struct Project {
    pub(crate) folder: Folder,
    pub(crate) settings: String,
}

impl Project {
    pub(crate) async fn new(database: &Database, store: Store) -> Self {
        Self::named(&database.name, &database.url, store).await
    }

    pub(crate) async fn named(name: &str, url: &str, store: Store) -> Self {
        let folder = Folder::new(name);
        std::fs::create_dir_all(folder.0.join("products")).unwrap();
        let store = match store {
            Store::Memory => "kind = \"memory\"".to_owned(),
            Store::Embedded => "kind = \"embedded\"".to_owned(),
            Store::Cassandra => {
                let point = cassandra().await;
                format!(
                    "kind = \"cassandra\"\ncontact_points = [\"{point}\"]\nkeyspace = \"{name}\""
                )
            }
        };
        let settings = format!(
            "[test]\nguard = \"{}\"\n[source]\nurl = \"{url}\"\nslot = \"{name}\"\npublication = \"{name}\"\n[http]\nlisten = \"127.0.0.1:0\"\n[store]\n{store}\n",
            env!("CARGO_BIN_EXE_kck")
        );
        Self { folder, settings }
    }

    /// Three owners with three items each, and what each owner's sum up to.
    pub(crate) async fn sums(database: &Database) -> Self {
        database
            .run(
                "create table items (id bigint primary key, owner bigint not null, n bigint not null);
                 alter table items replica identity full;
                 insert into items select n, n % 3, 0 from generate_series(1, 9) n",
            )
            .await;
        let project = Self::new(database, Store::Embedded).await;
        project.product(
            "sum_of",
            "/* kck\nresult = \"value\"\n*/\nselect sum(n)::bigint from items where owner = :owner",
        );
        project
    }

    /// A product that is not in SQL.
    pub(crate) fn recipe(&self, name: &str, text: &str) -> &Self {
        std::fs::write(self.folder.0.join(format!("products/{name}.toml")), text).unwrap();
        self
    }

    pub(crate) fn product(&self, name: &str, text: &str) -> &Self {
        std::fs::write(self.folder.0.join(format!("products/{name}.sql")), text).unwrap();
        self
    }

    /// Tests ask at once for what takes users a day: the source may be busy all the time, unless one says otherwise.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let named = self.settings.contains("database_share");
        let share = ("KCK_REFRESH__DATABASE_SHARE".to_owned(), "8".to_owned());
        if named { Vec::new() } else { vec![share] }
    }

    pub(crate) fn config(&self) -> Config {
        let folder: &Path = &self.folder.0;
        Config::parse(&self.settings, &folder.join("kck.toml"), folder, &self.environment())
            .unwrap()
    }

    /// Starts kck, and waits until every product has joined: V has passed where each did.
    pub(crate) async fn start(&self) -> Kck {
        let kck = self.start_unjoined().await;
        kck.joined().await;
        kck
    }

    pub(crate) async fn start_unjoined(&self) -> Kck {
        self.start_over(None).await
    }

    /// Starts kck over this store, if there is one; products may join later.
    pub(crate) async fn start_over(&self, store: Option<Arc<dyn kck::store::Store>>) -> Kck {
        let observer = Observer::default();
        let started = App::start_over(self.config(), &[], observer.clone(), store);
        let app = Box::pin(started).await.unwrap();
        Kck { address: app.address.to_string(), app, observer }
    }
}

/// A kck in this process.
pub(crate) struct Kck {
    pub(crate) app: App,
    pub(crate) address: String,
    pub(crate) observer: Observer,
}

impl Kck {
    pub(crate) async fn get(&self, path: &str) -> Reply {
        get(&self.address, path, &[]).await.unwrap()
    }

    /// An answer at least as new as this position.
    pub(crate) async fn at_least(&self, key: &str, lsn: &str) -> Reply {
        self.get(&format!("/fetch/{key}?min_lsn={lsn}&wait=20s")).await
    }

    pub(crate) fn counted(&self, counter: Counter) -> u64 {
        self.observer.counted(counter)
    }

    /// Returns when V has passed where every product joined.
    pub(crate) async fn joined(&self) {
        let recompute = self.app.context.recompute.clone();
        let names: Vec<String> = self
            .app
            .context
            .catalog
            .borrow()
            .ready()
            .map(|product| product.name().to_owned())
            .collect();
        let mut progress = self.app.context.progress.clone();
        let all = progress.wait_for(|progress| {
            recompute.hasten();
            names.iter().all(|name| recompute.ledger().is_cached(name, progress.visible))
        });
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("products join").unwrap();
    }

    /// Waits for an event; subscribe before what causes it.
    pub(crate) async fn event(
        events: &mut tokio::sync::broadcast::Receiver<Event>,
        is: impl Fn(&Event) -> bool,
    ) -> Event {
        let wait = async {
            loop {
                let event = events.recv().await.unwrap();
                if is(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("the event comes")
    }

    /// Reads until the answer comes from the cache and is fresh; whatever is called fresh meanwhile must be `want`.
    pub(crate) async fn kept(&self, key: &str, want: &Value) {
        let asked = async {
            loop {
                let reply = self.get(&format!("/fetch/{key}")).await;
                if reply.header("kck-stale") == "false" {
                    assert_eq!(&reply.value(), want, "{key} is called fresh");
                    if reply.header("kck-source") == "hit" {
                        return;
                    }
                }
            }
        };
        let kept = tokio::time::timeout(Duration::from_secs(30), asked).await;
        kept.unwrap_or_else(|_| panic!("{key} is kept"));
    }

    pub(crate) async fn stop(self) {
        self.app.stop().await;
    }
}
