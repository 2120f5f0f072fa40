//! Trains a model that uses what the contract allows and the DSSM does not use: windows of whole users, two terms, a
//! state that is kept from epoch to epoch, gradients of a whole table, and parameters with rates and first epochs of
//! their own.

use super::tests::{StopAfter, bits, config};
use super::*;
use crate::examples::tests::planted;
use crate::losses::{sigmoid, softplus};
use crate::native;
use crate::params::{Dense, Table, TableGradient};
use crate::rng::Rng;
use crate::tower::{Input, Layer, Matrix, Reduce};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use twotower_artifacts::schema::FIRST_VALUE;
use twotower_artifacts::{CodeBatch, Column, FieldSchema, FieldShape, Side, TowerSchema};

const DIM: usize = 8;
/// Elements of the sequence.
const RECENT: usize = 4;
/// Clusters of users.
const CENTRES: usize = 3;
const PULL: f64 = 0.05;

/// A user's vector at an event is the sum of the row of the user's node, the mean of the rows of the items before the
/// event, and a bias. An item's vector is its row. Each event is compared with a drawn item (`bpr`), and each node is
/// pulled to the centre of its cluster (`pull`). Each epoch moves the centres halfway to newly computed ones.
struct Positions {
    parameters: Parameters,
    schemas: [TowerSchema; 2],
    centres: Vec<f32>,
    rates: [f64; 2],
}

const NODE: usize = 0;
const ITEM: usize = 1;

/// Users with ids of their own, their recent items, and items.
fn set() -> TrainingSet {
    let mut set = planted(40, 24, 3, 9);
    let users = set.users.rows();
    let cardinality = users as u32 + FIRST_VALUE;
    let node = FieldShape::Code { table: "node".into(), cardinality };
    set.user_schema.fields[0] = FieldSchema { name: "user".into(), shape: node };
    set.users.columns[0] = Column::Code((0..users as u32).map(|user| user + FIRST_VALUE).collect());
    set.user_schema.fields.truncate(2);
    set.users.columns.truncate(2);
    set.item_schema.fields.truncate(1);
    set.items.columns.truncate(1);
    set.check().unwrap();
    set
}

impl Positions {
    fn new(set: &TrainingSet, rates: [f64; 2]) -> Self {
        let table = |name: &str, rows: usize, key: u64| {
            let mut rng = Rng::at(5, &[key]);
            let values = (0..rows * DIM).map(|_| rng.normal() as f32 * 0.3).collect();
            Table { name: name.into(), rows, dim: DIM, values }
        };
        let bias = Dense { name: "bias".into(), rows: 1, cols: DIM, values: vec![0.0; DIM], decay: false };
        let rows = |n: usize| n + FIRST_VALUE as usize;
        Self {
            parameters: Parameters {
                dense: vec![bias],
                tables: vec![table("node", rows(set.users.rows()), 0), table("item", rows(set.items.rows()), 1)],
            },
            schemas: [set.user_schema.clone(), set.item_schema.clone()],
            centres: vec![0.0; CENTRES * DIM],
            rates,
        }
    }

    fn row(&self, table: usize, row: u32) -> &[f32] {
        self.parameters.tables[table].row(row)
    }

    fn vector(&self, node: u32, recent: &[u32]) -> Vec<f32> {
        let mut vector = self.parameters.dense[0].values.clone();
        let rows = recent.iter().map(|code| (self.row(ITEM, *code), 1.0 / recent.len() as f32));
        for (row, weight) in rows.chain([(self.row(NODE, node), 1.0)]) {
            vector.iter_mut().zip(row).for_each(|(v, x)| *v += weight * x);
        }
        vector
    }
}

fn inner(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum()
}

fn add(to: &mut [f32], weight: f64, from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += (weight * *from as f64) as f32);
}

impl Model for Positions {
    type Work = Vec<f32>;
    type State = Vec<f32>;

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    fn group(&self, parameter: &str) -> Group {
        match parameter {
            "bias" => Group { from_epoch: 1, decay: Some(0.1), ..Group::default() },
            "node" => Group { rate: self.rates[NODE], ..Group::default() },
            _ => Group { rate: self.rates[ITEM], ..Group::default() },
        }
    }

