//! Settings → a running kck: the only place that builds and wires every part.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    change::Lsn,
    config::{Cassandra, Config, StoreKind},
    definitions::Definitions,
    depend::Index,
    doctor::Stored,
    entry::Stamp,
    follow::{self, First},
    health,
    inbox::Inbox,
    key::Key,
    load,
    observe::{Event, Observer},
    parts::{Failure, Parts},
    postgres::{self, Housekeeping, Source, address::Address},
    product::{
        Catalog, Fault, Kind, Product, Slot, UpdateSlot,
        files::{Drafts, Files},
    },
    progress::Progress,
    recompute::{
        self, Handle,
        ledger::{Ledger, Terms},
        reserve::{Floors, Reserve},
    },
    reload::Reload,
    resume::{self, Joins, Names, Resumed, Resuming},
    roster::{Known, Members, Roster},
    serve::{
        self, Context, Health, SlotHealth,
        auth::{BadAuth, Gate, login::Login},
        form::Form,
        near::Near,
        resolve::Canonicaliser,
        share::{Budget, Places},
    },
    store::{
        self, Forget, Store,
        state::{self, Matched, State},
    },
    updates::Updates,
};

/// Keys that may wait to be computed.
const QUEUED_KEYS: usize = 100_000;
/// Keys in one statement at most, and how long one should take.
const BATCH_KEYS: usize = 200;
const BATCH_TIME: Duration = Duration::from_millis(50);
/// The longest that stopping may take; requests in flight have ten seconds of it.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// Keys deleted by one call.
const FORGET_AT_ONCE: usize = 1000;
/// Updates that may wait for a connection, and the longest that one does.
const UPDATES_WAITING: usize = 256;
const UPDATES_WITHIN: Duration = Duration::from_secs(30);
/// A request's body.
const BODY_BYTES: u64 = 1 << 20;

/// A running kck.
pub struct App {
    /// Where answers are served.
    pub address: SocketAddr,
    /// What every protocol is given.
    pub context: Context,
    shutdown: CancellationToken,
    tasks: JoinSet<Result<(), Failure>>,
}

/// The address that the settings give, with the password from its file.
///
/// # Errors
/// When it cannot be understood, or the file not be read.
pub fn address(
    config: &Config,
    url: &str,
    environment: &[(String, String)],
) -> Result<Address, Failure> {
    let from = |name: &str| {
        environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    };
    let address = Address::parse(url, from)
        .map_err(|error| Failure::new(error.to_string(), "set [source] url, or KCK_SOURCE__URL"))?;
    let Some(file) = &config.password_file else { return Ok(address) };
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::new(format!("read {}: {error}", file.display()), "check [source] password_file")
    })?;
    Ok(address.with_password(text.lines().next().unwrap_or("")))
}

/// Opens the store that the settings name.
///
/// # Errors
/// When it cannot be opened.
pub async fn open_store(config: &Config) -> Result<Arc<dyn Store>, Failure> {
    Ok(match &config.store {
        StoreKind::Memory => Arc::new(store::memory::Memory::default()),
        StoreKind::Embedded(path) => Arc::new(store::embedded::Embedded::open(path)?),
        StoreKind::Cassandra(cassandra) => {
            Arc::new(store::cassandra::Cassandra::connect(&cassandra_settings(cassandra)).await?)
        }
    })
}

/// Looks into the store that the settings name, and makes nothing.
///
/// # Errors
/// When it is there and cannot be read.
pub async fn stored(config: &Config) -> Result<Stored, Failure> {
    let origin = |cells: &[store::StateCell]| Ok(Stored::Of(State::decode(cells)?.origin));
    match &config.store {
        StoreKind::Memory => Ok(Stored::Memory),
        StoreKind::Embedded(path) => {
            let holds = std::fs::read_dir(path).is_ok_and(|mut files| files.next().is_some());
            if !holds {
                return Ok(Stored::Nothing(writable(path)?));
            }
            let state = store::embedded::state(path)?;
            state.map_or_else(|| Ok(Stored::Locked(path.clone())), |cells| origin(&cells))
        }
        StoreKind::Cassandra(cassandra) => {
            let state = store::cassandra::state(&cassandra_settings(cassandra)).await?;
            let place = || Stored::Nothing(format!("keyspace {}", cassandra.keyspace));
            state.map_or_else(|| Ok(place()), |cells| origin(&cells))
        }
    }
}

