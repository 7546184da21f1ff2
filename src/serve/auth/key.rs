//! Key: a secret, a PEM text or a JWK → a key that verifies, pinned to the algorithms that it may be used with.
//!
//! A key that is weak, of the wrong kind or of the wrong curve is refused here, when it is loaded.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    VerificationAlgorithm,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind,
    crypto::aws_lc,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};

/// A shared secret has as many bytes at least as what HS256 hashes to.
const SECRET_BYTES_MIN: usize = 32;
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A key that verifies.
pub(super) struct Key {
    pub(super) decoding: DecodingKey,
    /// What a token may be signed with to be verified by it.
    pub(super) algorithms: Vec<Algorithm>,
}

/// A key that is not taken: why, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) fact: String,
    pub(super) hint: &'static str,
}

fn refused(fact: impl Into<String>, hint: &'static str) -> Refused {
    Refused { fact: fact.into(), hint }
}

/// The text of a secret: an editor ends its file with a line feed that nobody means.
pub(super) fn secret_text(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

/// A shared secret.
pub(super) fn from_secret(secret: &[u8], algorithms: &[Algorithm]) -> Result<Key, Refused> {
    checked_secret(secret)?;
    Ok(Key { decoding: DecodingKey::from_secret(secret), algorithms: algorithms.to_vec() })
}

/// Refuses what is short, and what everybody may know.
pub(super) fn checked_secret(secret: &[u8]) -> Result<(), Refused> {
    let has = |words: &[u8]| secret.windows(words.len()).any(|part| part == words);
    if has(b"-----BEGIN") || secret.starts_with(b"ssh-") || has(b"\"kty\"") {
        let hint = "a public key is a key_file with RS256, ES256 or EdDSA, never a secret";
        return Err(refused("it is a key, not a shared secret", hint));
    }
    if secret.len() < SECRET_BYTES_MIN {
        let fact = format!("{} bytes are too short", secret.len());
        return Err(refused(fact, "at least 32 random bytes: openssl rand -base64 48"));
    }
    Ok(())
}

/// One public key in PEM; it must fit every algorithm.
pub(super) fn from_pem(pem: &[u8], algorithms: &[Algorithm]) -> Result<Key, Refused> {
    let text = std::str::from_utf8(pem).map_err(|_| {
        refused("it is no PEM text", "a public key begins with -----BEGIN PUBLIC KEY-----")
    })?;
    if text.contains("PRIVATE KEY-----") {
        let hint = "kck needs the public half only: openssl pkey -in KEY -pubout";
        return Err(refused("it is a private key", hint));
    }
    if text.contains("-----BEGIN CERTIFICATE-----") {
        let hint = "take the key out of it: openssl x509 -in FILE -pubkey -noout";
        return Err(refused("it is a certificate", hint));
    }
    let parsed = DecodingKey::from_rsa_pem(pem)
        .or_else(|_| DecodingKey::from_ec_pem(pem))
        .or_else(|_| DecodingKey::from_ed_pem(pem));
    let hint = "RSA, P-256, P-384 and Ed25519 keys are taken: -----BEGIN PUBLIC KEY-----";
    let decoding = parsed.map_err(|_| refused("it is no public key that kck knows", hint))?;
    sound(&decoding)?;
    let unfit = algorithms.iter().find(|algorithm| !fits(&decoding, **algorithm));
    if let Some(algorithm) = unfit {
        let hint = "name the algorithms that go with the key: RS and PS with RSA, ES256 with P-256, ES384 with P-384, EdDSA with Ed25519";
        return Err(refused(format!("the key cannot be used with {algorithm:?}"), hint));
    }
    Ok(Key { decoding, algorithms: algorithms.to_vec() })
}

/// A public key of a key set; it must fit one of the algorithms, and its own `alg` where it says one.
pub(super) fn from_jwk(jwk: &Jwk, algorithms: &[Algorithm]) -> Result<Key, Refused> {
    let no = |fact: &str| refused(fact, "");
    let common = &jwk.common;
    if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return Err(no("its `use` is not `sig`"));
    }
    let operations = common.key_operations.as_deref();
    if operations.is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
        return Err(no("its `key_ops` has no `verify`"));
    }
    match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => {}
        AlgorithmParameters::EllipticCurve(key) => {
            let bytes = match key.curve {
                EllipticCurve::P256 => 32,
                EllipticCurve::P384 => 48,
                _ => return Err(no("its curve is neither P-256 nor P-384")),
            };
            let whole = |text: &str| {
                BASE64_URL_SAFE_NO_PAD.decode(text).is_ok_and(|part| part.len() == bytes)
            };
            if !whole(&key.x) || !whole(&key.y) {
                return Err(no("its point is not of its curve"));
            }
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {}
        AlgorithmParameters::OctetKeyPair(_) => return Err(no("its curve is not Ed25519")),
        AlgorithmParameters::OctetKey(_) => return Err(no("it is a shared secret")),
        _ => return Err(no("its `kty` is unknown")),
    }
    let decoding = DecodingKey::from_jwk(jwk).map_err(|_| no("it is not whole"))?;
    sound(&decoding)?;
    let own = common.key_algorithm.map(|own| Algorithm::try_from(own).ok());
    let usable = |algorithm: &&Algorithm| {
        own.is_none_or(|own| own == Some(**algorithm)) && fits(&decoding, **algorithm)
    };
    let usable: Vec<Algorithm> = algorithms.iter().filter(usable).copied().collect();
    if usable.is_empty() {
        return Err(no("it is for none of [auth.jwt] algorithms"));
    }
    Ok(Key { decoding, algorithms: usable })
}

