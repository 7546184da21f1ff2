//! What Postgres says of a product, and what of its definitions a look at the catalogue sees move.

use std::{collections::BTreeSet, path::Path};

use kck::{
    description::{Comparison, Description},
    postgres::{
        catalogue::{self, Objects},
        connect::connect,
        describe::{DescribeError, describe},
    },
    product::{build, file},
};
use tokio_postgres::Client;

use crate::support::{run, servers::Database};

const SCHEMA: &str = "
    create schema shop;
    create type shop.state as enum ('open', 'closed');
    create domain shop.email as text check (value like '%@%');
    create domain shop.ids as int[];
    create table customers (id bigint primary key, name varchar(40), email shop.email, active bool);
    create table orders (id bigint primary key, customer_id bigint references customers, state shop.state,
        total numeric(10,2), placed_at timestamptz, tags text[]);
    create table \"Mixed Case\" (id int, \"Weird\"\"col\" text);
    create view open_orders as select * from orders where state = 'open';
    create view deep as select c.name, o.* from open_orders o join customers c on c.id = o.customer_id;
    create materialized view counted as select count(*) n from orders;
    create table parts (id int, r int, primary key (id, r)) partition by range (r);
    create table parts_1 partition of parts for values from (0) to (10);
    create table parts_2 partition of parts for values from (10) to (20);
    create table parent (id int primary key, v text);
    create table child (extra int) inherits (parent);
    create function atomic(c bigint) returns bigint language sql stable
        begin atomic select count(*) from orders where customer_id = c; end;
    create function opaque(c bigint) returns bigint language plpgsql stable
        as 'begin return (select count(*) from orders); end';
    create function total_of(o orders) returns numeric language sql stable as 'select $1.total';
    create collation ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    create table texts (id int primary key, t text collate ci);
    create function half(int, int) returns bool language sql immutable as 'select $1 * 2 = $2';
    create operator public.=~= (leftarg = int, rightarg = int, function = half);
";

async fn shop(name: &str) -> (Database, Client) {
    let database = Database::new(name).await;
    database.run(SCHEMA).await;
    let client = connected(&database.url).await;
    (database, client)
}

async fn connected(url: &str) -> Client {
    connect(&url.parse().unwrap(), "test", &[]).await.unwrap()
}

/// What is said of a product with this text, or why it is refused.
async fn said(client: &mut Client, text: &str) -> Result<Description, String> {
    let draft = file::draft("p", Path::new("p.sql"), text.to_owned()).unwrap();
    let description = match describe(client, &draft.question).await {
        Ok(description) => description,
        Err(DescribeError::Refused(why)) => {
            return Err(draft.fault(why.offset, why.message, why.hint).to_string());
        }
        Err(error) => panic!("{text}: {error}"),
    };
    match build::build(draft, description.clone()) {
        Ok(_) => Ok(description),
        Err(faults) => Err(faults[0].to_string()),
    }
}

/// The tables read, in order; those that the text does not name itself with a star.
fn tables(description: &Description) -> String {
    let star = |indirect| if indirect { "*" } else { "" };
    let named =
        description.tables.iter().map(|table| format!("{}{}", table.name, star(table.indirect)));
    named.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ")
}

fn functions(description: &Description) -> BTreeSet<&str> {
    description.functions.iter().map(|function| function.name.as_str()).collect()
}

