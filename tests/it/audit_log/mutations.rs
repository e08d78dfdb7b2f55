//! A thousand logs that somebody changed, judged by our verifier and by one in another language.

use std::collections::BTreeMap;

use base64ct::{Base64, Encoding};
use blockremote::domains::audit::merkle::{Frontier, leaf_hash};
use blockremote::domains::audit::tiles::{Tile, push_entry, take_entry};
use blockremote::domains::audit::verify::{Known, verify_log};
use blockremote::kernel::context::Origin;
use blockremote::kernel::random::splitmix64;
use blockremote::testkit::{Fault, Folder, Server};
use serde_json::{Value, json};

use super::files::{Files, exported};
use super::grow;
use crate::common::{Done, first_tenant};
use crate::flags::{python, run_python};

const VERIFIER: &str = include_str!("../../peers/audit_verify.py");
const MUTATIONS: u64 = 1_000;

/// Files in place of the log's own; `None`: taken away.
type Changes = BTreeMap<String, Option<Vec<u8>>>;

/// What was done to a log, and the entry that must be named, where that is known beforehand.
struct Mutation {
    what: &'static str,
    changes: Changes,
    first_bad: Option<u64>,
}

/// A log, taken apart.
struct Log {
    files: Files,
    entries: Vec<Vec<u8>>,
    size: u64,
    /// Entries of an earlier checkpoint.
    signed_before: u64,
}

impl Log {
    fn new(files: Files, signed_before: u64) -> Result<Self, Fault> {
        let mut entries = Vec::new();
        for (_, bundle) in files.0.iter().filter(|(name, _)| name.starts_with("tile/entries/")) {
            let mut rest = bundle.as_slice();
            while let Some(entry) = take_entry(&mut rest) {
                entries.push(entry.to_vec());
            }
        }
        let size = entries.len() as u64;
        Ok(Self { files, entries, size, signed_before })
    }

    /// All tiles and bundles of these entries in place of the true ones: what somebody without the key can make fit.
    fn rebuilt(&self, entries: &[Vec<u8>]) -> Changes {
        let mut tree = Frontier::default();
        let mut levels: BTreeMap<u8, Vec<[u8; 32]>> = BTreeMap::new();
        for entry in entries {
            let leaf =
                if entry.len() == 32 { entry.as_slice().try_into().unwrap_or_default() } else { leaf_hash(entry) };
            for node in tree.push(leaf).into_iter().filter(|node| node.level % 8 == 0) {
                levels.entry(node.level / 8).or_default().push(node.hash);
            }
        }
        let mut changes: Changes = Tile::all(self.size).map(|tile| (tile.to_string(), None)).collect();
        for tile in Tile::all(entries.len() as u64) {
            let range = tile.first() as usize..(tile.first() + tile.width) as usize;
            let mut bytes = Vec::new();
            match tile.level {
                Some(level) => {
                    bytes.extend(levels.get(&level).and_then(|l| l.get(range)).into_iter().flatten().flatten())
                }
                None => {
                    for entry in entries.get(range).into_iter().flatten() {
                        let _ = push_entry(&mut bytes, entry);
                    }
                }
            }
            changes.insert(tile.to_string(), Some(bytes));
        }
        changes
    }

    /// An entry's text with other words, still of its number and tenant.
    fn reworded(&self, seq: usize) -> Vec<u8> {
        let text = self.entries.get(seq).map(|e| String::from_utf8_lossy(e).into_owned()).unwrap_or_default();
        text.replace("\"request_id\":\"", "\"request_id\":\"x").into_bytes()
    }

