//! What each kind of receiver gets, in the clear and over TLS.

use blockremote::testkit::{Server, eventually, text};
use serde_json::{Value, json};

use super::receiver::{Receiver, acceptor, mail_server, sink};
use super::{block, on_loopback, stands};
use crate::common::Done;
use crate::people::done;
use crate::world::hooks::{integration, webhook};

/// A server that trusts a certificate for `localhost`, and who shows it.
async fn with_tls() -> Result<(Server, String, tokio_rustls::TlsAcceptor), blockremote::testkit::Fault> {
    let (tls, pem) = acceptor("localhost")?;
    let folder = blockremote::testkit::Folder::new()?;
    let file = folder.path().join("receivers.pem");
    std::fs::write(&file, pem)?;
    let server = Server::start_with(|c| {
        on_loopback(c);
        c.integrations.ca_certificates = file;
    })
    .await?;
    let admin = server.admin_token().await?;
    server.enroll("BR-1").await?;
    Ok((server, admin, tls))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_over_tls_is_sent_to_whom_the_certificate_names_and_to_nobody_else() -> Done {
    let (server, admin, tls) = with_tls().await?;
    let trusted = Receiver::over(Some(tls)).await?;
    let (stranger, _) = acceptor("localhost")?;
    let untrusted = Receiver::over(Some(stranger)).await?;
    let (other_name, _) = acceptor("other.example")?;
    let misnamed = Receiver::over(Some(other_name)).await?;
    let plain = Receiver::start().await?;
    let mut ids = Vec::new();
    for (name, host, port) in [
        ("trusted", "localhost", trusted.port),
        ("untrusted", "localhost", untrusted.port),
        ("misnamed", "localhost", misnamed.port),
        ("by address", "127.0.0.1", trusted.port),
        ("plain", "localhost", plain.port),
    ] {
        let url = format!("https://{host}:{port}/hook");
        ids.push((name, integration(&server, &admin, webhook(name, &url, &["device.*"])).await?.0));
    }
    block(&server, &admin, "BR-1").await?;
    for (name, id) in &ids {
        if *name == "trusted" {
            stands(&server, &admin, id, "delivered", 1).await?;
        } else {
            let tried = stands(&server, &admin, id, "pending", 1).await?;
            assert!(text(&tried["log"][0], "answer").starts_with("no TLS"), "{name}: {tried}");
        }
    }
    assert_eq!(trusted.got().len(), 1);
    assert_eq!(untrusted.got().len() + misnamed.got().len() + plain.got().len(), 0, "not a byte of it was said");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syslog_servers_get_one_counted_frame_for_each_event() -> Done {
    let (server, admin, tls) = with_tls().await?;
    for (name, kind, tls) in [("plain", "none", None), ("secure", "tls", Some(tls))] {
        let (port, said) = sink(tls).await?;
        let body =
            json!({ "name": name, "kind": "syslog", "events": ["*"], "host": "localhost", "port": port, "tls": kind });
        let (id, secret) = integration(&server, &admin, body).await?;
        assert_eq!(secret, "", "only webhooks are signed");
        let tried = done(&server, &admin, "POST", &format!("/v1/integrations/{id}/test"), Value::Null).await?;
        assert_eq!(tried["delivered"], true, "{tried}");
        assert!(eventually(|| said.lock().is_ok_and(|all| !all.is_empty())).await);
        let frame = said.lock().map(|all| all[0].clone()).unwrap_or_default();
        let frame = String::from_utf8(frame)?;
        let (length, message) = frame.split_once(' ').ok_or("no length")?;
        assert_eq!(length.parse::<usize>()?, message.len());
        assert!(
            message.starts_with("<110>1 ") && message.contains(" blockremote - integration.test [meta "),
            "{message}"
        );
        assert!(!message.chars().any(char::is_control));
        done(&server, &admin, "DELETE", &format!("/v1/integrations/{id}"), Value::Null).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_is_handed_over_and_a_password_only_behind_tls() -> Done {
    let (server, admin, tls) = with_tls().await?;
    let mail = |name: &str, port: u16, tls: &str| {
        json!({ "name": name, "kind": "email", "events": ["*"], "host": "localhost", "port": port, "tls": tls,
                "from": "appliance@example.org", "to": ["ops@example.org", "night@example.org"] })
    };
    let (port, said) = mail_server(None).await?;
    let (id, _) = integration(&server, &admin, mail("plain", port, "none")).await?;
    let test = |id: &str| format!("/v1/integrations/{id}/test");
    let tried = done(&server, &admin, "POST", &test(&id), Value::Null).await?;
    assert_eq!(tried["delivered"], true, "{tried}");
    let talk = said.lock().map(|t| t.clone()).unwrap_or_default();
    for line in ["RCPT TO:<ops@example.org>", "RCPT TO:<night@example.org>", "Subject: [BlockRemote] integration.test"]
    {
        assert!(talk.contains(line), "{line} is not in {talk}");
    }
    let starttls =
        done(&server, &admin, "PATCH", &format!("/v1/integrations/{id}"), json!({ "tls": "starttls" })).await?;
    assert_eq!(starttls["tls"], "starttls");
    let tried = done(&server, &admin, "POST", &test(&id), Value::Null).await?;
    assert!(text(&tried["attempt"], "answer").contains("STARTTLS"), "a server without it gets no mail: {tried}");

    let (port, said) = mail_server(Some(tls)).await?;
    let mut secure = mail("secure", port, "starttls");
    secure["username"] = "robot".into();
    secure["password"] = "the password of a robot".into();
    let (id, _) = integration(&server, &admin, secure).await?;
    let tried = done(&server, &admin, "POST", &test(&id), Value::Null).await?;
    assert_eq!(tried["delivered"], true, "{tried}");
    let talk = said.lock().map(|t| t.clone()).unwrap_or_default();
    let (before, after) = talk.split_once("STARTTLS").ok_or("no STARTTLS")?;
    assert!(!before.contains("AUTH") && after.contains("AUTH PLAIN"), "{talk}");
    // At another server the login would be given away.
    let moved =
        done(&server, &admin, "PATCH", &format!("/v1/integrations/{id}"), json!({ "host": "127.0.0.1" })).await?;
    assert_eq!(moved["username"], Value::Null);
    Ok(())
}
