//! The stages of twotower as functions: configuration, encode, train, infer, recall, evaluate, run, synth.
