//! Token: bytes of a JWT → its claims, if everything about it holds.
//!
//! The algorithm is the key's, never the token's; `jku`, `x5u`, `jwk` and `x5c` in a header are not looked at; and
//! times and audiences that are not of their types are no times and no audiences.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Validation, decode, decode_header, errors::ErrorKind};
use serde_json::{Map, Value};

use super::jwks::{KID_BYTES_MAX, Set};

/// The longest token that is looked at.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// The end of the year 9999: no `exp` is later.
const SECONDS_MAX: f64 = 253_402_300_799.0;

/// What a token must say.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) issuer: Option<String>,
    pub(super) audience: String,
    pub(super) leeway: Duration,
}

/// A token that holds.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) claims: Map<String, Value>,
    /// `exp`, without leeway.
    pub(super) ends: SystemTime,
}

/// Why a token does not hold: for the log, never for who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Reason {
    #[error("there is none")]
    Missing,
    #[error("it is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    #[error("it is no JWT, or of an algorithm that does not exist here")]
    Malformed,
    #[error("its header demands what kck does not know (crit)")]
    Critical,
    #[error("no key has its kid")]
    UnknownKey,
    #[error("its algorithm is not one of its key's")]
    Algorithm,
    #[error("its signature is not the key's")]
    Signature,
    #[error("it ended")]
    Ended,
    #[error("it begins later")]
    Early,
    #[error("its {0} is missing, of another type, or not what it must be")]
    Claim(&'static str),
}

/// Verifies a token against a set of keys.
pub(super) fn verify(
    token: &[u8],
    set: &Set,
    rules: &Rules,
    now: SystemTime,
) -> Result<Verified, Reason> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Reason::TooLong);
    }
    let header = decode_header(token).map_err(|_| Reason::Malformed)?;
    if header.crit.is_some() {
        return Err(Reason::Critical);
    }
    let id = header.kid.as_deref();
    if id.is_some_and(|id| id.len() > KID_BYTES_MAX) {
        return Err(Reason::UnknownKey);
    }
    let key = set.key(id).ok_or(Reason::UnknownKey)?;
    if !key.algorithms.contains(&header.alg) {
        return Err(Reason::Algorithm);
    }
    // Claims are judged below: by kck's clock, and more strictly.
    let mut validation = Validation::new(header.alg);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let decoded = decode::<Map<String, Value>>(token, &key.decoding, &validation);
    let claims = decoded.map_err(|error| match error.kind() {
        ErrorKind::InvalidSignature => Reason::Signature,
        _ => Reason::Malformed,
    })?;
    let claims = claims.claims;
    let ends = judged(&claims, rules, now)?;
    Ok(Verified { claims, ends })
}

/// What the claims say of times, issuer and audience; gives when they end.
fn judged(
    claims: &Map<String, Value>,
    rules: &Rules,
    now: SystemTime,
) -> Result<SystemTime, Reason> {
    let ends = moment(claims.get("exp")).ok_or(Reason::Claim("exp"))?;
    if is_over(ends, rules.leeway, now) {
        return Err(Reason::Ended);
    }
    if let Some(begins) = claims.get("nbf") {
        let begins = moment(Some(begins)).ok_or(Reason::Claim("nbf"))?;
        if begins > now + rules.leeway {
            return Err(Reason::Early);
        }
    }
    if let Some(issuer) = &rules.issuer
        && claims.get("iss").and_then(Value::as_str) != Some(issuer)
    {
        return Err(Reason::Claim("iss"));
    }
    let is_for_us = match claims.get("aud") {
        Some(Value::String(audience)) => *audience == rules.audience,
        Some(Value::Array(audiences)) => {
            audiences.iter().any(|audience| audience.as_str() == Some(&rules.audience))
        }
        _ => false,
    };
    if is_for_us { Ok(ends) } else { Err(Reason::Claim("aud")) }
}

/// Whether a token that ends then has ended.
pub(super) fn is_over(ends: SystemTime, leeway: Duration, now: SystemTime) -> bool {
    ends + leeway <= now
}

