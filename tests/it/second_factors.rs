//! Second factors as their owners and their attackers use them, and what must be proven again.

use std::time::Duration;

use blockremote::client::Response;
use blockremote::crypto::Totp;
use blockremote::crypto::totp::STEP_S;
use blockremote::testkit::{Fault, Server, text};
use hyper::Method;
use serde_json::{Value, json};

use crate::common::{
    Done, MINUTE, add_user, assert_refused, body, code, first_tenant, log_in, password_of, refreshed, send,
};
use crate::wire::behind_a_proxy;
use crate::world::second_factor::{code_now, set_up_passkey, set_up_totp, totp_of};

const STEP: Duration = Duration::from_secs(STEP_S);

/// A person with an authenticator app.
struct Ann {
    server: Server,
    token: String,
    totp: Totp,
    codes: Vec<String>,
}

impl Ann {
    async fn new() -> Result<Self, Fault> {
        let server = Server::start_with(behind_a_proxy).await?;
        let token = person(&server, "ann").await?;
        let (totp, codes) = set_up_totp(&server, &token).await?;
        Ok(Self { server, token, totp, codes })
    }

    /// The code of the step that lies so many after the present one.
    fn code(&self, steps: i64) -> Result<String, Fault> {
        let now = self.server.clock.now().as_secs() / i64::try_from(STEP_S)?;
        Ok(self.totp.code_at(u64::try_from(now + steps)?))
    }

    /// Six digits that no step near the present one has.
    fn wrong_code(&self) -> Result<String, Fault> {
        let near = (-3..=3).map(|step| self.code(step)).collect::<Result<Vec<_>, _>>()?;
        let free = (0..10).map(|n| format!("{n:06}")).find(|code| !near.contains(code));
        Ok(free.ok_or("ten codes for seven steps")?)
    }

    async fn login(&self, password: &str, otp: Option<&str>) -> Result<Response, Fault> {
        // From where the account was opened before: strangers wait for the account as a whole, its owner does not.
        self.login_from("127.0.0.1", password, otp).await
    }

    async fn login_from(&self, address: &str, password: &str, otp: Option<&str>) -> Result<Response, Fault> {
        let mut login = json!({ "username": "ann", "password": password });
        if let (Some(otp), Some(members)) = (otp, login.as_object_mut()) {
            members.insert("otp".to_owned(), otp.into());
        }
        let headers = [("x-forwarded-for", address)];
        send(&mut self.server.client()?, Method::POST, "/v1/auth/login", &headers, &login).await
    }

    async fn status(&self, otp: &str) -> Result<u16, Fault> {
        Ok(self.login(&password_of("ann"), Some(otp)).await?.status)
    }
}

async fn person(server: &Server, name: &str) -> Result<String, Fault> {
    let tenant = first_tenant(server).await?;
    Ok(text(&add_user(server, tenant, name, "admin").await?, "access_token"))
}

async fn verify(server: &Server, token: &str, evidence: &Value) -> Result<Response, Fault> {
    Ok(server.client()?.post("/v1/me/mfa/verify", Some(token), evidence).await?)
}

/// Whether a route that demands a fresh proof lets this token in; it changes nothing.
async fn gate(server: &Server, token: &str) -> Result<Response, Fault> {
    Ok(server.client()?.post("/v1/me/mfa/passkeys/options", Some(token), &json!({})).await?)
}

/// The body of a problem without what differs from request to request.
fn problem(answer: &Response) -> Value {
    let mut problem = body(answer);
    problem.as_object_mut().map(|members| members.remove("request_id"));
    problem
}

/// Who guesses passwords must not learn from the second factor which guess was right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_right_password_learns_that_a_code_is_needed() -> Done {
    let ann = Ann::new().await?;
    let right = password_of("ann");
    let needed = ann.login(&right, None).await?;
    assert_refused(&needed, 401, "mfa_required");
    assert_eq!(body(&needed)["methods"], json!(["otp", "recovery_code"]));
    let wrong = problem(&ann.login("not the password", None).await?);
    assert_eq!((wrong["status"].as_u64(), text(&wrong, "code").as_str()), (Some(401), "invalid_credentials"));
    let (good, bad) = (ann.code(1)?, ann.wrong_code()?);
    for (password, otp) in [("not the password", &good), ("not the password", &bad), (right.as_str(), &bad)] {
        assert_eq!(problem(&ann.login(password, Some(otp)).await?), wrong, "{password} {otp}");
    }
    let nobody = json!({ "username": "nobody", "password": right, "otp": good });
    assert_eq!(problem(&ann.server.client()?.post("/v1/auth/login", None, &nobody).await?), wrong);
    assert_eq!(ann.status(&good).await?, 200, "a wrong password does not use a code up");
    Ok(())
}

