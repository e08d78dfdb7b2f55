//! The check of a log as an outsider does it: from the files that docs/audit-log.md describes, and from nothing else.
//!
//! Pure over a [`Source`]: a folder, an address, the memory of a test. The check ends at the first fault, in an order that
//! the document fixes, so that two verifiers name the same entry.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::merkle::{self, Frontier, Hash};
use super::serve::{PersonalLine, leaf_says};
use super::tiles::{Checkpoint, TILE_HEIGHT, TILE_WIDTH, Tile, take_entry};
use crate::crypto::note::{KeyKind, Note, Verifier};

/// Bytes of one file: a bundle of 256 entries of the greatest length.
pub const FILE_BYTES_MAX: usize = 17 << 20;
/// Entries whose commitments are held until their personal data were read: those of one bundle.
const LINES_MAX: usize = 256;
/// Checkpoints of one history.
const CHECKPOINTS_MAX: usize = 100_000;

/// Where the files of one log are.
pub trait Source {
    /// The file of this name, at most [`FILE_BYTES_MAX`] bytes; `None` when there is none.
    ///
    /// # Errors
    /// A sentence, where the source itself fails: that says nothing about the log.
    fn file(&mut self, name: &str) -> Result<Option<Vec<u8>>, String>;
}

/// What is known of the log beforehand.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Whose signature is believed; the key that lies beside the log when absent, which proves less.
    pub key: Option<Verifier>,
    /// Checkpoints that were kept elsewhere.
    pub checkpoints: Vec<Vec<u8>>,
    /// A witness whose cosignature must stand on the checkpoint.
    pub witness: Option<Verifier>,
}

/// What the check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// The log's name.
    pub origin: String,
    /// Entries, as the checkpoint counts them.
    pub size: u64,
    /// Root of the tree, in hex, as the checkpoint says.
    pub root: String,
    /// Entries whose content is gone, and whose hash stands in its place.
    pub erased: u64,
    /// The key that the checkpoint was checked with.
    pub key: String,
    /// Whether that key was known beforehand.
    pub key_was_known: bool,
    /// Earlier checkpoints that were compared.
    pub checkpoints: u64,
    /// When the witness saw the checkpoint (Unix seconds).
    pub witnessed_at_s: Option<u64>,
    /// The sequence number of the first entry that is not as it was signed; `None` where the fault is no entry's.
    pub first_bad: Option<u64>,
    /// What is wrong; `None` for a sound log.
    pub fault: Option<String>,
}

/// Ends the check.
enum Stop {
    /// The log is not sound.
    Bad(Option<u64>, String),
    /// The source failed.
    Source(String),
}

type Step<T> = Result<T, Stop>;

fn bad<T>(seq: u64, text: String) -> Step<T> {
    Err(Stop::Bad(Some(seq), format!("entry {seq}: {text}")))
}

/// Checks a log. `progress` hears how many entries were read.
///
/// # Errors
/// A sentence, when the source failed before there was a verdict.
pub fn verify_log(
    source: &mut dyn Source,
    known: &Known,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report, String> {
    let mut check = Check { source, report: Report::default(), signed: BTreeMap::new() };
    match check.run(known, progress) {
        Ok(()) => {}
        Err(Stop::Bad(seq, text)) => {
            check.report.first_bad = seq;
            check.report.fault = Some(text);
        }
        Err(Stop::Source(text)) => return Err(text),
    }
    Ok(check.report)
}

struct Check<'s> {
    source: &'s mut dyn Source,
    report: Report,
    /// Roots that were signed, by size.
    signed: BTreeMap<u64, Vec<Hash>>,
}

