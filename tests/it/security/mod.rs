//! Abuse, case by case, against a kck that runs: tokens, parameters, the source, load, and clients that break HTTP.
//!
//! Cases have numbers; a test's name begins with its case. Those that are held elsewhere, or by nothing here:
//!
//! | case | where |
//! |---|---|
//! | S10 leaks of the cryptography | `serve::auth::tests::s10_…`: what is in `Cargo.lock` |
//! | S14 guessing passwords | `auth::who_logs_in_gets_a_token_that_opens_their_own`, and the units of `serve::auth::limit` |
//! | S26 row security | `faults::rights` and the loading of products: one over such a table is refused without `rls = "kck"` |
//! | S27 what a replication role may do | the source's `pg_hba.conf`, not kck: nothing to run here |
//! | S29 TLS to the source | `capture::login`, `capture::connection`; TLS to readers: `http::http_2_is_spoken_without_and_with_tls` |
//! | S32 races to fill an entry | `storm`, the oracle, and the contract of every store: an older put loses |
//! | S33 Cassandra's default superuser | not looked for; a test of the settings: `s33_…` holds what is |
//! | S35, S36 the Postgres wire | not spoken yet |

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

mod cold;
mod http1;
mod http2;
mod parameters;
mod schema;
mod slow;
mod sockets;
mod source;
mod tokens;

/// Longer than anything here takes that is not waited for on purpose.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connects from another address of this machine: `127.0.0.LAST`.
async fn connect_from(last: u8, address: &str) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0)))?;
    socket.connect(address.parse().unwrap()).await
}

/// Sends these bytes from an address, and gives all that comes back until the server closes.
async fn exchange_from(last: u8, address: &str, bytes: &[u8]) -> Vec<u8> {
    let talk = async {
        let mut stream = connect_from(last, address).await.unwrap();
        // A server that has heard enough closes while more is written.
        drop(stream.write_all(bytes).await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        answer
    };
    timeout(PATIENCE, talk).await.expect("the server closes")
}

async fn exchange(address: &str, bytes: &[u8]) -> Vec<u8> {
    exchange_from(1, address, bytes).await
}

/// The status of an answer's first line, 0 if there is none.
fn status(answer: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(answer);
    let mut words = text.split(' ');
    let is_http = words.next().is_some_and(|word| word.starts_with("HTTP/1."));
    words.next().filter(|_| is_http).and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn plain(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Another client, at an address of its own, who asks all the time and must always be answered.
struct Bystander {
    stop: CancellationToken,
    task: JoinHandle<(u32, Duration)>,
}

impl Bystander {
    fn start(address: &str, path: &'static str) -> Self {
        let (stop, address) = (CancellationToken::new(), address.to_owned());
        let until = stop.clone();
        let task = tokio::spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_millis(20));
            let (mut answered, mut longest) = (0, Duration::ZERO);
            while until.run_until_cancelled(beat.tick()).await.is_some() {
                let began = std::time::Instant::now();
                let answer = exchange_from(2, &address, &plain(path)).await;
                assert_eq!(status(&answer), 200, "{}", String::from_utf8_lossy(&answer));
                longest = longest.max(began.elapsed());
                answered += 1;
            }
            (answered, longest)
        });
        Self { stop, task }
    }

    /// How often it was answered, and how long the slowest answer took.
    async fn stop(self, of: &str) {
        self.stop.cancel();
        let (answered, longest) = self.task.await.expect("everybody else is answered");
        eprintln!("{of}: {answered} answers to another client, the slowest after {longest:?}");
        assert!(answered > 0 && longest < Duration::from_secs(10));
    }
}

/// How many connections are open, without the one that asks.
async fn connections(address: &str) -> u64 {
    let answer = exchange_from(3, address, &plain("/metrics")).await;
    let text = String::from_utf8_lossy(&answer);
    let line = text.lines().find(|line| line.starts_with("kck_connections ")).unwrap();
    line.rsplit(' ').next().unwrap().trim().parse::<u64>().unwrap() - 1
}

/// Waits until no connection is open but the one that asks.
async fn all_gone(address: &str, within: Duration) {
    let mut beat = tokio::time::interval(Duration::from_millis(100));
    let gone = async {
        while connections(address).await > 0 {
            beat.tick().await;
        }
    };
    if timeout(within, gone).await.is_err() {
        panic!("{} connections are left", connections(address).await);
    }
}
