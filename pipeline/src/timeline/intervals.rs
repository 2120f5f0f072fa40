//! Sequences with intervals need times that say how far apart events are.

use crate::error::PipelineError;
use twotower_artifacts::{Clock, FieldSchema};

/// Refuses fields of users with intervals where the times of `events` events only tell which was earlier.
///
/// # Errors
/// [`PipelineError::Data`] naming the first of them, and what to do.
pub fn require_unit(users: &[FieldSchema], clock: Clock, events: u64) -> Result<(), PipelineError> {
    let timed = users.iter().find(|field| field.shape.intervals().is_some());
    let Some(field) = timed.filter(|_| events > 0) else { return Ok(()) };
    let found = match clock {
        Clock::Ticks { unit: Some(_) } => return Ok(()),
        Clock::Order => {
            "interactions have no column of times, and the order of their rows is no clock; name the column in `tables.interactions.timestamp`"
        }
        Clock::Ticks { unit: None } => {
            "the times of interactions are integers that are no plausible time since 1970 in any unit; set `tables.interactions.timestamp_unit` if they count one"
        }
    };
    Err(PipelineError::Data(format!(
        "sequence `{}` has `intervals`, and needs to know how far apart events are: {found}, or remove `intervals`, and with it `kind = \"tisasrec\"`",
        field.name
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use twotower_artifacts::{FieldShape, IntervalScale, Intervals, TickUnit};

    #[test]
    fn only_a_clock_with_a_unit_serves_intervals_and_the_others_say_what_to_do() {
        let field = |intervals| {
            let shape = FieldShape::Sequence { table: "item_id".into(), cardinality: 9, max_len: 5, intervals };
            [FieldSchema { name: "recent".into(), shape }]
        };
        let timed = field(Some(Intervals { scale: IntervalScale::Personal, span: 9 }));
        let clocks = [Clock::Order, Clock::Ticks { unit: None }, Clock::Ticks { unit: Some(TickUnit::Second) }];
        assert!(clocks.iter().all(|clock| require_unit(&field(None), *clock, 1).is_ok()));
        assert!(clocks.iter().all(|clock| require_unit(&timed, *clock, 0).is_ok()));
        let [order, unknown, known] = clocks.map(|clock| require_unit(&timed, clock, 1));
        known.unwrap();
        for (refused, setting) in
            [(order, "`tables.interactions.timestamp`"), (unknown, "`tables.interactions.timestamp_unit`")]
        {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("`recent`") && error.contains(setting), "{error}");
        }
    }
}