/// The path, if its folder, or the nearest that is there, can be written to.
fn writable(path: &Path) -> Result<String, Failure> {
    let relative = |folder: &&Path| !folder.as_os_str().is_empty();
    let nearest = path.ancestors().filter(relative).find(|folder| folder.exists());
    let nearest = nearest.unwrap_or(Path::new("."));
    let closed = |why: String| {
        let hint = "let kck's user write there, or give [store] path another folder";
        Failure::new(format!("make {}: {}: {why}", path.display(), nearest.display()), hint)
    };
    let seen = std::fs::metadata(nearest).map_err(|error| closed(error.to_string()))?;
    if !seen.is_dir() {
        return Err(closed("it is no folder".to_owned()));
    }
    if seen.permissions().readonly() {
        return Err(closed("it may not be written to".to_owned()));
    }
    Ok(path.display().to_string())
}

fn cassandra_settings(cassandra: &Cassandra) -> store::cassandra::Settings {
    store::cassandra::Settings {
        contact_points: cassandra.contact_points.clone(),
        keyspace: cassandra.keyspace.clone(),
        local_datacenter: cassandra.local_datacenter.clone(),
        replication: cassandra.replication,
        username: cassandra.username.clone(),
        password: cassandra.password.clone(),
        tls: cassandra.tls,
        consistency: store::cassandra::Consistency::default(),
    }
}

impl App {
    /// Starts every part, in the order of their needs; reads can be answered when it returns.
    ///
    /// # Errors
    /// What cannot be started, and what to do.
    pub async fn start(
        config: Config,
        environment: &[(String, String)],
        observer: Observer,
    ) -> Result<Self, Failure> {
        Self::start_over(config, environment, observer, None).await
    }

    /// As [`App::start`], over this store if there is one: for tests of what stands on a store that fails.
    ///
    /// # Errors
    /// What cannot be started, and what to do.
    pub async fn start_over(
        config: Config,
        environment: &[(String, String)],
        observer: Observer,
        store: Option<Arc<dyn Store>>,
    ) -> Result<Self, Failure> {
        observer.halt_at(config.halt_at);
        let http = http_settings(&config)?;
        let gate = config.auth.as_ref().map_or_else(|| Ok(Gate::wide_open()), Gate::open)?;
        let listener = listen(&config).await?;
        let address = listener.local_addr().map_err(|error| Failure::new(error.to_string(), ""))?;
        let source_address = self::address(&config, &config.source_url, environment)?;
        let replication = match &config.replication_url {
            Some(url) => self::address(&config, url, environment)?,
            None => source_address.clone(),
        };
        let source = Arc::new(Source::new(source_address));
        let login = config.auth.as_ref().map(|auth| Login::open(auth, &gate, Arc::clone(&source)));
        let login = login.transpose()?.flatten();
        let starting = CancellationToken::new();
        let _no_more = starting.clone().drop_guard();
        let mut rebuilt = tokio::select! {
            rebuilt = rebuild(&config, &source, &observer, store) => rebuilt?,
            () = serve::http::starting(&listener, &http, &starting) => {
                return Err(Failure::new("stopped while starting", ""));
            }
        };
        let Rebuilt { resumed, doubts, .. } = &rebuilt;
        let first = First { resumed: resumed.clone(), doubts: doubts.clone() };
        let files = (std::mem::take(&mut rebuilt.files), std::mem::take(&mut rebuilt.updates));
        let parts = assemble(config, source, replication, rebuilt, observer);
        let door = Door { listener, http, gate, login };
        Ok(spawn(parts, door, address, (first, files)))
    }

    /// Runs until told to stop or a part cannot go on.
    ///
    /// # Errors
    /// The part that could not go on.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), Failure> {
        let ended = tokio::select! {
            () = stop => Ok(()),
            ended = self.tasks.join_next() => match ended {
                Some(Ok(result)) => result,
                Some(Err(panic)) => Err(Failure::new(panic.to_string(), "this is a defect of kck")),
                None => Ok(()),
            },
        };
        self.stop().await;
        ended
    }

    /// Stops every part: what is in flight ends within its limits, positions are recorded.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_WITHIN, ended).await.is_err() {
            tracing::warn!(
                "some part did not stop in time; what it had not recorded is done again at the next start"
            );
        }
    }
}

fn http_settings(config: &Config) -> Result<serve::http::Settings, Failure> {
    let origins = serve::http::Origins(config.origins.clone());
    let tls = config
        .tls
        .clone()
        .map(|(certificate, key)| serve::http::Tls::open(serve::http::Files { certificate, key }));
    let tls = tls.transpose().map_err(|error| {
        let hint = "give [http] tls_cert and tls_key files in PEM that belong together";
        Failure::new(postgres::describe_chain(&error), hint)
    })?;
    Ok(serve::http::Settings { tls, origins })
}

