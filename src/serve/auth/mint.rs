//! Mint: who, what and how long → a token that kck's own gate takes.

use std::{
    fmt,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey, Header, encode, jwk::Jwk,
};
use serde_json::{Map, Value};

use super::{
    Gate, key,
    settings::{self, BadAuth, KeySource, Settings},
};

const SIGNING_KEY: &str = "[auth.login] signing_key_file";

/// Claims that are kck's to say.
pub const OWN_CLAIMS: [&str; 6] = ["sub", "iss", "aud", "exp", "iat", "nbf"];

/// What a token is to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// Its `sub`.
    pub subject: String,
    /// Its other claims; what is kck's to say is left out.
    pub claims: Map<String, Value>,
    /// How long it holds.
    pub lifetime: Duration,
}

/// A key that signs, and what its tokens say of themselves.
#[derive(Clone)]
pub struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    issuer: Option<String>,
    audience: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({:?})", self.algorithm)
    }
}

impl Signer {
    /// The shared secret, or the private key of `[auth.login] signing_key_file`; none where only public keys are known.
    ///
    /// # Errors
    /// The file that cannot be used.
    pub fn open(settings: &Settings) -> Result<Option<Self>, BadAuth> {
        settings.check()?;
        let from_file;
        let (setting, secret) = match (&settings.keys, &settings.signing_key_file) {
            (KeySource::Secret(secret), _) => (settings.keys.setting(), secret.as_bytes()),
            (KeySource::SecretFile(path), _) => {
                from_file = settings::read(settings.keys.setting(), path, true)?;
                (settings.keys.setting(), key::secret_text(&from_file))
            }
            (_, Some(path)) => return Self::from_file(settings, SIGNING_KEY, path).map(Some),
            (_, None) => return Ok(None),
        };
        key::checked_secret(secret).map_err(|no| BadAuth::new(setting, no.fact, no.hint))?;
        let algorithm = settings.algorithms.first().copied().unwrap_or(Algorithm::HS256);
        Ok(Some(Self::new(settings, EncodingKey::from_secret(secret), algorithm)))
    }

    /// A private key in PEM, for one of the settings' algorithms.
    ///
    /// # Errors
    /// The file that cannot be used.
    pub fn from_file(
        settings: &Settings,
        name: &'static str,
        path: &Path,
    ) -> Result<Self, BadAuth> {
        let pem = settings::read(name, path, true)?;
        let shown = path.display();
        for algorithm in &settings.algorithms {
            let key = match algorithm.family() {
                AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(&pem),
                AlgorithmFamily::Ec => EncodingKey::from_ec_pem(&pem),
                AlgorithmFamily::Ed => EncodingKey::from_ed_pem(&pem),
                AlgorithmFamily::Hmac => continue,
            };
            let Ok(key) = key else { continue };
            let signer = Self::new(settings, key, *algorithm);
            // A curve that is not the algorithm's, a public key: neither signs.
            if signer.signed(&Header::new(*algorithm), &Map::new()).is_ok() {
                return Ok(signer);
            }
        }
        let fact = format!("{shown} has no private key for {:?}", settings.algorithms);
        let hint = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256, with ES256; the file begins with -----BEGIN PRIVATE KEY-----";
        Err(BadAuth::new(name, fact, hint))
    }

    fn new(settings: &Settings, key: EncodingKey, algorithm: Algorithm) -> Self {
        let (issuer, audience) = (settings.issuer.clone(), settings.audience.clone());
        Self { key, algorithm, issuer, audience }
    }

    /// A token that begins now, for whoever verifies with this gate's keys.
    #[must_use]
    pub fn mint(&self, grant: &Grant, now: SystemTime, gate: &Gate) -> Option<String> {
        let header = Header { kid: self.key_id(gate), ..Header::new(self.algorithm) };
        self.signed(&header, &self.claims(grant, now)).ok()
    }

    /// Checks that this gate takes what is signed here, as far as it holds keys already.
    ///
    /// # Errors
    /// When the private key is not that of any public key.
    pub fn check(&self, gate: &Gate, now: SystemTime) -> Result<(), BadAuth> {
        let Some(inner) = &gate.0 else { return Ok(()) };
        if inner.keys.set().0.is_empty() {
            return Ok(());
        }
        let lifetime = Duration::from_secs(60);
        let grant = Grant { subject: "kck".to_owned(), claims: Map::new(), lifetime };
        let own = self.mint(&grant, now, gate);
        if own.is_some_and(|token| gate.judge_own(&token).is_ok()) {
            return Ok(());
        }
        let hint = "the public half of this key must be among the keys of [auth.jwt]";
        Err(BadAuth::new(SIGNING_KEY, "what it signs is not taken by [auth.jwt]", hint))
    }

    fn claims(&self, grant: &Grant, now: SystemTime) -> Map<String, Value> {
        let mut claims = grant.claims.clone();
        claims.retain(|name, _| !OWN_CLAIMS.contains(&name.as_str()));
        let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut say = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        say("sub", grant.subject.as_str().into());
        say("aud", self.audience.as_str().into());
        say("iat", seconds(now).into());
        say("exp", seconds(now + grant.lifetime).into());
        if let Some(issuer) = &self.issuer {
            say("iss", issuer.as_str().into());
        }
        claims
    }

    fn signed(
        &self,
        header: &Header,
        claims: &Map<String, Value>,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        encode(header, claims, &self.key)
    }

