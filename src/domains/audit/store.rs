//! Entries, leaves and subtrees in the data file.

use base64ct::{Base64UrlUnpadded, Encoding};
use sha2::{Digest, Sha256};

use super::events::Event;
use super::merkle::{self, Frontier, Hash};
use super::model::{EntryRow, HeadRow, Leaf, NewEntry, Personal};
use crate::crypto::jcs;
use crate::kernel::ids::{AuditId, TenantId};
use crate::kernel::{Error, Random, Result, Timestamp};
use crate::store::tables::{
    AUDIT, AUDIT_BY_DEVICE, AUDIT_ERASED, AUDIT_HEADS, AUDIT_NODES, DECISION_STATES, INTEGRATION_COUNTS, Key, OUTBOX,
    trailing_number,
};
use crate::store::{Snapshot, Tx, codec};

/// Writes an entry in the transaction of the change it records, and the subtrees that its leaf completes.
pub fn append(tx: &mut Tx<'_>, tenant: TenantId, now: Timestamp, random: &Random, new: &NewEntry) -> Result<AuditId> {
    let head_key = Key::new().bytes(tenant.to_bytes());
    let head: HeadRow = tx.get(AUDIT_HEADS, &head_key)?.unwrap_or_default();
    let mut tree = frontier(&head)?;
    let seq = head.size;
    let id = AuditId::generate(now, random);
    let personal = personal_of(new, random);
    let leaf = Leaf {
        id,
        seq,
        tenant,
        user_id: new.user_id,
        device_id: new.device_id.clone(),
        jti: new.jti,
        key_id: new.key_id,
        source: new.source,
        threat_level: new.level,
        threat_score: new.score,
        decision_reason: new.reason.clone(),
        attestation_state: new.attestation.clone(),
        action_taken: new.action,
        signal_id: new.signal_id,
        request_id: new.request_id.clone(),
        created_at: now,
        personal_sha256: personal.as_ref().map(commitment).transpose()?,
    };
    let value = serde_json::to_value(&leaf).map_err(Error::internal)?;
    let leaf = jcs::canonicalize(&value).map_err(Error::internal)?;
    for node in tree.push(merkle::leaf_hash(leaf.as_bytes())) {
        tx.put_raw(AUDIT_NODES, node_key(tenant, node.level, node.index), &node.hash)?;
    }
    tx.put(
        AUDIT,
        Key::new().bytes(tenant.to_bytes()).number(seq),
        &EntryRow { leaf: Some(leaf), personal, hash: None },
    )?;
    if let Some(device) = &new.device_id {
        let key = Key::new().bytes(tenant.to_bytes()).text(device.as_str()).number(seq);
        tx.put_raw(AUDIT_BY_DEVICE, key, &[])?;
    }
    tx.put(AUDIT_HEADS, &head_key, &head_of(&tree))?;
    post(tx, head_key, seq, new)?;
    Ok(id)
}

/// Puts an entry that is an event into the outbox, where the tenant has somebody to tell. A test is sent by whoever asked
/// for it.
fn post(tx: &mut Tx<'_>, tenant: Key, seq: u64, new: &NewEntry) -> Result<()> {
    match Event::of(new.action) {
        None | Some(Event::IntegrationTest) => return Ok(()),
        Some(_) => {}
    }
    if tx.get_raw(INTEGRATION_COUNTS, &tenant)?.is_none() {
        return Ok(());
    }
    tx.put_raw(OUTBOX, tenant.number(seq), &[])?;
    tx.ring_outbox();
    Ok(())
}

/// Visits the events among the entries `from..=to` with their numbers, in their order, until `visit` says `false`.
pub fn visit_events(
    snapshot: &Snapshot,
    tenant: TenantId,
    (from, to): (u64, u64),
    mut visit: impl FnMut(u64, Option<Posted>) -> bool,
) -> Result<()> {
    let tree = Key::new().bytes(tenant.to_bytes());
    let end = tree.clone().number(to.saturating_add(1));
    snapshot.visit(AUDIT, tree.number(from).as_ref(), Some(end.as_ref()), |key, value| {
        let found = posted_of(codec::decode::<EntryRow>(value)?)?;
        Ok(trailing_number(key).is_some_and(|seq| visit(seq, found)))
    })
}

/// What an entry says of itself, in the transaction that may have written it.
pub struct Posted {
    /// Its id.
    pub id: AuditId,
    /// Which event it is.
    pub event: Event,
    /// When it happened.
    pub at: Timestamp,
    /// What it is about: events about the same thing are told in their order.
    pub subject: String,
}

/// Looks at an entry as an event; `None` when it is none, or its content is erased.
pub fn posted(tx: &mut Tx<'_>, tenant: TenantId, seq: u64) -> Result<Option<Posted>> {
    let row = tx.get::<EntryRow>(AUDIT, Key::new().bytes(tenant.to_bytes()).number(seq))?;
    row.map_or(Ok(None), posted_of)
}

