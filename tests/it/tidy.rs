//! The house rules that a compiler does not know: who may import whom, how long a file may be, what no file may hold.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Done;

/// Domains, in the order in which they may lean on each other.
const DOMAINS: &[&str] = &[
    "audit",
    "tenants",
    "metering",
    "flags",
    "devices",
    "killswitch",
    "billing",
    "integrations",
    "attestation",
    "intel",
    "signals",
    "certificates",
    "iam",
    "embed",
];
const LINES_MAX: usize = 600;
/// Files that may be longer, each with its reason. Empty, and best kept so.
const LONGER: &[(&str, &str)] = &[];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that is, or is about to be, under version control.
fn tracked() -> Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()?;
    if listed.status.success() {
        let names = String::from_utf8(listed.stdout)?;
        return Ok(names.lines().filter(|f| root().join(f).is_file()).map(str::to_owned).collect());
    }
    // A source archive has no history: everything in it counts.
    let mut found = Vec::new();
    walk(&root(), &mut found)?;
    Ok(found)
}

fn walk(folder: &Path, found: &mut Vec<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !matches!(&*name, "target" | ".git" | "data" | "certs") {
            walk(&path, found)?;
        } else if path.is_file() {
            found.extend(path.strip_prefix(root()).ok().map(|p| p.to_string_lossy().into_owned()));
        }
    }
    Ok(())
}

fn read(file: &str) -> std::io::Result<String> {
    // What is not text has no lines and no words.
    Ok(String::from_utf8(std::fs::read(root().join(file))?).unwrap_or_default())
}

fn rust_files(under: &str) -> Result<Vec<(String, String)>, Box<dyn std::error::Error + Send + Sync>> {
    let files = tracked()?.into_iter().filter(|f| f.starts_with(under) && f.ends_with(".rs"));
    Ok(files.map(|f| read(&f).map(|text| (f, text))).collect::<Result<_, _>>()?)
}

// ---- reading Rust, as far as these rules need it

/// The text with comments and the content of literals blanked, line for line.
fn code_of(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (skipped, shown) = skip(rest, out.chars().next_back());
        if skipped == 0 {
            out.push(first);
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
        } else {
            out.push_str(shown);
            let (gone, after) = rest.split_at(skipped);
            out.extend(gone.chars().filter(|c| *c == '\n'));
            rest = after;
        }
    }
    out
}

/// How many bytes a comment or literal takes that starts here, and what stands for it.
fn skip(rest: &str, before: Option<char>) -> (usize, &'static str) {
    let end = |from: usize, stop: &str| {
        rest.get(from..).and_then(|r| r.find(stop)).map_or(rest.len(), |at| from + at + stop.len())
    };
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), "");
    }
    if rest.starts_with("/*") {
        return (end(2, "*/"), "");
    }
    let raw = rest.trim_start_matches('b');
    if !in_word && rest.len() - raw.len() < 2 && raw.starts_with('r') {
        let hashes: String = raw.chars().skip(1).take_while(|c| *c == '#').collect();
        let prefix = rest.len() - raw.len() + 1 + hashes.len();
        if rest.get(prefix..).is_some_and(|r| r.starts_with('"')) {
            return (end(prefix + 1, &format!("\"{hashes}")), "\"\"");
        }
    }
    if rest.starts_with('"') {
        let mut escaped = false;
        for (at, c) in rest.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => return (at + 1, "\"\""),
                _ => {}
            }
        }
        return (rest.len(), "\"\"");
    }
    // A character, not a lifetime.
    for (escape, length) in [("'\\''", 4), ("'\\\\'", 4), ("'\"'", 3), ("'/'", 3)] {
        if rest.starts_with(escape) {
            return (length, "' '");
        }
    }
    (0, "")
}

/// The text up to the inline tests at its end.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests {").and_then(|at| text.get(..at)).unwrap_or(text)
}

