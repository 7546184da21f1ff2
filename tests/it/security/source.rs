//! The source, the store and the settings: names that would be SQL, products that would write, secrets.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::support::{
    client::{get, send},
    kck::{Project, Store},
    process::{Process, output, stderr, stdout},
    run,
    servers::Database,
};

/// Goal: a name from the settings, a file or the source is a name and nothing else. Method: names with quotes, ends of
/// statements and blanks: those of tables and columns work, those of kck's own things end the start.
#[test]
fn s24_names_are_quoted_or_refused() {
    run(async {
        let database = Database::new("abuse_names").await;
        database
            .run(
                "create schema \"od;d ' \"\"s\";
                 create table \"od;d ' \"\"s\".\"t'; drop table kept; --\" (\"id \"\"x\" bigint primary key, \"n'\" bigint);
                 alter table \"od;d ' \"\"s\".\"t'; drop table kept; --\" replica identity full;
                 insert into \"od;d ' \"\"s\".\"t'; drop table kept; --\" values (1, 5);
                 create table kept ()",
            )
            .await;
        let mut project = Project::new(&database, Store::Embedded).await;
        let plain = project.settings.clone();
        project.product(
            "odd",
            "/* kck\nresult = \"value\"\n*/\nselect \"n'\" from \"od;d ' \"\"s\".\"t'; drop table kept; --\" where \"id \"\"x\" = :id",
        );
        let kck = project.start().await;
        assert_eq!(kck.get("/fetch/odd/1").await.value(), json!(5));
        let lsn = database
            .commit("update \"od;d ' \"\"s\".\"t'; drop table kept; --\" set \"n'\" = 6")
            .await;
        assert_eq!(kck.at_least("odd/1", &lsn).await.value(), json!(6));
        kck.stop().await;
        for odd in [
            "p\"; drop table kept; --",
            "x; drop table kept",
            "x\" LOGICAL",
            "Ü",
            "",
            "a-b",
            &"x".repeat(64),
        ] {
            for name in ["slot", "publication"] {
                let line = format!("{name} = \"abuse_names\"");
                assert!(plain.contains(&line));
                project.settings = plain.replace(&line, &format!("{name} = '{odd}'"));
                let run = output(&project, &["run"]).await;
                assert!(
                    matches!(run.status.code(), Some(2 | 3)),
                    "{odd}: {:?} {}",
                    run.status,
                    stderr(&run)
                );
                assert!(stderr(&run).contains("hint: "), "{odd}: {}", stderr(&run));
            }
        }
        project.settings = plain.replace("kind = \"embedded\"", "kind = \"cassandra\"\nkeyspace = 'k\"; drop keyspace x; --'\ncontact_points = [\"127.0.0.1:1\"]");
        let run = output(&project, &["run"]).await;
        assert!(matches!(run.status.code(), Some(2 | 3)), "{}", stderr(&run));
        assert_eq!(database.one("select count(*) from pg_class where relname = 'kept'").await, 1);
    });
}