fn posted_of(row: EntryRow) -> Result<Option<Posted>> {
    let Some(text) = row.leaf else { return Ok(None) };
    let leaf: Leaf = serde_json::from_str(&text).map_err(Error::internal)?;
    Ok(Event::of(leaf.action_taken).map(|event| Posted {
        id: leaf.id,
        event,
        at: leaf.created_at,
        subject: leaf.device_id.map_or_else(String::new, |device| device.as_str().to_owned()),
    }))
}

pub(super) fn node_key(tenant: TenantId, level: u8, index: u64) -> Key {
    Key::new().bytes(tenant.to_bytes()).byte(level).number(index)
}

fn personal_of(new: &NewEntry, random: &Random) -> Option<Personal> {
    if new.ip.is_none() && new.user_agent.is_none() {
        return None;
    }
    Some(Personal {
        salt: Base64UrlUnpadded::encode_string(&random.bytes::<16>()),
        ip: new.ip.map(|ip| ip.to_string()),
        user_agent: new.user_agent.clone(),
    })
}

pub(super) fn commitment(personal: &Personal) -> Result<String> {
    let value = serde_json::to_value(personal).map_err(Error::internal)?;
    let text = jcs::canonicalize(&value).map_err(Error::internal)?;
    Ok(Base64UrlUnpadded::encode_string(&Sha256::digest(text.as_bytes())))
}

pub(super) fn frontier(head: &HeadRow) -> Result<Frontier> {
    let damaged = || Error::internal("the head of an audit tree is damaged");
    let edge = head
        .edge
        .iter()
        .map(|text| Hash::try_from(Base64UrlUnpadded::decode_vec(text).unwrap_or_default()).map_err(|_| damaged()))
        .collect::<Result<Vec<_>>>()?;
    Frontier::from_parts(head.size, edge).map_err(|_| damaged())
}

pub(super) fn head_of(tree: &Frontier) -> HeadRow {
    HeadRow { size: tree.size(), edge: tree.peaks().iter().map(|h| Base64UrlUnpadded::encode_string(h)).collect() }
}

/// The sequence number below which everything is erased.
pub(super) fn erased_through(mark: Option<Vec<u8>>) -> u64 {
    mark.as_deref().and_then(trailing_number).unwrap_or(0)
}

/// Replaces the content of up to `limit` entries from before `before` by the hashes of their leaves, oldest first; says
/// how many. What only served those entries goes with them: their places in the lists of devices, and the states of the
/// engine behind their decisions. The tree, and every proof, stays as it is.
///
/// It ends at the first entry that is younger, or that cannot be read: that one is evidence. An entry is no younger than
/// those behind it, whatever it says: one that was written while the clock ran ahead keeps nobody's address.
pub fn erase_older(tx: &mut Tx<'_>, tenant: TenantId, before: Timestamp, limit: usize) -> Result<usize> {
    let mark_key = Key::new().bytes(tenant.to_bytes());
    let mark = erased_through(tx.get_raw(AUDIT_ERASED, &mark_key)?);
    let end = mark_key.end_of_prefix();
    let rows = tx.scan_from(AUDIT, &mark_key.clone().number(mark), limit)?;
    let mut read = Vec::new();
    for (key, value) in rows {
        let seq = mark + read.len() as u64;
        let own = end.as_ref().is_none_or(|end| key.as_slice() < end.as_ref());
        let Ok(EntryRow { leaf: Some(text), .. }) = codec::decode::<EntryRow>(&value) else { break };
        let Ok(leaf) = serde_json::from_str::<Leaf>(&text) else { break };
        if !own || trailing_number(&key) != Some(seq) {
            break;
        }
        read.push((key, text, leaf));
    }
    let old = read.iter().rposition(|(_, _, leaf)| leaf.created_at < before).map_or(0, |last| last + 1);
    let mut erased = 0;
    for (key, text, leaf) in read.into_iter().take(old) {
        let seq = mark + erased as u64;
        let hash = Base64UrlUnpadded::encode_string(&merkle::leaf_hash(text.as_bytes()));
        tx.put(AUDIT, &key, &EntryRow { leaf: None, personal: None, hash: Some(hash) })?;
        if let Some(device) = &leaf.device_id {
            tx.delete(AUDIT_BY_DEVICE, mark_key.clone().text(device.as_str()).number(seq))?;
        }
        if let Some(signal) = leaf.signal_id {
            tx.delete(DECISION_STATES, mark_key.clone().bytes(signal.to_bytes()))?;
        }
        erased += 1;
    }
    if erased > 0 {
        tx.put_raw(AUDIT_ERASED, &mark_key, &(mark + erased as u64).to_be_bytes())?;
    }
    Ok(erased)
}
