//! Who may go on: the row's demand against what the caller may do at this moment. Decides nothing else, asks no disk.

use super::context::{Caller, unauthenticated};
use super::problem::Problem;
use super::route::{Access, DeviceRule};
use crate::domains::iam::FRESH;
use crate::domains::tenants;
use crate::kernel::{Kind, Refusal, Timestamp};

/// # Errors
/// 401, 403 `forbidden`, `insufficient_scope`, `tenant_suspended` or `step_up_required`.
pub(super) fn authorize(access: Access, caller: &Caller, now: Timestamp) -> Result<(), Problem> {
    let forbidden = |detail: String| Refusal::new(Kind::Forbidden, "forbidden", detail);
    match (access, caller) {
        (Access::Public(_) | Access::Signed(_) | Access::OptionalUser(_) | Access::Anonymous(_), _) => return Ok(()),
        (Access::Enrolling(_), Caller::Public) => return Ok(()),
        (Access::Enrolling(_), Caller::Device(_)) => {}
        (Access::Session, Caller::User(_) | Caller::Device(_))
        | (Access::AnyUser | Access::FreshAnyUser, Caller::User(_))
        | (Access::Device(_) | Access::UserOrDevice(_), Caller::Device(_)) => {}
        (Access::User(p) | Access::UserOrDevice(p), Caller::Machine(machine)) if !machine.may(p) => {
            let detail = format!("This key does not have the scope {}.", p.name());
            return Err(Refusal::new(Kind::Forbidden, "insufficient_scope", detail).into());
        }
        (Access::User(_) | Access::UserOrDevice(_), Caller::Machine(_)) => {}
        (
            Access::User(p) | Access::UserOrDevice(p) | Access::FreshUser(p) | Access::TwoFactorUser(p),
            Caller::User(user),
        ) => {
            if !user.may(p) {
                return Err(forbidden(format!("This needs the permission {}.", p.name())).into());
            }
        }
        (Access::Device(_) | Access::Enrolling(_), _) => {
            return Err(forbidden("This is for enrolled devices.".to_owned()).into());
        }
        (_, Caller::Public | Caller::Anonymous(_)) => return Err(unauthenticated().into()),
        (_, Caller::Machine(_)) => return Err(forbidden("This is for people, not for programs.".to_owned()).into()),
        (_, Caller::Device(_)) => return Err(forbidden("This is for people, not for devices.".to_owned()).into()),
    }
    // Locks reach the devices of a suspended tenant, too.
    let reached = access == Access::Device(DeviceRule::Reachable);
    if !reached && caller.tenant().is_some_and(|t| t.is_suspended()) {
        return Err(tenants::suspended().into());
    }
    match (access, caller) {
        (Access::FreshUser(_) | Access::FreshAnyUser, Caller::User(user)) if !user.has_fresh_proof(now) => {
            Err(step_up_required().into())
        }
        (Access::TwoFactorUser(_), Caller::User(user)) if !user.session.has_fresh_second_factor(now) => {
            Err(step_up_required().into())
        }
        _ => Ok(()),
    }
}

/// 403: the session is not proof enough for this.
pub(super) fn step_up_required() -> Refusal {
    let detail = "Prove again who you are (POST /v1/me/mfa/verify), then repeat this within five minutes.";
    let extra = serde_json::json!({ "max_age_s": FRESH.as_secs(), "verify_at": "/v1/me/mfa/verify" });
    let refusal = Refusal::new(Kind::Forbidden, "step_up_required", detail);
    Refusal { extra: extra.as_object().cloned().map(Box::new), ..refusal }
}
