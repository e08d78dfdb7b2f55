//! `audit`: the signed logs, checked, exported and shown.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::args::audit::{AuditCommand, AuditVerifyArgs, ExportArgs, OfTenant};
use super::args::exit;
use super::{Failure, Outcome, admin, data, output};
use crate::app::control::Ask;
use crate::app::export::AskAudit;
use crate::client::{Endpoint, HttpClient, tls};
use crate::config::Config;
use crate::crypto::note::{KeyKind, NOTE_BYTES_MAX, Verifier};
use crate::domains::audit::verify::{FILE_BYTES_MAX, Known, Report, Source, verify_log};

pub(super) fn run(config: &Config, command: &AuditCommand) -> Outcome {
    match command {
        AuditCommand::Verify(args) => verify(config, args),
        AuditCommand::Export(args) => export(config, args),
        AuditCommand::Checkpoint(args) => checkpoint(config, args),
        AuditCommand::Key(args) => key(config, args),
        AuditCommand::Replay(args) => super::replay::run(config, args),
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn key(config: &Config, args: &OfTenant) -> Outcome {
    let answer = admin::ask(config, &Ask::Audit(AskAudit::Key { tenant: args.tenant.clone() }))?;
    if args.json.json {
        output::to_stdout(&output::json(&answer))?;
        return Ok(exit::DONE);
    }
    // One a line and nothing else: it is there to be copied.
    let lines: String = list(&answer, "keys").map(|k| format!("{}\n", text(k, "verifier_key"))).collect();
    output::to_stdout(&lines)?;
    Ok(exit::DONE)
}

fn checkpoint(config: &Config, args: &OfTenant) -> Outcome {
    let answer = admin::ask(config, &Ask::Audit(AskAudit::Checkpoint { tenant: args.tenant.clone() }))?;
    if args.json.json {
        output::to_stdout(&output::json(&answer))?;
        return Ok(exit::DONE);
    }
    let notes: Vec<&str> = list(&answer, "checkpoints").map(|c| text(c, "checkpoint")).collect();
    output::to_stdout(&notes.join("\n"))?;
    Ok(exit::DONE)
}

fn export(config: &Config, args: &ExportArgs) -> Outcome {
    let folder = std::path::absolute(&args.to)?;
    let (tenant, without_personal) = (args.tenant.clone(), args.without_personal);
    let answer = admin::ask(config, &Ask::Audit(AskAudit::Export { folder, tenant, without_personal }))?;
    if args.json.json {
        output::to_stdout(&output::json(&answer))?;
        return Ok(exit::DONE);
    }
    let mut said = String::new();
    for log in list(&answer, "logs") {
        let size = log.get("size").and_then(Value::as_u64).unwrap_or(0);
        said.push_str(&format!("{}: {size} entries\n", text(log, "tenant")));
    }
    said.push_str(&format!("{} is written; `blockremote audit verify` checks it.\n", text(&answer, "folder")));
    output::to_stdout(&said)?;
    Ok(exit::DONE)
}

/// At most this much of a file that is named.
fn read(path: &Path, bytes_max: usize) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max { Err(std::io::Error::other("it is too large")) } else { Ok(bytes) }
}

fn verifier(flag: &str, text: Option<&String>, kind: KeyKind) -> Result<Option<Verifier>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let key: Verifier = text.parse().map_err(|e| Failure::Usage(format!("{flag}: {e}")))?;
    if key.kind() == kind { Ok(Some(key)) } else { Err(Failure::Usage(format!("{flag}: it is a key of another kind"))) }
}

fn verify(config: &Config, args: &AuditVerifyArgs) -> Outcome {
    let checkpoint =
        |path: &PathBuf| read(path, NOTE_BYTES_MAX).map_err(|e| Failure::Refused(format!("{}: {e}", path.display())));
    let known = Known {
        key: verifier("--key", args.key.as_ref(), KeyKind::Ed25519)?,
        checkpoints: args.checkpoints.iter().map(checkpoint).collect::<Result<_, _>>()?,
        witness: verifier("--witness-key", args.witness_key.as_ref(), KeyKind::Cosignature)?,
    };
    let target = args.target.as_deref();
    if let Some(url) = target.filter(|t| t.starts_with("https://")) {
        let mut source = Remote::new(url, args)?;
        return tell(args, vec![(url.to_owned(), judge(&mut source, &known)?)]);
    }
    let folder = target.map(Path::new).filter(|path| path.is_dir());
    let Some(folder) = folder else {
        let file = target.map(Path::new);
        if let Some(file) = file.filter(|file| !file.exists()) {
            return Err(Failure::Refused(format!("{} does not exist; nothing was checked", file.display())));
        }
        if known.witness.is_some() {
            return Err(Failure::Usage("--witness-key is for an exported folder or an appliance".to_owned()));
        }
        return data::verify(config, file, &known.checkpoints, known.key.map(|key| key.public()), args.json);
    };
    let mut reports = Vec::new();
    for log in logs_in(folder)? {
        let report = judge(&mut Folder(log.clone()), &known)?;
        reports.push((log.display().to_string(), report));
    }
    tell(args, reports)
}

