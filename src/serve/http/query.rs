//! A query string → keys, parameters by name and what the reader demands. Pure.
//!
//! Strict: everything unknown, given twice or encoding nothing is refused by name, so that a misspelt demand
//! is never quietly not met. `key` alone may repeat.

use std::time::Duration;

use crate::{
    change::Epoch,
    key::{self, BadSegment},
    serve::{
        form::Form,
        problem::Problem,
        read::{Demand, Token},
        share::Client,
    },
};

/// How long a read waits when it does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(5);

/// How many keys a list has where nothing is said.
const PAGE_DEFAULT: usize = 100;

/// What reads take, for the hint of a refusal.
pub(super) const READ_TAKES: &str = "min_lsn, wait, max_staleness, fresh, after, format, key";

/// A query of `/fetch`, read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// `key=…`, each as written in a path.
    pub(super) keys: Vec<String>,
    /// Every other name, with its value still encoded: parameters, if the product has them.
    pub(super) named: Vec<(String, String)>,
    /// What the reader demands.
    pub(super) demand: Demand,
    /// In which form.
    pub(super) form: Option<Form>,
}

impl Query {
    /// Reads a raw query; waits are cut to `wait_max`.
    pub(super) fn parse(
        raw: Option<&str>,
        wait_max: Duration,
        client: Client,
    ) -> Result<Self, Problem> {
        let demand = Demand::plain(WAIT_DEFAULT.min(wait_max), client);
        let mut query = Self { keys: Vec::new(), named: Vec::new(), demand, form: None };
        let mut seen: Vec<String> = Vec::new();
        for (name, value) in pairs(raw) {
            let name = decode(name).map_err(|fault| Problem::bad_encoding(name, fault))?;
            if name != "key" && seen.contains(&name) {
                return Err(Problem::bad_request(
                    &name,
                    format!("query parameter '{name}' is given twice"),
                    "give it once",
                ));
            }
            query.take(&name, value, wait_max)?;
            seen.push(name);
        }
        Ok(query)
    }

    fn take(&mut self, name: &str, value: &str, wait_max: Duration) -> Result<(), Problem> {
        let demand = &mut self.demand;
        match name {
            "key" => self.keys.push(text(name, value)?),
            "min_lsn" => demand.min_lsn = Some(token(name, &text(name, value)?)?),
            "wait" => demand.wait = duration(name, &text(name, value)?)?.min(wait_max),
            "max_staleness" => demand.max_staleness = Some(duration(name, &text(name, value)?)?),
            "fresh" => demand.fresh = boolean(name, &text(name, value)?)?,
            "after" => demand.after = Some(number(name, &text(name, value)?)?),
            "format" => self.form = Some(form(name, &text(name, value)?)?),
            "consistent" => {
                let message = format!("'{name}' is not supported yet");
                return Err(Problem::bad_request(name, message, "leave it out"));
            }
            _ => self.named.push((name.to_owned(), value.to_owned())),
        }
        Ok(())
    }

    /// Refuses names that are no setting of a read, where there is no product that could have them.
    pub(super) fn without_names(&self) -> Result<(), Problem> {
        let unknown = self.named.first().map(|(name, _)| Problem::unknown_query(name, READ_TAKES));
        unknown.map_or(Ok(()), Err)
    }
}

/// `max_staleness` of `/readyz`, which takes nothing else.
pub(super) fn max_staleness(raw: Option<&str>) -> Result<Option<Duration>, Problem> {
    let mut given = None;
    for (name, value) in pairs(raw) {
        if name != "max_staleness" {
            return Err(Problem::unknown_query(name, "max_staleness"));
        }
        if given.is_some() {
            return Err(Problem::bad_request(
                name,
                format!("'{name}' is given twice"),
                "give it once",
            ));
        }
        given = Some(duration(name, &text(name, value)?)?);
    }
    Ok(given)
}

/// The key of a path, or the one that a query names where the path has none.
pub(super) fn one_key(path: &str, raw: Option<&str>) -> Result<String, Problem> {
    let mut named = None;
    for (name, value) in pairs(raw) {
        if name != "key" || !path.is_empty() || named.is_some() {
            let takes = if path.is_empty() { "key, once" } else { "none" };
            return Err(Problem::unknown_query(name, takes));
        }
        named = Some(text(name, value)?);
    }
    let hint = "give it in the path, or as ?key=";
    named
        .or_else(|| (!path.is_empty()).then(|| path.to_owned()))
        .ok_or_else(|| Problem::bad_request("key", "no key is asked for", hint))
}

/// Part of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Where the last part ended.
    pub(super) after: String,
    pub(super) limit: usize,
}