/// A person logs in in two steps: the demand for a code is no failure of theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn being_asked_for_a_code_does_not_count_as_a_failed_login() -> Done {
    let server = Server::start().await?;
    let token = person(&server, "ann").await?;
    let (totp, _) = set_up_totp(&server, &token).await?;
    let mut login = json!({ "username": "ann", "password": password_of("ann") });
    for _ in 0..7 {
        assert_refused(&server.client()?.post("/v1/auth/login", None, &login).await?, 401, "mfa_required");
    }
    server.clock.advance(STEP);
    login["otp"] = code_now(&server, &totp)?.into();
    assert_eq!(server.client()?.post("/v1/auth/login", None, &login).await?.status, 200);
    login["otp"] = "12345".into();
    for _ in 0..5 {
        assert_refused(&server.client()?.post("/v1/auth/login", None, &login).await?, 401, "invalid_credentials");
    }
    assert_refused(&server.client()?.post("/v1/auth/login", None, &login).await?, 429, "rate_limited");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_works_once_and_one_step_of_drift_is_forgiven() -> Done {
    let ann = Ann::new().await?;
    assert_eq!(ann.status(&ann.code(0)?).await?, 401, "the code that confirmed the app is used up");
    assert_eq!(ann.status(&ann.code(2)?).await?, 401, "two steps ahead");
    let ahead = ann.code(1)?;
    assert_eq!(ann.status(&ahead).await?, 200, "one step ahead");
    assert_eq!(ann.status(&ahead).await?, 401, "the same code again");
    ann.server.clock.advance(3 * STEP);
    assert_eq!(ann.status(&ann.code(-2)?).await?, 401, "two steps behind");
    assert_eq!(ann.status(&ann.code(-1)?).await?, 200, "one step behind");
    let present = ann.code(0)?;
    assert_eq!(ann.status(&format!("{} {}", &present[..3], &present[3..])).await?, 200, "as apps show it");
    assert_eq!(ann.status(&ann.code(-1)?).await?, 401, "older than the last one");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_code_works_once_however_it_is_typed() -> Done {
    let ann = Ann::new().await?;
    assert_eq!(ann.codes.len(), 10);
    let spellings: [fn(&str) -> String; 3] =
        [str::to_owned, |c| c.to_lowercase().replace('-', ""), |c| c.replace('-', " ")];
    for (code, spelling) in ann.codes.iter().zip(spellings) {
        assert_eq!(ann.status(&spelling(code)).await?, 200, "{code}");
        assert_eq!(ann.status(code).await?, 401, "{code} again");
    }
    let shown = ann.server.client()?.get("/v1/me/mfa", Some(&ann.token)).await?;
    assert_eq!(body(&shown)["recovery_codes_left"], 7);
    let fresh = ann.server.client()?.post("/v1/me/mfa/recovery-codes", Some(&ann.token), &json!({})).await?;
    assert_eq!(body(&fresh)["recovery_codes"].as_array().map(Vec::len), Some(10));
    assert_eq!(ann.status(&ann.codes[5]).await?, 401, "void since there are new ones");
    Ok(())
}

/// A million codes are not many for who has a thousand addresses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_codes_from_many_addresses_is_slowed_down_for_the_account() -> Done {
    let ann = Ann::new().await?;
    let right = password_of("ann");
    for n in 0..10 {
        let answer = ann.login_from(&format!("10.0.{n}.1"), &right, Some(&ann.wrong_code()?)).await?;
        assert_refused(&answer, 401, "invalid_credentials");
    }
    assert_eq!(ann.status(&ann.code(1)?).await?, 401, "right, and not looked at");
    assert_eq!(ann.status(&ann.codes[0]).await?, 200, "a recovery code never waits");
    ann.server.clock.advance(Duration::from_secs(31));
    assert_eq!(ann.status(&ann.wrong_code()?).await?, 401, "the eleventh wrong one");
    ann.server.clock.advance(Duration::from_secs(31));
    assert_eq!(ann.status(&ann.code(0)?).await?, 401, "the wait has doubled");
    ann.server.clock.advance(Duration::from_secs(30));
    assert_eq!(ann.status(&ann.code(0)?).await?, 200, "it is over");
    assert_eq!(ann.status(&ann.wrong_code()?).await?, 401);
    assert_eq!(ann.status(&ann.code(1)?).await?, 200, "a success ends the row of failures");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_code_shown_many_times_at_once_gets_one_in() -> Done {
    let ann = Ann::new().await?;
    ann.server.clock.advance(STEP);
    let evidence = json!({ "otp": ann.code(0)? });
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (mut client, token, evidence) = (ann.server.client()?, ann.token.clone(), evidence.clone());
        tasks.spawn(async move { client.post("/v1/me/mfa/verify", Some(&token), &evidence).await.map(|a| a.status) });
    }
    let statuses = tasks.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert_eq!(statuses.iter().filter(|s| **s == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|s| matches!(s, 200 | 403)), "{statuses:?}");

    ann.server.clock.advance(10 * MINUTE);
    let login = json!({ "username": "ann", "password": password_of("ann"), "otp": ann.code(0)? });
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (mut client, login) = (ann.server.client()?, login.clone());
        tasks.spawn(async move { client.post("/v1/auth/login", None, &login).await.map(|a| a.status) });
    }
    let statuses = tasks.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert_eq!(statuses.iter().filter(|s| **s == 200).count(), 1, "{statuses:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_is_shown_once_and_a_second_beginning_replaces_the_first() -> Done {
    let server = Server::start_with(behind_a_proxy).await?;
    let token = person(&server, "ann").await?;
    let mut client = server.client()?;
    let mut begin = async || client.post("/v1/me/mfa/totp", Some(&token), &json!({})).await;
    let first = totp_of(&text(&begin().await?.json()?, "secret"))?;
    let again: Value = begin().await?.json()?;
    let second = totp_of(&text(&again, "secret"))?;
    assert!(text(&again, "otpauth_uri").starts_with("otpauth://totp/BlockRemote:ann?secret="));
    assert_eq!(log_in(&server, "ann").await?["token_type"], "Bearer", "a pending app is not asked for");
    let mut client = server.client()?;
    let mut confirm =
        async |code: String| client.post("/v1/me/mfa/totp/confirm", Some(&token), &json!({ "code": code })).await;
    assert_refused(&confirm(code_now(&server, &first)?).await?, 403, "mfa_invalid");
    let confirmed = confirm(code_now(&server, &second)?).await?;
    assert_eq!(body(&confirmed)["recovery_codes"].as_array().map(Vec::len), Some(10), "{}", body(&confirmed));
    assert_refused(&confirm(code_now(&server, &second)?).await?, 409, "no_totp_pending");
    assert_refused(&begin().await?, 409, "totp_exists");
    let shown = server.client()?.get("/v1/me/mfa", Some(&token)).await?;
    let secret = second.secret_base32();
    assert!(!shown.body.windows(secret.len()).any(|w| w == secret.as_bytes()));
    Ok(())
}

