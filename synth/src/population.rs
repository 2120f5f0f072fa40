//! The users of one chunk: feature columns, drift, and the latent vectors of buyers.

use crate::catalogue::{Latent, add_scaled, cents, latent_table};
use crate::columns::{NULL, USER_COLUMNS, USER_ZIPF, dictionary, dictionary_type, identifiers, integers};
use crate::elementary::{exp, ln};
use crate::random::{Random, Stream, Zipf, zipf_shares};
use arrow_array::{ArrayRef, Float32Array, Float64Array, StringArray};
use arrow_schema::{DataType, Field, Schema};
use std::sync::Arc;

/// Users of a chunk, which are drawn together.
pub(crate) const CHUNK: u64 = 65_536;

/// Spellings found in the two boolean columns: 4 of yes, 4 of no, 5 of neither.
const SWITCH_VALUES: [&str; 13] = ["true", "1", "Y", "是", "false", "0", "N", "否", "", "NULL", "\\N", "?", "2"];
const SWITCHES: [&str; 2] = ["is_5g", "is_family"];
/// The least cardinality of columns that get new values from day to day.
const DRIFTING_CARDINALITY: u32 = 25;
/// Share of a column's values that become null per day, and share that become new values.
const DRIFT: f64 = 0.01;

/// What all chunks of users share.
#[derive(Debug)]
pub(crate) struct Population {
    seed: u64,
    day: u32,
    zipf: Vec<Zipf>,
    tables: Vec<Vec<Latent>>,
    values: Vec<Arc<StringArray>>,
    switch_values: Arc<StringArray>,
}

/// The features of a chunk's users, before they become Arrow arrays.
#[derive(Debug)]
pub(crate) struct Users {
    /// `[column][row]` codes, [`NULL`] for null.
    pub codes: [Vec<i32>; USER_COLUMNS.len()],
    /// `[column][row]` positions in [`SWITCH_VALUES`], of which the first 4 say yes and the next 4 no.
    pub switches: [Vec<i32>; SWITCHES.len()],
    pub arpu: Vec<f64>,
    pub arpu_known: Vec<bool>,
    pub data_gb: Vec<f32>,
    /// Months, [`NULL`] for null.
    pub tenure: Vec<i32>,
}

/// Latent vectors of a user column's values, with mean zero over users. A part that all users share would only change
/// popularity.
fn centred_table(seed: u64, column: u8, cardinality: u32) -> Vec<Latent> {
    let mut table = latent_table(seed, Stream::UserTable(column), cardinality);
    let mut mean = Latent::default();
    for (latent, share) in table.iter().zip(zipf_shares(cardinality, USER_ZIPF)) {
        add_scaled(&mut mean, share as f32, latent);
    }
    for latent in &mut table {
        add_scaled(latent, -1.0, &mean);
    }
    table
}

impl Population {
    pub fn new(seed: u64, day: u32) -> Self {
        let tables = (0..).zip(&USER_COLUMNS).map(|(i, column)| centred_table(seed, i, column.cardinality)).collect();
        Self {
            seed,
            day,
            zipf: USER_COLUMNS.iter().map(|column| Zipf::new(column.cardinality, USER_ZIPF)).collect(),
            tables,
            values: USER_COLUMNS.iter().map(|column| column.values(day)).collect(),
            switch_values: Arc::new(StringArray::from_iter_values(SWITCH_VALUES)),
        }
    }

    pub fn schema() -> Arc<Schema> {
        let mut fields = vec![Field::new("user_id", DataType::Utf8, false)];
        fields.extend(USER_COLUMNS.iter().map(|c| Field::new(c.name, c.data_type(), true)));
        fields.extend(SWITCHES.map(|name| Field::new(name, dictionary_type(), true)));
        fields.push(Field::new("arpu", DataType::Float64, true));
        fields.push(Field::new("data_gb", DataType::Float32, false));
        fields.push(Field::new("tenure", DataType::Int32, true));
        Arc::new(Schema::new(fields))
    }

