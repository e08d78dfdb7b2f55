//! Where a new password comes from: a person at the terminal, standard input, or chance.

use std::io::{self, IsTerminal};

use base64ct::{Base64UrlUnpadded, Encoding};
use rustix::fd::BorrowedFd;
use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use zeroize::Zeroizing;

use super::{Failure, output};
use crate::crypto::Secret;
use crate::crypto::password::PASSWORD_BYTES_MAX;
use crate::kernel::Random;

/// A password, and whether it has to be shown because nobody knows it yet.
pub(super) struct NewPassword {
    pub secret: Secret,
    pub made_up: bool,
}

/// Reads a password from standard input where that is wanted, asks twice on a terminal, and makes one up otherwise.
pub(super) fn obtain(from_stdin: bool, name: &str) -> Result<NewPassword, Failure> {
    let stdin = io::stdin();
    if from_stdin {
        return Ok(NewPassword { secret: read_secret(&stdin, false)?, made_up: false });
    }
    if !stdin.is_terminal() {
        // 120 random bits, as the first administrator's.
        let secret = Secret::new(Base64UrlUnpadded::encode_string(&Random::System.bytes::<15>()));
        return Ok(NewPassword { secret, made_up: true });
    }
    let first = ask(&stdin, &format!("New password of {name}: "))?;
    if ask(&stdin, "The same once more: ")? != first {
        return Err(Failure::Refused("The two passwords are not the same; nothing was changed.".to_owned()));
    }
    Ok(NewPassword { secret: first, made_up: false })
}

fn ask(stdin: &io::Stdin, prompt: &str) -> Result<Secret, Failure> {
    output::to_stderr(&output::clean(prompt))?;
    let hidden = Hidden::begin(stdin)?;
    let secret = read_secret(stdin, true);
    drop(hidden);
    secret
}

/// A terminal that does not show what is typed; as it was before when dropped.
struct Hidden<'a> {
    terminal: &'a io::Stdin,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn begin(terminal: &'a io::Stdin) -> Result<Self, Failure> {
        let cannot = |e| Failure::Failed(format!("The terminal would show the password ({e}); use --password-stdin."));
        let before = termios::tcgetattr(terminal).map_err(cannot)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        quiet.local_modes.insert(LocalModes::ECHONL | LocalModes::ICANON);
        termios::tcsetattr(terminal, OptionalActions::Flush, &quiet).map_err(cannot)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // A terminal that went away needs no echo.
        let _ = termios::tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// Reads to the end, or to the end of the line; past the library's own buffer, which would keep a copy. One line break at
/// the end is not part of the password.
fn read_secret(stdin: &impl rustix::fd::AsFd, one_line: bool) -> Result<Secret, Failure> {
    read_from(stdin.as_fd(), one_line)
}

fn read_from(input: BorrowedFd<'_>, one_line: bool) -> Result<Secret, Failure> {
    // Two more for a line break, and one by which a longer one is noticed.
    let mut bytes = Zeroizing::new([0_u8; PASSWORD_BYTES_MAX + 3]);
    let mut length = 0;
    while let Some(room) = bytes.get_mut(length..).filter(|room| !room.is_empty()) {
        let got = match rustix::io::read(input, room) {
            Ok(got) => got,
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(Failure::Failed(format!("The password could not be read: {e}"))),
        };
        length += got;
        if got == 0 || (one_line && bytes.get(..length).is_some_and(|b| b.contains(&b'\n'))) {
            break;
        }
    }
    let read = bytes.get(..length).unwrap_or_default();
    let read = read.strip_suffix(b"\n").unwrap_or(read);
    let read = read.strip_suffix(b"\r").unwrap_or(read);
    match std::str::from_utf8(read) {
        Ok("") => Err(Failure::Refused("There is no password in the input; nothing was changed.".to_owned())),
        Ok(text) => Ok(Secret::new(text)),
        Err(_) => Err(Failure::Refused("The password is not UTF-8 text; nothing was changed.".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    fn read(input: &[u8], one_line: bool) -> Result<String, u8> {
        let (from, mut to) = io::pipe().unwrap();
        to.write_all(input).unwrap();
        drop(to);
        match read_from(from.as_fd(), one_line) {
            Ok(secret) => Ok(secret.expose().to_owned()),
            Err(Failure::Refused(_)) => Err(super::super::exit::REFUSED),
            Err(_) => Err(super::super::exit::FAILED),
        }
    }

    #[test]
    fn one_line_break_at_the_end_is_not_part_of_a_password() {
        for (input, expect) in [
            ("correct horse", Ok("correct horse")),
            ("correct horse\n", Ok("correct horse")),
            ("correct horse\r\n", Ok("correct horse")),
            (" correct horse \n\n", Ok(" correct horse \n")),
            ("", Err(3)),
            ("\n", Err(3)),
        ] {
            assert_eq!(read(input.as_bytes(), false), expect.map(str::to_owned), "{input:?}");
        }
        assert_eq!(read(b"\xff\xfe", false), Err(3));
    }

    /// What is too long must be refused as such, never cut to something that fits.
    #[test]
    fn a_password_without_end_stays_too_long() {
        let long = "x".repeat(100_000);
        let (from, mut to) = io::pipe().unwrap();
        let writer = std::thread::spawn(move || to.write_all(long.as_bytes()).is_ok());
        let length = read_from(from.as_fd(), false).ok().map(|s| s.expose().len());
        drop(from);
        writer.join().unwrap();
        assert!(length.unwrap() > PASSWORD_BYTES_MAX);
    }
}
