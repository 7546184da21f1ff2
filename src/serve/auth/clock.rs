//! Clock: what time it is, passed in so that tests need not wait.

use std::{
    fmt,
    sync::Arc,
    time::{Instant, SystemTime},
};

/// A moment on both clocks: `exp` is compared with the wall's, pauses are counted on the other.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The wall's.
    pub wall: SystemTime,
    /// The one that never goes back.
    pub steady: Instant,
}

/// Tells the time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Moment + Send + Sync>);

impl Clock {
    /// This machine's.
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::new(|| Moment { wall: SystemTime::now(), steady: Instant::now() }))
    }

    /// One that is told what time it is.
    #[must_use]
    pub fn of(tell: impl Fn() -> Moment + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Moment {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
