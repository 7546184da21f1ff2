//! Who asks: an address, what a token says, and what that allows.

use std::{net::IpAddr, sync::Arc, time::Instant};

use crate::{
    key::Key,
    product::{Product, Update},
};

use super::{
    Context,
    auth::{Identity, permission},
    problem::Problem,
    read::Answer,
    resolve,
    share::Client,
};

/// Whoever sent a request.
#[derive(Debug, Clone)]
pub struct Who {
    /// Where from.
    pub address: IpAddr,
    /// Whose shares it counts against.
    pub client: Client,
    /// What the token says.
    pub identity: Identity,
    /// When the token ends.
    pub ends: Option<Instant>,
}

impl Who {
    /// Somebody at this address, of whom nothing else is known; `open` where nobody is asked.
    #[must_use]
    pub fn at(address: IpAddr, open: bool) -> Self {
        let identity = if open { Identity::everyone() } else { Identity::nobody() };
        Self { address, client: Client::Address(address), identity, ends: None }
    }

    /// The same with a token.
    #[must_use]
    pub fn with(&self, identity: Identity, ends: Option<Instant>) -> Self {
        let subject = identity.subject().map(|subject| Client::Subject(subject.into()));
        let client = subject.unwrap_or_else(|| self.client.clone());
        Self { address: self.address, client, identity, ends }
    }

    /// The key that a path means, if they may read it.
    ///
    /// # Errors
    /// The path's fault; 401 or 403, the same whatever the reason and whether or not there is an answer. Who has no
    /// token learns nothing of what is not public, and has nothing asked of the source for it.
    pub async fn reads(
        &self,
        context: &Context,
        path: &str,
    ) -> Result<(Arc<Product>, Key), Problem> {
        self.may_name(context, path)?;
        let (product, key) = resolve::from_path(context, &self.client, path).await?;
        self.may_read(context, &product, &key).await?;
        Ok((product, key))
    }

    /// Whether they may so much as name a path's product.
    ///
    /// # Errors
    /// 401 for who has no token, where it is not public.
    pub fn may_name(&self, context: &Context, path: &str) -> Result<(), Problem> {
        if !self.identity.is_nobody() {
            return Ok(());
        }
        let name = path.split('/').next().unwrap_or_default();
        let product = resolve::named(context, name);
        let public = product.is_ok_and(|product| product.draft.policy.access.public);
        if public { Ok(()) } else { Err(Problem::unauthorized()) }
    }

    /// Whether they may read this key.
    ///
    /// # Errors
    /// As [`Who::reads`].
    pub async fn may_read(
        &self,
        context: &Context,
        product: &Product,
        key: &Key,
    ) -> Result<(), Problem> {
        if self.identity.is_everyone() {
            return Ok(());
        }
        let (identity, canonical) = (&self.identity, &context.canonical);
        permission::permit(product, key, identity, canonical, &self.client).await
    }

    /// The product that an answer is of: its file may have been edited while they waited, and then they are judged by
    /// what it says now.
    ///
    /// # Errors
    /// As [`Who::reads`].
    pub async fn still_reads(
        &self,
        context: &Context,
        product: Arc<Product>,
        key: &Key,
        answer: &Answer,
    ) -> Result<Arc<Product>, Problem> {
        if answer.fingerprint == product.fingerprint {
            return Ok(product);
        }
        let now = resolve::named(context, product.name())?;
        self.may_read(context, &now, key).await?;
        Ok(now)
    }

    /// Whether they may run this update with these values.
    ///
    /// # Errors
    /// As [`Who::reads`].
    pub async fn may_write(
        &self,
        context: &Context,
        update: &Update,
        values: &[Option<String>],
    ) -> Result<(), Problem> {
        let (access, parameters) = (&update.draft.policy.access, &update.parameters);
        let verdict = permission::verdict_of_values(access, parameters, values, &self.identity);
        permission::settle(verdict, parameters, &context.canonical, &self.client).await
    }

    /// This problem, or 401 for who has no token: whether there is such a thing is not theirs to know.
    #[must_use]
    pub fn may_learn(&self, problem: Problem) -> Problem {
        if self.identity.is_nobody() { Problem::unauthorized() } else { problem }
    }
}
