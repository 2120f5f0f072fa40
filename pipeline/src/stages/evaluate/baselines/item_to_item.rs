//! Neighbours of the last item (Sarwar et al., WWW 2001).

use super::Popularity;
use super::pairs::TrainedPairs;

/// Neighbours of the user's last item by cosine of co-occurrence, n_ij / sqrt(n_i n_j), over users' training items; items
/// that never occur with it follow by popularity.
pub(super) fn score(pairs: &TrainedPairs, popularity: &Popularity, last: Option<u32>, out: &mut [f32]) {
    out.fill(0.0);
    if let Some(last) = last.map(|item| item as usize) {
        pairs.taken_with(last, |item| out[item as usize] += 1.0);
        let users = |item: usize| pairs.users_of(item).len().max(1) as f32;
        let of_last = users(last);
        out.iter_mut().enumerate().for_each(|(item, score)| *score /= (of_last * users(item)).sqrt());
    }
    popularity.order_equals(out);
}
