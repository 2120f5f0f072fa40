//! The items: their table, latent vectors and popularity.

use crate::columns::{ITEM_COLUMNS, ITEM_ZIPF, NULL, identifiers};
use crate::elementary::{exp, ln};
use crate::random::{Random, Stream, Zipf};
use arrow_array::{ArrayRef, Float64Array, Int32Array, StringArray};
use arrow_schema::{DataType, Field, Schema};
use std::sync::Arc;

/// Dimensions of a latent vector.
pub(crate) const LATENT: usize = 8;
/// Items of a block, whose latent vectors take 2 KiB.
pub(crate) const BLOCK: usize = 64;
/// Scale of the dot product against popularity.
const TASTE: f32 = 0.35;
const MONTHS: [i32; 5] = [1, 3, 6, 12, 24];

/// A latent vector.
pub(crate) type Latent = [f32; LATENT];

/// One block of items, laid out for a loop over items.
#[derive(Debug, Clone)]
pub(crate) struct ItemBlock {
    /// `[LATENT][BLOCK]`, scaled by the taste factor.
    pub latents: [[f32; BLOCK]; LATENT],
    /// Log popularity. That of items beyond the catalogue is so low that they are never drawn.
    pub popularity: [f32; BLOCK],
}

/// The items that users choose from.
#[derive(Debug)]
pub(crate) struct Catalogue {
    pub items: usize,
    pub blocks: Vec<ItemBlock>,
    pub ids: Arc<StringArray>,
    pub columns: Vec<ArrayRef>,
    /// `[column][item]` codes, [`NULL`] for null.
    pub codes: [Vec<i32>; ITEM_COLUMNS.len()],
    pub prices: Vec<f64>,
    pub months: Vec<i32>,
}

/// `[cardinality]` latent vectors of a column's values, drawn from a standard normal.
pub(crate) fn latent_table(seed: u64, stream: Stream, cardinality: u32) -> Vec<Latent> {
    let mut random = Random::new(seed, stream, 0);
    (0..cardinality).map(|_| std::array::from_fn(|_| random.normal() as f32)).collect()
}

/// `to += weight * part`.
pub(crate) fn add_scaled(to: &mut Latent, weight: f32, part: &Latent) {
    for (t, p) in to.iter_mut().zip(part) {
        *t += weight * p;
    }
}

/// `x` rounded to a whole number of hundredths.
pub(crate) fn cents(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}

impl Catalogue {
    pub fn new(seed: u64, items: usize) -> Self {
        let ids = Arc::new(identifiers(b'p', 6, 0, items));
        let mut columns: Vec<ArrayRef> = vec![ids.clone()];
        let mut own = Random::new(seed, Stream::ItemLatent, 0);
        let mut latents: Vec<Latent> = (0..items).map(|_| std::array::from_fn(|_| 0.5 * own.normal() as f32)).collect();
        let codes: [Vec<i32>; ITEM_COLUMNS.len()] = std::array::from_fn(|i| {
            let (column, i) = (&ITEM_COLUMNS[i], i as u8);
            let table = latent_table(seed, Stream::ItemTable(i), column.cardinality);
            let mut random = Random::new(seed, Stream::ItemColumn(i), 0);
            let zipf = Zipf::new(column.cardinality, ITEM_ZIPF);
            latents
                .iter_mut()
                .map(|latent| {
                    let code = zipf.draw(&mut random);
                    if random.chance(column.nulls) {
                        return NULL;
                    }
                    add_scaled(latent, column.weight, &table[code as usize]);
                    code as i32
                })
                .collect()
        });
        for (column, codes) in ITEM_COLUMNS.iter().zip(&codes) {
            columns.push(column.array(codes, &column.values(0)));
        }
        let mut random = Random::new(seed, Stream::ItemColumn(ITEM_COLUMNS.len() as u8), 0);
        let mut months = Vec::with_capacity(items);
        let mut prices = Vec::with_capacity(items);
        for latent in &mut latents {
            let log_price = random.normal();
            latent[0] += 0.5 * log_price as f32;
            prices.push(cents(f64::from(exp(3.0 + log_price as f32))));
            months.push(MONTHS[random.below(MONTHS.len() as u32) as usize]);
        }
        columns.push(Arc::new(Float64Array::from(prices.clone())));
        columns.push(Arc::new(Int32Array::from(months.clone())));
        Self { items, blocks: blocks(&latents, &popularity(seed, items)), ids, columns, codes, prices, months }
    }

    pub fn schema() -> Arc<Schema> {
        let mut fields = vec![Field::new("product_id", DataType::Utf8, false)];
        fields.extend(ITEM_COLUMNS.iter().map(|c| Field::new(c.name, c.data_type(), true)));
        fields.push(Field::new("price", DataType::Float64, false));
        fields.push(Field::new("months", DataType::Int32, false));
        Arc::new(Schema::new(fields))
    }
}

/// Log popularity of each item: `-0.96 ln rank`, with ranks assigned at random.
fn popularity(seed: u64, items: usize) -> Vec<f32> {
    let mut random = Random::new(seed, Stream::Popularity, 0);
    let mut popularity: Vec<f32> = (1..=items).map(|rank| (-0.96 * ln(rank as f64)) as f32).collect();
    for last in (1..items).rev() {
        popularity.swap(last, random.below(last as u32 + 1) as usize);
    }
    popularity
}

fn blocks(latents: &[Latent], popularity: &[f32]) -> Vec<ItemBlock> {
    latents
        .chunks(BLOCK)
        .zip(popularity.chunks(BLOCK))
        .map(|(latents, popular)| {
            let mut block = ItemBlock { latents: [[0.0; BLOCK]; LATENT], popularity: [f32::NEG_INFINITY; BLOCK] };
            for (at, latent) in latents.iter().enumerate() {
                for (row, value) in block.latents.iter_mut().zip(latent) {
                    row[at] = TASTE * value;
                }
            }
            block.popularity[..popular.len()].copy_from_slice(popular);
            block
        })
        .collect()
}
