//! The log as an outsider reads it: tiles, bundles of entries, proofs. Out of a snapshot, and by positions alone.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};

use super::merkle::{self, Hash, MerkleError};
use super::model::{EntryRow, HeadRow, Personal};
use super::store::{commitment, node_key};
use super::tiles::{TILE_HEIGHT, TILE_WIDTH, Tile, push_entry};
use crate::kernel::error::FieldError;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Kind, Refusal, Result};
use crate::store::tables::{AUDIT, AUDIT_HEADS, AUDIT_NODES, Key, trailing_number};
use crate::store::{Snapshot, codec};

/// How many entries the tenant's log has.
pub(super) fn size(snapshot: &Snapshot, tenant: TenantId) -> Result<u64> {
    let head: Option<HeadRow> = snapshot.get(AUDIT_HEADS, Key::new().bytes(tenant.to_bytes()))?;
    Ok(head.map_or(0, |head| head.size))
}

/// What a tile holds; `None` while the log is too short for it.
pub(super) fn tile(snapshot: &Snapshot, tenant: TenantId, tile: Tile) -> Result<Option<Vec<u8>>> {
    if tile.needs() > size(snapshot, tenant)? {
        return Ok(None);
    }
    match tile.level {
        Some(level) => hashes(snapshot, tenant, level * TILE_HEIGHT, tile).map(Some),
        None => entries(snapshot, tenant, tile).map(Some),
    }
}

fn hashes(snapshot: &Snapshot, tenant: TenantId, level: u8, tile: Tile) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(32 * usize::try_from(TILE_WIDTH).unwrap_or(256));
    let from = node_key(tenant, level, tile.first());
    let to = node_key(tenant, level, tile.first() + tile.width);
    let mut next = tile.first();
    snapshot.visit(AUDIT_NODES, from.as_ref(), Some(to.as_ref()), |key, hash| {
        let in_order = trailing_number(key) == Some(next) && hash.len() == 32;
        next += 1;
        out.extend_from_slice(hash);
        if in_order { Ok(true) } else { Err(Error::internal("a subtree of the audit log is missing")) }
    })?;
    if next == tile.first() + tile.width {
        Ok(out)
    } else {
        Err(Error::internal("a subtree of the audit log is missing"))
    }
}

/// An erased entry stands here as the 32 bytes of its leaf's hash. No leaf is that short, so the two are never confused.
fn entries(snapshot: &Snapshot, tenant: TenantId, tile: Tile) -> Result<Vec<u8>> {
    let log = Key::new().bytes(tenant.to_bytes());
    let (from, to) = (log.clone().number(tile.first()), log.number(tile.first() + tile.width));
    let mut out = Vec::new();
    let mut next = tile.first();
    snapshot.visit(AUDIT, from.as_ref(), Some(to.as_ref()), |key, value| {
        let row: EntryRow = codec::decode(value)?;
        let pushed = match (&row.leaf, row.leaf_hash()) {
            (Some(leaf), _) => push_entry(&mut out, leaf.as_bytes()),
            (None, Some(hash)) => push_entry(&mut out, &hash),
            (None, None) => None,
        };
        let in_order = trailing_number(key) == Some(next) && pushed.is_some();
        next += 1;
        if in_order { Ok(true) } else { Err(Error::Internal(format!("audit entry {} is missing", next - 1))) }
    })?;
    if next == tile.first() + tile.width { Ok(out) } else { Err(Error::internal("an audit entry is missing")) }
}

impl EntryRow {
    /// The hash of its leaf, from the content or what is left of it.
    pub(super) fn leaf_hash(&self) -> Option<Hash> {
        match &self.leaf {
            Some(text) => Some(merkle::leaf_hash(text.as_bytes())),
            None => Base64UrlUnpadded::decode_vec(self.hash.as_deref()?).ok()?.try_into().ok(),
        }
    }
}

/// Proof that an entry is in the log.
#[derive(Debug)]
pub struct Inclusion {
    /// Which entry.
    pub seq: u64,
    /// Of the tree in which it is.
    pub size: u64,
    /// Of the entry.
    pub leaf: Hash,
    /// From the bottom up.
    pub path: Vec<Hash>,
    /// Of that tree.
    pub root: Hash,
}

/// Proof that a log is the beginning of a later one.
#[derive(Debug)]
pub struct Consistency {
    /// Size of the older tree.
    pub from: u64,
    /// Size of the newer one.
    pub to: u64,
    /// As RFC 9162 orders them.
    pub path: Vec<Hash>,
    /// Of the older tree.
    pub from_root: Hash,
    /// Of the newer one.
    pub root: Hash,
}

fn outside(name: &str, detail: String) -> Error {
    let fields = vec![FieldError { pointer: format!("?{name}"), detail }];
    Refusal { fields, ..Refusal::new(Kind::Invalid, "invalid_request", "The position lies outside the log.") }.into()
}

fn broken(e: MerkleError) -> Error {
    Error::Internal(format!("the audit tree is damaged: {e}"))
}

