//! What is wrong is said with what, where and what to do; and a table is never published to its writers' harm.

use serde_json::json;

use crate::support::{
    kck::{Project, Store},
    process::{output as command, stderr, stdout},
    run,
    servers::{Database, connect, own_postgres},
};

const SCHEMA: &str = "
    create table orders (id bigint primary key, customer_id bigint not null);
    alter table orders replica identity full;
    create table keyless (id bigint, note text);
";

async fn shop(name: &str) -> (Database, Project) {
    let database = Database::new(name).await;
    database.run(SCHEMA).await;
    let project = Project::new(&database, Store::Embedded).await;
    project.product(
        "orders_of",
        "select id from orders where customer_id = :customer_id and id > :after_id",
    );
    (database, project)
}

#[test]
fn a_request_that_is_wrong_is_told_why() {
    run(async {
        let (_database, project) = shop("wrong_requests").await;
        let kck = project.start().await;
        for (path, status, name, says) in [
            ("/fetch/nothing/1", 404, "unknown_product", "nothing"),
            ("/fetch/orders_of/1", 400, "parameter_count", "after_id"),
            ("/fetch/orders_of", 400, "parameter_count", "customer_id"),
            ("/fetch/orders_of/1/2/3", 400, "parameter_count", "customer_id"),
            ("/fetch/orders_of/x/2", 400, "bad_parameter", "customer_id"),
            ("/fetch/orders_of/1/99999999999999999999", 400, "bad_parameter", "after_id"),
            ("/fetch/orders_of/1/%zz", 400, "bad_parameter", "after_id"),
            ("/fetch/orders_of/%00/1", 400, "bad_parameter", "customer_id"),
            ("/fetch/orders_of?customer_id=1&other=2", 400, "bad_request", "other"),
            ("/fetch/orders_of/1/2?what=3", 400, "bad_request", "what"),
            ("/nowhere", 404, "not_found", ""),
        ] {
            let reply = kck.get(path).await;
            let error = reply.json()["error"].clone();
            assert_eq!((reply.status, &error["name"]), (status, &json!(name)), "{path}: {error}");
            assert!(error.to_string().contains(says), "{path}: {error}");
            assert_eq!(reply.json()["success"], json!(false));
        }
        // Two spellings of one value are one key.
        let one = kck.get("/fetch/orders_of/007/+1").await.json()["key"].clone();
        assert_eq!(one, json!("orders_of/7/1"));
        kck.stop().await;
    });
}

#[test]
fn a_file_that_is_wrong_is_told_where() {
    run(async {
        let (_database, project) = shop("wrong_files").await;
        for (name, text, line, says) in [
            ("two", "select 1;\nselect 2", ":2:", "statement"),
            ("writes", "\ndelete from orders", ":2:", "SELECT"),
            ("unknown", "/* kck\nresutl = \"row\"\n*/\nselect 1", ":2:", "result"),
            ("missing", "select 1\nfrom nowhere", ":2:", "nowhere"),
            ("later", "/* kck\nsource = \"other\"\n*/\nselect 1", ":2:", "not supported yet"),
            ("clock", "select now()", ":1:", "expire"),
            ("broken", "select 1 +\nfrom orders", ":2:", "syntax"),
        ] {
            project.product(name, text);
            let checked = command(&project, &["check"]).await;
            assert_eq!(checked.status.code(), Some(1), "{name}");
            let said = stdout(&checked);
            let at = format!("products/{name}.sql{line}");
            assert!(
                said.contains(&at) && said.contains(says) && said.contains("hint: "),
                "{name} wants {at} and {says}:\n{said}"
            );
            assert!(said.contains("orders_of: ready"), "the others are judged too:\n{said}");
            std::fs::remove_file(project.folder.0.join(format!("products/{name}.sql"))).unwrap();
        }
        std::fs::create_dir_all(project.folder.0.join("products/more")).unwrap();
        project.product("more/orders_of", "select 1");
        let checked = command(&project, &["check"]).await;
        assert_eq!(checked.status.code(), Some(1));
        assert!(stdout(&checked).contains("more/orders_of.sql"), "{}", stdout(&checked));
        // What is broken answers 503, the others are served.
        project.product("fine", "/* kck\nresult = \"value\"\n*/\nselect count(*) from orders");
        let kck = project.start().await;
        assert_eq!(
            kck.get("/fetch/orders_of/1/2").await.json()["error"]["name"],
            json!("product_broken")
        );
        assert_eq!(kck.get("/fetch/fine").await.value(), json!(0));
        kck.stop().await;
    });
}

