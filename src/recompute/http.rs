//! Http: keys → answers of addresses, over connections that are kept.
//!
//! What an address says of its answer's version (`ETag`) is kept with the bytes, so that what has not changed need not
//! come again. Errors name who was asked, and never what for: paths, queries and headers may hold secrets.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION},
};
use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::{
    postgres::describe_chain,
    product::recipe::url_pieces,
    web::{Origin, Sender},
};

/// Requests at once to one host.
const REQUESTS_MAX: usize = 8;
/// A connection that nobody used so long is not used again.
const IDLE_MOST: Duration = Duration::from_secs(30);
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;
/// Bytes of answers that are kept with their versions, and how many.
const KEPT_BYTES: usize = 64 << 20;
const KEPT_MAX: usize = 10_000;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// For readers.
    pub fact: &'static str,
    /// For whoever minds the product.
    pub why: String,
}

fn fault(fact: &'static str, why: impl Into<String>) -> Fault {
    Fault { fact, why: why.into() }
}

/// All addresses.
pub struct Addresses {
    /// What `env:NAME` is.
    environment: BTreeMap<String, String>,
    answer_bytes: usize,
    /// By host; locked to look.
    sites: Mutex<HashMap<Origin, Arc<Site>>>,
    /// Answers by product and address; locked to look.
    kept: Mutex<Kept>,
    freed: Arc<Notify>,
}

/// One host.
#[derive(Default)]
struct Site {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    given: usize,
    idle: Vec<(Instant, Sender)>,
}

/// A place for one request.
pub struct Permit(Arc<Site>, Arc<Notify>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.state().given -= 1;
        self.1.notify_one();
    }
}

impl Site {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> Option<Sender> {
        let mut state = self.state();
        state.idle.retain(|(since, sender)| since.elapsed() < IDLE_MOST && !sender.is_closed());
        state.idle.pop().map(|(_, sender)| sender)
    }

    fn keep(&self, sender: Sender) {
        let mut state = self.state();
        if state.idle.len() < REQUESTS_MAX {
            state.idle.push((Instant::now(), sender));
        }
    }
}

/// Answers with their versions, the oldest first.
#[derive(Default)]
struct Kept {
    answers: HashMap<String, (HeaderValue, Bytes)>,
    order: VecDeque<String>,
    bytes: usize,
}

impl Kept {
    fn insert(&mut self, name: &str, version: HeaderValue, body: Bytes) {
        self.forget(name);
        self.bytes += body.len();
        self.answers.insert(name.to_owned(), (version, body));
        self.order.push_back(name.to_owned());
        while self.bytes > KEPT_BYTES || self.answers.len() > KEPT_MAX {
            let Some(oldest) = self.order.pop_front() else { return };
            self.take(&oldest);
        }
    }

    fn forget(&mut self, name: &str) {
        if self.take(name) {
            self.order.retain(|known| known != name);
        }
    }

    fn take(&mut self, name: &str) -> bool {
        let taken = self.answers.remove(name);
        self.bytes -= taken.as_ref().map_or(0, |(_, body)| body.len());
        taken.is_some()
    }
}

/// What is asked for.
pub struct Ask<'a> {
    /// Of which product.
    pub product: &'a str,
    /// Its address, with holes.
    pub url: &'a str,
    /// Its headers, as the file has them.
    pub headers: &'a [(String, String)],
    /// Name → canonical text.
    pub params: &'a BTreeMap<String, String>,
}

/// What became of what an address was told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It was not told, or says that it did not.
    Refused(String),
    /// Nobody knows.
    Lost(String),
    /// It took too long, and nobody knows.
    Late,
}

impl Addresses {
    /// Nobody is asked yet.
    #[must_use]
    pub fn new(environment: &[(String, String)], answer_bytes: usize, freed: Arc<Notify>) -> Self {
        let environment = environment.iter().cloned().collect();
        let (sites, kept) = (Mutex::default(), Mutex::default());
        Self { environment, answer_bytes, sites, kept, freed }
    }

    /// A place for one request, where there is one now. `level` is that of the product: 1 where it leaves none to those of
    /// the same host that it, or others, wait for.
    #[must_use]
    pub fn room(&self, url: &str, level: usize) -> Option<Permit> {
        // What is no address fails when it is asked.
        let site = Origin::parse(url).map(|(origin, _)| self.site(&origin)).unwrap_or_default();
        {
            let mut state = site.state();
            if state.given >= REQUESTS_MAX.saturating_sub(level.saturating_sub(1)).max(1) {
                return None;
            }
            state.given += 1;
        }
        Some(Permit(site, Arc::clone(&self.freed)))
    }

