//! AdamW on dense groups, row-sparse Adam on tables, after clipping by the global gradient norm.

use crate::lanes::{dispatched, inner, multiply_add};
use crate::pages::zeroed;
use crate::params::{Gradients, Parameters};
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
    /// Largest global gradient norm; 0 = no clipping.
    pub clip_norm: f32,
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
pub struct Factors {
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

    /// Whether the moments have the parameters' shape (false for a state of another model).
    pub fn fits(&self, parameters: &Parameters) -> bool {
        let same = |moments: &[Moments], lens: Vec<usize>| {
            moments.len() == lens.len()
                && moments.iter().zip(lens).all(|(m, len)| m.first.len() == len && m.second.len() == len)
        };
        same(&self.dense, parameters.dense.iter().map(|p| p.values.len()).collect())
            && same(&self.tables, parameters.tables.iter().map(|t| t.values.len()).collect())
    }

    /// Moves the parameters by one step and returns the gradient norm before clipping.
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        gradients: &Gradients,
        learning_rate: f64,
        settings: &AdamSettings,
    ) -> f64 {
        self.steps += 1;
        let norm = norm(gradients);
        let clip = settings.clip_norm as f64;
        let corrected = |beta: f32| 1.0 - (beta as f64).powf(self.steps as f64);
        let factors = |decay: f32| Factors {
            gradient: if clip > 0.0 && norm > clip { (clip / norm) as f32 } else { 1.0 },
            beta1: settings.beta1,
            beta2: settings.beta2,
            eps: settings.eps,
            rate: (learning_rate / corrected(settings.beta1)) as f32,
            second: (1.0 / corrected(settings.beta2)) as f32,
            keep: (1.0 - learning_rate * decay as f64) as f32,
        };
        for ((p, g), m) in parameters.dense.iter_mut().zip(&gradients.dense).zip(&mut self.dense) {
            let factors = factors(if p.decay { settings.weight_decay } else { 0.0 });
            update(&mut p.values, g, &mut m.first, &mut m.second, &factors);
        }
        let factors = factors(settings.embedding_weight_decay);
        let tables = parameters.tables.par_iter_mut().zip(&gradients.tables).zip(&mut self.tables);
        tables.for_each(|((table, sparse), m)| {
            let dim = table.dim;
            for (row, gradient) in sparse.rows().iter().zip(sparse.values().chunks_exact(dim)) {
                let at = *row as usize * dim..(*row as usize + 1) * dim;
                let (first, second) = (&mut m.first[at.clone()], &mut m.second[at.clone()]);
                update(&mut table.values[at], gradient, first, second, &factors);
            }
        });
        norm
    }
}

/// L2 norm over all gradients, summed in group order.
fn norm(gradients: &Gradients) -> f64 {
    let dense: f64 = gradients.dense.iter().map(|g| squared(g) as f64).sum();
    let tables: Vec<f64> = gradients
        .tables
        .par_iter()
        .map(|sparse| sparse.values().chunks(4096).map(|run| squared(run) as f64).sum::<f64>())
        .collect();
    (dense + tables.iter().sum::<f64>()).sqrt()
}

dispatched! {
    /// Sum of squares.
    pub fn squared(values: &[f32]) -> f32 {
        inner::<FMA>(values, values)
    }

    /// One Adam step of a run of parameters; all slices have one length.
    pub fn update(values: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], f: &Factors) {
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
            gradients.tables[0].push(3, 0, 1.0);
            gradients.tables[0].reduce(&[0.7, -0.1]);
            adam.step(&mut p, &gradients, 0.01, &SETTINGS);
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
        gradients.tables[0].push(1, 0, 1.0);
        gradients.tables[0].reduce(&[0.0, 4.0]);
        let norm = adam.step(&mut p, &gradients, 0.0, &AdamSettings { clip_norm: 1.0, ..SETTINGS });
        assert!((norm - 5.0).abs() < 1e-6);
        assert!((adam.dense[0].first[0] - 0.1 * 3.0 / 5.0).abs() < 1e-6);
        assert!((adam.tables[0].first[3] - 0.1 * 4.0 / 5.0).abs() < 1e-6);
    }
}
