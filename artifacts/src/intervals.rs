//! Times of the elements of a sequence on a scale whose differences a model reads (TiSASRec; Li et al., WSDM 2020).
//!
//! Training, `infer` and `evaluate` compute them here, from the history alone that the tower is given.

use crate::clock::TickUnit;
use serde::{Deserialize, Serialize};

/// The scale on which the time between two elements of a sequence is told, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intervals {
    /// What an interval counts.
    pub scale: IntervalScale,
    /// The longest interval; longer ones count as this one.
    pub span: u32,
}

/// What an interval counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntervalScale {
    /// The shortest time, above 0, between two successive elements of the history itself (section 3.2 of the paper).
    Personal,
    /// Seconds since 1970 (UTC).
    Second,
    /// Minutes since 1970 (UTC).
    Minute,
    /// Hours since 1970 (UTC).
    Hour,
    /// Days since 1970 (UTC).
    Day,
}

impl IntervalScale {
    /// Seconds of a unit of the scale; none where it is each history's own.
    pub fn seconds(self) -> Option<i64> {
        match self {
            IntervalScale::Personal => None,
            IntervalScale::Second => Some(1),
            IntervalScale::Minute => Some(60),
            IntervalScale::Hour => Some(3_600),
            IntervalScale::Day => Some(86_400),
        }
    }
}

impl Intervals {
    /// The longest span.
    pub const MAX_SPAN: u32 = 1 << 14;

    /// Appends the times of a history on the scale to `scaled`. `times` ascend, in ticks of `unit`. The first becomes 0,
    /// and the interval of two elements is the difference of their times on the scale, or the span if that is less.
    ///
    /// On a fixed scale, two times are as far apart as the minutes, hours or days since 1970 that they lie in, whatever
    /// else the history holds. On the personal scale, a time is the number of shortest gaps since the first element,
    /// rounded to the nearest, halves up; where all times are equal, the shortest gap is a tick.
    pub fn scale(&self, times: &[i64], unit: TickUnit, scaled: &mut Vec<i32>) {
        let Some(first) = times.first() else { return };
        let fixed = self.scale.seconds().map(|seconds| seconds * unit.per_second());
        let gap = match fixed {
            Some(_) => 1,
            None => {
                let gaps = times.windows(2).map(|pair| pair[1].abs_diff(pair[0]));
                gaps.filter(|gap| *gap > 0).min().unwrap_or(1)
            }
        };
        let since_first = |time: i64| match fixed {
            Some(ticks) => time.div_euclid(ticks).abs_diff(first.div_euclid(ticks)),
            None => {
                let (count, rest) = (time.abs_diff(*first) / gap, time.abs_diff(*first) % gap);
                count + u64::from(rest >= gap - rest)
            }
        };
        // Gaps are cut to the span, so that sums fit: what is further apart counts as the span anyway.
        let (mut last, mut sum) = (0, 0i32);
        scaled.extend(times.iter().map(|time| {
            let now = since_first(*time);
            sum = sum.saturating_add(now.saturating_sub(last).min(u64::from(self.span)) as i32);
            last = now;
            sum
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(scale: IntervalScale, span: u32, times: &[i64], unit: TickUnit) -> Vec<i32> {
        let mut scaled = vec![7];
        Intervals { scale, span }.scale(times, unit, &mut scaled);
        assert_eq!(scaled.remove(0), 7);
        scaled
    }

    #[test]
    fn a_personal_scale_counts_shortest_gaps_to_the_nearest() {
        let personal = |times: &[i64]| scaled(IntervalScale::Personal, 100, times, TickUnit::Second);
        assert!(personal(&[]).is_empty());
        assert_eq!(personal(&[5]), [0]);
        assert_eq!(personal(&[5, 5, 5]), [0, 0, 0]);
        // The shortest gap is 10. 25 are 2.5 of them, which is rounded to 3, and 36 are 3.6.
        assert_eq!(personal(&[-3, 7, 7, 22, 33]), [0, 1, 1, 3, 4]);
        // Neither unit nor origin matters.
        let times = [0, 90, 100, 470, 1000];
        let expected = personal(&times);
        assert_eq!(personal(&times.map(|time| 1000 * time + 1_700_000_000_000)), expected);
        assert_eq!(expected, [0, 9, 10, 47, 100]);
    }

    #[test]
    fn a_fixed_scale_counts_the_units_that_times_lie_in_whatever_ticks_are() {
        let day = 86_400;
        // 23:59, and then 0:01 on the next day, and noon two days later.
        let times = [day - 60, day + 60, 3 * day + day / 2];
        for unit in TickUnit::ALL {
            let ticks = times.map(|time| time * unit.per_second());
            assert_eq!(scaled(IntervalScale::Day, 100, &ticks, unit), [0, 1, 3]);
            assert_eq!(scaled(IntervalScale::Hour, 1000, &ticks, unit), [0, 1, 61]);
            assert_eq!(scaled(IntervalScale::Minute, 10_000, &ticks, unit), [0, 2, 3601]);
            assert_eq!(scaled(IntervalScale::Second, 16_384, &ticks, unit), [0, 120, 120 + 16_384]);
        }
        // Before 1970, too.
        assert_eq!(scaled(IntervalScale::Day, 100, &[-1, 0, 1], TickUnit::Second), [0, 1, 1]);
    }

    #[test]
    fn intervals_are_those_of_the_whole_differences_however_far_apart_times_are() {
        let times = [i64::MIN, i64::MIN + 1, -5, 0, 3, 4, 4, 60, i64::MAX];
        for span in [1, 3, 50, Intervals::MAX_SPAN] {
            let scaled = scaled(IntervalScale::Personal, span, &times, TickUnit::Second);
            for (a, time_a) in times.iter().enumerate() {
                for (b, time_b) in times.iter().enumerate() {
                    // The shortest gap is 1.
                    let expected = time_a.abs_diff(*time_b).min(u64::from(span));
                    assert_eq!(u64::from(scaled[a].abs_diff(scaled[b]).min(span)), expected, "{span}: {a}, {b}");
                }
            }
        }
    }
}
