//! Schedule: `every 30s`, `cron 0 6 * * * Europe/Oslo`, `boot` → when a product's keys are computed again.
//!
//! Times are the source's clock. Where a zone's clocks are changed, a local time that does not exist comes at the
//! jump, and one that exists twice comes the first time; what runs every minute or hour follows the clock itself.

use std::{fmt, sync::Arc, time::Duration};

use croner::{
    Cron,
    errors::CronError,
    parser::{CronParser, Seconds, Year},
};
use jiff::{Timestamp, tz::TimeZone};

use super::policy::parse_duration;
use crate::change::SourceTime;

/// The shortest period: what must be newer follows changes, or is computed when it is read.
pub const EVERY_MIN: Duration = Duration::from_secs(1);

/// A cron expression that has not fired this long after some day never does: the calendar repeats after 400 years, and
/// the 29th of February falls on a given weekday at least once in 40.
const NEVER_AFTER_YEARS: i16 = 50;

/// The keys of one product fall due over this part of its period …
const SPREAD_OF_PERIOD: u32 = 10;
/// … but over no more than this.
const SPREAD_MAX: Duration = Duration::from_secs(30);

const CRON_HINT: &str = "cron takes minute, hour, day, month and weekday, seconds before them if you like, and perhaps a time zone: \"cron 0 6 * * * Europe/Oslo\"";
const EVERY_HINT: &str =
    "write a duration of at least one second, like \"every 30s\" or \"every 15m\"";

/// When a product's keys are computed again, whatever changes.
#[derive(Clone, PartialEq, Eq)]
pub struct Schedule {
    text: Arc<str>,
    when: When,
}

#[derive(Clone, PartialEq, Eq)]
enum When {
    Boot,
    Every(Duration),
    /// Boxed: it lists every second, minute and hour.
    Cron(Box<Cron>, TimeZone),
}

/// Why a text is no schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSchedule {
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for Schedule {
    /// As it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({})", self.text)
    }
}

impl Schedule {
    /// Reads a schedule; `None` where the text does not begin like one.
    pub fn read(text: &str) -> Option<Result<Self, BadSchedule>> {
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let when = match (word, rest.trim()) {
            ("boot", "") => Ok(When::Boot),
            ("every", period) => every(period),
            ("cron", expression) => cron(expression),
            _ => return None,
        };
        Some(when.map(|when| Self { text: text.trim().into(), when }))
    }

    /// Whether it is `boot`, which no clock strikes.
    #[must_use]
    pub fn is_boot(&self) -> bool {
        matches!(self.when, When::Boot)
    }

    /// The first tick after `time`; of a period, counted from `phase`.
    #[must_use]
    pub fn next(&self, phase: SourceTime, time: SourceTime) -> Option<SourceTime> {
        match &self.when {
            When::Boot => None,
            When::Every(period) => {
                let period = micros(*period);
                let periods = time.0.saturating_sub(phase.0).div_euclid(period);
                let next = phase.0.checked_add(periods.checked_add(1)?.checked_mul(period)?)?;
                Some(SourceTime(next))
            }
            When::Cron(cron, zone) => occurrence(cron, zone, time),
        }
    }

    /// The last tick at or before `time`; of a period, counted from `phase`. No cron expression is followed back over
    /// more than `back`.
    #[must_use]
    pub fn latest(
        &self,
        phase: SourceTime,
        time: SourceTime,
        back: Duration,
    ) -> Option<SourceTime> {
        match &self.when {
            When::Boot => None,
            When::Every(period) => {
                let into = time.0.saturating_sub(phase.0).rem_euclid(micros(*period));
                Some(SourceTime(time.0.saturating_sub(into)))
            }
            When::Cron(cron, zone) => {
                let (mut span, most) = (1_000_000_i64, micros(back));
                loop {
                    // What lies before a span twice as long as one without a tick is at most a few ticks.
                    let from = SourceTime(time.0.saturating_sub(span.min(most)));
                    let mut found = occurrence(cron, zone, from).filter(|tick| *tick <= time);
                    if found.is_some() {
                        while let Some(later) = found
                            .and_then(|tick| occurrence(cron, zone, tick))
                            .filter(|t| *t <= time)
                        {
                            found = Some(later);
                        }
                        return found;
                    }
                    if span >= most {
                        return None;
                    }
                    span = span.saturating_mul(2);
                }
            }
        }
    }

    /// Over how long the keys of one tick are spread, so that they do not fall on one instant.
    #[must_use]
    pub fn spread(&self, tick: SourceTime) -> Duration {
        let period = match &self.when {
            When::Boot => return Duration::ZERO,
            When::Every(period) => *period,
            When::Cron(cron, zone) => occurrence(cron, zone, tick)
                .map_or(SPREAD_MAX, |next| Duration::from_micros((next.0 - tick.0).unsigned_abs())),
        };
        (period / SPREAD_OF_PERIOD).min(SPREAD_MAX)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX).max(1)
}

