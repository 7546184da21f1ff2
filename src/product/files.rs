//! Files: the folders `products/` and `updates/`, looked at again and again → whose files have moved.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{
    Draft, Fault, Kind, compose,
    file::{Found, Loaded, Stamp, said},
};

/// The files of all products, as they were when last looked at.
#[derive(Debug, Default)]
pub struct Files {
    drafts: Drafts,
    /// What each says, with the products that it reads.
    composed: BTreeMap<String, Result<Draft, Vec<Fault>>>,
}

/// The files of a folder, each by itself, as they were when last looked at.
#[derive(Debug, Default)]
pub struct Drafts {
    folder: PathBuf,
    kind: Kind,
    read: BTreeMap<String, Read>,
    faults: Vec<Fault>,
}

/// The files of one name.
#[derive(Debug)]
struct Read {
    files: Vec<(PathBuf, Stamp)>,
    said: Result<Draft, Vec<Fault>>,
    /// The last look did not find it.
    missing: bool,
}

impl Drafts {
    /// Reads every file of this kind below `folder`; a folder that is not there is an empty one.
    #[must_use]
    pub fn read(folder: &Path, kind: Kind) -> Self {
        let mut drafts = Self { folder: folder.to_owned(), kind, ..Self::default() };
        drafts.look(true);
        drafts
    }

    /// Looks again: the names of which something else is said now. Contents are read where a file's time, size or
    /// name is another, or of all; and whoever is not found is gone only at the second look, or of all: many
    /// programs write by taking a file away and putting another in its place.
    pub fn look(&mut self, all: bool) -> BTreeSet<String> {
        let found = Found::below(&self.folder, self.kind);
        let mut moved = BTreeSet::new();
        self.read.retain(|name, read| {
            let there = found.files.contains_key(name) || found.incomplete;
            let stays = there || !(all || read.missing);
            read.missing = !there;
            if !stays {
                moved.insert(name.clone());
            }
            stays
        });
        for (name, files) in found.files {
            let before = self.read.get(&name);
            if !all && before.is_some_and(|before| before.files == files) {
                continue;
            }
            let paths: Vec<&Path> = files.iter().map(|(path, _)| path.as_path()).collect();
            let said = said(self.kind, &name, &paths);
            if before.is_none_or(|before| before.said != said) {
                moved.insert(name.clone());
            }
            self.read.insert(name, Read { files, said, missing: false });
        }
        self.faults = found.faults;
        moved
    }

    /// The names of all files.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.read.keys()
    }

    /// What the file of this name says: a draft, or its faults. `None` where there is no file.
    #[must_use]
    pub fn said(&self, name: &str) -> Option<&Result<Draft, Vec<Fault>>> {
        self.read.get(name).map(|read| &read.said)
    }

    /// Faults that belong to no name.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// All of it.
    #[must_use]
    pub fn loaded(&self) -> Loaded {
        loaded(&self.faults, self.read.iter().map(|(name, read)| (name, &read.said)))
    }
}

impl Files {
    /// Reads every product below `folder`; a folder that is not there is an empty one.
    #[must_use]
    pub fn read(folder: &Path) -> Self {
        let drafts = Drafts::read(folder, Kind::Product);
        let mut files = Self { drafts, composed: BTreeMap::new() };
        files.compose();
        files
    }

    /// Looks again, as [`Drafts::look`].
    pub fn look(&mut self, all: bool) -> BTreeSet<String> {
        if self.drafts.look(all).is_empty() { BTreeSet::new() } else { self.compose() }
    }

    /// A product moves with those that it reads.
    fn compose(&mut self) -> BTreeSet<String> {
        let said = self.drafts.read.iter().map(|(name, read)| (name.as_str(), &read.said));
        let composed = compose::composed(said);
        let before = std::mem::replace(&mut self.composed, composed);
        let names = before.keys().chain(self.composed.keys());
        names.filter(|name| before.get(*name) != self.composed.get(*name)).cloned().collect()
    }

