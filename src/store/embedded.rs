//! Embedded: entries in a directory of kck's own, by fjall; nothing to install.
//!
//! A key's three cells lie in one record of `cells`, so that a scan reads them all without touching a body;
//! bodies lie apart, beyond a threshold in files of their own (key-value separation). All writes go through
//! one thread, since a commit may stall for as long as a compaction takes: what waits together is committed
//! together, and the order of writes is kept by reading before writing. Reads run on tokio's blocking
//! threads: a cold one goes to the disk, and the near cache keeps hot ones away from here.
//!
//! Invariant: a record and its body change in one commit and are read in one snapshot.

use std::{collections::HashMap, path::Path, sync::Arc, thread};

use async_trait::async_trait;
use bytes::Bytes;
use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode, Readable,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Error, Forget, Scanned, StateCell, Store, Track,
    encoding::{self, Cell, Cells, checked_name},
};
use crate::{
    change::Position,
    entry::{Entry, Meta, Stamp},
    key::Key,
};

/// Blocks kept in memory; the near cache is where hot entries are.
const CACHE_BYTES: u64 = 64 << 20;
/// The journal is read back at start, so it is kept short.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
/// Bodies from this size on lie in files of their own.
const BODY_APART_BYTES: u32 = 512;
/// What a keyspace gathers in memory before it is written as a file; a few may wait to be written.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Commands that may wait for the writer.
const COMMANDS_MAX: usize = 256;
/// Writes of one command; longer slices become several.
const COMMAND_WRITES_MAX: usize = 1024;
/// Writes committed together.
const GROUP_WRITES_MAX: usize = 8192;
/// Bytes of bodies committed together.
const GROUP_BYTES_MAX: usize = 16 << 20;
/// How many deletes are remembered at least, against writes that come late.
const GRAVES_MAX: usize = 1_000_000;
/// Keys that a scan hands over at once.
const SCAN_KEYS: usize = 1024;

const OPEN: &str = "open the embedded store";
const READ: &str = "read from the embedded store";
const WRITE: &str = "write to the embedded store";

/// A store in a directory.
pub struct Embedded {
    tables: Tables,
    /// `None` only while it is dropped.
    commands: Option<mpsc::Sender<Command>>,
    writer: Option<thread::JoinHandle<()>>,
}

#[derive(Clone)]
struct Tables {
    database: Database,
    /// Key → its three cells.
    cells: Keyspace,
    /// Key → its entry's body.
    bodies: Keyspace,
    /// Name → state cell.
    state: Keyspace,
}

/// Keys without a live cell. A late write can only come from this process, so they begin empty; two
/// generations, of which the older is emptied when the younger is full, so they cannot grow for ever.
struct Graves {
    young: Keyspace,
    old: Keyspace,
    dug: usize,
}

enum Write {
    Put(Key, Entry),
    Track(Track),
    Mark(Key, Position),
    Purge(Key, Stamp),
    Forget(Forget),
    Save(StateCell),
}

/// A method's call on its way to the writer.
struct Command {
    writes: Vec<Write>,
    /// Must survive a power loss, not only the end of the process.
    synced: bool,
    done: oneshot::Sender<Result<(), Error>>,
}

impl Embedded {
    /// Opens the store in `path`, making the directory if there is none. Blocks while the journal is read.
    ///
    /// # Errors
    /// When the directory cannot be used, or another process has it open.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (tables, graves) = open(path)?;
        let (commands, waiting) = mpsc::channel(COMMANDS_MAX);
        let writer = Writer { tables: tables.clone(), graves, waiting };
        let writer = thread::Builder::new()
            .name("kck-store".to_owned())
            .spawn(move || writer.run())
            .map_err(failed(OPEN))?;
        Ok(Self { tables, commands: Some(commands), writer: Some(writer) })
    }

    /// Hands writes to the writer, in pieces, and waits until all are committed.
    async fn write(
        &self,
        synced: bool,
        writes: impl ExactSizeIterator<Item = Write> + Send,
    ) -> Result<(), Error> {
        let commands = self.commands.as_ref().ok_or_else(stopped)?;
        let mut pieces = Vec::with_capacity(writes.len().div_ceil(COMMAND_WRITES_MAX));
        let mut writes = writes.peekable();
        while writes.peek().is_some() {
            let piece = writes.by_ref().take(COMMAND_WRITES_MAX).collect();
            let (done, is_done) = oneshot::channel();
            let command = Command { writes: piece, synced, done };
            commands.send(command).await.map_err(|_| stopped())?;
            pieces.push(is_done);
        }
        for piece in pieces {
            piece.await.map_err(|_| stopped())??;
        }
        Ok(())
    }

    /// Runs `read` where it may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Tables) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let tables = self.tables.clone();
        tokio::task::spawn_blocking(move || read(&tables)).await.map_err(failed(READ))?
    }
}

