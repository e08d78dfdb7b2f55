//! Nobody who just carries a phone, or leaves it on a table, is locked: measured on recordings of real ones.

use std::path::{Path, PathBuf};

use super::*;

/// The folder of recordings beside the repository; `None`, said aloud, where there is none at all.
fn recordings(folder: &str) -> Option<Vec<PathBuf>> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    if !shared.exists() {
        eprintln!("skipped: no recordings beside the repository");
        return None;
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(shared.join("data").join(folder))
        .expect("the recordings are missing")
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "csv") && p.file_name().is_some_and(|n| n != "index.csv"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "the recordings are missing");
    Some(files)
}

/// The recordings of one file, each with a clock of its own.
fn load(path: &Path) -> Vec<Vec<Reading>> {
    let text = std::fs::read_to_string(path).expect("a recording is missing");
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let column = |name: &str| header.iter().position(|h| *h == name);
    let (group, time) = (column("exec").or(column("rec")), column("t_ms"));
    let a = ["ax", "ay", "az"].map(|n| column(n).unwrap());
    let g = ["gx", "gy", "gz"].map(column);
    let mut out: Vec<Vec<Reading>> = Vec::new();
    let mut last = "";
    for (i, line) in lines.enumerate() {
        let cells: Vec<&str> = line.split(',').collect();
        let number = |place: usize| cells[place].parse::<f32>().unwrap();
        let name = group.map_or("", |g| cells[g]);
        if out.is_empty() || name != last {
            out.push(Vec::new());
            last = name;
        }
        let gyroscope = g[0].is_some().then(|| g.map(|p| number(p.unwrap())));
        let t_ms = time.map_or(i as u64 * 1000 / 60, |t| cells[t].parse::<f64>().unwrap() as u64);
        out.last_mut().unwrap().push(Reading {
            t_ms,
            accelerometer: Some(a.map(number)),
            gyroscope,
            ..Reading::default()
        });
    }
    out
}

#[derive(Default)]
struct Tally {
    heartbeats: usize,
    blocks: usize,
    challenges: usize,
    lowest: u8,
    readings: usize,
    /// How near a real recording comes to the statistical rules: least repeat error, greatest purities,
    /// longest run of repeated readings.
    nearest: [f32; 4],
}

/// One device a file: its recordings follow one another a minute apart.
fn stream(folder: &str, gyroscope: bool, prepare: impl Fn(&mut Vec<Reading>)) -> Option<Tally> {
    let mut tally = Tally { lowest: 100, nearest: [1.0, 0.0, 0.0, 0.0], ..Tally::default() };
    for path in recordings(folder)? {
        let mut engine = DeviceEngine::new(Sensors { accelerometer: true, gyroscope });
        let mut offset = 0;
        for mut recording in load(&path) {
            prepare(&mut recording);
            for r in &mut recording {
                r.t_ms += offset;
            }
            offset = recording.last().map_or(0, |r| r.t_ms) + 60_000;
            tally.readings += recording.len();
            for a in heartbeats(&mut engine, &recording, 50) {
                tally.heartbeats += 1;
                tally.lowest = tally.lowest.min(a.score.points());
                let feature = |name: &str| a.features.get(name).unwrap();
                let [repeat, pure_a, pure_g, run] = &mut tally.nearest;
                *run = run.max(feature("loop_run"));
                *repeat = repeat.min(feature("repeat_error"));
                if feature("accelerometer_std_ms2") > 0.03 {
                    *pure_a = pure_a.max(feature("accelerometer_purity"));
                }
                if feature("gyroscope_std_rads") > 0.02 {
                    *pure_g = pure_g.max(feature("gyroscope_purity"));
                }
                if a.decision != Decision::Allow {
                    println!("  {}: {} {} {}", path.display(), a.decision.as_str(), a.score.points(), names(&a));
                }
                tally.blocks += usize::from(a.decision == Decision::Block);
                tally.challenges += usize::from(a.decision == Decision::Challenge);
            }
        }
    }
    println!(
        "{folder}: {} readings, {} heartbeats, {} challenges, {} blocks, lowest score {}, nearest {:?}",
        tally.readings, tally.heartbeats, tally.challenges, tally.blocks, tally.lowest, tally.nearest
    );
    Some(tally)
}

#[test]
fn no_real_recording_is_locked_or_challenged() {
    for (folder, gyroscope) in [("imu_pocket", true), ("imu_table", true), ("imu_table", false), ("acc_carry", false)] {
        let Some(tally) = stream(folder, gyroscope, |_| {}) else { return };
        assert_eq!((tally.blocks, tally.challenges), (0, 0), "{folder}");
    }
}

/// The same recordings as older clients would send them: one reading a second.
#[test]
fn no_real_recording_is_locked_at_a_low_rate() {
    for (folder, gyroscope) in [("imu_pocket", true), ("imu_table", true), ("acc_carry", false)] {
        let thin = |readings: &mut Vec<Reading>| {
            *readings = std::mem::take(readings).into_iter().step_by(60).collect();
        };
        let Some(tally) = stream(folder, gyroscope, thin) else { return };
        assert_eq!((tally.blocks, tally.challenges), (0, 0), "{folder}");
    }
}