async fn listen(config: &Config) -> Result<TcpListener, Failure> {
    TcpListener::bind(config.listen).await.map_err(|error| {
        Failure::new(
            format!("listen on {}: {error}", config.listen),
            "give [http] listen another address",
        )
    })
}

/// Compares the products with those that were matched when kck last stopped; the generations go into their
/// fingerprints.
fn join_at_start(
    catalog: &mut Catalog,
    index: &Index,
    state: &State,
    resumed: &Resumed,
    stamp: impl Fn() -> u64,
) -> Joins {
    let matched = catalog.ready().filter(|product| product.draft.policy.change);
    let means = |product: &Arc<Product>| {
        let tables = load::tables_of(index, product.name());
        let seen = load::seen(product, &resumed.publication, &tables);
        (product.name().to_owned(), (product.fingerprint, seen))
    };
    let wanted = matched.map(means).collect();
    let anew = |name: &str| resumed.new_epoch || is_published(index, resumed, name);
    let joins = resume::joins(&state.matched, &wanted, anew, stamp);
    for slot in catalog.products.values_mut() {
        if let Slot::Ready { product, .. } = slot
            && let Some(matched) = joins.matched.get(product.name())
        {
            let mut own = (**product).clone();
            own.fingerprint = load::with_generation(own.fingerprint, matched.generation);
            *product = Arc::new(own);
        }
    }
    joins
}

fn is_published(index: &Index, resumed: &Resumed, product: &str) -> bool {
    load::tables_of(index, product).iter().any(|table| resumed.published.contains(table))
}

/// Who runs from the start on.
fn members(catalog: &Catalog, index: &Index, joins: &Joins, resumed: &Resumed) -> Members {
    let mut members = Members::default();
    for product in catalog.ready() {
        let name = product.name();
        let known = match joins.matched.get(name) {
            Some(Matched { definition, generation, seen }) => {
                Known::new(product, index, *definition, *generation, seen.clone())
            }
            None => {
                let seen = load::seen(product, &resumed.publication, &BTreeSet::new());
                Known::new(product, index, product.fingerprint, 0, seen)
            }
        };
        members.enter(name, known);
        if !joins.joining.contains(name) {
            members.joined(name);
        }
    }
    members.publish(&resumed.published);
    members
}

/// What source and store together say of where kck stopped, and goes on.
struct Rebuilt {
    names: Names,
    store: Arc<dyn Store>,
    catalog: Catalog,
    index: Index,
    resumed: Resumed,
    members: Members,
    files: Files,
    updates: Drafts,
    ledger: Ledger,
    /// Entries that are not firm.
    doubts: Vec<(Key, Stamp)>,
    reserve: Reserve,
}

async fn rebuild(
    config: &Config,
    source: &Arc<Source>,
    observer: &Observer,
    store: Option<Arc<dyn Store>>,
) -> Result<Rebuilt, Failure> {
    let mut client = source.connect("describe", &[]).await?;
    let names = Names { slot: config.slot.clone(), publication: config.publication.clone() };
    resume::stand_by(&client, &names.slot, observer).await?;
    let store = match store {
        Some(store) => store,
        None => open_store(config).await?,
    };
    let files = Files::read(&config.directory.join("products"));
    let updates = Drafts::read(&config.directory.join("updates"), Kind::Update);
    let mut catalog = load::catalog(&mut client, files.loaded()).await?;
    load::updates(&client, updates.loaded(), &mut catalog).await?;
    let index = load::index(&catalog);
    let state = State::decode(&store.load().await?)?;
    let term = state.term + 1;
    let (stamp, begun) = (u64::from(term) << 32, state.begun());
    store.save(&[state::term(term, stamp), state::starts(&begun, stamp)]).await?;
    let floors = Floors { stamp: state.stamp_floor, version: state.version_floor };
    let reserve = Reserve::new(Arc::clone(&store), term, floors);
    let wanted = index.tables().collect();
    let resumed = Resuming { client: &client, store: &store, names: &names, observer }
        .resume(&wanted, None, || reserve.state_stamp())
        .await?;
    source.expect(resumed.facts.history.clone());
    load::refuse_unpublished(&mut catalog, &index, &resumed.unusable);
    // Analysing every product again is only worth it where some were refused.
    let index = if resumed.unusable.is_empty() { index } else { load::index(&catalog) };
    let joins = join_at_start(&mut catalog, &index, &state, &resumed, || reserve.state_stamp());
    store.save(&joins.cells).await?;
    let members = members(&catalog, &index, &joins, &resumed);
    // The first stamp of this start is below what is reserved here, for what may be deleted at once.
    reserve.ensure(floors.stamp.next(), floors.version).await?;
    if let Some(why) = resumed.began.clone() {
        observer.note(Event::EpochBegan { epoch: resumed.position.epoch, why });
    }
    note_broken(&catalog, observer);
    let ledger = Ledger::new(resumed.position.epoch, term, floors.stamp.next(), floors.version);
    let (ledger, doubts) = recover(ledger, &catalog, &joins, &state, &store).await?;
    Ok(Rebuilt {
        names,
        store,
        catalog,
        index,
        resumed,
        members,
        files,
        updates,
        ledger,
        doubts,
        reserve,
    })
}

