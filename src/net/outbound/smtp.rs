//! One mail over SMTP. The dialogue is lettre's; addresses, TLS and the way to it (RFC 3207) are ours.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream};
use lettre::transport::smtp::extension::ClientId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use zeroize::Zeroizing;

use super::{Outbound, Stream};

/// Bytes of one answer before TLS.
const ANSWER_BYTES_MAX: usize = 4 * 1_024;

/// How a mail server is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MailTls {
    /// TLS from the first byte.
    Implicit,
    /// It must offer STARTTLS, or nothing is sent.
    StartTls,
    /// In the clear.
    None,
}

/// A mail and the server that takes it.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How it is spoken to.
    pub tls: MailTls,
    /// Name and password.
    pub login: Option<(String, Zeroizing<String>)>,
    /// Who writes.
    pub from: String,
    /// To whom.
    pub to: Vec<String>,
    /// One line.
    pub subject: String,
    /// The text.
    pub text: String,
    /// Unique and stable: a repeat is known by it.
    pub id: String,
    /// When it was written, in seconds since 1970.
    pub written_s: u64,
}

/// A stream that lettre takes; behind STARTTLS it first hears the greeting that was read before.
#[derive(Debug)]
struct Voice<S> {
    greeting: &'static [u8],
    peer: SocketAddr,
    stream: S,
}

impl<S: Stream> AsyncRead for Voice<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (now, later) = self.greeting.split_at(self.greeting.len().min(buf.remaining()));
        if now.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        buf.put_slice(now);
        self.greeting = later;
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for Voice<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: Stream> AsyncTokioStream for Voice<S> {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

/// The parser forgives white space around an address; nothing here does.
fn mailbox(text: &str) -> Result<Mailbox, String> {
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("an address holds what no address may".to_owned());
    }
    text.parse().map_err(|e| format!("an address is none: {e}"))
}

impl Mail {
    /// The message as it is sent. What could end a header stands in none: addresses are parsed, other texts encoded.
    fn message(&self) -> Result<Message, String> {
        let one_line = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(self.written_s);
        let mut message = Message::builder()
            .from(mailbox(&self.from)?)
            .subject(one_line(&self.subject))
            .message_id(Some(format!("<{}>", one_line(&self.id))))
            .date(written)
            .header(ContentType::TEXT_PLAIN);
        for to in &self.to {
            message = message.to(mailbox(to)?);
        }
        message.body(self.text.clone()).map_err(|e| e.to_string())
    }
}

impl Outbound {
    /// Hands a mail to a server; gives its last word.
    ///
    /// # Errors
    /// A sentence: no address that may be called, no connection, no TLS, refused by the server, too slow.
    pub async fn mail(&self, mail: &Mail) -> Result<String, String> {
        self.timed(async {
            let message = mail.message()?;
            let stream = self.connect(&mail.host, mail.port).await?;
            let peer = stream.peer_addr().map_err(|e| e.to_string())?;
            match mail.tls {
                MailTls::None => self.talk(Voice { greeting: b"", peer, stream }, mail, &message).await,
                MailTls::Implicit => {
                    let stream = self.secure(&mail.host, stream).await?;
                    self.talk(Voice { greeting: b"", peer, stream }, mail, &message).await
                }
                MailTls::StartTls => {
                    let mut stream = stream;
                    start_tls(&mut stream, &self.settings.host_name).await?;
                    let stream = self.secure(&mail.host, stream).await?;
                    self.talk(Voice { greeting: b"220 go on\r\n", peer, stream }, mail, &message).await
                }
            }
        })
        .await
    }

    async fn talk<S: Stream + 'static>(
        &self,
        voice: Voice<S>,
        mail: &Mail,
        message: &Message,
    ) -> Result<String, String> {
        let said = |e: lettre::transport::smtp::Error| format!("the mail server refused: {e}");
        let name = ClientId::Domain(self.settings.host_name.clone());
        let mut server = AsyncSmtpConnection::connect_with_transport(Box::new(voice), &name).await.map_err(said)?;
        if let Some((user, password)) = &mail.login {
            let credentials = Credentials::new(user.clone(), password.to_string());
            server.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await.map_err(said)?;
        }
        let taken = server.send(message.envelope(), &message.formatted()).await.map_err(said)?;
        // The mail is taken: how the server says farewell changes nothing.
        let _ = server.quit().await;
        Ok(format!("{} {}", taken.code(), taken.message().next().unwrap_or_default()))
    }
}

