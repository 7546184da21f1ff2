//! `kck bench`: measurements on a Postgres of kck's own; both sides of each comparison in one run.

use clap::{Args, Subcommand};

use super::Stop;

mod apart;
mod bare;
mod capture;
mod events;
mod flow;
mod http;
mod load;
mod overhead;
mod process;
mod push;
mod pushed;
mod refresh;
mod side;
mod store;

/// Measure on a Postgres of kck's own.
#[derive(Debug, Args)]
pub(super) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// From a commit to the fresh answer, beside the time of the bare query.
    #[command(after_help = "Example: kck bench flow --commits 1000 --store memory")]
    Flow(flow::Flow),
    /// Capture and match a backlog, beside pg_recvlogical on the same log.
    #[command(after_help = "Example: kck bench capture --postgres 14")]
    Capture(capture::Capture),
    /// pgbench's rate on the source with nobody attached, with pg_recvlogical, and with kck.
    #[command(after_help = "Example: kck bench overhead --seconds 30")]
    Overhead(overhead::Overhead),
    /// Hits a second over HTTP, beside a bare server that sends the same bytes.
    #[command(after_help = "Example: kck bench http --store memory --rounds 9")]
    Http(http::Http),
    /// Very many subscribers of one key: what each costs, and when each has a change.
    #[command(after_help = "Example: kck bench push --clients 1000")]
    Push(push::Push),
    /// Very many tracked keys: the memory that each takes, and how soon a start answers from them.
    #[command(after_help = "Example: kck bench store --keys 100000 --store cassandra")]
    Store(store::Stored),
    /// What refreshing asks of the source, and how fast stale keys become fresh.
    #[command(after_help = "Example: kck bench refresh batches burst")]
    Refresh(refresh::Refresh),
    /// What hits are measured against.
    #[command(hide = true)]
    Bare(bare::Bare),
}

impl Bench {
    pub(super) async fn run(self) -> Result<(), Stop> {
        match self.what {
            What::Flow(flow) => Box::pin(flow.run()).await,
            What::Capture(capture) => Box::pin(capture.run()).await,
            What::Overhead(overhead) => Box::pin(overhead.run()).await,
            What::Http(http) => Box::pin(http.run()).await,
            What::Push(push) => Box::pin(push.run()).await,
            What::Store(store) => Box::pin(store.run()).await,
            What::Refresh(refresh) => Box::pin(refresh.run()).await,
            What::Bare(bare) => bare.run().await,
        }
    }
}
