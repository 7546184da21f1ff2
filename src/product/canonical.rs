//! Canonical: a raw text → the text that the type's output function would print, per type.
//!
//! What is fully understood is printed here under `DateStyle ISO, TimeZone UTC, bytea_output hex`; whatever
//! PostgreSQL versions 14 to 18 read differently, or only they know, is left to the source. A refusal here is
//! certain: the source would refuse too (or it is a clock word).

use super::parameter::Canonical;
use crate::description::has_clock_word;

const NOT_A_NUMBER: &str = "it is not a number";
const NOT_AN_INTEGER: &str = "it is not a whole number";
const CLOCK: &str = "words that ask the clock are no values";

type Outcome = Result<Canonical, &'static str>;

fn text(text: impl Into<String>) -> Canonical {
    Canonical::Text(text.into())
}

/// What C's `isspace` trims.
fn trim(raw: &str) -> &str {
    raw.trim_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r'])
}

/// Digits after PostgreSQL 16's `0x`, `0o`, `0b`, or with `_` between: earlier versions refuse them.
fn is_newer_number(raw: &str) -> bool {
    let unsigned = raw.trim_start_matches(['+', '-']);
    let radix =
        ["0x", "0X", "0o", "0O", "0b", "0B"].iter().any(|prefix| unsigned.starts_with(prefix));
    radix
        || (unsigned.contains('_')
            && unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
}

pub(super) fn integer(raw: &str, min: i64, max: i64) -> Outcome {
    let trimmed = trim(raw);
    let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return if is_newer_number(trimmed) {
            Ok(Canonical::AskSource)
        } else {
            Err(NOT_AN_INTEGER)
        };
    }
    match trimmed.parse::<i64>() {
        Ok(number) if min <= number && number <= max => Ok(text(number.to_string())),
        _ => Err("it is out of range"),
    }
}

/// PostgreSQL 16 and later read a leading zero as octal, and all read `-1` as 4294967295.
pub(super) fn oid(raw: &str) -> Canonical {
    let plain = raw == "0" || (!raw.starts_with('0') && raw.bytes().all(|b| b.is_ascii_digit()));
    match raw.parse::<u32>() {
        Ok(oid) if plain => text(oid.to_string()),
        _ => Canonical::AskSource,
    }
}

pub(super) fn boolean(raw: &str) -> Outcome {
    let word = trim(raw).to_ascii_lowercase();
    let starts = |full: &str, least: usize| least <= word.len() && full.starts_with(&word);
    if starts("true", 1) || starts("yes", 1) || starts("on", 2) || word == "1" {
        Ok(text("t"))
    } else if starts("false", 1) || starts("no", 1) || starts("off", 2) || word == "0" {
        Ok(text("f"))
    } else {
        Err("it is neither true nor false")
    }
}

pub(super) fn name(raw: &str) -> Canonical {
    if raw.len() < 64 { text(raw) } else { Canonical::AskSource }
}

/// Optional braces; an optional hyphen after every four digits.
pub(super) fn uuid(raw: &str) -> Outcome {
    const WRONG: &str = "it is not a UUID";
    let inside = match (raw.strip_prefix('{'), raw.strip_suffix('}')) {
        (Some(_), Some(_)) => raw.get(1..raw.len() - 1).ok_or(WRONG)?,
        (None, None) => raw,
        _ => return Err(WRONG),
    };
    let (mut printed, mut digits, mut hyphen_allowed) = (String::with_capacity(36), 0, false);
    for c in inside.chars() {
        if c == '-' && hyphen_allowed {
            hyphen_allowed = false;
        } else if c.is_ascii_hexdigit() && digits < 32 {
            if matches!(digits, 8 | 12 | 16 | 20) {
                printed.push('-');
            }
            printed.push(c.to_ascii_lowercase());
            digits += 1;
            hyphen_allowed = digits % 4 == 0 && digits < 32;
        } else {
            return Err(WRONG);
        }
    }
    if digits == 32 { Ok(text(printed)) } else { Err(WRONG) }
}

/// The digits are kept, and so is the scale that the text shows.
pub(super) fn numeric(raw: &str) -> Outcome {
    /// Beyond this many digits, limits of the type come near: those are the source's to judge.
    const DIGITS_MAX: usize = 1000;
    let trimmed = trim(raw);
    let (negative, unsigned) = match trimmed.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        let word = unsigned.to_ascii_lowercase();
        let special =
            is_newer_number(trimmed) || ["nan", "inf", "infinity"].contains(&word.as_str());
        return if special { Ok(Canonical::AskSource) } else { Err(NOT_A_NUMBER) };
    }
    let shift = match exponent {
        None => 0,
        Some(text) => match plain_exponent(text) {
            Some(shift) => shift,
            // Versions differ in the blanks and underscores that they take here.
            None if text.contains(|c: char| c.is_ascii_digit()) => return Ok(Canonical::AskSource),
            None => return Err(NOT_A_NUMBER),
        },
    };
    if whole.len() + fraction.len() > DIGITS_MAX {
        return Ok(Canonical::AskSource);
    }
    Ok(text(shifted(negative, whole, fraction, shift)))
}

