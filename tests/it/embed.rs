//! The status widget: who may frame it, what its tokens open, and both sides of its conversation in a real browser.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use blockremote::testkit::{Fault, Folder, Server, text};
use serde_json::{Value, json};

use crate::common::{Done, add_user, code, first_tenant, header, second_tenant, status_with};
use crate::integrations::receiver::Receiver;
use crate::people::{ask, done};

async fn list(server: &Server, admin: &str, origins: &[&str]) -> Done {
    done(server, admin, "PUT", "/v1/embed/origins", json!({ "origins": origins })).await?;
    Ok(())
}

async fn token(server: &Server, admin: &str, body: Value) -> Result<String, Fault> {
    Ok(text(&done(server, admin, "POST", "/v1/embed/tokens", body).await?, "token"))
}

/// Status and body of the figures with this token.
async fn figures(server: &Server, token: &str) -> Result<(u16, Value), Fault> {
    let mut client = server.client()?;
    let answer = client.request("GET".parse()?, "/v1/embed/status", &[("x-embed-token", token)], "".into()).await?;
    Ok((answer.status, serde_json::from_slice(&answer.body)?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_framed_by_the_listed_origins_and_by_nobody_else() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let tenant = first_tenant(&server).await?;
    let neighbour = second_tenant(&server).await?;
    list(&server, &admin, &["https://Portal.example:443", "https://b.example:8443"]).await?;
    let shown = done(&server, &admin, "GET", "/v1/embed/origins", Value::Null).await?;
    assert_eq!(shown["origins"], json!(["https://b.example:8443", "https://portal.example"]), "one spelling");
    let absent = "ten_00000000-0000-7000-8000-000000000000";
    for (query, ancestors, options) in [
        (format!("?tenant={tenant}"), "https://b.example:8443 https://portal.example", None),
        (format!("?tenant={neighbour}"), "'none'", Some("DENY")),
        (format!("?tenant={absent}"), "'none'", Some("DENY")),
        (String::new(), "'none'", Some("DENY")),
    ] {
        let page = server.client()?.get(&format!("/embed/status{query}"), None).await?;
        assert_eq!((page.status, header(&page, "content-type")), (200, "text/html; charset=utf-8"));
        let policy = header(&page, "content-security-policy");
        assert!(policy.ends_with(&format!("frame-ancestors {ancestors}")), "{query}: {policy}");
        assert_eq!(page.headers.get("x-frame-options").map(|v| v.to_str().unwrap_or("?")), options, "{query}");
    }
    for bad in
        ["http://portal.example", "https://portal.example/path", "*", "https://*.example", "null", "", "a b", "'self'"]
    {
        let answer = ask(&server, &admin, "PUT", "/v1/embed/origins", json!({ "origins": [bad] })).await?;
        assert_eq!(answer.status, 422, "{bad}");
    }
    server.clock.advance(Duration::from_secs(301));
    let stale = ask(&server, &admin, "PUT", "/v1/embed/origins", json!({ "origins": [] })).await?;
    assert_eq!((stale.status, code(&stale).as_str()), (403, "step_up_required"));
    Ok(())
}

/// Neither token may pass as the other, whatever somebody does with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_the_figures_that_it_names_and_nothing_else() -> Done {
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    server.enroll("BR-1").await?;
    server.enroll("BR-2").await?;
    done(&server, &admin, "POST", "/v1/devices/BR-2/commands", json!({ "action": "LOCK_SYSTEM", "reason": "t" }))
        .await?;
    let unlisted = ask(&server, &admin, "POST", "/v1/embed/tokens", json!({ "origin": "https://a.example" })).await?;
    assert_eq!((unlisted.status, code(&unlisted).as_str()), (403, "origin_not_listed"));
    list(&server, &admin, &["https://a.example"]).await?;
    let some = json!({ "origin": "https://a.example", "figures": ["blocked"], "lifetime_s": 60 });
    let small = token(&server, &admin, some).await?;
    let whole = token(&server, &admin, json!({ "origin": "https://a.example", "lifetime_s": 900 })).await?;
    let (status, said) = figures(&server, &small).await?;
    assert_eq!(
        (status, &said["figures"], &said["origin"]),
        (200, &json!({ "blocked": 1 }), &json!("https://a.example"))
    );
    assert_eq!(figures(&server, &whole).await?.1["figures"], json!({ "devices": 2, "seen": 0, "blocked": 1 }));

    assert_eq!(status_with(&server, &small).await?, 401, "it is no access token");
    for bad in [admin.as_str(), "", "not.a.token", &format!("{small}x"), &crate::common::altered(&small, -1)] {
        assert_eq!(figures(&server, bad).await?.0, 401, "{bad}");
    }
    server.clock.advance(Duration::from_secs(91));
    assert_eq!(figures(&server, &small).await?.0, 401, "its minute is over, and the leeway, too");
    assert_eq!(figures(&server, &whole).await?.0, 200);
    // Taken off the list: at once, whatever is in circulation.
    list(&server, &admin, &["https://b.example"]).await?;
    assert_eq!(figures(&server, &whole).await?.0, 401);

    let neighbour = second_tenant(&server).await?;
    let theirs = text(&add_user(&server, neighbour, "neighbour", "admin").await?, "access_token");
    list(&server, &theirs, &["https://a.example"]).await?;
    let foreign = token(&server, &theirs, json!({ "origin": "https://a.example" })).await?;
    assert_eq!(figures(&server, &foreign).await?.1["figures"]["devices"], 0, "each company sees itself");
    let viewer = text(&add_user(&server, neighbour, "viewer", "viewer").await?, "access_token");
    let refused = ask(&server, &viewer, "POST", "/v1/embed/tokens", json!({ "origin": "https://a.example" })).await?;
    assert_eq!(refused.status, 403);
    Ok(())
}

// ---- in a browser

/// The browser of Debian's package; `None`, and a skipped test, where it is not installed.
fn chromium() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|folder| folder.join("chromium")).find(|file| file.is_file());
    if found.is_none() {
        assert!(std::env::var("CI").is_err(), "chromium is not installed: run the tests by .ci/run, which installs it");
        eprintln!("skipped: install Debian's package chromium");
    }
    found
}

