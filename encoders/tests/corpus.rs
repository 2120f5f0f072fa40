//! Reads the inputs in fuzz/corpus/vocabulary and fuzz/corpus/manifest, which fuzzing has found.

use std::path::PathBuf;
use twotower_encoders::store::load_vocabulary;
use twotower_encoders::{EncoderState, store};

fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn vocabularies_of_the_corpus_are_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.bin");
    let (mut read, mut refused) = (0, 0);
    for input in corpus("vocabulary") {
        // An input is the payload of a file. The rest of the file is put around it.
        let payload = std::fs::read(&input).unwrap();
        let mut bytes = [b"twotower-vocabulary\x01\0\0\0".as_slice(), &payload].concat();
        bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        std::fs::write(&path, bytes).unwrap();
        match load_vocabulary(&path) {
            Ok(vocabulary) => {
                read += 1;
                assert!(vocabulary.iter().all(|(code, value, _)| vocabulary.lookup(value) == code), "{input:?}");
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("t.bin"), "{input:?}: {error}");
            }
        }
    }
    assert!(read > 4 && refused > 20, "{read} read, {refused} refused");
}

#[test]
fn encoder_manifests_of_the_corpus_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for input in corpus("manifest") {
        std::fs::copy(&input, dir.path().join(store::MANIFEST)).unwrap();
        // There is no vocabulary beside it.
        assert!(EncoderState::load(dir.path()).is_err(), "{input:?}");
    }
}
