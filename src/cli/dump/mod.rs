//! `kck dump`: every tracked key's answer of a running kck → a file as the original wrote them.

use std::{
    fs::File,
    io::{self, BufWriter},
    path::{Path, PathBuf},
};

use clap::Args;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Stop,
    client::{Reply, Server},
    complain,
};

mod csv;
pub(super) mod load;

/// Keys of one page.
const PAGE: usize = 200;
/// Answers under way at once.
const AT_ONCE: usize = 8;

/// Write every tracked key's answer as the original's dump: CSV of key, JSON, version and time.
#[derive(Debug, Args)]
pub(super) struct Dump {
    /// The file; else standard output.
    file: Option<PathBuf>,
    #[command(flatten)]
    server: Server,
}

#[derive(Deserialize)]
struct Products {
    products: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<Listed>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    key: String,
}

/// What of an answer goes into a line.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    value: &'a RawValue,
    version: u64,
    modified: &'a str,
}

/// How it went.
#[derive(Default)]
struct Count {
    written: u64,
    left_out: u64,
}

impl Dump {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let part = self.file.as_ref().map(|file| part_of(file));
        let mut out: Box<dyn io::Write> = match &part {
            Some(part) => {
                let made = File::create(part).map_err(|error| unwritten(part, &error))?;
                Box::new(BufWriter::new(made))
            }
            None => Box::new(BufWriter::new(io::stdout())),
        };
        let dumped = self.all(&mut out).await;
        drop(out);
        let count = match (dumped, &part) {
            (Ok(count), _) => count,
            (Err(stop), Some(part)) => {
                drop(std::fs::remove_file(part));
                return Err(stop);
            }
            (Err(stop), None) => return Err(stop),
        };
        if let (Some(part), Some(file)) = (&part, &self.file) {
            std::fs::rename(part, file).map_err(|error| unwritten(file, &error))?;
        }
        let Count { written, left_out } = count;
        complain(&format!("{written} keys written, {left_out} left out"));
        if left_out == 0 { Ok(()) } else { Err(Stop::no()) }
    }

    async fn all(&self, out: &mut dyn io::Write) -> Result<Count, Stop> {
        let mut count = Count::default();
        let reply = said(self.server.get("/products").await?)?;
        for Named { name } in read::<Products>(&reply)?.products {
            let mut after = Some(String::new());
            while let Some(from) = after.take() {
                let mut path = format!("/keys/{name}?limit={PAGE}&after=");
                crate::key::encode(&mut path, &from);
                let reply = self.server.get(&path).await?;
                if reply.status != 200 {
                    complain(&format!("{name}: {}", String::from_utf8_lossy(&reply.body)));
                    count.left_out += 1;
                    break;
                }
                let Keys { keys, next } = read(&reply)?;
                self.page(&keys, out, &mut count).await?;
                after = next;
            }
        }
        out.flush().map_err(|error| unwritten(Path::new("the dump"), &error))?;
        Ok(count)
    }

    /// In order; so many answers are in memory at once, and no more.
    async fn page(
        &self,
        keys: &[Listed],
        out: &mut dyn io::Write,
        count: &mut Count,
    ) -> Result<(), Stop> {
        let server = &self.server;
        let asked = stream::iter(keys)
            .map(|listed| async move { (listed, fetch(server, &listed.key).await) });
        let mut answers = asked.buffered(AT_ONCE);
        while let Some((Listed { key }, reply)) = answers.next().await {
            let reply = reply?;
            if reply.status != 200 {
                complain(&format!("{key}: {}", String::from_utf8_lossy(&reply.body)));
                count.left_out += 1;
                continue;
            }
            let answer: Answer<'_> = read(&reply)?;
            let mut line = String::new();
            let (version, time) = (answer.version.to_string(), naive(answer.modified));
            csv::write(&mut line, &[key, answer.value.get(), &version, &time]);
            out.write_all(line.as_bytes())
                .map_err(|error| unwritten(Path::new("the dump"), &error))?;
            count.written += 1;
        }
        Ok(())
    }
}

/// Asks for a key. What no path can carry goes into the query, and comes as a list of one.
async fn fetch(server: &Server, key: &str) -> Result<Reply, Stop> {
    #[derive(Deserialize)]
    struct List<'a> {
        #[serde(borrow)]
        results: [&'a RawValue; 1],
    }
    #[derive(Deserialize)]
    struct Said {
        success: bool,
        error: Option<Error>,
    }
    #[derive(Deserialize)]
    struct Error {
        name: String,
    }
    if !key.split('/').any(|segment| matches!(segment, "." | "..")) {
        return server.get(&format!("/fetch/{key}")).await;
    }
    let mut path = String::from("/fetch?key=");
    crate::key::encode(&mut path, key);
    let reply = server.get(&path).await?;
    if reply.status != 200 {
        return Ok(reply);
    }
    let [one] = read::<List<'_>>(&reply)?.results;
    let body = bytes::Bytes::copy_from_slice(one.get().as_bytes());
    let Said { success, error } = read(&Reply { status: 200, body: body.clone() })?;
    let no_key = ["unknown_product", "parameter_count", "bad_parameter", "bad_request"];
    let status = match error {
        Some(error) if no_key.contains(&error.name.as_str()) => 404,
        None if success => 200,
        _ => 503,
    };
    Ok(Reply { status, body })
}

/// As the original wrote times: in UTC without saying so, and without a fraction where it is nothing.
fn naive(time: &str) -> String {
    let time = time.trim_end_matches('Z').replacen('T', " ", 1);
    time.strip_suffix(".000000").unwrap_or(&time).to_owned()
}

/// Where it is written before it is whole.
fn part_of(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    file.with_file_name(name)
}

fn unwritten(file: &Path, error: &io::Error) -> Stop {
    Stop::cannot(format!("write {}: {error}\n  hint: check its folder and rights", file.display()))
}

fn said(reply: Reply) -> Result<Reply, Stop> {
    if reply.status == 200 { Ok(reply) } else { Err(reply.print().err().unwrap_or_else(Stop::no)) }
}

fn read<'a, T: Deserialize<'a>>(reply: &'a Reply) -> Result<T, Stop> {
    let hint = "check --server: this may be no kck";
    serde_json::from_slice(&reply.body)
        .map_err(|error| Stop::cannot(format!("understand the answer: {error}\n  hint: {hint}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_original() {
        assert_eq!(naive("2026-11-22T16:23:41.673000Z"), "2026-11-22 16:23:41.673000");
        assert_eq!(naive("2026-11-22T16:23:41.000000Z"), "2026-11-22 16:23:41");
    }
}
