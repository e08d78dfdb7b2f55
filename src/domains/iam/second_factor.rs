//! Second factors of a person: TOTP, recovery codes, and what a session gains when one is shown. Passkeys have a file of
//! their own.
//!
//! A code is judged and used up in the same commit as what it opens, so no code works twice, not even at once. Wrong
//! codes are counted in the person's row: from the tenth in a row on, each one makes the next wait longer, from whatever
//! address it comes. A recovery code never waits: its 60 bits are not guessed.
//!
//! Knows nothing of HTTP.

use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::model::{SessionRow, User};
use super::{Iam, SessionEntry, session};
use crate::crypto::totp::Totp;
use crate::crypto::{Secret, constant_time_eq, password, recovery};
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::kernel::context::Origin;
use crate::kernel::ids::{PasskeyId, TenantId, UserId};
use crate::kernel::{Error, Kind, Refusal, Result, Timestamp};
use crate::store::tables::{Key, SECOND_FACTORS, SESSIONS};
use crate::store::{Row, Snapshot, Tx};

/// A TOTP secret as it is stored.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct TotpRow {
    /// The secret, sealed, in base64url.
    pub sealed: String,
    /// A secret counts only once its owner has shown a code of it.
    pub confirmed: bool,
    /// The step of the last code that was taken: none is taken twice.
    pub last_step: Option<u64>,
    pub created_at: Timestamp,
}

/// A passkey as it is stored.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct PasskeyRow {
    pub id: PasskeyId,
    /// What its owner calls it.
    pub name: String,
    /// The site that it was made for.
    pub rp_id: String,
    /// In base64url.
    pub credential_id: String,
    /// COSE_Key, in base64url.
    pub public_key: String,
    pub sign_count: u32,
    pub backup_eligible: bool,
    pub created_at: Timestamp,
    pub last_used_at: Option<Timestamp>,
}

/// Everything that one person has beside a password.
#[derive(Clone, Serialize, Deserialize)]
pub struct FactorsRow {
    /// Whose.
    pub user: UserId,
    /// Where they belong.
    pub tenant: TenantId,
    #[serde(default)]
    pub(super) totp: Option<TotpRow>,
    /// Keyed hashes of the codes that are left, in base64url.
    #[serde(default)]
    pub(super) recovery: Vec<String>,
    #[serde(default)]
    pub(super) passkeys: Vec<PasskeyRow>,
    /// Wrong codes in a row.
    #[serde(default)]
    pub(super) failures: u32,
    /// When the last wrong one came.
    #[serde(default)]
    pub(super) failed_at: Option<Timestamp>,
}
impl Row for FactorsRow {}

/// Wrong codes in a row that nobody waits for.
const FAILURES_FREE: u32 = 10;
const DELAY_FIRST: Duration = Duration::from_secs(30);
const DELAY_MAX: Duration = Duration::from_secs(3_600);

impl FactorsRow {
    fn new(tenant: TenantId, user: UserId) -> Self {
        Self { user, tenant, totp: None, recovery: Vec::new(), passkeys: Vec::new(), failures: 0, failed_at: None }
    }

    /// Whether there is a factor that a login must show.
    pub fn is_usable(&self) -> bool {
        self.has_totp() || !self.passkeys.is_empty()
    }

    fn has_totp(&self) -> bool {
        self.totp.as_ref().is_some_and(|t| t.confirmed)
    }

    fn methods(&self) -> &'static [&'static str] {
        match (self.has_totp(), self.passkeys.is_empty()) {
            (true, true) => &["otp", "recovery_code"],
            (true, false) => &["otp", "recovery_code", "passkey"],
            (false, _) => &["recovery_code", "passkey"],
        }
    }

    /// Until when no code is looked at.
    fn waits_until(&self) -> Option<Timestamp> {
        let over = self.failures.checked_sub(FAILURES_FREE)?;
        let delay = DELAY_FIRST.saturating_mul(1_u32.checked_shl(over).unwrap_or(u32::MAX)).min(DELAY_MAX);
        self.failed_at.map(|at| at.plus(delay))
    }
}

/// What a shown code means for a login.
pub(super) enum FactorCheck {
    /// The person has no second factor.
    NotSetUp,
    /// One must be shown; by which means.
    Needed(&'static [&'static str]),
    /// It was shown, and used up.
    Shown,
    /// What was shown is not right.
    Wrong,
}

/// What somebody shows within a session to prove again who they are.
pub enum Evidence {
    /// A code of the authenticator app, or a recovery code.
    Code(Secret),
    /// The password, for who has no second factor.
    Password(Secret),
}

