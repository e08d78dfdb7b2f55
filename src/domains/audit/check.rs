//! The check of a data file's logs: every leaf, subtree, root and stored checkpoint, recomputed from the entries.

use std::collections::BTreeMap;

use base64ct::{Base64UrlUnpadded, Encoding};

use super::merkle::{Frontier, Hash, Node};
use super::model::{EntryRow, HeadRow, Leaf};
use super::signing::{self, CheckpointRow};
use super::store::{commitment, erased_through, head_of, node_key};
use super::tiles::Checkpoint;
use crate::crypto::note::{KeyKind, Note, Verifier};
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result};
use crate::store::tables::{AUDIT, AUDIT_CHECKPOINTS, AUDIT_ERASED, AUDIT_HEADS, AUDIT_NODES, Key, trailing_number};
use crate::store::{Snapshot, codec};

/// What a check of every tree found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TreeCheck {
    /// Whose log.
    pub tenant: TenantId,
    /// Entries.
    pub size: u64,
    /// Root hash in base64url, as recomputed from the entries.
    pub root: String,
    /// Signed checkpoints that were compared with it.
    pub checkpoints: u64,
    /// The sequence number of the first entry that is not as it was; `None` for a sound log.
    pub first_bad: Option<u64>,
    /// What is wrong, each with its sequence number; empty for a sound log.
    pub faults: Vec<String>,
}

/// How many faults of one tree are named; a log that was replaced wholesale has as many as entries.
const FAULTS_NAMED_MAX: usize = 20;

#[derive(Default)]
struct Faults {
    named: Vec<String>,
    first: Option<u64>,
}

impl Faults {
    fn add(&mut self, seq: u64, text: String) {
        self.first = Some(self.first.map_or(seq, |first| first.min(seq)));
        if self.named.len() < FAULTS_NAMED_MAX {
            self.named.push(text);
        }
    }
}

/// Recomputes every leaf, subtree and root from the stored entries and compares them with what is stored, and with what
/// was signed: the stored checkpoints, and those that somebody kept elsewhere (`known`, each the bytes of a note).
/// Where somebody knows the public half of its key from elsewhere (`key`), the file's own must be that one and every log
/// signed with it.
pub fn check_trees_against(snapshot: &Snapshot, known: &[Vec<u8>], key: Option<[u8; 32]>) -> Result<Vec<TreeCheck>> {
    let mut heads: Vec<(TenantId, HeadRow)> = Vec::new();
    snapshot.rows::<HeadRow>(AUDIT_HEADS, |key, row| {
        let tenant = key.first_chunk::<16>().ok_or_else(|| Error::internal("an audit head has a damaged key"))?;
        heads.push((TenantId::from_bytes(*tenant), row));
        Ok(())
    })?;
    let own = signing::public_key(snapshot)?;
    let check = |(tenant, head): (TenantId, HeadRow)| {
        let mut checked = check_tree(snapshot, tenant, &head, own, known)?;
        if key.is_some() && (key != own || checked.size > 0 && checked.checkpoints == 0) {
            let what = if key == own { "nothing of it is signed" } else { "the file's key is another than --key" };
            checked.faults.push(format!("entry 0, or one behind it, may be anything: {what}"));
            checked.first_bad = Some(0);
        }
        Ok(checked)
    };
    heads.into_iter().map(check).collect()
}

/// Whose logs there are.
pub(super) fn logs(snapshot: &Snapshot) -> Result<Vec<TenantId>> {
    let mut found = Vec::new();
    snapshot.rows::<HeadRow>(AUDIT_HEADS, |key, _| {
        found.extend(key.first_chunk::<16>().map(|tenant| TenantId::from_bytes(*tenant)));
        Ok(())
    })?;
    Ok(found)
}

/// [`check_trees_against`] what is stored alone.
pub fn check_trees(snapshot: &Snapshot) -> Result<Vec<TreeCheck>> {
    check_trees_against(snapshot, &[], None)
}

fn check_tree(
    snapshot: &Snapshot,
    tenant: TenantId,
    head: &HeadRow,
    key: Option<[u8; 32]>,
    known: &[Vec<u8>],
) -> Result<TreeCheck> {
    let log = Key::new().bytes(tenant.to_bytes());
    let erased = erased_through(snapshot.get_raw(AUDIT_ERASED, &log)?);
    let mut tree = Frontier::default();
    let mut faults = Faults::default();
    let signed = signed_roots(snapshot, tenant, key, known, &mut faults)?;
    let mut seen = BTreeMap::new();
    snapshot.visit_prefix(AUDIT, &log, |key, value| {
        let seq = trailing_number(key).unwrap_or(u64::MAX);
        if seq != tree.size() {
            faults.add(tree.size(), format!("entry {} is missing", tree.size()));
            return Ok(false);
        }
        match codec::decode::<EntryRow>(value) {
            Ok(row) => {
                let Some(leaf) = check_entry(&row, tenant, seq, erased, &mut faults) else { return Ok(false) };
                for Node { level, index, hash } in tree.push(leaf) {
                    if snapshot.get_raw(AUDIT_NODES, node_key(tenant, level, index))?.as_deref()
                        != Some(hash.as_slice())
                    {
                        faults.add(
                            index << level,
                            format!("entry {seq}: the stored subtree at level {level}, index {index} does not match"),
                        );
                    }
                }
                if signed.contains_key(&tree.size()) {
                    seen.insert(tree.size(), tree.root());
                }
                Ok(true)
            }
            Err(e) => {
                faults.add(seq, format!("entry {seq} does not decode: {e}"));
                Ok(false)
            }
        }
    })?;
    if tree.size() != head.size {
        let seq = tree.size().min(head.size);
        faults.add(seq, format!("entry {seq}: the head says {} entries, {} were found", head.size, tree.size()));
    } else if head_of(&tree).edge != head.edge {
        faults.add(head.size, "the stored head does not match the entries".to_owned());
    }
    compare(&signed, &seen, tree.size(), &mut faults);
    Ok(TreeCheck {
        tenant,
        size: tree.size(),
        root: Base64UrlUnpadded::encode_string(&tree.root()),
        checkpoints: signed.len() as u64,
        first_bad: faults.first,
        faults: faults.named,
    })
}

