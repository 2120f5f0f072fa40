//! The readers of a stage's manifest and of the encoders' manifest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twotower_artifacts::Manifest;
use twotower_encoders::{EncoderState, store};

fuzz_target!(|text: &[u8]| {
    let path = twotower_fuzz::file(store::MANIFEST, text);
    let folder = path.parent().expect("a file has a folder");
    if let Ok(manifest) = Manifest::read(&path) {
        // A path that leaves the folder was refused; whether the files are there does not matter.
        let _ = manifest.verify_files(folder);
        let again = twotower_fuzz::file("again.json", b"");
        manifest.write(&again).expect("write what was read");
    }
    let _ = EncoderState::load(folder);
});
