//! The reader of `pipeline.toml`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twotower_config::Config;

fuzz_target!(|text: &[u8]| {
    let path = twotower_fuzz::file("pipeline.toml", text);
    match Config::load(&path, &[]) {
        // What is accepted can be written into a manifest.
        Ok(config) => drop(config.split.protocol()),
        Err(error) => assert!(error.to_string().contains("pipeline.toml"), "{error}"),
    }
});
