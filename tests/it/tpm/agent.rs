//! The agent proves its device: by its key always, by a TPM where it is given one, when it is asked, and to be let in.

use std::net::TcpListener;
use std::time::Duration;

use blockremote::agent::tpm::{Endorsement, Place};
use blockremote::agent::{self, Options, Output, Summary};
use blockremote::kernel::{Clock, Random};
use blockremote::testkit::{Fault, Server, text};
use hyper::Method;
use serde_json::{Value, json};

use super::chip::{Chip, Maker};
use super::{INFINEON, server};
use crate::attestation::state;
use crate::common::{Done, audited, first_tenant, send};

/// One device that plays for some seconds.
fn options(server: &Server, tpm: Option<Place>) -> Result<Options, Fault> {
    let url = format!("https://localhost:{}", server.app().addresses.http.port());
    let ca = server.config().paths.certs.join("ca.pem");
    Ok(Options {
        tpm,
        stop_after: Some(Duration::from_secs(6)),
        output: Output::Nothing,
        ..Options::new(url, ca, server.enrollment_token.clone())
    })
}

async fn play(options: &Options) -> Result<Summary, Fault> {
    Ok(agent::play(options, &Clock::System, &Random::System).await?)
}

async fn only_device(server: &Server) -> Result<String, Fault> {
    let admin = server.admin_token().await?;
    let list: Value = server.client()?.get("/v1/devices", Some(&admin)).await?.json()?;
    Ok(text(&list["data"][0], "device_id"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_without_a_tpm_proves_its_key_after_enrollment_and_whenever_it_is_asked() -> Done {
    let server = Server::start().await?;
    let options = options(&server, None)?;
    let playing = tokio::spawn(async move { play(&options).await });
    let mut asked = false;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let id = only_device(&server).await?;
        if !id.is_empty() && state(&server, &id).await?["level"] == "software" {
            let admin = server.admin_token().await?;
            let path = format!("/v1/devices/{id}/attestation/request");
            let answer = server.client()?.post(&path, Some(&admin), &json!({})).await?;
            asked = answer.json::<Value>()?["connected"] == true;
        }
        if asked {
            break;
        }
    }
    assert!(asked, "the device did not prove itself, or was not connected");
    let summary = playing.await??;
    let id = summary.devices[0].device_id.to_string();
    assert_eq!(summary.devices[0].attested.as_deref(), Some("software"), "{summary:?}");
    let proofs = audited(&server, &id).await?.iter().filter(|a| *a == "attestation_accepted").count();
    assert_eq!(proofs, 2, "one after its enrollment, one because it was asked");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_with_a_tpm_enrolls_where_hardware_is_demanded() -> Done {
    let maker = Maker::new("a maker")?;
    let (server, _folder) = server(&[&maker], "").await?;
    let tenant = first_tenant(&server).await?;
    let bearer = format!("Bearer {}", server.admin_token().await?);
    let demand = json!({ "attestation": "hardware" });
    let path = format!("/v1/tenants/{tenant}");
    let headers = [("authorization", bearer.as_str())];
    send(&mut server.client()?, Method::PATCH, &path, &headers, &demand).await?.success()?;
    assert!(play(&options(&server, None)?).await.is_err(), "a key in software is not hardware");

    for kind in [Endorsement::Rsa2048, Endorsement::P256] {
        let chip = Chip::start()?;
        chip.store_certificate(kind, &maker.certify(&chip.endorsement(kind)?, INFINEON)?)?;
        let summary = play(&options(&server, Some(chip.place()))?).await?;
        let device = &summary.devices[0];
        assert_eq!((device.attested.as_deref(), device.error.as_deref()), (Some("hardware"), None), "{summary:?}");
        let view = state(&server, device.device_id.as_str()).await?;
        assert_eq!((&view["level"], &view["type"]), (&json!("hardware"), &json!("tpm-quote")), "{view}");
        assert!(view["claims"]["key_thumbprint"].is_string(), "the enrolled key signed, too: {view}");
    }
    Ok(())
}

/// A machine whose maker nobody knows is still the device that enrolled, and its operator is told why it is no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tpm_that_is_not_trusted_or_not_there_leaves_the_key_in_software() -> Done {
    let server = Server::start().await?;
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let chip = Chip::start_on(port)?;
    for (place, why) in
        [(format!("tcp://127.0.0.1:{port}"), "maker"), (server.folder().join("no-tpm").display().to_string(), "no-tpm")]
    {
        let summary = play(&options(&server, Some(place.parse()?))?).await?;
        let device = &summary.devices[0];
        assert_eq!(device.attested.as_deref(), Some("software"), "{summary:?}");
        let view = state(&server, device.device_id.as_str()).await?;
        assert_eq!((&view["level"], &view["recent_failures"]), (&json!("software"), &json!(0)), "{view}");
        assert!(device.tpm_error.as_deref().is_some_and(|e| e.contains(why)), "{summary:?}");
    }
    drop(chip);
    Ok(())
}
