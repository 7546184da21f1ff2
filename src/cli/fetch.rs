//! `kck fetch`: an answer from a running kck.

use clap::Args;

use super::{Stop, client::Server};

/// Fetch an answer from a running kck.
#[derive(Debug, Args)]
pub(super) struct Fetch {
    /// The key, as in the path: orders_of/42.
    key: String,
    /// Only an answer at least as new as this position.
    #[arg(long, value_name = "LSN")]
    min_lsn: Option<String>,
    /// Only an answer exact as of at most this long ago.
    #[arg(long, value_name = "DURATION")]
    max_staleness: Option<String>,
    /// How long to wait for it.
    #[arg(long, value_name = "DURATION")]
    wait: Option<String>,
    /// Compute it anew.
    #[arg(long)]
    fresh: bool,
    /// As json, ndjson or csv.
    #[arg(long, value_name = "FORM")]
    format: Option<String>,
    #[command(flatten)]
    server: Server,
}

impl Fetch {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let mut query = Vec::new();
        for (name, value) in [
            ("min_lsn", &self.min_lsn),
            ("max_staleness", &self.max_staleness),
            ("wait", &self.wait),
            ("format", &self.format),
        ] {
            if let Some(value) = value {
                let mut pair = format!("{name}=");
                crate::key::encode(&mut pair, value);
                query.push(pair);
            }
        }
        if self.fresh {
            query.push("fresh=true".to_owned());
        }
        let question =
            if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        let reply = self.server.get(&format!("/fetch/{}{question}", self.key)).await?;
        reply.print()
    }
}
