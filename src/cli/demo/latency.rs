//! Latencies → their median, 99th percentile and maximum.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Latencies in the order they were measured.
#[derive(Debug, Default)]
pub(in crate::cli) struct Latencies(VecDeque<(Instant, Duration)>);

/// How they spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct Spread {
    pub(in crate::cli) p50: Duration,
    pub(in crate::cli) p99: Duration,
    pub(in crate::cli) max: Duration,
}

impl Latencies {
    pub(in crate::cli) fn push(&mut self, now: Instant, latency: Duration) {
        self.0.push_back((now, latency));
    }

    /// The spread of those measured after `start`, or of all; earlier ones are forgotten.
    pub(in crate::cli) fn since(&mut self, start: Option<Instant>) -> Option<Spread> {
        while self.0.front().is_some_and(|(at, _)| Some(*at) < start) {
            self.0.pop_front();
        }
        let mut sorted: Vec<Duration> = self.0.iter().map(|(_, latency)| *latency).collect();
        sorted.sort_unstable();
        Some(Spread {
            p50: percentile(&sorted, 50)?,
            p99: percentile(&sorted, 99)?,
            max: *sorted.last()?,
        })
    }
}

/// The smallest that at least so many in a hundred do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

/// In milliseconds, as people compare them.
pub(in crate::cli) fn shown(latency: Duration) -> String {
    format!("{:.2} ms", latency.as_secs_f64() * 1e3)
}

/// How much later the first is, which may be a negative time.
pub(in crate::cli) fn difference(later: Duration, earlier: Duration) -> String {
    format!("{:.2} ms", (later.as_secs_f64() - earlier.as_secs_f64()) * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_by_nearest_rank() {
        let (mut latencies, now) = (Latencies::default(), Instant::now());
        assert_eq!(latencies.since(None), None);
        (1..=200).rev().for_each(|ms| latencies.push(now, Duration::from_millis(ms)));
        let spread = latencies.since(Some(now)).unwrap();
        assert_eq!((spread.p50, spread.p99, spread.max), (ms(100), ms(198), ms(200)));
    }

    #[test]
    fn forgets_what_is_older() {
        let (mut latencies, now) = (Latencies::default(), Instant::now());
        latencies.push(now, ms(9));
        latencies.push(now + ms(10), ms(1));
        let spread = latencies.since(Some(now + ms(5))).unwrap();
        assert_eq!((spread.p50, spread.max), (ms(1), ms(1)));
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }
}
