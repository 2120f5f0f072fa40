//! AdamW on dense groups, row-sparse Adam on tables, after clipping by the global gradient norm.

use crate::lanes::{dispatched, inner, multiply_add};
use crate::pages::zeroed;
use crate::params::{Gradients, Parameters, TableGradient};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Constants of the optimiser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamSettings {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay of dense groups that ask for it.
    pub weight_decay: f32,
    /// Decoupled weight decay of touched table rows.
    pub embedding_weight_decay: f32,
    /// Largest global gradient norm. 0 means no clipping.
    pub clip_norm: f32,
}

/// How a parameter moves in a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Move {
    /// The factor of the learning rate.
    pub rate: f64,
    /// Decoupled weight decay, if it is not that of the settings.
    pub decay: Option<f32>,
    /// The number of steps before the first one that moved the parameter. The bias of its moments is corrected for the
    /// steps since then.
    pub after: u64,
}

/// How all parameters move in a step. `None` means that a parameter and its moments stay. Parallel to [`Parameters`].
#[derive(Debug, Clone, PartialEq)]
pub struct Moves {
    /// `[dense groups]`.
    pub(crate) dense: Vec<Option<Move>>,
    /// `[tables]`.
    pub(crate) tables: Vec<Option<Move>>,
}

impl Moves {
    /// Calls `how` with the name of each parameter.
    pub(crate) fn of(parameters: &Parameters, how: impl Fn(&str) -> Option<Move>) -> Self {
        Self {
            dense: parameters.dense.iter().map(|group| how(&group.name)).collect(),
            tables: parameters.tables.iter().map(|table| how(&table.name)).collect(),
        }
    }

    /// Moves all parameters as the settings say.
    pub fn all(parameters: &Parameters) -> Self {
        Self::of(parameters, |_| Some(Move { rate: 1.0, decay: None, after: 0 }))
    }
}

/// First and second moments of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Moments {
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Moments {
    fn zeros(len: usize) -> Self {
        Self { first: zeroed(len), second: zeroed(len) }
    }
}

/// Adam (Kingma and Ba, ICLR 2015) with decoupled weight decay (Loshchilov and Hutter, ICLR 2019).
///
/// Moments of a table row move only in steps that touch it, and bias is corrected by the global
/// step count, as in PyTorch's `SparseAdam`: a step costs touched rows, not table rows.
///
/// # Memory
/// Two floats per parameter; those of table rows become resident when touched, 2 MiB at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adam {
    steps: u64,
    dense: Vec<Moments>,
    tables: Vec<Moments>,
}

/// The factors of one step.
#[derive(Debug, Clone, Copy)]
struct Factors {
    gradient: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    rate: f32,
    second: f32,
    keep: f32,
}

impl Adam {
    /// Zero moments for the given parameters.
    pub fn new(parameters: &Parameters) -> Self {
        Self {
            steps: 0,
            dense: parameters.dense.iter().map(|p| Moments::zeros(p.values.len())).collect(),
            tables: parameters.tables.iter().map(|t| Moments::zeros(t.values.len())).collect(),
        }
    }

    /// Whether the moments have the shape of the parameters. They do not if they belong to another model.
    pub(crate) fn fits(&self, parameters: &Parameters) -> bool {
        let same = |moments: &[Moments], lens: Vec<usize>| {
            moments.len() == lens.len()
                && moments.iter().zip(lens).all(|(m, len)| m.first.len() == len && m.second.len() == len)
        };
        same(&self.dense, parameters.dense.iter().map(|p| p.values.len()).collect())
            && same(&self.tables, parameters.tables.iter().map(|t| t.values.len()).collect())
    }