    fn gradients(&self) -> Gradients {
        let mut gradients = Gradients::new(&self.parameters);
        gradients.tables[NODE] = TableGradient::whole(&self.parameters.tables[NODE]);
        gradients
    }

    fn work(&self) -> Vec<f32> {
        Vec::new()
    }

    fn state(&self) -> &Vec<f32> {
        &self.centres
    }

    fn restore(&mut self, state: Vec<f32>) {
        self.centres = state;
    }

    fn begin_epoch(&mut self, set: &TrainingSet, _: Moment) -> Result<(), ModelError> {
        let mut means = vec![0.0; CENTRES * DIM];
        for user in 0..set.users.rows() {
            let members = (set.users.rows() - user % CENTRES).div_ceil(CENTRES);
            let node = self.parameters.tables[NODE].row(user as u32 + FIRST_VALUE);
            add(&mut means[user % CENTRES * DIM..][..DIM], 1.0 / members as f64, node);
        }
        self.centres.iter_mut().zip(means).for_each(|(centre, mean)| *centre = (*centre + mean) / 2.0);
        Ok(())
    }

    /// Each user is a window of all training events of the user.
    fn windows(&self, set: &TrainingSet, moment: Moment) -> Vec<u32> {
        let mut users: Vec<u32> = (0..set.users.rows() as u32).collect();
        moment.of_epoch(1).shuffle(&mut users);
        users
    }

    fn window(&self, set: &TrainingSet, user: u32) -> Window {
        let events = set.interactions.events(user as usize);
        let train = events.clone().filter(|event| set.roles[*event] == Role::Train).count();
        Window { user, targets: events.start..events.start + train, role: Role::Train }
    }

    fn learn(
        &self,
        set: &TrainingSet,
        windows: &[Window],
        moment: Moment,
        _: &mut Vec<f32>,
        gradients: &mut Gradients,
    ) -> Result<Terms, ModelError> {
        let mut rng = moment.of_step(2);
        let (mut bpr, mut pull) = (0.0, 0.0);
        let mut d_items = BTreeMap::<u32, Vec<f32>>::new();
        let [TableGradient::Whole(d_node), TableGradient::Rows(d_item)] = &mut gradients.tables[..] else {
            panic!("nodes whole and items by rows, as they were asked for")
        };
        let share = 1.0 / windows.len() as f64;
        for window in windows {
            let node = window.user + FIRST_VALUE;
            let codes: Vec<u32> = set.interactions.items[window.targets.clone()]
                .iter()
                .map(|item| set.item_codes[*item as usize])
                .collect();
            let share = share / codes.len() as f64;
            let d_node = &mut d_node[node as usize * DIM..][..DIM];
            for (at, positive) in codes.iter().enumerate() {
                let recent = &codes[at.saturating_sub(RECENT)..at];
                let negative = set.item_codes[rng.below(set.items.rows())];
                let vector = self.vector(node, recent);
                let score = |code: u32| inner(&vector, self.row(ITEM, code));
                let margin = score(*positive) - score(negative);
                bpr += share * softplus(-margin);
                let slope = -share * sigmoid(-margin);
                let mut d_vector = vec![0.0; DIM];
                for (code, sign) in [(*positive, 1.0), (negative, -1.0)] {
                    add(&mut d_vector, sign * slope, self.row(ITEM, code));
                    add(d_items.entry(code).or_insert_with(|| vec![0.0; DIM]), sign * slope, &vector);
                }
                for code in recent {
                    let weight = 1.0 / recent.len() as f64;
                    add(d_items.entry(*code).or_insert_with(|| vec![0.0; DIM]), weight, &d_vector);
                }
                add(d_node, 1.0, &d_vector);
                add(&mut gradients.dense[0], 1.0, &d_vector);
            }
            let centre = &self.centres[window.user as usize % CENTRES * DIM..][..DIM];
            let apart: Vec<f32> = self.row(NODE, node).iter().zip(centre).map(|(x, c)| x - c).collect();
            pull += inner(&apart, &apart) / 2.0 / windows.len() as f64;
            add(d_node, PULL / windows.len() as f64, &apart);
        }
        let mut values = Vec::new();
        for (code, gradient) in &d_items {
            d_item.push(*code, values.len(), 1.0);
            values.extend(gradient);
        }
        d_item.reduce(&values);
        let mut terms = Terms::default();
        terms.add("bpr", 1.0, bpr);
        terms.add("pull", PULL, pull);
        Ok(terms)
    }

