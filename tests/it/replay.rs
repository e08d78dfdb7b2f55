//! Any decision can be recomputed from what is stored, to the same bits; and under a flood the answers say that only the
//! hard rules decided.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use blockremote::agent::motion::{Human, MotionSource};
use blockremote::config::Paywall;
use blockremote::domains::signals::{self, Replayed, engine::Policy};
use blockremote::domains::tenants::Tenants;
use blockremote::store::Store;
use blockremote::store::tables::SIGNAL_RINGS;
use blockremote::testkit::{Server, text};
use serde_json::{Value, json};

use crate::cli::binary::Place;
use crate::common::{DAY, Done, audited};
use crate::heartbeat::refresh;

pub(crate) fn replayed(server: &Server, signal: &str, policy: &Policy) -> Option<Replayed> {
    // What the appliance left behind in this process (a read that nobody waits for) may hold the file a moment longer.
    let look = || Store::look(&server.config().paths.data);
    let busy = |error: &dyn std::fmt::Display| error.to_string().contains("in use");
    let mut store = look();
    for _ in 0..200 {
        if !store.as_ref().is_err_and(|e| busy(e)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        store = look();
    }
    let store = store.unwrap_or_else(|e| panic!("{e}"));
    let tenants: Vec<_> = Tenants::rebuild(store.clone()).unwrap().entries().iter().map(|t| t.id).collect();
    signals::replay(&store.read().unwrap(), &tenants, signal.parse().unwrap(), policy).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_decision_can_be_recomputed_from_what_is_stored() {
    let mut server = Server::start().await.unwrap();
    let mut phone = server.enroll("BR-1").await.unwrap();
    let mut answers: Vec<Value> = Vec::new();
    for _ in 0..12 {
        answers.push(phone.beat(&phone.calm()).await.unwrap().json().unwrap());
        server.clock.advance(Duration::from_secs(5));
    }
    answers.push(phone.beat(&phone.hostile()).await.unwrap().json().unwrap());
    assert_eq!(answers[12]["decision"], "block");
    server.stop().await;
    let policy = Policy::default();
    for (n, answer) in answers.iter().enumerate() {
        let again = replayed(&server, &text(answer, "signal_id"), &policy).unwrap();
        assert!(again.same(), "heartbeat {n}: {:?} became {:?}", again.recorded, again.assessment);
        assert_eq!(u64::from(again.assessment.score.points()), answer["trust_score"].as_u64().unwrap());
    }
    // A replay that could not fail would show nothing.
    let other = Policy { weights: [0.0, 0.0, 0.0, 1.0], threshold: 60, ..policy };
    assert!(!replayed(&server, &text(&answers[3], "signal_id"), &other).unwrap().same());
    assert!(replayed(&server, "sig_019b0a5e-7c11-7a4e-9d5a-2f6b1c3d4e5f", &policy).is_none());
}

/// Behind the bound of the queue the hard rules still lock, and nothing else changes its mind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_queue_the_simplified_scorer_answers_and_says_so() {
    let mut server = Server::start_with(|config| config.engine.simplified_from = 0).await.unwrap();
    let mut phone = server.enroll("BR-1").await.unwrap();
    let calm: Value = phone.beat(&phone.calm()).await.unwrap().json().unwrap();
    assert_eq!((text(&calm, "engine").as_str(), text(&calm, "decision").as_str()), ("simplified", "allow"));
    let hostile: Value = phone.beat(&phone.hostile()).await.unwrap().json().unwrap();
    assert_eq!((text(&hostile, "engine").as_str(), text(&hostile, "decision").as_str()), ("simplified", "block"));
    server.stop().await;
    for answer in [calm, hostile] {
        assert!(replayed(&server, &text(&answer, "signal_id"), &Policy::default()).unwrap().same());
    }
}

/// A second policy judges the same readings, is shown, and acts on nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_policy_reports_and_does_not_act() {
    let server = Server::start_with(|config| config.engine.shadow_threshold = 60).await.unwrap();
    let mut phone = server.enroll("BR-1").await.unwrap();
    let answer: Value = phone.beat(&phone.calm()).await.unwrap().json().unwrap();
    assert_eq!((answer["decision"].as_str(), answer["threshold"].as_u64()), (Some("allow"), Some(40)));
    let token = server.admin_token().await.unwrap();
    let path = "/v1/security/trust-score?device_id=BR-1";
    let seen: Value = server.client().unwrap().get(path, Some(&token)).await.unwrap().json().unwrap();
    assert_eq!(seen["shadow"]["threshold"], 60);
    assert_eq!(seen["decision"], "allow");
    let told = seen["explanation"].as_array().unwrap();
    assert!(told.iter().any(|e| e["feature"] == "white") && told.iter().all(|e| e["baseline"].is_number()));
}

