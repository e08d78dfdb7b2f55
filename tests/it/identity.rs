//! Logging in, sessions and enrolling: who somebody is, as the contract promises it.

use std::time::Duration;

use blockremote::client::Response;
use blockremote::domains::iam::anonymous::AnonymousCaller;
use blockremote::testkit::{Device, Fault, Server, text};
use hyper::Method;
use serde_json::{Value, json};

use crate::common::{
    DAY, Done, add_user, altered, assert_refused, assert_untouched, audited, body, enroll_with, enrollment,
    enrollment_token, first_tenant, header, refresh, refreshed, second_tenant, send, status_with,
};

async fn try_login(server: &Server, username: &str, password: &str) -> Result<Response, Fault> {
    let body = json!({ "username": username, "password": password });
    send(&mut server.client()?, Method::POST, "/v1/auth/login", &[("x-request-id", "same")], &body).await
}

// ---- logging in

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_password_opens_a_session_and_says_whose() -> Done {
    let server = Server::start().await?;
    let answer = server.login().await?;
    assert_eq!((&answer["token_type"], &answer["expires_in"]), (&json!("Bearer"), &json!(900)));
    assert!(text(&answer, "session_id").starts_with("ses_"), "{answer}");
    assert_eq!(answer["user"]["username"], "admin");
    let me: Value = server.client()?.get("/v1/me", Some(&text(&answer, "access_token"))).await?.json()?;
    assert_eq!(me, answer["user"]);
    let upper = try_login(&server, "ADMIN", server.admin.password.expose()).await?;
    assert_eq!(upper.status, 200, "upper and lower case of a name are the same");
    Ok(())
}

