//! Setting a password on the wire: by a link, or by who knows the present one.

use serde::Deserialize;
use utoipa::ToSchema;

use super::{Ended, length};
use crate::crypto::Secret;
use crate::gate::{Context, Json, Reply, Validate};
use crate::kernel::error::FieldError;
use crate::kernel::rate::Decision;
use crate::kernel::{Error, Kind, Refusal, Result};

/// The first password, or another one.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkPasswordRequest {
    /// `brl_...`, of an invitation or a password reset.
    #[schema(value_type = String, min_length = 1, max_length = 128)]
    token: Secret,
    /// 12 to 1,024 bytes.
    #[schema(value_type = String, min_length = 1, max_length = 1024)]
    password: Secret,
}

impl Validate for LinkPasswordRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        length(self.token.expose(), "/token", 1, 128, wrong);
        length(self.password.expose(), "/password", 1, 1024, wrong);
    }
}

/// Another password of one's own.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnPasswordRequest {
    /// The present one.
    #[schema(value_type = String, min_length = 1, max_length = 1024)]
    current_password: Secret,
    /// 12 to 1,024 bytes.
    #[schema(value_type = String, min_length = 1, max_length = 1024)]
    new_password: Secret,
}

impl Validate for OwnPasswordRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        length(self.current_password.expose(), "/current_password", 1, 1024, wrong);
        length(self.new_password.expose(), "/new_password", 1, 1024, wrong);
    }
}

fn too_often(ctx: &Context, decision: Decision, detail: &'static str) -> Error {
    ctx.decided(decision);
    Refusal::new(Kind::RateLimited, "rate_limited", detail).retry_after_s(decision.reset_s).into()
}

/// `POST /v1/auth/password`
pub async fn by_link(ctx: Context, Json(request): Json<LinkPasswordRequest>) -> Result<Reply<Ended>> {
    let (limiter, ip) = (ctx.limiter(), ctx.origin().ip);
    if let Some(ip) = ip {
        let budget = limiter.auth_budget(ip, ctx.now());
        if !budget.admitted {
            let detail = "Too many failed authentications from this address in the last minute.";
            return Err(too_often(&ctx, budget, detail));
        }
    }
    let iam = &ctx.services().iam;
    let outcome = iam.use_password_link(request.token.expose(), request.password, ctx.origin().clone()).await;
    // Only a bad link is a failure: a weak password, a full queue or a broken disk is none.
    if matches!(&outcome, Err(Error::Refused(r)) if r.kind == Kind::Unauthenticated)
        && let Some(ip) = ip
    {
        limiter.auth_failed(ip, ctx.now());
    }
    outcome?;
    Ok(Reply::empty())
}

/// `POST /v1/me/password`
pub async fn own(ctx: Context, Json(request): Json<OwnPasswordRequest>) -> Result<Reply<Ended>> {
    let (iam, caller, ip) = (&ctx.services().iam, ctx.user()?, ctx.origin().ip);
    let me = iam.user(caller.session.tenant, caller.id()).await?.ok_or_else(Refusal::not_found)?;
    // The counter of logins: who holds a stolen session must not guess on here what they may not guess there.
    let decision = ctx.limiter().login_try(&me.username, ip, ctx.now());
    if !decision.admitted {
        let detail = "Too many wrong passwords for this account from this address. Wait, then try again.";
        return Err(too_often(&ctx, decision, detail));
    }
    let (current, new) = (request.current_password, request.new_password);
    let outcome = iam.change_own_password(&caller.session, current, new, ctx.origin().clone()).await;
    if !matches!(&outcome, Err(Error::Refused(r)) if r.code == "wrong_password") {
        ctx.limiter().login_succeeded(&me.username, ip, ctx.now());
    }
    outcome?;
    Ok(Reply::empty())
}
