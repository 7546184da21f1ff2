//! `kck bench`: measurements on a Postgres of kck's own; both sides of each comparison in one run.

use clap::{Args, Subcommand};

use super::Stop;

mod flow;

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
}

impl Bench {
    pub(super) async fn run(self) -> Result<(), Stop> {
        match self.what {
            What::Flow(flow) => flow.run().await,
        }
    }
}
