//! Taking a feed in, and removing one.
//!
//! Its blocks are written a piece with each commit, under a number that nobody reads yet. The last commit writes the feed's
//! row, which names that number, with the audit entry; from then on it counts, for every lookup at once. An import that
//! ends before leaves blocks that the next one removes.

use std::sync::Arc;
use std::time::Duration;

use super::feed::{self, Parsed, Reading};
use super::index::{Builder, FEEDS_MAX};
use super::model::{Feed, FeedName, Scope};
use super::{BadFeed, Confidence, Format, Intel, Kind, store};
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::domains::tenants;
use crate::kernel::context::Origin;
use crate::kernel::ids::{TenantId, UserId};
use crate::kernel::{Refusal, Result};
use crate::store::tables::INTEL_FEEDS;

/// Bytes of one commit: a few milliseconds, in which nobody else waits long.
const PIECE_BYTES: usize = 192 << 10;

/// A feed that is to be taken in.
#[derive(Clone, Debug)]
pub struct NewFeed {
    /// In which scope.
    pub scope: Scope,
    /// Under which name; a feed of this name is replaced.
    pub name: FeedName,
    /// Where it is from, for people.
    pub source: String,
    /// How it is written.
    pub format: Format,
    /// What lines of plain text are.
    pub kind: Option<Kind>,
    /// How sure its source is, where it does not say.
    pub confidence: Confidence,
    /// After how long its indicators end, where they do not say.
    pub lifetime: Option<Duration>,
    /// How old it may get; `None`: as configured.
    pub stale_after: Option<Duration>,
    /// Whether a feed without a single indicator replaces one that has some. A download that came back empty must not.
    pub may_be_empty: bool,
}

/// Who takes a feed in, and in whose log it is written down.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The person, where it was one.
    pub by: Option<UserId>,
    /// The log: the tenant's own, or for the appliance's feeds that of who administers it.
    pub log: TenantId,
    /// The request.
    pub origin: Origin,
}

/// What became of an import.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The feed as it counts now.
    pub feed: Arc<Feed>,
    /// The first lines that were left out, cut to 80 characters each.
    pub samples: Vec<String>,
}

impl Intel {
    /// Takes a feed in. Comes back when it counts and is durable.
    ///
    /// # Errors
    /// 422 `feed_refused` with the reason, and nothing was changed; 422 `feed_empty`; 409 `too_many_feeds`; 503 `overloaded` where
    /// too many imports wait already.
    pub async fn import(&self, new: NewFeed, content: Vec<u8>, asker: Asker) -> Result<Imported> {
        // Whoever waits holds a whole feed in memory.
        let _place =
            self.inner.imports.try_acquire().map_err(|_| {
                Refusal::new(crate::kernel::Kind::Unavailable, "overloaded", super::BUSY).retry_after_s(2)
            })?;
        let _alone = self.inner.changing.lock().await;
        let (scope, now) = (new.scope, self.inner.clock.now());
        let index = self.index(scope);
        let replaced = index.feeds().find(|feed| feed.name == new.name).cloned();
        if replaced.is_none() && index.feeds().count() >= FEEDS_MAX {
            return Err(too_many_feeds().into());
        }
        let settings = &self.inner.settings;
        let (own, all) = self.held(scope, &new.name);
        let room = settings.indicators_max.saturating_sub(all);
        let room = match scope {
            Scope::Global => room,
            Scope::Tenant(_) => room.min(settings.tenant_indicators_max.saturating_sub(own)),
        };
        let reading = Reading {
            format: new.format,
            kind: new.kind,
            confidence: new.confidence,
            expires_at: new.lifetime.map(|lifetime| now.plus(lifetime)),
            indicators_max: room,
        };
        let parsed = self.inner.pool.run(move || feed::parse(&content, &reading)).await?.map_err(refused)?;
        if parsed.pile.counts().total() == 0 && !new.may_be_empty {
            let detail = "The feed holds no indicator. What was taken in before still counts.";
            return Err(Refusal::new(crate::kernel::Kind::Invalid, "feed_empty", detail).into());
        }
        let parsed = Arc::new(parsed);
        let generation = self.write_blocks(scope, &parsed).await?;
        let feed = Arc::new(Feed {
            name: new.name,
            source: new.source,
            imported_at: now,
            stale_after: new.stale_after.unwrap_or(self.inner.settings.stale_after),
            counts: parsed.pile.counts(),
            rejected: parsed.rejected,
            ignored: parsed.ignored,
            ends_at: parsed.pile.ends_at(),
            generation,
            hunted: 0,
        });
        let (key, made, pile) = (self.inner.key, Arc::clone(&feed), Arc::clone(&parsed));
        let build = move || {
            let mut builder = Builder::without(&index, key, made.name.as_str());
            drop(index);
            let slot = builder.slot(made)?;
            builder.extend(slot, pile.pile.iter());
            Some(builder.build())
        };
        let built = self.inner.pool.run(build).await?.ok_or_else(too_many_feeds)?;
        let action = Action::IntelFeedImported;
        let why = format!(
            "{} ({}): {} indicators from {}, {} left out",
            feed.name,
            scope.name(),
            feed.counts.total(),
            feed.source,
            feed.rejected + feed.ignored
        );
        self.switch(scope, &feed.name, Some(Arc::clone(&feed)), built, (action, why), asker).await?;
        if replaced.is_some() {
            self.remove_orphans().await?;
        }
        Ok(Imported { feed, samples: parsed.samples.clone() })
    }

