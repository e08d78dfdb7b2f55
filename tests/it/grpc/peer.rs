//! Google's gRPC library as a client in a process of its own, and the certificates that it shows.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use blockremote::kernel::context::Origin;
use blockremote::kernel::ids::TenantId;
use blockremote::testkit::{Fault, Folder, Server};
use serde_json::{Value, json};

pub const SIGNALS: &str = "/blockremote.v1.Signals/";

/// The library at work. Its answers are waited for without blocking the appliance in this process.
pub struct Peer {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    folder: Folder,
    address: String,
    ca: PathBuf,
    next: u32,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate and its key in files.
#[derive(Clone)]
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub serial: String,
}

impl Peer {
    /// `None`, and a skipped test, where there is no Python for tests.
    pub fn start(server: &Server) -> Result<Option<Self>, Fault> {
        let address = format!("localhost:{}", server.app().addresses.grpc.port());
        Self::at(address, server.config().paths.certs.join("ca.pem"))
    }

    /// The same for an appliance in a process of its own.
    pub fn at(address: String, ca: PathBuf) -> Result<Option<Self>, Fault> {
        let Some(python) = crate::flags::python() else { return Ok(None) };
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new(python)
            .arg(root.join("tests/it/grpc/peer.py"))
            .arg(root.join("proto"))
            .env("GRPC_VERBOSITY", "NONE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().ok_or("no standard input")?;
        let answers = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        let mut peer = Self { child, orders, answers, folder: Folder::new()?, address, ca, next: 0 };
        let ready = peer.answer()?;
        assert!(ready["ready"].to_string().contains("blockremote.v1.Signals"), "{ready}");
        Ok(Some(peer))
    }

    fn answer(&mut self) -> Result<Value, Fault> {
        let answers = &mut self.answers;
        let line = tokio::task::block_in_place(|| {
            let mut line = String::new();
            answers.read_line(&mut line).map(|_| line)
        })?;
        let answer: Value = serde_json::from_str(&line).map_err(|e| format!("{e}: {line:?}"))?;
        if answer["fault"].is_string() {
            return Err(answer["fault"].to_string().into());
        }
        Ok(answer)
    }

    pub fn order(&mut self, order: &Value) -> Result<Value, Fault> {
        writeln!(self.orders, "{order}")?;
        self.orders.flush()?;
        self.answer()
    }

    fn fresh(&mut self, what: &str) -> String {
        self.next += 1;
        format!("{what}-{}", self.next)
    }

    /// Writes a certificate and its key down.
    pub fn keep(&mut self, cert_pem: &str, key_pem: &str, serial: &str) -> Result<Identity, Fault> {
        let name = self.fresh("identity");
        let (cert, key) =
            (self.folder.path().join(format!("{name}.pem")), self.folder.path().join(format!("{name}.key")));
        std::fs::write(&cert, cert_pem)?;
        std::fs::write(&key, key_pem)?;
        Ok(Identity { cert, key, serial: serial.to_owned() })
    }

    /// A certificate by the operator, with a key of its own.
    pub async fn issued(&mut self, server: &Server, tenant: TenantId, device: &str) -> Result<Identity, Fault> {
        let certificates = &server.app().services.certificates;
        let made = certificates.issue_with_key(tenant, &device.parse()?, None, Origin::cli()).await;
        let (view, key) = made.map_err(|e| format!("no certificate for {device}: {e}"))?;
        self.keep(&view.certificate, &key, &view.serial)
    }

    /// A channel that shows this certificate, or none.
    pub fn open(&mut self, identity: Option<&Identity>) -> Result<Channel, Fault> {
        let channel = self.fresh("channel");
        let mut order = json!({ "op": "open", "channel": channel, "address": self.address, "ca": self.ca });
        if let Some(identity) = identity {
            order["cert"] = json!(identity.cert);
            order["key"] = json!(identity.key);
        }
        self.order(&order)?;
        Ok(Channel(channel))
    }

    /// One call; what came of it, as `code`, `response`, `trailers`.
    pub fn call(&mut self, channel: &Channel, method: &str, token: &str, request: &Value) -> Result<Value, Fault> {
        self.call_with(channel, method, token, request, &json!({}))
    }

    /// One call with further members of the order.
    pub fn call_with(
        &mut self,
        channel: &Channel,
        method: &str,
        token: &str,
        request: &Value,
        more: &Value,
    ) -> Result<Value, Fault> {
        let mut order =
            json!({ "op": "call", "channel": channel.0, "path": path(method), "token": token, "request": request });
        for (name, value) in more.as_object().into_iter().flatten() {
            order[name] = value.clone();
        }
        self.order(&order)
    }

    pub fn stream(&mut self, channel: &Channel, method: &str, token: &str) -> Result<Stream, Fault> {
        let stream = self.fresh("stream");
        self.order(
            &json!({ "op": "stream", "stream": stream, "channel": channel.0, "path": path(method), "token": token }),
        )?;
        Ok(Stream(stream))
    }

    pub fn send(&mut self, stream: &Stream, request: &Value) -> Result<(), Fault> {
        self.order(&json!({ "op": "send", "stream": stream.0, "request": request })).map(drop)
    }

    pub fn half_close(&mut self, stream: &Stream) -> Result<(), Fault> {
        self.order(&json!({ "op": "half_close", "stream": stream.0 })).map(drop)
    }

    pub fn hear(&mut self, stream: &Stream) -> Result<Value, Fault> {
        self.order(&json!({ "op": "hear", "stream": stream.0 }))
    }

    pub fn cancel(&mut self, stream: &Stream) -> Result<(), Fault> {
        self.order(&json!({ "op": "cancel", "stream": stream.0 })).map(drop)
    }

    pub fn close(&mut self, channel: Channel) -> Result<(), Fault> {
        self.order(&json!({ "op": "close", "channel": channel.0 })).map(drop)
    }
}

pub struct Channel(String);
pub struct Stream(String);

/// A method of our own service by its bare name, any other by its path.
fn path(method: &str) -> String {
    if method.starts_with('/') { method.to_owned() } else { format!("{SIGNALS}{method}") }
}

/// A request for a certificate of this key.
pub fn csr(key_pem: &str) -> Result<String, Fault> {
    let key = rcgen::KeyPair::from_pem(key_pem)?;
    Ok(rcgen::CertificateParams::new(Vec::new())?.serialize_request(&key)?.pem()?)
}
