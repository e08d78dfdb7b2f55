//! What threat feeds mean for devices: a sure match locks at once, an unsure one is written down, and a new indicator finds
//! who had it before.
#![expect(clippy::unwrap_used, reason = "tests")]

use blockremote::client::socket::Event;
use blockremote::client::{frame::Action, frame::Incoming};
use blockremote::domains::attestation::RootKind;
use blockremote::store::tables::{INTEL_FEEDS, SIGHTED_BY, SIGHTINGS};
use blockremote::testkit::hardware::{AndroidState, Maker};
use blockremote::testkit::{Device, Fault, Server, text};
use serde_json::{Value, json};

use crate::common::{DAY, Done, audited, body, first_tenant};
use crate::hardware::{Phone, new_key, trust};
use crate::intel::put;
use crate::people::done;

/// A calm heartbeat that names packages and looked-up names.
fn naming(device: &Device, packages: &[&str], names: &[&str]) -> Value {
    let mut beat = device.calm();
    beat["payload"]["sideloaded"] = json!(packages);
    beat["payload"]["network"] = json!({ "dns": names });
    beat
}

async fn packages(server: &Server, admin: &str, name: &str, list: &str, confidence: u8) -> Done {
    let feed = json!({ "content": list, "kind": "package", "confidence": confidence, "source": "a maker of lists" });
    put(server, admin, name, feed).await?.success()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sure_match_quarantines_locks_covers_and_ends_the_tokens_in_one_commit() -> Done {
    let mut server = Server::start().await?;
    let admin = server.admin_token().await?;
    packages(&server, &admin, "spy", "com.example.spy\n", 95).await?;
    let mut device = server.enroll("BR-1").await?;
    let mut bystander = server.enroll("BR-2").await?;
    let mut socket = device.socket().await?;
    assert!(matches!(socket.next().await, Event::Frame(Incoming::Command(c)) if c.action == Action::AuthOk));
    let calm = device.calm();
    assert_eq!(body(&device.beat(&calm).await?)["decision"], "allow");
    let commits = || server.app().services.store.state().commits.load(std::sync::atomic::Ordering::SeqCst);
    let before = commits();
    let hostile = naming(&device, &["com.example.game", "com.example.spy"], &[]);
    let answer = body(&device.beat(&hostile).await?);
    assert_eq!(answer["decision"], "block", "{answer}");
    assert!(answer["trust_score"].as_u64().unwrap() < answer["threshold"].as_u64().unwrap(), "{answer}");
    assert!(commits() - before <= 2, "one for all of it, and perhaps one of the socket's");
    let mut told = Vec::new();
    while told.len() < 3 {
        match socket.next().await {
            Event::Frame(Incoming::Command(command)) => told.push(command.action),
            other => return Err(format!("{told:?}, then {other:?}").into()),
        }
    }
    assert_eq!(told, [Action::ImmediateQuarantine, Action::CriticalLock, Action::ForceOverlay]);
    assert_eq!(device.beat(&calm).await?.status, 401, "its tokens have ended");
    let view = done(&server, &admin, "GET", "/v1/devices/BR-1", Value::Null).await?;
    assert_eq!((text(&view, "state").as_str(), text(&view["blocked"], "cause").as_str()), ("blocked", "intel"));
    assert!(text(&view["blocked"], "reason").contains("com.example.spy"), "{view}");
    let log = audited(&server, "BR-1").await?;
    for (action, times) in [("intel_matched", 1), ("device_blocked", 1), ("command_requested", 3)] {
        assert_eq!(log.iter().filter(|a| *a == action).count(), times, "{action}: {log:?}");
    }
    assert_eq!(body(&bystander.beat(&bystander.calm()).await?)["decision"], "allow");

    server.restart().await?;
    let admin = server.admin_token().await?;
    let view = done(&server, &admin, "GET", "/v1/devices/BR-1", Value::Null).await?;
    assert_eq!(text(&view, "state"), "blocked", "a restart releases nobody");
    Ok(())
}

/// A list of somebody who is not sure, a name that half the Internet uses: worth a line in the log and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsure_match_is_written_down_once_and_locks_nobody() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    put(&server, &admin, "unsure", json!({ "content": "evil.example\n127.0.0.1 worse.example\n203.0.113.0/24\n" }))
        .await?
        .success()?;
    let mut device = server.enroll("BR-1").await?;
    for _ in 0..5 {
        let beat = naming(
            &device,
            &["not a package", "com.example.game"],
            &["WWW.Evil.Example.", "203.0.113.9", "good.example", "\u{0}"],
        );
        assert_eq!(body(&device.beat(&beat).await?)["decision"], "allow");
    }
    let log = audited(&server, "BR-1").await?;
    assert_eq!(log.iter().filter(|a| *a == "intel_matched").count(), 2, "{log:?}");
    assert!(!log.iter().any(|a| a == "device_blocked"), "{log:?}");
    Ok(())
}

