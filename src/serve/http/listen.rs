//! Connections → requests → the routes; slow, idle and too many clients end here.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use warp::http::Request;

use crate::{
    observe::Observer,
    serve::{
        Context,
        share::{Place, Places},
    },
};

use super::{
    Settings,
    door::{Door, Visitor},
    patience::{Patience, Patient, Phase},
    reply::Body,
};

/// A client's silence may be longer than the usual 60 s of pools and balancers, so that they close first.
const PATIENCE: Patience = Patience {
    idle: Duration::from_secs(75),
    head: Some(Duration::from_secs(10)),
    write: Duration::from_secs(30),
};

/// How long a peer that is gone without a word may go unnoticed: bytes not acknowledged by its machine.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// How long requests in flight may take once kck is told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// How long the rest of a request may take then of which only a part has come.
const HALF_SAID: Duration = Duration::from_secs(1);

/// A head over this, its URI included, is answered 431.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;

/// Bytes of answers that wait in one HTTP/2 stream.
const STREAM_BYTES_MAX: usize = 64 * 1024;

/// A silent HTTP/2 client with requests open is asked so often whether it lives.
const PING_EVERY: Duration = Duration::from_secs(20);

/// Descriptors that readers never take.
const DESCRIPTORS_KEPT: usize = 256;

/// Clients that may be told at once that kck is starting.
const STARTING_CONNECTIONS: usize = 256;

/// How long to let be when the process has no room for another connection.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Answers requests until told to stop, then finishes those in flight within a deadline.
pub async fn serve(
    listener: TcpListener,
    context: Context,
    settings: Settings,
    shutdown: CancellationToken,
) {
    let places = Room::new(context.limits.connections, Arc::clone(&context.connections));
    let keep = settings.tls.clone().map(|tls| tls.keep(context.observer.clone()));
    let context = Arc::new(context);
    let routes = super::routes(&context, &shutdown);
    let routes = TowerToHyperService::new(warp::service(routes));
    let door = Arc::new(Door::new(routes, Some(context), &settings));
    let taking = take(&listener, door, places, &settings, &shutdown);
    let keep = async {
        if let Some(keep) = keep {
            keep.await;
        }
        std::future::pending::<()>().await;
    };
    let connections = tokio::select! {
        connections = taking => connections,
        () = keep => return,
    };
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Answers that kck is starting, until told to stop; the listener stays open for [`serve`].
pub async fn starting(
    listener: &TcpListener,
    settings: &Settings,
    observer: &Observer,
    shutdown: &CancellationToken,
) {
    let routes = super::starting::routes(observer.clone());
    let routes = TowerToHyperService::new(warp::service(routes));
    let door = Arc::new(Door::new(routes, None, settings));
    let room = Room::new(STARTING_CONNECTIONS, Places::new(STARTING_CONNECTIONS));
    take(listener, door, room, settings, shutdown).await;
}

/// Who may be connected at once.
struct Room {
    all: Arc<Semaphore>,
    by_address: Arc<Places<IpAddr>>,
}

impl Room {
    fn new(all: usize, by_address: Arc<Places<IpAddr>>) -> Self {
        let all = std::fs::read_to_string("/proc/self/limits").map_or(all, |limits| {
            let most = descriptors(&limits).map_or(all, readers_of);
            if most < all {
                let hint = "ulimit -n, or LimitNOFILE of the service";
                tracing::warn!(
                    most,
                    hint,
                    "fewer connections than limits.connections: descriptors are scarce"
                );
            }
            most.min(all)
        });
        Self { all: Arc::new(Semaphore::new(all.min(Semaphore::MAX_PERMITS))), by_address }
    }
}

/// How many descriptors the process may have, as Linux lists its limits.
fn descriptors(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Readers take at most this many: the rest is for the source, the store and files.
fn readers_of(descriptors: usize) -> usize {
    descriptors.saturating_sub(DESCRIPTORS_KEPT).max(descriptors / 4)
}

/// Where a connection comes from, and what it holds until the last of it has ended: its places, and that it is waited
/// for when kck stops.
struct Guest {
    address: IpAddr,
    holds: (OwnedSemaphorePermit, Place<IpAddr>, TaskTrackerToken),
}

/// Takes connections until told to stop; those that are open then end by themselves.
async fn take<S>(
    listener: &TcpListener,
    door: Arc<Door<S>>,
    room: Room,
    settings: &Settings,
    shutdown: &CancellationToken,
) -> TaskTracker
where
    S: Service<Request<Incoming>, Response = warp::reply::Response, Error = Infallible>
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let connections = TaskTracker::new();
    // Whoever comes while all places are taken waits in the listener's queue.
    let next = async || {
        let place = Arc::clone(&room.all).acquire_owned().await.expect("never closed");
        (accept(listener).await, place)
    };
    while let Some(((stream, peer), place)) = shutdown.run_until_cancelled(next()).await {
        let address = peer.ip().to_canonical();
        let Some(own) = room.by_address.take(address) else {
            tracing::debug!(%address, "too many connections from one address");
            continue;
        };
        let guest = Guest { address, holds: (place, own, connections.token()) };
        // Of its own, because looking at a token locks it, and a connection looks each time that it is polled.
        let (door, tls, shutdown) =
            (Arc::clone(&door), settings.tls.clone(), shutdown.child_token());
        connections.spawn(async move {
            prepare(&stream);
            match tls {
                None => {
                    let http2 = shutdown.run_until_cancelled(speaks_http2(&stream)).await;
                    if let Some(http2) = http2 {
                        connection(stream, http2, guest, door, shutdown).await;
                    }
                }
                Some(tls) => {
                    let accepted = shutdown.run_until_cancelled(tls.accept(stream)).await;
                    if let Some(Some((stream, http2))) = accepted {
                        // Boxed, so that a connection without TLS has no room for it.
                        Box::pin(connection(stream, http2, guest, door, shutdown)).await;
                    }
                }
            }
        });
    }
    connections
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // One client that left already, or no descriptors: neither is a reason to stop.
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

fn prepare(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new().with_time(UNACKNOWLEDGED);
    let prepared = stream
        .set_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        .and_then(|()| socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED)));
    if let Err(error) = prepared {
        tracing::debug!(%error, "prepare a connection");
    }
}

