//! The little linear algebra that fitting needs: covariances of a few dozen numbers, their roots and inverses.

/// A square matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    n: usize,
    cells: Vec<f64>,
}

impl Matrix {
    fn zero(n: usize) -> Self {
        Self { n, cells: vec![0.0; n * n] }
    }

    fn get(&self, i: usize, j: usize) -> f64 {
        self.cells.get(i * self.n + j).copied().unwrap_or(0.0)
    }

    fn set(&mut self, i: usize, j: usize, value: f64) {
        if let Some(cell) = self.cells.get_mut(i * self.n + j) {
            *cell = value;
        }
    }

    /// Sum of outer products over `degrees` of freedom.
    pub fn scatter(rows: &[Vec<f64>], degrees: f64) -> Self {
        let n = rows.first().map_or(0, Vec::len);
        let mut out = Self::zero(n);
        for row in rows {
            for (i, x) in row.iter().enumerate() {
                for (j, y) in row.iter().enumerate() {
                    out.set(i, j, out.get(i, j) + x * y / degrees);
                }
            }
        }
        out
    }

    /// Keeps a share of what lies beside the diagonal.
    pub fn shrunk(mut self, share: f64) -> Self {
        for i in 0..self.n {
            for j in 0..self.n {
                if i != j {
                    self.set(i, j, self.get(i, j) * share);
                }
            }
            self.set(i, i, self.get(i, i).max(1e-4));
        }
        self
    }

    /// The sum.
    pub fn plus(&self, other: &Self) -> Self {
        Self { n: self.n, cells: self.cells.iter().zip(&other.cells).map(|(a, b)| a + b).collect() }
    }

    /// The lower triangle `W` with `W·C·Wᵀ = 1`: the inverse of the Cholesky root. `None` unless positive definite.
    pub fn whitening(&self) -> Option<Self> {
        let n = self.n;
        let mut root = Self::zero(n);
        for i in 0..n {
            for j in 0..=i {
                let sum: f64 = (0..j).map(|k| root.get(i, k) * root.get(j, k)).sum();
                let rest = self.get(i, j) - sum;
                if i == j {
                    if rest <= 0.0 {
                        return None;
                    }
                    root.set(i, i, rest.sqrt());
                } else {
                    root.set(i, j, rest / root.get(j, j));
                }
            }
        }
        let mut inverse = Self::zero(n);
        for i in 0..n {
            inverse.set(i, i, 1.0 / root.get(i, i));
            for j in 0..i {
                let sum: f64 = (j..i).map(|k| root.get(i, k) * inverse.get(k, j)).sum();
                inverse.set(i, j, -sum / root.get(i, i));
            }
        }
        Some(inverse)
    }

    /// The lower triangle, row by row.
    pub fn triangle(&self) -> Vec<f64> {
        (0..self.n).flat_map(|i| (0..=i).map(move |j| (i, j))).map(|(i, j)| self.get(i, j)).collect()
    }

    /// Natural logarithm of the determinant of a triangle.
    pub fn log_determinant(&self) -> f64 {
        (0..self.n).map(|i| self.get(i, i).abs().max(1e-300).ln()).sum()
    }

    /// The product with a vector.
    pub fn times(&self, v: &[f64]) -> Vec<f64> {
        self.cells.chunks(self.n.max(1)).map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum()).collect()
    }
}

/// Squared length.
pub fn square(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whitening_whitens() {
        let rows = vec![vec![1.0, 0.5], vec![-2.0, 0.1], vec![0.3, -0.9]];
        let covariance = Matrix::scatter(&rows, 3.0);
        let whitening = covariance.whitening();
        let white: Vec<Vec<f64>> = rows.iter().filter_map(|r| Some(whitening.as_ref()?.times(r))).collect();
        let one = Matrix::scatter(&white, 3.0);
        for (i, j, want) in [(0, 0, 1.0), (1, 1, 1.0), (0, 1, 0.0)] {
            assert!((one.get(i, j) - want).abs() < 1e-9);
        }
    }
}