    fn mutation(&self, state: &mut u64) -> Mutation {
        let mut below = |n: u64| splitmix64(state) % n.max(1);
        let kind = below(10);
        let names: Vec<&String> = self.files.0.keys().collect();
        let name = names.get(below(names.len() as u64) as usize).map(|n| (*n).clone()).unwrap_or_default();
        let content = self.files.0.get(&name).cloned().unwrap_or_default();
        // Entries that `grow` made: their texts are of one form.
        let seq = 20 + below(self.size - 40) as usize;
        let mut entries = self.entries.clone();
        let one = |what, content: Option<Vec<u8>>| Mutation {
            what,
            changes: Changes::from([(name.clone(), content)]),
            first_bad: None,
        };
        let signed = |what, changes, first_bad| Mutation { what, changes, first_bad: Some(first_bad) };
        // Where everything is made to fit, only what was signed tells: the last checkpoint that still agrees.
        let fitted = |seq: usize| if (seq as u64) < self.signed_before { 0 } else { self.signed_before };
        match kind {
            0 => {
                let mut flipped = content;
                let at = below(flipped.len() as u64) as usize;
                if let Some(byte) = flipped.get_mut(at) {
                    *byte ^= 1 << below(8);
                }
                one("one bit flipped", Some(flipped))
            }
            1 => one("cut", Some(content.get(..below(content.len() as u64) as usize).unwrap_or_default().to_vec())),
            2 => one("taken away", None),
            3 => one("longer", Some([content, vec![below(256) as u8; 1 + below(40) as usize]].concat())),
            4 => {
                entries.remove(seq);
                // So that the count is right.
                entries.extend(self.entries.last().cloned());
                signed("an entry dropped, all made to fit", self.rebuilt(&entries), seq as u64)
            }
            5 => {
                entries.swap(seq, seq + 1);
                signed("two entries swapped, all made to fit", self.rebuilt(&entries), seq as u64)
            }
            6 => {
                let changed = self.reworded(seq);
                if let Some(entry) = entries.get_mut(seq) {
                    *entry = changed;
                }
                signed("an entry changed, all made to fit", self.rebuilt(&entries), fitted(seq))
            }
            7 => {
                let hash = self.entries.get(seq).map(|e| leaf_hash(e).to_vec()).unwrap_or_default();
                if let Some(entry) = entries.get_mut(seq) {
                    *entry = hash;
                }
                signed("an entry erased out of turn", self.rebuilt(&entries), seq as u64)
            }
            8 => {
                entries.truncate(seq);
                // The bundle of the width that the checkpoint counts is missing as a whole.
                let bundle = seq as u64 / 256 * 256;
                signed("cut off", self.rebuilt(&entries), bundle)
            }
            _ => {
                let mut changes = self.rebuilt(&entries);
                let changed = self.reworded(seq);
                entries.get_mut(seq).into_iter().for_each(|entry| entry.clone_from(&changed));
                // The entries alone: the tiles are still the true ones.
                let bundles = self.rebuilt(&entries).into_iter().filter(|(name, _)| name.starts_with("tile/entries/"));
                changes.extend(bundles);
                signed("an entry changed", changes, seq as u64)
            }
        }
    }
}

/// What may differ without a fault: it adds to the log and is no part of it.
fn beside_the_log(changes: &Changes) -> bool {
    changes.keys().all(|name| name.starts_with("personal/") || name == "checkpoints.ndjson" || name == "key")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_verifiers_in_two_languages_name_the_same_entry_of_a_thousand_changed_logs() -> Done {
    let Some(python) = python() else { return Ok(()) };
    let server = Server::start().await?;
    let tenant = first_tenant(&server).await?;
    let audit = server.app().services.audit.clone();
    grow(&server, tenant, 200).await?;
    audit.sign(tenant, Origin::system()).await?;
    let signed_before = exported(&server, tenant).await.map(|f| Log::new(f, 0))??.size;
    grow(&server, tenant, 110).await?;
    audit.sign(tenant, Origin::system()).await?;
    let log = Log::new(exported(&server, tenant).await?, signed_before)?;
    let judge = |files: &mut Files| verify_log(files, &Known::default(), &mut |_, _| {});
    assert_eq!(judge(&mut log.files.clone())?.fault, None, "as it was written it is sound");

    let folder = Folder::new()?;
    for (name, bytes) in &log.files.0 {
        let path = folder.path().join(name);
        path.parent().map(std::fs::create_dir_all).transpose()?;
        std::fs::write(path, bytes)?;
    }
    let (mut state, mut input) = (20_261_121, String::new());
    let mut expected = Vec::new();
    for n in 0..=MUTATIONS {
        // The first is no mutation: a verifier that finds fault with everything would agree on all others.
        let nothing = Mutation { what: "nothing", changes: Changes::new(), first_bad: None };
        let mutation = if n == 0 { nothing } else { log.mutation(&mut state) };
        let mut files = log.files.clone();
        let mut given = serde_json::Map::new();
        for (name, content) in &mutation.changes {
            given.insert(name.clone(), content.as_ref().map_or(Value::Null, |c| json!(Base64::encode_string(c))));
            match content {
                Some(content) => drop(files.0.insert(name.clone(), content.clone())),
                None => drop(files.0.remove(name)),
            }
        }
        let report = match judge(&mut files) {
            Ok(report) => report,
            // Without a checkpoint there is no log to judge; an outsider calls that a fault.
            Err(e) => blockremote::domains::audit::verify::Report { fault: Some(e), ..Default::default() },
        };
        let about = format!("{n}: {} {:?}: {:?}", mutation.what, mutation.changes.keys(), report.fault);
        assert_eq!(
            report.fault.is_none(),
            n == 0 || report.fault.is_none() && beside_the_log(&mutation.changes),
            "{about}"
        );
        if mutation.first_bad.is_some() {
            assert_eq!(report.first_bad, mutation.first_bad, "{about}");
        }
        input.push_str(&format!("{}\n", json!({ "files": given })));
        expected.push((report.fault.is_none(), report.first_bad, about));
    }
    let place = folder.path().to_owned();
    let said = tokio::task::spawn_blocking(move || {
        let program =
            format!("import sys\nsys.argv = ['verify', {:?}, '--mutations']\n{VERIFIER}", place.display().to_string());
        run_python(&python, &program, &input, &[])
    })
    .await??;
    let verdicts: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(verdicts.len(), expected.len());
    for (verdict, (sound, first_bad, about)) in verdicts.iter().zip(&expected) {
        assert_eq!(
            (&verdict["sound"], &verdict["first_bad"]),
            (&json!(sound), &json!(first_bad)),
            "{about}, {verdict}"
        );
    }
    Ok(())
}
