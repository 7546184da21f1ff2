//! Faulty: any store → the same store with scripted failures, first in first out per method.
//!
//! For tests of what stands on a store: a write that never happened, one that happened without saying so,
//! and one that hangs until it is let go.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::{Error, Forget, Scanned, StateCell, Store, Track};
use crate::{
    change::Position,
    entry::{Entry, Stamp},
    key::Key,
};

/// The methods of [`Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// [`Store::load`].
    Load,
    /// [`Store::save`].
    Save,
    /// [`Store::scan`].
    Scan,
    /// [`Store::get`].
    Get,
    /// [`Store::put`].
    Put,
    /// [`Store::track`].
    Track,
    /// [`Store::mark`].
    Mark,
    /// [`Store::purge`].
    Purge,
    /// [`Store::forget`].
    Forget,
}

/// Gives its signal by being dropped.
type Signal = oneshot::Sender<Infallible>;
type Signalled = oneshot::Receiver<Infallible>;

/// What happens to one call.
#[derive(Debug)]
enum Fault {
    FailBefore,
    FailAfter,
    Hold { reached: Signal, released: Signalled },
    HoldAfter { reached: Signal, released: Signalled },
}

/// A call that waits before it does anything. Dropping this lets it go.
#[derive(Debug)]
pub struct Held {
    reached: Signalled,
    release: Signal,
}

impl Held {
    /// Waits until the call has come; at once when the store is gone.
    pub async fn reached(&mut self) {
        let Err(_) = (&mut self.reached).await;
    }

    /// Lets the call go on.
    pub fn release(self) {
        drop(self.release);
    }
}

/// A store whose calls fail as scripted; calls without a script pass through.
pub struct Faulty {
    inner: Arc<dyn Store>,
    // Locked to add or take one fault.
    script: Mutex<HashMap<Method, VecDeque<Fault>>>,
}

impl Faulty {
    /// A store that behaves as `inner` until told otherwise.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, script: Mutex::default() }
    }

    /// The next unscripted call of `method` fails and does nothing.
    pub fn fail_before(&self, method: Method) {
        self.add(method, Fault::FailBefore);
    }

    /// The next unscripted call of `method` does its work, then fails.
    pub fn fail_after(&self, method: Method) {
        self.add(method, Fault::FailAfter);
    }

    /// The next unscripted call of `method` waits until it is released, then does its work.
    pub fn hold(&self, method: Method) -> Held {
        self.held(method, |reached, released| Fault::Hold { reached, released })
    }

    /// The next unscripted call of `method` does its work, then waits until it is released.
    pub fn hold_after(&self, method: Method) -> Held {
        self.held(method, |reached, released| Fault::HoldAfter { reached, released })
    }

    fn held(&self, method: Method, fault: impl FnOnce(Signal, Signalled) -> Fault) -> Held {
        let (reached, is_reached) = oneshot::channel();
        let (release, released) = oneshot::channel();
        self.add(method, fault(reached, released));
        Held { reached: is_reached, release }
    }

    /// Forgets what was scripted of `method`.
    pub fn forgive(&self, method: Method) {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).remove(&method);
    }

    fn add(&self, method: Method, fault: Fault) {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.entry(method).or_default().push_back(fault);
    }

    /// Plays the next fault of `method` around `call`.
    async fn play<T>(
        &self,
        method: Method,
        call: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let fault = {
            let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
            script.get_mut(&method).and_then(VecDeque::pop_front)
        };
        match fault {
            None => call.await,
            Some(Fault::FailBefore) => Err(failure()),
            Some(Fault::FailAfter) => call.await.and_then(|_| Err(failure())),
            Some(Fault::Hold { reached, released }) => {
                drop(reached);
                let Err(_) = released.await;
                call.await
            }
            Some(Fault::HoldAfter { reached, released }) => {
                let done = call.await;
                drop(reached);
                let Err(_) = released.await;
                done
            }
        }
    }
}

fn failure() -> Error {
    Error::Unavailable { action: "reach the store", source: "a scripted failure".into() }
}

#[async_trait]
impl Store for Faulty {
    async fn load(&self) -> Result<Vec<StateCell>, Error> {
        self.play(Method::Load, self.inner.load()).await
    }

    async fn save(&self, cells: &[StateCell]) -> Result<(), Error> {
        self.play(Method::Save, self.inner.save(cells)).await
    }

    async fn scan(&self, visit: &mut (dyn FnMut(Scanned) + Send)) -> Result<(), Error> {
        self.play(Method::Scan, self.inner.scan(visit)).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.play(Method::Get, self.inner.get(key)).await
    }

    async fn put(&self, key: &Key, entry: &Entry) -> Result<(), Error> {
        self.play(Method::Put, self.inner.put(key, entry)).await
    }

    async fn track(&self, tracks: &[Track]) -> Result<(), Error> {
        self.play(Method::Track, self.inner.track(tracks)).await
    }

    async fn mark(&self, marks: &[(Key, Position)]) -> Result<(), Error> {
        self.play(Method::Mark, self.inner.mark(marks)).await
    }

    async fn purge(&self, keys: &[(Key, Stamp)]) -> Result<(), Error> {
        self.play(Method::Purge, self.inner.purge(keys)).await
    }

    async fn forget(&self, keys: &[Forget]) -> Result<(), Error> {
        self.play(Method::Forget, self.inner.forget(keys)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{entry::Meta, store::contract, store::memory::Memory};

    fn entry(stamp: u64) -> Entry {
        Entry { meta: Meta { stamp: Stamp(stamp), ..Meta::default() }, ..Entry::default() }
    }

    #[tokio::test]
    async fn without_a_script_it_is_the_store_within() {
        contract::holds(Arc::new(Faulty::new(Arc::new(Memory::default())))).await;
    }

    #[tokio::test]
    async fn faults_come_in_the_order_of_the_script() {
        let store = Faulty::new(Arc::new(Memory::default()));
        let key = Key::new("p", []);
        store.fail_before(Method::Put);
        store.fail_after(Method::Put);
        assert!(store.put(&key, &entry(1)).await.is_err());
        assert_eq!(store.get(&key).await.unwrap(), None);
        assert!(store.put(&key, &entry(2)).await.is_err());
        assert_eq!(store.get(&key).await.unwrap(), Some(entry(2)));
        assert!(store.put(&key, &entry(3)).await.is_ok());
    }

    #[tokio::test]
    async fn a_held_call_waits_for_its_release() {
        let store = Arc::new(Faulty::new(Arc::new(Memory::default())));
        let key = Key::new("p", []);
        let mut held = store.hold(Method::Put);
        let put = tokio::spawn({
            let (store, key) = (Arc::clone(&store), key.clone());
            async move { store.put(&key, &entry(1)).await }
        });
        held.reached().await;
        assert_eq!(store.get(&key).await.unwrap(), None);
        held.release();
        put.await.unwrap().unwrap();
        assert_eq!(store.get(&key).await.unwrap(), Some(entry(1)));
    }

    #[tokio::test]
    async fn a_call_that_is_held_after_its_work_has_done_it() {
        let store = Arc::new(Faulty::new(Arc::new(Memory::default())));
        let key = Key::new("p", []);
        let mut held = store.hold_after(Method::Put);
        let put = tokio::spawn({
            let (store, key) = (Arc::clone(&store), key.clone());
            async move { store.put(&key, &entry(1)).await }
        });
        held.reached().await;
        assert_eq!(store.get(&key).await.unwrap(), Some(entry(1)));
        assert!(!put.is_finished());
        held.release();
        put.await.unwrap().unwrap();
    }
}
