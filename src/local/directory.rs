//! A chosen folder or none → the folder of one server, its log, and the claim that no other server uses it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{Error, excerpt};

/// How long a server that was just killed may take to be gone from its folder.
const CLAIM_TIME: Duration = Duration::from_secs(15);
/// How often the claim is tried meanwhile.
const CLAIM_EVERY: Duration = Duration::from_millis(20);

/// How often removing a folder is tried while somebody else removes it too.
const REMOVE_TRIES: u32 = 1000;

/// The folder of one server. Temporary ones are removed when dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    temporary: bool,
}

impl Directory {
    /// The folder `chosen`, or a new one among the machine's temporary files, named after `server`.
    pub(super) fn open(chosen: Option<&Path>, server: &str) -> Result<Directory, Error> {
        match chosen {
            Some(chosen) => {
                let doing = || format!("create {}", chosen.display());
                let path = std::path::absolute(chosen).map_err(Error::machine(doing()))?;
                fs::create_dir_all(&path).map_err(Error::machine(doing()))?;
                Ok(Directory { path, temporary: false })
            }
            None => Ok(Directory {
                path: new_folder(&std::env::temp_dir(), &format!("kck-{server}"))?,
                temporary: true,
            }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_temporary(&self) -> bool {
        self.temporary
    }

    /// Writes a file of the server's settings, readable by every user.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        fs::write(&path, text)
            .and_then(|()| open_to_all(&path))
            .map_err(Error::machine(format!("write {}", path.display())))?;
        Ok(path)
    }

    /// Opens the log at its end and waits until no server, not even a dying one, writes to it.
    ///
    /// The lock belongs to the open file, so the server that inherits the file holds the claim on this folder
    /// for as long as any of its processes live.
    pub(super) async fn claim(&self) -> Result<Log, Error> {
        let path = self.path.join("server.log");
        let doing = || format!("open {}", path.display());
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::machine(doing()))?;
        let deadline = Instant::now() + CLAIM_TIME;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(Error::machine(doing())(error)),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    sleep(CLAIM_EVERY).await;
                }
                Err(TryLockError::WouldBlock) => {
                    let why = "another server is running in it".to_owned();
                    return Err(Error::Directory { directory: self.path.clone(), why });
                }
            }
        }
        let start = file.seek(SeekFrom::End(0)).map_err(Error::machine(doing()))?;
        Ok(Log { path, file, start })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // the server's keeper may be removing it at this moment
        let mut tries = 0;
        while self.temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tries += 1;
            if tries == REMOVE_TRIES {
                tracing::warn!("remove {}: {error}", self.path.display());
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// Where a server writes, from one start on.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    start: u64,
}

impl Log {
    /// The file, for a process to write to.
    pub(super) fn writer(&self) -> Result<File, Error> {
        self.file.try_clone().map_err(Error::machine(format!("share {}", self.path.display())))
    }

    /// What was written since this start.
    pub(super) fn text(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(self.start))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|error| format!("{}: {error}", self.path.display()))
    }

    /// What matters of it for an error.
    pub(super) fn excerpt(&self) -> String {
        excerpt(&self.text())
    }
}

/// Creates a folder that was not there before, open to every user for reading.
pub(super) fn new_folder(parent: &Path, prefix: &str) -> Result<PathBuf, Error> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{prefix}-{}-{number}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => {
                open_to_all(&path)
                    .map_err(Error::machine(format!("open {} to all", path.display())))?;
                return Ok(path);
            }
            // left by a process that had our id before
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(Error::machine(format!("create {}", path.display()))(error));
            }
        }
    }
}

/// Lets every user read `path`, and enter or run what its owner may.
pub(super) fn open_to_all(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(());
    }
    let runs = metadata.is_dir() || metadata.permissions().mode() & 0o100 != 0;
    let mode = if runs { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_is_claimed_once_and_temporary_ones_go() {
        let directory = Directory::open(None, "test").unwrap();
        let log = directory.claim().await.unwrap();
        let held = log.writer().unwrap();
        drop(log);
        let again =
            OpenOptions::new().append(true).open(directory.path().join("server.log")).unwrap();
        assert!(matches!(again.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        again.try_lock().unwrap();
        let path = directory.path().to_owned();
        drop(directory);
        assert!(!path.exists());
    }
}
