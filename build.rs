//! Compiles `proto/*.proto` into Rust messages and descriptors for reflection. No protoc is needed on the machine.

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use prost::Message;

const FILES: [&str; 3] = ["signals.proto", "health.proto", "reflection.proto"];

/// Members that JSON leaves out where they are not there, as our HTTP requests do.
const OPTIONAL: [&str; 9] = [
    "HeartbeatRequest.seq",
    "HeartbeatRequest.sent_at",
    "HeartbeatRequest.payload",
    "Reading.t_ms",
    "Reading.overlay",
    "Reading.proximity",
    "Reading.touch",
    "Reading.network",
    "AcknowledgeRequest.detail",
];
const LISTS: [&str; 3] = ["HeartbeatRequest.readings", "Reading.accelerometer", "Reading.gyroscope"];
/// What travels as JSON between a message of gRPC and the handler that HTTP has, too.
const AS_JSON: [&str; 10] = [
    "HeartbeatRequest",
    "Reading",
    "Touch",
    "Network",
    "HeartbeatResponse",
    "TrustScoreResponse",
    "Components",
    "AcknowledgeRequest",
    "CertificateRequest",
    "CertificateResponse",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    write_descriptors(&files, &out)?;
    let mut messages = prost_build::Config::new();
    for name in AS_JSON {
        messages.type_attribute(format!(".blockremote.v1.{name}"), "#[derive(serde::Serialize, serde::Deserialize)]");
        if name.ends_with("Response") || name == "Components" {
            messages.type_attribute(format!(".blockremote.v1.{name}"), "#[serde(default)]");
        }
    }
    for name in OPTIONAL {
        let skip = "#[serde(skip_serializing_if = \"Option::is_none\")]";
        messages.field_attribute(format!(".blockremote.v1.{name}"), skip);
    }
    for name in LISTS {
        let skip = "#[serde(skip_serializing_if = \"Vec::is_empty\")]";
        messages.field_attribute(format!(".blockremote.v1.{name}"), skip);
    }
    messages.compile_fds(files)?;
    Ok(())
}

/// A table of the files: name, services, top-level symbols, and the descriptor's bytes.
fn write_descriptors(files: &prost_types::FileDescriptorSet, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut table = String::from("&[\n");
    for file in &files.file {
        let name = file.name();
        std::fs::write(out.join(format!("{name}.bin")), file.encode_to_vec())?;
        let package = file.package();
        let services: Vec<String> = file.service.iter().map(|s| format!("{package}.{}", s.name())).collect();
        let messages = file.message_type.iter().map(|m| format!("{package}.{}", m.name()));
        let methods = file.service.iter().flat_map(|s| {
            let service = s.name().to_owned();
            s.method.iter().map(move |m| format!("{package}.{service}.{}", m.name()))
        });
        let symbols: Vec<String> = messages.chain(methods).chain(services.iter().cloned()).collect();
        writeln!(
            table,
            "    File {{ name: {name:?}, services: &{services:?}, symbols: &{symbols:?}, descriptor: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.bin\")) }},"
        )?;
    }
    table.push_str("]\n");
    std::fs::write(out.join("descriptors.rs"), table)?;
    Ok(())
}