/// A product's text, the types of its parameters, the tables that it reads.
const READS: &[(&str, &str, &str)] = &[
    (
        "select o.id, o.total from orders o where o.customer_id = :c and o.state = :s",
        "bigint shop.state",
        "orders",
    ),
    (
        "select c.id, o.id from customers c join orders o on o.customer_id = c.id where c.email = :e",
        "text",
        "customers orders",
    ),
    ("select d.* from deep d where d.name = :n", "text", "customers deep open_orders orders"),
    (
        "with x as (select * from orders) select count(*) from x where :i = any(tags)",
        "text",
        "orders",
    ),
    (
        "select 1 from customers c, lateral (select * from orders o where o.customer_id = c.id limit :n) l where c.active = :a",
        "bigint boolean",
        "customers orders",
    ),
    ("select * from \"Mixed Case\" where \"Weird\"\"col\" = :x", "text", "Mixed Case"),
    ("select tags[1 : (:n)] from orders where id = any(:ids)", "integer bigint[]", "orders"),
    (
        "/* kck\nparams={e='shop.email'}*/select c.id from customers c where c.email = :e",
        "shop.email",
        "customers",
    ),
    (
        "/* kck\nparams={n='shop.ids'}*/select id from orders where id = any(:n)",
        "shop.ids",
        "orders",
    ),
    (
        "/* kck\nparams={n='shop.state[]'}*/select id from orders where state = any(:n)",
        "shop.state[]",
        "orders",
    ),
    (
        "/* kck\nparams={n='varchar(3)'}*/select id from customers where name = :n",
        "character varying(3)",
        "customers",
    ),
    (
        "/* kck\nparams={n='bpchar', m='\"char\"'}*/select id from customers where name = :n or name = :m::text",
        "bpchar \"char\"",
        "customers",
    ),
    ("select atomic(:c)", "bigint", "orders*"),
    ("select opaque(:c)", "bigint", ""),
    ("select n from counted", "", "counted"),
    ("select * from parts where id = :i", "integer", "parts"),
    ("select * from parts_1 where id = :i", "integer", "parts* parts_1"),
    ("select * from parent where id = :i", "integer", "child* parent"),
    ("select relname from pg_class where oid = :i", "oid", "pg_class"),
    ("select o.total_of from orders o where id = :i", "bigint", "orders"),
    ("select t from texts where t = :t", "text", "texts"),
    ("select :n::int =~= 3", "integer", ""),
    ("values (:a::int, 2), (3, 4)", "integer", ""),
    ("select (:d::date + 1)::text, date '2020-01-01' + :n::int as x", "date integer", ""),
    (
        "select * from (select id from orders where id = :x union select id from customers where id = :x) u",
        "bigint",
        "customers orders",
    ),
    (
        "with recursive r as (select id, customer_id from orders where id = :i union all select o.id, o.customer_id from orders o join r on o.customer_id = r.id) select * from r",
        "bigint",
        "orders",
    ),
    ("select id from orders where id = :i group by grouping sets ((id), ())", "bigint", "orders"),
    ("select 1", "", ""),
];

#[test]
fn parameters_have_types_and_tables_are_found_below_anything() {
    run(async {
        let (database, mut client) = shop("describe_tables").await;
        for (text, types, names) in READS {
            let description = said(&mut client, text).await.unwrap();
            let found: Vec<_> =
                description.parameters.iter().map(|type_| type_.name.as_str()).collect();
            assert_eq!(
                (found.join(" ").as_str(), tables(&description).as_str()),
                (*types, *names),
                "{text}"
            );
            assert!(description.tree.is_some(), "{text}");
        }
        // Nothing of it stays in the source.
        assert_eq!(
            database
                .one("select count(*) from pg_class where relname = 'kck_described_product'")
                .await,
            0
        );
    });
}

#[test]
fn what_an_analysis_needs_is_said() {
    run(async {
        let (_database, mut client) = shop("describe_analysis").await;
        let mut of = async |text: &str| said(&mut client, text).await.unwrap();
        let deep = of("select d.* from deep d where d.name = :n").await;
        assert_eq!((deep.view_trees.len(), deep.columns.len()), (2, 7));
        assert_eq!(deep.columns[0].name, "name");
        assert!(
            [410, 98].iter().all(|equal| {
                deep.meaning(*equal).is_some_and(|(means, _)| means == Comparison::Equal)
            }),
            "{:?}",
            deep.comparisons
        );
        let again = of("select d.* from deep d where d.name = :n").await;
        assert_eq!((deep.definitions, deep.catalogue), (again.definitions, again.catalogue));
        assert_eq!((deep.tables, deep.functions), (again.tables, again.functions));

        // It only looks like one.
        let own = of("select :n::int =~= 3").await;
        // The one that its body has is a real one.
        assert!(own.comparisons.keys().eq([&96]) && functions(&own).contains("half"), "{own:?}");
        let collated = of("select t from texts where t = :t").await;
        assert_eq!(collated.nondeterministic_collations.len(), 1);
        let called =
            of("select now(), opaque(1), id from orders where placed_at < :t and id::int4 < 3")
                .await;
        let called = functions(&called);
        for name in ["now", "opaque", "timestamptz_lt", "int4lt", "current_setting"] {
            assert!(called.contains(name), "{name} in {called:?}");
        }
        let keyed = of("select * from \"Mixed Case\", parts, parent").await;
        let keyed: BTreeSet<_> =
            keyed.tables.iter().map(|table| (table.name.as_str(), table.identity)).collect();
        assert_eq!(
            keyed,
            [("Mixed Case", false), ("child", false), ("parent", true), ("parts", true)].into()
        );
    });
}

