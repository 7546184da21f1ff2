//! `kck explain`: how a product follows its tables, what that costs, and what would make it finer.

use clap::Args;

use super::{ConfigArgs, Stop, complain, environment, say};
use crate::{
    app,
    depend::Rules,
    explanation::Explanation,
    load,
    parts::Failure,
    postgres::Source,
    product::{Catalog, Product, Slot},
};

/// Show how a product follows its tables, what that costs, and what would make it finer.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The product's name; all of them where it is left out.
    product: Option<String>,
    /// As a picture in the DOT language: tables, products, and which rules lead from one to the other.
    #[arg(long, conflicts_with = "json")]
    dot: bool,
    /// As JSON, for tools.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

impl Explain {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let config = self.config.load()?;
        let loaded = load::files(&config.directory.join("products"));
        let address = app::address(&config, &config.source_url, &environment())?;
        let source = Source::new(address);
        let mut client = source.connect("describe", &[]).await.map_err(Failure::from)?;
        let mut catalog = load::catalog(&mut client, loaded).await.map_err(Failure::from)?;
        if let Some(name) = &self.product {
            self.only(name, &mut catalog)?;
        }
        let index = load::index(&catalog);
        if self.dot {
            say(&index.dot());
            return Ok(());
        }
        let rules = catalog
            .ready()
            .filter_map(|product| index.rules(product.name()).map(|rules| (product, rules)));
        let explained: Vec<_> = rules.map(|(product, rules)| explained(product, rules)).collect();
        if self.json {
            let text = match (&self.product, explained.as_slice()) {
                (Some(_), [one]) => serde_json::to_string_pretty(one),
                _ => serde_json::to_string_pretty(&explained),
            };
            say(&text.map_err(|error| Stop::cannot(error.to_string()))?);
        } else {
            explained.iter().for_each(|one| say(one.to_string().trim_end()));
        }
        Ok(())
    }

    /// Leaves that product alone in the catalogue.
    fn only(&self, name: &str, catalog: &mut Catalog) -> Result<(), Stop> {
        match catalog.products.remove(name) {
            None => {
                let names: Vec<&str> = catalog.products.keys().map(String::as_str).collect();
                Err(Stop::usage(format!(
                    "there is no product '{name}'\n  hint: there is {}",
                    names.join(", ")
                )))
            }
            Some(Slot::Broken { faults, .. }) => {
                faults.iter().for_each(|fault| complain(&fault.to_string()));
                Err(Stop::no())
            }
            Some(Slot::Ready { product, .. }) if !product.draft.policy.change => {
                say(&format!(
                    "{name}: changes are not matched for it (refresh does not say \"change\")"
                ));
                let policy = &product.draft.policy;
                policy.schedules.iter().for_each(|one| say(&format!("  computed again: {one}")));
                policy.warm.iter().for_each(|warm| say(&format!("  warm: {warm}")));
                Err(Stop::no())
            }
            Some(slot) => {
                catalog.products = [(name.to_owned(), slot)].into();
                Ok(())
            }
        }
    }
}

/// What is known of a product's rules, with what its header says of time.
fn explained(product: &Product, rules: &Rules) -> Explanation {
    let policy = &product.draft.policy;
    let warm = policy.warm.as_ref().map(ToString::to_string);
    Explanation { refresh: policy.refreshes(), warm, ..rules.explanation(product.name()) }
}
