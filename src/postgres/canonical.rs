//! The canonical text of a value whose type kck does not print itself: Postgres reads it and prints it.

use tokio_postgres::{Client, types::Type as WireType};

use super::Error;
use crate::description::{Type, has_clock_word};

/// A connection that is asked for canonical texts.
pub struct Asker(Client);

impl Asker {
    /// Asks on this connection, which has kck's settings.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    /// Whether another connection is needed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// What the output function of `type_` prints for `raw`; `None` where `raw` is not of the type, or asks
    /// the clock.
    ///
    /// # Errors
    /// What the source said otherwise.
    pub async fn canonical(&self, type_: &Type, raw: &str) -> Result<Option<String>, Error> {
        let fail = |error| Error::from_postgres("make a text canonical", error);
        if has_clock_word(raw) && self.reads_clock_words(type_).await? {
            return Ok(None);
        }
        // The type's name came from the catalogue, quoted; format() prints by the output function, where a cast
        // to text may print something else: a boolean in a domain, an inet.
        let sql = format!("select pg_catalog.format('%s', ($1::pg_catalog.text)::{})", type_.name);
        let asked = self.0.query_typed(&sql, &[(&raw, WireType::TEXT)]).await;
        match asked.and_then(|rows| rows.first().map(|row| row.try_get(0)).transpose()) {
            Ok(canonical) => Ok(canonical),
            Err(error) if error.code().is_some_and(|code| is_of_the_value(code.code())) => Ok(None),
            Err(error) => Err(fail(error)),
        }
    }

    async fn reads_clock_words(&self, type_: &Type) -> Result<bool, Error> {
        let fail = |error| Error::from_postgres("look at a type's parts", error);
        let sql = include_str!("../../sql/postgres/canonical_clock.sql");
        let row = self.0.query_one(sql, &[&type_.oid]).await.map_err(fail)?;
        row.try_get(0).map_err(fail)
    }
}

/// Data exceptions, the constraints of a domain, and what is too long or too deep.
fn is_of_the_value(sqlstate: &str) -> bool {
    ["22", "23", "54"].iter().any(|class| sqlstate.starts_with(class))
}
