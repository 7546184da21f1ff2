//! `kck bench store`: very many tracked keys: the memory that each takes, and how soon a start answers from them.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};

use super::{
    apart::{Apart, Store, Wanted},
    load::{self, Connection},
    process::{Ending, memory},
};
use crate::{
    change::{Epoch, Lsn, Position, SourceTime},
    cli::{Stop, demo::latency::shown, say},
    entry::{Fingerprint, Stamp},
    key::Key,
    pattern::{Order, Part, Pattern},
    recompute::ledger::{Computed, Ledger, Terms},
};

const SCHEMA: &str = include_str!("../../../sql/bench/items_schema.sql");
const PRODUCT: &str = include_str!("../../../sql/bench/item.sql");
/// A start that has not answered by then never does.
const ANSWER_WITHIN: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// What a tracked key takes.
    Memory,
    /// From a start to the first answer from the store.
    Restart,
}

/// Very many tracked keys: the memory that each takes, and how soon a start answers from them.
#[derive(Debug, Args)]
pub(super) struct Stored {
    /// Tracked keys.
    #[arg(long, value_name = "N", default_value = "1000000")]
    keys: NonZeroU32,
    /// Starts after each way of ending.
    #[arg(long, value_name = "N", default_value = "3")]
    rounds: NonZeroU32,
    /// Where answers lie.
    #[arg(long, value_enum, default_value_t = Store::Embedded)]
    store: Store,
    /// Only this; all if nothing is said.
    #[arg(long, value_enum)]
    only: Option<What>,
}

impl Stored {
    pub(super) async fn run(self) -> Result<(), Stop> {
        if self.only != Some(What::Restart) {
            self.memory()?;
        }
        if self.only == Some(What::Memory) {
            return Ok(());
        }
        if self.store == Store::Memory {
            return Err(Stop::cannot(
                "what lies in memory is gone at a restart\n  hint: --store embedded, or --only memory",
            ));
        }
        let keys = self.keys;
        let schema = format!(
            "{SCHEMA}insert into items select n, 'item ' || n from generate_series(1, {keys}) n;\nanalyze items"
        );
        let more = format!(
            "limits = {{ tracked_keys = {keys}, stored = '1000GB' }}\nrefresh = {{ database_share = 16 }}"
        );
        let wanted = Wanted {
            schema: &schema,
            products: &[("item.sql", PRODUCT)],
            store: self.store,
            more: &more,
        };
        Apart::during(wanted, async |apart| self.restart(apart).await).await
    }

    /// In this process, which does nothing else.
    fn memory(&self) -> Result<(), Stop> {
        let keys = self.keys.get();
        say(&format!("\n{keys} keys in memory, each with an entry:"));
        let before = memory("self")?;
        let mut ledger = Ledger::new(Epoch(1), 1, Stamp(1), 1);
        let terms = Terms {
            fingerprint: Fingerprint([1; 16]),
            shape: Fingerprint([2; 16]),
            certified: true,
        };
        ledger.product("item", terms, Position::default());
        let mut text = 0;
        // One after the other is how a table is read; spread is how readers come.
        for n in 0..keys {
            let spread = u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15) % (1 << 40);
            let key = Key::new("item", [spread.to_string().as_str()]);
            text += key.as_str().len() as u64;
            keep(&mut ledger, &key, u64::from(n) + 10);
        }
        let tracked = ledger.len() as u64;
        let each = |bytes: u64| bytes.saturating_sub(text) / tracked.max(1);
        let plain = memory("self")?.saturating_sub(before);
        say(&format!("  {:>4} bytes each beside {} of text", each(plain), text / tracked.max(1)));
        // Below every key: nothing is found, so that only the index is made.
        let part =
            Order::Number.read("-1").map_or(Part::Any, |least| Part::AtMost(Order::Number, least));
        let pattern = Pattern { product: "item".into(), parts: Box::new([part]) };
        ledger.mark_patterns([(&pattern, Lsn(1))]);
        let ordered = memory("self")?.saturating_sub(before);
        say(&format!("  {:>4} with an index by their number for ranges", each(ordered)));
        Ok(())
    }

    async fn restart(&self, apart: &mut Apart) -> Result<(), Stop> {
        let keys = i64::from(self.keys.get());
        say("computing every key…");
        let began = Instant::now();
        let lines = [
            format!("kck_tracked_keys {keys}"),
            "kck_queued_keys 0".to_owned(),
            "kck_running_keys 0".to_owned(),
        ];
        apart.until_metrics(&lines).await?;
        say(&format!(
            "\nstore {} · {keys} keys computed and kept in {} · memory of kck {} MB\n",
            self.store.name(),
            shown(began.elapsed()),
            apart.kck.memory()? >> 20
        ));
        say("from the start of a process until …");
        say(&format!(
            "{:<22}{:>16}{:>16}{:>14}",
            "after", "the first hit", "a fresh hit", "memory"
        ));
        for (name, ending) in [("SIGTERM", Ending::Told), ("kill -9", Ending::Killed)] {
            for round in 1..=self.rounds.get() {
                let began = apart.restart(ending).await?;
                let key = i64::from(round) * keys / (i64::from(self.rounds.get()) + 1);
                let hit = first(apart, key, &[("kck-source", "hit")]).await?;
                let hit = hit.duration_since(began);
                let fresh = [("kck-source", "hit"), ("kck-stale", "false")];
                let fresh = first(apart, key, &fresh).await?.duration_since(began);
                let memory = format!("{} MB", apart.kck.memory()? >> 20);
                say(&format!("{name:<22}{:>16}{:>16}{memory:>14}", shown(hit), shown(fresh)));
            }
        }
        Ok(())
    }
}

/// As a worker does.
fn keep(ledger: &mut Ledger, key: &Key, at: u64) {
    let (lease, _) = ledger.track(key);
    ledger.recorded(key, lease);
    let computed = Computed {
        lease,
        as_of: Position { epoch: Epoch(1), lsn: Lsn(at) },
        connection: ledger.connection(),
        time: SourceTime(i64::try_from(at).unwrap_or(i64::MAX)),
        snapshot: Stamp(at),
        insert: Lsn(at),
        fingerprint: Fingerprint([1; 16]),
        shape: Fingerprint([2; 16]),
        digest: at,
        expires: None,
        cost_us: 100,
        bytes: 100,
    };
    ledger.accept(key, &computed);
}

/// When a key is first answered with these headers.
async fn first(apart: &Apart, key: i64, headers: &[(&str, &str)]) -> Result<Instant, Stop> {
    let request = load::request(apart.kck.address, &format!("/fetch/item/{key}"), &[]);
    let asked = async {
        loop {
            if let Ok(mut connection) = Connection::open(apart.kck.address).await
                && let Ok(answer) = connection.ask(&request).await
                && headers.iter().all(|(name, value)| answer.has_header(name, value))
            {
                return Instant::now();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let within = ANSWER_WITHIN.as_secs();
    let late = || Stop::cannot(format!("no answer came from the store within {within} s"));
    tokio::time::timeout(ANSWER_WITHIN, asked).await.map_err(|_| late())
}
