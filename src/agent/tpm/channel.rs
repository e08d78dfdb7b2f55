//! How bytes reach a TPM: a character device, a Unix socket, or a socket on the loopback that speaks the same raw
//! commands.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::wire::{Answer, Command};
use super::{MESSAGE_BYTES_MAX, TpmError};

/// How long an answer may take: old chips make an RSA key in half a minute.
const ANSWER_MAX: Duration = Duration::from_secs(90);
/// TPM_RC_YIELDED, TPM_RC_TESTING and TPM_RC_RETRY: the same command again, a moment later.
const AGAIN: [u32; 3] = [0x908, 0x90a, 0x922];
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(50);
/// Tag, size and code.
const HEADER_BYTES: usize = 10;

/// Where a TPM is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// A device such as `/dev/tpmrm0`, or a Unix socket.
    Path(PathBuf),
    /// A socket of this machine.
    Tcp(SocketAddr),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("tcp://") {
            None if text.is_empty() => Err("names no TPM".to_owned()),
            None => Ok(Self::Path(text.into())),
            Some(address) => match address.parse::<SocketAddr>() {
                // Whoever reads along the way could answer in the TPM's place.
                Ok(address) if !address.ip().is_loopback() => {
                    Err("must be on this machine: tcp://127.0.0.1:PORT".to_owned())
                }
                Ok(address) => Ok(Self::Tcp(address)),
                Err(_) => Err("must be a path or tcp://127.0.0.1:PORT".to_owned()),
            },
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// An open way.
#[derive(Debug)]
pub(super) struct Channel {
    place: Place,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// Gives a whole answer with one read.
    Device(File),
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Channel {
    pub(super) fn open(place: &Place) -> Result<Self, TpmError> {
        let way = match place {
            Place::Path(path) => open_path(path),
            Place::Tcp(address) => TcpStream::connect_timeout(address, ANSWER_MAX).and_then(|stream| {
                stream.set_read_timeout(Some(ANSWER_MAX))?;
                stream.set_nodelay(true)?;
                Ok(Way::Tcp(stream))
            }),
        };
        let way = way.map_err(|e| failed(place, &e))?;
        Ok(Self { place: place.clone(), way })
    }

    pub(super) fn run(&mut self, command: &Command) -> Result<Answer, TpmError> {
        let bytes = command.encode()?;
        for attempt in 1.. {
            let answer = self.exchange(&bytes).map_err(|e| failed(&self.place, &e))?;
            match Answer::parse(command.name, answer) {
                Err(TpmError::Refused { code, .. }) if AGAIN.contains(&code) && attempt < ATTEMPTS => {
                    std::thread::sleep(PAUSE * attempt);
                }
                read => return read,
            }
        }
        Err(TpmError::Unreadable(command.name))
    }

    fn exchange(&mut self, command: &[u8]) -> std::io::Result<Vec<u8>> {
        match &mut self.way {
            Way::Device(file) => {
                file.write_all(command)?;
                let mut answer = vec![0; MESSAGE_BYTES_MAX];
                let length = file.read(&mut answer)?;
                answer.truncate(length);
                Ok(answer)
            }
            Way::Unix(stream) => over(stream, command),
            Way::Tcp(stream) => over(stream, command),
        }
    }
}

fn open_path(path: &Path) -> std::io::Result<Way> {
    if std::fs::metadata(path)?.file_type().is_socket() {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        return Ok(Way::Unix(stream));
    }
    Ok(Way::Device(OpenOptions::new().read(true).write(true).open(path)?))
}

/// A stream has no ends of messages: the size in the header says where the answer ends.
fn over(stream: &mut (impl Read + Write), command: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(command)?;
    let mut answer = vec![0; HEADER_BYTES];
    stream.read_exact(&mut answer)?;
    let size = answer.get(2..6).and_then(|s| s.try_into().ok()).map_or(0, u32::from_be_bytes);
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if !(HEADER_BYTES..=MESSAGE_BYTES_MAX).contains(&size) {
        return Err(std::io::Error::other("the answer claims to be longer than any answer of a TPM"));
    }
    answer.resize(size, 0);
    stream.read_exact(answer.get_mut(HEADER_BYTES..).unwrap_or_default())?;
    Ok(answer)
}

fn failed(place: &Place, error: &std::io::Error) -> TpmError {
    TpmError::Channel { place: place.to_string(), cause: error.to_string() }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_tpm_is_a_path_or_a_socket_of_this_machine() {
        for (text, read) in [
            ("/dev/tpmrm0", Ok(Place::Path("/dev/tpmrm0".into()))),
            ("tcp://127.0.0.1:2321", Ok(Place::Tcp("127.0.0.1:2321".parse().unwrap()))),
            ("tcp://[::1]:2321", Ok(Place::Tcp("[::1]:2321".parse().unwrap()))),
            ("tcp://192.0.2.1:2321", Err(())),
            ("tcp://localhost:2321", Err(())),
            ("tcp://127.0.0.1", Err(())),
            ("", Err(())),
        ] {
            assert_eq!(text.parse::<Place>().map_err(|_| ()), read, "{text}");
        }
    }

    /// Whoever answers in a TPM's place makes the client neither wait for ever nor take memory.
    #[test]
    fn an_answer_that_is_none_is_an_error() {
        for answer in [
            &b"\x80\x01\xff\xff\xff\xff\0\0\0\0"[..],
            b"\x80\x01\0\0\0\x09\0\0\0\0",
            b"\x80\x01\0\0\0\x40\0\0\0\0cut short",
            b"\x80",
            b"",
            b"\x00\xc4\0\0\0\x0a\0\0\0\0",
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let place = Place::Tcp(listener.local_addr().unwrap());
            let peer = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut command = [0; 12];
                stream.read_exact(&mut command).unwrap();
                stream.write_all(answer).unwrap();
            });
            let mut channel = Channel::open(&place).unwrap();
            let command = Command::new("TPM2_Startup", 0x0144).bytes(&[0, 0]);
            let heard = channel.run(&command).unwrap_err();
            assert!(matches!(heard, TpmError::Channel { .. } | TpmError::Unreadable(_)), "{heard}");
            peer.join().unwrap();
        }
        let missing = Channel::open(&Place::Path("/nowhere/tpm".into())).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/tpm") && missing.contains("--tpm"), "{missing}");
    }
}