    /// Draws the first `rows` users of a chunk. Each column has a sequence of random numbers of its own.
    pub fn draw(&self, chunk: u64, rows: usize) -> Users {
        let mut next_column = 0;
        let mut column = || {
            next_column += 1;
            Random::new(self.seed, Stream::UserColumn(next_column), chunk)
        };
        let nulls = |i: u8| Random::new(self.seed, Stream::UserNull(i), chunk);
        let codes = std::array::from_fn(|i| {
            let (zipf, spec) = (&self.zipf[i], &USER_COLUMNS[i]);
            let (mut random, mut nulls) = (column(), nulls(i as u8));
            let mut draw = || {
                let code = zipf.draw(&mut random) as i32;
                if nulls.chance(spec.nulls) { NULL } else { code }
            };
            (0..rows).map(|_| draw()).collect()
        });
        let switches = SWITCHES.map(|_| {
            let mut random = column();
            let mut draw = || match (random.chance(0.08), random.chance(0.4)) {
                (true, _) => 8 + random.below(5) as i32,
                (_, true) => random.below(4) as i32,
                (_, false) => 4 + random.below(4) as i32,
            };
            (0..rows).map(|_| draw()).collect()
        });
        let mut random = column();
        let arpu = (0..rows).map(|_| cents(f64::from(exp(4.0 + 0.6 * random.normal() as f32)))).collect();
        let mut unknown = nulls(USER_COLUMNS.len() as u8);
        let arpu_known = (0..rows).map(|_| !unknown.chance(0.02)).collect();
        // The sum of two exponentials of mean 8 is Gamma(2, 8).
        let mut random = column();
        let mut gigabytes = || -8.0 * ln(random.unit() * random.unit());
        let data_gb = (0..rows).map(|_| ((gigabytes() * 1000.0).round() / 1000.0) as f32).collect();
        let mut random = column();
        let tenure = (0..rows)
            .map(|_| {
                let months = random.below(240) as i32;
                if random.chance(0.01) { NULL } else { months }
            })
            .collect();
        Users { codes, switches, arpu, arpu_known, data_gb, tenure }
    }

    /// Latent vectors of the given rows, in that order. Each includes an individual part.
    pub fn latents(&self, chunk: u64, users: &Users, rows: &[u32]) -> Vec<Latent> {
        let mut random = Random::new(self.seed, Stream::BuyerLatent, chunk);
        let mut latents: Vec<Latent> =
            rows.iter().map(|_| std::array::from_fn(|_| 0.3 * random.normal() as f32)).collect();
        for (latent, row) in latents.iter_mut().zip(rows) {
            let row = *row as usize;
            for ((codes, table), spec) in users.codes.iter().zip(&self.tables).zip(&USER_COLUMNS) {
                if let Some(part) = usize::try_from(codes[row]).ok().map(|code| &table[code]) {
                    add_scaled(latent, spec.weight, part);
                }
            }
            for (value, switch) in latent.iter_mut().zip(&users.switches) {
                *value += if switch[row] < 4 { 0.6 } else { 0.0 };
            }
            latent[2] += 0.5 * (ln(users.arpu[row]) - 4.0) as f32;
            latent[3] += 0.4 * (ln(1.0 + f64::from(users.data_gb[row])) - 2.6) as f32;
        }
        latents
    }

    /// Changes the features of a chunk to those of the population's day: more nulls, and values that
    /// day 0 does not have. Those of day 0 stay.
    pub fn drift(&self, chunk: u64, users: &mut Users) {
        let mut random = Random::new(self.seed, Stream::Drift(self.day), chunk);
        let share = (DRIFT * f64::from(self.day)).min(0.5);
        if self.day == 0 {
            return;
        }
        for (codes, spec) in users.codes.iter_mut().zip(&USER_COLUMNS) {
            let takes_new = spec.cardinality >= DRIFTING_CARDINALITY;
            for code in codes {
                let u = random.unit();
                if u < share {
                    *code = NULL;
                } else if takes_new && u < 2.0 * share {
                    *code = (spec.cardinality + random.below(self.day)) as i32;
                }
            }
        }
    }

    /// The chunk's columns in the order of [`Population::schema`].
    pub fn columns(&self, chunk: u64, users: &Users) -> Vec<ArrayRef> {
        let rows = users.arpu.len();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(identifiers(b'u', 9, chunk * CHUNK, rows))];
        for ((codes, values), spec) in users.codes.iter().zip(&self.values).zip(&USER_COLUMNS) {
            columns.push(spec.array(codes, values));
        }
        columns.extend(users.switches.iter().map(|codes| dictionary(codes, &self.switch_values)));
        let arpu = users.arpu.iter().zip(&users.arpu_known).map(|(arpu, known)| known.then_some(*arpu));
        columns.push(Arc::new(Float64Array::from_iter(arpu)));
        columns.push(Arc::new(Float32Array::from_iter_values(users.data_gb.iter().copied())));
        columns.push(integers(&users.tenure, 0));
        columns
    }
}
