//! The door: what is decided of a request before its route: where it comes from, who sends it, and that it is
//! answered whatever happens inside.

use std::{convert::Infallible, net::IpAddr, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use hyper::{body::Incoming, service::Service};
use warp::{
    http::{HeaderValue, Method, Request, Version, header},
    reply::Response,
};

use crate::serve::{
    Context, Who,
    problem::{Kind, Problem},
};

use super::{
    Settings, fetch,
    origin::{self, Origins},
    patience::Phase,
    permission, reply,
};

const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// What all connections share.
pub(super) struct Door<S> {
    routes: S,
    /// None while kck starts.
    context: Option<Arc<Context>>,
    origins: Origins,
}

/// Who sends a request, and what its head says of the answer.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) who: Arc<Who>,
    pub(super) accept: Option<HeaderValue>,
    pub(super) accept_encoding: Option<HeaderValue>,
    pub(super) if_none_match: Option<HeaderValue>,
}

/// A header's text, if it is one.
pub(super) fn text(value: &Option<HeaderValue>) -> Option<&str> {
    value.as_ref().and_then(|value| value.to_str().ok())
}

/// A connection's own.
pub(super) struct Visitor {
    /// Nobody in particular.
    who: Arc<Who>,
    phase: Phase,
}

impl Visitor {
    pub(super) fn new(who: Who, phase: Phase) -> Self {
        Self { who: Arc::new(who), phase }
    }
}

impl<S> Door<S>
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
{
    pub(super) fn new(routes: S, context: Option<Arc<Context>>, settings: &Settings) -> Self {
        Self { routes, context, origins: settings.origins.clone() }
    }

    /// Somebody at this address.
    pub(super) fn somebody(&self, address: IpAddr) -> Who {
        Who::at(address, self.context.as_ref().is_none_or(|context| context.gate.is_open()))
    }

    /// Answers a request.
    pub(super) async fn answer(&self, visitor: &Visitor, request: Request<Incoming>) -> Response {
        let from = self.origins.of(&request);
        if let Some(answered) = from.preflight(&request) {
            return answered;
        }
        let acts = !matches!(*request.method(), Method::GET | Method::HEAD)
            || request.headers().contains_key(header::UPGRADE);
        let answered = if acts && !from.may_act() {
            Err(Problem::foreign_page())
        } else {
            let answered = AssertUnwindSafe(self.route(visitor, request)).catch_unwind().await;
            answered.unwrap_or_else(|_| {
                tracing::error!("a request made kck panic");
                Err(Problem::internal())
            })
        };
        let mut response = answered.unwrap_or_else(|problem| reply::problem(&problem));
        let headers = response.headers_mut();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
        from.show(headers);
        response
    }

    /// Asks the routes, save for what they cannot take: warp panics where a request has no path (CONNECT).
    async fn route(
        &self,
        visitor: &Visitor,
        mut request: Request<Incoming>,
    ) -> Result<Response, Problem> {
        if request.uri().path_and_query().is_none() {
            return Err(Problem::not_found(""));
        }
        let named = request.version() != Version::HTTP_11
            || origin::host(request.headers(), request.uri()).is_some();
        if !named {
            return Err(Problem::bad_request("host", "no Host in the head", "send one"));
        }
        let mut who = Arc::clone(&visitor.who);
        if let Some(context) = &self.context {
            permission::check(context, &mut who, &request).await?;
        }
        let of = |name| request.headers().get(name).cloned();
        let (accept, accept_encoding) = (of(header::ACCEPT), of(header::ACCEPT_ENCODING));
        let asked =
            Asked { who, accept, accept_encoding, if_none_match: of(header::IF_NONE_MATCH) };
        // A hit needs none of the filters, and would pay for each.
        if let (Some(context), Some(key)) = (&self.context, key_in(&request)) {
            return Ok(fetch::at(context, &asked, request.uri().query(), key).await);
        }
        request.extensions_mut().insert(asked);
        if request.headers().contains_key(header::UPGRADE) {
            request.extensions_mut().insert(visitor.phase.clone());
        }
        match self.routes.call(request).await {
            Ok(response) => Ok(response),
            Err(never) => match never {},
        }
    }
}

/// The path of a key that is fetched.
fn key_in<B>(request: &Request<B>) -> Option<&str> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let key = request.uri().path().strip_prefix("/fetch/").filter(|key| !key.is_empty());
    key.filter(|_| reads)
}

impl Problem {
    /// A page of another site would change something.
    fn foreign_page() -> Self {
        let hint = "name the page's origin in http.cors_origins";
        Self::new(Kind::Forbidden, "pages of this origin may not do this", hint)
    }
}
