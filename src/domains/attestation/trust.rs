//! What proofs of hardware are judged against: roots of trust, for each tenant, and the list of revoked certificates.
//!
//! Bundled roots are part of the program; a tenant adds its own, and may distrust a bundled one. Both are rows, and every
//! change is in the log. What counts is kept in memory, ready to be used, and replaced once a change is durable. Knows
//! nothing of HTTP, and fetches nothing: lists come as files, because the appliance may have no Internet.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};

use super::Attestation;
use crate::attest::android::{self, StatusList};
use crate::attest::apple::{AppleRoots, point_of_spki};
use crate::attest::chain::{Anchor, Anchors, parse_pem_chain};
use crate::attest::tpm::ek;
use crate::crypto::{VerifyingKey, hex, sha256};
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::kernel::context::Origin;
use crate::kernel::ids::{TenantId, UserId};
use crate::kernel::{Error, Kind, Refusal, Result, Timestamp};
use crate::store::tables::{Key, STATUS_LIST_FILES, STATUS_LISTS, TRUST_ROOTS};
use crate::store::{Row, Snapshot, codec};

/// Roots that one tenant may add or distrust.
const ROOTS_MAX: usize = 64;
/// Characters of a label.
const LABEL_MAX: usize = 64;
/// Bytes of a list of revoked certificates that is taken; Google's has some hundred thousand.
pub const LIST_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The name of the one list there is: Google's, for Android keys.
const ANDROID_LIST: &str = "android-key";
/// How far the clock of whoever fetched a list may be ahead of ours.
const AHEAD_MAX: Duration = Duration::from_secs(300);

/// What a root vouches for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RootKind {
    /// Android Key Attestation.
    AndroidKey,
    /// Apple App Attest: attestations.
    AppleAttestation,
    /// Apple App Attest: receipts.
    AppleReceipt,
    /// Endorsement and attestation keys of TPMs.
    Tpm,
    /// Authenticators that hold people's passkeys, beside the bundled roots of their formats.
    Webauthn,
}

impl RootKind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::AndroidKey, Self::AppleAttestation, Self::AppleReceipt, Self::Tpm, Self::Webauthn];

    /// As on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AndroidKey => "android-key",
            Self::AppleAttestation => "apple-attestation",
            Self::AppleReceipt => "apple-receipt",
            Self::Tpm => "tpm",
            Self::Webauthn => "webauthn",
        }
    }
}

impl fmt::Display for RootKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RootKind {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("must be one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// A root as a tenant keeps it: one of its own, or a bundled one that it distrusts.
#[derive(Clone, Serialize, Deserialize)]
struct RootRow {
    kind: RootKind,
    label: String,
    /// The certificate in base64; `None`: a bundled root that is distrusted.
    certificate: Option<String>,
    at: Timestamp,
    by: Option<UserId>,
}
impl Row for RootRow {}

/// Whether a root counts, and why it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RootState {
    /// Part of the program, and trusted.
    Bundled,
    /// The tenant added it.
    Added,
    /// Part of the program; the tenant took its trust away.
    Distrusted,
}

/// A root of trust.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = TrustRoot)]
pub struct RootView {
    /// The kind, and the first half of the SHA-256 of its key: the same key has the same id everywhere.
    pub id: String,
    /// What it vouches for.
    pub kind: RootKind,
    /// What verdicts call it.
    pub label: String,
    /// SHA-256 of its SubjectPublicKeyInfo, in hex.
    pub spki_sha256: String,
    /// Whether it counts.
    pub state: RootState,
    /// When the tenant added or distrusted it; null for what nobody touched.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub changed_at: Option<Timestamp>,
    /// Who did; null for what nobody touched, or an operator on the box.
    #[schema(value_type = Option<String>)]
    pub changed_by: Option<UserId>,
}

/// The list of revoked certificates in force.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = StatusList)]
pub struct StatusListView {
    /// `android-key`.
    pub name: String,
    /// When it was fetched from who publishes it.
    #[schema(value_type = String, format = DateTime)]
    pub fetched_at: Timestamp,
    /// How many certificates it names.
    pub entries: usize,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// When it was imported.
    #[schema(value_type = String, format = DateTime)]
    pub imported_at: Timestamp,
    /// Whether it is too old to clear anybody: Android keys are refused until another one is imported.
    #[serde(default)]
    pub stale: bool,
}
impl Row for StatusListView {}

/// Everything that evidence of one tenant's devices may end in.
pub(super) struct TrustSet {
    pub android: Anchors,
    pub apple: AppleRoots,
    pub tpm: Anchors,
    pub webauthn: Anchors,
    views: Vec<RootView>,
}

/// What counts now. Changed only by a commit.
pub(super) struct Trust {
    bundled: Arc<TrustSet>,
    of_tenants: papaya::HashMap<TenantId, Arc<TrustSet>>,
    status_list: ArcSwapOption<StatusList>,
}

impl Trust {
    /// Reads roots and list from the data file.
    pub fn rebuild(snapshot: &Snapshot) -> Result<Self> {
        let bundled = Arc::new(TrustSet::of([])?);
        let trust = Self { bundled, of_tenants: papaya::HashMap::new(), status_list: ArcSwapOption::empty() };
        let mut rows: Vec<(TenantId, RootRow)> = Vec::new();
        snapshot.rows::<RootRow>(TRUST_ROOTS, |key, row| {
            if let Some(tenant) = key.first_chunk::<16>() {
                rows.push((TenantId::from_bytes(*tenant), row));
            }
            Ok(())
        })?;
        for own in rows.chunk_by(|(a, _), (b, _)| a == b) {
            if let Some((tenant, _)) = own.first() {
                let set = TrustSet::of(own.iter().map(|(_, row)| row))?;
                trust.of_tenants.pin().insert(*tenant, Arc::new(set));
            }
        }
        let list: Option<StatusListView> = snapshot.get(STATUS_LISTS, Key::new().text(ANDROID_LIST))?;
        let file = snapshot.get_raw(STATUS_LIST_FILES, Key::new().text(ANDROID_LIST))?;
        if let (Some(list), Some(file)) = (list, file) {
            let read = StatusList::from_json(&file, Some(list.fetched_at)).map_err(Error::internal)?;
            trust.status_list.store(Some(Arc::new(read)));
        }
        Ok(trust)
    }

