//! Auth: an `Authorization` header → who asks, and what they may read.
//!
//! [`Gate`] is asked on every request, whatever the protocol; [`permission`] says what an identity may; [`login`]
//! makes tokens from names and passwords. It must never know a protocol, and never tell who asks why they are refused.
//!
//! Invariant: an identity is only given for a token whose signature a key that is held now has verified, and whose
//! end, on kck's clock, has not come.

use std::{
    fmt,
    sync::Arc,
    time::{Instant, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use quick_cache::sync::Cache;
use serde_json::{Map, Value};

pub mod clock;
mod fetch;
#[cfg(test)]
pub(crate) mod fixture;
mod jwks;
mod key;
mod keys;
mod limit;
pub mod login;
pub mod mint;
pub mod password;
pub mod permission;
pub mod settings;
pub mod token;

pub use clock::Clock;
pub use settings::{Algorithm, BadAuth, KeySource, LoginSettings, Settings};

use keys::Keys;
use token::{Reason, Rules, TOKEN_BYTES_MAX};

/// What a 401 says in `WWW-Authenticate`.
pub const CHALLENGE: &str = "Bearer";

/// Tokens that are remembered as verified.
const TOKENS_KEPT: usize = 10_000;

/// Who asks.
#[derive(Clone)]
pub struct Identity(Who);

#[derive(Clone)]
enum Who {
    /// Nobody is asked who they are.
    Everyone,
    /// Without a token, where tokens are asked for.
    Nobody,
    Known(Arc<Known>),
}

struct Known {
    claims: Map<String, Value>,
    subject: Option<String>,
    scopes: Vec<String>,
    ends: SystemTime,
}

impl Identity {
    /// Whoever asks a kck that asks nobody who they are: everything is allowed.
    #[must_use]
    pub const fn everyone() -> Self {
        Self(Who::Everyone)
    }

    /// Who has no token, where tokens are asked for: only what is public is allowed.
    #[must_use]
    pub const fn nobody() -> Self {
        Self(Who::Nobody)
    }

    fn known(claims: Map<String, Value>, ends: SystemTime) -> Self {
        let subject = claims.get("sub").and_then(text_of);
        let scopes = ["scope", "scp", "scopes"].iter().filter_map(|name| claims.get(*name));
        let scopes = scopes.flat_map(scopes_of).collect();
        Self(Who::Known(Arc::new(Known { claims, subject, scopes, ends })))
    }

    /// Whether nobody is asked who they are.
    #[must_use]
    pub const fn is_everyone(&self) -> bool {
        matches!(self.0, Who::Everyone)
    }

    /// Whether there is no token.
    #[must_use]
    pub const fn is_nobody(&self) -> bool {
        matches!(self.0, Who::Nobody)
    }

    fn token(&self) -> Option<&Known> {
        match &self.0 {
            Who::Known(known) => Some(known),
            Who::Everyone | Who::Nobody => None,
        }
    }

    /// `sub`, as text.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.token()?.subject.as_deref()
    }

    /// A claim of the token.
    #[must_use]
    pub fn claim(&self, name: &str) -> Option<&Value> {
        self.token()?.claims.get(name)
    }

    /// Whether the token carries this scope.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.token().is_some_and(|known| known.scopes.iter().any(|own| own == scope))
    }

    /// When the token ends: nothing is streamed to its holder any longer. None without a token.
    #[must_use]
    pub fn ends(&self) -> Option<SystemTime> {
        Some(self.token()?.ends)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Who::Everyone => "everyone",
            Who::Nobody => "nobody",
            Who::Known(_) => "the holder of a token",
        })
    }
}

/// A claim as the text of a parameter; null, arrays and objects are none.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Scopes in one text with blanks between, or in an array of texts.
fn scopes_of(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => text.split_ascii_whitespace().map(str::to_owned).collect(),
        Value::Array(list) => {
            list.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect()
        }
        _ => Vec::new(),
    }
}

/// The answer to a token that does not hold: 401 with the same body whatever the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    missing: bool,
}

impl Denied {
    /// Whether there was no token at all.
    #[must_use]
    pub const fn is_missing(self) -> bool {
        self.missing
    }
}

impl From<Denied> for super::problem::Problem {
    fn from(_: Denied) -> Self {
        Self::unauthorized()
    }
}

/// Says who asks. Cheap to clone.
#[derive(Clone)]
pub struct Gate(Option<Arc<Inner>>);

struct Inner {
    keys: Arc<Keys>,
    rules: Rules,
    clock: Clock,
    /// Tokens by their SHA-256, which nobody can make collide: identity, and the number of the keys that verified it.
    remembered: Cache<[u8; 32], (Arc<Known>, u64)>,
}

impl Gate {
    /// A gate that asks nobody who they are.
    #[must_use]
    pub const fn wide_open() -> Self {
        Self(None)
    }

