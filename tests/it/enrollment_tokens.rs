//! Enrollment tokens: an expiry, a number of uses, an owner, and an end.

use blockremote::testkit::{Server, text};
use hyper::Method;
use serde_json::{Value, json};

use crate::common::{DAY, Done, add_user, assert_refused, body, enroll_with, enrollment, first_tenant, send};
use crate::people::{ask, done};

const TOKENS: &str = "/v1/enrollment-tokens";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_shown_once_listed_used_up_and_revoked() -> Done {
    let server = Server::start().await?;
    let (admin, tenant) = (server.admin_token().await?, first_tenant(&server).await?);
    let manager = add_user(&server, tenant, "manager", "manager").await?;
    let token = text(&manager, "access_token");
    let made = ask(&server, &token, "POST", TOKENS, json!({ "uses_max": 2, "lifetime_days": 3 })).await?;
    assert_eq!(made.status, 201, "{}", body(&made));
    let made = body(&made);
    let secret = text(&made, "token");
    assert!(secret.starts_with("bre_"), "{made}");
    assert_eq!(made["owner"], manager["user"]["id"], "who asks for it owns the devices");
    assert_eq!((&made["uses"], &made["uses_max"], &made["revoked"]), (&json!(0), &json!(2), &json!(false)));
    assert_eq!(text(&made, "expires_at"), server.clock.now().plus(3 * DAY).to_string());
    assert_eq!(enroll_with(&server, None, &enrollment("BR-1", Some(&secret))).await?.status, 201);
    let list = done(&server, &token, "GET", TOKENS, Value::Null).await?;
    assert!(!list.to_string().contains(&secret), "{list}");
    let rows = list["data"].as_array().cloned().unwrap_or_default();
    assert_eq!(rows.len(), 2, "the first one of the appliance is there, too: {list}");
    let own = rows.iter().find(|r| r["id"] == made["id"]).ok_or("it is not in the list")?;
    assert_eq!(own["uses"], 1);
    assert_eq!(enroll_with(&server, None, &enrollment("BR-2", Some(&secret))).await?.status, 201);
    let third = enroll_with(&server, None, &enrollment("BR-3", Some(&secret))).await?;
    assert_refused(&third, 401, "enrollment_refused");
    let first = rows.iter().find(|r| r["id"] != made["id"]).ok_or("the first one is not in the list")?;
    let path = format!("{TOKENS}/{}", text(first, "id"));
    for _ in 0..2 {
        assert_eq!(ask(&server, &admin, "DELETE", &path, Value::Null).await?.status, 204);
    }
    let revoked = enroll_with(&server, None, &enrollment("BR-4", Some(&server.enrollment_token))).await?;
    assert_refused(&revoked, 401, "enrollment_refused");
    let device = ask(&server, &admin, "GET", "/v1/devices/BR-1", Value::Null).await?;
    assert_eq!(device.status, 200, "devices stay");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_and_one_for_a_device_is_for_it_alone_and_once() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let made = done(&server, &admin, "POST", TOKENS, json!({ "device_id": "BR-9" })).await?;
    assert_eq!((&made["uses_max"], &made["device_id"]), (&json!(1), &json!("BR-9")));
    let secret = text(&made, "token");
    let other = enroll_with(&server, None, &enrollment("BR-8", Some(&secret))).await?;
    assert_refused(&other, 401, "enrollment_refused");
    assert_eq!(enroll_with(&server, None, &enrollment("BR-9", Some(&secret))).await?.status, 201);
    let again = enroll_with(&server, None, &enrollment("BR-9", Some(&secret))).await?;
    assert_refused(&again, 401, "enrollment_refused");
    let short = text(&done(&server, &admin, "POST", TOKENS, json!({ "lifetime_days": 1 })).await?, "token");
    server.clock.advance(DAY);
    let late = enroll_with(&server, None, &enrollment("BR-7", Some(&short))).await?;
    assert_refused(&late, 401, "enrollment_refused");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_token_can_be_is_refused_where_it_is_wrong() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    for (wanted, pointer) in [
        (json!({ "lifetime_days": 0 }), "/lifetime_days"),
        (json!({ "lifetime_days": 366 }), "/lifetime_days"),
        (json!({ "uses_max": 0 }), "/uses_max"),
        (json!({ "uses_max": 1_000_001 }), "/uses_max"),
        (json!({ "uses_max": 2, "device_id": "BR-1" }), "/uses_max"),
        (json!({ "device_id": "a b" }), "/device_id"),
        (json!({ "owner": "me" }), "/owner"),
    ] {
        let answer = ask(&server, &admin, "POST", TOKENS, wanted.clone()).await?;
        assert_refused(&answer, 422, "invalid_request");
        assert_eq!(body(&answer)["errors"][0]["pointer"], pointer, "{wanted}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_makes_no_second_token_and_shows_no_secret() -> Done {
    let server = Server::start().await?;
    let bearer = format!("Bearer {}", server.admin_token().await?);
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "once")];
    let mut client = server.client()?;
    let first = body(&send(&mut client, Method::POST, TOKENS, &headers, &json!({ "uses_max": 5 })).await?);
    let again = send(&mut client, Method::POST, TOKENS, &headers, &json!({ "uses_max": 5 })).await?;
    let mut expected = first.clone();
    expected["token"] = Value::Null;
    assert!(text(&first, "token").starts_with("bre_"));
    assert_eq!((again.status, body(&again)), (201, expected));
    let other = send(&mut client, Method::POST, TOKENS, &headers, &json!({ "uses_max": 6 })).await?;
    assert_refused(&other, 409, "idempotency_conflict");
    Ok(())
}
