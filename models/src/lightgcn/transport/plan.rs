//! Plans that move one uniform distribution to another at little cost: of Wasserstein's distance by the inexact proximal
//! point method (IPOT; Xie et al., UAI 2019, algorithm 1), and of Gromov-Wasserstein's by linearising it (Peyré et al.,
//! ICML 2016, proposition 2).
//!
//! IPOT multiplies the plan by `exp(-C / β)` and scales rows and columns, again and again. So the plan after t rounds is
//! `exp(f_a + g_b - t C_ab / β)`. Only the potentials f and g are kept, and each is a log-sum-exp with the largest exponent
//! taken out. A plan whose entries would be 0 in floating point is no special case then, and no row is divided by 0.
//!
//! Columns have the right sums after each round, and rows nearly. The result is therefore rounded to the nearest plan that
//! has both (Altschuler et al., NIPS 2017, algorithm 2).

use crate::lanes::{dispatched, exp_f64};

/// Numbers of a register.
const LANES: usize = 8;

/// β of the proximal point method for Wasserstein's distance, as in GSC's code.
const STEP: f64 = 0.5;
/// Its rounds.
const ROUNDS: usize = 40;
/// λ, in the place of β, for Gromov-Wasserstein's distance.
const GROMOV_STEP: f64 = 0.1;
/// The linearisations, and the rounds for each.
const GROMOV_ROUNDS: (usize, usize) = (5, 20);

/// A matrix of 64-bit numbers, whose rows are filled up with zeros to whole registers.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Matrix {
    pub rows: usize,
    pub cols: usize,
    stride: usize,
    values: Vec<f64>,
}

impl Matrix {
    /// Makes it a matrix of zeros. It allocates nothing if it was as large before.
    pub fn reset(&mut self, rows: usize, cols: usize) {
        let stride = cols.next_multiple_of(LANES);
        self.values.clear();
        self.values.resize(rows * stride, 0.0);
        (self.rows, self.cols, self.stride) = (rows, cols, stride);
    }

    /// Makes it a matrix of these values.
    pub fn fill(&mut self, rows: usize, cols: usize, mut value: impl FnMut(usize, usize) -> f64) {
        self.reset(rows, cols);
        for a in 0..rows {
            self.row_mut(a).iter_mut().enumerate().for_each(|(b, x)| *x = value(a, b));
        }
    }

    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.stride..][..self.cols]
    }

    pub fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.values[row * self.stride..][..self.cols]
    }

    /// The inner product with a matrix of the same shape.
    pub fn dot(&self, other: &Self) -> f64 {
        self.values.iter().zip(&other.values).map(|(x, y)| x * y).sum()
    }

    /// `self = a b`.
    fn product(&mut self, a: &Self, b: &Self) {
        self.reset(a.rows, b.cols);
        for (to, row) in self.values.chunks_exact_mut(b.stride).zip(0..a.rows) {
            for (factor, from) in a.row(row).iter().zip(b.values.chunks_exact(b.stride)) {
                to.iter_mut().zip(from).for_each(|(to, x)| *to += factor * x);
            }
        }
    }
}

/// The potentials of a plan, and what a round needs.
#[derive(Debug, Default)]
struct Potentials {
    of_rows: Vec<f64>,
    of_cols: Vec<f64>,
    /// The potential of each column plus the logarithm of its last factor.
    ahead: Vec<f64>,
    /// The cost with rows and columns swapped.
    turned: Matrix,
    tops: Vec<f64>,
    sums: Vec<f64>,
}

