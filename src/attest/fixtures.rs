//! For tests: the shared vectors as cases of the command line.

use std::path::Path;

use serde_json::{Map, Value};

/// A file of the shared vectors. The folder lies beside the repository: absent altogether, the test skips; a missing
/// file in it fails.
pub fn file(name: &str) -> Option<Vec<u8>> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    if !shared.exists() {
        eprintln!("skipped: the shared vectors are not here");
        return None;
    }
    let read = std::fs::read(shared.join("vectors").join(name));
    assert!(read.is_ok(), "{name} is missing");
    read.ok()
}

/// The same for a file of JSON.
pub fn vectors(name: &str) -> Option<Value> {
    let parsed = serde_json::from_slice::<Value>(&file(name)?);
    assert!(parsed.is_ok(), "{name} is not JSON");
    parsed.ok()
}

/// Each entry of the list `list`, and the same merged with the file's own top-level members, as the command line gets it.
pub fn cases<'f>(file: &'f Value, list: &str) -> Vec<(&'f Value, Map<String, Value>)> {
    let mut common = file.as_object().cloned().unwrap_or_default();
    common.retain(|_, member| !member.is_array());
    let entries = file.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let merged = entries.iter().map(|case| {
        let mut input = common.clone();
        input.extend(case.as_object().cloned().unwrap_or_default());
        (case, input)
    });
    merged.collect()
}
