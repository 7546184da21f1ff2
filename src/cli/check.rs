//! `kck check`: every fault of the files of products, updates and processes, and what follows from each product.

use clap::Args;

use super::{ConfigArgs, Stop, environment, say};
use crate::{
    app, load,
    parts::Failure,
    postgres::{Client, Source, publication},
    product::{Catalog, Fault, Process, Slot, UpdateSlot, file::Loaded},
};

/// Check the files of products, updates and processes, and what the source says of them.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigArgs,
    /// Do not ask the source: only what the files alone tell.
    #[arg(long)]
    files_only: bool,
}

impl Check {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let config = self.config.load()?;
        let loaded = load::files(&config.directory.join("products"));
        let updates = load::update_files(&config.directory.join("updates"));
        let processes = load::process_files(&config.directory.join("processes"));
        if self.files_only {
            let (mut faults, mut sound) = (Vec::new(), 0);
            for loaded in [&loaded, &updates, &processes] {
                faults.extend(loaded.faults.iter().chain(loaded.broken.values().flatten()));
                sound += loaded.drafts.len();
            }
            faults.iter().for_each(|fault| say(&fault.to_string()));
            say(&format!("{sound} sound, {} faults; the source was not asked", faults.len()));
            return if faults.is_empty() { Ok(()) } else { Err(Stop::no()) };
        }
        let address = app::address(&config, &config.source_url, &environment())?;
        let source = Source::new(address);
        let mut client = source.connect("describe", &[]).await.map_err(Failure::from)?;
        let mut catalog = load::catalog(&mut client, loaded).await.map_err(Failure::from)?;
        load::updates(&client, updates, &mut catalog).await.map_err(Failure::from)?;
        let index = load::index(&catalog);
        let unusable = publication::unusable_identities(&client, &index.tables().collect()).await;
        load::refuse_unpublished(&mut catalog, &index, &unusable.map_err(Failure::from)?);
        let processes = asked(&client, processes).await?;
        print(&catalog, &index, &processes)
    }
}

/// A process by its name, and what is wrong with it.
type Checked = (String, Result<Process, Vec<Fault>>);

/// What files and source say of processes; faults that belong to none come first, without a name.
async fn asked(client: &Client, loaded: Loaded) -> Result<Vec<Checked>, Failure> {
    let stray = loaded.faults.into_iter().map(|fault| (String::new(), Err(vec![fault])));
    let broken = loaded.broken.into_iter().map(|(name, faults)| (name, Err(faults)));
    let mut checked: Vec<Checked> = stray.chain(broken).collect();
    for draft in loaded.drafts {
        let process = Process::from(draft);
        let fault = load::process(client, &process).await?;
        let name = process.name().to_owned();
        checked.push((name, fault.map_or(Ok(process), |fault| Err(vec![fault]))));
    }
    checked.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(checked)
}

/// Says what each process does; gives how many are broken.
fn print_processes(processes: &[Checked]) -> usize {
    for (name, checked) in processes {
        match checked {
            Ok(process) => {
                let when = process.schedule().map_or("when asked".to_owned(), ToString::to_string);
                say(&format!("process {name}: ready\n  runs {when}"));
            }
            Err(faults) => {
                if !name.is_empty() {
                    say(&format!("process {name}: broken"));
                }
                faults.iter().for_each(|fault| say(&fault.to_string()));
            }
        }
    }
    processes.iter().filter(|(_, checked)| checked.is_err()).count()
}

fn print(
    catalog: &Catalog,
    index: &crate::depend::Index,
    processes: &[Checked],
) -> Result<(), Stop> {
    let stray = || catalog.faults.iter().chain(&catalog.update_faults);
    let mut broken = stray().count();
    stray().for_each(|fault| say(&fault.to_string()));
    for (name, slot) in &catalog.products {
        match slot {
            Slot::Ready { .. } => {
                say(&format!("{name}: ready"));
                let lines =
                    index.rules(name).map(crate::depend::Rules::explain).unwrap_or_default();
                lines.iter().for_each(|line| say(&format!("  {line}")));
            }
            Slot::Broken { faults, .. } => {
                broken += 1;
                say(&format!("{name}: broken"));
                faults.iter().for_each(|fault| say(&fault.to_string()));
            }
        }
    }
    for (name, slot) in &catalog.updates {
        match slot {
            UpdateSlot::Ready { update, .. } => {
                say(&format!("update {name}: ready"));
                let parameters = update.parameters.iter();
                let parameters = parameters.map(|one| format!("{} {}", one.name, one.type_.name));
                let parameters: Vec<String> = parameters.collect();
                if !parameters.is_empty() {
                    say(&format!("  takes {}", parameters.join(", ")));
                }
            }
            UpdateSlot::Broken { faults } => {
                broken += 1;
                say(&format!("update {name}: broken"));
                faults.iter().for_each(|fault| say(&fault.to_string()));
            }
        }
    }
    broken += print_processes(processes);
    if broken == 0 { Ok(()) } else { Err(Stop::no()) }
}