/// Every path that starts at the crate's root, with its line; trees of braces are taken apart.
fn crate_paths(code: &str) -> Vec<(usize, Vec<String>)> {
    let mut out = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code.get(..at).unwrap_or_default();
        if before.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let line = before.matches('\n').count() + 1;
        let mut paths = Vec::new();
        tree(code.get(at + "crate::".len()..).unwrap_or_default(), &mut Vec::new(), &mut paths);
        out.extend(paths.into_iter().map(|p| (line, p)));
    }
    out
}

/// Reads one use tree and gives what is left behind it.
fn tree<'t>(text: &'t str, base: &mut Vec<String>, out: &mut Vec<Vec<String>>) -> &'t str {
    let depth = base.len();
    let mut rest = text.trim_start();
    loop {
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner.trim_start();
            while !rest.starts_with('}') && !rest.is_empty() {
                rest = tree(rest, base, out).trim_start();
                // `name as other` and whatever else stands before the next comma.
                let next = rest.find([',', '}']).unwrap_or(rest.len());
                rest = rest.get(next..).unwrap_or_default();
                rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
            }
            rest = rest.strip_prefix('}').unwrap_or(rest);
            break;
        }
        let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*')).unwrap_or(rest.len());
        let (name, after) = rest.split_at(length);
        if name != "self" {
            base.push(name.to_owned());
        }
        match after.strip_prefix("::") {
            Some(more) if !more.starts_with('<') => rest = more.trim_start(),
            _ => {
                out.push(base.clone());
                rest = after;
                break;
            }
        }
    }
    base.truncate(depth);
    rest
}

// ---- who may import whom

/// Why this path may not stand in this file; `None` when it may.
fn objection(file: &str, path: &[String]) -> Option<String> {
    let inside = file.strip_prefix("src/")?;
    let (from, inner) = inside.split_once('/').unwrap_or((inside.trim_end_matches(".rs"), ""));
    let name = |i: usize| path.get(i).map(String::as_str).unwrap_or_default();
    // Macros of the gate stand at the root, as all exported macros do.
    let to = match name(0) {
        "endpoint" | "list_of" => "gate",
        other => other,
    };
    if to == from && from != "domains" {
        return None;
    }
    if to == "cli" {
        return (from != "main").then(|| "nobody imports cli".to_owned());
    }
    if to == "app" {
        return (!matches!(from, "cli" | "testkit")).then(|| "only cli and testkit import app".to_owned());
    }
    let allowed: &[&str] = match from {
        "kernel" => &[],
        "config" | "crypto" | "store" | "net" | "observe" => &["kernel"],
        "domains" => return objection_of_domain(inner, to, path),
        "gate" => &["domains", "kernel", "crypto", "net", "observe", "config"],
        "client" | "attest" => &["kernel", "crypto"],
        "agent" if to == "domains" => {
            let engine = path.iter().take(3).eq(["domains", "signals", "engine"].iter());
            return (!engine).then(|| "agent knows readings of the engine and no other part of a domain".to_owned());
        }
        "agent" => &["client", "crypto", "kernel"],
        "app" | "cli" | "testkit" | "main" | "lib" => return None,
        _ => return Some(format!("{from} is a room without rules: write them into this test")),
    };
    if !allowed.contains(&to) {
        return Some(format!("{from} may import {allowed:?}"));
    }
    if from == "gate" && to == "domains" {
        return beyond_facade(path, &["api", "engine"]);
    }
    None
}

