//! Augmented sequences and their contrast, a second term of the loss of sequence models (CL4SRec; Xie et al., ICDE 2022,
//! arXiv 2010.14395).
//!
//! Departures from the paper: a masked item becomes the code of a missing value, whose row of the table nothing else in a
//! sequence uses; and the sequences of a batch are its windows (`positions.rs`), of which a user with many events
//! may have several. Where items have times, which the paper does not have, a masked, replaced or reordered item stands in
//! the time of its place, on the scale of the whole window.

use crate::error::ModelError;
use crate::rng::Rng;
use crate::similarity::Similarity;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use twotower_artifacts::schema::MISSING;
use twotower_artifacts::{CodeBatch, Column};

/// What of a sequence is compared with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Representation {
    /// The output at the newest item, which is the user's vector.
    #[default]
    Last,
    /// The mean of the outputs at all items.
    Mean,
    /// The outputs at all items side by side, the oldest first, so that the loss depends on positions.
    Flatten,
}

/// Settings of the contrast. Each view of a sequence is made by one of the augmentations that have a rate, each with
/// the same probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContrastConfig {
    /// The factor of its term in the loss.
    pub weight: f32,
    /// Scores of views are divided by it.
    pub temperature: f32,
    /// What scores a pair of views.
    pub similarity: Similarity,
    /// What of a sequence is compared.
    pub representation: Representation,
    /// The share of a sequence that is kept, in one piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<f64>,
    /// The share of items that are masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<f64>,
    /// The share of a sequence that is shuffled, in one piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reorder: Option<f64>,
    /// The share of items that become others, drawn uniformly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace: Option<f64>,
}

impl Default for ContrastConfig {
    fn default() -> Self {
        Self {
            weight: 0.1,
            temperature: 1.0,
            similarity: Similarity::Cosine,
            representation: Representation::Last,
            crop: None,
            mask: None,
            reorder: None,
            replace: None,
        }
    }
}

/// An augmentation, with the share of a sequence that it concerns.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Augmentation {
    Crop(f64),
    Mask(f64),
    Reorder(f64),
    Replace(f64),
}

impl ContrastConfig {
    /// Checks that there is an augmentation.
    ///
    /// # Errors
    /// [`ModelError::Setting`].
    pub(crate) fn check(&self) -> Result<(), ModelError> {
        if !self.augmentations().is_empty() {
            return Ok(());
        }
        Err(ModelError::Setting {
            setting: "model.contrast".into(),
            expected: "a rate for at least one of `crop`, `mask`, `reorder` and `replace`, such as `crop = 0.6`".into(),
            found: "none".into(),
        })
    }

    fn augmentations(&self) -> Vec<Augmentation> {
        let Self { crop, mask, reorder, replace, .. } = self;
        let all = [
            crop.map(Augmentation::Crop),
            mask.map(Augmentation::Mask),
            reorder.map(Augmentation::Reorder),
            replace.map(Augmentation::Replace),
        ];
        all.into_iter().flatten().collect()
    }
}

impl Augmentation {
    /// Augments the codes of a sequence, whose places have times, or none have. `others` are the codes of all items.
    fn apply(self, codes: &mut Vec<u32>, times: &mut Vec<i32>, others: &[u32], rng: &mut Rng) {
        let count = codes.len();
        let whole = |share: f64| ((share * count as f64).ceil() as usize).clamp(1, count.max(1));
        let piece = |share: f64, rng: &mut Rng| {
            let kept = whole(share);
            let start = rng.below(count - kept + 1);
            start..start + kept
        };
        // That many distinct places.
        let places = |share: f64, rng: &mut Rng| {
            let mut places: Vec<usize> = (0..count).collect();
            rng.shuffle(&mut places);
            places.truncate((share * count as f64).floor() as usize);
            places
        };
        match self {
            Augmentation::Crop(share) => {
                let piece = piece(share, rng);
                *codes = codes[piece.clone()].to_vec();
                *times = times.get(piece).unwrap_or_default().to_vec();
            }
            Augmentation::Mask(share) => places(share, rng).into_iter().for_each(|place| codes[place] = MISSING),
            Augmentation::Reorder(share) => {
                let piece = piece(share, rng);
                rng.shuffle(&mut codes[piece]);
            }
            Augmentation::Replace(share) => {
                for place in places(share, rng) {
                    codes[place] = others[rng.below(others.len())];
                }
            }
        }
    }
}

