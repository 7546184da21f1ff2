//! Changes → marks, on one core: what a change costs by the number of tracked keys.
//!
//! `cargo bench --bench matching`, with `KCK_BENCH__KEYS=1000000` for the most keys that are tracked (ten million if
//! nothing is said; they take some gigabytes). A change is folded, waits for its barrier with its transaction, and is
//! matched against the ledger, as the pipeline does it, but for the source and the store.

#![expect(clippy::print_stdout, reason = "a benchmark says what it measured")]
#![expect(clippy::unwrap_used, reason = "a panic here is a failed benchmark")]

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kck::{
    change::{
        Change, Column, Datum, Epoch, Lsn, Old, Position, Relation, Row, Snapshot, SourceTime,
        TableId, Transaction, Xid,
    },
    depend::{
        AnyOf, Binding, Column as Described, Index, Is, Matcher, Reach, Rule, Rules, TableRules,
        Test, pending::Pending,
    },
    description::{Description, Mentions, Question},
    entry::{Fingerprint, Stamp},
    key::Key,
    product::{Draft, Policy, Product, Recipe},
    recompute::ledger::{Ledger, Terms},
};

const TABLE: TableId = TableId(16_384);
/// Transactions that one barrier releases together.
const GROUP: u32 = 1000;
const GROUPS: u32 = 300;
/// Products that read the same table by the same column.
const SHARING: usize = 10;

fn product(name: &str) -> Arc<Product> {
    Arc::new(Product {
        draft: Draft {
            name: name.into(),
            file: PathBuf::new(),
            policy: Policy::default(),
            question: Question {
                parameters: vec![],
                pieces: vec![String::new()],
                holes: vec![],
                mentions: Some(Mentions::default()),
                offset: 0,
                parts: vec![],
            },
            recipe: Recipe::Sql,
            calls: vec![],
            text: String::new(),
        },
        parameters: vec![],
        description: Description::default(),
        fingerprint: Fingerprint::default(),
        shape: Fingerprint::default(),
        by_time: false,
    })
}

fn column(name: &str) -> Described {
    Described { name: name.into(), type_oid: 20 }
}

/// A product whose key is the row's `customer`, if it reads the row at all.
fn rules(only: Vec<AnyOf>) -> Rules {
    let rule = Rule { only, reach: Reach::Row(vec![Binding::Text(vec![column("customer")])]) };
    let table = TableRules {
        name: "public.orders".into(),
        publishable: true,
        columns: Some(BTreeSet::from(["customer".to_owned(), "state".to_owned()])),
        told: None,
        rules: vec![rule],
        finer: vec![],
    };
    Rules { tables: [(TABLE, table)].into(), ..Rules::default() }
}

fn relation() -> Arc<Relation> {
    let column = |name: &str| Column { name: name.into(), type_oid: 20, identity: true };
    Arc::new(Relation {
        table: TABLE,
        schema: "public".into(),
        name: "orders".into(),
        identity: b'f',
        columns: ["id", "customer", "state", "note"].map(column).into(),
    })
}

fn row(customer: u64, state: &'static str, note: u64) -> Row {
    let text = |value: String| Datum::Text(Bytes::from(value));
    vec![
        text(note.to_string()),
        text(customer.to_string()),
        Datum::Text(Bytes::from_static(state.as_bytes())),
        text(note.to_string()),
    ]
}

/// A ledger that tracks so many keys of `orders_of`, none with an entry.
fn ledger(keys: u64) -> Ledger {
    let mut ledger = Ledger::new(Epoch(1), 1, Stamp(1), 1);
    let terms = Terms {
        fingerprint: Fingerprint::default(),
        shape: Fingerprint::default(),
        certified: true,
    };
    for number in 0..SHARING {
        ledger.product(&format!("orders_of_{number}"), terms, Position::default());
    }
    for key in 0..keys {
        ledger.track(&Key::new("orders_of_0", [key.to_string().as_str()]));
    }
    ledger
}

