//! Threat feeds: taken in as a whole or not at all, asked by everybody, believed only while they are fresh.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use blockremote::client::Response;
use blockremote::domains::intel::{Asker, Confidence, Format, NewFeed, Scope};
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::TenantId;
use blockremote::testkit::{Fault, Server, text};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::cli::binary::Place;
use crate::common::{DAY, Done, add_user, assert_refused, body, first_tenant, second_tenant};
use crate::people::{ask, done};

/// A feed of one domain, made behind the gate.
pub async fn feed(server: &Server, tenant: TenantId, name: &str) -> Done {
    let new = NewFeed {
        scope: Scope::Tenant(tenant),
        name: name.parse()?,
        source: "a test".to_owned(),
        format: Format::Text,
        kind: None,
        confidence: Confidence::new(60),
        lifetime: None,
        stale_after: None,
        may_be_empty: false,
    };
    let asker = Asker { by: None, log: tenant, origin: Origin::cli() };
    server.app().services.intel.import(new, b"made.example\n".to_vec(), asker).await?;
    Ok(())
}

pub async fn put(server: &Server, token: &str, name: &str, request: Value) -> Result<Response, Fault> {
    ask(server, token, "PUT", &format!("/v1/intel/feeds/{name}"), request).await
}

async fn verdict(server: &Server, token: &str, kind: &str, value: &str) -> Result<Value, Fault> {
    done(server, token, "GET", &format!("/v1/intel/lookup?kind={kind}&value={value}"), Value::Null).await
}

