//! Who signs the log, under which name, and the checkpoints that were signed.
//!
//! A checkpoint is signed for what a snapshot shows, so only ever for what is durable: a signature over a commit that a
//! power cut takes back would be a fork. It is stored, and an entry says so; that entry alone makes no next checkpoint.
//!
//! The log's name on notes is its origin: `<name>/<tenant>/<epoch>`. A restored backup may lack entries that somebody has
//! a checkpoint of, so a restore begins another epoch: what was signed under one name never contradicts itself. The tree
//! goes on. The first entry of an epoch repeats the last checkpoint that is known of the one before.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};

use super::merkle::{self, Hash};
use super::model::{Action, HeadRow, NewEntry};
use super::store::{append, frontier};
use super::tiles::Checkpoint;
use crate::crypto::note::{KeyKind, Note, NoteKey, Verifier};
use crate::crypto::{SealingKey, hex};
use crate::kernel::context::Origin;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Random, Result, Timestamp};
use crate::store::migrate::RESTORED;
use crate::store::tables::{AUDIT_CHECKPOINTS, AUDIT_EPOCHS, AUDIT_HEADS, Key, LOG_SIGNER, META, trailing_number};
use crate::store::{Row, Snapshot, Tx, codec};

/// Checkpoints of one tenant that are kept: a week of minutes. The oldest go first.
const CHECKPOINTS_MAX: u64 = 10_000;
/// Old checkpoints that one new one removes at most.
const TRIMMED_AT_ONCE: usize = 2;
const SEAL_CONTEXT: &[u8] = b"log_signer/ed25519";

/// The key, and what the appliance calls itself on notes.
#[derive(Serialize, Deserialize)]
pub(super) struct SignerRow {
    /// Base64url of the seed, sealed.
    sealed: String,
    /// Base64url of the public half.
    pub public: String,
    /// The first part of every origin.
    name: String,
}
impl Row for SignerRow {}

/// A name under which a tenant's log is signed.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct EpochRow {
    pub origin: String,
    /// The first entry that was written under it.
    pub from_seq: u64,
    pub began_at: Timestamp,
}
impl Row for EpochRow {}

/// A signed checkpoint.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct CheckpointRow {
    pub note: String,
    pub signed_at: Timestamp,
    /// Whether the witness has seen it.
    #[serde(default)]
    pub cosigned: bool,
}
impl Row for CheckpointRow {}

/// What a restore leaves for the next start.
#[derive(Serialize, Deserialize)]
pub struct Restored {
    /// When the backup was made, as far as it says.
    pub made_at: Option<Timestamp>,
    /// The last checkpoint of each tenant in the data file that was replaced, where there was a readable one.
    #[serde(default)]
    pub known: Vec<(TenantId, String)>,
}

/// Signs.
pub(super) struct Signer {
    key: NoteKey,
    pub name: String,
}

impl Signer {
    pub fn verifier(&self, origin: &str) -> Verifier {
        Verifier::new(origin, KeyKind::Ed25519, self.key.public())
    }

    fn first_origin(&self, tenant: TenantId) -> String {
        format!("{}/{tenant}/1", self.name)
    }
}

/// The appliance's first log name and key, or those that it has; what a restore or a new name asks for is done.
pub(super) fn settle(
    tx: &mut Tx<'_>,
    sealing: &SealingKey,
    wanted: Option<&str>,
    now: Timestamp,
    random: &Random,
) -> Result<Signer> {
    let place = Key::new().text("ed25519");
    let row: Option<SignerRow> = tx.get(LOG_SIGNER, &place)?;
    let (mut row, made) = match row {
        Some(row) => (row, false),
        None => (new_signer(sealing, wanted, random)?, true),
    };
    let renamed = wanted.is_some_and(|wanted| wanted != row.name);
    if let Some(name) = wanted {
        row.name = name.to_owned();
    }
    let signer = Signer { key: open(&row, sealing)?, name: row.name.clone() };
    if made || renamed {
        tx.put(LOG_SIGNER, &place, &row)?;
    }
    let restored = tx.get_raw(META, Key::new().text(RESTORED))?;
    if let Some(noted) = &restored {
        let noted: Restored = serde_json::from_slice(noted).map_err(Error::internal)?;
        for tenant in tenants(tx)? {
            begin_epoch(tx, &signer, tenant, Some(&noted), now, random)?;
        }
        tx.delete(META, Key::new().text(RESTORED))?;
    } else if renamed {
        for tenant in tenants(tx)? {
            begin_epoch(tx, &signer, tenant, None, now, random)?;
        }
    }
    Ok(signer)
}