    /// What counts for a tenant.
    pub fn of(&self, tenant: TenantId) -> Arc<TrustSet> {
        self.of_tenants.pin().get(&tenant).map_or_else(|| Arc::clone(&self.bundled), Arc::clone)
    }

    /// The list of revoked Android certificates.
    pub fn status_list(&self) -> Option<Arc<StatusList>> {
        self.status_list.load_full()
    }
}

/// A root before anybody's opinion of it.
struct Root {
    kind: RootKind,
    anchor: Anchor,
}

fn bundled() -> Result<Vec<Root>> {
    let android = android::google_roots().map_err(Error::internal)?;
    let apple = AppleRoots::bundled().map_err(Error::internal)?;
    let of = |kind, anchors: Anchors| anchors.iter().map(|a| Root { kind, anchor: a.clone() }).collect::<Vec<_>>();
    let mut roots = of(RootKind::AndroidKey, android);
    roots.extend(of(RootKind::AppleAttestation, apple.app_attestation));
    roots.extend(of(RootKind::AppleReceipt, apple.receipts));
    roots.extend(of(RootKind::Tpm, ek::bundled_makers().map_err(Error::internal)?));
    Ok(roots)
}

fn id_of(kind: RootKind, spki: &[u8]) -> String {
    let hash = hex(&sha256(spki));
    format!("{kind}.{}", hash.get(..32).unwrap_or(&hash))
}

impl TrustSet {
    /// The bundled roots but those that the rows distrust, and the rows' own.
    fn of<'r>(rows: impl IntoIterator<Item = &'r RootRow>) -> Result<Self> {
        let rows: Vec<&RootRow> = rows.into_iter().collect();
        let mut set = Self {
            android: Anchors::default(),
            apple: AppleRoots { app_attestation: Anchors::default(), receipts: Anchors::default() },
            tpm: Anchors::default(),
            webauthn: Anchors::default(),
            views: Vec::new(),
        };
        let distrusted = |id: &str| rows.iter().find(|row| row.certificate.is_none() && row.label == id).copied();
        for root in bundled()? {
            let row = distrusted(&id_of(root.kind, root.anchor.spki()));
            let state = if row.is_some() { RootState::Distrusted } else { RootState::Bundled };
            set.take(root, state, row);
        }
        for row in rows {
            let Some(certificate) = &row.certificate else { continue };
            let der = Base64::decode_vec(certificate).map_err(Error::internal)?;
            // Its own words never stand alone: a root of a tenant cannot pass for a bundled one in a verdict.
            let label = format!("added: {}", row.label);
            let anchor = Anchor::from_certificate(label, &der).map_err(Error::internal)?;
            set.take(Root { kind: row.kind, anchor }, RootState::Added, Some(row));
        }
        Ok(set)
    }

