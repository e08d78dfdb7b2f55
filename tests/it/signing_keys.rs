//! Signing keys from outside the data file: they sign, they follow each other at restarts, and no private half of them is
//! ever written down.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use blockremote::app::control::{self, Ask};
use blockremote::app::place;
use blockremote::config::Config;
use blockremote::crypto::{JwkSet, SigningKey, sign_compact};
use blockremote::kernel::{Error, Random};
use blockremote::testkit::{Fault, Folder, Server, text};
use serde_json::{Value, json};

use crate::cli::binary::Place;
use crate::common::{Done, part, status_with};

/// A vault: what lies in it is not the appliance's.
struct Vault(Folder);

impl Vault {
    fn new() -> Result<Self, Fault> {
        Ok(Self(Folder::new()?))
    }

    fn keep(&self, name: &str, pem: &str) -> Result<PathBuf, Fault> {
        let path = self.0.path().join(name);
        std::fs::write(&path, pem)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }

    fn key(&self, name: &str, key: &SigningKey) -> Result<PathBuf, Fault> {
        self.keep(name, &key.to_pkcs8_pem()?)
    }
}

fn new_key() -> SigningKey {
    SigningKey::generate(&Random::System)
}

async fn kids(server: &Server) -> Result<Vec<String>, Fault> {
    let set: Value = server.client()?.get("/.well-known/jwks.json", None).await?.json()?;
    Ok(set["keys"].as_array().into_iter().flatten().map(|k| text(k, "kid")).collect())
}

fn kid_of(token: &str) -> Result<String, Fault> {
    Ok(text(&part(token, 0)?, "kid"))
}

/// Every way in which the private scalar could stand in a file.
fn spellings(key: &SigningKey) -> Result<Vec<Vec<u8>>, Fault> {
    let pem = key.to_pkcs8_pem()?;
    let body: String = pem.lines().filter(|l| !l.starts_with('-')).collect();
    let der = Base64::decode_vec(&body)?;
    // RFC 5915: the scalar is an octet string of 32 bytes behind the version.
    let at = der.windows(5).position(|w| w == [2, 1, 1, 4, 32]).ok_or("no scalar in the PEM")? + 5;
    let scalar = der[at..at + 32].to_vec();
    let hex: String = scalar.iter().map(|b| format!("{b:02x}")).collect();
    let lines = pem.lines().filter(|l| l.len() == 64).map(|l| l.as_bytes().to_vec());
    let mut all: Vec<Vec<u8>> = lines.collect();
    all.extend([hex.to_uppercase().into_bytes(), hex.into_bytes()]);
    all.extend([Base64::encode_string(&scalar), Base64UrlUnpadded::encode_string(&scalar)].map(String::into_bytes));
    all.push(scalar);
    assert!(all.len() >= 6);
    Ok(all)
}

/// Whether the private half stands in the file, however it is spelt.
fn stands_in(file: &Path, key: &SigningKey) -> Result<bool, Fault> {
    let bytes = std::fs::read(file)?;
    Ok(spellings(key)?.iter().any(|spelling| bytes.windows(spelling.len()).any(|w| w == spelling)))
}

/// Whether the token proves who comes; what its bearer may do is another matter.
async fn counts(server: &Server, token: &str) -> Result<bool, Fault> {
    Ok(status_with(server, token).await? != 401)
}

