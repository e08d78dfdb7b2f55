//! A ring of the last `N` values that lives inside its owner: no allocation, no growth.

/// The last `N` values, oldest first. `N` is at most 255.
#[derive(Clone, Debug)]
pub(super) struct Ring<T, const N: usize> {
    items: [T; N],
    /// Where the next value goes.
    head: u8,
    len: u8,
}

impl<T: Copy, const N: usize> Ring<T, N> {
    pub(super) fn new(empty: T) -> Self {
        Self { items: [empty; N], head: 0, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Adds a value; a full ring forgets its oldest.
    pub(super) fn push(&mut self, value: T) {
        if let Some(slot) = self.items.get_mut(usize::from(self.head)) {
            *slot = value;
        }
        let next = self.head + 1;
        self.head = if usize::from(next) == N { 0 } else { next };
        if self.len() < N {
            self.len += 1;
        }
    }

    /// The last `n` values (or as many as there are), oldest first, as two runs.
    pub(super) fn latest(&self, n: usize) -> (&[T], &[T]) {
        let n = n.min(self.len());
        let head = usize::from(self.head);
        let (young, old) = self.items.split_at_checked(head).unwrap_or((&[], &[]));
        if n <= head {
            (young.get(head - n..).unwrap_or(&[]), &[])
        } else {
            (old.get((old.len() + head).saturating_sub(n)..).unwrap_or(&[]), young)
        }
    }

    /// The last `n` values, oldest first.
    pub(super) fn iter_latest(&self, n: usize) -> impl Iterator<Item = &T> {
        let (old, young) = self.latest(n);
        old.iter().chain(young)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_keeps_the_last_values_in_order() {
        let mut ring = Ring::<u32, 5>::new(0);
        for i in 1..=13 {
            ring.push(i);
            for n in 0..=7 {
                let kept: Vec<u32> = ring.iter_latest(n).copied().collect();
                let from = i - (n as u32).min(i).min(5) + 1;
                assert_eq!(kept, (from..=i).collect::<Vec<_>>(), "after {i}, last {n}");
            }
        }
    }
}
