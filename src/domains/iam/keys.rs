//! The rotation of the signing keys: next is published before it signs, retired until nothing it signed is valid.
//!
//! The private halves lie sealed in the data file, or outside of it altogether: then the rows hold public halves only, and
//! the rotation follows what is handed in at each start ([`settle`]).
//!
//! Knows nothing of files, PEM and configuration.

use std::sync::Arc;
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};

use super::token::LEEWAY_S;
use crate::crypto::keyring::{Access, KeyRing, KeySet, Published};
use crate::crypto::{Jwk, SealingKey, SigningKey, VerifyingKey};
use crate::domains::audit::{self, Action, NewEntry};
use crate::domains::tenants;
use crate::kernel::context::Origin;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Kind, Random, Refusal, Result, Timestamp};
use crate::store::tables::{Key, SIGNING_KEYS};
use crate::store::{Row, Snapshot, Tx, codec};

/// A retired key is published until the last command that it may have signed has expired.
const RETIREMENT: Duration = Duration::from_secs(32 * 86_400);
/// Keys that a data file can hold; a rotation each hour of the retirement stays below it.
const KEYS_MAX: usize = 1_000;

/// Keys whose private halves live outside the data file.
#[derive(Clone, Debug)]
pub struct OutsideKeys {
    /// Signs.
    pub signer: Arc<SigningKey>,
    /// The public half of the key that will sign after it.
    pub next: Option<VerifyingKey>,
}

/// Where the private halves are, and how long tokens live.
#[derive(Clone, Debug)]
pub struct KeyCustody {
    /// Seals the appliance's own keys.
    pub sealing: Arc<SealingKey>,
    /// `None`: the appliance makes its own keys.
    pub outside: Option<OutsideKeys>,
    /// Life of an access token.
    pub access_ttl: Duration,
}

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
    /// PKCS#8 PEM, sealed, in base64url; gone once the key is retired, and never there for an outside key.
    sealed: Option<String>,
    /// Whether the private half never was in this file.
    #[serde(default)]
    outside: bool,
    place: Place,
    created_at: Timestamp,
    /// When it stopped signing.
    #[serde(default)]
    retired_at: Option<Timestamp>,
    /// When a retired key leaves the published set.
    gone_at: Option<Timestamp>,
}
impl Row for KeyRow {}

impl KeyRow {
    fn outside(key: &VerifyingKey, place: Place, now: Timestamp) -> Self {
        Self {
            kid: key.thumbprint(),
            jwk: key.to_jwk(),
            sealed: None,
            outside: true,
            place,
            created_at: now,
            retired_at: None,
            gone_at: None,
        }
    }

    fn retire(&mut self, now: Timestamp) {
        self.place = Place::Retired;
        self.sealed = None;
        self.retired_at = Some(now);
        self.gone_at = Some(now.plus(RETIREMENT));
    }

    /// Once the last token that it signed has expired, whatever else bears its signature was signed by a thief; so was
    /// what bears it before it signs at all.
    fn access(&self, access_ttl: Duration) -> Access {
        match self.place {
            Place::Current => Access::Open,
            Place::Next => Access::NotYet,
            Place::Retired => {
                // Rows of before there was a `retired_at` say it by their end.
                let retired_at = self.retired_at.or_else(|| self.gone_at.map(|at| at.minus(RETIREMENT)));
                let leeway = Duration::from_secs(LEEWAY_S.into());
                Access::Until(retired_at.unwrap_or(self.created_at).plus(access_ttl).plus(leeway))
            }
        }
    }

    fn is_gone(&self, now: Timestamp) -> bool {
        self.gone_at.is_some_and(|at| at <= now)
    }
}

fn seal_context(kid: &str) -> Vec<u8> {
    format!("signing-key:{kid}").into_bytes()
}