/// The logs of a folder: itself, or one in each of its folders.
fn logs_in(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    if folder.join("checkpoint").is_file() {
        return Ok(vec![folder.to_owned()]);
    }
    let mut logs = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        logs.extend(path.join("checkpoint").is_file().then_some(path));
    }
    logs.sort();
    if logs.is_empty() {
        let what = format!("{} holds no log: there is no file named checkpoint; nothing was checked", folder.display());
        return Err(Failure::Refused(what));
    }
    Ok(logs)
}

fn judge(source: &mut dyn Source, known: &Known) -> Result<Report, Failure> {
    // Draws itself on a terminal only.
    let bar = indicatif::ProgressBar::new(0).with_message("entries");
    let report = verify_log(source, known, &mut |done, of| {
        bar.set_length(of);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    report.map_err(|e| Failure::Refused(format!("no verdict: {e}")))
}

fn tell(args: &AuditVerifyArgs, reports: Vec<(String, Report)>) -> Outcome {
    let sound = reports.iter().all(|(_, report)| report.fault.is_none());
    if args.json {
        let logs: Vec<Value> = reports.iter().map(|(place, r)| json!({ "place": place, "report": r })).collect();
        output::to_stdout(&output::json(&json!({ "sound": sound, "logs": logs })))?;
        return Ok(if sound { exit::DONE } else { exit::FAILED });
    }
    let mut said = String::new();
    for (place, report) in &reports {
        match &report.fault {
            Some(fault) => said.push_str(&format!("{place}: NOT SOUND: {fault}\n")),
            None => said.push_str(&format!(
                "{place}: sound: {} entries ({} erased), root {}, {} earlier checkpoints agree\n",
                report.size, report.erased, report.root, report.checkpoints
            )),
        }
        if !report.key_was_known && !report.key.is_empty() {
            said.push_str(&format!(
                "  checked with the key that lies beside the log: compare it with one you got elsewhere, or say --key\n  {}\n",
                report.key
            ));
        }
    }
    output::to_stdout(&said)?;
    Ok(if sound { exit::DONE } else { exit::FAILED })
}

struct Folder(PathBuf);

impl Source for Folder {
    fn file(&mut self, name: &str) -> Result<Option<Vec<u8>>, String> {
        let path = self.0.join(name);
        match read(&path, FILE_BYTES_MAX) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(format!("{}: {e}", path.display())),
        }
    }
}

/// A running appliance.
struct Remote {
    runtime: tokio::runtime::Runtime,
    client: HttpClient,
    token: String,
}

/// Waits for the appliance to let a reader go on, at most so often for one file.
const PATIENCE: u32 = 120;

impl Remote {
    fn new(url: &str, args: &AuditVerifyArgs) -> Result<Self, Failure> {
        let what = "name a file with a token that may read the log: --token-file";
        let file = args.token_file.as_deref().ok_or_else(|| Failure::Usage(what.to_owned()))?;
        let token = read(file, 64 * 1024).map_err(|e| Failure::Refused(format!("{}: {e}", file.display())))?;
        let token = String::from_utf8(token).map_err(|_| Failure::Usage(what.to_owned()))?.trim().to_owned();
        let trust = tls::trust(&args.ca, None).map_err(|e| Failure::Refused(e.to_string()))?;
        let endpoint = Endpoint::new(url, trust).map_err(|e| Failure::Usage(e.to_string()))?;
        Ok(Self { runtime: super::runtime()?, client: HttpClient::new(endpoint), token })
    }
}

impl Source for Remote {
    fn file(&mut self, name: &str) -> Result<Option<Vec<u8>>, String> {
        // What an export has beside the log is not served, but for the key.
        if name.starts_with("personal/") || name == "checkpoints.ndjson" {
            return Ok(None);
        }
        let path = format!("/v1/audit/{name}");
        for _ in 0..PATIENCE {
            let answer = self.runtime.block_on(self.client.get(&path, Some(&self.token))).map_err(|e| e.to_string())?;
            match answer.status {
                200 if name == "key" => {
                    let key: Value = answer.json().map_err(|e| e.to_string())?;
                    return Ok(Some(text(&key, "verifier_key").as_bytes().to_vec()));
                }
                200 => return Ok(Some(answer.body.to_vec())),
                404 => return Ok(None),
                429 | 503 => std::thread::sleep(Duration::from_secs(1)),
                other => return Err(format!("{path} is answered {other}: may this token read the log (audit:read)?")),
            }
        }
        Err(format!("{path} is refused again and again: too many requests"))
    }
}