/// How a person's second factors stand.
#[derive(Clone, Debug, Default)]
pub struct Factors {
    /// When the authenticator app was set up.
    pub totp_since: Option<Timestamp>,
    /// Recovery codes that are left.
    pub recovery_codes_left: usize,
    /// Passkeys.
    pub passkeys: Vec<PasskeyView>,
}

/// A passkey as its owner sees it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Passkey)]
pub struct PasskeyView {
    /// `pky_...`
    #[schema(value_type = String)]
    pub id: PasskeyId,
    /// What its owner calls it.
    pub name: String,
    /// The site that it was made for.
    pub rp_id: String,
    /// Whether it may be copied to other devices of its owner, as synced passkeys are.
    pub backup_eligible: bool,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was last used.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
}

impl From<&PasskeyRow> for PasskeyView {
    fn from(row: &PasskeyRow) -> Self {
        Self {
            id: row.id,
            name: row.name.clone(),
            rp_id: row.rp_id.clone(),
            backup_eligible: row.backup_eligible,
            created_at: row.created_at,
            last_used_at: row.last_used_at,
        }
    }
}

/// A secret that waits for its first code.
pub struct PendingTotp {
    /// In base32, to be typed.
    pub secret: Zeroizing<String>,
    /// For a QR code.
    pub uri: Zeroizing<String>,
}

pub(super) fn key(tenant: TenantId, user: UserId) -> Key {
    Key::new().bytes(tenant.to_bytes()).bytes(user.to_bytes())
}

fn seal_context(user: UserId) -> Vec<u8> {
    format!("totp:{user}").into_bytes()
}

impl Iam {
    pub(super) fn load_factors(tx: &mut Tx<'_>, tenant: TenantId, user: UserId) -> Result<FactorsRow> {
        let row = tx.get(SECOND_FACTORS, key(tenant, user))?;
        Ok(row.unwrap_or_else(|| FactorsRow::new(tenant, user)))
    }

    pub(super) fn save_factors(&self, tx: &mut Tx<'_>, row: &FactorsRow) -> Result<()> {
        tx.put(SECOND_FACTORS, key(row.tenant, row.user), row)?;
        let (iam, user, usable) = (self.clone(), row.user, row.is_usable());
        tx.after_commit(move || iam.inner.directory.set_second_factor(user, usable));
        Ok(())
    }

    fn note(&self, tx: &mut Tx<'_>, by: &FactorsRow, action: Action, reason: &str, origin: &Origin) -> Result<()> {
        let entry = NewEntry::new(action, origin).user(by.user).reason(reason);
        audit::append(tx, by.tenant, self.inner.clock.now(), &self.inner.random, &entry).map(drop)
    }

    /// How a person's second factors stand.
    pub async fn factors(&self, tenant: TenantId, user: UserId) -> Result<Factors> {
        let read = move |s: &Snapshot| s.get::<FactorsRow>(SECOND_FACTORS, key(tenant, user));
        let row = self.inner.store.read_with(read).await?;
        Ok(row.map_or_else(Factors::default, |row| Factors {
            totp_since: row.totp.as_ref().filter(|t| t.confirmed).map(|t| t.created_at),
            recovery_codes_left: row.recovery.len(),
            passkeys: row.passkeys.iter().map(PasskeyView::from).collect(),
        }))
    }

    /// Judges and uses up a code in the caller's transaction.
    pub(super) fn check_factor(
        &self,
        tx: &mut Tx<'_>,
        user: &User,
        code: Option<&Secret>,
        origin: &Origin,
    ) -> Result<FactorCheck> {
        let mut row = Self::load_factors(tx, user.tenant, user.id)?;
        if !row.is_usable() {
            return Ok(FactorCheck::NotSetUp);
        }
        let Some(code) = code else { return Ok(FactorCheck::Needed(row.methods())) };
        let now = self.inner.clock.now();
        if self.use_recovery_code(&mut row, code) {
            self.save_factors(tx, &row)?;
            let left = format!("{} left", row.recovery.len());
            self.note(tx, &row, Action::RecoveryCodeUsed, &left, origin)?;
            return Ok(FactorCheck::Shown);
        }
        if row.waits_until().is_some_and(|until| now < until) {
            return Ok(FactorCheck::Wrong);
        }
        let step = match row.totp.as_ref().filter(|t| t.confirmed) {
            Some(totp) => self.open_totp(user.id, totp)?.matching_step(code.expose(), now, totp.last_step),
            None => None,
        };
        match (step, &mut row.totp) {
            (Some(step), Some(totp)) => {
                totp.last_step = Some(step);
                row.failures = 0;
                self.save_factors(tx, &row)?;
                Ok(FactorCheck::Shown)
            }
            _ => {
                row.failures = row.failures.saturating_add(1);
                row.failed_at = Some(now);
                self.save_factors(tx, &row)?;
                Ok(FactorCheck::Wrong)
            }
        }
    }

