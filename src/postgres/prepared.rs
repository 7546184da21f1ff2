//! Statements prepared on one connection, each once.

use std::collections::HashMap;

use tokio_postgres::{Client, Statement};

use super::Error;

/// The prepared statements of one connection, by their text.
pub(super) struct Prepared {
    kept_max: usize,
    /// Each with when it was last used.
    statements: HashMap<String, (Statement, u64)>,
    uses: u64,
}

impl Prepared {
    /// None yet. Past `kept_max` the one is let go that was not used for longest.
    pub(super) fn new(kept_max: usize) -> Self {
        Self { kept_max, statements: HashMap::new(), uses: 0 }
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
        self.uses += 1;
        if let Some((statement, used)) = self.statements.get_mut(sql) {
            *used = self.uses;
            return Ok(statement.clone());
        }
        if self.statements.len() >= self.kept_max {
            let oldest = self.statements.iter().min_by_key(|(_, (_, used))| *used);
            let oldest = oldest.map(|(sql, _)| sql.clone());
            oldest.map(|sql| self.statements.remove(&sql));
        }
        let prepared = client.prepare(sql).await;
        let statement = prepared.map_err(|error| Error::from_postgres(action, error))?;
        self.statements.insert(sql.to_owned(), (statement.clone(), self.uses));
        Ok(statement)
    }

    /// The next use prepares it anew: DDL can make a plan impossible.
    pub(super) fn forget(&mut self, sql: &str) {
        self.statements.remove(sql);
    }
}