    /// What the file of this name says: a draft, or its faults. `None` where there is no file.
    #[must_use]
    pub fn said(&self, name: &str) -> Option<&Result<Draft, Vec<Fault>>> {
        self.composed.get(name)
    }

    /// Faults that belong to no name.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        self.drafts.faults()
    }

    /// All of it.
    #[must_use]
    pub fn loaded(&self) -> Loaded {
        loaded(self.drafts.faults(), self.composed.iter())
    }
}

fn loaded<'a>(
    faults: &[Fault],
    said: impl Iterator<Item = (&'a String, &'a Result<Draft, Vec<Fault>>)>,
) -> Loaded {
    let mut loaded = Loaded { faults: faults.to_vec(), ..Loaded::default() };
    for (name, said) in said {
        match said {
            Ok(draft) => loaded.drafts.push(draft.clone()),
            Err(faults) => {
                loaded.broken.insert(name.clone(), faults.clone());
            }
        }
    }
    loaded
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        sync::atomic::{AtomicU32, Ordering},
        time::SystemTime,
    };

    /// A folder that goes when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let folder = Self(
                std::env::temp_dir().join(format!("kck-files-{}-{count}", std::process::id())),
            );
            fs::create_dir_all(&folder.0).unwrap();
            folder
        }

        /// Writes a file as of a time of its own, in seconds.
        fn write(&self, name: &str, text: &str, at: u64) {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(at);
            fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn names(moved: &BTreeSet<String>) -> Vec<&str> {
        moved.iter().map(String::as_str).collect()
    }

    #[test]
    fn says_which_files_moved() {
        let folder = Folder::new();
        folder.write("a.sql", "select 1", 1);
        folder.write("b.sql", "select 1", 1);
        let mut files = Files::read(&folder.0);
        assert!(files.look(false).is_empty());
        folder.write("a.sql", "select 2", 2);
        folder.write("b.sql", "selec", 2);
        folder.write("c.sql", "select 3", 2);
        assert_eq!(names(&files.look(false)), ["a", "b", "c"]);
        assert!(files.said("b").unwrap().is_err());
        folder.write("a.sql", "select 2", 3);
        assert!(files.look(false).is_empty(), "it says what it said");
        fs::rename(folder.0.join("b.sql"), folder.0.join("B.sql")).unwrap();
        assert!(files.look(false).is_empty());
        assert_eq!((names(&files.look(false)), files.faults().len()), (vec!["b"], 1));
    }

    #[test]
    fn a_file_of_the_same_time_and_size_is_read_when_all_are() {
        let folder = Folder::new();
        folder.write("a.sql", "select 1", 1);
        let mut files = Files::read(&folder.0);
        folder.write("a.sql", "select 2", 1);
        assert!(files.look(false).is_empty());
        assert_eq!(names(&files.look(true)), ["a"]);
    }

    #[test]
    fn what_is_not_found_once_is_not_gone() {
        let folder = Folder::new();
        folder.write("a.sql", "select 1", 1);
        let mut files = Files::read(&folder.0);
        fs::remove_file(folder.0.join("a.sql")).unwrap();
        assert!(files.look(false).is_empty() && files.said("a").is_some());
        folder.write("a.sql", "select 1", 1);
        assert!(files.look(false).is_empty());
        fs::remove_dir_all(&folder.0).unwrap();
        assert!(files.look(false).is_empty());
        assert_eq!(names(&files.look(false)), ["a"]);
        assert!(files.said("a").is_none());
    }

    #[test]
    fn a_second_file_of_a_name_is_a_fault_until_one_goes() {
        let folder = Folder::new();
        folder.write("a.sql", "select 1", 1);
        let mut files = Files::read(&folder.0);
        fs::create_dir(folder.0.join("deep")).unwrap();
        folder.write("deep/a.sql", "select 1", 1);
        assert_eq!(names(&files.look(false)), ["a"]);
        assert_eq!(files.said("a").unwrap().as_ref().unwrap_err().len(), 2);
        fs::remove_file(folder.0.join("a.sql")).unwrap();
        assert_eq!(names(&files.look(false)), ["a"]);
        assert!(files.said("a").unwrap().is_ok());
    }
}
