//! The signal journal: what arrives fast is appended as ascending blocks, one for each commit, because ascending keys
//! cost a fraction of random ones. A block holds a header and records whose meaning belongs to the signals domain.
//!
//! Block: version u8, records u32, written at i64 (Unix ms), little-endian; then the records.

use super::snapshot::Snapshot;
use super::tables::{SIGNAL_JOURNAL, trailing_number};
use crate::kernel::{Error, Result, Timestamp};

const VERSION: u8 = 1;
/// Room for the header at the front of a block.
pub(super) const HEADER_BYTES: usize = 13;

/// Fills in the header that [`start_block`] left room for.
pub(super) fn finish_block(block: &mut [u8], records: u32, written_at_ms: i64) {
    let mut header = [0; HEADER_BYTES];
    let parts = [VERSION].into_iter().chain(records.to_le_bytes()).chain(written_at_ms.to_le_bytes());
    for (to, from) in header.iter_mut().zip(parts) {
        *to = from;
    }
    if let Some(front) = block.first_chunk_mut::<HEADER_BYTES>() {
        *front = header;
    }
}

/// Empties the buffer of the last block for the next one.
pub(super) fn start_block(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer.resize(HEADER_BYTES, 0);
    buffer
}

/// One block as read back.
pub struct Block {
    /// Ascending; a block of a later commit has a higher number.
    pub number: u64,
    /// When the commit was made, by the appliance's clock.
    pub written_at: Timestamp,
    /// How many records follow.
    pub records: u32,
    /// The records.
    pub body: Vec<u8>,
}

/// Visits the blocks from number `from` on, in order.
pub fn replay(snapshot: &Snapshot, from: u64, mut visit: impl FnMut(Block) -> Result<()>) -> Result<()> {
    snapshot.visit(SIGNAL_JOURNAL, &from.to_be_bytes(), None, |key, value| {
        let number = trailing_number(key).ok_or_else(|| Error::internal("a journal key is damaged"))?;
        let block =
            parse(number, value).ok_or_else(|| Error::Internal(format!("journal block {number} is damaged")))?;
        visit(block)?;
        Ok(true)
    })
}

/// When the commit of a stored block was made; `None` for a damaged one.
pub fn written_at(value: &[u8]) -> Option<Timestamp> {
    parse(0, value.first_chunk::<HEADER_BYTES>()?).map(|block| block.written_at)
}

fn parse(number: u64, value: &[u8]) -> Option<Block> {
    let (header, body) = value.split_first_chunk::<HEADER_BYTES>()?;
    let (version, rest) = header.split_first()?;
    let (records, written) = rest.split_first_chunk::<4>()?;
    let written: [u8; 8] = written.try_into().ok()?;
    (*version == VERSION).then(|| Block {
        number,
        written_at: Timestamp::from_millis(i64::from_le_bytes(written)),
        records: u32::from_le_bytes(*records),
        body: body.to_vec(),
    })
}
