//! The canonical text that kck makes of a parameter is the one that Postgres prints, or it asks Postgres.

use kck::{
    description::Type,
    postgres::{canonical::Asker, connect::connect},
    product::parameter::{Canonical, Form, Parameter},
};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::support::{run, servers::Database};

/// The types whose texts kck makes itself.
const OWN: &[&str] = &[
    "bigint",
    "integer",
    "smallint",
    "oid",
    "boolean",
    "text",
    "character varying",
    "name",
    "uuid",
    "numeric",
    "date",
    "timestamp without time zone",
    "timestamp with time zone",
    "bytea",
];

/// Texts that some type takes, or nearly.
// One a line would be pages.
#[rustfmt::skip]
const TEXTS: &[&str] = &[
    "", " ", "0", "1", "-1", "+1", "007", "1 ", " 1", "\t1\n", "\u{b}1\u{c}", "\u{a0}1", "1.0", "1e3", "0x10",
    "0b11", "0o7", "1_000", "1__0", "_1", "1_", "0x", "-0x1F", "+0X1f", "0x_1", "1,000", "१", "٣", "－1",
    "2147483647", "2147483648", "-2147483648", "-2147483649", "32767", "32768", "9223372036854775807",
    "9223372036854775808", "-9223372036854775808", "99999999999999999999999", "4294967295", "4294967296", "010",
    "00", "-4294967295", "t", "tr", "tru", "true", "TRUE", "truex", "y", "ye", "yes", "yess", "n", "no", "on",
    "o", "of", "off", "offf", "f", "fal", " on ", "tRuE\n", "01", "10", "NaN", "nan", "-nan", "+nan", "inf",
    "-inf", "+inf", "Infinity", "-infinity", "infinit", " inf ", ".5", "5.", ".", "-.5", "+.5e1", "1e", "1e+",
    "1e5", "1E-5", "1e 5", "1e5 ", "e5", "1.2.3", "--1", "- 1", "1e1000", "1e-1000", "1e99999", "-0", "-0.00",
    "+0.0", "000.000", "1.e5", ".e5", "1e+05", "1e0005", "1_0.5", "1._5", "1.5_0", "1e1_0", "0x1.5", "0xAe3",
    "1f", "0b2", "0", "1e99", "12345678901234567890.12345678901234567890", "1e16383", "1e16384", "1e-16383",
    "1e-16384", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
    "a0eebc999c0b4ef8bb6d6bb9bd380a11", "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
    "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0e-ebc999c0b4ef8bb6d6bb9bd380a11",
    "{a0eebc999c0b4ef8bb6d6bb9bd380a11", "a0eebc999c0b4ef8bb6d6bb9bd380a11}",
    " a0eebc999c0b4ef8bb6d6bb9bd380a11", "a0eebc999c0b4ef8bb6d6bb9bd380a11 ",
    "a0ee--bc999c0b4ef8bb6d6bb9bd380a11", "{}", "{", "}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-", "2024-01-01",
    "2024-02-29", "2023-02-29", "2024-13-01", "2024-1-1", "24-01-01", "20240101", "01/02/2024", "0001-01-01",
    "0000-01-01", "9999-12-31", "10000-01-01", "2024-01-01 BC", "infinity", "-infinity", "epoch", "allballs",
    "J2451187", "2024.001", "Jan 1 2024", "2024-01-01T", "2024-01-01 ", " 2024-01-01", "2024-01-01\n",
    "2024-01-01x", "2024-01-01 x", "2024-01-01 10:30", "2024-01-01T10:30:00", "2024-01-01t10:30:00",
    "2024-01-01  10:30:00", "2024-01-01 10:30:00.", "2024-01-01 10:30:00.1", "2024-01-01 10:30:00.123456",
    "2024-01-01 10:30:00.1234567", "2024-01-01 10:30:00.1000", "2024-01-01 10:30.5", "2024-01-01 10:30:60",
    "2024-01-01 23:59:60", "2024-01-01 24:00:00", "2024-01-01 24:00:01", "2024-01-01 25:00", "2024-01-01 10",
    "2024-01-01T10", "2024-01-01 10:3", "2024-01-01 1:30", "2024-01-01 10:30:00Z", "2024-01-01T10:30:00Z",
    "2024-01-01 10:30:00z", "2024-01-01 10:30:00 Z", "2024-01-01 10:30:00+02", "2024-01-01 10:30:00 +02",
    "2024-01-01 10:30:00+2", "2024-01-01 10:30:00+02:30", "2024-01-01 10:30:00+0230",
    "2024-01-01 10:30:00-02:30:15", "2024-01-01 10:30:00+02:", "2024-01-01 10:30:00+15:59",
    "2024-01-01 10:30:00+16", "2024-01-01 10:30:00+14:60", "2024-01-01 10:30:00-14:59", "2024-01-01Z",
    "2024-01-01+02", "2024-01-01-02", "2024-01-01 +02", "2024-01-01T10:30+02", "2024-01-01 10:30:00.5+02",
    "2024-01-01 10:30:00 Europe/Oslo", "2024-01-01 10:30:00 PST", "0001-01-01 00:00:00+01",
    "9999-12-31 23:59:59-01", "2024-01-01 10:30:00+00:00", "2024-01-01 10:30:00-00", "2024-01-01 12:30 AM",
    "2024-01-01 10:30:00+020", "2024-01-01 10:30:00+02300", "\\xDEADbeef", "\\x", "\\xa", "\\xzz", "\\x1 2",
    "\\xde ad", "\\XDE", "abc", "a\\\\b", "a\\b", "\\001", "\\000", "æ", "\\x\n", " \\x12", "\\x 12", "\\",
    "name", "now()",
];

