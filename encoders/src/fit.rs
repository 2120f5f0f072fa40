//! Learns encoders from tables, one batch at a time.

use crate::date::{AgeFit, DatePart};
use crate::encode::find_column;
use crate::error::EncoderError;
use crate::numeric::{NumericBounds, NumericFit};
use crate::spec::{FeatureSpec, SideSpec, name_error, validate};
use crate::state::{EncoderState, FeatureState, SideState};
use crate::value_counts::ValueCounts;
use crate::values::count_values;
use crate::vocabulary::{BuildBytes, Vocabulary};
use arrow_array::{ArrayRef, RecordBatch};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use twotower_artifacts::Side;

/// What was learned from both tables so far.
///
/// Batches may come in any order, and may be split over several fits that are merged. The result has
/// the same bits, since counts and the sums behind numeric bounds are exact. For each further thread,
/// clone a fresh fit.
///
/// # Memory
/// Every distinct value of every vocabulary, or the budget of [`EncoderFit::with_spill`], and at most
/// about 1.1 MiB per numeric feature, or 2 MiB per age.
#[derive(Debug, Clone)]
pub struct EncoderFit {
    user: SideFit,
    item: SideFit,
    counts: BTreeMap<String, ValueCounts>,
    spill: Option<Spill>,
}

/// The budget for counts, and the folder for those that exceed it.
#[derive(Debug, Clone)]
struct Spill {
    dir: PathBuf,
    budget: usize,
}

#[derive(Debug, Clone)]
struct SideFit {
    spec: SideSpec,
    /// Parallel to the features.
    bounds: Vec<Option<BoundsFit>>,
    /// Vocabularies of the id column, each with the first feature that uses it.
    id_tables: BTreeMap<String, String>,
}

/// Learns the bounds of one feature.
#[derive(Debug, Clone)]
enum BoundsFit {
    Numeric(NumericFit),
    Age(AgeFit),
}

impl BoundsFit {
    /// For a feature that has bounds.
    fn new(spec: &FeatureSpec) -> Option<Self> {
        match spec {
            FeatureSpec::Numeric(s) => Some(BoundsFit::Numeric(NumericFit::new(s))),
            FeatureSpec::Date(s) if s.part == DatePart::Age => Some(BoundsFit::Age(AgeFit::default())),
            _ => None,
        }
    }

    fn merge(&mut self, other: Self) {
        match (self, other) {
            (BoundsFit::Numeric(mine), BoundsFit::Numeric(theirs)) => mine.merge(theirs),
            (BoundsFit::Age(mine), BoundsFit::Age(theirs)) => mine.merge(theirs),
            _ => unreachable!("fits of one feature are of one kind"),
        }
    }

    fn finish(self) -> NumericBounds {
        match self {
            BoundsFit::Numeric(fit) => fit.finish(),
            BoundsFit::Age(fit) => fit.finish(),
        }
    }
}

impl SideFit {
    fn new(spec: SideSpec) -> Self {
        let bounds = spec.features.iter().map(BoundsFit::new);
        Self { bounds: bounds.collect(), id_tables: BTreeMap::new(), spec }
    }
}

impl EncoderFit {
    /// Starts with nothing seen.
    ///
    /// # Errors
    /// [`EncoderError::Spec`], as [`validate`].
    pub fn new(user: SideSpec, item: SideSpec) -> Result<Self, EncoderError> {
        validate(&user, &item)?;
        let mut fit = Self { user: SideFit::new(user), item: SideFit::new(item), counts: BTreeMap::new(), spill: None };
        for side in [Side::User, Side::Item] {
            for feature in fit.side(side).spec.features.clone() {
                let Some(table) = feature.vocabulary(side) else { continue };
                fit.counts.entry(table.clone()).or_default();
                // Sequences hold item ids, so item ids are counted for their vocabulary too.
                let from_ids = match feature {
                    FeatureSpec::Id(_) => side,
                    FeatureSpec::Sequence(_) => Side::Item,
                    _ => continue,
                };
                fit.side_mut(from_ids).id_tables.entry(table).or_insert_with(|| feature.name().to_string());
            }
        }
        Ok(fit)
    }

    /// Limits the memory of counting and of building the vocabularies to about `budget` bytes, not counting
    /// a batch and a previous state. Counts beyond half of it go to nameless temporary files in `dir`. The
    /// result is the same. Each clone has the same budget for itself.
    #[must_use]
    pub fn with_spill(mut self, dir: impl Into<PathBuf>, budget: usize) -> Self {
        self.spill = Some(Spill { dir: dir.into(), budget });
        self
    }

