//! Who asks: an address, and what a token says.

use std::{net::IpAddr, time::Instant};

use crate::{key::Key, product::Product};

use super::{Context, problem::Problem, share::Client};

/// Whoever sent a request.
#[derive(Debug, Clone)]
pub struct Who {
    /// Whose shares it counts against.
    pub client: Client,
}

impl Who {
    /// Somebody without a token.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        Self { client: Client::Address(address) }
    }

    /// When what it was allowed ends.
    #[must_use]
    pub fn ends(&self) -> Option<Instant> {
        None
    }

    /// Whether it may read this key.
    ///
    /// # Errors
    /// 401 or 403, the same whatever the reason and whether or not there is an answer.
    pub async fn may_read(
        &self,
        _context: &Context,
        _product: &Product,
        _key: &Key,
    ) -> Result<(), Problem> {
        Ok(())
    }
}
