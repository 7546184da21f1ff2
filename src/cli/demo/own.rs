//! A schema and product files → a Postgres and a kck of one's own, gone without a trace when stopped.

use std::{
    fs::{self, DirBuilder},
    io::{self, Read as _},
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    cli::{Stop, environment, say},
    config::Config,
    local::{self, Postgres, PostgresSettings},
    observe::Observer,
    parts::Failure,
    postgres::{self, Client, address::Address, connect},
    product::Slot,
    progress::Progress,
    serve::Context,
};

/// What to start.
pub(in crate::cli) struct Setup<'a> {
    /// Names its folder and its database.
    pub(in crate::cli) name: &'a str,
    /// Run in the new database.
    pub(in crate::cli) schema: &'a str,
    /// File names and texts.
    pub(in crate::cli) products: &'a [(&'a str, &'a str)],
    /// The settings of section store, in one line.
    pub(in crate::cli) store: &'a str,
    /// More lines of settings.
    pub(in crate::cli) more: &'a str,
    pub(in crate::cli) listen: SocketAddr,
    /// Whether the source counts its statements.
    pub(in crate::cli) statements: bool,
}

/// Asked after a commit: a position that the commit is not above.
pub(in crate::cli) const POSITION: &str = "select pg_current_wal_insert_lsn()::text";

/// What is in flight in kck has limits of its own, far below this.
const STOP_AT_MOST: Duration = Duration::from_secs(15);

/// A running Postgres with the schema, and a folder with settings and products for a kck over it.
pub(in crate::cli) struct Ground {
    /// Where the database is, for its superuser.
    pub(in crate::cli) url: String,
    pub(in crate::cli) folder: Folder,
    postgres: Postgres,
}

impl Ground {
    /// Starts it, telling what takes long.
    pub(in crate::cli) async fn start(setup: &Setup<'_>) -> Result<Self, Stop> {
        say("looking for a PostgreSQL…");
        let folder = Folder::create(setup.name)?;
        let password =
            password().map_err(|error| Stop::cannot(format!("make a password: {error}")))?;
        let settings = PostgresSettings {
            password: Some(password),
            fsync: true,
            statements: setup.statements,
            cache: cache(),
            ..PostgresSettings::default()
        };
        let postgres = Postgres::start(settings, &|line| say(line)).await?;
        say("making a database…");
        let url = make_database(&postgres, setup).await?;
        folder.write_products(setup.products)?;
        let ground = Self { url, folder, postgres };
        let (path, text) = (ground.config(), settings_text(&ground.url, setup));
        fs::write(&path, text)
            .map_err(|error| Stop::cannot(format!("write {}: {error}", path.display())))?;
        Ok(ground)
    }

    /// Where the settings are.
    pub(in crate::cli) fn config(&self) -> PathBuf {
        self.folder.path().join("kck.toml")
    }

    /// A connection to the database.
    pub(in crate::cli) async fn connect(&self, role: &str) -> Result<Client, Stop> {
        client(&self.url, role).await
    }

    /// Stops Postgres; the files go.
    pub(in crate::cli) async fn stop(mut self) -> Result<(), Stop> {
        Ok(self.postgres.stop().await?)
    }
}

/// A running Postgres and a running kck.
pub(in crate::cli) struct Own {
    /// Where kck answers.
    pub(in crate::cli) address: SocketAddr,
    pub(in crate::cli) context: Context,
    pub(in crate::cli) ground: Ground,
    kck: JoinHandle<Result<(), Failure>>,
    told: CancellationToken,
    ended: CancellationToken,
}

impl Own {
    /// Starts both, telling what takes long.
    pub(in crate::cli) async fn start(setup: Setup<'_>) -> Result<Self, Stop> {
        let ground = Ground::start(&setup).await?;
        say("starting kck…");
        let config = parsed(&settings_text(&ground.url, &setup), ground.folder.path())?;
        let app = Box::pin(App::start(config, &[], Observer::default())).await?;
        let (address, context) = (app.address, app.context.clone());
        let (told, ended) = (CancellationToken::new(), CancellationToken::new());
        let (telling, ending) = (told.clone().cancelled_owned(), ended.clone().drop_guard());
        let kck = tokio::spawn(async move {
            let result = app.run(telling).await;
            drop(ending);
            result
        });
        let own = Self { address, context, ground, kck, told, ended };
        tokio::select! {
            followed = followed(&own.context) => followed?,
            // Stopping says why.
            () = own.ended() => {}
        }
        Ok(own)
    }

    /// Where the product files are.
    pub(in crate::cli) fn products(&self) -> PathBuf {
        self.ground.folder.0.join("products")
    }

