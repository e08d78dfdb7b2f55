//! A key that was bound once is trusted as long as who vouched for it is.

use blockremote::domains::attestation::{NewRoot, RootKind};
use blockremote::kernel::context::Origin;
use blockremote::testkit::Server;
use serde_json::json;

use super::chip::{Chip, Maker, PCRS};
use super::{INFINEON, activate, assert_reason, attest, quoted, server};
use crate::common::{Done, body, first_tenant};

async fn trust(server: &Server, maker: &Maker, label: &str) -> Done {
    let tenant = first_tenant(server).await?;
    let new = NewRoot { kind: RootKind::Tpm, label: label.to_owned(), pem: maker.pem.clone() };
    server.app().services.attestation.add_root(tenant, new, None, Origin::cli()).await.map(drop)?;
    Ok(())
}

async fn distrust(server: &Server, label: &str) -> Done {
    let tenant = first_tenant(server).await?;
    let attestation = &server.app().services.attestation;
    let root = attestation.roots(tenant).into_iter().find(|root| root.label == format!("added: {label}"));
    attestation.remove_root(tenant, root.ok_or("no such root")?.id, None, Origin::cli()).await?;
    Ok(())
}

/// A maker's authority turns out to be in other hands, and the company distrusts it. Keys that were bound before would have
/// counted as hardware for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_makers_lost_trust_ends_the_keys_that_it_bound() -> Done {
    let maker = Maker::new("a maker")?;
    let (server, _folder) = server(&[&maker], "").await?;
    let (device, chip) = (server.enroll("BR-1").await?, Chip::start()?);
    activate(&server, &device, &chip, (&maker, INFINEON)).await?;
    let accepted = attest(&server, &device, &quoted(&server, &device, &chip).await?).await?;
    assert_eq!(body(&accepted)["level"], json!("hardware"), "{}", body(&accepted));
    distrust(&server, "a maker").await?;
    let refused = attest(&server, &device, &quoted(&server, &device, &chip).await?).await?;
    assert_reason(&refused, "attestation_refused", "root_unknown");
    // Another maker under the label of the first is another maker.
    trust(&server, &Maker::new("somebody else")?, "a maker").await?;
    let refused = attest(&server, &device, &quoted(&server, &device, &chip).await?).await?;
    assert_reason(&refused, "attestation_refused", "root_unknown");
    distrust(&server, "a maker").await?;
    trust(&server, &maker, "the maker, after all").await?;
    let accepted = attest(&server, &device, &quoted(&server, &device, &chip).await?).await?;
    assert_eq!(accepted.status, 200, "{}", body(&accepted));
    assert_eq!(body(&accepted)["claims"]["pcrs"].as_object().map(serde_json::Map::len), Some(PCRS.len()));
    Ok(())
}

/// The policy took keys of chips that nobody knows, and does so no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_an_unknown_chip_counts_while_the_policy_takes_it() -> Done {
    let (mut server, folder) = server(&[], "[tpm]\nallow_unknown_ek = true\n").await?;
    let (device, chip) = (server.enroll("BR-1").await?, Chip::start()?);
    let kind = blockremote::agent::tpm::Endorsement::P256;
    let challenge = body(&super::ask(&server, &device, &chip.keys("BR-1", kind, None)?).await?);
    let answered = super::answer("BR-1", &challenge, &chip.open(kind, &challenge)?);
    assert_eq!(super::ask(&server, &device, &answered).await?.status, 200);
    assert_eq!(attest(&server, &device, &quoted(&server, &device, &chip).await?).await?.status, 200);
    std::fs::write(folder.path().join("policy.toml"), "")?;
    server.restart().await?;
    let refused = attest(&server, &device, &quoted(&server, &device, &chip).await?).await?;
    assert_reason(&refused, "attestation_refused", "ek_certificate_missing");
    Ok(())
}