fn generate(place: Place, sealing: &SealingKey, now: Timestamp, random: &Random) -> Result<KeyRow> {
    let key = SigningKey::generate(random);
    let pem = key.to_pkcs8_pem().map_err(Error::internal)?;
    let sealed = sealing.seal(&seal_context(key.kid()), pem.as_bytes(), random);
    let sealed = Some(Base64UrlUnpadded::encode_string(&sealed));
    Ok(KeyRow { sealed, outside: false, ..KeyRow::outside(key.verifying(), place, now) })
}

/// Writes the first keys.
pub(super) fn create(tx: &mut Tx<'_>, custody: &KeyCustody, now: Timestamp, random: &Random) -> Result<()> {
    let rows = match &custody.outside {
        None => vec![
            generate(Place::Current, &custody.sealing, now, random)?,
            generate(Place::Next, &custody.sealing, now, random)?,
        ],
        Some(outside) => match follow(Vec::new(), outside, now) {
            Some(settled) => settled.rows,
            None => return Err(Error::internal("an outside key did not become the first signing key")),
        },
    };
    for row in rows {
        tx.put(SIGNING_KEYS, Key::new().text(&row.kid), &row)?;
    }
    Ok(())
}

fn stored(snapshot: &Snapshot) -> Result<Vec<KeyRow>> {
    let mut rows = Vec::new();
    snapshot.rows::<KeyRow>(SIGNING_KEYS, |_, row| {
        rows.push(row);
        Ok(())
    })?;
    Ok(rows)
}

fn stored_in(tx: &mut Tx<'_>) -> Result<Vec<KeyRow>> {
    let found = tx.scan(SIGNING_KEYS, &Key::new(), KEYS_MAX)?;
    found.iter().map(|(_, value)| codec::decode::<KeyRow>(value)).collect()
}

/// Opens the stored keys. An outside key that signs by the data file but was not handed in is replaced by one that
/// nobody knows: commands on a stopped appliance sign nothing.
///
/// # Errors
/// When the sealing key is not the one that sealed them.
pub fn load(snapshot: &Snapshot, custody: &KeyCustody, now: Timestamp, random: &Random) -> Result<KeySet> {
    key_set(stored(snapshot)?, custody, now, random)
}

fn key_set(mut rows: Vec<KeyRow>, custody: &KeyCustody, now: Timestamp, random: &Random) -> Result<KeySet> {
    rows.retain(|row| !row.is_gone(now));
    rows.sort_by_key(|row| (row.place as u8, row.created_at));
    let current = rows.iter().find(|r| r.place == Place::Current);
    let current = current.ok_or_else(|| Error::internal("the data file holds no current signing key"))?;
    let signer = if current.outside {
        let handed_in = custody.outside.as_ref().filter(|o| o.signer.kid() == current.kid);
        handed_in.map_or_else(|| Arc::new(SigningKey::generate(random)), |o| Arc::clone(&o.signer))
    } else {
        let sealed = current.sealed.as_deref().unwrap_or_default();
        let sealed = Base64UrlUnpadded::decode_vec(sealed).map_err(Error::internal)?;
        let pem = custody.sealing.open(&seal_context(&current.kid), &sealed).map_err(Error::internal)?;
        let pem = std::str::from_utf8(&pem).map_err(Error::internal)?;
        Arc::new(SigningKey::from_pkcs8_pem(pem).map_err(Error::internal)?)
    };
    let published = rows.into_iter().map(|row| {
        let access = row.access(custody.access_ttl);
        Published { jwk: row.jwk, access }
    });
    KeySet::new(signer, published.collect()).map_err(Error::internal)
}

/// Where a start wants the keys to be.
struct Settled {
    rows: Vec<KeyRow>,
    /// For the log.
    reason: String,
}

/// What the stored keys become under what was handed in; `None` when they stand as they should.
fn settled(rows: Vec<KeyRow>, custody: &KeyCustody, now: Timestamp, random: &Random) -> Result<Option<Settled>> {
    match &custody.outside {
        Some(outside) => Ok(follow(rows, outside, now)),
        None => come_home(rows, &custody.sealing, now, random),
    }
}

