//! What a flag says to whom, and which flags cannot be.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::json;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn flag(definition: Value) -> Flag {
    let mut whole = json!({
        "variants": { "on": true, "off": false },
        "off_variant": "off",
        "otherwise": { "variant": "on" },
    });
    for (name, value) in definition.as_object().unwrap() {
        whole[name] = value.clone();
    }
    let definition = serde_json::from_value(whole).unwrap();
    Flag { key: "f".to_owned(), definition, created_at: NOW, updated_at: NOW, updated_by: UserId::NIL }
}

fn says(flag: &Flag, context: Value) -> (String, Reason) {
    let said = flag.evaluate(context.as_object().unwrap(), NOW, &mut Work::REQUEST.clone()).unwrap();
    (said.variant.to_owned(), said.reason)
}

#[test]
fn off_killed_or_out_of_its_time_it_says_one_thing_to_everybody() {
    let hour = std::time::Duration::from_secs(3_600);
    for (definition, variant, reason) in [
        (json!({}), "on", Reason::Static),
        (json!({ "enabled": false }), "off", Reason::Disabled),
        (json!({ "killed": true }), "off", Reason::Disabled),
        (json!({ "schedule": { "from": NOW } }), "on", Reason::Static),
        (json!({ "schedule": { "from": NOW.plus(hour) } }), "off", Reason::Disabled),
        (json!({ "schedule": { "until": NOW } }), "off", Reason::Disabled),
        (json!({ "schedule": { "from": NOW.minus(hour), "until": NOW.plus(hour) } }), "on", Reason::Static),
    ] {
        assert_eq!(says(&flag(definition.clone()), json!({})), (variant.to_owned(), reason), "{definition}");
    }
}

#[test]
fn the_first_rule_of_which_all_conditions_hold_decides() {
    let of = |attribute: &str, is: &str, values: Value| {
        flag(json!({
            "otherwise": { "variant": "off" },
            "rules": [{
                "when": [{ "attribute": attribute, "is": is, "values": values }],
                "serve": { "variant": "on" },
            }],
        }))
    };
    let caller = json!({ "plan": "paid", "age": 30, "beta": true, "mail": "zoe@example.org", "none": null });
    for (attribute, is, values, fits) in [
        ("plan", "in", json!(["paid", "trial"]), true),
        ("plan", "in", json!(["trial"]), false),
        ("plan", "not_in", json!(["trial"]), true),
        ("age", "in", json!([30.0]), true),
        ("beta", "in", json!([true]), true),
        ("age", "above", json!([29.5]), true),
        ("age", "above", json!([30]), false),
        ("age", "below", json!([31]), true),
        ("plan", "above", json!([1]), false),
        ("mail", "matches", json!(["*@example.org"]), true),
        ("mail", "matches", json!(["zoe@*.com", "z*e@*.org"]), true),
        ("mail", "matches", json!(["*@example"]), false),
        ("age", "matches", json!(["3*"]), false),
        ("plan", "present", json!([]), true),
        ("none", "present", json!([]), false),
        ("none", "absent", json!([]), true),
        ("missing", "not_in", json!(["x"]), false),
    ] {
        let expected = if fits { ("on", Reason::TargetingMatch) } else { ("off", Reason::Default) };
        let (variant, reason) = says(&of(attribute, is, values.clone()), caller.clone());
        assert_eq!((variant.as_str(), reason), expected, "{attribute} {is} {values}");
    }
}

#[test]
fn a_pattern_is_what_people_expect_of_a_star() {
    for (pattern, text, fits) in [
        ("", "", true),
        ("", "a", false),
        ("*", "", true),
        ("*", "anything", true),
        ("a*", "a", true),
        ("a*a", "a", false),
        ("a*a", "aa", true),
        ("*b*", "abc", true),
        ("a*b*c", "a1b2c", true),
        ("a*b*c", "acb", false),
        ("ab", "abc", false),
    ] {
        assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
    }
}

/// A user who is in the first tenth today is in it tomorrow, and still in it when it becomes a fifth.
#[test]
fn a_rollout_reaches_the_share_that_it_says_and_a_wider_one_loses_nobody() {
    let rollout = |on: f64| flag(json!({ "otherwise": { "percent": { "on": on, "off": 100.0 - on } } }));
    let (tenth, fifth) = (rollout(10.0), rollout(20.0));
    let reached = |flag: &Flag, n: u32| says(flag, json!({ "targetingKey": format!("user-{n}") })).0 == "on";
    let mut counts = [0_u32; 2];
    for n in 0..20_000 {
        let (a, b) = (reached(&tenth, n), reached(&fifth, n));
        assert!(!a || b, "user-{n} was in and is out");
        counts[0] += u32::from(a);
        counts[1] += u32::from(b);
    }
    // Within four standard deviations.
    assert!((1_830..=2_170).contains(&counts[0]) && (3_770..=4_230).contains(&counts[1]), "{counts:?}");
    assert_eq!(tenth.evaluate(&Map::new(), NOW, &mut Work::REQUEST.clone()), Err(CannotTell::TargetingKeyMissing));
    // A promise to everybody who compares two appliances.
    assert_eq!(tenth.bucket("user-1"), flag(json!({})).bucket("user-1"));
}

