//! A way between kck and a server that can be cut, reset, swallowed, slowed and turned to another server.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

/// How bytes fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Pass,
    /// So many bytes a second, each direction of each connection by itself.
    Slow(u32),
    /// Every piece comes so much later.
    Late(Duration),
    /// What is sent is lost, and nobody is told: a connection that lost something never speaks again.
    Swallow,
    /// Who connects is shown out at once.
    Refuse,
}

/// How connections end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// In order.
    Cut,
    /// With a reset.
    Reset,
}

/// What its connections look at.
struct Shared {
    way: watch::Sender<Way>,
    target: watch::Sender<u16>,
    /// How often connections were ended, and how the last time.
    ended: watch::Sender<(u64, End)>,
}

/// A port on 127.0.0.1 that leads to another.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            way: watch::Sender::new(Way::Pass),
            target: watch::Sender::new(target),
            ended: watch::Sender::new((0, End::Cut)),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { port, shared, _task: AbortOnDropHandle::new(task) }
    }

    /// The same address, by this way.
    pub(crate) fn through(&self, url: &str) -> String {
        let (before, rest) = url.split_once("127.0.0.1:").unwrap();
        let (_, path) = rest.split_once('/').unwrap();
        format!("{before}127.0.0.1:{}/{path}", self.port)
    }

    /// How bytes fare from now on, on open connections too.
    pub(crate) fn becomes(&self, way: Way) {
        self.shared.way.send_replace(way);
    }

    /// Where new connections lead.
    pub(crate) fn leads_to(&self, target: u16) {
        self.shared.target.send_replace(target);
    }

    /// Ends every open connection in order.
    pub(crate) fn cut(&self) {
        self.end(End::Cut);
    }

    /// Ends every open connection with a reset.
    pub(crate) fn reset(&self) {
        self.end(End::Reset);
    }

    fn end(&self, how: End) {
        self.shared.ended.send_modify(|ended| *ended = (ended.0 + 1, how));
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut ends = shared.ended.subscribe();
    loop {
        let (client, _): (TcpStream, SocketAddr) = listener.accept().await.unwrap();
        if *shared.way.borrow() == Way::Refuse {
            continue;
        }
        ends.mark_unchanged();
        let (shared, ends) = (Arc::clone(&shared), ends.clone());
        tokio::spawn(async move {
            // Whoever is between learns of a connection's end by its end.
            drop(carry(client, shared, ends).await);
        });
    }
}

/// One connection, until either side or the proxy ends it.
async fn carry(
    client: TcpStream,
    shared: Arc<Shared>,
    mut ends: watch::Receiver<(u64, End)>,
) -> io::Result<()> {
    let target = *shared.target.borrow();
    let server = TcpStream::connect(("127.0.0.1", target)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (way, lost) = (&shared.way, AtomicBool::new(false));
    let ended = tokio::select! {
        ended = ends.changed() => ended.ok().map(|()| ends.borrow().1),
        carried = pump(&mut from_client, &mut to_server, way, &lost) => carried.map(|()| None)?,
        carried = pump(&mut from_server, &mut to_client, way, &lost) => carried.map(|()| None)?,
    };
    if ended == Some(End::Reset) {
        to_client.as_ref().set_zero_linger()?;
    }
    Ok(())
}

/// Carries one direction; where something was `lost`, not even the end arrives.
async fn pump(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    way: &watch::Sender<Way>,
    lost: &AtomicBool,
) -> io::Result<()> {
    let mut piece = vec![0; 64 * 1024];
    loop {
        let now = *way.borrow();
        let most = match now {
            Way::Slow(bytes_a_second) => usize::try_from(bytes_a_second / 10).unwrap().max(1),
            _ => piece.len(),
        };
        let read = from.read(&mut piece[..most]).await?;
        let now = *way.borrow();
        if now == Way::Swallow || lost.load(Ordering::Relaxed) {
            lost.store(true, Ordering::Relaxed);
            return std::future::pending().await;
        }
        if read == 0 {
            return Ok(());
        }
        match now {
            Way::Pass | Way::Refuse | Way::Swallow => {}
            Way::Slow(bytes_a_second) => {
                pass(Duration::from_secs(1) * u32::try_from(read).unwrap() / bytes_a_second).await;
            }
            Way::Late(by) => pass(by).await,
        }
        to.write_all(&piece[..read]).await?;
    }
}

/// The time that the way takes.
async fn pass(time: Duration) {
    drop(timeout(time, std::future::pending::<()>()).await);
}
