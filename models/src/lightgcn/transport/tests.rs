//! The terms and their gradients against their definition in f64.

use super::plan::tests::{Rows, inner, plain_gromov, plain_wasserstein};
use super::*;
use crate::rng::Rng;
use twotower_artifacts::Side;

const DIM: usize = 6;

/// Users 3 and 5 to 11 and items 3 to 12 are joined at random, user 4 and item 13 are a component, and all others are alone.
fn edges() -> Vec<(u32, u32)> {
    let mut rng = Rng::at(4, &[]);
    let mut edges: Vec<(u32, u32)> = (0..30)
        .map(|_| (5 + rng.below(7) as u32, 3 + rng.below(10) as u32))
        .chain((3..9).map(|item| (3, item)))
        .chain([(4, 13)])
        .collect();
    edges.sort_unstable();
    edges.dedup();
    edges
}

const NODES: [usize; 2] = [14, 16];

fn normal(count: usize, scale: f64, seed: u64) -> Vec<f32> {
    let mut rng = Rng::at(seed, &[]);
    (0..count).map(|_| (scale * rng.normal()) as f32).collect()
}

/// What a step is made of.
struct Step {
    graph: Graph,
    vectors: [Vec<f32>; 2],
    parameters: Parameters,
    transport: Transport,
}

impl Step {
    fn new(config: &TransportConfig) -> Self {
        let mut parameters = Parameters::default();
        let transport = Transport::new(config, DIM, &mut parameters, |group| Rng::at(8, &[group]));
        // The bias is not 0, and logits are on both sides of 0.
        for (group, seed) in parameters.dense.iter_mut().zip(0..) {
            group.values = normal(group.values.len(), 0.7, 20 + seed);
        }
        let vectors = [0, 1].map(|side| normal(NODES[side] * DIM, 0.5, side as u64));
        Self { graph: Graph::new(NODES, &edges()), vectors, parameters, transport }
    }

    /// The terms, the gradients of vectors and of parameters, and the subgraphs.
    fn learn(&self) -> (Terms, [Vec<f32>; 2], Vec<Vec<f32>>, Work) {
        let (mut terms, mut work) = (Terms::default(), Work::default());
        let mut d_vectors = self.vectors.each_ref().map(|side| vec![0.0; side.len()]);
        let mut dense = crate::params::zeros(&self.parameters);
        let mut run = |step: usize, terms: &mut Terms| {
            d_vectors.iter_mut().chain(&mut dense).for_each(|d| d.fill(0.0));
            let read = (&self.graph, self.vectors.each_ref().map(|side| &side[..]), self.dim());
            let to = (d_vectors.each_mut().map(|side| &mut side[..]), &mut dense[..]);
            self.transport.learn(&self.parameters, read, Moment { seed: 2, epoch: 0, step }, &mut work, terms, to);
        };
        // What an earlier step left behind does not matter.
        run(5, &mut Terms::default());
        run(0, &mut terms);
        (terms, d_vectors, dense, work)
    }

    fn dim(&self) -> usize {
        self.vectors[0].len() / self.graph.nodes()[0]
    }
}

/// The definition. Nodes are numbered with users first, and each has a row of `z`.
struct Oracle<'a> {
    config: &'a TransportConfig,
    subgraphs: Vec<Vec<usize>>,
    partners: Vec<usize>,
}

