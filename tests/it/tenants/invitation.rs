//! A tenant's first administrator, invited.

use blockremote::testkit::{Server, text};
use serde_json::{Value, json};

use super::{Caller, login};
use crate::common::{Done, assert_refused};

/// Who runs the appliance need not know the passwords of its tenants.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_administrator_may_choose_the_password_by_an_invitation() -> Done {
    let server = Server::start().await?;
    let mut admin = Caller::admin(&server).await?;
    let wanted = json!({ "name": "Acme", "admin": { "username": "boss" } });
    let made: Value = admin.post("/v1/tenants", &wanted).await?.json()?;
    let token = text(&made["admin"]["invitation"], "token");
    assert!(token.starts_with("brl_"), "{made}");
    let password = "seven lanterns by the quiet harbour";
    assert_refused(&login(&server, "boss", password).await?, 401, "invalid_credentials");
    let chosen = json!({ "token": token, "password": password });
    let mut client = server.client()?;
    assert_eq!(client.post("/v1/auth/password", None, &chosen).await?.status, 204);
    let boss: Value = login(&server, "boss", password).await?.json()?;
    assert_eq!(boss["user"]["roles"], json!(["admin"]));
    assert_refused(&client.post("/v1/auth/password", None, &chosen).await?, 401, "link_invalid");
    Ok(())
}