impl Drop for Embedded {
    /// Waits for the writes under way, so that the directory can be opened again at once.
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the embedded store's writer panicked");
        }
    }
}

#[async_trait]
impl Store for Embedded {
    async fn load(&self) -> Result<Vec<StateCell>, Error> {
        self.read(Tables::load).await
    }

    async fn save(&self, cells: &[StateCell]) -> Result<(), Error> {
        self.write(true, cells.iter().cloned().map(Write::Save)).await
    }

    async fn scan(&self, visit: &mut (dyn FnMut(Scanned) + Send)) -> Result<(), Error> {
        let (found, mut finds) = mpsc::channel::<Vec<Scanned>>(2);
        let scan = self.read(move |tables| tables.scan(&found));
        let visit = async {
            while let Some(keys) = finds.recv().await {
                keys.into_iter().for_each(&mut *visit);
            }
        };
        tokio::join!(scan, visit).0
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        let key = key.clone();
        self.read(move |tables| tables.entry(&key)).await
    }

    async fn put(&self, key: &Key, entry: &Entry) -> Result<(), Error> {
        // An entry lost with the power is absent or an older one, and a mark tells the older one stale.
        self.write(false, std::iter::once(Write::Put(key.clone(), entry.clone()))).await
    }

    async fn track(&self, tracks: &[Track]) -> Result<(), Error> {
        self.write(true, tracks.iter().cloned().map(Write::Track)).await
    }

    async fn mark(&self, marks: &[(Key, Position)]) -> Result<(), Error> {
        self.write(true, marks.iter().cloned().map(|(key, mark)| Write::Mark(key, mark))).await
    }

    async fn purge(&self, keys: &[(Key, Stamp)]) -> Result<(), Error> {
        self.write(true, keys.iter().cloned().map(|(key, stamp)| Write::Purge(key, stamp))).await
    }

    async fn forget(&self, keys: &[Forget]) -> Result<(), Error> {
        self.write(true, keys.iter().cloned().map(Write::Forget)).await
    }
}

impl Tables {
    /// Empties what only hid late writes of an earlier process.
    fn drop_deletes(&self, graves: &Graves) -> Result<(), fjall::Error> {
        for graves in [&graves.young, &graves.old] {
            if !graves.is_empty()? {
                graves.clear()?;
            }
        }
        for guard in self.state.iter() {
            let (name, bytes) = guard.into_inner()?;
            if matches!(encoding::decode_state(&bytes), Ok(Cell::Deleted { .. })) {
                self.state.remove(name)?;
            }
        }
        Ok(())
    }

    fn load(&self) -> Result<Vec<StateCell>, Error> {
        load(&self.state)
    }

    fn state_cell(&self, name: &str) -> Result<Cell<Bytes>, Error> {
        match self.state.get(checked_name(name)?).map_err(failed(READ))? {
            Some(bytes) => encoding::decode_state(&bytes).map_err(corrupt("state", name)),
            None => Ok(Cell::Unwritten),
        }
    }

    /// Sends every key with its cells, until nobody listens.
    fn scan(&self, found: &mpsc::Sender<Vec<Scanned>>) -> Result<(), Error> {
        let mut keys = Vec::with_capacity(SCAN_KEYS);
        for guard in self.cells.iter() {
            let (name, bytes) = guard.into_inner().map_err(failed(READ))?;
            let name = String::from_utf8_lossy(&name);
            let cells = encoding::decode_cells(&bytes).map_err(corrupt("cells", &name))?;
            keys.push(Scanned {
                key: Key::from_stored(&name),
                lease: cells.lease.value().copied(),
                mark: cells.mark.value().copied(),
                meta: cells.entry.value().cloned(),
            });
            if keys.len() == SCAN_KEYS && found.blocking_send(std::mem::take(&mut keys)).is_err() {
                return Ok(());
            }
        }
        // The visitor may have gone meanwhile, which is its own affair.
        drop(found.blocking_send(keys));
        Ok(())
    }