fn open(row: &SignerRow, sealing: &SealingKey) -> Result<NoteKey> {
    let seed = Base64UrlUnpadded::decode_vec(&row.sealed).map_err(Error::internal)?;
    let seed = sealing.open(SEAL_CONTEXT, &seed).map_err(Error::internal)?;
    let seed = <&[u8; 32]>::try_from(seed.as_slice()).map_err(|_| Error::internal("the key of the log is damaged"))?;
    NoteKey::from_seed(seed).map_err(Error::internal)
}

/// Whether this sealing key opens the key of the log in this file, and it is the one that its public half says.
///
/// # Errors
/// That it does not; a file that has none yet is nobody's.
pub fn check_signer(snapshot: &Snapshot, sealing: &SealingKey) -> Result<()> {
    let row: Option<SignerRow> = snapshot.get(LOG_SIGNER, Key::new().text("ed25519"))?;
    let Some(row) = row else { return Ok(()) };
    if Base64UrlUnpadded::encode_string(&open(&row, sealing)?.public()) == row.public {
        return Ok(());
    }
    Err(Error::internal("the key of the log is not the one that its public half says"))
}

fn new_signer(sealing: &SealingKey, wanted: Option<&str>, random: &Random) -> Result<SignerRow> {
    let seed = zeroize::Zeroizing::new(random.bytes::<32>());
    let key = NoteKey::from_seed(&seed).map_err(Error::internal)?;
    let name = wanted.map_or_else(|| format!("blockremote-{}", hex(&random.bytes::<4>())), str::to_owned);
    Ok(SignerRow {
        sealed: Base64UrlUnpadded::encode_string(&sealing.seal(SEAL_CONTEXT, seed.as_slice(), random)),
        public: Base64UrlUnpadded::encode_string(&key.public()),
        name,
    })
}

fn tenants(tx: &mut Tx<'_>) -> Result<Vec<TenantId>> {
    let mut out = Vec::new();
    tx.visit(AUDIT_HEADS, &Key::new(), |key, _| {
        out.extend(key.first_chunk::<16>().map(|id| TenantId::from_bytes(*id)));
        Ok(true)
    })?;
    Ok(out)
}

fn begin_epoch(
    tx: &mut Tx<'_>,
    signer: &Signer,
    tenant: TenantId,
    restored: Option<&Restored>,
    now: Timestamp,
    random: &Random,
) -> Result<()> {
    let prefix = Key::new().bytes(tenant.to_bytes());
    let (mut number, mut stored) = (1, None);
    tx.visit(AUDIT_EPOCHS, &prefix, |key, _| {
        number = trailing_number(key).unwrap_or(1);
        Ok(true)
    })?;
    tx.visit(AUDIT_CHECKPOINTS, &prefix, |_, value| {
        stored = Some(codec::decode::<CheckpointRow>(value)?.note);
        Ok(true)
    })?;
    let number = number + 1;
    let head: HeadRow = tx.get(AUDIT_HEADS, &prefix)?.unwrap_or_default();
    // Two restores of one backup, on two machines, must not go by one name.
    let origin = format!("{}/{tenant}/{number}-{}", signer.name, hex(&random.bytes::<4>()));
    tx.put(AUDIT_EPOCHS, prefix.number(number), &EpochRow { origin, from_seq: head.size, began_at: now })?;
    let known = restored.and_then(|r| r.known.iter().find(|(t, _)| *t == tenant)).map(|(_, note)| note.clone());
    let last = known.or(stored).unwrap_or_else(|| "none\n".to_owned());
    let (action, why) = match restored {
        Some(restored) => {
            let of = restored.made_at.map_or_else(String::new, |at| format!(" of {at}"));
            (Action::ApplianceRestored, format!("restored from a backup{of}"))
        }
        None => (Action::AuditRenamed, format!("the log's name is {} now", signer.name)),
    };
    let entry = NewEntry::new(action, &Origin::system()).reason(format!("{why}; the last checkpoint known:\n{last}"));
    append(tx, tenant, now, random, &entry)?;
    Ok(())
}

/// The name that the tenant's log goes by now, and its number.
pub(super) fn epoch(snapshot: &Snapshot, signer: &Signer, tenant: TenantId) -> Result<(u64, EpochRow)> {
    let mut found = None;
    snapshot.visit_back(AUDIT_EPOCHS, &Key::new().bytes(tenant.to_bytes()), None, |key, value| {
        found = Some((trailing_number(key).unwrap_or(1), codec::decode(value)?));
        Ok(false)
    })?;
    Ok(found.unwrap_or_else(|| {
        let began_at = Timestamp::from_millis(0);
        (1, EpochRow { origin: signer.first_origin(tenant), from_seq: 0, began_at })
    }))
}

