//! Layers: each with a forward and a backward pass over a tile of rows.

pub mod activation;
pub mod dropout;
pub mod embedding;
pub mod linear;
pub mod norm;

use crate::params::Parameters;
use crate::rng::Rng;
use crate::tower;
use linear::Linear;

/// One layer after the concatenated inputs; dense parameters are named by their index.
#[derive(Debug, Clone, PartialEq)]
pub enum Layer {
    /// y = x Wᵀ + b.
    Linear(Linear),
    /// y = max(x, 0) + slope * min(x, 0), slope per channel (He et al., ICCV 2015).
    Prelu {
        /// Dense group of the slopes, `[width]`.
        slope: usize,
    },
    /// y = max(x, 0).
    Relu,
    /// Elements kept with probability 1 - rate and scaled by 1 / (1 - rate); nothing at inference.
    Dropout {
        /// Probability of dropping, in [0, 1).
        rate: f32,
    },
    /// y = x / max(‖x‖₂, eps), per row.
    L2Norm {
        /// Lower bound of the divisor.
        eps: f32,
    },
}

impl Layer {
    /// Output width for a given input width.
    pub fn width(&self, input: usize) -> usize {
        match self {
            Layer::Linear(linear) => linear.output,
            Layer::Prelu { .. } | Layer::Relu | Layer::Dropout { .. } | Layer::L2Norm { .. } => input,
        }
    }

    /// Computes `y` from `x`, `[rows, width]` both; `noise` is absent outside training.
    pub fn forward(&self, parameters: &Parameters, x: &[f32], y: &mut [f32], width: usize, noise: Option<Rng>) {
        match self {
            Layer::Linear(linear) => linear.forward(parameters, x, y),
            Layer::Prelu { slope } => activation::prelu(x, &parameters.dense[*slope].values, y),
            Layer::Relu => activation::relu(x, y),
            Layer::Dropout { rate } => dropout::forward(x, *rate, noise, y),
            Layer::L2Norm { eps } => norm::forward(x, width, *eps, y),
        }
    }

    /// Computes `dx` from `dy` and what the forward pass saw and gave; adds the gradients of the
    /// layer's own parameters to `gradients`.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        parameters: &Parameters,
        x: &[f32],
        y: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        width: usize,
        noise: Option<Rng>,
        gradients: &mut [Vec<f32>],
    ) {
        match self {
            Layer::Linear(linear) => linear.backward(parameters, x, dy, dx, gradients),
            Layer::Prelu { slope } => {
                activation::prelu_backward(x, &parameters.dense[*slope].values, dy, dx, &mut gradients[*slope])
            }
            Layer::Relu => activation::relu_backward(x, dy, dx),
            Layer::Dropout { rate } => dropout::forward(dy, *rate, noise, dx),
            Layer::L2Norm { eps } => norm::backward(x, y, dy, width, *eps, dx),
        }
    }

    /// The trained layer as plain data; `None` for what inference leaves out.
    pub fn export(&self, parameters: &Parameters) -> Option<tower::Layer> {
        Some(match self {
            Layer::Linear(linear) => linear.export(parameters),
            Layer::Prelu { slope } => tower::Layer::Prelu { slope: parameters.dense[*slope].values.clone() },
            Layer::Relu => tower::Layer::Relu,
            Layer::Dropout { .. } => return None,
            Layer::L2Norm { eps } => tower::Layer::L2Norm { eps: *eps },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::zeros;

    /// Checks dx and parameter gradients of L = sum(c * y) against central differences.
    /// f32 forward passes with a step of 1e-2 leave errors near 1e-5 / 1e-2; 5e-3 is allowed,
    /// relative to the gradient's size.
    fn agrees_with_differences(layer: &Layer, mut parameters: Parameters, input: usize, rows: usize) {
        let mut rng = Rng::at(11, &[]);
        let noise = Some(Rng::at(12, &[]));
        let output = layer.width(input);
        // Away from the kink at 0, where a difference straddles two slopes.
        let mut x: Vec<f32> = (0..rows * input).map(|_| rng.normal() as f32).collect();
        x.iter_mut().for_each(|x| *x += 0.05f32.copysign(*x));
        let c: Vec<f32> = (0..rows * output).map(|_| rng.normal() as f32).collect();
        let run = |parameters: &Parameters, x: &[f32]| {
            let mut y = vec![0.0; rows * output];
            layer.forward(parameters, x, &mut y, input, noise.clone());
            y
        };
        let loss = |parameters: &Parameters, x: &[f32]| {
            run(parameters, x).iter().zip(&c).map(|(y, c)| *y as f64 * *c as f64).sum::<f64>()
        };
        let mut dx = vec![0.0; rows * input];
        let mut gradients = zeros(&parameters);
        let y = run(&parameters, &x);
        layer.backward(&parameters, &x, &y, &c, &mut dx, input, noise.clone(), &mut gradients);
        let step = 1e-2f32;
        let close = |got: f32, plus: f64, minus: f64, what: &str| {
            let want = (plus - minus) / (2.0 * step as f64);
            assert!((got as f64 - want).abs() < 5e-3 * (1.0 + want.abs()), "{what}: {got}, differences say {want}");
        };
        for i in 0..x.len() {
            let kept = x[i];
            x[i] = kept + step;
            let plus = loss(&parameters, &x);
            x[i] = kept - step;
            let minus = loss(&parameters, &x);
            x[i] = kept;
            close(dx[i], plus, minus, "dx");
        }
        for (g, gradient) in gradients.iter().enumerate() {
            for (i, got) in gradient.iter().enumerate() {
                let kept = parameters.dense[g].values[i];
                parameters.dense[g].values[i] = kept + step;
                let plus = loss(&parameters, &x);
                parameters.dense[g].values[i] = kept - step;
                let minus = loss(&parameters, &x);
                parameters.dense[g].values[i] = kept;
                close(*got, plus, minus, &parameters.dense[g].name);
            }
        }
    }

    fn dense(parameters: &mut Parameters, rows: usize, cols: usize) -> usize {
        let mut rng = Rng::at(13, &[parameters.dense.len() as u64]);
        let values = (0..rows * cols).map(|_| rng.normal() as f32).collect();
        parameters.add_dense(format!("p{}", parameters.dense.len()), rows, cols, true, values)
    }

    #[test]
    fn every_layers_gradients_agree_with_finite_differences() {
        let mut parameters = Parameters::default();
        let (weight, bias) = (dense(&mut parameters, 4, 6), dense(&mut parameters, 1, 4));
        agrees_with_differences(&Layer::Linear(Linear { weight, bias, output: 4 }), parameters, 6, 5);
        let mut parameters = Parameters::default();
        let slope = dense(&mut parameters, 1, 19);
        agrees_with_differences(&Layer::Prelu { slope }, parameters, 19, 4);
        agrees_with_differences(&Layer::Relu, Parameters::default(), 6, 5);
        agrees_with_differences(&Layer::Dropout { rate: 0.4 }, Parameters::default(), 6, 5);
        agrees_with_differences(&Layer::L2Norm { eps: 1e-6 }, Parameters::default(), 6, 5);
        // A floor above every norm makes the layer a plain scaling.
        agrees_with_differences(&Layer::L2Norm { eps: 100.0 }, Parameters::default(), 6, 5);
    }
}
