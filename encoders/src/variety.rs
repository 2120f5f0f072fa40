//! Whether the rows of a column differ. A feature that is the same for all rows cannot tell them apart.

use serde::{Deserialize, Serialize};
use twotower_artifacts::Column;

/// Whether the encoded rows of a feature differ.
///
/// The result does not depend on the order of merging, nor on how rows are split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variety {
    /// There are no rows.
    #[default]
    None,
    /// All rows are equal and have this hash.
    One(u64),
    /// At least two rows differ.
    Many,
}

impl Variety {
    /// The variety of the rows of a column from row `first` on. It stops at the first row that differs.
    pub(crate) fn of(column: &Column, first: usize) -> Self {
        match column {
            Column::Code(codes) => Self::of_rows(codes[first..].chunks_exact(1), |code| u64::from(*code)),
            Column::Dense { width, values } => {
                // The hash is of the bits, so that unequal numbers have unequal hashes.
                let width = (*width).max(1);
                Self::of_rows(values[first * width..].chunks_exact(width), |x| u64::from(x.to_bits()))
            }
            Column::Ragged(ragged) => {
                Self::of_rows((first..ragged.rows()).map(|row| ragged.row(row)), |code| u64::from(*code))
            }
        }
    }

    fn of_rows<'a, T: PartialEq + 'a>(mut rows: impl Iterator<Item = &'a [T]>, bits: impl Fn(&T) -> u64) -> Self {
        let Some(one) = rows.next() else { return Variety::None };
        match rows.all(|row| row == one) {
            true => Variety::One(one.iter().fold(one.len() as u64, |hash, x| {
                // Multiplying by FNV's prime makes the hash depend on the order of elements.
                (hash ^ bits(x)).wrapping_mul(0x0000_0100_0000_01b3)
            })),
            false => Variety::Many,
        }
    }

    /// Adds other rows.
    pub(crate) fn merge(&mut self, other: Self) {
        *self = match (*self, other) {
            (Variety::None, other) => other,
            (one, Variety::None) => one,
            (one, other) if one == other => one,
            _ => Variety::Many,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twotower_artifacts::Ragged;

    #[test]
    fn rows_that_are_all_the_same_are_told_from_rows_that_differ() {
        let codes = Column::Code(vec![9, 4, 4, 4]);
        assert_eq!(Variety::of(&codes, 0), Variety::Many);
        assert_eq!(Variety::of(&codes, 1), Variety::of(&Column::Code(vec![4]), 0));
        assert_eq!(Variety::of(&codes, 4), Variety::None);
        let dense = |values: &[f32]| Variety::of(&Column::Dense { width: 2, values: values.to_vec() }, 0);
        assert_eq!(dense(&[1.0, 0.0, 1.0, 1.0]), Variety::Many);
        assert!(matches!(dense(&[1.0, 0.0, 1.0, 0.0]), Variety::One(_)));
        let ragged = |rows: &[&[u32]]| {
            let mut column = Ragged::default();
            rows.iter().for_each(|row| column.push_row(row.iter().copied()));
            Variety::of(&Column::Ragged(column), 0)
        };
        assert_eq!(ragged(&[&[3, 4], &[4, 3]]), Variety::Many);
        assert_eq!(ragged(&[&[3], &[3, 3]]), Variety::Many);
        assert!(matches!(ragged(&[&[], &[]]), Variety::One(_)));
        assert_ne!(ragged(&[&[3, 4]]), ragged(&[&[4, 3]]));
    }

    #[test]
    fn any_split_of_rows_has_the_variety_of_the_whole() {
        for codes in [vec![5; 6], vec![5, 5, 5, 5, 5, 6], vec![6, 5, 5, 5, 5, 5], vec![]] {
            let whole = Variety::of(&Column::Code(codes.clone()), 0);
            for cut in 0..=codes.len() {
                let mut merged = Variety::of(&Column::Code(codes[cut..].to_vec()), 0);
                merged.merge(Variety::of(&Column::Code(codes[..cut].to_vec()), 0));
                assert_eq!(merged, whole, "{codes:?} at {cut}");
            }
        }
    }
}
