//! K-means (Lloyd, IEEE Transactions on Information Theory 1982), as faiss does it by default: the first centres are
//! points, drawn without replacement, there are 25 rounds, and where there are more than 256 points for each cluster, the
//! rounds are made with so many, drawn, and all points are assigned at the end.
//!
//! Departures from faiss: a cluster that lost all its points becomes the point that is farthest from its centre, where faiss
//! splits a large cluster; and rounds end when no point changes its cluster.
//!
//! # Cost
//! `2 · points · clusters · dim` multiplications and additions a round, of at most `256 · clusters` points, and once of
//! all. It depends on the seed alone, not on threads.

use crate::lanes::{LANES, add, dispatched, dot, multiply, multiply_add};
use crate::matmul::{Operand, matmul, transpose};
use crate::rng::Rng;
use rayon::prelude::*;

/// Rounds of assignments and means.
const ROUNDS: usize = 25;
/// Points of each cluster with which the rounds are made, at most.
const POINTS: usize = 256;
/// Points that are assigned together.
const TILE: usize = 64;
/// Centres with which they are multiplied together.
const BLOCK: usize = 4096;

/// Clusters of points. None is empty.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Clustering {
    /// `[clusters, dim]` the means.
    pub centres: Vec<f32>,
    /// `[points]` the cluster of each point.
    pub of: Vec<u32>,
}

/// Clusters `[points, dim]` points by their squared distance to the mean. There are as many clusters as asked for, or as
/// points if those are fewer.
///
/// # Memory
/// A copy of the points of which rounds are made, and 12 bytes for each point.
pub(crate) fn kmeans(points: &[f32], dim: usize, clusters: usize, mut rng: Rng) -> Clustering {
    let count = points.len() / dim;
    let clusters = clusters.min(count);
    let most = clusters.saturating_mul(POINTS).min(count);
    // The first ones of a random order.
    let mut order: Vec<u32> = (0..count as u32).collect();
    for place in 0..most {
        order.swap(place, place + rng.below(count - place));
    }
    let row = |point: u32| &points[point as usize * dim..][..dim];
    let mut centres: Vec<f32> = order[..clusters].iter().flat_map(|point| row(*point)).copied().collect();
    let drawn: Vec<f32>;
    let trained = if most < count {
        order.truncate(most);
        order.sort_unstable();
        drawn = order.iter().flat_map(|point| row(*point)).copied().collect();
        &drawn[..]
    } else {
        points
    };
    let mut assignment = Assignment::default();
    for _ in 0..ROUNDS {
        if !assignment.assign(trained, dim, &mut centres) {
            break;
        }
        assignment.means(trained, dim, &mut centres);
    }
    assignment.assign(points, dim, &mut centres);
    Clustering { centres, of: assignment.of }
}

/// Which cluster each point belongs to.
#[derive(Default)]
struct Assignment {
    of: Vec<u32>,
    /// Squared distances from the centres, less the points' squared norms.
    distances: Vec<f32>,
}

impl Assignment {
    /// Assigns every point to the nearest centre, the first of equally near ones. The centre of a cluster without points
    /// becomes the point that is farthest from its own, of a cluster that has others. Says whether anything changed.
    fn assign(&mut self, points: &[f32], dim: usize, centres: &mut [f32]) -> bool {
        let count = points.len() / dim;
        let before = std::mem::take(&mut self.of);
        self.of.resize(count, 0);
        self.distances.resize(count, 0.0);
        let norms: Vec<f32> = centres.chunks_exact(dim).map(|centre| dot(centre, centre)).collect();
        let mut transposed = Vec::new();
        transpose(centres, dim, &mut transposed);
        let by_channel = Operand::rows_of(&transposed, norms.len().max(1));
        let tiles = self.of.par_chunks_mut(TILE).zip(self.distances.par_chunks_mut(TILE)).enumerate();
        tiles.for_each_init(Vec::new, |products, (tile, (of, distances))| {
            let tile = &points[tile * TILE * dim..][..of.len() * dim];
            distances.fill(f32::INFINITY);
            for first in (0..norms.len()).step_by(BLOCK) {
                let end = (first + BLOCK).min(norms.len());
                products.resize(of.len() * (end - first), 0.0);
                let block = by_channel.transposed().rows(first..end).transposed();
                matmul(products, false, 1.0, Operand::rows_of(tile, dim), block);
                for ((products, of), distance) in products.chunks_exact(end - first).zip(&mut *of).zip(&mut *distances)
                {
                    let (found, centre) = nearest(products, &norms[first..end]);
                    if found < *distance {
                        (*distance, *of) = (found, first as u32 + centre);
                    }
                }
            }
        });
        self.fill(points, dim, centres);
        self.of != before
    }

