//! `[auth.jwt]` and `[auth.login]` → how tokens are verified and made.

use std::path::Path;

use super::{BadSetting, Raw, bad};
use crate::serve::auth::{Algorithm, KeySource, LoginSettings, Settings};

const JWT: &str = "auth.jwt";
const LOGIN: &str = "auth.login";

/// Sections that are off unless something in them is given.
pub(super) const SECTIONS: [&str; 2] = [JWT, LOGIN];

/// What the two sections say; none where neither is given, and then nobody is asked who they are.
pub(super) fn check(raw: &Raw, directory: &Path) -> Result<Option<Settings>, BadSetting> {
    if !raw.given(JWT) {
        if raw.given(LOGIN) {
            let fact = "a login without [auth.jwt] opens nothing".to_owned();
            return Err(bad("[auth.login]", fact, "add [auth.jwt], or leave it out"));
        }
        return Ok(None);
    }
    let settings = Settings {
        algorithms: algorithms(raw)?,
        keys: keys(raw, directory)?,
        issuer: raw.optional(JWT, "issuer"),
        audience: raw.text(JWT, "audience"),
        leeway: raw.duration(JWT, "leeway")?,
        signing_key_file: raw.optional(LOGIN, "signing_key_file").map(|path| directory.join(path)),
        login: login(raw)?,
    };
    settings.check().map_err(|error| bad(error.name, error.fact, &error.hint))?;
    Ok(Some(settings))
}

/// Those that are named; HS256 where there is a secret and nothing is said.
fn algorithms(raw: &Raw) -> Result<Vec<Algorithm>, BadSetting> {
    let text = raw.text(JWT, "algorithms");
    if text.is_empty() && (raw.has(JWT, "secret") || raw.has(JWT, "secret_file")) {
        return Ok(vec![Algorithm::HS256]);
    }
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| {
            name.parse().map_err(|_| {
                let hint =
                    "use HS256 to HS512, RS256 to RS512, PS256 to PS512, ES256, ES384 or EdDSA";
                bad("[auth.jwt] algorithms", format!("'{name}' is no algorithm"), hint)
            })
        })
        .collect()
}

fn keys(raw: &Raw, directory: &Path) -> Result<KeySource, BadSetting> {
    const HINT: &str = "name one of secret_file, secret, key_file, jwks_file and jwks_url";
    let file = |name| raw.optional(JWT, name).map(|path| directory.join(path));
    let named = [
        raw.optional(JWT, "secret").map(KeySource::Secret),
        file("secret_file").map(KeySource::SecretFile),
        file("key_file").map(KeySource::KeyFile),
        file("jwks_file").map(KeySource::JwksFile),
        raw.optional(JWT, "jwks_url").map(KeySource::JwksUrl),
    ];
    let mut named = named.into_iter().flatten();
    match (named.next(), named.next()) {
        (Some(keys), None) => Ok(keys),
        (None, _) => Err(bad("[auth.jwt]", "nothing says where its keys are".to_owned(), HINT)),
        (Some(one), Some(other)) => {
            let fact = format!("{} and {} are both given", one.setting(), other.setting());
            Err(bad("[auth.jwt]", fact, HINT))
        }
    }
}

