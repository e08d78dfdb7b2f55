//! The widget on the wire: its page, its tokens, its list of origins.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Figure, LIFETIME_MAX, ORIGINS_MAX, page};
use crate::gate::{Context, Document, Json, Nothing, Params, Query, Reply, Validate, Values};
use crate::kernel::error::FieldError;
use crate::kernel::ids::TenantId;
use crate::kernel::url::web_origin;
use crate::kernel::{Kind, Refusal, Result, Timestamp};

const LIFETIME_S_DEFAULT: u64 = 300;

/// Whose widget.
pub struct WhoseWidget {
    tenant: Option<TenantId>,
}

impl Params for WhoseWidget {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("tenant", "Whose list says who may frame the page; without it nobody may.")];
    fn read(values: &Values, wrong: &mut Vec<FieldError>) -> Self {
        Self { tenant: values.parse("tenant", wrong) }
    }
}

/// `GET /embed/status`
pub async fn widget(ctx: Context, Query(whose): Query<WhoseWidget>) -> Result<Reply<Document>> {
    // A company without a list and one that does not exist are the same to who asks.
    let origins = whose.tenant.map(|tenant| ctx.services().embed.origins(tenant)).unwrap_or_default();
    let page::Page { html, policy } = page::page(&origins);
    let reply = Reply::raw("text/html; charset=utf-8", html)
        .header("content-security-policy", policy)
        .header("cache-control", "no-store");
    if origins.is_empty() {
        return Ok(reply);
    }
    // The older header knows no list: with it, nobody could frame the page. A parent that isolates itself needs the other.
    Ok(reply.header("x-frame-options", "").header("cross-origin-resource-policy", "cross-origin"))
}

/// What the widget shows.
#[derive(Serialize, ToSchema)]
pub struct WidgetStatus {
    /// The page that the token is for.
    origin: String,
    /// As many as the token allows: `devices`, `seen`, `blocked`.
    #[schema(value_type = std::collections::HashMap<String, u64>)]
    figures: BTreeMap<Figure, usize>,
    /// Of this moment.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// When the token ends.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// `GET /v1/embed/status`
pub async fn status(ctx: Context, _: Nothing) -> Result<Reply<WidgetStatus>> {
    let embed = &ctx.services().embed;
    let pass = ctx.embed_credential().and_then(|token| embed.verify(token)).ok_or_else(|| {
        let detail = "This needs a valid token of the widget in X-Embed-Token. Make one with POST /v1/embed/tokens.";
        Refusal::new(Kind::Unauthenticated, "unauthenticated", detail)
    })?;
    let figures = embed.figures(pass.tenant).into_iter().filter(|(figure, _)| pass.figures.contains(figure)).collect();
    let status = WidgetStatus { origin: pass.origin, figures, updated_at: ctx.now(), expires_at: pass.expires_at };
    Ok(Reply::new(status).header("cache-control", "no-store"))
}

/// Who may show the widget.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbedOrigins {
    /// Origins such as `https://portal.example`; `http` is for pages on the same machine only.
    #[schema(max_items = 20, example = json!(["https://portal.example"]))]
    origins: Vec<String>,
}

/// The one spelling of an origin that may be listed. Beyond the machine itself, a page without TLS is whoever sits on the
/// way.
fn listable(text: &str) -> Option<String> {
    let origin = web_origin(text)?;
    let (_, authority) = origin.split_once("://")?;
    let here = ["localhost", "127.0.0.1", "[::1]"]
        .iter()
        .any(|host| authority.strip_prefix(host).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')));
    (origin.starts_with("https://") || here).then_some(origin)
}

impl Validate for EmbedOrigins {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        if self.origins.len() > ORIGINS_MAX {
            let detail = format!("must have at most {ORIGINS_MAX} items");
            wrong.push(FieldError { pointer: "/origins".to_owned(), detail });
        }
        for (i, origin) in self.origins.iter().enumerate().take(ORIGINS_MAX) {
            if listable(origin).is_none() {
                let detail = "must be an origin such as https://portal.example, without a path".to_owned();
                wrong.push(FieldError { pointer: format!("/origins/{i}"), detail });
            }
        }
    }
}

/// `GET /v1/embed/origins`
pub async fn origins(ctx: Context, _: Nothing) -> Result<Reply<EmbedOrigins>> {
    let origins = ctx.services().embed.origins(ctx.tenant()?).iter().cloned().collect();
    Ok(Reply::new(EmbedOrigins { origins }))
}

/// `PUT /v1/embed/origins`
pub async fn set_origins(ctx: Context, Json(request): Json<EmbedOrigins>) -> Result<Reply<EmbedOrigins>> {
    let (tenant, by, origin) = (ctx.tenant()?, ctx.actor()?, ctx.origin().clone());
    let listed: BTreeSet<String> = request.origins.iter().filter_map(|text| listable(text)).collect();
    ctx.services().embed.set_origins(tenant, listed.clone(), by, origin).await?;
    Ok(Reply::new(EmbedOrigins { origins: listed.into_iter().collect() }))
}

/// A token to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbedTokenRequest {
    /// The page that may show the widget with it; it must be on the company's list.
    #[schema(max_length = 255)]
    origin: String,
    /// What it shows; all figures when absent.
    #[serde(default)]
    #[schema(min_items = 1, max_items = 3)]
    figures: Option<Vec<Figure>>,
    /// 300 when absent.
    #[serde(default)]
    #[schema(minimum = 30, maximum = 900)]
    lifetime_s: Option<u64>,
}

impl Validate for EmbedTokenRequest {
    fn validate(&self, wrong: &mut Vec<FieldError>) {
        let mut refuse = |pointer: &str, detail: &str| {
            wrong.push(FieldError { pointer: pointer.to_owned(), detail: detail.to_owned() });
        };
        if listable(&self.origin).is_none() {
            refuse("/origin", "must be an origin such as https://portal.example, without a path");
        }
        if self.figures.as_ref().is_some_and(|all| !(1..=Figure::ALL.len()).contains(&all.len())) {
            refuse("/figures", "must have 1 to 3 items");
        }
        if self.lifetime_s.is_some_and(|s| !(30..=LIFETIME_MAX.as_secs()).contains(&s)) {
            refuse("/lifetime_s", "must be 30 to 900");
        }
    }
}

/// A token for the widget.
#[derive(Serialize, ToSchema)]
pub struct EmbedToken {
    /// Hand it to the frame by `postMessage`; it opens nothing else.
    token: String,
    /// The page that may show the widget with it.
    origin: String,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    /// The frame's address on this appliance.
    path: String,
}

/// `POST /v1/embed/tokens`
pub async fn mint(ctx: Context, Json(request): Json<EmbedTokenRequest>) -> Result<Reply<EmbedToken>> {
    let (tenant, by, origin) = (ctx.tenant()?, ctx.actor()?, ctx.origin().clone());
    let page = listable(&request.origin).unwrap_or_default();
    let figures = request.figures.unwrap_or_else(|| Figure::ALL.to_vec());
    let lifetime = Duration::from_secs(request.lifetime_s.unwrap_or(LIFETIME_S_DEFAULT));
    let embed = &ctx.services().embed;
    let (token, expires_at) = embed.mint(tenant, page.clone(), figures, lifetime, by, origin).await?;
    Ok(Reply::new(EmbedToken { token, origin: page, expires_at, path: format!("/embed/status?tenant={tenant}") }))
}
