//! A person's sessions: seen, named, ended; and how soon the end is felt.

use blockremote::client::{HttpClient, Response};
use blockremote::kernel::ids::UserId;
use blockremote::testkit::{Fault, Server, text};
use hyper::Method;
use serde_json::{Value, json};

use crate::common::{
    Done, MINUTE, add_user, assert_refused, body, disable, first_tenant, log_in, refresh, refreshed, status_with,
};
use crate::killswitch::raw::Raw;
use crate::wire::ask;

const SESSIONS: &str = "/v1/me/sessions";

struct Login {
    session: String,
    token: String,
    refresh: String,
}

impl From<Value> for Login {
    fn from(answer: Value) -> Self {
        Self {
            session: text(&answer, "session_id"),
            token: text(&answer, "access_token"),
            refresh: text(&answer, "refresh_token"),
        }
    }
}

async fn person(server: &Server, name: &str) -> Result<Login, Fault> {
    Ok(add_user(server, first_tenant(server).await?, name, "admin").await?.into())
}

async fn by(server: &Server, token: &str, method: Method, path: &str, wanted: &Value) -> Result<Response, Fault> {
    let bearer = format!("Bearer {token}");
    ask(&mut server.client()?, method, path, &[("authorization", &bearer)], wanted).await
}

async fn end(server: &Server, token: &str, session: &str) -> Result<u16, Fault> {
    Ok(by(server, token, Method::DELETE, &format!("{SESSIONS}/{session}"), &Value::Null).await?.status)
}

async fn list(server: &Server, token: &str, query: &str) -> Result<Value, Fault> {
    Ok(by(server, token, Method::GET, &format!("{SESSIONS}{query}"), &Value::Null).await?.json()?)
}

