//! Calls to machines that a tenant named: a name is resolved once, its addresses are checked, and the connection goes to the
//! one that was checked. TLS still proves the name. Nothing here follows a redirect.
//!
//! Knows bytes, not what they mean, nor who is told.

mod http;
mod line;
mod smtp;

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

pub use http::Answer;
pub use smtp::{Mail, MailTls};

use super::address;
use crate::kernel::network::Network;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;
/// For each of them.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// Addresses of a name, once they are known.
pub type Found = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// What knows the addresses of names.
pub trait Resolve: Send + Sync {
    /// Looks them up.
    fn resolve(&self, host: &str) -> Found;
}

/// The machine's own resolver.
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str) -> Found {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.map(|found| found.ip()).collect()) })
    }
}

/// What calls must keep to.
#[derive(Clone)]
pub struct Settings {
    /// Addresses that may be called whatever they are.
    pub allow: Vec<Network>,
    /// Whom TLS trusts; `None`: nobody, and calls with TLS fail.
    pub tls: Option<Arc<ClientConfig>>,
    /// From the first look for an address to the answer.
    pub timeout: Duration,
    /// How the appliance names itself to mail servers.
    pub host_name: String,
}

/// Calls out. Cheap to clone.
#[derive(Clone)]
pub struct Outbound {
    settings: Settings,
    resolver: Arc<dyn Resolve>,
    idle: http::Idle,
}

/// What bytes go through.
trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin + std::fmt::Debug {}
impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin + std::fmt::Debug> Stream for S {}

impl Outbound {
    /// Calls by these rules.
    pub fn new(settings: Settings, resolver: Arc<dyn Resolve>) -> Self {
        Self { settings, resolver, idle: http::Idle::default() }
    }

    fn is_allowed(&self, ip: IpAddr) -> bool {
        self.settings.allow.iter().any(|network| network.contains(ip))
    }

    fn may_be_called(&self, ip: IpAddr) -> bool {
        self.is_allowed(ip) || !(address::answers_everywhere(ip) || address::is_loopback(ip))
    }

    /// Runs a call within the time that it may take.
    async fn timed<T>(&self, call: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let slow = |_| format!("it took longer than {} ms", self.settings.timeout.as_millis());
        tokio::time::timeout(self.settings.timeout, call).await.map_err(slow)?
    }

