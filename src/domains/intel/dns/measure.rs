//! How well the scores tell generated names from chosen ones, on names whose origin is known.

use std::collections::BTreeMap;

use serde::Serialize;

use super::dns_score;

/// How one family of generators, or all of them, stand out from the legitimate names.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The family, or `all`.
    pub family: String,
    /// Its names.
    pub names: usize,
    /// The share of pairs of a generated and a legitimate name that the score puts into the right order.
    pub auc: f64,
    /// The share of its names above the score that one legitimate name of a hundred reaches.
    pub tpr_at_1_percent: f64,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Legitimate names.
    pub legitimate: usize,
    /// Each family by name, then all of them.
    pub rows: Vec<Row>,
}

/// Scores names in CSV of kind (`legit` or anything else), family and domain. A line that has fewer cells is passed over.
pub fn measure(csv: &str) -> Measured {
    let mut legitimate = Vec::new();
    let mut families: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
    for line in csv.lines().skip(1) {
        let mut cells = line.split(',').map(str::trim);
        let (Some(kind), Some(family), Some(domain)) = (cells.next(), cells.next(), cells.next()) else { continue };
        let score = dns_score(domain);
        if kind == "legit" { legitimate.push(score) } else { families.entry(family).or_default().push(score) }
    }
    legitimate.sort_unstable_by(f32::total_cmp);
    let all: Vec<f32> = families.values().flatten().copied().collect();
    let mut rows: Vec<Row> = families.iter().map(|(family, scores)| row(family, scores, &legitimate)).collect();
    rows.push(row("all", &all, &legitimate));
    Measured { legitimate: legitimate.len(), rows }
}

/// `legitimate` is sorted.
fn row(family: &str, scores: &[f32], legitimate: &[f32]) -> Row {
    let (n, pairs) = (scores.len().max(1) as f64, (scores.len() * legitimate.len()).max(1) as f64);
    let below = |score: &f32| {
        let less = legitimate.partition_point(|l| l < score);
        let equal = legitimate.partition_point(|l| l <= score) - less;
        less as f64 + equal as f64 / 2.0
    };
    let limit = legitimate.len().saturating_sub(legitimate.len() / 100 + 1);
    let limit = legitimate.get(limit).copied().unwrap_or(1.0);
    Row {
        family: family.to_owned(),
        names: scores.len(),
        auc: scores.iter().map(below).sum::<f64>() / pairs,
        tpr_at_1_percent: scores.iter().filter(|score| **score > limit).count() as f64 / n,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_pairs_is_what_counts() {
        let measured = row("x", &[0.9, 0.5, 0.1], &[0.2, 0.5]);
        assert!((measured.auc - 3.5 / 6.0).abs() < 1e-9, "{measured:?}");
    }

    /// The families are those of the shared recordings; a table of other data must still tell them.
    #[test]
    fn names_of_families_that_the_table_never_saw_stand_out() {
        let shared = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
        if !shared.is_dir() {
            return;
        }
        let csv = std::fs::read_to_string(shared.join("dga/domains.csv")).unwrap_or_default();
        let measured = measure(&csv);
        assert!(measured.legitimate > 2_000, "{}", measured.legitimate);
        let auc = |family: &str| measured.rows.iter().find(|r| r.family == family).map_or(0.0, |r| r.auc);
        assert!(auc("all") >= 0.95, "{}", auc("all"));
        for dictionary in ["gozi", "matsnu"] {
            assert!(auc(dictionary) >= 0.75, "{dictionary}: {}", auc(dictionary));
        }
    }
}
