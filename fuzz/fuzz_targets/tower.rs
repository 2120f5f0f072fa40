//! The reader of towers (protobuf and metadata), and the native engines on what it read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twotower_models::engine::{self, EngineKind};

fuzz_target!(|model: &[u8]| {
    let path = twotower_fuzz::file("user_tower.onnx", model);
    // What passes the checks must be ready to run.
    for kind in [EngineKind::Native, EngineKind::NativeInt16] {
        if let Ok(engine) = engine::open(kind, &path) {
            assert!(engine.dim() > 0);
        }
    }
});