/// Whoever guesses names must not learn which ones exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_and_an_unknown_name_get_the_same_answer_to_the_byte() -> Done {
    let server = Server::start().await?;
    let wrong = try_login(&server, "admin", "not the password").await?;
    let unknown = try_login(&server, "nobody", "not the password").await?;
    assert_refused(&wrong, 401, "invalid_credentials");
    assert_eq!(wrong.body, unknown.body);
    let comparable = |answer: &Response| {
        let mut headers = answer.headers.clone();
        headers.remove("date");
        headers
    };
    assert_eq!(comparable(&wrong), comparable(&unknown));
    assert!(header(&wrong, "www-authenticate").starts_with("Bearer"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_failures_in_a_minute_stop_one_account_from_one_address_and_nobody_else() -> Done {
    let server = Server::start_with(|c| {
        c.http.trusted_proxies = "127.0.0.1/32".parse().map(|n| vec![n]).unwrap_or_default();
    })
    .await?;
    assert_eq!(server.config().http.trusted_proxies.len(), 1);
    let password = server.admin.password.expose().to_owned();
    for _ in 0..7 {
        assert_eq!(try_login(&server, "admin", &password).await?.status, 200, "a success does not count");
    }
    for _ in 0..5 {
        assert_refused(&try_login(&server, "admin", "wrong").await?, 401, "invalid_credentials");
    }
    let stopped = try_login(&server, "Admin", &password).await?;
    assert_refused(&stopped, 429, "rate_limited");
    let wait_s: u64 = header(&stopped, "retry-after").parse()?;
    // The counter weighs the window before by its share, so the fifth part of a minute may be added.
    assert!((1..=60).contains(&wait_s), "{wait_s}");
    assert_eq!(body(&stopped)["retry_after"], wait_s);
    let told = ["limit", "remaining", "reset"].map(|name| header(&stopped, &format!("x-ratelimit-{name}")).to_owned());
    assert_eq!(told, ["5", "0", wait_s.to_string().as_str()]);
    assert_refused(&try_login(&server, "somebody-else", "wrong").await?, 401, "invalid_credentials");
    let elsewhere = send(
        &mut server.client()?,
        Method::POST,
        "/v1/auth/login",
        &[("x-forwarded-for", "192.0.2.7")],
        &json!({ "username": "admin", "password": password }),
    )
    .await?;
    assert_eq!(elsewhere.status, 200, "the same account from another address");
    server.clock.advance(Duration::from_secs(wait_s));
    assert_eq!(try_login(&server, "admin", &password).await?.status, 200, "after the wait that was named");
    Ok(())
}

/// Without proxies of ours, an address that the caller writes itself is only words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarded_address_from_nobody_we_know_changes_nothing() -> Done {
    let server = Server::start().await?;
    let wrong = json!({ "username": "admin", "password": "wrong" });
    let mut client = server.client()?;
    for i in 0..6 {
        let address = format!("192.0.2.{i}");
        let headers = [("x-forwarded-for", address.as_str()), ("forwarded", "for=192.0.2.9"), ("x-real-ip", &address)];
        let answer = send(&mut client, Method::POST, "/v1/auth/login", &headers, &wrong).await?;
        assert_eq!(answer.status, if i < 5 { 401 } else { 429 });
    }
    Ok(())
}

/// Scripts in a page cannot read such a cookie; another site cannot send it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_cookie_true_the_refresh_token_comes_only_as_a_cookie_and_is_taken_back_from_it() -> Done {
    let server = Server::start().await?;
    let wanted = json!({ "username": "admin", "password": server.admin.password.expose(), "cookie": true });
    let answer = server.client()?.post("/v1/auth/login", None, &wanted).await?;
    assert_eq!(answer.status, 200);
    assert!(body(&answer).get("refresh_token").is_none());
    let set = header(&answer, "set-cookie").to_owned();
    for attribute in ["__Host-refresh=brr_", "; HttpOnly", "; Secure", "; SameSite=Strict", "; Path=/"] {
        assert!(set.contains(attribute), "{attribute} in {set}");
    }
    assert!(!set.to_lowercase().contains("domain="), "{set}");
    let cookie = set.split(';').next().unwrap_or_default().to_owned();
    let by_cookie = |cookie: String| {
        let client = server.client();
        async move { send(&mut client?, Method::POST, "/v1/auth/refresh", &[("cookie", &cookie)], &json!({})).await }
    };
    let again = by_cookie(format!("theme=dark; {cookie}")).await?;
    assert_eq!(again.status, 200);
    assert!(body(&again).get("refresh_token").is_none());
    let rotated = header(&again, "set-cookie").split(';').next().unwrap_or_default().to_owned();
    assert!(rotated.starts_with("__Host-refresh=brr_") && rotated != cookie, "{rotated}");
    assert_eq!(by_cookie(rotated.clone()).await?.status, 200);
    let planted = by_cookie(format!("{rotated}; __Host-refresh=x")).await?;
    assert_eq!(planted.status, 422, "of two cookies of that name neither counts");
    let access = text(&body(&again), "access_token");
    let out = server.client()?.post("/v1/auth/logout", Some(&access), &json!({})).await?;
    assert!(header(&out, "set-cookie").contains("Max-Age=0"));
    Ok(())
}