/// Pieces of which texts of most types are made.
const PIECES: &[&str] = &[
    "0", "1", "9", "00", "12", "59", "60", "-", "+", ".", ":", " ", "T", "Z", "e", "E", "_", "x",
    "{", "}", "a", "2024", "02", "29", "31", "\\x", "t", "n", "inf", "\t",
];

fn of(pieces: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(pieces).prop_map(str::to_owned)
}

/// Texts that are near what dates, times, numbers and identifiers look like.
fn likely() -> impl Strategy<Value = String> {
    let date = (0..3000u32, 0..14u32, 0..33u32);
    let time = (0..26u32, 0..62u32, prop::option::of(0..62u32));
    let zones = &[
        "", ".5", ".000", ".123456", ".1234567", ":", "Z", "+02", "-03:30", "+0545", "+23", "-15",
        "+14", " UTC",
    ];
    let moment = (date, of(&[" ", "T", "  "]), time, of(zones), any::<bool>()).prop_map(
        |((year, month, day), between, (hour, minute, second), zone, padded)| {
            let second = second.map(|second| format!(":{second:02}")).unwrap_or_default();
            match padded {
                true => format!(
                    "{year:04}-{month:02}-{day:02}{between}{hour:02}:{minute:02}{second}{zone}"
                ),
                false => format!("{year}-{month}-{day}{between}{hour}:{minute}{second}{zone}"),
            }
        },
    );
    let day = (0..3000u32, 0..14u32, 0..33u32)
        .prop_map(|(year, month, day)| format!("{year:04}-{month:02}-{day:02}"));
    let number = (
        of(&["", "-", "+", " "]),
        of(&["", "0", "00", "12", "999"]),
        of(&["", ".", ".0", ".50", ".009"]),
        of(&["", "e", "E"]),
        of(&["", "0", "-3", "+2", "12", "-12"]),
    )
        .prop_map(|(sign, whole, part, e, exponent)| [sign, whole, part, e, exponent].concat());
    let pieces = prop::collection::vec(of(PIECES), 1..7).prop_map(|pieces| pieces.concat());
    prop_oneof![moment, day, number, pieces, "([0-9a-f]{4}-?){8}", "\\{?[0-9a-f]{32}\\}?"]
}

/// The texts of the list, some long ones, and drawn ones; the same in each run.
fn texts() -> Vec<String> {
    const DRAWN: usize = 2000;
    let mut texts: Vec<String> = TEXTS.iter().copied().map(str::to_owned).collect();
    texts.extend([
        "x".repeat(63),
        "x".repeat(64),
        "æ".repeat(32),
        "1".repeat(400),
        "9".repeat(1100),
    ]);
    texts.push(format!("0.{}1", "0".repeat(300)));
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let likely = likely();
    texts.extend((0..DRAWN).map(|_| likely.new_tree(&mut runner).unwrap().current()));
    texts
}

