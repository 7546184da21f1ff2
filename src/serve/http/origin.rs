//! Origin: what pages of other sites may do (CORS), and what nobody's page may do by stealth.
//!
//! A browser sends what it likes to any address that it reaches, kck on its own machine too, and only keeps the answer
//! from the page. So a request that changes something, or opens a socket, is refused when it comes from a page that is
//! neither kck's own nor allowed by the settings.

use warp::http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header, uri::Authority,
};

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT");
const TAKES: HeaderValue =
    HeaderValue::from_static("Authorization, Content-Type, If-None-Match, Last-Event-ID");
const SHOWS: HeaderValue =
    HeaderValue::from_static("ETag, Kck-As-Of, Kck-As-Of-Lsn, Kck-Source, Kck-Stale, Retry-After");
/// How long a browser need not ask again, in seconds.
const REMEMBERED: HeaderValue = HeaderValue::from_static("600");

/// The sites whose pages may ask: `https://shop.example`, or `*` for all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origins(pub Vec<String>);

/// What a request says of the page that it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum From {
    /// No page, or kck's own.
    Here,
    /// One that is allowed.
    Allowed(HeaderValue),
    /// One that is not.
    Elsewhere,
}

impl Origins {
    /// Whether one of them is at this authority.
    pub(super) fn names(&self, authority: &str) -> bool {
        let at = |site: &String| site.split_once("://").is_some_and(|(_, at)| at == authority);
        self.0.iter().any(|site| site == "*" || at(site))
    }

    /// Where a request comes from.
    pub(super) fn of<B>(&self, request: &Request<B>) -> From {
        let Some(origin) = request.headers().get(header::ORIGIN) else { return From::Here };
        let text = origin.to_str().unwrap_or("");
        if self.0.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(text)) {
            return From::Allowed(origin.clone());
        }
        let here = host(request.headers(), request.uri());
        let page = text.split_once("://").map(|(_, authority)| authority);
        if page.is_some() && page == here { From::Here } else { From::Elsewhere }
    }
}

/// Whether an authority is an address, or a name that no site outside can have: without a dot, or below `localhost`.
pub(super) fn is_here(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let bare = host.trim_end_matches('.').to_ascii_lowercase();
    host.starts_with('[')
        || bare.parse::<std::net::Ipv4Addr>().is_ok()
        || !bare.contains('.')
        || bare.ends_with(".localhost")
}

/// The authority that a request was sent to; one that is no text is as good as empty.
pub(super) fn host<'r>(headers: &'r HeaderMap, uri: &'r Uri) -> Option<&'r str> {
    let named = headers.get(header::HOST).map(|host| host.to_str().unwrap_or("?@"));
    named.or_else(|| uri.authority().map(Authority::as_str))
}

impl From {
    /// Whether the page may do more than look at what it is given.
    pub(super) fn may_act(&self) -> bool {
        *self != Self::Elsewhere
    }

    /// The answer to a browser that asks before it asks.
    pub(super) fn preflight<B, C: Default>(&self, request: &Request<B>) -> Option<Response<C>> {
        let asks = request.method() == Method::OPTIONS
            && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !asks {
            return None;
        }
        let mut response = Response::new(C::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        if let Self::Allowed(_) = self {
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, TAKES);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, REMEMBERED);
        }
        self.show(response.headers_mut());
        Some(response)
    }

    /// Lets an allowed page see the answer.
    pub(super) fn show(&self, headers: &mut HeaderMap) {
        if let Self::Allowed(origin) = self {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, SHOWS);
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(allowed: &[&str], origin: &str) -> From {
        let origins = Origins(allowed.iter().map(|text| (*text).to_owned()).collect());
        let request = Request::builder().header("host", "127.0.0.1:8080");
        let request = if origin.is_empty() { request } else { request.header("origin", origin) };
        origins.of(&request.body(()).unwrap())
    }

    #[test]
    fn pages_of_other_sites_are_told_apart() {
        assert_eq!(from(&[], ""), From::Here);
        assert_eq!(from(&[], "http://127.0.0.1:8080"), From::Here);
        assert_eq!(from(&[], "http://127.0.0.1:8081"), From::Elsewhere);
        assert_eq!(from(&[], "null"), From::Elsewhere);
        assert_eq!(from(&["https://shop.example"], "https://shop.example.evil"), From::Elsewhere);
        assert!(matches!(
            from(&["https://shop.example"], "https://SHOP.example"),
            From::Allowed(_)
        ));
        assert!(matches!(from(&["*"], "https://any.example"), From::Allowed(_)));
        assert!(!From::Elsewhere.may_act());
    }

    #[test]
    fn names_of_this_machine_are_told_from_those_of_sites() {
        for host in
            ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]", "[::1]:80", "kck", "a.localhost."]
        {
            assert!(is_here(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:80",
            "127.0.0.1.evil.example",
            "localhost.evil.example:1",
        ] {
            assert!(!is_here(host), "{host}");
        }
        let origins = Origins(vec!["https://shop.example:81".to_owned()]);
        assert!(origins.names("shop.example:81") && !origins.names("shop.example"));
    }

    #[test]
    fn a_preflight_is_answered_for_allowed_pages_only() {
        let ask = |origin: &str| {
            let request = Request::options("/fetch/p").header("origin", origin);
            let request = request.header("access-control-request-method", "PUT").body(()).unwrap();
            let origins = Origins(vec!["https://shop.example".to_owned()]);
            origins.of(&request).preflight::<(), ()>(&request).unwrap()
        };
        let allowed = ask("https://shop.example");
        assert_eq!(allowed.headers()["access-control-allow-origin"], "https://shop.example");
        assert!(ask("https://evil.example").headers().is_empty());
        let plain = Request::options("/fetch/p").body(()).unwrap();
        assert!(From::Here.preflight::<(), ()>(&plain).is_none());
    }
}