/// Brings a server to the point where TLS begins.
async fn start_tls(stream: &mut tokio::net::TcpStream, name: &str) -> Result<(), String> {
    answer(stream, "220").await?;
    let broken = |e: io::Error| format!("the connection broke: {e}");
    stream.write_all(format!("EHLO {name}\r\n").as_bytes()).await.map_err(broken)?;
    let offered = answer(stream, "250").await?;
    if !offered.lines().any(|line| line.get(4..).is_some_and(|word| word.trim().eq_ignore_ascii_case("STARTTLS"))) {
        return Err("the mail server does not offer STARTTLS".to_owned());
    }
    stream.write_all(b"STARTTLS\r\n").await.map_err(broken)?;
    answer(stream, "220").await.map(drop)
}

/// One answer, of several lines where all but the last have a dash behind the code. Nothing is read beyond it, and what
/// came beyond it, before TLS could vouch for it, is refused.
async fn answer(stream: &mut tokio::net::TcpStream, code: &str) -> Result<String, String> {
    let mut text = Vec::new();
    loop {
        let read = stream.read_buf(&mut text).await.map_err(|e| format!("the connection broke: {e}"))?;
        let said = String::from_utf8_lossy(&text);
        let done = said.ends_with('\n')
            && said.lines().next_back().is_some_and(|last| last.as_bytes().get(3).is_none_or(|b| *b != b'-'));
        if done {
            let lines_fit = said.lines().all(|line| line.starts_with(code));
            let one_answer = said.lines().filter(|line| line.as_bytes().get(3) != Some(&b'-')).count() == 1;
            return match lines_fit && one_answer {
                true => Ok(said.into_owned()),
                false => Err("the mail server answers something else than it should".to_owned()),
            };
        }
        if read == 0 || text.len() > ANSWER_BYTES_MAX {
            return Err("the mail server ended the conversation".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn mail() -> Mail {
        Mail {
            host: "mail.example".to_owned(),
            port: 25,
            tls: MailTls::None,
            login: None,
            from: "appliance@example.org".to_owned(),
            to: vec!["ops@example.org".to_owned()],
            subject: "device.blocked BR-1".to_owned(),
            text: "why\r\n.\r\nQUIT\r\n".to_owned(),
            id: "aud_1@blockremote".to_owned(),
            written_s: 1_767_225_600,
        }
    }

    /// What a stranger on the way adds before TLS would else be taken for the server's word behind it.
    #[tokio::test]
    async fn what_comes_before_tls_beyond_one_answer_is_refused() {
        for (said, fine) in [
            ("220 mail\r\n", true),
            ("220-mail\r\n220 go on\r\n", true),
            ("220 mail\r\n250 injected\r\n", false),
            ("220 mail\r\n220 injected\r\n", false),
            ("554 no\r\n", false),
            ("\r\n", false),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(said.as_bytes()).await.unwrap();
            });
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            server.await.unwrap();
            assert_eq!(answer(&mut stream, "220").await.is_ok(), fine, "{said:?}");
        }
    }

    #[test]
    fn no_text_becomes_a_header_of_its_own() {
        let forged = Mail {
            subject: "x\r\nBcc: all@example.org\r\n\r\nbody".to_owned(),
            id: "a\r\nX-Evil: 1".to_owned(),
            ..mail()
        };
        let text = String::from_utf8(forged.message().unwrap().formatted()).unwrap();
        let header = text.split("\r\n\r\n").next().unwrap();
        assert!(!header.lines().any(|l| l.starts_with("Bcc:") || l.starts_with("X-Evil")), "{header}");
        for bad in ["a@b\r\nBcc: c@d", "a@b\n", "a@b, c@d", "<a@b>\r\n", "a"] {
            assert!(Mail { from: bad.to_owned(), ..mail() }.message().is_err(), "{bad:?}");
            assert!(Mail { to: vec![bad.to_owned()], ..mail() }.message().is_err(), "{bad:?}");
        }
    }
}
