//! The subjects → a database with their tables, a folder with their products, and every key that is asked.

use futures_util::future::join_all;
use std::collections::BTreeSet;

use kck::{
    depend::{self, Class},
    product::{Catalog, Product, Slot},
};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{
    shape::{SUBJECTS, Shape, Subject, shapes},
    write::Writes,
};
use crate::support::{
    kck::{Kck, Project, Store},
    servers::{Database, connect},
};

/// What a session of the judge or of a writer sets: texts come out as kck's, and nobody waits for long.
const SESSION: &str = "
    set datestyle = 'ISO'; set timezone = 'UTC'; set intervalstyle = 'postgres'; set extra_float_digits = 1;
    set bytea_output = 'hex'; set lock_timeout = '10s'; set deadlock_timeout = '20ms'";

/// A key with the question it stands for.
pub(super) struct Asked {
    pub(super) shape: usize,
    /// As a request's path has it.
    pub(super) path: String,
    /// What Postgres is asked instead of kck.
    pub(super) question: String,
}

/// Tables, products and keys.
pub(super) struct World {
    pub(super) database: Database,
    pub(super) project: Project,
    pub(super) shapes: Vec<Shape>,
    pub(super) keys: Vec<Asked>,
    /// What everybody writes to.
    pub(super) shared: Vec<Writes>,
    /// Where each writer keeps to rows of its own.
    pub(super) owned: Writes,
}

impl World {
    pub(super) async fn new(name: &str, store: Store) -> Self {
        let database = Database::new(name).await;
        database.run(SESSION).await;
        let citext = "select count(*) from pg_available_extensions where name = 'citext'";
        let has_citext = database.one(citext).await > 0;
        let subjects: Vec<&Subject> =
            SUBJECTS.iter().filter(|subject| subject.name != "citext" || has_citext).collect();
        let project = Project::new(&database, store).await;
        for subject in &subjects {
            database.run(subject.schema).await;
        }
        let shapes: Vec<Shape> =
            subjects.iter().flat_map(|subject| shapes(subject.shapes)).collect();
        let mut keys = Vec::new();
        for (number, shape) in shapes.iter().enumerate() {
            project.product(shape.name, &shape.file());
            keys.extend(shape.keys.iter().map(|values| Asked {
                shape: number,
                path: shape.path(values),
                question: shape.question(values),
            }));
        }
        let writes = |subject: &&Subject| Writes::read(subject.writes);
        let (owned, shared) =
            subjects.iter().partition::<Vec<_>, _>(|subject| subject.name == "owned");
        let owned = owned.first().map(writes).unwrap();
        Self { database, project, shapes, keys, shared: shared.iter().map(writes).collect(), owned }
    }

    /// Gives kck all that it asks for to be finer.
    pub(super) async fn grant(&self) {
        let kck = self.serve().await;
        let catalog = kck.app.context.catalog.borrow().clone();
        let rules = catalog.ready().map(|product| depend::analyse(product, &product.description));
        let tables = rules.flat_map(|rules| rules.tables.into_values());
        let asked = tables.flat_map(|table| table.finer);
        let first = asked.filter_map(|finer| finer.sql.into_iter().next());
        // Indexes make nothing finer, and some values here are too long for them.
        let statements: BTreeSet<String> =
            first.filter(|sql| sql.starts_with("alter table")).collect();
        kck.stop().await;
        for statement in statements {
            self.database.run(&statement).await;
        }
    }

    /// A kck that serves every product.
    pub(super) async fn serve(&self) -> Kck {
        let kck = self.project.start().await;
        let broken = broken(&kck.app.context.catalog.borrow());
        assert!(broken.is_empty(), "{}", broken.join("\n"));
        kck
    }

    /// A connection of a writer or of the judge.
    pub(super) async fn connect(&self) -> Client {
        let client = connect(&self.database.url).await;
        client.batch_execute(SESSION).await.unwrap();
        client
    }
}

/// What is wrong with products that are not served.
pub(super) fn broken(catalog: &Catalog) -> Vec<String> {
    let faults = catalog.products.iter().filter_map(|(name, slot)| match slot {
        Slot::Broken { faults, .. } => Some(format!("{name}: {faults:?}")),
        Slot::Ready { .. } => None,
    });
    faults.collect()
}

/// What Postgres answers to each of these keys.
pub(super) async fn truths(client: &Client, keys: &[&Asked]) -> Vec<String> {
    join_all(keys.iter().map(|asked| truth(client, &asked.question))).await
}

/// The one value of a statement.
pub(super) async fn truth(client: &Client, question: &str) -> String {
    let messages = client.simple_query(question).await;
    let messages = messages.unwrap_or_else(|error| panic!("{error:?} from {question}"));
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.unwrap_or_else(|| panic!("no row from {question}")).to_owned()
}

/// In words, how changes lead to a product's keys.
pub(super) fn explained(product: &Product) -> Vec<String> {
    let mut lines = depend::analyse(product, &product.description).explain();
    // Tables come in the order of their numbers, which is that of their making.
    lines.sort();
    lines
}

/// The class of a product that is served.
pub(super) fn class_of(kck: &Kck, name: &str) -> Class {
    let catalog = kck.app.context.catalog.borrow();
    let product = catalog.ready().find(|product| product.name() == name).unwrap();
    depend::analyse(product, &product.description).class()
}

/// [`explained`], of a product that is served.
pub(super) fn explained_by(kck: &Kck, name: &str) -> Vec<String> {
    let catalog = kck.app.context.catalog.borrow();
    catalog.ready().find(|product| product.name() == name).map_or(vec![], |p| explained(p))
}