    /// What a passkey's statement may end in: the roots that are bundled for its format, but those that the tenant distrusts,
    /// and the tenant's own. `None`: nobody knows one.
    pub fn for_passkeys(&self, bundled: Option<Anchors>) -> Option<Anchors> {
        let distrusted = |anchor: &Anchor| {
            let key = hex(&sha256(anchor.spki()));
            self.views.iter().any(|view| view.state == RootState::Distrusted && view.spki_sha256 == key)
        };
        let is_known = bundled.is_some() || self.webauthn.iter().next().is_some();
        let bundled = bundled.iter().flat_map(Anchors::iter).filter(|anchor| !distrusted(anchor)).cloned();
        is_known.then(|| Anchors::new(bundled.chain(self.webauthn.iter().cloned()).collect()))
    }

    fn take(&mut self, root: Root, state: RootState, row: Option<&RootRow>) {
        let spki = root.anchor.spki();
        self.views.push(RootView {
            id: id_of(root.kind, spki),
            kind: root.kind,
            label: root.anchor.label().to_owned(),
            spki_sha256: hex(&sha256(spki)),
            state,
            changed_at: row.map(|r| r.at),
            changed_by: row.and_then(|r| r.by),
        });
        if state == RootState::Distrusted {
            return;
        }
        match root.kind {
            RootKind::AndroidKey => self.android.push(root.anchor),
            RootKind::AppleAttestation => self.apple.app_attestation.push(root.anchor),
            RootKind::AppleReceipt => self.apple.receipts.push(root.anchor),
            RootKind::Tpm => self.tpm.push(root.anchor),
            RootKind::Webauthn => self.webauthn.push(root.anchor),
        }
    }
}

/// A certificate that is to be trusted.
#[derive(Clone, Debug)]
pub struct NewRoot {
    /// What it shall vouch for.
    pub kind: RootKind,
    /// For people; verdicts say `added: ` before it.
    pub label: String,
    /// One certificate of an authority.
    pub pem: String,
}

/// What is wrong with a root's label.
pub(super) fn label_fault(label: &str) -> Option<&'static str> {
    let length = label.chars().count();
    let bad = length == 0 || length > LABEL_MAX || label.chars().any(char::is_control);
    bad.then_some("must have 1 to 64 characters, none of them a control character")
}

fn unchanged(detail: &'static str) -> Error {
    Refusal::new(Kind::Conflict, "root_unchanged", detail).into()
}

impl Attestation {
    /// Every root that a tenant's devices may or, if it was distrusted, might end in.
    pub fn roots(&self, tenant: TenantId) -> Vec<RootView> {
        self.inner.trust.of(tenant).views.clone()
    }

    /// Trusts a certificate for a tenant's devices; a bundled root that was distrusted is trusted again by its own
    /// certificate or its id.
    ///
    /// # Errors
    /// 422 for a text that is not one certificate of an authority with a key that is taken; 409 `root_unchanged`.
    pub async fn add_root(
        &self,
        tenant: TenantId,
        new: NewRoot,
        by: Option<UserId>,
        origin: Origin,
    ) -> Result<RootView> {
        if let Some(fault) = label_fault(&new.label) {
            return Err(Refusal::invalid("/label", fault).into());
        }
        let wrong = |detail: String| Error::from(Refusal::invalid("/pem", detail));
        let ders = parse_pem_chain(&new.pem).map_err(|e| wrong(e.detail))?;
        let [der] = ders.as_slice() else { return Err(wrong("must hold exactly one certificate".to_owned())) };
        let anchor = Anchor::from_certificate(&*new.label, der).map_err(|e| wrong(e.detail))?;
        if !anchor.may_issue() {
            return Err(wrong("is not the certificate of an authority (basicConstraints, keyCertSign)".to_owned()));
        }
        let id = id_of(new.kind, anchor.spki());
        let is_bundled = bundled()?.iter().any(|root| id_of(root.kind, root.anchor.spki()) == id);
        let certificate = Base64::encode_string(der);
        let decide = move |present: Option<&RootRow>, at: Timestamp| match present {
            // A bundled one that was distrusted: what is left to do is to forget that.
            Some(RootRow { certificate: None, .. }) => Ok(None),
            None if !is_bundled => {
                let (label, certificate) = (new.label.clone(), Some(certificate.clone()));
                Ok(Some(RootRow { kind: new.kind, label, certificate, at, by }))
            }
            Some(_) | None => Err(unchanged("This root is trusted already; nothing was changed.")),
        };
        self.change_root(tenant, id.clone(), Action::TrustRootAdded, by, origin, decide).await?;
        let found = self.roots(tenant).into_iter().find(|root| root.id == id);
        found.ok_or_else(|| Refusal::not_found().into())
    }