/// Ends with its owner.
struct Browser(Child);

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Opens a page, without a screen, without a way to anywhere but this machine.
fn open(program: &PathBuf, folder: &Folder, url: &str) -> Result<Browser, Fault> {
    let profile = folder.path().join(format!("profile-{}", url.len()));
    let child = Command::new(program)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-pings"])
        .arg("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost , EXCLUDE 127.0.0.1")
        .args(["--ignore-certificate-errors", "--remote-debugging-port=0"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Browser(child))
}

/// The parent's side as the documentation gives it: what is printed there is what is tested.
fn parents_script() -> Result<String, Fault> {
    let docs = include_str!("../../docs/embedding.md");
    let (_, rest) = docs.split_once("```js\n").ok_or("the documentation shows no script")?;
    Ok(rest.split_once("\n```").ok_or("the script has no end")?.0.to_owned())
}

fn html(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

/// Serves a page that frames the widget, and notes what it reports.
async fn parent() -> Result<(Receiver, String), Fault> {
    let receiver = Receiver::start().await?;
    let origin = format!("http://127.0.0.1:{}", receiver.port);
    Ok((receiver, origin))
}

fn serve(receiver: &Receiver, appliance: &str, path: &str, token: &str, before: &str) -> Done {
    let page = format!(
        "<!doctype html><iframe id=widget></iframe><script>{script}\n\
         const report = (what) => fetch('/report', {{ method: 'POST', body: what }});\n\
         const frame = document.getElementById('widget');\n\
         showStatus(frame, '{appliance}', async () => {{ {before} return '{token}'; }}, report);\n\
         // A stranger's frame says what only the widget may say.\n\
         const stranger = document.createElement('iframe');\n\
         stranger.srcdoc = `<script>parent.postMessage({{blockremote:1,type:'state',state:'unreachable'}},'*')<\\/script>`;\n\
         document.body.append(stranger);\n\
         frame.src = '{appliance}{path}';\n\
         setTimeout(() => report('time is up'), 3000);</script>",
        script = parents_script()?,
    );
    receiver.answers(move |got| if got.body.is_empty() { html(&page) } else { html("") });
    Ok(())
}

/// What a page reported until `enough` says so; at most half a minute, because a browser takes its time to start.
async fn reports(receiver: &Receiver, enough: &str) -> Result<Vec<String>, Fault> {
    for _ in 0..600 {
        let said: Vec<String> = receiver
            .got()
            .iter()
            .filter(|got| !got.body.is_empty())
            .map(|got| String::from_utf8_lossy(&got.body).into_owned())
            .collect();
        if said.iter().any(|s| s == enough) {
            return Ok(said);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("the page did not report {enough:?}: {:?}", receiver.got()).into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listed_page_shows_the_widget_and_a_foreign_one_does_not() -> Done {
    let Some(browser) = chromium() else { return Ok(()) };
    let server = Server::start().await?;
    let admin = server.admin_token().await?;
    let folder = Folder::new()?;
    let appliance = format!("https://localhost:{}", server.app().addresses.http.port());
    let path = format!("/embed/status?tenant={}", first_tenant(&server).await?);
    let (listed, listed_origin) = parent().await?;
    let (other, other_origin) = parent().await?;
    let (foreign, foreign_origin) = parent().await?;
    list(&server, &admin, &[&listed_origin, &other_origin]).await?;
    let good = token(&server, &admin, json!({ "origin": listed_origin })).await?;

    // What is not of the protocol is passed over: a member too many, another version, no text.
    let noise = "for (const odd of [{blockremote:1,type:'token',token:'x',more:1},{blockremote:2,type:'token',token:'x'},\
                 {blockremote:1,type:'token',token:7},'token',null,{blockremote:1,type:'refresh'}])\
                 frame.contentWindow.postMessage(odd, '*');";
    serve(&listed, &appliance, &path, &good, noise)?;
    // The token of another listed page.
    serve(&other, &appliance, &path, &good, "")?;
    serve(&foreign, &appliance, &path, &good, "")?;
    let mut open_now = Vec::new();
    for (page, origin, said) in [
        (&listed, &listed_origin, vec!["shown"]),
        (&other, &other_origin, vec!["refused"]),
        (&foreign, &foreign_origin, vec![]),
    ] {
        open_now.push(open(&browser, &folder, &format!("{origin}/?{}", "x".repeat(open_now.len() + 1)))?);
        let mut reported = reports(page, "time is up").await?;
        reported.retain(|what| what != "time is up");
        assert_eq!(reported, said, "{origin}");
        open_now.clear();
    }
    Ok(())
}
