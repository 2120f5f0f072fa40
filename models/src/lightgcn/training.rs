//! LightGCN in training: the graph, a step, and the towers that are exported.

use super::geometry::Geometry;
use super::prototypes::warn_of_few_nodes;
use super::terms::{self, AuxiliaryTerm, BatchNodes, SIDES, State, Step, TermGradients, Vectors};
use super::text::{AsNew, Made, Text};
use super::text_tower::reading_text;
use super::transport::Transport;
use super::{Initialisation, LightgcnConfig, PenaltyForm, Sampling};
use crate::candidates::BatchCandidates;
use crate::error::ModelError;
use crate::examples::{Role, TrainingSet, Window, drop_codes};
use crate::graph::{Graph, Nodes, Sides};
use crate::lanes::{add_scaled, dot};
use crate::losses::LossGradient;
use crate::model::{Group, Model, Moment, Terms};
use crate::native;
use crate::net::{Backward, Net, Pass, backward};
use crate::objective::Objective;
use crate::pages::zeroed;
use crate::params::{Gradients, Parameters, Table, TableGradient};
use crate::propagation::{LayerGradients, Place, Plan, Propagation};
use crate::rng::Rng;
use crate::similarity::{NORM_FLOOR, Similarity, cosine_of_inner_product};
use crate::tower::{Input, Layer, Matrix, Reduce, Tower};
use crate::train::TrainConfig;
use rayon::prelude::*;
use std::collections::BTreeMap;
use twotower_artifacts::schema::{FIRST_VALUE, UNKNOWN};
use twotower_artifacts::{CodeBatch, Column, FieldShape, Side, TowerSchema};

/// The purposes for which random numbers are drawn.
const PAIRS: u64 = 20;
const CANDIDATES: u64 = 21;
const DROPPED: u64 = 22;
const AS_NEW: u64 = 31;

/// LightGCN in training.
pub(crate) struct Lightgcn {
    /// The first layer, as the tables of users and of items, what else it is made of where items have texts, and the
    /// temperature if it is learned.
    parameters: Parameters,
    /// Counts the changes of the parameters.
    version: u64,
    graph: Graph,
    /// The first training event of each edge.
    events: Vec<u32>,
    /// The nodes that have edges, ascending.
    connected: Sides<Vec<u32>>,
    text: Option<Text>,
    state: State,
    /// Towers over the final vectors, as training sees them: the row of an id.
    nets: Sides<Net>,
    schemas: Sides<TowerSchema>,
    objective: Objective,
    transport: Option<Transport>,
    config: LightgcnConfig,
    unknown_rate: f64,
    missing_rate: f64,
}

/// The working memory of a step.
pub(crate) struct Work {
    /// The final vectors, as tables, and the version of the parameters that all of them were made of, without noise.
    vectors: Parameters,
    version: Option<u64>,
    /// The first layer of items, where they have texts.
    made: Made,
    as_new: AsNew,
    propagation: Propagation,
    /// The nodes of a step, of which alone it computes final vectors.
    wanted: Sides<Nodes>,
    /// Those of its pairs.
    batch: Sides<BatchNodes>,
    auxiliary: Vec<Box<dyn AuxiliaryTerm>>,
    /// The gradients of later layers and of final vectors.
    later: LayerGradients,
    /// The towers of the same version.
    towers: Option<Sides<Tower>>,
    embedded: Vec<f32>,
    ids: Sides<CodeBatch>,
    passes: Sides<Pass>,
    candidates: BatchCandidates,
    /// Items of the pairs.
    clicked: Vec<u32>,
    /// Weights of the pairs.
    weights: Vec<f32>,
    loss: LossGradient,
    /// The gradients that the main term gives the final vectors.
    gradients: Gradients,
}

/// The codes of the ids of one side, which are its first field.
fn ids(batch: &CodeBatch) -> &[u32] {
    match batch.columns.first() {
        Some(Column::Code(codes)) => codes,
        _ => &[],
    }
}

/// The schema of the ids alone.
fn of_ids(schema: &TowerSchema) -> TowerSchema {
    TowerSchema { fields: schema.fields[..1].to_vec(), ..schema.clone() }
}

