//! Login: a name and a password → a token.
//!
//! Whatever is wrong, the answer is the same and takes as long; attempts are counted before they are made. A name that
//! the query does not find has the hash of nobody checked, one that costs what the last real one did.

use std::{fmt, future::Future, net::IpAddr, path::Path, pin::Pin, sync::Arc, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value};

use crate::{
    postgres::{Error as SourceError, Source, account::Accounts, describe_chain},
    product::file,
};

use super::{
    super::problem::{Kind, Problem},
    Gate, Settings,
    clock::Clock,
    limit::Limits,
    mint::{Grant, OWN_CLAIMS, Signer},
    password::{Passwords, Unusable},
    settings::BadAuth,
    text_of,
};

const QUERY: &str = "[auth.login] query";
/// The longest name.
const USER_BYTES_MAX: usize = 256;

/// Why nobody is logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginError {
    /// Name or password are wrong: 401.
    Refused,
    /// Too many failed: 429 with `Retry-After`.
    TooMany {
        /// How long to wait.
        retry_after_seconds: u64,
    },
    /// The source cannot be asked: 503.
    Unavailable,
}

impl LoginError {
    /// What `Retry-After` says.
    #[must_use]
    pub const fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::TooMany { retry_after_seconds } => Some(*retry_after_seconds),
            Self::Refused | Self::Unavailable => None,
        }
    }
}

impl From<LoginError> for Problem {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Refused => Self::unauthorized(),
            LoginError::TooMany { retry_after_seconds } => {
                Self::too_many_logins(retry_after_seconds)
            }
            LoginError::Unavailable => Self::new(
                Kind::SourceUnavailable,
                "who logs in has to be looked up and the source cannot be asked now",
                "try again; /readyz says since when",
            ),
        }
    }
}

/// A name → the rows of its account.
type Find = Arc<
    dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<Vec<String>, SourceError>> + Send>>
        + Send
        + Sync,
>;

/// Logs users in.
#[derive(Clone)]
pub struct Login {
    find: Find,
    signer: Signer,
    gate: Gate,
    lifetime: Duration,
    passwords: Passwords,
    limits: Arc<Limits>,
    clock: Clock,
}

impl Login {
    /// How users log in, if `[auth.login]` says so. Nothing is asked yet.
    ///
    /// # Errors
    /// The setting or file that cannot be used.
    pub fn open(
        settings: &Settings,
        gate: &Gate,
        source: Arc<Source>,
    ) -> Result<Option<Self>, BadAuth> {
        let Some(login) = &settings.login else { return Ok(None) };
        let accounts = Arc::new(Accounts::new(source, &select(&login.query)?));
        let find: Find = Arc::new(move |user| {
            let accounts = Arc::clone(&accounts);
            Box::pin(async move { accounts.find(&user).await })
        });
        Self::with(settings, gate, find, Clock::system())
    }

    fn with(
        settings: &Settings,
        gate: &Gate,
        find: Find,
        clock: Clock,
    ) -> Result<Option<Self>, BadAuth> {
        let Some(login) = &settings.login else { return Ok(None) };
        let signer = Signer::open(settings)?.ok_or_else(|| {
            let hint = "name the private key of your public one, or use a secret_file";
            BadAuth::new(
                "[auth.login] signing_key_file",
                "a login makes tokens, and nothing signs them",
                hint,
            )
        })?;
        signer.check(gate, clock.now().wall)?;
        Ok(Some(Self {
            find,
            signer,
            gate: gate.clone(),
            lifetime: login.lifetime,
            passwords: Passwords::default(),
            limits: Arc::default(),
            clock,
        }))
    }

    /// A token for who knows the password.
    ///
    /// # Errors
    /// [`LoginError`]; the log says more.
    pub async fn attempt(
        &self,
        user: &str,
        password: &str,
        client: IpAddr,
    ) -> Result<String, LoginError> {
        if user.is_empty() || user.len() > USER_BYTES_MAX || user.contains('\0') {
            return Err(LoginError::Refused);
        }
        let counted = self.limits.attempt(user, client, self.clock.now().steady);
        counted
            .map_err(|wait| LoginError::TooMany { retry_after_seconds: wait.as_secs().max(1) })?;
        let account = self.account(user).await?;
        let stored = account.as_ref().map(|account| account.hash.as_str());
        let checked = self.passwords.check(stored, password).await;
        match (checked, account) {
            (Ok(true), Some(account)) => {
                self.limits.succeeded(user, client);
                self.token(account).await
            }
            (Ok(_), _) => Err(LoginError::Refused),
            (Err(Unusable::Busy), _) => Err(LoginError::TooMany { retry_after_seconds: 1 }),
            (Err(unusable), _) => {
                tracing::warn!("{QUERY}: {unusable}");
                Err(LoginError::Refused)
            }
        }
    }

