//! How a product follows its tables is said in words, as JSON and as a picture; and what it asks for makes it finer.

use serde_json::{Value, json};

use crate::support::{
    kck::{Kck, Project, Store},
    process, run,
    servers::Database,
};

const SCHEMA: &str = "
    create type state as enum ('open', 'paid');
    create table customers (id bigint primary key, region text not null);
    create table orders (id bigint primary key, customer_id bigint not null, state state, total numeric);
    alter table customers replica identity full;
    insert into customers values (1, 'north'), (2, 'south');
    insert into orders values (10, 1, 'open', 5), (11, 2, 'open', 7);
";

const OF_REGION: &str =
    "select o.id, o.total from orders o join customers c on c.id = o.customer_id
    where c.region = :region and o.state = 'open' order by o.id";

async fn shop(name: &str) -> (Database, Project) {
    let database = Database::new(name).await;
    database.run(SCHEMA).await;
    let project = Project::new(&database, Store::Memory).await;
    project.product("of_region", OF_REGION);
    (database, project)
}

/// What a command prints, and its exit code.
async fn said(project: &Project, arguments: &[&str]) -> (String, Option<i32>) {
    let file = project.folder.0.join("kck.toml");
    std::fs::write(&file, &project.settings).unwrap();
    let mut command = process::command();
    command.args(arguments).arg("--config").arg(&file).env("NO_COLOR", "1");
    let output = command.output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.code())
}

#[test]
fn a_product_says_how_it_follows_its_tables() {
    run(async {
        let (_database, project) = shop("explained").await;
        let (text, code) = said(&project, &["explain", "of_region"]).await;
        let wanted = "\
of_region (:region): lookup
  public.customers: direct, a change costs a hash
    direct: region = :region
    an UPDATE counts if it changes one of: id, region
  public.orders: lookup, a change costs one indexed query for all changes that arrive together
    lookup: public.customers.region = :region over public.customers
      only rows with state = 'open'
    an UPDATE counts if it changes one of: customer_id, id, state, total
    finer: the stream does not tell customer_id of old rows: an UPDATE or DELETE touches every key
      alter table \"public\".\"orders\" replica identity full;
      or: create unique index concurrently \"orders_kck_identity\" on \"public\".\"orders\" (\"id\", \"customer_id\"); alter table \"public\".\"orders\" replica identity using index \"orders_kck_identity\"; -- where these columns are NOT NULL
";
        assert_eq!((text.as_str(), code), (wanted, Some(0)));
        let (text, _) = said(&project, &["explain", "of_region", "--json"]).await;
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["class"], json!("lookup"));
        assert_eq!(json["tables"][1]["rules"][0]["only"], json!(["state = 'open'"]));
        let (dot, _) = said(&project, &["explain", "--dot"]).await;
        for part in ["digraph", "\"public.orders\"", "\"of_region\"", "\"lookup\"", "\"direct\""] {
            assert!(dot.contains(part), "{part} in {dot}");
        }
        let (text, code) = said(&project, &["explain", "nothing"]).await;
        assert!(code == Some(2) && text.contains("there is no product 'nothing'"), "{text}");
    });
}

#[test]
fn what_it_asks_for_makes_it_finer() {
    run(async {
        let (database, project) = shop("finer").await;
        let (text, _) = said(&project, &["explain", "of_region"]).await;
        let sql = text.lines().find(|line| line.trim().starts_with("alter table")).unwrap();
        database.run(sql).await;
        let (text, _) = said(&project, &["explain", "of_region"]).await;
        assert!(!text.contains("finer"), "{text}");
    });
}

/// The refreshes of a key are seen when an answer at a later position is served.
async fn refreshed(kck: &Kck, database: &Database, sql: &str) -> Value {
    let position = database.commit(sql).await;
    kck.at_least("of_region/north", &position).await;
    kck.get("/explain/of_region").await.json()
}

#[test]
fn a_running_kck_shows_what_was_touched_for_nothing() {
    run(async {
        let (database, project) = shop("counted").await;
        database.run("alter table orders replica identity full").await;
        let kck = project.start().await;
        kck.get("/fetch/of_region/north").await;
        let shown = kck.get("/explain/of_region").await.json();
        assert_eq!(shown["class"], json!("lookup"));
        assert_eq!(shown["refreshes"]["false_positive_ratio"], Value::Null);
        let shown = refreshed(&kck, &database, "update orders set total = 6 where id = 10").await;
        assert_eq!(shown["refreshes"]["marked"], json!(1), "{shown}");
        // 6 and 6.0 are two texts of one number: the row changed, and so does the answer's text.
        let moved = "update orders set total = 9, customer_id = 1 where id = 11;
            update orders set total = 7, customer_id = 2 where id = 11";
        let shown = refreshed(&kck, &database, &format!("begin; {moved}; commit")).await;
        let ratio = &shown["refreshes"];
        assert_eq!((&ratio["marked"], &ratio["unchanged"]), (&json!(2), &json!(1)), "{shown}");
        assert_eq!(ratio["false_positive_ratio"], json!(0.5));
        let metrics = kck.get("/metrics").await;
        let text = String::from_utf8_lossy(&metrics.body);
        assert!(text.contains("kck_false_positives_total{product=\"of_region\"} 1"), "{text}");
        assert_eq!(kck.get("/explain/nothing").await.status, 404);
        kck.stop().await;
    });
}

