//! Password: a stored hash and a password → whether they are of each other.
//!
//! Taken are argon2id and argon2i in PHC form and PostgreSQL's `SCRAM-SHA-256$…`, within limits: what a stored hash
//! costs is chosen by who wrote it, and nobody may choose gigabytes. Whatever is compared takes the same time.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
};

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
    hmac, pbkdf2,
};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD},
};
use tokio::sync::Semaphore;

/// Checks at once: each may take its memory.
const AT_ONCE: usize = 2;
/// Checks that may wait.
const WAITING_MAX: usize = 64;
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;
const ITERATIONS_MAX: u32 = 1_000_000;
const HASH_BYTES_MAX: usize = 1024;
/// The longest password.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// A password that cannot be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The stored hash is not of a kind that is taken.
    #[error("the stored hash is neither argon2id, argon2i nor SCRAM-SHA-256: store one of them")]
    Kind,
    /// It is of such a kind, and not whole.
    #[error("the stored hash is not whole")]
    Form,
    /// It would cost too much.
    #[error("the stored hash costs more than kck spends: 256 MiB, 16 passes, 1,000,000 iterations")]
    Cost,
    /// Too many wait already.
    #[error("too many passwords wait to be checked")]
    Busy,
}

/// A stored hash, understood.
#[derive(Clone, PartialEq, Eq)]
enum Stored {
    Argon2 { algorithm: Algorithm, version: Version, params: Params, salt: Vec<u8>, hash: Vec<u8> },
    Scram { iterations: NonZeroU32, salt: Vec<u8>, stored_key: Vec<u8> },
}

/// Checks passwords, few at once.
#[derive(Clone)]
pub struct Passwords {
    places: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// The hash that was understood last: one that nobody's password fits is made of it. Locked to read or replace it.
    last: Arc<Mutex<Stored>>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            last: Arc::new(Mutex::new(Stored::usual())),
        }
    }
}

impl Passwords {
    /// Whether the password is that of the stored hash. Without one nothing is, and that takes as long.
    ///
    /// # Errors
    /// [`Unusable`]; it took as long as a wrong password, unless too many wait.
    pub async fn check(&self, stored: Option<&str>, password: &str) -> Result<bool, Unusable> {
        let Ok(_waiting) = self.waiting.try_acquire() else { return Err(Unusable::Busy) };
        let Ok(_place) = self.places.acquire().await else { return Err(Unusable::Busy) };
        let parsed = stored.map(Stored::parse).transpose();
        let (stored, real) = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            match &parsed {
                Ok(Some(stored)) => {
                    last.clone_from(stored);
                    (stored.clone(), true)
                }
                Ok(None) | Err(_) => (last.clone(), false),
            }
        };
        let password = password.to_owned();
        let checked = tokio::task::spawn_blocking(move || {
            // What is too long is wrong, but what is hashed instead takes its time.
            let taken = password.len() <= PASSWORD_BYTES_MAX;
            stored.is_of(if taken { &password } else { "" }) && taken
        });
        let fits = checked.await.unwrap_or(false);
        parsed.map(|_| fits && real)
    }
}

impl Stored {
    /// What costs as much as the usual hash, and is nobody's.
    fn usual() -> Self {
        Self::Argon2 {
            algorithm: Algorithm::Argon2id,
            version: Version::V0x13,
            params: Params::DEFAULT,
            salt: vec![0; 16],
            hash: vec![0; 32],
        }
    }

