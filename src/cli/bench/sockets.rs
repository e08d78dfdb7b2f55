//! `bench sockets`: memory of an idle appliance, and of each idle kill-switch socket with TLS.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::args::BenchArgs;
use crate::cli::args::exit;
use crate::cli::{Failure, Outcome, output, runtime};
use crate::client::{Endpoint, HttpClient, Socket, tls};
use crate::kernel::Error;
use crate::testkit::{Folder, text};

/// Open sockets of this process and of the appliance: each socket takes one of both.
const SOCKETS_MAX: u32 = 20_000;

struct Appliance(Child);

impl Drop for Appliance {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn run(args: &BenchArgs) -> Outcome {
    let count = args.connections.min(SOCKETS_MAX);
    let folder = Folder::new()?;
    let at = |name: &str| folder.path().join(name);
    let program = std::env::current_exe()?;
    let (data, certs) = (at("data/blockremote.redb"), at("certs"));
    let place = |command: &mut Command| {
        command.arg("--data").arg(&data).arg("--certs").arg(&certs);
    };
    let mut init = Command::new(&program);
    place(&mut init);
    let made = init.args(["init", "--json"]).output()?;
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).map_err(Error::internal)?;
    let mut serve = Command::new(&program);
    place(&mut serve);
    let anywhere = "127.0.0.1:0";
    serve.args(["serve", "--listen", anywhere, "--grpc-listen", anywhere, "--internal-listen", anywhere]);
    for (name, value) in [("HTTP__CONNECTIONS_PER_ADDRESS", "100000"), ("HTTP__MAX_CONNECTIONS", "100000")] {
        serve.env(format!("BLOCKREMOTE_{name}"), value);
    }
    let mut child = Appliance(serve.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
    let out = child.0.stdout.take().ok_or_else(|| Error::internal("no standard output"))?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    let ready = line.strip_prefix("ready ").unwrap_or_default();
    let ready: serde_json::Value = serde_json::from_str(ready).map_err(Error::internal)?;
    let port = text(&ready, "http").rsplit(':').next().unwrap_or_default().to_owned();
    let url = format!("https://localhost:{port}");
    let report = runtime()?.block_on(measure(
        count,
        &url,
        &text(&made, "enrollment_token"),
        &certs.join("ca.pem"),
        child.0.id(),
    ))?;
    let shown = if args.json {
        output::json(&report)
    } else {
        let of = |name: &str| report.get(name).map(ToString::to_string).unwrap_or_default();
        format!(
            "idle appliance {} KiB resident; {} idle sockets with TLS {} KiB more: {} KiB each\n",
            of("idle_kib"),
            of("sockets"),
            of("sockets_kib"),
            of("kib_per_socket")
        )
    };
    output::to_stdout(&shown)?;
    Ok(exit::DONE)
}

async fn measure(
    count: u32,
    url: &str,
    token: &str,
    ca: &std::path::Path,
    pid: u32,
) -> Result<serde_json::Value, Failure> {
    let failed = |e: crate::client::ClientError| Failure::Failed(e.to_string());
    let trust = tls::trust(ca, None).map_err(failed)?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = resident_kib(pid)?;
    let endpoint = Endpoint::new(url, Arc::clone(&trust)).map_err(failed)?;
    let mut client = HttpClient::new(endpoint.clone());
    let bar = indicatif::ProgressBar::new(u64::from(count)).with_message("opening sockets");
    let mut tokens = Vec::new();
    for n in 0..count {
        let body = json!({ "device_id": format!("bench-{n}"), "device_name": "bench", "os_version": "1", "enrollment_token": token });
        let answer: serde_json::Value =
            client.post("/v1/auth/device", None, &body).await.map_err(failed)?.json().map_err(failed)?;
        tokens.push(text(&answer, "access_token"));
    }
    client.close();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = resident_kib(pid)?;
    let mut sockets = Vec::new();
    for token in &tokens {
        let mut socket = Socket::connect(&endpoint, token).await.map_err(failed)?;
        socket.next().await;
        sockets.push(socket);
        bar.inc(1);
    }
    bar.finish_and_clear();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = resident_kib(pid)?;
    let more = after.saturating_sub(before);
    let each = f64::from(u32::try_from(more).unwrap_or(u32::MAX)) / f64::from(count.max(1));
    Ok(
        json!({ "idle_kib": idle, "sockets": count, "sockets_kib": more, "kib_per_socket": (each * 10.0).round() / 10.0 }),
    )
}

/// Resident memory of a process (proc(5), `VmRSS`).
pub(super) fn resident_kib(pid: u32) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let figure = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    figure.ok_or_else(|| Failure::Failed("the appliance ended during the bench".to_owned()))
}
