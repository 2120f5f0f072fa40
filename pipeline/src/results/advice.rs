//! What to try where a baseline is better than the model: settings that the job does not have yet, the likeliest first.

use crate::config::Config;
use crate::init::first_model::FirstModel;
use crate::stages::evaluate::MetricsFile;
use serde::Serialize;
use twotower_encoders::FeatureSpec;
use twotower_models::model::ModelConfig;

/// What is compared at each cut-off, as tables show it.
pub const MEASURES: [&str; 3] = ["recall", "ndcg", "hit"];

/// A baseline that is better than the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Winner {
    /// Its name, as in the metrics.
    pub baseline: String,
    /// Where it is better, in the order of the cut-offs.
    pub at: Vec<String>,
}

/// The cut-offs of metrics, ascending.
pub fn cut_offs(metrics: &MetricsFile) -> Vec<usize> {
    let names = metrics.models.values().flat_map(|values| values.keys());
    let mut ks: Vec<usize> = names.filter_map(|name| name.split_once('@')?.1.parse().ok()).collect();
    ks.sort_unstable();
    ks.dedup();
    ks
}

/// The baselines that are better than the model at some cut-off.
pub fn winners(metrics: &MetricsFile) -> Vec<Winner> {
    let Some(model) = metrics.models.get("model") else { return Vec::new() };
    let names = cut_offs(metrics).into_iter().flat_map(|k| MEASURES.map(|measure| format!("{measure}@{k}")));
    let names: Vec<String> = names.collect();
    let baselines = metrics.models.iter().filter(|(name, _)| *name != "model");
    let winners = baselines.map(|(baseline, values)| {
        let better = |name: &&String| matches!((values.get(*name), model.get(*name)), (Some(b), Some(m)) if b > m);
        Winner { baseline: baseline.clone(), at: names.iter().filter(better).cloned().collect() }
    });
    winners.filter(|winner| !winner.at.is_empty()).collect()
}

/// Something to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// What, and why.
    pub what: String,
    /// To be copied into a command, or into the job: the words of each way to do it. No line may end within a word.
    pub copy: Vec<Vec<String>>,
}

impl Advice {
    fn new(what: impl Into<String>, copy: &[&[&str]]) -> Self {
        let words = |words: &&[&str]| words.iter().map(|word| word.to_string()).collect();
        Self { what: what.into(), copy: copy.iter().map(words).collect() }
    }
}

impl std::fmt::Display for Advice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ways: Vec<String> = self.copy.iter().map(|words| words.join(" ")).collect();
        write!(f, "{}: {}", self.what, ways.join(" or "))
    }
}

/// As one sentence.
impl Serialize for Advice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What to try; `best_was_last` is whether the last epoch was the best.
pub fn to_try(config: &Config, items: usize, best_was_last: bool) -> Vec<Advice> {
    let has = |side: &[FeatureSpec], is: fn(&FeatureSpec) -> bool| side.iter().any(is);
    let mut advice = Vec::new();
    if !has(&config.features.user, |f| matches!(f, FeatureSpec::Sequence(_))) {
        let time = match config.tables.interactions.times.timestamp {
            Some(_) => "",
            None => ", name the column of times in `tables.interactions.timestamp`",
        };
        advice.push(Advice::new(
            format!("let users be seen by their newest items{time}, and add to `features.user`"),
            &[&["{ kind = \"sequence\", name = \"recent\", max_len = 50 }"]],
        ));
    }
    if !has(&config.features.item, |f| matches!(f, FeatureSpec::Id(_))) {
        let id = "{ kind = \"id\", name = \"item\" }";
        advice.push(Advice::new("let each item have a vector of its own, and add to `features.item`", &[&[id]]));
    }
    if best_was_last {
        let (epochs, patience) = (config.train.epochs * 2, config.train.patience.max(3));
        advice.push(Advice::new(
            "train longer, for the last epoch was the best",
            &[&[&format!("--set train.epochs={epochs}"), &format!("--set train.patience={patience}")]],
        ));
    }
    let unlike = FirstModel::of(items).unlike(config);
    let widths = match &config.model {
        ModelConfig::Dssm(model) => &model.hidden[..],
        ModelConfig::Sasrec(_) | ModelConfig::Tisasrec(_) | ModelConfig::Lightgcn(_) => &[],
    };
    if !unlike.is_empty() {
        advice.push(Advice { what: "take what `init` writes for so many items".to_string(), copy: vec![unlike] });
    } else if let [width] = widths {
        let twice = 2 * width;
        advice.push(Advice::new(
            "give items and vectors more room (stored vectors take twice as much)",
            &[&[&format!("--set model.embedding_dim={twice}"), &format!("--set 'model.hidden=[{twice}]'")]],
        ));
    }
    let rate = config.train.learning_rate;
    let [lower, higher] = [rate / 3.0, rate * 3.0].map(|rate| format!("--set train.learning_rate={}", rounded(rate)));
    advice.push(Advice::new("try other rates, one or the other", &[&[&lower], &[&higher]]));
    advice
}

