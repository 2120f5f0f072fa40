//! Draws the items that users choose from `softmax(popularity + taste * u . v)` over all items.

use crate::catalogue::{BLOCK, Catalogue, ItemBlock, Latent};
use crate::elementary::exp;
use crate::random::{Random, Stream};

/// Chance that a user stops after each draw.
const STOP: f64 = 0.2;
/// The most draws of a user.
const MOST: usize = 20;
/// Users that share a pass over the items.
const GROUP: usize = 16;
/// Start of the interactions, 2025-01-01 in Unix seconds.
const START: i64 = 1_735_689_600;
/// Their span: 180 days.
const SPAN: u32 = 180 * 86_400;

/// Interactions of one chunk, by user and then time.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    /// Row of the user within the chunk, ascending.
    pub users: Vec<u32>,
    /// Item numbers. A user has each at most once.
    pub items: Vec<u32>,
    /// Unix seconds, ascending within a user.
    pub times: Vec<i64>,
}

/// Rows of the users that have interactions, about a `share` of all, ascending.
pub(crate) fn buyers(seed: u64, chunk: u64, rows: usize, share: f64) -> Vec<u32> {
    let mut random = Random::new(seed, Stream::Buyers, chunk);
    (0..rows as u32).filter(|_| random.chance(share)).collect()
}

/// Unnormalised choice probabilities of a group of users.
#[derive(Debug)]
pub(crate) struct Weights {
    /// `[user][block][BLOCK]`.
    weights: Vec<[f32; BLOCK]>,
    /// `[user][block]`.
    sums: Vec<f32>,
    blocks: usize,
    items: usize,
}

/// One user's part of [`Weights`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct UserWeights<'a> {
    blocks: &'a [[f32; BLOCK]],
    sums: &'a [f32],
    items: usize,
}

/// Computes the weights of one block and returns their sum. Eight partial sums make the order of additions the same for
/// every vector width.
#[inline(always)]
fn weigh_block(item: &ItemBlock, user: &Latent, weights: &mut [f32; BLOCK]) -> f32 {
    let mut logits = item.popularity;
    for (value, row) in user.iter().zip(&item.latents) {
        for (logit, latent) in logits.iter_mut().zip(row) {
            *logit += value * latent;
        }
    }
    let mut lanes = [0.0f32; 8];
    for (out, logits) in weights.as_chunks_mut::<8>().0.iter_mut().zip(logits.as_chunks::<8>().0) {
        for ((weight, logit), lane) in out.iter_mut().zip(logits).zip(&mut lanes) {
            *weight = exp(*logit);
            *lane += *weight;
        }
    }
    lanes.iter().sum()
}

/// Computes the weights of all items for each user, a block of items at a time. [`Weights`] states the shapes.
#[inline(always)]
fn weigh_all(items: &[ItemBlock], users: &[Latent], weights: &mut [[f32; BLOCK]], sums: &mut [f32]) {
    for (b, item) in items.iter().enumerate() {
        for (g, user) in users.iter().enumerate() {
            let at = g * items.len() + b;
            sums[at] = weigh_block(item, user, &mut weights[at]);
        }
    }
}

/// As [`weigh_all`], in wider vectors. It has no fused multiply-add, so the bits are the same.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn weigh_all_avx2(items: &[ItemBlock], users: &[Latent], weights: &mut [[f32; BLOCK]], sums: &mut [f32]) {
    weigh_all(items, users, weights, sums);
}

impl Weights {
    pub fn new(catalogue: &Catalogue) -> Self {
        let blocks = catalogue.blocks.len();
        Self {
            weights: vec![[0.0; BLOCK]; GROUP * blocks],
            sums: vec![0.0; GROUP * blocks],
            blocks,
            items: catalogue.items,
        }
    }

    /// Computes the weights of at most `GROUP` users, a block of items at a time so that it stays in cache.
    pub fn weigh(&mut self, catalogue: &Catalogue, users: &[Latent]) -> impl Iterator<Item = UserWeights<'_>> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            unsafe { weigh_all_avx2(&catalogue.blocks, users, &mut self.weights, &mut self.sums) };
        } else {
            weigh_all(&catalogue.blocks, users, &mut self.weights, &mut self.sums);
        }
        #[cfg(not(target_arch = "x86_64"))]
        weigh_all(&catalogue.blocks, users, &mut self.weights, &mut self.sums);
        let items = self.items;
        let groups = self.weights.chunks(self.blocks).zip(self.sums.chunks(self.blocks));
        groups.take(users.len()).map(move |(blocks, sums)| UserWeights { blocks, sums, items })
    }
}

impl UserWeights<'_> {
    /// `[items]` weights, which are probabilities multiplied by [`UserWeights::total`].
    pub fn as_slice(&self) -> &[f32] {
        &self.blocks.as_flattened()[..self.items]
    }

    pub fn total(&self) -> f32 {
        self.sums.iter().sum()
    }

    /// Draws one item.
    fn draw(&self, random: &mut Random, total: f32) -> u32 {
        let mut rest = random.unit() as f32 * total;
        let mut block = 0;
        while block + 1 < self.sums.len() && rest >= self.sums[block] {
            rest -= self.sums[block];
            block += 1;
        }
        let mut item = block * BLOCK;
        for weight in &self.blocks[block] {
            if rest < *weight || item + 1 == self.items {
                break;
            }
            rest -= weight;
            item += 1;
        }
        // Rounding may give the item after the last one.
        item.min(self.items - 1) as u32
    }
}

