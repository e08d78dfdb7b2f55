//! Commands and answers of a TPM as bytes (Part 1, section 18): big endian, every length checked.

use super::{MESSAGE_BYTES_MAX, TpmError};

/// TPM_ST_NO_SESSIONS and TPM_ST_SESSIONS.
const PLAIN: u16 = 0x8001;
const AUTHORIZED: u16 = 0x8002;
/// TPM_RS_PW.
const PASSWORD: u32 = 0x4000_0009;
const HEADER_BYTES: usize = 10;
/// Values of one TPML_DIGEST.
const DIGESTS_MAX: u32 = 8;
/// Bytes of the longest digest.
const DIGEST_BYTES_MAX: usize = 64;
/// Bytes of a register bitmap: 24 registers.
const BITMAP_BYTES: usize = 3;

/// A command that is put together.
#[derive(Clone, Debug)]
pub(super) struct Command {
    /// As the specification calls it.
    pub(super) name: &'static str,
    code: u32,
    handles: Vec<u8>,
    authorizations: Vec<u8>,
    parameters: Vec<u8>,
}

impl Command {
    pub(super) fn new(name: &'static str, code: u32) -> Self {
        Self { name, code, handles: Vec::new(), authorizations: Vec::new(), parameters: Vec::new() }
    }

    fn authorize(&mut self, session: u32) {
        self.authorizations.extend(session.to_be_bytes());
        // No nonce, no attributes, an empty value.
        self.authorizations.extend([0; 5]);
    }

    /// Of what the command is, where that needs no authorization.
    pub(super) fn handle(mut self, handle: u32) -> Self {
        self.handles.extend(handle.to_be_bytes());
        self
    }

    /// The same with its authorization value, which is empty.
    pub(super) fn handle_by_password(mut self, handle: u32) -> Self {
        self.authorize(PASSWORD);
        self.handle(handle)
    }

    /// The same with a policy session that ends when the command succeeds.
    pub(super) fn handle_by_session(mut self, handle: u32, session: u32) -> Self {
        self.authorize(session);
        self.handle(handle)
    }

    pub(super) fn bytes(mut self, parameter: &[u8]) -> Self {
        self.parameters.extend_from_slice(parameter);
        self
    }

    pub(super) fn sized(self, parameter: &[u8]) -> Self {
        self.bytes(&sized(parameter))
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, TpmError> {
        let authorized = !self.authorizations.is_empty();
        let tag = if authorized { AUTHORIZED } else { PLAIN };
        let mut out = [&tag.to_be_bytes()[..], &[0; 4], &self.code.to_be_bytes(), &self.handles].concat();
        let too_long = || TpmError::Unreadable(self.name);
        if authorized {
            out.extend(u32::try_from(self.authorizations.len()).map_err(|_| too_long())?.to_be_bytes());
            out.extend_from_slice(&self.authorizations);
        }
        out.extend_from_slice(&self.parameters);
        let size = u32::try_from(out.len()).ok().filter(|_| out.len() <= MESSAGE_BYTES_MAX).ok_or_else(too_long)?;
        if let Some(place) = out.get_mut(2..6) {
            place.copy_from_slice(&size.to_be_bytes());
        }
        Ok(out)
    }
}

/// A successful answer, read from the front.
#[derive(Debug)]
pub(super) struct Answer {
    command: &'static str,
    bytes: Vec<u8>,
    at: usize,
    /// Where the parameters end and the sessions' part begins.
    end: usize,
}

impl Answer {
    /// # Errors
    /// [`TpmError::Refused`] for an answer that says no.
    pub(super) fn parse(command: &'static str, bytes: Vec<u8>) -> Result<Self, TpmError> {
        let end = bytes.len();
        let mut answer = Self { command, bytes, at: 0, end };
        let (tag, size, code) = (answer.u16()?, answer.u32()?, answer.u32()?);
        let whole = usize::try_from(size).is_ok_and(|size| size == end) && end >= HEADER_BYTES;
        match (tag, code) {
            _ if !whole => Err(answer.unreadable()),
            (PLAIN | AUTHORIZED, 0) => Ok(answer),
            (PLAIN, code) => Err(TpmError::Refused { command, code }),
            _ => Err(answer.unreadable()),
        }
    }

    fn unreadable(&self) -> TpmError {
        TpmError::Unreadable(self.command)
    }