/// Every name that the tenant's log went by, the first one first.
pub(super) fn epochs(snapshot: &Snapshot, signer: &Signer, tenant: TenantId) -> Result<Vec<EpochRow>> {
    let mut all: Vec<EpochRow> = Vec::new();
    snapshot.visit_prefix(AUDIT_EPOCHS, &Key::new().bytes(tenant.to_bytes()), |_, value| {
        all.push(codec::decode(value)?);
        Ok(true)
    })?;
    if all.is_empty() {
        all.push(epoch(snapshot, signer, tenant)?.1);
    }
    Ok(all)
}

/// The newest checkpoint of an epoch and its size.
pub(super) fn latest(snapshot: &Snapshot, tenant: TenantId, number: u64) -> Result<Option<(u64, CheckpointRow)>> {
    let mut found = None;
    let prefix = Key::new().bytes(tenant.to_bytes()).number(number);
    snapshot.visit_back(AUDIT_CHECKPOINTS, &prefix, None, |key, value| {
        found = Some((trailing_number(key).unwrap_or(0), codec::decode(value)?));
        Ok(false)
    })?;
    Ok(found)
}

/// The newest checkpoint of an epoch that the witness has seen.
pub(super) fn latest_cosigned(snapshot: &Snapshot, tenant: TenantId, number: u64) -> Result<u64> {
    let mut found = 0;
    let prefix = Key::new().bytes(tenant.to_bytes()).number(number);
    snapshot.visit_back(AUDIT_CHECKPOINTS, &prefix, None, |key, value| {
        let row: CheckpointRow = codec::decode(value)?;
        if row.cosigned {
            found = trailing_number(key).unwrap_or(0);
        }
        Ok(!row.cosigned)
    })?;
    Ok(found)
}

/// The checkpoints of an epoch, the oldest first, a JSON object a line.
pub(super) fn history(snapshot: &Snapshot, tenant: TenantId, number: u64) -> Result<String> {
    let mut out = String::new();
    let prefix = Key::new().bytes(tenant.to_bytes()).number(number);
    snapshot.visit_prefix(AUDIT_CHECKPOINTS, &prefix, |_, value| {
        let row: CheckpointRow = codec::decode(value)?;
        let line = serde_json::json!({ "note": row.note, "signed_at": row.signed_at });
        out.push_str(&format!("{line}\n"));
        Ok(true)
    })?;
    Ok(out)
}

/// A checkpoint that is signed and not stored yet.
pub(super) struct Fresh {
    pub number: u64,
    pub epoch: EpochRow,
    pub size: u64,
    pub note: String,
}

/// What there is to sign.
pub(super) enum Signing {
    /// Nothing: the log has grown by no more than the entry about its last checkpoint.
    UpToDate,
    /// This.
    Fresh(Box<Fresh>),
    /// The log is not the one that was signed before; nobody may be told otherwise. A sentence on it.
    Torn(String),
}

/// Signs what the snapshot shows, if it has grown and begins with what was signed before.
pub(super) fn sign(snapshot: &Snapshot, signer: &Signer, tenant: TenantId) -> Result<Signing> {
    let head: Option<HeadRow> = snapshot.get(AUDIT_HEADS, Key::new().bytes(tenant.to_bytes()))?;
    let head = head.unwrap_or_default();
    let (number, epoch) = epoch(snapshot, signer, tenant)?;
    let last = latest(snapshot, tenant, number)?;
    let root = frontier(&head)?.root();
    if let Some((size, row)) = &last
        && let Some(why) = torn(snapshot, signer, tenant, &epoch, (*size, &row.note), (head.size, root))?
    {
        return Ok(Signing::Torn(why));
    }
    // The entry about a checkpoint is one; where there is one entry alone, it is that one.
    if head.size == 0 || last.is_some_and(|(size, _)| head.size <= size + 1) {
        return Ok(Signing::UpToDate);
    }
    let checkpoint = Checkpoint { origin: epoch.origin.clone(), size: head.size, root };
    let note = signer.key.sign(&epoch.origin, &checkpoint.to_text());
    Ok(Signing::Fresh(Box::new(Fresh { number, epoch, size: head.size, note })))
}

/// Why the log does not go on from its last checkpoint; `None` where it does. Signing it would be a lie about the past, and
/// one that everybody can see who kept that checkpoint.
fn torn(
    snapshot: &Snapshot,
    signer: &Signer,
    tenant: TenantId,
    epoch: &EpochRow,
    (signed_size, note): (u64, &str),
    (size, root): (u64, Hash),
) -> Result<Option<String>> {
    let read = Note::parse(note.as_bytes()).ok();
    let genuine = read.as_ref().is_some_and(|note| note.verify(&signer.verifier(&epoch.origin)).is_ok());
    let signed = read.and_then(|note| Checkpoint::parse(note.text()));
    let Some(signed) = signed.filter(|c| genuine && c.size == signed_size && c.origin == epoch.origin) else {
        return Ok(Some(format!(
            "its last checkpoint, of {signed_size} entries, is not one that this appliance signed"
        )));
    };
    if signed_size > size {
        return Ok(Some(format!("{signed_size} entries were signed, and {size} are there")));
    }
    let roots = super::serve::roots_at(snapshot, tenant, [signed_size, size])?;
    Ok(match roots {
        Some([before, _]) if before != signed.root => {
            Some(format!("its first {signed_size} entries are not those that were signed"))
        }
        Some([_, now]) if now != root => Some(format!("its {size} entries and its head do not fit together")),
        Some(_) => None,
        None => Some("a part of its tree is missing".to_owned()),
    })
}