/// What was signed of this log: root by size. A note of another log among the known ones says nothing here.
fn signed_roots(
    snapshot: &Snapshot,
    tenant: TenantId,
    key: Option<[u8; 32]>,
    known: &[Vec<u8>],
    faults: &mut Faults,
) -> Result<BTreeMap<u64, Vec<Hash>>> {
    let mut signed: BTreeMap<u64, Vec<Hash>> = BTreeMap::new();
    let mut add = |note: &[u8], size: Option<u64>, faults: &mut Faults| {
        let read = Note::parse(note).ok().and_then(|note| Some((Checkpoint::parse(note.text())?, note)));
        let Some((checkpoint, note)) = read else {
            faults.add(
                size.unwrap_or(0),
                format!("the stored checkpoint of {} entries does not read", size.unwrap_or(0)),
            );
            return;
        };
        if checkpoint.origin.split('/').nth(1) != Some(tenant.to_string().as_str()) {
            // Among those that somebody kept there may be others' logs; among the log's own there may not.
            if let Some(size) = size {
                faults.add(size, format!("the stored checkpoint of {size} entries is one of another log"));
            }
            return;
        }
        let verifier = key.map(|key| Verifier::new(&checkpoint.origin, KeyKind::Ed25519, key));
        let genuine = verifier.is_some_and(|verifier| note.verify(&verifier).is_ok());
        if !genuine || size.is_some_and(|size| size != checkpoint.size) {
            let text = format!("a checkpoint of {} entries is not signed by the key of this log", checkpoint.size);
            faults.add(size.unwrap_or(checkpoint.size), text);
            return;
        }
        let roots = signed.entry(checkpoint.size).or_default();
        if !roots.contains(&checkpoint.root) {
            roots.push(checkpoint.root);
        }
    };
    snapshot.visit_prefix(AUDIT_CHECKPOINTS, &Key::new().bytes(tenant.to_bytes()), |key, value| {
        let row: CheckpointRow = codec::decode(value)?;
        add(row.note.as_bytes(), trailing_number(key), faults);
        Ok(true)
    })?;
    for note in known {
        add(note, None, faults);
    }
    Ok(signed)
}

/// Holds the log against what was signed of it.
fn compare(signed: &BTreeMap<u64, Vec<Hash>>, seen: &BTreeMap<u64, Hash>, size: u64, faults: &mut Faults) {
    let mut good = 0;
    for (at, roots) in signed {
        if *at > size {
            faults.add(size, format!("entry {size} is missing: a signed checkpoint counts {at} entries"));
            return;
        }
        let root = seen.get(at).copied().unwrap_or_else(super::merkle::empty_root);
        if roots.iter().any(|signed| *signed != root) {
            faults.add(
                good,
                format!(
                    "entry {good}, or one behind it up to {}, is not the one that was signed: the log of {at} entries has \
                     another root than its signed checkpoint",
                    at.saturating_sub(1)
                ),
            );
            return;
        }
        good = *at;
    }
}

/// Says what is wrong with an entry and gives the hash of its leaf; `None` when it holds neither leaf nor hash.
fn check_entry(row: &EntryRow, tenant: TenantId, seq: u64, erased: u64, faults: &mut Faults) -> Option<Hash> {
    let hash = row.leaf_hash();
    let Some(text) = &row.leaf else {
        if seq >= erased {
            faults.add(seq, format!("entry {seq} was erased before its time"));
        }
        if hash.is_none() {
            faults.add(seq, format!("entry {seq} holds neither its content nor its hash"));
        }
        return hash;
    };
    let Ok(leaf) = serde_json::from_str::<Leaf>(text) else {
        faults.add(seq, format!("entry {seq}: its leaf is not readable"));
        return hash;
    };
    if leaf.seq != seq || leaf.tenant != tenant {
        faults.add(seq, format!("entry {seq} says that it is entry {} of {}", leaf.seq, leaf.tenant));
    }
    // Erased personal data leaves only the commitment; data that is there must be what was committed to.
    if let Some(personal) = &row.personal
        && commitment(personal).ok() != leaf.personal_sha256
    {
        faults.add(seq, format!("entry {seq}: address or user agent were changed"));
    }
    hash
}
