//! Permission: what a product asks and what a token says → whether this key may be read.
//!
//! The verdict needs the key and no entry, so a refusal is the same whether or not there is an answer. Only scopes and
//! claims that the product names count: `kck:admin` opens kck's own routes, and no product's rows.

use crate::{
    key::{self, Key},
    product::{
        Access, Product,
        parameter::{Canonical, Parameter},
    },
};

use super::{
    super::{problem::Problem, resolve::Canonicaliser},
    Identity, text_of,
};

/// The scope that refresh, purge, why, metrics and status need.
pub const ADMIN: &str = "kck:admin";

/// Whether a key may be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allowed,
    /// Not without a token: 401.
    Unauthorized,
    /// Not with this one: 403.
    Forbidden,
    /// It may if the source prints each of these claims as its parameter's text.
    Ask(Vec<Question>),
}

/// A claim whose canonical text only the source knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The parameter's index in its product.
    pub parameter: usize,
    /// The claim, as text.
    pub claim: String,
    /// What its canonical text must be.
    pub bound: String,
}

/// Judges without asking the source. The key is one of these parameters' product.
#[must_use]
pub fn verdict(
    access: &Access,
    parameters: &[Parameter],
    key: &Key,
    identity: &Identity,
) -> Verdict {
    if access.public || identity.is_everyone() {
        return Verdict::Allowed;
    }
    if identity.is_nobody() {
        return Verdict::Unauthorized;
    }
    if access.scope.as_ref().is_some_and(|scope| !identity.has_scope(scope)) {
        return Verdict::Forbidden;
    }
    let mut questions = Vec::new();
    for binding in &access.claims {
        let found = parameters.iter().position(|parameter| parameter.name == binding.parameter);
        let claim = identity.claim(&binding.claim).and_then(text_of);
        let (Some(index), Some(claim)) = (found, claim) else { return Verdict::Forbidden };
        let parameter = parameters.get(index);
        let bound = key.as_str().split('/').nth(index + 1).and_then(|text| key::decode(text).ok());
        let (Some(parameter), Some(bound)) = (parameter, bound) else { return Verdict::Forbidden };
        match parameter.canonical(&claim) {
            Ok(Canonical::Text(canonical)) if canonical == bound => {}
            // What the source printed it reads as the same value.
            Ok(Canonical::AskSource) if claim == bound => {}
            Ok(Canonical::AskSource) => {
                questions.push(Question { parameter: index, claim, bound });
            }
            Ok(Canonical::Text(_)) | Err(_) => return Verdict::Forbidden,
        }
    }
    if questions.is_empty() { Verdict::Allowed } else { Verdict::Ask(questions) }
}

/// Judges, and asks the source where only that knows.
///
/// # Errors
/// 401 or 403, and 503 when the source must be asked and cannot.
pub async fn permit(
    product: &Product,
    key: &Key,
    identity: &Identity,
    canonical: &Canonicaliser,
) -> Result<(), Problem> {
    match verdict(&product.draft.policy.access, &product.parameters, key, identity) {
        Verdict::Allowed => Ok(()),
        Verdict::Unauthorized => Err(Problem::unauthorized()),
        Verdict::Forbidden => Err(Problem::forbidden()),
        Verdict::Ask(questions) => {
            for Question { parameter, claim, bound } in questions {
                let Some(parameter) = product.parameters.get(parameter) else {
                    return Err(Problem::forbidden());
                };
                let printed = canonical.of(parameter, &claim).await?;
                if printed.as_deref() != Some(bound.as_str()) {
                    return Err(Problem::forbidden());
                }
            }
            Ok(())
        }
    }
}

/// Whether kck's own routes may be used: refresh, purge, why, metrics, status.
///
/// # Errors
/// 401 or 403.
pub fn admin(identity: &Identity) -> Result<(), Problem> {
    known(identity)?;
    if identity.is_everyone() || identity.has_scope(ADMIN) {
        return Ok(());
    }
    Err(Problem::forbidden())
}

