//! Item indexes of twotower: exact search and HNSW behind one trait.