// ---- sessions

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logging_out_ends_the_own_session_at_once_and_no_other() -> Done {
    let server = Server::start().await?;
    let (mine, other) = (server.login().await?, server.login().await?);
    let (access, refresh_token) = (text(&mine, "access_token"), text(&mine, "refresh_token"));
    assert_eq!(server.client()?.get("/v1/me", Some(&access)).await?.status, 200);
    let out = server.client()?.post("/v1/auth/logout", Some(&access), &json!({})).await?;
    assert_eq!((out.status, out.body.len()), (204, 0));
    assert_eq!(server.client()?.get("/v1/me", Some(&access)).await?.status, 401);
    assert_eq!(server.client()?.post("/v1/auth/logout", Some(&access), &json!({})).await?.status, 401);
    assert_refused(&refresh(&server, &refresh_token).await?, 403, "refresh_invalid");
    assert_eq!(server.client()?.get("/v1/me", Some(&text(&other, "access_token"))).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_sees_and_ends_their_own_sessions_only() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let stranger = add_user(&server, first_tenant(&server).await?, "stranger", "viewer").await?;
    let other = server.login().await?;
    let mine = server.login().await?;
    let access = text(&mine, "access_token");
    let list =
        || async { server.client()?.get("/v1/me/sessions", Some(&access)).await?.json::<Value>().map_err(Fault::from) };
    let sessions = list().await?;
    let rows = sessions["data"].as_array().cloned().unwrap_or_default();
    let ids: Vec<String> = rows.iter().map(|s| text(s, "id")).collect();
    for expected in [&text(&mine, "session_id"), &text(&other, "session_id"), &device.session_id] {
        assert!(ids.contains(expected), "{expected} in {ids:?}");
    }
    assert!(!ids.contains(&text(&stranger, "session_id")), "another person's session");
    let current: Vec<_> = rows.iter().filter(|s| s["current"] == true).map(|s| text(s, "id")).collect();
    assert_eq!(current, [text(&mine, "session_id")]);
    for row in &rows {
        assert_eq!(row["ip"], "127.0.0.1");
        for member in ["user_agent", "created_at", "last_used_at", "device_id"] {
            assert!(row.get(member).is_some(), "{member} in {row}");
        }
        assert_eq!(text(row, "device_id") == "BR-1", text(row, "id") == device.session_id);
    }
    let end = |id: String| {
        let (client, bearer) = (server.client(), format!("Bearer {access}"));
        async move {
            let headers = [("authorization", bearer.as_str())];
            Ok::<_, Fault>(
                client?.request(Method::DELETE, &format!("/v1/me/sessions/{id}"), &headers, "".into()).await?,
            )
        }
    };
    assert_refused(&end(text(&stranger, "session_id")).await?, 404, "not_found");
    assert_refused(&end("ses_nonsense".to_owned()).await?, 404, "not_found");
    assert_eq!(end(text(&other, "session_id")).await?.status, 204);
    assert_eq!(server.client()?.get("/v1/me", Some(&text(&other, "access_token"))).await?.status, 401);
    assert_refused(&refresh(&server, &text(&other, "refresh_token")).await?, 403, "refresh_invalid");
    assert_refused(&end(text(&other, "session_id")).await?, 404, "not_found");
    assert_eq!(end(device.session_id.clone()).await?.status, 204, "the owner ends a device's session");
    assert_eq!(status_with(&server, &device.access_token).await?, 401);
    assert_eq!(server.client()?.get("/v1/me", Some(&text(&stranger, "access_token"))).await?.status, 200);
    assert_eq!(list().await?["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(end(text(&mine, "session_id")).await?.status, 204);
    assert_eq!(server.client()?.get("/v1/me", Some(&access)).await?.status, 401);
    Ok(())
}

// ---- enrolling

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_enrolls_with_a_token_in_the_body_or_in_the_header() -> Done {
    let server = Server::start().await?;
    let token = &server.enrollment_token;
    let answer = enroll_with(&server, None, &enrollment("BR-1", Some(token))).await?;
    let made = body(&answer);
    assert_eq!((answer.status, &made["device_id"]), (201, &json!("BR-1")));
    assert_eq!(made["token"], made["access_token"], "older clients read token");
    let trial: blockremote::kernel::Timestamp = text(&made, "trial_expires_at").parse()?;
    assert_eq!(trial, server.clock.now().plus(7 * DAY));
    let credential = format!("Enrollment {token}");
    let headers = [("authorization", credential.as_str())];
    let mut client = server.client()?;
    let by_header = send(&mut client, Method::POST, "/v1/auth/device", &headers, &enrollment("BR-2", None)).await?;
    assert_eq!(by_header.status, 201, "{}", body(&by_header));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_enrolls_without_a_right() -> Done {
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?;
    let viewer = text(&add_user(&server, tenant, "viewer", "viewer").await?, "access_token");
    let for_other = enrollment_token(&server, tenant, Some("BR-9")).await?;
    let cut = altered(&server.enrollment_token, -1);
    for token in [None, Some("bre_nonsense"), Some(cut.as_str()), Some(for_other.as_str())] {
        let answer = enroll_with(&server, None, &enrollment("BR-1", token)).await?;
        assert_refused(&answer, 401, "enrollment_refused");
        assert!(header(&answer, "www-authenticate").starts_with("Bearer"));
    }
    assert_refused(&enroll_with(&server, Some(&viewer), &enrollment("BR-1", None)).await?, 403, "forbidden");
    assert_eq!(enroll_with(&server, None, &enrollment("BR-9", Some(&for_other))).await?.status, 201);
    let twice = enroll_with(&server, None, &enrollment("BR-9", Some(&for_other))).await?;
    assert_refused(&twice, 401, "enrollment_refused");
    server.clock.advance(31 * DAY);
    let late = enroll_with(&server, None, &enrollment("BR-1", Some(&server.enrollment_token))).await?;
    assert_refused(&late, 401, "enrollment_refused");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_the_configuration_opens_takes_anybody_once() -> Done {
    let server = Server::start().await?;
    assert_eq!(enroll_with(&server, None, &enrollment("BR-1", None)).await?.status, 401);
    let open = Server::start_with(|c| c.enrollment.open_tenant = Some("default".to_owned())).await?;
    assert_eq!(enroll_with(&open, None, &enrollment("BR-1", None)).await?.status, 201);
    assert_refused(&enroll_with(&open, None, &enrollment("BR-1", None)).await?, 409, "device_exists");
    Ok(())
}

/// A stolen enrollment token must not be a way to take over a phone that is enrolled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_device_is_enrolled_again_by_its_owner_or_a_token_for_it_and_by_nobody_else() -> Done {
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?;
    let mut device = server.enroll("BR-1").await?;
    let manager = text(&add_user(&server, tenant, "manager", "manager").await?, "access_token");
    let again = enroll_with(&server, None, &enrollment("BR-1", Some(&server.enrollment_token))).await?;
    assert_refused(&again, 409, "device_exists");
    assert_refused(&enroll_with(&server, Some(&manager), &enrollment("BR-1", None)).await?, 409, "device_exists");
    assert_refused(
        &enroll_with(&server, Some(&device.access_token), &enrollment("BR-1", None)).await?,
        401,
        "enrollment_refused",
    );
    assert_eq!(device.beat(&device.calm()).await?.status, 200, "the refused tries left it alone");
    server.clock.advance(DAY);
    let (access, refresh_token) = refreshed(&server, &device.refresh_token).await?;
    let owner = server.admin_token().await?;
    let by_owner = enroll_with(&server, Some(&owner), &enrollment("BR-1", None)).await?;
    assert_eq!(by_owner.status, 201, "{}", body(&by_owner));
    let trial: blockremote::kernel::Timestamp = text(&body(&by_owner), "trial_expires_at").parse()?;
    assert_eq!(trial, server.clock.now().plus(6 * DAY), "the trial does not start again");
    assert_eq!(status_with(&server, &access).await?, 401, "the earlier session ended");
    assert_refused(&refresh(&server, &refresh_token).await?, 403, "refresh_invalid");
    let bound = enrollment_token(&server, tenant, Some("BR-1")).await?;
    let by_token = enroll_with(&server, None, &enrollment("BR-1", Some(&bound))).await?;
    assert_eq!(by_token.status, 201);
    assert_eq!(status_with(&server, &text(&body(&by_owner), "access_token")).await?, 401);
    assert_eq!(status_with(&server, &text(&body(&by_token), "access_token")).await?, 200);
    assert_eq!(audited(&server, "BR-1").await?.iter().filter(|a| *a == "device_reenrolled").count(), 2);
    assert_untouched(&server, "BR-1").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_name_in_another_tenant_is_another_device() -> Done {
    let server = Server::start().await?;
    let mut device = server.enroll("BR-1").await?;
    let neighbour = second_tenant(&server).await?;
    let admin = add_user(&server, neighbour, "neighbour", "admin").await?;
    let token = enrollment_token(&server, neighbour, None).await?;
    let theirs = enroll_with(&server, None, &enrollment("BR-1", Some(&token))).await?;
    assert_eq!(theirs.status, 201, "{}", body(&theirs));
    let lock = json!({ "action": "LOCK_SYSTEM", "reason": "the neighbour's own" });
    let bearer = text(&admin, "access_token");
    assert_eq!(server.client()?.post("/v1/devices/BR-1/commands", Some(&bearer), &lock).await?.status, 202);
    assert_eq!(device.beat(&device.calm()).await?.status, 200);
    assert_untouched(&server, "BR-1").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_survives_a_new_enrollment() -> Done {
    let server = Server::start().await?;
    let mut device: Device = server.enroll("BR-1").await?;
    let owner = server.admin_token().await?;
    let lock = json!({ "action": "LOCK_SYSTEM", "reason": "lost" });
    assert_eq!(server.client()?.post("/v1/devices/BR-1/commands", Some(&owner), &lock).await?.status, 202);
    assert_refused(&device.beat(&device.calm()).await?, 423, "device_blocked");
    let bound = enrollment_token(&server, first_tenant(&server).await?, Some("BR-1")).await?;
    for (bearer, token) in [(None, Some(bound.as_str())), (Some(owner.as_str()), None)] {
        let again: Value = enroll_with(&server, bearer, &enrollment("BR-1", token)).await?.json()?;
        device.access_token = text(&again, "access_token");
        assert_refused(&device.beat(&device.calm()).await?, 423, "device_blocked");
    }
    Ok(())
}

/// A restart must not hand every anonymous caller a full quota again.
#[tokio::test]
async fn a_stop_writes_down_what_anonymous_callers_have_used() -> Done {
    let mut server = Server::start_with(|c| c.anonymous.limit = 5).await?;
    let address = "192.0.2.7".parse()?;
    let caller = AnonymousCaller { address, network: address, user_agent: Some("curl/8"), accept_language: None };
    let remaining = |server: &Server, token: Option<&str>| {
        let admission = server.app().services.iam.anonymous().admit(token, &caller, server.clock.now());
        (admission.decision.map(|d| (d.admitted, d.remaining)), admission.new_token)
    };
    let (first, token) = remaining(&server, None);
    assert_eq!(first, Some((true, 4)));
    for left in [3, 2] {
        assert_eq!(remaining(&server, token.as_deref()), (Some((true, left)), None));
    }
    server.restart().await?;
    assert_eq!(remaining(&server, token.as_deref()), (Some((true, 1)), None));
    server.stop().await;
    Ok(())
}

/// Malware that could use a device's key and a token for it enrolled the device again with `"sensors": []`: it owed no
/// motion from then on, and its baseline and all evidence were set aside with the sensors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enrolling_again_may_add_a_sensor_and_never_takes_one_away() -> Done {
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?;
    for (sensors, expected) in [
        (json!(["accelerometer"]), (true, false)),
        (json!([]), (true, false)),
        (json!(["gyroscope"]), (true, true)),
        (json!([]), (true, true)),
    ] {
        let bound = enrollment_token(&server, tenant, Some("BR-1")).await?;
        let mut wanted = enrollment("BR-1", Some(&bound));
        wanted["sensors"] = sensors.clone();
        assert_eq!(enroll_with(&server, None, &wanted).await?.status, 201);
        let entry = server.app().services.devices.entry(tenant, &"BR-1".parse()?);
        let has = entry.map(|e| e.device().sensors).map(|s| (s.accelerometer, s.gyroscope));
        assert_eq!(has, Some(expected), "after {sensors}");
    }
    let device = "BR-1".parse()?;
    let log = server.app().services.audit.list(tenant, Some(device), None, 200).await?;
    let reasons: Vec<&str> = log.entries.iter().filter_map(|e| e.decision_reason.as_deref()).collect();
    let said = |what: &str| reasons.iter().filter(|r| r.contains(what)).count();
    assert_eq!(said("left out a sensor that it still has to send, the accelerometer"), 3, "{reasons:?}");
    assert_eq!(said("it has a sensor more, the gyroscope"), 1, "{reasons:?}");
    Ok(())
}
