//! Reading and writing the few binary shapes of this folder: little-endian, length-checked, panic-free.
//!
//! Knows nothing of what the bytes mean.

/// Why bytes were not what they should be. The journal's checksum comes first, so this is a defect or another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end before the value does.
    #[error("the bytes end too early")]
    Truncated,
    /// Written by a version that this one does not know.
    #[error("version {0} is not known")]
    Version(u8),
    /// A value that no encoder writes; names the part.
    #[error("{0} is out of range")]
    Invalid(&'static str),
}

/// Takes `N` bytes off the front.
pub(super) fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], CodecError> {
    let (head, rest) = input.split_first_chunk::<N>().ok_or(CodecError::Truncated)?;
    *input = rest;
    Ok(*head)
}

/// Takes `len` bytes off the front.
pub(super) fn take_slice<'a>(input: &mut &'a [u8], len: usize) -> Result<&'a [u8], CodecError> {
    let (head, rest) = input.split_at_checked(len).ok_or(CodecError::Truncated)?;
    *input = rest;
    Ok(head)
}

/// One byte.
pub(super) fn take_u8(input: &mut &[u8]) -> Result<u8, CodecError> {
    take::<1>(input).map(|[b]| b)
}

/// Four bytes.
pub(super) fn take_u32(input: &mut &[u8]) -> Result<u32, CodecError> {
    take(input).map(u32::from_le_bytes)
}

/// Eight bytes.
pub(super) fn take_u64(input: &mut &[u8]) -> Result<u64, CodecError> {
    take(input).map(u64::from_le_bytes)
}

/// A float, every bit of it.
pub(super) fn take_f32(input: &mut &[u8]) -> Result<f32, CodecError> {
    take(input).map(f32::from_le_bytes)
}

/// `N` floats.
pub(super) fn take_f32s<const N: usize>(input: &mut &[u8]) -> Result<[f32; N], CodecError> {
    let mut out = [0.0; N];
    for v in &mut out {
        *v = take_f32(input)?;
    }
    Ok(out)
}

/// Appends floats, every bit of them.
pub(super) fn put_f32s(out: &mut Vec<u8>, values: &[f32]) {
    for v in values {
        out.extend_from_slice(&v.to_le_bytes());
    }
}

/// Appends a number in 7-bit groups, least significant first: small numbers take one byte.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7F) as u8);
}

/// Takes a number of [`put_varint`]; longer spellings of the same number are refused.
pub(super) fn take_varint(input: &mut &[u8]) -> Result<u64, CodecError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take_u8(input)?;
        let bits = u64::from(byte & 0x7F);
        if (shift == 63 && bits > 1) || (shift > 0 && byte == 0) {
            return Err(CodecError::Invalid("number"));
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(CodecError::Invalid("number"))
}
