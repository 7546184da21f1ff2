//! A slot → [`Event`]s, for as long as the source has it: read, keep alive, watch, reconnect.
//!
//! One task owns the connection. It reads ahead of the consumer within a limit, and answers the server on its own
//! timer whatever the consumer does; past the limit the log waits in the source.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Control, Error, Event, Stream,
    assemble::Assembly,
    connection::{Connection, Fault, Message, Status},
    open::{Opening, judge_notice, judge_running, open},
    pace::{Pace, REST},
    pulse::{Backoff, Pulse, Reply},
};
use crate::{
    change::{Change, Lsn, Old},
    observe::{self, Observer},
    postgres::{address::Address, slot::History, slot::Holder},
    stage::Stage,
};

/// How many batches may wait for the consumer.
const BATCHES: usize = 4;

/// How long leaving may take before the connection is simply dropped.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// What a stream needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server itself, not a pooler.
    pub address: Address,
    /// The slot; it exists.
    pub slot: String,
    /// The publication; it was there before the slot.
    pub publication: String,
    /// The history that `resume` belongs to; in another one the slot counts as lost.
    pub history: History,
    /// The recorded position; for a new slot, where it begins.
    pub resume: Lsn,
    /// How many events may wait inside.
    pub events_max: usize,
    /// How many bytes they may take, save that one message always fits.
    pub bytes_max: usize,
    /// The delay before the first attempt to reconnect; it doubles with each.
    pub retry_first: Duration,
    /// The longest one.
    pub retry_longest: Duration,
    /// How often a taken slot is tried.
    pub standby_interval: Duration,
    /// Scatters the delays.
    pub seed: u64,
}

impl Settings {
    /// The usual limits.
    #[must_use]
    pub fn new(address: Address, history: History, resume: Lsn) -> Self {
        Self {
            address,
            slot: "kck".to_owned(),
            publication: "kck".to_owned(),
            history,
            resume,
            events_max: 64 * 1024,
            bytes_max: 32 << 20,
            retry_first: Duration::from_millis(100),
            retry_longest: Duration::from_secs(10),
            standby_interval: Duration::from_secs(1),
            seed: u64::from(std::process::id()),
        }
    }
}

/// The changes of a slot.
#[derive(Debug)]
pub struct Replication {
    batches: mpsc::Receiver<Result<VecDeque<Event>, Error>>,
    /// Taken from the channel and not yet given out.
    ready: VecDeque<Event>,
    wishes: Arc<Wishes>,
    _task: AbortOnDropHandle<()>,
}

impl Replication {
    /// Opens the stream, or stands by while somebody else reads the slot. What goes wrong at this first
    /// opening is said here; afterwards the stream reconnects by itself.
    pub async fn start(settings: Settings, observer: Observer) -> Result<Self, Error> {
        let (sender, batches) = mpsc::channel(BATCHES);
        let wishes = Arc::new(Wishes::new(settings.resume));
        let opening = open(&settings, settings.resume, settings.resume).await?;
        let follower = Follower::new(settings, observer, Arc::clone(&wishes), sender.clone());
        let task = tokio::spawn(async move {
            let error = follower.run(opening).await;
            // Without a consumer there is nobody to tell.
            drop(sender.send(Err(error)).await);
        });
        Ok(Self { batches, ready: VecDeque::new(), wishes, _task: AbortOnDropHandle::new(task) })
    }
}

#[async_trait]
impl Stream for Replication {
    async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let end = || Error::Lost { action: "follow the stream", source: "it has ended".into() };
            self.ready = self.batches.recv().await.unwrap_or_else(|| Err(end()))?;
        }
    }

    async fn close(&mut self) {
        self.wishes.close.store(true, Ordering::Release);
        self.wishes.changed.notify_one();
        // The task ends when it has left, and with it the channel.
        let left = async { while self.batches.recv().await.is_some_and(|batch| batch.is_ok()) {} };
        drop(timeout(CLOSE_WAIT, left).await);
    }

    fn control(&self) -> Arc<dyn Control> {
        Arc::<Wishes>::clone(&self.wishes)
    }
}

