//! Keys: where they are → the set that verifies now, looked at again as files change and addresses grow old.
//!
//! What is held is replaced whole, and each replacement has a number: what was verified under an earlier number is
//! verified again. A name that no key has makes an address be asked at most once a minute, by one request for all.

use std::{
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{SHA256, digest};
use jsonwebtoken::Algorithm;

use super::{
    clock::Clock,
    fetch::Address,
    jwks::{self, Set},
    key::{self, Refused},
    settings::{self, BadAuth, KeySource, Settings},
};

/// A file is looked at again this often, when it is used.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// An address is asked again this often, unless its answer says otherwise, within these limits.
const ASK_EVERY: Duration = Duration::from_secs(600);
const ASK_EVERY_LEAST: Duration = Duration::from_secs(60);
const ASK_EVERY_MOST: Duration = Duration::from_secs(3600);
/// An address that does not answer, or knows no such key, is left alone so long.
const LEAVE_ALONE: Duration = Duration::from_secs(60);
/// Keys are good so long after the address gave them last.
const GOOD_FOR: Duration = Duration::from_secs(24 * 3600);

/// The keys that verify, wherever they are.
pub(super) struct Keys {
    source: Source,
    setting: &'static str,
    algorithms: Vec<Algorithm>,
    clock: Clock,
    began: Instant,
    /// Locked to take the set, or to replace it.
    held: Mutex<Held>,
    /// Counts replacements.
    number: AtomicU64,
    /// When to look again, in milliseconds since `began`.
    look_at: AtomicU64,
    /// Held by who asks the address.
    asking: tokio::sync::Mutex<()>,
}

enum Source {
    /// Known for good.
    Fixed,
    Secret(std::path::PathBuf),
    Pem(std::path::PathBuf),
    Jwks(std::path::PathBuf),
    Url(Address),
}

struct Held {
    set: Arc<Set>,
    /// Of what the set was read from.
    digest: [u8; 32],
    /// The file as it was when it was read, and whether there was one; none before the first look.
    stamp: Option<Option<Stamp>>,
    /// When the address gave keys last, and when it was asked last.
    given: Option<Instant>,
    asked: Option<Instant>,
}

/// When a file was written, its length, and which one it is.
type Stamp = (i64, i64, u64, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.mtime(), found.mtime_nsec(), found.len(), found.ino()))
}

impl Keys {
    /// Reads what files say. An address is asked when the first token comes.
    pub(super) fn open(settings: &Settings, clock: Clock) -> Result<Self, BadAuth> {
        let setting = settings.keys.setting();
        let began = clock.now().steady;
        let mut held =
            Held { set: Arc::default(), digest: [0; 32], stamp: None, given: None, asked: None };
        let source = match &settings.keys {
            KeySource::Secret(secret) => {
                let made = key::from_secret(secret.as_bytes(), &settings.algorithms);
                held.set = Arc::new(Set::single(made.map_err(|no| refusal(setting, no))?));
                Source::Fixed
            }
            KeySource::SecretFile(path) => Source::Secret(path.clone()),
            KeySource::KeyFile(path) => Source::Pem(path.clone()),
            KeySource::JwksFile(path) => Source::Jwks(path.clone()),
            KeySource::JwksUrl(url) => Source::Url(Address::parse(url).map_err(|fact| {
                BadAuth::new(
                    setting,
                    format!("'{url}' cannot be asked: {fact}"),
                    "https://HOST/PATH",
                )
            })?),
        };
        let keys = Self {
            source,
            setting,
            algorithms: settings.algorithms.clone(),
            clock,
            began,
            held: Mutex::new(held),
            number: AtomicU64::new(0),
            look_at: AtomicU64::new(0),
            asking: tokio::sync::Mutex::new(()),
        };
        match keys.file() {
            Some(path) => keys.read_file(path)?,
            // The first token makes the address be asked: then it is due.
            None if matches!(keys.source, Source::Fixed) => {
                keys.look_at.store(u64::MAX, Ordering::Relaxed);
            }
            None => {}
        }
        Ok(keys)
    }

