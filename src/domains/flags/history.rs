//! What a change of a flag was, in words for the log: every member that differs, as it was and as it is. Pure.
//!
//! An entry of the log holds a bounded text, so a large change makes several: nothing of it is cut off.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Definition;

/// Characters of one part, with room for the key and the number before it.
const PART_MAX: usize = 800;

/// The change from `before` (`None`: it is new) to `after`, in parts; at least one.
pub(super) fn told(key: &str, before: Option<&Definition>, after: &Definition) -> Vec<String> {
    let before = before.map_or(Value::Null, value_of);
    let mut lines = Vec::new();
    differ("", &before, &value_of(after), &mut lines);
    let mut parts: Vec<String> = Vec::new();
    let mut open = String::new();
    for line in lines {
        let room = PART_MAX.saturating_sub(open.chars().count());
        if !open.is_empty() && line.chars().count() + 2 > room {
            parts.push(std::mem::take(&mut open));
        }
        if !open.is_empty() {
            open.push_str("; ");
        }
        let mut rest = line.chars().peekable();
        while rest.peek().is_some() {
            open.extend(rest.by_ref().take(PART_MAX.saturating_sub(open.chars().count())));
            if rest.peek().is_some() {
                parts.push(std::mem::take(&mut open));
            }
        }
    }
    if !open.is_empty() {
        parts.push(open);
    }
    match parts.len() {
        0 => vec![format!("{key}: as it was")],
        1 => parts.into_iter().map(|part| format!("{key}: {part}")).collect(),
        n => parts.into_iter().enumerate().map(|(i, part)| format!("{key} ({} of {n}): {part}", i + 1)).collect(),
    }
}

fn value_of(definition: &Definition) -> Value {
    serde_json::to_value(definition).unwrap_or_default()
}

/// Member by member, by JSON pointer.
fn differ(at: &str, before: &Value, after: &Value, out: &mut Vec<String>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(a), Value::Object(b)) => {
            for name in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                let of = |members: &serde_json::Map<String, Value>| members.get(name).cloned().unwrap_or_default();
                differ(&format!("{at}/{name}"), &of(a), &of(b), out);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for i in 0..a.len().max(b.len()) {
                let of = |items: &Vec<Value>| items.get(i).cloned().unwrap_or_default();
                differ(&format!("{at}/{i}"), &of(a), &of(b), out);
            }
        }
        (Value::Null, after) => out.push(format!("{at} {after}").trim_start().to_owned()),
        (before, Value::Null) => out.push(format!("{at} {before} -> gone")),
        (before, after) => out.push(format!("{at} {before} -> {after}")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    fn flag(patterns: usize, killed: bool) -> Definition {
        let values: Vec<String> = (0..patterns).map(|n| format!("pattern-{n}-{}", "é".repeat(200))).collect();
        serde_json::from_value(json!({
            "killed": killed,
            "variants": { "on": true, "off": false },
            "off_variant": "off",
            "rules": [{ "when": [{ "attribute": "a", "is": "matches", "values": values }], "serve": { "variant": "on" } }],
            "otherwise": { "variant": "off" },
        }))
        .unwrap()
    }

    #[test]
    fn a_change_is_told_as_it_was_and_as_it_is() {
        assert_eq!(told("x", Some(&flag(1, false)), &flag(1, true)), ["x: /killed false -> true"]);
        assert_eq!(told("x", Some(&flag(1, true)), &flag(1, true)), ["x: as it was"]);
        assert!(told("x", Some(&flag(2, true)), &flag(1, true)).first().is_some_and(|line| line.ends_with("-> gone")));
    }

    /// The log held the first 1,000 characters of the whole flag, so what changed behind them was nowhere.
    #[test]
    fn nothing_of_a_large_change_is_cut_off() {
        let (before, after) = (flag(1, false), flag(40, true));
        let parts = told("x", Some(&before), &after);
        assert!(parts.len() > 5 && parts.iter().all(|part| part.chars().count() <= 1_000), "{}", parts.len());
        for n in 1..40 {
            assert_eq!(parts.iter().filter(|part| part.contains(&format!("pattern-{n}-"))).count(), 1, "{n}");
        }
        assert!(told("x", None, &after).concat().contains("pattern-39-"));
        let mut long = before;
        long.variants = [("it".to_owned(), json!("y".repeat(4_000)))].into();
        let parts = told("x", None, &long);
        let there: usize = parts.iter().map(|part| part.matches('y').count()).sum();
        assert_eq!(there, 4_000);
    }
}