fn shared(file: &str) -> Option<String> {
    let shared = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    shared.is_dir().then(|| std::fs::read_to_string(shared.join(file)).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_found_in_any_spelling_by_suffix_and_by_longest_prefix() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let content = "evil.example\n*.B\u{dc}CHER.example\n203.0.113.0/24\n203.0.113.128/25\n203.0.113.200\n2001:db8::/32\npackage:com.example.spy\nd41d8cd98f00b204e9800998ecf8427e\n";
    let made = put(&server, &admin, "one", json!({ "content": content, "confidence": 80 })).await?;
    assert_eq!(
        body(&made)["indicators"],
        json!({ "file_hash": 1, "package": 1, "certificate": 0, "domain": 2, "address": 4 })
    );
    for (kind, value, listed) in [
        ("domain", "EVIL.example.", vec!["evil.example"]),
        ("domain", "a.b.evil.example", vec!["evil.example"]),
        ("domain", "notevil.example", vec![]),
        ("domain", "example", vec![]),
        ("domain", "www.xn--bcher-kva.example", vec!["xn--bcher-kva.example"]),
        ("domain", "www.b%C3%BCcher.example", vec!["xn--bcher-kva.example"]),
        ("address", "203.0.113.200", vec!["203.0.113.200", "203.0.113.128/25", "203.0.113.0/24"]),
        ("address", "::ffff:203.0.113.129", vec!["203.0.113.128/25", "203.0.113.0/24"]),
        ("address", "203.0.113.1", vec!["203.0.113.0/24"]),
        ("address", "203.0.114.1", vec![]),
        ("address", "2001:DB8:1::1", vec!["2001:db8::/32"]),
        ("package", "com.example.spy", vec!["com.example.spy"]),
        ("package", "com.example.SPY", vec![]),
        ("file_hash", "D41D8CD98F00B204E9800998ECF8427E", vec!["d41d8cd98f00b204e9800998ecf8427e"]),
    ] {
        let said = verdict(&server, &admin, kind, value).await?;
        assert_eq!(text(&said, "verdict"), if listed.is_empty() { "clean" } else { "listed" }, "{value}: {said}");
        let found: Vec<String> = said["matches"].as_array().unwrap().iter().map(|m| text(m, "listed")).collect();
        assert_eq!(found, listed, "{value}");
    }
    let unasked = verdict(&server, &admin, "certificate", "d41d8cd98f00b204e9800998ecf8427e").await?;
    assert_eq!(text(&unasked, "verdict"), "unknown", "no feed knows certificates");
    let none = ask(&server, &admin, "GET", "/v1/intel/lookup?kind=domain", Value::Null).await?;
    assert_refused(&none, 422, "invalid_request");
    Ok(())
}

/// "Not listed" by a list that nobody has updated for a month is no comfort.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_counts_only_from_a_fresh_feed_that_knows_the_kind() -> Done {
    let mut server = Server::start_with(|c| c.tokens.access_ttl = 60 * DAY).await?;
    let admin = server.admin_token().await?;
    let said = |name: &'static str| {
        let (server, admin) = (&server, admin.clone());
        async move { Ok::<_, Fault>(text(&verdict(server, &admin, "domain", name).await?, "verdict")) }
    };
    assert_eq!(said("good.example").await?, "unknown", "without a feed nobody knows");
    put(&server, &admin, "empty", json!({ "content": "# nothing\n" })).await?.success()?;
    assert_eq!(said("good.example").await?, "unknown", "an empty feed says nothing");
    assert_eq!(done(&server, &admin, "GET", "/v1/intel/feeds/empty", Value::Null).await?["state"], "empty");
    put(&server, &admin, "one", json!({ "content": "evil.example\n", "stale_days": 2 })).await?.success()?;
    assert_eq!(said("good.example").await?, "clean");
    assert_eq!(said("evil.example").await?, "listed");
    server.clock.advance(Duration::from_secs(86_400 + 7_200));
    let view = done(&server, &admin, "GET", "/v1/intel/feeds/one", Value::Null).await?;
    assert_eq!((&view["state"], &view["age_s"]), (&json!("fresh"), &json!(93_600)), "its age is shown");
    server.clock.advance(DAY);
    assert_eq!(said("good.example").await?, "unknown", "stale");
    assert_eq!(said("evil.example").await?, "listed", "what it said it still says");
    // A second, fresh one does not make up for what the first one may have missed.
    put(&server, &admin, "two", json!({ "content": "worse.example\n" })).await?.success()?;
    assert_eq!(said("good.example").await?, "unknown");
    put(&server, &admin, "one", json!({ "content": "evil.example\n" })).await?.success()?;
    assert_eq!(said("good.example").await?, "clean");
    put(&server, &admin, "short", json!({ "content": "brief.example\n", "lifetime_days": 1 })).await?.success()?;
    assert_eq!(said("brief.example").await?, "listed");
    server.clock.advance(DAY);
    assert_eq!(said("brief.example").await?, "clean", "its time is over");

    server.restart().await?;
    let again = server.admin_token().await?;
    assert_eq!(text(&verdict(&server, &again, "domain", "www.evil.example").await?, "verdict"), "listed");
    assert_eq!(server.app().services.intel.feeds(first_tenant(&server).await?).len(), 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_feed_changes_nothing() -> Done {
    let server = Server::start_with(|c| c.intel.indicators_max = 100).await?;
    let admin = server.admin_token().await?;
    put(&server, &admin, "one", json!({ "content": "evil.example\n" })).await?.success()?;
    let many: String = (0..101).map(|i| format!("host-{i}.example\n")).collect();
    for (about, content, names) in [
        ("all addresses", "1.example\n0.0.0.0/0\n", "0.0.0.0/0"),
        ("a top level", "com\n", "com"),
        ("a registry", "a.example\nCO.UK.\n", "CO.UK."),
        ("a zip bomb", "PK\u{3}\u{4}\u{14}", "compressed"),
        ("half a bundle", "{\"type\":\"bundle\",\"objects\":[{", "line 1"),
        ("too many", many.as_str(), "more than"),
        ("an error page", "<html>\n<p>404</p>\n", "no indicators"),
    ] {
        let answer = put(&server, &admin, "one", json!({ "content": content })).await?;
        assert_refused(&answer, 422, "feed_refused");
        let detail = text(&body(&answer), "detail");
        assert!(detail.contains(names) && detail.contains("Nothing was changed"), "{about}: {detail}");
        assert_eq!(text(&verdict(&server, &admin, "domain", "evil.example").await?, "verdict"), "listed", "{about}");
    }
    for (member, bad) in
        [("confidence", json!(101)), ("lifetime_days", json!(0)), ("kind", json!("url")), ("extra", json!(1))]
    {
        let mut request = json!({ "content": "a.example" });
        request[member] = bad;
        assert_refused(&put(&server, &admin, "one", request).await?, 422, "invalid_request");
    }
    assert_refused(&put(&server, &admin, "Not-A-Name", json!({ "content": "a.example" })).await?, 404, "not_found");
    // There is room again for as many as are replaced.
    let hundred: String = (0..100).map(|i| format!("host-{i}.example\n")).collect();
    put(&server, &admin, "one", json!({ "content": hundred })).await?.success()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_feeds_are_its_own_and_the_appliances_are_everybodys() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let neighbour = second_tenant(&server).await?;
    let theirs = text(&add_user(&server, neighbour, "neighbour", "admin").await?, "access_token");
    put(&server, &admin, "own", json!({ "content": "mine.example\n" })).await?.success()?;
    put(&server, &admin, "all", json!({ "content": "bad.example\n", "scope": "global" })).await?.success()?;
    let said = |token: String, name: &'static str| {
        let server = &server;
        async move { Ok::<_, Fault>(text(&verdict(server, &token, "domain", name).await?, "verdict")) }
    };
    assert_eq!(said(admin.clone(), "mine.example").await?, "listed");
    assert_eq!(said(theirs.clone(), "mine.example").await?, "clean", "another tenant's list does not exist");
    assert_eq!(said(theirs.clone(), "bad.example").await?, "listed");
    let refused = put(&server, &theirs, "all", json!({ "content": "x.example\n", "scope": "global" })).await?;
    assert_refused(&refused, 403, "forbidden");
    let refused = ask(&server, &theirs, "DELETE", "/v1/intel/feeds/all?scope=global", Value::Null).await?;
    assert_refused(&refused, 403, "forbidden");
    let listed = done(&server, &theirs, "GET", "/v1/intel/feeds", Value::Null).await?;
    let names: Vec<String> = listed["data"].as_array().unwrap().iter().map(|f| text(f, "name")).collect();
    assert_eq!(names, ["all"]);
    done(&server, &admin, "DELETE", "/v1/intel/feeds/own", Value::Null).await?;
    assert_eq!(said(admin.clone(), "mine.example").await?, "clean");
    let page = done(&server, &admin, "GET", "/v1/intel/feeds?limit=1", Value::Null).await?;
    assert_eq!(page["next_cursor"], Value::Null);
    Ok(())
}

