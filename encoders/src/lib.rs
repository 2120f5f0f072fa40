//! Feature encoders of twotower: vocabularies, numerics, multi-valued, hashed, vector and sequence features.