    /// Takes the trust in a root away: a tenant's own is removed, a bundled one is distrusted.
    ///
    /// # Errors
    /// `not_found`; 409 `root_unchanged` for a bundled one that is distrusted already.
    pub async fn remove_root(&self, tenant: TenantId, id: String, by: Option<UserId>, origin: Origin) -> Result<()> {
        let bundled = bundled()?.into_iter().map(|root| (root.kind, id_of(root.kind, root.anchor.spki())));
        let bundled = bundled.filter(|(_, known)| *known == id).map(|(kind, _)| kind).next();
        let label = id.clone();
        let decide = move |present: Option<&RootRow>, at: Timestamp| match (present, bundled) {
            (Some(RootRow { certificate: Some(_), .. }), _) => Ok(None),
            (Some(_), _) => Err(unchanged("This root is distrusted already; nothing was changed.")),
            (None, Some(kind)) => Ok(Some(RootRow { kind, label: label.clone(), certificate: None, at, by })),
            (None, None) => Err(Refusal::not_found().into()),
        };
        self.change_root(tenant, id, Action::TrustRootRemoved, by, origin, decide).await
    }

    /// Puts into the place of one root's row what `decide` makes of it, and in force what follows.
    async fn change_root(
        &self,
        tenant: TenantId,
        id: String,
        action: Action,
        by: Option<UserId>,
        origin: Origin,
        decide: impl Fn(Option<&RootRow>, Timestamp) -> Result<Option<RootRow>> + Send + 'static,
    ) -> Result<()> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                let scope = Key::new().bytes(tenant.to_bytes());
                let place = scope.clone().text(&id);
                let mut rows = BTreeMap::new();
                for (key, value) in tx.scan(TRUST_ROOTS, &scope, ROOTS_MAX + 1)? {
                    rows.insert(key, codec::decode::<RootRow>(&value)?);
                }
                let row = decide(rows.remove(place.as_ref()).as_ref(), now)?;
                if row.is_some() && rows.len() >= ROOTS_MAX {
                    let detail = "A tenant keeps at most 64 roots of its own. Remove one first.";
                    return Err(Refusal::new(Kind::Forbidden, "quota_exceeded", detail).into());
                }
                let set = Arc::new(TrustSet::of(rows.values().chain(&row))?);
                match &row {
                    Some(row) => tx.put(TRUST_ROOTS, &place, row)?,
                    None => drop(tx.delete(TRUST_ROOTS, &place)?),
                }
                let entry = NewEntry::new(action, &origin).level(ThreatLevel::Medium).reason(id.clone());
                audit::append(tx, tenant, now, &this.inner.random, &entry.by(by))?;
                let inner = Arc::clone(&this.inner);
                tx.after_commit(move || {
                    inner.trust.of_tenants.pin().insert(tenant, set);
                });
                Ok(())
            })
            .await
    }

    /// The lists of revoked certificates in force.
    pub async fn status_lists(&self) -> Result<Vec<StatusListView>> {
        let row: Option<StatusListView> =
            self.inner.store.read_with(|s| s.get(STATUS_LISTS, Key::new().text(ANDROID_LIST))).await?;
        let max_age = self.inner.settings.policy.android.status_list_max_age();
        let now = self.inner.clock.now();
        Ok(row.into_iter().map(|row| StatusListView { stale: now.since(row.fetched_at) > max_age, ..row }).collect())
    }

    /// Puts Google's list of revoked Android certificates in force. `tenant` is in whose log it is told: the list counts
    /// for every tenant.
    ///
    /// # Errors
    /// 422 for a file that is no such list, names nobody, or is from the future; 409 `older_list` for one that was fetched
    /// before the one in force: a thief of an old key would want it back.
    pub async fn import_status_list(
        &self,
        tenant: TenantId,
        file: Vec<u8>,
        fetched_at: Timestamp,
        by: Option<UserId>,
        origin: Origin,
    ) -> Result<StatusListView> {
        let now = self.inner.clock.now();
        if fetched_at > now.plus(AHEAD_MAX) {
            return Err(Refusal::invalid("/fetched_at", "lies in the future").into());
        }
        if file.len() > LIST_BYTES_MAX {
            return Err(Refusal::invalid("/file", "has more than 8 MiB").into());
        }
        let read = {
            let file = file.clone();
            self.inner.pool.run(move || StatusList::from_json(&file, Some(fetched_at))).await?
        };
        let read = read.map_err(|e| Refusal::invalid("/file", e.detail))?;
        if read.is_empty() {
            return Err(Refusal::invalid("/file", "names no certificate; Google's own names hundreds").into());
        }
        let view = StatusListView {
            name: ANDROID_LIST.to_owned(),
            fetched_at,
            entries: read.len(),
            sha256: hex(&sha256(&file)),
            imported_at: now,
            stale: false,
        };
        let (this, read, stored) = (self.clone(), Arc::new(read), view.clone());
        self.inner
            .store
            .write(move |tx| {
                let place = Key::new().text(ANDROID_LIST);
                let present: Option<StatusListView> = tx.get(STATUS_LISTS, &place)?;
                if present.is_some_and(|present| present.fetched_at > stored.fetched_at) {
                    let detail = "The list in force was fetched later than this one; nothing was changed.";
                    return Err(Refusal::new(Kind::Conflict, "older_list", detail).into());
                }
                tx.put(STATUS_LISTS, &place, &stored)?;
                tx.put_raw(STATUS_LIST_FILES, &place, &file)?;
                let what = format!("{ANDROID_LIST} of {}, {} certificates", stored.fetched_at, stored.entries);
                let entry = NewEntry::new(Action::StatusListImported, &origin).reason(what).by(by);
                audit::append(tx, tenant, stored.imported_at, &this.inner.random, &entry)?;
                let (inner, read) = (Arc::clone(&this.inner), Arc::clone(&read));
                tx.after_commit(move || inner.trust.status_list.store(Some(read)));
                Ok(())
            })
            .await?;
        Ok(view)
    }
}

