//! Figures of single features where the recordings are no raw streams: generated names, traffic of remote access,
//! pointers in remote sessions. What is fitted here is measured on other captures and accounts.

use std::collections::BTreeMap;
use std::path::Path;

use super::data::{Fault, Table, files, single, stem};
use super::figures::Scored;
use super::linear::{Matrix, square};
use crate::domains::intel::dns_score;

/// Scores of honest and hostile samples.
#[derive(Debug, Default)]
pub struct Pair {
    /// Honest.
    pub genuine: Vec<Scored>,
    /// Hostile.
    pub hostile: Vec<Scored>,
}

// ---- generated names

/// Families whose names are made of dictionary words.
const DICTIONARY: [&str; 4] = ["gozi", "matsnu", "nymaim", "suppobox"];

/// Generated names: of random letters, and of dictionary words. Scored by the table that the product ships, which was made
/// from none of these names.
pub fn names(root: &Path) -> Result<Option<(Pair, Pair)>, Fault> {
    let path = root.join("dga").join("domains.csv");
    if !path.exists() {
        return Ok(None);
    }
    let (table, _) = Table::read(&path)?;
    let mut honest: Vec<Scored> = Vec::new();
    let mut families: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for row in table.rows() {
        let score = dns_score(row.text("domain"));
        match row.text("kind") {
            "legit" => honest.push((score, 0)),
            _ => families.entry(row.text("family").to_owned()).or_default().push(score),
        }
    }
    let (mut random, mut words) = (Pair::default(), Pair::default());
    (random.genuine, words.genuine) = (honest.clone(), honest);
    for (id, (family, scores)) in families.iter().enumerate() {
        let pair = if DICTIONARY.contains(&family.as_str()) { &mut words } else { &mut random };
        pair.hostile.extend(scores.iter().map(|score| (*score, id)));
    }
    Ok(Some((random, words)))
}

// ---- traffic

/// Packets of a window.
const PACKETS: usize = 100;

/// Remote-access traffic against the profile of each benign capture, on both sides.
pub fn traffic(root: &Path) -> Result<Option<BTreeMap<String, Pair>>, Fault> {
    let path = root.join("rat_traffic").join("packets.csv");
    if !path.exists() {
        return Ok(None);
    }
    let (table, _) = Table::read(&path)?;
    let mut captures: BTreeMap<String, Vec<(f64, bool, f64)>> = BTreeMap::new();
    for row in table.rows() {
        let (Some(bytes), Some(gap)) = (row.number("bytes"), row.number("gap_s")) else { continue };
        captures.entry(row.text("family").to_owned()).or_default().push((bytes, row.text("dir") == "out", gap));
    }
    let windows = |packets: &[(f64, bool, f64)]| -> Vec<[f64; 3]> {
        packets
            .chunks_exact(PACKETS)
            .map(|w| {
                let sum = |out: bool| w.iter().filter(|p| p.1 == out).map(|p| p.0).sum::<f64>();
                let gap = w.iter().map(|p| p.2).sum::<f64>() / PACKETS as f64;
                [(gap + 1e-5).ln(), (sum(true) + 1.0).ln(), (sum(false) + 1.0).ln()]
            })
            .collect()
    };
    let all: BTreeMap<&String, Vec<[f64; 3]>> = captures.iter().map(|(f, p)| (f, windows(p))).collect();
    let mut out: BTreeMap<String, Pair> = BTreeMap::new();
    for (id, (_, own)) in all.iter().filter(|(f, _)| f.starts_with("benign")).enumerate() {
        // The earlier three fifths teach, the rest is measured.
        let (taught, measured) = own.split_at(own.len() * 3 / 5);
        let n = taught.len().max(1) as f64;
        let part = |w: &[f64; 3], i: usize| w.get(i).copied().unwrap_or(0.0);
        let profile: Vec<(f64, f64)> = (0..3)
            .map(|i| {
                let mean = taught.iter().map(|w| part(w, i)).sum::<f64>() / n;
                let spread = (taught.iter().map(|w| (part(w, i) - mean).powi(2)).sum::<f64>() / n).sqrt();
                (mean, spread + 0.15)
            })
            .collect();
        let score = |w: &[f64; 3]| {
            let away = profile.iter().zip(w).map(|((m, s), x)| ((x - m) / s).abs()).sum::<f64>() / 3.0;
            (single(away), id)
        };
        for (family, theirs) in all.iter().filter(|(f, _)| !f.starts_with("benign")) {
            let pair = out.entry((*family).clone()).or_default();
            pair.genuine.extend(measured.iter().map(score));
            pair.hostile.extend(theirs.iter().map(score));
        }
    }
    Ok(Some(out))
}