/// Seconds since 1970, as a number.
fn moment(value: Option<&Value>) -> Option<SystemTime> {
    let Some(Value::Number(number)) = value else { return None };
    let seconds = number.as_f64().filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds))?;
    Some(UNIX_EPOCH + Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::auth::{
        fixture::{self, NOW_S, b64, signed},
        key,
    };
    use jsonwebtoken::{Algorithm, Header, jwk::Jwk};
    use serde_json::json;

    fn rules() -> Rules {
        Rules {
            issuer: Some("https://id.example".into()),
            audience: "shop".into(),
            leeway: Duration::from_secs(30),
        }
    }

    fn claims() -> Value {
        json!({ "sub": "42", "iss": "https://id.example", "aud": "shop", "exp": NOW_S + 60 })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }

    fn without(name: &str) -> Value {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        claims
    }

    fn set(pem: &str, algorithm: Algorithm) -> Set {
        Set::single(key::from_pem(pem.as_bytes(), &[algorithm]).ok().unwrap())
    }

    fn secret() -> Set {
        let algorithms = [Algorithm::HS256];
        Set::single(key::from_secret(fixture::SECRET.as_bytes(), &algorithms).ok().unwrap())
    }

    fn judge(token: &str, set: &Set) -> Result<Verified, Reason> {
        verify(token.as_bytes(), set, &rules(), fixture::now())
    }

    fn refused(claims: &Value) -> Reason {
        judge(&fixture::hs256(claims), &secret()).unwrap_err()
    }

    #[test]
    fn a_token_of_every_algorithm_is_verified() {
        assert_eq!(judge(&fixture::hs256(&claims()), &secret()).unwrap().claims["sub"], "42");
        for (algorithm, private, public) in [
            (Algorithm::RS256, fixture::RSA_PRIVATE, fixture::RSA_PUBLIC),
            (Algorithm::PS384, fixture::RSA_PRIVATE, fixture::RSA_PUBLIC),
            (Algorithm::ES256, fixture::P256_PRIVATE, fixture::P256_PUBLIC),
            (Algorithm::ES384, fixture::P384_PRIVATE, fixture::P384_PUBLIC),
            (Algorithm::EdDSA, fixture::ED_PRIVATE, fixture::ED_PUBLIC),
        ] {
            let token = signed(&Header::new(algorithm), &claims(), private);
            let verified = judge(&token, &set(public, algorithm)).unwrap();
            assert_eq!(verified.ends, UNIX_EPOCH + Duration::from_secs(NOW_S + 60));
            let (unsigned, _) = token.rsplit_once('.').unwrap();
            let forged = format!("{unsigned}.{}", b64(&[0; 64]));
            assert_eq!(judge(&forged, &set(public, algorithm)).unwrap_err(), Reason::Signature);
        }
    }

    #[test]
    fn s01_a_token_without_a_signature_is_refused() {
        for algorithm in ["none", "None", "NONE", "nOnE", ""] {
            let header = b64(json!({ "alg": algorithm, "typ": "JWT" }).to_string().as_bytes());
            let body = b64(claims().to_string().as_bytes());
            for token in [format!("{header}.{body}."), format!("{header}.{body}"), header.clone()] {
                assert_eq!(judge(&token, &secret()).unwrap_err(), Reason::Malformed, "{token}");
            }
        }
        let token = fixture::hs256(&claims());
        let (unsigned, _) = token.rsplit_once('.').unwrap();
        assert_eq!(judge(&format!("{unsigned}."), &secret()).unwrap_err(), Reason::Signature);
    }

    #[test]
    fn s02_hs256_signed_with_the_public_key_is_refused() {
        for (pem, algorithm) in
            [(fixture::RSA_PUBLIC, Algorithm::RS256), (fixture::P256_PUBLIC, Algorithm::ES256)]
        {
            let der = key::from_pem(pem.as_bytes(), &[algorithm]).ok().unwrap().decoding;
            let der = der.try_get_as_bytes().unwrap().to_vec();
            for secret in [pem.as_bytes(), pem.trim_end().as_bytes(), &der] {
                let token = fixture::hs(Algorithm::HS256, &claims(), secret);
                let refused = judge(&token, &set(pem, algorithm)).unwrap_err();
                assert_eq!(refused, Reason::Algorithm);
            }
        }
    }

    #[test]
    fn s02_an_algorithm_that_is_not_the_keys_is_refused() {
        let token = signed(&Header::new(Algorithm::PS256), &claims(), fixture::RSA_PRIVATE);
        let set = set(fixture::RSA_PUBLIC, Algorithm::RS256);
        assert_eq!(judge(&token, &set).unwrap_err(), Reason::Algorithm);
        let token = fixture::hs(Algorithm::HS512, &claims(), fixture::SECRET.as_bytes());
        assert_eq!(judge(&token, &secret()).unwrap_err(), Reason::Algorithm);
    }

    #[test]
    fn s03_a_kid_of_ten_kilobytes_is_no_name() {
        let header = Header { kid: Some("k".repeat(1000)), ..Header::new(Algorithm::HS256) };
        let token = signed(&header, &claims(), fixture::SECRET);
        assert_eq!(judge(&token, &secret()).unwrap_err(), Reason::UnknownKey);
        let header = Header { kid: Some("k".repeat(10_000)), ..Header::new(Algorithm::HS256) };
        let token = signed(&header, &claims(), fixture::SECRET);
        assert_eq!(judge(&token, &secret()).unwrap_err(), Reason::TooLong);
    }

    #[test]
    fn s04_keys_that_a_token_brings_along_are_ignored() {
        let own = serde_json::from_value::<Jwk>(fixture::jwk(
            fixture::P256_PRIVATE,
            Algorithm::ES256,
            "own",
        ));
        let header = Header {
            jku: Some("https://evil.example/keys".into()),
            x5u: Some("https://evil.example/cert".into()),
            jwk: Some(own.unwrap()),
            ..Header::new(Algorithm::ES256)
        };
        let token = signed(&header, &claims(), fixture::P256_PRIVATE);
        let other = set(fixture::OTHER_P256_PUBLIC, Algorithm::ES256);
        assert_eq!(judge(&token, &other).unwrap_err(), Reason::Signature);
        let right = set(fixture::P256_PUBLIC, Algorithm::ES256);
        assert!(judge(&token, &right).is_ok());
    }

    #[test]
    fn s05_times_that_are_no_numbers_are_refused() {
        let of_time = |name| [Reason::Claim(name), Reason::Malformed];
        for value in [json!("9999999999"), json!(null), json!([1]), json!(-1), json!(1e300)] {
            assert!(of_time("exp").contains(&refused(&with("exp", value.clone()))), "{value}");
            if !value.is_number() {
                assert!(of_time("nbf").contains(&refused(&with("nbf", value.clone()))), "{value}");
            }
        }
        assert_eq!(refused(&without("exp")), Reason::Claim("exp"));
    }

    #[test]
    fn s06_a_token_of_another_audience_or_issuer_is_refused() {
        for audience in
            [json!("Shop"), json!("shop2"), json!([]), json!(["a", 7]), json!({}), json!(null)]
        {
            assert_eq!(refused(&with("aud", audience.clone())), Reason::Claim("aud"), "{audience}");
        }
        assert_eq!(refused(&without("aud")), Reason::Claim("aud"));
        for issuer in [json!("https://id.example/"), json!(["https://id.example"]), json!(null)] {
            assert_eq!(refused(&with("iss", issuer.clone())), Reason::Claim("iss"), "{issuer}");
        }
        assert_eq!(refused(&without("iss")), Reason::Claim("iss"));
        let many = with("aud", json!(["other", "shop"]));
        assert!(judge(&fixture::hs256(&many), &secret()).is_ok());
    }

    #[test]
    fn s07_clocks_may_be_apart_by_the_leeway_and_no_more() {
        for (seconds, holds) in [(-29, true), (-30, false), (-90, false)] {
            let claims = with("exp", json!(NOW_S.checked_add_signed(seconds).unwrap()));
            assert_eq!(judge(&fixture::hs256(&claims), &secret()).is_ok(), holds, "exp {seconds}");
        }
        for (seconds, holds) in [(0, true), (30, true), (31, false), (90, false)] {
            let claims = with("nbf", json!(NOW_S + seconds));
            assert_eq!(judge(&fixture::hs256(&claims), &secret()).is_ok(), holds, "nbf {seconds}");
        }
    }

    #[test]
    fn what_a_header_demands_and_kck_does_not_know_is_refused() {
        let header = Header { crit: Some(vec!["b64".into()]), ..Header::new(Algorithm::HS256) };
        let token = signed(&header, &claims(), fixture::SECRET);
        assert_eq!(judge(&token, &secret()).unwrap_err(), Reason::Critical);
    }

    #[test]
    fn any_bytes_are_a_token_or_none() {
        let token = fixture::hs256(&claims());
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 0x04;
            assert!(verify(&bytes, &secret(), &rules(), fixture::now()).is_err(), "{at}");
            assert!(verify(&bytes[..at], &secret(), &rules(), fixture::now()).is_err(), "{at}");
        }
        for bytes in [&b""[..], b".", b"..", b"...", b"\xff.\xff.\xff", b"a.b.c.d"] {
            assert!(verify(bytes, &secret(), &rules(), fixture::now()).is_err());
        }
    }
}
