//! `kck demo`: a shop with live traffic and everything it needs, measured as a reader sees it.

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Args;
use tokio::{sync::mpsc, time::Instant};

use self::{
    latency::{Latencies, Spread},
    own::{Own, Setup},
    reader::Reader,
    traffic::{Commit, Traffic},
};
use super::{Stop, say, told_to_stop};
use crate::observe::{Counter, Observer};

pub(super) mod latency;
pub(super) mod own;
pub(super) mod reader;
mod traffic;

const SCHEMA: &str = include_str!("../../../sql/demo/schema.sql");

/// File names and texts.
const PRODUCTS: &[(&str, &str)] = &[
    ("customer_summary.sql", include_str!("../../../sql/demo/products/customer_summary.sql")),
    ("open_orders.sql", include_str!("../../../sql/demo/products/open_orders.sql")),
    ("order_by_id.sql", include_str!("../../../sql/demo/products/order_by_id.sql")),
    ("revenue_today.sql", include_str!("../../../sql/demo/products/revenue_today.sql")),
    ("stock_of.sql", include_str!("../../../sql/demo/products/stock_of.sql")),
    ("top_products.sql", include_str!("../../../sql/demo/products/top_products.sql")),
];

/// Keys to look at, printed at the start.
const TRY: &[&str] = &[
    "open_orders/7",
    "customer_summary/7",
    "order_by_id/4990",
    "stock_of/3",
    "top_products",
    "revenue_today",
];

/// Where it is served unless somebody else is there.
const PORT: u16 = 8080;
/// A read gives up waiting for its commit after this.
const WAIT: &str = "5s";
/// `--once` ends within this, whatever has to be fetched.
const ONCE_AT_MOST: Duration = Duration::from_secs(300);
/// Commits that may wait to be read; more are committed without being measured.
const UNREAD_COMMITS: usize = 256;
/// What the shown latencies are of.
const SHOWN_TIME: Duration = Duration::from_secs(60);
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// A shop with live traffic and everything it needs, to look at.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Stop when the first commit of the traffic has become a fresh answer; else run until Ctrl-C.
    #[arg(long)]
    once: bool,
}

impl Demo {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let mut ending = std::pin::pin!(self.ending());
        let setup = Setup {
            name: "demo",
            schema: SCHEMA,
            products: PRODUCTS,
            store: "kind = 'embedded'",
            more: "",
            listen: address(),
            statements: false,
        };
        let own = tokio::select! {
            own = Box::pin(Own::start(setup)) => own?,
            ended = &mut ending => return ended,
        };
        let ended = Box::pin(async {
            tokio::select! {
                ended = self.show(&own) => ended,
                ended = &mut ending => ended,
                () = own.ended() => Ok(()),
            }
        });
        let ended = ended.await;
        say("\nstopping…");
        own.stop().await?;
        ended
    }

    /// What ends it from outside.
    async fn ending(&self) -> Result<(), Stop> {
        if !self.once {
            told_to_stop().await;
            return Ok(());
        }
        tokio::select! {
            () = told_to_stop() => Err(Stop::cannot("told to stop before the first commit became a fresh answer")),
            () = tokio::time::sleep(ONCE_AT_MOST) => Err(Stop::cannot(format!(
                "no commit became a fresh answer within {} s\n  hint: KCK_LOG=info tells what happens meanwhile",
                ONCE_AT_MOST.as_secs()
            ))),
        }
    }

    async fn show(&self, own: &Own) -> Result<(), Stop> {
        let mut reader = Reader::connect(own.address).await?;
        let mut traffic = Traffic::prepare(own.connect("demo").await?).await?;
        if self.once {
            return once(&mut reader, &mut traffic).await;
        }
        introduce(own);
        let tally = Tally::default();
        let (committed, unread) = mpsc::channel(UNREAD_COMMITS);
        tokio::try_join!(
            traffic.run(|commit| {
                tally.commits.fetch_add(1, Ordering::Relaxed);
                // Full: the reader is behind, and its latencies say so already.
                drop(committed.try_send(commit));
            }),
            read(&mut reader, unread, &tally),
            tally.show(&own.context.observer),
        )?;
        Ok(())
    }
}

