//! `kck import`: the files of a KCK 0.6 project → files of kck, and what became of each.

use std::{collections::BTreeSet, path::PathBuf};

use clap::Args;

use super::{Stop, say};
use crate::{
    import::{self, Report},
    load,
};

mod gather;
mod place;

/// Take the files of a KCK 0.6 project over: products/, updates/ and a report.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The project, with kprimers/ and kupdaters/; or single files, or folders of them.
    #[arg(required = true, value_name = "DIR")]
    paths: Vec<PathBuf>,
    /// Where products/ and updates/ shall lie.
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
    /// Which of the project's databases is kck's source.
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// The settings, in YAML; else config/dev.yml of the project.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Write what can be taken over, though something cannot.
    #[arg(long)]
    partial: bool,
    /// Write over files that are there.
    #[arg(long)]
    force: bool,
    /// Say what would become of the files, and write none.
    #[arg(long)]
    dry_run: bool,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

impl Import {
    pub(super) fn run(self) -> Result<(), Stop> {
        let gathered =
            gather::gather(&self.paths, self.settings.as_deref()).map_err(Stop::usage)?;
        let mut report =
            import::import(&gathered.sources, self.database.as_deref()).map_err(Stop::usage)?;
        report.notes.extend(gathered.notes);
        if report.files.is_empty() {
            let hint = "name a folder that has kprimers/ or kupdaters/, or YAML files";
            return Err(Stop::usage(format!("there is nothing to import\n  hint: {hint}")));
        }
        let writes = report.writes().count();
        let may = writes > 0 && !self.dry_run && (self.partial || report.is_whole());
        let placed = if may { self.place(&report) } else { Ok(()) };
        let written = may && placed.is_ok();
        if self.json {
            say(&report.json(written));
        } else {
            say(report.to_string().trim_end());
            say(&self.summary(&report, written));
        }
        placed?;
        if report.is_whole() { Ok(()) } else { Err(Stop::no()) }
    }

    fn place(&self, report: &Report) -> Result<(), Stop> {
        self.named_once(report)?;
        let staged = place::Staged::new(&self.to, report.writes())?;
        // As kck itself will read them, and all together.
        let products = load::files(&staged.folder().join("products"));
        let updates = load::update_files(&staged.folder().join("updates"));
        let faults = [&products, &updates].into_iter();
        let faults =
            faults.flat_map(|loaded| loaded.faults.iter().chain(loaded.broken.values().flatten()));
        let faults: Vec<String> = faults.map(ToString::to_string).collect();
        if !faults.is_empty() {
            let text =
                format!("what came out does not load; nothing was written\n{}", faults.join("\n"));
            return Err(Stop { code: 1, text });
        }
        staged.place(&self.to, self.force)
    }

    /// Names are unique at any depth: what has one of these elsewhere below the target is in the way.
    fn named_once(&self, report: &Report) -> Result<(), Stop> {
        let products = load::files(&self.to.join("products"));
        let updates = load::update_files(&self.to.join("updates"));
        let mut there: Vec<PathBuf> = Vec::new();
        for loaded in [products, updates] {
            there.extend(loaded.drafts.into_iter().map(|draft| draft.file));
            there.extend(loaded.broken.into_values().flatten().map(|fault| fault.file));
        }
        let in_the_way = report.writes().flat_map(|(path, _)| {
            let place = self.to.join(path);
            let folder = self.to.join(path.iter().next().unwrap_or_default());
            let same = |file: &&PathBuf| {
                file.starts_with(&folder)
                    && file.file_stem() == place.file_stem()
                    && **file != place
            };
            there.iter().filter(same).map(|file| file.display().to_string()).collect::<Vec<_>>()
        });
        let in_the_way: BTreeSet<String> = in_the_way.collect();
        if in_the_way.is_empty() {
            return Ok(());
        }
        let files = in_the_way.into_iter().collect::<Vec<_>>().join(", ");
        let hint = "names are unique at any depth: take these away, or --to names another folder";
        let text = format!(
            "the same names are there already: {files}; nothing was written\n  hint: {hint}"
        );
        Err(Stop { code: 1, text })
    }

    fn summary(&self, report: &Report, written: bool) -> String {
        let writes = report.writes().count();
        let left = report.files.iter().filter(|file| !file.by_hand.is_empty()).count();
        let to = self.to.display();
        let what = format!("{writes} files for {to}, {left} of the original's need a hand");
        match written {
            true => format!("{what}; written"),
            false if self.dry_run => format!("{what}; nothing was written, as was asked"),
            false if !self.partial && left > 0 && writes > 0 => {
                format!("{what}; nothing was written: --partial writes what can be taken over")
            }
            false => format!("{what}; nothing was written"),
        }
    }
}
