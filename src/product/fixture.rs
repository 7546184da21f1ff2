//! A name, parameters p1, p2, … and SQL → a product, for tests that look at what is done with one.

use std::{path::PathBuf, sync::Arc};

use super::{Draft, Policy, Product, Recipe};
use crate::{
    description::{Description, Mentions, ParameterSpec, Question},
    entry::Fingerprint,
};

pub(crate) fn product(name: &str, parameters: usize, sql: &str) -> Arc<Product> {
    let parameter = |number| ParameterSpec {
        name: format!("p{number}"),
        type_name: None,
        default: None,
        offset: 0,
    };
    Arc::new(Product {
        draft: Draft {
            name: name.into(),
            file: PathBuf::new(),
            policy: Policy::default(),
            question: Question {
                parameters: (1..=parameters).map(parameter).collect(),
                pieces: vec![sql.to_owned()],
                holes: vec![],
                mentions: Some(Mentions::default()),
                offset: 0,
                parts: vec![],
            },
            recipe: Recipe::Sql,
            calls: vec![],
            text: sql.to_owned(),
        },
        parameters: vec![],
        description: Description::default(),
        fingerprint: Fingerprint::default(),
        shape: Fingerprint::default(),
        by_time: false,
    })
}