/// Whether a key's kind and curve are those of an algorithm.
fn fits(key: &DecodingKey, algorithm: Algorithm) -> bool {
    let point_bytes = key.try_get_as_bytes().map_or(0, <[u8]>::len);
    key.family() == algorithm.family()
        && match algorithm {
            Algorithm::ES256 => point_bytes == 65,
            Algorithm::ES384 => point_bytes == 97,
            _ => true,
        }
}

/// Refuses keys that are weak, or no keys at all.
fn sound(key: &DecodingKey) -> Result<(), Refused> {
    let on_curve = |algorithm: &'static dyn VerificationAlgorithm| {
        let bytes = key.try_get_as_bytes().unwrap_or_default();
        let parsed = ParsedPublicKey::new(algorithm, bytes);
        parsed.map(drop).map_err(|_| refused("it is no point of its curve", "make a new key"))
    };
    match key.family() {
        AlgorithmFamily::Hmac => Ok(()),
        AlgorithmFamily::Rsa => sound_rsa(key),
        AlgorithmFamily::Ec => match key.try_get_as_bytes().map_or(0, <[u8]>::len) {
            65 => on_curve(&ECDSA_P256_SHA256_FIXED),
            97 => on_curve(&ECDSA_P384_SHA384_FIXED),
            _ => Err(refused("its curve is neither P-256 nor P-384", "make a key of P-256")),
        },
        AlgorithmFamily::Ed => on_curve(&ED25519),
    }
}

fn sound_rsa(key: &DecodingKey) -> Result<(), Refused> {
    let (modulus, exponent) = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => (n.clone(), e.clone()),
        DecodingKeyKind::SecretOrDer(der) => {
            let parts =
                (aws_lc::DEFAULT_PROVIDER.key_utils.rsa_pub_components_from_public_key)(der);
            parts.map_err(|_| refused("it is no RSA key", "make a new key"))?
        }
    };
    let bits = bits(&modulus);
    if !RSA_BITS.contains(&bits) {
        let fact = format!("an RSA key of {bits} bits is not taken");
        return Err(refused(fact, "2048 to 8192 bits: openssl genrsa 3072"));
    }
    // With an exponent of 1 every message is its own signature.
    let odd = exponent.last().is_some_and(|last| last % 2 == 1);
    if odd && (2..=64).contains(&self::bits(&exponent)) {
        return Ok(());
    }
    Err(refused("its exponent is no exponent", "make a new key"))
}