fn login(raw: &Raw) -> Result<Option<LoginSettings>, BadSetting> {
    let Some(query) = raw.optional(LOGIN, "query") else { return Ok(None) };
    let lifetime = raw.duration(LOGIN, "lifetime")?;
    if lifetime.is_zero() {
        let fact = "a token that holds for no time opens nothing".to_owned();
        return Err(bad("[auth.login] lifetime", fact, "write 15m, 1h or 12h"));
    }
    Ok(Some(LoginSettings { query, lifetime }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::time::Duration;

    const GOOD: &str = "[auth.jwt]\naudience = \"shop\"\nsecret_file = \"s\"\n";

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, BadSetting> {
        let environment: Vec<_> =
            environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::parse(text, Path::new("kck.toml"), Path::new("dir"), &environment)
    }

    fn refused(text: &str) -> String {
        parse(text, &[]).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn without_the_section_nobody_is_asked_who_they_are() {
        assert!(parse("", &[]).unwrap().auth.is_none());
    }

    #[test]
    fn a_section_without_keys_is_never_open() {
        for text in [
            "[auth.jwt]",
            "[auth]\njwt = {}",
            "[auth.jwt]\nissuer = \"\"",
            "[auth.jwt]\nsecret = \"\"",
        ] {
            assert!(refused(text).contains("nothing says where its keys are"), "{text}");
        }
        let empty = parse("", &[("KCK_AUTH__JWT__SECRET", "")]);
        assert!(empty.is_err(), "a variable that came out empty opens nothing");
        assert!(refused("[auth.login]\nquery = \"select 1\"").contains("add [auth.jwt]"));
        assert!(refused("[auth]").contains("no such setting"));
    }

    #[test]
    fn every_setting_is_read() {
        let text = "[auth.jwt]\nalgorithms = [\"ES256\", \"EdDSA\"]\njwks_file = \"keys.json\"\nissuer = \"i\"\n\
                    audience = \"a\"\nleeway = \"10s\"\n[auth.login]\nquery = \"select 1\"\nlifetime = \"2h\"\n\
                    signing_key_file = \"private.pem\"";
        let want = Settings {
            algorithms: vec![Algorithm::ES256, Algorithm::EdDSA],
            keys: KeySource::JwksFile("dir/keys.json".into()),
            issuer: Some("i".to_owned()),
            audience: "a".to_owned(),
            leeway: Duration::from_secs(10),
            signing_key_file: Some("dir/private.pem".into()),
            login: Some(LoginSettings {
                query: "select 1".to_owned(),
                lifetime: Duration::from_secs(7200),
            }),
        };
        assert_eq!(parse(text, &[]).unwrap().auth, Some(want));
    }

    #[test]
    fn a_secret_means_hs256_and_half_a_minute() {
        let settings = parse(GOOD, &[]).unwrap().auth.unwrap();
        assert_eq!(settings.algorithms, [Algorithm::HS256]);
        assert_eq!(settings.leeway, Duration::from_secs(30));
        assert_eq!(settings.keys, KeySource::SecretFile("dir/s".into()));
    }

    #[test]
    fn the_environment_names_sections_with_two_underscores() {
        let settings = parse(
            GOOD,
            &[("KCK_AUTH__JWT__ISSUER", "here"), ("KCK_AUTH__LOGIN__QUERY", "select 1")],
        );
        let settings = settings.unwrap().auth.unwrap();
        assert_eq!(settings.issuer.as_deref(), Some("here"));
        assert_eq!(settings.login.unwrap().lifetime, Duration::from_secs(3600));
        assert!(parse("", &[("KCK_AUTH__JWT__ISSUERR", "x")]).is_err());
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for (text, want) in [
            ("[auth.jwt]\nsecret_file = \"s\"", "[auth.jwt] audience: it is missing"),
            ("[auth.jwt]\nsecret_file = \"s\"\nkey_file = \"k\"", "are both given"),
            ("[auth.jwt]\naudience = \"a\"\nkey_file = \"k\"", "no algorithm is named"),
            (
                "[auth.jwt]\naudience = \"a\"\nkey_file = \"k\"\nalgorithms = [\"HS256\"]",
                "does not go with",
            ),
            (
                "[auth.jwt]\naudience = \"a\"\nkey_file = \"k\"\nalgorithms = [\"none\"]",
                "'none' is no algorithm",
            ),
            ("[auth.jwt]\naudience = \"a\"\nsecret_file = \"s\"\nleeway = \"2m\"", "at most 60s"),
            ("[auth.jwt]\nisuer = \"a\"", "did you mean [auth.jwt] issuer?"),
            ("[auth.jwt]\nissuer = { a = 1 }", "a table is not taken here"),
            ("[auth.jtw]\nissuer = \"a\"", "did you mean [auth.jwt] issuer?"),
        ] {
            assert!(refused(text).contains(want), "{text}: {}", refused(text));
        }
        let zero = format!("{GOOD}[auth.login]\nquery = \"select 1\"\nlifetime = \"0s\"");
        assert!(refused(&zero).contains("holds for no time"));
    }

    #[test]
    fn with_auth_kck_listens_beyond_loopback() {
        assert!(parse(&format!("[http]\nlisten = \"0.0.0.0:80\"\n{GOOD}"), &[]).is_ok());
    }

    #[test]
    fn the_secret_is_not_printed_and_what_is_printed_can_be_read() {
        let secret = "geheim geheim geheim geheim geheim";
        let text = format!("[auth.jwt]\naudience = \"shop\"\nsecret = \"{secret}\"");
        let config = parse(&text, &[]).unwrap();
        assert!(!config.print().contains("geheim"), "{}", config.print());
        assert!(config.print().contains("secret = \"(hidden)\""));
        assert!(!parse("", &[]).unwrap().print().contains("auth"));
        assert!(parse(parse(GOOD, &[]).unwrap().print(), &[]).is_ok());
    }
}
