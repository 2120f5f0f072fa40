//! Where in a file a row stands, as whoever opens the file finds it.

/// The place of a row in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The line on which a row of a text file begins, from 1, as editors count; a header is line 1.
    Line(u64),
    /// The row of a Parquet file, from 0.
    Row(u64),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Line(line) => write!(f, "line {line}"),
            Place::Row(row) => write!(f, "row {row}"),
        }
    }
}

/// The lines on which consecutive rows begin: one is noted where it is not the line behind the one of the row before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines(Vec<(usize, u64)>);

impl Lines {
    /// Notes the line of a row, which comes behind all that are noted.
    pub fn push(&mut self, row: usize, line: u64) {
        if self.0.last().is_none_or(|(noted, at)| at + (row - noted) as u64 != line) {
            self.0.push((row, line));
        }
    }

    /// The line of a row.
    pub fn of(&self, row: usize) -> Option<u64> {
        let noted = self.0.partition_point(|(noted, _)| *noted <= row).checked_sub(1)?;
        let (noted, line) = self.0.get(noted)?;
        Some(line + (row - noted) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_line_and_only_jumps_are_kept() {
        let found = [2, 3, 4, 7, 8, 12];
        let mut lines = Lines::default();
        found.iter().enumerate().for_each(|(row, line)| lines.push(row, *line));
        assert_eq!((0..6).map(|row| lines.of(row).unwrap()).collect::<Vec<_>>(), found);
        assert_eq!(lines.0, [(0, 2), (3, 7), (5, 12)]);
        assert_eq!(Lines::default().of(0), None);
    }
}