/// `sums = Σ_a exp(from_a - scale C_ab - top_b)`, in which `tops` are the largest of the rest of the exponents, for each
/// column b. Columns are side by side in registers.
#[inline(always)]
fn exponentials<const FMA: bool>(cost: &Matrix, from: &[f64], scale: f64, tops: &mut Vec<f64>, sums: &mut Vec<f64>) {
    tops.clear();
    tops.resize(cost.stride, f64::NEG_INFINITY);
    sums.clear();
    sums.resize(cost.stride, 0.0);
    for (row, from) in cost.values.chunks_exact(cost.stride).zip(from) {
        for (top, cost) in tops.iter_mut().zip(row) {
            *top = top.max(from - scale * cost);
        }
    }
    for (row, from) in cost.values.chunks_exact(cost.stride).zip(from) {
        for ((sum, top), cost) in sums.iter_mut().zip(&*tops).zip(row) {
            *sum += exp_f64::<FMA>(from - scale * cost - top);
        }
    }
}

dispatched! {
    /// Some rounds of the proximal point method from a plan whose entries are all 1.
    fn iterate(cost: &Matrix, step: f64, rounds: usize, potentials: &mut Potentials) {
        let Potentials { of_rows, of_cols, ahead, turned, tops, sums } = potentials;
        turned.fill(cost.cols, cost.rows, |b, a| cost.row(a)[b]);
        let (log_rows, log_cols) = ((cost.rows as f64).ln(), (cost.cols as f64).ln());
        of_rows.clear();
        of_rows.resize(cost.rows, 0.0);
        of_cols.clear();
        of_cols.resize(cost.cols, 0.0);
        ahead.clear();
        ahead.resize(cost.cols, -log_cols);
        for round in 1..=rounds {
            let scale = round as f64 / step;
            exponentials::<FMA>(turned, ahead, scale, tops, sums);
            for ((potential, top), sum) in of_rows.iter_mut().zip(&*tops).zip(&*sums) {
                *potential = -log_rows - top - sum.ln();
            }
            exponentials::<FMA>(cost, of_rows, scale, tops, sums);
            let columns = of_cols.iter_mut().zip(ahead.iter_mut());
            for ((potential, ahead), (top, sum)) in columns.zip(tops.iter().zip(&*sums)) {
                let next = -log_cols - top - sum.ln();
                *ahead = 2.0 * next - *potential;
                *potential = next;
            }
        }
    }

    /// `plan = exp(f_a + g_b - scale C_ab)`.
    fn exponentiate(cost: &Matrix, scale: f64, potentials: &Potentials, plan: &mut Matrix) {
        plan.reset(cost.rows, cost.cols);
        let rows = plan.values.chunks_exact_mut(cost.stride).zip(cost.values.chunks_exact(cost.stride));
        for ((plan, cost_of), potential) in rows.zip(&potentials.of_rows) {
            for ((p, cost), of_col) in plan.iter_mut().zip(cost_of).zip(&potentials.of_cols).take(cost.cols) {
                // No entry is above 1. At immense costs, rounding of the exponent could say so.
                let exponent = potential + of_col - scale * cost;
                *p = exp_f64::<FMA>(if exponent > 0.0 { 0.0 } else { exponent });
            }
        }
    }
}

/// What the search of a plan needs. It is reused between plans, and then allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Solver {
    potentials: Potentials,
    /// The plan that was found last.
    pub plan: Matrix,
    cols: Vec<f64>,
    missing: Vec<f64>,
    squares: [Vec<f64>; 2],
    linear: Matrix,
    moved: Matrix,
    product: Matrix,
}

impl Solver {
    /// The plan of the proximal point method after some rounds, as it is.
    fn proximal(&mut self, cost: &Matrix, step: f64, rounds: usize) {
        iterate(cost, step, rounds, &mut self.potentials);
        exponentiate(cost, rounds as f64 / step, &self.potentials, &mut self.plan);
    }

