//! Receivers of others, on loopback: they note what they get and answer as a test wants.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use blockremote::testkit::Fault;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Got {
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Got {
    pub fn header(&self, name: &str) -> String {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The event and whose it is.
    pub fn event(&self) -> (String, String) {
        let body = self.json();
        let word = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        (word(&body["type"]), word(&body["data"]["device_id"]))
    }
}

type Script = Box<dyn FnMut(&Got) -> Vec<u8> + Send>;

/// An HTTP receiver. An empty answer is none: the connection stays open and silent.
#[derive(Clone)]
pub struct Receiver {
    pub port: u16,
    got: Arc<Mutex<Vec<Got>>>,
    script: Arc<Mutex<Script>>,
}

/// An answer without a body.
pub fn status(code: u16) -> Vec<u8> {
    format!("HTTP/1.1 {code} As Told\r\ncontent-length: 0\r\n\r\n").into_bytes()
}

impl Receiver {
    /// Takes everything.
    pub async fn start() -> Result<Self, Fault> {
        Self::over(None).await
    }

    /// The same over TLS.
    pub async fn over(tls: Option<TlsAcceptor>) -> Result<Self, Fault> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let script: Script = Box::new(|_| status(204));
        let this = Self { port, got: Arc::default(), script: Arc::new(Mutex::new(script)) };
        let serving = this.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (serving, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serving.serve(stream).await,
                            Err(_) => None,
                        },
                        None => serving.serve(stream).await,
                    }
                });
            }
        });
        Ok(this)
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut got = Got::default();
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.ok()? == 0 {
                    return None;
                }
                let line = line.trim_end();
                if line.is_empty() {
                    break;
                }
                if let Some((name, value)) = line.split_once(": ") {
                    got.headers.push((name.to_ascii_lowercase(), value.to_owned()));
                }
            }
            got.body = vec![0; got.header("content-length").parse().unwrap_or(0)];
            stream.read_exact(&mut got.body).await.ok()?;
            let answer = {
                let mut script = self.script.lock().ok()?;
                self.got.lock().ok()?.push(got.clone());
                script(&got)
            };
            if answer.is_empty() {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            stream.write_all(&answer).await.ok()?;
        }
    }

    pub fn answers(&self, script: impl FnMut(&Got) -> Vec<u8> + Send + 'static) {
        if let Ok(mut there) = self.script.lock() {
            *there = Box::new(script);
        }
    }

    pub fn got(&self) -> Vec<Got> {
        self.got.lock().map(|got| got.clone()).unwrap_or_default()
    }

    pub fn events(&self) -> Vec<(String, String)> {
        self.got().iter().map(Got::event).collect()
    }

    /// Waits until it got so many requests.
    pub async fn wait(&self, count: usize) -> Result<Vec<Got>, Fault> {
        if blockremote::testkit::eventually(|| self.got().len() >= count).await {
            return Ok(self.got());
        }
        Err(format!("{} of {count} requests came: {:?}", self.got().len(), self.events()).into())
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }
}

/// A certificate of its own for `localhost`, or for whom else; with its PEM.
pub fn acceptor(name: &str) -> Result<(TlsAcceptor, String), Fault> {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    Ok((TlsAcceptor::from(Arc::new(config)), made.cert.pem()))
}

/// A server that notes everything until the other side closes; gives its port and what each connection said.
pub async fn sink(tls: Option<TlsAcceptor>) -> Result<(u16, Arc<Mutex<Vec<Vec<u8>>>>), Fault> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (port, said) = (listener.local_addr()?.port(), Arc::<Mutex<Vec<Vec<u8>>>>::default());
    let noted = Arc::clone(&said);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut all = Vec::new();
            let _ = match &tls {
                Some(tls) => match tls.accept(stream).await {
                    Ok(mut stream) => stream.read_to_end(&mut all).await,
                    Err(e) => Err(e),
                },
                None => stream.read_to_end(&mut all).await,
            };
            if let Ok(mut noted) = noted.lock() {
                noted.push(all);
            }
        }
    });
    Ok((port, said))
}

/// A mail server. With TLS it insists on STARTTLS, and then on a login.
pub async fn mail_server(tls: Option<TlsAcceptor>) -> Result<(u16, Arc<Mutex<String>>), Fault> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (port, said) = (listener.local_addr()?.port(), Arc::<Mutex<String>>::default());
    let noted = Arc::clone(&said);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (tls, noted) = (tls.clone(), Arc::clone(&noted));
            tokio::spawn(async move {
                stream.write_all(b"220 mail.example\r\n").await.ok()?;
                if let Some(tls) = tls {
                    let mut plain = BufReader::new(stream);
                    talk(&mut plain, "250-mail.example\r\n250 STARTTLS\r\n", true, &noted).await?;
                    let mut secure = BufReader::new(tls.accept(plain.into_inner()).await.ok()?);
                    return talk(&mut secure, "250-mail.example\r\n250 AUTH PLAIN\r\n", false, &noted).await;
                }
                talk(&mut BufReader::new(stream), "250 mail.example\r\n", false, &noted).await
            });
        }
    });
    Ok((port, said))
}

async fn talk<S>(stream: &mut BufReader<S>, hello: &str, until_tls: bool, noted: &Mutex<String>) -> Option<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut in_data = false;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        noted.lock().ok()?.push_str(&line);
        let word = line.trim_end().to_ascii_uppercase();
        let answer = match word.as_str() {
            "." if in_data => {
                in_data = false;
                "250 taken\r\n"
            }
            _ if in_data => continue,
            "DATA" => {
                in_data = true;
                "354 go on\r\n"
            }
            "STARTTLS" => "220 begin\r\n",
            "QUIT" => "221 farewell\r\n",
            word if word.starts_with("EHLO") => hello,
            word if word.starts_with("AUTH") => "235 welcome\r\n",
            _ => "250 fine\r\n",
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
        if until_tls && word == "STARTTLS" {
            return Some(());
        }
    }
}