    /// Only these addresses are in use.
    pub fn keep<'a>(&self, urls: impl Iterator<Item = &'a str>) {
        let used: Vec<Origin> = urls.filter_map(|url| Some(Origin::parse(url).ok()?.0)).collect();
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        sites.retain(|origin, _| used.contains(origin));
    }

    fn site(&self, origin: &Origin) -> Arc<Site> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(sites.entry(origin.clone()).or_default())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks an address.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(&self, ask: &Ask<'_>, within: Duration) -> Result<Bytes, Fault> {
        let asked = tokio::time::timeout(within, Box::pin(self.answer(ask))).await;
        asked.unwrap_or_else(|_| {
            let why = format!("its address did not answer within {} ms", within.as_millis());
            Err(fault("its address did not answer in time", why))
        })
    }

    async fn answer(&self, ask: &Ask<'_>) -> Result<Bytes, Fault> {
        let url = filled(ask.url, ask.params);
        let parsed = url.and_then(|url| Origin::parse(&url));
        let (origin, mut path) = parsed.map_err(|fact| fault("its address is none", fact))?;
        let headers = self.headers(ask.headers)?;
        // An address that was edited has versions of its own.
        let name = format!("{} {} {path}", ask.product, ask.url);
        let known = self.kept().answers.get(&name).cloned();
        for _ in 0..=REDIRECTS_MAX {
            let version = known.as_ref().map(|(version, _)| version);
            let (response, sender) = self.exchange(&origin, &path, &headers, version).await?;
            let status = response.status();
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                path = elsewhere(&origin, &path, &response)?;
                continue;
            }
            return match (status, known) {
                (StatusCode::NOT_MODIFIED, Some((_, body))) => {
                    self.site(&origin).keep(sender);
                    Ok(body)
                }
                (StatusCode::OK, _) => {
                    let version = response.headers().get(ETAG).cloned();
                    let body = self.read(response).await?;
                    self.site(&origin).keep(sender);
                    match version {
                        Some(version) => self.kept().insert(&name, version, body.clone()),
                        None => self.kept().forget(&name),
                    }
                    Ok(body)
                }
                (status, _) => {
                    let why = format!("{} answers {}", origin.authority(), status.as_u16());
                    Err(fault("its address answers with an error", why))
                }
            };
        }
        Err(fault("its address leads in a circle", "it redirects again and again"))
    }

    /// Tells an address to do what it does, once: by POST without a body, on a connection of its own, without following a
    /// redirect. What it answers with a status of success is not looked at.
    ///
    /// # Errors
    /// Why it is not known to have done it.
    pub async fn tell(
        &self,
        url: &str,
        headers: &[(String, String)],
        within: Duration,
    ) -> Result<(), Told> {
        let told = async {
            let (origin, path) =
                Origin::parse(url).map_err(|fact| Told::Refused(fact.to_owned()))?;
            let headers = self.headers(headers).map_err(|fault| Told::Refused(fault.why))?;
            let request = request(Method::POST, &origin, &path, &headers, None);
            let request = request.map_err(|fault| Told::Refused(fault.why))?;
            let who = origin.authority();
            let away = |error: String| Told::Refused(format!("ask {who}: {error}"));
            let mut sender = origin.open(|_| true).await.map_err(away)?;
            let response = sender.send_request(request).await;
            let lost = |error| Told::Lost(format!("ask {who}: {}", describe_chain(&error)));
            let status = response.map_err(lost)?.status();
            if status.is_success() {
                return Ok(());
            }
            Err(Told::Refused(format!("{who} answers {}", status.as_u16())))
        };
        tokio::time::timeout(within, Box::pin(told)).await.unwrap_or(Err(Told::Late))
    }

    fn headers(&self, said: &[(String, String)]) -> Result<Vec<(HeaderName, HeaderValue)>, Fault> {
        let header = |(name, value): &(String, String)| {
            let value = match value.strip_prefix("env:") {
                None => value.as_str(),
                Some(variable) => {
                    self.environment.get(variable).map(String::as_str).ok_or_else(|| {
                        fault(
                            "its address cannot be asked",
                            format!("the environment has no {variable}"),
                        )
                    })?
                }
            };
            let wrong = || {
                fault("its address cannot be asked", format!("the value of {name} is no header"))
            };
            let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            Ok((HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?, value))
        };
        said.iter().map(header).collect()
    }

    /// One request, on a connection that was kept if there is one; one that has closed meanwhile is no failure.
    async fn exchange(
        &self,
        origin: &Origin,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        version: Option<&HeaderValue>,
    ) -> Result<(Response<Incoming>, Sender), Fault> {
        let away = |error: String| {
            let why = format!("ask {}: {error}", origin.authority());
            fault("its address cannot be asked now", why)
        };
        let site = self.site(origin);
        while let Some(mut sender) = site.idle() {
            if sender.ready().await.is_err() {
                continue;
            }
            let request = request(Method::GET, origin, path, headers, version)?;
            if let Ok(response) = sender.send_request(request).await {
                return Ok((response, sender));
            }
        }
        let mut sender = origin.open(|_| true).await.map_err(away)?;
        let request = request(Method::GET, origin, path, headers, version)?;
        let response = sender.send_request(request).await;
        Ok((response.map_err(|error| away(describe_chain(&error)))?, sender))
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Bytes, Fault> {
        let limited = Limited::new(response.into_body(), self.answer_bytes);
        let body = limited.collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                let why = format!("its answer has more than {} bytes", self.answer_bytes);
                fault("its address answers too much", why)
            } else {
                fault("its address cannot be asked now", format!("read its answer: {error}"))
            }
        })?;
        let body = body.to_bytes();
        let value: Result<&RawValue, _> = serde_json::from_slice(&body);
        let value = value.map_err(|error| {
            fault("its address answers no JSON", format!("its answer is no JSON: {error}"))
        })?;
        Ok(Bytes::copy_from_slice(value.get().as_bytes()))
    }
}