    /// Removes a feed; its indicators speak no longer.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn remove(&self, scope: Scope, name: FeedName, asker: Asker) -> Result<()> {
        let _alone = self.inner.changing.lock().await;
        let index = self.index(scope);
        if !index.feeds().any(|feed| feed.name == name) {
            return Err(Refusal::not_found().into());
        }
        let (key, gone) = (self.inner.key, name.clone());
        let built = self.inner.pool.run(move || Builder::without(&index, key, gone.as_str()).build()).await?;
        let action = (Action::IntelFeedRemoved, format!("{name} ({})", scope.name()));
        self.switch(scope, &name, None, built, action, asker).await?;
        self.remove_orphans().await
    }

    /// Writes the indicators down, a piece with each commit, and says under which number.
    async fn write_blocks(&self, scope: Scope, parsed: &Arc<Parsed>) -> Result<u64> {
        let generation = self.inner.store.write(store::next_generation).await?;
        for (number, piece) in (0..).zip(parsed.pile.pieces(PIECE_BYTES)) {
            let piece = piece.to_vec();
            self.inner.store.write(move |tx| store::put_block(tx, scope, generation, number, &piece)).await?;
        }
        Ok(generation)
    }

    /// The one commit from which on it counts.
    async fn switch(
        &self,
        scope: Scope,
        name: &FeedName,
        feed: Option<Arc<Feed>>,
        index: super::Index,
        (action, why): (Action, String),
        asker: Asker,
    ) -> Result<()> {
        let (this, name, index) = (self.clone(), name.clone(), Arc::new(index));
        self.inner
            .store
            .write(move |tx| {
                if let Scope::Tenant(tenant) = scope
                    && tenants::load(tx, tenant)?.is_none()
                {
                    return Err(Refusal::not_found().into());
                }
                match &feed {
                    Some(feed) => tx.put(INTEL_FEEDS, store::feed_key(scope, &name), &**feed)?,
                    None => drop(tx.delete(INTEL_FEEDS, store::feed_key(scope, &name))?),
                }
                let mut entry = NewEntry::new(action, &asker.origin).level(ThreatLevel::Low).reason(why.clone());
                if let Some(by) = asker.by {
                    entry = entry.user(by);
                }
                audit::append(tx, asker.log, this.inner.clock.now(), &this.inner.random, &entry)?;
                let (this, index) = (this.clone(), Arc::clone(&index));
                tx.after_commit(move || this.replace(scope, index));
                Ok(())
            })
            .await
    }

    /// Removes blocks that no feed names, a few with each commit.
    async fn remove_orphans(&self) -> Result<()> {
        for (scope, generation) in self.inner.store.read_with(store::orphans).await? {
            while self.inner.store.write(move |tx| store::drop_blocks(tx, scope, generation)).await? {}
        }
        Ok(())
    }

    /// Goes on with what a restart cut off: removes what is left of unfinished imports, and holds against the past what was
    /// not held against it to the end. Run once at the start.
    pub async fn resume(&self) {
        let removed = async {
            let _alone = self.inner.changing.lock().await;
            self.remove_orphans().await
        };
        if let Err(e) = removed.await {
            tracing::warn!(error = %e, "blocks of unfinished imports could not be removed");
        }
        let scopes: Vec<Scope> = self.inner.of_tenants.pin().keys().map(|tenant| Scope::Tenant(*tenant)).collect();
        for scope in scopes.into_iter().chain([Scope::Global]) {
            for (scope, feed) in self.feeds_of(scope) {
                if feed.hunted != feed.generation {
                    self.hunt_soon(scope, &feed.name);
                }
            }
        }
    }
}

/// 422: the feed is none, or a hostile one.
fn refused(bad: BadFeed) -> Refusal {
    let detail = format!("{bad} Nothing was changed.");
    Refusal::new(crate::kernel::Kind::Invalid, "feed_refused", detail)
}

/// 409: as many feeds as a scope may have.
fn too_many_feeds() -> Refusal {
    let detail = format!("There are {FEEDS_MAX} feeds already. Remove one first.");
    Refusal::new(crate::kernel::Kind::Conflict, "too_many_feeds", detail)
}
