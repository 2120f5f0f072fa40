//! How raw values become the inputs of a tower, for graphs that hold the encoders too.
//!
//! The encoders say it here in terms of tables, bounds and patterns; the export of models writes it as ONNX operators. A
//! rule gives, for every raw value, exactly what the encoder gives. What has no such rule is refused by the encoders.

use crate::batch::Column;
use crate::clock::TickUnit;
use crate::intervals::Intervals;
use crate::schema::{FieldSchema, FieldShape, PADDING};

/// The type of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawType {
    /// Text in UTF-8.
    Text,
    /// Integers of 64 bits.
    Integer,
    /// Floats of 32 bits.
    Single,
    /// Floats of 64 bits.
    Double,
    /// True or false.
    Boolean,
    /// Codes of 32 bits.
    Code,
}

impl RawType {
    /// Its name in ONNX.
    pub fn name(self) -> &'static str {
        match self {
            RawType::Text => "string",
            RawType::Integer => "int64",
            RawType::Single => "float",
            RawType::Double => "double",
            RawType::Boolean => "bool",
            RawType::Code => "int32",
        }
    }
}

/// Values with their codes. What is not among them is unknown. The empty text and NaN are missing.
#[derive(Debug, Clone, PartialEq)]
pub enum RawKeys {
    /// Texts, none of them empty.
    Text(Vec<(String, u32)>),
    /// Integers.
    Integer(Vec<(i64, u32)>),
    /// Floats of 32 bits, none of them NaN.
    Single(Vec<(f32, u32)>),
    /// Floats of 64 bits, none of them NaN.
    Double(Vec<(f64, u32)>),
    /// The codes of false and of true.
    Boolean([u32; 2]),
}

impl RawKeys {
    /// The type of the values.
    pub fn element(&self) -> RawType {
        match self {
            RawKeys::Text(_) => RawType::Text,
            RawKeys::Integer(_) => RawType::Integer,
            RawKeys::Single(_) => RawType::Single,
            RawKeys::Double(_) => RawType::Double,
            RawKeys::Boolean(_) => RawType::Boolean,
        }
    }
}

/// Codes of texts by patterns, in the syntax of RE2, each for the whole text. The bits whose patterns fit are those of the
/// code; what no pattern fits is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawPatterns {
    /// The number of a bit, and a pattern of some of the texts whose codes have it. A text fits one pattern of a bit at most.
    pub bits: Vec<(u32, String)>,
}

/// clamp((x - offset) * factor, low, high), or with a quotient, in 64 bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RawScale {
    /// Whether x is sign(x) ln(1 + |x|) of the value first.
    pub log: bool,
    /// Subtracted.
    pub offset: f64,
    /// What the difference is multiplied with, or divided by.
    pub factor: RawFactor,
    /// Least result.
    pub low: f64,
    /// Largest result.
    pub high: f64,
}

/// The second step of a [`RawScale`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RawFactor {
    /// Multiply.
    Times(f64),
    /// Divide.
    Over(f64),
}

/// What the numbers of a date say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawDay {
    /// So many to the day, since 1970-01-01.
    PerDay(i64),
    /// Digits such as 20260131: each number that is a day, with the day since 1970-01-01.
    Digits(Vec<(i64, i64)>),
}

/// What of a date counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RawDatePart {
    /// Days before `newest`, scaled.
    Age {
        /// Day since 1970-01-01.
        newest: i64,
        /// Of the number of days.
        scale: RawScale,
    },
    /// Codes from Monday on.
    Weekday,
    /// Codes from January on.
    Month,
}

/// How the raw values of a field become what its tower reads.
#[derive(Debug, Clone, PartialEq)]
pub enum RawRule {
    /// They are encoded already.
    Encoded,
    /// A code by the value.
    Lookup(RawKeys),
    /// A code by patterns of the text.
    Patterns(RawPatterns),
    /// A code by the hash of the decimal text of an integer: 64-bit FNV-1a from `basis`, MurmurHash3's finaliser, modulo
    /// `buckets`.
    Hash {
        /// Of FNV-1a.
        basis: u64,
        /// Number of buckets.
        buckets: u32,
    },
    /// The first code plus the number of edges that are not above the number.
    Buckets {
        /// Type of the numbers.
        of: RawType,
        /// Strictly increasing.
        edges: Vec<f64>,
    },
    /// The scaled number and a flag for a missing one. Numbers beyond [`LARGEST_NUMBER`] are missing.
    Scaled {
        /// Type of the numbers.
        of: RawType,
        /// How they are scaled.
        scale: RawScale,
    },
    /// A part of a date. Days outside the years 1900 to 2100 are missing.
    Date {
        /// Type of the numbers: integers or floats.
        of: RawType,
        /// What they count.
        day: RawDay,
        /// First and last day that is not missing.
        days: (i64, i64),
        /// What of the day counts.
        part: RawDatePart,
    },
    /// Codes of the elements of a list, without missing ones, the first `max_len`.
    List {
        /// Of the elements.
        keys: RawKeys,
        /// The most elements.
        max_len: u32,
    },
    /// Codes of the elements of a text, without missing ones, the first `max_len`; of a text without any, one missing code.
    Split {
        /// What parts elements.
        separator: String,
        /// Of the elements, by which empty ones are missing.
        patterns: RawPatterns,
        /// The most elements.
        max_len: u32,
    },
    /// The elements of a vector, and a flag for a missing one.
    Vector {
        /// Type of the elements, a float.
        of: RawType,
        /// Elements.
        dim: u32,
        /// Whether they are divided by the vector's length.
        normalise: bool,
    },
    /// Codes of a history, the newest `max_len`, with times where their intervals count.
    Sequence {
        /// Of items.
        keys: RawKeys,
        /// The most items.
        max_len: u32,
        /// What of their times is read, and what these count.
        intervals: Option<(Intervals, TickUnit)>,
    },
}

