//! HTTP: requests → reads → JSON. All routes at a glance, one file a family.
//!
//! warp's filters say what belongs where; [`serve`] runs them on kck's own accept loop, because slow clients,
//! connection limits and a drain deadline are decided below the filters. Routes turn texts into the
//! vocabulary and answers into JSON; what a read means is in [`super::read`].
//!
//! Invariant: every request is answered by exactly one line of `routes`, failures included: nothing is
//! left to warp's own texts.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use warp::{
    Filter, Rejection,
    http::{HeaderValue, Method, header::ALLOW},
    path::FullPath,
    reply::Response,
};

use super::{Context, problem::Problem};

mod body;
mod catalogue;
mod door;
mod explain;
mod fetch;
mod health;
mod listen;
mod manage;
mod metrics;
mod origin;
mod patience;
mod permission;
mod query;
mod reply;
mod starting;
mod subscribe;
mod tls;
mod update;

use door::Asked;
use patience::Phase;
use subscribe::{Opener, Upgrade};

pub use listen::{serve, starting};
pub use origin::Origins;
pub use tls::{BadTls, Files, Tls};

/// How HTTP is spoken.
#[derive(Clone, Default)]
pub struct Settings {
    /// Encrypted, by these files.
    pub tls: Option<Tls>,
    /// The sites whose pages may ask.
    pub origins: Origins,
}

/// Every route's path, with the methods that it takes; empty for those that are not built yet.
/// A trailing `*` stands for any rest.
const PATHS: &[(&str, &str)] = &[
    ("/fetch", "GET, HEAD, POST"),
    ("/fetch/*", "GET, HEAD"),
    ("/products", "GET, HEAD"),
    ("/status", "GET, HEAD"),
    ("/healthz", "GET, HEAD"),
    ("/readyz", "GET, HEAD"),
    ("/metrics", "GET, HEAD"),
    ("/", ""),
    ("/subscribe", "GET"),
    ("/subscribe/ws", "GET"),
    ("/update/*", "PUT, POST"),
    ("/create/*", "PUT, POST"),
    ("/refresh", "POST"),
    ("/refresh/*", "POST"),
    ("/purge", "POST"),
    ("/purge/*", "POST"),
    ("/login/*", ""),
    ("/logout", ""),
    ("/keys/*", "GET, HEAD"),
    ("/explain/*", "GET, HEAD"),
    ("/why", "GET, HEAD"),
    ("/why/*", "GET, HEAD"),
    ("/processes", ""),
    ("/openapi.json", ""),
];

/// What answers a request. Nothing is rejected: the last route takes all that is left.
fn routes(
    context: &Arc<Context>,
    shutdown: &CancellationToken,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let opener = Opener { context: Arc::clone(context), shutdown: shutdown.clone() };
    let opener = warp::any().map(move || opener.clone());
    let context = Arc::clone(context);
    let context = warp::any().map(move || Arc::clone(&context));
    let read = warp::get().or(warp::head()).unify();
    let query = warp::query::raw().map(Some).or(warp::any().map(|| None)).unify();
    let at = |name| warp::path(name).and(warp::path::end());
    let sent = warp::ext::get::<Asked>();
    let given = context.clone().and(query);
    let asked = context.clone().and(sent).and(query);
    let subscribed = opener.and(sent).and(query).and(warp::header::headers_cloned());

    let fetch = warp::path("fetch").and(read);
    let fetch = fetch.and(asked.clone()).and(warp::path::tail()).then(fetch::get);
    let fetch_many = at("fetch").and(warp::post()).and(asked.clone());
    let fetch_many = fetch_many.and(warp::body::stream()).then(fetch::post);
    let events = at("subscribe").and(warp::get()).and(subscribed.clone()).then(subscribe::events);
    let socket = warp::path!("subscribe" / "ws").and(warp::get()).and(subscribed);
    let upgrade = warp::ext::get::<Phase>().and(warp::ws());
    let upgrade = upgrade.map(|phase, ws| Upgrade { phase, ws });
    let socket = socket.and(upgrade).then(subscribe::socket);
    let products = at("products").and(read).and(given.clone()).map(catalogue::products);
    let explain = warp::path("explain").and(read).and(given.clone());
    let explain = explain.and(warp::path::param()).and(warp::path::end()).map(explain::explain);
    let named = |name| warp::path(name).and(asked.clone()).and(warp::path::tail());
    let keys = warp::path("keys").and(read).and(asked.clone());
    let keys = keys.and(warp::path::param()).and(warp::path::end()).then(manage::keys);
    let why = read.and(named("why")).then(manage::why);
    let refresh = warp::post().and(named("refresh")).then(manage::refresh);
    let purge = warp::post().and(named("purge")).then(manage::purge);
    let status = at("status").and(read).and(given.clone()).map(health::status);
    let healthz = at("healthz").and(read).map(health::healthz);
    let readyz = at("readyz").and(read).and(given.clone()).map(health::readyz);
    let metrics = at("metrics").and(read).and(given.clone()).map(metrics::metrics);
    let content_type = warp::header::value("content-type").map(Some);
    let content_type = content_type.or(warp::any().map(|| None)).unify();
    let update = warp::path("update").or(warp::path("create")).unify();
    let update = update.and(warp::put().or(warp::post()).unify()).and(given);
    let update = update.and(warp::path::tail()).and(content_type).and(warp::body::stream());
    let update = update.then(update::update);
    let nothing = warp::method().and(warp::path::full()).map(nothing);

    // A hit pays for every route tried before its own, and for each level of nesting around it.
    let others = fetch_many.or(products).unify().or(status).unify().or(healthz).unify();
    let others = others.or(explain).unify().or(events).unify().or(socket).unify();
    let others = others.or(keys).unify().or(why).unify().or(refresh).unify().or(purge).unify();
    let others = others.or(update).unify();
    let others = others.or(readyz).unify().or(metrics).unify().or(nothing).unify();
    fetch.or(others.boxed()).unify()
}

/// The last route: there is nothing here, or not for this method, or not yet.
fn nothing(method: Method, path: FullPath) -> Response {
    let path = path.as_str();
    match methods_at(path) {
        None => reply::problem(&Problem::not_found(path)),
        Some("") => reply::problem(&Problem::not_supported_yet(path)),
        Some(allowed) => {
            let problem = Problem::method_not_allowed(method.as_str(), allowed);
            let mut response = reply::problem(&problem);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            response
        }
    }
}

fn methods_at(path: &str) -> Option<&'static str> {
    // warp takes `/products/` for `/products`; `/fetch/` has no key, so it is `/fetch`.
    let path = match path.strip_suffix('/') {
        None | Some("") => path,
        Some(shorter) => shorter,
    };
    let here = PATHS.iter().find(|(known, _)| match known.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => path == *known,
    });
    here.map(|(_, methods)| *methods)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_those_of_the_most_exact_path() {
        for (path, methods) in [
            ("/fetch", Some("GET, HEAD, POST")),
            ("/fetch/", Some("GET, HEAD, POST")),
            ("/fetch/p", Some("GET, HEAD")),
            ("/fetch/p/", Some("GET, HEAD")),
            ("/products/", Some("GET, HEAD")),
            ("/", Some("")),
            ("/why/p/1", Some("GET, HEAD")),
            ("/fetchx", None),
            ("/products/x", None),
            ("", None),
            ("*", None),
        ] {
            assert_eq!(methods_at(path), methods, "{path}");
        }
    }
}
