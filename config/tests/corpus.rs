//! What fuzzing found worth keeping, read again: fuzz/corpus/config.

use twotower_config::Config;

#[test]
fn job_files_of_the_corpus_are_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipeline.toml");
    let (mut read, mut refused) = (0, 0);
    for input in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/config")).unwrap() {
        let input = input.unwrap().path();
        std::fs::copy(&input, &path).unwrap();
        match Config::load(&path, &[]) {
            Ok(config) => {
                read += 1;
                assert!(!config.split.protocol().is_empty(), "{input:?}");
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.category().exit_code(), 2);
                assert!(error.to_string().contains("pipeline.toml"), "{input:?}: {error}");
            }
        }
    }
    assert!(read > 0 && refused > 20, "{read} read, {refused} refused");
}