/// Alternating imports and lookups: a lookup sees the old feed or the new one, never a mixture, and nothing is left over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_is_replaced_at_one_stroke_and_leaves_no_blocks_behind() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let of = |tag: &str| (0..20_000).map(|i| format!("host-{i}.{tag}.example\n")).collect::<String>();
    for tag in ["red", "blue", "red", "blue"] {
        put(&server, &admin, "one", json!({ "content": of(tag) })).await?.success()?;
        let intel = &server.app().services.intel;
        let tenant = first_tenant(&server).await?;
        let hits = |tag: &str| {
            (0..20_000).filter(|i| intel.domain(tenant, &format!("host-{i}.{tag}.example")).surest().is_some()).count()
        };
        assert_eq!((hits(tag), hits(if tag == "red" { "blue" } else { "red" })), (20_000, 0));
    }
    let blocks = || {
        let mut count = 0;
        let snapshot = server.app().services.store.read()?;
        snapshot.visit(blockremote::store::tables::INTEL_BLOCKS, &[], None, |_, _| {
            count += 1;
            Ok(true)
        })?;
        Ok::<u32, Fault>(count)
    };
    assert!((1..10).contains(&blocks()?), "{}", blocks()?);
    done(&server, &admin, "DELETE", "/v1/intel/feeds/one", Value::Null).await?;
    assert_eq!(blocks()?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shared_lists_of_stalkerware_are_taken_in_as_they_are() -> Done {
    let (Some(samples), Some(network)) = (shared("threat_intel/samples.csv"), shared("threat_intel/network.csv"))
    else {
        return Ok(());
    };
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let made = body(&put(&server, &admin, "apps", json!({ "content": samples, "confidence": 95 })).await?);
    let lines = samples.lines().count() as u64 - 1;
    assert_eq!(made["indicators"]["file_hash"], lines, "{made}");
    let network_lines = network.lines().count() as u64 - 1;
    let made = body(&put(&server, &admin, "network", json!({ "content": network, "confidence": 95 })).await?);
    let taken = made["indicators"]["domain"].as_u64().unwrap() + made["indicators"]["address"].as_u64().unwrap();
    assert_eq!(taken + made["rejected"].as_u64().unwrap(), network_lines, "{made}");
    let mut seen = 0;
    for line in samples.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        for (kind, value) in [("file_hash", cells[0]), ("package", cells[1]), ("certificate", cells[2])] {
            let parsed = server.app().services.intel.look_up(first_tenant(&server).await?, kind.parse()?, value);
            seen += usize::from(parsed.surest().is_some_and(|m| server.app().services.intel.is_critical(m)));
        }
    }
    assert!(seen > 3_000, "{seen}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_takes_feeds_in_on_a_stopped_and_on_a_running_appliance() -> Done {
    let (place, _) = Place::set_up();
    let file = place.path("list.txt");
    std::fs::write(&file, "evil.example\ncom.example.spy # no domain of this name is asked about\n").unwrap();
    let file = file.display().to_string();
    let (said, _) = place.ends(&["intel", "import", &file, "--name", "list", "--confidence", "95"], 0);
    assert!(said.contains("2 indicators"), "{said}");
    let (said, _) = place.ends(&["intel", "lookup", "domain", "www.EVIL.example"], 0);
    assert!(said.starts_with("listed\nevil.example by list (95 %)"), "{said}");
    std::fs::write(&file, "com\n").unwrap();
    let (_, said) = place.ends(&["intel", "import", &file, "--name", "list"], 3);
    assert!(said.contains("large part of the Internet") && said.contains("Nothing was changed"), "{said}");
    let running = place.serve();
    let (said, _) = place.ends(&["intel", "list"], 0);
    assert!(said.contains("list") && said.contains("fresh"), "{said}");
    std::fs::write(&file, "com.example.spy\n").unwrap();
    place.ends(&["intel", "import", &file, "--name", "own", "--kind", "package", "--tenant", "default"], 0);
    let (said, _) = place.ends(&["intel", "lookup", "package", "com.example.spy", "--tenant", "default", "--json"], 0);
    assert!(said.contains("\"verdict\": \"listed\"") || said.contains("\"verdict\":\"listed\""), "{said}");
    let (said, _) = place.ends(&["intel", "lookup", "package", "com.example.spy"], 0);
    assert!(said.starts_with("unknown"), "a tenant's own feed is not the appliance's: {said}");
    place.ends(&["intel", "remove", "list"], 0);
    place.ends(&["intel", "remove", "list"], 1);
    assert_eq!(running.terminate().1, Some(0));
    Ok(())
}

/// A server of feeds that answers everybody the same.
async fn serve(answer: String) -> Result<(u16, tokio::task::JoinHandle<()>), Fault> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4_096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Ok((port, task))
}