async fn hunts(server: &Server, admin: &str) -> Result<Vec<Value>, Fault> {
    let page = done(server, admin, "GET", "/v1/intel/hunts", Value::Null).await?;
    Ok(page["data"].as_array().unwrap().clone())
}

async fn hunted(server: &Server, admin: &str, reports: usize) -> Result<Vec<Value>, Fault> {
    for _ in 0..300 {
        if hunts(server, admin).await?.len() >= reports {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    hunts(server, admin).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_indicator_finds_who_had_it_before_and_says_so_once() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let mut device = server.enroll("BR-1").await?;
    let mut clean = server.enroll("BR-2").await?;
    let beat = naming(&device, &["com.example.spy"], &["a.evil.example"]);
    device.beat(&beat).await?.success()?;
    clean.beat(&naming(&clean, &["com.example.game"], &["good.example"])).await?.success()?;
    assert!(hunts(&server, &admin).await?.is_empty());
    packages(&server, &admin, "spy", "com.example.spy\n", 95).await?;
    let reports = hunted(&server, &admin, 1).await?;
    assert_eq!(reports.len(), 1, "{reports:?}");
    let finds = reports[0]["finds"].as_array().unwrap();
    assert_eq!(finds.len(), 1, "{finds:?}");
    assert_eq!((text(&finds[0], "device_id").as_str(), text(&finds[0], "value").as_str()), ("BR-1", "com.example.spy"));
    assert!(audited(&server, "BR-1").await?.iter().any(|a| a == "intel_found_in_history"));
    assert!(!audited(&server, "BR-2").await?.iter().any(|a| a == "intel_found_in_history"));
    let view = done(&server, &admin, "GET", "/v1/devices/BR-1", Value::Null).await?;
    assert_eq!(text(&view, "state"), "active", "the past is reported; what is there now locks with its next heartbeat");

    // The same list again tomorrow is no news; a domain above a name is.
    packages(&server, &admin, "spy", "com.example.spy\n", 95).await?;
    put(&server, &admin, "names", json!({ "content": "evil.example\n" })).await?.success()?;
    let reports = hunted(&server, &admin, 2).await?;
    assert_eq!(reports.len(), 2, "{reports:?}");
    assert_eq!(text(&reports[0]["finds"][0], "listed"), "evil.example");
    let history = done(&server, &admin, "GET", "/v1/devices/BR-1/sideloads", Value::Null).await?;
    assert_eq!(history["data"].as_array().unwrap().len(), 1, "{history}");
    assert_eq!(
        (&history["data"][0]["package"], &history["data"][0]["verdict"]),
        (&json!("com.example.spy"), &json!("listed"))
    );
    assert_eq!(body(&device.beat(&beat).await?)["decision"], "block");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_that_share_what_is_seldom_shared_are_linked() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    put(&server, &admin, "names", json!({ "content": "evil.example\n" })).await?.success()?;
    let mut devices = Vec::new();
    for name in ["BR-1", "BR-2", "BR-3"] {
        devices.push(server.enroll(name).await?);
    }
    let moving = |device: &Device, seed: f64| {
        let reading = |i: u32| {
            let t = f64::from(i) + seed;
            json!({ "t_ms": 1_000 + i * 20, "accelerometer": [(t * 0.7).sin(), 9.0 + (t * 1.3).sin(), (t * 2.1).cos()],
                "gyroscope": [(t * 0.3).sin(), (t * 0.9).cos(), 0.01] })
        };
        json!({ "device_id": device.id, "readings": (0..100).map(reading).collect::<Vec<_>>() })
    };
    for (device, (packages, names, seed)) in devices.iter_mut().zip([
        (vec!["com.example.rare"], vec!["x.evil.example", "good.example"], 0.25),
        (vec!["com.example.rare"], vec!["good.example"], 0.25),
        (vec![], vec!["x.evil.example", "good.example"], 7.75),
    ]) {
        let beat = naming(device, &packages, &names);
        device.beat(&beat).await?.success()?;
        let motion = moving(device, seed);
        device.beat(&motion).await?.success()?;
    }
    let links = done(&server, &admin, "GET", "/v1/devices/BR-1/links", Value::Null).await?;
    let by = |name: &str| -> Vec<String> {
        let of = links["data"].as_array().unwrap().iter().find(|l| text(l, "device_id") == name);
        let mut by: Vec<String> =
            of.map_or(&json!([]), |l| &l["shared"]).as_array().unwrap().iter().map(|s| text(s, "by")).collect();
        by.sort();
        by
    };
    assert_eq!(by("BR-2"), ["address", "motion", "package"], "{links}");
    assert_eq!(by("BR-3"), ["address", "indicator"], "{links}");
    assert!(by("BR-1").is_empty(), "never with itself");
    Ok(())
}

/// A list that nobody trusted named a domain, and that was written down; then a sure one named it, and the look into the
/// past left out whatever had been written down before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_unsure_feed_reported_a_surer_one_reports_again() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let list = |confidence: u8| json!({ "content": "evil.example\n", "confidence": confidence });
    put(&server, &admin, "unsure", list(30)).await?.success()?;
    let mut device = server.enroll("BR-1").await?;
    device.beat(&naming(&device, &[], &["evil.example"])).await?.success()?;
    assert_eq!(audited(&server, "BR-1").await?.iter().filter(|a| *a == "intel_matched").count(), 1);
    done(&server, &admin, "DELETE", "/v1/intel/feeds/unsure", Value::Null).await?;
    put(&server, &admin, "sure", list(95)).await?.success()?;
    let reports = hunted(&server, &admin, 1).await?;
    assert_eq!(reports.len(), 1, "{reports:?}");
    let find = &reports[0]["finds"][0];
    assert_eq!((&find["device_id"], &find["confidence"]), (&json!("BR-1"), &json!(95)));
    // The same once more is no news; the same feed, surer, is.
    put(&server, &admin, "sure", list(95)).await?.success()?;
    put(&server, &admin, "sure", list(99)).await?.success()?;
    let reports = hunted(&server, &admin, 2).await?;
    assert_eq!((reports.len(), &reports[0]["finds"][0]["confidence"]), (2, &json!(99)), "{reports:?}");
    Ok(())
}

/// A restart, or an error of the data file, between an import and the end of its look into the past ended that for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_into_the_past_that_was_cut_off_is_taken_up_at_the_next_start_and_only_then() -> Done {
    let mut server = Server::start().await?;
    let mut device = server.enroll("BR-1").await?;
    device.beat(&naming(&device, &[], &["made.example"])).await?.success()?;
    // Taken in, and there the power went.
    crate::intel::feed(&server, first_tenant(&server).await?, "cut-off").await?;
    let admin = server.admin_token().await?;
    assert!(hunts(&server, &admin).await?.is_empty());
    for _ in 0..2 {
        server.restart().await?;
        let admin = server.admin_token().await?;
        let reports = hunted(&server, &admin, 1).await?;
        assert_eq!(reports.len(), 1, "{reports:?}");
    }
    let feeds = || {
        let mut hunted = Vec::new();
        server.app().services.store.read()?.visit(INTEL_FEEDS, &[], None, |_, row| {
            let row: Value = serde_json::from_slice(row.get(1..).unwrap_or_default()).unwrap_or_default();
            hunted.push(row["hunted"] == row["generation"]);
            Ok(true)
        })?;
        Ok::<Vec<bool>, Fault>(hunted)
    };
    assert_eq!(feeds()?, [true]);
    Ok(())
}

