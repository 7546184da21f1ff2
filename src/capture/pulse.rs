//! Clock and positions → when to tell the server how far kck is, when it is dead, when to try again. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::change::Lsn;

/// What a server without a limit of its own (`wal_sender_timeout = 0`) is taken to have: the default.
const TIMEOUT_UNSAID: Duration = Duration::from_secs(60);

/// The longest time between two statuses.
const INTERVAL_MAX: Duration = Duration::from_secs(10);

/// The shortest time between two statuses that nobody asked for. Each one that is behind makes the server
/// send a keepalive: answering those at once is a loop (84,250 keepalives in 3 s were measured).
const PAUSE: Duration = Duration::from_millis(50);

/// The same while the server does not know that a commit is durable: somebody may wait for just that
/// (synchronous replication).
const PAUSE_COMMIT: Duration = Duration::from_millis(1);

/// The timer of one connection.
#[derive(Debug)]
pub(super) struct Pulse {
    interval: Duration,
    silence: Duration,
    heard: Instant,
    told: Instant,
    told_position: Option<Lsn>,
    /// The end of the last commit received.
    commit: Lsn,
    asked: bool,
}

/// Whether the server is to answer a status at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Wanted,
    Unwanted,
}

impl Pulse {
    /// For a server with this `wal_sender_timeout`.
    pub(super) fn new(timeout: Duration, now: Instant) -> Self {
        let timeout = if timeout.is_zero() { TIMEOUT_UNSAID } else { timeout };
        let (interval, silence) = ((timeout / 3).min(INTERVAL_MAX), timeout * 2);
        let (told_position, commit, asked) = (None, Lsn::default(), false);
        Self { interval, silence, heard: now, told: now, told_position, commit, asked }
    }

    /// Something was received, or nothing was read because the consumer is behind: that is not silence.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// A commit was received.
    pub(super) fn commit(&mut self, end: Lsn) {
        self.commit = end;
    }

    /// The server asked for a status.
    pub(super) fn asked(&mut self) {
        self.asked = true;
    }

    /// Whether to tell the server now that `position` is acknowledged; `hasten`: somebody waits to know how far
    /// the server is. What is due counts as told.
    pub(super) fn due(&mut self, now: Instant, position: Lsn, hasten: bool) -> Option<Reply> {
        let timer = now >= self.told + self.interval;
        let reply = if hasten || timer { Reply::Wanted } else { Reply::Unwanted };
        let moved = self.moved(position).is_some_and(|due| now >= due);
        if !hasten && !timer && !self.asked && !moved {
            return None;
        }
        (self.told, self.told_position, self.asked) = (now, Some(position), false);
        Some(reply)
    }

    /// When to look again, if nothing happens before.
    pub(super) fn deadline(&self, position: Lsn) -> Instant {
        let timer = (self.told + self.interval).min(self.heard + self.silence);
        self.moved(position).map_or(timer, |due| due.min(timer))
    }

    /// The server has said nothing for so long, though asked, that it must be dead.
    pub(super) fn is_dead(&self, now: Instant) -> bool {
        now >= self.heard + self.silence
    }

    /// The longest silence.
    pub(super) fn silence(&self) -> Duration {
        self.silence
    }

    /// When to tell of a position that the server does not know.
    fn moved(&self, position: Lsn) -> Option<Instant> {
        let Some(told) = self.told_position else { return Some(self.told) };
        let pause = if told < self.commit { PAUSE_COMMIT } else { PAUSE };
        (position > told).then_some(self.told + pause)
    }
}

/// Growing delays, each somewhere between its half and its whole, so that many do not come back together.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
    seed: u64,
}