impl Check<'_> {
    fn file(&mut self, name: &str) -> Step<Option<Vec<u8>>> {
        self.source.file(name).map_err(Stop::Source)
    }

    fn run(&mut self, known: &Known, progress: &mut dyn FnMut(u64, u64)) -> Step<()> {
        let checkpoint = self.checkpoint(known)?;
        self.history(&checkpoint, known)?;
        let tenant = checkpoint.origin.split('/').nth(1).unwrap_or_default().to_owned();
        let roots = self.entries(&checkpoint, &tenant, progress)?;
        self.compare(&checkpoint, &roots)
    }

    /// Step 1: the checkpoint and who signed it.
    fn checkpoint(&mut self, known: &Known) -> Step<Checkpoint> {
        let unsound = |text: &str| Stop::Bad(None, format!("checkpoint: {text}"));
        let note = self
            .file("checkpoint")?
            .ok_or_else(|| Stop::Source("there is no checkpoint: this is no log".to_owned()))?;
        let key = match &known.key {
            Some(key) => key.clone(),
            None => {
                let text = self.file("key")?.and_then(|bytes| String::from_utf8(bytes).ok());
                let key = text.and_then(|text| Verifier::from_str(&text).ok());
                key.filter(|k| k.kind() == KeyKind::Ed25519)
                    .ok_or_else(|| unsound("there is no key to check it with"))?
            }
        };
        self.report.key = key.to_string();
        self.report.key_was_known = known.key.is_some();
        let note = Note::parse(&note).map_err(|e| unsound(&e.to_string()))?;
        note.verify(&key).map_err(|e| unsound(&e.to_string()))?;
        let checkpoint = Checkpoint::parse(note.text()).ok_or_else(|| unsound("its text is not one"))?;
        if checkpoint.origin != key.name() {
            return Err(unsound("it is of another log than its key"));
        }
        self.report.origin.clone_from(&checkpoint.origin);
        self.report.size = checkpoint.size;
        self.report.root = crate::crypto::hex(&checkpoint.root);
        if let Some(witness) = &known.witness {
            let seen = note.cosigned_at(witness).map_err(|_| unsound("the witness has not cosigned it"))?;
            self.report.witnessed_at_s = Some(seen);
        }
        Ok(checkpoint)
    }

    /// Step 2: what else was signed of this log.
    fn history(&mut self, checkpoint: &Checkpoint, known: &Known) -> Step<()> {
        let unsound = |text: String| Stop::Bad(None, text);
        let key = Verifier::from_str(&self.report.key).map_err(|e| unsound(e.to_string()))?;
        let mut notes: Vec<(String, Vec<u8>)> = Vec::new();
        let lines = self.file("checkpoints.ndjson")?.unwrap_or_default();
        for (at, line) in lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()).take(CHECKPOINTS_MAX).enumerate() {
            let line_name = format!("checkpoints.ndjson, line {}", at + 1);
            let value: Option<serde_json::Value> = serde_json::from_slice(line).ok();
            let note = value.as_ref().and_then(|v| v.get("note")?.as_str().map(|n| n.as_bytes().to_vec()));
            notes.push((line_name.clone(), note.ok_or_else(|| unsound(format!("{line_name}: it does not read")))?));
        }
        notes.extend(
            known.checkpoints.iter().enumerate().map(|(i, n)| (format!("known checkpoint {}", i + 1), n.clone())),
        );
        for (name, note) in notes {
            let read = Note::parse(&note).ok().filter(|note| note.verify(&key).is_ok());
            let read = read.and_then(|note| Checkpoint::parse(note.text())).filter(|c| c.origin == checkpoint.origin);
            let signed = read.ok_or_else(|| unsound(format!("{name}: it is not signed by the key of this log")))?;
            let roots = self.signed.entry(signed.size).or_default();
            if !roots.contains(&signed.root) {
                roots.push(signed.root);
            }
            self.report.checkpoints += 1;
        }
        Ok(())
    }

    /// Step 3: every entry, against its number, its tile and its personal data; the subtrees above; gives the roots at the
    /// sizes that were signed.
    fn entries(
        &mut self,
        checkpoint: &Checkpoint,
        tenant: &str,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Step<BTreeMap<u64, Hash>> {
        let mut tree = Frontier::default();
        let mut roots = BTreeMap::from([(0, merkle::empty_root())]);
        // Hashes of the tiles' levels above the entries, of the tile that is not full yet.
        let mut above: Vec<Vec<u8>> = vec![Vec::new(); 8];
        for bundle in Tile::covering(None, checkpoint.size) {
            let leaves = self.bundle(bundle, tenant)?;
            self.personal(bundle, &leaves)?;
            for leaf in leaves {
                for node in tree.push(leaf.hash) {
                    let of_tile = node.level > 0 && node.level % TILE_HEIGHT == 0;
                    if let Some(tile) = above.get_mut(usize::from(node.level / TILE_HEIGHT)).filter(|_| of_tile) {
                        tile.extend_from_slice(&node.hash);
                    }
                }
                if self.signed.contains_key(&tree.size()) || tree.size() == checkpoint.size {
                    roots.insert(tree.size(), tree.root());
                }
            }
            self.tiles_above(tree.size(), checkpoint.size, &mut above)?;
            progress(tree.size(), checkpoint.size);
        }
        Ok(roots)
    }

    fn bundle(&mut self, bundle: Tile, tenant: &str) -> Step<Vec<LeafSeen>> {
        let hashes_name = Tile { level: Some(0), ..bundle }.to_string();
        let entries = self.file(&bundle.to_string())?;
        let hashes = self.file(&hashes_name)?;
        let Some(entries) = entries else { return bad(bundle.first(), format!("{bundle} is missing")) };
        let Some(hashes) = hashes else { return bad(bundle.first(), format!("{hashes_name} is missing")) };
        let mut rest = entries.as_slice();
        let mut hashes = hashes.as_slice();
        let mut leaves = Vec::new();
        for seq in bundle.first()..bundle.first() + bundle.width {
            let Some(entry) = take_entry(&mut rest) else { return bad(seq, "it is missing".to_owned()) };
            let leaf = if let Ok(hash) = Hash::try_from(entry) {
                if self.report.erased < seq {
                    return bad(seq, "it was erased, and an older one was not".to_owned());
                }
                self.report.erased += 1;
                LeafSeen { hash, personal: None, erased: true }
            } else {
                let Some((number, owner, personal)) = leaf_says(entry) else {
                    return bad(seq, "it does not read".to_owned());
                };
                if number != seq || owner != tenant {
                    return bad(seq, format!("entry {number} of {owner} stands in its place"));
                }
                LeafSeen { hash: merkle::leaf_hash(entry), personal, erased: false }
            };
            let Some((signed, more)) = hashes.split_first_chunk::<32>() else {
                return bad(seq, format!("{hashes_name} ends before it"));
            };
            if *signed != leaf.hash {
                return bad(seq, format!("its hash is not the one in {hashes_name}"));
            }
            hashes = more;
            leaves.push(leaf);
        }
        let end = bundle.first() + bundle.width;
        if rest.is_empty() && hashes.is_empty() {
            Ok(leaves)
        } else {
            bad(end, "more stands there than was signed".to_owned())
        }
    }

    /// What is there must be what the leaf committed to; what is erased may be missing.
    fn personal(&mut self, bundle: Tile, leaves: &[LeafSeen]) -> Step<()> {
        let name = bundle.to_string().replacen("tile/entries/", "personal/", 1);
        let lines = self.file(&name)?.unwrap_or_default();
        for (at, line) in lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()).enumerate() {
            // An entry has one line: more of them hide one that nobody reads.
            let read: Option<PersonalLine> = (at < LINES_MAX).then(|| serde_json::from_slice(line).ok()).flatten();
            let unreadable = || Stop::Bad(Some(bundle.first()), format!("{name}, line {}: it does not read", at + 1));
            let read = read.ok_or_else(unreadable)?;
            let place = read.seq.checked_sub(bundle.first()).and_then(|i| usize::try_from(i).ok());
            let leaf = place.and_then(|i| leaves.get(i)).ok_or_else(unreadable)?;
            if leaf.erased || leaf.personal.is_none() || read.commitment().ok() != leaf.personal {
                return bad(read.seq, "its address or user agent is not what it committed to".to_owned());
            }
        }
        Ok(())
    }

    /// Compares the tiles above the entries as they fill up, and at the end those that stay partial.
    fn tiles_above(&mut self, size: u64, whole: u64, above: &mut [Vec<u8>]) -> Step<()> {
        for (level, hashes) in (0_u8..).zip(above.iter_mut()).skip(1) {
            let count = size >> (TILE_HEIGHT * level);
            let full = hashes.len() == 32 * usize::try_from(TILE_WIDTH).unwrap_or(256);
            if hashes.is_empty() || !(full || size == whole) {
                continue;
            }
            let width = (hashes.len() / 32) as u64;
            let tile = Tile { level: Some(level), index: (count - width) / TILE_WIDTH, width };
            let first = tile.first() << (TILE_HEIGHT * level);
            match self.file(&tile.to_string())? {
                None => return bad(first, format!("{tile} is missing")),
                Some(there) if there != *hashes => {
                    let same = there.chunks(32).zip(hashes.chunks(32)).take_while(|(a, b)| a == b).count() as u64;
                    let seq = (tile.first() + same) << (TILE_HEIGHT * level);
                    return bad(seq, format!("{tile} does not match the entries from here on"));
                }
                Some(_) => {}
            }
            if full {
                hashes.clear();
            }
        }
        Ok(())
    }

    /// Step 4: the roots against what was signed.
    fn compare(&mut self, checkpoint: &Checkpoint, roots: &BTreeMap<u64, Hash>) -> Step<()> {
        let mut signed = std::mem::take(&mut self.signed);
        signed.entry(checkpoint.size).or_default().push(checkpoint.root);
        let mut good = 0;
        for (at, wanted) in &signed {
            if *at > checkpoint.size {
                return bad(checkpoint.size, format!("it is missing: another signed checkpoint counts {at} entries"));
            }
            let root = roots.get(at).copied().unwrap_or_else(merkle::empty_root);
            if wanted.iter().any(|wanted| *wanted != root) {
                let text =
                    format!("it, or one behind it, is not what was signed: the first {at} entries have another root");
                return bad(good, text);
            }
            good = *at;
        }
        Ok(())
    }
}

/// What is kept of an entry until its bundle is done.
struct LeafSeen {
    hash: Hash,
    personal: Option<String>,
    erased: bool,
}