/// The distinct pairs of training events, each with the first event that has it, ascending. Both have ids of their own.
fn pairs(set: &TrainingSet) -> Vec<(u32, u32, u32)> {
    let (users, items) = (ids(&set.users), ids(&set.items));
    let mut pairs = Vec::new();
    for (row, user) in users.iter().enumerate().filter(|(_, user)| **user >= FIRST_VALUE) {
        for event in set.interactions.events(row).filter(|event| set.roles[*event] == Role::Train) {
            let item = items[set.interactions.items[event] as usize];
            if item >= FIRST_VALUE {
                pairs.push((*user, item, event as u32));
            }
        }
    }
    pairs.par_sort_unstable();
    pairs.dedup_by_key(|(user, item, _)| (*user, *item));
    pairs
}

impl Lightgcn {
    /// A model with a fresh first layer, which is a pure function of schemas, settings and seed.
    ///
    /// # Errors
    /// [`ModelError::Setting`] when settings or fields do not fit, [`ModelError::Data`] without any pair.
    pub fn new(set: &TrainingSet, config: &LightgcnConfig, train: &TrainConfig) -> Result<Self, ModelError> {
        config.check(&set.user_schema.fields, &set.item_schema.fields)?;
        let pairs = pairs(set);
        if pairs.is_empty() {
            return Err(ModelError::Data {
                reason: "no training event is of a user and an item that both have an id in their vocabulary, so the graph has no edge; lower `min_count` or raise `max_size` of the features of kind `id`".into(),
            });
        }
        let schemas = [set.user_schema.clone(), set.item_schema.clone()];
        let mut parameters = Parameters { dense: Vec::new(), tables: Vec::new() };
        for schema in &schemas {
            let table = schema.fields[0].shape.table();
            parameters
                .tables
                .extend(table.map(|(name, rows)| first_layer(schema.side, (name, rows), config, train.seed)));
        }
        let edges: Vec<(u32, u32)> = pairs.iter().map(|(user, item, _)| (*user, *item)).collect();
        let [user_rows, item_rows] = SIDES.map(|side| parameters.tables[side as usize].rows);
        let graph = Graph::new([user_rows, item_rows], &edges);
        let connected = SIDES.map(|side| {
            let rows = 0..graph.nodes()[side as usize] as u32;
            rows.filter(|node| graph.degree(side, *node as usize) > 0).collect::<Vec<u32>>()
        });
        config.ncl.iter().for_each(|ncl| warn_of_few_nodes(ncl, &connected));
        let text = config.text.as_ref().map(|text| Text::new(text, &set.items, &graph, &mut parameters)).transpose()?;
        let mut objective = Objective::new(set, train, (config.temperature, config.learn_temperature), &mut parameters);
        let draw = |group| Rng::at(train.seed, &[0, 2, group]);
        let transport = config.transport.as_ref().map(|of| Transport::new(of, config.dim, &mut parameters, draw));
        let shares = shares(&graph, config.sampling, (&edges, connected[0].len()), item_rows);
        objective.are_drawn_with(ids(&set.items).iter().map(|item| shares[*item as usize]));
        let nets = SIDES.map(|side| {
            let (schema, table) = (of_ids(&schemas[side as usize]), parameters.tables[side as usize].name.clone());
            let tables = BTreeMap::from([(table.clone(), side as usize)]);
            let inputs = vec![Input::Embedding { table }];
            let (layers, dim) = (Vec::new(), config.dim);
            let tower = Tower { schema, inputs, tables, layers, dim, inner_product_scale: None };
            let mut net = Net { tower, dropout: Vec::new(), encoder_dropout: 0.0, dense: 0..0 };
            match config.similarity {
                Similarity::Cosine => net.push(Layer::L2Norm { eps: NORM_FLOOR }, 0.0),
                Similarity::Dot => {}
            }
            net
        });
        Ok(Self {
            parameters,
            version: 0,
            graph,
            events: pairs.into_iter().map(|(_, _, event)| event).collect(),
            connected,
            text,
            state: State::default(),
            nets,
            schemas,
            objective,
            transport,
            config: config.clone(),
            unknown_rate: train.unknown_rate,
            missing_rate: train.missing_rate,
        })
    }