/// A token that says of itself that it was made now, by whoever holds `key`.
fn token_of_now(server: &Server, genuine: &str, key: &SigningKey) -> Result<String, Fault> {
    let mut claims = part(genuine, 1)?;
    let now = server.clock.now().as_secs();
    for (name, value) in [("iat", now), ("nbf", now), ("exp", now + 900)] {
        claims[name] = json!(value);
    }
    Ok(sign_compact("at+jwt", claims.to_string().as_bytes(), key))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outside_key_signs_from_the_first_start_on_and_is_never_written_down() -> Done {
    let vault = Vault::new()?;
    let (key, next) = (new_key(), new_key());
    let signing = vault.key("signing.pem", &key)?;
    let announced = vault.keep("next.pub", &next.verifying().to_spki_pem()?)?;
    let mut server = Server::start_with(|c: &mut Config| {
        c.tokens.signing_key = Some(signing);
        c.tokens.next_key = Some(announced);
    })
    .await?;
    assert_eq!(kids(&server).await?, [key.kid(), next.kid()], "no key of the appliance's own beside them");
    let token = server.enroll("BR-1").await?.access_token;
    assert_eq!(kid_of(&token)?, key.kid());
    assert!(counts(&server, &token).await?);
    let jwks = server.client()?.get("/.well-known/jwks.json", None).await?;
    assert!(JwkSet::parse(&jwks.body)?.get(key.kid()).is_some());

    let early = token_of_now(&server, &token, &next)?;
    assert!(!counts(&server, &early).await?, "the next key is published and has not signed anything yet");

    let refused = control::ask(&place::Place::of(server.config()).control_socket(), &Ask::RotateKeys);
    let Err(Error::Refused(refusal)) = refused else { return Err("the rotation was not refused".into()) };
    assert!(refusal.detail.contains("tokens.signing_key") && refusal.detail.contains("restart"), "{refusal}");

    server.stop().await;
    assert!(!stands_in(&server.config().paths.data, &key)?);
    Ok(())
}

/// The search would find it: otherwise the test above proves nothing.
#[test]
fn the_search_for_a_private_half_finds_one() -> Done {
    let vault = Vault::new()?;
    let key = new_key();
    for spelling in spellings(&key)? {
        let path = vault.0.path().join("file");
        std::fs::write(&path, [b"before", spelling.as_slice(), b"after"].concat())?;
        assert!(stands_in(&path, &key)?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_takes_over_at_a_restart_and_what_the_old_one_signed_counts_until_it_expires() -> Done {
    let vault = Vault::new()?;
    let (one, two) = (new_key(), new_key());
    let first = vault.key("one.pem", &one)?;
    let mut server = Server::start_with(|c: &mut Config| c.tokens.signing_key = Some(first)).await?;
    let device = server.enroll("BR-1").await?;
    let second = vault.key("two.pem", &two)?;
    server.restart_with(|c| c.tokens.signing_key = Some(second)).await?;
    let published = kids(&server).await?;
    assert_eq!(published, [two.kid(), one.kid()]);
    assert!(counts(&server, &device.access_token).await?, "of the old key, and not expired");
    let newer = server.enroll("BR-2").await?.access_token;
    assert_eq!(kid_of(&newer)?, two.kid());

    // The same once more changes nothing: the old key's time does not begin anew.
    server.clock.advance(Duration::from_secs(600));
    server.restart().await?;
    assert_eq!(kids(&server).await?, published);
    let early = token_of_now(&server, &device.access_token, &one)?;
    assert!(counts(&server, &early).await?, "whoever has the old key may still do this");

    // 15 minutes and 30 seconds after it retired, nothing genuine of it is left: what says otherwise is a thief's.
    server.clock.advance(Duration::from_secs(330));
    assert!(!counts(&server, &early).await?, "not even a token that was remembered");
    let late = token_of_now(&server, &device.access_token, &one)?;
    assert!(!counts(&server, &late).await?);
    assert!(counts(&server, &token_of_now(&server, &newer, &two)?).await?, "the new one is fine");
    assert_eq!(kids(&server).await?, published, "devices still check commands with the old one");
    server.clock.advance(Duration::from_secs(32 * 86_400));
    server.restart().await?;
    assert_eq!(kids(&server).await?, [two.kid()]);

    let entries =
        server.app().services.audit.list(crate::common::first_tenant(&server).await?, None, None, 200).await?;
    let rotated = entries.entries.iter().filter_map(|e| e.decision_reason.as_deref());
    let rotated: Vec<&str> = rotated.filter(|r| r.contains("signs from now on")).collect();
    assert_eq!(rotated.len(), 1, "{rotated:?}");
    assert!(rotated[0].contains(two.kid()) && rotated[0].contains(one.kid()));
    server.stop().await;
    for key in [&one, &two] {
        assert!(!stands_in(&server.config().paths.data, key)?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_own_keys_to_an_outside_one_and_back() -> Done {
    let vault = Vault::new()?;
    let key = new_key();
    let mut server = Server::start().await?;
    let own = kids(&server).await?;
    let by_own = server.enroll("BR-1").await?.access_token;
    let signing = vault.key("signing.pem", &key)?;
    server.restart_with(|c| c.tokens.signing_key = Some(signing)).await?;
    assert_eq!(kids(&server).await?, [key.kid(), own[0].as_str()], "the own next key never signed and is gone");
    assert!(counts(&server, &by_own).await?);
    let by_outside = server.enroll("BR-2").await?.access_token;
    assert_eq!(kid_of(&by_outside)?, key.kid());

    server.restart_with(|c| c.tokens.signing_key = None).await?;
    let published = kids(&server).await?;
    assert_eq!(published.len(), 4, "a new current, a new next, two that are retired: {published:?}");
    for token in [&by_own, &by_outside] {
        assert!(counts(&server, token).await?);
    }
    let by_new = server.enroll("BR-3").await?.access_token;
    assert_eq!(kid_of(&by_new)?, published[0]);
    assert!(!own.contains(&published[0]) && published[0] != key.kid());
    let rotated = control::ask(&place::Place::of(server.config()).control_socket(), &Ask::RotateKeys)?;
    assert_eq!(rotated.map(|r| text(&r, "kid")), Some(published[1].clone()), "the appliance rotates its own again");
    Ok(())
}

/// Nobody is thrown out by a rotation of the appliance's own keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rotation_a_token_counts_to_its_end_and_the_session_goes_on() -> Done {
    let server = Server::start().await?;
    let mut device = server.enroll("BR-1").await?;
    let old = device.access_token.clone();
    let socket = place::Place::of(server.config()).control_socket();
    control::ask(&socket, &Ask::RotateKeys)?;
    server.clock.advance(Duration::from_secs(899));
    assert!(counts(&server, &old).await?, "genuine, and not expired");
    server.clock.advance(Duration::from_secs(31));
    assert!(!counts(&server, &old).await?);
    // A device that slept meanwhile is let in by its refresh token, as ever.
    let (fresh, _) = crate::common::refreshed(&server, &device.refresh_token).await?;
    device.access_token = fresh;
    assert_eq!(device.beat(&device.calm()).await?.status, 200);
    Ok(())
}

#[test]
fn a_key_that_does_not_fit_stops_the_start_and_the_operator_is_told_which_and_where() -> Done {
    let (place, _) = Place::set_up();
    let signing = place.path("signing.pem");
    let serve = |name: &str, file: &Path, code: i32| -> String {
        let variable = format!("BLOCKREMOTE_TOKENS__{name}");
        let output = place.command(&["serve"]).env(variable, file).output();
        let Ok(output) = output else { return String::new() };
        assert_eq!(output.status.code(), Some(code));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let missing = serve("SIGNING_KEY", &signing, 1);
    assert!(missing.contains("tokens.signing_key") && missing.contains("signing.pem"), "{missing}");
    std::fs::write(&signing, "no key at all")?;
    let unfit = serve("SIGNING_KEY", &signing, 1);
    assert!(unfit.contains("tokens.signing_key") && unfit.contains("PKCS#8") && !unfit.contains("at all"), "{unfit}");
    let alone = serve("NEXT_KEY", &signing, 1);
    assert!(alone.contains("tokens.next_key") && alone.contains("tokens.signing_key"), "{alone}");

    // As a systemd credential, by its name.
    let key = new_key();
    let folder = place.path("credentials");
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("signing-key"), key.to_pkcs8_pem()?.as_bytes())?;
    let doctor = |credentials: bool| -> Result<String, Fault> {
        let mut command = place.command(&["doctor", "--json"]);
        if credentials {
            command.env("CREDENTIALS_DIRECTORY", &folder);
        }
        let checks: Value = serde_json::from_slice(&command.output()?.stdout)?;
        let mut checks = checks["checks"].as_array().into_iter().flatten();
        Ok(checks.find(|c| c["check"] == "signing key").map(|c| text(c, "detail")).unwrap_or_default())
    };
    assert!(doctor(false)?.contains("in the data file, sealed"));
    let said = doctor(true)?;
    assert!(said.contains(key.kid()) && said.contains("credential"), "{said}");
    Ok(())
}

/// The key is a credential of the service; the operator's shell does not see it. What is done there must neither fail for
/// want of it nor take its absence for a change.
#[test]
fn a_shell_without_the_key_administers_a_stopped_appliance_and_leaves_the_key_in_place() -> Done {
    let (place, _) = Place::set_up();
    let key = new_key();
    let signing = place.path("signing.pem");
    std::fs::write(&signing, key.to_pkcs8_pem()?.as_bytes())?;
    std::fs::set_permissions(&signing, std::fs::Permissions::from_mode(0o600))?;
    let config = place.path("blockremote.toml");
    std::fs::write(&config, format!("[tokens]\nsigning_key = {:?}\n", signing.display().to_string()))?;
    drop(place.serve());
    std::fs::remove_file(&config)?;
    place.ends(&["admin", "user", "passwd", "admin"], 0);
    let (_, refused) = place.ends(&["admin", "keys", "rotate"], 3);
    assert!(refused.contains("tokens.signing_key") && refused.contains("restart"), "{refused}");
    assert!(refused.contains("Put the new key"), "{refused}");
    std::fs::write(&config, format!("[tokens]\nsigning_key = {:?}\n", signing.display().to_string()))?;
    drop(place.serve());
    let log = std::fs::read_to_string(place.path("serve.log"))?;
    assert!(!log.contains("signing keys changed"), "the key had stayed in its place: {log}");
    Ok(())
}
