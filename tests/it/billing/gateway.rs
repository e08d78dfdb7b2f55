//! A billing gateway as tests play it.

use blockremote::client::Response;
use blockremote::testkit::{Fault, Server, text};
use hyper::Method;
use serde_json::{Value, json};

use crate::common::part;
use crate::people::done;
use crate::world::money::signed;

pub const PATH: &str = "/v1/billing/webhook";
pub const SECRET: &str = "a secret that both sides know";

/// A server that shares [`SECRET`] with its gateway.
pub async fn server() -> Result<Server, Fault> {
    Server::start_with(|c| c.billing.webhook_secret = Some(SECRET.into())).await
}

/// An event that pays for a device until further notice.
pub fn paid(owner: &str, device: &str, event_id: &str) -> Value {
    json!({
        "event_id": event_id,
        "provider": "gateway",
        "user_id": owner,
        "device_id": device,
        "plan_code": "monthly",
        "plan_tier": "paid",
        "status": "active",
        "auto_renew": true,
        "payload": { "invoice": 7 },
    })
}

/// The gateway, and the administrator who looks after it.
pub struct Gateway<'a> {
    server: &'a Server,
    pub admin: String,
    /// Who owns the devices that the first enrollment token enrolled.
    pub owner: String,
}

impl<'a> Gateway<'a> {
    pub async fn of(server: &'a Server) -> Result<Self, Fault> {
        let admin = server.admin_token().await?;
        let owner = text(&part(&admin, 1)?, "sub");
        Ok(Self { server, admin, owner })
    }

    /// Sends an event, signed now.
    pub async fn send(&self, event: &Value) -> Result<Response, Fault> {
        self.send_raw(&signed(self.server, SECRET, event), &event.to_string()).await
    }

    pub async fn send_raw(&self, headers: &[(&'static str, String)], body: &str) -> Result<Response, Fault> {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers.iter().map(|(name, value)| (*name, value.as_str())));
        Ok(self.server.client()?.request(Method::POST, PATH, &all, body.to_owned().into()).await?)
    }

    /// As the administrator sees it. Tokens do not outlast the time that tests pass, so each look logs in.
    pub async fn subscription(&self, device: &str) -> Result<Value, Fault> {
        let token = self.server.admin_token().await?;
        let path = format!("/v1/billing/subscription?device_id={device}");
        done(self.server, &token, "GET", &path, Value::Null).await
    }

    /// Kept events, newest first.
    pub async fn events(&self, query: &str) -> Result<Vec<Value>, Fault> {
        let token = self.server.admin_token().await?;
        let list = done(self.server, &token, "GET", &format!("/v1/billing/events{query}"), Value::Null).await?;
        Ok(list["data"].as_array().cloned().unwrap_or_default())
    }
}
