//! Reads the inputs in fuzz/corpus/manifest, which fuzzing has found.

use twotower_artifacts::Manifest;

/// The text with the checksum that ends a manifest. Without it, the rest of the text would not be read.
fn with_checksum(text: &[u8]) -> Vec<u8> {
    let content = text.trim_ascii_end();
    let content = content.strip_suffix(b"}").unwrap_or(content);
    let checksum = blake3::hash(content).to_hex();
    [content, format!(",\n  \"checksum\": \"{checksum}\"\n}}\n").as_bytes()].concat()
}

#[test]
fn manifests_of_the_corpus_are_read_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manifest.json");
    let (mut read, mut refused) = (0, 0);
    for input in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/manifest")).unwrap() {
        let input = input.unwrap().path();
        std::fs::write(&path, with_checksum(&std::fs::read(&input).unwrap())).unwrap();
        match Manifest::read(&path) {
            Ok(manifest) => {
                read += 1;
                assert!(manifest.files.is_empty() || manifest.verify_files(dir.path()).is_err(), "{input:?}");
                manifest.write(&path).unwrap();
                assert_eq!(Manifest::read(&path).unwrap().files, manifest.files, "{input:?}");
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("manifest.json"), "{input:?}: {error}");
            }
        }
    }
    assert!(read > 4 && refused > 20, "{read} read, {refused} refused");
}
