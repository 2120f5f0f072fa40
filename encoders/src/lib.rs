//! Feature encoders of twotower: vocabularies, numerics, dates, multi-valued, hashed, vector and sequence features.
//!
//! [`EncoderFit`] learns from batches of both tables, [`EncoderState`] is what it learned, and
//! [`SideEncoder`] turns the rows of a side into a [`twotower_artifacts::CodeBatch`].
//!
//! # Adding a kind
//! A file with the kind's configuration and an encoder, a variant of [`FeatureSpec`], and the arms
//! that the compiler then asks for. Say in the file what null, unseen and out-of-range values become.

mod boolean;
mod categorical;
mod counts;
mod date;
mod encode;
mod error;
mod fit;
mod hashed;
mod histogram;
mod id;
pub mod init;
mod log1p;
mod moments;
mod multi_valued;
mod number_text;
mod numbers;
mod numeric;
mod plain;
mod quantiles;
pub mod raw;
mod sequence;
mod slots;
mod spec;
mod spill;
mod state;
pub mod store;
mod top_values;
mod value_counts;
mod values;
mod variety;
mod vector;
mod vocabulary;

pub use boolean::BooleanSpec;
pub use categorical::CategoricalSpec;
pub use counts::{EncodeCounts, FeatureCounts};
pub use date::{DatePart, DateSpec};
pub use encode::SideEncoder;
pub use error::EncoderError;
pub use fit::EncoderFit;
pub use hashed::HashedSpec;
pub use histogram::Histogram;
pub use id::IdSpec;
pub use multi_valued::MultiValuedSpec;
pub use number_text::DecimalMark;
pub use numeric::{NumericBounds, NumericSpec, Transform};
pub use plain::PlainColumn;
pub use sequence::SequenceSpec;
pub use spec::{FeatureSpec, SideSpec, validate};
pub use state::{EncoderState, FeatureState, SideState};

pub use values::compact;
pub use variety::Variety;
pub use vector::VectorSpec;
pub use vocabulary::{Slot, Vocabulary, VocabularyDiff};