#[test]
fn a_source_that_cannot_be_used_ends_the_start() {
    run(async {
        let project =
            Project::named("no_source", "postgres://kck:geheim@127.0.0.1:1/shop", Store::Memory)
                .await;
        let output = command(&project, &["run"]).await;
        assert_eq!(output.status.code(), Some(3));
        assert!(stderr(&output).contains("cannot be reached"), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("hint: ") && !stderr(&output).contains("geheim"),
            "{}",
            stderr(&output)
        );

        let server = own_postgres(&[("wal_level", "replica")]).await;
        let project = Project::named("no_logical", &server.url("postgres"), Store::Memory).await;
        let output = command(&project, &["run"]).await;
        assert_eq!(output.status.code(), Some(3));
        assert!(
            stderr(&output).contains("ALTER SYSTEM SET wal_level = 'logical';"),
            "{}",
            stderr(&output)
        );
    });
}

#[test]
fn a_table_without_identity_is_never_published() {
    run(async {
        let (database, project) = shop("keyless").await;
        project.product("notes", "select note from keyless where id = :id");
        let kck = project.start().await;
        assert_eq!(
            kck.get("/fetch/notes/1").await.json()["error"]["name"],
            json!("product_broken")
        );
        assert_eq!(kck.get("/fetch/orders_of/1/2").await.status, 200);
        let products = kck.get("/products").await.json().to_string();
        assert!(products.contains("replica identity"), "it says why: {products}");
        let published = "select count(*) from pg_publication_tables where tablename = 'keyless'";
        assert_eq!(database.one(published).await, 0);
        let published = "select count(*) from pg_publication_tables where tablename = 'orders'";
        assert_eq!(database.one(published).await, 1);
        // Its writers are not harmed.
        database.run("insert into keyless values (1, 'x'); update keyless set note = 'y'; delete from keyless").await;
        kck.stop().await;
    });
}

#[test]
fn a_taken_port_ends_the_start() {
    run(async {
        let (_database, mut project) = shop("taken_port").await;
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        project.settings = project.settings.replace("127.0.0.1:0", &address);
        let output = command(&project, &["run"]).await;
        assert_eq!(output.status.code(), Some(3));
        assert!(
            stderr(&output).contains(&address) && stderr(&output).contains("hint: "),
            "{}",
            stderr(&output)
        );
    });
}

/// R11: rows written before the table was published, by a transaction that still runs, are in no stream.
#[test]
fn a_table_published_under_a_writer_is_not_trusted_early() {
    run(async {
        let (database, project) = shop("published").await;
        database
            .run("create table first (id bigint primary key); insert into orders values (1, 1)")
            .await;
        let later =
            std::fs::read_to_string(project.folder.0.join("products/orders_of.sql")).unwrap();
        project.product(
            "orders_of",
            "select id from first where id = :customer_id and id > :after_id",
        );
        project.start().await.stop().await; // The slot exists: making it would wait for the writer below.
        project.product("orders_of", &later);
        let writer = connect(&database.url).await;
        writer.batch_execute("begin; insert into orders values (2, 1)").await.unwrap();
        let kck = project.start_unjoined().await;
        let joins = kck.app.context.recompute.clone();
        let first = kck.get("/fetch/orders_of/1/0").await;
        assert_eq!(
            (first.value().as_array().unwrap().len(), joins.ledger().len()),
            (1, 0),
            "answered uncached"
        );
        let mut events = kck.observer.subscribe();
        writer.batch_execute("commit").await.unwrap();
        let joined = |event: &kck::observe::Event| {
            matches!(event, kck::observe::Event::ProductJoined { .. })
        };
        crate::support::kck::Kck::event(&mut events, joined).await;
        kck.joined().await;
        assert_eq!(kck.get("/fetch/orders_of/1/0").await.value().as_array().unwrap().len(), 2);
        kck.stop().await;
    });
}