fn are_joined(a: usize, b: usize) -> bool {
    let (user, item) = (a.min(b), a.max(b));
    item >= NODES[0] && edges().contains(&(user as u32, (item - NODES[0]) as u32))
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn unit(x: &[f64]) -> Vec<f64> {
    let norm = product(x, x).sqrt().max(1e-6);
    x.iter().map(|x| x / norm).collect()
}

/// The vectors that attention makes, given W, b, `a_s` and `a_t`.
fn made(z: &Rows, [weight, bias, of_neighbours, of_itself]: [&[f64]; 4]) -> Rows {
    let times = |x: &[f64]| weight.chunks_exact(DIM).map(|row| product(row, x)).collect::<Vec<f64>>();
    let node = |v: usize| {
        let around: Vec<usize> = (0..z.len()).filter(|u| are_joined(v, *u)).collect();
        if around.is_empty() {
            return vec![0.0; DIM];
        }
        let logits = around.iter().map(|u| {
            let logit = product(of_neighbours, &times(&z[*u])) + product(of_itself, &times(&z[v]));
            if logit > 0.0 { logit } else { 0.2 * logit }
        });
        let weights: Vec<f64> = logits.map(f64::exp).collect();
        let total: f64 = weights.iter().sum();
        let mut out = bias.to_vec();
        for (u, weight) in around.iter().zip(&weights) {
            out.iter_mut().zip(times(&z[*u])).for_each(|(out, x)| *out += weight / total * x);
        }
        out.iter().map(|x| x.max(0.0)).collect()
    };
    (0..z.len()).map(node).collect()
}

fn cost(similarities: Rows, temperature: f64) -> Rows {
    let mut cost: Rows =
        similarities.iter().map(|row| row.iter().map(|s| (-s / temperature).exp()).collect()).collect();
    let low = cost.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let high = cost.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
    cost.iter_mut().flatten().for_each(|x| *x = (*x - low - 0.1 * (high - low)).max(0.0));
    cost
}

fn gromov(edges: &Rows, within: &Rows, plan: &Rows) -> f64 {
    let mut sum = 0.0;
    for (a, c) in (0..edges.len()).flat_map(|a| (0..edges.len()).map(move |c| (a, c))) {
        for (b, d) in (0..within.len()).flat_map(|b| (0..within.len()).map(move |d| (b, d))) {
            sum += (edges[a][c] - within[b][d]).powi(2) * plan[a][b] * plan[c][d];
        }
    }
    sum
}

impl Oracle<'_> {
    /// Both terms. Plans are found by the definition, or taken from where they are.
    fn terms(&self, z: &Rows, parameters: [&[f64]; 4], plans: &mut Vec<[Rows; 2]>) -> [f64; 2] {
        let made = made(z, parameters);
        let (is_new, mut sums, mut pair) = (plans.is_empty(), [0.0; 2], 0);
        for (own, partner) in self.subgraphs.iter().zip(&self.partners) {
            let other = &self.subgraphs[*partner];
            let edges: Rows = own
                .iter()
                .map(|a| own.iter().map(|b| f64::from(u8::from(a == b || are_joined(*a, *b)))).collect())
                .collect();
            let edges = cost(edges, self.config.temperature);
            for (nodes, vectors, label) in [(own, &made, 1.0), (other, z, 0.0), (other, &made, 0.0)] {
                let x: Rows = own.iter().map(|node| unit(&z[*node])).collect();
                let y: Rows = nodes.iter().map(|node| unit(&vectors[*node])).collect();
                let similarities = |x: &Rows| x.iter().map(|x| y.iter().map(|y| product(x, y)).collect()).collect();
                let between = cost(similarities(&x), self.config.temperature);
                let within = cost(similarities(&y), self.config.temperature);
                if is_new {
                    plans.push([plain_wasserstein(&between), plain_gromov(&edges, &within)]);
                }
                let [plan, of_gromov] = &plans[pair];
                let distances = [inner(&between, plan) / 0.01, gromov(&edges, &within, of_gromov) / 0.1];
                for (sum, distance) in sums.iter_mut().zip(distances) {
                    let z = match self.config.logit {
                        Logit::Exponential => (-distance).exp(),
                        Logit::Log => -distance,
                    };
                    let probability = 1.0 / (1.0 + (-z).exp());
                    *sum -= label * probability.ln() + (1.0 - label) * (1.0 - probability).ln();
                }
                pair += 1;
            }
        }
        sums.map(|sum| sum / pair as f64)
    }
}

fn config(logit: Logit, temperature: f64) -> TransportConfig {
    let (weight, gromov_weight) = (0.7, 1.3);
    TransportConfig { weight, gromov_weight, centres: 18, nodes: 4, temperature, logit, ..TransportConfig::default() }
}

