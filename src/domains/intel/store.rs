//! Feeds and their blocks in the data file.

use std::collections::HashMap;
use std::sync::Arc;

use super::feed::unpack;
use super::index::{Builder, Index};
use super::model::{Feed, FeedName, Scope};
use crate::crypto::siphash::SipKey;
use crate::kernel::{Error, Result};
use crate::store::tables::{INTEL_BLOCKS, INTEL_FEEDS, Key};
use crate::store::{Snapshot, Tx, codec};

/// META: the newest generation of blocks.
const GENERATIONS: &str = "intel_generation";

pub(super) fn feed_key(scope: Scope, name: &FeedName) -> Key {
    Key::new().bytes(scope.to_bytes()).text(name.as_str())
}

fn blocks_key(scope: Scope, generation: u64) -> Key {
    Key::new().bytes(scope.to_bytes()).number(generation)
}

/// A number under which blocks are written that no feed names yet.
pub(super) fn next_generation(tx: &mut Tx<'_>) -> Result<u64> {
    tx.next_number(GENERATIONS)
}

pub(super) fn put_block(tx: &mut Tx<'_>, scope: Scope, generation: u64, number: u64, block: &[u8]) -> Result<()> {
    tx.put_raw(INTEL_BLOCKS, blocks_key(scope, generation).number(number), block)
}

/// Removes some blocks of a generation that no feed names any more; says whether there may be more.
pub(super) fn drop_blocks(tx: &mut Tx<'_>, scope: Scope, generation: u64) -> Result<bool> {
    const AT_ONCE: usize = 8;
    let from = blocks_key(scope, generation);
    let to = from.end_of_prefix().unwrap_or_default();
    Ok(tx.delete_range(INTEL_BLOCKS, &from, &to, AT_ONCE)? == AT_ONCE)
}

/// Generations of blocks that no feed names: what an import left behind that was cut off, or replaced.
pub(super) fn orphans(snapshot: &Snapshot) -> Result<Vec<(Scope, u64)>> {
    let mut named = std::collections::HashSet::new();
    snapshot.rows::<Feed>(INTEL_FEEDS, |key, feed| {
        named.extend(scope_of(key).map(|scope| (scope, feed.generation)));
        Ok(())
    })?;
    let mut found = Vec::new();
    let mut from = Key::new();
    loop {
        let mut here = None;
        snapshot.visit(INTEL_BLOCKS, from.as_ref(), None, |key, _| {
            let generation = key.get(16..24).and_then(|b| b.first_chunk::<8>()).map(|b| u64::from_be_bytes(*b));
            here = scope_of(key).zip(generation);
            Ok(false)
        })?;
        let Some((scope, generation)) = here else { return Ok(found) };
        if !named.contains(&(scope, generation)) {
            found.push((scope, generation));
        }
        match blocks_key(scope, generation).end_of_prefix() {
            Some(next) => from = next,
            None => return Ok(found),
        }
    }
}

fn scope_of(key: &[u8]) -> Option<Scope> {
    key.first_chunk::<16>().map(|bytes| Scope::from_bytes(*bytes))
}

/// Every scope's indicators.
pub(super) fn load(snapshot: &Snapshot, key: SipKey) -> Result<HashMap<Scope, Index>> {
    let mut builders: HashMap<Scope, Builder> = HashMap::new();
    let mut feeds = Vec::new();
    snapshot.visit(INTEL_FEEDS, &[], None, |key, value| {
        let scope = scope_of(key).ok_or_else(|| Error::internal("the key of a threat feed is damaged"))?;
        feeds.push((scope, Arc::new(codec::decode::<Feed>(value)?)));
        Ok(true)
    })?;
    for (scope, feed) in feeds {
        let builder = builders.entry(scope).or_insert_with(|| Builder::new(key, scope));
        let Some(slot) = builder.slot(Arc::clone(&feed)) else { continue };
        let mut seen = 0;
        snapshot.visit_prefix(INTEL_BLOCKS, &blocks_key(scope, feed.generation), |_, block| {
            builder.extend(slot, unpack(block).inspect(|_| seen += 1));
            Ok(true)
        })?;
        if seen != feed.counts.total() {
            return Err(Error::Internal(format!("the blocks of the threat feed {} are damaged", feed.name)));
        }
    }
    Ok(builders.into_iter().map(|(scope, builder)| (scope, builder.build())).collect())
}
