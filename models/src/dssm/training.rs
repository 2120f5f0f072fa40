//! A DSSM in training: its parameters, a step, and the towers that are exported. SASRec is one too ([`crate::sasrec`]).

use super::{Activation, DssmConfig, SequencePooling};
use crate::augment::{ContrastConfig, Views};
use crate::candidates::BatchCandidates;
use crate::error::ModelError;
use crate::examples::{Role, TrainingSet, Window, assemble, drop_codes};
use crate::losses::LossGradient;
use crate::losses::contrast::Contrast;
use crate::model::{Model, Moment, Terms};
use crate::net::{Backward, Net, Pass, backward};
use crate::objective::Objective;
use crate::params::{Gradients, Parameters};
use crate::positions::Positions;
use crate::rng::Rng;
use crate::sasrec::SasrecConfig;
use crate::similarity::{NORM_FLOOR, Similarity, cosine_of_inner_product};
use crate::tables::tables;
use crate::tower::{Input, Layer, Reduce, Tower};
use crate::train::TrainConfig;
use twotower_artifacts::{CodeBatch, FieldShape, Side, TowerSchema};

/// A DSSM in training.
pub(crate) struct Dssm {
    parameters: Parameters,
    user: Net,
    item: Net,
    dim: usize,
    similarity: Similarity,
    /// The contrast of augmented sequences, and the users' column that is augmented.
    contrast: Option<(ContrastConfig, usize)>,
    objective: Objective,
    unknown_rate: f64,
    missing_rate: f64,
    /// How events are cut into windows, if the model is trained at every position of a sequence.
    pub(crate) positions: Option<Positions>,
}

/// The purposes for which random numbers are drawn.
const ORDER: u64 = 10;
const CANDIDATES: u64 = 11;
const NOISE: u64 = 12;
const VIEWS: u64 = 13;

/// The working memory of a step.
pub(crate) struct Work {
    /// A row for each window, if windows have several targets.
    windows: CodeBatch,
    /// For each target, the window of it alone.
    targets: Vec<Window>,
    users: CodeBatch,
    items: CodeBatch,
    candidates: BatchCandidates,
    /// Items of the targets.
    clicked: Vec<u32>,
    /// Weights of the targets.
    weights: Vec<f32>,
    user_pass: Pass,
    item_pass: Pass,
    loss: LossGradient,
    views: Views,
    view_pass: Pass,
    contrast: Contrast,
}

impl Dssm {
    /// A model with fresh parameters: embeddings N(0, 0.05²), weights Glorot uniform, biases 0, gains 1, PReLU
    /// slopes 0.25, position logits 0, positions N(0, 0.05²). They are a pure function of schemas, settings and seed.
    ///
    /// # Errors
    /// [`ModelError::Setting`] and [`ModelError::Data`] when settings or schemas cannot be built.
    pub fn new(set: &TrainingSet, config: &DssmConfig, train: &TrainConfig) -> Result<Self, ModelError> {
        config.check()?;
        Self::of(set, config, Similarity::Cosine, train)
    }

    /// As [`Dssm::new`], for SASRec and TiSASRec, whose settings have been checked.
    ///
    /// # Errors
    /// As [`Dssm::new`].
    pub fn sasrec(set: &TrainingSet, config: &SasrecConfig, train: &TrainConfig) -> Result<Self, ModelError> {
        let model = Self::of(set, &config.dssm(), config.similarity, train)?;
        // The sequence is the only field.
        Ok(Self { contrast: config.contrast.clone().map(|contrast| (contrast, 0)), ..model })
    }

    fn of(
        set: &TrainingSet,
        config: &DssmConfig,
        similarity: Similarity,
        train: &TrainConfig,
    ) -> Result<Self, ModelError> {
        let (user, item, seed) = (&set.user_schema, &set.item_schema, train.seed);
        let mut parameters = Parameters { tables: tables(&[user, item], config, seed)?, dense: Vec::new() };
        let mut user = build(user, config, seed, &mut parameters)?;
        let mut item = build(item, config, seed, &mut parameters)?;
        match similarity {
            Similarity::Cosine => {
                [&mut user, &mut item].into_iter().for_each(|net| net.push(Layer::L2Norm { eps: NORM_FLOOR }, 0.0))
            }
            Similarity::Dot => {}
        }
        let temperature = (config.temperature, config.learn_temperature);
        let objective = Objective::new(set, train, temperature, &mut parameters);
        Ok(Self {
            parameters,
            user,
            item,
            dim: config.dim(),
            similarity,
            contrast: None,
            objective,
            unknown_rate: train.unknown_rate,
            missing_rate: train.missing_rate,
            positions: config.positions(&set.user_schema, set.known),
        })
    }

    fn net(&self, side: Side) -> &Net {
        match side {
            Side::User => &self.user,
            Side::Item => &self.item,
        }
    }