fn occurrence(cron: &Cron, zone: &TimeZone, after: SourceTime) -> Option<SourceTime> {
    // Whole seconds: cron knows no others.
    let after = Timestamp::from_second(after.0.div_euclid(1_000_000)).ok()?.to_zoned(zone.clone());
    let next = cron.find_next_occurrence(&after, false).ok()?;
    Some(SourceTime(next.timestamp().as_microsecond()))
}

fn every(period: &str) -> Result<When, BadSchedule> {
    let bad = |what: &str| BadSchedule { what: what.to_owned(), hint: EVERY_HINT.to_owned() };
    let period = parse_duration(period).ok_or_else(|| bad("it names no duration"))?;
    if period < EVERY_MIN {
        return Err(bad("the period is under one second"));
    }
    Ok(When::Every(period))
}

fn cron(text: &str) -> Result<When, BadSchedule> {
    let bad = |what: String| BadSchedule { what, hint: CRON_HINT.to_owned() };
    let mut words: Vec<&str> = text.split_whitespace().collect();
    let zone = match words.len() {
        6 => words.pop_if(|word| is_zone(word)),
        7 => words.pop(),
        _ => None,
    };
    if !matches!(words.len(), 5 | 6) {
        return Err(bad(format!("it has {} fields", words.len())));
    }
    let zone = zone.unwrap_or("UTC");
    let zone = TimeZone::get(zone).map_err(|_| BadSchedule {
        what: format!("there is no time zone '{zone}'"),
        hint: "name it as the tz database does, like Europe/Oslo; without one it is UTC".to_owned(),
    })?;
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    let cron = parser.parse(&words.join(" ")).map_err(|error| bad(said(&error)))?;
    let fires = |year: i16| {
        let from = jiff::civil::date(year, 1, 1).to_zoned(zone.clone()).ok()?;
        let next = cron.find_next_occurrence(&from, true).ok()?;
        (next.year() < year + NEVER_AFTER_YEARS).then_some(())
    };
    if fires(2000).is_none() {
        let hint = "no day is like that; look at its day and its month".to_owned();
        return Err(BadSchedule { what: "it never comes".to_owned(), hint });
    }
    Ok(When::Cron(Box::new(cron), zone))
}

/// Told from the last field, which may name days.
fn is_zone(word: &str) -> bool {
    const DAYS: [&str; 8] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "L"];
    let mut names = word.split(|c: char| !c.is_ascii_alphabetic()).filter(|name| !name.is_empty());
    word.starts_with(|c: char| c.is_ascii_alphabetic())
        && names.any(|name| !DAYS.contains(&name.to_ascii_uppercase().as_str()))
}