/// What the consumer wants of the task.
#[derive(Debug)]
struct Wishes {
    acknowledged: AtomicU64,
    hasten: AtomicBool,
    reopen: AtomicBool,
    close: AtomicBool,
    changed: Notify,
}

impl Wishes {
    fn new(resume: Lsn) -> Self {
        Self {
            acknowledged: AtomicU64::new(resume.0),
            hasten: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            close: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }
}

impl Control for Wishes {
    fn acknowledge(&self, position: Lsn) {
        if self.acknowledged.fetch_max(position.0, Ordering::AcqRel) < position.0 {
            self.changed.notify_one();
        }
    }

    fn hasten(&self) {
        self.hasten.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
        self.changed.notify_one();
    }
}

/// The task.
struct Follower {
    settings: Settings,
    observer: Observer,
    wishes: Arc<Wishes>,
    batches: mpsc::Sender<Result<VecDeque<Event>, Error>>,
    outbox: Outbox,
    backoff: Backoff,
    /// The furthest position that any connection delivered.
    delivered: Lsn,
    /// The server's process of the last connection.
    pid: Option<i32>,
    /// Whom kck stands by for, so that it is said once.
    holder: Option<Holder>,
}

impl Follower {
    fn new(
        settings: Settings,
        observer: Observer,
        wishes: Arc<Wishes>,
        batches: mpsc::Sender<Result<VecDeque<Event>, Error>>,
    ) -> Self {
        let outbox = Outbox::new(settings.events_max, settings.bytes_max);
        let backoff = Backoff::new(settings.retry_first, settings.retry_longest, settings.seed);
        let delivered = settings.resume;
        let (pid, holder) = (None, None);
        Self { settings, observer, wishes, batches, outbox, backoff, delivered, pid, holder }
    }

    /// Follows the slot through any number of connections; gives the error that ends it.
    async fn run(mut self, first: Opening) -> Error {
        let mut opening = Ok(first);
        loop {
            let delay = match opening {
                Ok(Opening::Taken(holder)) => self.stand_by(holder),
                Ok(Opening::Open { connection, at, timeout }) => {
                    let began = Instant::now();
                    let ended = self.follow(*connection, at, timeout).await;
                    self.flush().await;
                    if began.elapsed() > self.settings.retry_longest {
                        self.backoff.reset();
                    }
                    match ended {
                        Ok(()) => Duration::ZERO,
                        Err(error @ Error::Lost { .. }) => self.lost(&error),
                        Err(error) => return error,
                    }
                }
                // What a person has to mend may be mended by now, once the stream has been good.
                Err(error @ Error::Lost { .. }) => self.lost(&error),
                Err(error @ Error::Refused { .. }) if self.pid.is_some() => self.lost(&error),
                Err(error) => return error,
            };
            sleep(delay).await;
            opening = open(&self.settings, self.acknowledged(), self.delivered).await;
        }
    }