fn request(
    method: Method,
    origin: &Origin,
    path: &str,
    headers: &[(HeaderName, HeaderValue)],
    version: Option<&HeaderValue>,
) -> Result<Request<Empty<Bytes>>, Fault> {
    let mut request =
        Request::builder().method(method).uri(path).header("host", origin.authority());
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let named = |name: &str| headers.iter().any(|(known, _)| known == name);
    for (name, value) in [("accept", "application/json"), ("user-agent", "kck")] {
        if !named(name) {
            request = request.header(name, value);
        }
    }
    if let Some(version) = version {
        request = request.header(IF_NONE_MATCH, version);
    }
    let wrong = |_| fault("its address is none", "a parameter makes it no address");
    request.body(Empty::new()).map_err(wrong)
}

/// An address with its holes filled.
fn filled(url: &str, params: &BTreeMap<String, String>) -> Result<String, &'static str> {
    let mut filled = String::with_capacity(url.len());
    for (text, hole) in url_pieces(url)? {
        filled.push_str(text);
        let value = hole.and_then(|hole| params.get(hole));
        for byte in value.into_iter().flat_map(|value| value.bytes()) {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                filled.push(char::from(byte));
            } else {
                filled.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    Ok(filled)
}

/// Where a redirect leads, if that is the same host, by the same scheme and port.
fn elsewhere<B>(origin: &Origin, path: &str, response: &Response<B>) -> Result<String, Fault> {
    let refused = || {
        let why = format!("{} redirects to another host, port or scheme", origin.authority());
        fault("its address leads elsewhere", why)
    };
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(refused)?;
    if location.contains("://") {
        let (other, path) = Origin::parse(location).map_err(|_| refused())?;
        return if other == *origin { Ok(path) } else { Err(refused()) };
    }
    if location.starts_with("//") {
        return Err(refused());
    }
    let location = location.split('#').next().unwrap_or_default();
    if location.starts_with('/') {
        return Ok(location.to_owned());
    }
    let before = path.split('?').next().unwrap_or_default();
    if location.starts_with('?') {
        return Ok(format!("{before}{location}"));
    }
    let folder = before.rsplit_once('/').map_or("", |(folder, _)| folder);
    Ok(format!("{folder}/{location}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled_and_encoded() {
        let params = BTreeMap::from([
            ("a".to_owned(), "x/../y?z".to_owned()),
            ("b".to_owned(), "å".to_owned()),
        ]);
        let url = "https://h.example/{a}/t?b={b}&a={a}";
        assert_eq!(
            filled(url, &params).unwrap(),
            "https://h.example/x%2F..%2Fy%3Fz/t?b=%C3%A5&a=x%2F..%2Fy%3Fz"
        );
        assert!(filled("https://{a}.example/", &params).is_err());
    }

    #[test]
    fn a_redirect_stays_at_its_host() {
        let (origin, path) = Origin::parse("https://h.example/a/b?c=d").unwrap();
        let leads = |to: &str| {
            let response = Response::builder().header("location", to).body(()).unwrap();
            elsewhere(&origin, &path, &response).map_err(|fault| fault.fact)
        };
        for (to, want) in [
            ("/x?y", "/x?y"),
            ("x", "/a/x"),
            ("?e=f", "/a/b?e=f"),
            ("https://h.example:443/z#f", "/z"),
        ] {
            assert_eq!(leads(to).as_deref(), Ok(want), "{to}");
        }
        for to in
            ["http://h.example/", "https://h.example:444/", "https://e.example/", "//e.example/"]
        {
            assert_eq!(leads(to), Err("its address leads elsewhere"), "{to}");
        }
    }

    #[test]
    fn what_is_kept_has_a_limit() {
        let mut kept = Kept::default();
        let version = HeaderValue::from_static("\"1\"");
        for name in ["a", "b", "a"] {
            kept.insert(name, version.clone(), Bytes::from(vec![0; KEPT_BYTES / 2]));
        }
        assert_eq!((kept.bytes, kept.order.len()), (KEPT_BYTES, 2));
        kept.insert("c", version, Bytes::from_static(b"1"));
        assert!(!kept.answers.contains_key("b") && kept.answers.contains_key("a"));
    }

    #[test]
    fn a_header_comes_from_the_environment() {
        let environment = [("TOKEN".to_owned(), "secret".to_owned())];
        let addresses = Addresses::new(&environment, 1, Arc::default());
        let said = |value: &str| addresses.headers(&[("authorization".into(), value.into())]);
        assert_eq!(said("env:TOKEN").unwrap()[0].1, "secret");
        assert_eq!(said("env:OTHER").unwrap_err().why, "the environment has no OTHER");
    }
}