    fn entry(&self, key: &Key) -> Result<Option<Entry>, Error> {
        // fjall panics on a name it cannot store; nothing has one.
        let Ok(name) = checked_name(key.as_str()) else { return Ok(None) };
        let snapshot = self.database.snapshot();
        let get = |keyspace| snapshot.get(keyspace, name).map_err(failed(READ));
        let Some(record) = get(&self.cells)? else { return Ok(None) };
        let corrupt = corrupt("entry", name);
        let cells = encoding::decode_cells(&record).map_err(&corrupt)?;
        let Cell::Live { value: header, .. } = cells.entry else { return Ok(None) };
        // Copied: a small body is a slice of a block, which a near cache would then keep whole.
        let body = get(&self.bodies)?.map(|body| Bytes::copy_from_slice(&body));
        encoding::join(header, body).map(Some).map_err(corrupt)
    }
}

/// The one that writes.
struct Writer {
    tables: Tables,
    graves: Graves,
    waiting: mpsc::Receiver<Command>,
}

/// What the commands of one commit change.
#[derive(Default)]
struct Group {
    keys: HashMap<Key, Touched>,
    state: HashMap<String, Cell<Bytes>>,
    synced: bool,
    writes: usize,
    bytes: usize,
}

impl Group {
    fn admit(&mut self, writes: &[Write], synced: bool) {
        self.writes += writes.len();
        self.bytes += writes.iter().map(Write::body_bytes).sum::<usize>();
        self.synced |= synced;
    }

    fn is_full(&self) -> bool {
        GROUP_WRITES_MAX <= self.writes || GROUP_BYTES_MAX <= self.bytes
    }
}

/// A key's cells as the group has made them.
struct Touched {
    cells: Cells<Meta>,
    /// Whether it has a record in `cells`.
    has_record: bool,
    /// Whether it has a body in `bodies`.
    has_body: bool,
    /// Whether the group wrote any cell.
    changed: bool,
    /// The body that belongs to the entry, if the group wrote one.
    body: Option<Bytes>,
}

impl Writer {
    /// Commits what waits, together, until the store is dropped.
    fn run(mut self) {
        while let Some(first) = self.waiting.blocking_recv() {
            let mut group = Group::default();
            let mut answers = Vec::new();
            let mut next = Some(first);
            while let Some(command) = next {
                let Command { writes, synced, done } = command;
                group.admit(&writes, synced);
                match writes.into_iter().try_for_each(|write| self.apply(&mut group, write)) {
                    Ok(()) => answers.push(done),
                    // Whoever stopped waiting has no use for the answer.
                    Err(error) => drop(done.send(Err(error))),
                }
                next = if group.is_full() { None } else { self.waiting.try_recv().ok() };
            }
            let result = self.commit(group).map_err(Arc::new);
            for answer in answers {
                drop(answer.send(result.clone().map_err(not_written)));
            }
        }
    }

    /// Applies one write to the group, as far as what is there lets it win.
    fn apply(&self, group: &mut Group, write: Write) -> Result<(), Error> {
        match write {
            Write::Put(key, entry) => {
                let touched = self.touch(group, key)?;
                if touched.cells.entry.write(entry.meta.stamp.0, Some(encoding::header(&entry))) {
                    touched.body = Some(entry.body);
                    touched.changed = true;
                }
            }
            Write::Track(Track { key, lease, stamp }) => {
                let touched = self.touch(group, key)?;
                touched.changed |= touched.cells.lease.write(stamp.0, Some(lease));
            }
            Write::Mark(key, mark) => {
                let touched = self.touch(group, key)?;
                touched.changed |= touched.cells.mark.write(mark.packed(), Some(mark));
            }
            Write::Purge(key, stamp) => {
                let touched = self.touch(group, key)?;
                touched.changed |= touched.cells.entry.write(stamp.0, None);
            }
            Write::Forget(Forget { key, stamp, mark }) => {
                let touched = self.touch(group, key)?;
                touched.changed |= touched.cells.entry.write(stamp.0, None);
                touched.changed |= touched.cells.lease.write(stamp.0, None);
                touched.changed |= touched.cells.mark.write(mark.packed(), None);
            }
            Write::Save(cell) => self.save(group, cell)?,
        }
        Ok(())
    }