#[test]
fn terms_and_gradients_agree_with_the_definition_and_its_differences_at_fixed_plans() {
    // At these temperatures, logits are neither all 0 nor all 1.
    for (logit, temperature) in [(Logit::Exponential, 20.0), (Logit::Log, 2.0)] {
        let config = config(logit, temperature);
        let step = Step::new(&config);
        let (terms, d_vectors, dense, work) = step.learn();
        let drawn = &work.subgraphs;
        let subgraphs: Vec<Vec<usize>> = (0..drawn.len())
            .map(|subgraph| drawn.nodes_of(subgraph).iter().map(|node| *node as usize).collect())
            .collect();
        let mut sizes: Vec<usize> = subgraphs.iter().map(Vec::len).collect();
        sizes.sort_unstable();
        sizes.dedup();
        assert_eq!(sizes, [1, 2, 4]);
        let oracle = Oracle { config: &config, subgraphs, partners: drawn.partners.clone() };

        // All that it depends on in one list.
        let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        let mut all: Vec<f64> = wide(&step.vectors.concat());
        let starts: Vec<usize> = step
            .parameters
            .dense
            .iter()
            .map(|group| {
                all.extend(wide(&group.values));
                all.len() - group.values.len()
            })
            .collect();
        let mut plans = Vec::new();
        let mut evaluate = |all: &[f64]| {
            let z: Rows = all[..starts[0]].chunks_exact(DIM).map(<[f64]>::to_vec).collect();
            let group = |at: usize| &all[starts[at]..starts[at] + if at == 0 { DIM * DIM } else { DIM }];
            oracle.terms(&z, [0, 1, 2, 3].map(group), &mut plans)
        };
        let expected = evaluate(&all);
        for (term, (name, expected)) in terms.0.iter().zip([("transport", expected[0]), ("gromov", expected[1])]) {
            assert!(term.name == name && (term.value - expected).abs() < 1e-4 * expected, "{term:?}, {expected}");
        }
        let found = [d_vectors.concat(), dense.concat()].concat();
        let mut value = |all: &[f64]| {
            let [transport, gromov] = evaluate(all);
            config.weight * transport + config.gromov_weight * gromov
        };
        let differences: Vec<f64> = (0..all.len())
            .map(|at| {
                let kept = all[at];
                all[at] = kept + 1e-6;
                let plus = value(&all);
                all[at] = kept - 1e-6;
                let minus = value(&all);
                all[at] = kept;
                (plus - minus) / 2e-6
            })
            .collect();
        let largest = |range: std::ops::Range<usize>| differences[range].iter().map(|x| x.abs()).fold(0.0, f64::max);
        let ends = starts[1..].iter().copied().chain([all.len()]);
        for range in std::iter::once(0..starts[0]).chain(starts.iter().copied().zip(ends).map(|(a, b)| a..b)) {
            let scale = largest(range.clone());
            assert!(scale > 1e-3, "{logit:?}: the gradient is nearly zero in {range:?}");
            for at in range {
                let (found, expected) = (f64::from(found[at]), differences[at]);
                assert!((found - expected).abs() < 1e-3 * scale, "{logit:?}, {at}: {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn attention_makes_zeros_for_nodes_without_neighbours_and_the_mean_of_the_others_neighbours() {
    let step = Step::new(&TransportConfig { centres: 100, ..config(Logit::Exponential, 5.0) });
    let (_, d_vectors, _, work) = step.learn();
    let z: Rows =
        step.vectors.concat().chunks_exact(DIM).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect();
    let groups: Vec<Vec<f64>> =
        step.parameters.dense.iter().map(|group| group.values.iter().map(|x| f64::from(*x)).collect()).collect();
    let expected = made(&z, [0, 1, 2, 3].map(|group| &groups[group][..]));
    let mut alone = 0;
    for (node, found) in work.subgraphs.distinct.iter().zip(work.attention.made.chunks_exact(DIM)) {
        let node = *node as usize;
        assert!(found.iter().zip(&expected[node]).all(|(x, y)| (f64::from(*x) - y).abs() < 1e-5));
        let (side, row) = if node < NODES[0] { (Side::User, node) } else { (Side::Item, node - NODES[0]) };
        alone += usize::from(step.graph.degree(side, row) == 0 && found.iter().all(|x| *x == 0.0));
    }
    // Users 12 and 13, and items 14 and 15.
    assert_eq!(alone, 4);
    // The rows of no id are in no subgraph, and have no neighbours.
    assert!(d_vectors.iter().all(|side| side[..3 * DIM].iter().all(|d| *d == 0.0)));
}

#[test]
fn a_term_without_a_weight_is_left_out_and_one_subgraph_has_one_pair() {
    let both = Step::new(&config(Logit::Log, 2.0)).learn();
    let of = |weight, gromov_weight| {
        let config = TransportConfig { weight, gromov_weight, ..config(Logit::Log, 2.0) };
        Step::new(&config).learn()
    };
    let (first, second) = (of(0.7, 0.0), of(0.0, 1.3));
    assert_eq!([&first.0.0[..], &second.0.0].concat(), both.0.0);
    for (both, (first, second)) in both.1.concat().iter().zip(first.1.concat().iter().zip(second.1.concat())) {
        assert!((both - (first + second)).abs() < 1e-4);
    }
    let alone = TransportConfig { centres: 1, ..config(Logit::Log, 2.0) };
    let (terms, _, _, work) = Step::new(&alone).learn();
    assert_eq!(work.subgraphs.len(), 1);
    // Of a pair with the label 1, the loss is at least ln 2.
    assert!(terms.0.iter().all(|term| term.value >= 0.69 && term.value.is_finite()));
}

#[test]
fn all_is_finite_with_vectors_and_temperatures_at_their_extremes() {
    for (logit, temperature) in [(Logit::Exponential, 0.1), (Logit::Log, 0.1), (Logit::Log, 100.0)] {
        for (scale, zeros) in [(1e-30, 0), (1e-7, 2), (1e15, 3), (1.0, 1)] {
            let mut step = Step::new(&config(logit, temperature));
            step.vectors.iter_mut().flatten().for_each(|x| *x *= scale);
            if zeros > 0 {
                step.vectors.iter_mut().flat_map(|side| side.chunks_exact_mut(zeros * DIM).step_by(2)).for_each(
                    |rows| {
                        rows.fill(0.0);
                    },
                );
            }
            let (terms, d_vectors, dense, _) = step.learn();
            assert!(terms.0.iter().all(|term| term.value.is_finite() && term.value >= 0.0), "{terms:?}");
            assert!(d_vectors.iter().chain(&dense).flatten().all(|d| d.is_finite()), "{logit:?}, {scale}, {zeros}");
        }
    }
}

#[test]
fn the_bits_do_not_depend_on_threads() {
    let mut rng = Rng::at(6, &[]);
    let mut edges: Vec<(u32, u32)> = (0..9000).map(|_| (rng.below(900) as u32, rng.below(300) as u32)).collect();
    edges.sort_unstable();
    edges.dedup();
    let mut step = Step::new(&TransportConfig { centres: 120, nodes: 9, ..config(Logit::Log, 2.0) });
    step.graph = Graph::new([900, 300], &edges);
    step.vectors = [900, 300].map(|nodes| normal(nodes * DIM, 0.5, nodes as u64));
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (terms, d_vectors, dense, _) = pool.install(|| step.learn());
        let bits: Vec<u32> = d_vectors.iter().chain(&dense).flatten().map(|x| x.to_bits()).collect();
        (terms, bits)
    };
    let one = run(1);
    assert!(one == run(3) && one.1.iter().filter(|bits| **bits != 0).count() > 1000);
}

#[test]
fn a_layer_that_is_not_there_or_no_weight_is_refused_and_layers_are_read_and_written_alike() {
    let at = |layer| TransportConfig { layer, ..TransportConfig::default() };
    at(Layer::Number(3)).check(3).unwrap();
    at(Layer::Final).check(0).unwrap();
    let error = at(Layer::Number(4)).check(3).unwrap_err().to_string();
    assert!(error.contains("`model.transport.layer`") && error.contains("from 0 to 3"), "{error}");
    let none = TransportConfig { weight: 0.0, gromov_weight: 0.0, ..TransportConfig::default() };
    assert!(none.check(3).unwrap_err().to_string().contains("`model.transport.weight`"));
    for layer in [Layer::Final, Layer::Number(0), Layer::Number(3)] {
        let written = serde_json::to_string(&at(layer)).unwrap();
        assert_eq!(serde_json::from_str::<TransportConfig>(&written).unwrap(), at(layer));
    }
    for wrong in ["\"last\"", "-1", "1.5"] {
        let error = serde_json::from_str::<TransportConfig>(&format!("{{\"layer\": {wrong}}}")).unwrap_err();
        assert!(error.to_string().contains("the number of a layer, or \"final\""), "{error}");
    }
}
