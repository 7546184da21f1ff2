//! Fixture: keys, tokens and a clock for the tests of this folder.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::Value;

use super::{
    clock::{Clock, Moment},
    settings::{KeySource, Settings},
};

macro_rules! pem {
    ($file:literal) => {
        include_str!(concat!("../../../tests/it/fixtures/auth/", $file))
    };
}

pub(crate) const SECRET: &str = "a secret of tests and of nothing else";
pub(crate) const RSA_PRIVATE: &str = pem!("rsa.pem");
pub(crate) const RSA_PUBLIC: &str = pem!("rsa.pub.pem");
pub(crate) const RSA_1024_PUBLIC: &str = pem!("rsa-1024.pub.pem");
pub(crate) const P256_PRIVATE: &str = pem!("p256.pem");
pub(crate) const P256_PUBLIC: &str = pem!("p256.pub.pem");
pub(crate) const OTHER_P256_PRIVATE: &str = pem!("other-p256.pem");
pub(crate) const OTHER_P256_PUBLIC: &str = pem!("other-p256.pub.pem");
pub(crate) const P384_PRIVATE: &str = pem!("p384.pem");
pub(crate) const P384_PUBLIC: &str = pem!("p384.pub.pem");
pub(crate) const SECP256K1_PUBLIC: &str = pem!("secp256k1.pub.pem");
pub(crate) const ED_PRIVATE: &str = pem!("ed25519.pem");
pub(crate) const ED_PUBLIC: &str = pem!("ed25519.pub.pem");

/// The tests' now, in seconds since 1970.
pub(crate) const NOW_S: u64 = 1_800_000_000;

pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW_S)
}

pub(crate) fn settings() -> Settings {
    Settings {
        algorithms: vec![Algorithm::HS256],
        keys: KeySource::Secret(SECRET.to_owned()),
        issuer: None,
        audience: "shop".to_owned(),
        leeway: Duration::from_secs(30),
        signing_key_file: None,
        login: None,
    }
}

pub(crate) fn b64(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn encoding(family: AlgorithmFamily, key: &[u8]) -> EncodingKey {
    match family {
        AlgorithmFamily::Hmac => EncodingKey::from_secret(key),
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(key).unwrap(),
        AlgorithmFamily::Ec => EncodingKey::from_ec_pem(key).unwrap(),
        AlgorithmFamily::Ed => EncodingKey::from_ed_pem(key).unwrap(),
    }
}

/// A token signed with a private key or a secret.
pub(crate) fn signed(header: &Header, claims: &Value, key: &str) -> String {
    encode(header, claims, &encoding(header.alg.family(), key.as_bytes())).unwrap()
}

pub(crate) fn hs(algorithm: Algorithm, claims: &Value, secret: &[u8]) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret)).unwrap()
}

pub(crate) fn hs256(claims: &Value) -> String {
    hs(Algorithm::HS256, claims, SECRET.as_bytes())
}

/// The public half of a private key, as a key of a set.
pub(crate) fn jwk(private: &str, algorithm: Algorithm, id: &str) -> Value {
    let key = encoding(algorithm.family(), private.as_bytes());
    let mut jwk = Jwk::from_encoding_key(&key, algorithm).unwrap();
    jwk.common.key_id = Some(id.to_owned());
    serde_json::to_value(jwk).unwrap()
}

/// A clock, and the hand that moves it.
#[derive(Clone)]
pub(crate) struct Hand(Arc<AtomicU64>);

impl Hand {
    pub(crate) fn clock() -> (Clock, Self) {
        let (began, hand) = (Instant::now(), Self(Arc::default()));
        let passed = Arc::clone(&hand.0);
        let clock = Clock::of(move || {
            let passed = Duration::from_secs(passed.load(Ordering::Relaxed));
            Moment { wall: now() + passed, steady: began + passed }
        });
        (clock, hand)
    }

    pub(crate) fn pass(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

/// A file of its owner that goes when the test ends.
pub(crate) struct File(PathBuf);

impl File {
    pub(crate) fn new(name: &str, bytes: &[u8]) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("kck-auth-{}-{number}-{name}", std::process::id()));
        let file = Self(path);
        file.write(bytes);
        file.set_mode(0o600);
        file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, bytes: &[u8]) {
        fs::write(&self.0, bytes).unwrap();
    }

    pub(crate) fn set_mode(&self, mode: u32) {
        fs::set_permissions(&self.0, fs::Permissions::from_mode(mode)).unwrap();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}
