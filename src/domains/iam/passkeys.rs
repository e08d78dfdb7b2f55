//! Passkeys of people: made within a session, used to log in or to prove again who somebody is.
//!
//! The site's name (the relying party's id) is the host by which the browser calls the appliance. A browser gives a
//! passkey to the site it was made on and to no other, and says so under its signature; so a copy of our page elsewhere
//! learns nothing that would be taken here.
//!
//! Knows nothing of HTTP. Source: Web Authentication Level 3, sections 5.1, 7.1 and 7.2.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::challenge::LIFETIME;
use super::login::{LoggedIn, wrong};
use super::model::{Binding, User};
use super::second_factor::{FactorsRow, PasskeyRow, PasskeyView, mfa_invalid};
use super::session::Proof;
use super::{Iam, SessionEntry};
use crate::crypto::cose::Algorithm;
use crate::crypto::webauthn::{Expected, StoredCredential, WebauthnError, verify_assertion, verify_registration};
use crate::crypto::{sha256, strict_json};
use crate::domains::audit::{self, Action, NewEntry, ThreatLevel};
use crate::domains::tenants::{self, TenantState};
use crate::kernel::context::Origin;
use crate::kernel::ids::{PasskeyId, TenantId, UserId};
use crate::kernel::{Error, Kind, Refusal, Result};
use crate::store::Tx;
use crate::store::tables::{Key, PASSKEY_OWNERS};

/// Passkeys of one person.
const PASSKEYS_MAX: usize = 20;

/// The site that a ceremony runs on, as the browser called it.
#[derive(Clone, Debug)]
pub struct Site {
    /// Relying party's id: the host without its port.
    pub rp_id: String,
    /// `https://host:port`, as the browser writes it.
    pub origin: String,
}

impl Site {
    /// The site behind `host`, which may end in a port; `None` for an address and for what is no host name. `fixed` is
    /// the id that the configuration sets: the host must be it or lie below it.
    pub fn of(host: &str, fixed: Option<&str>) -> Option<Self> {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.to_ascii_lowercase();
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > 253 || !name.bytes().all(fits) || is_address(&name) {
            return None;
        }
        let origin = format!("https://{}", host.to_ascii_lowercase().trim_end_matches(":443"));
        let rp_id = match fixed {
            Some(fixed) if name == fixed || name.ends_with(&format!(".{fixed}")) => fixed.to_owned(),
            Some(_) => return None,
            None => name,
        };
        Some(Self { rp_id, origin })
    }
}

/// Whether browsers read a host as an IPv4 address, in whatever spelling: its last label is a number (URL standard,
/// "ends in a number"). The id of a relying party is a domain, so no browser would make a passkey for one.
fn is_address(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    hexadecimal || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()))
}

/// What an authenticator made of a challenge, decoded.
pub struct Attempt {
    /// `response.clientDataJSON`
    pub client_data: Vec<u8>,
    /// `response.attestationObject` of a registration, `response.authenticatorData` of an assertion.
    pub data: Vec<u8>,
    /// `response.signature` of an assertion.
    pub signature: Vec<u8>,
    /// `rawId`
    pub credential_id: Vec<u8>,
    /// `response.userHandle`, where it was sent.
    pub user_handle: Option<Vec<u8>>,
}

impl Attempt {
    /// The challenge that the browser says it answered; proven later.
    fn challenge(&self) -> Option<Vec<u8>> {
        let members = strict_json::parse_object(&self.client_data).ok()?;
        Base64UrlUnpadded::decode_vec(members.get("challenge")?.as_str()?).ok()
    }
}

fn registration_purpose(by: &SessionEntry, site: &Site) -> String {
    format!("register\u{1f}{}\u{1f}{}", by.id, site.origin)
}

fn step_up_purpose(by: &SessionEntry, site: &Site) -> String {
    format!("step-up\u{1f}{}\u{1f}{}", by.id, site.origin)
}

