//! Settings → a running kck: the only place that builds and wires every part.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    change::SourceTime,
    config::Config,
    definitions::Definitions,
    depend::{Links, Need},
    follow::{self, First},
    health,
    inbox::Inbox,
    observe::Observer,
    parts::{Failure, Parts},
    postgres::{self, Housekeeping, Source, address::Address},
    process::Kept,
    processes::{self, Processes},
    product::{
        Catalog,
        files::{Drafts, Files},
    },
    progress::Progress,
    rebuild::{Rebuilt, rebuild},
    recompute::{self, Handle, below, exec, http::Addresses, outside::Recipes, timer::Timer},
    reload::Reload,
    roster::Roster,
    serve::{
        self, Context, Health, SlotHealth,
        auth::{BadAuth, Gate, login::Login},
        form::Form,
        near::Near,
        resolve::Canonicaliser,
        share::{Budget, Places},
    },
    store::Store,
    updates::Updates,
};

/// Keys that may wait to be computed.
const QUEUED_KEYS: usize = 100_000;
/// Keys in one statement at most, and how long one should take.
const BATCH_KEYS: usize = 200;
const BATCH_TIME: Duration = Duration::from_millis(50);
/// The longest that stopping may take; requests in flight have ten seconds of it.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// Warm queries at once.
const WARM_QUERIES: usize = 1;
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
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::new(format!("read {shown}: {error}"), "check [source] password_file")
    })?;
    // Not refused, as files of kck's own secrets are: containers mount theirs so.
    if std::fs::metadata(file).is_ok_and(|seen| seen.permissions().mode() & 0o007 != 0) {
        tracing::warn!("everybody may read the source's password: chmod 600 {shown}");
    }
    Ok(address.with_password(text.lines().next().unwrap_or("")))
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
            () = serve::http::starting(&listener, &http, &observer, &starting) => {
                return Err(Failure::new("stopped while starting", ""));
            }
        };
        let Rebuilt { resumed, doubts, .. } = &rebuilt;
        let first = First { resumed: resumed.clone(), doubts: doubts.clone() };
        let files = TakenUp {
            products: std::mem::take(&mut rebuilt.files),
            updates: std::mem::take(&mut rebuilt.updates),
            processes: std::mem::take(&mut rebuilt.processes),
            ran: std::mem::take(&mut rebuilt.ran),
        };
        let ticks = std::mem::take(&mut rebuilt.ticks);
        let mut parts = assemble(config, source, replication, rebuilt, observer);
        parts.environment = environment.to_vec();
        let door = Door { listener, http, gate, login };
        let timer = timer(&parts, ticks);
        Ok(spawn((parts, timer), door, address, (first, files)))
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
    let only_here = config.auth.is_none() && !config.allow_open && config.listen.ip().is_loopback();
    Ok(serve::http::Settings { tls, origins, only_here })
}

async fn listen(config: &Config) -> Result<TcpListener, Failure> {
    TcpListener::bind(config.listen).await.map_err(|error| {
        Failure::new(
            format!("listen on {}: {error}", config.listen),
            "give [http] listen another address",
        )
    })
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
            database_share: config.database_share,
            strategy: config.strategy,
            tracked_keys: config.tracked_keys,
            stored_bytes: config.stored_bytes,
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
        environment: Vec::new(),
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

/// The files as the start read them, and what is remembered of processes.
struct TakenUp {
    products: Files,
    updates: Drafts,
    processes: Drafts,
    ran: BTreeMap<String, Kept>,
}

/// Sets the parts going.
fn spawn(
    (parts, timer): (Parts, Timer),
    door: Door,
    address: SocketAddr,
    (first, files): (First, TakenUp),
) -> App {
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let Door { listener, http, gate, login } = door;
    let (context, ends) = context(&parts, gate, login);
    // What is wrong with the address of keys shows at once, and a first token need not wait for it.
    let gate = context.gate.clone();
    tasks.spawn(until(shutdown.clone(), async move {
        gate.look().await;
        std::future::pending().await
    }));
    let parts = Arc::new(parts);
    tasks.spawn(succeeding(serve::http::serve(listener, context.clone(), http, shutdown.clone())));
    let Config { refresh_connections, statement_timeout, .. } = parts.config;
    let pool =
        postgres::run::Pool::new(Arc::clone(&parts.source), refresh_connections, statement_timeout);
    let sql: Arc<dyn recompute::Run> = Arc::new(recompute::sql::Sql { pool });
    link(&parts);
    let recipes = Arc::new(recipes(&parts, Arc::clone(&sql), address));
    let (handle, stop) = (parts.recompute.clone(), shutdown.clone());
    tasks.spawn(succeeding(recompute::worker::run(handle.clone(), sql, stop.clone())));
    tasks.spawn(succeeding(recompute::lane::run(handle, Arc::clone(&recipes), stop)));
    tasks.spawn(until(shutdown.clone(), succeeding(timer.run())));
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
    let TakenUp { products, updates, processes, ran } = files;
    let reload = Reload::new(Arc::clone(&parts), products);
    tasks.spawn(until(shutdown.clone(), succeeding(reload.run())));
    let updates = Updates::new(Arc::clone(&parts), updates);
    tasks.spawn(until(shutdown.clone(), succeeding(updates.run())));
    let known = processes::Known { drafts: processes, before: ran };
    let processes = Processes::new(Arc::clone(&parts), recipes, known, ends);
    tasks.spawn(succeeding(processes.run(shutdown.clone())));
    let health =
        health::keep(parts.observer.subscribe(), parts.catalog.subscribe(), parts.health.clone());
    tasks.spawn(until(shutdown.clone(), succeeding(health)));
    tasks.spawn(follow::run(parts, first, shutdown.clone()));
    App { address, context, shutdown, tasks }
}

/// Which keys depend on which, as the catalogue says it at any time.
fn link(parts: &Parts) {
    type Known = Option<(Arc<Catalog>, Arc<Links>)>;
    let (catalog, known) = (parts.catalog.subscribe(), Mutex::new(Known::None));
    let links = Arc::new(move || {
        let catalog = Arc::clone(&catalog.borrow());
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((of, links)) if Arc::ptr_eq(of, &catalog) => Arc::clone(links),
            _ => {
                let links = Arc::new(Links::of(&catalog));
                *known = Some((catalog, Arc::clone(&links)));
                links
            }
        }
    });
    let (needs, dependents) = (Arc::clone(&links), Arc::clone(&links));
    let (readers, reads, rank) = (Arc::clone(&links), Arc::clone(&links), links);
    parts.recompute.on_linked(below::Links {
        needs: Box::new(move |key| {
            let (mut keys, mut patterns) = below::Needs::default();
            for need in needs().needs(key) {
                match need {
                    Need::Key(key) => keys.push(key),
                    Need::Any(pattern) => patterns.push(pattern),
                }
            }
            (keys, patterns)
        }),
        dependents: Box::new(move |key| dependents().dependents(key)),
        readers: Box::new(move |product| readers().readers(product)),
        reads: Box::new(move |product| reads().reads(product)),
        rank: Box::new(move |product| rank().rank(product)),
    });
}