    /// Counts replacements of the set.
    pub(super) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Whether a look is due: what was verified must wait for it.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.look_at.load(Ordering::Relaxed) <= self.since(now)
    }

    /// The set as it is held, with its number.
    pub(super) fn set(&self) -> (Arc<Set>, u64) {
        let held = self.lock();
        // Read under the lock: the number is that of this set.
        (Arc::clone(&held.set), self.number())
    }

    /// Looks again where that is due. Only who has no keys at all waits for an address.
    pub(super) async fn look(self: &Arc<Self>, now: Instant) {
        // One looks; whoever comes meanwhile goes on with what is held.
        let due = self.look_at.load(Ordering::Relaxed);
        let pause = if self.file().is_some() { LOOK_EVERY } else { LEAVE_ALONE };
        let next = self.since(now).saturating_add(millis(pause));
        let relaxed = Ordering::Relaxed;
        if due > self.since(now)
            || self.look_at.compare_exchange(due, next, relaxed, relaxed).is_err()
        {
            return;
        }
        if let Some(path) = self.file() {
            if let Err(bad) = self.read_file(path) {
                tracing::warn!("{bad}; the keys of before stay");
            }
            return;
        }
        if self.let_go_of_old(now) {
            self.ask(now).await;
            return;
        }
        let keys = Arc::clone(self);
        tokio::spawn(async move { keys.ask(now).await });
    }

    /// Looks for a name that no key has, where that may help.
    pub(super) async fn look_for_unknown(&self, now: Instant) {
        if matches!(self.source, Source::Url(_)) {
            self.ask(now).await;
        }
    }

    /// Asks the address, at most once a minute; who comes while it is asked waits for that answer.
    async fn ask(&self, now: Instant) {
        let Source::Url(address) = &self.source else { return };
        let _one = self.asking.lock().await;
        {
            let mut held = self.lock();
            if held.asked.is_some_and(|asked| now < asked + LEAVE_ALONE) {
                return;
            }
            held.asked = Some(now);
        }
        let again = match address.get().await {
            Ok(fetched) => match self.take(&fetched.body, Some(now)) {
                Ok(()) => {
                    let said = fetched.max_age.unwrap_or(ASK_EVERY);
                    said.clamp(ASK_EVERY_LEAST, ASK_EVERY_MOST)
                }
                Err(fact) => self.grow_old(now, &fact),
            },
            Err(fact) => self.grow_old(now, &fact),
        };
        let next = self.since(now).saturating_add(millis(again));
        self.look_at.store(next, Ordering::Relaxed);
    }

    /// Lets go of keys that the address has not given for a day; whether there are none now.
    fn let_go_of_old(&self, now: Instant) -> bool {
        let mut held = self.lock();
        if held.given.is_some_and(|given| given + GOOD_FOR <= now) {
            held.set = Arc::default();
            held.digest = [0; 32];
            held.given = None;
            self.number.fetch_add(1, Ordering::Release);
        }
        held.given.is_none()
    }

    /// An address that gives no keys: those of before are good for a day.
    fn grow_old(&self, now: Instant, fact: &str) -> Duration {
        let setting = self.setting;
        if self.let_go_of_old(now) {
            tracing::error!("{setting}: {fact}; there are no keys, so no token is valid");
        } else {
            tracing::warn!("{setting}: {fact}; the keys of before stay for a day");
        }
        LEAVE_ALONE
    }

    fn file(&self) -> Option<&Path> {
        match &self.source {
            Source::Fixed | Source::Url(_) => None,
            Source::Secret(path) | Source::Pem(path) | Source::Jwks(path) => Some(path),
        }
    }

    /// Reads the file, unless it is as it was.
    fn read_file(&self, path: &Path) -> Result<(), BadAuth> {
        let next = self.since(self.clock.now().steady).saturating_add(millis(LOOK_EVERY));
        self.look_at.store(next, Ordering::Relaxed);
        let found = stamp(path);
        {
            let mut held = self.lock();
            if held.stamp == Some(found) {
                return Ok(());
            }
            // Also a file that cannot be used is read, and complained of, once.
            held.stamp = Some(found);
        }
        let private = matches!(self.source, Source::Secret(_));
        let bytes = settings::read(self.setting, path, private)?;
        self.take(&bytes, None).map_err(|fact| {
            let (fact, hint) =
                fact.split_once("\n  hint: ").unwrap_or((&fact, "give another file"));
            BadAuth::new(self.setting, format!("{}: {fact}", path.display()), hint)
        })
    }

    /// Takes what came, if it has keys.
    fn take(&self, bytes: &[u8], given: Option<Instant>) -> Result<(), String> {
        let mut sum = [0; 32];
        sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
        {
            let mut held = self.lock();
            if held.digest == sum {
                held.given = given.or(held.given);
                return Ok(());
            }
        }
        let text = |no: Refused| format!("{}\n  hint: {}", no.fact, no.hint);
        let set = match &self.source {
            Source::Secret(_) => {
                let made = key::from_secret(key::secret_text(bytes), &self.algorithms);
                Set::single(made.map_err(text)?)
            }
            Source::Pem(_) => Set::single(key::from_pem(bytes, &self.algorithms).map_err(text)?),
            _ => {
                let (set, faults) = jwks::read(bytes, &self.algorithms)?;
                if !faults.is_empty() {
                    tracing::warn!("{}: {}", self.setting, faults.join("; "));
                }
                if set.is_empty() {
                    return Err("it has no key that can be used".to_owned());
                }
                set
            }
        };
        let mut held = self.lock();
        held.set = Arc::new(set);
        held.digest = sum;
        held.given = given;
        self.number.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Waits until nobody asks the address.
    #[cfg(test)]
    pub(super) async fn asking(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.asking.lock().await
    }

    fn since(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.began))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refusal(setting: &'static str, no: Refused) -> BadAuth {
    BadAuth::new(setting, no.fact, no.hint)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
