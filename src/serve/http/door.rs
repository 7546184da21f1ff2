//! The door: what is decided of a request before its route: where it comes from, who sends it, and that it is
//! answered whatever happens inside.

use std::{convert::Infallible, net::IpAddr, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use hyper::{body::Incoming, service::Service};
use warp::{
    http::{HeaderValue, Method, Request, Version, header, uri::Authority},
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
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// What all connections share.
pub(super) struct Door<S> {
    routes: S,
    /// None while kck starts.
    context: Option<Arc<Context>>,
    origins: Origins,
    only_here: bool,
}

/// Who sends a request, and what its head says of the answer.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) who: Arc<Who>,
    pub(super) accept: Option<HeaderValue>,
    pub(super) accept_encoding: Option<HeaderValue>,
    pub(super) if_none_match: Option<HeaderValue>,
    pub(super) content_type: Option<HeaderValue>,
}

/// A header's text, if it is one.
pub(super) fn text(value: &Option<HeaderValue>) -> Option<&str> {
    value.as_ref().and_then(|value| value.to_str().ok())
}

/// A connection's own.
pub(super) struct Visitor {
    /// Nobody in particular.
    who: Arc<Who>,
    /// Who came last.
    last: permission::Last,
    phase: Phase,
}

impl Visitor {
    pub(super) fn new(who: Who, phase: Phase) -> Self {
        Self { who: Arc::new(who), last: permission::Last::default(), phase }
    }
}

impl<S> Door<S>
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
{
    pub(super) fn new(routes: S, context: Option<Arc<Context>>, settings: &Settings) -> Self {
        let (origins, only_here) = (settings.origins.clone(), settings.only_here);
        Self { routes, context, origins, only_here }
    }

    /// Somebody at this address.
    pub(super) fn somebody(&self, address: IpAddr) -> Who {
        Who::at(address, self.context.as_ref().is_none_or(|context| context.gate.is_open()))
    }

    /// Answers a request.
    pub(super) async fn answer(&self, visitor: &Visitor, request: Request<Incoming>) -> Response {
        let from = self.origins.of(&request);
        if let Some(mut answered) = from.preflight(&request) {
            answered.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
            return answered;
        }
        // Chunks may have come with a length, which hyper drops, and which a proxy in front may have believed: what
        // follows is nobody's to read (RFC 9112, 6.3).
        let doubtful = request.headers().contains_key(header::TRANSFER_ENCODING);
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
        let mut response = reply::settled(answered);
        let headers = response.headers_mut();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
        if doubtful {
            headers.insert(header::CONNECTION, CLOSE);
        }
        from.show(headers);
        response
    }

    /// One Host, and a sound one (RFC 9112, 3.2); where kck is open because it is only here, a name of here: a page can
    /// have its own name bound to this machine's address, and would then be kck's own page.
    fn check_host<B>(&self, request: &Request<B>) -> Result<(), Problem> {
        let refuse = |fact: &'static str| Err(Problem::bad_request("host", fact, "send one Host"));
        if request.headers().get_all(header::HOST).iter().nth(1).is_some() {
            return refuse("more than one Host in the head");
        }
        match origin::host(request.headers(), request.uri()) {
            None if request.version() == Version::HTTP_11 => refuse("no Host in the head"),
            None | Some("") => Ok(()),
            Some(host) if host.contains('@') || host.parse::<Authority>().is_err() => {
                refuse("the Host in the head is none")
            }
            Some(host) if self.only_here && !origin::is_here(host) && !self.origins.names(host) => {
                Err(Problem::foreign_host())
            }
            Some(_) => Ok(()),
        }
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
        self.check_host(&request)?;
        let who = match &self.context {
            Some(context) => {
                permission::check(context, &visitor.who, &visitor.last, &request).await?
            }
            None => Arc::clone(&visitor.who),
        };
        let of = |name| request.headers().get(name).cloned();
        let asked = Asked {
            who,
            accept: of(header::ACCEPT),
            accept_encoding: of(header::ACCEPT_ENCODING),
            if_none_match: of(header::IF_NONE_MATCH),
            content_type: of(header::CONTENT_TYPE),
        };
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
    /// The request was sent to a name that is not this machine's.
    fn foreign_host() -> Self {
        let hint = "ask for localhost or an address, or name the site in http.cors_origins; \
                    http.allow_open takes every name";
        Self::new(Kind::Forbidden, "kck is not served under this name", hint)
    }

    /// A page of another site would change something.
    fn foreign_page() -> Self {
        let hint = "name the page's origin in http.cors_origins";
        Self::new(Kind::Forbidden, "pages of this origin may not do this", hint)
    }
}
