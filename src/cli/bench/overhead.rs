//! `kck bench overhead`: what following costs the source, as pgbench's transactions a second.

use std::num::NonZeroU32;

use clap::Args;

use super::side::Side;
use crate::cli::{Stop, say};

/// pgbench's rate on the source with nobody attached, with pg_recvlogical, and with kck.
#[derive(Debug, Args)]
pub(super) struct Overhead {
    /// The server's major version; without it the newest installed.
    #[arg(long, value_name = "MAJOR")]
    postgres: Option<u16>,
    /// How long each turn lasts.
    #[arg(long, value_name = "SECONDS", default_value = "15")]
    seconds: NonZeroU32,
    /// How many turns each has.
    #[arg(long, value_name = "N", default_value = "4")]
    runs: NonZeroU32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attached {
    Nobody,
    Recvlogical,
    Kck,
}

impl Overhead {
    pub(super) async fn run(self) -> Result<(), Stop> {
        Side::during(self.postgres, true, async |side| self.measure(side).await).await
    }

    async fn measure(&self, side: &Side) -> Result<(), Stop> {
        let version = side.version().await?;
        say(&format!(
            "PostgreSQL {version}, fsync on · TPC-B of pgbench, 8 clients · {} turns of {} s\n",
            self.runs, self.seconds
        ));
        let turns = [Attached::Nobody, Attached::Recvlogical, Attached::Kck];
        let mut rates: [Vec<f64>; 3] = Default::default();
        for run in 0..self.runs.get() {
            for (attached, rates) in turns.iter().zip(&mut rates) {
                rates.push(self.turn(side, *attached, run).await?);
            }
        }
        let middle = |rates: &mut Vec<f64>| {
            rates.sort_by(f64::total_cmp);
            rates.get(rates.len() / 2).copied().unwrap_or_default()
        };
        let [nobody, recvlogical, kck] = rates.each_mut().map(middle);
        for (name, rate) in [("nobody", nobody), ("pg_recvlogical", recvlogical), ("kck", kck)] {
            say(&format!("{name:<16}{rate:>10.0} transactions/s{:>10.3}", rate / nobody));
        }
        say(&format!("kck ÷ pg_recvlogical: {:.3}", kck / recvlogical));
        Ok(())
    }

    /// pgbench's rate beside whoever is attached.
    async fn turn(&self, side: &Side, attached: Attached, run: u32) -> Result<f64, Stop> {
        let kck = side.kck(&format!("kck_{attached:?}_{run}").to_lowercase()).await?;
        let running = match attached {
            Attached::Kck => Some(kck.start().await?),
            _ => None,
        };
        let child = match attached {
            Attached::Recvlogical => Some(side.recvlogical(&kck.name, &kck.name, None).await?),
            _ => None,
        };
        if attached == Attached::Nobody {
            side.remove(&kck.name).await?;
        }
        let seconds = self.seconds.to_string();
        let said = side.pgbench(&["-n", "-c", "8", "-j", "2", "-T", &seconds]).await;
        if let Some(mut child) = child {
            child
                .kill()
                .await
                .map_err(|error| Stop::cannot(format!("end pg_recvlogical: {error}")))?;
        }
        if let Some(running) = running {
            running.app.stop().await;
        }
        side.remove(&kck.name).await?;
        let said = said?;
        rate(&said).ok_or_else(|| Stop::cannot(format!("pgbench said no rate: {said}")))
    }
}

/// `tps = 1234.5 (without initial connection time)`.
fn rate(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_rate() {
        let said = "latency average = 1.2 ms\ntps = 812.25 (without initial connection time)\n";
        assert_eq!(rate(said), Some(812.25));
        assert_eq!(rate("tps"), None);
    }
}
