//! What a site's Prometheus and Grafana read: Prometheus' own tool finds nothing to say against the exposition, and each
//! query of the dashboard and of the alerts asks for series that are really there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use blockremote::gate::routes::ROUTES;
use blockremote::testkit::{Fault, Server, text};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::Done;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/monitoring")
}

/// Runs Prometheus' tool; `None`, and a skipped test, where it is not installed. In CI it is.
fn promtool(arguments: &[&str], input: &str) -> Result<Option<(bool, String)>, Fault> {
    let started = Command::new("promtool")
        .args(arguments)
        .current_dir(folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tool) = started else {
        assert!(std::env::var("CI").is_err(), "promtool is not installed: run the tests by .ci/run, which installs it");
        eprintln!("skipped: promtool (Debian package prometheus) is not installed");
        return Ok(None);
    };
    if let Some(mut stdin) = tool.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let said = tool.wait_with_output()?;
    let words = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    Ok(Some((said.status.success(), words)))
}

/// The exposition of an appliance that was used in every way that a query asks about.
async fn scrape(accept: &str) -> Result<String, Fault> {
    let server = Server::start().await?;
    let mut device = server.enroll("BR-1").await?;
    device.beat(&device.calm()).await?.success()?;
    device.socket().await?.next().await;
    let refresh = json!({ "refresh_token": device.refresh_token });
    server.client()?.post("/v1/auth/refresh", None, &refresh).await?.success()?;
    scraped(&server.app().addresses.internal.to_string(), accept).await
}

/// What an appliance exposes at its internal address.
pub async fn scraped(address: &str, accept: &str) -> Result<String, Fault> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.split_once("\r\n\r\n").ok_or("no end of the header")?.1.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_own_tool_has_nothing_to_say_against_the_metrics() -> Done {
    let metrics = scrape("text/plain").await?;
    let Some((well, words)) = promtool(&["check", "metrics"], &metrics)? else { return Ok(()) };
    assert!(well && words.trim().is_empty(), "{words}");
    // The tool does see faults: a counter without its suffix.
    let planted = "# HELP a_b Something\n# TYPE a_b counter\na_b 1\n";
    assert!(promtool(&["check", "metrics"], planted)?.is_some_and(|(well, _)| !well));
    Ok(())
}

#[test]
fn the_alerts_are_sound_and_fire_when_they_should() -> Done {
    let Some((well, words)) = promtool(&["check", "rules", "alerts.yml"], "")? else { return Ok(()) };
    assert!(well, "{words}");
    let tried = promtool(&["test", "rules", "alerts.test.yml"], "")?;
    assert!(tried.as_ref().is_some_and(|(well, _)| *well), "{tried:?}");
    let rules = std::fs::read_to_string(folder().join("alerts.yml"))?;
    let tests = std::fs::read_to_string(folder().join("alerts.test.yml"))?;
    for alert in rules.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname: {alert}")), "{alert} is not tried");
    }
    Ok(())
}

/// Name of each series with the names of its labels.
fn series(metrics: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in metrics.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(inside, _)| inside);
        found.entry(name.to_owned()).or_default().extend(labels_of(labels));
    }
    found
}

fn labels_of(inside: &str) -> impl Iterator<Item = String> + '_ {
    // A label's name stands before each `="`, `=~"` or `!="`; no value of ours holds an equals sign.
    inside.split(['=', '!']).filter_map(|piece| {
        let name: String = piece.chars().rev().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        (!name.is_empty() && !piece.ends_with('"')).then(|| name.chars().rev().collect())
    })
}

/// Words of a query language that are no names of series.
const WORDS: &[&str] =
    &["sum", "by", "le", "rate", "increase", "histogram_quantile", "job", "up", "m", "s", "h", "http_route", "result"];

/// The names in a query, and the labels that it asks of each.
fn asked(query: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '_') {
        let from = rest.get(at..).unwrap_or_default();
        let end = from.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(from.len());
        let (name, after) = from.split_at(end);
        rest = after;
        let mut labels = Vec::new();
        if let Some((inside, behind)) = after.strip_prefix('{').and_then(|a| a.split_once('}')) {
            labels = labels_of(inside).collect();
            rest = behind;
        }
        if let Some(behind) = rest.strip_prefix('[').and_then(|a| a.split_once(']')).map(|(_, b)| b) {
            rest = behind;
        }
        let grouping = after.trim_start().starts_with('(') && WORDS.contains(&name);
        if name == "by"
            && let Some((_, behind)) = after.split_once(')')
        {
            rest = behind;
        }
        if !grouping && !WORDS.contains(&name) && !name.starts_with("__") && name.contains('_') {
            found.push((name.to_owned(), labels));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_query_of_dashboard_and_alerts_asks_for_what_is_there() -> Done {
    let there = series(&scrape("text/plain").await?);
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(folder().join("dashboard.json"))?)?;
    let panels = dashboard["panels"].as_array().cloned().unwrap_or_default();
    let targets = panels.iter().flat_map(|p| p["targets"].as_array().cloned().unwrap_or_default());
    let mut queries: Vec<String> = targets.map(|t| text(&t, "expr")).collect();
    let rules = std::fs::read_to_string(folder().join("alerts.yml"))?;
    for rule in rules.split("- alert:").skip(1) {
        let expr = rule.split("expr:").nth(1).and_then(|r| r.split("labels:").next()).unwrap_or_default();
        queries.push(expr.trim_start_matches(" |").split("for: ").next().unwrap_or_default().replace('\n', " "));
    }
    let mut seen = 0;
    for query in &queries {
        for (name, labels) in asked(query) {
            let known = there.get(&name).ok_or_else(|| format!("{name} of {query} does not exist"))?;
            for label in labels.iter().filter(|l| *l != "job") {
                assert!(known.contains(label), "{name} has no label {label}: {query}; it has {known:?}");
            }
            seen += 1;
        }
    }
    assert!(queries.len() > 30 && seen > 35, "{} queries with {seen} names", queries.len());
    assert!(asked("rate(no_such_series{a=\"b\"}[5m])").iter().any(|(name, l)| name == "no_such_series" && l == &["a"]));
    Ok(())
}

/// No label may grow with devices, people or what strangers send: its values are those of the table of routes and a few
/// words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openmetrics_is_served_too_and_every_route_label_is_of_the_table() -> Done {
    let open = scrape("application/openmetrics-text; version=1.0.0").await?;
    assert!(open.ends_with("# EOF\n"));
    for unit in ["seconds", "bytes"] {
        let described = open.lines().filter(|l| l.starts_with("# TYPE ") && l.contains(unit)).count();
        assert!(described > 0, "nothing is measured in {unit}");
    }
    for line in open.lines().filter(|l| l.contains("http_route=\"")) {
        let route = line.split("http_route=\"").nth(1).and_then(|r| r.split('"').next()).unwrap_or_default();
        assert!(route == "other" || ROUTES.iter().any(|r| r.path == route), "{line}");
    }
    assert!(open.contains("api_requests_total{endpoint=\"/v1/signals/heartbeat\",method=\"POST\"} 1"), "{open}");
    Ok(())
}
