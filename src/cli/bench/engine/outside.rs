//! Figures of single features where the recordings are no raw streams: generated names, traffic of remote access,
//! pointers in remote sessions. Fitted and measured crosswise on disjoint families, captures and accounts.

use std::collections::BTreeMap;
use std::path::Path;

use super::data::{Fault, Table, files, single, stem};
use super::figures::Scored;
use super::fit::is_for_fitting;
use super::linear::{Matrix, square};

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
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789-_^$";
const LETTERS: usize = 41;

/// The label that somebody chose: the one before the public suffix, as far as its length tells.
fn chosen_label(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let labels: Vec<&str> = name.trim_matches('.').split('.').collect();
    let at = |back: usize| labels.len().checked_sub(back).and_then(|i| labels.get(i)).copied();
    let short = |l: &str| l.len() <= 3;
    let label = match (at(2), at(3)) {
        (Some(second), Some(third)) if short(second) => third,
        (Some(second), _) => second,
        (None, _) => labels.first().copied().unwrap_or_default(),
    };
    format!("^^{label}$")
}

fn letter(c: u8) -> usize {
    ALPHABET.iter().position(|a| *a == c).unwrap_or(LETTERS - 1)
}

/// How likely a letter is after the two before it, blended with the one before it.
struct Names {
    pairs: Vec<f64>,
    triples: Vec<f64>,
}

impl Names {
    fn of(labels: &[&String]) -> Self {
        let mut model = Self { pairs: vec![0.3; LETTERS * LETTERS], triples: vec![0.0; LETTERS * LETTERS * LETTERS] };
        for label in labels {
            for triple in label.as_bytes().windows(3) {
                let &[a, b, c] = triple else { continue };
                let (a, b, c) = (letter(a), letter(b), letter(c));
                if let Some(n) = model.pairs.get_mut(b * LETTERS + c) {
                    *n += 1.0;
                }
                if let Some(n) = model.triples.get_mut((a * LETTERS + b) * LETTERS + c) {
                    *n += 1.0;
                }
            }
        }
        model
    }

    fn row(of: &[f64], at: usize) -> &[f64] {
        of.get(at * LETTERS..(at + 1) * LETTERS).unwrap_or_default()
    }

    /// What tells a generated label: improbable letters, length, digits, few vowels, long runs, variety.
    fn traits(&self, label: &str) -> Vec<f64> {
        let bytes = label.as_bytes();
        let inner: Vec<u8> = bytes.iter().copied().filter(|c| !b"^$".contains(c)).collect();
        let n = inner.len().max(1) as f64;
        let (mut pair, mut blended, mut worst) = (0.0, 0.0, 0.0_f64);
        let mut steps = 0.0_f64;
        for triple in bytes.windows(3) {
            let &[a, b, c] = triple else { continue };
            let (a, b, c) = (letter(a), letter(b), letter(c));
            let pairs = Self::row(&self.pairs, b);
            let triples = Self::row(&self.triples, a * LETTERS + b);
            let share = |of: &[f64]| of.get(c).copied().unwrap_or(0.0);
            let p = share(pairs) / pairs.iter().sum::<f64>().max(1e-9);
            let q = (share(triples) + 4.0 * p) / (triples.iter().sum::<f64>() + 4.0);
            pair -= p.ln();
            blended -= q.ln();
            worst = worst.max(-q.ln());
            steps += 1.0;
        }
        let share = |test: &dyn Fn(&u8) -> bool| inner.iter().filter(|c| test(c)).count() as f64 / n;
        let mut seen = inner.clone();
        seen.sort_unstable();
        seen.dedup();
        let mut run = 0;
        let mut longest = 0;
        for c in &inner {
            run = if c.is_ascii_alphabetic() && !b"aeiouy".contains(c) { run + 1 } else { 0 };
            longest = longest.max(run);
        }
        vec![
            pair / steps.max(1.0),
            blended / steps.max(1.0),
            worst,
            n.ln(),
            n / 10.0,
            share(&|c| c.is_ascii_digit()),
            share(&|c| b"aeiou".contains(c)),
            f64::from(longest),
            seen.len() as f64 / n,
            share(&|c| *c == b'-'),
            (pair / steps.max(1.0)) * n.ln(),
        ]
    }
}

/// A logistic regression by plain gradient steps on standardised traits.
struct Logistic {
    centre: Vec<f64>,
    spread: Vec<f64>,
    weights: Vec<f64>,
    offset: f64,
}