    /// Spills the largest counters until the rest fit into half of the budget. The other half is for building.
    fn hold_budget(&mut self) -> Result<(), EncoderError> {
        let Some(Spill { dir, budget }) = &self.spill else { return Ok(()) };
        let mut held: usize = self.counts.values().map(ValueCounts::bytes).sum();
        while held > budget / 2 {
            let Some(largest) = self.counts.values_mut().max_by_key(|c| c.bytes()).filter(|c| c.distinct() > 0) else {
                return Ok(());
            };
            held -= largest.bytes();
            largest.spill(dir)?;
        }
        Ok(())
    }

    fn side(&self, side: Side) -> &SideFit {
        match side {
            Side::User => &self.user,
            Side::Item => &self.item,
        }
    }

    fn side_mut(&mut self, side: Side) -> &mut SideFit {
        match side {
            Side::User => &mut self.user,
            Side::Item => &mut self.item,
        }
    }

    /// The columns that batches of a side must have.
    pub fn required_columns(&self, side: Side) -> Vec<String> {
        self.side(side).spec.required_columns()
    }

    /// Learns from the rows of one side's table.
    ///
    /// # Errors
    /// [`EncoderError::MissingColumn`], [`EncoderError::ColumnType`] or [`EncoderError::Spill`].
    pub fn fit_batch(&mut self, side: Side, batch: &RecordBatch) -> Result<(), EncoderError> {
        let Self { user, item, counts, .. } = self;
        let fit = match side {
            Side::User => user,
            Side::Item => item,
        };
        for (feature, bounds) in fit.spec.features.iter().zip(&mut fit.bounds) {
            let Some(column) = feature.input(&fit.spec.id_column) else { continue };
            let array = find_column(batch, side, feature.name(), column)?;
            let table = feature.vocabulary(side).unwrap_or_default();
            let fitted = match feature {
                FeatureSpec::Categorical(_) => {
                    let vocabulary = counts.entry(table).or_default();
                    count_values(array, |value, n| vocabulary.add_value(value, n))
                }
                FeatureSpec::MultiValued(s) => s.fit(array, counts.entry(table).or_default()),
                FeatureSpec::Numeric(_) | FeatureSpec::Date(_) => match (bounds, feature) {
                    (Some(BoundsFit::Numeric(fit)), _) => fit.add(array),
                    (Some(BoundsFit::Age(fit)), FeatureSpec::Date(s)) => fit.add(s, array),
                    // Weekdays and months have none.
                    _ => Ok(()),
                },
                // Ids are counted below, once for all features. The other kinds learn nothing.
                FeatureSpec::Id(_)
                | FeatureSpec::Boolean(_)
                | FeatureSpec::Hashed(_)
                | FeatureSpec::Vector(_)
                | FeatureSpec::Sequence(_) => Ok(()),
            };
            fitted.map_err(|e| name_error(e, side, feature, column, array))?;
        }
        if let Some((_, feature)) = fit.id_tables.iter().next() {
            let (feature, column) = (feature.clone(), fit.spec.id_column.clone());
            let ids = find_column(batch, side, &feature, &column)?.clone();
            self.count_ids(side, &ids)?;
        }
        self.hold_budget()
    }

    /// Counts ids of a side for all vocabularies that hold them.
    ///
    /// # Errors
    /// [`EncoderError::ColumnType`] or [`EncoderError::Spill`].
    fn count_ids(&mut self, side: Side, ids: &ArrayRef) -> Result<(), EncoderError> {
        let fit = self.side(side);
        let column = fit.spec.id_column.clone();
        for (table, feature) in fit.id_tables.clone() {
            let counts = self.counts.entry(table).or_default();
            count_values(ids, |value, n| counts.add_value(value, n)).map_err(|_| EncoderError::ColumnType {
                side,
                feature,
                kind: "id",
                column: column.clone(),
                found: ids.data_type().clone(),
                expected: "text, integers, floats or booleans",
            })?;
        }
        self.hold_budget()
    }

    /// Adds what another fit of the same features has learned.
    ///
    /// # Errors
    /// [`EncoderError::Spill`].
    ///
    /// # Panics
    /// When the fits are of different features.
    pub fn merge(&mut self, other: Self) -> Result<(), EncoderError> {
        assert!(
            self.user.spec == other.user.spec && self.item.spec == other.item.spec,
            "only fits of the same features are merged"
        );
        for (mine, theirs) in [(&mut self.user, other.user), (&mut self.item, other.item)] {
            for (mine, theirs) in mine.bounds.iter_mut().zip(theirs.bounds) {
                if let (Some(mine), Some(theirs)) = (mine, theirs) {
                    mine.merge(theirs);
                }
            }
        }
        for (table, counts) in other.counts {
            self.counts.entry(table).or_default().merge(counts);
            self.hold_budget()?;
        }
        Ok(())
    }

