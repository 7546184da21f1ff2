//! Settings → the store that they name: opened, or looked into.

use std::{path::Path, sync::Arc};

use crate::{
    config::{Cassandra, Config, StoreKind},
    doctor::Stored,
    parts::Failure,
    store::{self, Store, state::State},
};

/// Opens the store that the settings name.
///
/// # Errors
/// When it cannot be opened.
pub async fn open_store(config: &Config) -> Result<Arc<dyn Store>, Failure> {
    Ok(match &config.store {
        StoreKind::Memory => Arc::new(store::memory::Memory::default()),
        StoreKind::Embedded(path) => Arc::new(store::embedded::Embedded::open(path)?),
        StoreKind::Cassandra(cassandra) => {
            Arc::new(store::cassandra::Cassandra::connect(&cassandra_settings(cassandra)).await?)
        }
    })
}

/// Looks into the store that the settings name, and makes nothing.
///
/// # Errors
/// When it is there and cannot be read.
pub async fn stored(config: &Config) -> Result<Stored, Failure> {
    let origin = |cells: &[store::StateCell]| Ok(Stored::Of(State::decode(cells)?.origin));
    match &config.store {
        StoreKind::Memory => Ok(Stored::Memory),
        StoreKind::Embedded(path) => {
            let holds = std::fs::read_dir(path).is_ok_and(|mut files| files.next().is_some());
            if !holds {
                return Ok(Stored::Nothing(writable(path)?));
            }
            let state = store::embedded::state(path)?;
            state.map_or_else(|| Ok(Stored::Locked(path.clone())), |cells| origin(&cells))
        }
        StoreKind::Cassandra(cassandra) => {
            let state = store::cassandra::state(&cassandra_settings(cassandra)).await?;
            let place = || Stored::Nothing(format!("keyspace {}", cassandra.keyspace));
            state.map_or_else(|| Ok(place()), |cells| origin(&cells))
        }
    }
}

/// The path, if its folder, or the nearest that is there, can be written to.
fn writable(path: &Path) -> Result<String, Failure> {
    let relative = |folder: &&Path| !folder.as_os_str().is_empty();
    let nearest = path.ancestors().filter(relative).find(|folder| folder.exists());
    let nearest = nearest.unwrap_or(Path::new("."));
    let closed = |why: String| {
        let hint = "let kck's user write there, or give [store] path another folder";
        Failure::new(format!("make {}: {}: {why}", path.display(), nearest.display()), hint)
    };
    let seen = std::fs::metadata(nearest).map_err(|error| closed(error.to_string()))?;
    if !seen.is_dir() {
        return Err(closed("it is no folder".to_owned()));
    }
    if seen.permissions().readonly() {
        return Err(closed("it may not be written to".to_owned()));
    }
    Ok(path.display().to_string())
}

fn cassandra_settings(cassandra: &Cassandra) -> store::cassandra::Settings {
    store::cassandra::Settings {
        contact_points: cassandra.contact_points.clone(),
        keyspace: cassandra.keyspace.clone(),
        local_datacenter: cassandra.local_datacenter.clone(),
        replication: cassandra.replication,
        username: cassandra.username.clone(),
        password: cassandra.password.clone(),
        tls: cassandra.tls,
        consistency: store::cassandra::Consistency::default(),
    }
}