/// 63 heartbeats of 32 names made up threw everything out that a device had ever been seen with, its packages first, and
/// what stood in the memory of things written lately was not written again for hours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_names_flushes_names_only_and_no_device_fills_the_disk() -> Done {
    let server = Server::start_with(|c| {
        c.heartbeat.next = std::time::Duration::from_secs(5);
        c.tokens.access_ttl = 60 * DAY;
        c.billing.paywall = blockremote::config::Paywall::Off;
    })
    .await?;
    let admin = server.admin_token().await?;
    put(&server, &admin, "names", json!({ "content": "evil.example\n" })).await?.success()?;
    let mut device = server.enroll("BR-1").await?;
    let rows = |table| {
        let mut count = 0;
        server.app().services.store.read()?.visit(table, &[], None, |_, _| {
            count += 1;
            Ok(true)
        })?;
        Ok::<usize, Fault>(count)
    };
    let beat = naming(&device, &["com.example.spy"], &["evil.example", "early.example"]);
    device.beat(&beat).await?.success()?;
    assert_eq!(rows(SIGHTED_BY)?, 4, "with the address that it came from");
    let made_up = |tag: u32, count: u32| (0..count).map(|i| format!("host-{tag}-{i}.example")).collect::<Vec<_>>();
    let many = made_up(0, 40);
    device.beat(&naming(&device, &[], &many.iter().map(String::as_str).collect::<Vec<_>>())).await?.success()?;
    assert_eq!(rows(SIGHTED_BY)?, 4 + 32, "so many of one heartbeat");
    for day in 1..=4 {
        server.clock.advance(DAY);
        for round in 0..14 {
            let names = made_up(day * 100 + round, 30);
            let names: Vec<&str> = names.iter().map(String::as_str).chain(["steady.example"]).collect();
            device.beat(&naming(&device, &[], &names)).await?.success()?;
        }
        if day == 1 {
            assert_eq!(rows(SIGHTED_BY)?, 4 + 32 + 400, "so many of one day");
        }
    }
    assert_eq!(rows(SIGHTED_BY)?, 3 + 1_200);
    let know = |name: &str| {
        let mut known = false;
        server.app().services.store.read()?.visit(SIGHTED_BY, &[], None, |key, _| {
            known |= key.windows(name.len()).any(|part| part == name.as_bytes());
            Ok(true)
        })?;
        Ok::<bool, Fault>(known)
    };
    assert!(know("evil.example")? && know("com.example.spy")? && !know("early.example")?);
    assert!(know("steady.example")?, "it had to make room, and was written down again by the next heartbeat");
    packages(&server, &admin, "spy", "com.example.spy\n", 95).await?;
    let reports = hunted(&server, &admin, 1).await?;
    assert_eq!(text(&reports[0]["finds"][0], "value"), "com.example.spy", "{reports:?}");
    done(&server, &admin, "DELETE", "/v1/devices/BR-1", Value::Null).await?;
    assert_eq!((rows(SIGHTINGS)?, rows(SIGHTED_BY)?), (0, 0));
    Ok(())
}

