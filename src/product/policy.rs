//! Policy: the TOML of a product's leading comment → checked settings.

use std::{ops::Range, path::Path, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Access, Binding, Eager, Fault, Policy, ResultKind, Stale, parse,
    schedule::{BadSchedule, Schedule},
    warm::{self, Warm},
};
use crate::description::ParameterSpec;

const SETTINGS: [&str; 12] = [
    "description",
    "refresh",
    "expire",
    "stale",
    "result",
    "params",
    "eager",
    "min_interval",
    "rls",
    "warm",
    "auth",
    "source",
];

/// Those of them that an update takes too.
const SETTINGS_OF_UPDATES: [&str; 3] = ["description", "params", "auth"];

/// Those of them that a product of another recipe takes too, before its own.
pub(super) const SETTINGS_OF_RECIPES: [&str; 17] = [
    "kind",
    "command",
    "workers",
    "url",
    "headers",
    "timeout",
    "depends",
    "description",
    "params",
    "refresh",
    "expire",
    "stale",
    "eager",
    "min_interval",
    "warm",
    "rls",
    "auth",
];

/// Those of a process that is not in SQL.
pub(super) const SETTINGS_OF_PROCESS_RECIPES: [&str; 9] =
    ["kind", "command", "workers", "url", "headers", "description", "every", "cron", "timeout"];

/// Those of a process, of which some are its own.
const SETTINGS_OF_PROCESSES: [&str; 4] = ["description", "every", "cron", "timeout"];

/// The longest time a setting may name, in milliseconds: a hundred years.
const MILLISECONDS_MAX: u64 = 36_525 * 86_400_000;

/// The most schedules of one product.
const SCHEDULES_MAX: usize = 16;

/// What a header says.
#[derive(Debug, Default)]
pub(super) struct Header {
    /// The settings.
    pub(super) policy: Policy,
    /// `params`, in the order they are written; `None` where the header has none.
    pub(super) parameters: Option<Vec<ParameterSpec>>,
}

/// Reads the header that lies at `range` of the file's text.
///
/// # Errors
/// Every fault found.
pub(super) fn read(file: &Path, text: &str, range: Range<usize>) -> Result<Header, Vec<Fault>> {
    read_taking((&SETTINGS, "a product"), file, text, range)
}

/// As [`read`], of an update.
///
/// # Errors
/// Every fault found.
pub(super) fn read_update(
    file: &Path,
    text: &str,
    range: Range<usize>,
) -> Result<Header, Vec<Fault>> {
    read_taking((&SETTINGS_OF_UPDATES, "an update"), file, text, range)
}

/// As [`read`], of a process.
///
/// # Errors
/// Every fault found.
pub(super) fn read_process(
    file: &Path,
    text: &str,
    range: Range<usize>,
) -> Result<Header, Vec<Fault>> {
    read_taking((&SETTINGS_OF_PROCESSES, "a process"), file, text, range)
}

fn read_taking(
    (takes, one): (&'static [&'static str], &'static str),
    file: &Path,
    text: &str,
    range: Range<usize>,
) -> Result<Header, Vec<Fault>> {
    let toml = text.get(range.clone()).unwrap_or_default();
    let mut reader = Reader { start: range.start, ..Reader::new(file, text, takes, one) };
    let mut header = Header::default();
    match DeTable::parse(toml) {
        Ok(table) => {
            for (key, value) in table.get_ref() {
                reader.setting(&mut header, key, value);
            }
        }
        Err(error) => {
            let at = error.span().unwrap_or_default();
            let hint = "the comment `/* kck … */` holds TOML, and the first `*/` ends it";
            reader.fault(&at, error.message().replace('\n', ", "), hint);
        }
    }
    if reader.faults.is_empty() { Ok(header) } else { Err(reader.faults) }
}

type Value<'a> = Spanned<DeValue<'a>>;