    /// Moves the parameters by one step and returns the norm of the gradients of those that move, before clipping.
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        gradients: &Gradients,
        moves: &Moves,
        learning_rate: f64,
        settings: &AdamSettings,
    ) -> f64 {
        self.steps += 1;
        let norm = norm(gradients, moves);
        let clip = settings.clip_norm as f64;
        let factors = |how: &Move, decay: f32| {
            let steps = self.steps.saturating_sub(how.after).max(1) as f64;
            let corrected = |beta: f32| 1.0 - (beta as f64).powf(steps);
            let rate = learning_rate * how.rate;
            Factors {
                gradient: if clip > 0.0 && norm > clip { (clip / norm) as f32 } else { 1.0 },
                beta1: settings.beta1,
                beta2: settings.beta2,
                eps: settings.eps,
                rate: (rate / corrected(settings.beta1)) as f32,
                second: (1.0 / corrected(settings.beta2)) as f32,
                keep: (1.0 - rate * how.decay.unwrap_or(decay) as f64) as f32,
            }
        };
        let dense = parameters.dense.iter_mut().zip(&gradients.dense).zip(&mut self.dense).zip(&moves.dense);
        for (((p, g), m), how) in dense {
            let Some(how) = how else { continue };
            let factors = factors(how, if p.decay { settings.weight_decay } else { 0.0 });
            update(&mut p.values, g, &mut m.first, &mut m.second, &factors);
        }
        let tables = parameters.tables.par_iter_mut().zip(&gradients.tables).zip(&mut self.tables).zip(&moves.tables);
        tables.for_each(|(((table, gradient), m), how)| {
            let Some(how) = how else { return };
            let (factors, dim) = (factors(how, settings.embedding_weight_decay), table.dim);
            match gradient {
                TableGradient::Rows(sparse) => {
                    for (row, gradient) in sparse.rows().iter().zip(sparse.values().chunks_exact(dim)) {
                        let at = *row as usize * dim..(*row as usize + 1) * dim;
                        let (first, second) = (&mut m.first[at.clone()], &mut m.second[at.clone()]);
                        update(&mut table.values[at], gradient, first, second, &factors);
                    }
                }
                TableGradient::Whole(gradient) => {
                    let moments = m.first.par_chunks_mut(RUN).zip(m.second.par_chunks_mut(RUN));
                    let runs = table.values.par_chunks_mut(RUN).zip(gradient.par_chunks(RUN)).zip(moments);
                    runs.for_each(|((x, g), (first, second))| update(x, g, first, second, &factors));
                }
            }
        });
        norm
    }
}

/// Values of a table that are updated together.
const RUN: usize = 1 << 14;

/// L2 norm over the gradients of all parameters that move, summed in the order of groups.
fn norm(gradients: &Gradients, moves: &Moves) -> f64 {
    let dense = gradients.dense.iter().zip(&moves.dense).filter(|(_, how)| how.is_some());
    let dense: f64 = dense.map(|(g, _)| squared(g) as f64).sum();
    let tables = gradients.tables.par_iter().zip(&moves.tables).filter(|(_, how)| how.is_some());
    let tables: Vec<f64> = tables.map(|(gradient, _)| squares(gradient.values())).collect();
    (dense + tables.iter().sum::<f64>()).sqrt()
}

/// Sum of squares of many values.
pub(crate) fn squares(values: &[f32]) -> f64 {
    values.chunks(4096).map(|run| f64::from(squared(run))).sum()
}

