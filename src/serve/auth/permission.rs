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

/// A claim and a parameter that only the source can compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The parameter's index.
    pub parameter: usize,
    /// The claim, as text.
    pub claim: String,
    /// The parameter's text.
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
    judge(access, parameters, identity, |index, _| {
        let segment = key.as_str().split('/').nth(index + 1)?;
        let bound = key::decode(segment).ok()?;
        Some((Canonical::Text(bound.clone()), bound))
    })
}

/// As [`verdict`], for values as they came: those of an update, in the order of its parameters; NULL is no claim's.
#[must_use]
pub fn verdict_of_values(
    access: &Access,
    parameters: &[Parameter],
    values: &[Option<String>],
    identity: &Identity,
) -> Verdict {
    judge(access, parameters, identity, |index, parameter| {
        let value = values.get(index)?.as_ref()?;
        Some((parameter.canonical(value).ok()?, value.clone()))
    })
}

/// `bound` gives a parameter's canonical text, as far as kck knows it, and its text.
fn judge(
    access: &Access,
    parameters: &[Parameter],
    identity: &Identity,
    bound: impl Fn(usize, &Parameter) -> Option<(Canonical, String)>,
) -> Verdict {
    use Canonical::{AskSource, Text};
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
        let found = parameters.iter().enumerate().find(|(_, one)| one.name == binding.parameter);
        let claim = identity.claim(&binding.claim).and_then(text_of);
        let (Some((index, parameter)), Some(claim)) = (found, claim) else {
            return Verdict::Forbidden;
        };
        let (Some((is, bound)), Ok(must_be)) =
            (bound(index, parameter), parameter.canonical(&claim))
        else {
            return Verdict::Forbidden;
        };
        match (must_be, is) {
            (Text(must_be), Text(is)) if must_be == is => {}
            (Text(_), Text(_)) => return Verdict::Forbidden,
            // The same text is the same value, and what the source printed it reads as what it was.
            (AskSource, _) if claim == bound => {}
            _ => questions.push(Question { parameter: index, claim, bound }),
        }
    }
    if questions.is_empty() { Verdict::Allowed } else { Verdict::Ask(questions) }
}

/// Judges a read, and asks the source where only that knows.
///
/// # Errors
/// 401 or 403, and 503 when the source must be asked and cannot.
pub async fn permit(
    product: &Product,
    key: &Key,
    identity: &Identity,
    canonical: &Canonicaliser,
) -> Result<(), Problem> {
    let parameters = &product.parameters;
    let verdict = verdict(&product.draft.policy.access, parameters, key, identity);
    settle(verdict, parameters, canonical).await
}

/// Makes an answer of a verdict; the source is asked what is open.
///
/// # Errors
/// As [`permit`].
pub async fn settle(
    verdict: Verdict,
    parameters: &[Parameter],
    canonical: &Canonicaliser,
) -> Result<(), Problem> {
    let questions = match verdict {
        Verdict::Allowed => return Ok(()),
        Verdict::Unauthorized => return Err(Problem::unauthorized()),
        Verdict::Forbidden => return Err(Problem::forbidden()),
        Verdict::Ask(questions) => questions,
    };
    for Question { parameter, claim, bound } in questions {
        let Some(parameter) = parameters.get(parameter) else { return Err(Problem::forbidden()) };
        let must_be = canonical.of(parameter, &claim).await?;
        // What has no canonical text equals nothing.
        if must_be.is_none() || must_be != canonical.of(parameter, &bound).await? {
            return Err(Problem::forbidden());
        }
    }
    Ok(())
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
    fn values_of_an_update_are_compared_as_their_types_do() {
        let parameters = [parameter("id", 20, "bigint"), parameter("state", 16385, "shop.state")];
        let access = bound(&[("id", "sub"), ("state", "state")]);
        let judge = |id: Option<&str>, state: &str| {
            let values = [id.map(str::to_owned), Some(state.to_owned())];
            let identity = identity(&json!({ "sub": 7, "state": "new" }));
            verdict_of_values(&access, &parameters, &values, &identity)
        };
        assert_eq!(judge(Some(" 007"), "new"), Verdict::Allowed);
        assert_eq!(judge(Some("8"), "new"), Verdict::Forbidden);
        assert_eq!(judge(Some("x"), "new"), Verdict::Forbidden);
        assert_eq!(judge(None, "new"), Verdict::Forbidden);
        assert!(matches!(judge(Some("7"), "New"), Verdict::Ask(_)));
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