/// What a verdict says of the list that decided.
pub(super) fn list_name(fetched_at: Timestamp) -> String {
    format!("{ANDROID_LIST} of {fetched_at}")
}

/// SHA-256 of a public key, as states and verdicts name keys.
pub(super) fn key_name(spki: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(&sha256(spki))
}

/// The JWK thumbprint of a public key (RFC 7638), where it is one of P-256.
pub(super) fn thumbprint(spki: &[u8]) -> Option<String> {
    VerifyingKey::from_sec1(point_of_spki(spki)?.as_slice()).ok().map(|key| key.thumbprint())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_bundled_roots_have_ids_of_their_own() {
        let set = TrustSet::of([]).unwrap();
        let mut ids: Vec<_> = set.views.iter().map(|v| v.id.clone()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), set.views.len(), "{ids:?}");
        assert!(set.views.iter().all(|v| v.state == RootState::Bundled));
    }

    /// Passkeys of phones end in Google's root, too, and those of laptops in Microsoft's.
    #[test]
    fn a_distrusted_root_vouches_for_no_passkey_either() {
        for fmt in ["android-key", "tpm"] {
            let bundled = || crate::attest::webauthn::bundled_roots(fmt).unwrap();
            let kind = if fmt == "tpm" { RootKind::Tpm } else { RootKind::AndroidKey };
            let first = bundled().unwrap().iter().next().cloned().unwrap();
            let label = id_of(kind, first.spki());
            let row = RootRow { kind, label, certificate: None, at: Timestamp::EPOCH, by: None };
            let (all, without) = (TrustSet::of([]).unwrap(), TrustSet::of([&row]).unwrap());
            assert!(all.for_passkeys(bundled()).unwrap().iter().any(|anchor| *anchor == first), "{fmt}");
            let left = without.for_passkeys(bundled()).unwrap();
            assert!(left.iter().all(|anchor| *anchor != first), "{fmt}");
        }
        let none = TrustSet::of([]).unwrap();
        assert!(none.for_passkeys(None).is_none(), "nobody knows a root of this format");
    }

    #[test]
    fn a_distrusted_root_is_shown_and_counts_for_nothing() {
        let all = TrustSet::of([]).unwrap();
        let id = all.views.first().unwrap().id.clone();
        let row = RootRow { kind: RootKind::AndroidKey, label: id, certificate: None, at: Timestamp::EPOCH, by: None };
        let set = TrustSet::of([&row]).unwrap();
        assert_eq!(set.views.len(), all.views.len());
        assert_eq!(set.android.iter().count() + 1, all.android.iter().count());
        assert_eq!(set.views.first().unwrap().state, RootState::Distrusted);
    }
}
