//! Makes the population table from recordings with a clear licence: half of the subjects of each folder, all of their
//! time. What they gave stands in the table's head, so that nobody measures with what was fitted.

use std::fmt::Write as _;
use std::path::Path;

use super::data::{self, Class, Fault, Recording, Source};
use super::linear::Matrix;
use super::runs::{Stream, by_subject};
use super::touches;
use crate::domains::signals::engine::evidence::{Heard, gathered};
use crate::domains::signals::engine::population::{Pace, RHYTHM_BINS, Tail};
use crate::domains::signals::engine::{Context, Test, bands::TRAITS};

/// Folders whose licence allows a table to be made and shipped, with the attribution that they ask for.
const LICENSED: [(&str, &str); 4] = [
    ("imu_pocket", "Matey-Sanz, Casteleyn, Granell, Data in Brief 109809 (2023), CC BY 4.0"),
    ("imu_table", "Tian et al., GyroFP, IEEE Access 9 (2021) 160855, MIT"),
    ("acc_carry", "Oxford step counter data set, CC BY 4.0"),
    ("hand_tap", "Buriro, Gupta, Yautsiukhin, Crispo, J. Signal Processing Systems 93 (2021) 989, Apache-2.0"),
];

/// Whether a subject is fitted with: every second one of its folder, by name.
pub fn is_for_fitting(position: usize) -> bool {
    position.is_multiple_of(2)
}

/// The table as text.
pub fn table(root: &Path) -> Result<String, Fault> {
    let (recordings, sources) = data::motion(root)?;
    let mut fitted_sources: Vec<Source> = Vec::new();
    let mut chosen: Vec<Recording> = Vec::new();
    for (folder, _) in LICENSED {
        let of: Vec<&(Source, String)> = sources.iter().filter(|(s, _)| s.name.starts_with(folder)).collect();
        let mut subjects: Vec<&String> = of.iter().map(|(_, subject)| subject).collect();
        subjects.sort();
        subjects.dedup();
        let picked = |subject: &str| subjects.iter().position(|s| *s == subject).is_some_and(is_for_fitting);
        fitted_sources.extend(of.iter().filter(|(_, s)| picked(s)).map(|(source, _)| source.clone()));
        chosen.extend(recordings.iter().filter(|r| folder_of(r) == folder && picked(&r.subject)).cloned());
    }
    if chosen.is_empty() {
        return Err("there are no recordings to fit with; give the folder with --data".into());
    }
    let mut text = String::from(
        "# How genuine devices move: the population that the engine judges against.\n\
         # Made by `blockremote bench engine --fit --data DIR`; not edited by hand. Version 1 of the format.\n\
         # From every second subject of:\n",
    );
    for (folder, attribution) in LICENSED {
        writeln!(text, "#   {folder}: {attribution}")?;
    }
    text.push_str("# A tail is what one genuine window in 2, 10, 100 and 1000 exceeds, by test, context and pace.\n");
    writeln!(text, "version 1")?;
    for source in &fitted_sources {
        writeln!(text, "fitted {} {}", source.name, source.digest)?;
    }
    writeln!(text, "{}", bounds(&chosen, root)?)?;
    if let Some((histogram, source)) = touches::histogram(root)? {
        writeln!(text, "fitted {} {}", source.name, source.digest)?;
        write!(text, "rhythm")?;
        for share in histogram {
            write!(text, " {share:.5}")?;
        }
        text.push('\n');
        debug_assert_eq!(histogram.len(), RHYTHM_BINS);
    }
    let mut heard = Vec::new();
    for hz in RATES {
        heard.extend(listen(&chosen, hz));
    }
    heard.extend(touches::genuine_rhythm(root)?);
    let heard: Vec<Vec<Heard>> = heard.into_iter().filter(|of| !of.is_empty()).collect();
    tails(&heard, &mut text)?;
    people(&chosen, &mut text)?;
    Ok(text)
}

