//! Any decision can be recomputed from what is stored, to the same bits; and under a flood the answers say that only the
//! hard rules decided.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use blockremote::domains::signals::{self, Replayed, engine::Policy};
use blockremote::domains::tenants::Tenants;
use blockremote::store::Store;
use blockremote::testkit::{Server, text};
use serde_json::Value;

fn replayed(server: &Server, signal: &str, policy: &Policy) -> Option<Replayed> {
    let store = Store::look(&server.config().paths.data).unwrap_or_else(|e| panic!("{e}"));
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
