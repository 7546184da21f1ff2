//! A Postgres, a store and a kck in a process of its own: it shares nothing with whoever measures it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use clap::ValueEnum;

use super::{
    load::Connection,
    process::{self, Ending, Server},
};
use crate::{
    cli::{
        Stop,
        demo::own::{self, Ground, Setup},
        say, told_to_stop,
    },
    local::{Cassandra, CassandraSettings},
};

/// How long a kck may take until its first answer from the cache.
const READY_WITHIN: Duration = Duration::from_secs(120);
const METRICS_EVERY: Duration = Duration::from_millis(250);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where answers lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Store {
    Embedded,
    Memory,
    Cassandra,
}

impl Store {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Memory => "memory",
            Self::Cassandra => "cassandra",
        }
    }
}

/// What to start.
pub(super) struct Wanted<'a> {
    pub(super) schema: &'a str,
    pub(super) products: &'a [(&'a str, &'a str)],
    pub(super) store: Store,
    /// More lines of settings.
    pub(super) more: &'a str,
}

/// They run.
pub(super) struct Apart {
    pub(super) kck: Server,
    pub(super) ground: Ground,
    cassandra: Option<Cassandra>,
}

impl Apart {
    /// Measures what is started for it and stopped after it, also at Ctrl-C.
    pub(super) async fn during(
        wanted: Wanted<'_>,
        measure: impl AsyncFnOnce(&mut Self) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let mut apart = Box::pin(Self::start(wanted)).await?;
        let ended = tokio::select! {
            ended = measure(&mut apart) => ended,
            () = told_to_stop() => Err(Stop::cannot("told to stop before the end")),
        };
        let Self { kck, ground, cassandra } = apart;
        drop(kck);
        ground.stop().await?;
        if let Some(mut cassandra) = cassandra {
            cassandra.stop().await?;
        }
        ended
    }

    async fn start(wanted: Wanted<'_>) -> Result<Self, Stop> {
        let cassandra = match wanted.store {
            Store::Cassandra => {
                say("looking for a Cassandra…");
                let settings =
                    CassandraSettings { cache: own::cache(), ..CassandraSettings::default() };
                Some(Cassandra::start(settings, &|line| say(line)).await?)
            }
            Store::Embedded | Store::Memory => None,
        };
        let point = cassandra.as_ref().map(|cassandra| {
            let point = cassandra.contact_point();
            format!(", contact_points = ['{point}'], keyspace = 'bench'")
        });
        let store = format!("kind = '{}'{}", wanted.store.name(), point.unwrap_or_default());
        let address = process::free_address()?;
        let setup = Setup {
            name: "bench",
            schema: wanted.schema,
            products: wanted.products,
            store: &store,
            more: wanted.more,
            listen: address,
            statements: false,
        };
        let ground = Ground::start(&setup).await?;
        say("starting kck…");
        let kck = started(address, &ground)?;
        Ok(Self { kck, ground, cassandra })
    }

    /// Ends kck and starts it again on what it left; gives when that was.
    pub(super) async fn restart(&mut self, ending: Ending) -> Result<Instant, Stop> {
        self.kck.end(ending).await?;
        let at = Instant::now();
        self.kck = started(self.kck.address, &self.ground)?;
        Ok(at)
    }

    /// Returns once `/metrics` has all of these lines.
    pub(super) async fn until_metrics(&self, lines: &[String]) -> Result<(), Stop> {
        let request = super::load::request(self.kck.address, "/metrics", &[]);
        loop {
            if let Ok(mut connection) = Connection::open(self.kck.address).await
                && let Ok(answer) = connection.ask(&request).await
            {
                let text = String::from_utf8_lossy(answer.body);
                let has = |line: &String| text.lines().any(|own| own == line);
                if lines.iter().all(has) {
                    return Ok(());
                }
            }
            tokio::time::sleep(METRICS_EVERY).await;
        }
    }

    /// Returns once this request is answered from the cache.
    pub(super) async fn hits(&self, request: &[u8]) -> Result<(), Stop> {
        let asked = async {
            loop {
                if let Ok(mut connection) = Connection::open(self.kck.address).await
                    && let Ok(answer) = connection.ask(request).await
                    && answer.has_header("kck-source", "hit")
                    && answer.has_header("kck-stale", "false")
                {
                    return;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(READY_WITHIN, asked).await.map_err(|_| {
            Stop::cannot(format!(
                "no answer came from the cache within {} s\n  hint: KCK_LOG=info kck demo tells whether kck runs here",
                READY_WITHIN.as_secs()
            ))
        })
    }
}

fn started(address: SocketAddr, ground: &Ground) -> Result<Server, Stop> {
    let config = ground.config();
    Server::start(address, ["run".as_ref(), "--config".as_ref(), config.as_os_str()])
}
