//! Quantiles from counts of distinct values, which become coarser only when there are too many.
//!
//! Values are counted exactly while at most [`MAX_CELLS`] are distinct. When there are more, the lowest
//! mantissa bit of every value is dropped, and so on until the cells fit. The number of dropped bits is
//! the smallest with which all the data fits. So it depends neither on the order of values nor on how the
//! data was split before merging.

use twotower_artifacts::keyed::KeyedMap;

/// The most distinct cells kept, about 1 MiB.
const MAX_CELLS: usize = 1 << 16;

/// Counts of values, which can be merged.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct QuantileCounts {
    cells: KeyedMap<u64, u64>,
    /// Number of low bits dropped from every key.
    dropped: u32,
}

/// A key that has the order of the number.
fn key(x: f64) -> u64 {
    let bits = (x + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

fn number(key: u64) -> f64 {
    f64::from_bits(if key >> 63 == 1 { key & !(1 << 63) } else { !key })
}

impl QuantileCounts {
    /// Counts a finite number `times` times.
    pub(crate) fn add(&mut self, x: f64, times: u64) {
        *self.cells.entry(key(x) >> self.dropped).or_default() += times;
        self.fit();
    }

    /// Adds the counts of another part of the data.
    pub(crate) fn merge(&mut self, mut other: Self) {
        let dropped = self.dropped.max(other.dropped);
        self.coarsen(dropped);
        other.coarsen(dropped);
        for (cell, n) in other.cells {
            *self.cells.entry(cell).or_default() += n;
        }
        self.fit();
    }

    fn fit(&mut self) {
        while self.cells.len() > MAX_CELLS {
            self.coarsen(self.dropped + 1);
        }
    }

    fn coarsen(&mut self, dropped: u32) {
        let by = dropped - self.dropped;
        if by > 0 {
            let mut coarse = KeyedMap::default();
            for (cell, n) in self.cells.drain() {
                *coarse.entry(cell >> by).or_default() += n;
            }
            self.cells = coarse;
            self.dropped = dropped;
        }
    }

    /// Lower edges of all buckets but the first, strictly increasing, at most `buckets - 1`. A number
    /// belongs to bucket b when b edges are at or below it. Equal numbers are in one bucket, so buckets
    /// hold about equal counts only where values vary enough.
    pub(crate) fn edges(&self, buckets: u32) -> Vec<f64> {
        let mut cells: Vec<(u64, u64)> = self.cells.iter().map(|(c, n)| (*c, *n)).collect();
        cells.sort_unstable();
        let total: u128 = cells.iter().map(|(_, n)| u128::from(*n)).sum();
        let mut edges = Vec::new();
        let mut below = 0u128;
        let mut bucket = 1u128;
        for (cell, n) in cells {
            // A bucket begins at the first cell that has at least a share of bucket / buckets of all numbers below it.
            if below > 0 && below * u128::from(buckets) >= bucket * total {
                edges.push(number(cell << self.dropped));
                bucket = below * u128::from(buckets) / total + 1;
            }
            below += u128::from(n);
        }
        edges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = f64>) -> QuantileCounts {
        let mut q = QuantileCounts::default();
        values.into_iter().for_each(|x| q.add(x, 1));
        q
    }

    fn bucket(edges: &[f64], x: f64) -> usize {
        edges.partition_point(|e| *e <= x)
    }

    #[test]
    fn keys_order_as_numbers_do() {
        let ordered = [-1e300, -2.0, -1.0, -1e-300, 0.0, 1e-300, 1.0, 1.5, 1e300];
        assert!(ordered.windows(2).all(|w| key(w[0]) < key(w[1])));
        assert!(ordered.iter().all(|x| number(key(*x)) == *x));
        assert_eq!(key(0.0), key(-0.0));
    }

    #[test]
    fn buckets_of_varied_values_are_equally_full() {
        let edges = of((0..1000).map(f64::from)).edges(4);
        assert_eq!(edges, [250.0, 500.0, 750.0]);
        assert_eq!(bucket(&edges, -5.0), 0);
        assert_eq!(bucket(&edges, 250.0), 1);
        assert_eq!(bucket(&edges, 1e9), 3);
    }

    #[test]
    fn frequent_values_take_a_bucket_and_never_leave_more_edges_than_asked() {
        let edges = of([0.0; 900].into_iter().chain((1..=100).map(f64::from))).edges(10);
        assert_eq!(edges, [1.0]);
        assert!(of([5.0; 10]).edges(32).is_empty());
        assert!(of([]).edges(32).is_empty());
        assert_eq!(of([1.0, 2.0, 3.0]).edges(100), [2.0, 3.0]);
    }

    #[test]
    fn many_distinct_values_stay_bounded_independent_of_order_and_close_to_exact() {
        let values: Vec<f64> = (0..200_000u64).map(|i| 1.6e9 + (i.wrapping_mul(7919) % 200_000) as f64).collect();
        let forward = of(values.iter().copied());
        let mut merged = of(values[150_000..].iter().rev().copied());
        merged.merge(of(values[..150_000].iter().rev().copied()));
        assert_eq!(forward, merged);
        assert!(forward.cells.len() <= MAX_CELLS && forward.dropped > 0);
        for (i, edge) in forward.edges(8).into_iter().enumerate() {
            let exact = 1.6e9 + 25_000.0 * (i + 1) as f64;
            assert!((edge - exact).abs() <= 8.0, "{edge} {exact}");
        }
    }
}