/// Numbers of a larger magnitude are missing.
pub const LARGEST_NUMBER: f64 = 1e100;

/// A field of a tower, and how it is made of raw values.
#[derive(Debug, Clone, PartialEq)]
pub struct RawField {
    /// The field.
    pub field: FieldSchema,
    /// How it is made.
    pub rule: RawRule,
}

/// One extent of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawExtent {
    /// Rows of the call.
    Rows,
    /// Always the same.
    Fixed(u32),
    /// The caller's choice, by the name of the field.
    Length,
}

/// An input of a graph that takes raw values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawInput {
    /// Its name.
    pub name: String,
    /// Type of its values.
    pub element: RawType,
    /// Its shape.
    pub extents: Vec<RawExtent>,
    /// What stands for a missing value.
    pub missing: String,
    /// What it holds.
    pub content: String,
}

/// What the name of an input ends with that says which values are missing.
pub const MISSING_INPUT: &str = "/missing";
/// What the name of an input ends with that says how many elements rows have.
pub const LENGTH_INPUT: &str = "/length";
/// What the name of an input ends with that holds the times of a sequence.
pub const TIMES_INPUT: &str = "/times";

impl RawField {
    /// Inputs of the field, in order.
    pub fn inputs(&self) -> Vec<RawInput> {
        use RawExtent::{Fixed, Length, Rows};
        let name = &self.field.name;
        let input = |ending: &str, element, extents: &[RawExtent], missing: &str, content: String| RawInput {
            name: format!("{name}{ending}"),
            element,
            extents: extents.to_vec(),
            missing: missing.to_string(),
            content,
        };
        let flag = || {
            input(
                MISSING_INPUT,
                RawType::Boolean,
                &[Rows],
                "",
                format!("true where `{name}` is missing; its value does not matter then"),
            )
        };
        let one = |element: RawType, content: &str| match element {
            RawType::Text => vec![input("", element, &[Rows], "the empty text", content.into())],
            RawType::Single | RawType::Double => vec![input("", element, &[Rows], "NaN", content.into())],
            RawType::Integer | RawType::Boolean | RawType::Code => {
                vec![input("", element, &[Rows], &format!("true in `{name}{MISSING_INPUT}`"), content.into()), flag()]
            }
        };
        let of_list = |element: RawType, content: &str, length: &str| {
            vec![
                input("", element, &[Rows, Length], "left out", content.into()),
                input(LENGTH_INPUT, RawType::Integer, &[Rows], "", length.into()),
            ]
        };
        match &self.rule {
            RawRule::Encoded => self.encoded_inputs(),
            RawRule::Lookup(keys) => one(keys.element(), "a value as the table has it"),
            RawRule::Patterns(_) => one(RawType::Text, "a text as the table has it"),
            RawRule::Hash { .. } => one(RawType::Integer, "an integer, which is hashed"),
            RawRule::Buckets { of, .. } | RawRule::Scaled { of, .. } => one(*of, "a number"),
            RawRule::Date { of, day, .. } => {
                let content = match day {
                    RawDay::PerDay(1) => "the day since 1970-01-01".to_string(),
                    RawDay::PerDay(ticks) => format!("the time since 1970 (UTC), of which a day has {ticks}"),
                    RawDay::Digits(_) => "the digits of a date, such as 20260131".to_string(),
                };
                let missing = match (of, day) {
                    (RawType::Single | RawType::Double, _) => "NaN",
                    (_, RawDay::PerDay(_)) => "-9223372036854775808",
                    (_, RawDay::Digits(_)) => "0",
                };
                vec![input("", *of, &[Rows], missing, content)]
            }
            RawRule::List { keys, max_len } => of_list(
                keys.element(),
                &format!("the elements of lists, in their order, without missing ones; the first {max_len} count"),
                "elements of each list: what stands behind them pads; -1 where the list is missing",
            ),
            RawRule::Split { separator, max_len, .. } => {
                let content = format!("elements parted by `{separator}`, of which the first {max_len} count");
                vec![input("", RawType::Text, &[Rows], "the empty text", content)]
            }
            RawRule::Vector { of, dim, .. } => {
                let content = format!("{dim} finite elements");
                vec![input("", *of, &[Rows, Fixed(*dim)], "NaN in all elements", content)]
            }
            RawRule::Sequence { keys, max_len, intervals } => {
                let content = format!("ids of the items that a user took, oldest first; the newest {max_len} count");
                let length = "items of each user: what stands behind them pads; 0 where there are none";
                let mut inputs = of_list(keys.element(), &content, length);
                if let Some((_, unit)) = intervals {
                    let content = format!("when they were taken, ascending: {} since 1970 (UTC)", unit.plural());
                    inputs.push(input(TIMES_INPUT, RawType::Integer, &[Rows, Length], "", content));
                }
                inputs
            }
        }
    }