/// Runs changes, a transaction each, through fold, release and mark; the time of one, and how many marks came.
fn run(
    index: &Arc<Index>,
    ledger: &mut Ledger,
    mut change: impl FnMut(u64) -> Change,
) -> (Duration, usize) {
    let mut matcher = Matcher::new(Arc::clone(index));
    let mut pending = Pending::new(Lsn(0), &[], 1_000_000);
    let (mut took, mut marks) = (Duration::ZERO, 0);
    for group in 0..GROUPS {
        let changes: Vec<Change> =
            (0..GROUP).map(|number| change(u64::from(group * GROUP + number))).collect();
        let begun = Instant::now();
        for (change, number) in changes.iter().zip(0..GROUP) {
            pending.change(&mut matcher, change);
            let number = group * GROUP + number + 1;
            pending.commit(&Transaction {
                xid: Xid(number),
                end: Lsn(u64::from(number) * 100),
                time: SourceTime(0),
            });
        }
        let last = u64::from((group + 1) * GROUP);
        let snapshot = Snapshot { xmin: last + 1, xmax: last + 1, in_progress: vec![] };
        let group = pending.release(&snapshot);
        marks += ledger.mark(group.keys.iter().map(|(key, at)| (key, *at))).len();
        took += begun.elapsed();
    }
    (took / (GROUPS * GROUP), marks)
}

fn say(what: &str, keys: u64, (took, marks): (Duration, usize)) -> Duration {
    let rate = 1.0 / took.as_secs_f64();
    println!("{keys:>10} keys  {what:<44} {took:>9.0?} a change  {rate:>10.0}/s  {marks:>7} marks");
    took
}

fn main() {
    let most = std::env::vars().find(|(name, _)| name == "KCK_BENCH__KEYS");
    let most: u64 = most.map_or(10_000_000, |(_, keys)| keys.parse().unwrap());
    let one = Arc::new(Index::of_rules([(product("orders_of_0"), rules(vec![]))].into_iter()));
    let open = Test { column: column("state"), is: Is::OneOf(["open".to_owned()].into()) };
    let tested =
        Arc::new(Index::of_rules([(product("orders_of_0"), rules(vec![vec![open]]))].into_iter()));
    let sharing =
        (0..SHARING).map(|number| (product(&format!("orders_of_{number}")), rules(vec![])));
    let sharing = Arc::new(Index::of_rules(sharing));
    let relation = relation();
    let insert = |customer, state| Change::Insert {
        relation: Arc::clone(&relation),
        new: row(customer, state, 1),
    };
    let mut costs: Vec<(u64, Duration, Duration)> = Vec::new();
    for keys in
        [1_000, 10_000, 100_000, 1_000_000, 10_000_000].into_iter().filter(|keys| *keys <= most)
    {
        let mut ledger = ledger(keys);
        // Customers that nobody asked for, each another one.
        let missed = run(&one, &mut ledger, |n| insert(1_000_000_000 + n, "open"));
        let missed = say("a key that is not tracked", keys, missed);
        let spread = keys / 1_000;
        let hit = run(&one, &mut ledger, |n| insert(n % 1_000 * spread, "open"));
        let hit = say("one of a thousand tracked keys", keys, hit);
        let failed = run(&tested, &mut ledger, |n| insert(n, "paid"));
        say("a row that fails a constant test", keys, failed);
        let beside = run(&one, &mut ledger, |n| Change::Update {
            relation: Arc::clone(&relation),
            old: Old::Whole(row(n, "open", 1)),
            new: row(n, "open", 2),
        });
        say("an UPDATE of a column that is not read", keys, beside);
        let shared = run(&sharing, &mut ledger, |n| insert(1_000_000_000 + n, "open"));
        say(&format!("{SHARING} products over one table, none tracked"), keys, shared);
        costs.push((keys, missed, hit));
    }
    if let (Some(first), Some(last)) = (costs.first(), costs.last()) {
        let ratio = |one: Duration, other: Duration| other.as_secs_f64() / one.as_secs_f64();
        println!(
            "from {} to {} keys: not tracked × {:.2}, tracked × {:.2}",
            first.0,
            last.0,
            ratio(first.1, last.1),
            ratio(first.2, last.2)
        );
    }
}