    /// Reads the keys, where they are files.
    ///
    /// # Errors
    /// The setting or file that cannot be used.
    pub fn open(settings: &Settings) -> Result<Self, BadAuth> {
        Self::with_clock(settings, Clock::system())
    }

    /// As [`Gate::open`], by another clock.
    ///
    /// # Errors
    /// The setting or file that cannot be used.
    pub fn with_clock(settings: &Settings, clock: Clock) -> Result<Self, BadAuth> {
        settings.check()?;
        let keys = Arc::new(Keys::open(settings, clock.clone())?);
        let rules = Rules {
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            leeway: settings.leeway,
        };
        let remembered = Cache::new(TOKENS_KEPT);
        Ok(Self(Some(Arc::new(Inner { keys, rules, clock, remembered }))))
    }

    /// Whether nobody is asked who they are.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Who sends this header, if their token was verified before: one look into a map, without waiting.
    #[must_use]
    pub fn remembered(&self, authorization: &[u8]) -> Option<Identity> {
        let Some(inner) = &self.0 else { return Some(Identity::everyone()) };
        let now = inner.clock.now();
        if inner.keys.is_due(now.steady) {
            return None;
        }
        let token = bare(authorization);
        let (known, number) = inner.remembered.get(&key_of(token)?)?;
        let holds = number == inner.keys.number()
            && !token::is_over(known.ends, inner.rules.leeway, now.wall);
        holds.then_some(Identity(Who::Known(known)))
    }

    /// Who sends this `Authorization` header; without one nobody may come in.
    ///
    /// # Errors
    /// [`Denied`], whatever the reason; the log has it at level debug, without the token.
    pub async fn identify(&self, authorization: Option<&[u8]>) -> Result<Identity, Denied> {
        let Some(inner) = &self.0 else { return Ok(Identity::everyone()) };
        let Some(authorization) = authorization else { return Err(denied(&Reason::Missing)) };
        if let Some(identity) = self.remembered(authorization) {
            return Ok(identity);
        }
        inner.verify(bare(authorization)).await.map_err(|reason| denied(&reason))
    }

    /// As [`Gate::identify`], for routes that may be public: who has no header is nobody.
    ///
    /// # Errors
    /// [`Denied`] for a token that does not hold.
    pub async fn identify_or_nobody(
        &self,
        authorization: Option<&[u8]>,
    ) -> Result<Identity, Denied> {
        if authorization.is_none() && !self.is_open() {
            return Ok(Identity::nobody());
        }
        self.identify(authorization).await
    }

    /// When a token ends, on the clock that never goes back: a stream to its holder ends then. None without a token.
    #[must_use]
    pub fn ends(&self, identity: &Identity) -> Option<Instant> {
        let now = self.0.as_ref()?.clock.now();
        let left = identity.ends()?.duration_since(now.wall).unwrap_or_default();
        now.steady.checked_add(left)
    }

    /// Looks at the keys now, so that a first token need not wait for an address and what is wrong with it is said.
    pub async fn look(&self) {
        if let Some(inner) = &self.0 {
            inner.keys.look(inner.clock.now().steady).await;
        }
    }

    /// Whether a token of kck's own would be taken.
    fn judge_own(&self, token: &str) -> Result<(), Reason> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let (set, _) = inner.keys.set();
        token::verify(token.as_bytes(), &set, &inner.rules, inner.clock.now().wall).map(drop)
    }
}

impl Inner {
    async fn verify(&self, token: &[u8]) -> Result<Identity, Reason> {
        let Some(key) = key_of(token) else { return Err(Reason::TooLong) };
        let now = self.clock.now();
        self.keys.look(now.steady).await;
        let (mut set, mut number) = self.keys.set();
        let mut verified = token::verify(token, &set, &self.rules, now.wall);
        if matches!(verified, Err(Reason::UnknownKey)) {
            self.keys.look_for_unknown(now.steady).await;
            let before = number;
            (set, number) = self.keys.set();
            if number != before {
                verified = token::verify(token, &set, &self.rules, now.wall);
            }
        }
        let verified = verified?;
        let identity = Identity::known(verified.claims, verified.ends);
        if let Who::Known(known) = &identity.0 {
            self.remembered.insert(key, (Arc::clone(known), number));
        }
        Ok(identity)
    }
}

fn denied(reason: &Reason) -> Denied {
    tracing::debug!(%reason, "a token is refused");
    Denied { missing: *reason == Reason::Missing }
}

/// The token of `Bearer TOKEN`, or of a header that is the token.
fn bare(authorization: &[u8]) -> &[u8] {
    const SCHEME: &[u8] = b"bearer ";
    let header = authorization.trim_ascii();
    match header.split_at_checked(SCHEME.len()) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(SCHEME) => token.trim_ascii(),
        _ => header,
    }
}

fn key_of(token: &[u8]) -> Option<[u8; 32]> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    digest(&SHA256, token).as_ref().try_into().ok()
}

#[cfg(test)]
mod tests;
