//! How many messages came of late → whether to rest before reading again. Pure.
//!
//! The server sends every message of a backlog by itself, so that a reader which wakes for each spends its time on
//! waking, and takes that time from the server beside it. Resting a moment lets many come at once. It costs a
//! change a millisecond or two, and only where so many come that they wait for each other longer than that.

use std::time::Duration;

use tokio::time::Instant;

/// How long a rest is.
pub(super) const REST: Duration = Duration::from_millis(1);

/// Messages in a millisecond from which on it pays to rest …
const MANY: u32 = 20;
/// … unless so many came at once that reading is what takes the time.
const FULL: u32 = 1000;

/// Counts messages by the millisecond.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    messages: u32,
    many: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, messages: 0, many: false }
    }

    /// So many messages came at once; whether to rest before the next are read.
    pub(super) fn came(&mut self, now: Instant, messages: u32) -> bool {
        self.messages = self.messages.saturating_add(messages);
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= REST {
            let millis = u32::try_from(elapsed.as_millis()).unwrap_or(u32::MAX);
            self.many = self.messages / millis.max(1) >= MANY;
            (self.since, self.messages) = (now, 0);
        }
        self.many && messages < FULL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gets_few_messages_never_rests() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for millis in 0..100 {
            assert!(!pace.came(start + REST * millis, MANY / 2 - 1));
        }
    }

    #[test]
    fn who_gets_many_small_ones_rests_until_they_are_few() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut rests = false;
        for step in 0..20 {
            rests = pace.came(start + REST * step / 10, 3);
        }
        assert!(rests);
        assert!(!pace.came(start + REST * 100, 1));
    }

    #[test]
    fn who_gets_full_reads_does_not_rest() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for millis in 0..10 {
            assert!(!pace.came(start + REST * millis, FULL));
        }
    }
}
