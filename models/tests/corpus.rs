//! Reads the inputs in fuzz/corpus/tower, which fuzzing has found.

use twotower_models::ModelError;
use twotower_models::engine::{EngineKind, open};

#[test]
fn towers_of_the_corpus_are_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("user_tower.onnx");
    let (mut read, mut refused) = (0, 0);
    for input in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/tower")).unwrap() {
        let input = input.unwrap().path();
        std::fs::copy(&input, &path).unwrap();
        match open(EngineKind::Native, &path) {
            Ok(engine) => {
                read += 1;
                assert!(engine.dim() > 0, "{input:?}");
            }
            Err(error) => {
                refused += 1;
                assert!(matches!(error, ModelError::Artifact(_) | ModelError::Tower { .. }), "{input:?}: {error}");
            }
        }
    }
    assert!(read > 1 && refused > 20, "{read} read, {refused} refused");
}