impl Backoff {
    pub(super) fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        Self { first, longest, next: first, seed }
    }

    /// The next delay.
    pub(super) fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = delay.saturating_mul(2).min(self.longest);
        self.jitter(delay)
    }

    /// Between half of a delay and all of it.
    pub(super) fn jitter(&mut self, delay: Duration) -> Duration {
        // Splitmix64 (Steele, Lea, Flood 2014).
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let [part, ..] = (mixed ^ (mixed >> 31)).to_le_bytes();
        delay / 2 + delay * u32::from(part) / 512
    }

    /// All is well: begin with the first delay again.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MILLISECOND: Duration = Duration::from_millis(1);

    /// A pulse that has told of position 1 at the instant given.
    fn pulse() -> (Pulse, Instant) {
        let now = Instant::now();
        let mut pulse = Pulse::new(SECOND * 60, now);
        assert_eq!(pulse.due(now, Lsn(1), false), Some(Reply::Unwanted));
        (pulse, now)
    }

    #[test]
    fn a_new_connection_is_told_at_once() {
        pulse();
    }

    #[test]
    fn the_timer_asks_for_a_reply() {
        let (mut pulse, now) = pulse();
        assert_eq!(pulse.deadline(Lsn(1)), now + SECOND * 10);
        assert_eq!(pulse.due(now + SECOND * 9, Lsn(1), false), None);
        assert_eq!(pulse.due(now + SECOND * 10, Lsn(1), false), Some(Reply::Wanted));
        assert_eq!(pulse.due(now + SECOND * 11, Lsn(1), false), None);
    }

    #[test]
    fn a_moved_position_waits_for_the_pause_and_no_longer() {
        let (mut pulse, now) = pulse();
        assert_eq!(pulse.due(now + MILLISECOND, Lsn(2), false), None);
        assert_eq!(pulse.deadline(Lsn(2)), now + PAUSE);
        assert_eq!(pulse.due(now + PAUSE, Lsn(2), false), Some(Reply::Unwanted));
    }

    #[test]
    fn a_durable_commit_is_told_almost_at_once() {
        let (mut pulse, now) = pulse();
        pulse.commit(Lsn(2));
        assert_eq!(pulse.due(now + PAUSE_COMMIT, Lsn(2), false), Some(Reply::Unwanted));
        assert_eq!(pulse.due(now + PAUSE_COMMIT * 2, Lsn(3), false), None);
    }

    #[test]
    fn who_asks_is_answered_at_once_and_once() {
        let (mut pulse, now) = pulse();
        pulse.asked();
        assert_eq!(pulse.due(now, Lsn(1), false), Some(Reply::Unwanted));
        assert_eq!(pulse.due(now, Lsn(1), false), None);
    }

    #[test]
    fn hastening_asks_at_once() {
        let (mut pulse, now) = pulse();
        assert_eq!(pulse.due(now, Lsn(1), true), Some(Reply::Wanted));
    }

    #[test]
    fn silence_is_death_unless_nobody_listened() {
        let (mut pulse, now) = pulse();
        assert!(!pulse.is_dead(now + SECOND * 119));
        assert!(pulse.is_dead(now + SECOND * 120));
        pulse.heard(now + SECOND * 60);
        assert!(!pulse.is_dead(now + SECOND * 120));
    }

    #[test]
    fn a_server_without_a_limit_is_given_one() {
        assert_eq!(Pulse::new(Duration::ZERO, Instant::now()).silence(), SECOND * 120);
    }

    #[test]
    fn delays_grow_to_a_limit_and_scatter() {
        let mut backoff = Backoff::new(SECOND, SECOND * 10, 7);
        let delays: Vec<_> = (0..6).map(|_| backoff.delay()).collect();
        for (delay, whole) in delays.iter().zip([1, 2, 4, 8, 10, 10]) {
            assert!(SECOND * whole / 2 <= *delay && *delay < SECOND * whole, "{delays:?}");
        }
        backoff.reset();
        assert!(backoff.delay() < SECOND);
        assert_ne!(
            Backoff::new(SECOND, SECOND, 1).delay(),
            Backoff::new(SECOND, SECOND, 2).delay()
        );
    }
}