/// Every way in which answers are made.
fn recipes(parts: &Parts, sql: Arc<dyn recompute::Run>, address: SocketAddr) -> Recipes {
    let config = &parts.config;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let mut server = address;
    if server.ip().is_unspecified() {
        // Who listens everywhere is found here.
        server.set_ip(match server {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let settings = exec::Settings {
        guard: config.guard.clone(),
        // Here, where nothing else is said.
        directory: Path::new(".").join(&config.directory),
        server: format!("{scheme}://{server}"),
        hidden: config.own_variables.clone(),
        answer_bytes: config.answer_bytes,
    };
    let freed: Arc<Notify> = Arc::default();
    Recipes {
        sql,
        programs: exec::Programs::new(settings, Arc::clone(&freed)),
        addresses: Addresses::new(&parts.environment, config.answer_bytes, Arc::clone(&freed)),
        levels: Mutex::default(),
        beside: Mutex::default(),
        freed,
        progress: parts.progress.subscribe(),
        recompute: parts.recompute.clone(),
    }
}

fn context(parts: &Parts, gate: Gate, login: Option<Login>) -> (Context, processes::Ends) {
    let config = &parts.config;
    let near = Arc::new(Near::new(config.near_cache_bytes));
    let own = Arc::clone(&near);
    // What is read or watched need not be asked of the store again.
    parts.recompute.on_kept(Box::new(move |key, fresh, watched| {
        if watched || own.holds(key) {
            own.insert(key.clone(), Form::Json, fresh.meta.stamp, fresh.body.clone());
        }
    }));
    let misses = Arc::new(Budget::new(config.misses));
    let canonical = Canonicaliser::new(Arc::clone(&parts.source), Arc::clone(&misses));
    let (listing, shown) = watch::channel(Arc::default());
    let (asking, asks) = mpsc::channel(processes::ASKS_WAITING);
    let context = Context {
        catalog: parts.catalog.subscribe(),
        recompute: parts.recompute.clone(),
        store: Arc::clone(&parts.store),
        near,
        progress: parts.progress.subscribe(),
        canonical: Arc::new(canonical),
        writer: Arc::new(postgres::write::Pool::new(Arc::clone(&parts.source), writing(config))),
        processes: serve::process::Processes::new(shown, asking),
        explain: explain(parts),
        health: parts.health.subscribe(),
        observer: parts.observer.clone(),
        limits: serve::Limits {
            wait: config.wait,
            keys_per_request: config.keys_per_request,
            body_bytes: BODY_BYTES,
            connections: config.http_connections,
            stale_if_error: config.stale_if_error,
        },
        gate,
        login,
        misses,
        subscriptions: Places::new(config.subscriptions),
        connections: Places::new(config.connections_per_address),
    };
    (context, processes::Ends { asks, listing })
}

/// Warm queries have a connection of their own: they hold no product's statement up.
fn timer(parts: &Parts, ticks: BTreeMap<String, SourceTime>) -> Timer {
    let source = Arc::clone(&parts.source);
    let pool = postgres::run::Pool::new(source, WARM_QUERIES, parts.config.statement_timeout);
    Timer::new(parts.recompute.clone(), pool, ticks)
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
