//! How a row becomes bytes: one version byte, then JSON. JSON because rows outlive programs: a member that a newer
//! version added is read by `serde(default)`, and an operator can read a damaged row by eye.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::kernel::{Error, Result};

/// A type that is stored as a row.
pub trait Row: Serialize + DeserializeOwned {
    /// Rises when the meaning of a stored member changes; `migrate` then rewrites the old rows.
    const VERSION: u8 = 1;
}

/// The bytes of a row.
pub fn encode<R: Row>(row: &R) -> Result<Vec<u8>> {
    let mut out = vec![R::VERSION];
    serde_json::to_writer(&mut out, row).map_err(Error::internal)?;
    Ok(out)
}

/// The row of these bytes; what does not decode is damage, never data.
pub fn decode<R: Row>(bytes: &[u8]) -> Result<R> {
    match bytes.split_first() {
        Some((version, json)) if *version == R::VERSION => serde_json::from_slice(json)
            .map_err(|e| Error::Internal(format!("a stored {} does not decode: {e}", std::any::type_name::<R>()))),
        Some((version, _)) => Err(Error::Internal(format!(
            "a stored {} has version {version}, this program reads {}",
            std::any::type_name::<R>(),
            R::VERSION
        ))),
        None => Err(Error::Internal(format!("a stored {} is empty", std::any::type_name::<R>()))),
    }
}

/// A part of a row, whatever else stands in it and whatever its version is; `None` for what does not hold it.
pub fn member_of<P: DeserializeOwned>(bytes: &[u8]) -> Option<P> {
    let (_, json) = bytes.split_first()?;
    serde_json::from_slice(json).ok()
}