/// What the expression's reader says, in our form.
fn said(error: &CronError) -> String {
    let text = match error {
        CronError::InvalidPattern(text)
        | CronError::IllegalCharacters(text)
        | CronError::ComponentError(text) => text.as_str(),
        _ => "it cannot be read",
    };
    let mut characters = text.trim_end_matches('.').chars();
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(text: &str) -> Schedule {
        Schedule::read(text).unwrap().unwrap()
    }

    fn bad(text: &str) -> String {
        let BadSchedule { what, hint } = Schedule::read(text).unwrap().unwrap_err();
        format!("{what}; {hint}")
    }

    fn at(text: &str) -> SourceTime {
        SourceTime(text.parse::<Timestamp>().unwrap().as_microsecond())
    }

    /// The first ticks after a time, as UTC.
    fn ticks(text: &str, after: &str, count: usize) -> Vec<String> {
        let (schedule, mut time) = (schedule(text), at(after));
        (0..count)
            .map(|_| {
                time = schedule.next(SourceTime(0), time).unwrap();
                Timestamp::from_microsecond(time.0).unwrap().to_string()
            })
            .collect()
    }

    #[test]
    fn cron_is_read_in_its_zone() {
        assert_eq!(
            ticks("cron 0 6 * * *", "2026-01-01T05:59:59.5Z", 2),
            ["2026-01-01T06:00:00Z", "2026-01-02T06:00:00Z"]
        );
        assert_eq!(
            ticks("cron 0 6 * * * Europe/Oslo", "2026-01-01T00:00:00Z", 1),
            ["2026-01-01T05:00:00Z"]
        );
        assert_eq!(
            ticks("cron 0 6 * * MON-FRI", "2026-01-02T07:00:00Z", 1),
            ["2026-01-05T06:00:00Z"]
        );
        assert_eq!(
            ticks("cron */20 0 6 * * * Europe/Oslo", "2026-01-01T05:00:00Z", 2),
            ["2026-01-01T05:00:20Z", "2026-01-01T05:00:40Z"]
        );
        assert_eq!(ticks("cron 0 0 29 2 *", "2026-03-01T00:00:00Z", 1), ["2028-02-29T00:00:00Z"]);
    }

    #[test]
    fn a_local_time_that_does_not_exist_comes_once_at_the_jump() {
        // 2026-03-29: 02:00 becomes 03:00, which is 01:00 UTC.
        assert_eq!(
            ticks("cron 30 2 * * * Europe/Oslo", "2026-03-28T12:00:00Z", 2),
            ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        assert_eq!(
            ticks("cron 0 * * * * Europe/Oslo", "2026-03-29T00:00:00Z", 2),
            ["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"]
        );
    }

    #[test]
    fn a_local_time_that_exists_twice_comes_once() {
        // 2026-10-25: 03:00 becomes 02:00, which is 01:00 UTC.
        assert_eq!(
            ticks("cron 30 2 * * * Europe/Oslo", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
    }

    #[test]
    fn a_period_keeps_its_phase() {
        let every = schedule("every 30s");
        let second = |n: i64| SourceTime(n * 1_000_000);
        for (now, next, latest) in [(7, 37, 7), (36, 37, 7), (37, 67, 37), (1000, 1027, 997)] {
            assert_eq!(every.next(second(7), second(now)), Some(second(next)));
            assert_eq!(every.latest(second(7), second(now), SPREAD_MAX), Some(second(latest)));
        }
        assert_eq!(every.latest(second(7), second(0), SPREAD_MAX), Some(second(-23)));
    }

    #[test]
    fn the_latest_tick_is_the_last_that_came() {
        let back = Duration::from_secs(400 * 86_400);
        for (text, now, want) in [
            ("cron 0 6 * * *", "2026-01-05T05:59:59Z", "2026-01-04T06:00:00Z"),
            ("cron 0 6 * * *", "2026-01-05T06:00:00Z", "2026-01-05T06:00:00Z"),
            ("cron */7 * * * * *", "2026-01-05T06:00:36Z", "2026-01-05T06:00:35Z"),
            ("cron 0 0 1 1 *", "2026-12-31T00:00:00Z", "2026-01-01T00:00:00Z"),
        ] {
            assert_eq!(
                schedule(text).latest(SourceTime(0), at(now), back),
                Some(at(want)),
                "{text}"
            );
        }
        let day = Duration::from_secs(86_400);
        assert_eq!(
            schedule("cron 0 0 1 1 *").latest(SourceTime(0), at("2026-06-01T00:00:00Z"), day),
            None
        );
    }

    #[test]
    fn the_spread_is_a_part_of_the_period() {
        let spread = |text: &str| schedule(text).spread(at("2026-01-01T06:00:00Z"));
        assert_eq!(spread("every 1s"), Duration::from_millis(100));
        assert_eq!(spread("every 1h"), Duration::from_secs(30));
        assert_eq!(spread("cron 0 6 * * *"), Duration::from_secs(30));
        assert_eq!(spread("cron */10 * * * * *"), Duration::from_secs(1));
    }

    #[test]
    fn what_is_no_schedule_is_said() {
        assert!(Schedule::read("hourly").is_none() && Schedule::read("boots").is_none());
        for (text, want) in [
            ("every", "it names no duration"),
            ("every soon", "it names no duration"),
            ("every 0s", "under one second"),
            ("every 999ms", "under one second; write a duration of at least one second"),
            ("cron 0 6 * *", "it has 4 fields; cron takes minute"),
            ("cron", "it has 0 fields"),
            ("cron 60 6 * * *", "cron takes minute"),
            ("cron 0 6 * * * Europe/Olso", "there is no time zone 'Europe/Olso'"),
            ("cron 0 0 6 * * * Nowhere", "there is no time zone 'Nowhere'"),
            ("cron 0 6 * * * A B", "there is no time zone 'B'"),
            ("cron 0 6 * * * * * UTC", "it has 8 fields"),
            ("cron 0 0 30 2 *", "it never comes"),
        ] {
            assert!(bad(text).contains(want), "{text}: {}", bad(text));
        }
    }

    #[test]
    fn it_prints_as_it_was_written() {
        assert_eq!(
            schedule("cron 0 6 * * * Europe/Oslo").to_string(),
            "cron 0 6 * * * Europe/Oslo"
        );
        assert_eq!(format!("{:?}", schedule("every 30s")), "Schedule(every 30s)");
        assert!(schedule("boot").is_boot());
    }
}
