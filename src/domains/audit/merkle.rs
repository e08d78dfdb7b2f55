//! The audit log's Merkle tree (RFC 6962, section 2.1; RFC 9162, section 2.1): append, prove, verify.
//!
//! Only complete subtrees have stored nodes: node (level, index) covers the leaves `index << level` up to the next
//! multiple of `1 << level`, and never changes once it is there. Whatever hangs over the right edge is computed from
//! those. The verifying half needs nothing but hashes, so an outsider can do it with another program.
//!
//! Pure: knows nothing of entries, tables or tenants, and does no I/O; nodes are asked of the caller.

use sha2::{Digest, Sha256};

/// SHA-256 of a leaf, a node or a whole tree.
pub type Hash = [u8; 32];

/// The most leaves a tree may have; far beyond any log, and low enough that no shift overflows.
pub const SIZE_MAX: u64 = 1 << 62;

/// Finds the stored node (level, index).
pub type NodeSource<'a> = &'a dyn Fn(u8, u64) -> Option<Hash>;

/// Why no proof could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MerkleError {
    /// The leaf or the older size does not lie within the tree.
    #[error("the position lies outside the tree")]
    OutOfRange,
    /// A node that must be stored is not: the log is damaged.
    #[error("the tree's node {index} of level {level} is missing")]
    MissingNode {
        /// 0 is the level of the leaves.
        level: u8,
        /// From the left.
        index: u64,
    },
    /// The number of hashes does not fit the size.
    #[error("the right edge does not fit the size of the tree")]
    BadFrontier,
}

/// A node that a push completed, to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// 0 is the level of the leaves.
    pub level: u8,
    /// From the left.
    pub index: u64,
    /// Its hash.
    pub hash: Hash,
}

/// The hash of a leaf: SHA-256 of a zero byte and the content.
pub fn leaf_hash(content: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(content).finalize().into()
}

/// The hash of two subtrees: SHA-256 of a one byte and both hashes.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of no leaves: SHA-256 of nothing.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The root of a tree of these leaf hashes.
pub fn root_of(leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::default();
    for leaf in leaves {
        frontier.push(*leaf);
    }
    frontier.root()
}

/// A growing tree's right edge: the roots of its complete subtrees, the largest first. 64 hashes at most.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The edge that was stored as its size and hashes.
    ///
    /// # Errors
    /// [`MerkleError::BadFrontier`] unless there is one hash for each bit that is set in `size`.
    pub fn from_parts(size: u64, peaks: Vec<Hash>) -> Result<Self, MerkleError> {
        let fits = size <= SIZE_MAX && usize::try_from(size.count_ones()) == Ok(peaks.len());
        if fits { Ok(Self { size, peaks }) } else { Err(MerkleError::BadFrontier) }
    }

    /// Builds the edge of a tree of `size` leaves from its stored nodes.
    ///
    /// # Errors
    /// [`MerkleError::MissingNode`], [`MerkleError::OutOfRange`].
    pub fn from_nodes(size: u64, node: NodeSource<'_>) -> Result<Self, MerkleError> {
        if size > SIZE_MAX {
            return Err(MerkleError::OutOfRange);
        }
        Ok(Self { size, peaks: peaks_between(0, size, node)? })
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the complete subtrees, the largest first.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Appends a leaf; gives the nodes that are complete now, the leaf itself first. All of them are to be stored in the
    /// same commit. At [`SIZE_MAX`] leaves nothing is appended and nothing comes back.
    pub fn push(&mut self, leaf: Hash) -> Vec<Node> {
        if self.size >= SIZE_MAX {
            return Vec::new();
        }
        let mut node = Node { level: 0, index: self.size, hash: leaf };
        let mut completed = vec![node];
        // An odd index is a right child: its left sibling is the last peak.
        while node.index & 1 == 1 {
            let Some(left) = self.peaks.pop() else { break };
            node = Node { level: node.level + 1, index: node.index >> 1, hash: node_hash(&left, &node.hash) };
            completed.push(node);
        }
        self.peaks.push(node.hash);
        self.size += 1;
        completed
    }

    /// The root of the tree as it is now.
    pub fn root(&self) -> Hash {
        fold_right(&self.peaks).unwrap_or_else(empty_root)
    }
}

/// The root of a tree of `size` leaves, from its stored nodes.
///
/// # Errors
/// [`MerkleError::MissingNode`], [`MerkleError::OutOfRange`].
pub fn root_at(size: u64, node: NodeSource<'_>) -> Result<Hash, MerkleError> {
    Frontier::from_nodes(size, node).map(|frontier| frontier.root())
}

