//! Settings: what `[auth.jwt]` and `[auth.login]` say, as checked values; files are not opened yet.

use std::{
    fmt,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

pub use jsonwebtoken::Algorithm;
use jsonwebtoken::AlgorithmFamily;

/// The largest file of keys, in bytes.
pub(super) const FILE_BYTES_MAX: u64 = 256 * 1024;

/// How far the clocks of who makes tokens and of kck may be apart, at most.
pub const LEEWAY_MAX: Duration = Duration::from_secs(60);

/// How tokens are verified and, with a login, made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What a token may be signed with; all for one secret, or all for public keys.
    pub algorithms: Vec<Algorithm>,
    /// Where the keys are.
    pub keys: KeySource,
    /// What `iss` must be, if it must be something.
    pub issuer: Option<String>,
    /// What `aud` must be or hold.
    pub audience: String,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// The private key that tokens are made with; a secret makes them by itself.
    pub signing_key_file: Option<PathBuf>,
    /// How users log in, if they do.
    pub login: Option<LoginSettings>,
}

/// Where the keys are that verify tokens.
#[derive(Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A shared secret, as written.
    Secret(String),
    /// A file whose text is a shared secret.
    SecretFile(PathBuf),
    /// A PEM file with one public key.
    KeyFile(PathBuf),
    /// A file with a JSON Web Key Set.
    JwksFile(PathBuf),
    /// An address that gives one.
    JwksUrl(String),
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.setting())
    }
}

impl KeySource {
    /// The setting that says so.
    #[must_use]
    pub const fn setting(&self) -> &'static str {
        match self {
            Self::Secret(_) => "[auth.jwt] secret",
            Self::SecretFile(_) => "[auth.jwt] secret_file",
            Self::KeyFile(_) => "[auth.jwt] key_file",
            Self::JwksFile(_) => "[auth.jwt] jwks_file",
            Self::JwksUrl(_) => "[auth.jwt] jwks_url",
        }
    }

    /// Whether who verifies can also sign.
    #[must_use]
    pub const fn is_secret(&self) -> bool {
        matches!(self, Self::Secret(_) | Self::SecretFile(_))
    }
}

/// How users log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginSettings {
    /// SQL with `:user`, whose one row has the stored hash and the claims.
    pub query: String,
    /// How long a token holds.
    pub lifetime: Duration,
}

impl Settings {
    /// Checks that algorithms and keys belong together.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), BadAuth> {
        const ALGORITHMS: &str = "[auth.jwt] algorithms";
        if self.algorithms.is_empty() {
            let hint = "write what your tokens are signed with: algorithms = [\"RS256\"]";
            return Err(BadAuth::new(ALGORITHMS, "no algorithm is named", hint));
        }
        let secret = self.keys.is_secret();
        let wrong = self
            .algorithms
            .iter()
            .find(|algorithm| (algorithm.family() == AlgorithmFamily::Hmac) != secret);
        if let Some(algorithm) = wrong {
            let fact = format!("{algorithm:?} does not go with {}", self.keys.setting());
            let hint = if secret {
                "a shared secret takes HS256, HS384 and HS512"
            } else {
                "public keys take RS256 to RS512, PS256 to PS512, ES256, ES384 and EdDSA"
            };
            return Err(BadAuth::new(ALGORITHMS, fact, hint));
        }
        if self.audience.is_empty() {
            let hint = "write what the `aud` of your tokens is: a token for another service must not open this one";
            return Err(BadAuth::new("[auth.jwt] audience", "it is missing", hint));
        }
        if self.leeway > LEEWAY_MAX {
            let fact = format!("{} s are too much", self.leeway.as_secs());
            let hint = "at most 60s; set the clocks instead";
            return Err(BadAuth::new("[auth.jwt] leeway", fact, hint));
        }
        if secret && self.signing_key_file.is_some() {
            let hint = "leave it out: the shared secret signs";
            let fact = "a private key does not go with a shared secret";
            return Err(BadAuth::new("[auth.login] signing_key_file", fact, hint));
        }
        Ok(())
    }
}

/// A setting of auth that cannot be used: which, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {fact}\n  hint: {hint}")]
pub struct BadAuth {
    /// `[auth.jwt] key_file`.
    pub name: &'static str,
    /// What is wrong.
    pub fact: String,
    /// What to do.
    pub hint: String,
}

impl BadAuth {
    /// A setting, what is wrong with it and what to do.
    #[must_use]
    pub fn new(name: &'static str, fact: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, fact: fact.into(), hint: hint.into() }
    }
}

/// A file's bytes; `private` ones nobody else may read.
pub(super) fn read(name: &'static str, path: &Path, private: bool) -> Result<Vec<u8>, BadAuth> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| {
        BadAuth::new(name, format!("read {shown}: {error}"), "check the path and its rights")
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if private && mode & 0o037 != 0 {
        let fact = format!("{shown} may be read or written by others (mode {:04o})", mode & 0o7777);
        return Err(BadAuth::new(name, fact, format!("chmod 600 {shown}")));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let fact = format!("{shown} has more than {FILE_BYTES_MAX} bytes");
        return Err(BadAuth::new(name, fact, "give the file with the key and nothing else"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::auth::fixture;

    #[test]
    fn secrets_and_public_keys_are_never_mixed() {
        let refused = |algorithms: &[Algorithm], keys| {
            let settings =
                Settings { algorithms: algorithms.to_vec(), keys, ..fixture::settings() };
            settings.check().map_err(|bad| bad.to_string())
        };
        let file = || KeySource::KeyFile("k.pem".into());
        let secret = || KeySource::Secret(fixture::SECRET.into());
        assert_eq!(refused(&[Algorithm::HS256], secret()), Ok(()));
        assert_eq!(refused(&[Algorithm::RS256, Algorithm::ES256], file()), Ok(()));
        for (algorithms, keys) in [
            (vec![Algorithm::RS256, Algorithm::HS256], file()),
            (vec![Algorithm::HS256, Algorithm::RS256], secret()),
            (vec![Algorithm::HS512], KeySource::JwksUrl("https://x/".into())),
            (vec![], secret()),
        ] {
            let fact = refused(&algorithms, keys).unwrap_err();
            assert!(fact.starts_with("[auth.jwt] algorithms: "), "{fact}");
        }
    }

    #[test]
    fn s06_without_an_audience_kck_does_not_start() {
        let settings = Settings { audience: String::new(), ..fixture::settings() };
        assert!(settings.check().unwrap_err().to_string().starts_with("[auth.jwt] audience"));
    }

    #[test]
    fn clocks_may_be_a_minute_apart_and_no_more() {
        let check = |seconds| {
            Settings { leeway: Duration::from_secs(seconds), ..fixture::settings() }.check()
        };
        assert_eq!(check(60), Ok(()));
        assert!(check(61).unwrap_err().hint.contains("at most 60s"));
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused_with_what_to_type() {
        let file = fixture::File::new("secret", fixture::SECRET.as_bytes());
        assert!(read("x", file.path(), true).is_ok());
        file.set_mode(0o640);
        assert!(read("x", file.path(), true).is_ok());
        for mode in [0o644, 0o660, 0o641] {
            file.set_mode(mode);
            let bad = read("x", file.path(), true).unwrap_err();
            assert_eq!(bad.hint, format!("chmod 600 {}", file.path().display()));
            assert!(read("x", file.path(), false).is_ok());
        }
        assert!(read("x", Path::new("/nonexistent/key"), true).is_err());
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert!(!format!("{:?}", fixture::settings()).contains(fixture::SECRET));
    }
}