/// A population that is tried out gathers evidence of its own, is shown and counted, and acts on nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_population_on_trial_reports_and_does_not_act() {
    let folder = tempfile::tempdir().unwrap();
    let (table, nobody) = (folder.path().join("population.txt"), folder.path().join("nobody.txt"));
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/src/domains/signals/engine/population.txt");
    let text = std::fs::read_to_string(shipped).unwrap().replacen("version 1\n", "version 7\n", 1);
    std::fs::write(&table, text).unwrap();
    std::fs::write(&nobody, "version 8\nbounds 1 2\n").unwrap();
    let refused = Server::start_with(|config| config.engine.shadow_population = Some(nobody)).await;
    let why = refused.err().unwrap().to_string();
    assert!(why.contains("engine.shadow_population") && why.contains("line 2"), "{why}");

    let server = Server::start_with(|config| config.engine.shadow_population = Some(table)).await.unwrap();
    let mut phone = server.enroll("BR-1").await.unwrap();
    let calm: Value = phone.beat(&phone.calm()).await.unwrap().json().unwrap();
    assert_eq!(calm["decision"], "allow");
    let token = server.admin_token().await.unwrap();
    let path = "/v1/security/trust-score?device_id=BR-1";
    let seen: Value = server.client().unwrap().get(path, Some(&token)).await.unwrap().json().unwrap();
    assert_eq!((&seen["shadow"]["population_version"], &seen["shadow"]["decision"]), (&7.into(), &"allow".into()));
    let counted = r#"blockremote_shadow_decisions_total{active="allow",shadow="allow"} 1"#;
    let (_, metrics) = crate::openapi::internal(&server, "/metrics", "").await.unwrap();
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
}

/// A heartbeat of somebody who moves; mirrored in its first reading where `mirrored`.
fn moving(human: &mut Human, mirrored: bool) -> Value {
    let reading = |i: usize, human: &mut Human| {
        let r = human.next_reading();
        json!({ "t_ms": r.t_ms, "accelerometer": r.accelerometer, "gyroscope": r.gyroscope,
            "window_mirroring": mirrored && i == 0 })
    };
    json!({ "device_id": "BR-1", "readings": (0..100).map(|i| reading(i, human)).collect::<Vec<_>>() })
}

/// Only the answers were compared, which calm readings give from any state; and the last copy of a state was deleted while
/// the readings that followed it were still kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_figure_is_the_same_after_days_and_after_a_long_silence() -> Done {
    let mut server = Server::start_with(|config| {
        config.store.checkpoint_bytes = 1;
        config.billing.paywall = Paywall::Off;
    })
    .await?;
    let mut human = Human::new(11);
    let mut answers: Vec<Value> = Vec::new();
    let mut phone = server.enroll("BR-1").await?;
    for day in 0..3 {
        refresh(&mut phone).await;
        for n in 0..6 {
            answers.push(phone.beat(&moving(&mut human, day == 1 && n == 2)).await?.json()?);
            server.clock.advance(Duration::from_secs(5));
        }
        server.clock.advance(DAY);
    }
    for _ in 0..2 {
        server.clock.advance(DAY * 5);
        refresh(&mut phone).await;
    }
    answers.clear();
    for n in 0..8 {
        answers.push(phone.beat(&moving(&mut human, n == 4)).await?.json()?);
        server.clock.advance(Duration::from_secs(5));
    }
    server.stop().await;
    for (n, answer) in answers.iter().enumerate() {
        let again = replayed(&server, &text(answer, "signal_id"), &Policy::default()).ok_or("nothing is stored")?;
        assert!(again.digest.is_some() && again.same(), "heartbeat {n}: {:?} {:?}", again.recorded, again.assessment);
    }
    let decided: Vec<&str> = answers.iter().filter_map(|a| a["decision"].as_str()).collect();
    assert!(decided.contains(&"challenge") && decided.contains(&"allow"), "{decided:?}");
    Ok(())
}

