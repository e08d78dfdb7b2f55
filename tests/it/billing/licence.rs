//! Sites without a gateway: what the vendor signed counts, for the company and the time that it names.

use std::time::Duration;

use blockremote::client::Response;
use blockremote::crypto::{SigningKey, sign_compact};
use blockremote::kernel::Random;
use blockremote::testkit::{Device, Fault, Server, eventually, text};
use serde_json::{Value, json};

use crate::common::{DAY, Done, assert_refused, audited, first_tenant, refreshed};
use crate::people::{ask, done};
use crate::world::money::{licence, vendor, with_vendor_key};

async fn install(server: &Server, jws: &str) -> Result<Response, Fault> {
    let admin = server.admin_token().await?;
    ask(server, &admin, "PUT", "/v1/billing/licence", json!({ "licence": jws })).await
}

async fn live(server: &Server, phone: &mut Device, days: u32) -> Done {
    for _ in 0..days {
        server.clock.advance(DAY);
        (phone.access_token, phone.refresh_token) = refreshed(server, &phone.refresh_token).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_licence_for_all_devices_lifts_the_paywall_until_it_ends() -> Done {
    let server = Server::start_with(with_vendor_key).await?;
    let mut phone = server.enroll("BR-1").await?;
    live(&server, &mut phone, 7).await?;
    assert_eq!(phone.beat(&phone.calm()).await?.status, 402);
    let id = "BR-1".parse()?;
    let entry = server.app().services.devices.entry(first_tenant(&server).await?, &id).ok_or("no device")?;
    assert!(eventually(|| entry.device().told_to_pay).await);
    let tenant = first_tenant(&server).await?.to_string();
    let jws = licence(&server, &vendor(), &tenant, |c| c["covers_devices"] = json!(true));
    install(&server, &jws).await?.success()?;
    let beat = phone.beat(&phone.calm()).await?;
    assert_eq!((beat.status, crate::common::header(&beat, "x-plan-tier")), (200, "paid"), "from the answer on");
    let admin = server.admin_token().await?;
    let shown = done(&server, &admin, "GET", "/v1/billing/licence", Value::Null).await?;
    assert_eq!((&shown["licence_id"], &shown["in_force"]), (&json!("L-1"), &json!(true)));
    let mut log = Vec::new();
    for _ in 0..200 {
        log = audited(&server, "BR-1").await?;
        if log.contains(&"payment_settled".to_owned()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(log.contains(&"payment_settled".to_owned()), "the device is told, too: {log:?}");
    live(&server, &mut phone, 6).await?;
    assert!(!entry.device().told_to_pay);
    live(&server, &mut phone, 1).await?;
    assert_eq!(phone.beat(&phone.calm()).await?.status, 402, "a licence that ended covers nobody");
    assert!(eventually(|| entry.device().told_to_pay).await);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_the_vendor_grants_anything() -> Done {
    let server = Server::start_with(with_vendor_key).await?;
    let stranger = SigningKey::generate(&Random::seeded(99));
    let ended = server.clock.now().minus(DAY).to_string();
    for (what, jws, status, code) in [
        ("a foreign key", licence(&server, &stranger, "default", |_| {}), 422, "licence_refused"),
        ("another company", licence(&server, &vendor(), "other", |_| {}), 422, "licence_refused"),
        ("ended", licence(&server, &vendor(), "default", |c| c["expires_at"] = json!(ended)), 422, "licence_expired"),
        ("another thing that the vendor signed", sign_compact("at+jwt", b"{}", &vendor()), 422, "licence_refused"),
        ("nothing", "x".to_owned(), 422, "licence_refused"),
    ] {
        let answer = install(&server, &jws).await?;
        assert_eq!((answer.status, crate::common::code(&answer).as_str()), (status, code), "{what}");
    }
    let newer = licence(&server, &vendor(), "default", |_| {});
    install(&server, &newer).await?.success()?;
    let older = server.clock.now().minus(DAY).to_string();
    let older = licence(&server, &vendor(), "default", |c| c["issued_at"] = json!(older));
    assert_refused(&install(&server, &older).await?, 409, "licence_older");
    let admin = server.admin_token().await?;
    let users = done(&server, &admin, "GET", "/v1/tenants", Value::Null).await?;
    assert_eq!(text(&users["data"][0], "plan"), "enterprise", "the plan itself is not touched");
    let without = Server::start().await?;
    assert_refused(&install(&without, &newer).await?, 503, "licence_not_configured");
    Ok(())
}

/// What a site without network does: the file comes on a stick.
#[test]
fn the_command_line_installs_a_licence_and_prints_the_plans() {
    use crate::cli::binary::Place;
    let (place, _) = Place::set_up();
    let (plans, _) = place.ends(&["admin", "plans", "show"], 0);
    assert!(plans.contains("[paid_basic.quotas]") && plans.contains("heartbeats_per_minute = 120"));
    std::fs::write(place.path("licence.jws"), "not.a.licence\n").unwrap_or_default();
    let (_, said) = place.ends(&["admin", "licence", "licence.jws"], 1);
    assert!(said.contains("billing.vendor_key"), "{said}");
    let (said, _) = place.ends(&["admin", "plans", "reload"], 0);
    assert!(said.contains("not running"), "{said}");
}