/// The hashes that lead from leaf `index` to the root of the first `size` leaves, from the bottom up (RFC 9162, section
/// 2.1.3.1).
///
/// # Errors
/// [`MerkleError::OutOfRange`] unless `index < size`; [`MerkleError::MissingNode`].
pub fn inclusion_proof(index: u64, size: u64, node: NodeSource<'_>) -> Result<Vec<Hash>, MerkleError> {
    if index >= size || size > SIZE_MAX {
        return Err(MerkleError::OutOfRange);
    }
    let (mut low, mut high) = (0, size);
    let mut from_top = Vec::new();
    while high - low > 1 {
        let middle = low + split_of(high - low);
        if index < middle {
            from_top.push(range_hash(middle, high, node)?);
            high = middle;
        } else {
            from_top.push(range_hash(low, middle, node)?);
            low = middle;
        }
    }
    from_top.reverse();
    Ok(from_top)
}

/// The hashes that prove that the first `size` leaves begin with the first `from` leaves (RFC 9162, section 2.1.4.1).
/// Empty when the two are equal or `from` is 0, where there is nothing to prove.
///
/// # Errors
/// [`MerkleError::OutOfRange`] unless `from <= size`; [`MerkleError::MissingNode`].
pub fn consistency_proof(from: u64, size: u64, node: NodeSource<'_>) -> Result<Vec<Hash>, MerkleError> {
    if from > size || size > SIZE_MAX {
        return Err(MerkleError::OutOfRange);
    }
    if from == 0 || from == size {
        return Ok(Vec::new());
    }
    let (mut low, mut high) = (0, size);
    let mut from_top = Vec::new();
    // The older tree ends at `from`; walk down to the subtree that ends there.
    while high != from {
        let middle = low + split_of(high - low);
        if from <= middle {
            from_top.push(range_hash(middle, high, node)?);
            high = middle;
        } else {
            from_top.push(range_hash(low, middle, node)?);
            low = middle;
        }
    }
    // Where that subtree is the whole older tree, the verifier has its hash already: it is the older root.
    if low != 0 {
        from_top.push(range_hash(low, high, node)?);
    }
    from_top.reverse();
    Ok(from_top)
}

/// Whether `proof` shows that `leaf` is the leaf `index` of the tree of `size` leaves with this `root` (RFC 9162,
/// section 2.1.3.2). Takes any input.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether `proof` shows that the tree of `size` leaves with `root` begins with the tree of `from` leaves with
/// `from_root` (RFC 9162, section 2.1.4.2). Takes any input.
pub fn verify_consistency(from: u64, size: u64, proof: &[Hash], from_root: &Hash, root: &Hash) -> bool {
    if from > size {
        return false;
    }
    if from == size {
        return proof.is_empty() && from_root == root && (size != 0 || *root == empty_root());
    }
    if from == 0 {
        return proof.is_empty() && *from_root == empty_root();
    }
    // A complete older tree is its own first step; the proof then leaves it out.
    let (first, rest) = if from.is_power_of_two() {
        (from_root, proof)
    } else {
        match proof.split_first() {
            Some(split) => split,
            None => return false,
        }
    };
    let (mut at, mut last) = (from - 1, size - 1);
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    let (mut old, mut new) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old = node_hash(sibling, &old);
            new = node_hash(sibling, &new);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && old == *from_root && new == *root
}

/// The largest power of two below `n`, for `n` of 2 or more: where a tree of `n` leaves splits.
fn split_of(n: u64) -> u64 {
    1 << (n.saturating_sub(1) | 1).ilog2()
}

/// The hash of the leaves `low..high`, where `low` is a place at which a tree splits.
fn range_hash(low: u64, high: u64, node: NodeSource<'_>) -> Result<Hash, MerkleError> {
    Ok(fold_right(&peaks_between(low, high, node)?).unwrap_or_else(empty_root))
}

/// The complete subtrees that make up `low..high`, the largest first.
fn peaks_between(mut low: u64, high: u64, node: NodeSource<'_>) -> Result<Vec<Hash>, MerkleError> {
    let mut peaks = Vec::new();
    while low < high {
        let power = (high - low).ilog2();
        let level = u8::try_from(power).map_err(|_| MerkleError::OutOfRange)?;
        let index = low >> power;
        peaks.push(node(level, index).ok_or(MerkleError::MissingNode { level, index })?);
        low += 1 << power;
    }
    Ok(peaks)
}

