//! What waits for one integration, in memory: of each subject only its oldest event may go, and the next one behind it.
//!
//! Fed by commits, rebuilt from the data file at a start. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::kernel::Timestamp;

#[derive(Clone, Copy, Debug)]
struct Waiting {
    due: Timestamp,
    happened: Timestamp,
}

/// Events of one integration, by subject.
#[derive(Debug, Default)]
pub(super) struct Queue {
    subjects: HashMap<Arc<str>, BTreeMap<u64, Waiting>>,
    /// The oldest of each subject that is not under way, by when it is due.
    heads: BTreeSet<(Timestamp, u64, Arc<str>)>,
    under_way: HashSet<Arc<str>>,
    len: usize,
}

impl Queue {
    /// Adds an event, or gives one that is there another time.
    pub fn add(&mut self, seq: u64, subject: &str, due: Timestamp, happened: Timestamp) {
        let subject =
            self.subjects.get_key_value(subject).map_or_else(|| Arc::from(subject), |(kept, _)| Arc::clone(kept));
        self.unlist(&subject);
        let waiting = self.subjects.entry(Arc::clone(&subject)).or_default();
        if waiting.insert(seq, Waiting { due, happened }).is_none() {
            self.len += 1;
        }
        self.list(subject);
    }

    fn head(&self, subject: &str) -> Option<(Timestamp, u64)> {
        self.subjects.get(subject)?.first_key_value().map(|(seq, waiting)| (waiting.due, *seq))
    }

    fn unlist(&mut self, subject: &Arc<str>) {
        if let Some((due, seq)) = self.head(subject) {
            self.heads.remove(&(due, seq, Arc::clone(subject)));
        }
    }

    fn list(&mut self, subject: Arc<str>) {
        if self.under_way.contains(&subject) {
            return;
        }
        match self.head(&subject) {
            Some((due, seq)) => drop(self.heads.insert((due, seq, subject))),
            None => drop(self.subjects.remove(&subject)),
        }
    }

    /// The next event that may go now. Nothing else of its subject goes until [`Queue::done`] or [`Queue::again`].
    pub fn take(&mut self, now: Timestamp) -> Option<(u64, Arc<str>)> {
        let (due, ..) = self.heads.first()?;
        if *due > now {
            return None;
        }
        let (_, seq, subject) = self.heads.pop_first()?;
        self.under_way.insert(Arc::clone(&subject));
        Some((seq, subject))
    }

    /// An event needs to be sent no more.
    pub fn done(&mut self, seq: u64, subject: &Arc<str>) {
        self.under_way.remove(subject);
        if self.subjects.get_mut(subject).and_then(|waiting| waiting.remove(&seq)).is_some() {
            self.len -= 1;
        }
        self.list(Arc::clone(subject));
    }

    /// An event is to be sent again.
    pub fn again(&mut self, seq: u64, subject: &Arc<str>, due: Timestamp) {
        self.under_way.remove(subject);
        if let Some(waiting) = self.subjects.get_mut(subject).and_then(|waiting| waiting.get_mut(&seq)) {
            waiting.due = due;
        }
        self.list(Arc::clone(subject));
    }

    /// When something is due; `None` when nothing waits.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.heads.first().map(|(due, ..)| *due)
    }

    /// Events that wait or are under way.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// When the oldest of them happened.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.subjects.values().flat_map(|waiting| waiting.values().map(|w| w.happened)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn taken(queue: &mut Queue, now: i64) -> Vec<u64> {
        std::iter::from_fn(|| queue.take(at(now))).map(|(seq, _)| seq).collect()
    }

    #[test]
    fn of_one_subject_one_goes_at_a_time_and_others_are_not_held_up() {
        let mut queue = Queue::default();
        for (seq, subject) in [(1, "a"), (2, "a"), (3, "b"), (4, ""), (5, "")] {
            queue.add(seq, subject, at(0), at(0));
        }
        assert_eq!(taken(&mut queue, 0), [1, 3, 4]);
        queue.again(1, &"a".into(), at(100));
        queue.done(3, &"b".into());
        queue.done(4, &"".into());
        assert_eq!(taken(&mut queue, 99), [5], "what failed keeps its subject waiting, and nothing else");
        assert_eq!(taken(&mut queue, 100), [1]);
        queue.done(1, &"a".into());
        assert_eq!((taken(&mut queue, 100), queue.len()), (vec![2], 2));
        queue.done(2, &"a".into());
        queue.done(5, &"".into());
        assert_eq!((queue.len(), queue.next_due(), queue.oldest(), queue.subjects.len()), (0, None, None, 0));
    }

    #[test]
    fn an_older_event_that_is_replayed_goes_before_those_that_wait() {
        let mut queue = Queue::default();
        queue.add(7, "a", at(0), at(7));
        queue.add(9, "a", at(0), at(9));
        assert_eq!(taken(&mut queue, 0), [7]);
        queue.add(3, "a", at(0), at(3));
        assert_eq!(taken(&mut queue, 0), [0_u64; 0], "one is under way");
        queue.again(7, &"a".into(), at(50));
        assert_eq!((taken(&mut queue, 0), queue.oldest()), (vec![3], Some(at(3))));
        queue.done(3, &"a".into());
        assert_eq!(taken(&mut queue, 0), [0_u64; 0]);
        queue.add(7, "a", at(0), at(7));
        assert_eq!((taken(&mut queue, 0), queue.len()), (vec![7], 2), "the same again is no second one");
    }

    proptest::proptest! {
        #[test]
        fn each_subject_comes_out_in_its_order(events in proptest::collection::vec((0_u8..5, 0_i64..50), 1..80), fails in proptest::collection::vec(proptest::bool::ANY, 400)) {
            let mut queue = Queue::default();
            for (seq, (subject, due)) in (1_u64..).zip(&events) {
                queue.add(seq, &subject.to_string(), at(*due), at(0));
            }
            let (mut out, mut now): (HashMap<Arc<str>, Vec<u64>>, _) = (HashMap::new(), 0);
            let mut fails = fails.into_iter();
            while queue.len() > 0 {
                now += 10;
                let all: Vec<_> = std::iter::from_fn(|| queue.take(at(now))).collect();
                for (seq, subject) in all {
                    if fails.next().unwrap_or(false) {
                        queue.again(seq, &subject, at(now + 30));
                    } else {
                        queue.done(seq, &subject);
                        out.entry(subject).or_default().push(seq);
                    }
                }
            }
            proptest::prop_assert_eq!(out.values().map(Vec::len).sum::<usize>(), events.len());
            for seqs in out.values() {
                proptest::prop_assert!(seqs.is_sorted());
            }
        }
    }
}