#[test]
fn what_postgres_refuses_is_told_with_its_place() {
    const CASES: &[(&str, &str)] = &[
        ("select *\nfrom missing m", "p.sql:2:6: relation \"missing\" does not exist"),
        (
            "select o.id,\n  :x, 'æ', o.totl from orders o where o.id = :y",
            "p.sql:2:12: column o.totl does not exist\n  hint: Perhaps you meant to reference the column \"o.total\".",
        ),
        ("select :a + :b", "p.sql:1:11: operator is not unique: unknown + unknown"),
        ("select nofunc(:a)", "p.sql:1:8: function nofunc(unknown) does not exist"),
        (
            "/* kck\nparams = { a = 'nosuch' } */ select :a",
            "p.sql:2:12: type \"nosuch\" does not exist",
        ),
        (
            "/* kck\nparams = { a = 'point' } */\nselect id from orders where id = :a",
            "p.sql:3:32: operator does not exist: bigint = point",
        ),
        ("select :a is null", "p.sql:1:8: could not determine data type of parameter :a"),
    ];
    run(async {
        let (_database, mut client) = shop("describe_refusals").await;
        for (text, want) in CASES {
            let fault = said(&mut client, text).await.unwrap_err();
            assert!(fault.starts_with(want), "{text}: {fault}");
        }
        said(&mut client, "select :x").await.unwrap();
    });
}

#[test]
fn rights_and_row_security_are_those_of_whoever_reads() {
    const RIGHTS: &str = "
        create table secured (id int primary key, owner text);
        create table secrets (id int primary key, owner text);
        create role describe_reader login;
        create role describe_viewer;
        revoke temp on database describe_rights from public;
        grant usage on schema shop to describe_reader;
        grant select on orders, open_orders, secured, secrets to describe_reader;
        grant select on secured, secrets to describe_viewer;
        alter table secured enable row level security;
        create policy own on secured using (exists (select from secrets s where s.owner = secured.owner));
        create view by_viewer as select * from secured;
        alter view by_viewer owner to describe_viewer;
        create view by_owner as select * from secured;
        create view of_customers as select * from customers;
        grant select on by_viewer, by_owner, of_customers to describe_reader;
    ";
    run(async {
        let (database, mut owner) = shop("describe_rights").await;
        database.run(RIGHTS).await;
        let mut reader = connected(&database.url.replace("postgres@", "describe_reader@")).await;
        // Without the right to make a temporary view there is no tree, and what is read is found all the same.
        let text = "select o.id, now() as n from orders o, lateral (select 1 from open_orders limit 1) x where o.id = :i";
        let treeless = said(&mut reader, text).await.unwrap();
        assert!(
            treeless.tree.is_none()
                && treeless.note.as_ref().unwrap().contains("permission denied"),
            "{:?}",
            treeless.note
        );
        assert_eq!(tables(&treeless), "open_orders* orders*");
        assert!(functions(&treeless).contains("now"));
        // A record has no name for a view's column.
        let record =
            said(&mut owner, "select (1, o.id) from orders o where o.id = :i").await.unwrap();
        assert!(record.tree.is_none() && record.note.unwrap().contains("pseudo-type"));
        assert_eq!(record.tables.len(), 1);

        database.run("grant temp on database describe_rights to public").await;
        assert!(
            said(&mut reader, "select o.id from orders o where o.id = :i")
                .await
                .unwrap()
                .tree
                .is_some()
        );
        for (text, want) in [
            ("select * from customers", "kck's role may not read public.customers"),
            ("select * from secured", "row security of public.secured applies"),
            ("select * from by_viewer", "row security of public.secured applies"),
        ] {
            let fault = said(&mut reader, text).await.unwrap_err();
            assert!(fault.contains(want), "{text}: {fault}");
        }
        for (text, names) in [
            // What a policy reads, the product reads.
            ("/* kck rls = 'kck' */ select * from secured", "secrets* secured"),
            ("select * from by_owner", "by_owner secured"),
            ("select * from of_customers", "customers of_customers"),
        ] {
            assert_eq!(tables(&said(&mut reader, text).await.unwrap()), names, "{text}");
        }
    });
}