    /// The first layer, given what [`Self::make`] made.
    fn first<'a>(&'a self, made: &'a Made) -> Sides<&'a [f32]> {
        let [users, items] = SIDES.map(|side| &self.parameters.tables[side as usize].values[..]);
        [users, if self.text.is_some() { &made.first } else { items }]
    }

    /// Makes what of the first layer is no parameter.
    fn make(&self, made: &mut Made) {
        if let Some(text) = &self.text {
            text.forward(&self.parameters, made);
        }
    }

    /// How layers and final vectors are made, in a step of training or for export.
    fn plan(&self, step: Option<Moment>) -> Plan {
        let noise = step.and_then(|moment| self.config.views.as_ref()?.noise(moment));
        Plan { layers: self.config.layers, first_counts: self.config.counts_first_layer(), noise }
    }

    /// Computes all final vectors, unless they are those of the current parameters.
    fn propagate(&self, work: &mut Work) {
        if work.version == Some(self.version) {
            return;
        }
        self.make(&mut work.made);
        let (first, out) = ((self.first(&work.made), self.config.dim), finals(&mut work.vectors));
        work.propagation.forward(&self.graph, first, &self.plan(None), None, out);
        work.version = Some(self.version);
        work.towers = None;
    }

    /// Chooses the batch of a step, and computes the layers, and the final vectors of its nodes.
    fn propagate_batch(&self, set: &TrainingSet, windows: &[Window], moment: Moment, work: &mut Work) {
        let events = || windows.iter().map(|window| window.targets.start);
        work.clicked.clear();
        work.clicked.extend(events().map(|event| set.interactions.items[event]));
        work.weights.clear();
        work.weights.extend(events().map(|event| set.interactions.weights[event]));
        self.objective.choose(windows, &work.clicked, moment.of_step(CANDIDATES), &mut work.candidates);
        let users = windows.iter().map(|window| ids(&set.users)[window.user as usize]);
        work.ids[0].columns = vec![Column::Code(users.collect())];
        let items = work.candidates.items.iter().map(|item| ids(&set.items)[*item as usize]);
        work.ids[1].columns = vec![Column::Code(items.collect())];
        let mut dropped = moment.of_step(DROPPED);
        for batch in &mut work.ids {
            drop_codes(batch, self.unknown_rate, self.missing_rate, dropped.bits());
        }

        let [users, items] = work.ids.each_ref().map(ids);
        work.batch[0].set(&self.graph, Side::User, users.iter().copied());
        let clicked = work.candidates.positives.iter().map(|candidate| items[*candidate as usize]);
        work.batch[1].set(&self.graph, Side::Item, clicked);
        for ((wanted, nodes), codes) in work.wanted.iter_mut().zip(self.graph.nodes()).zip([users, items]) {
            wanted.reset(nodes);
            codes.iter().for_each(|code| wanted.insert(*code));
        }
        work.auxiliary.iter_mut().for_each(|term| term.want(&self.graph, moment, &mut work.wanted));
        self.make(&mut work.made);
        let (first, out) = ((self.first(&work.made), self.config.dim), finals(&mut work.vectors));
        work.propagation.forward(&self.graph, first, &self.plan(Some(moment)), Some(&work.wanted), out);
        work.version = None;
        work.towers = None;
    }

    /// The terms beside the main one, of which the gradients go to where they belong.
    fn auxiliary(&self, moment: Moment, work: &mut Work, gradients: &mut Gradients, terms: &mut Terms) {
        let plan = self.plan(Some(moment));
        let vectors = Vectors {
            dim: self.config.dim,
            first: self.first(&work.made),
            layers: &work.propagation.layers,
            mean: SIDES.map(|side| &work.vectors.tables[side as usize].values[..]),
        };
        let step = Step {
            graph: &self.graph,
            parameters: &self.parameters,
            connected: &self.connected,
            plan: &plan,
            vectors,
            batch: &work.batch,
            state: &self.state,
            moment,
        };
        let mut gradients = TermGradients { parameters: gradients, later: &mut work.later };
        work.auxiliary.iter_mut().for_each(|term| term.learn(&step, &mut gradients, terms));
    }