/// An exponent that cannot reach a limit of the type.
fn plain_exponent(text: &str) -> Option<isize> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let plain = (1..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// `whole.fraction` × 10^`shift`, printed as PostgreSQL prints it.
fn shifted(negative: bool, whole: &str, fraction: &str, shift: isize) -> String {
    let digits = format!("{whole}{fraction}");
    let point = whole.len().cast_signed() + shift;
    // Room on both sides, so that the point lies within the digits.
    let left = usize::try_from(-point).unwrap_or(0);
    let right = usize::try_from(point - digits.len().cast_signed()).unwrap_or(0);
    let padded = format!("{}{digits}{}", "0".repeat(left), "0".repeat(right));
    let (whole, fraction) = padded.split_at(usize::try_from(point).unwrap_or(0));
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        significant => significant,
    };
    let sign = if negative && padded.contains(|c| c != '0') { "-" } else { "" };
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{whole}{dot}{fraction}")
}

pub(super) fn date(raw: &str) -> Outcome {
    if has_clock_word(raw) {
        return Err(CLOCK);
    }
    match split_day(trim(raw)) {
        Some((day, "")) => Ok(text(format!("{:04}-{:02}-{:02}", day.year, day.month, day.day))),
        _ => Ok(Canonical::AskSource),
    }
}

pub(super) fn timestamp(raw: &str) -> Outcome {
    if has_clock_word(raw) {
        return Err(CLOCK);
    }
    match split_moment(trim(raw)) {
        Some((moment, "")) => Ok(text(moment.to_string())),
        _ => Ok(Canonical::AskSource),
    }
}

pub(super) fn timestamp_tz(raw: &str) -> Outcome {
    if has_clock_word(raw) {
        return Err(CLOCK);
    }
    let utc = split_moment(trim(raw))
        .and_then(|(moment, zone)| moment.minus_minutes(zone_minutes(zone)?));
    Ok(utc.map_or(Canonical::AskSource, |utc| text(format!("{utc}+00"))))
}

/// A day of the years 1 to 9999.
#[derive(Clone, Copy)]
struct Day {
    year: i32,
    month: i32,
    day: i32,
}

impl Day {
    fn new(year: i32, month: i32, day: i32) -> Option<Self> {
        let good =
            year >= 1 && (1..=12).contains(&month) && 1 <= day && day <= days_in(year, month);
        good.then_some(Self { year, month, day })
    }

    fn next(self) -> Option<Self> {
        Self::new(self.year, self.month, self.day + 1)
            .or_else(|| Self::new(self.year, self.month + 1, 1))
            .or_else(|| Self::new(self.year + 1, 1, 1).filter(|day| day.year <= 9999))
    }

    fn previous(self) -> Option<Self> {
        let last = |year, month| Self::new(year, month, days_in(year, month));
        Self::new(self.year, self.month, self.day - 1)
            .or_else(|| last(self.year, self.month - 1))
            .or_else(|| last(self.year - 1, 12))
    }
}

fn days_in(year: i32, month: i32) -> i32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// A day and a time of day, without a zone.
struct Moment {
    day: Day,
    minute_of_day: i32,
    second: i32,
    /// Its digits, without zeros at the end.
    fraction: String,
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Day { year, month, day } = self.day;
        let (hour, minute, second) =
            (self.minute_of_day / 60, self.minute_of_day % 60, self.second);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")?;
        if self.fraction.is_empty() { Ok(()) } else { write!(f, ".{}", self.fraction) }
    }
}

impl Moment {
    fn minus_minutes(self, minutes: i32) -> Option<Self> {
        const DAY: i32 = 24 * 60;
        let total = self.minute_of_day - minutes;
        let day = match total {
            ..0 => self.day.previous()?,
            DAY.. => self.day.next()?,
            _ => self.day,
        };
        Some(Self { day, minute_of_day: total.rem_euclid(DAY), ..self })
    }
}

/// The number that a fixed count of digits makes, and what follows.
fn split_number(text: &str, digits: usize) -> Option<(i32, &str)> {
    let (number, rest) = text.split_at_checked(digits)?;
    let plain = number.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| number.parse().ok()).flatten().map(|number| (number, rest))
}

