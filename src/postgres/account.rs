//! Account: a user's name → the row that the settings' SQL finds for it, as JSON.
//!
//! The statement runs READ ONLY on a connection of its own, so that nobody who logs in waits for products or they for
//! them; the name is bound as text.

use std::{sync::Arc, time::Duration};

use tokio_postgres::{Client, types::Type};

use super::{Error, Source, within};

/// The source gives the statement up after this, and kck a moment later.
const STATEMENT_TIMEOUT: &str = "5s";
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// Looks users up, one at a time.
pub struct Accounts {
    source: Arc<Source>,
    sql: String,
    /// Opened for the first name, and again after it was lost.
    open: tokio::sync::Mutex<Option<Open>>,
}

struct Open {
    client: Client,
    /// The history that the connection was checked against (R10).
    history: u64,
}

impl Accounts {
    /// Looks users up by this SELECT, whose one parameter is written `($1::pg_catalog.text)`.
    #[must_use]
    pub fn new(source: Arc<Source>, select: &str) -> Self {
        // The name is no column's, which would stand for itself; the line feed ends what may be a comment.
        let sql = format!(
            "select pg_catalog.row_to_json(\"kck.account\")::pg_catalog.text from ({select}\n) \"kck.account\" limit 2"
        );
        Self { source, sql, open: tokio::sync::Mutex::new(None) }
    }

    /// The rows of this name, two at most, each as a JSON object with its columns in order.
    ///
    /// # Errors
    /// What the source said; after [`Error::Statement`] the connection is kept.
    pub async fn find(&self, user: &str) -> Result<Vec<String>, Error> {
        let mut slot = self.open.lock().await;
        let history = self.source.history();
        let kept = slot.take().filter(|open| !open.client.is_closed() && open.history == history);
        let mut found = None;
        if let Some(open) = kept {
            found = match self.ask(&mut slot, open, user).await {
                // It may have been lost while nobody logged in.
                Err(Error::Gone { .. }) => None,
                answer => Some(answer),
            };
        }
        match found {
            Some(answer) => answer,
            None => {
                let open = self.connect(history).await?;
                self.ask(&mut slot, open, user).await
            }
        }
    }

    /// Asks on this connection, and keeps it if it can be used again.
    async fn ask(
        &self,
        slot: &mut Option<Open>,
        open: Open,
        user: &str,
    ) -> Result<Vec<String>, Error> {
        let found = within(ANSWER_WITHIN, ask(&open.client, &self.sql, user)).await;
        if matches!(found, Ok(_) | Err(Error::Statement { .. })) {
            *slot = Some(open);
        }
        found
    }

    async fn connect(&self, history: u64) -> Result<Open, Error> {
        let settings =
            [("default_transaction_read_only", "on"), ("statement_timeout", STATEMENT_TIMEOUT)];
        let client = self.source.connect("login", &settings).await?;
        Ok(Open { client, history })
    }
}

async fn ask(client: &Client, sql: &str, user: &str) -> Result<Vec<String>, Error> {
    let fail = |error| Error::from_postgres("look a user up", error);
    let rows = client.query_typed(sql, &[(&user, Type::TEXT)]).await.map_err(fail)?;
    rows.iter().map(|row| row.try_get(0).map_err(fail)).collect()
}
