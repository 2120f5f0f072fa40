//! Settings of `[model]` that are those of another kind of model than the job's: what is left of a job when its kind is
//! changed.

use serde::Deserialize;
use twotower_models::model::ModelConfig;

/// The kinds of models.
const KINDS: [&str; 4] = ["dssm", "sasrec", "tisasrec", "lightgcn"];

/// What is said of a job whose model has settings of another kind, the first of them in front.
pub(crate) fn of_another_kind(job: &toml::Table) -> Option<String> {
    let model = job.get("model")?.as_table()?;
    let kind = model.get("kind")?.as_str().filter(|kind| KINDS.contains(kind))?;
    let own = settings_of(kind);
    let strange: Vec<&String> = model.keys().filter(|key| *key != "kind" && !own.contains(key)).collect();
    let (other, theirs) = KINDS.into_iter().find_map(|other| {
        let there = settings_of(other);
        let theirs: Vec<&String> = strange.iter().filter(|key| there.contains(key)).copied().collect();
        (!theirs.is_empty()).then_some((other, theirs))
    })?;
    let first = theirs.first()?;
    let all = theirs.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    Some(format!(
        "`model.{first}` is a setting of kind = \"{other}\", and this model is of kind = \"{kind}\"; remove from [model]: {all} (docs/CONFIG.md#from-a-job-of-init-to-sasrec says what else another kind needs)"
    ))
}

/// The names of a kind's settings: those that its reader lists when it meets another one.
fn settings_of(kind: &str) -> Vec<String> {
    let entry = |key: &str, value: toml::Value| (key.to_string(), value);
    let probe = [entry("kind", kind.into()), entry("?", 0.into())].into_iter().collect::<toml::Table>();
    let said =
        ModelConfig::deserialize(toml::Value::Table(probe)).map_or_else(|e| e.message().to_string(), |_| String::new());
    said.split('`').skip(3).step_by(2).map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::{MINIMAL, load};
    use crate::overrides::Override;

    #[test]
    fn the_settings_of_each_kind_are_known() {
        for (kind, has, has_not) in [
            ("dssm", "embedding_dim", "dim"),
            ("sasrec", "dim", "hidden"),
            ("tisasrec", "blocks", "hidden"),
            ("lightgcn", "layers", "blocks"),
        ] {
            let settings = settings_of(kind);
            assert!(settings.iter().any(|name| name == has), "{kind}: {settings:?}");
            assert!(settings.iter().all(|name| name != has_not), "{kind}: {settings:?}");
        }
    }

    #[test]
    fn settings_of_another_kind_are_told_with_the_kind_and_the_line() {
        let job = format!("{MINIMAL}[model]\nkind = \"dssm\"\nembedding_dim = 64\nhidden = [64]\ntemperature = 0.1\n");
        let line = MINIMAL.lines().count() + 3;
        let said = load(&job, &[Override::parse("model.kind=\"sasrec\"").unwrap()]).unwrap_err().to_string();
        for says in [
            &*format!("line {line}: `model.embedding_dim` is a setting of kind = \"dssm\""),
            "this model is of kind = \"sasrec\"",
            "remove from [model]: `embedding_dim`, `hidden` (",
        ] {
            assert!(said.contains(says), "{says}: {said}");
        }
        let said = load(&job, &[Override::parse("model.blocks=2").unwrap()]).unwrap_err().to_string();
        assert!(said.starts_with("--set model.blocks=2: `model.blocks` is a setting of kind = \"sasrec\""), "{said}");
        // A name that no kind has is told as ever.
        let said = load(&job.replace("hidden", "hiden"), &[]).unwrap_err().to_string();
        assert!(said.contains("did you mean `hidden`?"), "{said}");
    }

    #[test]
    fn a_setting_that_stands_twice_is_named() {
        let said = load(&format!("{MINIMAL}[train]\nepochs = 3\nepochs = 4\n"), &[]).unwrap_err().to_string();
        let line = MINIMAL.lines().count() + 3;
        assert!(said.contains(&format!("line {line}")) && said.contains("`epochs` stands twice"), "{said}");
        let said = load(&format!("{MINIMAL}[train]\nepochs = 3\n[train]\nseed = 4\n"), &[]).unwrap_err().to_string();
        assert!(said.contains("`train` stands twice"), "{said}");
    }
}
