//! What is kept of a key, and what is not: nowhere its secret, across a restart everything else.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use blockremote::crypto::sha256;
use blockremote::kernel::Timestamp;
use blockremote::store::tables::ALL;
use blockremote::testkit::{Server, eventually, text};
use hyper::Method;
use serde_json::json;

use super::{delete, get, key, rotate, secret_of, stored_rows, wanted};
use crate::common::{DAY, Done, MINUTE, body, send};

/// Who gets hold of the data file must not be able to call, nor to try secrets that he found elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_the_secret_nor_its_plain_hash_is_stored_anywhere() -> Done {
    let server = Server::start().await?;
    let admin = format!("Bearer {}", server.admin_token().await?);
    let headers = [("authorization", admin.as_str()), ("idempotency-key", "once")];
    let wanted = wanted(&server, &["devices:read"]);
    let made = body(&send(&mut server.client()?, Method::POST, "/v1/api-keys", &headers, &wanted).await?);
    let (id, first) = (text(&made, "id"), text(&made, "key"));
    let second = rotate(&server, &id, &json!({})).await?;
    let rows = stored_rows(&server)?;
    assert_eq!(rows.len(), 1);
    assert!(text(&rows[0], "hash").len() == 43 && text(&rows[0]["previous"], "hash").len() == 43, "{}", rows[0]);
    let mut forbidden: Vec<Vec<u8>> = Vec::new();
    for whole in [&first, &second] {
        let secret = secret_of(whole);
        let bits = Base64UrlUnpadded::decode_vec(secret)?;
        forbidden.push(secret.as_bytes().to_vec());
        forbidden.push(bits.clone());
        for text in [whole.as_bytes(), secret.as_bytes(), &bits] {
            let hash = sha256(text);
            forbidden.push(hash.to_vec());
            forbidden.push(hash.iter().map(|b| format!("{b:02x}")).collect::<String>().into_bytes());
            forbidden.push(Base64UrlUnpadded::encode_string(&hash).into_bytes());
            forbidden.push(Base64::encode_string(&hash).trim_end_matches('=').as_bytes().to_vec());
        }
    }
    let mut seen = 0;
    let snapshot = server.app().services.store.read()?;
    for table in ALL {
        snapshot.visit(*table, &[], None, |key, value| {
            for needle in &forbidden {
                let holds = |hay: &[u8]| hay.windows(needle.len()).any(|w| w == needle.as_slice());
                assert!(!holds(key) && !holds(value), "a secret or its hash stands in {table}");
            }
            seen += usize::from(value.windows(id.len()).any(|w| w == id.as_bytes()));
            Ok(true)
        })?;
    }
    assert!(seen >= 4, "the row, two entries and the first answer name the key: {seen}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_keys_and_their_last_use() -> Done {
    let mut server = Server::start().await?;
    let made = key(&server, &["keys:read"]).await?;
    let revoked = key(&server, &["keys:read"]).await?;
    let (id, whole) = (text(&made, "id"), text(&made, "key"));
    delete(&server, &format!("/v1/api-keys/{}", text(&revoked, "id")), &server.admin_token().await?).await?;
    let second = rotate(&server, &id, &json!({})).await?;
    server.clock.advance(MINUTE);
    let used_at = server.clock.now();
    assert_eq!(get(&server, "/v1/api-keys", &whole).await?.status, 200);
    let written = || stored_rows(&server).is_ok_and(|rows| text(&rows[0], "last_used_ip") == "127.0.0.1");
    assert!(!written(), "a use costs no commit");
    server.app().services.iam.sweep().await;
    assert!(eventually(written).await, "the sweep writes it down");
    server.clock.advance(MINUTE);
    server.restart().await?;
    let token = server.admin_token().await?;
    let view = body(&get(&server, &format!("/v1/api-keys/{id}"), &token).await?);
    assert_eq!(text(&view, "last_used_at").parse::<Timestamp>()?, used_at, "{view}");
    assert_eq!(view["last_used_ip"], "127.0.0.1");
    for (key, expected) in [(&whole, 200), (&second, 200), (&text(&revoked, "key"), 401)] {
        assert_eq!(get(&server, "/v1/api-keys", key).await?.status, expected);
    }
    server.clock.advance(DAY - 2 * MINUTE);
    assert_eq!(get(&server, "/v1/api-keys", &second).await?.status, 401, "the expiry was kept, too");
    Ok(())
}

/// Everything that the process logs while the test runs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Option<Vec<u8>>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Some(log) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            log.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_ever_logged_however_much_is() -> Done {
    let log = Log(Arc::new(Mutex::new(Some(Vec::new()))));
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber)?;
    let server = Server::start().await?;
    let made = key(&server, &["devices:read"]).await?;
    let whole = text(&made, "key");
    let second = rotate(&server, &text(&made, "id"), &json!({})).await?;
    for key in [&whole, &second, &whole.replace("br_live_", "bri_"), &format!("{whole}A")] {
        get(&server, "/v1/devices", key).await?;
        get(&server, "/v1/me", key).await?;
    }
    delete(&server, &format!("/v1/api-keys/{}", text(&made, "id")), &server.admin_token().await?).await?;
    get(&server, "/v1/devices", &whole).await?;
    let written = log.0.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
    let written = String::from_utf8_lossy(&written);
    assert!(written.contains("/v1/api-keys/{key_id}/rotate"), "the log was listened to");
    for key in [&whole, &second] {
        assert!(!written.contains(secret_of(key)), "a secret was logged");
    }
    Ok(())
}