    /// Gives each cluster without points one.
    fn fill(&mut self, points: &[f32], dim: usize, centres: &mut [f32]) {
        let mut sizes = vec![0u32; centres.len() / dim];
        self.of.iter().for_each(|cluster| sizes[*cluster as usize] += 1);
        let empty: Vec<usize> = (0..sizes.len()).filter(|cluster| sizes[*cluster] == 0).collect();
        if empty.is_empty() {
            return;
        }
        let rows = points.chunks_exact(dim).zip(&self.distances).enumerate();
        let mut farthest: Vec<(f32, u32)> =
            rows.map(|(point, (row, distance))| (dot(row, row) + distance, point as u32)).collect();
        farthest.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut farthest = farthest.into_iter().map(|(_, point)| point as usize);
        for cluster in empty {
            // There are at least as many points as clusters, so one with several has one to give.
            let Some(point) = farthest.find(|point| sizes[self.of[*point] as usize] > 1) else { return };
            sizes[self.of[point] as usize] -= 1;
            sizes[cluster] = 1;
            self.of[point] = cluster as u32;
            centres[cluster * dim..][..dim].copy_from_slice(&points[point * dim..][..dim]);
        }
    }

    /// Moves each centre to the mean of its points, which are added up in their order.
    fn means(&self, points: &[f32], dim: usize, centres: &mut [f32]) {
        let mut starts = vec![0u32; centres.len() / dim + 1];
        self.of.iter().for_each(|cluster| starts[*cluster as usize + 1] += 1);
        for cluster in 1..starts.len() {
            starts[cluster] += starts[cluster - 1];
        }
        let (mut next, mut members) = (starts.clone(), vec![0u32; self.of.len()]);
        for (point, cluster) in self.of.iter().enumerate() {
            let place = &mut next[*cluster as usize];
            members[*place as usize] = point as u32;
            *place += 1;
        }
        centres.par_chunks_mut(dim).zip(starts.par_windows(2)).with_min_len(8).for_each(|(centre, ends)| {
            let members = &members[ends[0] as usize..ends[1] as usize];
            if !members.is_empty() {
                centre.fill(0.0);
                members.iter().for_each(|point| add(centre, &points[*point as usize * dim..][..dim]));
                multiply(centre, 1.0 / members.len() as f32);
            }
        });
    }
}

