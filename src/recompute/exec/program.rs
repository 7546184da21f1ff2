//! Program: one running program → answers to what it is asked, until it ends or is killed.

use std::{
    collections::HashMap,
    io,
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    sync::{Notify, mpsc, oneshot},
};

use super::{
    Settings,
    protocol::{self, Ask, Greeting, Said},
};

/// From its start to its greeting.
pub(super) const GREETING_WITHIN: Duration = Duration::from_secs(10);
/// Lines on their way to it.
const LINES_WAITING: usize = 64;
/// What a line has around an answer's value.
const LINE_SLACK: usize = 4096;
/// Bytes of its log in a second; past it reading waits, and the program with it.
const LOG_BYTES: usize = 256 * 1024;
/// Lines of it that are shown in a second.
const LOG_LINES: usize = 50;
/// Bytes of one of its lines.
const LOG_LINE_BYTES: usize = 8 * 1024;
/// From being told to end until its guard itself is killed; the guard gives it five seconds.
const GUARD_WITHIN: Duration = Duration::from_secs(7);

/// What became of a request.
pub(super) enum Asked {
    Said(Said),
    Lost(String),
    Late,
}

/// A program that has greeted.
pub(super) struct Program {
    pub(super) greeting: Greeting,
    /// Requests that it has.
    load: AtomicUsize,
    next: AtomicU64,
    /// Locked for one look.
    state: Mutex<State>,
    /// It shall end.
    ending: Notify,
}

struct State {
    /// `None` once it shall end.
    to: Option<mpsc::Sender<String>>,
    waiting: HashMap<u64, oneshot::Sender<Result<Said, String>>>,
    /// Why it is killed, if it is.
    killed: Option<String>,
}

/// What it takes to hear a program until it ends.
pub(super) struct Attending {
    program: Arc<Program>,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    limit: usize,
}