    /// The term of the penalty of a batch of `pairs` pairs. Adds its gradient to that of the first layer.
    fn penalise(&self, work: &Work, pairs: usize, gradients: &mut Gradients) -> f64 {
        let share = 1.0 / pairs as f64;
        let [clicked, drawn] = work.candidates.occurrences();
        let (mut value, dim) = (0.0, self.config.dim);
        for (side, uses) in [(Side::User, vec![1; pairs]), (Side::Item, clicked), (Side::Item, drawn)] {
            let first = self.first(&work.made)[side as usize];
            let row = |code: u32| &first[code as usize * dim..][..dim];
            let rows = || ids(&work.ids[side as usize]).iter().zip(&uses).filter(|(_, uses)| **uses > 0);
            let square = |code: u32| f64::from(dot(row(code), row(code)));
            let squares: f64 = rows().map(|(code, uses)| f64::from(*uses) * square(*code)).sum();
            let slope = match self.config.penalty_form {
                PenaltyForm::Squares => {
                    value += squares * share / 2.0;
                    share
                }
                PenaltyForm::Norms => {
                    value += squares.sqrt() * share;
                    if squares > 0.0 { share / squares.sqrt() } else { 0.0 }
                }
            };
            let gradient = gradients.tables[side as usize].all_rows();
            for (code, uses) in rows() {
                let slope = self.config.penalty * f64::from(*uses) * slope;
                add_scaled(&mut gradient[*code as usize * dim..][..dim], slope as f32, row(*code));
            }
        }
        value
    }

    /// The towers of final vectors.
    fn towers_of(&self, vectors: &Parameters) -> (Tower, Tower) {
        let [users, items] = SIDES.map(|side| &vectors.tables[side as usize]);
        let default = Matrix::vector(users.row(UNKNOWN).to_vec());
        let mut nodes = users.matrix();
        let rows = nodes.data.chunks_exact_mut(users.dim).enumerate();
        let alone = rows.filter(|(node, _)| self.graph.degree(Side::User, *node) == 0);
        alone.for_each(|(_, row)| row.fill(0.0));
        let [user_schema, item_schema] = self.schemas.clone();
        let history = user_schema.fields.iter().any(|field| matches!(field.shape, FieldShape::Sequence { .. }));
        let mean = Input::Pooled { table: items.name.clone(), reduce: Reduce::Mean };
        let own = |table: &Table| Input::Embedding { table: table.name.clone() };
        let mut user = Tower {
            schema: user_schema,
            inputs: std::iter::once(own(users)).chain(history.then_some(mean)).collect(),
            tables: BTreeMap::from([(users.name.clone(), nodes)]),
            layers: vec![Layer::Coalesce { default }],
            dim: self.config.dim,
            inner_product_scale: None,
        };
        if history {
            user.tables.insert(items.name.clone(), items.matrix());
        }
        let mut item = Tower {
            schema: of_ids(&item_schema),
            inputs: vec![own(items)],
            tables: BTreeMap::from([(items.name.clone(), items.matrix())]),
            layers: Vec::new(),
            dim: self.config.dim,
            inner_product_scale: None,
        };
        let (user, item) = match self.config.similarity {
            Similarity::Dot => cosine_of_inner_product(user, item),
            Similarity::Cosine => {
                [&mut user, &mut item]
                    .into_iter()
                    .for_each(|tower| tower.layers.push(Layer::L2Norm { eps: NORM_FLOOR }));
                (user, item)
            }
        };
        match &self.text {
            None => (user, item),
            Some(text) => {
                let projected = text.projected(&self.parameters, self.plan(None).share());
                (user, reading_text(item, item_schema, self.config.similarity, projected))
            }
        }
    }
}

/// A side's part of the fresh first layer.
fn first_layer(side: Side, (name, rows): (&str, u32), config: &LightgcnConfig, seed: u64) -> Table {
    let (rows, dim) = (rows as usize, config.dim);
    let bound = (6.0 / (rows + dim) as f64).sqrt();
    let mut values = zeroed(rows * dim);
    values.par_chunks_mut(dim).enumerate().with_min_len(1024).for_each(|(row, values)| {
        let mut rng = Rng::at(seed, &[0, side as u64, row as u64]);
        values.iter_mut().for_each(|x| {
            *x = match config.init {
                Initialisation::XavierUniform => (rng.uniform() * 2.0 - 1.0) * bound,
                Initialisation::Normal => rng.normal() * 0.1,
            } as f32;
        });
    });
    Table { name: name.to_string(), rows, dim, values }
}

