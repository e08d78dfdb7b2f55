//! The program as a service: it tells its supervisor how it is, takes over listeners, reads itself anew on SIGHUP, fails
//! closed when the disk does, and renews its certificate.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use blockremote::kernel::Timestamp;
use blockremote::testkit::Server;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cli::binary::Place;
use crate::common::{DAY, header};

const PATIENCE: Duration = Duration::from_secs(30);

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..300 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(holds(), "{what}");
}

/// The supervisor hears that it is ready, that it lives, that it is reading itself anew, and that it stops.
#[test]
fn a_supervisor_hears_how_it_is() {
    let (place, _) = Place::set_up();
    let path = place.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let notify = path.display().to_string();
    let running = place.serve_with(&[], &[("NOTIFY_SOCKET", &notify), ("WATCHDOG_USEC", "2000000")]);
    let heard = |wanted: &str| {
        let mut all = String::new();
        for _ in 0..100 {
            let mut buffer = [0; 512];
            let n = socket.recv(&mut buffer).unwrap_or(0);
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            if text.starts_with(wanted) {
                return;
            }
            all.push_str(&text);
            all.push('|');
        }
        assert!(all.is_empty(), "{wanted} was not heard, but {all}");
    };
    heard("READY=1");
    heard("WATCHDOG=1");
    heard("WATCHDOG=1");
    running.signal(rustix::process::Signal::HUP);
    heard("RELOADING=1");
    heard("READY=1");
    assert_eq!(running.terminate().1, Some(0));
    heard("STOPPING=1");
}

/// A door that was opened before it started is the one that it serves: who knocked meanwhile was not refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_somebody_else_opened_is_served() {
    let (place, _) = Place::set_up();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // The shell puts the socket where the protocol wants it, says whose it is, and becomes the program.
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
    let script = format!("exec 3<&{}; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve", listener.as_raw_fd());
    let running = place.serve_by_shell(&script, &[("BLOCKREMOTE_HTTP__LISTEN", &format!("127.0.0.1:{port}"))]);
    drop(listener);
    assert!(running.url.ends_with(&format!(":{port}")), "{}", running.url);
    assert_eq!(running.client().get("/health/ready", None).await.unwrap().status, 200);
    assert_eq!(running.terminate().1, Some(0));
}

/// SIGHUP takes over what can be taken over; of a broken configuration nothing, and the log says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_configuration_leaves_the_old_one_in_force() {
    let (place, _) = Place::set_up();
    let file = place.path("blockremote.toml");
    std::fs::write(&file, "[log]\nlevel = \"info\"\n").unwrap();
    let running = place.serve();
    let log = || std::fs::read_to_string(place.path("serve.log")).unwrap();
    let debug_lines = || log().matches("\"level\":\"DEBUG\"").count();

    std::fs::write(&file, "[log]\nlevel = \"debug\"\nlevvel = \"x\"\n").unwrap();
    running.signal(rustix::process::Signal::HUP);
    wait_until("it says why", || log().contains("the old one stays in force") && log().contains("levvel"));
    assert_eq!(running.client().get("/health/ready", None).await.unwrap().status, 200);
    assert_eq!(debug_lines(), 0, "nothing of it was taken over");

    std::fs::write(&file, "[log]\nlevel = \"debug\"\n[devices]\nmax = 7\n").unwrap();
    running.signal(rustix::process::Signal::HUP);
    wait_until("it says that it was read anew", || log().contains("were read anew"));
    assert!(log().contains("devices.max"), "it names what waits for the next start");
    assert_eq!(running.client().get("/health/ready", None).await.unwrap().status, 200);
    wait_until("debug lines appear", || debug_lines() > 0);

    std::fs::write(&file, "[tls]\ncertificate = \"absent.pem\"\nkey = \"absent.key\"\n").unwrap();
    running.signal(rustix::process::Signal::HUP);
    wait_until("a certificate that is not there", || log().contains("absent.pem"));
    assert_eq!(running.client().get("/health/ready", None).await.unwrap().status, 200);
    assert_eq!(running.terminate().1, Some(0));
}

