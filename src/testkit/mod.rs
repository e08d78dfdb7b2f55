//! For tests and benches: the real appliance in this process, on free ports, in a folder of its own, under a clock that
//! the test moves; and a client that trusts it.
//!
//! Nothing here is used by the product.

pub mod hardware;
pub mod passkey;
pub mod play;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::app::supervisor::Inherited;
use crate::app::{App, Environment};
use crate::client::{Endpoint, HttpClient, Response, Socket, tls};
use crate::config::Config;
use crate::crypto::{Secret, SigningKey, password};
use crate::kernel::{Clock, Random};
use crate::observe::strain::Machine;

/// A folder that disappears with its owner.
pub struct Folder(PathBuf);

impl Folder {
    /// A fresh folder under the system's place for temporary files.
    pub fn new() -> std::io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("blockremote-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left to the system's cleaning of temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Why the testkit could not do something; tests end with it.
pub type Fault = Box<dyn std::error::Error + Send + Sync>;

/// A machine with as much memory and disk as a test says; ample of both unless it says so.
#[derive(Clone, Debug, Default)]
pub struct TestMachine(Arc<TestFigures>);

#[derive(Debug)]
struct TestFigures {
    disk_free_bytes: AtomicU64,
    memory_bytes: AtomicU64,
}

impl Default for TestFigures {
    fn default() -> Self {
        Self { disk_free_bytes: AtomicU64::new(u64::MAX), memory_bytes: AtomicU64::new(0) }
    }
}

impl TestMachine {
    /// From now on this much may still be written to the disk.
    pub fn set_disk_free_bytes(&self, bytes: u64) {
        self.0.disk_free_bytes.store(bytes, Ordering::Release);
    }

    /// From now on the process holds this much memory.
    pub fn set_memory_bytes(&self, bytes: u64) {
        self.0.memory_bytes.store(bytes, Ordering::Release);
    }
}

impl Machine for TestMachine {
    fn disk_free_bytes(&self, _: &Path) -> Option<u64> {
        Some(self.0.disk_free_bytes.load(Ordering::Acquire))
    }

    fn memory_bytes(&self) -> Option<u64> {
        Some(self.0.memory_bytes.load(Ordering::Acquire))
    }
}

/// The administrator that `init` made.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Name.
    pub username: String,
    /// Password.
    pub password: Secret,
}

/// The real appliance in this process.
pub struct Server {
    app: Option<App>,
    config: Config,
    env: Environment,
    folder: Arc<Folder>,
    /// Moves time.
    pub clock: Clock,
    /// Says how much memory and disk there is.
    pub machine: TestMachine,
    /// The first administrator.
    pub admin: Admin,
    /// The first enrollment token.
    pub enrollment_token: String,
    tls: Arc<rustls::ClientConfig>,
}

impl Server {
    /// Starts with default settings under a simulated clock.
    pub async fn start() -> Result<Self, Fault> {
        Self::start_with(|_| {}).await
    }

    /// Starts with settings that `change` changed, under a simulated clock.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Result<Self, Fault> {
        let folder = Arc::new(Folder::new()?);
        let mut config = Config::default();
        config.paths.data = folder.path().join("data/blockremote.redb");
        config.paths.certs = folder.path().join("certs");
        config.http.listen = "127.0.0.1:0".parse()?;
        config.grpc.listen = "127.0.0.1:0".parse()?;
        config.internal.listen = "127.0.0.1:0".parse()?;
        // A checkpoint that nobody asked for is an entry that no test expects.
        config.audit.checkpoint_every = Duration::from_secs(86_400);
        config.machine.disk.ballast_bytes = 0;
        // Clients judge it by the real clock: one that is renewed in the simulated future would be none to them.
        config.tls.certificate_lifetime = Duration::from_secs(397 * 86_400);
        change(&mut config);
        // From the real present on, because the client judges the certificates by its own clock.
        let clock = Clock::simulated(Clock::System.now());
        let machine = TestMachine::default();
        let env = Environment {
            clock: clock.clone(),
            random: Random::System,
            password_cost: Some(password::Params::default()),
            machine: Arc::new(machine.clone()),
            inherited: Inherited::default(),
            export: None,
        };
        let (app, first) = App::start(&config, &env).await?;
        let first = first.ok_or("the folder was not empty")?;
        let tls = tls::trust(&config.paths.certs.join("ca.pem"), None)?;
        Ok(Self {
            app: Some(app),
            config,
            env,
            folder,
            clock,
            machine,
            admin: Admin { username: first.username, password: first.password },
            enrollment_token: first.enrollment_token,
            tls,
        })
    }

    /// The running appliance.
    ///
    /// # Panics
    /// Between [`Server::stop`] and [`Server::restart`].
    #[expect(clippy::panic, reason = "a test's own mistake")]
    pub fn app(&self) -> &App {
        match &self.app {
            Some(app) => app,
            None => panic!("the appliance was stopped"),
        }
    }

