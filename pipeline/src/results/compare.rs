//! Metrics of several runs side by side.

use crate::error::PipelineError;
use crate::run::dir::RunDir;
use crate::run::files::evaluation::METRICS;
use crate::stages::evaluate::{MetricsFile, comparable, read_metrics};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A run that is compared with others.
#[derive(Debug, Clone, PartialEq)]
pub struct ComparedRun {
    /// The name of its folder, or the path as it was typed where another one has that name.
    pub name: String,
    /// Its metrics file.
    pub file: PathBuf,
    /// What it holds.
    pub metrics: MetricsFile,
}

/// Metrics of one model, or of a baseline, in one run or in all.
#[derive(Debug, Clone, PartialEq)]
pub struct ComparedModel<'a> {
    /// The place of the run; none for a baseline that is the same in all runs that have it.
    pub run: Option<usize>,
    /// Its name, as in metrics files.
    pub model: &'a str,
    /// Its metrics by their names.
    pub values: &'a BTreeMap<String, f64>,
}

/// Reads the metrics of runs, which are named by their folders or by metrics files, for a command.
///
/// # Errors
/// A run or a file that is not there; a file without metrics; [`PipelineError::Mismatch`] for runs whose figures do not
/// compare ([`comparable`]).
pub fn compared(command: &'static str, typed: &[PathBuf]) -> Result<Vec<ComparedRun>, PipelineError> {
    let mut runs: Vec<ComparedRun> = Vec::new();
    for path in typed {
        let (name, file) = match path.is_file() {
            true => (name_of_file(path), path.clone()),
            false => {
                let run = RunDir::existing(command, path)?;
                (run.name(), run.evaluation().join(METRICS))
            }
        };
        let metrics = read_metrics(&file)?;
        if let Some(first) = runs.first() {
            comparable((&first.file, &first.metrics), (&file, &metrics))?;
        }
        runs.push(ComparedRun { name, file, metrics });
    }
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for (run, path) in runs.iter_mut().zip(typed) {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = path.display().to_string();
        }
    }
    Ok(runs)
}

/// The run of a metrics file that lies where `evaluate` writes it, or the file's name.
fn name_of_file(path: &Path) -> String {
    let run = path.parent().filter(|dir| dir.ends_with("evaluation") && path.ends_with(METRICS)).and_then(Path::parent);
    let name = run.and_then(Path::file_name).or_else(|| path.file_stem());
    name.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// The models of all runs, then the baselines, in the order of `models`: a baseline once where all runs agree.
pub fn models<'a>(runs: &'a [ComparedRun], models: &[&'a str]) -> Vec<ComparedModel<'a>> {
    let mut rows = Vec::new();
    for model in models.iter().copied() {
        let of = |at: usize| runs[at].metrics.models.get(model);
        let all: Vec<ComparedModel> =
            (0..runs.len()).filter_map(|at| Some(ComparedModel { run: Some(at), model, values: of(at)? })).collect();
        match all.first() {
            Some(first) if model != "model" && all.iter().all(|other| other.values == first.values) => {
                rows.push(ComparedModel { run: None, ..first.clone() });
            }
            _ => rows.extend(all),
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::advice;

    fn metrics(protocol: &str, models: &[(&str, f64)]) -> MetricsFile {
        let values: Vec<[(&str, f64); 1]> = models.iter().map(|(_, value)| [("recall@10", *value)]).collect();
        let models: Vec<(&str, &[(&str, f64)])> =
            models.iter().zip(&values).map(|((name, _), values)| (*name, &values[..])).collect();
        MetricsFile { protocol: protocol.into(), ..advice::tests::metrics(&models) }
    }

    #[test]
    fn a_baseline_stands_once_where_runs_agree_and_a_model_always_for_each() {
        let run = |models: &[(&str, f64)]| ComparedRun {
            name: "r".into(),
            file: "r".into(),
            metrics: metrics("full", models),
        };
        let runs = [
            run(&[("model", 0.5), ("popularity", 0.1), ("item_cf", 0.2)]),
            run(&[("model", 0.5), ("popularity", 0.1), ("item_cf", 0.3), ("ease", 0.4)]),
        ];
        let found: Vec<(Option<usize>, &str, f64)> = models(&runs, &["model", "popularity", "item_cf", "ease"])
            .into_iter()
            .map(|row| (row.run, row.model, row.values["recall@10"]))
            .collect();
        let expected = [
            (Some(0), "model", 0.5),
            (Some(1), "model", 0.5),
            (None, "popularity", 0.1),
            (Some(0), "item_cf", 0.2),
            (Some(1), "item_cf", 0.3),
            (None, "ease", 0.4),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn files_are_named_by_their_run_and_by_their_paths_where_names_are_alike() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, protocol: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, serde_json::to_vec(&metrics(protocol, &[("model", 0.5)])).unwrap()).unwrap();
            path
        };
        let names = |paths: &[PathBuf]| -> Result<Vec<String>, PipelineError> {
            Ok(compared("compare", paths)?.into_iter().map(|run| run.name).collect())
        };
        let a = write("x/a/evaluation/metrics.json", "full");
        let (b, other) = (write("kept/b.json", "full"), write("y/a/evaluation/metrics.json", "full"));
        assert_eq!(names(&[a.clone(), b.clone()]).unwrap(), ["a", "b"]);
        let expected = [a.display().to_string(), "b".into(), other.display().to_string()];
        assert_eq!(names(&[a.clone(), b.clone(), other]).unwrap(), expected);
        let unlike = write("c.json", "sampled");
        let error = names(&[a, b, unlike]).unwrap_err();
        assert!(matches!(error, PipelineError::Mismatch(_)) && error.to_string().contains("protocols"), "{error}");
    }
}