    /// Gives rows and columns of the plan the sums of uniform distributions.
    fn round(&mut self) {
        let Self { plan, cols, missing, .. } = self;
        let (row_sum, col_sum) = (1.0 / plan.rows as f64, 1.0 / plan.cols as f64);
        cols.clear();
        cols.resize(plan.cols, 0.0);
        for a in 0..plan.rows {
            let row = plan.row_mut(a);
            let factor = (row_sum / row.iter().sum::<f64>()).min(1.0);
            for (x, sum) in row.iter_mut().zip(&mut *cols) {
                *x *= factor;
                *sum += *x;
            }
        }
        cols.iter_mut().for_each(|sum| *sum = (col_sum / *sum).min(1.0));
        missing.clear();
        let mut total = 0.0;
        for a in 0..plan.rows {
            let row = plan.row_mut(a);
            row.iter_mut().zip(&*cols).for_each(|(x, factor)| *x *= factor);
            let lacks = (row_sum - row.iter().sum::<f64>()).max(0.0);
            missing.push(lacks);
            total += lacks;
        }
        if total == 0.0 {
            return;
        }
        cols.fill(col_sum);
        for a in 0..plan.rows {
            cols.iter_mut().zip(plan.row(a)).for_each(|(lacks, x)| *lacks -= x);
        }
        for (a, lacks) in missing.iter().enumerate() {
            let share = lacks / total;
            plan.row_mut(a).iter_mut().zip(&*cols).for_each(|(x, lacks)| *x += share * lacks.max(0.0));
        }
    }

    /// Wasserstein's distance at this cost, `⟨C, T⟩`. Leaves T as the plan.
    pub fn wasserstein(&mut self, cost: &Matrix) -> f64 {
        self.proximal(cost, STEP, ROUNDS);
        self.round();
        cost.dot(&self.plan)
    }

    /// Gromov-Wasserstein's distance between costs within either side, which are symmetric:
    /// `Σ (A_ac - B_bd)² T_ab T_cd`. Leaves T as the plan.
    pub fn gromov_wasserstein(&mut self, of_rows: &Matrix, of_cols: &Matrix) -> f64 {
        let (rows, cols) = (of_rows.rows, of_cols.rows);
        for (squares, costs) in self.squares.iter_mut().zip([of_rows, of_cols]) {
            let mean = |row: usize| costs.row(row).iter().map(|x| x * x).sum::<f64>() / costs.rows as f64;
            squares.clear();
            squares.extend((0..costs.rows).map(mean));
        }
        let each = 1.0 / (rows * cols) as f64;
        self.plan.fill(rows, cols, |_, _| each);
        self.linearise(of_rows, of_cols);
        for _ in 0..GROMOV_ROUNDS.0 {
            let cost = std::mem::take(&mut self.linear);
            self.proximal(&cost, GROMOV_STEP, GROMOV_ROUNDS.1);
            self.linear = cost;
            self.round();
            self.linearise(of_rows, of_cols);
        }
        self.linear.dot(&self.plan)
    }

    /// The linear cost of the plan, `A² p 1ᵀ + 1 (B² q)ᵀ - 2 A T Bᵀ`.
    fn linearise(&mut self, of_rows: &Matrix, of_cols: &Matrix) {
        let Self { plan, squares: [rows, cols], linear, moved, product, .. } = self;
        moved.product(of_rows, plan);
        product.product(moved, of_cols);
        linear.fill(plan.rows, plan.cols, |a, b| rows[a] + cols[b] - 2.0 * product.row(a)[b]);
    }

