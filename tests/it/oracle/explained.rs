//! What the analysis finds of every product, kept beside the tests: what changes there is seen in review.
//!
//! `KCK_UPDATE=1` writes the file anew.

use std::path::Path;

use kck::{load, postgres, product::Catalog};

use super::world::{World, broken, explained};
use crate::support::{
    kck::{Project, Store},
    run,
    servers::Database,
    setting,
};

const FILE: &str = "tests/it/oracle/explained.txt";

async fn catalog(project: &Project, database: &Database) -> Catalog {
    let address = postgres::address::Address::parse(&database.url, |_| None).unwrap();
    let mut client = postgres::connect::connect(&address, "test", &[]).await.unwrap();
    let files = load::files(&project.folder.0.join("products"));
    load::catalog(&mut client, files).await.unwrap()
}

/// The parts of the file: a product's name, and its lines below.
fn parts(text: &str) -> Vec<&str> {
    text.split("\n\n").map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn name(part: &str) -> &str {
    part.lines().next().unwrap_or("")
}

/// What is gathered into JSON depends on the rows alone.
#[test]
fn products_that_gather_json_are_served() {
    run(async {
        let database = Database::new("oracle_gathers").await;
        database.run("create table t (id int primary key, v text)").await;
        let project = Project::new(&database, Store::Memory).await;
        let gathering =
            ["json_agg(v)", "jsonb_agg(v)", "json_object_agg(id, v)", "jsonb_object_agg(id, v)"];
        for (number, gathers) in gathering.iter().enumerate() {
            project
                .product(&format!("p{number}"), &format!("select {gathers} from t where id = :id"));
        }
        assert_eq!(broken(&catalog(&project, &database).await), [""; 0]);
    });
}

#[test]
fn the_products_of_the_oracle_are_explained_as_kept() {
    run(async {
        let world = World::new("oracle_explained", Store::Memory).await;
        let catalog = catalog(&world.project, &world.database).await;
        assert_eq!(broken(&catalog), [""; 0]);
        let mut found = Vec::new();
        for shape in &world.shapes {
            let product = catalog.ready().find(|product| product.name() == shape.name);
            let lines = explained(product.unwrap());
            found.push(format!("{}\n    {}", shape.name, lines.join("\n    ")));
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
        if setting("KCK_UPDATE").is_some_and(|update| update == 1) {
            std::fs::write(&path, found.join("\n\n") + "\n").unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        let kept = parts(&kept);
        let mut differences = Vec::new();
        for part in &found {
            match kept.iter().find(|kept| name(kept) == name(part)) {
                Some(kept) if kept == part => {}
                Some(kept) => differences.push(format!("kept:\n{kept}\nfound:\n{part}")),
                None => differences.push(format!("new:\n{part}")),
            }
        }
        // Some products are only there where an extension can be had.
        let shapes = super::shape::SUBJECTS.iter().flat_map(|s| super::shape::shapes(s.shapes));
        let known: Vec<&str> = shapes.map(|shape| shape.name).collect();
        differences.extend(
            kept.iter()
                .filter(|kept| !known.contains(&name(kept)))
                .map(|kept| format!("gone:\n{kept}")),
        );
        assert!(
            differences.is_empty(),
            "{FILE} is not what is found; KCK_UPDATE=1 writes it anew\n\n{}",
            differences.join("\n\n")
        );
    });
}