    fn dim(&self) -> usize {
        DIM
    }

    fn embed<'a>(&self, side: Side, batch: &CodeBatch, work: &'a mut Vec<f32>) -> Result<&'a [f32], ModelError> {
        let towers = self.towers();
        *work = native::embed(if side == Side::User { &towers.0 } else { &towers.1 }, batch)?.data;
        Ok(work)
    }

    fn towers(&self) -> (Tower, Tower) {
        let [node, item] = [NODE, ITEM].map(|table| self.parameters.tables[table].matrix());
        let mut weight = Matrix { rows: DIM, cols: 2 * DIM, data: vec![0.0; 2 * DIM * DIM] };
        (0..2 * DIM).for_each(|column| weight.data[column % DIM * 2 * DIM + column] = 1.0);
        let tables = |list: &[(&str, &Matrix)]| list.iter().map(|(n, m)| (n.to_string(), (*m).clone())).collect();
        let [user_schema, item_schema] = self.schemas.clone();
        let user = Tower {
            schema: user_schema,
            inputs: vec![
                Input::Embedding { table: "node".into() },
                Input::Pooled { table: "item".into(), reduce: Reduce::Mean },
            ],
            tables: tables(&[("node", &node), ("item", &item)]),
            layers: vec![Layer::Linear { weight, bias: self.parameters.dense[0].matrix() }],
            dim: DIM,
            inner_product_scale: None,
        };
        let inputs = vec![Input::Embedding { table: "item".into() }];
        let tables = tables(&[("item", &item)]);
        let item =
            Tower { schema: item_schema, inputs, tables, layers: Vec::new(), dim: DIM, inner_product_scale: None };
        (user, item)
    }
}

fn settings() -> TrainConfig {
    TrainConfig { batch_size: 77, learning_rate: 3e-2, ..config() }
}

const RATES: [f64; 2] = [1.0, 0.3];

fn run(
    set: &TrainingSet,
    config: &TrainConfig,
    rates: [f64; 2],
    dir: &Path,
    observer: &mut (dyn Observer + Send),
) -> Result<TrainingResult, ModelError> {
    Trainer::new(set, config, dir, "positions", Positions::new(set, rates)).run(&Start::Resume, observer)
}

/// All steps of a run.
#[derive(Default)]
struct Steps(Vec<StepReport>);

impl Observer for Steps {
    fn on_step(&mut self, report: &StepReport) -> ControlFlow<()> {
        self.0.push(report.clone());
        ControlFlow::Continue(())
    }
}

