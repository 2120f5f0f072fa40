//! `[evaluate]`: how a model is measured, and what each way is called.

use crate::error::ConfigError;
use crate::split::SplitConfig;
use serde::{Deserialize, Serialize};

/// Which items a held-out positive is ranked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Ranking {
    /// The whole catalogue, less the user's earlier items.
    #[default]
    Full,
    /// The positive and 100 items drawn uniformly from those the user has no interaction with.
    Sampled,
    /// As SASRec's own evaluation samples: the positive and 100 draws, with repeats, from all items that are not among
    /// the user's training items; at most 10,000 users.
    SampledPaper,
}

impl Ranking {
    /// Negatives per positive of the sampled rankings.
    pub const NEGATIVES: usize = 100;
    /// The most users that [`Ranking::SampledPaper`] measures.
    pub const PAPER_USERS: usize = 10_000;

    /// The name that stands in metrics files and tables. Figures of two names do not compare.
    pub fn protocol(self) -> &'static str {
        match self {
            Ranking::Full => "full",
            Ranking::Sampled => "sampled-1+100",
            Ranking::SampledPaper => "sampled-1+100 paper",
        }
    }
}

/// A way to rank without a model, measured beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// How often an item was taken: the same list for everybody.
    Popularity,
    /// Neighbours of the user's last item.
    ItemToItem,
    /// Neighbours of all items of the user's history (Sarwar et al., WWW 2001).
    ItemCf,
    /// A linear model from all items to all items (Steck, WWW 2019).
    Ease,
}

impl Baseline {
    /// All of them, in the order in which they are measured.
    pub const ALL: [Baseline; 4] = [Baseline::Popularity, Baseline::ItemToItem, Baseline::ItemCf, Baseline::Ease];

    /// The name in settings and metrics files.
    pub fn name(self) -> &'static str {
        match self {
            Baseline::Popularity => "popularity",
            Baseline::ItemToItem => "item_to_item",
            Baseline::ItemCf => "item_cf",
            Baseline::Ease => "ease",
        }
    }
}

/// `[evaluate]`: how the model is measured on the test events.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateConfig {
    /// Cut-offs.
    pub k: Vec<usize>,
    /// `full`, `sampled` or `sampled_paper` ranking.
    pub ranking: Ranking,
    /// The most users measured, drawn with the seed; 0 = all.
    pub max_users: usize,
    /// Seed of the draw of users and of sampled negatives.
    pub seed: u64,
    /// What is measured beside the model.
    pub baselines: Vec<Baseline>,
    /// The most neighbours of an item that [`Baseline::ItemCf`] keeps.
    pub item_cf_neighbours: usize,
    /// The penalty λ of [`Baseline::Ease`]. Steck's figure for MovieLens-20M is the default.
    pub ease_lambda: f64,
    /// The most items for which [`Baseline::Ease`] is computed: its memory grows with their square, its time with their
    /// cube.
    pub ease_max_items: usize,
}

impl Default for EvaluateConfig {
    fn default() -> Self {
        Self {
            k: vec![10, 50, 100],
            ranking: Ranking::Full,
            max_users: 100_000,
            seed: 1,
            baselines: Baseline::ALL.to_vec(),
            item_cf_neighbours: 100,
            ease_lambda: 500.0,
            ease_max_items: 10_000,
        }
    }
}

impl EvaluateConfig {
    /// Checks that there is something to measure, each thing once, and that the ranking fits how positives are held out.
    ///
    /// # Errors
    /// [`ConfigError::Usage`] naming the setting.
    pub fn check(&self, split: &SplitConfig) -> Result<(), ConfigError> {
        if self.k.is_empty() {
            return Err(ConfigError::usage("`evaluate.k`: expected at least one cut-off"));
        }
        let is_repeated = |at: &usize| self.baselines[..*at].contains(&self.baselines[*at]);
        if let Some(at) = (0..self.baselines.len()).find(is_repeated) {
            return Err(ConfigError::usage(format!(
                "`evaluate.baselines` names \"{}\" twice, expected each at most once",
                self.baselines[at].name()
            )));
        }
        match (self.ranking, split) {
            (Ranking::Full | Ranking::Sampled, _) | (Ranking::SampledPaper, SplitConfig::LeaveLastOut { .. }) => Ok(()),
            (Ranking::SampledPaper, other) => Err(ConfigError::usage(format!(
                "`evaluate.ranking` = \"sampled_paper\" ranks one held-out item a user, expected `split.kind` = \"leave_last_out\", found the split `{}`; take that split, or another ranking",
                other.protocol()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::job::tests::{MINIMAL, load};

    #[test]
    fn the_paper_ranking_needs_one_held_out_item_a_user() {
        let job =
            |split: &str| format!("{MINIMAL}\n[evaluate]\nranking = \"sampled_paper\"\n[split]\nkind = \"{split}\"\n");
        assert_eq!(load(&job("leave_last_out"), &[]).unwrap().evaluate.ranking.protocol(), "sampled-1+100 paper");
        for split in ["ratio", "time", "random", "cold_items"] {
            let message = load(&job(split), &[]).unwrap_err().to_string();
            assert!(message.contains("sampled_paper") && message.contains("leave_last_out"), "{message}");
        }
    }

    #[test]
    fn baselines_are_those_that_there_are_each_at_most_once() {
        let job = |baselines: &str| load(&format!("{MINIMAL}\n[evaluate]\nbaselines = {baselines}\n"), &[]);
        let names = |job: crate::Config| job.evaluate.baselines.iter().map(|of| of.name()).collect::<Vec<_>>();
        assert_eq!(names(job("[]").unwrap()), [""; 0]);
        assert_eq!(names(job("[\"ease\", \"item_cf\"]").unwrap()), ["ease", "item_cf"]);
        let message = job("[\"ease\", \"popularity\", \"ease\"]").unwrap_err().to_string();
        assert!(message.contains("evaluate.baselines") && message.contains("\"ease\" twice"), "{message}");
        let message = job("[\"slim\"]").unwrap_err().to_string();
        assert!(message.contains("slim") && message.contains("item_cf"), "{message}");
    }
}
