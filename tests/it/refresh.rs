//! Refresh tokens: one live token in each family, kindness to a lost answer, and a lock for a theft.

use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use blockremote::client::HttpClient;
use blockremote::kernel::Random;
use blockremote::testkit::{Server, text};
use serde_json::{Value, json};

use crate::common::{
    DAY, Done, MINUTE, altered, assert_locked_for_theft, assert_refused, assert_untouched, audited, part, refresh,
    refresh_with, refreshed, status_with,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refresh_gives_a_new_pair_and_the_session_goes_on() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let (access, next) = refreshed(&server, &device.refresh_token).await?;
    assert_ne!(next, device.refresh_token);
    assert_ne!(access, device.access_token);
    assert_eq!(part(&access, 1)?["sid"], device.session_id);
    assert_eq!(status_with(&server, &access).await?, 200);
    assert_eq!(status_with(&server, &device.access_token).await?, 200, "the earlier access token lives to its end");
    let (_, third) = refreshed(&server, &next).await?;
    assert!(third != next && third != device.refresh_token);
    let secret = Base64UrlUnpadded::decode_vec(third.trim_start_matches("brr_"))?;
    assert!(secret.len() >= 32, "at least 256 bits");
    assert_eq!(audited(&server, "BR-1").await?.iter().filter(|a| *a == "token_refreshed").count(), 2);
    Ok(())
}

