//! `kck demo`.
use clap::Args;
use super::Stop;
/// x
#[derive(Debug, Args)]
pub(super) struct Demo {}
impl Demo { pub(super) async fn run(self) -> Result<(), Stop> { tokio::task::yield_now().await; Ok(()) } }