    fn use_recovery_code(&self, row: &mut FactorsRow, code: &Secret) -> bool {
        let Some(code) = recovery::normalise(code.expose()) else { return false };
        let shown = Base64UrlUnpadded::encode_string(&recovery::hash(&self.inner.recovery_key, &code));
        let before = row.recovery.len();
        row.recovery.retain(|left| !constant_time_eq(left.as_bytes(), shown.as_bytes()));
        row.recovery.len() != before
    }

    fn open_totp(&self, user: UserId, row: &TotpRow) -> Result<Totp> {
        let sealed = Base64UrlUnpadded::decode_vec(&row.sealed).map_err(Error::internal)?;
        let secret = self.inner.sealing.open(&seal_context(user), &sealed).map_err(Error::internal)?;
        let secret = secret.as_slice().try_into().map_err(|_| Error::internal("a stored TOTP secret is damaged"))?;
        Ok(Totp::from_bytes(secret))
    }

    /// Fresh recovery codes in place of the old ones.
    pub(super) fn new_recovery_codes(&self, row: &mut FactorsRow) -> Vec<Zeroizing<String>> {
        let codes = recovery::generate(&self.inner.random);
        let hash = |code: &str| {
            // What was generated is in its normal form once its hyphens are gone.
            let code = recovery::normalise(code).unwrap_or_default();
            Base64UrlUnpadded::encode_string(&recovery::hash(&self.inner.recovery_key, &code))
        };
        row.recovery = codes.iter().map(|code| hash(code)).collect();
        codes
    }

    /// Begins to set up an authenticator app: the secret counts once a code of it was shown.
    ///
    /// # Errors
    /// 409 `totp_exists`.
    pub async fn begin_totp(&self, by: &SessionEntry, origin: Origin) -> Result<PendingTotp> {
        let (this, tenant, user) = (self.clone(), by.tenant, by.user);
        let totp = Totp::generate(&self.inner.random);
        let fresh = totp.clone();
        let name = self
            .inner
            .store
            .write(move |tx| {
                let person = Self::load_user(tx, tenant, user)?.ok_or_else(Refusal::not_found)?;
                let mut row = Self::load_factors(tx, tenant, user)?;
                if row.has_totp() {
                    let detail = "An authenticator app is set up already. Remove it first.";
                    return Err(Refusal::new(Kind::Conflict, "totp_exists", detail).into());
                }
                let sealed = this.inner.sealing.seal(&seal_context(user), fresh.expose(), &this.inner.random);
                row.totp = Some(TotpRow {
                    sealed: Base64UrlUnpadded::encode_string(&sealed),
                    confirmed: false,
                    last_step: None,
                    created_at: this.inner.clock.now(),
                });
                this.save_factors(tx, &row)?;
                this.note(tx, &row, Action::SecondFactorAdded, "authenticator app, not confirmed yet", &origin)?;
                Ok(person.username)
            })
            .await?;
        Ok(PendingTotp { secret: totp.secret_base32(), uri: totp.uri("BlockRemote", &name) })
    }