/// The probability with which each of `items` nodes is the item of a pair of an epoch.
fn shares(graph: &Graph, sampling: Sampling, (edges, users): (&[(u32, u32)], usize), items: usize) -> Vec<f64> {
    let mut shares = vec![0.0; items];
    for (user, item) in edges {
        shares[*item as usize] += match sampling {
            Sampling::Pairs => 1.0 / edges.len() as f64,
            Sampling::Users => 1.0 / (users * graph.edges_of(*user).len()) as f64,
        };
    }
    shares
}

/// The tables of final vectors, to be written.
fn finals(vectors: &mut Parameters) -> Sides<&mut [f32]> {
    let (users, items) = vectors.tables.split_at_mut(1);
    [&mut users[0].values[..], &mut items[0].values[..]]
}

impl Model for Lightgcn {
    type Work = Work;
    type State = State;

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters {
        self.version += 1;
        &mut self.parameters
    }

    fn gradients(&self) -> Gradients {
        let tables = self.parameters.tables.iter().map(TableGradient::whole).collect();
        Gradients { dense: crate::params::zeros(&self.parameters), tables, inputs: Vec::new() }
    }

    fn work(&self) -> Work {
        let vectors = Parameters { dense: Vec::new(), tables: self.parameters.tables.clone() };
        Work {
            gradients: Gradients::new(&vectors),
            vectors,
            version: None,
            made: Made::default(),
            as_new: AsNew::default(),
            propagation: Propagation::default(),
            wanted: Default::default(),
            batch: Default::default(),
            auxiliary: terms::auxiliary(&self.config, self.transport.as_ref()),
            later: LayerGradients::default(),
            towers: None,
            embedded: Vec::new(),
            ids: SIDES.map(|side| CodeBatch::empty(&self.nets[side as usize].tower.schema)),
            passes: Default::default(),
            candidates: BatchCandidates::default(),
            clicked: Vec::new(),
            weights: Vec::new(),
            loss: LossGradient::default(),
        }
    }

    fn state(&self) -> &State {
        &self.state
    }

    fn restore(&mut self, state: State) {
        self.state = state;
    }

    fn group(&self, parameter: &str) -> Group {
        let of_items = &self.parameters.tables[Side::Item as usize].name;
        self.text.as_ref().map_or_else(Group::default, |text| text.group(parameter, of_items))
    }

    fn warm_start(&mut self, earlier: &Parameters) -> Result<(), ModelError> {
        self.parameters_mut().warm_start(earlier)?;
        let of_items = &self.parameters.tables[Side::Item as usize].name;
        let rows = earlier.tables.iter().find(|table| table.name == *of_items).map_or(0, |table| table.rows);
        if let Some(text) = &self.text {
            text.begin_new_items(&mut self.parameters, rows);
        }
        Ok(())
    }

    fn begin_epoch(&mut self, _: &TrainingSet, moment: Moment) -> Result<(), ModelError> {
        if let Some(text) = &self.text {
            text.begin_epoch(&mut self.parameters, moment.epoch);
            self.version += 1;
        }
        let mut made = Made::default();
        self.make(&mut made);
        let first = (self.first(&made), self.config.dim);
        let state = terms::state(&self.config, &self.connected, first, moment);
        let geometry = self.text.as_ref().and_then(|text| {
            let mut work = self.work();
            self.propagate(&mut work);
            Geometry::of(text, &work.vectors.tables[Side::Item as usize].values, self.config.dim, moment.seed)
        });
        self.state = State { geometry, ..state };
        Ok(())
    }

    /// Each pair is a window, by its first event.
    fn windows(&self, _: &TrainingSet, moment: Moment) -> Vec<u32> {
        let mut rng = moment.of_epoch(PAIRS);
        match self.config.sampling {
            Sampling::Pairs => {
                let mut events = self.events.clone();
                rng.shuffle(&mut events);
                events
            }
            Sampling::Users => {
                let users = &self.connected[0];
                let draw = |_| {
                    let edges = self.graph.edges_of(users[rng.below(users.len())]);
                    self.events[edges.start + rng.below(edges.len())]
                };
                (0..self.events.len()).map(draw).collect()
            }
        }
    }

