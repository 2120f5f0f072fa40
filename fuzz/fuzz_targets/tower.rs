//! The reader of towers (protobuf and metadata), and the native engine on what it read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twotower_models::engine::{self, EngineKind};

fuzz_target!(|model: &[u8]| {
    let path = twotower_fuzz::file("user_tower.onnx", model);
    // What passes the checks must be ready to run.
    if let Ok(engine) = engine::open(EngineKind::Native, &path) {
        assert!(engine.dim() > 0);
    }
});
