//! The matrix's requests about second factors, passkeys and the kill switch of the tenant.

use blockremote::crypto::totp::{STEP_S, Totp};
use blockremote::gate::Verb;
use blockremote::kernel::Random;
use blockremote::testkit::passkey::Passkey;
use blockremote::testkit::{Fault, Server, text};
use serde_json::{Value, json};

use super::{Call, Who, World};
use crate::common::{add_user, password_of};

/// What must stand in the log after such a row succeeded.
pub fn expected_entry(verb: Verb, path: &str) -> Option<&'static str> {
    Some(match (verb, path) {
        (Verb::Post, "/v1/me/mfa/totp" | "/v1/me/mfa/totp/confirm" | "/v1/me/mfa/passkeys") => "second_factor_added",
        (Verb::Delete, "/v1/me/mfa/totp" | "/v1/me/mfa/passkeys/{passkey_id}") => "second_factor_removed",
        (Verb::Post, "/v1/me/mfa/recovery-codes") => "recovery_codes_created",
        (Verb::Post, "/v1/me/mfa/verify") => "step_up_succeeded",
        (Verb::Post, "/v1/auth/passkey") => "login_succeeded",
        (Verb::Put, "/v1/kill-switch") => "kill_switch_engaged",
        _ => return None,
    })
}

/// The secret that an authenticator app was given.
pub fn totp_of(base32: &str) -> Result<Totp, Fault> {
    let mut bytes = Vec::new();
    let (mut bits, mut held) = (0_u32, 0_u32);
    for c in base32.bytes() {
        let digit = match c {
            b'A'..=b'Z' => c - b'A',
            b'2'..=b'7' => c - b'2' + 26,
            _ => return Err("not base32".into()),
        };
        bits = (bits << 5) | u32::from(digit);
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Ok(Totp::from_bytes(bytes.try_into().map_err(|_| "not 20 bytes")?))
}

/// The code that the app shows now.
pub fn code_now(server: &Server, totp: &Totp) -> Result<String, Fault> {
    Ok(totp.code_at(u64::try_from(server.clock.now().as_secs())? / STEP_S))
}

/// Sets an authenticator app up for who bears the token; gives it and the recovery codes.
pub async fn set_up_totp(server: &Server, token: &str) -> Result<(Totp, Vec<String>), Fault> {
    let mut client = server.client()?;
    let begun = client.post("/v1/me/mfa/totp", Some(token), &json!({})).await?;
    begun.success()?;
    let totp = totp_of(&text(&begun.json()?, "secret"))?;
    let code = json!({ "code": code_now(server, &totp)? });
    let confirmed = client.post("/v1/me/mfa/totp/confirm", Some(token), &code).await?;
    confirmed.success()?;
    let answer: Value = confirmed.json()?;
    let codes = answer["recovery_codes"].as_array().cloned().unwrap_or_default();
    Ok((totp, codes.iter().filter_map(|c| c.as_str().map(str::to_owned)).collect()))
}

/// An authenticator in front of this server.
pub fn authenticator(server: &Server) -> Passkey {
    let origin = format!("https://localhost:{}", server.app().addresses.http.port());
    Passkey::new("localhost", &origin, &Random::System)
}

/// The challenge of fresh options.
pub async fn challenge(server: &Server, path: &str, token: Option<&str>) -> Result<String, Fault> {
    let options = server.client()?.post(path, token, &json!({})).await?;
    options.success()?;
    Ok(text(&options.json::<Value>()?["publicKey"], "challenge"))
}

/// Registers a passkey for who bears the token; gives the answer.
pub async fn set_up_passkey(server: &Server, token: &str, passkey: &mut Passkey) -> Result<Value, Fault> {
    let challenge = challenge(server, "/v1/me/mfa/passkeys/options", Some(token)).await?;
    let body = json!({ "name": "a key", "credential": passkey.register(&challenge) });
    let answer = server.client()?.post("/v1/me/mfa/passkeys", Some(token), &body).await?;
    answer.success()?;
    Ok(answer.json()?)
}

impl World {
    /// A new person of the caller's role, logged in a moment ago; nobody for who is no person.
    async fn fresh_person(&mut self, who: Who) -> Result<Option<(String, String)>, Fault> {
        let role = match who {
            Who::Admin => "admin",
            Who::Viewer => "viewer",
            Who::Anonymous | Who::Garbage | Who::Ended | Who::Device => return Ok(None),
        };
        let name = self.fresh_name();
        let login = add_user(&self.server, self.tenant, &name, role).await?;
        Ok(Some((name, text(&login, "access_token"))))
    }

    /// A request for one of these rows; `None` for any other row.
    pub(super) async fn second_factor_recipe(
        &mut self,
        verb: Verb,
        path: &str,
        who: Who,
    ) -> Result<Option<Call>, Fault> {
        let about_factors = path.starts_with("/v1/me/mfa") || path.starts_with("/v1/auth/passkey");
        if !about_factors && path != "/v1/kill-switch" {
            return Ok(None);
        }
        let public = path.starts_with("/v1/auth/");
        let person = self.fresh_person(if public { Who::Viewer } else { who }).await?;
        let (name, token) = person.unwrap_or_default();
        let some = !token.is_empty();
        let mut call = Call::get(path);
        match (verb, path) {
            (Verb::Post, "/v1/me/mfa/totp/confirm") => {
                let mut code = "000000".to_owned();
                if some {
                    let begun = self.client.post("/v1/me/mfa/totp", Some(&token), &json!({})).await?;
                    code = code_now(&self.server, &totp_of(&text(&begun.json()?, "secret"))?)?;
                }
                call.body = json!({ "code": code });
            }
            (Verb::Delete, "/v1/me/mfa/totp") if some => {
                self.client.post("/v1/me/mfa/totp", Some(&token), &json!({})).await?.success()?;
            }
            (Verb::Post, "/v1/me/mfa/recovery-codes") if some => {
                set_up_totp(&self.server, &token).await?;
            }
            (Verb::Post, "/v1/me/mfa/passkeys") => {
                let mut credential = json!({});
                if some {
                    let challenge = challenge(&self.server, "/v1/me/mfa/passkeys/options", Some(&token)).await?;
                    credential = authenticator(&self.server).register(&challenge);
                }
                call.body = json!({ "name": "a key", "credential": credential });
            }
            (Verb::Delete, "/v1/me/mfa/passkeys/{passkey_id}") => {
                let mut id = "pky_none".to_owned();
                if some {
                    let made = set_up_passkey(&self.server, &token, &mut authenticator(&self.server)).await?;
                    id = text(&made["passkey"], "id");
                }
                call.path = format!("/v1/me/mfa/passkeys/{id}");
            }
            (Verb::Post, "/v1/me/mfa/verify") => call.body = json!({ "password": password_of(&name) }),
            (Verb::Post, "/v1/auth/passkey") => {
                let mut passkey = authenticator(&self.server);
                set_up_passkey(&self.server, &token, &mut passkey).await?;
                let challenge = challenge(&self.server, "/v1/auth/passkey/options", None).await?;
                call.body = json!({ "credential": passkey.assert(&challenge) });
            }
            (Verb::Put, "/v1/kill-switch") => {
                if who == Who::Admin {
                    set_up_totp(&self.server, &token).await?;
                }
                // Rows behind this one in the table must not need a device that acts.
                call.body = json!({ "engaged": true, "reason": "the matrix" });
            }
            _ => {}
        }
        call.token = (some && !public).then_some(token);
        Ok(Some(call))
    }
}