/// The outside keys take the places that they are meant for; whatever signed before retires.
fn follow(mut rows: Vec<KeyRow>, outside: &OutsideKeys, now: Timestamp) -> Option<Settled> {
    let signer = outside.signer.verifying();
    let kid = outside.signer.kid();
    let mut reason = Vec::new();
    if !rows.iter().any(|r| r.kid == kid && r.place == Place::Current && r.outside) {
        for row in rows.iter_mut().filter(|r| r.place == Place::Current && r.kid != kid) {
            row.retire(now);
            reason.push(format!("key {} is retired", row.kid));
        }
        rows.retain(|r| r.kid != kid);
        rows.push(KeyRow::outside(signer, Place::Current, now));
        reason.insert(0, format!("key {kid}, kept outside the data file, signs from now on"));
    }
    // One that signs or has signed is not announced again: the file of the next key may simply not have been changed yet.
    let next = outside.next.as_ref();
    let next = next.filter(|key| {
        let kid = key.thumbprint();
        !rows.iter().any(|r| r.kid == kid && r.place != Place::Next)
    });
    let next_kid = next.map(VerifyingKey::thumbprint);
    // What was announced and never signed can simply go.
    let announced = rows.len();
    rows.retain(|r| r.place != Place::Next || Some(&r.kid) == next_kid.as_ref());
    if rows.len() != announced {
        reason.push("a key that never signed is withdrawn".to_owned());
    }
    if let (Some(key), Some(kid)) = (next, next_kid)
        && !rows.iter().any(|r| r.kid == kid)
    {
        rows.push(KeyRow::outside(key, Place::Next, now));
        reason.push(format!("key {kid} is published as the next one"));
    }
    (!reason.is_empty()).then(|| Settled { rows, reason: reason.join("; ") })
}

/// No outside key any more: the appliance makes its own again.
fn come_home(mut rows: Vec<KeyRow>, sealing: &SealingKey, now: Timestamp, random: &Random) -> Result<Option<Settled>> {
    if !rows.iter().any(|r| r.place == Place::Current && r.outside) {
        return Ok(None);
    }
    for row in rows.iter_mut().filter(|r| r.place == Place::Current) {
        row.retire(now);
    }
    rows.retain(|r| r.place != Place::Next);
    let current = generate(Place::Current, sealing, now, random)?;
    let reason = format!("key {}, made by the appliance, signs from now on; the outside key is retired", current.kid);
    rows.push(current);
    rows.push(generate(Place::Next, sealing, now, random)?);
    Ok(Some(Settled { rows, reason }))
}

/// Whether [`settle`] would change anything.
pub fn is_settled(snapshot: &Snapshot, custody: &KeyCustody, now: Timestamp, random: &Random) -> Result<bool> {
    Ok(settled(stored(snapshot)?, custody, now, random)?.is_none())
}

/// Brings the stored keys into line with what was handed in at this start, with one audit entry. Says what changed, in
/// words; `None` when nothing did.
pub fn settle(tx: &mut Tx<'_>, custody: &KeyCustody, now: Timestamp, random: &Random) -> Result<Option<String>> {
    let before = stored_in(tx)?;
    let Some(Settled { rows, reason }) = settled(before.clone(), custody, now, random)? else { return Ok(None) };
    let tenant = tenants::first(tx)?.ok_or_else(|| Error::internal("the data file is not set up yet"))?;
    for gone in before.iter().filter(|b| !rows.iter().any(|r| r.kid == b.kid)) {
        tx.delete(SIGNING_KEYS, Key::new().text(&gone.kid))?;
    }
    write(tx, &rows, now)?;
    let entry = NewEntry::new(Action::SigningKeyRotated, &Origin::system()).reason(reason.clone());
    audit::append(tx, tenant, now, random, &entry)?;
    Ok(Some(reason))
}