fn ids(page: &Value) -> Vec<String> {
    page["data"].as_array().into_iter().flatten().map(|s| text(s, "id")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_listed_in_pages_and_can_be_named() -> Done {
    let server = Server::start().await?;
    let mut logins = vec![person(&server, "ann").await?];
    for _ in 0..4 {
        server.clock.advance(MINUTE);
        logins.push(log_in(&server, "ann").await?.into());
    }
    let own = &logins[2];
    let (mut seen, mut query) = (Vec::new(), "?limit=2".to_owned());
    loop {
        let page = list(&server, &own.token, &query).await?;
        assert!(ids(&page).len() <= 2);
        seen.extend(ids(&page));
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    let newest_first: Vec<String> = logins.iter().rev().map(|l| l.session.clone()).collect();
    assert_eq!(seen, newest_first);

    let path = format!("{SESSIONS}/{}", own.session);
    let name = json!({ "name": "the office" });
    assert_eq!(by(&server, &own.token, Method::PATCH, &path, &name).await?.status, 204);
    for wrong in [json!({ "name": "" }), json!({ "name": "x".repeat(65) }), json!({}), json!({ "name": "a", "b": 1 })] {
        assert_eq!(by(&server, &own.token, Method::PATCH, &path, &wrong).await?.status, 422, "{wrong}");
    }
    let page = list(&server, &own.token, "").await?;
    let row = page["data"].as_array().into_iter().flatten().find(|s| s["id"] == own.session.as_str());
    let row = row.ok_or("the own session")?;
    assert_eq!((text(row, "name").as_str(), row["current"].as_bool()), ("the office", Some(true)));
    assert_eq!(page["data"].as_array().into_iter().flatten().filter(|s| s["current"] == true).count(), 1);

    // Nothing of it is for anybody else.
    let ben = person(&server, "ben").await?;
    assert_eq!(ids(&list(&server, &ben.token, "").await?), std::slice::from_ref(&ben.session));
    assert_eq!(by(&server, &ben.token, Method::PATCH, &path, &name).await?.status, 404);
    assert_eq!(end(&server, &ben.token, &own.session).await?, 404);
    assert_eq!(end(&server, &ben.token, "ses_none").await?, 404);
    assert_eq!(end(&server, &ben.token, "../../me").await?, 404);
    assert_eq!(server.client()?.get("/v1/me", Some(&own.token)).await?.status, 200);
    Ok(())
}

/// What was asked with the token a moment ago is remembered; the session is asked every time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_session_is_felt_by_the_very_next_request() -> Done {
    let server = Server::start().await?;
    let keeper = person(&server, "ann").await?;
    let other: Login = log_in(&server, "ann").await?.into();
    let mut warm = server.client()?;
    for _ in 0..3 {
        assert_eq!(warm.get("/v1/me", Some(&other.token)).await?.status, 200);
    }
    assert_eq!(end(&server, &keeper.token, &other.session).await?, 204);
    assert_refused(&warm.get("/v1/me", Some(&other.token)).await?, 401, "unauthenticated");
    assert_refused(&refresh(&server, &other.refresh).await?, 403, "refresh_invalid");
    assert_eq!(end(&server, &keeper.token, &other.session).await?, 404, "it is gone");
    assert_eq!(ids(&list(&server, &keeper.token, "").await?), std::slice::from_ref(&keeper.session));

    let others: [Login; 2] = [log_in(&server, "ann").await?.into(), log_in(&server, "ann").await?.into()];
    let ended = by(&server, &keeper.token, Method::DELETE, SESSIONS, &Value::Null).await?;
    assert_eq!((ended.status, body(&ended)["ended"].as_u64()), (200, Some(2)));
    for other in &others {
        assert_eq!(warm.get("/v1/me", Some(&other.token)).await?.status, 401);
        assert_refused(&refresh(&server, &other.refresh).await?, 403, "refresh_invalid");
    }
    let (access, _) = refreshed(&server, &keeper.refresh).await?;
    assert_eq!(warm.get("/v1/me", Some(&access)).await?.status, 200, "the one that asked goes on");
    assert_eq!(end(&server, &keeper.token, &keeper.session).await?, 204, "the own one: as a logout");
    assert_eq!(warm.get("/v1/me", Some(&access)).await?.status, 401);
    Ok(())
}

/// A phone whose session was revoked still has to hear that it must lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_whose_session_was_ended_still_receives_commands() -> Done {
    let server = Server::start().await?;
    // Devices that enroll by the first token belong to the first administrator.
    let owner: Login = server.login().await?.into();
    let phone = server.enroll("BR-1").await?;
    let mut socket = Raw::with_token(&server.endpoint()?, &phone.access_token).await;
    assert_eq!(text(&socket.json().await, "action"), "AUTH_OK");
    let mut beat = phone.calm();
    beat["type"] = "heartbeat".into();
    socket.say(&beat).await;
    assert_eq!(text(&socket.json().await, "type"), "heartbeat_ack");

    by(&server, &owner.token, Method::DELETE, SESSIONS, &Value::Null).await?.success()?;
    assert_eq!(status_with(&server, &phone.access_token).await?, 200, "devices only when asked");
    let ended = by(&server, &owner.token, Method::DELETE, &format!("{SESSIONS}?devices=true"), &Value::Null).await?;
    assert_eq!(body(&ended)["ended"], 1);
    assert_eq!(status_with(&server, &phone.access_token).await?, 401);
    assert_refused(&refresh(&server, &phone.refresh_token).await?, 403, "refresh_invalid");
    socket.say(&beat).await;
    let refused = socket.json().await;
    assert_eq!((text(&refused, "type"), refused["status"].as_u64()), ("error".to_owned(), Some(401)));
    let lock = json!({ "action": "LOCK_SYSTEM", "reason": "lost" });
    assert_eq!(by(&server, &owner.token, Method::POST, "/v1/devices/BR-1/commands", &lock).await?.status, 202);
    let frame = socket.json().await;
    assert_eq!(text(&frame, "action"), "LOCK_SYSTEM");
    socket.ack(&text(&frame, "command_id"), "enforced").await;
    socket.is_quiet().await;

    let mut again = Raw::with_token(&server.endpoint()?, &phone.access_token).await;
    assert_eq!(again.json().await["payload"]["mode"], "commands_only");
    Ok(())
}

/// Once the end of a session was answered, no refresh succeeds, however close they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_that_races_the_end_of_its_session_never_outlives_it() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let mut clients: Vec<HttpClient> = vec![server.client()?, server.client()?];
    for client in &mut clients {
        client.get("/health/live", None).await?;
    }
    for round in 0..50 {
        let device = server.enroll(&format!("BR-{round}")).await?;
        let (Some(mut a), Some(mut b)) = (clients.pop(), clients.pop()) else { return Err("two clients".into()) };
        let wanted = json!({ "refresh_token": device.refresh_token });
        let racing = tokio::spawn(async move { (a.post("/v1/auth/refresh", None, &wanted).await, a) });
        let bearer = format!("Bearer {admin}");
        let path = format!("{SESSIONS}/{}", device.session_id);
        let ended = b.request(Method::DELETE, &path, &[("authorization", &bearer)], "".into()).await?;
        assert_eq!(ended.status, 204, "{round}: {}", body(&ended));
        let after = b.post("/v1/auth/refresh", None, &json!({ "refresh_token": device.refresh_token })).await?;
        assert_eq!(after.status, 403, "{round}");
        let (raced, a) = racing.await?;
        let raced = raced?;
        if raced.status == 200 {
            let pair: Value = raced.json()?;
            let next = b.post("/v1/auth/refresh", None, &json!({ "refresh_token": pair["refresh_token"] })).await?;
            assert_eq!(next.status, 403, "{round}");
            let path = format!("/v1/devices/{}", device.id);
            assert_eq!(b.get(&path, Some(&text(&pair, "access_token"))).await?.status, 401, "{round}");
        } else {
            assert_refused(&raced, 403, "refresh_invalid");
        }
        clients.extend([a, b]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_refreshes_in_the_same_millisecond_get_the_same_successor() -> Done {
    let server = Server::start().await?;
    let ann = person(&server, "ann").await?;
    let wanted = json!({ "refresh_token": ann.refresh });
    let (mut a, mut b) = (server.client()?, server.client()?);
    let (one, two) = tokio::join!(a.post("/v1/auth/refresh", None, &wanted), b.post("/v1/auth/refresh", None, &wanted));
    let (one, two): (Value, Value) = (one?.json()?, two?.json()?);
    assert_eq!(one["refresh_token"], two["refresh_token"]);
    for answer in [&one, &two] {
        assert_eq!(a.get("/v1/me", Some(&text(answer, "access_token"))).await?.status, 200);
    }
    refreshed(&server, &text(&one, "refresh_token")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_user_is_out_whatever_they_hold() -> Done {
    let mut server = Server::start().await?;
    let tenant = first_tenant(&server).await?;
    let login = add_user(&server, tenant, "ann", "admin").await?;
    let id: UserId = text(&login["user"], "id").parse()?;
    let ann: Login = login.into();
    assert_eq!(server.client()?.get("/v1/me", Some(&ann.token)).await?.status, 200);
    disable(&server, tenant, id).await?;
    // What is in memory is fed by the use case that disables people, and read from the file at a start.
    server.restart().await?;
    assert_refused(&server.client()?.get("/v1/me", Some(&ann.token)).await?, 401, "unauthenticated");
    assert_refused(&refresh(&server, &ann.refresh).await?, 403, "refresh_invalid");
    assert!(log_in(&server, "ann").await.is_err());
    Ok(())
}