dispatched! {
    /// The least of `norms - 2 products`, and the first place where it is. Numbers that compare with none are skipped.
    fn nearest(products: &[f32], norms: &[f32]) -> (f32, u32) {
        let mut least = [f32::INFINITY; LANES];
        let mut places = [0u32; LANES];
        let chunks = products.chunks(LANES).zip(norms.chunks(LANES));
        for (chunk, (products, norms)) in chunks.enumerate() {
            if products.len() == LANES {
                for i in 0..LANES {
                    let distance = multiply_add::<FMA>(-2.0, products[i], norms[i]);
                    let is_less = distance < least[i];
                    least[i] = if is_less { distance } else { least[i] };
                    places[i] = if is_less { chunk as u32 } else { places[i] };
                }
            } else {
                for i in 0..products.len() {
                    let distance = multiply_add::<FMA>(-2.0, products[i], norms[i]);
                    if distance < least[i] {
                        (least[i], places[i]) = (distance, chunk as u32);
                    }
                }
            }
        }
        let mut best = (f32::INFINITY, 0);
        for i in 0..LANES {
            let (distance, place) = (least[i], places[i] * LANES as u32 + i as u32);
            if distance < best.0 || distance == best.0 && place < best.1 {
                best = (distance, place);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(count: usize, dim: usize, groups: usize) -> Vec<f32> {
        let mut rng = Rng::at(3, &[]);
        let centres: Vec<f32> = (0..groups * dim).map(|_| rng.normal() as f32 * 10.0).collect();
        let row = |point: usize| point % groups * dim..(point % groups + 1) * dim;
        (0..count).flat_map(|point| centres[row(point)].to_vec()).map(|x| x + rng.normal() as f32 * 0.1).collect()
    }

    fn sizes(found: &Clustering, dim: usize) -> Vec<usize> {
        let mut sizes = vec![0; found.centres.len() / dim];
        found.of.iter().for_each(|cluster| sizes[*cluster as usize] += 1);
        sizes
    }

    #[test]
    fn groups_that_are_far_apart_are_told_apart_and_centres_are_their_means() {
        let (groups, dim) = (5, 7);
        let given = points(200, dim, groups);
        // The best of some draws: a draw may put two centres into one group.
        let of_seed = |seed: u64| kmeans(&given, dim, groups, Rng::at(seed, &[]));
        let is_right = |found: &Clustering| (0..200).all(|point| found.of[point] == found.of[point % groups]);
        let found =
            (0..40).map(of_seed).find(|found| is_right(found) && sizes(found, dim) == vec![40; groups]).unwrap();
        for (cluster, centre) in found.centres.chunks_exact(dim).enumerate() {
            for (i, found_x) in centre.iter().enumerate() {
                let members = (0..200).filter(|point| found.of[*point] == cluster as u32);
                let mean = members.map(|point| f64::from(given[point * dim + i])).sum::<f64>() / 40.0;
                assert!((f64::from(*found_x) - mean).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn every_point_is_in_the_nearest_cluster_and_none_is_empty() {
        // More centres than lanes and than a tile, and rounds with a draw of the points.
        for (count, dim, clusters, groups) in [(400, 6, 83, 20), (3000, 3, 5, 9), (70, 4, 70, 70), (30, 9, 1, 4)] {
            let given = points(count, dim, groups);
            let found = kmeans(&given, dim, clusters, Rng::at(4, &[]));
            assert_eq!((found.centres.len(), found.of.len()), (clusters * dim, count));
            assert!(sizes(&found, dim).iter().all(|size| *size > 0), "{clusters} clusters of {count} points");
            let distance = |point: usize, cluster: usize| -> f64 {
                let pairs = given[point * dim..][..dim].iter().zip(&found.centres[cluster * dim..][..dim]);
                pairs.map(|(x, c)| (f64::from(*x) - f64::from(*c)).powi(2)).sum()
            };
            for point in 0..count {
                let own = distance(point, found.of[point] as usize);
                let least = (0..clusters).map(|cluster| distance(point, cluster)).fold(f64::INFINITY, f64::min);
                // f32 sums of squares of about 1,000.
                assert!(own < least + 1e-3 * (1.0 + least), "{point}: {own}, nearest {least}");
            }
        }
    }

    #[test]
    fn equal_points_and_more_clusters_than_points_leave_no_cluster_empty() {
        let found = kmeans(&[1.0; 40], 2, 7, Rng::at(1, &[]));
        assert!(sizes(&found, 2).iter().all(|size| *size > 0) && sizes(&found, 2).len() == 7);
        let found = kmeans(&points(12, 3, 12), 3, 50, Rng::at(1, &[]));
        assert_eq!(sizes(&found, 3), [1; 12]);
        let empty = kmeans(&[], 3, 50, Rng::at(1, &[]));
        assert!(empty.centres.is_empty() && empty.of.is_empty());
    }

    #[test]
    fn a_seed_gives_the_same_bits_with_any_threads_and_another_seed_others() {
        let given = points(4000, 8, 37);
        let with = |threads: usize, seed: u64| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| kmeans(&given, 8, 60, Rng::at(seed, &[])))
        };
        assert!(with(1, 5) == with(3, 5) && with(3, 5) != with(3, 6));
    }

    #[test]
    fn the_nearest_is_the_first_of_equally_near_ones() {
        let mut rng = Rng::at(8, &[]);
        for len in 1..70 {
            let products: Vec<f32> = (0..len).map(|_| rng.below(4) as f32).collect();
            let norms: Vec<f32> = (0..len).map(|_| rng.below(3) as f32).collect();
            let all: Vec<f32> = products.iter().zip(&norms).map(|(p, n)| n - 2.0 * p).collect();
            let least = all.iter().copied().fold(f32::INFINITY, f32::min);
            let place = all.iter().position(|x| *x == least).unwrap();
            assert_eq!(nearest(&products, &norms), (least, place as u32), "{len}");
        }
    }
}
