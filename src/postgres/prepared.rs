//! Statements prepared on one connection, each once.

use std::collections::HashMap;

use tokio_postgres::{Client, Statement};

use super::Error;

/// The prepared statements of one connection, by their text.
pub(super) struct Prepared {
    kept_max: usize,
    statements: HashMap<String, Statement>,
}

impl Prepared {
    /// None yet. Past `kept_max` all are let go.
    pub(super) fn new(kept_max: usize) -> Self {
        Self { kept_max, statements: HashMap::new() }
    }

    pub(super) fn has(&self, sql: &str) -> bool {
        self.statements.contains_key(sql)
    }

    /// The statement, prepared now if it was not; `action` is what is tried.
    pub(super) async fn statement(
        &mut self,
        client: &Client,
        sql: &str,
        action: &'static str,
    ) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        if self.statements.len() >= self.kept_max {
            self.statements.clear();
        }
        let prepared = client.prepare(sql).await;
        let statement = prepared.map_err(|error| Error::from_postgres(action, error))?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// The next use prepares it anew: DDL can make a plan impossible.
    pub(super) fn forget(&mut self, sql: &str) {
        self.statements.remove(sql);
    }
}
