//! Which route needs whom: nobody, whoever a product lets in, a token, or one with the admin scope.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use warp::http::{HeaderMap, HeaderValue, Request, header};

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
        "refresh" | "purge" | "why" | "metrics" | "status" | "processes" => Need::Admin,
        _ => Need::Token,
    }
}

/// Where a token may come as a subprotocol.
const SOCKET: &str = "/subscribe/ws";

/// How long a connection goes by what was found of its last token: keys that are taken away count so much later.
const REMEMBERED: Duration = Duration::from_secs(1);

/// Who came last on a connection, with which header.
#[derive(Debug, Default)]
pub(super) struct Last(Mutex<Option<Known>>);

#[derive(Debug)]
struct Known {
    header: HeaderValue,
    who: Arc<Who>,
    until: Instant,
}

impl Last {
    fn known(&self, header: &HeaderValue) -> Option<Arc<Who>> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.as_ref().filter(|last| last.header == *header)?;
        (Instant::now() < known.until).then(|| Arc::clone(&known.who))
    }

    fn remember(&self, header: &HeaderValue, who: &Arc<Who>) {
        let until = Instant::now() + REMEMBERED;
        let until = who.ends.map_or(until, |ends| ends.min(until));
        let known = Known { header: header.clone(), who: Arc::clone(who), until };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }
}

/// Who sends a request, if they may ask this route at all; `nobody` is who has no token here.
pub(super) async fn check<B>(
    context: &Context,
    nobody: &Arc<Who>,
    last: &Last,
    request: &Request<B>,
) -> Result<Arc<Who>, Problem> {
    if context.gate.is_open() {
        return Ok(Arc::clone(nobody));
    }
    let need = need(request.uri().path());
    if need == Need::Nothing {
        return Ok(Arc::clone(nobody));
    }
    let mut named = request.headers().get_all(header::AUTHORIZATION).iter();
    let (named, second) = (named.next(), named.next());
    if second.is_some() {
        return Err(Problem::unauthorized());
    }
    let who = match named.and_then(|header| last.known(header)) {
        Some(who) => who,
        None => {
            let socket = request.uri().path() == SOCKET;
            let who = found(context, nobody, (need, socket), (named, request.headers())).await?;
            named.inspect(|header| last.remember(header, &who));
            who
        }
    };
    if need == Need::Admin {
        permission::admin(&who.identity)?;
    }
    Ok(who)
}

async fn found(
    context: &Context,
    nobody: &Arc<Who>,
    (need, socket): (Need, bool),
    (named, headers): (Option<&HeaderValue>, &HeaderMap),
) -> Result<Arc<Who>, Problem> {
    let gate = &context.gate;
    // A page that opens a socket can send its token in no other way.
    let token = named.map(HeaderValue::as_bytes);
    let offered = || subscribe::token(headers).filter(|_| socket).map(str::as_bytes);
    let token = token.or_else(offered);
    let identity = match (token.and_then(|token| gate.remembered(token)), need) {
        (Some(identity), _) => identity,
        // Boxed because a token is seldom seen for the first time: what is large here is moved with every request.
        (None, Need::Product) => Box::pin(gate.identify_or_nobody(token)).await?,
        (None, _) => Box::pin(gate.identify(token)).await?,
    };
    if identity.is_nobody() {
        return Ok(Arc::clone(nobody));
    }
    let ends = gate.ends(&identity);
    Ok(Arc::new(nobody.with(identity, ends)))
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
            ("/processes", Need::Admin),
            ("/processes/nightly/run", Need::Admin),
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