fn objection_of_domain(inner: &str, to: &str, path: &[String]) -> Option<String> {
    let place = |d: &str| DOMAINS.iter().position(|known| *known == d);
    let (domain, file) = inner.split_once('/').unwrap_or(("", inner));
    let is_api = file == "api.rs" || file.starts_with("api/");
    match to {
        "kernel" | "crypto" | "store" => None,
        "attest" if domain == "attestation" => None,
        "gate" => (!is_api).then(|| "only a domain's api.rs knows the gate".to_owned()),
        "domains" if domain.is_empty() => None,
        "domains" => {
            let other = path.get(1).map(String::as_str).unwrap_or_default();
            let (Some(own), Some(theirs)) = (place(domain), place(other)) else {
                return Some(format!("domains/{domain} or {other} has no place in the order of domains"));
            };
            let permission = is_api && path.iter().skip(1).eq(["iam", "Permission"].iter());
            if theirs > own && !permission {
                return Some(format!("{domain} stands before {other} and may not lean on it"));
            }
            if theirs == own { None } else { beyond_facade(path, &[]) }
        }
        _ => Some("a domain may import kernel, crypto, store and domains before it".to_owned()),
    }
}

/// Whether a path goes past a domain's `mod.rs` into one of its files.
fn beyond_facade(path: &[String], open: &[&str]) -> Option<String> {
    let (Some(domain), Some(name)) = (path.get(1), path.get(2)) else { return None };
    let folder = root().join("src/domains").join(domain);
    let is_file = folder.join(format!("{name}.rs")).is_file() || folder.join(name).is_dir();
    (is_file && !open.contains(&name.as_str())).then(|| format!("{name} lies behind the façade of {domain}"))
}