    /// A connection to one of the checked addresses of a host.
    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        let found = match host.parse::<IpAddr>() {
            Ok(ip) => vec![ip],
            Err(_) => self.resolver.resolve(host).await.map_err(|e| format!("its name has no address: {e}"))?,
        };
        let checked: Vec<IpAddr> = found.into_iter().filter(|ip| self.may_be_called(*ip)).take(ADDRESSES_MAX).collect();
        let mut last = "its name has no address that may be called (integrations.allow_addresses)".to_owned();
        for ip in checked {
            let connecting = tokio::time::timeout(CONNECT_TIME_MAX, TcpStream::connect(SocketAddr::new(ip, port)));
            match connecting.await {
                Ok(Ok(stream)) => return self.not_ourselves(stream, ip),
                Ok(Err(e)) => last = format!("no connection: {e}"),
                Err(_) => last = "no connection: it took too long".to_owned(),
            }
        }
        Err(last)
    }

    /// Who calls an address of his own machine calls from that very address.
    fn not_ourselves(&self, stream: TcpStream, ip: IpAddr) -> Result<TcpStream, String> {
        let own = stream.local_addr().is_ok_and(|own| own.ip().to_canonical() == ip.to_canonical());
        if own && !self.is_allowed(ip) {
            return Err("it is an address of the appliance itself (integrations.allow_addresses)".to_owned());
        }
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(stream)
    }

    async fn secure<S: Stream>(&self, host: &str, stream: S) -> Result<tokio_rustls::client::TlsStream<S>, String> {
        let tls = self.settings.tls.clone().ok_or("there are no authorities to trust it by")?;
        let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
        let secured = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await;
        secured.map_err(|e| format!("no TLS: {e}"))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::net::fetch::Url;

    /// Says another thing at each question.
    struct Turncoat {
        answers: Vec<&'static str>,
        asked: AtomicUsize,
    }

    impl Resolve for Turncoat {
        fn resolve(&self, _: &str) -> Found {
            let turn = self.asked.fetch_add(1, Ordering::SeqCst);
            let said = self.answers.get(turn).or(self.answers.last()).map(|ip| ip.parse().unwrap());
            Box::pin(async move { Ok(said.into_iter().collect()) })
        }
    }

    fn outbound(allow: &[&str], answers: &[&'static str]) -> (Outbound, Arc<Turncoat>) {
        let resolver = Arc::new(Turncoat { answers: answers.to_vec(), asked: AtomicUsize::new(0) });
        let settings = Settings {
            allow: allow.iter().map(|a| a.parse().unwrap()).collect(),
            tls: None,
            timeout: Duration::from_millis(500),
            host_name: "appliance".to_owned(),
        };
        (Outbound::new(settings, Arc::<Turncoat>::clone(&resolver)), resolver)
    }

    async fn receiver(answer: &'static [u8]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 4_096];
                    while stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                        let _ = stream.write_all(answer).await;
                    }
                });
            }
        });
        port
    }

    async fn call(outbound: &Outbound, host: &str, port: u16) -> Result<Answer, String> {
        let url = Url::parse(&format!("http://{host}:{port}/hook")).unwrap();
        outbound.post(&url, &[], b"{}".to_vec().into()).await
    }

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    /// A name that leads to a good address while it is checked and to a bad one when it is called: nobody asks twice.
    #[tokio::test]
    async fn the_address_that_was_checked_is_the_one_that_is_called() {
        let port = receiver(OK).await;
        let (outbound_, resolver) = outbound(&["127.0.0.2"], &["127.0.0.2", "127.0.0.1"]);
        // Nobody listens at .2, so this fails; at .1 somebody does, and would have answered.
        let refused = call(&outbound_, "turncoat.example", port).await;
        assert!(refused.unwrap_err().starts_with("no connection"));
        assert_eq!(resolver.asked.load(Ordering::SeqCst), 1, "it was resolved once");
        let again = call(&outbound_, "turncoat.example", port).await;
        assert!(again.unwrap_err().contains("no address that may be called"), "the next call is checked anew");
        let (trusting, resolver) = outbound(&["127.0.0.1"], &["127.0.0.1", "169.254.169.254"]);
        assert_eq!(call(&trusting, "turncoat.example", port).await.unwrap().status, 200);
        assert_eq!(resolver.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn what_is_not_allowed_is_not_called_in_any_spelling() {
        let port = receiver(OK).await;
        let (strict, _) = outbound(&[], &["127.0.0.1"]);
        for host in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "anything.example", "127.1", "2130706433"]
        {
            let refused = call(&strict, host, port).await.unwrap_err();
            assert!(refused.contains("no address that may be called"), "{host}: {refused}");
        }
        let (system, _) = outbound(&[], &[]);
        let system = Outbound { resolver: Arc::new(SystemResolver), ..system };
        for host in ["127.1", "2130706433", "localhost"] {
            assert!(call(&system, host, port).await.is_err(), "{host}");
        }
    }

    /// An address of the machine's network card is no loopback, and still the appliance itself.
    #[tokio::test]
    async fn the_appliance_does_not_call_itself_by_its_address_on_the_network() {
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        let own = interfaces.iter().map(if_addrs::Interface::ip).find(|ip| ip.is_ipv4() && !ip.is_loopback());
        let Some(own) = own else {
            eprintln!("skipped: this machine has no address but loopback");
            return;
        };
        let listener = TcpListener::bind((own, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (strict, _) = outbound(&[], &[]);
        let refused = call(&strict, &own.to_string(), port).await.unwrap_err();
        assert!(refused.contains("the appliance itself"), "{refused}");
    }

    #[tokio::test]
    async fn slow_and_endless_answers_end_by_themselves() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = listener.local_addr().unwrap().port();
        let (outbound_, _) = outbound(&["127.0.0.1"], &[]);
        assert!(call(&outbound_, "127.0.0.1", silent).await.unwrap_err().contains("longer than 500 ms"));
        let endless = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = endless.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = endless.accept().await {
                let _ = stream.read(&mut [0; 4_096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n").await;
                while stream.write_all(&[b'x'; 65_536]).await.is_ok() {}
            }
        });
        let answer = call(&outbound_, "127.0.0.1", port).await.unwrap();
        assert_eq!((answer.status, answer.start.len()), (200, http::START_BYTES_MAX), "its status counts");
        let headers = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = headers.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = headers.accept().await {
                let _ = stream.read(&mut [0; 4_096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
                while stream.write_all(b"x-more: of the same\r\n").await.is_ok() {}
            }
        });
        assert!(call(&outbound_, "127.0.0.1", port).await.is_err(), "headers without end are no answer");
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_like_any_other() {
        let port = receiver(
            b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest/meta-data\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
        let (outbound_, _) = outbound(&["127.0.0.1"], &[]);
        assert_eq!(call(&outbound_, "127.0.0.1", port).await.unwrap().status, 302);
    }
}