fn http(status: &str, headers: &str, content: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{content}", content.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feeds_are_fetched_from_where_the_operator_says_and_a_bad_download_takes_nothing_away() -> Done {
    let (good, _first) = serve(http("200 OK", "", "evil.example\n")).await?;
    let (moved, _second) = serve(http("302 Found", "location: http://169.254.169.254/\r\n", "")).await?;
    let (large, _third) = serve(http("200 OK", "", &"a".repeat(3 << 20))).await?;
    let (packed, _fourth) = serve(http("200 OK", "content-encoding: gzip\r\n", "x")).await?;
    let (empty, _fifth) = serve(http("200 OK", "", "# gone\n")).await?;
    let mut server = Server::start().await?;
    let list = server.folder().join("sources.toml");
    let feed = |name: &str, port: u16| {
        format!("[[feed]]\nname = \"{name}\"\nurl = \"http://127.0.0.1:{port}/list\"\nevery_hours = 1\n")
    };
    let sources = [("good", good), ("moved", moved), ("large", large), ("packed", packed)].map(|(n, p)| feed(n, p));
    std::fs::write(&list, sources.concat())?;
    let named = list.clone();
    server
        .restart_with(move |c| {
            c.intel.sources = Some(named);
            c.intel.feed_bytes = 1 << 20;
        })
        .await?;
    let known = |server: &Server| server.app().services.intel.feeds_of(Scope::Global).len();
    assert!(blockremote::testkit::eventually(|| known(&server) == 1).await, "the good one and no other");
    let tenant = first_tenant(&server).await?;
    assert!(server.app().services.intel.domain(tenant, "evil.example").surest().is_some());
    // An hour later its server has lost its content.
    std::fs::write(&list, feed("good", empty))?;
    server.clock.advance(Duration::from_secs(3_700));
    server.restart().await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(server.app().services.intel.domain(tenant, "evil.example").surest().is_some(), "it still counts");
    std::fs::write(&list, "[[feed]]\nname = \"x\"\nurl = \"gopher://a/\"\n")?;
    let refused = server.restart().await.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(refused.contains("intel.sources") && refused.contains("gopher") | refused.contains("scheme"), "{refused}");
    Ok(())
}
