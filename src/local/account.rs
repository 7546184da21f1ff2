//! Who we are → who servers run as: ourselves, or as root somebody without rights.

use std::{
    fs,
    io::ErrorKind,
    os::unix::{fs::chown, process::CommandExt},
    path::Path,
    process::Command,
};

use super::{Error, process::run};

/// The user that a server runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    name: String,
    /// User and group to change to; none: we stay who we are.
    ids: Option<(u32, u32)>,
}

impl Account {
    /// Ourselves; as root the user `preferred` where it exists, else `nobody`.
    pub(super) fn for_server(preferred: &str) -> Result<Account, Error> {
        if !is_root()? {
            return Ok(Account { name: "this user".to_owned(), ids: None });
        }
        let users =
            fs::read_to_string("/etc/passwd").map_err(Error::machine("read /etc/passwd"))?;
        [preferred, "nobody"].into_iter().find_map(|name| find(&users, name)).ok_or_else(|| {
            Error::Unavailable {
                server: format!("a user other than root, {preferred} or nobody"),
                attempts: "  /etc/passwd has neither".to_owned(),
                hint: format!("add one (useradd --system {preferred}), or do not run this as root"),
            }
        })
    }

    /// Its name, for messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs as this user, in `directory`, with nothing of our environment but the path.
    pub(super) fn command(&self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(directory).env_clear().env("HOME", directory).env("LC_ALL", "C");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        if let Some((user, group)) = self.ids {
            command.uid(user).gid(group);
        }
        command
    }

    /// Whether this user can work in `directory`.
    pub(super) async fn check(&self, directory: &Path) -> Result<(), Error> {
        let mut command = self.command(Path::new("/bin/sh"), directory);
        command.args(["-c", ":"]);
        match run(command).await {
            Err(Error::Machine { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
                let why = format!("it, or a folder above it, is closed to {}", self.name);
                Err(Error::Directory { directory: directory.to_owned(), why })
            }
            other => other.map(drop),
        }
    }

    /// Makes this user the owner of `path`.
    pub(super) fn give(&self, path: &Path) -> Result<(), Error> {
        let Some((user, group)) = self.ids else { return Ok(()) };
        chown(path, Some(user), Some(group)).map_err(Error::machine(format!(
            "give {} to {}",
            path.display(),
            self.name
        )))
    }
}

/// Whether this process may do everything.
pub(super) fn is_root() -> Result<bool, Error> {
    let status = fs::read_to_string("/proc/self/status")
        .map_err(Error::machine("read /proc/self/status"))?;
    // "Uid:" is followed by the real and the effective user
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1));
    Ok(effective == Some("0"))
}

fn find(users: &str, name: &str) -> Option<Account> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let user = fields.nth(1)?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        Some(Account { name: name.to_owned(), ids: Some((user, group)) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65533:nobody:/:/bin/false\n\
                         postgresql:x:7:8::/:/bin/sh\nbroken:x:seven:8::/:/bin/sh\n";

    #[test]
    fn finds_a_user_by_its_whole_name() {
        let nobody = find(USERS, "nobody").unwrap();
        assert_eq!(nobody.ids, Some((65534, 65533)));
        assert_eq!(find(USERS, "postgres"), None);
        assert_eq!(find(USERS, "broken"), None);
    }
}
