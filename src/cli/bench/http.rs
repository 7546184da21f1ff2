//! `kck bench http`: hits a second over HTTP, beside a bare server that sends the same bytes.
//!
//! Both servers are processes of their own, and this one asks: nobody shares a runtime. They are asked in turns,
//! because a machine is never as fast twice.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::Args;

use super::{
    apart::{Apart, Store, Wanted},
    load::{self, Connection, Load, Loaded},
    process::{self, Server},
};
use crate::cli::{Stop, demo::latency, say};

const SCHEMA: &str = include_str!("../../../sql/bench/pages_schema.sql");
const PRODUCT: &str = include_str!("../../../sql/bench/page.sql");
const PATH: &str = "/fetch/page/7";
const AUTH: &str =
    "auth = { jwt = { secret = 'known to nobody but this measurement', audience = 'bench' } }\n";
/// How long to wait between two looks at a server that starts.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// Hits a second over HTTP, beside a bare server that sends the same bytes.
#[derive(Debug, Args)]
pub(super) struct Http {
    /// Kept-alive connections, each with one request at a time.
    #[arg(long, value_name = "N", default_value = "64")]
    connections: NonZeroUsize,
    /// How long each turn lasts.
    #[arg(long, value_name = "SECONDS", default_value = "3")]
    seconds: NonZeroUsize,
    /// How many turns each side has.
    #[arg(long, value_name = "N", default_value = "5")]
    rounds: NonZeroUsize,
    /// Where answers lie.
    #[arg(long, value_enum, default_value_t = Store::Embedded)]
    store: Store,
    /// Keep no answers in memory: every hit reads the store.
    #[arg(long)]
    cold: bool,
    /// Ask for deflated answers.
    #[arg(long)]
    gzip: bool,
    /// Demand a token, and send one with each request.
    #[arg(long)]
    token: bool,
}

/// What a turn came to.
struct Turn {
    loaded: Loaded,
    /// Of the server, for one request.
    cpu: Duration,
}

/// All turns of one side.
#[derive(Default)]
struct Side(Vec<Turn>);

impl Http {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let near = if self.cold { "limits = { near_cache = '0B' }\n" } else { "" };
        let auth = if self.token { AUTH } else { "" };
        let wanted = Wanted {
            schema: SCHEMA,
            products: &[("page.sql", PRODUCT)],
            store: self.store,
            more: &format!("{near}{auth}"),
        };
        Apart::during(wanted, async |apart| self.measure(apart).await).await
    }

    async fn request(&self, apart: &Apart) -> Result<Vec<u8>, Stop> {
        let mut headers = Vec::new();
        if self.gzip {
            headers.push(("accept-encoding", "gzip".to_owned()));
        }
        if self.token {
            let config = apart.ground.config();
            let arguments = ["token", "--sub", "bench", "--config"].map(AsRef::as_ref);
            let token = process::output(arguments.into_iter().chain([config.as_os_str()])).await?;
            headers.push(("authorization", format!("Bearer {}", token.trim())));
        }
        Ok(load::request(apart.kck.address, PATH, &headers))
    }

    async fn measure(&self, apart: &Apart) -> Result<(), Stop> {
        let request = self.request(apart).await?;
        apart.hits(&request).await?;
        let (file, body) = frozen(apart, &request).await?;
        let bare = bare(&file).await?;
        say(&format!(
            "\nstore {}{}{}{} · answer of {body} bytes · {} connections · {} rounds of {} s each, in turns\n",
            self.store.name(),
            if self.cold { ", no answers in memory" } else { "" },
            if self.gzip { ", deflated" } else { "" },
            if self.token { ", with tokens" } else { "" },
            self.connections,
            self.rounds,
            self.seconds,
        ));
        say(&format!(
            "{:<6}{:>12}{:>11}{:>11}{:>9}  {:>12}{:>11}{:>11}{:>9}{:>8}",
            "round", "bare: req/s", "p50", "p99", "CPU", "kck: req/s", "p50", "p99", "CPU", "ratio"
        ));
        let (mut theirs, mut ours) = (Side::default(), Side::default());
        for round in 1..=self.rounds.get() {
            // Who goes first changes, so that neither always comes after the other.
            if round % 2 == 1 {
                theirs.0.push(self.turn(&bare, &request).await?);
                ours.0.push(self.turn(&apart.kck, &request).await?);
            } else {
                ours.0.push(self.turn(&apart.kck, &request).await?);
                theirs.0.push(self.turn(&bare, &request).await?);
            }
            if let (Some(theirs), Some(ours)) = (theirs.0.last(), ours.0.last()) {
                let ratio = ours.loaded.per_second() / theirs.loaded.per_second();
                say(&format!("{round:<6}{}  {}{ratio:>8.2}", theirs.line(), ours.line()));
            }
        }
        say(&format!(
            "\nall rounds: {:.2} × the requests of the bare server, {:.2} × its processor time for each",
            ours.per_second() / theirs.per_second(),
            ours.cpu() / theirs.cpu(),
        ));
        say("CPU: processor time of the server alone for one request");
        Ok(())
    }

    async fn turn(&self, server: &Server, request: &[u8]) -> Result<Turn, Stop> {
        let span = Duration::from_secs(self.seconds.get() as u64);
        let load = Load::open(server.address, self.connections.get(), request).await?;
        let before = server.cpu()?;
        let loaded = load.run(server.address, request, span).await?;
        let spent = server.cpu()?.saturating_sub(before);
        let requests = u32::try_from(loaded.requests.max(1)).unwrap_or(u32::MAX);
        Ok(Turn { cpu: spent / requests, loaded })
    }
}