#[test]
fn a_product_over_a_product_is_one_question() {
    run(async {
        let (database, project) = shop("composed").await;
        database.run("alter table orders replica identity full").await;
        project.product(
            "worth",
            "/* kck\nresult = \"value\"\n*/\nselect coalesce(sum(total), 0) from kck.of_region(:r) o where o.total > :least",
        );
        project.product(
            "each",
            "select c.id, o.total from customers c, kck.of_region(c.region) o where c.id = :c",
        );
        let (text, _) = said(&project, &["explain", "worth"]).await;
        assert!(text.contains("contains product of_region"), "{text}");
        assert!(
            text.contains("public.customers: partial") && text.contains("region = :r"),
            "{text}"
        );
        let kck = project.start().await;
        assert_eq!(kck.get("/fetch/worth/north/1").await.value(), json!(5));
        let each = kck.get("/fetch/each/2").await.value();
        assert_eq!(each, json!([{"id": 2, "total": 7}]));
        let position = database.commit("insert into orders values (12, 1, 'open', 20)").await;
        assert_eq!(kck.at_least("worth/north/1", &position).await.value(), json!(25));
        kck.stop().await;
    });
}

#[test]
fn what_cannot_be_followed_is_refused_with_what_to_do() {
    run(async {
        let (database, project) = shop("refused").await;
        database
            .run(
                "create function counted(bigint) returns bigint language sql immutable
                     as 'select count(*) from orders where customer_id = $1';
                 create function pure(bigint) returns bigint language sql immutable as 'select $1 + 1';
                 create function hidden(bigint) returns bigint language plpgsql stable
                     as 'begin return (select count(*) from orders where customer_id = $1); end'",
            )
            .await;
        project.product("fine", "select id from orders where id = pure(:n)");
        for (name, sql, what, to_do) in [
            (
                "mislabelled",
                "select counted(:n)",
                "labelled IMMUTABLE and reads tables",
                "alter function counted(bigint) stable",
            ),
            ("opaque", "select hidden(:n)", "calls public.hidden()", "expire"),
            (
                "clock",
                "select id from orders where id = :n and now() > '2026-01-01'",
                "calls pg_catalog.now()",
                "expire",
            ),
            (
                "round",
                "select * from kck.round(:n)",
                "in a circle: round → round",
                "read the tables itself",
            ),
            ("refused", "select id from orders where total = any(:n)) ", "syntax error", "psql"),
            (
                "unknown",
                "select * from kck.nobody(:n)",
                "there is no product 'nobody'",
                "kck check",
            ),
        ] {
            project.product(name, sql);
            let (text, code) = said(&project, &["check"]).await;
            let at = format!("products/{name}.sql:1:");
            let about: Vec<&str> =
                text.lines().skip_while(|line| !line.contains(&at)).take(2).collect();
            let about = about.join("\n");
            assert_eq!(code, Some(1), "{name}: {text}");
            assert!(about.contains(what) && about.contains(to_do), "{name}: {text}");
            assert!(text.contains("fine: ready"), "{text}");
            std::fs::remove_file(project.folder.0.join(format!("products/{name}.sql"))).unwrap();
        }
    });
}

#[test]
fn row_security_is_refused_unless_it_is_meant() {
    run(async {
        let (database, project) = shop("secured").await;
        database
            .run(
                "drop role if exists kck_secured;
                 create role kck_secured login replication password 'kck';
                 grant select on all tables in schema public to kck_secured;
                 alter table orders enable row level security;
                 create policy own on orders for select to kck_secured using (customer_id = 1)",
            )
            .await;
        let (_, rest) = database.url.split_once('@').unwrap();
        let url = format!("postgres://kck_secured:kck@{rest}");
        let settings = project.settings.replace(&database.url, &url);
        let project = Project { settings, ..project };
        let (text, code) = said(&project, &["check"]).await;
        let wanted = "row security of public.orders applies to kck's role";
        assert!(
            code == Some(1) && text.contains(wanted) && text.contains("rls = \"kck\""),
            "{text}"
        );
        project.product("of_region", &format!("/* kck\nrls = \"kck\"\n*/\n{OF_REGION}"));
        let (text, _) = said(&project, &["check"]).await;
        assert!(text.contains("of_region: ready"), "{text}");
    });
}