/// A certificate that the administrator puts in place is served from SIGHUP on, to new connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_served_without_a_restart() {
    let (place, _) = Place::set_up();
    let (chain, key) = (place.path("certs/server.pem"), place.path("certs/server.key"));
    let (own_chain, own_key) = (place.path("own.pem"), place.path("own.key"));
    std::fs::copy(&chain, &own_chain).unwrap();
    std::fs::copy(&key, &own_key).unwrap();
    let settings = "[tls]\ncertificate = \"own.pem\"\nkey = \"own.key\"\n";
    std::fs::write(place.path("blockremote.toml"), settings).unwrap();
    let running = place.serve();
    let before = served(&running.url, place.path("certs/ca.pem").as_path(), None).await.unwrap();
    assert_eq!(
        running.client().get("/ca", None).await.unwrap().status,
        404,
        "an own certificate has no authority here"
    );

    // Another one of the same authority.
    std::fs::remove_file(&chain).unwrap();
    let config = blockremote::config::Config { paths: paths(&place), ..Default::default() };
    let env = blockremote::app::Environment::system();
    blockremote::app::place::Place::of(&config).server_files(&config, &env.clock, &env.random).unwrap();
    std::fs::copy(&chain, &own_chain).unwrap();
    std::fs::copy(&key, &own_key).unwrap();
    running.signal(rustix::process::Signal::HUP);
    let log = || std::fs::read_to_string(place.path("serve.log")).unwrap();
    wait_until("it was read anew", || log().contains("were read anew"));
    let after = served(&running.url, place.path("certs/ca.pem").as_path(), None).await.unwrap();
    assert_ne!(before, after);

    // Back to one of its own: the page by which phones come to trust it is there again. Other folders count later.
    std::fs::write(place.path("blockremote.toml"), "certs = \"elsewhere\"\n").unwrap();
    running.signal(rustix::process::Signal::HUP);
    wait_until("it was read anew", || log().matches("were read anew").count() == 2);
    assert_eq!(running.client().get("/ca", None).await.unwrap().status, 200);
    assert!(!place.path("elsewhere").exists(), "nothing was made there");
    assert_eq!(running.terminate().1, Some(0));
}

/// An authority that was replaced took the certificate that its predecessor had signed for its own, and no client that
/// trusted the published one came in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_authority_signs_a_certificate_of_its_own() {
    let (place, _) = Place::set_up();
    place.serve().terminate();
    for file in ["certs/ca.pem", "certs/ca.key"] {
        std::fs::remove_file(place.path(file)).unwrap();
    }
    let running = place.serve();
    let ca = place.path("certs/ca.pem");
    let shown = served(&running.url, &ca, None).await.unwrap();
    assert_eq!(running.client().get("/health/live", None).await.unwrap().status, 200);
    running.terminate();
    let running = place.serve();
    assert_eq!(served(&running.url, &ca, None).await.unwrap(), shown, "it stays as long as the authority stays");
}

fn paths(place: &Place) -> blockremote::config::Paths {
    blockremote::config::Paths { data: place.data(), certs: place.path("certs"), sealing_key: None }
}

#[derive(Debug)]
struct At(Timestamp);

impl rustls::time_provider::TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(self.0.as_millis()).ok()?)))
    }
}

/// The certificate that a client is shown which judges it at this time, and the machine's own where none is given.
async fn served(url: &str, ca: &std::path::Path, at: Option<Timestamp>) -> Result<Vec<u8>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let builder = match at {
        Some(at) => rustls::ClientConfig::builder_with_details(provider, Arc::new(At(at))),
        None => rustls::ClientConfig::builder_with_provider(provider),
    };
    let config = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config.with_no_client_auth()));
    let port: u16 = url.rsplit(':').next().unwrap().parse().unwrap();
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Some close without saying so.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    Ok(shown)
}

/// It would end after 90 days. Whoever calls then is shown another one, and nobody restarted anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_would_end_while_it_runs_is_renewed_before() {
    let server = Server::start_with(|config| config.tls.certificate_lifetime = 90 * DAY).await.unwrap();
    let url = format!("https://localhost:{}", server.app().addresses.http.port());
    let ca = server.folder().join("certs/ca.pem");
    let first = served(&url, &ca, None).await.unwrap();
    let ends = server.app().certificate_ends();
    let after_its_end = ends.plus(DAY);
    let refused = served(&url, &ca, Some(after_its_end)).await.unwrap_err();
    assert!(refused.to_lowercase().contains("expired"), "{refused}");

    server.clock.set(ends.minus(31 * DAY));
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(server.app().certificate_ends(), ends, "not yet");
    server.clock.set(ends.minus(29 * DAY));
    for _ in 0..300 {
        if server.app().certificate_ends() > ends {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let second = served(&url, &ca, Some(after_its_end)).await.unwrap();
    assert_ne!(first, second);
}

/// The first sync that fails is the last one: who waited hears that the outcome is unknown, readiness is red, the process
/// ends with 1, and the next start finds everything that was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_refuses_turns_red_and_ends_the_process() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        assert!(std::env::var_os("CI").is_none(), "strace is not installed");
        eprintln!("skipped: strace is not installed");
        return;
    }
    let (place, said) = Place::set_up();
    let token = blockremote::testkit::text(&said, "enrollment_token");
    let body = |n: u32| json!({ "device_id": format!("BR-{n}"), "device_name": "a", "os_version": "1", "enrollment_token": token });
    let running = place.serve();
    assert_eq!(running.client().post("/v1/auth/device", None, &body(1)).await.unwrap().status, 201);
    assert_eq!(running.terminate().1, Some(0));

    // Every sync fails from the thirtieth on: the start needs some of them.
    let strace =
        "exec strace -f -qq -o strace.out -e trace=fdatasync -e inject=fdatasync:error=EIO:when=30+ \"$0\" serve";
    let mut running = place.serve_by_shell(strace, &[]);
    let mut client = running.client();
    let mut acknowledged = vec![1];
    let mut unknown = false;
    for n in 2..60 {
        match client.post("/v1/auth/device", None, &body(n)).await {
            Ok(answer) if answer.status == 201 => acknowledged.push(n),
            Ok(answer) => {
                assert_eq!((answer.status, crate::common::code(&answer).as_str()), (503, "outcome_unknown"));
                assert!(!header(&answer, "retry-after").is_empty());
                let ready = client.get("/health/ready", None).await.unwrap();
                assert_eq!(ready.status, 503);
                assert_eq!(crate::common::body(&ready)["part"], "store");
                unknown = true;
                break;
            }
            Err(e) => panic_with(&e),
        }
    }
    assert!(unknown, "no sync failed");
    assert_eq!(running.ended(), Some(1), "the process ends by itself");

    let running = place.serve();
    for n in acknowledged {
        let again = running.client().post("/v1/auth/device", None, &body(n)).await.unwrap();
        assert_eq!(crate::common::code(&again), "device_exists", "BR-{n} was acknowledged");
    }
    assert_eq!(running.terminate().1, Some(0));
}

