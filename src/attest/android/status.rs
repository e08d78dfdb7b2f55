//! Google's list of revoked attestation certificates, as a file that somebody imported.
//!
//! The form is that of `https://android.googleapis.com/attestation/status`: an object `entries` whose names are serial
//! numbers in lower-case hex. Whatever is listed is refused, whatever its status says: a status that is not known yet is
//! no good news. Knows nothing of where the file came from.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::attest::Refused;
use crate::crypto::strict_json;
use crate::kernel::Timestamp;

/// Bytes of a list; Google's has some hundred thousand.
pub const STATUS_LIST_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A list, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct StatusList {
    // Serial number without leading zeros, and status.
    entries: HashMap<String, String>,
    date: Option<Timestamp>,
}

impl StatusList {
    /// Reads a file. `date` is when it was fetched from Google, where that is known.
    ///
    /// # Errors
    /// `status_list_malformed`.
    pub fn from_json(bytes: &[u8], date: Option<Timestamp>) -> Result<Self, Refused> {
        if bytes.len() > STATUS_LIST_BYTES_MAX {
            return Err(malformed("has more than 32 MiB"));
        }
        let list = strict_json::parse_object(bytes).map_err(|fault| malformed(&fault.to_string()))?;
        Self::from_object(&list, date)
    }

    /// Reads a list that was already parsed under the same strictness.
    ///
    /// # Errors
    /// `status_list_malformed`.
    pub fn from_object(list: &Map<String, Value>, date: Option<Timestamp>) -> Result<Self, Refused> {
        let entries = list.get("entries").and_then(Value::as_object).ok_or_else(|| malformed("has no entries"))?;
        let mut read = HashMap::with_capacity(entries.len());
        for (serial, entry) in entries {
            let status = entry.get("status").and_then(Value::as_str).ok_or_else(|| malformed("has no status"))?;
            if serial.is_empty() || !serial.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(malformed("names a serial number that is not hex"));
            }
            read.insert(serial.to_ascii_lowercase().trim_start_matches('0').to_owned(), status.to_owned());
        }
        Ok(Self { entries: read, date })
    }

    /// What the list says of this serial number (lower-case hex, no leading zeros).
    pub fn status(&self, serial: &str) -> Option<&str> {
        self.entries.get(serial.trim_start_matches('0')).map(String::as_str)
    }

    /// When it was fetched from Google.
    pub const fn date(&self) -> Option<Timestamp> {
        self.date
    }

    /// How many serial numbers it names.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it names none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn malformed(what: &str) -> Refused {
    Refused::new("status_list_malformed", format!("the revocation list {what}; import Google's file again"))
}