    /// One connection, until it is lost or to be opened anew.
    async fn follow(
        &mut self,
        mut connection: Connection,
        at: Lsn,
        server_timeout: Duration,
    ) -> Result<(), Error> {
        self.opened(at, connection.pid());
        let batches = self.batches.clone();
        let wishes = Arc::clone(&self.wishes);
        let mut assembly = Assembly::new(at);
        let mut pulse = Pulse::new(server_timeout, Instant::now());
        let mut pace = Pace::new(Instant::now());
        let mut resting: Option<Instant> = None;
        loop {
            if wishes.reopen.swap(false, Ordering::AcqRel) {
                // A server that takes long to leave is no reason to wait: the slot is tried until it is free.
                drop(timeout(CLOSE_WAIT, connection.close()).await);
                return Ok(());
            }
            if wishes.close.load(Ordering::Acquire) {
                wishes.hasten.store(true, Ordering::Release);
                self.speak(&mut connection, &assembly, &mut pulse).await?;
                drop(timeout(CLOSE_WAIT, connection.close()).await);
                return Err(Error::Refused {
                    action: "follow the stream",
                    fact: "it was closed".to_owned(),
                    hint: String::new(),
                });
            }
            self.speak(&mut connection, &assembly, &mut pulse).await?;
            let room = self.outbox.has_room();
            if !room {
                pulse.heard(Instant::now());
            }
            tokio::select! {
                message = connection.message(), if room && resting.is_none() => {
                    let message = message.map_err(|fault| self.judge(fault))?;
                    let began = Instant::now();
                    self.take(message, &mut assembly, &mut pulse)?;
                    let more = self.take_received(&mut connection, &mut assembly, &mut pulse)?;
                    let now = Instant::now();
                    pulse.heard(now);
                    self.observer.took(Stage::Decode, now - began);
                    resting = pace.came(now, more.saturating_add(1)).then(|| now + REST);
                }
                permit = batches.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => permit.send(Ok(self.outbox.take())),
                    Err(closed) => return Err(lost("give events to the consumer", closed)),
                },
                () = wishes.changed.notified() => {}
                () = sleep_until(resting.unwrap_or_else(Instant::now)), if resting.is_some() => resting = None,
                () = sleep_until(pulse.deadline(self.acknowledged())) => {}
            }
            if pulse.is_dead(Instant::now()) {
                let fact = format!("it has said nothing for {:?}", pulse.silence());
                return Err(lost("hear from the server", fact));
            }
        }
    }

    fn opened(&mut self, at: Lsn, pid: i32) {
        (self.pid, self.holder) = (Some(pid), None);
        self.outbox.push(Event::Opened { at, pid }, 0);
        self.observer.note(observe::Event::StreamOpened { at });
    }

    /// Tells the server how far kck is, when that is due.
    async fn speak(
        &self,
        connection: &mut Connection,
        assembly: &Assembly,
        pulse: &mut Pulse,
    ) -> Result<(), Error> {
        let hasten = self.wishes.hasten.swap(false, Ordering::AcqRel);
        let acknowledged = self.acknowledged();
        let Some(reply) = pulse.due(Instant::now(), acknowledged, hasten) else { return Ok(()) };
        let received = assembly.reached().max(acknowledged);
        let status = Status { received, acknowledged, reply: reply == Reply::Wanted };
        match timeout(pulse.silence(), connection.send_status(status)).await {
            Ok(sent) => sent.map_err(|fault| self.judge(fault)),
            Err(elapsed) => Err(lost("tell the server how far kck is", elapsed)),
        }
    }

    /// What has been received with the message just taken, as far as there is room; gives how many messages.
    fn take_received(
        &mut self,
        connection: &mut Connection,
        assembly: &mut Assembly,
        pulse: &mut Pulse,
    ) -> Result<u32, Error> {
        let mut messages = 0;
        while self.outbox.has_room() {
            match connection.received_message().map_err(|fault| self.judge(fault))? {
                Some(message) => self.take(message, assembly, pulse)?,
                None => break,
            }
            messages += 1;
        }
        Ok(messages)
    }

    fn take(
        &mut self,
        message: Message,
        assembly: &mut Assembly,
        pulse: &mut Pulse,
    ) -> Result<(), Error> {
        match message {
            Message::Log(payload) => {
                let bytes = payload.len();
                if let Some(event) = assembly.message(payload)? {
                    if let Event::Commit(transaction) = &event {
                        pulse.commit(transaction.end);
                    }
                    self.outbox.push(event, bytes);
                }
            }
            Message::Keepalive { position, reply } => {
                if let Some(event) = assembly.keepalive(position) {
                    self.outbox.push(event, 0);
                }
                if reply {
                    pulse.asked();
                }
            }
            Message::Notice(said) => judge_notice(&said, &self.settings)?,
            Message::Aside => {}
        }
        self.delivered = self.delivered.max(assembly.reached());
        Ok(())
    }

    /// Gives the consumer what it would have been given, had the connection lasted.
    async fn flush(&mut self) {
        if !self.outbox.is_empty() {
            // Without a consumer the task is about to be dropped.
            drop(self.batches.send(Ok(self.outbox.take())).await);
        }
    }

    /// What is durable, and was delivered: a position that the server has not sent must never reach it, or the
    /// commits before it would be skipped.
    fn acknowledged(&self) -> Lsn {
        Lsn(self.wishes.acknowledged.load(Ordering::Acquire)).min(self.delivered)
    }