/// Rates that are fitted; 0 is that of the recording.
const RATES: [f64; 7] = [0.0, 50.0, 25.0, 16.0, 10.0, 5.0, 1.0];

fn folder_of(r: &Recording) -> &'static str {
    if !r.sensors.gyroscope {
        "acc_carry"
    } else if r.classes.first() == Some(&Some(Class::Rest)) {
        "imu_table"
    } else {
        "imu_pocket"
    }
}

fn resampled(recordings: &[Recording], hz: f64) -> Vec<Recording> {
    recordings.iter().map(|r| if hz > 0.0 { r.at_rate(hz) } else { r.clone() }).collect()
}

/// What was weighed of each subject.
fn listen(recordings: &[Recording], hz: f64) -> Vec<Vec<Heard>> {
    let recordings = resampled(recordings, hz);
    let mut heard = Vec::new();
    for (_, of) in by_subject(&recordings) {
        let Some(first) = of.first() else { continue };
        let mut stream = Stream::new(first);
        stream.engine().listen();
        let mut offset_ms = 0;
        for recording in of {
            for r in &recording.readings {
                let mut r = r.clone();
                r.t_ms += offset_ms;
                stream.push(&r);
            }
            offset_ms += recording.readings.last().map_or(0, |r| r.t_ms) + 60_000;
        }
        heard.push(stream.engine().take_heard());
    }
    heard
}

/// Values without which a tail is not written.
const VALUES_MIN: usize = 40;

fn quantile(sorted: &[f32], exceeded_by: f64) -> f32 {
    let from_top = data::millis(exceeded_by * sorted.len() as f64);
    let at = sorted.len().saturating_sub(1).saturating_sub(usize::try_from(from_top).unwrap_or(0));
    sorted.get(at).copied().unwrap_or(0.0)
}

/// Evidence that no fitted subject may gather: half a decade below where it begins to count.
const GATHERED_MOST: f32 = 2.0;
/// How much wider a tail becomes with each attempt, and attempts at most.
const WIDER: f32 = 1.25;
const ATTEMPTS: usize = 24;

/// Subjects and values with fewer than which a context borrows from the others.
const SUBJECTS_MIN: usize = 3;
const VALUES_ENOUGH: usize = 200;

fn tails(heard: &[Vec<Heard>], text: &mut String) -> Result<(), Fault> {
    for test in Test::ALL {
        for context in Context::ALL {
            for pace in Pace::ALL {
                let at = |h: &Heard| (h.0, h.2) == (test, pace);
                let here = |h: &Heard| at(h) && h.1 == context;
                let Some((mut tail, values, subjects)) = tail_of(heard, test, &here) else { continue };
                if context != Context::Rest && (subjects < SUBJECTS_MIN || values < VALUES_ENOUGH) {
                    let moving = |h: &Heard| at(h) && h.1 != Context::Rest;
                    if let Some((wider, _, _)) = tail_of(heard, test, &moving) {
                        for (own, theirs) in tail.0.iter_mut().zip(wider.0) {
                            *own = own.max(theirs);
                        }
                    }
                }
                let [half, tenth, hundredth, thousandth] = tail.0;
                let (test, context, pace) = (test.as_str(), context.as_str(), pace.as_str());
                let line = format!("{half:.4} {tenth:.4} {hundredth:.4} {thousandth:.4}");
                writeln!(text, "tail {test} {context} {pace} {line} # {values} values of {subjects}")?;
            }
        }
    }
    Ok(())
}