/// Reads settings, one by one.
pub(super) struct Reader<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
    start: usize,
    takes: &'static [&'static str],
    /// What takes them: `an update`.
    one: &'static str,
    pub(super) faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    /// Reads settings of these names, whose places are those of `text`.
    pub(super) fn new(
        file: &'a Path,
        text: &'a str,
        takes: &'static [&'static str],
        one: &'static str,
    ) -> Self {
        Self { file, text, start: 0, takes, one, faults: Vec::new() }
    }

    pub(super) fn fault(
        &mut self,
        at: &Range<usize>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.faults.push(Fault::at(self.file, self.text, self.start + at.start, what, hint));
    }

    pub(super) fn setting(
        &mut self,
        header: &mut Header,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Value<'_>,
    ) {
        let (name, policy) = (key.get_ref().as_ref(), &mut header.policy);
        if !self.takes.contains(&name) {
            return self.unknown(name, &key.span());
        }
        match name {
            "description" => policy.description = self.string(name, value).map(str::to_owned),
            "refresh" => (policy.change, policy.schedules) = self.refresh(value),
            "expire" => policy.expire = self.duration(name, value, Duration::from_millis(1)),
            "min_interval" => {
                policy.min_interval =
                    self.duration(name, value, Duration::ZERO).unwrap_or_default();
            }
            "stale" => {
                policy.stale =
                    self.choice(name, value, &[("serve", Stale::Serve), ("wait", Stale::Wait)]);
            }
            "result" => {
                let kinds = [
                    ("rows", ResultKind::Rows),
                    ("arrays", ResultKind::Arrays),
                    ("row", ResultKind::Row),
                    ("value", ResultKind::Value),
                ];
                policy.result = self.choice(name, value, &kinds);
            }
            "eager" => {
                let kinds =
                    [("hot", Eager::Hot), ("always", Eager::Always), ("never", Eager::Never)];
                policy.eager = self.choice(name, value, &kinds);
            }
            "rls" => policy.own_row_security = self.choice(name, value, &[("kck", true)]),
            "params" => header.parameters = self.parameters(value),
            "warm" => policy.warm = self.warm(value),
            "source" if self.string(name, value).is_some() => self.unsupported(name, &key.span()),
            "auth" => policy.access = self.access(value),
            "source" => {}
            "every" | "cron" => self.clock(policy, name, key, value),
            "timeout" => policy.timeout = self.duration(name, value, Duration::from_millis(1)),
            _ => self.unknown(name, &key.span()),
        }
    }

    /// The one schedule of a process.
    fn clock(
        &mut self,
        policy: &mut Policy,
        name: &str,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Value<'_>,
    ) {
        let Some(text) = self.string(name, value) else { return };
        if !policy.schedules.is_empty() {
            return self.fault(&key.span(), "it has every and cron", "say one of them");
        }
        match Schedule::read(&format!("{name} {text}")) {
            Some(Ok(schedule)) => policy.schedules.push(schedule),
            Some(Err(BadSchedule { what, hint })) => {
                let hint = hint.replace(&format!("\"{name} "), "\"");
                self.fault(&value.span(), format!("{name} cannot be '{text}': {what}"), hint);
            }
            None => self.wrong(name, value, "a schedule"),
        }
    }

    fn unsupported(&mut self, name: &str, at: &Range<usize>) {
        self.fault(at, format!("{name} is not supported yet"), "leave it out");
    }

    fn unknown(&mut self, name: &str, at: &Range<usize>) {
        let takes = self.takes.join(", ");
        if SETTINGS.contains(&name) {
            let hint = format!("{} takes {takes}", self.one);
            let whose =
                if self.one == "a product of this kind" { "products in SQL" } else { "products" };
            return self.fault(at, format!("{name} is a setting of {whose}"), hint);
        }
        let hint = match nearest(name, self.takes) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("settings are {takes}"),
        };
        self.fault(at, format!("unknown setting '{name}'"), hint);
    }

    pub(super) fn string<'v>(&mut self, name: &str, value: &'v Value<'_>) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong(name, value, "a string");
        }
        text
    }

    pub(super) fn wrong(&mut self, name: &str, value: &Value<'_>, wanted: &str) {
        let found = value.get_ref().type_str();
        self.fault(
            &value.span(),
            format!("{name} is of type {found}"),
            format!("it takes {wanted}"),
        );
    }

    fn choice<T: Copy + Default>(
        &mut self,
        name: &str,
        value: &Value<'_>,
        choices: &[(&str, T)],
    ) -> T {
        let Some(text) = self.string(name, value) else { return T::default() };
        if let Some((_, chosen)) = choices.iter().find(|(choice, _)| *choice == text) {
            return *chosen;
        }
        let names: Vec<_> = choices.iter().map(|(choice, _)| format!("\"{choice}\"")).collect();
        self.fault(
            &value.span(),
            format!("{name} cannot be '{text}'"),
            format!("it takes {}", names.join(" or ")),
        );
        T::default()
    }

    pub(super) fn duration(
        &mut self,
        name: &str,
        value: &Value<'_>,
        min: Duration,
    ) -> Option<Duration> {
        let text = self.string(name, value)?;
        let duration = parse_duration(text).filter(|duration| min <= *duration);
        if duration.is_none() {
            let what = format!("{name} cannot be '{text}'");
            self.fault(
                &value.span(),
                what,
                "write a duration like \"250ms\", \"30s\", \"15m\", \"24h\" or \"7d\"",
            );
        }
        duration
    }

    /// Whether the product follows changes, and what else makes its keys be computed again.
    fn refresh(&mut self, value: &Value<'_>) -> (bool, Vec<Schedule>) {
        let (mut change, mut schedules) = (false, Vec::new());
        let Some(entries) = value.get_ref().as_array() else {
            self.wrong("refresh", value, "an array like [\"change\"]");
            return (true, schedules);
        };
        for entry in entries {
            let Some(text) = self.string("an entry of refresh", entry) else { continue };
            match Schedule::read(text) {
                _ if text == "change" => change = true,
                Some(Ok(schedule)) => schedules.push(schedule),
                Some(Err(BadSchedule { what, hint })) => {
                    let what = format!("refresh cannot hold '{text}': {what}");
                    self.fault(&entry.span(), what, hint);
                }
                None => {
                    let hint = "it takes \"change\", \"boot\", \"every 30s\" and \"cron 0 6 * * * Europe/Oslo\"";
                    self.fault(&entry.span(), format!("refresh cannot hold '{text}'"), hint);
                }
            }
        }
        if schedules.len() > SCHEDULES_MAX {
            let what = format!("refresh holds {} schedules", schedules.len());
            self.fault(&value.span(), what, format!("it takes at most {SCHEDULES_MAX}"));
        }
        (change, schedules)
    }

    fn warm(&mut self, value: &Value<'_>) -> Option<Warm> {
        let said = self.string("warm", value)?;
        match warm::read(self.file, self.text, self.start + value.span().start, said) {
            Ok(warm) => Some(warm),
            Err(fault) => {
                self.faults.push(fault);
                None
            }
        }
    }

    /// Who may read the product.
    fn access(&mut self, value: &Value<'_>) -> Access {
        let mut access = Access::default();
        let Some(table) = value.get_ref().as_table() else {
            self.wrong("auth", value, "a table like [auth]");
            return access;
        };
        let mut public_at = None;
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "public" => match value.get_ref().as_bool() {
                    Some(public) => {
                        access.public = public;
                        public_at = public.then(|| key.span());
                    }
                    None => self.wrong("public", value, "true or false"),
                },
                "scope" => access.scope = self.scope(value),
                "claims" => access.claims = self.bindings(value),
                other => {
                    let what = format!("unknown setting '{other}' of [auth]");
                    self.fault(&key.span(), what, "it has `public`, `scope` and `claims`");
                }
            }
        }
        if let Some(at) = public_at
            && (access.scope.is_some() || !access.claims.is_empty())
        {
            let what = "what is public asks for no scope and no claims";
            self.fault(&at, what, "leave `public` out, or `scope` and `claims`");
        }
        access
    }

    fn scope(&mut self, value: &Value<'_>) -> Option<String> {
        let text = self.string("scope", value)?;
        let sound = |b: u8| matches!(b, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
        if !text.is_empty() && text.bytes().all(sound) {
            return Some(text.to_owned());
        }
        let hint = "it takes one scope, without blanks: \"orders:read\"";
        self.fault(&value.span(), format!("scope cannot be '{text}'"), hint);
        None
    }

    /// Which parameter must equal which claim, in the order they are written.
    fn bindings(&mut self, value: &Value<'_>) -> Vec<Binding> {
        let Some(table) = value.get_ref().as_table() else {
            self.wrong("claims", value, "a table like { customer_id = \"sub\" }");
            return Vec::new();
        };
        let mut bindings = Vec::new();
        for (key, value) in table {
            let Some(claim) = self.string("a claim's name", value) else { continue };
            if claim.is_empty() {
                let hint = "name the claim that the parameter must equal: \"sub\"";
                self.fault(&value.span(), "a claim's name is empty", hint);
            }
            bindings.push(Binding {
                parameter: key.get_ref().clone().into_owned(),
                claim: claim.to_owned(),
                offset: self.start + key.span().start,
            });
        }
        bindings.sort_by_key(|binding| binding.offset);
        bindings
    }

    fn parameters(&mut self, value: &Value<'_>) -> Option<Vec<ParameterSpec>> {
        let Some(table) = value.get_ref().as_table() else {
            self.wrong("params", value, "a table like { id = \"bigint\" }");
            return None;
        };
        let mut specs = Vec::new();
        for (key, value) in table {
            if let Some(spec) = self.parameter(key.get_ref(), key.span().start, value) {
                specs.push(spec);
            }
        }
        // The table is sorted by name; keys are made in the order of the text.
        specs.sort_by_key(|spec| spec.offset);
        Some(specs)
    }

    fn parameter(&mut self, name: &str, at: usize, value: &Value<'_>) -> Option<ParameterSpec> {
        let mut spec = ParameterSpec {
            name: name.to_owned(),
            type_name: None,
            default: None,
            offset: self.start + at,
        };
        if let Some(type_name) = value.get_ref().as_str() {
            spec.type_name = self.type_name(type_name, value);
            return Some(spec);
        }
        let Some(table) = value.get_ref().as_table() else {
            self.wrong(
                &format!("params.{name}"),
                value,
                "a type, or { type = \"bigint\", default = \"20\" }",
            );
            return None;
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "type" => {
                    let text = self.string("type", value).unwrap_or_default();
                    spec.type_name = self.type_name(text, value);
                }
                "default" => spec.default = self.string("default", value).map(str::to_owned),
                other => self.fault(
                    &key.span(),
                    format!("unknown setting '{other}' of parameter '{name}'"),
                    "a parameter has `type` and `default`",
                ),
            }
        }
        Some(spec)
    }

    fn type_name(&mut self, text: &str, value: &Value<'_>) -> Option<String> {
        if parse::is_type_name(text) {
            return Some(text.to_owned());
        }
        let hint = "write it as in a cast: \"bigint\", \"timestamptz\", \"shop.state\", \"text[]\"";
        self.fault(&value.span(), format!("'{text}' is not the name of a type"), hint);
        None
    }
}

