//! Settings of NCL (Lin et al., WWW 2022, arXiv 2202.06200), two contrasts beside the main term: of a node with the
//! neighbours that an even layer holds of it (`neighbours.rs`), and with the centre of its cluster (`prototypes.rs`).

use crate::error::ModelError;
use serde::{Deserialize, Serialize};

/// Settings of NCL. The defaults are those of the authors' code for MovieLens-1M (RUCAIBox/NCL).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NclConfig {
    /// τ of both contrasts, by which cosines are divided.
    pub temperature: f32,
    /// The factor of the contrast with neighbours. It is small since that is a sum over the batch. With 0 it is not
    /// computed.
    pub structure_weight: f64,
    /// h: layer 2h is compared with the first layer.
    pub hops: usize,
    /// The factor of items in the contrast with neighbours, that of users being 1.
    pub alpha: f64,
    /// The factor of the contrast with the centres of clusters, which is a sum over the batch too. With 0 there is no
    /// clustering.
    pub prototype_weight: f64,
    /// Clusters of users, and of items.
    pub clusters: usize,
    /// The first epoch with prototypes, counted from 0.
    pub from_epoch: usize,
}

impl Default for NclConfig {
    fn default() -> Self {
        Self {
            temperature: 0.1,
            structure_weight: 1e-7,
            hops: 1,
            alpha: 1.0,
            prototype_weight: 8e-8,
            clusters: 1000,
            from_epoch: 20,
        }
    }
}

impl NclConfig {
    /// Checks that the propagation has the layer that is compared.
    ///
    /// # Errors
    /// [`ModelError::Setting`].
    pub(super) fn check(&self, layers: usize) -> Result<(), ModelError> {
        if self.structure_weight > 0.0 && 2 * self.hops > layers {
            return Err(ModelError::Setting {
                setting: "model.ncl.hops".into(),
                expected: format!(
                    "at most {}, half of `model.layers` = {layers}: layer 2 · hops is compared with the first one",
                    layers / 2
                ),
                found: self.hops.to_string(),
            });
        }
        Ok(())
    }
}
