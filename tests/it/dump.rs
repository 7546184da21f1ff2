//! `kck dump` and `kck load`: files as the original wrote them.

use std::{fs, time::Duration};

use serde_json::json;

use crate::support::{
    kck::{Kck, Project, Store},
    process::{command, stderr, stdout},
    run,
    servers::Database,
};

async fn ran(kck: &Kck, arguments: &[&str]) -> (i32, String, String) {
    let mut command = command();
    command.args(arguments).args(["--server", &kck.address]).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
    let output = output.expect("it ends").unwrap();
    (output.status.code().unwrap(), stdout(&output), stderr(&output))
}

async fn notes(name: &str) -> (Database, Project) {
    let database = Database::new(name).await;
    database
        .run(
            "create table notes (id bigint primary key, body text);
             alter table notes replica identity full;
             insert into notes values (1, 'it is \"so\"'), (2, E'two\\r\\nlines, æøå'), (3, null)",
        )
        .await;
    let project = Project::new(&database, Store::Memory).await;
    project
        .product("note", "/* kck\nresult = \"arrays\"\nparams = { id = \"bigint\" }\n*/\nselect body from notes where id = :id")
        .product("named", "/* kck\nresult = \"value\"\n*/\nselect count(*) from notes where body = :body");
    (database, project)
}

#[test]
fn a_dump_of_the_original_is_loaded_and_compared() {
    run(async {
        let (_database, project) = notes("dump_load").await;
        let kck = project.start().await;
        let file = project.folder.0.join("original.csv");
        // As Python's csv writes it: quotes doubled, lines within values, CRLF.
        let text = concat!(
            "note/1,\"[[\"\"it is \\\"\"so\\\"\"\"\"]]\",631735955,2026-11-22 16:23:41.673000\r\n",
            "note/2,\"[[\"\"old\"\"]]\",-7,2026-11-22 16:23:41\r\n",
            "note/3,\"[\r\n[null]\r\n]\",1,2026-11-22 16:23:41.673000\r\n",
            "named/two æøå,0,2,2026-11-22 16:23:41.673000\r\n",
            "gone/1,\"{\"\"a\"\": 1}\",3,2026-11-22 16:23:41.673000\r\n",
            "note/x,1,4,2026-11-22 16:23:41.673000\r\n",
            "note/1/2,1,5,2026-11-22 16:23:41.673000\r\n",
        );
        fs::write(&file, text).unwrap();
        let path = file.to_str().unwrap();
        let (code, out, _) = ran(&kck, &["load", path]).await;
        assert_eq!(code, 1);
        assert!(out.ends_with("7 keys: 4 are followed; 3 are no keys here, 0 failed\n"), "{out}");
        assert!(out.contains("gone/1 is no key here: unknown_product: "), "{out}");
        assert!(out.contains("note/x is no key here: bad_parameter: "), "{out}");
        assert!(out.contains("note/1/2 is no key here: parameter_count: "), "{out}");
        let keys = kck.get("/keys/note").await.json();
        assert_eq!(keys["keys"].as_array().unwrap().len(), 3);
        assert_eq!(
            kck.get("/keys/named").await.json()["keys"][0]["key"],
            json!("named/two%20%C3%A6%C3%B8%C3%A5")
        );
        let (code, out, _) = ran(&kck, &["load", path, "--compare"]).await;
        assert_eq!(code, 1);
        assert!(out.contains("note/2 differs\n  the dump has [[\"old\"]]\n  kck has [[\"two\\r\\nlines, æøå\"]]\n"), "{out}");
        assert!(
            out.ends_with(
                "7 keys: 4 are followed, 1 of them differ; 3 are no keys here, 0 failed\n"
            ),
            "{out}"
        );
        fs::write(&file, "note/1,\"[]\",1,t\r\nnote/2,[]\r\n").unwrap();
        let (code, out, complaint) = ran(&kck, &["load", path]).await;
        assert!(code == 1 && out.starts_with("1 keys: 1 are followed"), "{out}");
        assert!(complaint.contains("original.csv:2: it has 2 fields, and a line of a dump has 4; what follows was not read"), "{complaint}");
        kck.stop().await;
    });
}

#[test]
fn a_dump_has_every_tracked_key_as_the_original_wrote_it() {
    run(async {
        let (database, project) = notes("dump_write").await;
        let kck = project.start().await;
        // More than a page.
        for id in 1..=230 {
            assert_eq!(kck.get(&format!("/fetch/note/{id}")).await.status, 200);
        }
        assert_eq!(kck.get("/fetch/named/a%2Fb").await.status, 200);
        assert_eq!(kck.get("/fetch?key=named%2F..").await.status, 200);
        let file = project.folder.0.join("dump.csv");
        let path = file.to_str().unwrap();
        let (code, out, complaint) = ran(&kck, &["dump", path]).await;
        assert_eq!(
            (code, out.as_str(), complaint.as_str()),
            (0, "", "kck: 232 keys written, 0 left out\n")
        );
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("named/..,0,") && text.contains("\r\nnamed/a%2Fb,0,"), "{text}");
        assert!(text.contains("\r\nnote/1,\"[[\"\"it is \\\"\"so\\\"\"\"\"]]\","), "{text}");
        assert!(text.contains("\r\nnote/2,\"[[\"\"two\\r\\nlines, æøå\"\"]]\","), "{text}");
        let line = text.lines().find(|line| line.starts_with("note/9,")).unwrap();
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!((fields.len(), fields[1]), (4, "[]"));
        assert!(
            fields[2].parse::<u64>().is_ok() && fields[3].len() >= 19 && &fields[3][10..11] == " ",
            "{line}"
        );
        assert!(!file.with_file_name("dump.csv.part").exists());
        let (code, out, _) = ran(&kck, &["dump"]).await;
        assert_eq!((code, out.lines().count()), (0, 232));

        let (code, out, _) = ran(&kck, &["load", path, "--compare"]).await;
        assert!(
            code == 0
                && out
                    == "232 keys: 232 are followed, 0 of them differ; 0 are no keys here, 0 failed\n",
            "{out}"
        );
        let lsn = database.commit("update notes set body = 'new' where id = 1").await;
        kck.at_least("note/1", &lsn).await;
        let (code, out, _) = ran(&kck, &["load", path, "--compare"]).await;
        assert!(code == 1 && out.starts_with("note/1 differs\n"), "{out}");
        kck.stop().await;
    });
}