/// The usual address, or any free port where that is taken.
fn address() -> SocketAddr {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    match TcpListener::bind(usual) {
        Ok(_) => usual,
        Err(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
    }
}

async fn once(reader: &mut Reader, traffic: &mut Traffic) -> Result<(), Stop> {
    loop {
        let Some(commit) = traffic.step().await? else { continue };
        let reply = reader.get(&path(&commit)).await?;
        let latency = commit.at.elapsed();
        let text = String::from_utf8_lossy(&reply.body);
        if reply.status != 200 {
            return Err(Stop::cannot(format!("read {} after a commit: {text}", commit.key)));
        }
        say(&text);
        say(&format!("commit {} → fresh answer in {}", commit.position, latency::shown(latency)));
        return Ok(());
    }
}

fn introduce(own: &Own) {
    let (address, products) = (own.address, own.products());
    say(&format!("\nkck serves a shop on http://{address} — try, in another terminal:\n"));
    TRY.iter().for_each(|key| say(&format!("  curl http://{address}/fetch/{key}")));
    say(&format!("  curl http://{address}/products"));
    say(&format!("  curl http://{address}/status\n"));
    say(&format!("products: {}", products.display()));
    say(&format!("database: psql {} (change rows yourself, then fetch again)\n", own.ground.url));
}

/// Reads after each commit as its writer would: nothing older than the commit will do.
async fn read(
    reader: &mut Reader,
    mut unread: mpsc::Receiver<Commit>,
    tally: &Tally,
) -> Result<(), Stop> {
    while let Some(commit) = unread.recv().await {
        let reply = reader.get(&path(&commit)).await?;
        if reply.status == 200 {
            tally.latencies().push(Instant::now(), commit.at.elapsed());
        } else {
            tally.refused.fetch_add(1, Ordering::Relaxed);
            let text = String::from_utf8_lossy(&reply.body);
            tracing::warn!(key = commit.key, status = reply.status, %text, "a read after a commit was refused");
        }
    }
    Ok(())
}

fn path(commit: &Commit) -> String {
    format!("/fetch/{}?min_lsn={}&wait={WAIT}", commit.key, commit.position)
}

/// What happened so far.
#[derive(Default)]
struct Tally {
    commits: AtomicU64,
    /// Reads that got no fresh answer.
    refused: AtomicU64,
    /// Locked to add one, or to take them for showing.
    latencies: Mutex<Latencies>,
}

impl Tally {
    fn latencies(&self) -> std::sync::MutexGuard<'_, Latencies> {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One line a second, in place where that is possible.
    async fn show(&self, observer: &Observer) -> Result<(), Stop> {
        let mut every = tokio::time::interval(SHOW_EVERY);
        let in_place = io::stdout().is_terminal();
        loop {
            every.tick().await;
            let spread = self.latencies().since(Instant::now().checked_sub(SHOWN_TIME));
            let Some(spread) = spread else { continue };
            let line = self.line(observer.counted(Counter::Computed), &spread);
            if in_place {
                let mut out = io::stdout();
                // Nobody looks any more: there is nobody to tell.
                drop(write!(out, "\r{line}\x1b[K").and_then(|()| out.flush()));
            } else {
                say(&line);
            }
        }
    }

    fn line(&self, computed: u64, spread: &Spread) -> String {
        let commits = self.commits.load(Ordering::Relaxed);
        let refused = match self.refused.load(Ordering::Relaxed) {
            0 => String::new(),
            refused => format!(" · {refused} reads refused"),
        };
        format!(
            "{commits} commits · {computed} answers refreshed · commit → fresh answer: p50 {}, p99 {} (last minute){refused}",
            latency::shown(spread.p50),
            latency::shown(spread.p99),
        )
    }
}
