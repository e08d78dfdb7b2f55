//! One entry in the hand: statistics of its motion and the timing of its touches, against the owner's earlier entries.
//!
//! A level below the engine: the recordings are statistics of whole entries. Fitted and measured crosswise: half of the
//! people make the population for the other half, and the other way round.

use std::collections::BTreeMap;
use std::path::Path;

use super::data::{Fault, Table};
use super::figures::{Scored, auc, eer};
use super::fit::is_for_fitting;
use super::linear::{Matrix, square};

/// Entries of each posture that enroll.
const ENROLLED: u32 = 20;
/// Nearest enrolled entries that an entry is compared with.
const NEAREST: usize = 3;
/// Steps of the quantile table that makes each statistic Gaussian.
const STEPS: usize = 41;

struct Entry {
    user: u32,
    posture: String,
    sample: u32,
    values: Vec<f64>,
}

/// One posture's figures.
#[derive(Debug)]
pub struct Entries {
    /// Which.
    pub posture: String,
    /// Suspicion of the owner's later entries.
    pub owners: Vec<Scored>,
    /// Suspicion of others' entries.
    pub strangers: Vec<Scored>,
    /// Means over owners.
    pub mean_eer: f32,
    /// See `mean_eer`.
    pub mean_auc: f32,
}

fn read(root: &Path) -> Result<Option<Vec<Entry>>, Fault> {
    let folder = root.join("hand_tap");
    if !folder.join("sensor.csv").exists() || !folder.join("touch.csv").exists() {
        return Ok(None);
    }
    let key = |row: &super::data::Row<'_>| {
        Some((
            row.text("user").parse::<u32>().ok()?,
            row.text("posture").to_owned(),
            row.text("sample").parse::<u32>().ok()?,
        ))
    };
    let ids = ["user", "posture", "sample"];
    let mut all: BTreeMap<(u32, String, u32), Vec<f64>> = BTreeMap::new();
    for file in ["sensor.csv", "touch.csv"] {
        let (table, _) = Table::read(&folder.join(file))?;
        let names: Vec<String> = table.names().iter().filter(|n| !ids.contains(n)).map(|n| (*n).to_owned()).collect();
        for row in table.rows() {
            let Some(id) = key(&row) else { continue };
            let values: Option<Vec<f64>> = names.iter().map(|n| row.number(n)).collect();
            match values {
                Some(values) => all.entry(id).or_default().extend(values),
                // An entry without statistics is none.
                None => all.entry(id).or_default().push(f64::NAN),
            }
        }
    }
    let width = all.values().map(Vec::len).max().unwrap_or(0);
    let entries = all.into_iter().filter(|(_, v)| v.len() == width && v.iter().all(|x| x.is_finite()));
    Ok(Some(entries.map(|((user, posture, sample), values)| Entry { user, posture, sample, values }).collect()))
}

/// Inverse of the Gaussian distribution (Acklam's central and tail fits, to 1e-4, which is ample here).
fn probit(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.47 {
        let r = q * q;
        let top =
            ((((-39.696_830 * r + 220.946_098) * r - 275.928_510) * r + 138.357_751) * r - 30.664_798) * r + 2.506_628;
        let low = ((((-54.476_098 * r + 161.585_836) * r - 155.698_979) * r + 66.801_311) * r - 13.280_681) * r + 1.0;
        q * top / low
    } else {
        let tail = (-2.0 * p.min(1.0 - p).ln()).sqrt();
        let top = ((((-0.007_784_894 * tail - 0.322_396_4) * tail - 2.400_758) * tail - 2.549_732) * tail + 4.374_664)
            * tail
            + 2.938_163;
        let low = (((0.007_784_695 * tail + 0.322_467_1) * tail + 2.445_134) * tail + 3.754_408) * tail + 1.0;
        if q < 0.0 { top / low } else { -top / low }
    }
}

/// What makes every statistic Gaussian over the population.
struct Quantiles {
    at: Vec<Vec<f64>>,
    scores: Vec<f64>,
}

impl Quantiles {
    fn of(entries: &[&Entry]) -> Self {
        let width = entries.first().map_or(0, |e| e.values.len());
        let shares: Vec<f64> = (0..STEPS).map(|i| 0.005 + 0.99 * i as f64 / (STEPS - 1) as f64).collect();
        let at = (0..width)
            .map(|j| {
                let mut column: Vec<f64> = entries.iter().filter_map(|e| e.values.get(j)).copied().collect();
                column.sort_by(f64::total_cmp);
                let place =
                    |s: f64| usize::try_from(super::data::millis(s * (column.len().max(1) - 1) as f64)).unwrap_or(0);
                shares.iter().map(|s| column.get(place(*s)).copied().unwrap_or(0.0)).collect()
            })
            .collect();
        Self { at, scores: shares.into_iter().map(probit).collect() }
    }

    fn gaussian(&self, values: &[f64]) -> Vec<f64> {
        values
            .iter()
            .zip(&self.at)
            .map(|(v, at)| {
                let upper = at.partition_point(|q| q <= v);
                if upper == 0 || upper == at.len() {
                    let end = if upper == 0 { self.scores.first() } else { self.scores.last() };
                    return end.copied().unwrap_or(0.0);
                }
                let get = |of: &[f64], i: usize| of.get(i).copied().unwrap_or(0.0);
                let (low, high) = (get(at, upper - 1), get(at, upper));
                let (from, to) = (get(&self.scores, upper - 1), get(&self.scores, upper));
                from + (to - from) * (v - low) / (high - low).max(1e-12)
            })
            .collect()
    }
}