/// Goal: a product cannot write, wait for long, or reach the machine. Method: SELECTs with what writes inside; each is
/// refused when it is loaded or when it is run, and nothing is written.
#[test]
fn s25_products_do_not_write_and_do_not_hang() {
    run(async {
        let database = Database::new("abuse_products").await;
        database
            .run(
                "create table kept (id bigint primary key); insert into kept values (1); alter table kept replica identity full;
                 create sequence numbers;
                 create function sly(n bigint) returns bigint language plpgsql volatile as
                    'begin delete from kept; return n; end';
                 create function slyer(n bigint) returns bigint language plpgsql stable as
                    'begin execute ''delete from kept''; return n; end'",
            )
            .await;
        let mut project = Project::new(&database, Store::Memory).await;
        project.settings += "[refresh]\nstatement_timeout = \"1s\"\n";
        let every = "/* kck\nrefresh = [\"every 1h\"]\n*/\n";
        for (name, sql) in [
            ("w_delete", "with gone as (delete from kept returning id) select id from gone"),
            ("w_into", "select 1 as n into made"),
            ("w_update", "select id from kept for update"),
            ("w_copy", "copy kept to program 'touch /tmp/x'"),
            ("w_two", "select 1; delete from kept"),
            ("w_do", "do $$ begin delete from kept; end $$"),
            ("f_sly", "select sly(:n::bigint)"),
            ("f_slyer", "select slyer(:n::bigint)"),
            ("f_sleep", "select pg_sleep(3600 + :n::int)::text"),
            ("f_nextval", "select nextval('numbers') + :n::bigint"),
            ("f_import", "select lo_import('/etc/passwd') , :n::int"),
            ("f_config", "select set_config('role', 'postgres', false), :n::int"),
            ("f_terminate", "select pg_terminate_backend(pg_backend_pid()), :n::int"),
            ("f_message", "select pg_logical_emit_message(false, 'kck', 'x')::text, :n::int"),
        ] {
            project.product(name, &format!("{every}{sql}"));
        }
        project.product("fine", "/* kck\nresult = \"value\"\n*/\nselect count(*) from kept");
        let kck = project.start().await;
        for name in ["w_delete", "w_into", "w_copy", "w_two", "w_do"] {
            for path in [format!("/fetch/{name}"), format!("/fetch/{name}/1")] {
                let reply = kck.get(&path).await;
                assert_eq!(reply.status, 503, "{path}: {:?}", reply.body);
                assert!(!String::from_utf8_lossy(&reply.body).contains("kept"), "{:?}", reply.body);
            }
        }
        // Before PostgreSQL 16 READ ONLY does not stop large objects: there only the right to read the server's files
        // does, which a superuser has, and kck's own role need not be one.
        let stops = "select (current_setting('server_version_num')::int >= 160000)::int::bigint";
        let stops = database.one(stops).await == 1;
        let import = Some("f_import").filter(|_| stops);
        let refused = ["f_sly", "f_slyer", "f_sleep", "f_nextval", "f_terminate"].into_iter();
        for name in refused.chain(import) {
            let reply = kck.get(&format!("/fetch/{name}/1")).await;
            assert!(matches!(reply.status, 503 | 504), "{name}: {} {:?}", reply.status, reply.body);
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            assert!(
                !text.contains("passwd") && !text.contains("read-only") && !text.contains("delete"),
                "{text}"
            );
        }
        // Whatever these do, they do it to a session of their own.
        for name in ["f_config", "f_message", "w_update"] {
            let reply = kck
                .get(&format!("/fetch/{name}{}", if name == "w_update" { "" } else { "/1" }))
                .await;
            assert!(matches!(reply.status, 200 | 503), "{name}: {:?}", reply.body);
        }
        assert_eq!(kck.get("/fetch/fine").await.value(), json!(1));
        let lsn = database.commit("insert into kept values (2)").await;
        assert_eq!(kck.at_least("fine", &lsn).await.value(), json!(2));
        assert_eq!(database.one("select count(*) from kept").await, 2);
        assert_eq!(database.one("select count(*) from pg_class where relname = 'made'").await, 0);
        kck.stop().await;
    });
}

/// Goal: what is secret, and what rows hold, is never logged or told. Method: the binary with every line of its log;
/// secrets in every setting that takes one; failures of each kind.
#[test]
#[expect(clippy::too_many_lines, reason = "one log for all that is asked")]
fn s28_secrets_and_rows_are_never_logged_or_told() {
    run(async {
        const SECRETS: [&str; 4] =
            ["geheim_source", "geheim_signing_secret_of_32_bytes", "geheim_row", "geheim_body"];
        let database = Database::new("abuse_secrets").await;
        database
            .run(
                "create table items (id bigint primary key, name text unique, n bigint not null);
                 alter table items replica identity full; insert into items values (1, 'geheim_row', 0)",
            )
            .await;
        let mut project = Project::new(&database, Store::Embedded).await;
        // The server trusts whoever comes, and so never looks at the password.
        let with_password = database.url.replacen("@127.0.0.1", ":geheim_source@127.0.0.1", 1);
        assert_ne!(with_password, database.url);
        project.settings = project.settings.replace(&database.url, &with_password);
        project.settings +=
            "[auth.jwt]\naudience = \"shop\"\nsecret = \"geheim_signing_secret_of_32_bytes\"\n";
        let open = "[auth]\npublic = true\n";
        project.product(
            "by_id",
            &format!("/* kck\n{open}*/\nselect name, 1 / n as broken from items where id = :id"),
        );
        project.product(
            "cast_of",
            &format!("/* kck\n{open}*/\nselect name::int from items where id = :id"),
        );
        std::fs::create_dir_all(project.folder.0.join("updates")).unwrap();
        std::fs::write(
            project.folder.0.join("updates/rename.sql"),
            format!("/* kck\nparams = {{ id = \"bigint\", name = \"text\" }}\n{open}*/\ninsert into items values (:id, :name, 0)"),
        )
        .unwrap();
        let mut kck = Process::start_logging(&project, "kck=trace").await;
        let log = kck.gather();
        let mut told = String::new();
        for path in [
            "/fetch/by_id/1",
            "/fetch/cast_of/1",
            "/fetch/by_id/1?fresh=true",
            "/metrics",
            "/status",
            "/products",
            "/readyz",
            "/openapi.json",
            "/fetch/by_id/geheim",
        ] {
            let reply = get(&kck.address, path, &[]).await.unwrap();
            told +=
                &format!("{path}: {:?}{}\n", reply.headers, String::from_utf8_lossy(&reply.body));
        }
        for body in [
            r#"{"id":2,"name":"geheim_row"}"#,
            r#"{"id":1,"name":"geheim_body"}"#,
            r#"{"id":"x","name":"geheim_body"}"#,
        ] {
            let reply =
                send(&kck.address, ("POST", "/update/rename"), "application/json", body).await;
            told +=
                &format!("{body}: {}\n", String::from_utf8_lossy(&reply.body)).replace(body, "");
        }
        kck.signal("TERM");
        assert!(kck.ended().await.success());
        let log = log.await.unwrap();
        for secret in SECRETS {
            assert!(!told.contains(secret), "{secret} is told:\n{told}");
            assert!(
                !log.contains(secret),
                "{secret} is logged:\n{}",
                log.lines().filter(|line| line.contains(secret)).collect::<String>()
            );
        }
        let printed = output(&project, &["run", "--print-config"]).await;
        let printed = stdout(&printed) + &stderr(&printed);
        assert!(printed.contains("slot") && !printed.contains("geheim"), "{printed}");
    });
}

