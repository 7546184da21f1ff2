//! A connection → the same connection with an end to waiting: for a request, for its head, for the reader.
//!
//! hyper has one timer for a head and for the silence before it, and none for a reader that does not read.
//! Here silence may last as long as a pool of clients keeps a connection, a head once begun must follow
//! quickly, and a reader must take something now and then.

use std::{
    any::Any,
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::{Instant, Sleep};

/// How long each kind of waiting may last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a request to begin.
    pub(super) idle: Duration,
    /// For a head to be whole, from its first byte; none where bytes need not belong to one, as in HTTP/2, whose
    /// pings are no sign of life here either.
    pub(super) head: Option<Duration>,
    /// For the reader to take anything of an answer.
    pub(super) write: Duration,
}

/// What a connection waits for. Only the connection's own tasks change it.
#[derive(Debug, Clone, Default)]
pub(super) struct Phase(Arc<Doing>);

#[derive(Debug, Default)]
struct Doing {
    /// Requests that are being answered.
    requests: AtomicUsize,
    /// How many there have been.
    began: AtomicUsize,
    /// Some of a head has come.
    head: AtomicBool,
    /// What is given back when the last of it has ended, a socket that the connection became included.
    held: OnceLock<Box<dyn Any + Send + Sync>>,
    /// Answers of which a piece waits to be taken, by request, and since when. Locked to note one; not kept where the
    /// connection itself shows that nothing is taken.
    untaken: Option<Mutex<BTreeMap<usize, Instant>>>,
}

/// A request that is being answered, until its answer is sent or given up.
#[derive(Debug)]
pub(super) struct Serving {
    phase: Phase,
    request: usize,
}

impl Phase {
    /// Of a connection where one answer can stand still while others flow: HTTP/2 has a window for each.
    pub(super) fn of_http2() -> Self {
        Self(Arc::new(Doing { untaken: Some(Mutex::default()), ..Doing::default() }))
    }

    /// Returns when a piece of an answer was not taken for so long.
    pub(super) async fn stalls(&self, patience: Duration) {
        let Some(untaken) = &self.0.untaken else { return std::future::pending().await };
        let mut looks = tokio::time::interval(patience / 8);
        loop {
            looks.tick().await;
            let untaken = untaken.lock().unwrap_or_else(PoisonError::into_inner);
            if untaken.values().any(|since| since.elapsed() >= patience) {
                return;
            }
        }
    }

    /// A head is whole and its request is being answered: what is read now is not timed here.
    pub(super) fn serving(&self) -> Serving {
        self.0.head.store(false, Ordering::Relaxed);
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        let request = self.0.began.fetch_add(1, Ordering::Relaxed);
        Serving { phase: self.clone(), request }
    }

    /// Keeps this for as long as anything of the connection goes on.
    pub(super) fn hold(&self, held: impl Any + Send + Sync) {
        drop(self.0.held.set(Box::new(held)));
    }

    /// Whether a request is being answered.
    pub(super) fn is_serving(&self) -> bool {
        self.0.requests.load(Ordering::Relaxed) > 0
    }
}

impl Serving {
    /// Whether answers are given in pieces that are timed.
    pub(super) fn in_pieces(&self) -> bool {
        self.phase.0.untaken.is_some()
    }

    /// A piece of the answer waits to be taken, or nothing does.
    pub(super) fn waits(&self, waits: bool) {
        let Some(untaken) = &self.phase.0.untaken else { return };
        let mut untaken = untaken.lock().unwrap_or_else(PoisonError::into_inner);
        if waits {
            untaken.insert(self.request, Instant::now());
        } else {
            untaken.remove(&self.request);
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.waits(false);
        self.phase.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that fails with [`io::ErrorKind::TimedOut`] when its patience is over.
#[derive(Debug)]
pub(super) struct Patient<T> {
    io: T,
    patience: Patience,
    phase: Phase,
    /// Requests that had begun when reading last waited.
    began: usize,
    read: Deadline,
    write: Deadline,
}

impl<T> Patient<T> {
    /// Wraps a connection that was just accepted.
    pub(super) fn new(io: T, patience: Patience, phase: Phase) -> Self {
        let (read, write) = (Deadline::default(), Deadline::default());
        Self { io, patience, phase, began: 0, read, write }
    }

    fn wait_to_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.phase.is_serving() {
            return Poll::Pending;
        }
        let began = self.phase.0.began.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.began, began) != began {
            self.read.clear();
        }
        let head = self.patience.head.filter(|_| self.phase.0.head.load(Ordering::Relaxed));
        let limit = head.unwrap_or(self.patience.idle);
        self.read.poll(cx, limit).map(Err)
    }

    /// Some of a head has come.
    fn begin_head(&mut self) {
        let timed = self.patience.head.is_some() && !self.phase.is_serving();
        if timed && !self.phase.0.head.swap(true, Ordering::Relaxed) {
            self.read.clear();
        }
    }

    /// The reader took something, or there was nothing to take.
    fn progress(&mut self) {
        self.write.clear();
        // Silence counts from the end of the answer; in HTTP/2 a pong is written too.
        if self.patience.head.is_some() && !self.phase.0.head.load(Ordering::Relaxed) {
            self.read.clear();
        }
    }

    fn written<V>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<V>>,
    ) -> Poll<io::Result<V>> {
        if written.is_pending() {
            return self.write.poll(cx, self.patience.write).map(Err);
        }
        self.progress();
        written
    }
}

