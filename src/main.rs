//! twotower: batch two-tower recall.
fn main() {}
