//! An address → whether the server itself is there and takes replication connections, without a slot.

use std::time::Duration;

use super::connection::{Connection, Fault};
use crate::postgres::{address::Address, describe_chain};

/// An endpoint that takes longer is nobody.
const AT_MOST: Duration = Duration::from_secs(30);

/// What came of knocking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A server, by its system identifier.
    Server(String),
    /// Whoever is there said no.
    Refused {
        /// By which code.
        sqlstate: String,
        /// In which words.
        message: String,
    },
    /// Nobody that could be understood.
    Nobody(String),
}

/// Opens a replication connection to the first endpoint that answers, asks who it is, and leaves.
pub async fn probe(address: &Address) -> Answer {
    let mut last = Answer::Nobody("the address names no host".to_owned());
    for endpoint in address.endpoints() {
        let asked = async {
            let mut connection = Connection::open(address, &endpoint).await?;
            let rows = connection.query("identify the source", "IDENTIFY_SYSTEM").await?;
            connection.close().await?;
            Ok(rows.into_iter().flatten().next().flatten())
        };
        last = match tokio::time::timeout(AT_MOST, asked).await {
            Err(late) => Answer::Nobody(late.to_string()),
            Ok(Ok(Some(system))) => return Answer::Server(system),
            Ok(Ok(None)) => Answer::Nobody("it does not say which system it is".to_owned()),
            Ok(Err(Fault::Server { said, .. })) => {
                Answer::Refused { sqlstate: said.sqlstate, message: said.message }
            }
            Ok(Err(fault)) => Answer::Nobody(describe_chain(&fault)),
        };
    }
    last
}