    /// Finishes the fit and returns the encoders.
    ///
    /// # Errors
    /// [`EncoderError::TooManyValues`], [`EncoderError::Spill`], or [`EncoderError::VocabularyTooLarge`] when counts
    /// were spilled and the values that stay in the vocabulary do not fit the budget either.
    pub fn finish(self) -> Result<EncoderState, EncoderError> {
        self.build(|_| None, |_, _| None)
    }

    /// `previous` extended by what this fit has learned; see [`EncoderState::update`].
    pub(crate) fn extend(self, previous: &EncoderState) -> Result<EncoderState, EncoderError> {
        for side in [Side::User, Side::Item] {
            same_features(side, &previous.side(side).features, &self.side(side).spec.features)?;
        }
        self.build(
            |table| previous.vocabulary(table),
            |side, feature| previous.side(side).features[feature].bounds.clone(),
        )
    }

    fn build<'p>(
        self,
        previous: impl Fn(&str) -> Option<&'p Arc<Vocabulary>>,
        kept_bounds: impl Fn(Side, usize) -> Option<NumericBounds>,
    ) -> Result<EncoderState, EncoderError> {
        let (mut limits, mut columns) = (BTreeMap::new(), BTreeMap::<String, Vec<String>>::new());
        for (side, fit) in [(Side::User, &self.user), (Side::Item, &self.item)] {
            for feature in &fit.spec.features {
                let Some(used) = feature.vocabulary_use(side) else { continue };
                let column = feature.input(&fit.spec.id_column).map(str::to_string);
                columns.entry(used.table.clone()).or_default().extend(column);
                limits.extend(used.limits.map(|l| (used.table, l)));
            }
        }
        let mut held: usize = self.counts.values().map(ValueCounts::bytes).sum();
        let empty = Vocabulary::from_counts("", [])?;
        let mut vocabularies = BTreeMap::new();
        for (table, counts) in self.counts {
            held -= counts.bytes();
            // Counts that fitted into memory also fit as a vocabulary. Spilled counts get what the others leave.
            let bytes = match &self.spill {
                Some(spill) if counts.is_spilled() => {
                    let left = spill.budget.saturating_sub(held);
                    BuildBytes { adding: left / 4, vocabulary: left - left / 4 }
                }
                _ => BuildBytes::ANY,
            };
            let limits = limits.get(&table).copied().unwrap_or((1, None));
            let old = previous(&table).map_or(&empty, |old| old.as_ref());
            let built = old.extend_within(&table, counts, limits, bytes).map_err(|mut e| {
                if let EncoderError::VocabularyTooLarge { table, columns: of, .. } = &mut e {
                    *of = columns.remove(table).unwrap_or_default();
                }
                e
            })?;
            held += built.bytes();
            vocabularies.insert(table, Arc::new(built));
        }
        let side_state = |side: Side, fit: SideFit| {
            let features = fit.spec.features.into_iter().zip(fit.bounds).enumerate();
            let features = features.map(|(i, (spec, bounds))| {
                let bounds = bounds.map(|fit| kept_bounds(side, i).unwrap_or_else(|| fit.finish()));
                FeatureState { spec, bounds }
            });
            SideState { id_column: fit.spec.id_column, features: features.collect() }
        };
        let (user, item) = (side_state(Side::User, self.user), side_state(Side::Item, self.item));
        Ok(EncoderState::assemble(user, item, vocabularies))
    }
}

/// Refuses to extend encoders of other features: their codes would mean something else.
fn same_features(side: Side, old: &[FeatureState], new: &[FeatureSpec]) -> Result<(), EncoderError> {
    let changed = |feature: &str, reason: &str| {
        Err(EncoderError::SpecChanged { side, feature: feature.to_string(), reason: reason.to_string() })
    };
    for (old, new) in old.iter().zip(new) {
        if old.spec.name() != new.name() {
            return changed(new.name(), &format!("stands where yesterday's `{}` stood", old.spec.name()));
        }
        if old.spec.without_limits() != new.without_limits() {
            return changed(new.name(), "is configured otherwise than yesterday");
        }
    }
    match (old.get(new.len()), new.get(old.len())) {
        (Some(gone), _) => changed(gone.spec.name(), "was there yesterday and is not any more"),
        (_, Some(added)) => changed(added.name(), "was not there yesterday"),
        (None, None) => Ok(()),
    }
}
