//! Stages of the way from a commit to a fresh entry, and how long each took: histograms.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Where time goes between a commit and its fresh answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Received bytes → changes, for all that came at once.
    Decode,
    /// A released group → the keys it touches, lookups not counted.
    Match,
    /// The question of what is visible.
    Barrier,
    /// What rows of other tables say, for all changes of a group.
    Lookup,
    /// Marks made durable.
    Mark,
    /// A statement that computes keys.
    Recompute,
    /// An entry made durable.
    Store,
    /// A fresh entry → on its way to a subscriber.
    Push,
    /// The whole way of a commit of kck's own, from the source to V.
    Canary,
}

/// Upper ends of the buckets, in microseconds.
const BOUNDS: [u64; 18] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

const NAME: &str = "kck_stage_seconds";

impl Stage {
    /// In the order of the way.
    pub const ALL: [Self; 9] = [
        Self::Decode,
        Self::Match,
        Self::Barrier,
        Self::Lookup,
        Self::Mark,
        Self::Recompute,
        Self::Store,
        Self::Push,
        Self::Canary,
    ];

    /// Its name in metrics and in `/status`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Match => "match",
            Self::Barrier => "barrier",
            Self::Lookup => "lookup",
            Self::Mark => "mark",
            Self::Recompute => "recompute",
            Self::Store => "store",
            Self::Push => "push",
            Self::Canary => "canary",
        }
    }
}

/// How long something took, by how often.
#[derive(Debug, Default)]
struct Histogram {
    /// One for each of [`BOUNDS`], and one for what took longer.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// What a stage has taken so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// How often.
    pub count: u64,
    /// All of them together, divided by that.
    pub mean: Duration,
    /// Half of them took at most this, rounded up to a bucket.
    pub p50: Duration,
    /// And 99 of a hundred this.
    pub p99: Duration,
}

/// A histogram for each stage.
#[derive(Debug, Default)]
pub struct Stages([Histogram; Stage::ALL.len()]);

impl Stages {
    /// A stage took so long once.
    pub fn took(&self, stage: Stage, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < micros);
        let Some(histogram) = self.0.get(stage as usize) else { return };
        if let Some(cell) = histogram.buckets.get(bucket) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
        histogram.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What a stage has taken; `None` before the first time.
    #[must_use]
    pub fn taken(&self, stage: Stage) -> Option<Taken> {
        let counts = self.counts(stage);
        let count: u64 = counts.iter().sum();
        let within = |share: u64| {
            let wanted = (count * share).div_ceil(100);
            let mut seen = 0;
            let at = counts.iter().position(|bucket| {
                seen += bucket;
                seen >= wanted
            });
            let last = BOUNDS.len() - 1;
            let bound = BOUNDS.get(at.unwrap_or(last).min(last)).copied().unwrap_or_default();
            Duration::from_micros(bound)
        };
        let micros = self.0.get(stage as usize).map(|all| all.micros.load(Ordering::Relaxed));
        let mean = Duration::from_micros(micros.unwrap_or_default() / count.max(1));
        (count > 0).then(|| Taken { count, mean, p50: within(50), p99: within(99) })
    }

    /// All of them in Prometheus's text format.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
    pub fn metrics(&self) -> String {
        let mut text = format!(
            "# HELP {NAME} Time in each stage from a commit to its fresh answers.\n# TYPE {NAME} histogram\n"
        );
        for stage in Stage::ALL {
            let name = stage.name();
            let mut sum = 0;
            for (at, count) in self.counts(stage).iter().enumerate() {
                sum += count;
                let end = BOUNDS.get(at).map(|bound| (*bound as f64 / 1e6).to_string());
                let end = end.unwrap_or_else(|| "+Inf".to_owned());
                text += &format!("{NAME}_bucket{{stage=\"{name}\",le=\"{end}\"}} {sum}\n");
            }
            let micros = self.0.get(stage as usize).map(|all| all.micros.load(Ordering::Relaxed));
            let seconds = micros.unwrap_or_default() as f64 / 1e6;
            text += &format!("{NAME}_sum{{stage=\"{name}\"}} {seconds}\n");
            text += &format!("{NAME}_count{{stage=\"{name}\"}} {sum}\n");
        }
        text
    }

    fn counts(&self, stage: Stage) -> [u64; BOUNDS.len() + 1] {
        let mut counts = [0; BOUNDS.len() + 1];
        if let Some(histogram) = self.0.get(stage as usize) {
            for (count, cell) in counts.iter_mut().zip(&histogram.buckets) {
                *count = cell.load(Ordering::Relaxed);
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_their_buckets() {
        let stages = Stages::default();
        assert_eq!(stages.taken(Stage::Mark), None);
        for micros in [0, 50, 51, 900_000] {
            stages.took(Stage::Mark, Duration::from_micros(micros));
        }
        let taken = stages.taken(Stage::Mark).unwrap();
        assert_eq!((taken.count, taken.p50), (4, Duration::from_micros(50)));
        assert_eq!(taken.p99, Duration::from_secs(1));
        assert_eq!(stages.taken(Stage::Store), None);
        let text = stages.metrics();
        assert!(text.contains("kck_stage_seconds_bucket{stage=\"mark\",le=\"0.00005\"} 2\n"));
        assert!(text.contains("kck_stage_seconds_bucket{stage=\"mark\",le=\"0.0001\"} 3\n"));
        assert!(text.contains("kck_stage_seconds_bucket{stage=\"mark\",le=\"+Inf\"} 4\n"));
        assert!(text.contains("kck_stage_seconds_count{stage=\"mark\"} 4\n"));
    }

    #[test]
    fn what_takes_longer_than_any_bucket_counts_as_the_last() {
        let stages = Stages::default();
        stages.took(Stage::Recompute, Duration::from_secs(3600));
        assert_eq!(stages.taken(Stage::Recompute).unwrap().p50, Duration::from_secs(30));
    }
}