#[expect(clippy::panic, reason = "tests")]
fn panic_with(why: &dyn std::fmt::Display) {
    panic!("the appliance was gone before it answered: {why}");
}

/// Phones find the authority, its fingerprint, and a code to scan; nothing of it is secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_of_the_authority_shows_what_init_showed() {
    let (place, said) = Place::set_up();
    let running = place.serve();
    let mut client = running.client();
    let page = client.get("/ca", None).await.unwrap();
    let html = String::from_utf8_lossy(&page.body).into_owned();
    let fingerprint = blockremote::testkit::text(&said, "ca_fingerprint_sha256");
    let hex: String = fingerprint.chars().filter(|c| *c != ':').collect();
    assert!(page.status == 200 && html.contains(&fingerprint) && html.contains(&format!("/ca#sha256={hex}")), "{html}");
    assert!(html.contains("<svg") && !html.contains("<script") && !html.contains("style=\""));
    let csp = header(&page, "content-security-policy");
    assert!(csp.contains("default-src 'none'") && !csp.contains("unsafe-inline"), "{csp}");
    let pem = client.get("/ca.pem", None).await.unwrap();
    assert_eq!(pem.body, std::fs::read(place.path("certs/ca.pem")).unwrap());
    assert_eq!(header(&pem, "content-type"), "application/x-x509-ca-cert");
    for secret in ["admin", "enrollment_token"] {
        let secret = if secret == "admin" {
            blockremote::testkit::text(&said["admin"], "password")
        } else {
            blockremote::testkit::text(&said, secret)
        };
        assert!(!html.contains(&secret));
    }
    assert_eq!(running.terminate().1, Some(0));
}

/// The unit as systemd reads it: no mistake in it, and hardly anything left to lose.
#[test]
fn the_units_are_sound_and_hardened() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    if Command::new("systemd-analyze").arg("--version").stdout(Stdio::null()).status().is_err() {
        assert!(std::env::var_os("CI").is_none(), "systemd-analyze is not installed");
        eprintln!("skipped: systemd-analyze is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let bin = env!("CARGO_BIN_EXE_blockremote");
    let mut units = Vec::new();
    for name in ["blockremote.service", "blockremote.socket", "blockremote-backup.service", "blockremote-backup.timer"]
    {
        let text = std::fs::read_to_string(root.join("systemd").join(name)).unwrap();
        // Verification wants to find the program.
        std::fs::write(folder.path().join(name), text.replace("/usr/bin/blockremote ", &format!("{bin} "))).unwrap();
        units.push(folder.path().join(name));
    }
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && !said.contains("blockremote"), "{said}");
    for name in ["blockremote.service", "blockremote-backup.service"] {
        let unit = root.join("systemd").join(name);
        // Tenths: 10 is an exposure of 1.0.
        let arguments = ["security", "--offline=true", "--threshold=10", "--no-pager"];
        let judged = Command::new("systemd-analyze").args(arguments).arg(unit).output().unwrap();
        assert!(judged.status.success(), "{name}: {}", String::from_utf8_lossy(&judged.stdout));
    }
}

/// A package installs them; they come from the command line itself.
#[test]
fn manual_pages_and_completions_are_made_for_every_command() {
    let place = Place::new();
    std::fs::create_dir(place.path("man")).unwrap();
    let (said, _) = place.ends(&["man", "man"], 0);
    assert!(said.contains("pages"), "{said}");
    for page in ["blockremote.1", "blockremote-doctor.1", "blockremote-admin-keys-rotate.1"] {
        let text = std::fs::read_to_string(place.path("man").join(page)).unwrap();
        assert!(text.contains(".TH") && text.contains("NAME"), "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (text, _) = place.ends(&["completions", shell], 0);
        assert!(text.contains("doctor") && text.contains("rotate"), "{shell}");
    }
    let (help, _) = place.ends(&["--help"], 0);
    assert!(!help.contains("completions"), "they are for packages");
}
