//! A thousand stale keys of one product: as batches and one by one, by two refresh engines on the same source.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::CUSTOMERS;
use crate::{
    change::{Epoch, Lsn, Position},
    cli::{
        Stop,
        demo::{latency, own::Own},
        say,
    },
    entry::Stamp,
    key::Key,
    observe::{Counter, Observer},
    postgres::{Source, address::Address, run::Pool},
    product::{Catalog, Product, Slot},
    progress::Progress,
    recompute::{
        Config, Handle, Parts,
        ledger::{Ledger, Terms},
        queue::Order,
        reserve::{Floors, Reserve},
        sql::Sql,
        worker,
    },
    store::memory::Memory,
};

const CONNECTIONS: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A refresh engine with a ledger and a store of its own.
struct Engine {
    name: &'static str,
    handle: Handle,
    progress: watch::Sender<Progress>,
    observer: Observer,
    keys: Vec<Key>,
    took: Vec<Duration>,
    _catalog: watch::Sender<Arc<Catalog>>,
    _stop: DropGuard,
}

/// Refreshes all keys in turns, by both.
pub(super) async fn measure(own: &Own, rounds: u32) -> Result<(), Stop> {
    say("\nA THOUSAND STALE KEYS OF ONE PRODUCT");
    for (name, keys) in [("order_of", 10_000 / 10), ("orders_of", CUSTOMERS)] {
        let slot = own.context.catalog.borrow().products.get(name).cloned();
        let Some(Slot::Ready { product, .. }) = slot else {
            return Err(Stop::cannot(format!("load {name}: it is broken")));
        };
        let mut engines = [
            Engine::start(own, &product, ("batches", 200), keys)?,
            Engine::start(own, &product, ("singles", 1), keys)?,
        ];
        // The first rounds learn sizes and make connections.
        for round in 0..rounds + 2 {
            for engine in &mut engines {
                let took = engine.refresh(u64::from(round) + 2).await?;
                if round >= 2 {
                    engine.took.push(took);
                }
            }
        }
        let medians = engines.each_mut().map(Engine::median);
        let shown = engines.iter().zip(medians).map(|(engine, median)| {
            let statements = engine.observer.counted(Counter::Batches) / u64::from(rounds + 2);
            format!("{} {} ({statements} statements)", engine.name, latency::shown(median))
        });
        let shown: Vec<String> = shown.collect();
        let [batches, singles] = medians;
        say(&format!(
            "{name:<12}{} · {:.1} × faster",
            shown.join(" · "),
            singles.as_secs_f64() / batches.as_secs_f64()
        ));
    }
    Ok(())
}

impl Engine {
    fn start(
        own: &Own,
        product: &Arc<Product>,
        (name, batch): (&'static str, usize),
        keys: i64,
    ) -> Result<Self, Stop> {
        let config = Config {
            connections: CONNECTIONS,
            // Both are to go as fast as they can.
            database_share: 100.0,
            strategy: Order::Worth,
            tracked_keys: 1_000_000,
            stored_bytes: u64::MAX,
            answer_bytes: 1 << 23,
            queued_keys: 100_000,
            batch_keys: batch,
            batch_time: Duration::from_millis(50),
        };
        let observer = Observer::default();
        let mut ledger = Ledger::new(Epoch(1), 1, Stamp(0), 0);
        ledger.product(product.name(), Terms::of(product), Position::default());
        let mut catalog = Catalog::default();
        let slot = Slot::Ready { product: Arc::clone(product), faults: vec![] };
        catalog.products.insert(product.name().to_owned(), slot);
        let progress = Progress { epoch: Epoch(1), visible: Lsn(1), ..Progress::default() };
        let (progress, catalog) =
            (watch::Sender::new(progress), watch::Sender::new(Arc::new(catalog)));
        let store = Arc::new(Memory::default());
        let handle = Handle::new(Parts {
            config,
            ledger,
            catalog: catalog.subscribe(),
            progress: progress.subscribe(),
            reserve: Reserve::new(Arc::clone(&store) as _, 1, Floors::default()),
            store,
            observer: observer.clone(),
        });
        let address = Address::parse(&own.ground.url, |_| None);
        let address = address.map_err(|error| Stop::cannot(error.to_string()))?;
        let pool = Pool::new(Arc::new(Source::new(address)), CONNECTIONS, TIMEOUT);
        let shutdown = CancellationToken::new();
        tokio::spawn(worker::run(handle.clone(), Arc::new(Sql { pool }), shutdown.clone()));
        let key = |n: i64| Key::new(product.name(), [n.to_string().as_str()]);
        let keys = (1..=keys).map(key).collect();
        let stop = shutdown.drop_guard();
        let took = Vec::new();
        Ok(Self { name, handle, progress, observer, keys, took, _catalog: catalog, _stop: stop })
    }

    /// All keys are stale from this position on; how long until all are fresh.
    async fn refresh(&self, at: u64) -> Result<Duration, Stop> {
        let _watching = self.handle.watch(self.keys.clone());
        let start = Instant::now();
        let at = Lsn(at);
        let touched: HashMap<Key, Lsn> = self.keys.iter().map(|key| (key.clone(), at)).collect();
        let mut marks = self.handle.mark(&touched, &HashMap::new(), &BTreeMap::new());
        // The first time nothing is tracked yet.
        marks.keys = self
            .keys
            .iter()
            .map(|key| (key.clone(), Position { epoch: Epoch(1), lsn: at }))
            .collect();
        self.progress.send_modify(|progress| progress.visible = at);
        self.handle.wake(&marks);
        let fresh = |key: &Key| {
            self.handle
                .look(key)
                .is_some_and(|(standing, _)| standing.fresh && standing.meta.as_of.lsn >= at)
        };
        let within = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let counts = self.handle.counts();
                if counts.queued + counts.running == 0 {
                    return start.elapsed();
                }
            }
        };
        let refreshed = tokio::time::timeout(TIMEOUT, within).await;
        let refreshed = refreshed.ok().filter(|_| self.keys.iter().all(fresh));
        refreshed.ok_or_else(|| Stop::cannot("some keys did not become fresh"))
    }

    fn median(&mut self) -> Duration {
        self.took.sort_unstable();
        self.took.get(self.took.len() / 2).copied().unwrap_or_default()
    }
}
