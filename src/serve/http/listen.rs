//! Connections → requests → the routes; slow, idle and too many clients end here.

use std::{convert::Infallible, panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use warp::{Filter, Rejection, http::Request};

use crate::serve::{Context, problem::Problem};

use super::{
    patience::{Patience, Patient, Phase},
    reply::{self, Body},
};

/// A client's silence may be longer than the usual 60 s of pools and balancers, so that they close first.
const PATIENCE: Patience = Patience {
    idle: Duration::from_secs(75),
    head: Duration::from_secs(10),
    write: Duration::from_secs(30),
};

/// How long requests in flight may take once kck is told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// A head over this, its URI included, is answered 431.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Clients that may be told at once that kck is starting.
const STARTING_CONNECTIONS: usize = 256;

/// How long to let be when the process has no room for another connection.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Answers requests until told to stop, then finishes those in flight within a deadline.
pub async fn serve(listener: TcpListener, context: Context, shutdown: CancellationToken) {
    let places = context.limits.connections.min(Semaphore::MAX_PERMITS);
    let connections = take(&listener, super::routes(context), places, &shutdown).await;
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Answers that kck is starting, until told to stop; the listener stays open for [`serve`].
pub async fn starting(listener: &TcpListener, shutdown: &CancellationToken) {
    take(listener, super::starting::routes(), STARTING_CONNECTIONS, shutdown).await;
}

/// Takes connections until told to stop; those that are open then end by themselves.
async fn take<F>(
    listener: &TcpListener,
    routes: F,
    places: usize,
    shutdown: &CancellationToken,
) -> TaskTracker
where
    F: Filter<Extract = (warp::reply::Response,), Error = Rejection>
        + Clone
        + Send
        + Sync
        + 'static,
    F::Future: Send,
{
    let places = Arc::new(Semaphore::new(places));
    let service = TowerToHyperService::new(warp::service(routes));
    let connections = TaskTracker::new();
    // Whoever comes while all places are taken waits in the listener's queue.
    let next = async || {
        let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
        (accept(listener).await, place)
    };
    while let Some((stream, place)) = shutdown.run_until_cancelled(next()).await {
        connections.spawn(connection(stream, service.clone(), shutdown.clone(), place));
    }
    connections
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // One client that left already, or no descriptors: neither is a reason to stop.
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Serves one connection to its end, holding its place.
async fn connection<S>(
    stream: TcpStream,
    routes: S,
    shutdown: CancellationToken,
    _place: OwnedSemaphorePermit,
) where
    S: Service<Request<Incoming>, Response = warp::reply::Response, Error = Infallible>,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set TCP_NODELAY");
    }
    let phase = Phase::default();
    let io = Patient::new(TokioIo::new(stream), PATIENCE, phase.clone());
    let service = service_fn(|request| {
        phase.serving();
        let (phase, answered) = (phase.clone(), AssertUnwindSafe(answer(&routes, request)));
        async move {
            let answered = answered.catch_unwind().await;
            phase.idle();
            let response = answered.unwrap_or_else(|_| {
                tracing::error!("a request made kck panic");
                Ok(reply::problem(&Problem::internal()))
            });
            response.map(Body::of)
        }
    });
    let mut http = http1::Builder::new();
    http.max_buf_size(HEAD_BYTES_MAX).max_header_size(HEAD_BYTES_MAX);
    let mut connection = pin!(http.serve_connection(io, service));
    let ended = match shutdown.run_until_cancelled(connection.as_mut()).await {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            let drained = tokio::time::timeout(DRAIN, connection).await;
            drained.unwrap_or_else(|_| {
                tracing::warn!("a request did not end in time and was cut off");
                Ok(())
            })
        }
    };
    // Clients leave, stall and send nonsense: their matter.
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Asks the routes, save for what they cannot take: warp panics where a request has no path (CONNECT).
fn answer<S>(
    routes: &S,
    request: Request<Incoming>,
) -> impl Future<Output = Result<warp::reply::Response, Infallible>> + use<S>
where
    S: Service<Request<Incoming>, Response = warp::reply::Response, Error = Infallible>,
{
    let answered = request.uri().path_and_query().is_some().then(|| routes.call(request));
    async move {
        match answered {
            Some(answered) => answered.await,
            None => Ok(reply::problem(&Problem::not_found(""))),
        }
    }
}