/// Proves that entry `seq` is in the first `size` entries.
pub(super) fn inclusion(snapshot: &Snapshot, tenant: TenantId, seq: u64, size: u64) -> Result<Inclusion> {
    let now = self::size(snapshot, tenant)?;
    if size > now {
        return Err(outside("size", format!("must be at most {now}, the size of the log")));
    }
    if seq >= size {
        return Err(outside("seq", format!("must be below size, which is {size}")));
    }
    let failed = std::cell::RefCell::new(None);
    let node = nodes(snapshot, tenant, &failed);
    let proof = || Ok::<_, MerkleError>((merkle::inclusion_proof(seq, size, &node)?, merkle::root_at(size, &node)?));
    let (path, root) = proof().map_err(|e| failed.take().unwrap_or_else(|| broken(e)))?;
    let leaf = node(0, seq).ok_or_else(|| broken(MerkleError::MissingNode { level: 0, index: seq }))?;
    Ok(Inclusion { seq, size, leaf, path, root })
}

/// Proves that the first `to` entries begin with the first `from`.
pub(super) fn consistency(snapshot: &Snapshot, tenant: TenantId, from: u64, to: u64) -> Result<Consistency> {
    let now = size(snapshot, tenant)?;
    if to > now {
        return Err(outside("to", format!("must be at most {now}, the size of the log")));
    }
    if from > to {
        return Err(outside("from", format!("must be at most {to}, which is to")));
    }
    let failed = std::cell::RefCell::new(None);
    let node = nodes(snapshot, tenant, &failed);
    let proof = || {
        let path = merkle::consistency_proof(from, to, &node)?;
        Ok::<_, MerkleError>((path, merkle::root_at(from, &node)?, merkle::root_at(to, &node)?))
    };
    let (path, from_root, root) = proof().map_err(|e| failed.take().unwrap_or_else(|| broken(e)))?;
    Ok(Consistency { from, to, path, from_root, root })
}

/// Roots of the first so many entries, from the stored subtrees; `None` where some are missing.
pub(super) fn roots_at<const N: usize>(
    snapshot: &Snapshot,
    tenant: TenantId,
    sizes: [u64; N],
) -> Result<Option<[Hash; N]>> {
    let failed = std::cell::RefCell::new(None);
    let node = nodes(snapshot, tenant, &failed);
    let mut roots = [merkle::empty_root(); N];
    for (root, size) in roots.iter_mut().zip(sizes) {
        match merkle::root_at(size, &node) {
            Ok(found) => *root = found,
            Err(_) => return failed.take().map_or(Ok(None), Err),
        }
    }
    Ok(Some(roots))
}

/// Finds stored subtrees; what the store has to say about a failure is kept apart.
fn nodes<'a>(
    snapshot: &'a Snapshot,
    tenant: TenantId,
    failed: &'a std::cell::RefCell<Option<Error>>,
) -> impl Fn(u8, u64) -> Option<Hash> + 'a {
    move |level, index| match snapshot.get_raw(AUDIT_NODES, node_key(tenant, level, index)) {
        Ok(found) => found?.try_into().ok(),
        Err(e) => {
            failed.replace(Some(e));
            None
        }
    }
}

/// A line of `personal.ndjson`: what a leaf commits to.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PersonalLine {
    pub seq: u64,
    pub salt: String,
    pub ip: Option<String>,
    pub user_agent: Option<String>,
}

impl PersonalLine {
    /// What the leaf must say.
    pub fn commitment(&self) -> Result<String> {
        let personal = Personal { salt: self.salt.clone(), ip: self.ip.clone(), user_agent: self.user_agent.clone() };
        commitment(&personal)
    }
}

/// The personal data of the entries `from..to` that have any, a JSON object a line.
pub(super) fn personal(snapshot: &Snapshot, tenant: TenantId, from: u64, to: u64) -> Result<String> {
    let log = Key::new().bytes(tenant.to_bytes());
    let (first, last) = (log.clone().number(from), log.number(to));
    let mut out = String::new();
    snapshot.visit(AUDIT, first.as_ref(), Some(last.as_ref()), |key, value| {
        let row: EntryRow = codec::decode(value)?;
        if let (Some(seq), Some(p)) = (trailing_number(key), row.personal) {
            let line = PersonalLine { seq, salt: p.salt, ip: p.ip, user_agent: p.user_agent };
            out.push_str(&serde_json::to_string(&line).map_err(Error::internal)?);
            out.push('\n');
        }
        Ok(true)
    })?;
    Ok(out)
}

/// The number and tenant that a leaf says it has, and its commitment; `None` when it is no leaf.
pub(super) fn leaf_says(leaf: &[u8]) -> Option<(u64, String, Option<String>)> {
    let leaf: serde_json::Value = serde_json::from_slice(leaf).ok()?;
    let text = |name: &str| leaf.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
    Some((leaf.get("seq")?.as_u64()?, text("tenant")?, text("personal_sha256")))
}