fn mean(of: &[&Vec<f64>]) -> Vec<f64> {
    let width = of.first().map_or(0, |v| v.len());
    (0..width).map(|j| of.iter().filter_map(|v| v.get(j)).sum::<f64>() / of.len().max(1) as f64).collect()
}

fn less(v: &[f64], m: &[f64]) -> Vec<f64> {
    v.iter().zip(m).map(|(x, y)| x - y).collect()
}

/// The population of one half: quantiles and whitenings.
struct Fitted {
    quantiles: Quantiles,
    mean: Vec<f64>,
    within: Matrix,
    total: Matrix,
}

fn fit(entries: &[&Entry], postures: &[String]) -> Option<Fitted> {
    let quantiles = Quantiles::of(entries);
    let mut users: Vec<u32> = entries.iter().map(|e| e.user).collect();
    users.dedup();
    let (mut inside, mut means) = (Vec::new(), Vec::new());
    for user in users {
        for posture in postures {
            let of: Vec<Vec<f64>> = entries
                .iter()
                .filter(|e| e.user == user && e.posture == *posture)
                .map(|e| quantiles.gaussian(&e.values))
                .collect();
            if of.len() > 3 {
                let centre = mean(&of.iter().collect::<Vec<_>>());
                inside.extend(of.iter().map(|v| less(v, &centre)));
                means.push(centre);
            }
        }
    }
    let everybody = mean(&means.iter().collect::<Vec<_>>());
    let between: Vec<Vec<f64>> = means.iter().map(|m| less(m, &everybody)).collect();
    let within = Matrix::scatter(&inside, inside.len().max(1) as f64).shrunk(0.8);
    let total = Matrix::scatter(&between, between.len().max(1) as f64).shrunk(0.7).plus(&within);
    Some(Fitted { quantiles, mean: everybody, within: within.whitening()?, total: total.whitening()? })
}

/// Measures every posture; nothing where the folder is missing.
pub fn entries(root: &Path) -> Result<Vec<Entries>, Fault> {
    let Some(all) = read(root)? else { return Ok(Vec::new()) };
    let mut users: Vec<u32> = all.iter().map(|e| e.user).collect();
    users.dedup();
    let mut postures: Vec<String> = all.iter().map(|e| e.posture.clone()).collect();
    postures.sort();
    postures.dedup();
    let half = |user: u32| users.iter().position(|u| *u == user).is_some_and(is_for_fitting);
    let mut out: Vec<Entries> = postures
        .iter()
        .map(|p| Entries {
            posture: p.clone(),
            owners: Vec::new(),
            strangers: Vec::new(),
            mean_eer: 0.0,
            mean_auc: 0.0,
        })
        .collect();
    let mut per_user: Vec<(Vec<f32>, Vec<f32>)> = vec![(Vec::new(), Vec::new()); postures.len()];
    for fitted_half in [true, false] {
        let fitting: Vec<&Entry> = all.iter().filter(|e| half(e.user) == fitted_half).collect();
        let Some(fitted) = fit(&fitting, &postures) else { continue };
        let measured: Vec<(&Entry, Vec<f64>)> = all
            .iter()
            .filter(|e| half(e.user) != fitted_half)
            .map(|e| (e, fitted.quantiles.gaussian(&e.values)))
            .collect();
        for (id, user) in users.iter().enumerate().filter(|(_, u)| half(**u) != fitted_half) {
            let known: Vec<Vec<f64>> = measured
                .iter()
                .filter(|(e, _)| e.user == *user && e.sample <= ENROLLED)
                .map(|(_, v)| fitted.within.times(v))
                .collect();
            if known.len() < 8 {
                continue;
            }
            for ((slot, posture), (eers, aucs)) in out.iter_mut().zip(&postures).zip(&mut per_user) {
                let (mut genuine, mut strange) = (Vec::new(), Vec::new());
                for (entry, values) in measured.iter().filter(|(e, _)| e.sample > ENROLLED && e.posture == *posture) {
                    let here = fitted.within.times(values);
                    let mut near: Vec<f64> = known.iter().map(|k| square(&less(&here, k))).collect();
                    near.sort_by(f64::total_cmp);
                    let nearest = near.iter().take(NEAREST).sum::<f64>() / NEAREST as f64;
                    let any = square(&fitted.total.times(&less(values, &fitted.mean)));
                    let score = super::data::single(nearest - any);
                    if entry.user == *user { genuine.push(score) } else { strange.push(score) }
                }
                if genuine.len() < 2 {
                    continue;
                }
                eers.push(eer(&genuine, &strange));
                aucs.push(auc(&genuine, &strange));
                slot.owners.extend(genuine.into_iter().map(|v| (v, id)));
                slot.strangers.extend(strange.into_iter().map(|v| (v, id)));
            }
        }
    }
    for (slot, (eers, aucs)) in out.iter_mut().zip(per_user) {
        let mean = |of: &[f32]| of.iter().sum::<f32>() / of.len().max(1) as f32;
        (slot.mean_eer, slot.mean_auc) = (mean(&eers), mean(&aucs));
    }
    out.retain(|e| !e.owners.is_empty());
    Ok(out)
}
