//! The real program in a folder of its own: run to its end, or served and then stopped, politely or not.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use blockremote::client::{Endpoint, HttpClient, tls};
use serde_json::Value;
use tempfile::TempDir;

/// How long the program may take to become ready or to end; generous, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// A place for data and certificates that disappears with its owner.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A place that is set up, and what `init --json` said.
    pub(crate) fn set_up() -> (Self, Value) {
        let place = Self::new();
        let output = place.run(&["init", "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (place, serde_json::from_slice(&output.stdout).unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data/blockremote.redb")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blockremote"));
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BLOCKREMOTE_") {
                command.env_remove(name);
            }
        }
        for listener in ["HTTP", "GRPC", "INTERNAL"] {
            command.env(format!("BLOCKREMOTE_{listener}__LISTEN"), "127.0.0.1:0");
        }
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command, which must end with this code; gives both outputs.
    pub(crate) fn ends(&self, args: &[&str], code: i32) -> (String, String) {
        let output = self.run(args);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{stdout}\n{stderr}");
        (stdout, stderr)
    }

    /// Starts serving and waits until it says that it is ready.
    pub(crate) fn serve(&self) -> Running {
        self.serve_with(&[], &[])
    }

    /// As [`Place::serve`], with further arguments and variables.
    pub(crate) fn serve_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Running {
        let mut command = self.command(&[&["serve"], args].concat());
        command.envs(variables.iter().copied());
        self.running(command)
    }

    /// As [`Place::serve`], through a script of bash whose `$0` is the program.
    pub(crate) fn serve_by_shell(&self, script: &str, variables: &[(&str, &str)]) -> Running {
        let plain = self.command(&[]);
        let mut command = Command::new("bash");
        command.args(["-c", script]).arg(env!("CARGO_BIN_EXE_blockremote")).current_dir(self.0.path());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::null()).envs(variables.iter().copied());
        self.running(command)
    }

    fn running(&self, mut command: Command) -> Running {
        let log = std::fs::File::create(self.path("serve.log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines();
            let _ = sender.send(lines.next().and_then(Result::ok).unwrap_or_default());
            // Whatever else it says would be one line too many.
            let _ = sender.send(lines.map_while(Result::ok).collect::<Vec<_>>().join("\n"));
        });
        let line = receiver.recv_timeout(PATIENCE).unwrap();
        let log = || std::fs::read_to_string(self.path("serve.log")).unwrap();
        let ready = line.strip_prefix("ready ").unwrap_or_else(|| panic!("{line}\n{}", log()));
        let ready: Value = serde_json::from_str(ready).unwrap();
        let port = ready["http"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
        let url = format!("https://localhost:{port}");
        let tls = tls::trust(&self.path("certs/ca.pem"), None).unwrap();
        let endpoint = Endpoint::new(&url, Arc::clone(&tls)).unwrap();
        Running { child: Some(child), ready, url, endpoint, rest: receiver }
    }
}

/// A served appliance; killed when it is dropped.
pub(crate) struct Running {
    child: Option<Child>,
    /// The object behind `ready`.
    pub(crate) ready: Value,
    pub(crate) url: String,
    pub(crate) endpoint: Endpoint,
    rest: std::sync::mpsc::Receiver<String>,
}

impl Running {
    pub(crate) fn client(&self) -> HttpClient {
        HttpClient::new(self.endpoint.clone())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until it has ended by itself; gives its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let child = self.child.as_mut().unwrap();
        let from = tokio::time::Instant::now();
        while from.elapsed() < PATIENCE {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// As a power cut ends it.
    pub(crate) fn kill_hard(mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// As an operator ends it: how long it took, its exit code, and what else it had printed.
    pub(crate) fn terminate(mut self) -> (Duration, Option<i32>, String) {
        let mut child = self.child.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let from = tokio::time::Instant::now();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        while from.elapsed() < PATIENCE {
            if let Some(status) = child.try_wait().unwrap() {
                let rest = self.rest.recv_timeout(PATIENCE).unwrap_or_default();
                return (from.elapsed(), status.code(), rest);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
        (from.elapsed(), None, String::new())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Every file below a folder with its content: two equal answers mean that nothing was changed.
pub(crate) fn contents(folder: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut out = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(contents(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            out.insert(path, bytes);
        }
    }
    out
}
