//! An [`Address`] → a connection that questions go over, with kck's fixed settings.

use std::time::Duration;

use tokio_postgres::{
    Client, Config,
    config::{ChannelBinding, SslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    address::{Address, TlsMode},
    error::Error,
    tls,
};

/// What every connection sets, the replication connection too: values are compared by their output text,
/// so all must print alike.
pub const SETTINGS: &[(&str, &str)] = &[
    ("DateStyle", "ISO"),
    ("TimeZone", "UTC"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
];

const ACTION: &str = "connect to the source";

/// A dead peer is noticed in about a minute also while nothing is asked.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
/// And as soon while something is asked, where the system gives up much later by itself.
const UNANSWERED_MOST: Duration = Duration::from_secs(60);

/// Connects as `kck/ROLE`, with [`SETTINGS`] and then `settings`.
///
/// The connection lives until the client is dropped; a lost one shows in the client's next answer.
pub async fn connect(
    address: &Address,
    role: &str,
    settings: &[(&str, &str)],
) -> Result<Client, Error> {
    let all: Vec<_> = SETTINGS.iter().chain(settings).copied().collect();
    let mut config = address.config();
    config
        .application_name(application_name(role))
        .options(address.options(&all))
        .connect_timeout(address.connect_timeout())
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES)
        .tcp_user_timeout(UNANSWERED_MOST)
        .ssl_mode(SslMode::from(address.tls().mode));
    // The driver's own limit ends when a socket is open; a server that then says nothing is no better.
    let endpoints = u32::try_from(address.endpoints().len()).unwrap_or(u32::MAX).max(1);
    let limit = address.connect_timeout().saturating_mul(endpoints);
    let tls = MakeRustlsConnect::new((*tls::client_config(address.tls())?).clone());
    let first = open(&config, tls.clone(), limit).await;
    match first {
        // As libpq: what is only preferred is given up when it does not work.
        Err(_) if address.tls().mode == TlsMode::Prefer && !address.requires_channel_binding() => {
            config.ssl_mode(SslMode::Disable).channel_binding(ChannelBinding::Disable);
            open(&config, tls, limit).await
        }
        first => first,
    }
}

/// Has the server give up what this connection runs. Whether it did, the connection tells.
pub async fn cancel(address: &Address, client: &Client) {
    let Ok(config) = tls::client_config(address.tls()) else { return };
    let token = client.cancel_token();
    let cancelling = token.cancel_query(MakeRustlsConnect::new((*config).clone()));
    drop(tokio::time::timeout(address.connect_timeout(), cancelling).await);
}

/// The name that a connection has in `pg_stat_activity`.
#[must_use]
pub fn application_name(role: &str) -> String {
    format!("kck/{role}")
}

async fn open(config: &Config, tls: MakeRustlsConnect, limit: Duration) -> Result<Client, Error> {
    let connecting = tokio::time::timeout(limit, config.connect(tls));
    let (client, connection) = Box::pin(connecting)
        .await
        .map_err(|elapsed| Error::Unreachable { action: ACTION, source: elapsed.into() })?
        .map_err(|error| Error::from_connecting(ACTION, error))?;
    // Whoever waits for an answer is told of the connection's end, so nobody needs it here.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}