/// Cassandra's own password is one of them; whether it is the default one is not looked for.
#[test]
fn s33_the_stores_password_is_hidden_and_a_store_that_is_away_ends_the_start() {
    run(async {
        let database = Database::new("abuse_store").await;
        let mut project = Project::sums(&database).await;
        project.settings = project.settings.replace(
            "kind = \"embedded\"",
            "kind = \"cassandra\"\ncontact_points = [\"127.0.0.1:1\"]\nusername = \"cassandra\"\npassword = \"geheim_store\"",
        );
        let printed = output(&project, &["run", "--print-config"]).await;
        assert!(
            stdout(&printed).contains("(hidden)") && !stdout(&printed).contains("geheim"),
            "{}",
            stdout(&printed)
        );
        let run = output(&project, &["run"]).await;
        let said = stdout(&run) + &stderr(&run);
        assert!(
            run.status.code() == Some(3) && said.contains("hint: ") && !said.contains("geheim"),
            "{said}"
        );
    });
}

/// Goal: secrets lie where only their owner reads them, or kck does not start and says what to type. Method: the running
/// binary, a file of each mode; the same secret by the environment shows nowhere.
#[test]
fn s34_a_secret_file_that_others_may_read_is_refused_and_none_is_printed() {
    run(async {
        let database = Database::new("abuse_files").await;
        let mut project = Project::sums(&database).await;
        let file = project.folder.0.join("jwt.secret");
        std::fs::write(&file, "geheim geheim geheim geheim geheim").unwrap();
        let source = project.folder.0.join("source.password");
        std::fs::write(&source, "geheim_too").unwrap();
        let plain = project.settings.clone();
        project.settings += "[auth.jwt]\naudience = \"shop\"\nsecret_file = \"jwt.secret\"\n";
        let mode = |path: &std::path::Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        for wrong in [0o644, 0o604, 0o660, 0o666] {
            mode(&file, wrong);
            let run = output(&project, &["run"]).await;
            let said = stderr(&run);
            assert!(
                run.status.code() != Some(0) && said.contains("chmod 600"),
                "{wrong:o}: {said}"
            );
            assert!(!said.contains("geheim"), "{said}");
        }
        for right in [0o600, 0o640, 0o400] {
            mode(&file, right);
            let kck = project.start().await;
            assert_eq!(kck.get("/fetch/sum_of/1").await.status, 401);
            kck.stop().await;
        }
        let printed = output(&project, &["run", "--print-config"]).await;
        assert!(
            stdout(&printed).contains("jwt.secret") && !stdout(&printed).contains("geheim"),
            "{}",
            stdout(&printed)
        );

        // The source's password is another's to mount: kck says so and goes on.
        mode(&source, 0o644);
        project.settings =
            plain.replace("[source]\n", "[source]\npassword_file = \"source.password\"\n");
        let mut kck = Process::launch(&project, "");
        let said = kck.says("chmod 600").await;
        assert!(
            said.contains("WARN") && said.contains("source.password") && !said.contains("geheim"),
            "{said}"
        );
        kck.ready().await;
        kck.kill().await;
    });
}
