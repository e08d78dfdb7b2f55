//! The refresh token as a cookie: what a page of another site, a form and a planted cookie can do with it.

use std::sync::Arc;

use blockremote::client::{Endpoint, HttpClient, Response};
use blockremote::testkit::{Fault, Server, text};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::client::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::common::{Done, assert_refused, assert_untouched, body, header};
use crate::wire::{ask, url};

const NAME: &str = "__Host-refresh";
const REFRESH: &str = "/v1/auth/refresh";

async fn post(server: &Server, path: &str, headers: &[(&str, &str)], wanted: &Value) -> Result<Response, Fault> {
    ask(&mut server.client()?, Method::POST, path, headers, wanted).await
}

async fn log_in(server: &Server, headers: &[(&str, &str)]) -> Result<Response, Fault> {
    let admin = &server.admin;
    let login = json!({ "username": admin.username, "password": admin.password.expose(), "cookie": true });
    let answer = post(server, "/v1/auth/login", headers, &login).await?;
    assert_eq!(answer.status, 200, "{}", body(&answer));
    Ok(answer)
}

/// `name=value` of the cookie that the answer sets.
fn cookie(answer: &Response) -> String {
    header(answer, "set-cookie").split(';').next().unwrap_or_default().to_owned()
}

/// The attributes of the cookie that the answer sets, in alphabetical order.
fn attributes(answer: &Response) -> Vec<&str> {
    let mut attributes: Vec<&str> = header(answer, "set-cookie").split(';').skip(1).map(str::trim).collect();
    attributes.sort_unstable();
    attributes
}

