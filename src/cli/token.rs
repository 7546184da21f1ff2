//! `kck token`: a token signed with the configured key, for development and for machines of one's own.

use std::{path::PathBuf, time::SystemTime};

use clap::Args;
use serde_json::{Map, Value};

use super::{ConfigArgs, Stop, say};
use crate::{
    config::parse_duration,
    serve::auth::{
        BadAuth, Gate, Settings,
        mint::{Grant, OWN_CLAIMS, Signer},
    },
};

/// Print a token that this kck takes.
#[derive(Debug, Args)]
pub(super) struct Token {
    #[command(flatten)]
    config: ConfigArgs,
    /// Whose it is.
    #[arg(long, value_name = "TEXT")]
    sub: String,
    /// What it allows, with blanks between: "orders:read kck:admin".
    #[arg(long, value_name = "SCOPES")]
    scope: Option<String>,
    /// Another claim; JSON where it is JSON, else a text. May be given again.
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    claims: Vec<String>,
    /// How long it holds.
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    ttl: String,
    /// The private key in PEM, instead of that of the settings.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl Token {
    pub(super) async fn run(self) -> Result<(), Stop> {
        let grant = self.grant()?;
        let settings = self.config.load()?.auth.ok_or_else(|| {
            Stop::usage(
                "there is no [auth.jwt], so no token is needed\n  hint: add it, with a secret_file",
            )
        })?;
        let now = SystemTime::now();
        let signer = self.signer(&settings)?;
        let gate = Gate::open(&settings).map_err(cannot)?;
        // Its keys say what this one is called.
        gate.look().await;
        signer.check(&gate, now).map_err(cannot)?;
        let token = signer.mint(&grant, now, &gate);
        say(&token.ok_or_else(|| Stop::cannot("the key signs no token"))?);
        Ok(())
    }

    fn signer(&self, settings: &Settings) -> Result<Signer, Stop> {
        if let Some(path) = &self.key {
            if settings.keys.is_secret() {
                let hint = "leave --key out: the secret signs";
                return Err(Stop::usage(format!("[auth.jwt] has a shared secret\n  hint: {hint}")));
            }
            return Signer::from_file(settings, "--key", path).map_err(cannot);
        }
        let hint = "give the private one: --key FILE, or [auth.login] signing_key_file";
        Signer::open(settings).map_err(cannot)?.ok_or_else(|| {
            Stop::cannot(format!(
                "only public keys are known here, and they sign nothing\n  hint: {hint}"
            ))
        })
    }

    fn grant(&self) -> Result<Grant, Stop> {
        let mut claims = Map::new();
        for claim in &self.claims {
            let named = claim.split_once('=').filter(|(name, _)| !name.is_empty());
            let (name, text) = named.ok_or_else(|| {
                Stop::usage(format!("--claim {claim}: it has no name\n  hint: --claim tenant=acme"))
            })?;
            if OWN_CLAIMS.contains(&name) {
                let hint = "sub is --sub, exp is --ttl, iss and aud are those of [auth.jwt]";
                return Err(Stop::usage(format!(
                    "--claim {name}: it is said otherwise\n  hint: {hint}"
                )));
            }
            let value = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
            claims.insert(name.to_owned(), value);
        }
        if let Some(scope) = &self.scope {
            claims.insert("scope".to_owned(), scope.as_str().into());
        }
        let lifetime = parse_duration(&self.ttl).filter(|lifetime| !lifetime.is_zero());
        let lifetime = lifetime.ok_or_else(|| {
            Stop::usage(format!("--ttl {}: no duration\n  hint: 15m, 1h, 7d", self.ttl))
        })?;
        Ok(Grant { subject: self.sub.clone(), claims, lifetime })
    }
}

fn cannot(bad: BadAuth) -> Stop {
    Stop::cannot(bad.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn token(claims: &[&str], ttl: &str) -> Token {
        Token {
            config: ConfigArgs { config: None },
            sub: "42".to_owned(),
            scope: Some("a b".to_owned()),
            claims: claims.iter().map(|claim| (*claim).to_owned()).collect(),
            ttl: ttl.to_owned(),
            key: None,
        }
    }

    #[test]
    fn claims_are_json_where_they_are_and_else_texts() {
        let grant = token(&["tenant=acme", "n=5", "text=\"5\"", "roles=[\"a\"]", "eq=a=b"], "15m");
        let grant = grant.grant().unwrap();
        let claims = Value::Object(grant.claims);
        let want = serde_json::json!({
            "tenant": "acme", "n": 5, "text": "5", "roles": ["a"], "eq": "a=b", "scope": "a b"
        });
        assert_eq!(claims, want);
        assert_eq!((grant.subject.as_str(), grant.lifetime), ("42", Duration::from_secs(900)));
    }

    #[test]
    fn what_is_said_otherwise_is_refused() {
        for (claims, ttl) in [
            (&["exp=1"][..], "1h"),
            (&["tenant"], "1h"),
            (&["=x"], "1h"),
            (&[], "0s"),
            (&[], "soon"),
        ] {
            assert_eq!(token(claims, ttl).grant().unwrap_err().code, 2, "{claims:?} {ttl}");
        }
    }
}
