//! Gather: paths on the command line → the files of the original that they mean, with their texts.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::import::{Role, Source};

/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// The most files.
const FILES_MAX: usize = 10_000;
/// The deepest folder.
const DEPTH_MAX: usize = 32;

/// What there is to import.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) sources: Vec<Source>,
    /// What was not read, and is to be known.
    pub(super) notes: Vec<String>,
}

/// Reads all that the paths mean.
///
/// # Errors
/// A path that is not there, or too much of everything.
pub(super) fn gather(paths: &[PathBuf], settings: Option<&Path>) -> Result<Gathered, String> {
    let mut gathered = Gathered::default();
    for path in paths {
        let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        if metadata.is_dir() {
            gathered.project(path, settings.is_none())?;
        } else {
            let role = path.parent().map_or(Role::Any, |folder| role_of(folder, Role::Any));
            gathered.add(path, path.clone(), role)?;
        }
    }
    if let Some(settings) = settings {
        fs::metadata(settings).map_err(|error| unreadable(settings, &error))?;
        gathered.add(settings, settings.to_owned(), Role::Settings)?;
    }
    Ok(gathered)
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("{}: it cannot be read: {error}\n  hint: check the path and its rights", path.display())
}

fn role_of(folder: &Path, else_: Role) -> Role {
    let named = |name: &str| folder.components().any(|part| part.as_os_str() == name);
    match (named("kprimers"), named("kupdaters")) {
        (true, _) => Role::Primer,
        (_, true) => Role::Updater,
        _ => else_,
    }
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

fn is_yaml(path: &Path) -> bool {
    matches!(extension(path), "yml" | "yaml")
}

impl Gathered {
    /// A project has its primers and updaters in folders of their names; any other folder may hold both.
    fn project(&mut self, root: &Path, settings: bool) -> Result<(), String> {
        let folders = ["kprimers", "kupdaters"].map(|name| root.join(name));
        if folders.iter().all(|folder| !folder.is_dir()) {
            return self.folder(root, root, role_of(root, Role::Any), 0);
        }
        for folder in folders.iter().filter(|folder| folder.is_dir()) {
            self.folder(root, folder, role_of(folder, Role::Any), 0)?;
        }
        if settings {
            self.settings(root)?;
        }
        for folder in [root.to_owned(), root.join("settings"), root.join("config")] {
            let entries = entries(&folder).unwrap_or_default();
            for path in entries.iter().filter(|path| extension(path) == "py") {
                let says =
                    text(path).is_ok_and(|text| text.lines().any(|line| line.starts_with("KCK")));
                if says {
                    self.add(path, shown(root, path), Role::Settings)?;
                }
            }
        }
        Ok(())
    }

    /// The original read those of one environment, `dev` unless told otherwise.
    fn settings(&mut self, root: &Path) -> Result<(), String> {
        let all = entries(&root.join("config")).unwrap_or_default();
        let all: Vec<PathBuf> = all.into_iter().filter(|path| is_yaml(path)).collect();
        let dev = all.iter().find(|path| path.file_stem().is_some_and(|stem| stem == "dev"));
        let Some(own) = dev.or(all.first()) else { return Ok(()) };
        for other in all.iter().filter(|path| *path != own) {
            self.notes.push(format!(
                "{} was not read, as {} was: --settings names another",
                shown(root, other).display(),
                shown(root, own).display()
            ));
        }
        self.add(own, shown(root, own), Role::Settings)
    }

    fn folder(
        &mut self,
        root: &Path,
        folder: &Path,
        role: Role,
        depth: usize,
    ) -> Result<(), String> {
        if depth > DEPTH_MAX {
            let shown = folder.display();
            return Err(format!("{shown}: folders lie too deep\n  hint: at most {DEPTH_MAX}"));
        }
        for path in entries(folder).map_err(|error| unreadable(folder, &error))? {
            let hidden =
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            let python = extension(&path) == "py";
            // The original took Python from the top of its folders alone; below are modules that it imports.
            let own = is_yaml(&path) || python && depth == 0 && role != Role::Any;
            if hidden {
                continue;
            } else if path.is_dir() {
                self.folder(root, &path, role_of(&path, role), depth + 1)?;
            } else if own {
                self.add(&path, shown(root, &path), role)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, shown: PathBuf, role: Role) -> Result<(), String> {
        if self.sources.len() >= FILES_MAX {
            return Err(format!(
                "there are more than {FILES_MAX} files\n  hint: import them in parts"
            ));
        }
        self.sources.push(Source { file: shown, role, text: text(path) });
        Ok(())
    }
}

/// As the report names it: from the project on.
fn shown(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).to_owned()
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut entries = entries.collect::<io::Result<Vec<PathBuf>>>()?;
    entries.sort();
    Ok(entries)
}

fn text(path: &Path) -> Result<String, String> {
    let read = || -> io::Result<Result<Vec<u8>, String>> {
        let bytes = fs::metadata(path)?.len();
        if bytes > FILE_BYTES_MAX {
            return Ok(Err(format!("it has {bytes} bytes, and may have {FILE_BYTES_MAX}")));
        }
        fs::read(path).map(Ok)
    };
    let bytes = read().map_err(|error| format!("it cannot be read: {error}"))??;
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(name: &str, files: &[&str]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("kck-gather-{}-{name}", std::process::id()));
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "KCK = {}\n").unwrap();
        }
        root
    }

    fn gathered(root: &Path) -> (Vec<(String, Role)>, Vec<String>) {
        let gathered = gather(&[root.to_owned()], None).unwrap();
        let one = |source: Source| (source.file.display().to_string(), source.role);
        (gathered.sources.into_iter().map(one).collect(), gathered.notes)
    }

    #[test]
    fn a_project_is_its_folders_and_the_settings_of_one_environment() {
        let root = project(
            "whole",
            &[
                "kprimers/a.yml",
                "kprimers/deep/b.yaml",
                "kprimers/c.py",
                "kprimers/deep/helper.py",
                "kprimers/.d.yml",
                "kprimers/notes.txt",
                "kupdaters/u.yml",
                "config/prod.yml",
                "config/dev.yml",
                "docker-compose.yml",
                "settings.py",
            ],
        );
        let (files, notes) = gathered(&root);
        let want = [
            ("kprimers/a.yml", Role::Primer),
            ("kprimers/c.py", Role::Primer),
            ("kprimers/deep/b.yaml", Role::Primer),
            ("kupdaters/u.yml", Role::Updater),
            ("config/dev.yml", Role::Settings),
            ("settings.py", Role::Settings),
        ];
        assert_eq!(files, want.map(|(file, role)| (file.to_owned(), role)));
        assert_eq!(
            notes,
            ["config/prod.yml was not read, as config/dev.yml was: --settings names another"]
        );
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn any_other_folder_may_hold_both() {
        let root = project("any", &["a.yml", "kupdaters.yml", "deep/kprimers/b.yml"]);
        let (files, _) = gathered(&root);
        let want = [
            ("a.yml", Role::Any),
            ("deep/kprimers/b.yml", Role::Primer),
            ("kupdaters.yml", Role::Any),
        ];
        assert_eq!(files, want.map(|(file, role)| (file.to_owned(), role)));
        assert!(gather(&[root.join("nowhere")], None).is_err());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let root = project("texts", &["a.yml"]);
        fs::write(root.join("a.yml"), [0xff, 0xfe]).unwrap();
        assert_eq!(text(&root.join("a.yml")).unwrap_err(), "it is not UTF-8");
        fs::write(root.join("a.yml"), vec![b' '; 300_000]).unwrap();
        assert_eq!(
            text(&root.join("a.yml")).unwrap_err(),
            "it has 300000 bytes, and may have 262144"
        );
        fs::remove_dir_all(root).unwrap();
    }
}