impl Program {
    /// Starts one under its guard, and waits for its greeting.
    pub(super) async fn start(
        settings: &Settings,
        command: &[String],
    ) -> Result<(Arc<Self>, Attending), String> {
        let mut child = spawn(settings, command)?;
        let (Some(mut input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err("it has no pipes".to_owned());
        };
        tokio::spawn(log(errors, protocol::shown(&command.join(" "))));
        let limit = settings.answer_bytes.saturating_add(LINE_SLACK);
        let mut lines = Lines { from: BufReader::new(output), line: Vec::new() };
        let greeted = async {
            let greeting = protocol::greeting(&settings.server);
            let wrote = input.write_all(greeting.as_bytes()).await;
            match lines.next(limit).await? {
                Some(line) => protocol::greeted(line),
                None => Err(match wrote {
                    Ok(()) => "it ended before it greeted".to_owned(),
                    Err(error) => format!("it ended before it greeted: {error}"),
                }),
            }
        };
        let greeting = match tokio::time::timeout(GREETING_WITHIN, greeted).await {
            Ok(Ok(greeting)) => greeting,
            other => {
                end(&mut child, Signal::TERM);
                let waits = tokio::time::timeout(GUARD_WITHIN, child.wait()).await;
                let how = waits.ok().and_then(Result::ok).map(|status| format!(" ({status})"));
                return Err(match other {
                    Ok(Err(why)) => why + how.as_deref().unwrap_or_default(),
                    _ => format!("it did not greet within {} s", GREETING_WITHIN.as_secs()),
                });
            }
        };
        let (to, from) = mpsc::channel(LINES_WAITING);
        tokio::spawn(feed(input, from));
        let state = State { to: Some(to), waiting: HashMap::new(), killed: None };
        let program = Arc::new(Self {
            greeting,
            load: AtomicUsize::new(0),
            next: AtomicU64::new(1),
            state: Mutex::new(state),
            ending: Notify::new(),
        });
        let attending = Attending { program: Arc::clone(&program), child, lines, limit };
        Ok((program, attending))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    pub(super) fn has_room(&self) -> bool {
        self.load() < self.greeting.concurrency && self.state().to.is_some()
    }

    /// One request more; the pool's lock is held.
    pub(super) fn enter(&self) {
        self.load.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) async fn ask(&self, ask: &Ask, deadline: Instant) -> Asked {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (waiter, answer) = oneshot::channel();
        let to = {
            let mut state = self.state();
            let Some(to) = state.to.clone() else {
                return Asked::Lost(state.killed.clone().unwrap_or_else(|| "it ends".to_owned()));
            };
            state.waiting.insert(id, waiter);
            to
        };
        let asked = async {
            // A failure shows as the end of the program.
            drop(to.send(protocol::request(id, ask)).await);
            answer.await
        };
        let asked = tokio::time::timeout_at(deadline.into(), asked).await;
        match asked {
            Ok(Ok(Ok(said))) => Asked::Said(said),
            Ok(Ok(Err(why))) => Asked::Lost(why),
            Ok(Err(_)) => Asked::Lost("it ended".to_owned()),
            Err(_) => {
                self.state().waiting.remove(&id);
                Asked::Late
            }
        }
    }

    /// It has no more time: whoever waits for it is told so.
    pub(super) fn kill(&self, why: &str) {
        self.lose(why, Some(why.to_owned()));
        self.ending.notify_one();
    }

    /// It may finish what it has, and shall end then.
    pub(super) fn close(&self) {
        self.state().to = None;
        self.ending.notify_one();
    }

    fn lose(&self, why: &str, killed: Option<String>) {
        let waiting = {
            let mut state = self.state();
            state.to = None;
            state.killed = state.killed.take().or(killed);
            std::mem::take(&mut state.waiting)
        };
        for waiter in waiting.into_values() {
            // Who has gone need not be told.
            drop(waiter.send(Err(why.to_owned())));
        }
    }

    fn hear(&self, line: &[u8]) -> Result<(), String> {
        let (id, said) = protocol::answered(line)?;
        let Some(waiter) = self.state().waiting.remove(&id) else {
            return Err(format!("it answered request {id}, which it does not have"));
        };
        drop(waiter.send(Ok(said)));
        Ok(())
    }
}

impl Attending {
    /// Hears it until it ends; why comes back.
    pub(super) async fn attend(mut self) -> String {
        let mut closing = None;
        let why = loop {
            let ends = async {
                match closing {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                line = self.lines.next(self.limit) => match line {
                    Ok(Some(line)) => match self.program.hear(line) {
                        Ok(()) => {}
                        Err(why) => break Some(why),
                    },
                    Ok(None) => break None,
                    Err(why) => break Some(why),
                },
                () = self.program.ending.notified() => {
                    if self.program.state().killed.is_some() {
                        break None;
                    }
                    // Its input is closed: the guard sees to the rest.
                    closing = Some(tokio::time::Instant::now() + GUARD_WITHIN);
                }
                () = ends => break Some("it did not end in time".to_owned()),
            }
        };
        if let Some(why) = why {
            self.program.lose(&why, Some(why.clone()));
        }
        let killed = self.program.state().killed.clone();
        // Where its output has ended the guard ends as well; else it is told to make an end at once.
        if killed.is_some() {
            end(&mut self.child, Signal::TERM);
        } else {
            self.program.state().to = None;
        }
        let status = match tokio::time::timeout(GUARD_WITHIN, self.child.wait()).await {
            Ok(status) => {
                status.map_or_else(|error| error.to_string(), |status| status.to_string())
            }
            Err(_) => {
                end(&mut self.child, Signal::KILL);
                "its guard was killed".to_owned()
            }
        };
        let why = killed.unwrap_or_else(|| format!("it ended ({status})"));
        self.program.lose(&why, None);
        why
    }
}

fn spawn(settings: &Settings, command: &[String]) -> Result<Child, String> {
    let mut guard = Command::new(&settings.guard);
    guard.args(["guard", "--"]).args(command).current_dir(&settings.directory);
    for name in &settings.hidden {
        guard.env_remove(name);
    }
    guard
        .env("KCK_SERVER", &settings.server)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A Ctrl-C in the terminal is for kck.
        .process_group(0)
        .spawn()
        .map_err(|error| format!("start its guard {}: {error}", settings.guard.display()))
}

/// Tells the guard: at SIGTERM it kills everything and ends.
fn end(child: &mut Child, signal: Signal) {
    let own = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(own) = own {
        let told = if signal == Signal::KILL {
            kill_process_group(own, signal)
        } else {
            kill_process(own, signal)
        };
        if let Err(error) = told {
            tracing::debug!(%error, "a guard has gone already");
        }
    }
}

/// Writes lines until nobody sends any more; then its input is closed.
async fn feed(mut input: ChildStdin, mut lines: mpsc::Receiver<String>) {
    while let Some(line) = lines.recv().await {
        // One that reads no more ends, or is late.
        if input.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Its lines, none longer than what is asked for.
struct Lines<R> {
    from: R,
    line: Vec<u8>,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// The next line; `None` at the end. What was read of a line stays where this is dropped.
    async fn next(&mut self, limit: usize) -> Result<Option<&[u8]>, String> {
        if self.line.last() == Some(&b'\n') {
            self.line.clear();
        }
        loop {
            let some = self.from.fill_buf().await.map_err(|error| format!("read it: {error}"))?;
            if some.is_empty() {
                return Ok(None);
            }
            let end = some.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(some.len(), |end| end + 1);
            if self.line.len() + taken > limit + 1 {
                return Err(format!("it wrote a line of more than {limit} bytes"));
            }
            self.line.extend_from_slice(some.get(..taken).unwrap_or_default());
            self.from.consume(taken);
            if end.is_some() {
                return Ok(self.line.strip_suffix(b"\n"));
            }
        }
    }
}

/// What a program says of itself, into kck's log.
async fn log(errors: ChildStderr, program: String) {
    let mut errors = BufReader::new(errors);
    let (mut line, mut began) = (Vec::new(), Instant::now());
    let (mut bytes, mut lines, mut left_out) = (0, 0, 0_u64);
    loop {
        let some = match errors.fill_buf().await {
            Ok(some) if !some.is_empty() => some,
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let end = some.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(some.len(), |end| end + 1);
        let room = LOG_LINE_BYTES.saturating_sub(line.len()).min(taken);
        line.extend_from_slice(some.get(..room).unwrap_or_default());
        errors.consume(taken);
        bytes += taken;
        if began.elapsed() >= Duration::from_secs(1) || bytes >= LOG_BYTES {
            if bytes >= LOG_BYTES {
                tokio::time::sleep_until((began + Duration::from_secs(1)).into()).await;
            }
            if left_out > 0 {
                tracing::warn!(program, lines = left_out, "a program says more than is shown");
            }
            (bytes, lines, left_out, began) = (0, 0, 0, Instant::now());
        }
        if end.is_none() {
            continue;
        }
        lines += 1;
        if lines <= LOG_LINES {
            let said = protocol::shown(String::from_utf8_lossy(&line).trim_end());
            tracing::info!(program, said, "program");
        } else {
            left_out += 1;
        }
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_has_a_limit_and_may_come_in_parts() {
        let from = BufReader::with_capacity(3, &b"abcdef\n\nabcdefg\n"[..]);
        let mut lines = Lines { from, line: Vec::new() };
        assert_eq!(lines.next(6).await, Ok(Some(&b"abcdef"[..])));
        assert_eq!(lines.next(6).await, Ok(Some(&b""[..])));
        assert_eq!(lines.next(6).await, Err("it wrote a line of more than 6 bytes".to_owned()));
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_none() {
        let mut lines = Lines { from: &b"abc"[..], line: Vec::new() };
        assert_eq!(lines.next(6).await, Ok(None));
    }
}