    /// Fills the users' rows of a batch, one for each target. `key` is that of the codes that are dropped.
    fn assemble_users(&self, set: &TrainingSet, windows: &[Window], key: u64, work: &mut Work) {
        let drop = |batch: &mut CodeBatch| drop_codes(batch, self.unknown_rate, self.missing_rate, key);
        match &self.positions {
            None => {
                assemble(set, windows, &mut work.users);
                drop(&mut work.users);
            }
            // What is dropped is dropped for all targets of a window.
            Some(positions) => {
                positions.assemble(set, windows, &mut work.windows);
                drop(&mut work.windows);
                positions.spread(set, windows, &work.windows, &mut work.users);
            }
        }
    }
}

impl Dssm {
    /// Embeds augmented views of a batch's sequences, if they are contrasted, and adds the term of their contrast and its
    /// gradient. Returns whether there is one.
    fn contrast(&self, set: &TrainingSet, moment: Moment, work: &mut Work, terms: &mut Terms) -> bool {
        let Some((config, sequence)) = &self.contrast else { return false };
        let Work { windows, users, views, view_pass, contrast, .. } = work;
        let rows = if self.positions.is_some() { windows } else { users };
        let mut draw = moment.of_step(VIEWS);
        views.make(config, rows, *sequence, &set.item_codes, draw.bits());
        if views.count() == 0 {
            terms.add("contrast", f64::from(config.weight), 0.0);
            return false;
        }
        self.user.forward(&self.parameters, &views.rows, Some(draw.bits()), view_pass);
        let width = views.represent(config, view_pass.output(), self.dim);
        let value = contrast.nt_xent(&views.compared, width, config.similarity, config.temperature, config.weight);
        views.spread(config, &contrast.d_views, width, self.dim);
        terms.add("contrast", f64::from(config.weight), value);
        true
    }
}

fn build(schema: &TowerSchema, config: &DssmConfig, seed: u64, parameters: &mut Parameters) -> Result<Net, ModelError> {
    let side = schema.side;
    let first = parameters.dense.len();
    let used = schema.fields.iter().filter_map(|field| field.shape.table());
    let index_of = |name: &str| parameters.tables.iter().position(|table| table.name == name);
    let tables = used.filter_map(|(name, _)| Some((name.to_string(), index_of(name)?))).collect();
    let mut inputs = Vec::new();
    for field in &schema.fields {
        inputs.push(match &field.shape {
            FieldShape::Code { table, .. } => Input::Embedding { table: table.clone() },
            FieldShape::Bag { table, .. } => Input::Pooled { table: table.clone(), reduce: Reduce::Mean },
            FieldShape::Sequence { table, max_len, intervals, .. } => {
                let max_len = *max_len as usize;
                let reduce = match config.pooling {
                    SequencePooling::Mean => Reduce::Mean,
                    SequencePooling::Position => {
                        let name = format!("{side}/{}/position", field.name);
                        Reduce::Position(parameters.add_dense(name, 1, max_len, false, vec![0.0; max_len]))
                    }
                    SequencePooling::Attention => {
                        let attention = config.attention.clone().unwrap_or_default();
                        let heads = attention.heads;
                        let dim = parameters.tables.iter().find(|t| t.name == *table).map_or(0, |table| table.dim);
                        if !dim.is_multiple_of(heads) {
                            return Err(ModelError::Setting {
                                setting: "attention.heads".into(),
                                expected: format!("a divisor of {dim}, the width of table `{table}`"),
                                found: heads.to_string(),
                            });
                        }
                        let name = format!("{side}/{}", field.name);
                        let gate = attention.hyper_connections.map_or(0.0, |settings| settings.gate);
                        let shape = (attention.shape(intervals.map(|intervals| intervals.span)), gate);
                        let key = inputs.len() as u64;
                        let draw = |parameter| Rng::at(seed, &[2, side as u64, key, parameter]);
                        Reduce::Attention(parameters.add_encoder(&name, shape, dim, max_len, draw))
                    }
                };
                Input::Pooled { table: table.clone(), reduce }
            }
            FieldShape::Dense { .. } => Input::Dense,
        });
    }
    let dim = config.dim();
    let tower = Tower { schema: schema.clone(), inputs, tables, layers: Vec::new(), dim, inner_product_scale: None };
    let encoder_dropout = config.attention.clone().unwrap_or_default().dropout;
    let mut net = Net { tower, dropout: Vec::new(), encoder_dropout, dense: first..first };
    let mut width = net.input_width(parameters);
    if width == 0 {
        return Err(ModelError::Data { reason: format!("the {side} tower has no inputs; give it a feature") });
    }
    for (l, output) in config.hidden.iter().enumerate() {
        let rng = Rng::at(seed, &[1, side as u64, l as u64]);
        net.push(parameters.add_linear(&format!("{side}/linear{l}"), width, *output, rng), 0.0);
        if l + 1 < config.hidden.len() {
            if config.layer_norm {
                net.push(parameters.add_layer_norm(&format!("{side}/norm{l}"), *output), 0.0);
            }
            let activation = match config.activation {
                Activation::Relu => Layer::Relu,
                Activation::Prelu => {
                    let slopes = vec![0.25; *output];
                    let slope = parameters.add_dense(format!("{side}/prelu{l}/slope"), 1, *output, false, slopes);
                    Layer::Prelu { slope }
                }
            };
            net.push(activation, config.dropout);
        }
        width = *output;
    }
    net.dense = first..parameters.dense.len();
    Ok(net)
}