    /// Takes the first code of a new authenticator app. Gives recovery codes when the person has none yet.
    ///
    /// # Errors
    /// 409 `no_totp_pending`; 403 `mfa_invalid` for a wrong code.
    pub async fn confirm_totp(
        &self,
        by: &SessionEntry,
        code: Secret,
        origin: Origin,
    ) -> Result<Vec<Zeroizing<String>>> {
        let (this, tenant, user, session) = (self.clone(), by.tenant, by.user, by.id);
        let outcome = self
            .inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                let mut row = Self::load_factors(tx, tenant, user)?;
                let Some(pending) = row.totp.as_ref().filter(|t| !t.confirmed) else {
                    let detail = "No authenticator app waits for its first code.";
                    return Err(Refusal::new(Kind::Conflict, "no_totp_pending", detail).into());
                };
                if row.waits_until().is_some_and(|until| now < until) {
                    return Ok(None);
                }
                let step = this.open_totp(user, pending)?.matching_step(code.expose(), now, None);
                let (Some(step), Some(totp)) = (step, &mut row.totp) else {
                    row.failures = row.failures.saturating_add(1);
                    row.failed_at = Some(now);
                    this.save_factors(tx, &row)?;
                    return Ok(None);
                };
                totp.confirmed = true;
                totp.last_step = Some(step);
                row.failures = 0;
                let codes = if row.recovery.is_empty() { this.new_recovery_codes(&mut row) } else { Vec::new() };
                this.save_factors(tx, &row)?;
                this.prove_session(tx, tenant, session, true)?;
                this.note(tx, &row, Action::SecondFactorAdded, "authenticator app", &origin)?;
                Ok(Some(codes))
            })
            .await?;
        outcome.ok_or_else(|| mfa_invalid().into())
    }

    /// Takes the authenticator app away; the recovery codes with it when no passkey is left.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn remove_totp(&self, by: &SessionEntry, origin: Origin) -> Result<()> {
        let (this, tenant, user) = (self.clone(), by.tenant, by.user);
        self.inner
            .store
            .write(move |tx| {
                let mut row = Self::load_factors(tx, tenant, user)?;
                if row.totp.take().is_none() {
                    return Err(Refusal::not_found().into());
                }
                if !row.is_usable() {
                    row.recovery.clear();
                }
                this.save_factors(tx, &row)?;
                this.note(tx, &row, Action::SecondFactorRemoved, "authenticator app", &origin)
            })
            .await
    }

    /// Makes fresh recovery codes; the old ones are void.
    ///
    /// # Errors
    /// 409 `no_second_factor`.
    pub async fn replace_recovery_codes(&self, by: &SessionEntry, origin: Origin) -> Result<Vec<Zeroizing<String>>> {
        let (this, tenant, user) = (self.clone(), by.tenant, by.user);
        self.inner
            .store
            .write(move |tx| {
                let mut row = Self::load_factors(tx, tenant, user)?;
                if !row.is_usable() {
                    let detail = "Set up an authenticator app or a passkey first.";
                    return Err(Refusal::new(Kind::Conflict, "no_second_factor", detail).into());
                }
                let codes = this.new_recovery_codes(&mut row);
                this.save_factors(tx, &row)?;
                this.note(tx, &row, Action::RecoveryCodesCreated, "the old ones are void", &origin)?;
                Ok(codes)
            })
            .await
    }

    /// Writes down that the holder of a session proved who they are.
    pub(super) fn prove_session(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        id: crate::kernel::ids::SessionId,
        second_factor: bool,
    ) -> Result<()> {
        let now = self.inner.clock.now();
        let row: Option<SessionRow> = tx.get(SESSIONS, session::key(tenant, id))?;
        let mut row = row.filter(|r| r.ended.is_none()).ok_or_else(Refusal::not_found)?;
        row.authenticated_at = Some(now);
        if second_factor {
            row.second_factor_at = Some(now);
        }
        self.save_session(tx, &row)
    }

    /// Takes a proof within a session; says whether it was a second factor.
    ///
    /// # Errors
    /// 403 `mfa_invalid`; a person who has a second factor does not get by with the password.
    pub async fn step_up(&self, by: &SessionEntry, evidence: Evidence, origin: Origin) -> Result<bool> {
        let (tenant, user, session) = (by.tenant, by.user, by.id);
        let stored = self.user(tenant, user).await?.ok_or_else(Refusal::not_found)?.password;
        let (code, password_right) = match evidence {
            Evidence::Code(code) => (Some(code), false),
            Evidence::Password(plain) => {
                let cost = self.inner.password_cost;
                let check = move || match stored {
                    Some(phc) => password::verify(&plain, &phc),
                    None => password::verify_dummy(&plain, &cost),
                };
                (None, self.inner.argon.run(check).await?)
            }
        };
        let this = self.clone();
        let outcome = self
            .inner
            .store
            .write(move |tx| {
                let person = Self::load_user(tx, tenant, user)?.ok_or_else(Refusal::not_found)?;
                let second_factor = match this.check_factor(tx, &person, code.as_ref(), &origin)? {
                    FactorCheck::Shown => Some(true),
                    FactorCheck::NotSetUp if password_right => Some(false),
                    FactorCheck::NotSetUp | FactorCheck::Needed(_) | FactorCheck::Wrong => None,
                };
                let action = match second_factor {
                    Some(second_factor) => {
                        this.prove_session(tx, tenant, session, second_factor)?;
                        Action::StepUpSucceeded
                    }
                    None => Action::StepUpFailed,
                };
                let level = if second_factor.is_some() { ThreatLevel::None } else { ThreatLevel::Low };
                let entry = NewEntry::new(action, &origin).user(user).level(level);
                audit::append(tx, tenant, this.inner.clock.now(), &this.inner.random, &entry)?;
                Ok(second_factor)
            })
            .await?;
        outcome.ok_or_else(|| mfa_invalid().into())
    }
}

/// 403 and not 401: the access token is fine, the proof is not.
pub(super) fn mfa_invalid() -> Refusal {
    let detail = "That is not right, or was used before. Wait for the next code, then try again.";
    Refusal::new(Kind::Forbidden, "mfa_invalid", detail)
}
