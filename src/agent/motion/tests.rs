//! How people, attacks and replays move, and that a run can be repeated.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use super::*;

/// A run can be repeated from its seed, and two devices do not move alike.
#[test]
fn a_seed_decides_everything() {
    let take = |seed| {
        let mut human = Human::new(seed);
        (0..500).map(|_| human.next_reading()).collect::<Vec<_>>()
    };
    assert_eq!(take(7), take(7));
    assert_ne!(take(7), take(8));
    for kind in AttackKind::ALL {
        let history = take(7);
        let run = |seed| {
            let mut attack = Attack::new(kind, seed, &history);
            (0..200).map(|_| attack.next_reading()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1), "{kind}");
        let first = run(1).into_iter().next().unwrap();
        assert!(first.t_ms > history.last().unwrap().t_ms, "{kind} goes on where the owner stopped");
    }
}

#[test]
fn a_person_is_within_what_sensors_give() {
    let mut touches = 0;
    for seed in 0..20 {
        let mut human = Human::new(seed);
        let mut last = 0;
        for _ in 0..3000 {
            let r = human.next_reading();
            assert!(r.t_ms > last);
            last = r.t_ms;
            let (a, g) = (r.accelerometer.unwrap(), r.gyroscope.unwrap());
            let size = a.iter().map(|v| v * v).sum::<f32>().sqrt();
            assert!((2.0..30.0).contains(&size), "{a:?}");
            assert!(g.iter().all(|v| v.abs() < 10.0), "{g:?}");
            touches += u32::from(r.touch.is_some());
        }
    }
    assert!(touches > 500, "{touches} touches in 20 minutes");
}

#[test]
fn kinds_have_the_names_of_the_command_line() {
    for kind in AttackKind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    assert!(
        "Still".parse::<AttackKind>().unwrap_err().contains("still, emulator, noise, sine, loop, overlay, mirroring")
    );
}

#[test]
fn a_recording_is_read_by_the_names_of_its_columns() {
    let text = "exec,t_ms,az,ay,ax,label\n1,0,9.8,0.1,0.2,SEA\n1,20,9.7,0.1,0.2,SEA\n\n2,0,9.6,0.1,0.2,SEA\n";
    let recording = Arc::new(Recording::parse(text).unwrap());
    assert_eq!((recording.len(), recording.has_gyroscope()), (3, false));
    let mut replay = Replay::from_start(recording);
    let taken: Vec<_> = (0..4).map(|_| replay.next_reading()).collect();
    assert_eq!(
        taken.iter().map(|r| r.t_ms).collect::<Vec<_>>(),
        [20, 40, 60, 80],
        "seams and the end do not turn time"
    );
    assert_eq!(taken.first().unwrap().accelerometer, Some([0.2, 0.1, 9.8]));
    assert_eq!(taken.first().unwrap().accelerometer, taken.last().unwrap().accelerometer);
    assert_eq!(taken.first().unwrap().gyroscope, None);
}

#[test]
fn a_bad_recording_names_line_and_column() {
    for (text, expect) in [
        ("", "column ax is missing"),
        ("ax,ay,az,gx\n", "column gy is missing"),
        ("ax,ay,az\n1,2,3\n", "fewer than two rows"),
        ("ax,ay,az\n1,2,3\n1,oops,3\n", "line 3, column ay: \"oops\""),
        ("ax,ay,az\n1,2,3\n\n1,2\n", "line 4, column az: \"\""),
        ("ax,ay,az\n1,2,NaN\n", "line 2, column az: \"NaN\""),
        ("ax,ay,az\n1,2,inf\n", "line 2, column az: \"inf\""),
    ] {
        match Recording::parse(text) {
            Ok(_) => panic!("{text:?} was taken"),
            Err(e) => assert!(e.to_string().contains(expect), "{text:?}: {e}"),
        }
    }
}
