//! One exchange with a server that the operator named: bounded in time and size, without redirects, so that a server can
//! neither hold the appliance up nor send it somewhere else.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::address;
pub use crate::kernel::url::Url;

/// From the first look for an address to the last byte.
const TIME_MAX: Duration = Duration::from_secs(120);
/// The same for what is sent: a few lines, and a few back.
const POST_MAX: Duration = Duration::from_secs(20);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// The authorities that servers are trusted by.
///
/// # Errors
/// A sentence, where the file is missing or holds none.
pub fn trust(path: &Path) -> Result<Arc<ClientConfig>, String> {
    let wrong = |why: String| format!("{}: {why}", path.display());
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| wrong(e.to_string()))?;
    // One that is no authority, or of a kind that is not known, does not spoil the others.
    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    if roots.is_empty() {
        return Err(wrong("it holds no certificate of an authority".to_owned()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(e.to_string()))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// What is sent along.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The rest.
    pub body: Bytes,
}

/// Downloads what a URL names, at most `bytes_max` bytes.
///
/// # Errors
/// A sentence for the operator's log: no address, no connection, another status than 200, too much, too slow.
pub async fn get(url: &Url, tls: Option<Arc<ClientConfig>>, bytes_max: usize) -> Result<Vec<u8>, String> {
    let slow = |_| format!("it took longer than {} seconds", TIME_MAX.as_secs());
    tokio::time::timeout(TIME_MAX, download(url, tls, bytes_max)).await.map_err(slow)?
}

/// Sends a small text to what a URL names; gives status and body of the answer, at most `bytes_max` bytes.
///
/// # Errors
/// As [`get`], except that every status but a redirection is an answer.
pub async fn post(
    url: &Url,
    tls: Option<Arc<ClientConfig>>,
    sent: Sent,
    bytes_max: usize,
) -> Result<(u16, Vec<u8>), String> {
    let slow = |_| format!("it took longer than {} seconds", POST_MAX.as_secs());
    tokio::time::timeout(POST_MAX, open(url, tls, Some(sent), bytes_max)).await.map_err(slow)?
}

async fn download(url: &Url, tls: Option<Arc<ClientConfig>>, bytes_max: usize) -> Result<Vec<u8>, String> {
    let (status, body) = open(url, tls, None, bytes_max).await?;
    if status == 200 { Ok(body) } else { Err(format!("its server answers {status}")) }
}

async fn open(
    url: &Url,
    tls: Option<Arc<ClientConfig>>,
    sent: Option<Sent>,
    bytes_max: usize,
) -> Result<(u16, Vec<u8>), String> {
    let stream = connect(url).await?;
    if !url.is_secure() {
        return exchange(stream, url, sent, bytes_max).await;
    }
    let tls = tls.ok_or("there are no authorities to trust its server by")?;
    let name = ServerName::try_from(url.host().to_owned()).map_err(|e| e.to_string())?;
    let stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await.map_err(|e| e.to_string())?;
    exchange(stream, url, sent, bytes_max).await
}

async fn connect(url: &Url) -> Result<TcpStream, String> {
    let found = tokio::net::lookup_host((url.host(), url.port())).await.map_err(|e| e.to_string())?;
    let addresses: Vec<SocketAddr> = found.filter(|a| may_be_asked(a.ip())).take(ADDRESSES_MAX).collect();
    if addresses.is_empty() {
        return Err("its host has no address that may be asked".to_owned());
    }
    TcpStream::connect(addresses.as_slice()).await.map_err(|e| e.to_string())
}

/// The operator's own machines are as good as others, this one too; not so what answers on every network.
fn may_be_asked(ip: IpAddr) -> bool {
    !address::answers_everywhere(ip)
}

async fn exchange<S>(stream: S, url: &Url, sent: Option<Sent>, bytes_max: usize) -> Result<(u16, Vec<u8>), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let answered = ask(&mut sender, url, sent, bytes_max).await;
    connection.abort();
    answered
}

async fn ask(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    url: &Url,
    sent: Option<Sent>,
    bytes_max: usize,
) -> Result<(u16, Vec<u8>), String> {
    let method = if sent.is_some() { Method::POST } else { Method::GET };
    let Sent { headers, body } = sent.unwrap_or_default();
    let mut request = Request::builder()
        .method(method)
        .uri(url.target())
        .header("host", url.authority())
        .header("user-agent", "blockremote")
        .header("accept-encoding", "identity");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(body)).map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = response.status();
    if status.is_redirection() {
        return Err(format!("its server answers {status}: redirects are not followed, name the last address"));
    }
    if response.headers().get("content-encoding").is_some_and(|e| e != "identity") {
        return Err("its server sends it compressed although it was asked not to".to_owned());
    }
    let body = Limited::new(response.into_body(), bytes_max).collect().await;
    let body = body.map_err(|e| match e.is::<LengthLimitError>() {
        true => format!("it has more than {bytes_max} bytes"),
        false => e.to_string(),
    })?;
    Ok((status.as_u16(), body.to_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_answers_on_every_network_is_never_asked() {
        for (ip, may) in [
            ("203.0.113.9", true),
            ("127.0.0.1", true),
            ("10.0.0.1", true),
            ("169.254.169.254", false),
            ("::ffff:169.254.169.254", false),
            ("fe80::1", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(may_be_asked(ip.parse().unwrap()), may, "{ip}");
        }
    }
}
