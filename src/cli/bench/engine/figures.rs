//! Figures of detection: area under the curve, rate of detection at a rate of false alarms, equal error rate, intervals.

use crate::kernel::random::splitmix64;

/// A value and who it is from.
pub type Scored = (f32, usize);

/// Independent genuine windows without which a rate of 0.1 % cannot be measured.
pub const WINDOWS_FOR_PER_MILLE: usize = 3000;

/// What separates attacks from one genuine class.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Separation {
    /// Genuine windows and from how many subjects.
    pub genuine_windows: usize,
    /// Subjects behind them.
    pub subjects: usize,
    /// Attack windows.
    pub attack_windows: usize,
    /// Chance that an attack scores above a genuine window; ties count half.
    pub auc: f32,
    /// 95 % interval by bootstrap over genuine subjects and attack sources.
    pub auc_interval: [f32; 2],
    /// Attacks found at 1 % false alarms, and its interval.
    pub tpr_at_1_percent: f32,
    /// 95 % interval of the same.
    pub tpr_at_1_percent_interval: [f32; 2],
    /// Attacks found at 0.1 % false alarms, or why that cannot be said.
    pub tpr_at_0_1_percent: Measured,
    /// Where false alarms and misses are equally frequent.
    pub eer: f32,
}

/// A figure, or that the recordings do not suffice for it.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum Measured {
    /// Measured.
    Figure(f32),
    /// Fewer than [`WINDOWS_FOR_PER_MILLE`] genuine windows.
    Unmeasurable(&'static str),
}

/// Printed in place of a figure.
pub const NOT_MEASURABLE: &str = "not measurable";

/// Chance that a positive is above a negative; ties count half.
pub fn auc(negative: &[f32], positive: &[f32]) -> f32 {
    if negative.is_empty() || positive.is_empty() {
        return f32::NAN;
    }
    let mut sorted = negative.to_vec();
    sorted.sort_by(f32::total_cmp);
    let below: f64 = positive
        .iter()
        .map(|p| {
            let less = sorted.partition_point(|n| n < p);
            let upto = sorted.partition_point(|n| n <= p);
            less as f64 + 0.5 * (upto - less) as f64
        })
        .sum();
    super::data::single(below / (sorted.len() as f64 * positive.len() as f64))
}

/// The value that a share `rate` of the genuine windows exceeds at most.
pub fn threshold(negative: &[f32], rate: f64) -> f32 {
    let mut sorted = negative.to_vec();
    sorted.sort_by(f32::total_cmp);
    let allowed = super::data::millis(rate * sorted.len() as f64);
    let at = sorted.len().saturating_sub(1).saturating_sub(usize::try_from(allowed).unwrap_or(0));
    sorted.get(at).copied().unwrap_or(f32::NAN)
}

/// Share of the values above a threshold.
pub fn above(values: &[f32], threshold: f32) -> f32 {
    values.iter().filter(|v| **v > threshold).count() as f32 / values.len().max(1) as f32
}

/// Where false alarms and misses are equally frequent.
pub fn eer(negative: &[f32], positive: &[f32]) -> f32 {
    let mut cuts: Vec<f32> = negative.iter().chain(positive).copied().collect();
    cuts.sort_by(f32::total_cmp);
    cuts.dedup();
    let mut best = (f32::MAX, 0.5);
    // Also below every value, where everything is an alarm.
    for cut in std::iter::once(f32::NEG_INFINITY).chain(cuts) {
        let (alarms, misses) = (above(negative, cut), 1.0 - above(positive, cut));
        let apart = (alarms - misses).abs();
        if apart < best.0 {
            best = (apart, (alarms + misses) / 2.0);
        }
    }
    best.1
}

fn values(of: &[Scored]) -> Vec<f32> {
    of.iter().map(|(v, _)| *v).collect()
}

fn groups(of: &[Scored]) -> Vec<Vec<f32>> {
    let mut ids: Vec<usize> = of.iter().map(|(_, id)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(|id| of.iter().filter(|(_, i)| *i == id).map(|(v, _)| *v).collect()).collect()
}

fn drawn(groups: &[Vec<f32>], state: &mut u64) -> Vec<f32> {
    let mut out = Vec::new();
    for _ in groups {
        let at = usize::try_from(splitmix64(state) % groups.len().max(1) as u64).unwrap_or(0);
        out.extend(groups.get(at).into_iter().flatten());
    }
    out
}

fn interval(mut of: Vec<f32>) -> [f32; 2] {
    of.sort_by(f32::total_cmp);
    let at = |share: f64| {
        let place = usize::try_from(super::data::millis(share * (of.len().max(1) - 1) as f64)).unwrap_or(0);
        of.get(place).copied().unwrap_or(f32::NAN)
    };
    [at(0.025), at(0.975)]
}

/// Draws of the bootstrap.
const DRAWS: usize = 200;

/// Compares genuine with attack windows; `None` where either is missing.
pub fn separate(genuine: &[Scored], attack: &[Scored], seed: u64) -> Option<Separation> {
    if genuine.is_empty() || attack.is_empty() {
        return None;
    }
    let (negative, positive) = (values(genuine), values(attack));
    let (by_subject, by_source) = (groups(genuine), groups(attack));
    let mut state = seed;
    let (mut aucs, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..DRAWS {
        let (n, p) = (drawn(&by_subject, &mut state), drawn(&by_source, &mut state));
        aucs.push(auc(&n, &p));
        rates.push(above(&p, threshold(&n, 0.01)));
    }
    let enough = negative.len() >= WINDOWS_FOR_PER_MILLE;
    Some(Separation {
        genuine_windows: negative.len(),
        subjects: by_subject.len(),
        attack_windows: positive.len(),
        auc: auc(&negative, &positive),
        auc_interval: interval(aucs),
        tpr_at_1_percent: above(&positive, threshold(&negative, 0.01)),
        tpr_at_1_percent_interval: interval(rates),
        tpr_at_0_1_percent: if enough {
            Measured::Figure(above(&positive, threshold(&negative, 0.001)))
        } else {
            Measured::Unmeasurable(NOT_MEASURABLE)
        },
        eer: eer(&negative, &positive),
    })
}

/// The median; NaN of none.
pub fn median(mut of: Vec<f32>) -> f32 {
    of.sort_by(f32::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f32::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_what_is_known() {
        let (low, high) = ([0.0, 1.0, 2.0, 3.0], [4.0, 5.0]);
        assert!((auc(&low, &high) - 1.0).abs() < 1e-6);
        assert!((auc(&low, &low) - 0.5).abs() < 1e-6);
        assert!(eer(&low, &high) < 1e-6);
        assert!((eer(&high, &low) - 1.0).abs() < 0.51);
        let hundred: Vec<f32> = (0..200).map(|n| n as f32).collect();
        assert!((above(&hundred, threshold(&hundred, 0.01)) - 0.01).abs() < 1e-6);
    }

    /// Fewer windows than 3,000 cannot show one false alarm in a thousand.
    #[test]
    fn what_cannot_be_measured_is_said() {
        let few: Vec<Scored> = (0..500).map(|n| (n as f32, n % 5)).collect();
        let many: Vec<Scored> = (0..3000).map(|n| (n as f32, n % 5)).collect();
        let figure = |of: &[Scored]| separate(of, &few, 1).map(|s| s.tpr_at_0_1_percent);
        assert_eq!(figure(&few), Some(Measured::Unmeasurable(NOT_MEASURABLE)));
        assert!(matches!(figure(&many), Some(Measured::Figure(_))));
        assert!(separate(&few, &[], 1).is_none());
    }
}
