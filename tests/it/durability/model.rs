//! The appliance against a plain map: whatever is done in whatever order, with restarts in between, it answers as the
//! model says.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use blockremote::client::HttpClient;
use blockremote::testkit::{Server, text};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::killswitch::raw::Raw;

/// What is done, to one of a few devices.
#[derive(Clone, Debug)]
enum Step {
    Enroll(u8),
    Calm(u8),
    Hostile(u8),
    Retry(u8),
    Command(u8),
    /// Connects, must be sent exactly the open commands, and confirms this many of them.
    Confirm(u8, usize),
    Unblock(u8),
    Refresh(u8),
    Logout(u8),
    /// Somebody presents the refresh token before the present one, long after its grace.
    Theft(u8),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let device = 0..3_u8;
    let step = prop_oneof![
        3 => device.clone().prop_map(Step::Enroll),
        6 => device.clone().prop_map(Step::Calm),
        2 => device.clone().prop_map(Step::Hostile),
        2 => device.clone().prop_map(Step::Retry),
        3 => device.clone().prop_map(Step::Command),
        3 => (device.clone(), 0..3_usize).prop_map(|(d, n)| Step::Confirm(d, n)),
        2 => device.clone().prop_map(Step::Unblock),
        2 => device.clone().prop_map(Step::Refresh),
        1 => device.clone().prop_map(Step::Logout),
        1 => device.prop_map(Step::Theft),
        2 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 10..40)
}

/// A device as it ought to be.
#[derive(Default)]
struct Model {
    access_token: String,
    refresh_token: String,
    older_refresh_token: Option<String>,
    seq: u64,
    /// The last answer and whether it was given in this session.
    last: Option<Value>,
    blocked: bool,
    logged_out: bool,
    /// Its session was ended because of a theft.
    revoked: bool,
    /// Actions and ids of commands that are not confirmed, oldest first; ids of those that rules made are not known.
    open: Vec<(String, Option<String>)>,
}

struct World<'a> {
    server: &'a mut Server,
    client: HttpClient,
    admin: String,
    case: u64,
    devices: BTreeMap<u8, Model>,
}