    fn take(&mut self, length: usize) -> Result<&[u8], TpmError> {
        let command = self.command;
        let until = self.at.checked_add(length).filter(|until| *until <= self.end);
        let until = until.ok_or(TpmError::Unreadable(command))?;
        let taken = self.bytes.get(self.at..until).ok_or(TpmError::Unreadable(command))?;
        self.at = until;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TpmError> {
        let command = self.command;
        self.take(N)?.try_into().map_err(|_| TpmError::Unreadable(command))
    }

    fn u16(&mut self) -> Result<u16, TpmError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, TpmError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A TPM2B.
    pub(super) fn sized(&mut self) -> Result<&[u8], TpmError> {
        let length = usize::from(self.u16()?);
        self.take(length)
    }

    /// Goes to the parameters of an answer with sessions, behind the handles.
    pub(super) fn parameters(&mut self) -> Result<(), TpmError> {
        let length = usize::try_from(self.u32()?).map_err(|_| self.unreadable())?;
        self.end = self.at.checked_add(length).filter(|end| *end <= self.end).ok_or_else(|| self.unreadable())?;
        Ok(())
    }

    pub(super) fn rest_of_parameters(&mut self) -> Result<&[u8], TpmError> {
        self.take(self.end.saturating_sub(self.at))
    }

    /// The length of what TPM2_NV_ReadPublic described.
    pub(super) fn index_length(&mut self) -> Result<u16, TpmError> {
        self.take(2 + 4 + 2 + 4)?;
        self.sized()?;
        self.u16()
    }

    /// The values of TPM2_PCR_Read, in the order of their numbers.
    pub(super) fn register_values(&mut self) -> Result<Vec<Vec<u8>>, TpmError> {
        self.u32()?;
        for _ in 0..self.u32()?.min(DIGESTS_MAX) {
            self.u16()?;
            let [length] = self.array()?;
            self.take(usize::from(length))?;
        }
        let count = self.u32()?;
        if count > DIGESTS_MAX {
            return Err(self.unreadable());
        }
        let mut values = Vec::new();
        for _ in 0..count {
            let value = self.sized()?.to_vec();
            if value.len() > DIGEST_BYTES_MAX {
                return Err(self.unreadable());
            }
            values.push(value);
        }
        Ok(values)
    }
}

/// A TPM2B. What is longer than one can be loses its end, and the TPM refuses it.
pub(super) fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

/// TPML_PCR_SELECTION of the SHA-256 bank.
pub(super) fn selection(pcrs: &[u8]) -> Vec<u8> {
    let mut bitmap = [0_u8; BITMAP_BYTES];
    for pcr in pcrs {
        if let Some(byte) = bitmap.get_mut(usize::from(pcr / 8)) {
            *byte |= 1 << (pcr % 8);
        }
    }
    [&[0, 0, 0, 1, 0, 0x0b, 3][..], &bitmap].concat()
}

/// The DER element at the front; some makers fill the rest of the index up.
pub(super) fn der_element(bytes: &[u8]) -> Option<&[u8]> {
    let [0x30, 0x82, high, low, ..] = bytes else { return None };
    bytes.get(..usize::from(u16::from_be_bytes([*high, *low])).checked_add(4)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_ends_where_it_says() {
        for (bytes, length) in [
            (&[0x30, 0x82, 0, 2, 1, 2, 0xff, 0xff][..], Some(6)),
            (&[0x30, 0x82, 0, 3, 1, 2], None),
            (&[0x30, 0x82, 0xff], None),
            (&[0xff; 8], None),
            (&[], None),
        ] {
            assert_eq!(der_element(bytes).map(<[u8]>::len), length);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(bytes: Vec<u8>, whole: bool) {
            let mut bytes = bytes;
            if whole && bytes.len() >= HEADER_BYTES {
                let size = u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes();
                bytes.splice(..HEADER_BYTES, [&[0x80, 2][..], &size, &[0; 4]].concat());
            }
            if let Ok(mut answer) = Answer::parse("any", bytes.clone()) {
                let _ = answer.register_values();
            }
            if let Ok(mut answer) = Answer::parse("any", bytes) {
                let _ = answer.index_length();
                let _ = answer.parameters();
                let _ = answer.sized();
                let _ = answer.rest_of_parameters();
            }
        }
    }
}
