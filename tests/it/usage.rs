//! What is counted of a company's use, and that the counts hold: against the log, across crashes, by day and month.

use std::time::Duration;

use blockremote::client::HttpClient;
use blockremote::testkit::{Fault, Server, text};
use serde_json::{Value, json};

use crate::cli::binary::Place;
use crate::common::{DAY, Done, add_user, audited, body, enrollment_token, first_tenant, header, new_tenant};
use crate::people::{ask, done};

async fn usage(server: &Server, token: &str, query: &str) -> Result<Vec<Value>, Fault> {
    let answer = done(server, token, "GET", &format!("/v1/usage{query}"), Value::Null).await?;
    Ok(answer["data"].as_array().cloned().unwrap_or_default())
}

fn sum(rows: &[Value], name: &str) -> u64 {
    rows.iter().filter_map(|row| row[name].as_u64()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_locks_devices_and_people_are_counted_for_the_day_on_which_they_were() -> Done {
    let mut server = Server::start().await?;
    // The first of a month, so that days of one week lie in one month; the first token does not live that long.
    server.clock.set("2027-02-01T12:00:00Z".parse()?);
    let tenant = first_tenant(&server).await?;
    server.enrollment_token = enrollment_token(&server, tenant, None).await?;
    let mut phones = [server.enroll("BR-1").await?, server.enroll("BR-2").await?];
    for (day, beats) in [(0, [2, 1]), (1, [3, 0]), (2, [0, 1])] {
        for (phone, n) in phones.iter_mut().zip(beats) {
            for _ in 0..n {
                phone.beat(&phone.calm()).await?.success()?;
            }
        }
        if day < 2 {
            server.clock.advance(DAY);
            for phone in &mut phones {
                (phone.access_token, phone.refresh_token) =
                    crate::common::refreshed(&server, &phone.refresh_token).await?;
            }
        }
    }
    let [one, _] = &mut phones;
    one.beat(&one.hostile()).await?.success()?;
    let admin = server.admin_token().await?;
    let days = usage(&server, &admin, "?from=2027-02-01&to=2027-02-03").await?;
    let of = |name: &str| days.iter().map(|d| d[name].as_u64().unwrap_or(99)).collect::<Vec<_>>();
    assert_eq!(days.iter().map(|d| text(d, "period")).collect::<Vec<_>>(), ["2027-02-01", "2027-02-02", "2027-02-03"]);
    assert_eq!((of("heartbeats"), of("active_devices")), (vec![3, 3, 2], vec![2, 1, 2]));
    assert_eq!(of("locks"), [0, 0, 1]);
    assert_eq!(audited(&server, "BR-1").await?.iter().filter(|a| *a == "device_blocked").count(), 1, "as the log says");
    for (by, period) in [("week", "2027-02-01"), ("month", "2027-02")] {
        let folded = usage(&server, &admin, &format!("?from=2027-02-01&to=2027-02-28&by={by}")).await?;
        let [row] = folded.as_slice() else { return Err(format!("{by}: {folded:?}").into()) };
        assert_eq!(text(row, "period"), period);
        assert_eq!(
            (&row["heartbeats"], &row["locks"], &row["active_devices"]),
            (&json!(8), &json!(1), &json!(2)),
            "different ones are not added up: {by}"
        );
    }
    // The administrator is one person however often they ask.
    let rows = usage(&server, &admin, "?from=2027-02-03&to=2027-02-03").await?;
    assert_eq!(sum(&rows, "active_users"), 1);
    assert!(sum(&rows, "requests") >= 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_what_another_company_used_and_a_table_can_be_taken_away() -> Done {
    let server = Server::start().await?;
    let tenant = new_tenant(&server, "the neighbour").await?;
    let theirs = text(&add_user(&server, tenant, "neighbour", "admin").await?, "access_token");
    let mut phone = server.enroll("BR-1").await?;
    phone.beat(&phone.calm()).await?.success()?;
    assert_eq!(sum(&usage(&server, &theirs, "").await?, "heartbeats"), 0);
    let admin = server.admin_token().await?;
    assert_eq!(sum(&usage(&server, &admin, "").await?, "heartbeats"), 1);
    let csv = ask(&server, &admin, "GET", "/v1/usage?format=csv", Value::Null).await?;
    assert_eq!(header(&csv, "content-type"), "text/csv; charset=utf-8");
    let csv = String::from_utf8(csv.body.to_vec())?;
    let mut lines = csv.split("\r\n");
    assert!(lines.next().is_some_and(|head| head.starts_with("period,requests,heartbeats,")), "{csv}");
    assert!(lines.next().is_some_and(|row| row.split(',').nth(2) == Some("1")), "{csv}");
    for (query, pointer) in [
        ("?from=yesterday", "?from"),
        ("?from=2027-02-30", "?from"),
        ("?by=hour", "?by"),
        ("?format=xml", "?format"),
        ("?from=2027-01-02&to=2027-01-01", "?from"),
        ("?from=1990-01-01&to=2027-01-01", "?from"),
    ] {
        let refused = ask(&server, &admin, "GET", &format!("/v1/usage{query}"), Value::Null).await?;
        assert_eq!((refused.status, &body(&refused)["errors"][0]["pointer"]), (422, &json!(pointer)), "{query}");
    }
    Ok(())
}

/// The power goes again and again; whatever heartbeat was acknowledged is counted, and none twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sums_survive_kill_9() -> Done {
    let (place, said) = Place::set_up();
    let mut sent = 0;
    let mut token = String::new();
    for round in 0..6_u32 {
        let running = place.serve();
        let mut client: HttpClient = running.client();
        if round == 0 {
            let enrollment = text(&said, "enrollment_token");
            let wanted = crate::common::enrollment("BR-1", Some(&enrollment));
            token = text(&client.post("/v1/auth/device", None, &wanted).await?.json()?, "access_token");
        }
        for n in 0..15_u32 {
            let seq = round * 15 + n + 1;
            let payload = json!({ "accelerometer": [0.1, 9.79, f64::from(seq) / 1e4], "gyroscope": [0.01, 0.02, 0.0] });
            let beat = json!({ "device_id": "BR-1", "seq": seq, "payload": payload });
            client.post("/v1/signals/heartbeat", Some(&token), &beat).await?.success()?;
            sent += 1;
        }
        // Some rounds end before, some after a checkpoint of ten idle seconds has begun.
        if round == 3 {
            tokio::time::sleep(Duration::from_secs(12)).await;
        }
        running.kill_hard();
    }
    let running = place.serve();
    let mut client = running.client();
    let login: Value = client.post("/v1/auth/login", None, &said["admin"]).await?.json()?;
    let answer: Value = client.get("/v1/usage", Some(&text(&login, "access_token"))).await?.json()?;
    let days = answer["data"].as_array().cloned().unwrap_or_default();
    assert_eq!(sum(&days, "heartbeats"), sent);
    assert!(days.iter().filter(|d| d["heartbeats"] != 0).all(|d| d["active_devices"] == 1), "{days:?}");
    running.kill_hard();
    Ok(())
}

/// Heartbeats of a device that was removed before the next checkpoint vanished with the next restart, although they had
/// been acknowledged; and nobody had asked for anything but heartbeats after a kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_devices_requests_and_people_are_counted_after_kill_9_too() -> Done {
    let (place, said) = Place::set_up();
    let running = place.serve();
    let mut client: HttpClient = running.client();
    let enrollment = text(&said, "enrollment_token");
    let login: Value = client.post("/v1/auth/login", None, &said["admin"]).await?.json()?;
    let admin = text(&login, "access_token");
    for device in ["STAYS", "GOES"] {
        let wanted = crate::common::enrollment(device, Some(&enrollment));
        let token = text(&client.post("/v1/auth/device", None, &wanted).await?.json()?, "access_token");
        for seq in 1..=5 {
            let payload = json!({ "accelerometer": [0.1, 9.79, f64::from(seq) / 1e4], "gyroscope": [0.01, 0.02, 0.0] });
            let beat = json!({ "device_id": device, "seq": seq, "payload": payload });
            client.post("/v1/signals/heartbeat", Some(&token), &beat).await?.success()?;
        }
    }
    let bearer = format!("Bearer {admin}");
    let headers = [("authorization", bearer.as_str())];
    client.request(hyper::Method::DELETE, "/v1/devices/GOES", &headers, "".into()).await?.success()?;
    let counted = |usage: &Value| {
        let days = usage["data"].as_array().cloned().unwrap_or_default();
        ["heartbeats", "active_devices", "active_users", "requests"].map(|name| sum(&days, name))
    };
    let before: Value = client.get("/v1/usage", Some(&admin)).await?.json()?;
    let before = counted(&before);
    assert_eq!(before[..3], [10, 2, 1]);
    // Longer than requests and people stay in memory.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    running.kill_hard();
    // Once more with a checkpoint behind it: then the removed device's heartbeats are counted, and not again.
    for round in 0..2 {
        let running = place.serve();
        let mut client = running.client();
        let login: Value = client.post("/v1/auth/login", None, &said["admin"]).await?.json()?;
        let usage: Value = client.get("/v1/usage", Some(&text(&login, "access_token"))).await?.json()?;
        let after = counted(&usage);
        assert_eq!(after[..3], before[..3], "round {round}");
        assert!(after[3] >= before[3], "{after:?} {before:?}");
        if round == 0 {
            tokio::time::sleep(Duration::from_secs(12)).await;
        }
        running.kill_hard();
    }
    Ok(())
}

/// A kill in the middle of a checkpoint of many devices, whose rings go to disk a few at a time: the cut is made and not
/// written, and the journal counts it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_is_cut_off_counts_nothing_twice() -> Done {
    const DEVICES: u64 = 40;
    let (place, said) = Place::set_up();
    let mut tokens = Vec::new();
    let mut sent = 0;
    for round in 0..4_u32 {
        let running = place.serve();
        let mut client: HttpClient = running.client();
        if round == 0 {
            for n in 0..DEVICES {
                let wanted = crate::common::enrollment(&format!("BR-{n}"), Some(&text(&said, "enrollment_token")));
                tokens.push(text(&client.post("/v1/auth/device", None, &wanted).await?.json()?, "access_token"));
            }
        } else if round > 1 {
            // What the last round left in the journal falls due after ten idle seconds; commits then come one by one.
            tokio::time::sleep(Duration::from_millis(10_000)).await;
        }
        for (n, token) in tokens.iter().enumerate() {
            let payload =
                json!({ "accelerometer": [0.1, 9.79, f64::from(round) / 1e4], "gyroscope": [0.01, 0.02, 0.0] });
            let beat = json!({ "device_id": format!("BR-{n}"), "seq": round + 1, "payload": payload });
            client.post("/v1/signals/heartbeat", Some(token), &beat).await?.success()?;
            sent += 1;
        }
        running.kill_hard();
    }
    let running = place.serve();
    let mut client = running.client();
    let login: Value = client.post("/v1/auth/login", None, &said["admin"]).await?.json()?;
    let usage: Value = client.get("/v1/usage", Some(&text(&login, "access_token"))).await?.json()?;
    let days = usage["data"].as_array().cloned().unwrap_or_default();
    assert_eq!((sum(&days, "heartbeats"), sum(&days, "active_devices")), (sent, DEVICES));
    running.kill_hard();
    Ok(())
}