impl Logistic {
    fn fit(samples: &[(Vec<f64>, bool)]) -> Self {
        let width = samples.first().map_or(0, |(v, _)| v.len());
        let n = samples.len().max(1) as f64;
        let centre: Vec<f64> =
            (0..width).map(|j| samples.iter().filter_map(|(v, _)| v.get(j)).sum::<f64>() / n).collect();
        let spread: Vec<f64> = centre
            .iter()
            .enumerate()
            .map(|(j, m)| {
                (samples.iter().filter_map(|(v, _)| v.get(j)).map(|x| (x - m).powi(2)).sum::<f64>() / n)
                    .sqrt()
                    .max(1e-6)
            })
            .collect();
        let mut model = Self { centre, spread, weights: vec![0.0; width], offset: 0.0 };
        let white: Vec<(Vec<f64>, f64)> =
            samples.iter().map(|(v, hostile)| (model.standard(v), f64::from(u8::from(*hostile)))).collect();
        for _ in 0..400 {
            let mut slope = vec![0.0; width];
            let mut level = 0.0;
            for (v, target) in &white {
                let error = 1.0 / (1.0 + (-model.raw(v)).exp()) - target;
                level += error / n;
                for (s, x) in slope.iter_mut().zip(v) {
                    *s += error * x / n;
                }
            }
            model.offset -= 1.0 * level;
            for (w, s) in model.weights.iter_mut().zip(slope) {
                *w -= 1.0 * (s + 1e-4 * *w);
            }
        }
        model
    }

    fn standard(&self, v: &[f64]) -> Vec<f64> {
        v.iter().zip(&self.centre).zip(&self.spread).map(|((x, m), s)| (x - m) / s).collect()
    }

    fn raw(&self, standard: &[f64]) -> f64 {
        self.offset + self.weights.iter().zip(standard).map(|(w, x)| w * x).sum::<f64>()
    }

    fn score(&self, v: &[f64]) -> f32 {
        single(self.raw(&self.standard(v)))
    }
}

/// Generated names: of random letters, and of dictionary words.
pub fn names(root: &Path) -> Result<Option<(Pair, Pair)>, Fault> {
    let path = root.join("dga").join("domains.csv");
    if !path.exists() {
        return Ok(None);
    }
    let (table, _) = Table::read(&path)?;
    let mut legit: Vec<String> = Vec::new();
    let mut families: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in table.rows() {
        let label = chosen_label(row.text("domain"));
        match row.text("kind") {
            "legit" => legit.push(label),
            _ => families.entry(row.text("family").to_owned()).or_default().push(label),
        }
    }
    let (mut random, mut words) = (Pair::default(), Pair::default());
    for fold in [true, false] {
        let (fitting, measured): (Vec<_>, Vec<_>) =
            legit.iter().enumerate().partition(|(i, _)| is_for_fitting(*i) == fold);
        // Letters are learned from one half of the fitting names, weights from the other: a model flatters its own.
        let (letters, weights): (Vec<_>, Vec<_>) =
            fitting.iter().map(|(_, l)| *l).enumerate().partition(|(i, _)| i % 4 != 3);
        let model = Names::of(&letters.into_iter().map(|(_, l)| l).collect::<Vec<_>>());
        // Dictionary families are split among themselves, so that each half knows that such exist.
        let (mut plain, mut dictionary) = (0, 0);
        let known: Vec<&String> = families
            .keys()
            .filter(|f| {
                let place = if DICTIONARY.contains(&f.as_str()) { &mut dictionary } else { &mut plain };
                *place += 1;
                is_for_fitting(*place) == fold
            })
            .collect();
        // One judge for letters and one for words: a name is as suspicious as the stricter of both finds it.
        let judge = |of_words: bool| {
            let mut samples: Vec<(Vec<f64>, bool)> = weights.iter().map(|(_, l)| (model.traits(l), false)).collect();
            for family in known.iter().filter(|f| DICTIONARY.contains(&f.as_str()) == of_words) {
                let names = families.get(*family).into_iter().flatten().take(200);
                samples.extend(names.map(|l| (model.traits(l), true)));
            }
            Logistic::fit(&samples)
        };
        let judges = [judge(false), judge(true)];
        let score = |l: &String| judges.iter().map(|j| j.score(&model.traits(l))).fold(f32::MIN, f32::max);
        let honest: Vec<Scored> = measured.iter().map(|(_, l)| (score(l), usize::from(fold))).collect();
        random.genuine.extend(&honest);
        words.genuine.extend(&honest);
        for (id, (family, names)) in families.iter().enumerate().filter(|(_, (f, _))| !known.contains(f)) {
            let pair = if DICTIONARY.contains(&family.as_str()) { &mut words } else { &mut random };
            pair.hostile.extend(names.iter().map(|l| (score(l), id)));
        }
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
