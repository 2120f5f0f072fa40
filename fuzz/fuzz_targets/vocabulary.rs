//! The vocabulary reader. An input is a payload: under a checksum that holds, or else the fuzzer would
//! never come past it. Layout: docs/FORMATS.md.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twotower_encoders::store::load_vocabulary;

fuzz_target!(|payload: &[u8]| {
    let mut bytes = [b"twotower-vocabulary".as_slice(), &1u32.to_le_bytes(), payload].concat();
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
    let path = twotower_fuzz::file("t.bin", &bytes);
    if let Ok(vocabulary) = load_vocabulary(&path) {
        // What passes the checks must answer.
        for (code, value, _) in vocabulary.iter() {
            assert_eq!(vocabulary.lookup(value), code);
        }
    }
});