    /// What the gate's keys call the public half of this one.
    fn key_id(&self, gate: &Gate) -> Option<String> {
        if self.algorithm.family() == AlgorithmFamily::Hmac {
            return None;
        }
        let own = Jwk::from_encoding_key(&self.key, self.algorithm).ok()?;
        let own = DecodingKey::from_jwk(&own).ok()?;
        let (set, _) = gate.0.as_ref()?.keys.set();
        let mut keys = set.keys();
        keys.find(|(_, key)| same(&key.decoding, &own)).and_then(|(id, _)| id.map(str::to_owned))
    }
}

fn same(one: &DecodingKey, other: &DecodingKey) -> bool {
    use DecodingKeyKind::{RsaModulusExponent, SecretOrDer};
    match (one.kind(), other.kind()) {
        (SecretOrDer(one), SecretOrDer(other)) => one == other,
        (RsaModulusExponent { n, e }, RsaModulusExponent { n: m, e: f }) => n == m && e == f,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::auth::fixture::{self, Hand};
    use serde_json::json;

    fn grant() -> Grant {
        let claims = json!({ "scope": "a b", "tenant": 7, "exp": 1, "aud": "other", "nbf": 9e12 });
        let claims = claims.as_object().unwrap().clone();
        Grant { subject: "42".to_owned(), claims, lifetime: Duration::from_secs(3600) }
    }

    async fn round_trip(settings: &Settings) -> super::super::Identity {
        let (clock, _) = Hand::clock();
        let gate = Gate::with_clock(settings, clock).unwrap();
        let signer = Signer::open(settings).unwrap().unwrap();
        signer.check(&gate, fixture::now()).unwrap();
        let token = signer.mint(&grant(), fixture::now(), &gate).unwrap();
        gate.identify(Some(token.as_bytes())).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_minted_is_taken_and_says_what_is_kcks_to_say() {
        let settings = Settings { issuer: Some("kck".to_owned()), ..fixture::settings() };
        let identity = round_trip(&settings).await;
        assert_eq!(identity.subject(), Some("42"));
        assert!(identity.has_scope("a") && identity.has_scope("b"));
        assert_eq!(identity.claim("tenant"), Some(&json!(7)));
        assert_eq!(identity.claim("iss"), Some(&json!("kck")));
        assert_eq!(identity.claim("aud"), Some(&json!("shop")));
        assert_eq!(identity.claim("nbf"), None);
        assert_eq!(identity.ends(), Some(fixture::now() + Duration::from_secs(3600)));
    }

    #[tokio::test]
    async fn a_private_key_signs_for_its_public_half() {
        let private = fixture::File::new("p256.pem", fixture::P256_PRIVATE.as_bytes());
        let public = fixture::File::new("p256.pub.pem", fixture::P256_PUBLIC.as_bytes());
        let keys = [
            fixture::jwk(fixture::OTHER_P256_PRIVATE, Algorithm::ES256, "other"),
            fixture::jwk(fixture::P256_PRIVATE, Algorithm::ES256, "own"),
        ];
        let set = fixture::File::new("set", json!({ "keys": keys }).to_string().as_bytes());
        for keys in [
            KeySource::KeyFile(public.path().to_owned()),
            KeySource::JwksFile(set.path().to_owned()),
        ] {
            let settings = Settings {
                keys,
                algorithms: vec![Algorithm::RS256, Algorithm::ES256],
                signing_key_file: Some(private.path().to_owned()),
                ..fixture::settings()
            };
            if matches!(settings.keys, KeySource::KeyFile(_)) {
                let only = Settings { algorithms: vec![Algorithm::ES256], ..settings };
                assert_eq!(round_trip(&only).await.subject(), Some("42"));
            } else {
                assert_eq!(round_trip(&settings).await.subject(), Some("42"));
            }
        }
    }

    #[test]
    fn a_private_key_of_another_public_key_is_refused() {
        let private = fixture::File::new("p256.pem", fixture::P256_PRIVATE.as_bytes());
        let other = fixture::File::new("other.pem", fixture::OTHER_P256_PUBLIC.as_bytes());
        let settings = Settings {
            keys: KeySource::KeyFile(other.path().to_owned()),
            algorithms: vec![Algorithm::ES256],
            signing_key_file: Some(private.path().to_owned()),
            ..fixture::settings()
        };
        let gate = Gate::with_clock(&settings, Hand::clock().0).unwrap();
        let signer = Signer::open(&settings).unwrap().unwrap();
        let bad = signer.check(&gate, fixture::now()).unwrap_err();
        assert!(bad.to_string().contains("what it signs is not taken"), "{bad}");
    }

    #[test]
    fn what_does_not_sign_is_no_signing_key() {
        let file = fixture::File::new("key.pem", fixture::P384_PRIVATE.as_bytes());
        let settings = Settings {
            keys: KeySource::KeyFile("unread".into()),
            algorithms: vec![Algorithm::ES256, Algorithm::EdDSA],
            signing_key_file: Some(file.path().to_owned()),
            ..fixture::settings()
        };
        assert!(Signer::open(&settings).unwrap_err().fact.contains("no private key for"));
        file.write(fixture::P256_PUBLIC.as_bytes());
        assert!(Signer::open(&settings).is_err());
        file.set_mode(0o644);
        assert!(Signer::open(&settings).unwrap_err().hint.starts_with("chmod 600"));
        let public_only = Settings { signing_key_file: None, ..settings };
        assert!(Signer::open(&public_only).unwrap().is_none());
    }
}