    fn judge(&self, fault: Fault) -> Error {
        judge_running(fault, &self.settings)
    }

    /// The delay before the next attempt.
    fn lost(&mut self, error: &Error) -> Duration {
        let retry = self.backoff.delay();
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
        let error = format!("{error}{}", cause.unwrap_or_default());
        self.observer.note(observe::Event::StreamLost { error, retry });
        retry
    }

    fn stand_by(&mut self, holder: Holder) -> Duration {
        // The server may not have noticed yet that kck's last connection is gone.
        let own = self.pid == Some(holder.pid);
        if !own && self.holder.as_ref() != Some(&holder) {
            self.observer.note(observe::Event::StandingBy { holder: holder.to_string() });
            self.holder = Some(holder);
        }
        let interval = if own { self.settings.retry_first } else { self.settings.standby_interval };
        self.backoff.jitter(interval)
    }
}

fn lost(
    action: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::Lost { action, source: source.into() }
}

/// Events that wait for a place in the channel.
#[derive(Debug)]
struct Outbox {
    events: VecDeque<Event>,
    bytes: usize,
    events_max: usize,
    bytes_max: usize,
}

impl Outbox {
    /// A share of what may wait in all: the batches in the channel, the one the consumer has, and this one.
    fn new(events_max: usize, bytes_max: usize) -> Self {
        let share = |max: usize| (max / (BATCHES + 2)).max(1);
        let (events_max, bytes_max) = (share(events_max), share(bytes_max));
        Self { events: VecDeque::new(), bytes: 0, events_max, bytes_max }
    }

    fn has_room(&self) -> bool {
        self.events.len() < self.events_max && self.bytes < self.bytes_max
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    fn push(&mut self, event: Event, bytes: usize) {
        if let (Event::Idle(position), Some(Event::Idle(last))) = (&event, self.events.back_mut()) {
            *last = *position;
            return;
        }
        self.bytes += bytes + values(&event) * size_of::<crate::change::Datum>();
        self.events.push_back(event);
    }

    fn take(&mut self) -> VecDeque<Event> {
        self.bytes = 0;
        std::mem::take(&mut self.events)
    }
}

/// How many values an event holds.
fn values(event: &Event) -> usize {
    let of_old = |old: &Old| match old {
        Old::Unsent => 0,
        Old::Identity(row) | Old::Whole(row) => row.len(),
    };
    match event {
        Event::Change(Change::Insert { new, .. }) => new.len(),
        Event::Change(Change::Update { old, new, .. }) => of_old(old) + new.len(),
        Event::Change(Change::Delete { old, .. }) => of_old(old),
        Event::Change(Change::Truncate { relations }) => relations.len(),
        Event::Opened { .. } | Event::Commit(_) | Event::Idle(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outbox_has_room_until_a_limit_is_passed() {
        let mut outbox = Outbox::new((BATCHES + 2) * 2, (BATCHES + 2) * 100);
        outbox.push(Event::Opened { at: Lsn(1), pid: 1 }, 99);
        assert!(outbox.has_room());
        outbox.push(Event::Idle(Lsn(2)), 0);
        assert!(!outbox.has_room());
        assert_eq!(outbox.take().len(), 2);
        outbox.push(Event::Opened { at: Lsn(1), pid: 1 }, 100);
        assert!(!outbox.has_room());
    }

    #[test]
    fn keepalives_in_a_row_are_one_event() {
        let mut outbox = Outbox::new(100, 100);
        outbox.push(Event::Idle(Lsn(2)), 0);
        outbox.push(Event::Idle(Lsn(3)), 0);
        assert_eq!(outbox.take(), [Event::Idle(Lsn(3))]);
    }

    #[test]
    fn lower_acknowledgements_are_ignored() {
        let wishes = Wishes::new(Lsn(5));
        wishes.acknowledge(Lsn(9));
        wishes.acknowledge(Lsn(7));
        assert_eq!(wishes.acknowledged.load(Ordering::Acquire), 9);
    }
}