fn bits(number: &[u8]) -> usize {
    let mut rest = number.iter().skip_while(|byte| **byte == 0);
    rest.next().map_or(0, |first| {
        let high = (u8::BITS - first.leading_zeros()) as usize;
        high + 8 * rest.count()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::auth::fixture;

    fn pem_refused(pem: &str, algorithms: &[Algorithm]) -> String {
        from_pem(pem.as_bytes(), algorithms).map_or_else(|refused| refused.fact, |_| String::new())
    }

    #[test]
    fn a_public_key_is_taken_for_what_fits_it() {
        for (pem, algorithm) in [
            (fixture::RSA_PUBLIC, Algorithm::RS256),
            (fixture::RSA_PUBLIC, Algorithm::PS512),
            (fixture::P256_PUBLIC, Algorithm::ES256),
            (fixture::P384_PUBLIC, Algorithm::ES384),
            (fixture::ED_PUBLIC, Algorithm::EdDSA),
        ] {
            assert_eq!(pem_refused(pem, &[algorithm]), "", "{algorithm:?}");
        }
    }

    #[test]
    fn s09_weak_keys_and_wrong_curves_are_refused_at_load() {
        assert_eq!(
            pem_refused(fixture::RSA_1024_PUBLIC, &[Algorithm::RS256]),
            "an RSA key of 1024 bits is not taken"
        );
        for (pem, algorithm) in [
            (fixture::P256_PUBLIC, Algorithm::ES384),
            (fixture::P384_PUBLIC, Algorithm::ES256),
            (fixture::RSA_PUBLIC, Algorithm::ES256),
            (fixture::ED_PUBLIC, Algorithm::RS256),
        ] {
            let fact = pem_refused(pem, &[algorithm]);
            assert_eq!(fact, format!("the key cannot be used with {algorithm:?}"));
        }
        let koblitz = pem_refused(fixture::SECP256K1_PUBLIC, &[Algorithm::ES256]);
        assert_eq!(koblitz, "it is no point of its curve");
    }

    #[test]
    fn a_private_key_or_certificate_is_no_key_file() {
        assert_eq!(pem_refused(fixture::RSA_PRIVATE, &[Algorithm::RS256]), "it is a private key");
        let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----";
        assert_eq!(pem_refused(certificate, &[Algorithm::RS256]), "it is a certificate");
        for text in ["", "geheim", "-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----"] {
            assert_eq!(
                pem_refused(text, &[Algorithm::RS256]),
                "it is no public key that kck knows"
            );
        }
    }

    #[test]
    fn s02_a_public_key_is_no_secret() {
        let jwk = br#"{"keys":[{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4","e":"AQAB"}]}"#;
        let ssh =
            b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
        for text in [fixture::RSA_PUBLIC.as_bytes(), fixture::P256_PUBLIC.as_bytes(), jwk, ssh] {
            let refused = checked_secret(text).unwrap_err();
            assert_eq!(refused.fact, "it is a key, not a shared secret");
        }
        assert!(checked_secret(&[b'x'; 31]).unwrap_err().fact.contains("31 bytes are too short"));
        assert_eq!(checked_secret(&[b'x'; 32]), Ok(()));
        assert_eq!(secret_text(b"geheim \r\n"), b"geheim ");
    }

    #[test]
    fn bits_are_counted_from_the_first_that_is_set() {
        assert_eq!(bits(&[]), 0);
        assert_eq!(bits(&[0, 0, 1]), 1);
        assert_eq!(bits(&[0, 0x80, 0]), 16);
    }
}