/// `YYYY-MM-DD` and what follows.
fn split_day(text: &str) -> Option<(Day, &str)> {
    let (year, rest) = split_number(text, 4)?;
    let (month, rest) = split_number(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = split_number(rest.strip_prefix('-')?, 2)?;
    Some((Day::new(year, month, day)?, rest))
}

/// `YYYY-MM-DD`, perhaps with `HH:MM`, `HH:MM:SS` or a fraction, and what follows.
fn split_moment(text: &str) -> Option<(Moment, &str)> {
    let (day, rest) = split_day(text)?;
    if rest.is_empty() {
        return Some((Moment { day, minute_of_day: 0, second: 0, fraction: String::new() }, rest));
    }
    let (hour, rest) = split_number(rest.strip_prefix([' ', 'T'])?, 2)?;
    let (minute, rest) = split_number(rest.strip_prefix(':')?, 2)?;
    let (second, rest) = match rest.strip_prefix(':') {
        Some(rest) => split_number(rest, 2)?,
        None => (0, rest),
    };
    // A fraction belongs to seconds that are written: PostgreSQL reads 10:30.5 as minutes and seconds.
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("", rest),
    };
    let seconds_written = text.as_bytes().get(16) == Some(&b':');
    let empty_fraction = fraction.is_empty() && text.contains('.');
    if hour > 23 || minute > 59 || second > 59 || fraction.len() > 6 || empty_fraction {
        return None;
    }
    if !fraction.is_empty() && !seconds_written {
        return None;
    }
    let fraction = fraction.trim_end_matches('0').to_owned();
    Some((Moment { day, minute_of_day: hour * 60 + minute, second, fraction }, rest))
}

/// The minutes east of Greenwich that `Z`, `+HH`, `+HHMM` or `+HH:MM` say; UTC where nothing is said.
fn zone_minutes(zone: &str) -> Option<i32> {
    if zone.is_empty() || zone == "Z" {
        return Some(0);
    }
    let (sign, rest) = match zone.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, rest) = split_number(rest, 2)?;
    let minutes = match rest.strip_prefix(':').unwrap_or(rest) {
        "" if rest.is_empty() => 0,
        minutes => split_number(minutes, 2).filter(|(_, rest)| rest.is_empty())?.0,
    };
    (hours < 15 && minutes < 60).then_some(sign * (hours * 60 + minutes))
}