/// Whether the first bytes are HTTP/2's: no method of HTTP/1 begins so (RFC 9113, 3.4). Looks without taking.
async fn speaks_http2(stream: &TcpStream) -> bool {
    let mut first = [0; 3];
    let seen = tokio::time::timeout(PATIENCE.idle, stream.peek(&mut first)).await;
    seen.is_ok_and(|read| read.is_ok()) && first == *b"PRI"
}

/// Serves one connection to its end.
async fn connection<T, S>(
    stream: T,
    http2: bool,
    guest: Guest,
    door: Arc<Door<S>>,
    shutdown: CancellationToken,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = warp::reply::Response, Error = Infallible>
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let phase = if http2 { Phase::of_http2() } else { Phase::default() };
    let Guest { address, holds } = guest;
    phase.hold(holds);
    let patience = if http2 { Patience { head: None, ..PATIENCE } } else { PATIENCE };
    let io = Patient::new(TokioIo::new(stream), patience, phase.clone());
    let visitor = Arc::new(Visitor::new(door.somebody(address), phase.clone()));
    let doing = phase.clone();
    let service = service_fn(move |request| {
        let serving = phase.serving();
        let (door, visitor) = (Arc::clone(&door), Arc::clone(&visitor));
        async move {
            let response = door.answer(&visitor, request).await;
            Ok::<_, Infallible>(Body::of(response, serving))
        }
    });
    macro_rules! served {
        ($connection:expr) => {{
            // Boxed, because the two protocols need very different room.
            let mut connection = Box::pin($connection);
            let served = tokio::select! {
                ended = shutdown.run_until_cancelled(connection.as_mut()) => ended,
                () = doing.stalls(patience.write) => {
                    return tracing::debug!("an answer was not taken");
                }
            };
            match served {
                Some(ended) => ended,
                None => {
                    connection.as_mut().graceful_shutdown();
                    let within = if doing.is_serving() { DRAIN } else { HALF_SAID };
                    let drained = tokio::time::timeout(within, connection).await;
                    drained.unwrap_or_else(|_| {
                        tracing::warn!("a request did not end in time and was cut off");
                        Ok(())
                    })
                }
            }
        }};
    }
    let ended = if http2 {
        served!(over_http2().serve_connection(io, service))
    } else {
        served!(over_http1().serve_connection(io, service).with_upgrades())
    };
    // Clients leave, stall and send nonsense: their matter.
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

fn over_http1() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.max_buf_size(HEAD_BYTES_MAX).max_header_size(HEAD_BYTES_MAX);
    http
}

fn over_http2() -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .max_send_buf_size(STREAM_BYTES_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY);
    http
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_leave_descriptors() {
        let limits = "Max processes             1  2  processes\nMax open files            1024                 524288               files     \n";
        assert_eq!(descriptors(limits), Some(1024));
        assert_eq!(descriptors("Max open files            unlimited  unlimited  files"), None);
        assert_eq!((readers_of(1024), readers_of(200), readers_of(0)), (768, 50, 0));
    }
}