impl Model for Dssm {
    type Work = Work;
    type State = ();

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    fn work(&self) -> Work {
        Work {
            windows: CodeBatch::empty(&self.user.tower.schema),
            targets: Vec::new(),
            users: CodeBatch::empty(&self.user.tower.schema),
            items: CodeBatch::empty(&self.item.tower.schema),
            candidates: BatchCandidates::default(),
            clicked: Vec::new(),
            weights: Vec::new(),
            user_pass: Pass::default(),
            item_pass: Pass::default(),
            loss: LossGradient::default(),
            views: Views::new(CodeBatch::empty(&self.user.tower.schema)),
            view_pass: Pass::default(),
            contrast: Contrast::default(),
        }
    }

    fn state(&self) -> &() {
        &()
    }

    fn restore(&mut self, (): ()) {}

    /// Each training event is a window, or, where all positions of sequences are trained, stretches of events. Their
    /// order is random.
    fn windows(&self, set: &TrainingSet, moment: Moment) -> Vec<u32> {
        let mut windows = match &self.positions {
            None => set.events(Role::Train).map(|event| event as u32).collect(),
            Some(positions) => positions.windows(set),
        };
        moment.of_epoch(ORDER).shuffle(&mut windows);
        windows
    }

    fn window(&self, set: &TrainingSet, number: u32) -> Window {
        match &self.positions {
            None => set.window(number as usize),
            Some(positions) => positions.window(set, number as usize),
        }
    }

    fn targets(&self, set: &TrainingSet, number: u32) -> usize {
        self.positions.map_or(1, |positions| set.targets(&positions.window(set, number as usize)).count())
    }

    fn learn(
        &self,
        set: &TrainingSet,
        windows: &[Window],
        moment: Moment,
        work: &mut Work,
        gradients: &mut Gradients,
    ) -> Result<Terms, ModelError> {
        work.targets.clear();
        for window in windows {
            let target = |event| Window { targets: event..event + 1, ..window.clone() };
            work.targets.extend(set.targets(window).map(target));
        }
        let events = || work.targets.iter().map(|target| target.targets.start);
        work.clicked.clear();
        work.clicked.extend(events().map(|event| set.interactions.items[event]));
        work.weights.clear();
        work.weights.extend(events().map(|event| set.interactions.weights[event]));
        self.objective.choose(&work.targets, &work.clicked, moment.of_step(CANDIDATES), &mut work.candidates);
        work.items.clear();
        work.items.extend_from_rows(&set.items, work.candidates.items.iter().map(|item| *item as usize));
        // A small share of codes is dropped, so that the rows of unknown and of missing values are trained.
        let mut noise = moment.of_step(NOISE);
        self.assemble_users(set, windows, noise.bits(), work);
        drop_codes(&mut work.items, self.unknown_rate, self.missing_rate, noise.bits());

        self.user.forward(&self.parameters, &work.users, Some(noise.bits()), &mut work.user_pass);
        self.item.forward(&self.parameters, &work.items, Some(noise.bits()), &mut work.item_pass);
        let vectors = ([work.user_pass.output(), work.item_pass.output()], self.dim);
        let batch = (&work.candidates, &work.weights[..]);
        let mut terms = self.objective.learn(&self.parameters, vectors, batch, &mut work.loss, &mut gradients.dense);
        if let Some(error) = self.user.sinkhorn_error(&work.user_pass) {
            terms.watch("sinkhorn_error", f64::from(error));
        }
        let contrast = self.contrast(set, moment, work, &mut terms);
        let user =
            Backward { net: &self.user, batch: &work.users, pass: &mut work.user_pass, d_output: &work.loss.d_users };
        let item =
            Backward { net: &self.item, batch: &work.items, pass: &mut work.item_pass, d_output: &work.loss.d_items };
        let views = contrast.then_some(Backward {
            net: &self.user,
            batch: &work.views.rows,
            pass: &mut work.view_pass,
            d_output: &work.views.d_rows,
        });
        let mut passes: Vec<Backward<'_>> = [user, item].into_iter().chain(views).collect();
        backward(&self.parameters, &mut passes, gradients)?;
        Ok(terms)
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn embed<'a>(&self, side: Side, batch: &CodeBatch, work: &'a mut Work) -> Result<&'a [f32], ModelError> {
        self.net(side).forward(&self.parameters, batch, None, &mut work.user_pass);
        Ok(work.user_pass.output())
    }

    fn temperature(&self) -> Option<f64> {
        Some(1.0 / self.objective.scale(&self.parameters) as f64)
    }

    fn towers(&self) -> (Tower, Tower) {
        let (user, item) = (self.user.trained(&self.parameters), self.item.trained(&self.parameters));
        match self.similarity {
            Similarity::Cosine => (user, item),
            Similarity::Dot => cosine_of_inner_product(user, item),
        }
    }
}