/// Hexadecimal, or a text that is its own bytes in every encoding of the source.
pub(super) fn bytea(raw: &str) -> Canonical {
    match raw.strip_prefix("\\x") {
        Some(digits) if digits.len() % 2 == 0 && digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
            text(format!("\\x{}", digits.to_ascii_lowercase()))
        }
        None if raw.is_ascii() && !raw.contains('\\') => {
            let digits: String = raw.bytes().map(|b| format!("{b:02x}")).collect();
            text(format!("\\x{digits}"))
        }
        _ => Canonical::AskSource,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn printed(outcome: Outcome) -> String {
        match outcome {
            Ok(Canonical::Text(text)) => text,
            Ok(Canonical::AskSource) => "ask".to_owned(),
            Err(_) => "bad".to_owned(),
        }
    }

    fn int4(raw: &str) -> Outcome {
        integer(raw, i32::MIN.into(), i32::MAX.into())
    }

    #[test]
    fn whole_numbers() {
        for (raw, want) in [
            ("007", "7"),
            (" +5\n", "5"),
            ("-0", "0"),
            ("2147483648", "bad"),
            ("-2147483648", "-2147483648"),
            ("99999999999999999999", "bad"),
            ("", "bad"),
            ("+", "bad"),
            ("1.0", "bad"),
            ("0x1f", "ask"),
            ("1_000", "ask"),
            ("\u{a0}1", "bad"),
        ] {
            assert_eq!(printed(int4(raw)), want, "{raw:?}");
        }
    }

    #[test]
    fn decimal_numbers_keep_their_scale() {
        for (raw, want) in [
            ("10.0", "10.0"),
            ("007.50", "7.50"),
            (".5", "0.5"),
            ("5.", "5"),
            ("-0.00", "0.00"),
            ("1e3", "1000"),
            ("1.5e1", "15"),
            ("1.50e1", "15.0"),
            ("12e-3", "0.012"),
            ("0e-2", "0.00"),
            ("-1.e+2 ", "-100"),
            (".", "bad"),
            ("1e", "bad"),
            ("1e 5", "ask"),
            ("NaN", "ask"),
            ("-inf", "ask"),
            ("1e999999", "ask"),
            ("--1", "bad"),
        ] {
            assert_eq!(printed(numeric(raw)), want, "{raw:?}");
        }
    }

    #[test]
    fn truths() {
        for (raw, want) in [
            ("t", "t"),
            (" TRUE ", "t"),
            ("y", "t"),
            ("on", "t"),
            ("o", "bad"),
            ("of", "f"),
            ("0", "f"),
            ("truex", "bad"),
            ("", "bad"),
        ] {
            assert_eq!(printed(boolean(raw)), want, "{raw:?}");
        }
    }

    #[test]
    fn uuids() {
        let want = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        for raw in [
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
        ] {
            assert_eq!(printed(uuid(raw)), want, "{raw:?}");
        }
        for raw in [
            "",
            "{",
            "}{",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a1",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11-",
            " a0eebc999c0b4ef8bb6d6bb9bd380a11",
        ] {
            assert_eq!(printed(uuid(raw)), "bad", "{raw:?}");
        }
    }

    #[test]
    fn days_and_moments() {
        for (raw, day, moment, utc) in [
            ("2024-02-29", "2024-02-29", "2024-02-29 00:00:00", "2024-02-29 00:00:00+00"),
            ("2023-02-29", "ask", "ask", "ask"),
            ("2024-01-01T10:30", "ask", "2024-01-01 10:30:00", "2024-01-01 10:30:00+00"),
            (
                "2024-01-01 10:30:05.120",
                "ask",
                "2024-01-01 10:30:05.12",
                "2024-01-01 10:30:05.12+00",
            ),
            ("2024-03-01T00:30:00+01", "ask", "ask", "2024-02-29 23:30:00+00"),
            ("2023-12-31 23:30:00-0130", "ask", "ask", "2024-01-01 01:00:00+00"),
            ("2024-01-01 10:00:00+05:30", "ask", "ask", "2024-01-01 04:30:00+00"),
            ("0001-01-01 00:00:00+01", "ask", "ask", "ask"),
            ("10:30", "ask", "ask", "ask"),
            ("today", "bad", "bad", "bad"),
            ("NOW", "bad", "bad", "bad"),
            ("tomorrow 10:00", "bad", "bad", "bad"),
            ("infinity", "ask", "ask", "ask"),
            ("2024-01-01 10:30.5", "ask", "ask", "ask"),
            ("2024-01-01 24:00:00", "ask", "ask", "ask"),
        ] {
            assert_eq!(printed(date(raw)), day, "date {raw:?}");
            assert_eq!(printed(timestamp(raw)), moment, "timestamp {raw:?}");
            assert_eq!(printed(timestamp_tz(raw)), utc, "timestamptz {raw:?}");
        }
    }

    #[test]
    fn bytes_are_hexadecimal() {
        assert_eq!(bytea("\\xDEad"), text("\\xdead"));
        assert_eq!(bytea("ab"), text("\\x6162"));
        for raw in ["\\xa", "a\\\\b", "æ", "\\x1 2"] {
            assert_eq!(bytea(raw), Canonical::AskSource, "{raw:?}");
        }
    }

    const FORMS: [fn(&str) -> Outcome; 9] = [
        int4,
        boolean,
        uuid,
        numeric,
        date,
        timestamp,
        timestamp_tz,
        |raw| Ok(oid(raw)),
        |raw| Ok(bytea(raw)),
    ];

    proptest! {
        #[test]
        fn a_canonical_text_is_its_own(raw in "[ +\\-]?[0-9a-fA-Fx_.:TZ{}+ \\-]{0,36}") {
            for form in FORMS {
                if let Ok(Canonical::Text(once)) = form(&raw) {
                    prop_assert_eq!(printed(form(&once)), once);
                }
            }
        }

        #[test]
        fn any_text_is_judged_without_panic(raw in "\\PC*") {
            for form in FORMS {
                drop(form(&raw));
            }
        }

        #[test]
        fn zones_are_undone(days in 0i32..3650, minute in 0i32..1440, zone in -839i32..840) {
            let mut day = Day::new(1999, 12, 30);
            for _ in 0..days {
                day = day.and_then(Day::next);
            }
            let there = Moment { day: day.unwrap(), minute_of_day: minute, second: 7, fraction: String::new() };
            let want = there.to_string();
            let back = there.minus_minutes(zone).and_then(|utc| utc.minus_minutes(-zone));
            prop_assert_eq!(back.map(|back| back.to_string()), Some(want));
        }

        #[test]
        fn whole_numbers_print_as_they_are(number: i32) {
            prop_assert_eq!(printed(int4(&format!("00{number}").replace("00-", "-00"))), number.to_string());
        }
    }
}
