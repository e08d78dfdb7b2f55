//! The matrix's requests about integrations, and short ways to make them in any test.

use blockremote::domains::embed::{Figure, LIFETIME_MAX};
use blockremote::domains::integrations::{Kind, Wanted, WantedTarget};
use blockremote::gate::{Route, Verb};
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::{TenantId, UserId};
use blockremote::testkit::{Fault, Server, text};
use serde_json::{Value, json};

use super::{Call, World};
use crate::people::done;

/// Where nobody listens, and nothing may be called by default.
pub const NOWHERE: &str = "http://127.0.0.1:9/hook";

/// A webhook to be.
pub fn webhook(name: &str, url: &str, events: &[&str]) -> Value {
    json!({ "name": name, "kind": "webhook", "events": events, "url": url })
}

/// Makes an integration over the API; gives its id and its secret.
pub async fn integration(server: &Server, admin: &str, body: Value) -> Result<(String, String), Fault> {
    let made = done(server, admin, "POST", "/v1/integrations", body).await?;
    Ok((text(&made, "id"), text(&made, "secret")))
}

/// What must stand in the log after such a row succeeded.
pub fn expected_entry(verb: Verb, path: &str) -> Option<&'static str> {
    Some(match path {
        "/v1/embed/origins" => "embed_origins_changed",
        "/v1/embed/tokens" => "embed_token_created",
        "/v1/integrations" => "integration_created",
        "/v1/integrations/{integration_id}" if verb == Verb::Patch => "integration_updated",
        "/v1/integrations/{integration_id}" => "integration_deleted",
        "/v1/integrations/{integration_id}/rotate" => "integration_rotated",
        "/v1/integrations/{integration_id}/test" => "integration_tested",
        "/v1/integrations/{integration_id}/replay" => "integration_replayed",
        _ => return None,
    })
}

/// A webhook, made behind the gate; gives its id.
async fn made(server: &Server, tenant: TenantId, name: &str) -> Result<String, Fault> {
    let target = WantedTarget { url: Some(NOWHERE.to_owned()), ..WantedTarget::default() };
    let events = Some(vec!["case.breached".to_owned()]);
    let wanted = Wanted { name: Some(name.to_owned()), events, enabled: None, target };
    let integrations = &server.app().services.integrations;
    let issued = integrations.create(tenant, Kind::Webhook, wanted, UserId::NIL, None, Origin::cli()).await?;
    Ok(issued.id().to_string())
}

impl World {
    async fn embed_recipe(&self, route: &Route) -> Result<Option<Call>, Fault> {
        let (embed, page) = (&self.server.app().services.embed, "https://portal.example".to_owned());
        let list = || embed.set_origins(self.tenant, [page.clone()].into(), UserId::NIL, Origin::cli());
        Ok(Some(match (route.verb, route.path) {
            // Without a company nobody may frame it: the headers are those of every other answer.
            (_, "/embed/status") | (Verb::Get, "/v1/embed/origins") => Call::get(route.path),
            (_, "/v1/embed/origins") => Call::of(route.path, json!({ "origins": [page] })),
            (_, "/v1/embed/tokens") => {
                list().await?;
                Call::of(route.path, json!({ "origin": page }))
            }
            (_, "/v1/embed/status") => {
                list().await?;
                let (figures, life) = (Figure::ALL.to_vec(), LIFETIME_MAX);
                let made = embed.mint(self.tenant, page.clone(), figures, life, UserId::NIL, Origin::cli()).await?;
                Call { headers: vec![("x-embed-token", made.0)], ..Call::get(route.path) }
            }
            _ => return Ok(None),
        }))
    }

    pub(super) async fn hooks_recipe(&mut self, route: &Route) -> Result<Option<Call>, Fault> {
        if let Some(call) = self.embed_recipe(route).await? {
            return Ok(Some(call));
        }
        if !route.path.starts_with("/v1/integration") {
            return Ok(None);
        }
        let name = self.fresh_name();
        if !route.path.contains('{') {
            let body = if route.verb == Verb::Post { webhook(&name, NOWHERE, &["case.breached"]) } else { Value::Null };
            return Ok(Some(Call::of(route.path, body)));
        }
        let id = made(&self.server, self.tenant, &name).await?;
        let body = match (route.verb, route.path.rsplit('/').next()) {
            (Verb::Patch, _) => json!({ "name": format!("{name} again") }),
            (Verb::Post, Some("rotate")) => json!({ "overlap_s": 60 }),
            (Verb::Post, Some("replay")) => json!({ "dead": true }),
            _ => Value::Null,
        };
        Ok(Some(Call::of(&route.path.replace("{integration_id}", &id), body)))
    }
}