impl<T: Read + Unpin> Read for Patient<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.io).poll_read(cx, buffer) {
            Poll::Pending => this.wait_to_read(cx),
            ready => {
                this.begin_head();
                ready
            }
        }
    }
}

impl<T: Write + Unpin> Write for Patient<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.written(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        if flushed.is_pending() {
            return this.write.poll(cx, this.patience.write).map(Err);
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.written(cx, written)
    }
}

/// A timer that is set when waiting begins and kept for the next time.
#[derive(Debug, Default)]
struct Deadline {
    sleep: Option<Pin<Box<Sleep>>>,
    /// The limit it is set for; `None` when nothing is waited for.
    set_for: Option<Duration>,
}

impl Deadline {
    fn clear(&mut self) {
        self.set_for = None;
    }

    /// Ready with the error once `limit` has passed since the first call after [`Deadline::clear`] or
    /// with another limit.
    fn poll(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<io::Error> {
        let end = || Instant::now() + limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end())));
        if self.set_for != Some(limit) {
            sleep.as_mut().reset(end());
            self.set_for = Some(limit);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::rt::ReadBuf;
    use hyper_util::rt::TokioIo;
    use std::future::poll_fn;
    use tokio::io::{AsyncWriteExt, DuplexStream};

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(20);

    fn patient(
        idle: Duration,
        head: Duration,
        write: Duration,
    ) -> (Patient<TokioIo<DuplexStream>>, DuplexStream, Phase) {
        let (near, far) = tokio::io::duplex(64);
        let phase = Phase::default();
        (
            Patient::new(
                TokioIo::new(near),
                Patience { idle, head: Some(head), write },
                phase.clone(),
            ),
            far,
            phase,
        )
    }

    async fn read(patient: &mut Patient<TokioIo<DuplexStream>>) -> io::Result<()> {
        let mut memory = [0; 16];
        let mut buffer = ReadBuf::new(&mut memory);
        poll_fn(|cx| Pin::new(&mut *patient).poll_read(cx, buffer.unfilled())).await
    }

    async fn write(patient: &mut Patient<TokioIo<DuplexStream>>) -> io::Result<usize> {
        poll_fn(|cx| Pin::new(&mut *patient).poll_write(cx, &[0; 64])).await
    }

    fn timed_out<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut)
    }

    #[tokio::test]
    async fn silence_ends() {
        let (mut patient, _far, _) = patient(SHORT, LONG, LONG);
        assert!(timed_out(read(&mut patient).await));
    }

    #[tokio::test]
    async fn a_head_once_begun_must_follow() {
        let (mut patient, mut far, _) = patient(LONG, SHORT, LONG);
        far.write_all(b"GET /").await.unwrap();
        read(&mut patient).await.unwrap();
        assert!(timed_out(read(&mut patient).await));
    }

    #[tokio::test]
    async fn bytes_that_trickle_do_not_prolong_a_head() {
        let (mut patient, mut far, _) = patient(LONG, Duration::from_millis(200), LONG);
        let trickle = tokio::spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_millis(10));
            loop {
                beat.tick().await;
                if far.write_all(b"x").await.is_err() {
                    return;
                }
            }
        });
        let error = loop {
            if let Err(error) = read(&mut patient).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(patient);
        trickle.await.unwrap();
    }

    #[tokio::test]
    async fn a_request_that_is_served_may_take_its_time() {
        let (mut patient, mut far, phase) = patient(SHORT, SHORT, LONG);
        far.write_all(b"GET /").await.unwrap();
        read(&mut patient).await.unwrap();
        let serving = phase.serving();
        let waited = tokio::time::timeout(SHORT * 5, read(&mut patient)).await;
        assert!(waited.is_err(), "{waited:?}");
        drop(serving);
        assert!(timed_out(read(&mut patient).await));
    }

    #[tokio::test]
    async fn pings_do_not_keep_a_connection_without_requests() {
        let (near, mut far) = tokio::io::duplex(64);
        let patience = Patience { idle: Duration::from_millis(100), head: None, write: LONG };
        let mut patient = Patient::new(TokioIo::new(near), patience, Phase::default());
        let ping = tokio::spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_millis(10));
            while far.write_all(b"x").await.is_ok() {
                beat.tick().await;
            }
        });
        while read(&mut patient).await.is_ok() {}
        drop(patient);
        ping.await.unwrap();
    }

    #[tokio::test]
    async fn each_answer_of_http_2_must_be_taken() {
        let phase = Phase::of_http2();
        let (one, other) = (phase.serving(), phase.serving());
        let stalls = async |phase: &Phase, within| {
            tokio::time::timeout(within, phase.stalls(SHORT)).await.is_ok()
        };
        assert!(!stalls(&phase, SHORT * 5).await, "nothing waits");
        one.waits(true);
        other.waits(true);
        other.waits(false);
        assert!(stalls(&phase, LONG).await);
        drop(one);
        assert!(!stalls(&phase, SHORT * 5).await);
        let over_one = Phase::default();
        let serving = over_one.serving();
        serving.waits(true);
        assert!(!stalls(&over_one, SHORT * 5).await, "there the connection shows it");
    }

    #[tokio::test]
    async fn a_reader_must_read() {
        let (mut patient, _far, _) = patient(LONG, LONG, SHORT);
        write(&mut patient).await.unwrap();
        assert!(timed_out(write(&mut patient).await));
    }
}