impl Turn {
    fn line(&self) -> String {
        let shown = |percent| latency::shown(self.loaded.percentile(percent));
        let cpu = self.cpu.as_secs_f64() * 1e6;
        format!(
            "{:>12.0}{:>11}{:>11}{:>9}",
            self.loaded.per_second(),
            shown(50),
            shown(99),
            format!("{cpu:.1} µs")
        )
    }
}

impl Side {
    fn mean(&self, of: impl Fn(&Turn) -> f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a handful of rounds")]
        let turns = self.0.len() as f64;
        self.0.iter().map(of).sum::<f64>() / turns
    }

    fn per_second(&self) -> f64 {
        self.mean(|turn| turn.loaded.per_second())
    }

    fn cpu(&self) -> f64 {
        self.mean(|turn| turn.cpu.as_secs_f64())
    }
}

/// An answer as kck sends it, in a file; and how many bytes its body has.
async fn frozen(apart: &Apart, request: &[u8]) -> Result<(PathBuf, usize), Stop> {
    let file = apart.ground.folder.path().join("answer");
    let asking = |error| Stop::cannot(format!("keep an answer in {}: {error}", file.display()));
    let mut connection = Connection::open(apart.kck.address).await.map_err(asking)?;
    let answer = connection.ask(request).await.map_err(asking)?;
    let body = answer.body.len();
    std::fs::write(&file, [answer.head, answer.body].concat()).map_err(asking)?;
    Ok((file, body))
}

/// The twin; it answers when this returns.
async fn bare(answer: &std::path::Path) -> Result<Server, Stop> {
    let address = process::free_address()?;
    let listen = address.to_string();
    let arguments = ["bench", "bare", "--listen", &listen, "--answer"].map(AsRef::as_ref);
    let server = Server::start(address, arguments.into_iter().chain([answer.as_os_str()]))?;
    let listens = async {
        while Connection::open(address).await.is_err() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let listens = tokio::time::timeout(STARTS_WITHIN, listens).await;
    listens.map_err(|_| Stop::cannot("the bare server did not start"))?;
    Ok(server)
}