/// A setting with two digits.
fn rounded(value: f64) -> String {
    let digits = (1.0 - value.abs().max(f64::MIN_POSITIVE).log10().floor()).clamp(0.0, 12.0) as usize;
    format!("{value:.digits$}").trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use twotower_artifacts::Fingerprint;

    /// Metrics by model, of no protocol.
    pub fn metrics(models: &[(&str, &[(&str, f64)])]) -> MetricsFile {
        let values = |values: &[(&str, f64)]| values.iter().map(|(name, v)| (name.to_string(), *v)).collect();
        let models: BTreeMap<String, BTreeMap<String, f64>> =
            models.iter().map(|(name, of)| (name.to_string(), values(of))).collect();
        let none = Fingerprint::of(b"");
        MetricsFile {
            format_version: 1,
            protocol: String::new(),
            ranking: None,
            data: none.clone(),
            events: None,
            towers: none,
            users: 1,
            users_without_test_events: 0,
            users_without_new_items: 0,
            repeated_test_events: 0,
            users_not_drawn: 0,
            users_with_test_item_drawn: 0,
            items: 10,
            models,
            left_out: BTreeMap::new(),
            overlap_with_cosine: BTreeMap::new(),
        }
    }

    #[test]
    fn a_baseline_wins_where_it_is_better_and_cut_offs_are_in_the_order_of_numbers() {
        let model: &[(&str, f64)] = &[("recall@10", 0.3), ("recall@100", 0.5), ("ndcg@10", 0.2), ("hit@100", 0.5)];
        let popular: &[(&str, f64)] = &[("recall@10", 0.3), ("recall@100", 0.6), ("ndcg@10", 0.3), ("hit@100", 0.1)];
        let poor: &[(&str, f64)] = &[("recall@10", 0.1), ("recall@100", 0.1)];
        let found = metrics(&[("model", model), ("popularity", popular), ("item_to_item", poor)]);
        assert_eq!(cut_offs(&found), [10, 100]);
        let expected = Winner { baseline: "popularity".into(), at: vec!["ndcg@10".into(), "recall@100".into()] };
        assert_eq!(winners(&found), [expected]);
        assert_eq!(winners(&metrics(&[("model", model), ("popularity", poor)])), []);
    }

    #[test]
    fn an_advice_is_one_sentence_in_json() {
        let rates = Advice::new("try other rates", &[&["--set a=1", "--set b=2"], &["--set a=3"]]);
        assert_eq!(serde_json::to_value(&rates).unwrap(), "try other rates: --set a=1 --set b=2 or --set a=3");
    }

    #[test]
    fn settings_are_told_with_two_digits() {
        for (value, text) in [(0.003, "0.003"), (0.001 / 3.0, "0.00033"), (0.1, "0.1"), (3.0, "3"), (0.0, "0")] {
            assert_eq!(rounded(value), text);
        }
    }
}