#[test]
fn both_terms_are_learned_and_told_by_name() {
    let (set, dir) = (set(), tempfile::tempdir().unwrap());
    let config = TrainConfig { epochs: 20, patience: 0, ..settings() };
    let mut steps = Steps::default();
    let trained = run(&set, &config, RATES, dir.path(), &mut steps).unwrap();
    for terms in steps.0.iter().map(|step| &step.terms).chain(trained.epochs.iter().map(|epoch| &epoch.terms)) {
        let names: Vec<(&str, f64)> = terms.0.iter().map(|term| (term.name.as_str(), term.weight)).collect();
        assert_eq!(names, [("bpr", 1.0), ("pull", PULL)]);
    }
    for epoch in &trained.epochs {
        assert!((epoch.terms.total() - epoch.loss).abs() < 1e-9 && epoch.temperature.is_none());
        assert!(serde_json::to_string(epoch).unwrap().contains(r#"{"name":"pull","weight":0.05,"value":"#));
    }
    let (first, last) = (&trained.epochs[0].terms.0, &trained.epochs[19].terms.0);
    assert!(first.iter().zip(last).all(|(first, last)| last.value < 0.9 * first.value), "{first:?} to {last:?}");
    // A third of the items is right for a user, so chance is about 10 / 21.
    let best = trained.epochs[trained.best_epoch - 1].validation.as_ref().unwrap();
    assert!(best.values["recall@10"] > 0.75, "{:?}", best.values);
}

#[test]
fn gradients_agree_with_finite_differences() {
    let set = set();
    let (mut model, moment) = (Positions::new(&set, RATES), Moment { seed: 1, epoch: 0, step: 0 });
    model.begin_epoch(&set, moment).unwrap();
    let windows: Vec<Window> = (0..7).map(|user| model.window(&set, user)).collect();
    let learn = |model: &Positions, gradients: &mut Gradients| {
        gradients.clear();
        model.learn(&set, &windows, moment, &mut Vec::new(), gradients).unwrap().total()
    };
    let (mut gradients, mut unused) = (model.gradients(), model.gradients());
    learn(&model, &mut gradients);
    let mut check = |at: &dyn Fn(&mut Parameters) -> &mut f32, found: f32| {
        let mut loss = |delta: f32| {
            *at(&mut model.parameters) += delta;
            let loss = learn(&model, &mut unused);
            *at(&mut model.parameters) -= delta;
            loss
        };
        let want = (loss(1e-2) - loss(-1e-2)) / 2e-2;
        assert!((f64::from(found) - want).abs() < 1e-4, "{found}, differences say {want}");
    };
    let [TableGradient::Whole(nodes), TableGradient::Rows(items)] = &gradients.tables[..] else { unreachable!() };
    for i in 0..DIM {
        check(&|p| &mut p.dense[0].values[i], gradients.dense[0][i]);
        let node = (FIRST_VALUE as usize + 2) * DIM + i;
        check(&|p| &mut p.tables[NODE].values[node], nodes[node]);
        let slot = i % items.rows().len();
        let item = items.rows()[slot] as usize * DIM + i;
        check(&|p| &mut p.tables[ITEM].values[item], items.values()[slot * DIM + i]);
    }
}

#[test]
fn a_run_stopped_at_any_step_and_resumed_equals_an_undisturbed_one_bit_for_bit() {
    let (set, config) = (set(), settings());
    let fresh = tempfile::tempdir().unwrap();
    let undisturbed = run(&set, &config, RATES, fresh.path(), &mut ()).unwrap();
    let steps = config.epochs * set.events(Role::Train).count().div_ceil(config.batch_size);
    for after in 1..steps {
        let dir = tempfile::tempdir().unwrap();
        let stopped = run(&set, &config, RATES, dir.path(), &mut StopAfter(after));
        assert!(matches!(stopped, Err(ModelError::Stopped { .. })), "{after}");
        let resumed = run(&set, &config, RATES, dir.path(), &mut ()).unwrap();
        assert_eq!(bits(&resumed.user), bits(&undisturbed.user), "{after}");
        assert_eq!(bits(&resumed.item), bits(&undisturbed.item), "{after}");
        assert_eq!(resumed.epochs, undisturbed.epochs, "{after}");
    }
}

#[test]
fn what_starts_at_the_second_epoch_stands_still_before_and_a_rate_of_0_stands_still_for_ever() {
    let (set, config) = (set(), settings());
    let steps = set.events(Role::Train).count().div_ceil(config.batch_size);
    let dir = tempfile::tempdir().unwrap();
    let start = Positions::new(&set, RATES);
    let stopped = |after| {
        run(&set, &config, [1.0, 0.0], dir.path(), &mut StopAfter(after)).unwrap_err();
        checkpoint::read::<Vec<f32>>(&last_path(dir.path())).unwrap().parameters
    };
    let first = stopped(steps);
    assert_eq!(first.dense, start.parameters.dense);
    assert_ne!(first.tables[NODE], start.parameters.tables[NODE]);
    let second = stopped(1);
    // The first step of Adam has the length of the rate, whatever the gradient.
    let rate = config.learning_rate_at(steps, steps) as f32;
    assert!(second.dense[0].values.iter().all(|x| (x.abs() - rate).abs() < 0.01 * rate), "{:?}", second.dense[0]);
    assert_eq!(second.tables[ITEM], start.parameters.tables[ITEM]);
}

#[test]
fn the_first_term_that_is_not_finite_is_named() {
    let (set, dir) = (set(), tempfile::tempdir().unwrap());
    let mut model = Positions::new(&set, RATES);
    model.restore(vec![f32::NAN; CENTRES * DIM]);
    let error =
        Trainer::new(&set, &settings(), dir.path(), "positions", model).run(&Start::Fresh, &mut ()).unwrap_err();
    let ModelError::NonFiniteLoss { term, .. } = &error else { panic!("{error}") };
    assert_eq!(term, "pull");
}