impl World<'_> {
    fn id(&self, device: u8) -> String {
        format!("c{}-{device}", self.case)
    }

    async fn post(&mut self, path: &str, token: Option<&str>, body: &Value) -> (u16, Value) {
        let response = self.client.post(path, token, body).await.unwrap();
        (response.status, serde_json::from_slice(&response.body).unwrap_or_default())
    }

    /// What the model says a heartbeat is refused with.
    fn refusal(model: &Model) -> Option<u16> {
        match model {
            Model { logged_out: true, .. } | Model { revoked: true, .. } => Some(401),
            Model { blocked: true, .. } => Some(423),
            _ => None,
        }
    }

    async fn beat(&mut self, device: u8, hostile: bool) {
        let id = self.id(device);
        let Some(model) = self.devices.get(&device) else { return };
        let (token, seq, expected) = (model.access_token.clone(), model.seq + 1, Self::refusal(model));
        let (status, answer) = self.post("/v1/signals/heartbeat", Some(&token), &super::beat(&id, seq, hostile)).await;
        assert_eq!(status, expected.unwrap_or(200), "{id}: {answer}");
        let model = self.devices.get_mut(&device).unwrap();
        if status == 200 {
            assert_eq!(answer["decision"] == "block", hostile, "{id}: {answer}");
            model.seq = seq;
            model.last = Some(answer);
            if hostile {
                model.blocked = true;
                model.open.push(("LOCK_SYSTEM".to_owned(), None));
            }
        }
    }

    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Restart => {
                self.server.restart().await.unwrap();
                self.client = self.server.client().unwrap();
            }
            Step::Enroll(device) => {
                let id = self.id(device);
                let token = self.server.enrollment_token.clone();
                let body = json!({ "device_id": id, "device_name": "a", "os_version": "1", "enrollment_token": token });
                let (status, answer) = self.post("/v1/auth/device", None, &body).await;
                match self.devices.entry(device) {
                    Entry::Occupied(_) => {
                        assert_eq!((status, text(&answer, "code")), (409, "device_exists".to_owned()));
                    }
                    Entry::Vacant(place) => {
                        assert_eq!(status, 201, "{answer}");
                        place.insert(Model {
                            access_token: text(&answer, "access_token"),
                            refresh_token: text(&answer, "refresh_token"),
                            ..Model::default()
                        });
                    }
                }
            }
            Step::Calm(device) => self.beat(device, false).await,
            Step::Hostile(device) => self.beat(device, true).await,
            Step::Retry(device) => {
                let id = self.id(device);
                let Some(Model { last: Some(last), .. }) = self.devices.get(&device) else { return };
                let (last, model) = (last.clone(), &self.devices[&device]);
                let (token, seq, expected) = (model.access_token.clone(), model.seq, Self::refusal(model));
                let (status, answer) =
                    self.post("/v1/signals/heartbeat", Some(&token), &super::beat(&id, seq, false)).await;
                assert_eq!(status, expected.unwrap_or(200), "{answer}");
                if status == 200 {
                    assert_eq!(answer, last);
                }
            }
            Step::Command(device) => {
                let path = format!("/v1/devices/{}/commands", self.id(device));
                let body = json!({ "action": "FORCE_OVERLAY", "reason": "a test" });
                let admin = self.admin.clone();
                let (status, answer) = self.post(&path, Some(&admin), &body).await;
                match self.devices.get_mut(&device) {
                    None => assert_eq!(status, 404),
                    Some(model) => {
                        assert_eq!(status, 202, "{answer}");
                        model.open.push(("FORCE_OVERLAY".to_owned(), Some(text(&answer, "command_id"))));
                    }
                }
            }
            Step::Unblock(device) => {
                let path = format!("/v1/devices/{}/unblock", self.id(device));
                let admin = self.admin.clone();
                let (status, answer) = self.post(&path, Some(&admin), &json!({ "reason": "a test" })).await;
                match self.devices.get_mut(&device) {
                    None => assert_eq!(status, 404),
                    Some(model) if model.blocked => {
                        assert_eq!(status, 200, "{answer}");
                        model.blocked = false;
                        model.open.push(("UNLOCK".to_owned(), Some(text(&answer, "command_id"))));
                    }
                    Some(_) => assert_eq!((status, text(&answer, "code")), (409, "not_blocked".to_owned())),
                }
            }
            Step::Refresh(device) => {
                let Some(model) = self.devices.get(&device) else { return };
                let over = model.logged_out || model.revoked;
                let body = json!({ "refresh_token": model.refresh_token });
                let (status, answer) = self.post("/v1/auth/refresh", None, &body).await;
                if over {
                    assert_eq!((status, text(&answer, "code")), (403, "refresh_invalid".to_owned()));
                } else {
                    assert_eq!(status, 200, "{answer}");
                    let model = self.devices.get_mut(&device).unwrap();
                    model.access_token = text(&answer, "access_token");
                    let newer = text(&answer, "refresh_token");
                    model.older_refresh_token = Some(std::mem::replace(&mut model.refresh_token, newer));
                }
            }
            Step::Theft(device) => self.theft(device).await,
            Step::Logout(device) => {
                let Some(model) = self.devices.get_mut(&device) else { return };
                let over = model.logged_out || model.revoked;
                let expected = if over { 401 } else { 204 };
                model.logged_out |= !over;
                let token = model.access_token.clone();
                let response =
                    self.client.post_bytes("/v1/auth/logout", Some(&token), bytes::Bytes::new()).await.unwrap();
                assert_eq!(response.status, expected);
            }
            Step::Confirm(device, count) => self.confirm(device, count).await,
        }
    }

    async fn theft(&mut self, device: u8) {
        let Some(Model { older_refresh_token: Some(old), .. }) = self.devices.get(&device) else { return };
        let body = json!({ "refresh_token": old });
        self.server.clock.advance(Duration::from_secs(11));
        let (status, answer) = self.post("/v1/auth/refresh", None, &body).await;
        let model = self.devices.get_mut(&device).unwrap();
        if model.logged_out || model.revoked {
            assert_eq!((status, text(&answer, "code")), (403, "refresh_invalid".to_owned()), "never a lock");
        } else {
            assert_eq!((status, text(&answer, "code")), (403, "refresh_reused".to_owned()));
            (model.revoked, model.blocked) = (true, true);
            model.open.push(("CRITICAL_LOCK".to_owned(), None));
        }
    }

    async fn confirm(&mut self, device: u8, count: usize) {
        let Some(model) = self.devices.get_mut(&device) else { return };
        let mut socket = Raw::with_token(&self.server.endpoint().unwrap(), &model.access_token).await;
        if model.logged_out {
            assert_eq!(socket.closed().await, 1008);
            return;
        }
        let first = socket.json().await;
        let mode = if model.blocked || model.revoked { "commands_only" } else { "full" };
        assert_eq!((text(&first, "action"), &first["payload"]["mode"]), ("AUTH_OK".to_owned(), &json!(mode)));
        let mut ids = Vec::new();
        for (action, id) in &model.open {
            let frame = socket.json().await;
            assert_eq!(text(&frame, "action"), *action);
            let sent = text(&frame, "command_id");
            assert!(id.as_ref().is_none_or(|id| *id == sent), "the open commands come in their order");
            ids.push(sent);
        }
        for id in ids.iter().take(count) {
            socket.ack(id, "enforced").await;
            model.open.remove(0);
        }
        // Answers come in order: once this one is there, the confirmations are durable.
        socket.is_quiet().await;
    }

    /// The whole picture, as an administrator sees it.
    async fn compare(&mut self) {
        for device in 0..3 {
            self.confirm(device, 0).await;
            let id = self.id(device);
            let seen = self.client.get(&format!("/v1/devices/{id}"), Some(&self.admin)).await.unwrap();
            let Some(model) = self.devices.get(&device) else {
                assert_eq!(seen.status, 404);
                continue;
            };
            let trust = format!("/v1/security/trust-score?device_id={id}");
            let trust: Value = self.client.get(&trust, Some(&self.admin)).await.unwrap().json().unwrap();
            assert_eq!(trust["decision"] == "block", model.blocked, "{id}: {}", trust["decision"]);
            let list = format!("/v1/devices/{id}/commands?limit=200");
            let list: Value = self.client.get(&list, Some(&self.admin)).await.unwrap().json().unwrap();
            let commands = list["data"].as_array().unwrap();
            let open = commands.iter().filter(|c| c["status"] != "enforced").count();
            assert_eq!(open, model.open.len(), "{id}: {list}");
            let seqs: Vec<u64> = commands.iter().map(|c| c["seq"].as_u64().unwrap()).collect();
            assert!(seqs.windows(2).all(|w| w[0] > w[1]), "{seqs:?}");
        }
    }
}

#[test]
fn any_sequence_of_operations_and_restarts_agrees_with_a_plain_map() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(Server::start_with(|c| {
        c.limits.write_per_minute = 100_000;
        c.limits.read_per_minute = 100_000;
        c.store.checkpoint_bytes = 2_000;
    }));
    let state = std::cell::RefCell::new((server.unwrap(), 0_u64));
    let config = Config { cases: 24, max_shrink_iters: 60, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&steps(), |steps| {
        let (server, case) = &mut *state.borrow_mut();
        *case += 1;
        runtime.block_on(async {
            let (admin, client) = (server.admin_token().await.unwrap(), server.client().unwrap());
            let mut world = World { server, client, admin, case: *case, devices: BTreeMap::new() };
            for step in &steps {
                world.step(step).await;
                world.server.clock.advance(Duration::from_millis(600));
            }
            world.step(&Step::Restart).await;
            world.compare().await;
        });
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