fn login_purpose(site: &Site) -> String {
    format!("login\u{1f}{}", site.origin)
}

fn owner_key(credential_id: &[u8]) -> Key {
    Key::new().bytes(sha256(credential_id))
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    Base64UrlUnpadded::encode_string(bytes.as_ref())
}

fn rejected(error: &WebauthnError) {
    tracing::debug!(reason = %error, "an authenticator's answer was refused");
}

impl Iam {
    fn make_challenge(&self, purpose: &str) -> String {
        encoded(self.inner.challenges.make(purpose, self.inner.clock.now(), &self.inner.random))
    }

    /// The challenge that an attempt answers, if it was made here for this purpose; it is used up by this.
    fn take_challenge(&self, attempt: &Attempt, purpose: &str) -> Result<Option<Vec<u8>>> {
        let now = self.inner.clock.now();
        let genuine = attempt.challenge().filter(|c| self.inner.challenges.is_genuine(c, purpose, now));
        let Some(challenge) = genuine else { return Ok(None) };
        Ok(self.inner.challenges.take(&challenge, now)?.then_some(challenge))
    }

    /// What a browser needs to make a passkey (`PublicKeyCredentialCreationOptionsJSON`).
    pub async fn passkey_options(&self, by: &SessionEntry, site: &Site) -> Result<Value> {
        let (tenant, user) = (by.tenant, by.user);
        let person = self.user(tenant, user).await?.ok_or_else(Refusal::not_found)?;
        let ids = self
            .inner
            .store
            .read_with(move |s| {
                let row: Option<FactorsRow> =
                    s.get(crate::store::tables::SECOND_FACTORS, super::second_factor::key(tenant, user))?;
                Ok(row.map_or_else(Vec::new, |r| r.passkeys.into_iter().map(|p| p.credential_id).collect()))
            })
            .await?;
        let exclude: Vec<Value> = ids.iter().map(|id| json!({ "type": "public-key", "id": id })).collect();
        let algorithms: Vec<Value> =
            Algorithm::ALL.iter().map(|a| json!({ "type": "public-key", "alg": a.cose_id() })).collect();
        Ok(json!({
            "rp": { "id": site.rp_id, "name": "BlockRemote" },
            "user": {
                "id": encoded(user.to_bytes()),
                "name": person.username,
                "displayName": person.display_name.as_deref().unwrap_or(&person.username),
            },
            "challenge": self.make_challenge(&registration_purpose(by, site)),
            "pubKeyCredParams": algorithms,
            "timeout": LIFETIME.as_millis(),
            "excludeCredentials": exclude,
            "authenticatorSelection": { "residentKey": "required", "requireResidentKey": true, "userVerification": "required" },
            "attestation": if self.inner.settings.passkey_attestation { "direct" } else { "none" },
        }))
    }