/// Stores what was signed, with the entry that says so; nothing where another one came before it.
pub(super) fn keep(
    tx: &mut Tx<'_>,
    tenant: TenantId,
    fresh: &Fresh,
    origin: &Origin,
    now: Timestamp,
    random: &Random,
) -> Result<()> {
    let prefix = Key::new().bytes(tenant.to_bytes());
    let place = prefix.clone().number(fresh.number).number(fresh.size);
    let epoch = prefix.number(fresh.number);
    let newer = tx.scan_from(AUDIT_CHECKPOINTS, &place, 1)?;
    if newer.iter().any(|(key, _)| key.starts_with(epoch.as_ref())) {
        return Ok(());
    }
    if tx.get_raw(AUDIT_EPOCHS, &epoch)?.is_none() {
        tx.put(AUDIT_EPOCHS, &epoch, &EpochRow { began_at: now, ..fresh.epoch.clone() })?;
    }
    let row = CheckpointRow { note: fresh.note.clone(), signed_at: now, cosigned: false };
    tx.put(AUDIT_CHECKPOINTS, &place, &row)?;
    trim(tx, tenant)?;
    let root = Note::parse(fresh.note.as_bytes()).ok().and_then(|note| Checkpoint::parse(note.text()));
    let root = root.map_or(merkle::empty_root(), |checkpoint| checkpoint.root);
    let reason = format!("{} entries, root {}, signed as {}", fresh.size, hex(&root), fresh.epoch.origin);
    append(tx, tenant, now, random, &NewEntry::new(Action::AuditCheckpointed, origin).reason(reason))?;
    Ok(())
}

/// Counts a tenant's checkpoints, and removes the oldest where there are too many.
fn trim(tx: &mut Tx<'_>, tenant: TenantId) -> Result<()> {
    let prefix = Key::new().bytes(tenant.to_bytes());
    let counter = format!("checkpoints of {tenant}");
    let place = Key::new().text(&counter);
    let mut count = tx.get_raw(META, &place)?.as_deref().and_then(trailing_number).unwrap_or(0) + 1;
    if count > CHECKPOINTS_MAX {
        let end = prefix.end_of_prefix().unwrap_or_default();
        let gone = tx.delete_range(AUDIT_CHECKPOINTS, &prefix, &end, TRIMMED_AT_ONCE)?;
        count = count.saturating_sub(gone as u64);
    }
    tx.put_raw(META, &place, &count.to_be_bytes())
}

/// Adds the witness's line to a stored checkpoint.
pub(super) fn add_cosignature(tx: &mut Tx<'_>, tenant: TenantId, number: u64, size: u64, line: &str) -> Result<()> {
    let place = Key::new().bytes(tenant.to_bytes()).number(number).number(size);
    let row: Option<CheckpointRow> = tx.get(AUDIT_CHECKPOINTS, &place)?;
    let Some(mut row) = row.filter(|row| !row.cosigned) else { return Ok(()) };
    row.note.push_str(line);
    row.cosigned = true;
    tx.put(AUDIT_CHECKPOINTS, &place, &row)
}

/// The public half of the key in this file, where it has one.
pub(super) fn public_key(snapshot: &Snapshot) -> Result<Option<[u8; 32]>> {
    let row: Option<SignerRow> = snapshot.get(LOG_SIGNER, Key::new().text("ed25519"))?;
    Ok(row.and_then(|row| Base64UrlUnpadded::decode_vec(&row.public).ok()?.try_into().ok()))
}

/// The newest checkpoint of each tenant, for whoever is about to replace this data file.
pub fn last_checkpoints(snapshot: &Snapshot) -> Result<Vec<(TenantId, String)>> {
    let mut last: Vec<(TenantId, String)> = Vec::new();
    snapshot.rows::<CheckpointRow>(AUDIT_CHECKPOINTS, |key, row| {
        let Some(id) = key.first_chunk::<16>() else { return Ok(()) };
        let tenant = TenantId::from_bytes(*id);
        match last.last_mut().filter(|(t, _)| *t == tenant) {
            Some((_, note)) => *note = row.note,
            None => last.push((tenant, row.note)),
        }
        Ok(())
    })?;
    Ok(last)
}
