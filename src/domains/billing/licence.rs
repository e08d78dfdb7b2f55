//! Licences for sites without a gateway: a compact JWS (ES256) by which the vendor grants a company a plan for a time. It
//! is verified against the vendor's key in the configuration, where it is installed and never again: the tenant's row then
//! says what it grants, and its own expiry ends it.

use serde::{Deserialize, Serialize};

use super::Billing;
use crate::crypto::{VerifyingKey, parse_compact, strict_json};
use crate::domains::audit::{self, Action, NewEntry};
use crate::domains::tenants::{self, Licence, Limits, PlanTier, Tenant};
use crate::kernel::context::Origin;
use crate::kernel::ids::{TenantId, UserId};
use crate::kernel::{Kind, Refusal, Result, Timestamp};

/// The `typ` of a licence: no other thing that the vendor signs is taken for one.
pub const TYP: &str = "br-licence+jws";
/// Characters of a licence.
pub const CHARS_MAX: usize = 8 * 1024;

/// What the vendor signs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The vendor's own name for it.
    pub licence_id: String,
    /// The company, by id or by name.
    pub tenant: String,
    /// The plan while it lasts.
    pub plan: PlanTier,
    /// Limits that differ from the plan's; null: unlimited.
    #[serde(default)]
    pub quotas: Limits,
    /// Whether it also pays for every device.
    #[serde(default)]
    pub covers_devices: bool,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Judges a licence for this company.
///
/// # Errors
/// 422 `licence_refused` for another key, type or company; 422 `licence_expired`; 409 `licence_older` than the one that is
/// installed.
pub fn judge(jws: &str, vendor: &VerifyingKey, tenant: &Tenant, now: Timestamp) -> Result<Licence, Refusal> {
    let refused = |detail: &'static str| Refusal::new(Kind::Invalid, "licence_refused", detail);
    let signature = "The licence is not signed by the vendor's key (billing.vendor_key), or was changed on its way.";
    let parsed = parse_compact(jws, CHARS_MAX).map_err(|_| refused(signature))?;
    parsed.require_typ(TYP).map_err(|_| refused("This is signed, but it is no licence."))?;
    let payload = parsed.verify(vendor).ok_or_else(|| refused(signature))?;
    let unknown = "The licence says something that this version does not know. Upgrade, or ask for another licence.";
    let members = strict_json::parse_object(payload).map_err(|_| refused(unknown))?;
    let claims: Claims = serde_json::from_value(members.into()).map_err(|_| refused(unknown))?;
    if claims.tenant != tenant.id.to_string() && claims.tenant != tenant.name {
        return Err(refused("The licence is for another company."));
    }
    if now >= claims.expires_at {
        let detail = format!("The licence ended at {}. Ask the vendor for another.", claims.expires_at);
        return Err(Refusal::new(Kind::Invalid, "licence_expired", detail));
    }
    if tenant.purchase.licence.as_ref().is_some_and(|installed| claims.issued_at < installed.issued_at) {
        let detail = "A licence that was signed later is installed; nothing was changed.";
        return Err(Refusal::new(Kind::Conflict, "licence_older", detail));
    }
    Ok(Licence {
        id: claims.licence_id.chars().take(128).collect(),
        plan: claims.plan,
        quotas: claims.quotas,
        covers_devices: claims.covers_devices,
        issued_at: claims.issued_at,
        expires_at: claims.expires_at,
        jws: jws.to_owned(),
    })
}

impl Billing {
    /// Installs a licence; what it grants counts from the next request on.
    ///
    /// # Errors
    /// As [`judge`]; 503 `licence_not_configured` without a vendor's key; `not_found`.
    pub async fn install_licence(
        &self,
        tenant: TenantId,
        jws: String,
        by: Option<UserId>,
        origin: Origin,
    ) -> Result<Licence> {
        let this = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let now = this.inner.clock.now();
                let Some(vendor) = &this.inner.settings.vendor_key else {
                    let detail = "No vendor's key is set that licences could be verified with (billing.vendor_key).";
                    let refusal = Refusal::new(Kind::Unavailable, "licence_not_configured", detail);
                    return Err(refusal.retry_after_s(3_600).into());
                };
                let mut row = tenants::load(tx, tenant)?.ok_or_else(Refusal::not_found)?;
                let licence = judge(&jws, vendor, &row, this.licence_time(now))?;
                let why = format!("{}: {} until {}", licence.id, licence.plan.name(), licence.expires_at);
                row.purchase.licence = Some(licence.clone());
                tenants::save(tx, Some(&this.inner.tenants), &row)?;
                let mut entry = NewEntry::new(Action::LicenceInstalled, &origin).reason(why);
                if let Some(user) = by {
                    entry = entry.user(user);
                }
                audit::append(tx, tenant, now, &this.inner.random, &entry)?;
                Ok(licence)
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::crypto::{SigningKey, sign_compact};
    use crate::kernel::Random;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn claims(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let mut claims = json!({
            "licence_id": "L-1",
            "tenant": "default",
            "plan": "paid",
            "quotas": { "devices": 300, "users": null },
            "covers_devices": true,
            "issued_at": NOW,
            "expires_at": NOW.plus(Duration::from_secs(86_400)),
        });
        change(&mut claims);
        serde_json::to_vec(&claims).unwrap()
    }

    #[test]
    fn only_the_vendors_word_for_this_company_counts_and_only_for_its_time() {
        let (vendor, stranger) = (SigningKey::generate(&Random::seeded(1)), SigningKey::generate(&Random::seeded(2)));
        let mut tenant = Tenant::new(TenantId::NIL, "default", NOW);
        let good = sign_compact(TYP, &claims(|_| {}), &vendor);
        let licence = judge(&good, vendor.verifying(), &tenant, NOW).unwrap();
        assert_eq!((licence.plan, licence.covers_devices, licence.quotas.len()), (PlanTier::Paid, true, 2));
        let by_id = claims(|c| c["tenant"] = json!(TenantId::NIL));
        assert!(judge(&sign_compact(TYP, &by_id, &vendor), vendor.verifying(), &tenant, NOW).is_ok());
        tenant.purchase.licence = Some(licence);
        let at_end = NOW.plus(Duration::from_secs(86_400));
        for (what, jws, at, code) in [
            ("another key", sign_compact(TYP, &claims(|_| {}), &stranger), NOW, "licence_refused"),
            ("another type", sign_compact("at+jwt", &claims(|_| {}), &vendor), NOW, "licence_refused"),
            ("a changed text", good.replace('.', "A."), NOW, "licence_refused"),
            ("nothing", String::new(), NOW, "licence_refused"),
            (
                "another company",
                sign_compact(TYP, &claims(|c| c["tenant"] = json!("other")), &vendor),
                NOW,
                "licence_refused",
            ),
            ("an unknown word", sign_compact(TYP, &claims(|c| c["seats"] = json!(1)), &vendor), NOW, "licence_refused"),
            ("one that ended", good.clone(), at_end, "licence_expired"),
            (
                "an older one",
                sign_compact(TYP, &claims(|c| c["issued_at"] = json!(NOW.minus(Duration::from_secs(1)))), &vendor),
                NOW,
                "licence_older",
            ),
        ] {
            let refusal = judge(&jws, vendor.verifying(), &tenant, at).unwrap_err();
            assert_eq!(refusal.code, code, "{what}");
        }
    }
}
