//! The rotation of the signing keys: next is published before it signs, retired until nothing it signed is valid.

use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};

use crate::crypto::keyring::{KeyRing, KeySet};
use crate::crypto::{Jwk, SealingKey, SigningKey};
use crate::domains::audit::{self, Action, NewEntry};
use crate::kernel::context::Origin;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Random, Result, Timestamp};
use crate::store::tables::{Key, SIGNING_KEYS};
use crate::store::{Row, Snapshot, Tx, codec};

/// A retired key is published until the last command that it may have signed has expired.
const RETIREMENT: Duration = Duration::from_secs(32 * 86_400);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Place {
    Current,
    Next,
    Retired,
}

#[derive(Clone, Serialize, Deserialize)]
struct KeyRow {
    kid: String,
    jwk: Jwk,
    /// PKCS#8 PEM, sealed, in base64url; gone once the key is retired.
    sealed: Option<String>,
    place: Place,
    created_at: Timestamp,
    /// When a retired key leaves the published set.
    gone_at: Option<Timestamp>,
}
impl Row for KeyRow {}

fn seal_context(kid: &str) -> Vec<u8> {
    format!("signing-key:{kid}").into_bytes()
}

fn generate(place: Place, sealing: &SealingKey, now: Timestamp, random: &Random) -> Result<KeyRow> {
    let key = SigningKey::generate(random);
    let kid = key.kid().to_owned();
    let pem = key.to_pkcs8_pem().map_err(Error::internal)?;
    let sealed = sealing.seal(&seal_context(&kid), pem.as_bytes(), random);
    Ok(KeyRow {
        jwk: key.verifying().to_jwk(),
        sealed: Some(Base64UrlUnpadded::encode_string(&sealed)),
        place,
        created_at: now,
        gone_at: None,
        kid,
    })
}

/// Makes the first two keys.
pub(super) fn create(tx: &mut Tx<'_>, sealing: &SealingKey, now: Timestamp, random: &Random) -> Result<()> {
    for place in [Place::Current, Place::Next] {
        let row = generate(place, sealing, now, random)?;
        tx.put(SIGNING_KEYS, Key::new().text(&row.kid), &row)?;
    }
    Ok(())
}

/// Opens the stored keys.
///
/// # Errors
/// When the sealing key is not the one that sealed them.
pub fn load(snapshot: &Snapshot, sealing: &SealingKey, now: Timestamp) -> Result<KeySet> {
    let mut rows = Vec::new();
    snapshot.rows::<KeyRow>(SIGNING_KEYS, |_, row| {
        rows.push(row);
        Ok(())
    })?;
    key_set(rows, sealing, now)
}

fn key_set(mut rows: Vec<KeyRow>, sealing: &SealingKey, now: Timestamp) -> Result<KeySet> {
    rows.retain(|row| row.gone_at.is_none_or(|at| at > now));
    rows.sort_by_key(|row| (row.place as u8, row.created_at));
    let current = rows.iter().find(|r| r.place == Place::Current);
    let current = current.ok_or_else(|| Error::internal("the data file holds no current signing key"))?;
    let sealed = current.sealed.as_deref().unwrap_or_default();
    let sealed = Base64UrlUnpadded::decode_vec(sealed).map_err(Error::internal)?;
    let pem = sealing.open(&seal_context(&current.kid), &sealed).map_err(Error::internal)?;
    let pem = std::str::from_utf8(&pem).map_err(Error::internal)?;
    let signer = SigningKey::from_pkcs8_pem(pem).map_err(Error::internal)?;
    KeySet::new(signer, rows.into_iter().map(|r| r.jwk).collect()).map_err(Error::internal)
}

/// Moves the rotation on: next signs, current retires, a new next is published. The ring changes once that is durable.
pub fn rotate(
    tx: &mut Tx<'_>,
    ring: &KeyRing,
    tenant: TenantId,
    sealing: &SealingKey,
    now: Timestamp,
    random: &Random,
    origin: &Origin,
) -> Result<String> {
    let stored = tx.scan(SIGNING_KEYS, &Key::new(), 1_000)?;
    let mut rows = stored.iter().map(|(_, value)| codec::decode::<KeyRow>(value)).collect::<Result<Vec<_>>>()?;
    for row in &mut rows {
        match row.place {
            Place::Current => {
                row.place = Place::Retired;
                row.sealed = None;
                row.gone_at = Some(now.plus(RETIREMENT));
            }
            Place::Next => row.place = Place::Current,
            Place::Retired => {}
        }
    }
    rows.push(generate(Place::Next, sealing, now, random)?);
    let kid = rows.iter().find(|r| r.place == Place::Current).map(|r| r.kid.clone()).unwrap_or_default();
    let set = key_set(rows.clone(), sealing, now)?;
    for row in &rows {
        if row.gone_at.is_some_and(|at| at <= now) {
            tx.delete(SIGNING_KEYS, Key::new().text(&row.kid))?;
        } else {
            tx.put(SIGNING_KEYS, Key::new().text(&row.kid), row)?;
        }
    }
    let entry = NewEntry::new(Action::SigningKeyRotated, origin).reason(format!("key {kid} signs from now on"));
    audit::append(tx, tenant, now, random, &entry)?;
    let ring = ring.clone();
    tx.after_commit(move || ring.replace(set));
    Ok(kid)
}