    /// Takes a new passkey. Gives recovery codes when the person has none yet.
    ///
    /// # Errors
    /// 422 `passkey_refused`; 403 `passkey_attestation_refused` where the configuration wants to know its make; 409
    /// `passkey_exists`, `too_many_passkeys`.
    pub async fn add_passkey(
        &self,
        by: &SessionEntry,
        site: Site,
        name: String,
        attempt: Attempt,
        origin: Origin,
    ) -> Result<(PasskeyView, Vec<Zeroizing<String>>)> {
        let refused = || Error::from(passkey_refused());
        let challenge = self.take_challenge(&attempt, &registration_purpose(by, &site))?.ok_or_else(refused)?;
        let origins = [site.origin.clone()];
        let expected = Expected {
            rp_id: &site.rp_id,
            origins: &origins,
            challenge: &challenge,
            user_verification_required: true,
            cross_origin_allowed: false,
            algorithms: &Algorithm::ALL,
        };
        let made = verify_registration(&expected, &attempt.client_data, &attempt.data)
            .inspect_err(rejected)
            .map_err(|_| refused())?;
        if made.credential_id != attempt.credential_id {
            return Err(refused());
        }
        if self.inner.settings.passkey_attestation
            && let Err(why) = self.inner.attestation.judge_passkey(by.tenant, made.clone()).await?
        {
            tracing::info!(user = %by.user, reason = why.reason, detail = why.detail, "a passkey was refused");
            return Err(unproven(why.reason).into());
        }
        let (this, tenant, user, session) = (self.clone(), by.tenant, by.user, by.id);
        let now = self.inner.clock.now();
        let passkey = PasskeyRow {
            id: PasskeyId::generate(now, &self.inner.random),
            name,
            rp_id: site.rp_id,
            credential_id: encoded(&made.credential_id),
            public_key: encoded(&made.public_key_cose),
            sign_count: made.sign_count,
            backup_eligible: made.backup_eligible,
            created_at: now,
            last_used_at: None,
        };
        let place = Key::new().bytes(tenant.to_bytes()).bytes(user.to_bytes());
        self.inner
            .store
            .write(move |tx| {
                let owner = owner_key(&made.credential_id);
                if tx.get_raw(PASSKEY_OWNERS, &owner)?.is_some() {
                    let detail = "This authenticator holds a passkey of this appliance already.";
                    return Err(Refusal::new(Kind::Conflict, "passkey_exists", detail).into());
                }
                let mut row = Self::load_factors(tx, tenant, user)?;
                if row.passkeys.len() >= PASSKEYS_MAX {
                    let detail = "There are 20 passkeys already. Remove one first.";
                    return Err(Refusal::new(Kind::Conflict, "too_many_passkeys", detail).into());
                }
                row.passkeys.push(passkey.clone());
                let codes = if row.recovery.is_empty() { this.new_recovery_codes(&mut row) } else { Vec::new() };
                this.save_factors(tx, &row)?;
                tx.put_raw(PASSKEY_OWNERS, &owner, place.as_ref())?;
                // Who made it was verified by the authenticator just now.
                this.prove_session(tx, tenant, session, true)?;
                let reason = format!("passkey {} ({})", passkey.name, passkey.id);
                let entry = NewEntry::new(Action::SecondFactorAdded, &origin).user(user).reason(reason);
                audit::append(tx, tenant, this.inner.clock.now(), &this.inner.random, &entry)?;
                Ok((PasskeyView::from(&passkey), codes))
            })
            .await
    }