/// `limit` and `after` of a list.
pub(super) fn page(raw: Option<&str>, most: usize) -> Result<Page, Problem> {
    let mut page = Page { after: String::new(), limit: PAGE_DEFAULT.min(most) };
    for (name, value) in pairs(raw) {
        let value = text(name, value)?;
        match name {
            "after" => page.after = value,
            "limit" => {
                let limit = whole(&value).and_then(|limit| usize::try_from(limit).ok());
                let sound = limit.filter(|limit| (1..=most).contains(limit));
                page.limit =
                    sound.ok_or_else(|| refuse(name, &value, "a number from 1 to the limit"))?;
            }
            _ => return Err(Problem::unknown_query(name, "limit, after")),
        }
    }
    Ok(page)
}

/// The keys of a subscription, and the last id that the reader has seen.
pub(super) fn subscription(raw: Option<&str>) -> Result<(Vec<String>, Option<String>), Problem> {
    let (mut keys, mut last) = (Vec::new(), None);
    for (name, value) in pairs(raw) {
        match name {
            "key" => keys.push(text(name, value)?),
            "last_event_id" if last.is_none() => last = Some(text(name, value)?),
            _ => return Err(Problem::unknown_query(name, "key, last_event_id")),
        }
    }
    Ok((keys, last))
}

/// Refuses any query, on routes that take none.
pub(super) fn nothing(raw: Option<&str>) -> Result<(), Problem> {
    let unknown = pairs(raw).next().map(|(name, _)| Problem::unknown_query(name, "none"));
    unknown.map_or(Ok(()), Err)
}

/// Decodes a name or value of a query, once and strictly; `+` is a space, as browsers write it.
pub(super) fn decode(raw: &str) -> Result<String, BadSegment> {
    if raw.contains('+') { key::decode(&raw.replace('+', "%20")) } else { key::decode(raw) }
}

/// The raw names and values.
fn pairs(raw: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    let items = raw.unwrap_or_default().split('&').filter(|item| !item.is_empty());
    items.map(|item| item.split_once('=').unwrap_or((item, "")))
}

fn text(name: &str, value: &str) -> Result<String, Problem> {
    decode(value).map_err(|fault| Problem::bad_encoding(name, fault))
}

fn refuse(name: &str, value: &str, wanted: &'static str) -> Problem {
    let shown: String = value.chars().take(64).collect();
    Problem::bad_request(
        name,
        format!("{name}: '{shown}' is not {wanted}"),
        format!("write {wanted}"),
    )
}

/// `0/16B3748`, or with its epoch `3:0/16B3748`.
fn token(name: &str, value: &str) -> Result<Token, Problem> {
    let refused = || refuse(name, value, "a log position like 0/16B3748 or 3:0/16B3748");
    let (epoch, lsn) = match value.split_once(':') {
        Some((epoch, lsn)) => (Some(whole(epoch).ok_or_else(refused)?), lsn),
        None => (None, value),
    };
    let epoch = epoch.map(u8::try_from).transpose().map_err(|_| refused())?.map(Epoch);
    Ok(Token { epoch, lsn: lsn.parse().map_err(|_| refused())? })
}

/// `200ms`, `5s`, `2m`, `1h`.
fn duration(name: &str, value: &str) -> Result<Duration, Problem> {
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = value.split_at(digits);
    let unit_ms = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    whole(number)
        .zip(unit_ms)
        .and_then(|(number, unit_ms)| number.checked_mul(unit_ms))
        .map(Duration::from_millis)
        .ok_or_else(|| refuse(name, value, "a duration like 200ms, 5s, 2m or 1h"))
}

fn boolean(name: &str, value: &str) -> Result<bool, Problem> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(refuse(name, value, "true or false")),
    }
}

fn form(name: &str, value: &str) -> Result<Form, Problem> {
    Form::named(value).ok_or_else(|| refuse(name, value, "json, ndjson or csv"))
}

fn number(name: &str, value: &str) -> Result<u64, Problem> {
    whole(value).ok_or_else(|| refuse(name, value, "a version, as an answer gave it"))
}

