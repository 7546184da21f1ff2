//! `kck teardown`: removes what kck made in the source, its slot and its publication, and nothing else.

use std::io::{self, IsTerminal as _};

use clap::Args;

use super::{ConfigArgs, Stop, complain, environment, say};
use crate::{
    app,
    config::{Config, StoreKind},
    parts::Failure,
    postgres::{Client, connect, publication, slot},
    quote,
};

/// No statement takes longer.
const STATEMENT_TIMEOUT: &str = "20s";

/// Remove what kck made in the source: its slot and its publication.
#[derive(Debug, Args)]
pub(super) struct Teardown {
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// What is there to be removed.
struct There {
    slot: Option<slot::Slot>,
    publication: bool,
}

impl Teardown {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let config = self.config.load()?;
        let address = app::address(&config, &config.source_url, &environment())?;
        let limits = [("statement_timeout", STATEMENT_TIMEOUT), ("lock_timeout", "10s")];
        let client = connect::connect(&address, "teardown", &limits).await;
        let client = client.map_err(Failure::from)?;
        let there = There::look(&client, &config).await.map_err(Failure::from)?;
        there.refuse(&config)?;
        let parts = there.parts(&config);
        if parts.is_empty() {
            say(&format!(
                "nothing to remove: {address} has no slot {} and no publication {}",
                config.slot, config.publication
            ));
            say_what_stays(&config);
            return Ok(());
        }
        if !self.yes {
            agree(&format!("{} from {address}", parts.join(" and "))).await?;
        }
        if there.slot.is_some()
            && slot::drop_slot(&client, &config.slot).await.map_err(Failure::from)?
        {
            say(&format!("removed slot {}", config.slot));
        }
        if there.publication {
            let name = &config.publication;
            publication::drop_publication(&client, name).await.map_err(|error| {
                let Failure { what, .. } = error.into();
                let hint = format!("as its owner, run drop publication {};", quote::name(name));
                Failure { what, hint }
            })?;
            say(&format!("removed publication {name}"));
        }
        say_what_stays(&config);
        Ok(())
    }
}

impl There {
    async fn look(client: &Client, config: &Config) -> Result<Self, crate::postgres::Error> {
        let slot = slot::slot(client, &config.slot).await?;
        let publication = publication::publication(client, &config.publication).await?;
        Ok(Self { slot, publication: publication.is_some() })
    }

    /// A slot that is read, or somebody else's, is left alone, and so is everything.
    fn refuse(&self, config: &Config) -> Result<(), Stop> {
        let Some(slot) = &self.slot else { return Ok(()) };
        if let Some(holder) = &slot.holder {
            complain(&format!(
                "slot {} is read by {holder}\n  hint: stop that kck first; nothing was removed",
                config.slot
            ));
            return Err(Stop::no());
        }
        if !slot.ours {
            complain(&format!(
                "slot {} is not a logical slot of this database for pgoutput, so kck did not make it\n  hint: check [source] url and slot; nothing was removed",
                config.slot
            ));
            return Err(Stop::no());
        }
        Ok(())
    }

    fn parts(&self, config: &Config) -> Vec<String> {
        let slot = self.slot.as_ref().map(|_| format!("slot {}", config.slot));
        let publication = self.publication.then(|| format!("publication {}", config.publication));
        slot.into_iter().chain(publication).collect()
    }
}

/// Asks on a terminal.
async fn agree(what: &str) -> Result<(), Stop> {
    if !io::stdin().is_terminal() {
        return Err(Stop::usage(format!(
            "this would remove {what}, and nobody is there to be asked\n  hint: say so with --yes"
        )));
    }
    say(&format!("remove {what}? (yes/no)"));
    let asked = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    });
    match asked.await {
        Ok(Ok(answer)) if matches!(answer.trim(), "yes" | "y") => Ok(()),
        _ => {
            say("nothing was removed");
            Err(Stop::no())
        }
    }
}

/// The store is not the source's.
fn say_what_stays(config: &Config) {
    match &config.store {
        StoreKind::Memory => {}
        StoreKind::Embedded(path) if !path.exists() => {}
        StoreKind::Embedded(path) => {
            say(&format!("the store stays; to delete it as well: rm -r {}", path.display()));
        }
        StoreKind::Cassandra(cassandra) => {
            let keyspace = &cassandra.keyspace;
            say(&format!(
                "the store stays; to delete it as well, in cqlsh: DROP KEYSPACE {keyspace};"
            ));
        }
    }
}