/// Whoever steals the disk must not get the second factors with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_secret_nor_recovery_codes_lie_in_the_data_file() -> Done {
    let mut ann = Ann::new().await?;
    ann.server.stop().await;
    let file = std::fs::read(&ann.server.config().paths.data)?;
    let holds = |needle: &[u8]| file.windows(needle.len()).any(|w| w == needle);
    assert!(holds(b"ann"), "what is stored in clear is found");
    assert!(!holds(ann.totp.secret_base32().as_bytes()));
    assert!(!holds(ann.totp.expose()));
    for code in &ann.codes {
        assert!(!holds(code.as_bytes()) && !holds(code.replace('-', "").as_bytes()), "{code}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_proof_lasts_five_minutes_and_is_renewed_by_who_the_person_is() -> Done {
    let server = Server::start_with(behind_a_proxy).await?;
    let login = {
        let tenant = first_tenant(&server).await?;
        add_user(&server, tenant, "ann", "admin").await?
    };
    let token = text(&login, "access_token");
    server.clock.advance(5 * MINUTE);
    assert_eq!(gate(&server, &token).await?.status, 200, "the last moment");
    server.clock.advance(MINUTE);
    let refused = gate(&server, &token).await?;
    assert_refused(&refused, 403, "step_up_required");
    assert_eq!((body(&refused)["max_age_s"].as_u64(), text(&body(&refused), "verify_at")), {
        (Some(300), "/v1/me/mfa/verify".to_owned())
    });
    assert_refused(&server.client()?.post("/v1/me/mfa/totp", Some(&token), &json!({})).await?, 403, "step_up_required");
    let (renewed, _) = refreshed(&server, &text(&login, "refresh_token")).await?;
    assert_refused(&gate(&server, &renewed).await?, 403, "step_up_required");

    assert_refused(&verify(&server, &token, &json!({ "password": "wrong" })).await?, 403, "mfa_invalid");
    for evidence in [json!({}), json!({ "otp": "1", "password": "2" }), json!({ "otp": "" }), json!({ "pin": "1" })] {
        assert_refused(&verify(&server, &token, &evidence).await?, 422, "invalid_request");
    }
    let right = json!({ "password": password_of("ann") });
    let verified = verify(&server, &token, &right).await?;
    assert_eq!((verified.status, body(&verified)["second_factor"].as_bool()), (200, Some(false)));
    assert_eq!(gate(&server, &token).await?.status, 200);
    assert_eq!(gate(&server, &renewed).await?.status, 200, "the session is proven, not the token");

    let (totp, codes) = set_up_totp(&server, &token).await?;
    server.clock.advance(6 * MINUTE);
    let answer = verify(&server, &token, &right).await?;
    assert_refused(&answer, 403, "mfa_invalid");
    assert_refused(&gate(&server, &token).await?, 403, "step_up_required");
    let verified = verify(&server, &token, &json!({ "otp": code_now(&server, &totp)? })).await?;
    assert_eq!((verified.status, body(&verified)["second_factor"].as_bool()), (200, Some(true)));
    assert_eq!(gate(&server, &token).await?.status, 200);
    let again = verify(&server, &token, &json!({ "otp": code_now(&server, &totp)? })).await?;
    assert_refused(&again, 403, "mfa_invalid");
    assert_eq!(verify(&server, &token, &json!({ "otp": codes[0] })).await?.status, 200, "a recovery code proves, too");

    let device = server.enroll("BR-1").await?;
    assert_refused(&verify(&server, &device.access_token, &right).await?, 403, "forbidden");
    assert_refused(&gate(&server, &device.access_token).await?, 403, "forbidden");
    Ok(())
}

/// The thief of an access token must not make a second factor of their own and so become the owner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_token_cannot_change_the_second_factors() -> Done {
    let ann = Ann::new().await?;
    ann.server.clock.advance(6 * MINUTE);
    let mut client = ann.server.client()?;
    for (method, path) in [
        (Method::POST, "/v1/me/mfa/totp"),
        (Method::DELETE, "/v1/me/mfa/totp"),
        (Method::POST, "/v1/me/mfa/recovery-codes"),
        (Method::POST, "/v1/me/mfa/passkeys/options"),
        (Method::DELETE, "/v1/me/mfa/passkeys/pky_none"),
    ] {
        let bearer = format!("Bearer {}", ann.token);
        let answer = client.request(method.clone(), path, &[("authorization", &bearer)], "".into()).await?;
        assert_eq!((answer.status, code(&answer).as_str()), (403, "step_up_required"), "{method} {path}");
    }
    // A fresh password is not enough for who has a second factor.
    let wrong = verify(&ann.server, &ann.token, &json!({ "password": password_of("ann") })).await?;
    assert_refused(&wrong, 403, "mfa_invalid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_last_factor_the_recovery_codes_are_void_and_the_password_suffices() -> Done {
    let ann = Ann::new().await?;
    let mut passkey = crate::world::second_factor::authenticator(&ann.server);
    let made = set_up_passkey(&ann.server, &ann.token, &mut passkey).await?;
    assert_eq!(made["recovery_codes"], json!([]), "the earlier ones stand");
    let bearer = format!("Bearer {}", ann.token);
    let mut client = ann.server.client()?;
    let delete =
        client.request(Method::DELETE, "/v1/me/mfa/totp", &[("authorization", &bearer)], "".into()).await?.status;
    assert_eq!(delete, 204);
    let needed = ann.login(&password_of("ann"), None).await?;
    assert_eq!(body(&needed)["methods"], json!(["recovery_code", "passkey"]));
    assert_eq!(ann.status(&ann.codes[0]).await?, 200, "still a second factor");
    let path = format!("/v1/me/mfa/passkeys/{}", text(&made["passkey"], "id"));
    assert_eq!(client.request(Method::DELETE, &path, &[("authorization", &bearer)], "".into()).await?.status, 204);
    assert_eq!(ann.login(&password_of("ann"), None).await?.status, 200);
    let shown = ann.server.client()?.get("/v1/me/mfa", Some(&ann.token)).await?;
    assert_eq!(body(&shown)["recovery_codes_left"], 0);
    Ok(())
}
