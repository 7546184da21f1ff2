//! Keys → what kck answers for each, and where that is not what Postgres answers.

use std::borrow::Cow;

use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_postgres::Client;

use super::world::{Asked, World, explained_by, truths};
use crate::support::{client::get, kck::Kck};

/// Keys in one request.
const KEYS_AT_ONCE: usize = 40;

/// What kck said of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// The key in its canonical text.
    pub(super) key: String,
    /// The bytes of the value, or the error.
    pub(super) text: String,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    results: Vec<One<'a>>,
}

#[derive(Deserialize)]
struct One<'a> {
    success: bool,
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// Asks kck for keys, with what is demanded of all: `min_lsn=…`.
pub(super) async fn given(address: &str, keys: &[&Asked], demand: &str) -> Vec<Given> {
    let pages = join_all(keys.chunks(KEYS_AT_ONCE).map(async |chunk| {
        let mut path = format!("/fetch?wait=30s&{demand}");
        for asked in chunk {
            path.push_str("&key=");
            kck::key::encode(&mut path, &asked.path);
        }
        get(address, &path, &[]).await.unwrap()
    }))
    .await;
    let mut given = Vec::with_capacity(keys.len());
    for page in pages {
        assert_eq!(page.status, 200, "{}", String::from_utf8_lossy(&page.body));
        let parsed: Page<'_> = serde_json::from_slice(&page.body).unwrap();
        given.extend(parsed.results.iter().map(|one| Given {
            key: one.key.clone().into_owned(),
            text: match one {
                One { success: true, value, .. } => value.map_or("null", RawValue::get).to_owned(),
                One { error, .. } => format!("refused: {}", error.map_or("", RawValue::get)),
            },
        }));
    }
    assert_eq!(given.len(), keys.len());
    given
}

impl World {
    /// Nobody writes: every key equals its SQL, byte for byte. `story` is what was written since the last time.
    pub(super) async fn agrees(&self, kck: &Kck, judge: &Client, story: &[String]) -> Vec<Given> {
        let position = position(judge).await;
        let keys: Vec<&Asked> = self.keys.iter().collect();
        let demand = format!("min_lsn={position}");
        let (given, truths) =
            tokio::join!(given(&kck.address, &keys, &demand), truths(judge, &keys));
        let mut wrong = Vec::new();
        for ((asked, given), truth) in keys.iter().zip(&given).zip(&truths) {
            if given.text != *truth {
                wrong.push(self.verdict(kck, asked, &given.text, truth).await);
            }
        }
        if !wrong.is_empty() {
            let story = story.join("\n--\n");
            let wrong = wrong.join("\n\n");
            panic!("what was written:\n{story}\n\nwrong at {position}:\n\n{wrong}");
        }
        given
    }

    /// A wrong answer in all that helps to understand it.
    pub(super) async fn verdict(
        &self,
        kck: &Kck,
        asked: &Asked,
        given: &str,
        truth: &str,
    ) -> String {
        let shape = &self.shapes[asked.shape];
        let rules = explained_by(kck, shape.name).join("\n  ");
        let anew = given_anew(&kck.address, asked).await;
        let anew = if anew == truth { "as Postgres" } else { &anew };
        let path = &asked.path;
        let sql = shape.file();
        format!(
            "{path}\n  kck      {given}\n  Postgres {truth}\n  computed anew: {anew}\n  {rules}\n{sql}"
        )
    }
}

async fn given_anew(address: &str, asked: &Asked) -> String {
    given(address, &[asked], "fresh=true").await.remove(0).text
}

/// Every commit that this session has seen ends at or before this.
pub(super) async fn position(client: &Client) -> String {
    super::world::truth(client, "select pg_current_wal_insert_lsn()").await
}
