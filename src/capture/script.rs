//! Pushed events → a [`Stream`], for tests, examples and benchmarks without a server.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};

use super::{Control, Error, Event, Stream};
use crate::change::Lsn;

/// A stream that says what its [`ScriptHandle`] pushes, in that order. It ends, as lost, when the handle is gone.
#[derive(Debug)]
pub struct Script {
    events: mpsc::UnboundedReceiver<Result<Event, Error>>,
    heard: Arc<Heard>,
}

/// The other end of a [`Script`]: pushes events, and sees what the stream was told. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ScriptHandle {
    events: mpsc::UnboundedSender<Result<Event, Error>>,
    heard: Arc<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    acknowledged: watch::Sender<Lsn>,
    hastened: AtomicU64,
    reopened: AtomicU64,
}

impl Script {
    /// A stream that says nothing yet.
    #[must_use]
    pub fn new() -> (Self, ScriptHandle) {
        let (sender, events) = mpsc::unbounded_channel();
        let heard = Arc::new(Heard::default());
        let handle = ScriptHandle { events: sender, heard: Arc::clone(&heard) };
        (Self { events, heard }, handle)
    }
}

#[async_trait]
impl Stream for Script {
    async fn next(&mut self) -> Result<Event, Error> {
        let end = || Error::Lost { action: "follow the script", source: "it has ended".into() };
        self.events.recv().await.unwrap_or_else(|| Err(end()))
    }

    async fn close(&mut self) {}

    fn control(&self) -> Arc<dyn Control> {
        Arc::<Heard>::clone(&self.heard)
    }
}

impl Control for Heard {
    fn acknowledge(&self, position: Lsn) {
        self.acknowledged.send_if_modified(|known| {
            let later = position > *known;
            *known = position.max(*known);
            later
        });
    }

    fn hasten(&self) {
        self.hastened.fetch_add(1, Ordering::Relaxed);
    }

    fn reopen(&self) {
        self.reopened.fetch_add(1, Ordering::Relaxed);
    }
}

impl ScriptHandle {
    /// Says this next. Gives whether the stream is still there to say it.
    pub fn push(&self, event: Event) -> bool {
        self.events.send(Ok(event)).is_ok()
    }

    /// Ends the stream with this error. Gives whether it is still there.
    pub fn fail(&self, error: Error) -> bool {
        self.events.send(Err(error)).is_ok()
    }

    /// The highest position that was acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> Lsn {
        *self.heard.acknowledged.borrow()
    }

    /// Waits until `position` is acknowledged.
    pub async fn until_acknowledged(&self, position: Lsn) {
        let mut acknowledged = self.heard.acknowledged.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        drop(acknowledged.wait_for(|known| *known >= position).await);
    }

    /// How often somebody wanted to know how far the source is.
    #[must_use]
    pub fn hastened(&self) -> u64 {
        self.heard.hastened.load(Ordering::Relaxed)
    }

    /// How often the connection was to be opened anew.
    #[must_use]
    pub fn reopened(&self) -> u64 {
        self.heard.reopened.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn says_what_is_pushed_and_then_ends() {
        let (mut script, handle) = Script::new();
        assert!(handle.push(Event::Idle(Lsn(1))));
        assert!(handle.push(Event::Idle(Lsn(2))));
        drop(handle);
        assert_eq!(script.next().await.unwrap(), Event::Idle(Lsn(1)));
        assert_eq!(script.next().await.unwrap(), Event::Idle(Lsn(2)));
        assert!(matches!(script.next().await, Err(Error::Lost { .. })));
    }

    #[tokio::test]
    async fn shows_what_it_was_told() {
        let (script, handle) = Script::new();
        let control = script.control();
        control.acknowledge(Lsn(5));
        control.acknowledge(Lsn(3));
        control.hasten();
        control.reopen();
        handle.until_acknowledged(Lsn(5)).await;
        assert_eq!((handle.acknowledged(), handle.hastened(), handle.reopened()), (Lsn(5), 1, 1));
    }
}
