//! What an encrypted backup holds once it is opened: a line that names the format, a line of JSON, the data file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::crypto::{SealingKey, Secret, hex};
use crate::domains::audit::TreeCheck;
use crate::kernel::ids::TenantId;
use crate::kernel::{Error, Result, Timestamp};
use crate::store::backup::{Pace, Summary};

const FORMAT: &[u8] = b"blockremote-backup/1\n";
/// Of the line of JSON: a tenant takes about 150 bytes.
const MANIFEST_BYTES_MAX: usize = 16 << 20;
const CHUNK: usize = 64 * 1024;

/// One log, as it was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tree {
    /// Whose.
    pub tenant: TenantId,
    /// Entries.
    pub size: u64,
    /// Root in base64url.
    pub root: String,
}

impl Tree {
    /// Of what a check found.
    pub fn all(checked: &[TreeCheck]) -> Vec<Self> {
        checked.iter().map(|t| Self { tenant: t.tenant, size: t.size, root: t.root.clone() }).collect()
    }
}

/// What stands in front of the data file.
#[derive(Serialize, Deserialize)]
pub struct Manifest {
    /// When the backup was made.
    pub made_at: Timestamp,
    /// Rows of the data file.
    pub rows: u64,
    /// Size of the data file.
    pub bytes: u64,
    /// Of the data file, in hex.
    pub sha256: String,
    /// Every log.
    pub trees: Vec<Tree>,
    /// In base64; written out only into what is encrypted.
    #[serde(serialize_with = "in_clear")]
    pub sealing_key: Secret,
}

fn in_clear<S: serde::Serializer>(key: &Secret, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(key.expose())
}

impl Manifest {
    /// For this copy of the data file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(
        copy: &Path,
        summary: Summary,
        trees: Vec<Tree>,
        sealing: &SealingKey,
        made_at: Timestamp,
        pace: &Pace,
    ) -> Result<Self> {
        let mut hash = Hashing { to: io::sink(), hash: Sha256::new(), bytes: 0 };
        File::open(copy).and_then(|file| pump(file, &mut hash, pace)).map_err(Error::internal)?;
        Ok(Self {
            made_at,
            rows: summary.rows,
            bytes: summary.bytes,
            sha256: hex(&hash.hash.finalize()),
            trees,
            sealing_key: Secret::new(sealing.to_text().as_str()),
        })
    }

    /// The sealing key that goes with it.
    ///
    /// # Errors
    /// When it is none.
    pub fn key(&self) -> Result<SealingKey> {
        SealingKey::from_text(self.sealing_key.expose(), "the backup").map_err(Error::internal)
    }

    /// Writes the two lines.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let line = Zeroizing::new(serde_json::to_vec(self).map_err(io::Error::other)?);
        to.write_all(FORMAT)?;
        to.write_all(&line)?;
        to.write_all(b"\n")
    }
}

/// Copies everything in pieces.
///
/// # Errors
/// Those of reader and writer.
pub fn pump(mut from: impl Read, to: &mut impl Write, pace: &Pace) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = from.read(&mut chunk)?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(chunk.get(..n).unwrap_or_default())?;
        pace.breathe()?;
    }
}

/// Reads an opened backup to its end, the data file into `to`; what comes back is consistent with itself.
///
/// # Errors
/// A sentence: another format, a newer one, cut, changed.
pub fn read(mut from: impl Read, to: &mut impl Write, pace: &Pace) -> Result<Manifest> {
    let damaged = |e: &dyn std::fmt::Display| Error::Internal(format!("the backup is damaged: {e}"));
    let mut format = vec![0; FORMAT.len()];
    from.read_exact(&mut format).map_err(|e| damaged(&e))?;
    if format != FORMAT {
        return Err(Error::internal("it is no backup of this appliance, or of a newer version of it"));
    }
    let mut line = Zeroizing::new(Vec::new());
    let mut byte = [0];
    // Byte by byte: what follows the line belongs to the data file.
    loop {
        from.read_exact(&mut byte).map_err(|e| damaged(&e))?;
        match byte {
            [b'\n'] => break,
            [b] if line.len() < MANIFEST_BYTES_MAX => line.push(b),
            _ => return Err(damaged(&"its head is too long")),
        }
    }
    let manifest: Manifest = serde_json::from_slice(&line).map_err(|_| damaged(&"its head does not read"))?;
    let mut hashing = Hashing { to, hash: Sha256::new(), bytes: 0 };
    pump(from, &mut hashing, pace).map_err(|e| damaged(&e))?;
    if hashing.bytes != manifest.bytes || hex(&hashing.hash.finalize()) != manifest.sha256 {
        return Err(damaged(&"the data file in it is not the one that was put in"));
    }
    Ok(manifest)
}

struct Hashing<W> {
    to: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.hash.update(bytes.get(..n).unwrap_or_default());
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