async fn asker(database: &Database) -> Asker {
    Asker::new(connect(&database.url.parse().unwrap(), "test", &[]).await.unwrap())
}

async fn type_named(database: &Database, name: &str) -> Type {
    let sql = "select oid, typtype::text from pg_type where oid = $1::text::regtype";
    let row = database.client.query_one(sql, &[&name]).await.unwrap();
    Type {
        oid: row.get(0),
        name: name.to_owned(),
        kind: row.get::<_, String>(1).chars().next().unwrap(),
    }
}

#[test]
fn what_kck_prints_itself_is_what_postgres_prints() {
    run(async {
        let database = Database::new("canonical_own").await;
        let asker = asker(&database).await;
        let texts = texts();
        for name in OWN {
            let type_ = type_named(&database, name).await;
            let form = Form::of(&type_);
            assert_ne!(form, Form::Source, "{name}");
            let parameter =
                Parameter { name: "p".to_owned(), form, type_: type_.clone(), default: None };
            let made = texts.iter().map(|raw| (raw, parameter.canonical(raw)));
            let made: Vec<_> = made.filter(|(_, made)| *made != Ok(Canonical::AskSource)).collect();
            let asked = made.iter().map(|(raw, _)| asker.canonical(&type_, raw));
            let wanted = futures_util::future::join_all(asked).await;
            let mut printed = 0;
            for ((raw, made), want) in made.into_iter().zip(wanted) {
                let want = want.unwrap();
                printed += usize::from(want.is_some());
                match made {
                    Ok(made) => assert_eq!(Some(made), want.map(Canonical::Text), "{name} {raw:?}"),
                    Err(bad) => assert_eq!(want, None, "{name} {raw:?}: {bad}"),
                }
            }
            assert!(printed > 0, "{name}: every text is left to the source");
        }
    });
}

#[test]
fn what_kck_does_not_print_the_source_does() {
    const SCHEMA: &str = "
        create schema shop;
        create type shop.state as enum ('open', 'now');
        create domain shop.yes as bool;
        create domain shop.day as date;
        create domain shop.slug as text check (value <> 'bad');
        create type shop.pair as (a int, d shop.day);
    ";
    run(async {
        let database = Database::new("canonical_source").await;
        database.run(SCHEMA).await;
        let asker = asker(&database).await;
        for (name, raw, want) in [
            ("shop.state", "open", Some("open")),
            ("shop.state", "now", Some("now")),
            ("shop.state", "x", None),
            ("shop.state[]", "{open}", Some("{open}")),
            ("shop.yes", "true", Some("t")),
            ("shop.day", "2024-1-2", Some("2024-01-02")),
            ("shop.day", "today", None),
            ("shop.slug", "today", Some("today")),
            ("shop.slug", "bad", None),
            ("shop.pair", "(1,today)", None),
            ("shop.pair", "(1,2024-1-2)", Some("(1,2024-01-02)")),
            ("date[]", "{today}", None),
            ("date[]", "{2024-1-2}", Some("{2024-01-02}")),
            ("tstzrange", "[now,]", None),
            ("datemultirange", "{[today,]}", None),
            ("inet", "10.0.0.1", Some("10.0.0.1")),
            ("boolean[]", "{true,no}", Some("{t,f}")),
            ("interval", "1 day", Some("1 day")),
            ("jsonb", "{ \"a\":1}", Some("{\"a\": 1}")),
            ("varchar(3)", "abcdef", Some("abc")),
            ("numeric(4,1)", "2.25", Some("2.3")),
            ("numeric(4,1)", "22222", None),
            ("\"char\"", "ab", Some("a")),
            ("bpchar", "a  ", Some("a  ")),
        ] {
            let type_ = type_named(&database, name).await;
            let made = asker.canonical(&type_, raw).await.unwrap();
            assert_eq!(made.as_deref(), want, "{name} {raw}");
        }
        let unknown = Type { oid: 1, name: "nosuch".to_owned(), kind: 'b' };
        assert!(asker.canonical(&unknown, "x").await.is_err(), "that is no fault of the value");
    });
}