/// Two views of each sequence of a batch. They are reused between steps.
#[derive(Debug)]
pub(crate) struct Views {
    /// The rows of the tower for each view, one after another: one, or one for each of its items.
    pub rows: CodeBatch,
    /// The rows of each view.
    of_view: Vec<Range<usize>>,
    /// `[views, width]` what is compared.
    pub compared: Vec<f32>,
    /// `[rows, dim]` the gradient of the tower's outputs.
    pub d_rows: Vec<f32>,
}

impl Views {
    /// Without any views, for rows like those of `rows`.
    pub fn new(rows: CodeBatch) -> Self {
        Self { rows, of_view: Vec::new(), compared: Vec::new(), d_rows: Vec::new() }
    }

    /// Makes two views of each row of `from` whose column `sequence` is not empty. `others` are the codes of all items,
    /// and `key` that of random numbers.
    pub fn make(&mut self, config: &ContrastConfig, from: &CodeBatch, sequence: usize, others: &[u32], key: u64) {
        let Self { rows, of_view, .. } = self;
        rows.clear();
        of_view.clear();
        let Column::Ragged(sequences) = &from.columns[sequence] else { return };
        let augmentations = config.augmentations();
        let mut count = 0;
        for row in (0..sequences.rows()).filter(|row| !sequences.row(*row).is_empty()) {
            for view in 0..2 {
                let rng = &mut Rng::at(key, &[row as u64, view]);
                let (mut codes, mut times) = (sequences.row(row).to_vec(), sequences.row_times(row).to_vec());
                augmentations[rng.below(augmentations.len())].apply(&mut codes, &mut times, others, rng);
                let prefixes = match config.representation {
                    Representation::Last => codes.len()..codes.len() + 1,
                    Representation::Mean | Representation::Flatten => 1..codes.len() + 1,
                };
                for (column, (to, from)) in rows.columns.iter_mut().zip(&from.columns).enumerate() {
                    for end in prefixes.clone() {
                        match &mut *to {
                            Column::Ragged(to) if column == sequence => {
                                to.push_row(codes[..end].iter().copied());
                                to.times.extend(times.iter().take(end));
                            }
                            to => to.push_from(from, row),
                        }
                    }
                }
                of_view.push(count..count + prefixes.len());
                count += prefixes.len();
            }
        }
    }

    /// The number of views.
    pub fn count(&self) -> usize {
        self.of_view.len()
    }

    /// Fills what is compared from the tower's outputs, `[rows, dim]`, and returns its width.
    pub fn represent(&mut self, config: &ContrastConfig, outputs: &[f32], dim: usize) -> usize {
        let longest = self.of_view.iter().map(Range::len).max().unwrap_or(0);
        let width = match config.representation {
            Representation::Last | Representation::Mean => dim,
            Representation::Flatten => dim * longest,
        };
        self.compared.clear();
        self.compared.resize(self.of_view.len() * width, 0.0);
        for (rows, to) in self.of_view.iter().zip(self.compared.chunks_exact_mut(width.max(1))) {
            let outputs = &outputs[rows.start * dim..rows.end * dim];
            match config.representation {
                Representation::Last | Representation::Flatten => to[..outputs.len()].copy_from_slice(outputs),
                Representation::Mean => {
                    let share = 1.0 / rows.len() as f32;
                    for output in outputs.chunks_exact(dim) {
                        to.iter_mut().zip(output).for_each(|(to, x)| *to += share * x);
                    }
                }
            }
        }
        width
    }

