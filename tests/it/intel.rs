//! Threat feeds: taken in as a whole or not at all, asked by everybody, believed only while they are fresh.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use blockremote::client::Response;
use blockremote::domains::intel::{Asker, Confidence, FeedName, Format, Intel, NewFeed, Scope};
use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::TenantId;
use blockremote::store::tables::{INTEL_BLOCKS, Key};
use blockremote::testkit::{Fault, Server, text};
use serde_json::{Value, json};

use crate::cli::binary::Place;
use crate::common::{DAY, Done, add_user, assert_refused, body, first_tenant, second_tenant};
use crate::people::{ask, done};

/// A feed of one domain, made behind the gate.
pub async fn feed(server: &Server, tenant: TenantId, name: &str) -> Done {
    Ok(import(server.app().services.intel.clone(), tenant, name.parse()?).await?)
}

async fn import(intel: Intel, tenant: TenantId, name: FeedName) -> blockremote::kernel::Result<()> {
    let new = NewFeed {
        scope: Scope::Tenant(tenant),
        name,
        source: "a test".to_owned(),
        format: Format::Text,
        kind: None,
        confidence: Confidence::new(60),
        lifetime: None,
        stale_after: None,
        may_be_empty: false,
    };
    let asker = Asker { by: None, log: tenant, origin: Origin::cli() };
    intel.import(new, b"made.example\n".to_vec(), asker).await.map(drop)
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
    assert_eq!(said("brief.example").await?, "unknown", "its time is over, and with it all that its feed knows");
    let view = done(&server, &admin, "GET", "/v1/intel/feeds/short", Value::Null).await?;
    assert_eq!(text(&view, "state"), "stale", "{view}");
    done(&server, &admin, "DELETE", "/v1/intel/feeds/short", Value::Null).await?;
    assert_eq!(said("brief.example").await?, "clean");

    server.restart().await?;
    let again = server.admin_token().await?;
    assert_eq!(text(&verdict(&server, &again, "domain", "www.evil.example").await?, "verdict"), "listed");
    assert_eq!(server.app().services.intel.feeds(first_tenant(&server).await?).len(), 3);
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

/// The room for indicators was one pool: a tenant that filled it made everybody's imports fail, the appliance's, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tenant_takes_the_room_of_all_others() -> Done {
    let server = Server::start_with(|c| (c.intel.indicators_max, c.intel.tenant_indicators_max) = (250, 100)).await?;
    let admin = server.admin_token().await?;
    let neighbour = second_tenant(&server).await?;
    let theirs = text(&add_user(&server, neighbour, "neighbour", "admin").await?, "access_token");
    let of = |n: usize| json!({ "content": (0..n).map(|i| format!("host-{i}.example\n")).collect::<String>() });
    put(&server, &theirs, "one", of(60)).await?.success()?;
    assert_refused(&put(&server, &theirs, "two", of(41)).await?, 422, "feed_refused");
    put(&server, &theirs, "two", of(40)).await?.success()?;
    put(&server, &theirs, "one", of(60)).await?.success()?;
    put(&server, &admin, "own", of(100)).await?.success()?;
    let mut all = of(51);
    all["scope"] = json!("global");
    assert_refused(&put(&server, &admin, "all", all.clone()).await?, 422, "feed_refused");
    all["content"] = json!("bad.example\n".repeat(50));
    put(&server, &admin, "all", all).await?.success()?;
    Ok(())
}

/// Each import waited for the one before with its eight megabytes in its hands, and nobody counted them.
#[tokio::test]
async fn imports_beyond_those_that_may_wait_are_told_to_come_again() -> Done {
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?;
    let mut all = tokio::task::JoinSet::new();
    for i in 0..12 {
        all.spawn(import(server.app().services.intel.clone(), tenant, format!("feed-{i}").parse()?));
    }
    let all = all.join_all().await;
    let refused: Vec<String> = all.into_iter().filter_map(|done| done.err().map(|e| e.to_string())).collect();
    assert_eq!(refused.len(), 4, "{refused:?}");
    assert!(refused.iter().all(|why| why.contains("Too many feeds")), "{refused:?}");
    assert_eq!(server.app().services.intel.feeds(tenant).len(), 8);
    feed(&server, tenant, "later").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_shows_the_surest_and_says_that_there_are_more() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let nets: String = (24..=128).map(|p| format!("2a00:db8::/{p},{}\n", p - 24)).collect();
    put(&server, &admin, "nets", json!({ "content": format!("network,confidence\n{nets}") })).await?.success()?;
    let said = verdict(&server, &admin, "address", "2a00:db8::").await?;
    let matches = said["matches"].as_array().unwrap();
    assert_eq!((matches.len(), &said["more_matches"]), (64, &json!(true)));
    assert!(matches[0]["confidence"] == 100 && matches[63]["confidence"] == 41, "{said}");
    let said = verdict(&server, &admin, "address", "2a00:db8:1::").await?;
    assert_eq!(said["more_matches"], false, "{said}");
    Ok(())
}

/// A power cut in the middle of an import leaves blocks that no feed names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cut_off_import_left_behind_is_removed_at_the_next_start() -> Done {
    let mut server = Server::start().await?;
    let admin = server.admin_token().await?;
    put(&server, &admin, "one", json!({ "content": "evil.example\n" })).await?.success()?;
    let tenant = first_tenant(&server).await?;
    let left = move |tx: &mut blockremote::store::Tx<'_>| {
        for number in 0..20 {
            let key = Key::new().bytes(tenant.to_bytes()).number(900).number(number);
            tx.put_raw(INTEL_BLOCKS, key, b"half a block")?;
        }
        Ok(())
    };
    server.app().services.store.write(left).await?;
    let blocks = |server: &Server| {
        let mut count = 0;
        server.app().services.store.read().unwrap().visit(INTEL_BLOCKS, &[], None, |_, _| {
            count += 1;
            Ok(true)
        })?;
        Ok::<u32, Fault>(count)
    };
    assert_eq!(blocks(&server)?, 21);
    server.restart().await?;
    assert!(blockremote::testkit::eventually(|| blocks(&server).is_ok_and(|count| count == 1)).await);
    let admin = server.admin_token().await?;
    assert_eq!(text(&verdict(&server, &admin, "domain", "evil.example").await?, "verdict"), "listed");
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
