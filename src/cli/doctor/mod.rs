//! `kck doctor`: what is wrong with source, rights, slot, publication, tables, products and store; and what to type.

use clap::Args;

use self::asked::Asked;
use super::{ConfigArgs, Stop, environment, say};
use crate::{app, config::Config, doctor, postgres, postgres::address::Address};

mod asked;

/// Check source, rights, slot, publication, tables, products and store: what is wrong, and what to type.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Mend what kck's role may mend: its publication. Tables, roles and settings are left to you.
    #[arg(long)]
    fix: bool,
    /// As JSON, for tools.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Where questions and the change stream go.
pub(super) struct Addresses {
    url: Address,
    replication: Address,
}

impl Doctor {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let config = self.config.load()?;
        let environment = environment();
        let url = app::address(&config, &config.source_url, &environment)?;
        let replication = match &config.replication_url {
            Some(replication) => app::address(&config, replication, &environment)?,
            None => url.clone(),
        };
        let addresses = Addresses { url, replication };
        let mut asked = Asked::ask(&config, &addresses).await;
        let mut fixed = Vec::new();
        if self.fix {
            fixed = mend(&config, &addresses, &asked).await;
            asked = Asked::ask(&config, &addresses).await;
        }
        let report = doctor::judge(&asked.facts(&config, &addresses), fixed);
        if self.json {
            let text = serde_json::to_string_pretty(&report);
            say(&text.map_err(|error| Stop::cannot(error.to_string()))?);
        } else {
            say(&report.to_string());
        }
        if report.sound() { Ok(()) } else { Err(Stop::no()) }
    }
}

/// Makes the publication right, as far as the role may. The slot is made by kck when it starts, and what is the
/// user's stays as it is.
async fn mend(config: &Config, addresses: &Addresses, asked: &Asked) -> Vec<String> {
    let Ok(source) = &asked.source else {
        return vec!["nothing: the source cannot be asked".to_owned()];
    };
    if source.facts.in_recovery || source.unpublished.is_empty() {
        return vec!["nothing: there is nothing that kck mends".to_owned()];
    }
    let name = &config.publication;
    let ensured = async {
        let limit = [("statement_timeout", asked::STATEMENT_TIMEOUT)];
        let client = postgres::connect::connect(&addresses.url, "doctor", &limit).await?;
        postgres::publication::ensure_publication(&client, name, &asked.publishable).await
    };
    match ensured.await {
        Ok(ensured) => ensured.statements.iter().map(|statement| format!("{statement};")).collect(),
        Err(error) => {
            let why = postgres::describe_chain(&error);
            vec![format!("nothing: publication {name} could not be changed: {why}")]
        }
    }
}