dispatched! {
    /// Sum of squares.
    fn squared(values: &[f32]) -> f32 {
        inner::<FMA>(values, values)
    }

    /// One step of Adam for a run of parameters. All slices have one length.
    fn update(values: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], f: &Factors) {
        let f = *f;
        for (((x, g), m), v) in values.iter_mut().zip(gradient).zip(first).zip(second) {
            let g = f.gradient * *g;
            *m = multiply_add::<FMA>(f.beta1, *m - g, g);
            *v = multiply_add::<FMA>(f.beta2, *v - g * g, g * g);
            *x = f.keep * *x - f.rate * *m / ((*v * f.second).sqrt() + f.eps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Dense, Table};

    fn parameters() -> Parameters {
        Parameters {
            dense: vec![Dense { name: "w".into(), rows: 1, cols: 3, values: vec![0.5, -1.0, 2.0], decay: true }],
            tables: vec![Table { name: "t".into(), rows: 5, dim: 2, values: (0..10).map(|i| i as f32).collect() }],
        }
    }

    const SETTINGS: AdamSettings = AdamSettings {
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.1,
        embedding_weight_decay: 0.0,
        clip_norm: 0.0,
    };

    fn touch(gradients: &mut Gradients, row: u32, gradient: &[f32]) {
        let TableGradient::Rows(sparse) = &mut gradients.tables[0] else { unreachable!() };
        sparse.push(row, 0, 1.0);
        sparse.reduce(gradient);
    }

    /// The published update in f64, step by step.
    fn oracle(mut x: f64, gradients: &[f64], rate: f64, decay: f64) -> f64 {
        let (mut m, mut v) = (0.0, 0.0);
        for (t, g) in gradients.iter().enumerate() {
            m = 0.9 * m + 0.1 * g;
            v = 0.99 * v + 0.01 * g * g;
            let (m, v) = (m / (1.0 - 0.9f64.powi(t as i32 + 1)), v / (1.0 - 0.99f64.powi(t as i32 + 1)));
            x -= rate * decay * x + rate * m / (v.sqrt() + 1e-8);
        }
        x
    }

    #[test]
    fn steps_equal_the_published_update_and_untouched_rows_stay() {
        let mut p = parameters();
        let start = p.clone();
        let mut adam = Adam::new(&p);
        let mut gradients = Gradients::new(&p);
        for _ in 0..3 {
            gradients.clear();
            gradients.dense[0].copy_from_slice(&[0.3, -0.2, 0.0]);
            touch(&mut gradients, 3, &[0.7, -0.1]);
            adam.step(&mut p, &gradients, &Moves::all(&start), 0.01, &SETTINGS);
        }
        for (i, g) in [0.3, -0.2, 0.0].into_iter().enumerate() {
            let want = oracle(start.dense[0].values[i] as f64, &[g; 3], 0.01, 0.1);
            assert!((p.dense[0].values[i] as f64 - want).abs() < 1e-6);
        }
        for (i, (x, old)) in p.tables[0].values.iter().zip(&start.tables[0].values).enumerate() {
            let want = match i {
                6 => oracle(*old as f64, &[0.7; 3], 0.01, 0.0),
                7 => oracle(*old as f64, &[-0.1; 3], 0.01, 0.0),
                _ => *old as f64,
            };
            assert!((*x as f64 - want).abs() < 1e-6, "value {i}: {x}, expected {want}");
        }
    }

    #[test]
    fn clipping_bounds_the_global_norm() {
        let mut p = parameters();
        let mut adam = Adam::new(&p);
        let mut gradients = Gradients::new(&p);
        gradients.dense[0].copy_from_slice(&[3.0, 0.0, 0.0]);
        touch(&mut gradients, 1, &[0.0, 4.0]);
        let moves = Moves::all(&p);
        let norm = adam.step(&mut p, &gradients, &moves, 0.0, &AdamSettings { clip_norm: 1.0, ..SETTINGS });
        assert!((norm - 5.0).abs() < 1e-6);
        assert!((adam.dense[0].first[0] - 0.1 * 3.0 / 5.0).abs() < 1e-6);
        assert!((adam.tables[0].first[3] - 0.1 * 4.0 / 5.0).abs() < 1e-6);
    }

    #[test]
    fn what_starts_later_moves_as_if_it_had_just_begun_and_at_its_own_rate() {
        let mut p = parameters();
        let start = p.clone();
        let mut adam = Adam::new(&p);
        let mut gradients = Gradients::new(&p);
        gradients.tables[0] = TableGradient::whole(&p.tables[0]);
        gradients.dense[0].copy_from_slice(&[30.0, 0.0, 0.0]);
        let TableGradient::Whole(values) = &mut gradients.tables[0] else { unreachable!() };
        values.copy_from_slice(&[0.5; 10]);
        for step in 0..5 {
            let late = (step >= 2).then_some(Move { rate: 0.5, decay: Some(0.2), after: 2 });
            let moves = Moves { dense: vec![late], tables: Moves::all(&p).tables };
            let norm = adam.step(&mut p, &gradients, &moves, 0.01, &SETTINGS);
            let squares = 10.0 * 0.25 + if step >= 2 { 900.0 } else { 0.0 };
            assert!((norm - f64::sqrt(squares)).abs() < 1e-4, "{norm}");
            assert_eq!(step < 2, p.dense == start.dense);
        }
        let want = oracle(0.5, &[30.0; 3], 0.005, 0.2);
        assert!((p.dense[0].values[0] as f64 - want).abs() < 1e-6);
        for (x, old) in p.tables[0].values.iter().zip(&start.tables[0].values) {
            // The tolerance covers five roundings of values up to 9.
            assert!((*x as f64 - oracle(*old as f64, &[0.5; 5], 0.01, 0.0)).abs() < 5e-6);
        }
    }
}