#[test]
fn what_cannot_be_is_named() {
    let long = "x".repeat(257);
    let rule = |when: Value| json!({ "rules": [{ "when": when, "serve": { "variant": "on" } }] });
    for (definition, pointer) in [
        (json!({ "variants": {} }), "/variants"),
        (json!({ "variants": { "on": true, "off": "no" } }), "/variants/on"),
        (json!({ "variants": { "on": null, "off": null } }), "/variants/off"),
        (json!({ "variants": { "a b": true, "off": false, "on": true } }), "/variants"),
        (json!({ "variants": { "on": "x".repeat(5_000), "off": "" } }), "/variants/on"),
        (json!({ "off_variant": "none" }), "/off_variant"),
        (json!({ "otherwise": { "variant": "none" } }), "/otherwise/variant"),
        (json!({ "otherwise": {} }), "/otherwise"),
        (json!({ "otherwise": { "variant": "on", "percent": { "on": 100.0 } } }), "/otherwise"),
        (json!({ "otherwise": { "percent": { "on": 50.0, "off": 49.999 } } }), "/otherwise/percent"),
        (json!({ "otherwise": { "percent": { "on": 60.0, "off": 60.0 } } }), "/otherwise/percent"),
        (json!({ "otherwise": { "percent": { "on": -10.0, "off": 110.0 } } }), "/otherwise/percent"),
        (json!({ "otherwise": { "percent": { "on": 33.3333, "off": 66.6667 } } }), "/otherwise/percent"),
        (json!({ "otherwise": { "percent": { "other": 100.0 } } }), "/otherwise/percent"),
        (rule(json!([])), "/rules/0/when"),
        (rule(json!([{ "attribute": "a", "is": "matches", "values": [long] }])), "/rules/0/when/0"),
        (rule(json!([{ "attribute": "a", "is": "above", "values": ["1"] }])), "/rules/0/when/0"),
        (rule(json!([{ "attribute": "a b", "is": "present" }])), "/rules/0/when/0"),
        (rule(json!([{ "attribute": "a", "is": "in", "values": [] }])), "/rules/0/when/0"),
        (json!({ "schedule": { "from": NOW, "until": NOW } }), "/schedule/until"),
    ] {
        let mut wrong = Vec::new();
        flag(definition.clone()).definition.check(&mut wrong);
        assert!(wrong.iter().any(|w| w.pointer == pointer), "{definition} should name {pointer}: {wrong:?}");
    }
    let mut wrong = Vec::new();
    flag(json!({ "otherwise": { "percent": { "on": 0.1, "off": 99.9 } } })).definition.check(&mut wrong);
    assert!(wrong.is_empty(), "{wrong:?}");
    // Regular expressions are no part of the language: there is nothing that could run for ever.
    let regex = json!({ "attribute": "a", "is": "regex", "values": ["(a+)+$"] });
    assert!(serde_json::from_value::<Condition>(regex).is_err());
}

/// The patterns were bounded and the text that they are held against was not: one request could keep a thread busy for
/// minutes.
#[test]
fn one_flag_at_its_limits_fits_into_a_request_and_many_together_end_it() {
    let patterns: Vec<String> = (0..VALUES_MAX).map(|n| format!("{}{n}", "*a".repeat(120))).collect();
    let other = json!({ "attribute": "text", "is": "not_in", "values": patterns });
    let mut when = vec![other; CONDITIONS_MAX - 1];
    when.push(json!({ "attribute": "text", "is": "matches", "values": patterns }));
    let rule = json!({ "when": when, "serve": { "variant": "on" } });
    let definition: Definition = serde_json::from_value(json!({
        "variants": { "on": true, "off": false },
        "off_variant": "off",
        "rules": vec![rule; RULES_MAX],
        "otherwise": { "variant": "off" },
    }))
    .unwrap();
    let mut wrong = Vec::new();
    definition.check(&mut wrong);
    assert!(wrong.is_empty(), "{wrong:?}");
    let flag = Flag { key: "all".to_owned(), definition, created_at: NOW, updated_at: NOW, updated_by: UserId::NIL };
    let context = json!({ "text": "a".repeat(1_024) });
    let context = context.as_object().unwrap();
    let mut work = Work::REQUEST;
    assert_eq!(flag.evaluate(context, NOW, &mut work).unwrap().variant, "off");
    let mut asked = 1;
    while flag.evaluate(context, NOW, &mut work).is_ok() {
        asked += 1;
        assert!(asked < 500, "a bulk of all flags is bounded");
    }
    assert_eq!(flag.evaluate(context, NOW, &mut work), Err(CannotTell::TooMuchWork));
    let long = json!({ "text": "a".repeat(MATCHED_MAX + 1) });
    let condition: Condition =
        serde_json::from_value(json!({ "attribute": "text", "is": "matches", "values": ["*"] })).unwrap();
    assert_eq!(condition.holds(long.as_object().unwrap(), &mut Work::REQUEST.clone()), Ok(false));
}