fn note_broken(catalog: &Catalog, observer: &Observer) {
    let texts =
        |faults: &[Fault]| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for (name, slot) in &catalog.products {
        if let Slot::Broken { faults, .. } = slot {
            observer.note(Event::ProductBroken { product: name.clone(), why: texts(faults) });
        }
    }
    for (name, slot) in &catalog.updates {
        if let UpdateSlot::Broken { faults } = slot {
            observer.note(Event::UpdateBroken { update: name.clone(), why: texts(faults) });
        }
    }
}

/// The ledger from products with their marks, track records, marks and entries (R14). What no product and no
/// track record keeps is rubbish, and deleted.
async fn recover(
    mut ledger: Ledger,
    catalog: &Catalog,
    joins: &Joins,
    state: &State,
    store: &Arc<dyn Store>,
) -> Result<(Ledger, Vec<(Key, Stamp)>), Failure> {
    for product in catalog.ready() {
        let mark = state.marks.get(product.name()).copied().unwrap_or_default();
        ledger.product(product.name(), Terms::of(product), mark);
    }
    for joining in &joins.joining {
        ledger.joins(joining, Lsn(u64::MAX));
    }
    let (stamp, begun) = (state.stamp_floor.next(), state.begun());
    let (mut rubbish, mut doubts) = (Vec::new(), Vec::new());
    store
        .scan(&mut |scanned| {
            if scanned.lease.is_some() && catalog.products.contains_key(scanned.key.product()) {
                let issued = scanned.meta.as_ref().map_or(stamp, |meta| meta.stamp);
                doubts.extend(ledger.recover(scanned, state::firm_up_to(&begun, issued)));
            } else {
                let mark = scanned.mark.unwrap_or_default();
                rubbish.push(Forget { key: scanned.key, stamp, mark });
            }
        })
        .await?;
    for some in rubbish.chunks(FORGET_AT_ONCE) {
        store.forget(some).await?;
    }
    Ok((ledger, doubts))
}

/// The parts, each with the ends of the others' channels that it needs.
fn assemble(
    config: Config,
    source: Arc<Source>,
    replication: Address,
    rebuilt: Rebuilt,
    observer: Observer,
) -> Parts {
    let Rebuilt { names, store, catalog, index, resumed, members, ledger, reserve, .. } = rebuilt;
    let progress = Progress {
        epoch: resumed.position.epoch,
        // Below what was acknowledged early and is not visible, also before the stream is open.
        visible: Inbox::new(resumed.position.lsn, &resumed.early, Vec::new()).pending().settled(),
        ..Progress::default()
    };
    let (progress, _) = watch::channel(progress);
    let (catalog, _) = watch::channel(Arc::new(catalog));
    let (index, _) = watch::channel(Arc::new(index));
    let slot = SlotHealth { name: names.slot.clone(), ..SlotHealth::default() };
    let (health, _) = watch::channel(Arc::new(Health { slot, ..Health::default() }));
    let recompute = Handle::new(recompute::Parts {
        config: recompute::Config {
            connections: config.refresh_connections,
            tracked_keys: config.tracked_keys,
            answer_bytes: config.answer_bytes,
            queued_keys: QUEUED_KEYS,
            batch_keys: BATCH_KEYS,
            batch_time: BATCH_TIME,
        },
        ledger,
        catalog: catalog.subscribe(),
        progress: progress.subscribe(),
        store: Arc::clone(&store),
        reserve,
        observer: observer.clone(),
    });
    Parts {
        config,
        names,
        source,
        replication,
        store,
        recompute,
        progress,
        catalog,
        index,
        health,
        observer,
        roster: Arc::new(Roster::new(members)),
    }
}