    /// A connection to the database.
    pub(in crate::cli) async fn connect(&self, role: &str) -> Result<Client, Stop> {
        self.ground.connect(role).await
    }

    /// Returns when kck ended by itself, which it does only when it cannot go on; [`Own::stop`] says why.
    pub(in crate::cli) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Stops kck and then Postgres; their files go.
    pub(in crate::cli) async fn stop(self) -> Result<(), Stop> {
        self.told.cancel();
        let ended = tokio::time::timeout(STOP_AT_MOST, self.kck).await;
        self.ground.stop().await?;
        match ended {
            Ok(Ok(ended)) => Ok(ended?),
            Ok(Err(panic)) => Err(Stop::cannot(format!("run kck: {panic}"))),
            Err(_) => {
                Err(Stop::cannot(format!("kck did not stop within {} s", STOP_AT_MOST.as_secs())))
            }
        }
    }
}

/// A new database with the schema; gives its address.
async fn make_database(postgres: &Postgres, setup: &Setup<'_>) -> Result<String, Stop> {
    let making = |error| refused("make a database", error);
    let admin = client(&postgres.url("postgres"), setup.name).await?;
    admin.batch_execute(&format!("create database {}", setup.name)).await.map_err(making)?;
    let url = postgres.url(setup.name);
    client(&url, setup.name).await?.batch_execute(setup.schema).await.map_err(making)?;
    Ok(url)
}

/// Returns when every product is kept and matched: just after the start each is answered uncached (R1).
pub(in crate::cli) async fn followed(context: &Context) -> Result<(), Stop> {
    let catalog = Arc::clone(&context.catalog.borrow());
    if let Some(Slot::Broken { faults, .. }) =
        catalog.products.values().find(|slot| matches!(slot, Slot::Broken { .. }))
    {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        return Err(Stop::cannot(faults.join("\n")));
    }
    let cached = |progress: &Progress| {
        let ledger = context.recompute.ledger();
        catalog.ready().all(|product| ledger.is_cached(product.name(), progress.visible))
    };
    // Its end is that of kck.
    drop(context.progress.clone().wait_for(cached).await);
    Ok(())
}

fn settings_text(url: &str, setup: &Setup<'_>) -> String {
    format!(
        "source = {{ url = '{url}' }}\nstore = {{ {} }}\nhttp = {{ listen = '{}' }}\n{}\n",
        setup.store, setup.listen, setup.more
    )
}

/// Where fetched programs are kept, if not in the usual place.
pub(in crate::cli) fn cache() -> Option<PathBuf> {
    environment().into_iter().find(|(name, _)| name == "KCK_CACHE").map(|(_, value)| value.into())
}

/// Settings of a kck of one's own: what the environment says is meant for another.
pub(in crate::cli) fn parsed(text: &str, folder: &Path) -> Result<Config, Stop> {
    Config::parse(text, &folder.join("kck.toml"), folder, &[])
        .map_err(|bad| Stop::cannot(bad.to_string()))
}

/// A connection as a user's own.
pub(in crate::cli) async fn client(url: &str, role: &str) -> Result<Client, Stop> {
    let address = Address::parse(url, |_| None).map_err(|error| Stop::cannot(error.to_string()))?;
    Ok(connect::connect(&address, role, &[]).await.map_err(Failure::from)?)
}

/// What the database said to `action`.
pub(in crate::cli) fn refused(action: &str, error: impl std::error::Error) -> Stop {
    Stop::cannot(format!("{action}: {}", postgres::describe_chain(&error)))
}

impl From<local::Error> for Stop {
    fn from(error: local::Error) -> Self {
        Self::cannot(postgres::describe_chain(&error))
    }
}

/// Others on this machine may not enter the database.
fn password() -> io::Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A folder that only its owner may enter; it goes when dropped.
pub(in crate::cli) struct Folder(PathBuf);

impl Folder {
    pub(in crate::cli) fn create(name: &str) -> Result<Self, Stop> {
        // The id of a process that was killed comes back one day, and its folder may still be there.
        for attempt in 0_u32.. {
            let path =
                std::env::temp_dir().join(format!("kck-{name}-{}-{attempt}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(Stop::cannot(format!("create {}: {error}", path.display())));
                }
            }
        }
        Err(Stop::cannot("create a temporary folder: every name is taken"))
    }

    pub(in crate::cli) fn path(&self) -> &Path {
        &self.0
    }

    fn write_products(&self, products: &[(&str, &str)]) -> Result<(), Stop> {
        let folder = self.0.join("products");
        let write = || {
            fs::create_dir(&folder)?;
            products.iter().try_for_each(|(file, text)| fs::write(folder.join(file), text))
        };
        write().map_err(|error| Stop::cannot(format!("write {}: {error}", folder.display())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "remove a temporary folder");
        }
    }
}
