//! Feature flags: kept, evaluated, heard by OpenFeature's own SDK, and switches of the appliance itself.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use blockremote::client::Response;
use blockremote::domains::signals::engine::Policy;
use blockremote::testkit::{Fault, Server, text};
use serde_json::{Value, json};

use crate::common::{DAY, Done, add_user, assert_refused, body, code, enroll_with, enrollment, header, second_tenant};
use crate::people::{ask, done};

const BULK: &str = "/ofrep/v1/evaluate/flags";

/// A flag that says yes to the users of one company and to a quarter of all others.
fn banner() -> Value {
    json!({
        "description": "the new banner",
        "variants": { "on": true, "off": false },
        "off_variant": "off",
        "rules": [{
            "when": [{ "attribute": "company", "is": "in", "values": ["acme"] }],
            "serve": { "variant": "on" },
        }],
        "otherwise": { "percent": { "on": 25, "off": 75 } },
    })
}

fn simple(value: bool) -> Value {
    json!({ "variants": { "it": value }, "off_variant": "it", "otherwise": { "variant": "it" } })
}

async fn evaluate(server: &Server, token: &str, key: &str, context: Value) -> Result<Response, Fault> {
    ask(server, token, "POST", &format!("{BULK}/{key}"), json!({ "context": context })).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flag_counts_from_the_answer_to_its_change_on_and_the_log_knows_who_changed_it() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let made = ask(&server, &admin, "PUT", "/v1/flags/banner", banner()).await?;
    assert_eq!((made.status, &body(&made)["key"]), (201, &json!("banner")), "{}", body(&made));
    let said = evaluate(&server, &admin, "banner", json!({ "targetingKey": "zoe", "company": "acme" })).await?;
    let expected = json!({ "key": "banner", "reason": "TARGETING_MATCH", "variant": "on", "value": true });
    assert_eq!((said.status, body(&said)), (200, expected));
    let mut killed = banner();
    killed["killed"] = json!(true);
    assert_eq!(ask(&server, &admin, "PUT", "/v1/flags/banner", killed).await?.status, 200);
    let said = body(&evaluate(&server, &admin, "banner", json!({ "targetingKey": "zoe", "company": "acme" })).await?);
    assert_eq!((&said["value"], &said["reason"]), (&json!(false), &json!("DISABLED")));
    done(&server, &admin, "DELETE", "/v1/flags/banner", Value::Null).await?;
    assert_eq!(evaluate(&server, &admin, "banner", json!({})).await?.status, 404);
    let log = done(&server, &admin, "GET", "/v1/audit/logs", Value::Null).await?;
    let entries: Vec<&Value> = log["data"].as_array().into_iter().flatten().collect();
    for (action, mention) in
        [("flag_created", "acme"), ("flag_updated", "/killed false -> true"), ("flag_deleted", "banner")]
    {
        let entry = entries.iter().find(|e| e["action_taken"] == action).ok_or(action)?;
        assert!(text(entry, "decision_reason").contains(mention) && !text(entry, "user_id").is_empty(), "{entry}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_protocol_names_its_own_errors_and_a_known_answer_is_not_sent_twice() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    done(&server, &admin, "PUT", "/v1/flags/banner", banner()).await?;
    done(&server, &admin, "PUT", "/v1/flags/plain", simple(true)).await?;
    for (key, request, status, error) in [
        ("none", json!({ "context": {} }), 404, "FLAG_NOT_FOUND"),
        ("banner", json!({ "context": {} }), 400, "TARGETING_KEY_MISSING"),
        ("banner", json!({ "context": { "targetingKey": 7 } }), 400, "INVALID_CONTEXT"),
        ("banner", json!({ "context": [] }), 400, "PARSE_ERROR"),
    ] {
        let answer = ask(&server, &admin, "POST", &format!("{BULK}/{key}"), request).await?;
        let problem = body(&answer);
        assert_eq!((answer.status, &problem["errorCode"], &problem["key"]), (status, &json!(error), &json!(key)));
    }
    let bulk = ask(&server, &admin, "POST", BULK, json!({ "context": {} })).await?;
    let flags = body(&bulk)["flags"].clone();
    assert_eq!(flags[0]["errorCode"], "TARGETING_KEY_MISSING", "one flag's trouble is not another's: {flags}");
    assert_eq!((&flags[1]["key"], &flags[1]["value"]), (&json!("plain"), &json!(true)));
    let etag = header(&bulk, "etag").to_owned();
    let bearer = format!("Bearer {admin}");
    let again = async |tag: &str| {
        let headers = [("authorization", bearer.as_str()), ("if-none-match", tag)];
        let request = json!({ "context": {} });
        crate::common::send(&mut server.client()?, hyper::Method::POST, BULK, &headers, &request).await
    };
    let known = again(&etag).await?;
    assert_eq!((known.status, known.body.len(), header(&known, "etag")), (304, 0, etag.as_str()));
    done(&server, &admin, "PUT", "/v1/flags/plain", simple(false)).await?;
    assert_eq!(again(&etag).await?.status, 200);
    Ok(())
}

/// Any later change released the brake, because it named no `killed`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_brake_holds_through_every_change_that_does_not_release_it() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    for (killed, expected) in [(None, false), (Some(true), true), (None, true), (Some(false), false), (None, false)] {
        let mut flag = banner();
        if let Some(killed) = killed {
            flag["killed"] = json!(killed);
        }
        assert_eq!(done(&server, &admin, "PUT", "/v1/flags/banner", flag).await?["killed"], expected, "{killed:?}");
    }
    Ok(())
}