/// `250ms`, `30s`, `15m`, `24h`, `7d`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(unit_at)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let total = number.parse::<u64>().ok()?.checked_mul(milliseconds)?;
    (total <= MILLISECONDS_MAX).then(|| Duration::from_millis(total))
}

/// The name that `name` was probably meant to be.
fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let measured = names.iter().map(|known| (distance(name, known), *known));
    measured
        .min()
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .map(|(_, known)| known)
}

/// How many characters must be put in, taken out or replaced.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((to, above), diagonal) in b.chars().zip(row.iter().skip(1)).zip(&row) {
            let left = next.last().copied().unwrap_or_default();
            next.push((diagonal + usize::from(from != to)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(toml: &str) -> Result<Header, Vec<Fault>> {
        read(Path::new("p.sql"), toml, 0..toml.len())
    }

    fn fault(toml: &str) -> String {
        let faults = header(toml).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults[0].to_string()
    }

    #[test]
    fn every_setting_is_read() {
        let read = header(
            "description = \"d\"\nrefresh = []\nexpire = \"24h\"\nstale = \"wait\"\nresult = \"value\"\n\
             eager = \"always\"\nmin_interval = \"250ms\"\nrls = \"kck\"\n\
             params = { z = \"bigint\", a = { type = \"double precision\", default = \"20\" } }",
        )
        .unwrap();
        let want = Policy {
            description: Some("d".to_owned()),
            change: false,
            schedules: Vec::new(),
            warm: None,
            expire: Some(Duration::from_secs(86_400)),
            stale: Stale::Wait,
            result: ResultKind::Value,
            eager: Eager::Always,
            min_interval: Duration::from_millis(250),
            own_row_security: true,
            access: Access::default(),
            timeout: None,
        };
        assert_eq!(read.policy, want);
        let names: Vec<_> = read
            .parameters
            .unwrap()
            .into_iter()
            .map(|p| (p.name, p.type_name, p.default))
            .collect();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            names,
            [
                ("z".into(), text("bigint"), None),
                ("a".into(), text("double precision"), text("20"))
            ]
        );
    }

    #[test]
    fn who_may_read_is_read() {
        let access = |toml: &str| header(toml).unwrap().policy.access;
        assert_eq!(access("[auth]\npublic = true"), Access { public: true, ..Access::default() });
        let bound =
            access("[auth]\nscope = \"orders:read\"\nclaims = { z = \"sub\", a = \"tenant\" }");
        assert_eq!(bound.scope.as_deref(), Some("orders:read"));
        let claims: Vec<_> =
            bound.claims.iter().map(|b| (b.parameter.as_str(), b.claim.as_str())).collect();
        assert_eq!(claims, [("z", "sub"), ("a", "tenant")]);
        assert_eq!(access("[auth]\npublic = false"), Access::default());
    }

    #[test]
    fn an_access_that_means_nothing_is_refused() {
        for (toml, want) in [
            ("auth = true", "auth is of type boolean"),
            ("[auth]\npublic = \"yes\"", "public is of type string"),
            ("[auth]\npublic = true\nscope = \"x\"", "p.sql:2:1: what is public asks for no scope"),
            ("[auth]\nscopes = [\"x\"]", "unknown setting 'scopes' of [auth]"),
            ("[auth]\nscope = \"a b\"", "scope cannot be 'a b'"),
            ("[auth]\nscope = \"\"", "scope cannot be ''"),
            ("[auth]\nclaims = [\"sub\"]", "claims is of type array"),
            ("[auth]\nclaims = { a = 1 }", "a claim's name is of type integer"),
            ("[auth]\nclaims = { a = \"\" }", "a claim's name is empty"),
        ] {
            assert!(fault(toml).contains(want), "{toml}: {}", fault(toml));
        }
    }

    #[test]
    fn nothing_said_follows_changes() {
        assert_eq!(header("").unwrap().policy, Policy::default());
        assert!(Policy::default().change);
    }

    #[test]
    fn faults_name_the_place_and_the_nearest_setting() {
        assert_eq!(
            fault("\n  expires = \"1h\""),
            "p.sql:2:3: unknown setting 'expires'\n  hint: did you mean `expire`?"
        );
        assert!(fault("colour = 1").contains("settings are description, refresh"));
        assert_eq!(
            fault("stale = 3"),
            "p.sql:1:9: stale is of type integer\n  hint: it takes a string"
        );
        assert!(fault("stale = \"soon\"").contains("it takes \"serve\" or \"wait\""));
        assert!(
            fault("description = \"æ\"\nexpire = \"1 h\"")
                .starts_with("p.sql:2:10: expire cannot be '1 h'")
        );
        assert!(fault("stale = ").starts_with("p.sql:1:"));
    }

    #[test]
    fn an_update_takes_fewer_settings() {
        let read = |toml: &str| read_update(Path::new("u.sql"), toml, 0..toml.len());
        let header = read("description = \"d\"\nparams = { a = \"int\" }").unwrap();
        assert_eq!(header.policy.description.as_deref(), Some("d"));
        for (toml, what) in [
            ("stale = \"wait\"", "u.sql:1:1: stale is a setting of products"),
            ("refresh = []", "u.sql:1:1: refresh is a setting of products"),
            ("parms = {}", "u.sql:1:1: unknown setting 'parms'\n  hint: did you mean `params`?"),
        ] {
            let faults = read(toml).unwrap_err();
            assert!(faults[0].to_string().starts_with(what), "{}", faults[0]);
        }
    }

    #[test]
    fn what_is_not_built_yet_is_said() {
        assert!(fault("source = \"other\"").contains("source is not supported yet"));
    }

    #[test]
    fn schedules_are_read_in_their_order() {
        let policy =
            header("refresh = [\"change\", \"boot\", \"every 30s\", \"cron 0 6 * * 1,3 Europe/Oslo\"]\nwarm = \"keys of q\"")
                .unwrap()
                .policy;
        assert!(policy.change && policy.at_boot() && policy.is_timed());
        assert_eq!(
            policy.refreshes(),
            ["change", "boot", "every 30s", "cron 0 6 * * 1,3 Europe/Oslo"]
        );
        assert_eq!(policy.warm.unwrap().to_string(), "keys of q");
        let boot = header("refresh = [\"boot\"]").unwrap().policy;
        assert!(!boot.change && !boot.is_timed());
    }

    #[test]
    fn a_schedule_that_is_none_is_told_where() {
        for (entry, want) in [
            ("every", "p.sql:1:12: refresh cannot hold 'every': it names no duration"),
            ("every 500ms", "the period is under one second"),
            ("cron 0 6 * *", "p.sql:1:12: refresh cannot hold 'cron 0 6 * *': it has 4 fields"),
            ("cron 0 6 * * * Europe/Olso", "there is no time zone 'Europe/Olso'"),
            ("hourly", "p.sql:1:12: refresh cannot hold 'hourly'"),
        ] {
            let fault = fault(&format!("refresh = [\"{entry}\"]"));
            assert!(fault.contains(want) && fault.contains("hint: "), "{entry}: {fault}");
        }
        let many = vec!["\"every 30s\""; 17].join(", ");
        assert!(fault(&format!("refresh = [{many}]")).contains("it takes at most 16"));
    }

    #[test]
    fn a_type_is_only_a_type() {
        for good in [
            "bigint",
            "timestamp with time zone",
            "character varying(10)",
            "shop.\"State\"[]",
            "numeric(10, 2)",
        ] {
            assert!(header(&format!("params = {{ a = '{good}' }}")).is_ok(), "{good}");
        }
        for bad in ["", "int, 1", "int from t", "int x", "int) --", "int; drop table t", "1"] {
            assert!(
                fault(&format!("params = {{ a = '{bad}' }}")).contains("is not the name of a type"),
                "{bad}"
            );
        }
    }

    #[test]
    fn durations_have_limits() {
        assert_eq!(parse_duration("7d"), Some(Duration::from_secs(604_800)));
        for bad in ["", "s", "1", "-1s", "1.5s", "18446744073709551615d", "36526d", "1S"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