    /// `slope` times the gradient of Gromov-Wasserstein's distance by the costs of the columns' side, with the plan held
    /// fixed: `2 B_bd q_b q_d - 2 (Tᵀ A T)_bd`. Follows [`Solver::gromov_wasserstein`].
    pub fn gromov_gradient(&self, of_cols: &Matrix, slope: f64, gradient: &mut Matrix) {
        // `moved` is A T.
        let Self { plan, moved, .. } = self;
        let share = 1.0 / (plan.cols * plan.cols) as f64;
        gradient.fill(plan.cols, plan.cols, |b, d| {
            let product: f64 = (0..plan.rows).map(|a| plan.row(a)[b] * moved.row(a)[d]).sum();
            2.0 * slope * (share * of_cols.row(b)[d] - product)
        });
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Rows of numbers, and nothing that is shared with what is tested.
    pub type Rows = Vec<Vec<f64>>;

    fn rows_of(matrix: &Matrix) -> Rows {
        (0..matrix.rows).map(|row| matrix.row(row).to_vec()).collect()
    }

    fn matrix(rows: &Rows) -> Matrix {
        let mut matrix = Matrix::default();
        matrix.fill(rows.len(), rows[0].len(), |a, b| rows[a][b]);
        matrix
    }

    fn drawn(rows: usize, cols: usize, scale: f64, seed: u64) -> Rows {
        let mut rng = Rng::at(seed, &[]);
        (0..rows).map(|_| (0..cols).map(|_| scale * rng.uniform()).collect()).collect()
    }

    fn symmetric(size: usize, scale: f64, seed: u64) -> Rows {
        let half = drawn(size, size, scale, seed);
        let value = |a: usize, b: usize| if a == b { 0.0 } else { half[a.min(b)][a.max(b)] };
        (0..size).map(|a| (0..size).map(|b| value(a, b)).collect()).collect()
    }

    /// Algorithm 1 as it is written, with plans and factors in the plain domain.
    fn plain(cost: &Rows, step: f64, rounds: usize) -> Rows {
        let (n, m) = (cost.len(), cost[0].len());
        let mut sigma = vec![1.0 / m as f64; m];
        let mut plan = vec![vec![1.0; m]; n];
        for _ in 0..rounds {
            let q: Rows = (0..n).map(|a| (0..m).map(|b| (-cost[a][b] / step).exp() * plan[a][b]).collect()).collect();
            let delta: Vec<f64> = q
                .iter()
                .map(|row| 1.0 / (n as f64 * row.iter().zip(&sigma).map(|(q, s)| q * s).sum::<f64>()))
                .collect();
            for (b, sigma) in sigma.iter_mut().enumerate() {
                *sigma = 1.0 / (m as f64 * (0..n).map(|a| q[a][b] * delta[a]).sum::<f64>());
            }
            plan = (0..n).map(|a| (0..m).map(|b| delta[a] * q[a][b] * sigma[b]).collect()).collect();
        }
        plan
    }

    /// Algorithm 2 as it is written.
    fn rounded(plan: &Rows) -> Rows {
        let (n, m) = (plan.len(), plan[0].len());
        let mut plan = plan.clone();
        for row in &mut plan {
            let factor = (1.0 / n as f64 / row.iter().sum::<f64>()).min(1.0);
            row.iter_mut().for_each(|x| *x *= factor);
        }
        for b in 0..m {
            let factor = (1.0 / m as f64 / plan.iter().map(|row| row[b]).sum::<f64>()).min(1.0);
            plan.iter_mut().for_each(|row| row[b] *= factor);
        }
        let of_rows: Vec<f64> = plan.iter().map(|row| 1.0 / n as f64 - row.iter().sum::<f64>()).collect();
        let of_cols: Vec<f64> = (0..m).map(|b| 1.0 / m as f64 - plan.iter().map(|row| row[b]).sum::<f64>()).collect();
        let total: f64 = of_rows.iter().map(|x| x.abs()).sum();
        if total > 0.0 {
            for (row, lacks) in plan.iter_mut().zip(&of_rows) {
                row.iter_mut().zip(&of_cols).for_each(|(x, other)| *x += lacks * other / total);
            }
        }
        plan
    }

    /// Wasserstein's plan in the plain domain.
    pub fn plain_wasserstein(cost: &Rows) -> Rows {
        rounded(&plain(cost, 0.5, 40))
    }

    /// Gromov-Wasserstein's linear cost by its sum over all pairs.
    fn plain_linear(of_rows: &Rows, of_cols: &Rows, plan: &Rows) -> Rows {
        let (n, m) = (of_rows.len(), of_cols.len());
        let value = |a: usize, b: usize| {
            let all = (0..n).flat_map(|c| (0..m).map(move |d| (c, d)));
            all.map(|(c, d)| (of_rows[a][c] - of_cols[b][d]).powi(2) * plan[c][d]).sum()
        };
        (0..n).map(|a| (0..m).map(|b| value(a, b)).collect()).collect()
    }

    /// Gromov-Wasserstein's plan in the plain domain.
    pub fn plain_gromov(of_rows: &Rows, of_cols: &Rows) -> Rows {
        let (n, m) = (of_rows.len(), of_cols.len());
        let mut plan = vec![vec![1.0 / (n * m) as f64; m]; n];
        for _ in 0..5 {
            plan = rounded(&plain(&plain_linear(of_rows, of_cols, &plan), 0.1, 20));
        }
        plan
    }

    pub fn inner(a: &Rows, b: &Rows) -> f64 {
        a.iter().flatten().zip(b.iter().flatten()).map(|(x, y)| x * y).sum()
    }

    fn furthest(a: &Rows, b: &Rows) -> f64 {
        a.iter().flatten().zip(b.iter().flatten()).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
    }

    /// How far the sums of rows and columns are from uniform.
    fn marginal_error(plan: &Matrix) -> f64 {
        let rows = rows_of(plan);
        let of_rows = rows.iter().map(|row| (row.iter().sum::<f64>() - 1.0 / plan.rows as f64).abs());
        let of_cols = (0..plan.cols)
            .map(|b| (rows.iter().map(|row| row[b]).sum::<f64>() - 1.0 / plan.cols as f64).abs())
            .collect::<Vec<_>>();
        of_rows.chain(of_cols).fold(0.0, f64::max)
    }

    const SHAPES: [(usize, usize); 7] = [(15, 15), (1, 1), (1, 6), (6, 1), (3, 15), (8, 16), (17, 9)];

    #[test]
    fn plans_equal_those_of_the_plain_domain_where_nothing_underflows() {
        let mut solver = Solver::default();
        for ((n, m), seed) in SHAPES.into_iter().zip(0..) {
            for scale in [0.05, 0.4, 2.0] {
                let cost = drawn(n, m, scale, seed);
                solver.proximal(&matrix(&cost), 0.5, 40);
                assert!(furthest(&rows_of(&solver.plan), &plain(&cost, 0.5, 40)) < 1e-12, "{n}, {m}, {scale}");
                let distance = solver.wasserstein(&matrix(&cost));
                let expected = plain_wasserstein(&cost);
                assert!(furthest(&rows_of(&solver.plan), &expected) < 1e-12, "{n}, {m}, {scale}");
                assert!((distance - inner(&cost, &expected)).abs() < 1e-12 * scale);
            }
            for scale in [0.2, 0.8] {
                let (of_rows, of_cols) = (symmetric(n, scale, 10 + seed), symmetric(m, scale, 20 + seed));
                let distance = solver.gromov_wasserstein(&matrix(&of_rows), &matrix(&of_cols));
                let expected = plain_gromov(&of_rows, &of_cols);
                assert!(furthest(&rows_of(&solver.plan), &expected) < 1e-10, "{n}, {m}, {scale}");
                let value = inner(&plain_linear(&of_rows, &of_cols, &expected), &expected);
                assert!((distance - value).abs() < 1e-10, "{distance}, expected {value}");
                assert!(distance > -1e-15);
            }
        }
    }

    #[test]
    fn marginals_are_uniform_whatever_the_cost() {
        let mut solver = Solver::default();
        let mut worst = 0.0f64;
        for ((n, m), seed) in SHAPES.into_iter().zip(0..) {
            // The largest is e^20, that of opposite vectors at the lowest temperature.
            for scale in [0.0, 0.4, 20.0, 1e4, 4.85e8] {
                let cost = drawn(n, m, scale, seed);
                let distance = solver.wasserstein(&matrix(&cost));
                assert!(distance.is_finite() && marginal_error(&solver.plan) < 1e-12, "{n}, {m}, {scale}");
                assert!(rows_of(&solver.plan).iter().flatten().all(|x| *x >= 0.0));
                solver.proximal(&matrix(&cost), 0.5, 40);
                worst = worst.max(marginal_error(&solver.plan));
                let (of_rows, of_cols) = (symmetric(n, scale, seed), symmetric(m, scale, seed + 9));
                let distance = solver.gromov_wasserstein(&matrix(&of_rows), &matrix(&of_cols));
                assert!(distance.is_finite() && marginal_error(&solver.plan) < 1e-12, "{n}, {m}, {scale}");
            }
        }
        // Without rounding they are not.
        assert!(worst > 1e-4, "{worst}");
    }

    #[test]
    fn costs_whose_weights_underflow_in_32_bits_give_the_assignment_of_least_cost() {
        // A permutation costs nothing, and all else 60, so that exp(-60 / .5) is 0 in 32 bits.
        let size = 15;
        let cost: Rows =
            (0..size).map(|a| (0..size).map(|b| if b == (a * 4 + 3) % size { 0.0 } else { 60.0 }).collect()).collect();
        let mut solver = Solver::default();
        assert!(solver.wasserstein(&matrix(&cost)).abs() < 1e-12);
        for (a, row) in rows_of(&solver.plan).into_iter().enumerate() {
            assert!((row[(a * 4 + 3) % size] - 1.0 / size as f64).abs() < 1e-12);
        }
        // In 32 bits and the plain domain, a row that is far from every column is a division by 0.
        let mut far = cost;
        far[2].iter_mut().for_each(|x| *x += 100.0);
        let weights: f32 = far[2].iter().map(|x| (-*x as f32 / 0.5).exp()).sum();
        assert_eq!(weights, 0.0);
        assert!((solver.wasserstein(&matrix(&far)) - 100.0 / 15.0).abs() < 1e-9);
    }

    #[test]
    fn the_distance_of_a_graph_to_itself_in_another_order_is_found_to_be_small() {
        let size = 9;
        let costs = symmetric(size, 1.0, 3);
        let other: Rows =
            (0..size).map(|a| (0..size).map(|b| costs[(a * 2) % size][(b * 2) % size]).collect()).collect();
        let mut solver = Solver::default();
        let same = solver.gromov_wasserstein(&matrix(&costs), &matrix(&other));
        let unlike = solver.gromov_wasserstein(&matrix(&costs), &matrix(&symmetric(size, 1.0, 4)));
        assert!(same < 0.5 * unlike, "{same}, {unlike}");
    }

    #[test]
    fn the_gradient_of_gromov_wasserstein_agrees_with_differences_at_a_fixed_plan() {
        let mut solver = Solver::default();
        for (n, m) in [(7, 5), (1, 4), (4, 1), (6, 6)] {
            let (of_rows, mut of_cols) = (symmetric(n, 0.5, 5), symmetric(m, 0.5, 6));
            solver.gromov_wasserstein(&matrix(&of_rows), &matrix(&of_cols));
            let (plan, mut gradient) = (rows_of(&solver.plan), Matrix::default());
            solver.gromov_gradient(&matrix(&of_cols), 3.0, &mut gradient);
            for (b, d) in (0..m).flat_map(|b| (0..m).map(move |d| (b, d))) {
                let mut value = |change: f64| {
                    of_cols[b][d] += change;
                    let value = inner(&plain_linear(&of_rows, &of_cols, &plan), &plan);
                    of_cols[b][d] -= change;
                    value
                };
                let expected = 3.0 * (value(1e-5) - value(-1e-5)) / 2e-5;
                assert!((gradient.row(b)[d] - expected).abs() < 1e-9, "{}, {expected}", gradient.row(b)[d]);
            }
        }
    }
}