/// Texts of a context were as long as a body may be, and were held against every pattern of every flag.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_context_of_endless_texts_is_refused() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    done(&server, &admin, "PUT", "/v1/flags/banner", banner()).await?;
    for (length, status) in [(1_024, 200), (1_025, 400)] {
        let context = json!({ "targetingKey": "zoe", "company": "é".repeat(length) });
        let answer = evaluate(&server, &admin, "banner", context.clone()).await?;
        assert_eq!(answer.status, status, "{length}");
        let bulk = ask(&server, &admin, "POST", BULK, json!({ "context": context })).await?;
        assert_eq!(bulk.status, status, "{length}");
        if status == 400 {
            assert_eq!(body(&bulk)["errorCode"], "INVALID_CONTEXT");
        }
    }
    Ok(())
}

/// Flags were to switch the engine's mode, too, and did not. What was judged which way is recorded with each heartbeat,
/// so that a replay comes to the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flag_switches_the_engine_for_its_company_alone_and_a_replay_judges_the_same() -> Done {
    let mut server = Server::start().await?;
    let (admin, other) = (server.admin_token().await?, crate::common::new_tenant(&server, "other").await?);
    let mut phone = server.enroll("BR-1").await?;
    add_user(&server, other, "boss", "admin").await?;
    let theirs = crate::common::enrollment_token(&server, other, None).await?;
    let own = std::mem::replace(&mut server.enrollment_token, theirs);
    let mut neighbour = server.enroll("BR-1").await?;
    server.enrollment_token = own;
    let word =
        |word: &str| json!({ "variants": { "it": word }, "off_variant": "it", "otherwise": { "variant": "it" } });
    let (mut seen, mut judged) = (Vec::new(), Vec::new());
    for mode in ["full", "simplified", "nonsense"] {
        done(&server, &admin, "PUT", "/v1/flags/engine-mode", word(mode)).await?;
        let answer = body(&phone.beat(&phone.calm()).await?);
        seen.push(text(&answer, "engine"));
        judged.push(text(&answer, "signal_id"));
        assert_eq!(text(&body(&neighbour.beat(&neighbour.calm()).await?), "engine"), "full");
    }
    assert_eq!(seen, ["full", "simplified", "full"]);
    server.stop().await;
    for signal in &judged {
        let again = crate::replay::replayed(&server, signal, &Policy::default());
        assert!(again.is_some_and(|again| again.same()), "the flag says something else by now, and {signal} does not");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_a_flag_is_refused_by_name() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let with = |member: &str, value: Value| {
        let mut flag = banner();
        flag[member] = value;
        flag
    };
    let regex =
        json!([{ "when": [{ "attribute": "a", "is": "regex", "values": ["(a+)+$"] }], "serve": { "variant": "on" } }]);
    let huge = json!([{ "when": [{ "attribute": "a", "is": "matches", "values": ["a*".repeat(10_000)] }], "serve": { "variant": "on" } }]);
    for (what, flag, pointer) in [
        ("percentages", with("otherwise", json!({ "percent": { "on": 30, "off": 60 } })), "/otherwise/percent"),
        ("a regular expression", with("rules", regex), "/rules/0/when/0/is"),
        ("a huge pattern", with("rules", huge), "/rules/0/when/0"),
        ("an unknown member", with("colour", json!("red")), "/colour"),
    ] {
        let answer = ask(&server, &admin, "PUT", "/v1/flags/x", flag).await?;
        assert_refused(&answer, 422, "invalid_request");
        assert_eq!(body(&answer)["errors"][0]["pointer"], pointer, "{what}: {}", body(&answer));
    }
    assert_eq!(ask(&server, &admin, "PUT", "/v1/flags/a%20b", banner()).await?.status, 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_company_has_flags_of_its_own() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let tenant = second_tenant(&server).await?;
    let theirs = text(&add_user(&server, tenant, "neighbour", "admin").await?, "access_token");
    done(&server, &admin, "PUT", "/v1/flags/same", simple(true)).await?;
    assert_eq!(evaluate(&server, &theirs, "same", json!({})).await?.status, 404);
    done(&server, &theirs, "PUT", "/v1/flags/same", simple(false)).await?;
    for (token, value) in [(&admin, true), (&theirs, false)] {
        assert_eq!(body(&evaluate(&server, token, "same", json!({})).await?)["value"], value);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_close_registration_and_demand_hardware() -> Done {
    let mut server = Server::start().await?;
    let admin = server.admin_token().await?;
    let enroll = async |server: &Server, name: &str| {
        let wanted = enrollment(name, Some(&server.enrollment_token));
        let answer = enroll_with(server, None, &wanted).await?;
        Ok::<_, Fault>((answer.status, code(&answer)))
    };
    assert_eq!(enroll(&server, "BR-1").await?.0, 201);
    let mut closed = simple(false);
    closed["schedule"] = json!({ "until": server.clock.now().plus(DAY).to_string() });
    closed["variants"] = json!({ "it": false, "open": true });
    closed["off_variant"] = json!("open");
    done(&server, &admin, "PUT", "/v1/flags/registration-open", closed).await?;
    assert_eq!(enroll(&server, "BR-2").await?, (403, "registration_closed".to_owned()));
    server.restart().await?;
    assert_eq!(enroll(&server, "BR-2").await?, (403, "registration_closed".to_owned()), "a restart forgets no flag");
    server.clock.advance(DAY);
    assert_eq!(enroll(&server, "BR-2").await?.0, 201, "its time is over");
    let admin = server.admin_token().await?;
    done(&server, &admin, "PUT", "/v1/flags/strict-attestation", simple(true)).await?;
    assert_eq!(enroll(&server, "BR-3").await?, (403, "attestation_required".to_owned()));
    Ok(())
}

/// What an application does that was written against OpenFeature and has never heard of this appliance.
const SDK: &str = r#"
import json, sys
from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext

url, token = sys.stdin.read().split()
api.set_provider(OFREPProvider(url, headers_factory=lambda: {"Authorization": "Bearer " + token}))
client = api.get_client()
who = lambda **attributes: EvaluationContext(targeting_key="zoe", attributes=attributes)
out = {
    "targeted": client.get_boolean_value("banner", False, who(company="acme")),
    "text": client.get_string_value("greeting", "none", who()),
    "number": client.get_integer_value("limit", 0, who()),
    "object": client.get_object_value("theme", {}, who()),
    "missing": client.get_boolean_value("nowhere", True, who()),
}
details = client.get_boolean_details("banner", False, who(company="acme"))
out["variant"], out["reason"] = details.variant, str(details.reason)
wrong = client.get_string_details("banner", "fallback", who(company="acme"))
out["wrong_type"], out["wrong_type_error"] = wrong.value, str(wrong.error_code)
lost = client.get_boolean_details("nowhere", True, who())
out["missing_error"] = str(lost.error_code)
print(json.dumps(out))
"#;

/// The interpreter with the packages of `.ci/python-requirements.txt`; `None`, and a skipped test, where nobody made one.
/// In CI the variable is set, so that nothing is skipped there.
pub fn python() -> Option<String> {
    let found = std::env::var("BLOCKREMOTE_TEST_PYTHON").ok();
    if found.is_none() {
        assert!(
            std::env::var("CI").is_err(),
            "BLOCKREMOTE_TEST_PYTHON is not set: run the tests by .ci/run, which makes it"
        );
        eprintln!("skipped: set BLOCKREMOTE_TEST_PYTHON to a Python with .ci/python-requirements.txt installed");
    }
    found
}

/// Runs a program of another party's libraries; gives what it printed.
pub fn run_python(python: &str, program: &str, input: &str, variables: &[(&str, &Path)]) -> Result<String, Fault> {
    let mut peer = Command::new(python)
        .args(["-c", program])
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = peer.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let said = peer.wait_with_output()?;
    if !said.status.success() {
        return Err(String::from_utf8_lossy(&said.stderr).into());
    }
    Ok(String::from_utf8(said.stdout)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_of_openfeature_understands_us() -> Done {
    let Some(python) = python() else { return Ok(()) };
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    done(&server, &admin, "PUT", "/v1/flags/banner", banner()).await?;
    for (key, value) in [("greeting", json!("hello")), ("limit", json!(7)), ("theme", json!({ "dark": true }))] {
        let flag = json!({ "variants": { "it": value }, "off_variant": "it", "otherwise": { "variant": "it" } });
        done(&server, &admin, "PUT", &format!("/v1/flags/{key}"), flag).await?;
    }
    let url = format!("https://localhost:{}", server.app().addresses.http.port());
    let ca = server.config().paths.certs.join("ca.pem");
    let said = tokio::task::spawn_blocking(move || {
        let trust = [("REQUESTS_CA_BUNDLE", ca.as_path())];
        run_python(&python, SDK, &format!("{url} {admin}"), &trust)
    })
    .await??;
    let said: Value = serde_json::from_str(&said)?;
    for (name, expected) in [
        ("targeted", json!(true)),
        ("text", json!("hello")),
        ("number", json!(7)),
        ("object", json!({ "dark": true })),
        ("missing", json!(true)),
        ("variant", json!("on")),
        ("wrong_type", json!("fallback")),
    ] {
        assert_eq!(said[name], expected, "{name} in {said}");
    }
    assert!(
        text(&said, "reason").ends_with("TARGETING_MATCH") && text(&said, "missing_error").ends_with("FLAG_NOT_FOUND")
    );
    assert!(text(&said, "wrong_type_error").ends_with("TYPE_MISMATCH"), "{said}");
    Ok(())
}