/// What an engine of another version had gathered cannot be continued: the device starts anew, and that is said once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_update_of_the_engine_a_device_starts_anew_and_the_log_says_so() -> Done {
    let mut server = Server::start_with(|config| config.store.checkpoint_bytes = 1).await?;
    let mut phone = server.enroll("BR-1").await?;
    let mut human = Human::new(12);
    for _ in 0..3 {
        phone.beat(&moving(&mut human, false)).await?;
    }
    let store = server.app().services.store.clone();
    let aged = store.write(|tx| {
        let rows = tx.scan(SIGNAL_RINGS, &blockremote::store::tables::Key::new(), 10)?;
        for (key, mut row) in rows.clone() {
            // Behind the checkpoint's own version, two numbers and two bytes stands that of the engine.
            row[19] = 1;
            tx.put_raw(SIGNAL_RINGS, key, &row)?;
        }
        Ok(rows.len())
    });
    assert_eq!(aged.await?, 1);
    drop(store);
    server.restart().await?;
    let (mut client, token) = (server.client()?, phone.access_token);
    for _ in 0..2 {
        let beat = moving(&mut human, false);
        let answer: Value = client.post("/v1/signals/heartbeat", Some(&token), &beat).await?.json()?;
        assert_eq!(answer["decision"], "allow");
    }
    let said = audited(&server, "BR-1").await?;
    assert_eq!(said.iter().filter(|action| *action == "engine_restarted").count(), 1, "{said:?}");
    Ok(())
}

/// The file of a running appliance is its own, so an analyst had to stop it to look into a decision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_is_recomputed_by_the_appliance_while_it_runs_and_from_its_file_alike() -> Done {
    let (place, said) = Place::set_up();
    let running = place.serve();
    let mut client = running.client();
    let ticket = text(&said, "enrollment_token");
    let enroll = json!({ "device_id": "BR-1", "device_name": "a", "os_version": "1", "enrollment_token": ticket });
    let device: Value = client.post("/v1/auth/device", None, &enroll).await?.json()?;
    let token = text(&device, "access_token");
    let mut signals = Vec::new();
    for overlay in [0.0, 1.0] {
        let reading =
            json!({ "accelerometer": [0.1, 9.79, 0.3], "gyroscope": [0.01, 0.02, -0.03], "overlay": overlay });
        let beat = json!({ "device_id": "BR-1", "payload": reading });
        let answer: Value = client.post("/v1/signals/heartbeat", Some(&token), &beat).await?.json()?;
        signals.push((text(&answer, "signal_id"), text(&answer, "decision")));
    }
    assert_eq!(signals.iter().map(|(_, decision)| decision.as_str()).collect::<Vec<_>>(), ["allow", "challenge"]);
    let recompute = || -> Vec<String> {
        let told = |signal: &str| place.ends(&["audit", "replay", signal, "--json"], 0).0;
        signals.iter().map(|(signal, _)| told(signal)).collect()
    };
    let while_it_runs = recompute();
    let unknown = ["audit", "replay", "sig_019b0a5e-7c11-7a4e-9d5a-2f6b1c3d4e5f"];
    assert!(place.ends(&unknown, 1).1.contains("Nothing is stored"));
    running.terminate();
    assert_eq!(recompute(), while_it_runs);
    assert!(place.ends(&["audit", "replay", &signals[1].0], 0).0.contains("They are the same."));
    assert!(place.ends(&unknown, 1).1.contains("Nothing is stored"));
    Ok(())
}
