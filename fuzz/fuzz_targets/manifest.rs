//! The readers of a stage's manifest and of the encoders' manifest.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twotower_artifacts::Manifest;
use twotower_encoders::{EncoderState, store};

fuzz_target!(|text: &[u8]| {
    // With the checksum that a manifest ends with, without which nothing of it would be looked at.
    let content = text.trim_ascii_end();
    let content = content.strip_suffix(b"}").unwrap_or(content);
    let checksum = format!(",\n  \"checksum\": \"{}\"\n}}\n", blake3::hash(content).to_hex());
    let path = twotower_fuzz::file("manifest.json", &[content, checksum.as_bytes()].concat());
    let folder = path.parent().expect("a file has a folder");
    twotower_fuzz::file(store::MANIFEST, text);
    if let Ok(manifest) = Manifest::read(&path) {
        // A path that leaves the folder was refused; whether the files are there does not matter.
        let _ = manifest.verify_files(folder);
        let again = twotower_fuzz::file("again.json", b"");
        manifest.write(&again).expect("write what was read");
    }
    let _ = EncoderState::load(folder);
});
