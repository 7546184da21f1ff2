//! `kck run`: serves the products of a folder.

use clap::Args;

use super::{ConfigArgs, Stop, environment, say, told_to_stop};
use crate::{app::App, observe::Observer};

/// Serve the products of this folder.
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print every setting as it is used, without secrets, and stop.
    #[arg(long)]
    print_config: bool,
}

impl Run {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let config = self.config.load()?;
        if self.print_config {
            say(config.print().trim_end());
            return Ok(());
        }
        let products = config.directory.join("products");
        if !products.is_dir() {
            tracing::warn!(folder = %products.display(), "no products: serving an empty catalogue");
        }
        let app = Box::pin(App::start(config, &environment(), Observer::default())).await?;
        tracing::info!(address = %app.address, "ready");
        Ok(app.run(told_to_stop()).await?)
    }
}
