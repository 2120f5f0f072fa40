//! Settings of the model and of its training in a first job.
//!
//! `benches/first_job.py` measures them against others; docs/BENCHMARKS.md has the figures.

use super::Guess;
use crate::config::Config;
use std::borrow::Cow;
use std::fmt::Write;
use twotower_models::dssm::DssmConfig;
use twotower_models::model::ModelConfig;
use twotower_models::train::Loss;

/// Items up to which embeddings of 64 numbers, with what training keeps beside them, stay below a gibibyte.
const MANY_ITEMS: usize = 1_000_000;
/// The same for embeddings of 32 numbers.
const VERY_MANY_ITEMS: usize = 2_000_000;
/// The settings of a first model for a catalogue.
pub struct FirstModel {
    items: usize,
    embedding_dim: usize,
    hidden: Vec<usize>,
    temperature: f32,
    learning_rate: f64,
}

/// A setting of the job.
struct Setting {
    section: &'static str,
    key: &'static str,
    /// As TOML.
    value: String,
    /// Why it is what it is.
    reason: String,
    /// Whether a job has it so.
    is_in: fn(&FirstModel, &Config) -> bool,
}

impl FirstModel {
    /// Chooses them for a catalogue of `items`.
    pub fn of(items: usize) -> Self {
        let embedding_dim = if items <= MANY_ITEMS {
            64
        } else if items <= VERY_MANY_ITEMS {
            32
        } else {
            16
        };
        Self { items, embedding_dim, hidden: vec![64], temperature: 0.1, learning_rate: 0.003 }
    }

    fn settings(&self) -> [Setting; 5] {
        let Self { items, embedding_dim, hidden, temperature, learning_rate } = self;
        let setting =
            |section, key, value: String, reason: String, is_in| Setting { section, key, value, reason, is_in };
        let memory = match items {
            0..=MANY_ITEMS => String::new(),
            _ => format!(", narrower than 64 for the memory that {items} items take in training"),
        };
        [
            setting(
                "model",
                "embedding_dim",
                embedding_dim.to_string(),
                format!("numbers that an item has to itself{memory}"),
                |first, job| dssm(job).embedding_dim == first.embedding_dim,
            ),
            setting(
                "model",
                "hidden",
                format!("{hidden:?}"),
                "one layer: more of them, or narrower ones, blur items with few events".to_string(),
                |first, job| dssm(job).hidden == first.hidden,
            ),
            setting(
                "model",
                "temperature",
                format!("{temperature}"),
                "twice the default: few events are learned less by heart".to_string(),
                |first, job| dssm(job).temperature == first.temperature,
            ),
            setting(
                "train",
                "loss",
                "\"in_batch\"".to_string(),
                format!(
                    "the items of a batch, at a cost that does not grow with the {items} of the catalogue; drawing more of them gained nothing on catalogues of 1,682 to 60,000 items"
                ),
                |_, job| job.train.loss == Loss::InBatch,
            ),
            setting(
                "train",
                "learning_rate",
                format!("{learning_rate}"),
                "three times the default: one layer bears it, and needs fewer epochs".to_string(),
                |first, job| job.train.learning_rate == first.learning_rate,
            ),
        ]
    }

    /// The lines of a section of the job, each setting below its reason.
    pub fn lines(&self, section: &str) -> String {
        let mut lines = String::new();
        for Setting { key, value, reason, .. } in self.settings().iter().filter(|setting| setting.section == section) {
            let _ = writeln!(lines, "# {reason}\n{key} = {value}");
        }
        lines
    }

    /// What was chosen and why.
    pub fn guesses(&self) -> impl Iterator<Item = Guess> {
        self.settings().into_iter().map(|Setting { section, key, value, reason, .. }| Guess {
            about: format!("{section}.{key}"),
            reason: format!("{value}: {reason}"),
        })
    }

    /// The settings that a job has otherwise, as words of a command.
    pub fn unlike(&self, job: &Config) -> Vec<String> {
        let settings = match job.model {
            ModelConfig::Dssm(_) => self.settings().into_iter(),
            // They are those of a DSSM.
            ModelConfig::Sasrec(_) | ModelConfig::Tisasrec(_) | ModelConfig::Lightgcn(_) => return Vec::new(),
        };
        let other = settings.filter(|setting| !(setting.is_in)(self, job));
        other.map(|Setting { section, key, value, .. }| format!("--set '{section}.{key}={value}'")).collect()
    }
}

fn dssm(job: &Config) -> Cow<'_, DssmConfig> {
    job.model.dssm()
}

#[cfg(test)]
mod tests {
    use super::super::tests::read;
    use super::*;

    /// A job with what is written for `items`.
    fn job(items: usize) -> Config {
        let first = FirstModel::of(items);
        let table = |name: &str, columns: &str| format!("[tables.{name}]\npath = \"{name}.csv\"\n{columns}\n");
        let tables = table("users", "id = \"u\"")
            + &table("items", "id = \"i\"")
            + &table("interactions", "user = \"u\"\nitem = \"i\"");
        let features = "[features]\nuser = [{ kind = \"sequence\", name = \"last\" }]\nitem = [{ kind = \"id\", name = \"item\" }]\n";
        let (model, train) = (first.lines("model"), first.lines("train"));
        read(&format!("{tables}{features}[model]\nkind = \"dssm\"\n{model}[train]\n{train}"))
    }

    #[test]
    fn what_is_written_is_what_was_chosen_and_embeddings_are_narrower_for_very_many_items() {
        for (items, width) in [(10, 64), (1_000_000, 64), (1_000_001, 32), (3_000_000, 16)] {
            let job = job(items);
            assert_eq!((dssm(&job).embedding_dim, job.train.loss), (width, Loss::InBatch), "{items}");
            assert_eq!((&dssm(&job).hidden[..], dssm(&job).temperature), (&[64][..], 0.1));
            assert_eq!(FirstModel::of(items).unlike(&job), Vec::<String>::new(), "{items}");
        }
    }

    #[test]
    fn a_job_is_told_the_settings_that_it_has_otherwise() {
        let mut job = job(50_000);
        job.train.learning_rate = 0.001;
        job.train.loss = Loss::FullSoftmax;
        let expected = ["--set 'train.loss=\"in_batch\"'", "--set 'train.learning_rate=0.003'"];
        assert_eq!(FirstModel::of(50_000).unlike(&job), expected);
        assert_eq!(FirstModel::of(3_000_000).unlike(&job)[0], "--set 'model.embedding_dim=16'");
    }

    #[test]
    fn every_choice_is_told_with_its_reason() {
        let guesses: Vec<Guess> = FirstModel::of(3_000_000).guesses().collect();
        let of = |about: &str| guesses.iter().find(|guess| guess.about == about).map(|guess| guess.reason.as_str());
        assert!(of("train.loss").unwrap().starts_with("\"in_batch\": the items of a batch"), "{guesses:?}");
        assert!(of("model.embedding_dim").unwrap().contains("the memory that 3000000 items take"), "{guesses:?}");
        assert_eq!(guesses.len(), 5);
    }
}
