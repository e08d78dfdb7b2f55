//! `admin cert`: client certificates of devices, for gRPC.

use std::path::Path;

use serde_json::{Value, json};

use super::admin::{ask, list, tell_of_more, text};
use super::args::{CertCommand, CertIssueArgs, CertListArgs, CertRevokeArgs, exit};
use super::output::{self, Cell, Style};
use super::{Failure, Outcome};
use crate::app::control::Ask;
use crate::config::Config;
use crate::kernel::files;
use crate::kernel::ids::DeviceId;

/// A request for a certificate is short; whatever is longer is another file.
const CSR_BYTES_MAX: u64 = 8 * 1024;

pub(super) fn run(config: &Config, command: &CertCommand) -> Outcome {
    match command {
        CertCommand::Issue(args) => issue(config, args),
        CertCommand::List(args) => show(config, args),
        CertCommand::Revoke(args) => revoke(config, args),
    }
}

fn device_of(text: &str) -> Result<DeviceId, Failure> {
    text.parse().map_err(|e| Failure::Usage(format!("--device {e}")))
}

fn issue(config: &Config, args: &CertIssueArgs) -> Outcome {
    let device = device_of(&args.device)?;
    let csr = args.csr.as_deref().map(read_request).transpose()?;
    let made = csr.is_none();
    let ask_for = Ask::IssueCertificate { device: device.clone(), csr, days: args.days, tenant: args.tenant.clone() };
    let mut answer = ask(config, &ask_for)?;
    // Colons are allowed in a device's name, and are trouble in a file's.
    let stem = device.as_str().replace(':', "_");
    let file = |ending: &str| args.out.join(format!("{stem}.{ending}"));
    let (certificate, key, ca) = (file("pem"), file("key"), args.out.join("blockremote-ca.pem"));
    for (path, member) in [(&key, "key"), (&certificate, "certificate")] {
        if let Some(content) = answer.get(member).and_then(Value::as_str) {
            write_new(path, content)?;
        }
    }
    if !ca.exists() {
        write_new(&ca, &text(&answer, "ca_certificate"))?;
    }
    if args.json {
        if let Some(members) = answer.as_object_mut() {
            members.remove("key");
            members.insert("certificate_file".to_owned(), json!(certificate));
            members.insert("key_file".to_owned(), if made { json!(key) } else { Value::Null });
            members.insert("ca_file".to_owned(), json!(ca));
        }
        output::to_stdout(&output::json(&answer))?;
        return Ok(exit::DONE);
    }
    let (serial, ends) = (text(&answer, "serial"), text(&answer, "expires_at"));
    output::to_stdout(&format!("{}\n", certificate.display()))?;
    output::to_stderr(&format!("Certificate {serial} of {device}, until {ends}.\n"))?;
    if made {
        output::to_stderr(&format!("Its key is in {}: bring it to the device, then remove it here.\n", key.display()))?;
    }
    Ok(exit::DONE)
}

fn read_request(path: &Path) -> Result<String, Failure> {
    let wrong = |why: String| Failure::Failed(format!("{}: {why}", path.display()));
    let size = std::fs::metadata(path).map_err(|e| wrong(e.to_string()))?.len();
    if size > CSR_BYTES_MAX {
        return Err(wrong(format!("a request for a certificate has at most {CSR_BYTES_MAX} bytes")));
    }
    std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))
}

fn write_new(path: &Path, content: &str) -> Result<(), Failure> {
    files::write_private(path, content.as_bytes())
        .map_err(|e| Failure::Failed(format!("{} could not be written: {e}", path.display())))
}

fn show(config: &Config, args: &CertListArgs) -> Outcome {
    let device = args.device.as_deref().map(device_of).transpose()?;
    let answer = ask(config, &Ask::ListCertificates { device, tenant: args.tenant.clone() })?;
    if args.json {
        output::to_stdout(&output::json(&answer))?;
        return Ok(exit::DONE);
    }
    let rows = list(&answer, "certificates").map(|c| {
        ["serial", "state", "device_id", "expires_at", "tenant"].map(|name| Cell::from(text(c, name))).to_vec()
    });
    let heads = ["serial", "state", "device", "expires", "tenant"];
    output::to_stdout(&output::table(Style::plain(), &heads, rows.collect()))?;
    tell_of_more(&answer)?;
    Ok(exit::DONE)
}

fn revoke(config: &Config, args: &CertRevokeArgs) -> Outcome {
    let answer = ask(config, &Ask::RevokeCertificate { serial: args.serial.clone(), reason: args.reason.clone() })?;
    let device = text(&answer, "device_id");
    if args.json {
        output::to_stdout(&output::json(&answer))?;
    } else if answer.get("changed") == Some(&Value::Bool(true)) {
        output::to_stdout(&format!(
            "Certificate {} of {device} counts no more, on open connections either.\n",
            args.serial
        ))?;
    } else {
        output::to_stdout(&format!("Certificate {} of {device} was revoked before.\n", args.serial))?;
    }
    Ok(exit::DONE)
}