// ---- pointers

/// The actions of each session, as numbers.
type Sessions = BTreeMap<String, Vec<Vec<f64>>>;

/// Sessions of other people in an account, by how pointer actions differ from the owner's more than from everybody's.
pub fn pointers(root: &Path) -> Result<Option<Pair>, Fault> {
    let folder = root.join("pointer_rdp");
    let mut accounts: Vec<(Sessions, BTreeMap<String, String>)> = Vec::new();
    for path in files(&folder, "_actions.csv") {
        let account = stem(&path).replace("_actions", "");
        let (table, _) = Table::read(&path)?;
        let (labels, _) = Table::read(&folder.join(format!("{account}_sessions.csv")))?;
        let names: Vec<String> =
            table.names().iter().filter(|n| !["session", "kind"].contains(n)).map(|n| (*n).to_owned()).collect();
        let mut sessions = Sessions::new();
        for row in table.rows() {
            let mut values: Vec<f64> = names.iter().map(|n| row.number(n).unwrap_or(0.0).abs().ln_1p()).collect();
            values.extend(["PC", "DD"].map(|k| f64::from(u8::from(row.text("kind") == k))));
            sessions.entry(row.text("session").to_owned()).or_default().push(values);
        }
        let labels = labels.rows().map(|r| (r.text("session").to_owned(), r.text("label").to_owned())).collect();
        accounts.push((sessions, labels));
    }
    if accounts.len() < 2 {
        return Ok(None);
    }
    let training = |sessions: &Sessions, labels: &BTreeMap<String, String>| -> Vec<Vec<f64>> {
        let of = sessions.iter().filter(|(s, _)| labels.get(*s).is_some_and(|l| l == "train"));
        of.flat_map(|(_, v)| v.clone()).collect()
    };
    let world: Vec<Vec<f64>> = accounts.iter().flat_map(|(s, l)| training(s, l)).collect();
    let everybody = Shape::of(&world);
    let mut pair = Pair::default();
    for (id, (sessions, labels)) in accounts.iter().enumerate() {
        let (Some(own), Some(everybody)) = (Shape::of(&training(sessions, labels)), &everybody) else { continue };
        for (session, actions) in sessions {
            let score = || {
                let away = |shape: &Shape| {
                    actions.iter().map(|a| shape.distance(a)).sum::<f64>() / actions.len().max(1) as f64
                };
                single(away(&own) - away(everybody))
            };
            match labels.get(session).map(String::as_str) {
                Some("0") => pair.genuine.push((score(), id)),
                Some("1") => pair.hostile.push((score(), id)),
                _ => {}
            }
        }
    }
    Ok(Some(pair))
}

/// A mean and a whitening.
struct Shape {
    mean: Vec<f64>,
    whitening: Matrix,
}

impl Shape {
    fn of(rows: &[Vec<f64>]) -> Option<Self> {
        let n = rows.len().max(1) as f64;
        let width = rows.first()?.len();
        let mean: Vec<f64> = (0..width).map(|j| rows.iter().filter_map(|r| r.get(j)).sum::<f64>() / n).collect();
        let off: Vec<Vec<f64>> = rows.iter().map(|r| r.iter().zip(&mean).map(|(x, m)| x - m).collect()).collect();
        Some(Self { whitening: Matrix::scatter(&off, n).shrunk(0.9).whitening()?, mean })
    }

    fn distance(&self, v: &[f64]) -> f64 {
        let off: Vec<f64> = v.iter().zip(&self.mean).map(|(x, m)| x - m).collect();
        square(&self.whitening.times(&off)).sqrt()
    }
}
