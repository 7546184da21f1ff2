//! Place: texts → files in a folder, all of them or none.
//!
//! They are written beside where they shall be, and moved when all are there. What is moved before something fails is
//! moved back. Only a crash of the machine in the middle of the moves leaves some: they are whole files then.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::cli::Stop;

/// Texts that are written, and lie aside.
pub(super) struct Staged {
    folder: PathBuf,
    files: Vec<PathBuf>,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // What is left of it is named like a hidden file, which kck does not read.
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Stop {
    let path = path.display();
    Stop::cannot(format!("{what} {path}: {error}\n  hint: check its rights; nothing was imported"))
}

impl Staged {
    /// Writes all texts below a folder of their own in `to`.
    pub(super) fn new<'a>(
        to: &Path,
        texts: impl Iterator<Item = &'a (PathBuf, String)>,
    ) -> Result<Self, Stop> {
        let folder = to.join(format!(".kck-import-{}", std::process::id()));
        fs::create_dir_all(to).map_err(|error| cannot("make", to, &error))?;
        fs::create_dir(&folder).map_err(|error| cannot("make", &folder, &error))?;
        let mut staged = Self { folder, files: Vec::new() };
        for (path, text) in texts {
            let file = staged.folder.join(path);
            let parent = file.parent().unwrap_or(&staged.folder);
            fs::create_dir_all(parent).map_err(|error| cannot("make", parent, &error))?;
            fs::write(&file, text).map_err(|error| cannot("write", &file, &error))?;
            staged.files.push(path.clone());
        }
        Ok(staged)
    }

    /// Where they lie.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Moves them to where they shall be. With `force` over what is there, else what is there must say the same.
    pub(super) fn place(self, to: &Path, force: bool) -> Result<(), Stop> {
        let differs = |file: &&PathBuf| {
            let there = fs::read(to.join(file));
            !matches!((there, fs::read(self.folder.join(file))), (Ok(there), Ok(new)) if there == new)
        };
        let there: Vec<String> = self
            .files
            .iter()
            .filter(|file| fs::symlink_metadata(to.join(file)).is_ok())
            .filter(differs)
            .map(|file| to.join(file).display().to_string())
            .collect();
        if !force && !there.is_empty() {
            let text = format!(
                "{} there already; nothing was written\n  hint: --force writes over, --to names another folder",
                match there.as_slice() {
                    [one] => format!("{one} is"),
                    many => format!("{} are", many.join(", ")),
                }
            );
            return Err(Stop { code: 1, text });
        }
        let mut moved = Vec::new();
        for file in &self.files {
            if let Err(error) = self.place_one(to, file, &mut moved) {
                let left = back(moved);
                let hint = if left.is_empty() {
                    String::new()
                } else {
                    format!("\n  still there: {}", left.join(", "))
                };
                let Stop { code, text } = cannot("move to", &to.join(file), &error);
                return Err(Stop { code, text: text + &hint });
            }
        }
        Ok(())
    }

    fn place_one(&self, to: &Path, file: &Path, moved: &mut Vec<Moved>) -> io::Result<()> {
        let place = to.join(file);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        let aside = fs::symlink_metadata(&place)
            .is_ok()
            .then(|| self.folder.join("before").join(moved.len().to_string()));
        if let Some(aside) = &aside {
            fs::create_dir_all(self.folder.join("before"))?;
            fs::rename(&place, aside)?;
        }
        let renamed = fs::rename(self.folder.join(file), &place);
        if renamed.is_ok() || aside.is_some() {
            moved.push(Moved { place, aside });
        }
        renamed
    }
}

/// A file that is where it shall be, and what was there before.
struct Moved {
    place: PathBuf,
    aside: Option<PathBuf>,
}

/// Undoes moves; says which could not be.
fn back(moved: Vec<Moved>) -> Vec<String> {
    let undo = |Moved { place, aside }: Moved| {
        let undone = match &aside {
            Some(aside) => fs::rename(aside, &place),
            None => fs::remove_file(&place),
        };
        undone.err().map(|_| place.display().to_string())
    };
    moved.into_iter().rev().filter_map(undo).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("kck-place-{}-{name}", std::process::id()));
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn texts(files: &[(&str, &str)]) -> Vec<(PathBuf, String)> {
        files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect()
    }

    fn placed(to: &Path, files: &[(&str, &str)], force: bool) -> Result<(), Stop> {
        Staged::new(to, texts(files).iter())?.place(to, force)
    }

    fn all(to: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for folder in ["products", "updates", "."] {
            let entries = fs::read_dir(to.join(folder)).into_iter().flatten();
            let files = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
            found.extend(files.map(|file| fs::read_to_string(file).unwrap()));
            found.sort();
        }
        found
    }

    #[test]
    fn nothing_is_written_over_unless_told() {
        let to = folder("over");
        placed(&to, &[("products/a.sql", "1"), ("updates/b.sql", "2")], false).unwrap();
        assert_eq!(all(&to), ["1", "2"]);
        placed(&to, &[("products/a.sql", "1"), ("products/c.sql", "3")], false).unwrap();
        assert_eq!(all(&to), ["1", "2", "3"], "what says the same is no other");
        let refused = placed(&to, &[("products/a.sql", "9"), ("products/d.sql", "4")], false);
        let refused = refused.unwrap_err();
        assert_eq!(refused.code, 1);
        assert!(refused.text.contains("products/a.sql is there already"), "{}", refused.text);
        assert_eq!(all(&to), ["1", "2", "3"]);
        placed(&to, &[("products/a.sql", "9"), ("products/d.sql", "4")], true).unwrap();
        assert_eq!(all(&to), ["2", "3", "4", "9"]);
        let left: Vec<_> =
            fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        fs::remove_dir_all(&to).unwrap();
    }

    #[test]
    fn what_was_moved_before_a_failure_is_moved_back() {
        let to = folder("back");
        placed(&to, &[("products/a.sql", "1")], false).unwrap();
        // A folder of that name cannot be a parent.
        fs::write(to.join("updates"), "no folder").unwrap();
        let files = [("products/a.sql", "9"), ("products/b.sql", "2"), ("updates/c.sql", "3")];
        let failed = placed(&to, &files, true).unwrap_err();
        assert!(
            failed.code == 3 && failed.text.contains("nothing was imported"),
            "{}",
            failed.text
        );
        assert_eq!(all(&to), ["1", "no folder"]);
        fs::remove_dir_all(&to).unwrap();
    }
}