/// The tail of the chosen values, how many there are and of how many subjects; `None` of too few.
fn tail_of(heard: &[Vec<Heard>], test: Test, chosen: &dyn Fn(&Heard) -> bool) -> Option<(Tail, usize, usize)> {
    let mut values: Vec<f32> = heard.iter().flatten().filter(|h| chosen(h)).map(|h| h.3).collect();
    let subjects = heard.iter().filter(|of| of.iter().any(chosen)).count();
    if values.len() < VALUES_MIN {
        return None;
    }
    values.sort_by(f32::total_cmp);
    let [half, tenth, hundredth] = [0.5, 0.1, 0.01].map(|share| quantile(&values, share));
    let most = values.last().copied().unwrap_or(hundredth);
    // Subjects that were not recorded go further, the more so the fewer were; an exponential tail loses as much again
    // with each decade.
    let margin = MARGIN / (subjects.max(1) as f32).sqrt();
    let mut step = (hundredth - tenth).max(0.05 * (tenth - half)).max(least_step(test));
    let mut tail = Tail([0.0; 4]);
    for _ in 0..ATTEMPTS {
        let end = (hundredth + margin * step).max(known_reach(test).0);
        tail = Tail([half, tenth, end, (end + step).max(most + margin * step).max(known_reach(test).1)]);
        // A device's windows resemble each other, so that tails alone promise too much.
        let gathered = heard.iter().map(|of| most_gathered(of.iter().filter(|h| chosen(h)), &tail));
        if gathered.fold(0.0, f32::max) <= GATHERED_MOST {
            break;
        }
        step *= WIDER;
    }
    Some((tail, values.len(), subjects))
}

/// What one genuine window in a hundred and one in a thousand are taken to reach whether one of these did or not: motion sampled fifty times a
/// second without a filter may have neighbours that hardly agree; white noise stays below 0.2.
const fn known_reach(test: Test) -> (f32, f32) {
    match test {
        Test::White => (-0.35, -0.25),
        // The steadiest walks of other recordings: a twentieth of the motion is new; nine tenths are a wave.
        Test::Loop => (4.3, 5.3),
        Test::Wave => (3.3, 4.3),
        _ => (f32::MIN, f32::MIN),
    }
}

/// The most that one subject's values would have gathered under a tail.
fn most_gathered<'a>(values: impl Iterator<Item = &'a Heard>, tail: &Tail) -> f32 {
    let (mut level, mut most) = (0.0_f32, 0.0_f32);
    for (_, _, _, value, share) in values {
        level = gathered(level, tail.decades(*value), *share);
        most = most.max(level);
    }
    most
}

/// Least distance between two decades of a tail: what no genuine device showed may still be shown by the next one.
const fn least_step(test: Test) -> f32 {
    match test {
        Test::White | Test::Apart | Test::Rhythm => 0.05,
        Test::Wave | Test::Loop | Test::Recall => 0.3,
        Test::Copy | Test::Stuck => 1.0,
    }
}

/// What one who was not recorded may go beyond a single one who was, in decades of the tail.
const MARGIN: f32 = 1.5;

/// Rest ends where one table reading in a thousand is; walking begins where one walking reading in a hundred is not yet.
fn bounds(recordings: &[Recording], _root: &Path) -> Result<String, Fault> {
    let (mut shaking, mut turning, mut walking) = (Vec::new(), Vec::new(), Vec::new());
    for (_, of) in by_subject(recordings) {
        for recording in of {
            let mut stream = Stream::new(recording);
            for (i, (r, class)) in recording.readings.iter().zip(&recording.classes).enumerate() {
                stream.push(r);
                let settled = recording.class_of(i.saturating_sub(150), i + 1).is_some();
                if i < 200 || i % 10 != 0 || !settled {
                    continue;
                }
                let [shake, turn] = stream.engine().activity();
                match class {
                    Some(Class::Rest) => {
                        shaking.push(shake);
                        turning.push(turn);
                    }
                    Some(Class::Walking | Class::InHand | Class::Carried) => walking.push(shake),
                    Some(Class::Seated) | None => {}
                }
            }
        }
    }
    for values in [&mut shaking, &mut turning, &mut walking] {
        values.sort_by(f32::total_cmp);
    }
    // Devices that were not recorded may be noisier; the hand is far beyond that.
    let (rest, turn) = (ROOM * quantile(&shaking, 0.001), ROOM * quantile(&turning, 0.001));
    let walk = quantile(&walking, 0.99);
    Ok(format!("bounds {rest:.4} {turn:.4} {walk:.4} # rest below, m/s2 and rad/s; carried above, m/s2"))
}