    fn window(&self, set: &TrainingSet, event: u32) -> Window {
        set.window(event as usize)
    }

    fn targets(&self, _: &TrainingSet, _: u32) -> usize {
        1
    }

    fn learn(
        &self,
        set: &TrainingSet,
        windows: &[Window],
        moment: Moment,
        work: &mut Work,
        gradients: &mut Gradients,
    ) -> Result<Terms, ModelError> {
        self.propagate_batch(set, windows, moment, work);
        let plan = self.plan(Some(moment));
        if let Some(text) = &self.text {
            let (codes, [_, items]) = ((ids(&work.ids[1]), plan.share()), finals(&mut work.vectors));
            text.embed_as_new(&self.parameters, codes, moment.of_step(AS_NEW), items, &mut work.as_new);
        }
        for ((net, batch), pass) in self.nets.iter().zip(&work.ids).zip(&mut work.passes) {
            net.forward(&work.vectors, batch, None, pass);
        }
        let vectors = (work.passes.each_ref().map(Pass::output), self.config.dim);
        let batch = (&work.candidates, &work.weights[..]);
        let mut terms = self.objective.learn(&self.parameters, vectors, batch, &mut work.loss, &mut gradients.dense);

        // The gradients of the final vectors, then those that other terms give any layer, and through the propagation
        // those of the first layer.
        work.gradients.clear();
        let outputs = [&work.loss.d_users[..], &work.loss.d_items];
        let passes = self.nets.iter().zip(&work.ids).zip(work.passes.iter_mut().zip(outputs));
        let mut passes: Vec<Backward<'_>> =
            passes.map(|((net, batch), (pass, d_output))| Backward { net, batch, pass, d_output }).collect();
        backward(&work.vectors, &mut passes, &mut work.gradients)?;
        work.later.reset(self.config.layers);
        for (side, gradient) in SIDES.into_iter().zip(&work.gradients.tables) {
            match (&self.text, side) {
                (Some(text), Side::Item) => {
                    let ([_, items], gradient) = (finals(&mut work.vectors), (gradient, plan.share()));
                    let (rows, values) = text.learn_from_new(&work.as_new, gradient, items, gradients);
                    work.later.add(Place::Mean, side, &rows, &values);
                }
                (None, _) | (_, Side::User) => {
                    let (rows, values) = gradient.touched_rows();
                    work.later.add(Place::Mean, side, rows, values);
                }
            }
        }
        self.auxiliary(moment, work, gradients, &mut terms);
        let first = work.propagation.backward(&self.graph, self.config.dim, &plan, &work.later);
        TermGradients { parameters: gradients, later: &mut work.later }.add_first(first);
        let value = self.penalise(work, windows.len(), gradients);
        terms.add("penalty", self.config.penalty, value);
        if let Some(text) = &self.text {
            text.backward(&self.parameters, &mut work.made, gradients);
            let geometry = self.state.geometry.iter().flat_map(Geometry::watched);
            let watched = text.watched(&self.parameters, gradients).into_iter().chain(geometry);
            watched.for_each(|(name, value)| terms.watch(name, value));
        }
        Ok(terms)
    }

    fn dim(&self) -> usize {
        self.config.similarity.width(self.config.dim)
    }

    fn embed<'a>(&self, side: Side, batch: &CodeBatch, work: &'a mut Work) -> Result<&'a [f32], ModelError> {
        self.propagate(work);
        let towers = work.towers.get_or_insert_with(|| self.towers_of(&work.vectors).into());
        work.embedded = native::embed(&towers[side as usize], batch)?.data;
        Ok(&work.embedded)
    }

    fn temperature(&self) -> Option<f64> {
        Some(1.0 / f64::from(self.objective.scale(&self.parameters)))
    }

    fn towers(&self) -> (Tower, Tower) {
        let mut work = self.work();
        self.propagate(&mut work);
        self.towers_of(&work.vectors)
    }
}
