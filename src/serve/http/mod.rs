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
    Filter,
    filters::BoxedFilter,
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
mod login;
mod manage;
mod metrics;
mod openapi;
mod origin;
mod patience;
mod permission;
mod process;
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
    /// Open because it is only here: whoever asks for a name of elsewhere is refused.
    pub only_here: bool,
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
    ("/login/*", "POST"),
    ("/logout", "GET, HEAD"),
    ("/logout/*", "GET, HEAD"),
    ("/keys/*", "GET, HEAD"),
    ("/explain/*", "GET, HEAD"),
    ("/why", "GET, HEAD"),
    ("/why/*", "GET, HEAD"),
    ("/processes", "GET, HEAD"),
    ("/processes/*", "POST"),
    ("/openapi.json", "GET, HEAD"),
];

/// A route, or some of them. Boxed, since each level of nesting is another type for the compiler, twice as large.
type Route = BoxedFilter<(Response,)>;

/// What routes are given beside the path.
#[derive(Clone)]
struct Inputs {
    context: Arc<Context>,
    shutdown: CancellationToken,
}

/// What answers a request, save that the door itself answers for keys in the path of `/fetch`. Nothing is rejected:
/// the last route takes all that is left.
fn routes(context: &Arc<Context>, shutdown: &CancellationToken) -> Route {
    let inputs = Inputs { context: Arc::clone(context), shutdown: shutdown.clone() };
    let nothing = warp::method().and(warp::path::full()).map(nothing).boxed();
    any_of([
        inputs.answers(),
        inputs.catalogue(),
        inputs.keys(),
        inputs.processes(),
        inputs.health(),
        inputs.login(),
        nothing,
    ])
}

/// The first that takes the request.
fn any_of(routes: impl IntoIterator<Item = Route>) -> Route {
    let all = routes.into_iter().reduce(|one, next| one.or(next).unify().boxed());
    all.expect("there are some")
}

/// GET and HEAD, which hyper answers without the body.
fn reading() -> BoxedFilter<()> {
    warp::get().or(warp::head()).unify().boxed()
}

/// Exactly this path.
fn at(name: &'static str) -> BoxedFilter<()> {
    warp::path(name).and(warp::path::end()).boxed()
}

impl Inputs {
    fn context(&self) -> BoxedFilter<(Arc<Context>,)> {
        let context = Arc::clone(&self.context);
        warp::any().map(move || Arc::clone(&context)).boxed()
    }

    fn query() -> BoxedFilter<(Option<String>,)> {
        warp::query::raw().map(Some).or(warp::any().map(|| None)).unify().boxed()
    }

    fn given(&self) -> BoxedFilter<(Arc<Context>, Option<String>)> {
        self.context().and(Self::query()).boxed()
    }

    fn asked(&self) -> BoxedFilter<(Arc<Context>, Asked, Option<String>)> {
        self.context().and(warp::ext::get::<Asked>()).and(Self::query()).boxed()
    }

    /// Answers beyond one key's, told or written.
    fn answers(&self) -> Route {
        let list = at("fetch").and(reading()).and(self.asked());
        let many = at("fetch").and(warp::post()).and(self.asked()).and(warp::body::stream());
        let opener = Opener { context: Arc::clone(&self.context), shutdown: self.shutdown.clone() };
        let opener = warp::any().map(move || opener.clone());
        let subscribed = opener.and(warp::ext::get::<Asked>()).and(Self::query());
        let subscribed = subscribed.and(warp::header::headers_cloned()).boxed();
        let events = at("subscribe").and(warp::get()).and(subscribed.clone());
        let upgrade = warp::ext::get::<Phase>().and(warp::ws());
        let upgrade = upgrade.map(|phase, ws| Upgrade { phase, ws });
        let socket = warp::path!("subscribe" / "ws").and(warp::get()).and(subscribed).and(upgrade);
        let update = warp::path("update").or(warp::path("create")).unify();
        let update = update.and(warp::put().or(warp::post()).unify()).and(self.asked()).boxed();
        let update = update.and(warp::path::tail()).and(warp::body::stream());
        any_of([
            list.then(fetch::list).boxed(),
            many.then(fetch::post).boxed(),
            events.then(subscribe::events).boxed(),
            socket.then(subscribe::socket).boxed(),
            update.then(update::update).boxed(),
        ])
    }

    /// Who asks.
    fn login(&self) -> Route {
        let login = warp::path("login").and(warp::post()).and(self.asked());
        let login = login.and(warp::path::tail()).and(warp::body::stream());
        let logout = warp::path("logout").and(reading()).map(login::logout);
        any_of([login.then(login::login).boxed(), logout.boxed()])
    }

    /// What there is.
    fn catalogue(&self) -> Route {
        let get = |name| at(name).and(reading()).and(self.given());
        let explain = warp::path("explain").and(reading()).and(self.given());
        let explain = explain.and(warp::path::param()).and(warp::path::end());
        any_of([
            get("products").map(catalogue::products).boxed(),
            get("openapi.json").map(openapi::openapi).boxed(),
            explain.map(explain::explain).boxed(),
        ])
    }

    /// Tracked keys.
    fn keys(&self) -> Route {
        let named = |name| warp::path(name).and(self.asked()).and(warp::path::tail());
        let keys = warp::path("keys").and(reading()).and(self.asked());
        let keys = keys.and(warp::path::param()).and(warp::path::end());
        any_of([
            keys.then(manage::keys).boxed(),
            reading().and(named("why")).then(manage::why).boxed(),
            warp::post().and(named("refresh")).then(manage::refresh).boxed(),
            warp::post().and(named("purge")).then(manage::purge).boxed(),
        ])
    }

    /// What runs on schedule.
    fn processes(&self) -> Route {
        let list = at("processes").and(reading()).and(self.given());
        let run = warp::path("processes").and(warp::post()).and(self.given());
        let run = run.and(warp::path::param()).and(warp::path("run")).and(warp::path::end());
        any_of([list.map(process::list).boxed(), run.boxed().then(process::run).boxed()])
    }

    /// How kck is.
    fn health(&self) -> Route {
        let get = |name| at(name).and(reading()).and(self.given());
        any_of([
            get("status").map(health::status).boxed(),
            at("healthz").and(reading()).map(health::healthz).boxed(),
            get("readyz").map(health::readyz).boxed(),
            get("metrics").map(metrics::metrics).boxed(),
        ])
    }
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