    fn parse(text: &str) -> Result<Self, Unusable> {
        if text.len() > HASH_BYTES_MAX {
            return Err(Unusable::Form);
        }
        if let Some(rest) = text.strip_prefix("SCRAM-SHA-256$") {
            return Self::scram(rest);
        }
        let algorithm = if text.starts_with("$argon2id$") {
            Algorithm::Argon2id
        } else if text.starts_with("$argon2i$") {
            Algorithm::Argon2i
        } else {
            return Err(Unusable::Kind);
        };
        let parts: Vec<&str> = text.split('$').skip(2).collect();
        let (version, rest) = match parts.as_slice() {
            ["v=19", rest @ ..] => (Version::V0x13, rest),
            ["v=16", rest @ ..] => (Version::V0x10, rest),
            rest => (Version::V0x10, rest),
        };
        let [costs, salt, hash] = rest else { return Err(Unusable::Form) };
        let decode = |text: &str| BASE64_STANDARD_NO_PAD.decode(text).map_err(|_| Unusable::Form);
        let (salt, hash) = (decode(salt)?, decode(hash)?);
        let params = params(costs, hash.len())?;
        if salt.len() < 8 || hash.len() < 16 {
            return Err(Unusable::Form);
        }
        Ok(Self::Argon2 { algorithm, version, params, salt, hash })
    }

    /// `ITERATIONS:SALT$STOREDKEY:SERVERKEY`.
    fn scram(text: &str) -> Result<Self, Unusable> {
        let (costs, keys) = text.split_once('$').ok_or(Unusable::Form)?;
        let (iterations, salt) = costs.split_once(':').ok_or(Unusable::Form)?;
        let (stored_key, _) = keys.split_once(':').ok_or(Unusable::Form)?;
        let iterations: NonZeroU32 = iterations.parse().map_err(|_| Unusable::Form)?;
        let decode = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| Unusable::Form);
        let (salt, stored_key) = (decode(salt)?, decode(stored_key)?);
        if salt.is_empty() || stored_key.len() != 32 {
            return Err(Unusable::Form);
        }
        if iterations.get() > ITERATIONS_MAX {
            return Err(Unusable::Cost);
        }
        Ok(Self::Scram { iterations, salt, stored_key })
    }

    fn is_of(&self, password: &str) -> bool {
        match self {
            Self::Argon2 { algorithm, version, params, salt, hash } => {
                let mut made = vec![0; hash.len()];
                let argon2 = Argon2::new(*algorithm, *version, params.clone());
                let hashed = argon2.hash_password_into(password.as_bytes(), salt, &mut made);
                hashed.is_ok() && verify_slices_are_equal(&made, hash).is_ok()
            }
            Self::Scram { iterations, salt, stored_key } => {
                // As PostgreSQL: what has no prepared form is taken as it is.
                let prepared = stringprep::saslprep(password);
                let prepared = prepared.as_deref().unwrap_or(password);
                let mut salted = [0; 32];
                let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
                pbkdf2::derive(algorithm, *iterations, salt, prepared.as_bytes(), &mut salted);
                let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
                let client_key = hmac::sign(&key, b"Client Key");
                let made = digest(&SHA256, client_key.as_ref());
                verify_slices_are_equal(made.as_ref(), stored_key).is_ok()
            }
        }
    }
}

