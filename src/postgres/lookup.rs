//! Changed rows → the parameters they lead to: the statements that `depend` wrote, all of a group in one round trip.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio_postgres::{Client, Statement, types::ToSql};

use crate::change::Lsn;

use super::{Error, Source, prepared::Prepared};

/// Statements kept prepared.
const PREPARED_KEPT: usize = 1024;

/// A lookup that takes longer is given up: its product counts as touched whole.
const LOOKUP_AT_MOST: &str = "2s";

/// All of a group together: past it the connection counts as lost, for a way that swallows what is sent tells nobody.
const GROUP_AT_MOST: Duration = Duration::from_secs(15);

/// A statement, and its arguments: arrays of texts.
pub type Question<'q> = (&'q str, Vec<Vec<&'q str>>);

/// What a statement answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Of each row the number of the lookup, and the parameters' texts.
    pub rows: Vec<(usize, Vec<Option<String>>)>,
    /// No commit that the statement saw ends behind this.
    pub saw: Lsn,
}

/// The connection that lookups go by; opened when it is needed, and again when it was lost.
pub struct Lookups {
    source: Arc<Source>,
    open: Option<Open>,
}

struct Open {
    client: Client,
    /// The history that the connection was checked against (R10).
    history: u64,
    prepared: Prepared,
}

impl Lookups {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(source: Arc<Source>) -> Self {
        Self { source, open: None }
    }

    /// Asks all of them, in this order, without waiting in between. Each has its own answer or error.
    pub async fn ask(&mut self, questions: &[Question<'_>]) -> Vec<Result<Answer, Error>> {
        match tokio::time::timeout(GROUP_AT_MOST, self.ask_all(questions)).await {
            Ok(answers) => answers,
            Err(elapsed) => {
                self.open = None;
                questions.iter().map(|_| Err(unanswered(&elapsed.to_string()))).collect()
            }
        }
    }

    async fn ask_all(&mut self, questions: &[Question<'_>]) -> Vec<Result<Answer, Error>> {
        let open = match self.open().await {
            Ok(open) => open,
            Err(error) => {
                let why = super::describe_chain(&error);
                return questions.iter().map(|_| Err(unanswered(&why))).collect();
            }
        };
        let mut prepared = Vec::with_capacity(questions.len());
        for (sql, _) in questions {
            prepared.push(open.prepared.statement(&open.client, sql, "prepare a lookup").await);
        }
        let client = &open.client;
        let asked = questions.iter().zip(prepared).map(|((_, arguments), statement)| async move {
            answer(client, &statement?, arguments).await
        });
        let answers = join_all(asked).await;
        for ((sql, _), _) in questions.iter().zip(&answers).filter(|(_, answer)| answer.is_err()) {
            open.prepared.forget(sql);
        }
        answers
    }

    async fn open(&mut self) -> Result<&mut Open, Error> {
        let history = self.source.history();
        let usable = |open: &Open| !open.client.is_closed() && open.history == history;
        if !self.open.as_ref().is_some_and(usable) {
            let settings =
                [("default_transaction_read_only", "on"), ("statement_timeout", LOOKUP_AT_MOST)];
            let client = self.source.connect("lookup", &settings).await?;
            self.open = Some(Open { client, history, prepared: Prepared::new(PREPARED_KEPT) });
        }
        self.open.as_mut().ok_or_else(|| unanswered("it closed at once"))
    }
}

async fn answer(
    client: &Client,
    statement: &Statement,
    arguments: &[Vec<&str>],
) -> Result<Answer, Error> {
    let fail = |error| Error::from_postgres("look up", error);
    let arguments: Vec<&(dyn ToSql + Sync)> =
        arguments.iter().map(|texts| texts as &(dyn ToSql + Sync)).collect();
    let (mut rows, mut saw) = (Vec::new(), None);
    for row in client.query(statement, &arguments).await.map_err(fail)? {
        let number: i32 = row.try_get(0).map_err(fail)?;
        if let Ok(number) = usize::try_from(number) {
            let texts = (1..row.len()).map(|at| row.try_get(at)).collect::<Result<_, _>>();
            rows.push((number, texts.map_err(fail)?));
        } else {
            let position: String = row.try_get(1).map_err(fail)?;
            saw = position.parse().ok();
        }
    }
    let saw = saw.ok_or_else(|| unanswered("a lookup did not say what it saw"))?;
    Ok(Answer { rows, saw })
}

fn unanswered(why: &str) -> Error {
    Error::Statement { sqlstate: "XX000".to_owned(), message: why.to_owned(), position: None }
}