    /// Fills the gradient of the tower's outputs from that of what is compared, `[views, width]`.
    pub fn spread(&mut self, config: &ContrastConfig, d_compared: &[f32], width: usize, dim: usize) {
        let rows = self.of_view.last().map_or(0, |rows| rows.end);
        self.d_rows.clear();
        self.d_rows.resize(rows * dim, 0.0);
        for (rows, d) in self.of_view.iter().zip(d_compared.chunks_exact(width.max(1))) {
            let to = &mut self.d_rows[rows.start * dim..rows.end * dim];
            match config.representation {
                Representation::Last | Representation::Flatten => to.copy_from_slice(&d[..rows.len() * dim]),
                Representation::Mean => {
                    let share = 1.0 / rows.len() as f32;
                    for to in to.chunks_exact_mut(dim) {
                        to.iter_mut().zip(d).for_each(|(to, d)| *to = share * d);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(augmentation: Augmentation, codes: &[u32], key: u64) -> Vec<u32> {
        let mut codes = codes.to_vec();
        // The time of a place is twice its code.
        let mut times: Vec<i32> = codes.iter().map(|code| 2 * *code as i32).collect();
        let before = times.clone();
        augmentation.apply(&mut codes, &mut times, &[100, 101, 102], &mut Rng::at(key, &[]));
        match augmentation {
            Augmentation::Crop(_) => assert!(times.iter().zip(&codes).all(|(time, code)| *time == 2 * *code as i32)),
            Augmentation::Mask(_) | Augmentation::Reorder(_) | Augmentation::Replace(_) => assert_eq!(times, before),
        }
        assert_eq!(times.len(), codes.len());
        codes
    }

    #[test]
    fn augmentations_concern_the_share_that_they_are_given() {
        let codes: Vec<u32> = (10..20).collect();
        let mut starts = std::collections::BTreeSet::new();
        for key in 0..60 {
            let cropped = applied(Augmentation::Crop(0.55), &codes, key);
            assert!(codes.windows(6).any(|piece| piece == cropped), "{cropped:?}");
            starts.insert(cropped[0]);
            let masked = applied(Augmentation::Mask(0.3), &codes, key);
            assert_eq!(masked.iter().filter(|code| **code == MISSING).count(), 3);
            assert!(masked.iter().zip(&codes).all(|(new, old)| new == old || *new == MISSING));
            let replaced = applied(Augmentation::Replace(0.49), &codes, key);
            assert_eq!(replaced.iter().zip(&codes).filter(|(new, old)| new != old).count(), 4);
            assert!(replaced.iter().zip(&codes).all(|(new, old)| new == old || (100..103).contains(new)));
            let mut reordered = applied(Augmentation::Reorder(0.4), &codes, key);
            let moved: Vec<usize> = (0..10).filter(|place| reordered[*place] != codes[*place]).collect();
            assert!(moved.iter().all(|place| place - moved[0] < 4), "{reordered:?}");
            reordered.sort_unstable();
            assert_eq!(reordered, codes);
        }
        // All pieces of 6 of 10 items begin at one of 5.
        assert_eq!(starts.into_iter().collect::<Vec<_>>(), [10, 11, 12, 13, 14]);
        for augmentation in [Augmentation::Crop(0.1), Augmentation::Reorder(0.1), Augmentation::Mask(0.9)] {
            assert_eq!(applied(augmentation, &[7], 1), [7], "{augmentation:?}");
        }
    }

    #[test]
    fn without_an_augmentation_the_contrast_is_refused() {
        let error = ContrastConfig::default().check().unwrap_err().to_string();
        assert!(error.contains("`model.contrast`") && error.contains("`crop = 0.6`"), "{error}");
        ContrastConfig { replace: Some(0.2), ..ContrastConfig::default() }.check().unwrap();
    }
}