#[test]
fn nobody_imports_what_he_may_not() -> Done {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (file, text) in rust_files("src/")? {
        // Tests may borrow from anywhere but the boot sequence.
        let is_test = file.contains("/tests/") || file.ends_with("tests.rs");
        for (line, path) in crate_paths(&code_of(without_tests(&text))) {
            seen += 1;
            let objection = objection(&file, &path);
            if let Some(why) =
                objection.filter(|_| !is_test || matches!(path.first().map(String::as_str), Some("app" | "cli")))
            {
                wrong.push(format!("{file}:{line}: crate::{}: {why}", path.join("::")));
            }
        }
    }
    assert!(seen > 300, "only {seen} imports were found: the reader is broken");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// A rule that cannot fail protects nothing.
#[test]
fn the_rule_of_imports_sees_what_is_planted() {
    for (file, line, caught) in [
        ("src/kernel/x.rs", "use crate::crypto::sha256;", true),
        ("src/kernel/x.rs", "use crate::kernel::Error;", false),
        ("src/store/x.rs", "use crate::kernel::{Error, ids::TenantId};", false),
        ("src/store/x.rs", "fn f() { crate::domains::audit::append() }", true),
        ("src/store/x.rs", "// use crate::gate::Context;", false),
        ("src/store/x.rs", "let text = \"crate::gate::Context\";", false),
        ("src/domains/audit/store.rs", "use crate::domains::devices::Device;", true),
        ("src/domains/audit/store.rs", "use crate::domains::iam::Permission;", true),
        ("src/domains/audit/api.rs", "use crate::domains::iam::Permission;", false),
        ("src/domains/audit/api.rs", "use crate::domains::iam::{Permission, Iam};", true),
        ("src/domains/iam/login.rs", "use crate::domains::audit::{self, NewEntry};", false),
        ("src/domains/iam/login.rs", "use crate::domains::{audit::store::append, devices};", true),
        ("src/domains/iam/login.rs", "use crate::gate::Context;", true),
        ("src/domains/iam/login.rs", "use crate::{kernel::Error, net::Service};", true),
        ("src/domains/new/mod.rs", "use crate::domains::audit::Action;", true),
        ("src/gate/x.rs", "use crate::domains::iam::{Permission, refresh::rotate};", true),
        ("src/gate/x.rs", "use crate::store::Store;", true),
        ("src/gate/x.rs", "use crate::app::App;", true),
        ("src/client/x.rs", "use crate::domains::Services;", true),
        ("src/agent/x.rs", "use crate::domains::signals::engine::Reading;", false),
        ("src/agent/x.rs", "use crate::domains::signals::Signals;", true),
        ("src/app/mod.rs", "use crate::cli::args;", true),
        ("src/testkit/mod.rs", "use crate::app::App;", false),
        ("src/attic/mod.rs", "use crate::kernel::Error;", true),
    ] {
        let found = crate_paths(&code_of(line)).iter().any(|(_, path)| objection(file, path).is_some());
        assert_eq!(found, caught, "{file}: {line}");
    }
}

// ---- what no file may hold

#[test]
fn files_are_short_enough_to_be_read() -> Done {
    let mut long = Vec::new();
    for file in tracked()?.iter().filter(|f| f.ends_with(".rs")) {
        let lines = read(file)?.lines().count();
        if lines > LINES_MAX && !LONGER.iter().any(|(name, _)| name == file) {
            long.push(format!("{file}: {lines}"));
        }
    }
    assert!(long.is_empty(), "more than {LINES_MAX} lines; two files would be better:\n{}", long.join("\n"));
    Ok(())
}

#[test]
fn each_source_file_begins_by_saying_what_it_is_for() -> Done {
    let mut silent = Vec::new();
    for (file, text) in rust_files("")? {
        let first = text.lines().find(|l| !l.is_empty() && !l.starts_with("#!"));
        if !first.is_some_and(|l| l.starts_with("//! ")) {
            silent.push(file);
        }
    }
    assert!(silent.is_empty(), "no //! at the beginning:\n{}", silent.join("\n"));
    Ok(())
}

#[test]
fn no_file_silences_a_lint_or_leaves_work_for_later() -> Done {
    let mut wrong = Vec::new();
    for (file, text) in rust_files("")? {
        for (i, line) in code_of(&text).lines().enumerate() {
            let words: BTreeSet<&str> = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
            let attribute = line.contains("#[allow(")
                || line.contains("#![allow(")
                || line.contains("_attr(") && words.contains("allow");
            let unfinished = ["todo", "unimplemented"].iter().any(|m| line.contains(&format!("{m}!")));
            if attribute || unfinished || words.contains("unsafe") {
                wrong.push(format!("{file}:{}: {}", i + 1, line.trim()));
            }
        }
    }
    for file in tracked()? {
        // Written apart, so that this file does not hold what it forbids.
        let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];
        for (i, line) in read(&file)?.lines().enumerate() {
            if line.split(|c: char| !c.is_alphanumeric()).any(|word| marks.contains(&word)) {
                wrong.push(format!("{file}:{}: {}", i + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "expect a lint with a reason, finish or cut what is open:\n{}", wrong.join("\n"));
    Ok(())
}

/// The repository stands for itself: no path of the machine it was made on, no number of somebody's list.
#[test]
fn no_file_speaks_of_where_it_was_made() -> Done {
    let mut wrong = Vec::new();
    for file in tracked()? {
        for (i, line) in read(&file)?.lines().enumerate() {
            let place = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
            let numbered = line.match_indices('#').any(|(at, _)| {
                let after = line.get(at + 1..).unwrap_or_default();
                let digits = after.bytes().take_while(u8::is_ascii_digit).count();
                let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
                // A number of its own: no colour, no name of a standard.
                let alone = !word(line.get(..at).and_then(|l| l.chars().next_back()));
                (1..=5).contains(&digits) && alone && !word(after.get(digits..).and_then(|r| r.chars().next()))
            });
            let words: Vec<String> = line.split_whitespace().map(str::to_lowercase).collect();
            let issue = words.windows(2).any(|pair| match pair {
                [first, second] => {
                    first.trim_matches(|c: char| !c.is_alphanumeric()) == "issue"
                        && second.trim_start_matches('#').starts_with(|c: char| c.is_ascii_digit())
                }
                _ => false,
            });
            if place.iter().any(|p| line.contains(p)) || numbered || issue {
                wrong.push(format!("{file}:{}: {}", i + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