/// Digits only: `parse` alone would take a sign.
fn whole(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Lsn;
    use proptest::prelude::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn nobody() -> Client {
        Client::Address(std::net::Ipv4Addr::LOCALHOST.into())
    }

    fn parse(raw: &str) -> Query {
        Query::parse(Some(raw), LIMIT, nobody())
            .unwrap_or_else(|problem| panic!("{raw}: {}", problem.message))
    }

    /// Refused, naming `named`.
    fn refused(raw: &str, named: &str) {
        let problem =
            Query::parse(Some(raw), LIMIT, nobody()).and_then(|query| query.without_names());
        let problem = problem.expect_err(raw);
        assert_eq!((problem.status(), problem.args), (400, vec![named.to_owned()]), "{raw}");
    }

    #[test]
    fn no_query_demands_nothing_and_waits_five_seconds() {
        let query = Query::parse(None, LIMIT, nobody()).unwrap();
        assert_eq!(query.demand.wait, Duration::from_secs(5));
        assert_eq!(query, parse(""));
        assert_eq!(query, parse("&"));
    }

    #[test]
    fn every_demand_is_read() {
        let query = parse("min_lsn=0/16B3748&wait=250ms&max_staleness=2m&fresh=true&after=17");
        let token = Token { epoch: None, lsn: Lsn(0x16B_3748) };
        let want = Demand {
            min_lsn: Some(token),
            max_staleness: Some(Duration::from_secs(120)),
            fresh: true,
            after: Some(17),
            wait: Duration::from_millis(250),
            client: nobody(),
        };
        assert_eq!(query.demand, want);
    }

    #[test]
    fn a_position_may_carry_its_epoch_and_be_encoded() {
        let want = Some(Token { epoch: Some(Epoch(3)), lsn: Lsn(255) });
        assert_eq!(parse("min_lsn=3:0/FF").demand.min_lsn, want);
        assert_eq!(parse("min_lsn=3%3A0%2Fff").demand.min_lsn, want);
    }

    #[test]
    fn waits_are_cut_to_the_limit() {
        assert_eq!(parse("wait=1h").demand.wait, LIMIT);
        let short = Duration::from_secs(1);
        assert_eq!(Query::parse(None, short, nobody()).unwrap().demand.wait, short);
    }

    #[test]
    fn keys_repeat_in_order_and_are_decoded_once() {
        assert_eq!(
            parse("key=p/%252E%252E&key=p%2Fa%2520b&key=p/1").keys,
            ["p/%2E%2E", "p/a%20b", "p/1"]
        );
    }

    #[test]
    fn other_names_are_kept_with_their_values_encoded() {
        assert_eq!(parse("city=O%73lo").named, [("city".to_owned(), "O%73lo".to_owned())]);
    }

    #[test]
    fn what_is_unknown_twice_or_malformed_is_refused_by_name() {
        for (raw, named) in [
            ("min_lns=0/1", "min_lns"),
            ("fresh=true&fresh=true", "fresh"),
            ("x=1&x=2", "x"),
            ("format=xml", "format"),
            ("consistent=true", "consistent"),
            ("fresh=1", "fresh"),
            ("fresh", "fresh"),
            ("wait=5", "wait"),
            ("wait=s", "wait"),
            ("wait=-1s", "wait"),
            ("wait=1.5s", "wait"),
            ("wait=99999999999999999999s", "wait"),
            ("wait=9999999999999999h", "wait"),
            ("max_staleness=", "max_staleness"),
            ("after=+1", "after"),
            ("after=-1", "after"),
            ("after=18446744073709551616", "after"),
            ("min_lsn=0", "min_lsn"),
            ("min_lsn=256:0/1", "min_lsn"),
            ("min_lsn=:0/1", "min_lsn"),
            ("key=%", "key"),
            ("key=%FF", "key"),
            ("%zz=1", "%zz"),
        ] {
            refused(raw, named);
        }
    }

    #[test]
    fn a_plus_is_a_space_in_a_query() {
        assert_eq!(decode("a+b%2Bc").unwrap(), "a b+c");
    }

    #[test]
    fn a_key_comes_in_the_path_or_in_the_query() {
        assert_eq!(one_key("p/1", None).unwrap(), "p/1");
        assert_eq!(one_key("", Some("key=p%2F%252E")).unwrap(), "p/%2E");
        for (path, raw) in [("p/1", "key=p/2"), ("", ""), ("", "key=a&key=b"), ("", "keys=a")] {
            assert!(one_key(path, Some(raw)).is_err(), "{path}?{raw}");
        }
        let page = page(Some("limit=7&after=p/1"), 10).unwrap();
        assert_eq!(page, Page { after: "p/1".to_owned(), limit: 7 });
        assert!(super::page(Some("limit=11"), 10).is_err());
        assert!(super::page(Some("limit=0"), 10).is_err());
    }

    #[test]
    fn readiness_takes_one_setting() {
        assert_eq!(max_staleness(None).unwrap(), None);
        assert_eq!(
            max_staleness(Some("max_staleness=10s")).unwrap(),
            Some(Duration::from_secs(10))
        );
        assert!(max_staleness(Some("max_stalenes=10s")).is_err());
        assert!(max_staleness(Some("max_staleness=1s&max_staleness=2s")).is_err());
        assert!(nothing(Some("a")).is_err() && nothing(Some("")).is_ok());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(raw in "\\PC*|([a-z_]{0,13}=[%0-9a-fA-F/:+ms]{0,9}&?){0,4}") {
            drop(Query::parse(Some(&raw), LIMIT, nobody()));
            drop(max_staleness(Some(&raw)));
        }
    }
}
