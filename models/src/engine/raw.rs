//! A tower that takes raw values ([`crate::onnx::export_raw`]), run by ONNX Runtime.

use super::library;
use crate::error::ModelError;
use ort::session::{Session, SessionInputValue};
use ort::value::Tensor;
use std::path::{Path, PathBuf};
use twotower_artifacts::raw::{RawTensor, RawValues};

/// A session of such a tower.
#[derive(Debug)]
pub struct RawEngine {
    path: PathBuf,
    session: Session,
}

impl RawEngine {
    /// Opens a file that this program wrote just now.
    ///
    /// # Errors
    /// [`ModelError::RuntimeMissing`] without a usable library, [`ModelError::Runtime`] when it refuses the model.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let session = super::runtime::builder(library::environment()?)
            .and_then(|mut builder| builder.commit_from_file(path))
            .map_err(|e| ModelError::runtime("load", path, e))?;
        Ok(Self { path: path.to_path_buf(), session })
    }

    /// The vectors of some rows, row after row.
    ///
    /// # Errors
    /// [`ModelError::Runtime`] when ONNX Runtime fails.
    pub fn embed(&mut self, inputs: &[RawTensor]) -> Result<Vec<f32>, ModelError> {
        let Self { path, session } = self;
        run(session, inputs).map_err(|e| ModelError::runtime("run", path, e))
    }
}

fn run(session: &mut Session, inputs: &[RawTensor]) -> Result<Vec<f32>, ort::Error> {
    let values: Vec<(&str, SessionInputValue)> =
        inputs.iter().map(|input| Ok((input.name.as_str(), value(input)?))).collect::<Result<_, ort::Error>>()?;
    let outputs = session.run(values)?;
    let (_, vectors) = outputs[0].try_extract_tensor::<f32>()?;
    Ok(vectors.to_vec())
}

fn value(input: &RawTensor) -> Result<SessionInputValue<'static>, ort::Error> {
    let shape = |values: usize| match input.width {
        None => vec![values],
        Some(width) => vec![values / width.max(1), width],
    };
    Ok(match &input.values {
        RawValues::Text(values) => Tensor::from_string_array((shape(values.len()), &values[..]))?.into(),
        RawValues::Integer(values) => Tensor::from_array((shape(values.len()), values.clone()))?.into(),
        RawValues::Single(values) => Tensor::from_array((shape(values.len()), values.clone()))?.into(),
        RawValues::Double(values) => Tensor::from_array((shape(values.len()), values.clone()))?.into(),
        RawValues::Boolean(values) => Tensor::from_array((shape(values.len()), values.clone()))?.into(),
        RawValues::Code(values) => Tensor::from_array((shape(values.len()), values.clone()))?.into(),
    })
}
