//! Whether the first line of delimited text names the columns, or is a row like those below.

use std::collections::BTreeMap;
use twotower_encoders::init::ColumnSample;

/// The share of a column's rows that must look like its name for the name to look like data.
const MOST: f64 = 0.9;
/// Names that a message shows.
const SHOWN: usize = 4;

/// What a first line looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstLine {
    /// Names.
    Names,
    /// Names, of which some look like the values below them: what is said of them.
    Doubtful(String),
    /// A row of data: what is said of it.
    Data(String),
}

impl FirstLine {
    /// What the names of sampled columns look like beside the rows.
    pub fn of<'s>(columns: impl Iterator<Item = &'s ColumnSample>) -> Self {
        let (mut all, mut like_data, mut values) = (0, Vec::new(), 0);
        for column in columns.filter(|column| !column.is_index_of_pandas() || column.name.is_empty()) {
            all += 1;
            let what = looks_like(&column.name, &column.values);
            values += usize::from(what.is_none() && column.values.contains_key(&column.name));
            like_data.extend(what.map(|what| format!("`{}` {what}", column.name)));
        }
        let count = like_data.len();
        let mut said = like_data[..count.min(SHOWN)].join(", ");
        if count > SHOWN {
            said = format!("{said} and {} more", count - SHOWN);
        }
        match () {
            () if count == 0 && (values < all || all < 2) => Self::Names,
            () if count == 0 => Self::Data("each of its texts is a value of its column too".into()),
            () if 2 * (count + values) >= all => Self::Data(said),
            () => Self::Doubtful(said),
        }
    }
}

/// How a name looks like the values of its column, if it does.
fn looks_like(name: &str, values: &BTreeMap<String, u64>) -> Option<&'static str> {
    let rows: u64 = values.values().sum();
    let most = |is: &dyn Fn(&str) -> bool| {
        let met: u64 = values.iter().filter(|(value, _)| is(value)).map(|(_, n)| n).sum();
        rows > 0 && met as f64 >= MOST * rows as f64
    };
    let is_number = |text: &str| has_digit(text) && text.trim().parse::<f64>().is_ok_and(f64::is_finite);
    if is_number(name) && most(&is_number) {
        return Some("is a number as below");
    }
    let own = shape(name);
    (has_digit(name) && most(&|value| shape(value) == own)).then_some("is written as the values below")
}

fn has_digit(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_digit())
}

/// A text with its runs of digits, and of letters, as one character each: `01-Jan-1995` is `9-a-9`.
fn shape(text: &str) -> String {
    let kind = |c: char| match c {
        c if c.is_numeric() => '9',
        c if c.is_alphabetic() => 'a',
        c => c,
    };
    let mut kinds: Vec<char> = text.trim().chars().map(kind).collect();
    kinds.dedup();
    kinds.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, StringArray};
    use std::sync::Arc;

    fn first_line(names: &[&str], rows: &[&[&str]]) -> FirstLine {
        let column = |at: usize| {
            let values: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row[at])));
            ColumnSample::of(names[at], &values)
        };
        let columns: Vec<ColumnSample> = (0..names.len()).map(column).collect();
        FirstLine::of(columns.iter())
    }

    #[test]
    fn a_first_line_that_is_a_row_is_told_from_names() {
        let ratings: &[&[&str]] = &[&["186", "302", "3", "891717742"], &["22", "377", "1", "878887116"]];
        let FirstLine::Data(said) = first_line(&["196", "242", "3", "881250949"], ratings) else { panic!() };
        assert!(said.starts_with("`196` is a number as below, `242` is"), "{said}");
        assert_eq!(first_line(&["user", "item", "rating", "time"], ratings), FirstLine::Names);
        let people: &[&[&str]] =
            &[&["2", "53", "F", "other"], &["3", "23", "M", "writer"], &["4", "24", "M", "writer"]];
        assert!(matches!(first_line(&["1", "24", "M", "technician"], people), FirstLine::Data(_)));
        assert_eq!(first_line(&["user", "age", "sex", "job"], people), FirstLine::Names);
        // Text and dates alone, and ids with letters.
        let days: &[&[&str]] = &[&["u7", "2026-02-03", "phone"], &["u19", "2026-01-31", "tv"]];
        assert!(matches!(first_line(&["u1", "2026-01-01", "phone"], days), FirstLine::Data(_)));
        assert_eq!(
            first_line(&["user1", "day", "kind"], days),
            FirstLine::Doubtful("`user1` is written as the values below".into())
        );
        let words: &[&[&str]] = &[&["ann", "tea"], &["bob", "tea"], &["eve", "milk"]];
        assert!(matches!(first_line(&["eve", "tea"], words), FirstLine::Data(_)));
        assert_eq!(first_line(&["who", "tea"], words), FirstLine::Names);
        // A year as a name is a name, where the others are names.
        let years: &[&[&str]] = &[&["x", "y", "12.5"], &["z", "w", "13"]];
        assert!(matches!(first_line(&["shop", "town", "2019"], years), FirstLine::Doubtful(_)));
        assert_eq!(first_line(&["1", "2"], &[]), FirstLine::Names);
    }
}
