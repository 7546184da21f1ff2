//! Processes on a real source: they run when they are due or asked for, one run at a time, and what became of them is
//! remembered.

use std::{sync::Arc, time::Duration};

use kck::{
    observe::{Counter, Event},
    process::{Outcome, Said},
    store::{
        Store as Store_,
        faulty::{Faulty, Method},
    },
};
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;

use crate::support::{
    client::send,
    kck::{Kck, Project, Store},
    process::{Process, command, output, stderr, stdout},
    run,
    servers::{Database, connect},
};

/// A project without products whose processes write into one table.
async fn project(name: &str, processes: &[(&str, &str)]) -> (Database, Project) {
    let database = Database::new(name).await;
    database
        .run("create table runs (id bigserial primary key, at timestamptz default now(), note text unique);
              alter table runs replica identity full")
        .await;
    let project = Project::new(&database, Store::Embedded).await;
    project.product("count", "/* kck\nresult = \"value\"\n*/\nselect count(*) from runs");
    std::fs::create_dir_all(project.folder.0.join("processes")).unwrap();
    for (name, text) in processes {
        file(&project, name, text);
    }
    (database, project)
}

fn file(project: &Project, name: &str, text: &str) {
    std::fs::write(project.folder.0.join(format!("processes/{name}.sql")), text).unwrap();
}

/// The end of the next run of a process.
async fn ended(events: &mut Receiver<Event>, name: &str) -> Outcome {
    let is = |event: &Event| matches!(event, Event::Process { process, said: Said::Ended { .. } } if process == name);
    match Kck::event(events, is).await {
        Event::Process { said: Said::Ended { outcome, .. }, .. } => outcome,
        other => panic!("{other:?}"),
    }
}

async fn said(events: &mut Receiver<Event>, name: &str, want: fn(&Said) -> bool) {
    Kck::event(
        events,
        |event| matches!(event, Event::Process { process, said } if process == name && want(said)),
    )
    .await;
}

async fn ask(kck: &Kck, name: &str) -> (u16, Value) {
    let path = format!("/processes/{name}/run");
    let reply = send(&kck.address, ("POST", path.as_str()), "", String::new()).await;
    (reply.status, reply.json())
}

/// What is shown of a process, once `want` holds of it.
async fn shown(kck: &Kck, name: &str, want: impl Fn(&Value) -> bool) -> Value {
    let looked = async {
        loop {
            let body = kck.get("/processes").await.json();
            let all = body["processes"].as_array().unwrap();
            if let Some(process) = all.iter().find(|process| process["name"] == name)
                && want(process)
            {
                return process.clone();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), looked).await.expect("it is shown")
}

#[test]
fn a_process_runs_when_it_is_due_and_its_writes_are_followed() {
    run(async {
        let (_database, project) = project(
            "processes_due",
            &[("note", "/* kck\nevery = \"1s\"\ndescription = \"One row\"\n*/\ninsert into runs (note) select 'one' where not exists (select from runs);\ninsert into runs default values")],
        )
        .await;
        let kck = project.start().await;
        let mut events = kck.observer.subscribe();
        for _ in 0..2 {
            assert_eq!(ended(&mut events, "note").await, Outcome::Done);
        }
        let read = async { while kck.get("/fetch/count").await.value().as_u64().unwrap() < 3 {} };
        tokio::time::timeout(Duration::from_secs(30), read).await.expect("the answer follows");
        let process =
            shown(&kck, "note", |process| process["history"].as_array().unwrap().len() > 1).await;
        assert_eq!(
            (&process["schedule"], &process["description"]),
            (&json!("every 1s"), &json!("One row"))
        );
        let history = process["history"].as_array().unwrap();
        assert!(history[0]["run"].as_u64() > history[1]["run"].as_u64(), "the newest first");
        assert!(
            history[0]["due"].as_str() > history[1]["due"].as_str() && process["next"].is_string()
        );
        assert!(kck.counted(Counter::ProcessRuns) >= 2);
        assert!(
            kck.get("/metrics")
                .await
                .body
                .windows(22)
                .any(|text| text == b"kck_process_runs_total")
        );
        kck.stop().await;
    });
}

#[test]
fn whoever_asks_gets_one_run_at_a_time() {
    run(async {
        let (database, project) = project(
            "processes_asked",
            &[("slow", "with held as materialized (select pg_advisory_xact_lock(7)) insert into runs (note) select 'slow' from held")],
        )
        .await;
        let kck = project.start().await;
        let mut events = kck.observer.subscribe();
        let holder = connect(&database.url).await;
        holder.batch_execute("select pg_advisory_lock(7)").await.unwrap();
        shown(&kck, "slow", |process| process["schedule"].is_null()).await;
        assert_eq!(
            ask(&kck, "slow").await,
            (200, json!({"success": true, "process": "slow", "run": 1}))
        );
        said(&mut events, "slow", |said| matches!(said, Said::Began { run: 1 })).await;
        let (status, body) = ask(&kck, "slow").await;
        assert_eq!((status, &body["error"]["name"]), (409, &json!("conflict")), "{body}");
        let running = shown(&kck, "slow", |process| !process["running"].is_null()).await;
        assert_eq!(
            (&running["running"]["run"], &running["running"]["due"]),
            (&json!(1), &Value::Null)
        );
        holder.batch_execute("select pg_advisory_unlock(7)").await.unwrap();
        assert_eq!(ended(&mut events, "slow").await, Outcome::Done);
        assert_eq!(database.one("select count(*) from runs where note = 'slow'").await, 1);
        let (status, body) = ask(&kck, "nothing").await;
        assert_eq!((status, &body["error"]["code"]), (404, &json!("KCK617")));
        kck.stop().await;
    });
}

#[test]
fn a_run_that_fails_is_undone_and_tells_no_values() {
    run(async {
        let (database, project) = project(
            "processes_failing",
            &[
                ("twice", "insert into runs (note) values ('secret');\ninsert into runs (note) values ('secret')"),
                ("gone", "delete from nowhere"),
                ("long", "/* kck\ntimeout = \"300ms\"\n*/\ninsert into runs (note) values ('long');\nselect pg_sleep(60)"),
            ],
        )
        .await;
        let kck = project.start().await;
        let mut events = kck.observer.subscribe();
        shown(&kck, "long", |_| true).await;
        for (name, want) in [
            (
                "twice",
                Outcome::Failed { code: "23505".into(), why: "constraint runs_note_key".into() },
            ),
            (
                "gone",
                Outcome::Failed {
                    code: "42P01".into(),
                    why: "relation \"nowhere\" does not exist".into(),
                },
            ),
            ("long", Outcome::TimedOut),
        ] {
            assert_eq!(ask(&kck, name).await.0, 200);
            assert_eq!(ended(&mut events, name).await, want);
        }
        assert_eq!(database.one("select count(*) from runs").await, 0);
        let twice =
            shown(&kck, "twice", |process| process["history"][0]["outcome"] == "failed").await;
        assert_eq!(
            (&twice["history"][0]["sqlstate"], &twice["history"][0]["error"]),
            (&json!("23505"), &json!("constraint runs_note_key"))
        );
        assert!(!kck.get("/processes").await.json().to_string().contains("secret"));
        kck.stop().await;
    });
}

/// Killed in the middle of a run: the run is shown as interrupted, its tick is not run again, the source gives up what
/// it did; and no run begins while another kck's goes on.
#[test]
fn a_restart_shows_an_interrupted_run_and_runs_none_twice() {
    run(async {
        // It has not written while it waits: a transaction that has would hold up who makes a slot on this server.
        let (database, project) = project(
            "processes_restart",
            &[(
                "held",
                "select pg_advisory_xact_lock(8);\ninsert into runs (note) values ('held')",
            )],
        )
        .await;
        let holder = connect(&database.url).await;
        holder.batch_execute("select pg_advisory_lock(8)").await.unwrap();
        let process = Process::start(&project, "").await;
        let address = process.address.clone();
        let running = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'kck/process' and wait_event = 'advisory'";
        let path = ("POST", "/processes/held/run");
        let begun = async {
            while send(&address, path, "", String::new()).await.status != 200 {}
            while database.one(running).await == 0 {}
        };
        tokio::time::timeout(Duration::from_secs(30), begun).await.expect("it runs");
        process.kill().await;
        let given_up = async { while database.one(running).await > 0 {} };
        tokio::time::timeout(Duration::from_secs(30), given_up)
            .await
            .expect("the source gives it up");

        let kck = project.start().await;
        let mut events = kck.observer.subscribe();
        let interrupted = |process: &Value| process["history"][0]["outcome"] == "interrupted";
        let held = shown(&kck, "held", interrupted).await;
        assert!(held["running"].is_null() && held["history"][0].get("took_ms").is_none(), "{held}");
        let other =
            "select pg_advisory_lock(hashtext('kck process processes_restart'), hashtext('held'))";
        holder.batch_execute(other).await.unwrap();
        assert_eq!(ask(&kck, "held").await.1["run"], json!(2));
        assert_eq!(ended(&mut events, "held").await, Outcome::Overlapped);
        holder.batch_execute("select pg_advisory_unlock_all()").await.unwrap();
        assert_eq!(ask(&kck, "held").await.1["run"], json!(3));
        assert_eq!(ended(&mut events, "held").await, Outcome::Done);
        assert_eq!(database.one("select count(*) from runs").await, 1);
        kck.stop().await;
    });
}

#[test]
fn stopping_gives_up_what_runs_and_remembers_it() {
    run(async {
        let (database, project) = project(
            "processes_stop",
            &[("held", "select pg_sleep(600);\ninsert into runs (note) values ('held')")],
        )
        .await;
        let kck = project.start().await;
        let mut events = kck.observer.subscribe();
        shown(&kck, "held", |_| true).await;
        assert_eq!(ask(&kck, "held").await.0, 200);
        said(&mut events, "held", |said| matches!(said, Said::Began { .. })).await;
        kck.stop().await;
        assert_eq!(ended(&mut events, "held").await, Outcome::Interrupted);
        let left = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'kck/process' and state = 'active'";
        assert_eq!(
            (database.one(left).await, database.one("select count(*) from runs").await),
            (0, 0)
        );
        let kck = project.start().await;
        shown(&kck, "held", |process| process["history"][0]["outcome"] == "interrupted").await;
        kck.stop().await;
    });
}

/// A run begins only when it is durable that it does; while the store is away none does, and then one.
#[test]
fn no_run_begins_before_the_store_has_it() {
    run(async {
        let (database, project) =
            project("processes_store", &[("p", "insert into runs default values")]).await;
        let memory: Arc<dyn Store_> = Arc::new(kck::store::memory::Memory::default());
        let faulty = Arc::new(Faulty::new(memory));
        let kck = project.start_over(Some(Arc::clone(&faulty) as Arc<dyn Store_>)).await;
        let mut events = kck.observer.subscribe();
        shown(&kck, "p", |_| true).await;
        // Who asked is told before the store is; others save as well, so that many fail.
        (0..200).for_each(|_| faulty.fail_before(Method::Save));
        assert_eq!(ask(&kck, "p").await.0, 200);
        let waits = shown(&kck, "p", |process| !process["running"].is_null()).await;
        assert_eq!(
            (&waits["running"]["run"], database.one("select count(*) from runs").await),
            (&json!(1), 0)
        );
        faulty.forgive(Method::Save);
        assert_eq!(ended(&mut events, "p").await, Outcome::Done);
        assert_eq!(database.one("select count(*) from runs").await, 1);
        kck.stop().await;
    });
}

#[test]
fn files_of_processes_are_taken_up_while_kck_runs() {
    run(async {
        let (database, project) = project("processes_files", &[]).await;
        let kck = project.start().await;
        let mut events = kck.observer.subscribe();
        file(&project, "p", "insert into runs (note) values ('first')");
        said(&mut events, "p", |said| matches!(said, Said::Loaded)).await;
        file(&project, "p", "insert into runs (note) values (:first)");
        said(&mut events, "p", |said| matches!(said, Said::Kept { .. })).await;
        let kept = shown(&kck, "p", |process| !process["faults"].is_null()).await;
        assert_eq!(
            (&kept["state"], &kept["faults"][0]["message"]),
            (&json!("ready"), &json!("it has a parameter, 'first'"))
        );
        assert_eq!(ask(&kck, "p").await.0, 200);
        assert_eq!(ended(&mut events, "p").await, Outcome::Done, "it runs as it was");
        file(&project, "q", "begin");
        said(&mut events, "q", |said| matches!(said, Said::Broken { .. })).await;
        assert_eq!(ask(&kck, "q").await.1["error"]["name"], json!("product_broken"));
        std::fs::remove_file(project.folder.0.join("processes/p.sql")).unwrap();
        said(&mut events, "p", |said| matches!(said, Said::Removed)).await;
        assert_eq!(ask(&kck, "p").await.0, 404);
        assert_eq!(database.one("select count(*) from runs where note = 'first'").await, 1);
        kck.stop().await;
    });
}

/// Writes when it began and ended, by a clock that nobody sets.
const SPAN: &str = "/* kck\nevery = \"1s\"\n*/\nwith began as materialized (select clock_timestamp() as at, pg_sleep(0.1)) insert into spans (began, ended) select at, clock_timestamp() from began";

/// The clock of a database, as kck asks it, is as far ahead as its table says.
const CLOCK: &str = "
create table spans (id bigserial primary key, began timestamptz, ended timestamptz);
create table clock (ahead interval not null);
insert into clock values ('0');
set allow_system_table_mods = on;
alter function pg_catalog.statement_timestamp() rename to statement_timestamp_of_the_system;
create function pg_catalog.statement_timestamp() returns timestamptz language sql stable as
    'select pg_catalog.statement_timestamp_of_the_system() + ahead from public.clock'";

/// The ticks that were run, and their numbers, the oldest first.
async fn ticks(kck: &Kck, want: impl Fn(&[(u64, String)]) -> bool) -> Vec<(u64, String)> {
    let of = |process: &Value| {
        let runs = process["history"].as_array().unwrap().iter().rev();
        let one = |run: &Value| {
            Some((run["run"].as_u64()?, run["due"].as_str().unwrap_or_default().to_owned()))
        };
        runs.filter_map(one).collect::<Vec<_>>()
    };
    of(&shown(kck, "span", |process| want(&of(process))).await)
}

/// Whether, of what was run, exactly one tick is not after the one before by what `is` says.
fn one_step(ticks: &[(u64, String)], is: impl Fn(&str, &str) -> bool) -> bool {
    ticks.windows(2).filter(|pair| is(&pair[0].1, &pair[1].1)).count() == 1
}

/// The hour of a tick tells before from after a clock that was put forward by three.
fn other_hour(one: &str, other: &str) -> bool {
    let hour = |tick: &str| tick[11..13].parse::<i64>().unwrap();
    (hour(other) - hour(one)).rem_euclid(24) >= 2
}

/// Goal: a clock that jumps makes no two runs at once, no storm of runs, and no standstill. Method: the source's clock
/// is put three hours forward, back again, and back by a little, under a process that runs every second.
#[test]
fn a_clock_that_jumps_runs_each_tick_once() {
    run(async {
        let (database, project) = project("processes_clock", &[("span", SPAN)]).await;
        database.run(CLOCK).await;
        let kck = project.start().await;
        ticks(&kck, |ticks| ticks.len() >= 2).await;
        database.run("update clock set ahead = '3 hours'").await;
        let jumped = |ticks: &[(u64, String)]| one_step(ticks, other_hour);
        let forward = ticks(&kck, |ticks| {
            jumped(ticks) && !other_hour(&ticks[ticks.len() - 3].1, &ticks[ticks.len() - 1].1)
        })
        .await;
        assert!(forward.is_sorted_by(|one, other| one.1 < other.1), "{forward:?}");
        database.run("update clock set ahead = '0'").await;
        let before = forward.last().unwrap().1.clone();
        let back = ticks(&kck, |ticks| ticks.last().unwrap().1 < before).await;
        assert!(one_step(&back, |one, other| one >= other), "{back:?}");
        let before = back.last().unwrap().clone();
        database.run("update clock set ahead = '-4 seconds'").await;
        let little = ticks(&kck, |ticks| ticks[ticks.len() - 1].0 > before.0 + 2).await;
        let after = little.iter().filter(|tick| tick.0 >= before.0);
        let after: Vec<&String> = after.map(|tick| &tick.1).collect();
        assert!(after.is_sorted_by(|one, other| one < other), "{after:?}");
        for all in [&forward, &back, &little] {
            assert!(all.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0), "{all:?}");
        }
        let overlaps = "select count(*) from spans one join spans other on one.id < other.id and other.began < one.ended";
        assert_eq!(database.one(overlaps).await, 0);
        let runs = i64::try_from(little.last().unwrap().0).unwrap();
        let written = database.one("select count(*) from spans").await;
        assert!((runs - 1..=runs + 1).contains(&written), "{written} of {runs}");
        kck.stop().await;
    });
}

#[test]
fn commands_list_run_and_check_processes() {
    run(async {
        let (_database, project) = project(
            "processes_commands",
            &[("good", "/* kck\ncron = \"0 6 * * * Europe/Oslo\"\n*/\ninsert into runs (note) values ('x')"), ("bad", "delete from nowhere")],
        )
        .await;
        let checked = output(&project, &["check"]).await;
        let text = stdout(&checked);
        assert!(
            !checked.status.success()
                && text.contains("process good: ready\n  runs cron 0 6 * * * Europe/Oslo\n"),
            "{text}"
        );
        assert!(
            text.contains("process bad: broken\n")
                && text.contains("bad.sql:1:13: relation \"nowhere\" does not exist"),
            "{text}"
        );
        let kck = project.start().await;
        shown(&kck, "good", |_| true).await;
        let kck_of = |arguments: &[&str]| {
            let mut command = command();
            command.args(arguments).args(["--server", &kck.address]).kill_on_drop(true);
            async move { command.output().await.unwrap() }
        };
        let ran = kck_of(&["process", "run", "good"]).await;
        assert!(
            ran.status.success() && stdout(&ran).starts_with("good run 1: done after "),
            "{}",
            stderr(&ran)
        );
        let failed = kck_of(&["process", "run", "good"]).await;
        assert_eq!(failed.status.code(), Some(1));
        assert!(
            stdout(&failed).contains("good run 2: failed after ")
                && stdout(&failed).contains("23505, constraint runs_note_key"),
            "{}",
            stdout(&failed)
        );
        let listed = stdout(&kck_of(&["processes"]).await);
        assert!(
            listed.contains("good: cron 0 6 * * * Europe/Oslo, next 2")
                && listed.contains("bad: when asked\n"),
            "{listed}"
        );
        let nobody = kck_of(&["process", "run", "nobody"]).await;
        assert!(
            nobody.status.code() == Some(1) && stderr(&nobody).contains("unknown_process"),
            "{}",
            stderr(&nobody)
        );
        kck.stop().await;
    });
}