    /// The folder of data and certificates.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The settings it runs with.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Stops it as SIGTERM does.
    pub async fn stop(&mut self) -> bool {
        match self.app.take() {
            Some(app) => app.shut_down().await,
            None => true,
        }
    }

    /// As [`Server::restart`], with settings that `change` changed.
    pub async fn restart_with(&mut self, change: impl FnOnce(&mut Config)) -> Result<(), Fault> {
        change(&mut self.config);
        self.restart().await
    }

    /// Starts it again on the same folder (stopping it first if need be). The ports may differ.
    pub async fn restart(&mut self) -> Result<(), Fault> {
        self.stop().await;
        // What the old one left behind in this process (a read that nobody waits for) may hold the file a moment longer.
        for _ in 0..200 {
            match App::start(&self.config, &self.env).await {
                Ok((app, _)) => {
                    self.app = Some(app);
                    return Ok(());
                }
                Err(e) if e.to_string().contains("is in use") => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(e) => return Err(e.into()),
            }
        }
        Err("the data file stayed in use".into())
    }

    /// Where it answers, for any client.
    pub fn endpoint(&self) -> Result<Endpoint, Fault> {
        let url = format!("https://localhost:{}", self.app().addresses.http.port());
        Ok(Endpoint::new(&url, Arc::clone(&self.tls))?)
    }

    /// A connection of its own.
    pub fn client(&self) -> Result<HttpClient, Fault> {
        Ok(HttpClient::new(self.endpoint()?))
    }

    /// Logs the administrator in and gives the answer.
    pub async fn login(&self) -> Result<Value, Fault> {
        let body = json!({ "username": self.admin.username, "password": self.admin.password.expose() });
        let response = self.client()?.post("/v1/auth/login", None, &body).await?;
        response.success()?;
        Ok(response.json()?)
    }

    /// The administrator's access token.
    pub async fn admin_token(&self) -> Result<String, Fault> {
        Ok(text(&self.login().await?, "access_token"))
    }

    /// Enrolls a device with a key of its own.
    pub async fn enroll(&self, device_id: &str) -> Result<Device, Fault> {
        let key = SigningKey::generate(&Random::System);
        let body = json!({
            "device_id": device_id,
            "device_name": "a phone",
            "os_version": "16",
            "platform": "android",
            "public_key": key.verifying().to_jwk(),
            "enrollment_token": self.enrollment_token,
        });
        let response = self.client()?.post("/v1/auth/device", None, &body).await?;
        response.success()?;
        let answer: Value = response.json()?;
        Ok(Device {
            id: device_id.to_owned(),
            access_token: text(&answer, "access_token"),
            refresh_token: text(&answer, "refresh_token"),
            session_id: text(&answer, "session_id"),
            key,
            client: self.client()?,
            endpoint: self.endpoint()?,
        })
    }
}

/// A member of a JSON object that is a text; empty when there is none.
pub fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// An enrolled device.
pub struct Device {
    /// Its name.
    pub id: String,
    /// Of its session.
    pub access_token: String,
    /// Of its session.
    pub refresh_token: String,
    /// Its session.
    pub session_id: String,
    /// The key that it enrolled.
    pub key: SigningKey,
    /// Its connection.
    pub client: HttpClient,
    endpoint: Endpoint,
}

impl Device {
    /// A heartbeat of one plausible reading.
    pub fn calm(&self) -> Value {
        json!({ "device_id": self.id, "payload": { "accelerometer": [0.1, 9.79, 0.3], "gyroscope": [0.01, 0.02, -0.03] } })
    }

    /// A heartbeat that shows a takeover by a hard rule: used by somebody while the sensors are an emulator's.
    pub fn hostile(&self) -> Value {
        let reading = |i: u64| {
            json!({
                "t_ms": 1_000 + i * 20,
                "accelerometer": [0.0, 9.81, 0.0],
                "gyroscope": [0.0, 0.0, 0.0],
                "overlay": 1.0,
                "accessibility_active": true,
                "window_mirroring": true,
                "touch": { "x": 0.5, "y": 0.5, "pressure": 0.5, "interval_ms": 200 },
            })
        };
        json!({ "device_id": self.id, "readings": (0..100).map(reading).collect::<Vec<_>>() })
    }

    /// Sends a heartbeat over HTTP.
    pub async fn beat(&mut self, body: &Value) -> Result<Response, Fault> {
        let token = self.access_token.clone();
        Ok(self.client.post("/v1/signals/heartbeat", Some(&token), body).await?)
    }

    /// Opens the kill-switch socket.
    pub async fn socket(&self) -> Result<Socket, Fault> {
        Ok(Socket::connect(&self.endpoint, &self.access_token).await?)
    }
}

/// Waits in real time until `condition` holds, five seconds at most; says whether it did.
pub async fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    for _ in 0..500 {
        if condition() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    condition()
}
