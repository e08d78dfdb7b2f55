//! The breaker under a clock that the test moves.

use super::*;

const US: fn(u64) -> Duration = Duration::from_micros;
const MS: fn(u64) -> Duration = Duration::from_millis;
const S: fn(u64) -> Duration = Duration::from_secs;

fn bounds() -> Bounds {
    Bounds { mean: MS(2), p95: MS(10), throughput_min: 20, queue: 1_000, open: S(5) }
}

struct Run {
    breaker: Breaker,
    now: Timestamp,
}

impl Run {
    fn new() -> Self {
        let now = Timestamp::from_millis(1_800_000_000_000);
        Self { breaker: Breaker::new(bounds(), now), now }
    }

    /// `n` heartbeats spread over a second, each of which takes `took` when it is judged in full.
    fn second(&mut self, n: u64, took: impl Fn(u64) -> Duration, queued: u64) -> Vec<Effort> {
        let mut efforts = Vec::new();
        for i in 0..n {
            let effort = self.breaker.admit(self.now, queued);
            self.breaker.observe(self.now, took(i), effort);
            efforts.push(effort);
            self.now = self.now.plus(Duration::from_secs(1) / u32::try_from(n).unwrap_or(1));
        }
        efforts
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        self.breaker.tick(self.now, 0);
    }

    fn causes(&mut self) -> Vec<&'static str> {
        let name = |change: &Change| match change {
            Change::Degraded { cause, .. } => cause.as_str(),
            Change::Recovered { .. } => "recovered",
        };
        self.breaker.take_changes().iter().map(name).collect()
    }
}

#[test]
fn each_of_the_four_measures_opens_it_and_health_does_not() {
    let slow_tail = |i: u64| if i.is_multiple_of(10) { MS(15) } else { US(10) };
    let rare = |i: u64| if i == 7 { MS(60) } else { US(10) };
    for (what, n, took, queued, cause) in [
        ("all is well", 200, Box::new(|_| US(50)) as Box<dyn Fn(u64) -> Duration>, 900, None),
        ("slow on average", 50, Box::new(|_| MS(3)), 0, Some("mean_latency")),
        ("a slow tail", 100, Box::new(slow_tail), 0, Some("p95_latency")),
        ("a single slow one", 100, Box::new(rare), 0, None),
        ("few, and slow", 10, Box::new(|_| MS(50)), 0, None),
        ("a long queue", 1, Box::new(|_| US(50)), 1_000, Some("queue_length")),
        ("few judged while many wait", 10, Box::new(|_| US(50)), STARVED_QUEUE, Some("throughput")),
        ("few judged because few come", 10, Box::new(|_| US(50)), 0, None),
    ] {
        let mut run = Run::new();
        run.second(n, took, queued);
        run.breaker.tick(run.now.plus(MS(1)), 0);
        assert_eq!(run.causes(), cause.into_iter().collect::<Vec<_>>(), "{what}");
        assert_eq!(run.breaker.cause().map(Cause::as_str), cause, "{what}");
    }
}

#[test]
fn it_says_once_that_it_opened_probes_and_comes_back_by_itself() {
    let mut run = Run::new();
    run.second(100, |_| MS(5), 0);
    let open = run.second(400, |_| MS(5), 0);
    assert!(open.iter().all(|e| *e == Effort::Simplified));
    assert_eq!(run.causes(), ["mean_latency"], "one entry at the change, none for each heartbeat");

    run.wait(S(5));
    assert_eq!(run.breaker.state(), State::HalfOpen);
    let probing = run.second(64, |_| US(50), 0);
    let probes = probing.iter().filter(|e| **e == Effort::Full).count();
    assert_eq!((probes, run.breaker.state()), (8, State::HalfOpen), "each eighth");
    run.second(64, |_| US(50), 0);
    assert_eq!(run.breaker.state(), State::Closed);
    assert_eq!(run.causes(), ["recovered"]);
    assert!(run.second(100, |_| US(50), 0).iter().all(|e| *e == Effort::Full));
    assert_eq!(run.causes(), [""; 0]);
}

#[test]
fn a_bad_probe_opens_it_for_twice_as_long_and_never_for_more_than_five_minutes() {
    let mut run = Run::new();
    run.second(100, |_| MS(5), 0);
    run.second(1, |_| MS(5), 0);
    let (mut gaps, mut gap) = (Vec::new(), 0);
    for _ in 0..2_000 {
        gap += 1;
        if run.second(1, |_| MS(50), 0) == [Effort::Full] {
            gaps.push(gap);
            gap = 0;
        }
    }
    // Seconds from one probe to the next.
    assert_eq!(gaps.get(..8), Some(&[5, 10, 20, 40, 80, 160, 300, 300][..]), "{gaps:?}");
    assert_eq!(run.causes(), ["mean_latency"], "one spell, one entry");
}

#[test]
fn a_long_queue_keeps_it_open_and_silence_closes_it() {
    let mut run = Run::new();
    run.second(1, |_| US(50), 5_000);
    for _ in 0..20 {
        run.second(4, |_| US(50), 5_000);
        assert_eq!(run.breaker.state(), State::Open);
    }
    run.wait(S(6));
    run.wait(S(9));
    assert_eq!(run.causes(), ["queue_length", "recovered"]);
    assert_eq!(run.breaker.state(), State::Closed);
}

#[test]
fn a_clock_that_is_set_does_not_keep_it_open() {
    for jump in [-86_400_i64, 86_400] {
        let mut run = Run::new();
        run.second(1, |_| US(50), 1_000);
        assert_eq!(run.breaker.state(), State::Open);
        run.now = Timestamp::from_millis(run.now.as_millis() + jump * 1_000);
        run.second(2, |_| US(50), 0);
        assert_eq!(run.breaker.state(), State::HalfOpen, "{jump}");
    }
    let mut run = Run::new();
    run.now = run.now.minus(S(86_400));
    run.second(50, |_| MS(5), 0);
    run.second(2, |_| US(50), 0);
    assert_eq!(run.causes(), ["mean_latency"], "measured from the new time on");
}