/// Whether routes may be used that need a valid token and no more.
///
/// # Errors
/// 401.
pub fn known(identity: &Identity) -> Result<(), Problem> {
    if identity.is_nobody() { Err(Problem::unauthorized()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        description::Type,
        product::{Binding, parameter::Form},
        serve::auth::fixture,
    };
    use serde_json::{Value, json};

    fn parameter(name: &str, oid: u32, type_name: &str) -> Parameter {
        let type_ = Type { oid, name: type_name.to_owned(), kind: 'b' };
        Parameter { name: name.to_owned(), form: Form::of(&type_), type_, default: None }
    }

    fn identity(claims: &Value) -> Identity {
        Identity::known(claims.as_object().unwrap().clone(), fixture::now())
    }

    fn bound(claims: &[(&str, &str)]) -> Access {
        let binding = |(parameter, claim): &(&str, &str)| Binding {
            parameter: (*parameter).to_owned(),
            claim: (*claim).to_owned(),
            offset: 0,
        };
        Access { claims: claims.iter().map(binding).collect(), ..Access::default() }
    }

    fn judge(access: &Access, values: &[&str], claims: &Value) -> Verdict {
        let parameters = [
            parameter("id", 20, "bigint"),
            parameter("state", 16385, "shop.state"),
            parameter("active", 16, "boolean"),
            parameter("name", 25, "text"),
        ];
        let key = Key::new("p", values.iter().copied());
        verdict(access, &parameters, &key, &identity(claims))
    }

    fn of_id(id: &str, claim: &Value) -> Verdict {
        judge(&bound(&[("id", "sub")]), &[id, "new", "t", "a/b"], &json!({ "sub": claim }))
    }

    #[test]
    fn s12_a_bound_parameter_must_be_the_claim() {
        for claim in [json!("1"), json!(1), json!("01"), json!(" +1")] {
            assert_eq!(of_id("1", &claim), Verdict::Allowed, "{claim}");
            assert_eq!(of_id("2", &claim), Verdict::Forbidden, "{claim}");
        }
        for claim in [
            json!(null),
            json!([1]),
            json!({"a": 1}),
            json!(""),
            json!("x"),
            json!(1.0),
            json!(true),
        ] {
            assert_eq!(of_id("1", &claim), Verdict::Forbidden, "{claim}");
        }
        let none = judge(&bound(&[("id", "sub")]), &["1", "new", "t", ""], &json!({}));
        assert_eq!(none, Verdict::Forbidden);
    }

    #[test]
    fn every_binding_must_hold() {
        let both = bound(&[("id", "sub"), ("name", "tenant"), ("active", "active")]);
        let values = ["1", "new", "t", "ac/me%"];
        let claims = json!({ "sub": "1", "tenant": "ac/me%", "active": true });
        assert_eq!(judge(&both, &values, &claims), Verdict::Allowed);
        for (name, value) in
            [("sub", json!("2")), ("tenant", json!("acme")), ("active", json!(false))]
        {
            let mut claims = claims.clone();
            claims[name] = value;
            assert_eq!(judge(&both, &values, &claims), Verdict::Forbidden, "{name}");
        }
    }

    #[test]
    fn what_only_the_source_can_print_is_asked_unless_it_is_the_same() {
        let access = bound(&[("state", "state")]);
        let judge =
            |claim: &str| judge(&access, &["1", "new", "t", ""], &json!({ "state": claim }));
        assert_eq!(judge("new"), Verdict::Allowed);
        let asked = Question { parameter: 1, claim: "NEW".to_owned(), bound: "new".to_owned() };
        assert_eq!(judge("NEW"), Verdict::Ask(vec![asked]));
    }

    #[test]
    fn a_scope_is_a_whole_word_of_the_token() {
        let access = Access { scope: Some("orders:read".to_owned()), ..Access::default() };
        let values = ["1", "new", "t", ""];
        for claims in [
            json!({ "scope": "a orders:read" }),
            json!({ "scp": ["orders:read"] }),
            json!({ "scopes": ["x", "orders:read"] }),
            json!({ "scp": "orders:read b" }),
        ] {
            assert_eq!(judge(&access, &values, &claims), Verdict::Allowed, "{claims}");
        }
        for claims in [
            json!({}),
            json!({ "scope": "orders:read2 orders" }),
            json!({ "scope": ADMIN }),
            json!({ "scp": [["orders:read"]] }),
            json!({ "scope": { "orders:read": true } }),
        ] {
            assert_eq!(judge(&access, &values, &claims), Verdict::Forbidden, "{claims}");
        }
    }

    #[test]
    fn an_admin_reads_no_rows_of_others() {
        let claims = json!({ "sub": "1", "scope": ADMIN });
        let access = bound(&[("id", "sub")]);
        assert_eq!(judge(&access, &["2", "new", "t", ""], &claims), Verdict::Forbidden);
    }

    #[test]
    fn without_a_token_only_what_is_public_is_allowed() {
        let key = Key::new("p", ["1"]);
        let public = Access { public: true, ..Access::default() };
        let judge = |access: &Access, identity| verdict(access, &[], &key, &identity);
        assert_eq!(judge(&public, Identity::nobody()), Verdict::Allowed);
        assert_eq!(judge(&Access::default(), Identity::nobody()), Verdict::Unauthorized);
        assert_eq!(judge(&Access::default(), identity(&json!({}))), Verdict::Allowed);
        assert_eq!(judge(&bound(&[("id", "sub")]), Identity::everyone()), Verdict::Allowed);
        assert!(known(&Identity::nobody()).is_err() && known(&identity(&json!({}))).is_ok());
    }

    #[test]
    fn s15_kcks_own_routes_need_the_admins_scope() {
        let status = |identity: &Identity| admin(identity).map_err(|problem| problem.status());
        assert_eq!(status(&Identity::everyone()), Ok(()));
        assert_eq!(status(&identity(&json!({ "scope": "x kck:admin" }))), Ok(()));
        assert_eq!(status(&identity(&json!({ "scope": "kck:administrator" }))), Err(403));
        assert_eq!(status(&Identity::nobody()), Err(401));
    }

    #[test]
    fn a_refusal_is_the_same_whatever_is_missing() {
        assert_eq!(
            Problem::forbidden().to_json(),
            admin(&identity(&json!({}))).unwrap_err().to_json()
        );
        assert!(Problem::forbidden().args.is_empty() && Problem::unauthorized().args.is_empty());
    }
}