/// How readers come in.
struct Door {
    listener: TcpListener,
    http: serve::http::Settings,
    gate: Gate,
    login: Option<Login>,
}

impl From<BadAuth> for Failure {
    fn from(error: BadAuth) -> Self {
        Self::new(format!("{}: {}", error.name, error.fact), error.hint)
    }
}

/// Sets the parts going.
fn spawn(
    parts: Parts,
    door: Door,
    address: SocketAddr,
    (first, (files, updates)): (First, (Files, Drafts)),
) -> App {
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let Door { listener, http, gate, login } = door;
    let context = context(&parts, gate, login);
    let parts = Arc::new(parts);
    tasks.spawn(succeeding(serve::http::serve(listener, context.clone(), http, shutdown.clone())));
    let Config { refresh_connections, statement_timeout, .. } = parts.config;
    let pool =
        postgres::run::Pool::new(Arc::clone(&parts.source), refresh_connections, statement_timeout);
    let recipe = Arc::new(recompute::sql::Sql { pool });
    tasks.spawn(succeeding(recompute::worker::run(
        parts.recompute.clone(),
        recipe,
        shutdown.clone(),
    )));
    let definitions = Definitions {
        source: Housekeeping::new(Arc::clone(&parts.source)),
        describer: Housekeeping::new(Arc::clone(&parts.source)),
        catalog: parts.catalog.subscribe(),
        roster: Arc::clone(&parts.roster),
        publication: parts.names.publication.clone(),
        recompute: parts.recompute.clone(),
        store: Arc::clone(&parts.store),
        progress: parts.progress.clone(),
        observer: parts.observer.clone(),
    };
    tasks.spawn(until(shutdown.clone(), succeeding(definitions.run())));
    let reload = Reload::new(Arc::clone(&parts), files);
    tasks.spawn(until(shutdown.clone(), succeeding(reload.run())));
    let updates = Updates::new(Arc::clone(&parts), updates);
    tasks.spawn(until(shutdown.clone(), succeeding(updates.run())));
    let health =
        health::keep(parts.observer.subscribe(), parts.catalog.subscribe(), parts.health.clone());
    tasks.spawn(until(shutdown.clone(), succeeding(health)));
    tasks.spawn(follow::run(parts, first, shutdown.clone()));
    App { address, context, shutdown, tasks }
}

fn context(parts: &Parts, gate: Gate, login: Option<Login>) -> Context {
    let config = &parts.config;
    let near = Arc::new(Near::new(config.near_cache_bytes));
    let own = Arc::clone(&near);
    // What is read or watched need not be asked of the store again.
    parts.recompute.on_kept(Box::new(move |key, fresh, watched| {
        if watched || own.holds(key) {
            own.insert(key.clone(), Form::Json, fresh.meta.stamp, fresh.body.clone());
        }
    }));
    Context {
        catalog: parts.catalog.subscribe(),
        recompute: parts.recompute.clone(),
        store: Arc::clone(&parts.store),
        near,
        progress: parts.progress.subscribe(),
        canonical: Arc::new(Canonicaliser::new(Arc::clone(&parts.source))),
        writer: Arc::new(postgres::write::Pool::new(Arc::clone(&parts.source), writing(config))),
        explain: explain(parts),
        health: parts.health.subscribe(),
        observer: parts.observer.clone(),
        limits: serve::Limits {
            wait: config.wait,
            keys_per_request: config.keys_per_request,
            body_bytes: BODY_BYTES,
            connections: config.http_connections,
            connections_per_address: config.connections_per_address,
            stale_if_error: config.stale_if_error,
        },
        gate,
        login,
        misses: Arc::new(Budget::new(config.misses)),
        subscriptions: Places::new(config.subscriptions),
    }
}

fn writing(config: &Config) -> postgres::write::Limits {
    postgres::write::Limits {
        connections: config.refresh_connections,
        waiting: UPDATES_WAITING,
        statement_timeout: config.statement_timeout,
        within: UPDATES_WITHIN,
    }
}

fn explain(parts: &Parts) -> serve::Explain {
    let index = parts.index.subscribe();
    Arc::new(move |product| Some(index.borrow().rules(product)?.explanation(product)))
}

async fn succeeding(task: impl Future<Output = ()>) -> Result<(), Failure> {
    task.await;
    Ok(())
}

/// Tasks that hold nothing in flight simply end when kck is told to stop.
async fn until(
    shutdown: CancellationToken,
    task: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    tokio::select! {
        ended = task => ended,
        () = shutdown.cancelled() => Ok(()),
    }
}
