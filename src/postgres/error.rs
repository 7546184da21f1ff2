//! What Postgres answers instead of rows → an [`Error`] by what can be done about it.

use std::error::Error as _;

use tokio_postgres::error::{DbError, ErrorPosition};

use super::describe_chain;

/// Why a question to the source has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection can be made for now: another try may succeed.
    #[error("{action}: it cannot be reached")]
    Unreachable {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// Why it did not work.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Only a person can help: rights, passwords, settings.
    #[error("{action}: {message}")]
    Refused {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The server's code, or empty where it was not the server that refused.
        sqlstate: String,
        /// What the server said.
        message: String,
        /// What to do about it; may be empty.
        hint: String,
    },
    /// One statement's fault, with the source up.
    #[error("{message} (SQLSTATE {sqlstate})")]
    Statement {
        /// The server's code; `XX000` for what the driver could not carry.
        sqlstate: String,
        /// What the server said.
        message: String,
        /// Where in the statement, in characters from 1.
        position: Option<u32>,
    },
    /// The connection is lost: what was asked may or may not have happened.
    #[error("{action}: the connection is lost")]
    Gone {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// How it was lost.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What a SQLSTATE asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A person has to change something.
    Person,
    /// The server takes no connections for now.
    Unreachable,
    /// The server ends this connection.
    Gone,
    /// This statement only.
    Statement,
}

impl Kind {
    /// The one table: which kind a server's code is.
    #[must_use]
    pub fn of(sqlstate: &str) -> Self {
        match sqlstate {
            "42501" | "3D000" => Self::Person,
            "53300" | "57P03" => Self::Unreachable,
            "25P03" | "57P01" | "57P02" | "57P05" => Self::Gone,
            _ if sqlstate.starts_with("28") => Self::Person,
            _ if sqlstate.starts_with("08") => Self::Gone,
            _ => Self::Statement,
        }
    }
}

/// What a person can do about a refusal, where the code alone tells.
#[must_use]
pub fn hint(sqlstate: &str) -> &'static str {
    match sqlstate {
        "28P01" => "check the password: in the address, password_file or PGPASSWORD",
        "28000" => "check the role, and the line for it in pg_hba.conf",
        "3D000" => "check the name of the database in the address",
        "" => "check the address of the source: sslmode, sslrootcert, the password",
        "08P01" | "42704" => "is this a pooler? give the address of the server itself",
        _ => "",
    }
}

impl Error {
    /// Sorts the driver's error; `action` is what was tried, as a verb phrase.
    #[must_use]
    pub fn from_postgres(action: &'static str, error: tokio_postgres::Error) -> Self {
        if let Some(said) = error.as_db_error() {
            return Self::from_server(action, said.clone());
        }
        let from_network =
            error.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>);
        if error.is_closed() || from_network {
            return Self::Gone { action, source: error.into() };
        }
        Self::Statement {
            sqlstate: "XX000".to_owned(),
            message: describe_chain(&error),
            position: None,
        }
    }

    /// As [`Error::from_postgres`], while a connection is being made: a fault of the network means that the
    /// source cannot be reached, and what the server refuses now it will refuse again.
    #[must_use]
    pub fn from_connecting(action: &'static str, error: tokio_postgres::Error) -> Self {
        let refused = |sqlstate: &str, message| {
            let hint = hint(sqlstate).to_owned();
            Self::Refused { action, sqlstate: sqlstate.to_owned(), message, hint }
        };
        if let Some(said) = error.as_db_error() {
            let sqlstate = said.code().code();
            return match Kind::of(sqlstate) {
                Kind::Unreachable => Self::Unreachable { action, source: said.clone().into() },
                Kind::Gone if sqlstate != "08P01" => {
                    Self::Unreachable { action, source: said.clone().into() }
                }
                _ => refused(sqlstate, said.message().to_owned()),
            };
        }
        let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
        match source.map(std::io::Error::kind) {
            // rustls and SCRAM report what the other side proved wrong as invalid data or input.
            Some(std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput) => {
                refused("", describe_chain(&error))
            }
            None if error.source().is_some() => refused("", describe_chain(&error)),
            _ => Self::Unreachable { action, source: error.into() },
        }
    }

    /// The server's code, where it was the server.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Refused { sqlstate, .. } | Self::Statement { sqlstate, .. } => Some(sqlstate),
            Self::Unreachable { .. } | Self::Gone { .. } => None,
        }
    }

    fn from_server(action: &'static str, said: DbError) -> Self {
        let sqlstate = said.code().code().to_owned();
        match Kind::of(&sqlstate) {
            Kind::Person => {
                let hint = said.hint().unwrap_or_else(|| hint(&sqlstate)).to_owned();
                Self::Refused { action, sqlstate, message: said.message().to_owned(), hint }
            }
            Kind::Unreachable => Self::Unreachable { action, source: said.into() },
            Kind::Gone => Self::Gone { action, source: said.into() },
            Kind::Statement => {
                let position = match said.position() {
                    Some(ErrorPosition::Original(position)) => Some(*position),
                    // A position in a statement of the server's own tells the user nothing.
                    Some(ErrorPosition::Internal { .. }) | None => None,
                };
                Self::Statement { sqlstate, message: said.message().to_owned(), position }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_one_kind() {
        for (sqlstate, kind) in [
            ("28P01", Kind::Person),
            ("28000", Kind::Person),
            ("42501", Kind::Person),
            ("3D000", Kind::Person),
            ("53300", Kind::Unreachable),
            ("57P03", Kind::Unreachable),
            ("57P01", Kind::Gone),
            ("08006", Kind::Gone),
            ("57014", Kind::Statement),
            ("22012", Kind::Statement),
            ("42P01", Kind::Statement),
        ] {
            assert_eq!(Kind::of(sqlstate), kind, "{sqlstate}");
        }
    }
}