    /// A key's cells: as the group left them, else as stored, else as buried.
    fn touch<'a>(&self, group: &'a mut Group, key: Key) -> Result<&'a mut Touched, Error> {
        use std::collections::hash_map::Entry as Slot;
        let slot = match group.keys.entry(key) {
            Slot::Occupied(slot) => return Ok(slot.into_mut()),
            Slot::Vacant(slot) => slot,
        };
        let name = checked_name(slot.key().as_str())?;
        let get = |place: &Keyspace| place.get(name).map_err(failed(READ));
        let mut record = get(&self.tables.cells)?;
        let has_record = record.is_some();
        for graves in [&self.graves.young, &self.graves.old] {
            if record.is_none() {
                record = get(graves)?;
            }
        }
        let cells = match record {
            Some(bytes) => encoding::decode_cells(&bytes).map_err(corrupt("cells", name))?,
            None => Cells::default(),
        };
        let has_body = cells.entry.value().is_some();
        Ok(slot.insert(Touched { cells, has_record, has_body, changed: false, body: None }))
    }

    fn save(&self, group: &mut Group, write: StateCell) -> Result<(), Error> {
        let StateCell { name, value, stamp } = write;
        let mut cell = match group.state.get(&name) {
            Some(cell) => cell.clone(),
            None => self.tables.state_cell(&name)?,
        };
        if cell.write(stamp, value) {
            group.state.insert(name, cell);
        }
        Ok(())
    }

    /// Makes the group durable, at once or not at all.
    fn commit(&mut self, group: Group) -> Result<(), fjall::Error> {
        let Group { keys, state, synced, .. } = group;
        let Tables { database, cells, bodies, state: states } = &self.tables;
        let mode = if synced { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = database.batch().durability(Some(mode));
        for (key, touched) in keys.iter().filter(|(_, touched)| touched.changed) {
            let (name, record) = (key.as_str(), encoding::encode_cells(&touched.cells));
            if touched.cells.is_live() {
                batch.insert(cells, name, record);
            } else {
                batch.insert(&self.graves.young, name, record);
                self.graves.dug += 1;
                if touched.has_record {
                    batch.remove(cells, name);
                }
            }
            match (&touched.cells.entry, &touched.body) {
                (Cell::Live { .. }, Some(body)) => batch.insert(bodies, name, &**body),
                (Cell::Deleted { .. }, _) if touched.has_body => batch.remove(bodies, name),
                _ => {}
            }
        }
        for (name, cell) in &state {
            batch.insert(states, name.as_str(), encoding::encode_state(cell));
        }
        if batch.is_empty() && synced {
            // All of it is there already, but perhaps not yet safe from a power loss.
            return database.persist(mode);
        }
        batch.commit()?;
        if GRAVES_MAX <= self.graves.dug {
            self.graves.old.clear()?;
            std::mem::swap(&mut self.graves.young, &mut self.graves.old);
            self.graves.dug = 0;
        }
        Ok(())
    }
}

impl Write {
    fn body_bytes(&self) -> usize {
        match self {
            Self::Put(_, entry) => entry.body.len(),
            Self::Save(cell) => cell.value.as_ref().map_or(0, Bytes::len),
            Self::Track(_) | Self::Mark(..) | Self::Purge(..) | Self::Forget(_) => 0,
        }
    }
}

/// The state table of a directory that is there, for a look from outside; `None` while another process has it open.
///
/// # Errors
/// When it cannot be read.
pub fn state(path: &Path) -> Result<Option<Vec<StateCell>>, Error> {
    let database = match open_database(path) {
        Ok(database) => database,
        Err(fjall::Error::Locked) => return Ok(None),
        Err(error) => return Err(failed(OPEN)(error)),
    };
    load(&database.keyspace("state", options).map_err(failed(OPEN))?).map(Some)
}

fn load(state: &Keyspace) -> Result<Vec<StateCell>, Error> {
    let mut cells = Vec::new();
    for guard in state.iter() {
        let (name, bytes) = guard.into_inner().map_err(failed(READ))?;
        let name = String::from_utf8_lossy(&name).into_owned();
        let cell = encoding::decode_state(&bytes).map_err(corrupt("state", &name))?;
        if let Cell::Live { time, value } = cell {
            cells.push(StateCell { name, value: Some(value), stamp: time });
        }
    }
    Ok(cells)
}

fn open_database(path: &Path) -> Result<Database, fjall::Error> {
    Database::builder(path).cache_size(CACHE_BYTES).max_journaling_size(JOURNAL_BYTES_MAX).open()
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES)
}