/// Names behind the thousandth of a heartbeat were not looked at, and one with a label that no host may have was none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listed_name_is_found_behind_any_number_of_others_and_below_any_label() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    put(&server, &admin, "names", json!({ "content": "evil.example\nworse.example\n" })).await?.success()?;
    let (tenant, intel) = (first_tenant(&server).await?, &server.app().services.intel);
    let junk: Vec<String> = (0..6_000).map(|i| format!("junk-{i}.example")).collect();
    let names =
        junk.iter().map(String::as_str).chain(["a+b.evil.example", "x.worse.example", "qxkzvwpjtrbmhd.example"]);
    let sight = intel.sight(tenant, None, names, std::iter::empty());
    let listed: Vec<&str> = sight.sighted.iter().filter(|s| s.hit.is_some()).map(|s| s.value.as_str()).collect();
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert!(listed.contains(&"evil.example") && listed.contains(&"x.worse.example"), "{listed:?}");
    assert!(sight.sighted.len() <= 512, "and no more than can be written are handed on");
    Ok(())
}

/// A score of names was there, and nobody asked for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_of_a_heartbeat_that_looks_most_made_by_a_machine_is_told() -> Done {
    let server = Server::start().await?;
    let (tenant, intel) = (first_tenant(&server).await?, &server.app().services.intel);
    let sight = |names: Vec<&'static str>| intel.sight(tenant, None, names.into_iter(), std::iter::empty());
    let told = sight(vec!["www.wikipedia.org", "qxkzvwpjtrbmhd.example", "mail.google.com"]).strangest_name;
    let (name, score) = told.unwrap();
    assert_eq!(name, "qxkzvwpjtrbmhd.example");
    assert!(score > 0.9 && score == blockremote::domains::intel::dns_score(&name), "{score}");
    assert!(sight(vec!["203.0.113.9", "no name"]).strangest_name.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_that_proved_one_and_the_same_key_are_linked_while_they_do() -> Done {
    let server = crate::hardware::start().await?;
    let (maker, key) = (Maker::new("Phones")?, new_key());
    let admin = server.admin_token().await?;
    trust(&server, first_tenant(&server).await?, RootKind::AndroidKey, &maker).await?;
    let phones = [Phone::enroll(&server, "BR-1").await?, Phone::enroll(&server, "BR-2").await?];
    for phone in &phones {
        phone.android(&maker, &key, AndroidState::default()).await?;
    }
    let other = Phone::enroll(&server, "BR-3").await?;
    assert_eq!(other.android(&maker, &new_key(), AndroidState::default()).await?.status, 200);
    let by_key = |of: &'static str| {
        let (server, admin) = (&server, admin.clone());
        async move {
            let links = done(server, &admin, "GET", &format!("/v1/devices/{of}/links"), Value::Null).await?;
            let by_key =
                |l: &&Value| l["shared"].as_array().unwrap().iter().any(|s| text(s, "by") == "attestation_key");
            let found = links["data"].as_array().unwrap().iter().filter(by_key).map(|l| text(l, "device_id")).collect();
            Ok::<Vec<String>, Fault>(found)
        }
    };
    assert_eq!((by_key("BR-1").await?, by_key("BR-2").await?), (vec!["BR-2".to_owned()], vec!["BR-1".to_owned()]));
    assert!(by_key("BR-3").await?.is_empty());
    done(&server, &admin, "DELETE", "/v1/devices/BR-2", Value::Null).await?;
    assert!(by_key("BR-1").await?.is_empty());
    Ok(())
}