/// Draws the interactions of a chunk's buyers, and calls `each` for each buyer with the weights and the drawn items.
pub(crate) fn choose(
    seed: u64,
    chunk: u64,
    catalogue: &Catalogue,
    buyers: &[u32],
    latents: &[Latent],
    mut each: impl FnMut(UserWeights<'_>, &[u32]),
) -> Choices {
    let mut random = Random::new(seed, Stream::Choices, chunk);
    let mut choices = Choices::default();
    let mut weights = Weights::new(catalogue);
    let mut events: Vec<(i64, u32)> = Vec::with_capacity(MOST);
    for (rows, latents) in buyers.chunks(GROUP).zip(latents.chunks(GROUP)) {
        for (row, user) in rows.iter().zip(weights.weigh(catalogue, latents)) {
            let total = user.total();
            events.clear();
            for _ in 0..MOST {
                let item = user.draw(&mut random, total);
                let time = START + i64::from(random.below(SPAN));
                if events.iter().all(|(other_time, other)| *other != item && *other_time != time) {
                    events.push((time, item));
                }
                if random.chance(STOP) {
                    break;
                }
            }
            events.sort_unstable();
            let first = choices.items.len();
            for (time, item) in &events {
                choices.users.push(*row);
                choices.items.push(*item);
                choices.times.push(*time);
            }
            each(user, &choices.items[first..]);
        }
    }
    choices
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latents(n: usize) -> Vec<Latent> {
        let mut random = Random::new(5, Stream::BuyerLatent, 0);
        (0..n).map(|_| std::array::from_fn(|_| 2.0 * random.normal() as f32)).collect()
    }

    #[test]
    fn weights_are_the_softmax_of_popularity_and_taste() {
        for items in [1, 63, 64, 65, 200] {
            let catalogue = Catalogue::new(1, items);
            let users = latents(5);
            let mut weights = Weights::new(&catalogue);
            for (user, latent) in weights.weigh(&catalogue, &users).zip(&users) {
                assert_eq!(user.as_slice().len(), items);
                let logits: Vec<f64> = (0..items)
                    .map(|i| {
                        let block = &catalogue.blocks[i / BLOCK];
                        let dot = |(u, row): (&f32, &[f32; BLOCK])| f64::from(*u) * f64::from(row[i % BLOCK]);
                        let taste: f64 = latent.iter().zip(&block.latents).map(dot).sum();
                        f64::from(block.popularity[i % BLOCK]) + taste
                    })
                    .collect();
                let total: f64 = logits.iter().map(|z| z.exp()).sum();
                for (weight, logit) in user.as_slice().iter().zip(&logits) {
                    let (found, expected) = (weight / user.total(), logit.exp() / total);
                    assert!((f64::from(found) - expected).abs() < 1e-5, "{found} {expected}");
                }
            }
        }
    }

    #[test]
    fn weights_have_the_same_bits_whatever_the_processor() {
        let catalogue = Catalogue::new(4, 333);
        let users = latents(GROUP);
        let mut chosen = Weights::new(&catalogue);
        let mut portable = Weights::new(&catalogue);
        assert_eq!(chosen.weigh(&catalogue, &users).count(), GROUP);
        weigh_all(&catalogue.blocks, &users, &mut portable.weights, &mut portable.sums);
        assert!(chosen.weights == portable.weights && chosen.sums == portable.sums);
    }

    #[test]
    fn draws_follow_the_weights() {
        let catalogue = Catalogue::new(2, 130);
        let mut weights = Weights::new(&catalogue);
        let user = weights.weigh(&catalogue, &latents(1)).next().unwrap();
        let (mut random, n) = (Random::new(1, Stream::Choices, 0), 200_000);
        let mut counts = vec![0u32; 130];
        for _ in 0..n {
            counts[user.draw(&mut random, user.total()) as usize] += 1;
        }
        for (count, weight) in counts.iter().zip(user.as_slice()) {
            let (found, expected) = (f64::from(*count) / f64::from(n), f64::from(weight / user.total()));
            // The tolerance is four standard errors, and a little more for rare items.
            assert!((found - expected).abs() < 4.0 * (expected / f64::from(n)).sqrt() + 2e-5, "{found} {expected}");
        }
    }

    #[test]
    fn a_user_has_an_item_once_and_times_ascend() {
        let catalogue = Catalogue::new(3, 40);
        let rows: Vec<u32> = (0..500).map(|r| 3 * r).collect();
        let mut seen = 0;
        let choices = choose(3, 0, &catalogue, &rows, &latents(500), |_, items| seen += items.len());
        assert_eq!(seen, choices.items.len());
        let by_user: Vec<&[u32]> = choices.users.chunk_by(|a, b| a == b).collect();
        assert_eq!(by_user.iter().map(|u| u[0]).collect::<Vec<_>>(), rows);
        let mut at = 0;
        for user in by_user {
            let range = at..at + user.len();
            at = range.end;
            assert!((1..=MOST).contains(&user.len()));
            assert!(choices.times[range.clone()].windows(2).all(|t| t[0] < t[1]));
            let mut items = choices.items[range].to_vec();
            items.sort_unstable();
            assert!(items.windows(2).all(|i| i[0] < i[1]));
        }
    }
}