const OURS: [&str; 5] = ["HttpOnly", "Max-Age=2592000", "Path=/", "SameSite=Strict", "Secure"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_refresh_token_is_in_the_cookie_and_nowhere_else() -> Done {
    let server = Server::start().await?;
    let login = log_in(&server, &[]).await?;
    assert_eq!(login.headers.get_all("set-cookie").iter().count(), 1);
    assert_eq!(attributes(&login), OURS);
    let first = cookie(&login);
    let token = first.strip_prefix("__Host-refresh=").ok_or("another name")?.to_owned();
    assert!(token.starts_with("brr_"));
    assert_eq!(body(&login).get("refresh_token"), None);
    assert!(!login.body.windows(token.len()).any(|w| w == token.as_bytes()));
    assert_eq!(header(&login, "cache-control"), "no-store");

    let among_others = format!("theme=dark; {first}; lang=de");
    let refreshed = post(&server, REFRESH, &[("cookie", &among_others)], &json!({})).await?;
    assert_eq!(refreshed.status, 200, "{}", body(&refreshed));
    assert_eq!(attributes(&refreshed), OURS);
    assert_ne!(cookie(&refreshed), first);
    assert_eq!(body(&refreshed).get("refresh_token"), None);
    assert_eq!(text(&body(&refreshed), "session_id"), text(&body(&login), "session_id"));

    let bearer = format!("Bearer {}", text(&body(&refreshed), "access_token"));
    let out = post(&server, "/v1/auth/logout", &[("authorization", &bearer)], &Value::Null).await?;
    assert_eq!((out.status, cookie(&out).as_str()), (204, "__Host-refresh="));
    assert_eq!(attributes(&out), ["HttpOnly", "Max-Age=0", "Path=/", "SameSite=Strict", "Secure"]);
    let over = post(&server, REFRESH, &[("cookie", &cookie(&refreshed))], &json!({})).await?;
    assert_refused(&over, 403, "refresh_invalid");
    assert_refused(&post(&server, REFRESH, &[("cookie", &cookie(&out))], &json!({})).await?, 403, "refresh_invalid");
    Ok(())
}

/// Somebody on a neighbouring name plants a cookie of the same name: which one is ours cannot be told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_cookies_of_that_name_count_as_none() -> Done {
    let server = Server::start().await?;
    let (own, planted) = (cookie(&log_in(&server, &[]).await?), cookie(&log_in(&server, &[]).await?));
    for headers in [
        vec![("cookie", format!("{own}; {planted}"))],
        vec![("cookie", format!("{planted}; {own}"))],
        vec![("cookie", format!("{own}; {own}"))],
        vec![("cookie", own.clone()), ("cookie", planted.clone())],
        vec![("cookie", planted.clone()), ("cookie", own.clone())],
        vec![("cookie", format!("a=b;{own};{NAME}=")), ("cookie", "c=d".to_owned())],
        vec![],
        vec![("cookie", format!("x{own}; {NAME}x=1; {NAME}"))],
        vec![("cookie", own.to_lowercase())],
    ] {
        let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let answer = post(&server, REFRESH, &headers, &json!({})).await?;
        assert_refused(&answer, 422, "invalid_request");
        assert_eq!(body(&answer)["errors"][0]["pointer"], "/refresh_token", "{headers:?}");
    }
    for cookie in [own, planted] {
        assert_eq!(
            post(&server, REFRESH, &[("cookie", &cookie)], &json!({})).await?.status,
            200,
            "nothing was used up"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_site_cannot_use_the_cookie() -> Done {
    let friend = "https://console.example";
    let server = Server::start_with(|config| config.http.allowed_origins = vec![friend.to_owned()]).await?;
    server.enroll("BR-1").await?;
    let mut jar = cookie(&log_in(&server, &[]).await?);
    let own = url(&server, "");
    let (plain, elsewhere) = (own.replace("https", "http"), "https://evil.example");
    for (site, origin, taken) in [
        (Some("cross-site"), None, false),
        (Some("same-site"), None, false),
        (Some("anything"), None, false),
        (Some("cross-site"), Some(elsewhere), false),
        (Some("same-site"), Some("https://localhost:1"), false),
        (None, Some(elsewhere), false),
        (None, Some("null"), false),
        (None, Some(""), false),
        (None, Some("https://localhost"), false),
        (None, Some(plain.as_str()), false),
        (Some("same-origin"), Some(elsewhere), false),
        (Some("none"), Some(elsewhere), false),
        (Some("same-origin"), Some(own.as_str()), true),
        (Some("same-origin"), None, true),
        (Some("none"), None, true),
        (None, Some(own.as_str()), true),
        (Some("cross-site"), Some(friend), true),
        (None, Some(friend), true),
        (None, None, true),
    ] {
        let mut headers = vec![("cookie", jar.as_str())];
        headers.extend(site.map(|s| ("sec-fetch-site", s)));
        headers.extend(origin.map(|o| ("origin", o)));
        let answer = post(&server, REFRESH, &headers, &json!({})).await?;
        if taken {
            assert_eq!(answer.status, 200, "{site:?} {origin:?}: {}", body(&answer));
            let next = cookie(&answer);
            jar = next;
        } else {
            assert_eq!(
                (answer.status, text(&body(&answer), "code").as_str()),
                (403, "csrf_refused"),
                "{site:?} {origin:?}"
            );
            assert_eq!(answer.headers.get("set-cookie"), None);
        }
    }
    // A token in the body was put there on purpose: that is no cookie.
    let token = jar.trim_start_matches("__Host-refresh=").to_owned();
    let wanted = json!({ "refresh_token": token });
    assert_eq!(post(&server, REFRESH, &[("sec-fetch-site", "cross-site")], &wanted).await?.status, 200);
    assert_untouched(&server, "BR-1").await
}

/// A form can send three media types, and JSON is none of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_cannot_forge_a_request() -> Done {
    let server = Server::start().await?;
    let jar = cookie(&log_in(&server, &[]).await?);
    let admin = &server.admin;
    let login = json!({ "username": admin.username, "password": admin.password.expose(), "cookie": true });
    for media in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""] {
        for (path, wanted) in [(REFRESH, &json!({})), ("/v1/auth/login", &login)] {
            let headers = [("cookie", jar.as_str()), ("content-type", media)];
            let mut client = server.client()?;
            let answer = client.request(Method::POST, path, &headers, wanted.to_string().into()).await?;
            assert_refused(&answer, 415, "unsupported_media_type");
        }
    }
    assert_eq!(post(&server, REFRESH, &[("cookie", &jar)], &json!({})).await?.status, 200);
    Ok(())
}

/// Who plants their own cookie or token before the victim logs in must not share the victim's session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_opens_a_session_of_its_own_whatever_the_browser_brings() -> Done {
    let server = Server::start().await?;
    let planted = log_in(&server, &[]).await?;
    let jar = cookie(&planted);
    let bearer = format!("Bearer {}", text(&body(&planted), "access_token"));
    let fresh = log_in(&server, &[("cookie", &jar), ("authorization", &bearer)]).await?;
    assert_ne!(text(&body(&fresh), "session_id"), text(&body(&planted), "session_id"));
    assert_ne!(cookie(&fresh), jar);
    let chosen = json!({
        "username": server.admin.username,
        "password": server.admin.password.expose(),
        "session_id": text(&body(&planted), "session_id"),
    });
    assert_refused(&post(&server, "/v1/auth/login", &[], &chosen).await?, 422, "invalid_request");
    // And the end of the one does not end the other.
    assert_eq!(post(&server, "/v1/auth/logout", &[("authorization", &bearer)], &Value::Null).await?.status, 204);
    assert_eq!(post(&server, REFRESH, &[("cookie", &cookie(&fresh))], &json!({})).await?.status, 200);
    Ok(())
}

/// In HTTP/2 a browser may send each cookie in a field of its own (RFC 9113, section 8.2.3), and the host is a
/// pseudo-header.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_is_protected_alike() -> Done {
    let server = Server::start().await?;
    let (own, planted) = (cookie(&log_in(&server, &[]).await?), cookie(&log_in(&server, &[]).await?));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server.config().paths.certs.join("ca.pem"))?)?;
    let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let origin = url(&server, "");
    let stream = Endpoint::new(&origin, Arc::new(tls))?.connect().await?;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    for (cookies, origin, status) in [
        (vec!["a=b", own.as_str(), planted.as_str()], None, 422),
        (vec![own.as_str()], Some("https://evil.example"), 403),
        (vec!["a=b", own.as_str(), "c=d"], Some(origin.as_str()), 200),
    ] {
        let mut request = Request::builder().method(Method::POST).uri(url(&server, REFRESH));
        request = request.header("content-type", "application/json");
        for cookie in &cookies {
            request = request.header("cookie", *cookie);
        }
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let request = request.body(Full::new(Bytes::from_static(b"{}")))?;
        let answer = sender.clone().send_request(request).await?;
        assert_eq!(answer.status().as_u16(), status, "{cookies:?} {origin:?}");
        answer.into_body().collect().await?;
    }
    let mut client = HttpClient::new(server.endpoint()?);
    let used = ask(&mut client, Method::POST, REFRESH, &[("cookie", &planted)], &json!({})).await?;
    assert_eq!(used.status, 200);
    Ok(())
}