    /// Takes a passkey away; the recovery codes with it when no second factor is left.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn remove_passkey(&self, by: &SessionEntry, id: PasskeyId, origin: Origin) -> Result<()> {
        let (this, tenant, user) = (self.clone(), by.tenant, by.user);
        self.inner
            .store
            .write(move |tx| {
                let mut row = Self::load_factors(tx, tenant, user)?;
                let at = row.passkeys.iter().position(|p| p.id == id).ok_or_else(Refusal::not_found)?;
                let gone = row.passkeys.remove(at);
                if !row.is_usable() {
                    row.recovery.clear();
                }
                let credential_id = Base64UrlUnpadded::decode_vec(&gone.credential_id).map_err(Error::internal)?;
                this.save_factors(tx, &row)?;
                tx.delete(PASSKEY_OWNERS, owner_key(&credential_id))?;
                let reason = format!("passkey {} ({id})", gone.name);
                let entry = NewEntry::new(Action::SecondFactorRemoved, &origin).user(user).reason(reason);
                audit::append(tx, tenant, this.inner.clock.now(), &this.inner.random, &entry).map(drop)
            })
            .await
    }

    fn request_options(&self, site: &Site, purpose: &str, allow: Vec<Value>) -> Value {
        json!({
            "challenge": self.make_challenge(purpose),
            "timeout": LIFETIME.as_millis(),
            "rpId": site.rp_id,
            "allowCredentials": allow,
            "userVerification": "required",
        })
    }

    /// What a browser needs to use a passkey for logging in (`PublicKeyCredentialRequestOptionsJSON`). Names nobody's
    /// passkeys: the person chooses, and nobody learns who has one.
    pub fn passkey_login_options(&self, site: &Site) -> Value {
        self.request_options(site, &login_purpose(site), Vec::new())
    }

    /// What a browser needs to use a passkey for proving again who somebody is.
    pub fn passkey_step_up_options(&self, by: &SessionEntry, site: &Site) -> Value {
        self.request_options(site, &step_up_purpose(by, site), Vec::new())
    }

    /// Logs a person in by a passkey, which is two factors in one: what they have, and what unlocks it.
    ///
    /// # Errors
    /// 401 `invalid_credentials` for anything that is not right; 403 `tenant_suspended`.
    pub async fn passkey_login(
        &self,
        site: Site,
        attempt: Attempt,
        binding: Option<Binding>,
        origin: Origin,
    ) -> Result<LoggedIn> {
        let challenge = self.take_challenge(&attempt, &login_purpose(&site))?.ok_or_else(wrong)?;
        let this = self.clone();
        let outcome = self
            .inner
            .store
            .write(move |tx| {
                let owner = tx.get_raw(PASSKEY_OWNERS, owner_key(&attempt.credential_id))?;
                let place = owner.as_deref().and_then(|p| Some((p.first_chunk::<16>()?, p.last_chunk::<16>()?)));
                let Some((tenant, user)) = place else { return Ok(None) };
                let (tenant, user) = (TenantId::from_bytes(*tenant), UserId::from_bytes(*user));
                let Some(person) = Self::load_user(tx, tenant, user)?.filter(|u| !u.disabled) else { return Ok(None) };
                if !this.assert_in(tx, &person, &site, &challenge, &attempt, &origin)? {
                    this.note_failure(tx, Some(&person), &origin)?;
                    return Ok(None);
                }
                if tenants::load(tx, tenant)?.is_none_or(|t| t.state != TenantState::Active) {
                    return Ok(Some(Err(tenants::suspended())));
                }
                let proof = Proof { person: true, second_factor: true, binding: binding.clone() };
                let row = this.log_in(tx, &person, proof, &origin)?;
                Ok(Some(Ok((row, person))))
            })
            .await?;
        let (row, person) = outcome.ok_or_else(wrong)??;
        Ok(self.logged_in(row, person))
    }

    /// Takes a passkey as proof within a session.
    ///
    /// # Errors
    /// 403 `mfa_invalid`.
    pub async fn passkey_step_up(&self, by: &SessionEntry, site: Site, attempt: Attempt, origin: Origin) -> Result<()> {
        let challenge = self.take_challenge(&attempt, &step_up_purpose(by, &site))?.ok_or_else(mfa_invalid)?;
        let (this, tenant, user, session) = (self.clone(), by.tenant, by.user, by.id);
        let proven = self
            .inner
            .store
            .write(move |tx| {
                let person = Self::load_user(tx, tenant, user)?.ok_or_else(Refusal::not_found)?;
                let proven = this.assert_in(tx, &person, &site, &challenge, &attempt, &origin)?;
                let (action, level) = if proven {
                    this.prove_session(tx, tenant, session, true)?;
                    (Action::StepUpSucceeded, ThreatLevel::None)
                } else {
                    (Action::StepUpFailed, ThreatLevel::Low)
                };
                let entry = NewEntry::new(action, &origin).user(user).level(level).reason("passkey");
                audit::append(tx, tenant, this.inner.clock.now(), &this.inner.random, &entry)?;
                Ok(proven)
            })
            .await?;
        if proven { Ok(()) } else { Err(mfa_invalid().into()) }
    }

    /// Judges an assertion against the person's passkeys and stores the new counter, in the caller's transaction.
    fn assert_in(
        &self,
        tx: &mut Tx<'_>,
        person: &User,
        site: &Site,
        challenge: &[u8],
        attempt: &Attempt,
        origin: &Origin,
    ) -> Result<bool> {
        let mut row = Self::load_factors(tx, person.tenant, person.id)?;
        let wanted = encoded(&attempt.credential_id);
        let found = row.passkeys.iter_mut().find(|p| p.credential_id == wanted && p.rp_id == site.rp_id);
        let Some(passkey) = found else { return Ok(false) };
        if attempt.user_handle.as_ref().is_some_and(|h| !h.is_empty() && *h != person.id.to_bytes()) {
            return Ok(false);
        }
        let public_key = Base64UrlUnpadded::decode_vec(&passkey.public_key).map_err(Error::internal)?;
        let stored = StoredCredential {
            public_key_cose: &public_key,
            sign_count: passkey.sign_count,
            backup_eligible: passkey.backup_eligible,
        };
        let origins = [site.origin.clone()];
        let expected = Expected {
            rp_id: &site.rp_id,
            origins: &origins,
            challenge,
            user_verification_required: true,
            cross_origin_allowed: false,
            algorithms: &Algorithm::ALL,
        };
        match verify_assertion(&expected, &stored, &attempt.client_data, &attempt.data, &attempt.signature) {
            Ok(asserted) => {
                passkey.sign_count = asserted.sign_count;
                passkey.last_used_at = Some(self.inner.clock.now());
                self.save_factors(tx, &row)?;
                Ok(true)
            }
            Err(WebauthnError::StoredKey(e)) => Err(Error::internal(e)),
            Err(error) => {
                rejected(&error);
                if let WebauthnError::Counter { .. } = error {
                    let reason = format!("passkey {}: {error}. Somebody may hold a copy of it.", passkey.id);
                    let entry = NewEntry::new(Action::LoginFailed, origin).user(person.id).reason(reason);
                    let entry = entry.level(ThreatLevel::High);
                    audit::append(tx, person.tenant, self.inner.clock.now(), &self.inner.random, &entry)?;
                }
                Ok(false)
            }
        }
    }
}

