//! `kck load`: the keys of a dump → keys that a running kck follows and has computed. Values are not taken over: nobody
//! knows whether they are right; they can be compared.

use std::{fs::File, io::BufReader, path::PathBuf, time::Duration};

use clap::Args;
use futures_util::{StreamExt as _, stream};
use serde_json::Value;

use super::{
    super::{Stop, client::Server, say},
    AT_ONCE,
    csv::{Record, Records},
    fetch,
};

/// How often a request that was one too many is sent again …
const TRIES: u32 = 6;
/// … after this, which doubles.
const PAUSE: Duration = Duration::from_millis(250);
/// As much of a value is shown.
const SHOWN_CHARS: usize = 200;

/// Have a running kck follow and compute the keys of a dump, its own or the original's.
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// The dump.
    file: PathBuf,
    /// Say which values are others than kck's.
    #[arg(long)]
    compare: bool,
    #[command(flatten)]
    server: Server,
}

/// What became of a key.
enum Became {
    Primed,
    /// It is computed, and its value is another than the dump's.
    Differs {
        was: String,
        is: String,
    },
    /// kck has no such key.
    NoKey(String),
    Failed(String),
}

#[derive(Default)]
struct Count {
    keys: u64,
    primed: u64,
    differ: u64,
    no_key: u64,
    failed: u64,
}

impl Load {
    pub(crate) async fn run(self) -> Result<(), Stop> {
        let shown = self.file.display();
        let file = File::open(&self.file)
            .map_err(|error| Stop::usage(format!("read {shown}: {error}\n  hint: name a dump")))?;
        let mut broken = None;
        // What is broken ends the file: who knows what follows.
        let records = Records::new(BufReader::new(file)).map_while(|record| {
            record.and_then(whole).map_err(|(line, error)| broken = Some((line, error))).ok()
        });
        let mut count = Count::default();
        {
            let this = &self;
            let asked = stream::iter(records).map(|(key, value)| async move {
                let became = this.one(&key, &value).await;
                (key, became)
            });
            let mut asked = asked.buffer_unordered(AT_ONCE);
            while let Some((key, became)) = asked.next().await {
                count.add(&key, became?);
            }
        }
        let Count { keys, primed, differ, no_key, failed } = count;
        let compared =
            if self.compare { format!(", {differ} of them differ") } else { String::new() };
        say(&format!(
            "{keys} keys: {primed} are followed{compared}; {no_key} are no keys here, {failed} failed"
        ));
        if let Some((line, error)) = broken {
            let hint = "a dump is CSV without a header: key, JSON of the value, version, time";
            let text =
                format!("{shown}:{line}: {error}; what follows was not read\n  hint: {hint}");
            return Err(Stop { code: 1, text });
        }
        if no_key + failed + differ == 0 { Ok(()) } else { Err(Stop::no()) }
    }

    /// Asks for a key, which makes kck compute it if it has to and follow it from then on.
    async fn one(&self, key: &str, value: &str) -> Result<Became, Stop> {
        let path = path_of(key);
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            let reply = fetch(&self.server, &path).await?;
            if reply.status == 429 {
                tokio::time::sleep(pause).await;
                pause *= 2;
                continue;
            }
            let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            let said = || {
                let text = |name| body.pointer(name).and_then(Value::as_str).unwrap_or_default();
                format!("{}: {}", text("/error/name"), text("/error/message"))
            };
            return Ok(match reply.status {
                200 => self.compared(body.get("value").unwrap_or(&Value::Null), value),
                400 | 404 => Became::NoKey(said()),
                _ => Became::Failed(said()),
            });
        }
        Ok(Became::Failed("too many requests".to_owned()))
    }

    fn compared(&self, is: &Value, was: &str) -> Became {
        let same = || serde_json::from_str::<Value>(was).is_ok_and(|was| was == *is);
        if !self.compare || same() {
            return Became::Primed;
        }
        let shown = |text: &str| text.chars().take(SHOWN_CHARS).collect::<String>();
        Became::Differs { was: shown(was), is: shown(&is.to_string()) }
    }
}

impl Count {
    fn add(&mut self, key: &str, became: Became) {
        self.keys += 1;
        match became {
            Became::Primed => self.primed += 1,
            Became::Differs { was, is } => {
                self.primed += 1;
                self.differ += 1;
                say(&format!("{key} differs\n  the dump has {was}\n  kck has {is}"));
            }
            Became::NoKey(why) => {
                self.no_key += 1;
                say(&format!("{key} is no key here: {why}"));
            }
            Became::Failed(why) => {
                self.failed += 1;
                say(&format!("{key} failed: {why}"));
            }
        }
    }
}

/// Key and value of a record.
fn whole((line, fields): Record) -> Result<(String, String), (usize, std::io::Error)> {
    let found = fields.len();
    match <[String; 4]>::try_from(fields) {
        Ok([key, value, _, _]) => Ok((key, value)),
        Err(_) => {
            let what = format!("it has {found} fields, and a line of a dump has 4");
            Err((line, std::io::Error::new(std::io::ErrorKind::InvalidData, what)))
        }
    }
}

/// A key as a path. kck's own are; the original's had every sign as it is, save that no value had a slash, and names
/// that the import made others.
fn path_of(key: &str) -> String {
    let is_path = encoded(key);
    let (name, values) = key.split_once('/').map_or((key, None), |(name, rest)| (name, Some(rest)));
    let mut path = crate::import::product_name(name);
    for value in values.into_iter().flat_map(|values| values.split('/')) {
        path.push('/');
        if is_path {
            path.push_str(value);
        } else {
            crate::key::encode(&mut path, value);
        }
    }
    path
}

/// Whether every sign is one that may stand in a path, or percent-encoded.
fn encoded(key: &str) -> bool {
    let mut parts = key.split('%');
    let plain = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'/'))
    };
    parts.next().is_none_or(plain)
        && parts.all(|part| {
            part.get(..2).is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
                && plain(part)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_either_is_a_path() {
        for (key, want) in [
            ("simple1/1", "simple1/1"),
            ("all", "all"),
            ("note/a%20b", "note/a%20b"),
            ("note/a b", "note/a%20b"),
            ("note/100%", "note/100%25"),
            ("note/blåbær/2", "note/bl%C3%A5b%C3%A6r/2"),
            ("Orders-Of/7", "orders_of/7"),
            ("auth/joe@example.com/x", "auth/joe%40example.com/x"),
            ("", "p_"),
        ] {
            assert_eq!(path_of(key), want, "{key}");
        }
    }
}
