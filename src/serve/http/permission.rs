//! Which route needs whom: nobody, whoever a product lets in, a token, or one with the admin scope.

use std::sync::Arc;

use warp::http::{HeaderValue, Request, header};

use crate::serve::{Context, Who, auth::permission, problem::Problem};

use super::subscribe;

/// What a route asks of who sends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing.
    Nothing,
    /// What the product or the update asks, which may be nothing.
    Product,
    /// A token that holds.
    Token,
    /// One with the admin scope.
    Admin,
}

/// Of a path; what is not there needs a token too, so that who has none learns nothing.
fn need(path: &str) -> Need {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "fetch" | "subscribe" | "update" | "create" => Need::Product,
        "healthz" | "readyz" | "login" => Need::Nothing,
        "refresh" | "purge" | "why" | "metrics" | "status" => Need::Admin,
        _ => Need::Token,
    }
}

/// Finds out who sends a request, and whether they may ask this route at all.
pub(super) async fn check<B>(
    context: &Context,
    who: &mut Arc<Who>,
    request: &Request<B>,
) -> Result<(), Problem> {
    let gate = &context.gate;
    let need = need(request.uri().path());
    if gate.is_open() || need == Need::Nothing {
        return Ok(());
    }
    let mut named = request.headers().get_all(header::AUTHORIZATION).iter();
    let (named, second) = (named.next().map(HeaderValue::as_bytes), named.next());
    if second.is_some() {
        return Err(Problem::unauthorized());
    }
    // A page that opens a socket can send its token in no other way.
    let token = named.or_else(|| subscribe::token(request.headers()).map(str::as_bytes));
    let identity = match (token.and_then(|token| gate.remembered(token)), need) {
        (Some(identity), _) => identity,
        // Boxed because a token is seldom seen for the first time: what is large here is moved with every request.
        (None, Need::Product) => Box::pin(gate.identify_or_nobody(token)).await?,
        (None, _) => Box::pin(gate.identify(token)).await?,
    };
    if need == Need::Admin {
        permission::admin(&identity)?;
    }
    if !identity.is_nobody() {
        let ends = gate.ends(&identity);
        *who = Arc::new(who.with(identity, ends));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_needs_a_token() {
        for (path, want) in [
            ("/fetch/p/1", Need::Product),
            ("/fetch", Need::Product),
            ("/subscribe/ws", Need::Product),
            ("/healthz", Need::Nothing),
            ("/login/ann", Need::Nothing),
            ("/purge/p", Need::Admin),
            ("/metrics", Need::Admin),
            ("/metricsx", Need::Token),
            ("/products", Need::Token),
            ("/openapi.json", Need::Token),
            ("/keys/p", Need::Token),
            ("//metrics", Need::Admin),
            ("/", Need::Token),
            ("*", Need::Token),
        ] {
            assert_eq!(need(path), want, "{path}");
        }
    }
}