/// Puts a touch about every half second, at the reading of that half second that is pushed most.
fn tap_where_it_moves(readings: &mut [Reading]) {
    let jerk = |r: &[Reading]| -> f32 {
        let (a, b) = (r[0].accelerometer.unwrap(), r[1].accelerometer.unwrap());
        a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
    };
    let pushed: Vec<f32> = readings.windows(2).map(jerk).collect();
    for (n, half_second) in (0..readings.len().saturating_sub(60)).step_by(30).enumerate() {
        let place = (half_second..half_second + 30).max_by(|a, b| pushed[*a].total_cmp(&pushed[*b])).unwrap();
        readings[place + 1].touch = touch(n as u64);
    }
}

#[test]
fn people_who_tap_while_they_sit_or_walk_are_not_locked() {
    for (folder, gyroscope) in [("imu_pocket", true), ("acc_carry", false)] {
        let Some(tally) = stream(folder, gyroscope, |readings| tap_where_it_moves(readings)) else { return };
        println!("{folder} with touches: {} challenges in {} heartbeats", tally.challenges, tally.heartbeats);
        assert_eq!(tally.blocks, 0, "{folder}");
    }
}

/// The other way round: touches on a phone that really lies on a table and is not touched by anybody.
#[test]
fn touches_from_afar_on_a_real_phone_on_a_table_are_noticed() {
    let Some(files) = recordings("imu_table") else { return };
    let (mut all, mut caught, mut delays) = (0, 0, Vec::new());
    for path in files {
        for recording in load(&path) {
            let mut engine = DeviceEngine::new(Sensors::default());
            let mut readings = recording;
            for (n, r) in readings.iter_mut().skip(300).step_by(25).enumerate() {
                r.touch = touch(n as u64);
            }
            all += 1;
            let verdicts = heartbeats(&mut engine, &readings, 50);
            if let Some(at) = verdicts.iter().position(|a| a.decision == Decision::Block) {
                caught += 1;
                delays.push((at + 1) * 50 - 300);
            }
        }
    }
    delays.sort_unstable();
    println!("remote touches on real phones at rest: {caught} of {all} locked, after {:?} readings", delays);
    assert!(caught * 10 >= all * 8, "{caught} of {all}");
}

/// A finger pushes a phone that lies on a table: how hard must it be so that nobody is locked?
#[test]
fn a_real_phone_on_a_table_may_be_tapped() {
    let Some(files) = recordings("imu_table") else { return };
    let recorded: Vec<Vec<Reading>> = files.iter().flat_map(|f| load(f)).collect();
    for push in [0.02, 0.05, 0.1, 0.2, 0.4] {
        let (mut blocked, mut asked) = (0, 0);
        for readings in &recorded {
            let mut readings = readings.clone();
            for (n, place) in (300..readings.len() - 3).step_by(23).enumerate() {
                readings[place].touch = touch(n as u64);
                for (r, share) in readings[place..].iter_mut().zip([1.0, -0.5, 0.25]) {
                    r.accelerometer = r.accelerometer.map(|[x, y, z]| [x, y, z - push * share]);
                }
            }
            let mut engine = DeviceEngine::new(Sensors::default());
            let verdicts = heartbeats(&mut engine, &readings, 50);
            blocked += usize::from(verdicts.iter().any(|a| a.decision == Decision::Block));
            asked += usize::from(verdicts.iter().any(|a| a.decision == Decision::Challenge));
        }
        println!("taps of {push} m/s² on a table: {blocked} of {} locked, {asked} asked", recorded.len());
        assert!(push < 0.1 || blocked == 0, "{push}: {blocked}");
    }
}

/// Half a second of real motion again and again, with fresh noise on it so that no bit repeats.
#[test]
fn a_loop_of_real_motion_is_noticed_under_noise() {
    let Some(files) = recordings("imu_pocket") else { return };
    let add = |v: [f32; 3], noise: [f32; 3], centre: [f32; 3]| -> [f32; 3] {
        std::array::from_fn(|i| v[i] + 2.0 * (noise[i] - centre[i]))
    };
    let (mut all, mut locked) = (0, 0);
    for readings in files.iter().flat_map(|f| load(f)).filter(|r| r.len() > 700) {
        let mut engine = DeviceEngine::new(Sensors::default());
        let looped: Vec<Reading> = (0..400)
            .map(|i: usize| {
                let noise = desk(i as u64);
                let mut r = readings[600 + i % 50].clone();
                r.t_ms = 1000 + i as u64 * 10;
                r.accelerometer = r.accelerometer.map(|v| add(v, noise.accelerometer.unwrap(), [0.05, 0.1, 9.79]));
                r.gyroscope = r.gyroscope.map(|v| add(v, noise.gyroscope.unwrap(), [0.0; 3]));
                r
            })
            .collect();
        all += 1;
        locked += usize::from(heartbeats(&mut engine, &looped, 50).iter().any(|a| a.decision == Decision::Block));
    }
    println!("noisy loops of real motion: {locked} of {all} locked");
    assert!(locked * 10 >= all * 8, "{locked} of {all}");
}