/// `m=19456,t=2,p=1`, in that order.
fn params(costs: &str, hash_bytes: usize) -> Result<Params, Unusable> {
    let mut parts = costs.split(',');
    let mut number = |name: &str| -> Result<u32, Unusable> {
        let digits = parts.next().and_then(|part| part.strip_prefix(name)).ok_or(Unusable::Form)?;
        digits.parse().map_err(|_| Unusable::Form)
    };
    let (memory, passes, lanes) = (number("m=")?, number("t=")?, number("p=")?);
    if parts.next().is_some() {
        return Err(Unusable::Form);
    }
    if memory > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
        return Err(Unusable::Cost);
    }
    Params::new(memory, passes, lanes, Some(hash_bytes)).map_err(|_| Unusable::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `password('geheim')` may look like: small costs, so that tests are quick.
    pub(crate) fn argon2(kind: Algorithm, name: &str, password: &str) -> String {
        let params = Params::new(64, 1, 1, Some(32)).unwrap();
        let mut hash = [0; 32];
        let salt = b"saltsaltsaltsalt";
        let made = Argon2::new(kind, Version::V0x13, params);
        made.hash_password_into(password.as_bytes(), salt, &mut hash).unwrap();
        let encode = |bytes: &[u8]| BASE64_STANDARD_NO_PAD.encode(bytes);
        format!("${name}$v=19$m=64,t=1,p=1${}${}", encode(salt), encode(&hash))
    }

    async fn check(stored: &str, password: &str) -> Result<bool, Unusable> {
        Passwords::default().check(Some(stored), password).await
    }

    #[tokio::test]
    async fn argon2_is_checked() {
        for (kind, name) in [(Algorithm::Argon2id, "argon2id"), (Algorithm::Argon2i, "argon2i")] {
            let stored = argon2(kind, name, "geheim");
            assert_eq!(check(&stored, "geheim").await, Ok(true));
            assert_eq!(check(&stored, "Geheim").await, Ok(false));
            assert_eq!(check(&stored, "").await, Ok(false));
        }
        // The test vector of the reference implementation: `echo -n password | argon2 somesalt -id -t 2 -m 8 -p 1`.
        let known =
            "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        assert_eq!(check(known, "password").await, Ok(true));
    }

    #[tokio::test]
    async fn postgres_verifiers_are_checked() {
        // RFC 7677: user `user`, password `pencil`.
        let stored = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        assert_eq!(check(stored, "pencil").await, Ok(true));
        assert_eq!(check(stored, "pencil ").await, Ok(false));
        // SASLprep takes a soft hyphen out.
        assert_eq!(check(stored, "pen\u{ad}cil").await, Ok(true));
    }

    #[tokio::test]
    async fn other_hashes_and_plain_texts_are_refused() {
        for stored in [
            "geheim",
            "",
            "md5a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5",
            "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
            "$argon2d$v=19$m=64,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        ] {
            assert_eq!(check(stored, stored).await, Err(Unusable::Kind), "{stored}");
        }
        for stored in [
            "$argon2id$v=19$m=64,t=1$c29tZXNhbHQ$AAAA",
            "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$AAAA",
            "$argon2id$v=19$m=64,t=1,p=1$!$AAAA",
            "$argon2id$",
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$0:AAAA$AAAA:AAAA",
            "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA",
        ] {
            assert_eq!(check(stored, "x").await, Err(Unusable::Form), "{stored}");
        }
    }

    #[tokio::test]
    async fn a_hash_that_costs_too_much_is_refused() {
        let key = "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=";
        let scram = format!("SCRAM-SHA-256$1000001:W22ZaJ0SNY7soEsUEjb6gQ==${key}:{key}");
        assert_eq!(check(&scram, "x").await, Err(Unusable::Cost));
        for costs in ["m=262145,t=1,p=1", "m=64,t=17,p=1", "m=4294967295,t=1,p=1", "m=640,t=1,p=17"]
        {
            let stored = format!(
                "$argon2id$v=19${costs}$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
            );
            assert_eq!(check(&stored, "x").await, Err(Unusable::Cost), "{costs}");
        }
    }

    #[tokio::test]
    async fn without_a_hash_no_password_is_right_and_one_as_dear_is_checked() {
        let passwords = Passwords::default();
        assert_eq!(passwords.check(None, "").await, Ok(false));
        let stored = argon2(Algorithm::Argon2id, "argon2id", "geheim");
        assert_eq!(passwords.check(Some(&stored), "geheim").await, Ok(true));
        let last = passwords.last.lock().unwrap().clone();
        assert!(last == Stored::parse(&stored).unwrap(), "the same costs are spent on nobody");
        assert_eq!(passwords.check(None, "geheim").await, Ok(false));
        assert_eq!(passwords.check(Some("plain"), "geheim").await, Err(Unusable::Kind));
    }

    #[tokio::test]
    async fn a_password_without_end_is_wrong() {
        let long = "x".repeat(PASSWORD_BYTES_MAX + 1);
        let stored = argon2(Algorithm::Argon2id, "argon2id", &long);
        assert_eq!(check(&stored, &long).await, Ok(false));
        let empty = argon2(Algorithm::Argon2id, "argon2id", "");
        assert_eq!(check(&empty, &long).await, Ok(false));
    }
}
