//! Texts of settings → values of their kinds, each refusal with its setting and what to write instead.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    BadSetting, Cassandra, SETTINGS, StoreKind, auth, bad, parse_bytes, parse_duration,
    setting_name, without_password,
};

/// Settings as texts, defaults not filled in.
pub(super) struct Raw(pub(super) BTreeMap<(String, String), String>);

impl Raw {
    pub(super) fn text(&self, section: &str, name: &str) -> String {
        let given = self.0.get(&(section.to_owned(), name.to_owned()));
        given.cloned().unwrap_or_else(|| {
            let setting = SETTINGS.iter().find(|(s, n, ..)| (*s, *n) == (section, name));
            setting.map_or_else(String::new, |(_, _, default, _)| (*default).to_owned())
        })
    }

    /// Whether anything of a section is given.
    pub(super) fn given(&self, section: &str) -> bool {
        self.0.keys().any(|(of, _)| of == section)
    }

    /// Whether a setting is given, even as nothing.
    pub(super) fn has(&self, section: &str, name: &str) -> bool {
        self.0.contains_key(&(section.to_owned(), name.to_owned()))
    }

    pub(super) fn optional(&self, section: &str, name: &str) -> Option<String> {
        Some(self.text(section, name)).filter(|text| !text.is_empty())
    }

    pub(super) fn list(&self, section: &str, name: &str) -> Vec<String> {
        let text = self.text(section, name);
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    /// Two files that are given together or not at all.
    pub(super) fn pair(
        &self,
        section: &str,
        one: &str,
        other: &str,
        directory: &Path,
    ) -> Result<Option<(PathBuf, PathBuf)>, BadSetting> {
        let missing = |name: &str, beside: &str| {
            let fact = format!("missing beside {beside}");
            Err(bad(&setting_name(section, name), fact, "give both, or neither"))
        };
        match (self.optional(section, one), self.optional(section, other)) {
            (Some(one), Some(other)) => Ok(Some((directory.join(one), directory.join(other)))),
            (None, None) => Ok(None),
            (Some(_), None) => missing(other, one),
            (None, Some(_)) => missing(one, other),
        }
    }

    /// A name that needs no quotes in SQL or CQL.
    pub(super) fn name(&self, section: &str, name: &str) -> Result<String, BadSetting> {
        let text = self.text(section, name);
        let sound = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if (1..=63).contains(&text.len()) && text.bytes().all(sound) {
            return Ok(text);
        }
        let hint = "use up to 63 of a-z, 0-9 and _";
        Err(bad(&setting_name(section, name), format!("'{text}' is no name"), hint))
    }

    pub(super) fn store(&self, directory: &Path) -> Result<StoreKind, BadSetting> {
        let text = |name| self.text("store", name);
        let optional = |name| self.optional("store", name);
        match text("kind").as_str() {
            "memory" => Ok(StoreKind::Memory),
            "embedded" => Ok(StoreKind::Embedded(directory.join(text("path")))),
            "cassandra" => Ok(StoreKind::Cassandra(Cassandra {
                contact_points: self.list("store", "contact_points"),
                keyspace: self.name("store", "keyspace")?,
                local_datacenter: optional("local_datacenter"),
                replication: self.number("store", "replication")?,
                username: optional("username"),
                password: optional("password"),
                tls: self.parsed("store", "tls", "true or false")?,
            })),
            other => {
                let hint = "use \"embedded\", \"cassandra\" or \"memory\"";
                Err(bad("[store] kind", format!("'{other}' is no store"), hint))
            }
        }
    }

    pub(super) fn parsed<T: std::str::FromStr>(
        &self,
        section: &str,
        name: &str,
        form: &str,
    ) -> Result<T, BadSetting> {
        let text = self.text(section, name);
        text.parse().map_err(|_| {
            bad(
                &format!("[{section}] {name}"),
                format!("'{text}' is not {form}"),
                "see kck.example.toml",
            )
        })
    }

    /// A part of wall time, or several connections' worth of it.
    pub(super) fn share(&self, section: &str, name: &str) -> Result<f64, BadSetting> {
        let text = self.text(section, name);
        let share = text.parse().ok().filter(|share| (0.001..=1000.0).contains(share));
        share.ok_or_else(|| {
            let fact = format!("'{text}' is no share of time");
            bad(
                &setting_name(section, name),
                fact,
                "write a number like 0.5; 2 is two connections' worth",
            )
        })
    }

    /// A whole number from 1.
    pub(super) fn number<T: std::str::FromStr + Default + PartialEq>(
        &self,
        section: &str,
        name: &str,
    ) -> Result<T, BadSetting> {
        let text = self.text(section, name).replace('_', "");
        text.parse().ok().filter(|number| *number != T::default()).ok_or_else(|| {
            bad(
                &format!("[{section}] {name}"),
                format!("'{text}' is not a whole number from 1"),
                "see kck.example.toml",
            )
        })
    }

    pub(super) fn duration(&self, section: &str, name: &str) -> Result<Duration, BadSetting> {
        let text = self.text(section, name);
        parse_duration(&text).ok_or_else(|| {
            bad(
                &format!("[{section}] {name}"),
                format!("'{text}' is not a duration"),
                "write 250ms, 5s, 10m, 24h or 7d",
            )
        })
    }

    pub(super) fn bytes(&self, section: &str, name: &str) -> Result<u64, BadSetting> {
        let text = self.text(section, name);
        parse_bytes(&text).ok_or_else(|| {
            bad(
                &format!("[{section}] {name}"),
                format!("'{text}' is not a size"),
                "write 512kB, 256MB or 10GB",
            )
        })
    }

    pub(super) fn print(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        let shown = |section: &str| {
            section != "test" && (!auth::SECTIONS.contains(&section) || self.given(section))
        };
        for (of, name, _, secret) in SETTINGS.iter().filter(|(section, ..)| shown(section)) {
            if *of != section {
                text.push_str(&format!("{}[{of}]\n", if section.is_empty() { "" } else { "\n" }));
                section = of;
            }
            let value = self.text(of, name);
            let shown = if *secret && !value.is_empty() { without_password(&value) } else { value };
            text.push_str(&format!("{name} = {shown:?}\n"));
        }
        text
    }
}