fn open(path: &Path) -> Result<(Tables, Graves), Error> {
    let database = open_database(path).map_err(|error| match error {
        fjall::Error::Locked => {
            let fact = format!("another process has {} open", path.display());
            Error::Unavailable { action: OPEN, source: fact.into() }
        }
        error => failed(OPEN)(error),
    })?;
    let separation = KvSeparationOptions::default().separation_threshold(BODY_APART_BYTES);
    let apart = || options().with_kv_separation(Some(separation));
    let keyspace = |name| database.keyspace(name, options).map_err(failed(OPEN));
    let (cells, state) = (keyspace("cells")?, keyspace("state")?);
    let bodies = database.keyspace("bodies", apart).map_err(failed(OPEN))?;
    let graves = Graves { young: keyspace("graves_a")?, old: keyspace("graves_b")?, dug: 0 };
    let tables = Tables { database, cells, bodies, state };
    tables.drop_deletes(&graves).map_err(failed(OPEN))?;
    Ok((tables, graves))
}

fn failed<E: std::error::Error + Send + Sync + 'static>(
    action: &'static str,
) -> impl FnOnce(E) -> Error {
    move |error| Error::Unavailable { action, source: error.into() }
}

fn not_written(error: Arc<fjall::Error>) -> Error {
    match *error {
        // fjall takes no more writes after one that the disk refused.
        fjall::Error::Poisoned => {
            let fact = "the disk refused an earlier write: mend it, then start kck again";
            Error::Unavailable { action: WRITE, source: fact.into() }
        }
        _ => failed(WRITE)(error),
    }
}

fn corrupt(what: &'static str, name: &str) -> impl Fn(&'static str) -> Error {
    move |fact| Error::Corrupt { what: format!("{what} of {name}"), fact }
}

fn stopped() -> Error {
    Error::Unavailable { action: WRITE, source: "its writer has stopped".into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{entry::Meta, store::contract};

    /// A directory of the test's own, gone with it.
    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("kck-{}-{name}", std::process::id())))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn open(folder: &Folder) -> Arc<dyn Store> {
        Arc::new(Embedded::open(&folder.0).unwrap())
    }

    #[tokio::test]
    async fn keeps_the_contract() {
        let folder = Folder::new("contract");
        contract::holds(open(&folder)).await;
    }

    #[tokio::test]
    async fn keeps_the_contract_when_opened_again() {
        let folder = Folder::new("contract-reopened");
        let reopen = |store| {
            drop(store);
            let opened = open(&folder);
            Box::pin(std::future::ready(opened)) as futures_util::future::BoxFuture<'_, _>
        };
        contract::survives(open(&folder), &reopen).await;
    }

    #[tokio::test]
    async fn a_directory_has_one_user() {
        let folder = Folder::new("locked");
        let store = open(&folder);
        let refused = Embedded::open(&folder.0).err().unwrap();
        let Error::Unavailable { source, .. } = refused else { panic!("{refused:?}") };
        assert!(source.to_string().contains("another process has"), "{source}");
        drop(store);
        drop(open(&folder));
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_stored_fails_alone() {
        let folder = Folder::new("names");
        let store = open(&folder);
        let (long, good) = (Key::new("p", ["x".repeat(70_000).as_str()]), Key::new("p", []));
        let meta = Meta { bytes: 1, ..Meta::default() };
        let entry = Entry { meta, body: Bytes::from_static(b"1") };
        let (refused, written) = tokio::join!(store.put(&long, &entry), store.put(&good, &entry));
        assert!(refused.is_err());
        assert_eq!(store.get(&long).await.unwrap(), None);
        written.unwrap();
        assert_eq!(store.get(&good).await.unwrap(), Some(entry));
    }

    #[tokio::test]
    async fn deletes_are_remembered_over_a_generation() {
        let folder = Folder::new("graves");
        let (tables, mut graves) = super::open(&folder.0).unwrap();
        graves.dug = GRAVES_MAX - 1;
        let (_, waiting) = mpsc::channel(1);
        let mut writer = Writer { tables, graves, waiting };
        let key = Key::new("p", []);
        let mut write = |write| {
            let mut group = Group::default();
            writer.apply(&mut group, write).unwrap();
            writer.commit(group).unwrap();
            writer.graves.dug
        };
        let dug = write(Write::Purge(key.clone(), Stamp(6)));
        assert_eq!(dug, 0, "the young generation was full and became the old one");
        let late = Entry { meta: Meta { stamp: Stamp(5), ..Meta::default() }, body: Bytes::new() };
        write(Write::Put(key.clone(), late));
        assert_eq!(writer.tables.entry(&key).unwrap(), None);
    }
}
