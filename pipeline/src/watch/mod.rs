//! What watches over the process: cancellation, stalls, limits of the system, progress, and text for people.

pub mod allocator;
pub mod cancel;
pub(crate) mod clock;
pub(crate) mod exit;
pub mod limits;
pub mod progress;
pub mod stall;
pub mod terminal;
