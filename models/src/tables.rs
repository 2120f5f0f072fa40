//! Fresh embedding tables of a pair of towers.

use crate::dssm::DssmConfig;
use crate::error::ModelError;
use crate::pages::zeroed;
use crate::params::Table;
use crate::rng::Rng;
use rayon::prelude::*;
use std::collections::BTreeMap;
use twotower_artifacts::TowerSchema;

/// Standard deviation of fresh embeddings.
pub(crate) const EMBEDDING_DEVIATION: f64 = 0.05;

/// One table per vocabulary, whichever fields and towers use it.
///
/// # Errors
/// [`ModelError::Setting`] and [`ModelError::Data`] when settings or schemas contradict each other.
pub(crate) fn tables(schemas: &[&TowerSchema], config: &DssmConfig, seed: u64) -> Result<Vec<Table>, ModelError> {
    let mut tables: BTreeMap<&str, (u32, Option<usize>)> = BTreeMap::new();
    let mut used = Vec::new();
    for field in schemas.iter().flat_map(|schema| &schema.fields) {
        let Some((name, cardinality)) = field.shape.table() else { continue };
        let entry = tables.entry(name).or_insert((cardinality, None));
        if entry.0 != cardinality {
            return Err(ModelError::Data {
                reason: format!(
                    "vocabulary `{name}` has {} slots in one field and {cardinality} in `{}`",
                    entry.0, field.name
                ),
            });
        }
        for key in [name, &field.name] {
            let Some(dim) = config.embedding_dims.get(key) else { continue };
            used.push(key.to_string());
            if entry.1.is_some_and(|known| known != *dim) {
                return Err(ModelError::Setting {
                    setting: "embedding_dims".into(),
                    expected: format!("one width for the shared vocabulary `{name}`"),
                    found: format!("{} and {dim}", entry.1.unwrap_or(*dim)),
                });
            }
            entry.1 = Some(*dim);
        }
    }
    if let Some(key) = config.embedding_dims.keys().find(|key| !used.contains(key)) {
        return Err(ModelError::Setting {
            setting: "embedding_dims".into(),
            expected: format!("a table or feature among {:?}", tables.keys().collect::<Vec<_>>()),
            found: format!("`{key}`"),
        });
    }
    Ok(tables
        .into_iter()
        .enumerate()
        .map(|(t, (name, (rows, dim)))| {
            let (rows, dim) = (rows as usize, dim.unwrap_or(config.embedding_dim));
            let mut values = zeroed(rows * dim);
            values.par_chunks_mut(dim).enumerate().with_min_len(1024).for_each(|(row, values)| {
                let mut rng = Rng::at(seed, &[0, t as u64, row as u64]);
                values.iter_mut().for_each(|x| *x = (rng.normal() * EMBEDDING_DEVIATION) as f32);
            });
            Table { name: name.to_string(), rows, dim, values }
        })
        .collect())
}