/// The authenticator says too little, or nothing good, of itself.
fn unproven(reason: &str) -> Refusal {
    let detail = format!("The make of this authenticator is not proven as this appliance wants it: {reason}.");
    let extra = json!({ "reason": reason });
    let refusal = Refusal::new(Kind::Forbidden, "passkey_attestation_refused", detail);
    Refusal { extra: extra.as_object().cloned().map(Box::new), ..refusal }
}

fn passkey_refused() -> Refusal {
    let detail =
        "The authenticator's answer does not fit the options that were asked for. Ask for new options and try again.";
    Refusal::new(Kind::Invalid, "passkey_refused", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_the_host_that_the_browser_called() {
        for (host, fixed, expected) in [
            ("localhost:8443", None, Some(("localhost", "https://localhost:8443"))),
            ("Box.LAN", None, Some(("box.lan", "https://box.lan"))),
            ("box.lan:443", None, Some(("box.lan", "https://box.lan"))),
            ("a.box.lan:8443", Some("box.lan"), Some(("box.lan", "https://a.box.lan:8443"))),
            ("evilbox.lan", Some("box.lan"), None),
            ("other.lan", Some("box.lan"), None),
            ("[::1]:8443", None, None),
            ("127.0.0.1:8443", None, None),
            ("10.0.0.1.", None, None),
            ("0x7f.1", None, None),
            ("2130706433", None, None),
            ("127.0.0.1", Some("127.0.0.1"), None),
            ("10.0.0.1.nip.lan", None, Some(("10.0.0.1.nip.lan", "https://10.0.0.1.nip.lan"))),
            ("box7", None, Some(("box7", "https://box7"))),
            ("", None, None),
            ("a b", None, None),
        ] {
            let site = Site::of(host, fixed);
            let got = site.as_ref().map(|s| (s.rp_id.as_str(), s.origin.as_str()));
            assert_eq!(got, expected, "{host}");
        }
    }
}
