//! The distribution of a feature's values as counts of ordered classes, so that two nights can be compared. Counting is
//! cheap enough to be done for every value that is encoded.

use serde::{Deserialize, Serialize};

/// Counts of values by class. The class of a number follows from its sign and magnitude, with four classes for each
/// factor of two, so the numbers of a class differ by at most a quarter. The class of a boolean is its code.
///
/// In JSON it is one text of `class:count` pairs in ascending order of class.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Histogram {
    /// Classes and counts, ascending by class, which is the order of the values.
    counts: Vec<(u16, u64)>,
}

/// The class of zero and of all numbers closer to it than 2^-32.
const ZERO: i16 = 4 * 96;
/// The exponent and the two highest mantissa bits of the largest magnitude that counts as zero, just below 2^-32. All
/// magnitudes of 2^64 and more are in one class.
const BELOW: i16 = 4 * (1023 - 32) - 1;
/// The number of classes of numbers.
pub(crate) const NUMBERS: usize = 2 * ZERO as usize + 1;

/// The upper 16 bits of a number: sign, exponent and four mantissa bits. They determine its class. As 16-bit integers,
/// many are processed by one instruction.
#[inline(always)]
pub(crate) fn upper(number: f64) -> u16 {
    (number.to_bits() >> 48) as u16
}

/// The class of a number with these [`upper`] bits. A larger number has the same or a larger class.
#[inline(always)]
pub(crate) fn class(upper: u16) -> u16 {
    let magnitude = ((upper << 1) >> 3) as i16;
    let class = magnitude.clamp(BELOW, BELOW + ZERO) - BELOW;
    let sign = upper as i16 >> 15;
    ((class ^ sign) - sign + ZERO) as u16
}

/// The number of a class that is closest to zero.
fn nearest_zero(class: u16) -> f64 {
    let class = i32::from(class) - i32::from(ZERO);
    match class.unsigned_abs() {
        0 => 0.0,
        magnitude => {
            let bits = u64::from(magnitude) + BELOW as u64;
            f64::from_bits(bits << 50).copysign(f64::from(class))
        }
    }
}

impl Histogram {
    /// A histogram of counts in ascending order of class. Classes without values are left out.
    pub(crate) fn new(counts: impl IntoIterator<Item = (u16, u64)>) -> Self {
        Self { counts: counts.into_iter().filter(|(_, n)| *n > 0).collect() }
    }

    /// Number of values.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }

    /// Adds the counts of other values.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (class, n) in &other.counts {
            match self.counts.binary_search_by_key(class, |(class, _)| *class) {
                Ok(at) => self.counts[at].1 += n,
                Err(at) => self.counts.insert(at, (*class, *n)),
            }
        }
    }

    /// The distance of Kolmogorov and Smirnov: for each class the difference between the two shares of values up to it,
    /// and of these the largest. It is 0 for equal distributions, and 1 where all values of one are above those of the
    /// other. None if either has no values.
    pub fn distance(&self, other: &Self) -> Option<f64> {
        let totals = [self.total(), other.total()].map(|total| total as f64);
        if totals.contains(&0.0) {
            return None;
        }
        let (mut mine, mut theirs) = (self.counts.iter().peekable(), other.counts.iter().peekable());
        let (mut below, mut most) = ([0.0; 2], 0.0f64);
        loop {
            let class = match (mine.peek(), theirs.peek()) {
                (None, None) => return Some(most),
                (a, b) => a.into_iter().chain(b).map(|(class, _)| *class).min(),
            };
            for (sum, counts) in below.iter_mut().zip([&mut mine, &mut theirs]) {
                if let Some((_, n)) = counts.next_if(|(at, _)| Some(*at) == class) {
                    *sum += *n as f64;
                }
            }
            most = most.max((below[0] / totals[0] - below[1] / totals[1]).abs());
        }
    }

    /// The median of numbers, rounded towards zero to the end of its class. None without values.
    pub fn median(&self) -> Option<f64> {
        let half = self.total().div_ceil(2);
        let mut below = 0;
        let middle = self.counts.iter().find(|(_, n)| {
            below += n;
            below >= half
        });
        middle.map(|(class, _)| nearest_zero(*class))
    }

    /// The classes that have values, ascending: of each the number that is closest to zero, and the count. For booleans
    /// only the order and the counts mean something.
    pub fn classes(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        self.counts.iter().map(|(class, n)| (nearest_zero(*class), *n))
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

impl From<Histogram> for String {
    fn from(histogram: Histogram) -> Self {
        let counts: Vec<String> = histogram.counts.iter().map(|(class, n)| format!("{class}:{n}")).collect();
        counts.join(" ")
    }
}

impl TryFrom<String> for Histogram {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = |entry: &str| format!("`{entry}`: expected `class:count` by ascending class");
        let mut counts: Vec<(u16, u64)> = Vec::new();
        for entry in text.split_ascii_whitespace() {
            let parsed = entry.split_once(':').and_then(|(class, n)| Some((class.parse().ok()?, n.parse().ok()?)));
            let (class, n) = parsed.ok_or_else(|| wrong(entry))?;
            if counts.last().is_some_and(|(before, _)| *before >= class) {
                return Err(wrong(entry));
            }
            counts.push((class, n));
        }
        Ok(Self { counts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn class(number: f64) -> u16 {
        super::class(upper(number))
    }

    fn of(numbers: impl IntoIterator<Item = f64>) -> Histogram {
        let mut counts = BTreeMap::new();
        numbers.into_iter().for_each(|x| *counts.entry(class(x)).or_insert(0) += 1);
        Histogram::new(counts)
    }

    #[test]
    fn classes_are_in_the_order_of_numbers_and_a_quarter_wide_at_the_most() {
        let mut numbers: Vec<f64> = (-500..=500).map(|i| 1.05f64.powi(i)).collect();
        numbers.extend(numbers.clone().iter().map(|x| -x));
        numbers.extend([0.0, -0.0, 1e100, -1e100, f64::MIN_POSITIVE]);
        numbers.sort_by(f64::total_cmp);
        assert!(numbers.windows(2).all(|w| class(w[0]) <= class(w[1])));
        assert!(numbers.iter().all(|x| usize::from(class(*x)) < NUMBERS));
        assert_eq!((class(0.0), class(-0.0), class(1e-300)), (ZERO as u16, ZERO as u16, ZERO as u16));
        for x in [1.0, 1.3, 2.0, 45.0, 1.7e9, 1e-6] {
            assert!(class(1.26 * x) > class(x) && class(-1.26 * x) < class(-x), "{x}");
            let low = nearest_zero(class(x));
            assert!(low <= x && x < 1.26 * low, "{x}: {low}");
            assert_eq!(nearest_zero(class(-x)), -low);
        }
    }

    #[test]
    fn distance_is_that_of_kolmogorov_and_smirnov() {
        let ages = || (0..1000).map(|i| 18.0 + f64::from(i % 60));
        assert_eq!(of(ages()).distance(&of(ages())), Some(0.0));
        assert_eq!(of(ages()).distance(&of(ages().map(|x| 100.0 * x))), Some(1.0));
        assert_eq!(of(ages()).distance(&of(ages().map(|x| -x))), Some(1.0));
        assert!(of(ages()).distance(&of(ages().map(|x| 1.01 * x))).unwrap() < 0.1);
        assert_eq!(of([1.0, 2.0]).distance(&of([1.0, 4.0, 4.0, 4.0])), Some(0.75));
        assert_eq!(of([]).distance(&of([1.0])), None);
        assert_eq!(of([-5.0, 1.0, 3.0, 3.9, 9.0]).median(), Some(3.0));
        assert_eq!(of([]).median(), None);
    }

    #[test]
    fn parts_add_up_and_text_reads_back() {
        let mut merged = of([1.0, 5.0]);
        merged.merge(&of([-2.0, 5.0, 0.0]));
        assert_eq!(merged, of([5.0, 5.0, 1.0, 0.0, -2.0]));
        assert_eq!(merged.total(), 5);
        let classes: Vec<(f64, u64)> = merged.classes().collect();
        assert_eq!(classes, [(-2.0, 1), (0.0, 1), (1.0, 1), (5.0, 2)]);
        let text = serde_json::to_string(&merged).unwrap();
        assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), merged);
        for wrong in ["1", "1:2 1:3", "2:1 1:1", "a:1", "70000:1", "1:-1"] {
            assert!(Histogram::try_from(wrong.to_string()).is_err(), "{wrong}");
        }
    }
}
