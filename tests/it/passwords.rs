//! Setting passwords: by a link that works once, and by who knows the present one.

use blockremote::client::Response;
use blockremote::testkit::{Fault, Server, text};
use hyper::Method;
use serde_json::{Value, json};

use crate::common::{
    DAY, Done, MINUTE, add_user, altered, assert_refused, body, code, first_tenant, header, log_in, password_of, send,
};
use crate::people::{ask, done};

const NEW: &str = "a new and longer password";

async fn set(server: &Server, token: &str, password: &str) -> Result<Response, Fault> {
    let body = json!({ "token": token, "password": password });
    send(&mut server.client()?, Method::POST, "/v1/auth/password", &[("x-request-id", "same")], &body).await
}

async fn try_login(server: &Server, name: &str, password: &str) -> Result<u16, Fault> {
    let login = json!({ "username": name, "password": password });
    Ok(server.client()?.post("/v1/auth/login", None, &login).await?.status)
}

async fn invite(server: &Server, admin: &str, name: &str) -> Result<(String, String), Fault> {
    let made = done(server, admin, "POST", "/v1/users", json!({ "username": name, "roles": ["viewer"] })).await?;
    assert_eq!(made["invited"], true);
    Ok((text(&made, "id"), text(&made["invitation"], "token")))
}

async fn reset(server: &Server, admin: &str, id: &str) -> Result<String, Fault> {
    let link = done(server, admin, "POST", &format!("/v1/users/{id}/password-reset"), Value::Null).await?;
    Ok(text(&link, "token"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invited_person_chooses_a_password_and_comes_in() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let (id, token) = invite(&server, &admin, "ada").await?;
    assert_eq!(try_login(&server, "ada", "").await?, 422);
    assert_eq!(try_login(&server, "ada", NEW).await?, 401, "before they have chosen one");
    let weak = set(&server, &token, "too short").await?;
    assert_refused(&weak, 422, "invalid_request");
    assert_eq!(body(&weak)["errors"][0]["pointer"], "/password");
    server.clock.advance(7 * DAY - MINUTE);
    let answer = set(&server, &token, NEW).await?;
    assert_eq!((answer.status, answer.body.len()), (204, 0), "a weak try does not use it up: {}", body(&answer));
    assert_eq!(try_login(&server, "ada", NEW).await?, 200);
    let admin = server.admin_token().await?;
    let found = done(&server, &admin, "GET", &format!("/v1/users/{id}"), Value::Null).await?;
    assert_eq!(found["invited"], false);
    Ok(())
}

/// Whoever tries links must learn nothing of whom there is, nor of which links there were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_link_that_does_not_work_gets_the_same_answer_to_the_byte() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let (_, used) = invite(&server, &admin, "used").await?;
    assert_eq!(set(&server, &used, NEW).await?.status, 204);
    let (_, expired) = invite(&server, &admin, "expired").await?;
    let (id, expired_reset) = {
        let (id, _) = invite(&server, &admin, "forgot").await?;
        let token = reset(&server, &admin, &id).await?;
        (id, token)
    };
    server.clock.advance(DAY);
    assert_refused(&set(&server, &expired_reset, NEW).await?, 401, "link_invalid");
    server.clock.advance(6 * DAY);
    let admin = server.admin_token().await?;
    let (replaced_id, replaced) = invite(&server, &admin, "replaced").await?;
    let newer = reset(&server, &admin, &replaced_id).await?;
    let (gone_id, gone) = invite(&server, &admin, "gone").await?;
    done(&server, &admin, "DELETE", &format!("/v1/users/{gone_id}"), Value::Null).await?;
    let disabled = reset(&server, &admin, &id).await?;
    done(&server, &admin, "PATCH", &format!("/v1/users/{id}"), json!({ "disabled": true })).await?;
    let wrong = altered(&newer, -5);
    let comparable = |answer: &Response| {
        let mut headers = answer.headers.clone();
        for name in ["date", "x-ratelimit-remaining", "x-ratelimit-reset", "ratelimit"] {
            headers.remove(name);
        }
        (answer.status, headers, answer.body.clone())
    };
    let unknown = set(&server, &wrong, NEW).await?;
    assert_refused(&unknown, 401, "link_invalid");
    assert!(header(&unknown, "www-authenticate").starts_with("Bearer"));
    server.clock.advance(2 * MINUTE);
    let malformed = "brl_x".to_owned();
    let enrollment = server.enrollment_token.clone();
    for token in [&used, &expired, &replaced, &gone, &disabled, &malformed, &enrollment] {
        let answer = set(&server, token, NEW).await?;
        assert_eq!(comparable(&answer), comparable(&unknown), "{}", body(&answer));
    }
    assert_eq!(set(&server, &newer, NEW).await?.status, 204, "the newest one works");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_links_use_up_the_budget_of_their_address() -> Done {
    let server = Server::start_with(|c| c.limits.auth_failures_per_minute = 3).await?;
    let admin = server.admin_token().await?;
    let (_, good) = invite(&server, &admin, "ada").await?;
    for _ in 0..3 {
        assert_refused(&set(&server, &altered(&good, -5), NEW).await?, 401, "link_invalid");
    }
    let stopped = set(&server, &good, NEW).await?;
    assert_refused(&stopped, 429, "rate_limited");
    assert!(!header(&stopped, "retry-after").is_empty());
    server.clock.advance(MINUTE + MINUTE);
    assert_eq!(set(&server, &good, NEW).await?.status, 204);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_ends_every_session_and_the_link_works_for_one_of_many_at_once() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    let login = add_user(&server, tenant, "ada", "viewer").await?;
    let other = log_in(&server, "ada").await?;
    let token = reset(&server, &admin, &text(&login["user"], "id")).await?;
    assert_eq!(try_login(&server, "ada", &password_of("ada")).await?, 200, "until then the old password goes on");
    let (first, second, third) =
        tokio::join!(set(&server, &token, NEW), set(&server, &token, NEW), set(&server, &token, NEW));
    let mut statuses = [first?.status, second?.status, third?.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 401, 401]);
    for session in [&login, &other] {
        let answer = ask(&server, &text(session, "access_token"), "GET", "/v1/me", Value::Null).await?;
        assert_eq!(answer.status, 401);
    }
    assert_eq!(try_login(&server, "ada", &password_of("ada")).await?, 401);
    assert_eq!(try_login(&server, "ada", NEW).await?, 200);
    assert_eq!(ask(&server, &admin, "GET", "/v1/me", Value::Null).await?.status, 200, "nobody else's");
    Ok(())
}

/// Whoever steals the data file must not find links in it that still work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_file_holds_no_link_in_clear() -> Done {
    let mut server = Server::start().await?;
    let admin = server.admin_token().await?;
    let (id, token) = invite(&server, &admin, "ada").await?;
    assert!(token.starts_with("brl_"), "{token}");
    server.stop().await;
    let mut files = vec![server.folder().to_path_buf()];
    let (mut found_id, mut searched) = (false, 0);
    let id = id.trim_start_matches("usr_").to_owned();
    while let Some(path) = files.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                files.push(entry?.path());
            }
            continue;
        }
        let Ok(bytes) = std::fs::read(&path) else { continue };
        searched += 1;
        let holds = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        found_id |= holds(&id);
        assert!(!holds(token.trim_start_matches("brl_")), "{}", path.display());
    }
    assert!(found_id && searched > 1, "the search finds what is there");
    Ok(())
}

