//! Jwks: the JSON of a key set → keys by `kid`; what is not taken is left out and said once.

use std::collections::{HashMap, HashSet};

use jsonwebtoken::{Algorithm, jwk::Jwk};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::key::{self, Key};

/// Keys of one set.
const KEYS_MAX: usize = 100;
/// A `kid` is only looked up: no longer one is a name.
pub(super) const KID_BYTES_MAX: usize = 256;

/// The keys that verify.
#[derive(Default)]
pub(super) struct Set {
    by_id: HashMap<String, Key>,
    /// Keys without a name.
    unnamed: Vec<Key>,
}

impl Set {
    /// One key, whatever name a token gives it.
    pub(super) fn single(key: Key) -> Self {
        Self { by_id: HashMap::new(), unnamed: vec![key] }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len() + self.unnamed.len()
    }

    /// The key of that name. A set with one key needs no names, unless key and token both have one.
    pub(super) fn key(&self, id: Option<&str>) -> Option<&Key> {
        match id {
            Some(id) if !self.by_id.is_empty() => self.by_id.get(id),
            _ if self.len() == 1 => self.unnamed.first().or_else(|| self.by_id.values().next()),
            _ => None,
        }
    }

    /// All keys with their names.
    pub(super) fn keys(&self) -> impl Iterator<Item = (Option<&str>, &Key)> {
        let named = self.by_id.iter().map(|(id, key)| (Some(id.as_str()), key));
        named.chain(self.unnamed.iter().map(|key| (None, key)))
    }
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// The keys of a set that may be used, and why others may not.
pub(super) fn read(json: &[u8], algorithms: &[Algorithm]) -> Result<(Set, Vec<String>), String> {
    let document: Document<'_> = serde_json::from_slice(json)
        .map_err(|error| format!("it is no key set: {}", error.to_string().replace('\n', " ")))?;
    let mut faults = Vec::new();
    if document.keys.len() > KEYS_MAX {
        faults.push(format!("only the first {KEYS_MAX} keys are read"));
    }
    let mut set = Set::default();
    let mut twice = HashSet::new();
    for (index, json) in document.keys.iter().take(KEYS_MAX).enumerate() {
        let Ok(jwk) = serde_json::from_str::<Jwk>(json.get()) else {
            faults.push(format!("key {} is not understood", index + 1));
            continue;
        };
        let id = jwk.common.key_id.clone();
        let key = match key::from_jwk(&jwk, algorithms) {
            Ok(key) => key,
            Err(refused) => {
                faults.push(format!("key {} is left out: {}", index + 1, refused.fact));
                continue;
            }
        };
        match id {
            None => set.unnamed.push(key),
            Some(id) if id.len() > KID_BYTES_MAX => {
                faults.push(format!("key {} is left out: its `kid` is too long", index + 1));
            }
            Some(id) => {
                if set.by_id.insert(id.clone(), key).is_some() {
                    twice.insert(id);
                }
            }
        }
    }
    // Which of them is meant nobody can tell.
    for id in &twice {
        set.by_id.remove(id);
        faults.push(format!("keys that share a `kid` are left out: {:.40}", id.escape_debug()));
    }
    Ok((set, faults))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::auth::fixture::{self, jwk};
    use serde_json::{Value, json};

    fn faults(keys: &[Value]) -> (usize, Vec<String>) {
        let algorithms = [Algorithm::RS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA];
        let json = json!({ "keys": keys }).to_string();
        let (set, faults) = read(json.as_bytes(), &algorithms).unwrap();
        (set.len(), faults)
    }

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    #[test]
    fn sound_keys_are_taken() {
        let rsa = jwk(fixture::RSA_PRIVATE, Algorithm::RS256, "a");
        let p256 = jwk(fixture::P256_PRIVATE, Algorithm::ES256, "b");
        let ed = jwk(fixture::ED_PRIVATE, Algorithm::EdDSA, "c");
        let more = with(with(rsa.clone(), "kid", json!("d")), "x5c", json!(["MIIB"]));
        let named = with(more, "use", json!("sig"));
        assert_eq!(faults(&[rsa, p256, ed, named]), (4, vec![]));
    }

    #[test]
    fn s09_what_is_weak_double_or_of_another_curve_is_left_out() {
        let rsa = jwk(fixture::RSA_PRIVATE, Algorithm::RS256, "a");
        let p256 = jwk(fixture::P256_PRIVATE, Algorithm::ES256, "b");
        let without_alg = |mut key: Value| {
            key.as_object_mut().unwrap().remove("alg");
            key
        };
        for (keys, want) in [
            (vec![rsa.clone(), with(p256.clone(), "kid", json!("a"))], "share a `kid`"),
            (vec![with(rsa.clone(), "n", json!("AQAB"))], "an RSA key of 17 bits is not taken"),
            (vec![with(rsa.clone(), "e", json!("AQ"))], "its exponent is no exponent"),
            (vec![with(rsa.clone(), "use", json!("enc"))], "its `use` is not `sig`"),
            (vec![with(rsa.clone(), "key_ops", json!(["encrypt"]))], "has no `verify`"),
            (vec![with(rsa.clone(), "alg", json!("RS512"))], "for none of [auth.jwt] algorithms"),
            (vec![with(rsa.clone(), "alg", json!("RSA-OAEP"))], "for none of"),
            (vec![with(rsa, "kid", json!("k".repeat(300)))], "`kid` is too long"),
            (vec![with(without_alg(p256.clone()), "crv", json!("P-384"))], "not of its curve"),
            (vec![with(p256.clone(), "y", p256["x"].clone())], "no point of its curve"),
            (vec![with(p256, "crv", json!("P-521"))], "neither P-256 nor P-384"),
            (vec![json!({"kty":"oct","k":"c2VjcmV0","kid":"s"})], "it is a shared secret"),
            (vec![json!({"kty":"RSA"})], "its `kty` is unknown"),
            (vec![json!(7)], "key 1 is not understood"),
        ] {
            let (taken, faults) = faults(&keys);
            assert_eq!(taken, 0, "{faults:?}");
            assert!(faults[0].contains(want), "{faults:?} {want}");
        }
    }

    #[test]
    fn any_bytes_are_a_set_or_an_error() {
        for bytes in [&b""[..], b"{}", b"[]", b"\xff", br#"{"keys":{}}"#] {
            assert!(read(bytes, &[Algorithm::RS256]).is_err());
        }
        assert!(read(br#"{"keys":[]}"#, &[Algorithm::RS256]).unwrap().0.is_empty());
    }

    #[test]
    fn s03_a_kid_is_only_looked_up() {
        let key = |id| jwk(fixture::P256_PRIVATE, Algorithm::ES256, id);
        let set = |keys: &[Value]| {
            read(json!({ "keys": keys }).to_string().as_bytes(), &[Algorithm::ES256]).unwrap().0
        };
        let two = set(&[key("a"), key("b")]);
        assert!(two.key(Some("a")).is_some());
        for id in ["../../etc/passwd", "' or 1=1--", "http://127.0.0.1/", "A", ""] {
            assert!(two.key(Some(id)).is_none(), "{id}");
        }
        assert!(two.key(None).is_none(), "which of two keys is meant must be said");
        let one = set(&[key("a")]);
        assert!(one.key(None).is_some() && one.key(Some("b")).is_none());
    }
}