/// A phone whose answer got lost must not be locked out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_predecessor_within_ten_seconds_gets_the_same_successor() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let (_, first) = refreshed(&server, &device.refresh_token).await?;
    server.clock.advance(Duration::from_millis(9_999));
    let (access, again) = refreshed(&server, &device.refresh_token).await?;
    assert_eq!(again, first);
    assert_eq!(status_with(&server, &access).await?, 200);
    assert!(refresh(&server, &first).await?.status == 200, "the successor is still good");
    assert_untouched(&server, "BR-1").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_refresh_token_after_the_grace_is_theft_and_the_device_is_locked() -> Done {
    let server = Server::start().await?;
    let mut device = server.enroll("BR-1").await?;
    let (access, next) = refreshed(&server, &device.refresh_token).await?;
    assert_eq!(status_with(&server, &access).await?, 200);
    server.clock.advance(Duration::from_secs(11));
    assert_refused(&refresh(&server, &device.refresh_token).await?, 403, "refresh_reused");
    for token in [device.access_token.clone(), access] {
        device.access_token = token;
        assert_eq!(device.beat(&device.calm()).await?.status, 401, "dead on the very next request");
    }
    assert_refused(&refresh(&server, &next).await?, 403, "refresh_invalid");
    assert_refused(&refresh(&server, &device.refresh_token).await?, 403, "refresh_invalid");
    assert_locked_for_theft(&server, "BR-1").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grandparent_is_theft_even_within_the_grace() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let (_, second) = refreshed(&server, &device.refresh_token).await?;
    let (third_access, _) = refreshed(&server, &second).await?;
    assert_refused(&refresh(&server, &device.refresh_token).await?, 403, "refresh_reused");
    assert_eq!(status_with(&server, &third_access).await?, 401);
    assert_locked_for_theft(&server, "BR-1").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_token_from_another_holder_is_theft() -> Done {
    for (device_id, platform) in [("BR-2", "android"), ("BR-1", "ios")] {
        let server = Server::start().await?;
        let device = server.enroll("BR-1").await?;
        server.enroll("BR-2").await?;
        let mut claim = json!({ "refresh_token": device.refresh_token, "device_id": "BR-1", "platform": "android" });
        let right: Value = refresh_with(&server, &claim).await?.json()?;
        claim["refresh_token"] = right["refresh_token"].clone();
        (claim["device_id"], claim["platform"]) = (device_id.into(), platform.into());
        assert_refused(&refresh_with(&server, &claim).await?, 403, "refresh_reused");
        assert_eq!(status_with(&server, &text(&right, "access_token")).await?, 401);
        assert_locked_for_theft(&server, "BR-1").await?;
        assert_untouched(&server, "BR-2").await?;
    }
    Ok(())
}

/// Neither junk nor an old phone in a drawer may lock anybody out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_never_issued_or_is_over_is_refused_and_never_locks() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let live = &device.refresh_token;
    let random = format!("brr_{}", Base64UrlUnpadded::encode_string(&Random::System.bytes::<52>()));
    for junk in [&random, &altered(live, -1), &altered(live, 30), &altered(live, 26), "x", &format!("{live}A")] {
        assert_refused(&refresh(&server, junk).await?, 403, "refresh_invalid");
    }
    assert_untouched(&server, "BR-1").await?;
    let out = server.client()?.post("/v1/auth/logout", Some(&device.access_token), &json!({})).await?;
    assert_eq!(out.status, 204);
    assert_refused(&refresh(&server, live).await?, 403, "refresh_invalid");
    let expired = server.enroll("BR-2").await?;
    let (_, next) = refreshed(&server, &expired.refresh_token).await?;
    server.clock.advance(8 * DAY);
    for token in [&next, &expired.refresh_token] {
        assert_refused(&refresh(&server, token).await?, 403, "refresh_invalid");
    }
    assert_untouched(&server, "BR-1").await?;
    assert_untouched(&server, "BR-2").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_token_from_many_connections_at_once_gives_one_successor() -> Done {
    let server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let wanted = json!({ "refresh_token": device.refresh_token });
    let mut clients: Vec<HttpClient> = Vec::new();
    for _ in 0..8 {
        let mut client = server.client()?;
        client.get("/health/live", None).await?;
        clients.push(client);
    }
    let tries = clients.into_iter().map(|mut client| {
        let wanted = wanted.clone();
        tokio::spawn(async move { client.post("/v1/auth/refresh", None, &wanted).await })
    });
    let mut successors = Vec::new();
    for handle in tries.collect::<Vec<_>>() {
        let answer: Value = handle.await??.json()?;
        assert_eq!(status_with(&server, &text(&answer, "access_token")).await?, 200);
        successors.push(text(&answer, "refresh_token"));
    }
    successors.dedup();
    assert_eq!(successors.len(), 1);
    assert_untouched(&server, "BR-1").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_slides_by_seven_days_and_ends_after_thirty() -> Done {
    let server = Server::start().await?;
    let idle = server.enroll("BR-2").await?;
    server.clock.advance(7 * DAY - Duration::from_secs(1));
    let (_, alive) = refreshed(&server, &idle.refresh_token).await?;
    server.clock.advance(7 * DAY);
    assert_refused(&refresh(&server, &alive).await?, 403, "refresh_invalid");
    let device = server.enroll("BR-1").await?;
    let mut token = device.refresh_token.clone();
    for _ in 0..4 {
        server.clock.advance(6 * DAY);
        token = refreshed(&server, &token).await?.1;
    }
    server.clock.advance(6 * DAY - Duration::from_secs(1));
    token = refreshed(&server, &token).await?.1;
    server.clock.advance(Duration::from_secs(1));
    assert_refused(&refresh(&server, &token).await?, 403, "refresh_invalid");
    assert_untouched(&server, "BR-1").await
}

/// Sessions, blocks and keys are in the data file; memory is only a copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_forgets_no_session_and_no_end_of_one() -> Done {
    let mut server = Server::start().await?;
    let device = server.enroll("BR-1").await?;
    let (_, next) = refreshed(&server, &device.refresh_token).await?;
    let ended = server.login().await?;
    let out = server.client()?.post("/v1/auth/logout", Some(&text(&ended, "access_token")), &json!({})).await?;
    assert_eq!(out.status, 204);
    server.restart().await?;
    assert_eq!(status_with(&server, &device.access_token).await?, 200);
    assert_eq!(server.client()?.get("/v1/me", Some(&text(&ended, "access_token"))).await?.status, 401);
    let (_, again) = refreshed(&server, &device.refresh_token).await?;
    assert_eq!(again, next, "the same successor after a restart, too");
    server.clock.advance(MINUTE);
    assert_refused(&refresh(&server, &device.refresh_token).await?, 403, "refresh_reused");
    assert_locked_for_theft(&server, "BR-1").await
}

/// A client that runs wild is slowed down by itself, not with everybody behind its address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_session_refreshes_so_often_a_minute_and_no_other_pays_for_it() -> Done {
    let server = Server::start_with(|c| c.limits.refresh_per_minute = 5).await?;
    let (wild, calm) = (server.enroll("BR-1").await?, server.enroll("BR-2").await?);
    let mut token = wild.refresh_token;
    for _ in 0..5 {
        token = refreshed(&server, &token).await?.1;
    }
    let refused = refresh(&server, &token).await?;
    assert_refused(&refused, 429, "rate_limited");
    assert_eq!(refresh(&server, &calm.refresh_token).await?.status, 200);
    assert_untouched(&server, "BR-1").await?;
    let wait_s: u64 = crate::common::header(&refused, "retry-after").parse()?;
    server.clock.advance(Duration::from_secs(wait_s));
    assert_eq!(refresh(&server, &token).await?.status, 200, "the token was not used up by the refusal");
    Ok(())
}