// ---- one's own password

async fn change(server: &Server, token: &str, current: &str, new: &str) -> Result<Response, Fault> {
    let wanted = json!({ "current_password": current, "new_password": new });
    ask(server, token, "POST", "/v1/me/password", wanted).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_password_is_changed_by_who_knows_it_and_other_sessions_end() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    let mine = add_user(&server, tenant, "ada", "viewer").await?;
    let link = reset(&server, &admin, &text(&mine["user"], "id")).await?;
    let other = text(&log_in(&server, "ada").await?, "access_token");
    let (token, old) = (text(&mine, "access_token"), password_of("ada"));
    let weak = change(&server, &token, &old, "too short").await?;
    assert_refused(&weak, 422, "invalid_request");
    assert_eq!(body(&weak)["errors"][0]["pointer"], "/new_password");
    assert_refused(&change(&server, &token, "not the one", NEW).await?, 403, "wrong_password");
    assert_eq!(ask(&server, &other, "GET", "/v1/me", Value::Null).await?.status, 200, "nothing happened yet");
    assert_eq!(change(&server, &token, &old, NEW).await?.status, 204);
    assert_eq!(ask(&server, &token, "GET", "/v1/me", Value::Null).await?.status, 200);
    assert_eq!(ask(&server, &other, "GET", "/v1/me", Value::Null).await?.status, 401);
    assert_eq!((try_login(&server, "ada", &old).await?, try_login(&server, "ada", NEW).await?), (401, 200));
    assert_refused(&set(&server, &link, NEW).await?, 401, "link_invalid");
    Ok(())
}

/// A stolen session must not be a second place to guess the password at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_guesses_at_the_own_password_count_as_failed_logins() -> Done {
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?;
    let token = text(&add_user(&server, tenant, "ada", "viewer").await?, "access_token");
    assert_eq!(try_login(&server, "ada", "wrong").await?, 401);
    for _ in 0..4 {
        assert_refused(&change(&server, &token, "wrong", NEW).await?, 403, "wrong_password");
    }
    let stopped = change(&server, &token, &password_of("ada"), NEW).await?;
    assert_refused(&stopped, 429, "rate_limited");
    assert_eq!(try_login(&server, "ADA", &password_of("ada")).await?, 429, "it is one counter");
    server.clock.advance(2 * MINUTE);
    let later = change(&server, &token, &password_of("ada"), NEW).await?;
    assert_eq!(later.status, 204, "{}", code(&later));
    Ok(())
}
