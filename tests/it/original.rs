//! The original's clients, byte for byte: what they sent is sent, and what they read is read, save for what is changed
//! on purpose (docs/guide/from-kck-0.6.md).

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    kck::{Kck, Project, Store},
    run,
    servers::Database,
};

/// RFC 7677: password `pencil`.
const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

/// An answer, taken apart.
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Sends the original's bytes; `{host}` and `{length}` are what their sender would put there.
async fn sent(kck: &Kck, head: &str, body: &str) -> Answer {
    let head = head.replace("{host}", &kck.address).replace("{length}", &body.len().to_string());
    let text = head.replace('\n', "\r\n") + "\r\n\r\n" + body;
    let mut stream = TcpStream::connect(&kck.address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    // As these clients do: the head to its end, then as many bytes as it says.
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(seen).unwrap();
    let mut answer = Answer { status: head[9..12].parse().unwrap(), head, body: Value::Null };
    let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    if !body.is_empty() {
        answer.body = serde_json::from_slice(&body).unwrap();
    }
    answer
}

/// curl, as the original's README has it; Python's requests; Tornado's own client; a browser's form.
const CURL: &str = "Host: {host}\nUser-Agent: curl/7.88.1\nAccept: */*";
const REQUESTS: &str = "Host: {host}\nUser-Agent: python-requests/2.31.0\nAccept-Encoding: gzip, deflate\nAccept: */*\nConnection: keep-alive";
const TORNADO: &str =
    "Connection: close\nHost: {host}\nUser-Agent: Tornado/4.0\nAccept-Encoding: gzip";
const FORM: &str = "Content-Length: {length}\nContent-Type: application/x-www-form-urlencoded";

async fn served(name: &str, auth: bool) -> (Database, Project) {
    let database = Database::new(name).await;
    database
        .run(&format!(
            "create table testtbl1 (id serial primary key, testcol1 text);
             alter table testtbl1 replica identity full;
             insert into testtbl1 (testcol1) values ('name1'), ('name2');
             create table auth (id int, email text, passwd text);
             insert into auth values (7, 'joe@example.com', '{PENCIL}')"
        ))
        .await;
    let mut project = Project::new(&database, Store::Embedded).await;
    project
        .product("simple1", "/* kck\nresult = \"arrays\"\nexpire = \"1h\"\n*/\nselect testcol1 from testtbl1 where id = :id")
        .product("simple2", "/* kck\nparams = { id = \"int\", day = \"text\" }\n*/\nselect id, testcol1 from testtbl1 where id = :id and :day <> ''");
    std::fs::create_dir_all(project.folder.0.join("updates")).unwrap();
    for (name, sql) in [
        ("simple_updater1", "update testtbl1 set testcol1 = :testcol1 where id = :id"),
        ("simple_creator1", "insert into testtbl1 (testcol1) values (:testcol1)"),
    ] {
        std::fs::write(project.folder.0.join(format!("updates/{name}.sql")), sql).unwrap();
    }
    if auth {
        project.settings += "[auth.jwt]\nsecret = \"a secret of tests and of nothing else\"\naudience = \"kck\"\n[auth.login]\nquery = \"select id as sub, passwd as hash from auth where email = :user\"\n";
    }
    (database, project)
}

/// Kept: the route, `success`, `key`, `value`, `version`, `modified`, `ttl`, ETag. Changed: no `tbl`, ISO times, JSON
/// content type without a charset, real statuses, kck's own error names, no traceback.
#[test]
fn the_originals_reads_are_answered() {
    run(async {
        let (_database, project) = served("original_fetch", false).await;
        let kck = project.start().await;
        for head in [CURL, REQUESTS, TORNADO] {
            let answer = sent(&kck, &format!("GET /fetch/simple1/1 HTTP/1.1\n{head}"), "").await;
            let body = &answer.body;
            assert_eq!((answer.status, &body["success"]), (200, &json!(true)), "{body}");
            assert_eq!((&body["key"], &body["value"]), (&json!("simple1/1"), &json!([["name1"]])));
            assert!(body["version"].is_i64() && body.get("tbl").is_none(), "{body}");
            assert!((3500..=3600).contains(&body["ttl"].as_i64().unwrap()), "{body}");
            let modified = body["modified"].as_str().unwrap();
            assert!(
                modified.len() == 27 && &modified[10..11] == "T" && modified.ends_with('Z'),
                "{modified}"
            );
            assert_eq!(answer.header("content-type"), Some("application/json"));
        }
        let tag = sent(&kck, &format!("GET /fetch/simple1/1 HTTP/1.1\n{CURL}"), "").await;
        let tag = tag.header("etag").unwrap().to_owned();
        let again =
            sent(&kck, &format!("GET /fetch/simple1/1 HTTP/1.1\n{CURL}\nIf-None-Match: {tag}"), "")
                .await;
        assert_eq!((again.status, again.body), (304, Value::Null));
        let old = sent(&kck, "GET /fetch/simple1/1 HTTP/1.0\nHost: {host}", "").await;
        assert_eq!(old.status, 200);

        for (path, status, name, args) in [
            // KCKUnknownKey
            ("/fetch/nokey/1", 404, "unknown_product", json!(["nokey"])),
            // IndexError
            ("/fetch/simple2/1", 400, "parameter_count", json!(["simple2", "2", "1"])),
            // ValueError
            ("/fetch/simple1/abc", 400, "bad_parameter", json!(["id", "integer", "abc"])),
            // Ignored, and another key of the cache.
            ("/fetch/simple1/1/2", 400, "parameter_count", json!(["simple1", "1", "2"])),
            // InvalidRequest of Cassandra
            ("/fetch/", 400, "bad_request", json!(["key"])),
            // The original ignored query strings.
            ("/fetch/simple1/1?_=1416666221", 400, "bad_request", json!(["_"])),
            ("/nowhere", 404, "not_found", json!(["/nowhere"])),
        ] {
            let answer = sent(&kck, &format!("GET {path} HTTP/1.1\n{REQUESTS}"), "").await;
            let error = &answer.body["error"];
            assert_eq!(
                (answer.status, &error["name"], &error["args"]),
                (status, &json!(name), &args),
                "{path}"
            );
            assert_eq!(answer.body["success"], json!(false));
            assert!(error.get("traceback").is_none() && error["message"].is_string(), "{error}");
        }
        // No result was an error, and is an empty one.
        let nothing = sent(&kck, &format!("GET /fetch/simple1/99 HTTP/1.1\n{CURL}"), "").await;
        assert_eq!((nothing.status, &nothing.body["value"]), (200, &json!([])));
        kck.stop().await;
    });
}

/// Kept: both routes with both verbs, forms with and without a content type, keys in the path. Changed: two files for
/// two statements, real statuses, types are applied.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of calls")]
fn the_originals_writes_are_taken() {
    run(async {
        let (database, project) = served("original_update", false).await;
        let kck = project.start().await;
        for (line, head, body, rows) in [
            (
                "PUT /update/simple_updater1/1",
                format!("{CURL}\n{FORM}"),
                "id=1&testcol1=changed",
                1,
            ),
            (
                "PUT /update/simple_updater1",
                format!("{CURL}\n{FORM}"),
                "id=1&testcol1=changed+again",
                1,
            ),
            (
                "POST /update/simple_updater1/1",
                format!("{REQUESTS}\n{FORM}"),
                "testcol1=by+0.5.9&id=1",
                1,
            ),
            ("POST /create/simple_creator1", format!("{REQUESTS}\n{FORM}"), "testcol1=name3", 1),
            (
                "PUT /create/simple_creator1",
                format!("{REQUESTS}\n{FORM}; charset=UTF-8"),
                "testcol1=na%C3%AFf",
                1,
            ),
            // Tornado's client says no type where it is given a body as it is.
            (
                "PUT /update/simple_updater1/2",
                format!("{TORNADO}\nContent-Length: {{length}}"),
                "id=2&testcol1=two",
                1,
            ),
            (
                "POST /create/simple_creator1",
                format!("{CURL}\nContent-Length: {{length}}\nContent-Type: text/plain"),
                "testcol1=plain",
                1,
            ),
            (
                "POST /create/simple_creator1",
                format!(
                    "{CURL}\nContent-Length: {{length}}\nExpect: 100-continue\nContent-Type: application/x-www-form-urlencoded"
                ),
                "testcol1=expected",
                1,
            ),
            // A row that is not there is success, and a field that nobody asked for is no fault.
            (
                "PUT /update/simple_updater1/999",
                format!("{CURL}\n{FORM}"),
                "id=999&testcol1=x&unknown=1",
                0,
            ),
        ] {
            let mut answer = sent(&kck, &format!("{line} HTTP/1.1\n{head}"), body).await;
            if answer.status == 100 {
                answer.status = 200;
                continue;
            }
            assert_eq!(
                (answer.status, &answer.body["success"]),
                (200, &json!(true)),
                "{line}: {}",
                answer.body
            );
            assert_eq!(answer.body["rows"], json!(rows), "{line}");
            assert!(answer.body["lsn"].is_string());
        }
        let seen = "select count(*) from testtbl1 where (id = 1 and testcol1 = 'by 0.5.9') or (id = 2 and testcol1 = 'two') or testcol1 in ('name3', 'naïf', 'plain', 'expected')";
        assert_eq!(database.one(seen).await, 6);
        for (line, body, status, name, args) in [
            // KeyError
            ("PUT /update/nothing/1", "a=b", 404, "unknown_update", json!(["nothing"])),
            // StatementError
            (
                "PUT /update/simple_updater1",
                "id=1",
                400,
                "parameter_count",
                json!(["simple_updater1", "testcol1"]),
            ),
            // DataError
            (
                "PUT /update/simple_updater1",
                "id=x&testcol1=y",
                400,
                "bad_parameter",
                json!(["id", "integer", "x"]),
            ),
            (
                "PUT /update/simple_updater1",
                "id=1&id=2&testcol1=y",
                400,
                "bad_request",
                json!(["id"]),
            ),
        ] {
            let answer = sent(&kck, &format!("{line} HTTP/1.1\n{CURL}\n{FORM}"), body).await;
            let error = &answer.body["error"];
            assert_eq!(
                (answer.status, &error["name"], &error["args"]),
                (status, &json!(name), &args),
                "{line} {body}"
            );
        }
        kck.stop().await;
    });
}

/// Kept: the routes, the form, `auth_token`, the bare token. Changed: 401 and its one body, no MD5, `Bearer` is taken as
/// well, JSON's content type, tokens that hold longer than five seconds.
#[test]
fn the_originals_logins_give_tokens_that_open() {
    run(async {
        let (_database, project) = served("original_login", true).await;
        let kck = project.start().await;
        let missing = sent(&kck, &format!("GET /fetch/simple1/1 HTTP/1.1\n{CURL}"), "").await;
        assert_eq!((missing.status, &missing.body["error"]["name"]), (401, &json!("unauthorized")));
        for email in ["joe@example.com", "joe%40example.com"] {
            let answer = sent(
                &kck,
                &format!("POST /login/{email} HTTP/1.1\n{REQUESTS}\n{FORM}"),
                "password=pencil",
            )
            .await;
            assert_eq!(
                (answer.status, answer.header("content-type")),
                (200, Some("application/json"))
            );
            let token = answer.body["auth_token"].as_str().unwrap().to_owned();
            for authorization in [token.clone(), format!("Bearer {token}")] {
                let own = format!("{REQUESTS}\nAuthorization: {authorization}");
                let read = sent(&kck, &format!("GET /fetch/simple1/1 HTTP/1.1\n{own}"), "").await;
                assert_eq!((read.status, &read.body["value"]), (200, &json!([["name1"]])));
                let write = sent(
                    &kck,
                    &format!("PUT /update/simple_updater1/1 HTTP/1.1\n{own}\n{FORM}"),
                    "id=1&testcol1=name1",
                )
                .await;
                assert_eq!(write.status, 200);
                let left =
                    sent(&kck, &format!("GET /logout/joe@example.com HTTP/1.1\n{own}"), "").await;
                assert_eq!((left.status, &left.body["success"]), (200, &json!(true)));
            }
        }
        for (line, body, status) in [
            ("POST /login/joe@example.com", "password=wrong", 401),
            ("POST /login/nobody", "password=pencil", 401),
            ("POST /login/joe@example.com", "passwd=pencil", 400),
        ] {
            let answer = sent(&kck, &format!("{line} HTTP/1.1\n{CURL}\n{FORM}"), body).await;
            assert_eq!(answer.status, status, "{line} {body}");
            assert!(!answer.body.to_string().contains("pencil"));
        }
        let wrong =
            sent(&kck, &format!("GET /fetch/simple1/1 HTTP/1.1\n{CURL}\nAuthorization: x.y.z"), "")
                .await;
        assert_eq!((wrong.status, &wrong.body), (401, &missing.body));
        kck.stop().await;
    });
}