/// What rest leaves to devices that were not recorded, as a factor.
const ROOM: f32 = 1.5;

/// Shares of the off-diagonal that are kept: few people say little of how traits go together.
const WITHIN_SHRUNK: f64 = 0.4;
const TOTAL_SHRUNK: f64 = 0.5;

fn people(recordings: &[Recording], text: &mut String) -> Result<(), Fault> {
    for context in [Context::InHand, Context::Carried] {
        // Subject, then recording, then the mean of its blocks.
        let mut subjects: Vec<Vec<Vec<f64>>> = Vec::new();
        for (_, of) in
            by_subject(recordings).into_iter().filter(|(_, of)| of.iter().all(|r| folder_of(r) == "imu_pocket"))
        {
            let means: Vec<Vec<f64>> = of.iter().filter_map(|r| mean_traits(r, context)).collect();
            if means.len() >= 3 {
                subjects.push(means);
            }
        }
        if subjects.len() < 3 {
            continue;
        }
        let centre = |of: &[Vec<f64>]| -> Vec<f64> {
            (0..TRAITS).map(|i| of.iter().filter_map(|v| v.get(i)).sum::<f64>() / of.len() as f64).collect()
        };
        let less = |v: &[f64], m: &[f64]| -> Vec<f64> { v.iter().zip(m).map(|(x, y)| x - y).collect() };
        let means: Vec<Vec<f64>> = subjects.iter().map(|s| centre(s)).collect();
        let everybody = centre(&means);
        let inside: Vec<Vec<f64>> =
            subjects.iter().zip(&means).flat_map(|(s, m)| s.iter().map(|v| less(v, m)).collect::<Vec<_>>()).collect();
        let between: Vec<Vec<f64>> = means.iter().map(|m| less(m, &everybody)).collect();
        let degrees = (inside.len() - subjects.len()).max(1) as f64;
        let within = Matrix::scatter(&inside, degrees).shrunk(WITHIN_SHRUNK);
        let between = Matrix::scatter(&between, (subjects.len() - 1).max(1) as f64).shrunk(TOTAL_SHRUNK);
        let total = within.plus(&between);
        let (Some(w), Some(t)) = (within.whitening(), total.whitening()) else { continue };
        let name = context.as_str();
        let mut line = |what: &str, values: &[f64]| -> Result<(), Fault> {
            write!(text, "people {name} {what}")?;
            for v in values {
                write!(text, " {v:.4}")?;
            }
            text.push('\n');
            Ok(())
        };
        line("mean", &everybody)?;
        line("within", &w.triangle())?;
        line("total", &t.triangle())?;
        // ln of the ratio of the determinants' roots: those of the whitenings are the reciprocals.
        line("match_nats", &[w.log_determinant() - t.log_determinant()])?;
    }
    Ok(())
}

/// The mean traits of a recording's blocks in a context; `None` with fewer than two.
pub fn mean_traits(recording: &Recording, context: Context) -> Option<Vec<f64>> {
    let blocks = blocks(recording, context);
    (blocks.len() >= 2).then(|| {
        let n = blocks.len() as f64;
        (0..TRAITS).map(|i| blocks.iter().filter_map(|b| b.get(i)).map(|v| f64::from(*v)).sum::<f64>() / n).collect()
    })
}

/// A recording's traits, second by second, while it is in a context.
pub fn blocks(recording: &Recording, context: Context) -> Vec<[f32; TRAITS]> {
    let mut stream = Stream::new(recording);
    let mut out = Vec::new();
    let mut due_ms = 0;
    for r in &recording.readings {
        stream.push(r);
        if r.t_ms >= due_ms
            && stream.engine().context() == context
            && let Some(traits) = stream.engine().traits()
        {
            out.push(traits);
            due_ms = r.t_ms + 1000;
        }
    }
    out
}