fn write(tx: &mut Tx<'_>, rows: &[KeyRow], now: Timestamp) -> Result<()> {
    for row in rows {
        if row.is_gone(now) {
            tx.delete(SIGNING_KEYS, Key::new().text(&row.kid))?;
        } else {
            tx.put(SIGNING_KEYS, Key::new().text(&row.kid), row)?;
        }
    }
    Ok(())
}

/// Moves the rotation on: next signs, current retires, a new next is published. The ring changes once that is durable.
///
/// # Errors
/// 409 `signing_key_outside` when the key that signs is kept outside the data file: it can only be replaced there.
pub fn rotate(
    tx: &mut Tx<'_>,
    ring: &KeyRing,
    tenant: TenantId,
    custody: &KeyCustody,
    now: Timestamp,
    random: &Random,
    origin: &Origin,
) -> Result<String> {
    let mut rows = stored_in(tx)?;
    if custody.outside.is_some() || rows.iter().any(|r| r.place == Place::Current && r.outside) {
        let detail = "The signing key is kept outside the data file, so the appliance cannot replace it. Put the new key \
                      in its place (tokens.signing_key, or the systemd credential signing-key) and restart the appliance: \
                      the key before it is then retired by itself.";
        return Err(Refusal::new(Kind::Conflict, "signing_key_outside", detail).into());
    }
    for row in &mut rows {
        match row.place {
            Place::Current => row.retire(now),
            Place::Next => row.place = Place::Current,
            Place::Retired => {}
        }
    }
    rows.push(generate(Place::Next, &custody.sealing, now, random)?);
    let kid = rows.iter().find(|r| r.place == Place::Current).map(|r| r.kid.clone()).unwrap_or_default();
    let set = key_set(rows.clone(), custody, now, random)?;
    write(tx, &rows, now)?;
    let entry = NewEntry::new(Action::SigningKeyRotated, origin).reason(format!("key {kid} signs from now on"));
    audit::append(tx, tenant, now, random, &entry)?;
    let ring = ring.clone();
    tx.after_commit(move || ring.replace(set));
    Ok(kid)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const TTL: Duration = Duration::from_secs(900);

    fn at(s: u64) -> Timestamp {
        Timestamp::EPOCH.plus(Duration::from_secs(s))
    }

    fn key(seed: u64) -> Arc<SigningKey> {
        Arc::new(SigningKey::generate(&Random::seeded(seed)))
    }

    fn custody(signer: Option<u64>, next: Option<u64>) -> KeyCustody {
        KeyCustody {
            sealing: Arc::new(SealingKey::from_bytes([1; 32])),
            outside: signer
                .map(|seed| OutsideKeys { signer: key(seed), next: next.map(|n| key(n).verifying().clone()) }),
            access_ttl: TTL,
        }
    }

    fn own_keys() -> Vec<KeyRow> {
        let sealing = SealingKey::from_bytes([1; 32]);
        let random = Random::seeded(90);
        [Place::Current, Place::Next].map(|p| generate(p, &sealing, at(0), &random).unwrap()).to_vec()
    }

    /// Name of each key (`own` for the appliance's) and where it stands.
    fn places(rows: &[KeyRow]) -> Vec<(String, Place)> {
        let mut out: Vec<_> = rows
            .iter()
            .map(|row| {
                let seed = (1..9).find(|seed| key(*seed).kid() == row.kid);
                (seed.map_or("own".to_owned(), |s| s.to_string()), row.place)
            })
            .collect();
        out.sort_by_key(|(name, place)| (*place as u8, name.clone()));
        out
    }

    /// What an administrator does one start after the other, and what the file holds then.
    #[test]
    fn the_rotation_follows_what_is_handed_in_at_each_start() {
        use Place::{Current, Next, Retired};
        let random = Random::seeded(77);
        let mut rows = own_keys();
        for (what, signer, next, expect) in [
            ("own keys", None, None, Some(vec![("own", Current), ("own", Next)])),
            ("an outside one", Some(1), None, Some(vec![("1", Current), ("own", Retired)])),
            ("the next one announced", Some(1), Some(2), Some(vec![("1", Current), ("2", Next), ("own", Retired)])),
            ("again", Some(1), Some(2), None),
            ("announced still signs", Some(2), Some(2), Some(vec![("2", Current), ("1", Retired), ("own", Retired)])),
            ("a retired one announced", Some(2), Some(1), None),
            (
                "another announced",
                Some(2),
                Some(3),
                Some(vec![("2", Current), ("3", Next), ("1", Retired), ("own", Retired)]),
            ),
            ("withdrawn", Some(2), None, Some(vec![("2", Current), ("1", Retired), ("own", Retired)])),
            ("back to a retired one", Some(1), None, Some(vec![("1", Current), ("2", Retired), ("own", Retired)])),
            (
                "own keys again",
                None,
                Some(3),
                Some(vec![("own", Current), ("own", Next), ("1", Retired), ("2", Retired), ("own", Retired)]),
            ),
        ] {
            let custody = custody(signer, next);
            let before = places(&rows);
            let settled = settled(rows.clone(), &custody, at(10), &random).unwrap();
            if let Some(settled) = settled {
                assert!(!settled.reason.is_empty());
                rows = settled.rows;
            }
            let expect = expect.map(|e| e.into_iter().map(|(n, p)| (n.to_owned(), p)).collect::<Vec<_>>());
            assert_eq!(places(&rows), expect.unwrap_or(before), "{what}");
            let again = super::settled(rows.clone(), &custody, at(11), &random).unwrap();
            assert!(again.is_none(), "{what}: a second start with the same keys changes nothing");
            for row in &rows {
                let own_and_alive = !row.outside && row.place != Retired;
                assert_eq!(
                    row.sealed.is_some(),
                    own_and_alive,
                    "{what}: only own living keys have a private half here"
                );
            }
            assert!(key_set(rows.clone(), &custody, at(12), &random).is_ok(), "{what}");
        }
    }

    #[test]
    fn a_retired_key_is_published_for_long_and_accepted_for_a_token_s_life_only() {
        let random = Random::seeded(77);
        let custody = custody(Some(1), None);
        let rows = settled(own_keys(), &custody, at(100), &random).unwrap().unwrap().rows;
        let old = rows.iter().find(|r| r.place == Place::Retired).unwrap().kid.clone();
        let ring = KeyRing::new(key_set(rows.clone(), &custody, at(100), &random).unwrap());
        assert!(ring.access_verifier(&old, at(100 + 929)).is_some());
        assert!(ring.access_verifier(&old, at(100 + 930)).is_none());
        assert!(ring.access_verifier(key(1).kid(), at(100_000)).is_some(), "the one that signs has no end");
        let next = Published { jwk: key(2).verifying().to_jwk(), access: Access::NotYet };
        let early = KeyRing::new(KeySet::new(key(1), vec![next]).unwrap());
        assert!(early.access_verifier(key(2).kid(), at(100)).is_none(), "it has not signed anything yet");
        assert!(ring.verifier(&old).is_some() && ring.jwks().contains(&old), "devices still check commands with it");
        let later = KeyRing::new(key_set(rows, &custody, at(100 + 32 * 86_400), &random).unwrap());
        assert!(later.verifier(&old).is_none() && !later.jwks().contains(&old));
    }

    /// Rows of before there was a `retired_at`.
    #[test]
    fn a_key_that_retired_under_an_older_version_ends_as_well() {
        let mut row = own_keys().remove(0);
        row.retire(at(50));
        let mut value = serde_json::to_value(&row).unwrap();
        value.as_object_mut().unwrap().retain(|name, _| name != "retired_at" && name != "outside");
        let old: KeyRow = serde_json::from_value(value).unwrap();
        assert_eq!(old.access(TTL), Access::Until(at(50 + 930)));
        assert!(!old.outside);
    }
}
