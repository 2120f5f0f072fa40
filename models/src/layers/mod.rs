//! Layers in training, each with a forward and a backward pass over a tile of rows. [`crate::tower`] defines the
//! layers; here a weight is the index of a dense group of [`Parameters`].

mod activation;
pub(crate) mod coalesce;
mod dropout;
pub mod embedding;
mod layer_norm;
mod linear;
pub(crate) mod norm;

pub use dropout::dropout;
pub(crate) use layer_norm::{backward as layer_norm_backward, forward as layer_norm};

use crate::params::Parameters;
use crate::tower::Layer;

impl Layer<usize> {
    /// Computes `y` from `x`, both of `[rows, width]`.
    pub fn forward(&self, parameters: &Parameters, x: &[f32], y: &mut [f32], width: usize) {
        let values = |group: &usize| &parameters.dense[*group].values[..];
        match self {
            Layer::Linear { weight, bias } => linear::forward(&parameters.dense[*weight], values(bias), x, y),
            Layer::Prelu { slope } => activation::prelu(x, values(slope), y),
            Layer::Relu => activation::relu(x, y),
            Layer::LayerNorm { gain, bias, eps } => layer_norm::forward(x, values(gain), values(bias), *eps, y),
            Layer::Coalesce { default } => coalesce::forward(x, values(default), width, y),
            Layer::L2Norm { eps } => norm::forward(x, width, *eps, y),
        }
    }

    /// Computes `dx` from `dy` and from input and output of the forward pass, `(x, y)`. Adds the gradients of the
    /// layer's parameters to `gradients`, which has an entry for each dense group.
    pub fn backward(
        &self,
        parameters: &Parameters,
        (x, y): (&[f32], &[f32]),
        dy: &[f32],
        dx: &mut [f32],
        width: usize,
        gradients: &mut [Vec<f32>],
    ) {
        match self {
            Layer::Linear { weight, bias } => {
                // The bias gradient is taken out of the list, since two entries are written to at once.
                let mut d_bias = std::mem::take(&mut gradients[*bias]);
                linear::backward(&parameters.dense[*weight], x, dy, dx, &mut gradients[*weight], &mut d_bias);
                gradients[*bias] = d_bias;
            }
            Layer::Prelu { slope } => {
                activation::prelu_backward(x, &parameters.dense[*slope].values, dy, dx, &mut gradients[*slope])
            }
            Layer::Relu => activation::relu_backward(x, dy, dx),
            Layer::LayerNorm { gain, bias, eps } => {
                let mut d_bias = std::mem::take(&mut gradients[*bias]);
                let gain_values = &parameters.dense[*gain].values;
                layer_norm::backward(x, gain_values, *eps, dy, dx, (&mut gradients[*gain], &mut d_bias));
                gradients[*bias] = d_bias;
            }
            Layer::Coalesce { default } => coalesce::backward(x, dy, dx, width, &mut gradients[*default]),
            Layer::L2Norm { eps } => norm::backward(x, y, dy, width, *eps, dx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::zeros;
    use crate::rng::Rng;

    /// Checks dx and parameter gradients of L = sum(c * y) against central differences.
    /// f32 forward passes with a step of 1e-2 leave errors near 1e-5 / 1e-2; 5e-3 is allowed,
    /// relative to the gradient's size.
    fn agrees_with_differences(layer: &Layer<usize>, mut parameters: Parameters, input: usize, rows: usize) {
        let mut rng = Rng::at(11, &[]);
        let output = layer.output(input, |weight| parameters.dense[*weight].extents());
        // Away from the kink at 0, where a difference straddles two slopes.
        let mut x: Vec<f32> = (0..rows * input).map(|_| rng.normal() as f32).collect();
        x.iter_mut().for_each(|x| *x += 0.05f32.copysign(*x));
        let c: Vec<f32> = (0..rows * output).map(|_| rng.normal() as f32).collect();
        let run = |parameters: &Parameters, x: &[f32]| {
            let mut y = vec![0.0; rows * output];
            layer.forward(parameters, x, &mut y, input);
            y
        };
        let loss = |parameters: &Parameters, x: &[f32]| {
            run(parameters, x).iter().zip(&c).map(|(y, c)| *y as f64 * *c as f64).sum::<f64>()
        };
        let mut dx = vec![0.0; rows * input];
        let mut gradients = zeros(&parameters);
        let y = run(&parameters, &x);
        layer.backward(&parameters, (&x, &y), &c, &mut dx, input, &mut gradients);
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
        agrees_with_differences(&Layer::Linear { weight, bias }, parameters, 6, 5);
        let mut parameters = Parameters::default();
        let slope = dense(&mut parameters, 1, 19);
        agrees_with_differences(&Layer::Prelu { slope }, parameters, 19, 4);
        agrees_with_differences(&Layer::Relu, Parameters::default(), 6, 5);
        let mut parameters = Parameters::default();
        let (gain, bias) = (dense(&mut parameters, 1, 19), dense(&mut parameters, 1, 19));
        agrees_with_differences(&Layer::LayerNorm { gain, bias, eps: 1e-5 }, parameters, 19, 4);
        agrees_with_differences(&Layer::L2Norm { eps: 1e-6 }, Parameters::default(), 6, 5);
        // No row of random numbers is zero.
        let mut parameters = Parameters::default();
        let default = dense(&mut parameters, 1, 3);
        agrees_with_differences(&Layer::Coalesce { default }, parameters, 6, 5);
        // A floor above every norm makes the layer a plain scaling.
        agrees_with_differences(&Layer::L2Norm { eps: 100.0 }, Parameters::default(), 6, 5);
    }
}
