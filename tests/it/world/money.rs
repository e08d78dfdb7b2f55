//! The matrix's requests about plans, subscriptions and what companies may use.

use blockremote::config::Config;
use blockremote::crypto::webhook::sign_hex;
use blockremote::crypto::{SigningKey, sign_compact};
use blockremote::domains::billing::licence::TYP;
use blockremote::gate::{Route, Verb};
use blockremote::kernel::Random;
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::UserId;
use blockremote::testkit::{Fault, Server, text};
use serde_json::{Value, json};

use super::{Call, Who, World};
use crate::common::{DAY, new_tenant, part};

/// What the matrix and the gateway share.
pub const SECRET: &str = "a secret of sixteen bytes or more";

/// A flag that says yes to everybody.
pub fn flag() -> Value {
    json!({ "variants": { "on": true }, "off_variant": "on", "otherwise": { "variant": "on" } })
}

/// What must stand in the log after such a row succeeded.
pub fn expected_entry(verb: Verb, path: &str) -> Option<&'static str> {
    Some(match path {
        "/v1/billing/webhook" => "subscription_updated",
        "/v1/billing/licence" => "licence_installed",
        "/v1/tenants/{tenant_id}/entitlements" => "entitlements_changed",
        "/v1/flags/{flag_key}" if verb == Verb::Put => "flag_updated",
        "/v1/flags/{flag_key}" => "flag_deleted",
        _ => return None,
    })
}

/// The headers of the gateway's own scheme, signed at this moment.
pub fn signed(server: &Server, secret: &str, body: &Value) -> Vec<(&'static str, String)> {
    let now_s = server.clock.now().as_secs();
    let signature = sign_hex(secret.as_bytes(), now_s, body.to_string().as_bytes());
    vec![("x-timestamp", now_s.to_string()), ("x-signature", signature)]
}

/// Who signs licences, in tests.
pub fn vendor() -> SigningKey {
    SigningKey::generate(&Random::seeded(2_026))
}

/// Puts the vendor's key beside the data of a server that is about to start.
pub fn with_vendor_key(config: &mut Config) {
    let file = config.paths.certs.with_file_name("vendor.pem");
    let pem = vendor().verifying().to_spki_pem().unwrap_or_default();
    // What could not be written is missed by the start.
    let _ = std::fs::write(&file, pem);
    config.billing.vendor_key = Some(file);
}

/// A licence for a week, signed now.
pub fn licence(server: &Server, key: &SigningKey, tenant: &str, change: impl FnOnce(&mut Value)) -> String {
    let now = server.clock.now();
    let mut claims = json!({
        "licence_id": "L-1",
        "tenant": tenant,
        "plan": "paid",
        "issued_at": now.to_string(),
        "expires_at": now.plus(7 * DAY).to_string(),
    });
    change(&mut claims);
    sign_compact(TYP, claims.to_string().as_bytes(), key)
}

impl World {
    /// The key of a flag, made behind the gate.
    async fn fresh_flag(&mut self) -> Result<String, Fault> {
        let key = self.fresh_name();
        let (flags, definition) = (&self.server.app().services.flags, serde_json::from_value(flag())?);
        flags.put(self.tenant, key.clone(), definition, UserId::NIL, Origin::cli()).await?;
        Ok(key)
    }

    pub(super) async fn money_recipe(&mut self, route: &Route, who: Who) -> Result<Option<Call>, Fault> {
        let device = if who == Who::Device { "BR-1" } else { "BR-2" };
        Ok(Some(match (route.verb, route.path) {
            (Verb::Get, "/v1/plans" | "/v1/billing/events" | "/v1/entitlements" | "/v1/usage" | "/v1/flags") => {
                Call::get(route.path)
            }
            (Verb::Post, "/ofrep/v1/evaluate/flags") => Call::of(route.path, json!({ "context": {} })),
            (Verb::Post, "/ofrep/v1/evaluate/flags/{flag_key}") => {
                let key = self.fresh_flag().await?;
                Call::of(&format!("/ofrep/v1/evaluate/flags/{key}"), json!({ "context": {} }))
            }
            // A new one is answered 201, a changed one 200, as the row says.
            (Verb::Put, "/v1/flags/{flag_key}") => Call::of(&format!("/v1/flags/{}", self.fresh_flag().await?), flag()),
            (Verb::Get | Verb::Delete, "/v1/flags/{flag_key}") => {
                Call::get(&format!("/v1/flags/{}", self.fresh_flag().await?))
            }
            (Verb::Get, "/v1/entitlements/explain") => Call::get("/v1/entitlements/explain?feature=kanban"),
            (Verb::Put, "/v1/tenants/{tenant_id}/entitlements") => {
                let name = self.fresh_name();
                let tenant = new_tenant(&self.server, &name).await?;
                Call::of(&format!("/v1/tenants/{tenant}/entitlements"), json!({ "quotas": { "users": 7 } }))
            }
            (Verb::Get, "/v1/billing/status" | "/v1/billing/subscription") => {
                Call::get(&format!("{}?device_id={device}", route.path))
            }
            (Verb::Post, "/v1/billing/webhook") => {
                let body = json!({
                    "event_id": self.fresh_name(),
                    "provider": "the matrix",
                    "user_id": text(&part(&self.admin, 1)?, "sub"),
                    "device_id": "BR-2",
                    "plan_code": "monthly",
                    "plan_tier": "paid",
                    "status": "active",
                    "auto_renew": true,
                    "payload": {},
                });
                let headers = signed(&self.server, SECRET, &body);
                Call { headers, ..Call::of(route.path, body) }
            }
            (Verb::Get, "/v1/billing/licence") => {
                let jws = licence(&self.server, &vendor(), "default", |_| {});
                let billing = &self.server.app().services.billing;
                billing.install_licence(self.tenant, jws, None, Origin::cli()).await?;
                Call::get(route.path)
            }
            (Verb::Put, "/v1/billing/licence") => {
                Call::of(route.path, json!({ "licence": licence(&self.server, &vendor(), "default", |_| {}) }))
            }
            _ => return Ok(None),
        }))
    }
}
