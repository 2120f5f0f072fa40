//! A training that is killed.

use super::{Guarded, outputs, until};
use crate::fixture::Job;
use std::path::PathBuf;
use std::process::Stdio;

/// Kills a training of the job after its first epoch, and requires that the run that goes on from there leaves the bytes of
/// an undisturbed one.
pub fn resumes_to_the_same_bytes(job: &Job) {
    let settings = "--set train.epochs=8 --set train.batch_size=64 --set train.checkpoint_steps=20";
    let line = format!("run {settings} --engine native --quiet");
    // Both runs have the same name and tables, which manifests hold.
    job.ok(&line);
    let undisturbed = outputs(&job.path("run"));
    std::fs::remove_dir_all(job.path("run")).unwrap();
    std::fs::remove_file(job.path("latest")).unwrap();
    let mut child = Guarded(job.command(&line).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    // The last checkpoint is written after the best one.
    let [best, last] = ["best", "last"].map(|name| job.path(&format!("run/towers/checkpoints/{name}.ckpt")));
    let written = |path: &PathBuf| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    let is_after_an_epoch = || written(&best).is_some() && written(&last) > written(&best);
    until("the first epoch's checkpoint", || is_after_an_epoch() || child.0.try_wait().unwrap().is_some());
    child.send(libc::SIGKILL);
    assert_eq!(child.end().code(), None, "it ended before it was killed");
    assert!(!job.path("run/towers/manifest.json").exists());
    let resumed = job.ok(&format!("run {settings} --engine native"));
    assert!(!resumed.stderr.contains("epoch 1:"), "it began again\n{}", resumed.stderr);
    let killed = outputs(&job.path("run"));
    assert_eq!(killed.keys().collect::<Vec<_>>(), undisturbed.keys().collect::<Vec<_>>());
    for (path, bytes) in &undisturbed {
        assert!(killed[path] == *bytes, "{} differs", path.display());
    }
}