/// Of what the look at the catalogue tells, what a statement may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moves {
    Nothing,
    /// Where rows lie: the stream does not tell of it, so the product is marked.
    Rows,
    /// Columns that came since: it is described again, and may mean the same.
    Growth,
    /// What the product means: it is described anew.
    Definitions,
}

const MOVES: &[(Moves, &[&str])] = &[
    (
        Moves::Nothing,
        &[
            "create index on orders (placed_at)",
            "analyze",
            "vacuum orders",
            "vacuum full orders",
            "vacuum freeze",
            "cluster orders using orders_pkey",
            "reindex table orders",
            "create unique index on orders (state, id)",
            "alter table orders add check (id > -5)",
            "insert into customers values (1); insert into orders values (1, 1)",
            "truncate parent, child",
            "create table unrelated (id int); create index on unrelated (id); drop table unrelated",
            "vacuum full pg_class",
        ],
    ),
    (
        Moves::Rows,
        &[
            "truncate parts_1",
            "refresh materialized view counted",
            "alter table orders replica identity full",
            "alter table parts_2 replica identity nothing",
            "alter table parts detach partition parts_2",
            "alter table parts attach partition parts_2 for values from (10) to (20)",
            "create table child_2 () inherits (parent)",
            "alter table child_2 no inherit parent",
            "truncate parts_2",
        ],
    ),
    (
        Moves::Growth,
        &[
            "alter table orders add column extra int",
            "alter table orders rename column extra to more",
            "alter table orders drop column more",
        ],
    ),
    (
        Moves::Definitions,
        &[
            "alter table parent alter column v type text using v || 'x'",
            "alter table customers rename column active to enabled",
            "alter table customers rename column enabled to active",
            "create or replace view open_orders as select * from orders where state = 'closed'",
            "create or replace function opaque(c bigint) returns bigint language plpgsql stable as 'begin return 1; end'",
            "alter type shop.state rename value 'open' to 'opened'",
            "alter type shop.state add value 'new'",
            "alter domain shop.email add check (value <> 'x')",
            "alter table orders enable row level security",
            "create policy own on orders using (true)",
            "alter table customers rename to clients",
            "alter table clients rename to customers",
            "alter table child drop column extra",
            "drop view deep; create view deep as select c.name, o.* from open_orders o join customers c on c.id = o.customer_id",
        ],
    ),
];

#[test]
fn a_look_at_the_catalogue_sees_what_the_stream_does_not_tell() {
    const PRODUCT: &str = "
        select d.*, atomic(1), opaque(2), (select count(*) from parts), (select count(*) from parent), (select n from counted)
        from deep d where d.name = :n and d.state = 'open' and :e::shop.email is not null
    ";
    run(async {
        let (database, mut client) = shop("describe_catalogue").await;
        let description = said(&mut client, PRODUCT).await.unwrap();
        let objects = Objects::of(&description);
        let look = async || {
            let seen = catalogue::look(&client, catalogue::QUESTION, &objects).await.unwrap();
            (seen.fingerprint(&objects), seen.definitions(&objects), seen.growth(&objects))
        };
        let mut before = look().await;
        let Description { catalogue, definitions, growth, .. } = description;
        assert_eq!(before, (catalogue, definitions, growth));
        for (moves, statements) in MOVES {
            for statement in *statements {
                database.run(statement).await;
                let now = look().await;
                let moved = match (now.0 != before.0, now.1 != before.1, now.2 != before.2) {
                    (false, false, false) => Moves::Nothing,
                    (true, false, false) => Moves::Rows,
                    (false, false, true) => Moves::Growth,
                    (true, true, _) => Moves::Definitions,
                    torn => panic!("{statement}: {torn:?}"),
                };
                assert_eq!(moved, *moves, "{statement}");
                before = now;
            }
        }
    });
}