    async fn account(&self, user: &str) -> Result<Option<Account>, LoginError> {
        let rows = (self.find)(user.to_owned()).await.map_err(|error| {
            tracing::warn!("{QUERY}: {}", describe_chain(&error));
            LoginError::Unavailable
        })?;
        match rows.as_slice() {
            [] => Ok(None),
            [row] => {
                let account = Account::read(row, user);
                if account.is_none() {
                    tracing::warn!(
                        "{QUERY}: its row has no text `hash`, and its first column is none"
                    );
                }
                Ok(account)
            }
            _ => {
                tracing::warn!("{QUERY}: it finds more than one row for one user");
                Ok(None)
            }
        }
    }

    async fn token(&self, account: Account) -> Result<String, LoginError> {
        // Its keys say what the one that signs is called.
        self.gate.look().await;
        let Account { subject, claims, .. } = account;
        let grant = Grant { subject, claims, lifetime: self.lifetime };
        let token = self.signer.mint(&grant, self.clock.now().wall, &self.gate);
        token.ok_or_else(|| {
            tracing::error!("[auth.login]: the key signs no token");
            LoginError::Unavailable
        })
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// The query with its parameter as Postgres numbers it: one SELECT, with `:user` and no other.
fn select(query: &str) -> Result<String, BadAuth> {
    let draft = file::draft("login", Path::new("query"), query.to_owned()).map_err(|faults| {
        let first = faults.into_iter().next();
        first.map_or_else(
            || BadAuth::new(QUERY, "it cannot be read", "write one SELECT with :user"),
            |fault| {
                let fact =
                    format!("{} (line {}, column {})", fault.message, fault.line, fault.column);
                BadAuth::new(QUERY, fact, fault.hint)
            },
        )
    })?;
    let names: Vec<&str> =
        draft.question.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    if names != ["user"] {
        let fact = format!("its parameters are: {}", names.join(", "));
        return Err(BadAuth::new(QUERY, fact, "it has one, :user"));
    }
    if !draft.calls.is_empty() {
        let hint = "read the table: a login is never answered from the cache";
        return Err(BadAuth::new(QUERY, "it reads a product", hint));
    }
    Ok(draft.question.sql(|_| "($1::pg_catalog.text)".to_owned()))
}

/// What the source says of a user.
struct Account {
    hash: String,
    subject: String,
    claims: Map<String, Value>,
}

impl Account {
    /// `hash`, else the first column; `sub`, else the name; and the others as claims.
    fn read(row: &str, user: &str) -> Option<Self> {
        let Columns(mut columns) = serde_json::from_str(row).ok()?;
        let hash = columns.iter().position(|(name, _)| name == "hash").unwrap_or(0);
        if columns.is_empty() {
            return None;
        }
        let (_, Value::String(hash)) = columns.remove(hash) else { return None };
        let sub = columns.iter().find(|(name, _)| name == "sub");
        let subject = match sub {
            Some((_, value)) => text_of(value)?,
            None => user.to_owned(),
        };
        columns.retain(|(name, value)| {
            let kept = !OWN_CLAIMS.contains(&name.as_str());
            if !kept && name != "sub" {
                tracing::warn!("{QUERY}: the column {name} is left out: kck says it itself");
            }
            kept && !value.is_null()
        });
        Some(Self { hash, subject, claims: columns.into_iter().collect() })
    }
}

/// A JSON object with its fields in the order of the text.
struct Columns(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ordered;
        impl<'de> Visitor<'de> for Ordered {
            type Value = Columns;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Columns, A::Error> {
                let mut columns = Vec::new();
                while let Some(column) = map.next_entry()? {
                    columns.push(column);
                }
                Ok(Columns(columns))
            }
        }
        deserializer.deserialize_map(Ordered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::auth::{
        LoginSettings,
        fixture::{self, Hand},
    };
    use serde_json::json;

    /// RFC 7677: password `pencil`.
    const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    fn settings() -> Settings {
        let login = LoginSettings {
            query: "select hash from users where name = :user".to_owned(),
            lifetime: Duration::from_secs(3600),
        };
        Settings { login: Some(login), ..fixture::settings() }
    }

    fn login(rows: &[(&str, Vec<String>)]) -> (Login, Gate, Hand) {
        let (clock, hand) = Hand::clock();
        let gate = Gate::with_clock(&settings(), clock.clone()).unwrap();
        let rows: Vec<_> =
            rows.iter().map(|(user, rows)| ((*user).to_owned(), rows.clone())).collect();
        let find: Find = Arc::new(move |user| {
            let found = rows.iter().find(|(name, _)| *name == user);
            let found = found.map(|(_, rows)| rows.clone()).unwrap_or_default();
            Box::pin(async move { Ok(found) })
        });
        (Login::with(&settings(), &gate, find, clock).unwrap().unwrap(), gate, hand)
    }

    fn here() -> IpAddr {
        "10.0.0.1".parse().unwrap()
    }

    #[tokio::test]
    async fn the_right_password_gives_a_token_with_the_rows_claims() {
        let row = format!(
            r#"{{"id":7,"hash":"{PENCIL}","sub":42,"tenant":"acme","scope":"orders:read","roles":["a"],"exp":1,"gone":null}}"#
        );
        let (login, gate, _) = login(&[("ann", vec![row])]);
        let token = login.attempt("ann", "pencil", here()).await.unwrap();
        let identity = gate.identify(Some(token.as_bytes())).await.unwrap();
        assert_eq!(identity.subject(), Some("42"));
        assert!(identity.has_scope("orders:read"));
        assert_eq!(identity.claim("id"), Some(&json!(7)));
        assert_eq!(identity.claim("roles"), Some(&json!(["a"])));
        assert_eq!((identity.claim("hash"), identity.claim("gone")), (None, None));
        assert_eq!(identity.ends(), Some(fixture::now() + Duration::from_secs(3600)));
    }

    #[tokio::test]
    async fn without_names_the_first_column_is_the_hash_and_the_user_the_subject() {
        let row = format!(r#"{{"passwd":"{PENCIL}","tenant":"acme"}}"#);
        let (login, gate, _) = login(&[("ann", vec![row])]);
        let token = login.attempt("ann", "pencil", here()).await.unwrap();
        let identity = gate.identify(Some(token.as_bytes())).await.unwrap();
        assert_eq!(identity.subject(), Some("ann"));
        assert_eq!(identity.claim("passwd"), None);
    }

    #[tokio::test]
    async fn whatever_is_wrong_the_answer_is_the_same() {
        let row = |hash: &str| format!(r#"{{"hash":{hash}}}"#);
        let good = row(&format!("\"{PENCIL}\""));
        let (login, _, _) = login(&[
            ("ann", vec![good.clone()]),
            ("two", vec![good.clone(), good.clone()]),
            ("null", vec![row("null")]),
            ("plain", vec![row("\"pencil\"")]),
            ("none", vec!["{}".to_owned()]),
        ]);
        for (number, user) in ["two", "null", "plain", "none", "bob", ""].into_iter().enumerate() {
            let from = IpAddr::from([10, 1, 0, u8::try_from(number).unwrap()]);
            assert_eq!(
                login.attempt(user, "pencil", from).await,
                Err(LoginError::Refused),
                "{user}"
            );
        }
        assert_eq!(login.attempt("ann", "pencils", here()).await, Err(LoginError::Refused));
        let long = "x".repeat(USER_BYTES_MAX + 1);
        assert_eq!(login.attempt(&long, "pencil", here()).await, Err(LoginError::Refused));
        assert!(login.attempt("ann", "pencil", here()).await.is_ok());
        assert_eq!(Problem::from(LoginError::Refused).to_json(), Problem::unauthorized().to_json());
    }

    #[tokio::test]
    async fn s14_who_guesses_has_to_wait() {
        let row = format!(r#"{{"hash":"{PENCIL}"}}"#);
        let (login, _, hand) = login(&[("ann", vec![row])]);
        for _ in 0..5 {
            assert_eq!(login.attempt("ann", "x", here()).await, Err(LoginError::Refused));
        }
        let late = login.attempt("ann", "pencil", here()).await.unwrap_err();
        assert_eq!(late.retry_after_seconds(), Some(60));
        hand.pass(60);
        assert!(login.attempt("ann", "pencil", here()).await.is_ok());
    }

    #[test]
    fn the_query_is_one_select_with_user_and_no_other_parameter() {
        let sql = select("select h, ':user' from u where n = :user or e = lower(:user) -- :x\n;")
            .unwrap();
        assert_eq!(
            sql,
            "select h, ':user' from u where n = ($1::pg_catalog.text) or e = lower(($1::pg_catalog.text))"
        );
        for (query, want) in [
            ("select 1", "its parameters are: "),
            ("select :user, :other", "its parameters are: user, other"),
            ("delete from users where name = :user", "this is DELETE"),
            ("select 1; select :user", "more than one statement"),
            ("select ':user", "unterminated quoted string"),
            ("select * from kck.users(:user)", "it reads a product"),
            ("", "there is no statement"),
        ] {
            let bad = select(query).unwrap_err();
            assert!(bad.fact.contains(want), "{query}: {bad}");
        }
    }

    #[test]
    fn a_login_needs_something_that_signs() {
        let public = fixture::File::new("p.pem", fixture::P256_PUBLIC.as_bytes());
        let settings = Settings {
            keys: super::super::KeySource::KeyFile(public.path().to_owned()),
            algorithms: vec![super::super::Algorithm::ES256],
            ..settings()
        };
        let (clock, _) = Hand::clock();
        let gate = Gate::with_clock(&settings, clock.clone()).unwrap();
        let find: Find = Arc::new(|_| Box::pin(async { Ok(Vec::new()) }));
        let bad = Login::with(&settings, &gate, find, clock).unwrap_err();
        assert!(bad.fact.contains("nothing signs them"));
    }
}