fn fold_right(peaks: &[Hash]) -> Option<Hash> {
    peaks.iter().rev().copied().reduce(|right, left| node_hash(&left, &right))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use std::collections::HashMap;

    /// RFC 6962, section 2.1, word for word.
    fn naive_root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [one] => *one,
            many => {
                let k = naive_split(many.len());
                node_hash(&naive_root(&many[..k]), &naive_root(&many[k..]))
            }
        }
    }

    /// RFC 6962, section 2.1.1.
    fn naive_path(m: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let k = naive_split(leaves.len());
        let (mut path, sibling) = if m < k {
            (naive_path(m, &leaves[..k]), naive_root(&leaves[k..]))
        } else {
            (naive_path(m - k, &leaves[k..]), naive_root(&leaves[..k]))
        };
        path.push(sibling);
        path
    }

    /// RFC 6962, section 2.1.2.
    fn naive_subproof(m: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
        if m == leaves.len() {
            return if whole { Vec::new() } else { vec![naive_root(leaves)] };
        }
        let k = naive_split(leaves.len());
        let (mut proof, sibling) = if m <= k {
            (naive_subproof(m, &leaves[..k], whole), naive_root(&leaves[k..]))
        } else {
            (naive_subproof(m - k, &leaves[k..], false), naive_root(&leaves[..k]))
        };
        proof.push(sibling);
        proof
    }

    fn naive_split(n: usize) -> usize {
        let mut k = 1;
        while k * 2 < n {
            k *= 2;
        }
        k
    }

    fn leaves(n: usize) -> Vec<Hash> {
        (0..n).map(|i| leaf_hash(format!("entry {i}").as_bytes())).collect()
    }

    fn grown(leaves: &[Hash]) -> (Frontier, HashMap<(u8, u64), Hash>) {
        let mut frontier = Frontier::default();
        let mut nodes = HashMap::new();
        for leaf in leaves {
            for node in frontier.push(*leaf) {
                assert!(nodes.insert((node.level, node.index), node.hash).is_none(), "a node never changes");
            }
        }
        (frontier, nodes)
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    const REFERENCE_LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];

    /// The values that implementations of Certificate Transparency check themselves against.
    #[test]
    fn the_reference_tree_has_the_reference_roots() {
        let leaves: Vec<Hash> = REFERENCE_LEAVES.iter().map(|l| leaf_hash(&unhex(l))).collect();
        for (size, root) in [
            (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
            (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
            (4, "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
            (5, "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
            (6, "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"),
            (7, "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
            (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
        ] {
            assert_eq!(root_of(&leaves[..size]).to_vec(), unhex(root), "{size} leaves");
        }
    }

    /// RFC 6962, section 2.1.3: the paths of the tree of seven leaves, by the RFC's own names.
    #[test]
    fn the_seven_leaf_example_has_the_printed_paths() {
        let d = leaves(7);
        let (_, nodes) = grown(&d);
        let node = |l: u8, i: u64| nodes.get(&(l, i)).copied();
        let (a, b, c, e, f, j) = (d[0], d[1], d[2], d[4], d[5], d[6]);
        let (g, h, i) = (node_hash(&a, &b), node_hash(&c, &d[3]), node_hash(&e, &f));
        let (k, l) = (node_hash(&g, &h), node_hash(&i, &j));
        assert_eq!(inclusion_proof(0, 7, &node).unwrap(), [b, h, l]);
        assert_eq!(inclusion_proof(3, 7, &node).unwrap(), [c, g, l]);
        assert_eq!(inclusion_proof(4, 7, &node).unwrap(), [f, j, k]);
        assert_eq!(inclusion_proof(6, 7, &node).unwrap(), [i, k]);
        assert_eq!(consistency_proof(3, 7, &node).unwrap(), [c, d[3], g, l]);
        assert_eq!(consistency_proof(4, 7, &node).unwrap(), [l]);
        assert_eq!(consistency_proof(6, 7, &node).unwrap(), [i, j, k]);
    }

    #[test]
    fn every_proof_up_to_130_leaves_is_the_rfcs_own_and_verifies() {
        let all = leaves(130);
        let (_, nodes) = grown(&all);
        let node = |l: u8, i: u64| nodes.get(&(l, i)).copied();
        let roots: Vec<Hash> = (0..=all.len()).map(|n| naive_root(&all[..n])).collect();
        // The naive definition is slow: the larger sizes are checked around the powers of two only.
        for n in (0..=all.len()).filter(|n| *n <= 40 || [63, 64, 65, 96, 127, 128, 129, 130].contains(n)) {
            let size = n as u64;
            let (frontier, _) = grown(&all[..n]);
            assert_eq!(frontier.root(), roots[n]);
            assert_eq!(root_at(size, &node), Ok(roots[n]));
            assert_eq!(Frontier::from_nodes(size, &node).unwrap(), frontier);
            assert_eq!(Frontier::from_parts(size, frontier.peaks().to_vec()).unwrap(), frontier);
            for m in 0..n {
                let index = m as u64;
                let proof = inclusion_proof(index, size, &node).unwrap();
                assert_eq!(proof, naive_path(m, &all[..n]), "{m} of {n}");
                assert!(verify_inclusion(&all[m], index, size, &proof, &roots[n]), "{m} of {n}");
                let proof = consistency_proof(index, size, &node).unwrap();
                if m > 0 {
                    assert_eq!(proof, naive_subproof(m, &all[..n], true), "{m} to {n}");
                }
                assert!(verify_consistency(index, size, &proof, &roots[m], &roots[n]), "{m} to {n}");
            }
        }
    }

    #[test]
    fn a_proof_of_anything_else_does_not_verify() {
        let all = leaves(40);
        let (_, nodes) = grown(&all);
        let node = |l: u8, i: u64| nodes.get(&(l, i)).copied();
        let root = |n: usize| naive_root(&all[..n]);
        for n in 2..all.len() {
            let size = n as u64;
            for m in 1..n {
                let index = m as u64;
                let proof = inclusion_proof(index, size, &node).unwrap();
                assert!(!verify_inclusion(&all[m - 1], index, size, &proof, &root(n)));
                assert!(!verify_inclusion(&all[m], index - 1, size, &proof, &root(n)));
                assert!(!verify_inclusion(&all[m], size, size, &proof, &root(n)));
                assert!(!verify_inclusion(&all[m], index, size, &proof, &root(n - 1)));
                for changed in mangled(&proof) {
                    assert!(!verify_inclusion(&all[m], index, size, &changed, &root(n)), "{m} of {n}");
                }
                let proof = consistency_proof(index, size, &node).unwrap();
                assert!(!verify_consistency(index, size, &proof, &root(m - 1), &root(n)));
                assert!(!verify_consistency(index, size, &proof, &root(m), &root(n - 1)));
                assert!(!verify_consistency(size, index, &proof, &root(n), &root(m)));
                for changed in mangled(&proof) {
                    assert!(!verify_consistency(index, size, &changed, &root(m), &root(n)), "{m} to {n}");
                }
            }
        }
    }

    /// A bit changed in each hash, one hash left out, one too many.
    fn mangled(proof: &[Hash]) -> Vec<Vec<Hash>> {
        let mut all = Vec::new();
        for i in 0..proof.len() {
            let mut changed = proof.to_vec();
            changed[i][31] ^= 1;
            all.push(changed);
            let mut shorter = proof.to_vec();
            shorter.remove(i);
            all.push(shorter);
        }
        all.push([proof, &[[0; 32]]].concat());
        all
    }

    #[test]
    fn the_edges_are_answers_and_not_panics() {
        let all = leaves(3);
        let (_, nodes) = grown(&all);
        let node = |l: u8, i: u64| nodes.get(&(l, i)).copied();
        let nothing = |_: u8, _: u64| None;
        assert_eq!(inclusion_proof(3, 3, &node), Err(MerkleError::OutOfRange));
        assert_eq!(inclusion_proof(0, 0, &node), Err(MerkleError::OutOfRange));
        assert_eq!(inclusion_proof(0, u64::MAX, &node), Err(MerkleError::OutOfRange));
        assert_eq!(consistency_proof(4, 3, &node), Err(MerkleError::OutOfRange));
        assert_eq!(inclusion_proof(0, 3, &nothing), Err(MerkleError::MissingNode { level: 0, index: 2 }));
        assert_eq!(inclusion_proof(0, SIZE_MAX, &nothing), Err(MerkleError::MissingNode { level: 61, index: 1 }));
        assert_eq!(root_at(0, &nothing), Ok(empty_root()));
        assert_eq!(Frontier::from_parts(3, vec![all[0]]), Err(MerkleError::BadFrontier));
        assert!(verify_consistency(0, 0, &[], &empty_root(), &empty_root()));
        assert!(!verify_consistency(0, 3, &[], &all[0], &root_of(&all)));
        assert!(!verify_inclusion(&all[0], u64::MAX, u64::MAX, &[], &all[0]));
        assert!(!verify_inclusion(&all[0], u64::MAX - 1, u64::MAX, &vec![all[0]; 200], &all[0]));
        assert!(!verify_consistency(u64::MAX - 1, u64::MAX, &vec![all[0]; 200], &all[0], &all[0]));
    }

    proptest::proptest! {
        /// Any interleaving of stopping and resuming from the stored parts gives the same tree.
        #[test]
        fn a_restart_at_any_size_changes_nothing(n in 1_usize..130, stop in 0_usize..130) {
            let all = leaves(n);
            let stop = stop.min(n);
            let (before, nodes) = grown(&all[..stop]);
            let node = |l: u8, i: u64| nodes.get(&(l, i)).copied();
            let mut resumed = Frontier::from_nodes(before.size(), &node).unwrap();
            for leaf in &all[stop..] {
                resumed.push(*leaf);
            }
            proptest::prop_assert_eq!(resumed.root(), naive_root(&all));
        }
    }
}