    fn encoded_inputs(&self) -> Vec<RawInput> {
        use RawExtent::{Fixed, Length, Rows};
        let name = &self.field.name;
        let input = |name: String, element, extents: Vec<RawExtent>, content: &str| RawInput {
            name,
            element,
            extents,
            missing: "as the run's own tower takes it".into(),
            content: content.into(),
        };
        match &self.field.shape {
            FieldShape::Code { .. } => vec![input(name.clone(), RawType::Code, vec![Rows], "a code")],
            FieldShape::Dense { width } => {
                vec![input(name.clone(), RawType::Single, vec![Rows, Fixed(*width)], "scaled numbers and flags")]
            }
            FieldShape::Bag { .. } | FieldShape::Sequence { .. } => {
                let codes = input(name.clone(), RawType::Code, vec![Rows, Length], "codes, zeros on the left");
                let times = self.field.shape.intervals().map(|_| {
                    let name = format!("{name}{TIMES_INPUT}");
                    input(name, RawType::Code, vec![Rows, Length], "times on the scale of intervals")
                });
                std::iter::once(codes).chain(times).collect()
            }
        }
    }
}

/// Values of an input, row after row.
#[derive(Debug, Clone, PartialEq)]
pub enum RawValues {
    /// Of [`RawType::Text`].
    Text(Vec<String>),
    /// Of [`RawType::Integer`].
    Integer(Vec<i64>),
    /// Of [`RawType::Single`].
    Single(Vec<f32>),
    /// Of [`RawType::Double`].
    Double(Vec<f64>),
    /// Of [`RawType::Boolean`].
    Boolean(Vec<bool>),
    /// Of [`RawType::Code`].
    Code(Vec<i32>),
}

impl RawValues {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            RawValues::Text(values) => values.len(),
            RawValues::Integer(values) => values.len(),
            RawValues::Single(values) => values.len(),
            RawValues::Double(values) => values.len(),
            RawValues::Boolean(values) => values.len(),
            RawValues::Code(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The values of one input for some rows.
#[derive(Debug, Clone, PartialEq)]
pub struct RawTensor {
    /// The input.
    pub name: String,
    /// The values of a row, where it has several; none for an input of one value a row.
    pub width: Option<usize>,
    /// All values.
    pub values: RawValues,
}

/// What the inputs of an encoded field take for the rows of a column, which has the shape of the field.
pub fn encoded_tensors(field: &FieldSchema, column: &Column) -> Vec<RawTensor> {
    let name = &field.name;
    let tensor = |name: String, width, values| RawTensor { name, width, values };
    match column {
        Column::Code(codes) => {
            vec![tensor(name.clone(), None, RawValues::Code(codes.iter().map(|code| *code as i32).collect()))]
        }
        Column::Dense { width, values } => vec![tensor(name.clone(), Some(*width), RawValues::Single(values.clone()))],
        Column::Ragged(rows) => {
            let is_timed = field.shape.intervals().is_some();
            let most = field.shape.max_len().unwrap_or(usize::MAX);
            // Padding never counts, and of longer rows the newest elements do.
            let newest = |row: usize| {
                let real: Vec<usize> = (0..rows.row(row).len()).filter(|at| rows.row(row)[*at] != PADDING).collect();
                real[real.len().saturating_sub(most)..].to_vec()
            };
            let all: Vec<Vec<usize>> = (0..rows.rows()).map(newest).collect();
            let width = all.iter().map(Vec::len).max().unwrap_or(0).max(1);
            let (mut codes, mut times) = (Vec::new(), Vec::new());
            for (row, newest) in all.iter().enumerate() {
                let pad = width - newest.len();
                codes.extend(std::iter::repeat_n(0, pad).chain(newest.iter().map(|at| rows.row(row)[*at] as i32)));
                if is_timed {
                    times.extend(std::iter::repeat_n(0, pad).chain(newest.iter().map(|at| rows.row_times(row)[*at])));
                }
            }
            let codes = tensor(name.clone(), Some(width), RawValues::Code(codes));
            let times = is_timed.then(|| tensor(format!("{name}{TIMES_INPUT}"), Some(width), RawValues::Code(times)));
            std::iter::once(codes).chain(times).collect()
        }
    }
}
