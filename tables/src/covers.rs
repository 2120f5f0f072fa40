//! Whether a file would be read as part of a table.

use crate::spec::TableSpec;
use glob::{MatchOptions, Pattern};
use std::path::{Component, Path, PathBuf};
use twotower_stores::StoreUrl;

impl TableSpec {
    /// Whether a file at `path`, which need not be there yet, lies in what the table is read from: it is one of its
    /// files, or lies at any depth in one of its folders, or a pattern names it or a folder above it.
    pub fn covers(&self, path: &Path) -> bool {
        if let Some(place) = path.to_str().filter(|path| StoreUrl::is_url(path)) {
            return self.path.as_slice().iter().any(|path| names_in_store(path, place));
        }
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let places = [real(&absolute), absolute];
        let mut on_this_machine = self.path.as_slice().iter().filter(|path| !StoreUrl::is_url(path));
        on_this_machine.any(|pattern| places.iter().any(|place| names(&self.base, pattern, place)))
    }
}

/// Whether the URL `path` of a table names the URL `place` or a folder above it.
fn names_in_store(path: &str, place: &str) -> bool {
    let (Ok(Some(path)), Ok(Some(place))) = (StoreUrl::parse(path), StoreUrl::parse(place)) else { return false };
    if path.root() != place.root() {
        return false;
    }
    let (folder, place) = (Path::new(path.key()), Path::new(place.key()));
    let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
    let matches = |pattern: Pattern| place.ancestors().any(|above| pattern.matches_path_with(above, options));
    let text: PathBuf = folder.components().collect();
    place.starts_with(folder) || Pattern::new(&text.to_string_lossy()).is_ok_and(matches)
}

/// Whether a table's path, which counts from `base`, names `place` or a folder above it.
fn names(base: &Path, path: &str, place: &Path) -> bool {
    let Ok(whole) = std::path::absolute(base.join(path)) else { return false };
    if whole.exists() {
        return place.starts_with(real(&whole)) || place.starts_with(&whole);
    }
    // The base is never a pattern. Links are resolved up to the first part that is one.
    let is_plain = |part: &Component<'_>| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    let parts = || Path::new(path).components();
    let plain: PathBuf = parts().take_while(is_plain).collect();
    let rest: PathBuf = parts().skip_while(is_plain).collect();
    let Ok(plain) = std::path::absolute(base.join(plain)) else { return false };
    [real(&plain), plain].iter().any(|plain| {
        let pattern = format!("{}/{}", Pattern::escape(&plain.to_string_lossy()), rest.display());
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
        Pattern::new(&pattern)
            .is_ok_and(|pattern| place.ancestors().any(|path| pattern.matches_path_with(path, options)))
    })
}

/// A path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    match there {
        Some((above, real)) => {
            path.strip_prefix(above).map_or(real.clone(), |rest| match rest.as_os_str().is_empty() {
                true => real.clone(),
                false => real.join(rest),
            })
        }
        None => path.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::OneOrMany;

    #[test]
    fn a_table_covers_its_files_all_below_its_folders_and_what_its_patterns_name() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(dir.join("users/day")).unwrap();
        std::fs::write(dir.join("items.parquet"), "x").unwrap();
        std::os::unix::fs::symlink("users", dir.join("link")).unwrap();
        let covers = |pattern: &str, path: &str| {
            let other = dir.join("elsewhere").to_string_lossy().into_owned();
            let table = TableSpec { path: OneOrMany::Many(vec![other, pattern.to_string()]), ..TableSpec::new("") };
            table.resolve(&dir).covers(&dir.join(path))
        };
        for (pattern, path, expected) in [
            ("items.parquet", "items.parquet", true),
            ("items.parquet", "items.parquet.d/part.parquet", false),
            ("users", "users/part.parquet", true),
            ("users", "users/day/new/part.parquet", true),
            ("users", "link/part.parquet", true),
            ("link", "users/part.parquet", true),
            ("users", "users2/part.parquet", false),
            ("users/*.parquet", "users/part.parquet", true),
            ("users/*.parquet", "users/new/part.parquet", false),
            ("users/dt=*", "users/dt=1/part.parquet", true),
            ("users/**/*.parquet", "users/new/part.parquet", true),
            ("link/*.parquet", "users/part.parquet", true),
            ("users*", "users-new/part.parquet", true),
            ("users*.parquet", "users-new/part.parquet", false),
        ] {
            assert_eq!(covers(pattern, path), expected, "{pattern}: {path}");
        }
    }

    #[test]
    fn a_table_in_a_store_covers_what_lies_below_it_there() {
        for (pattern, path, expected) in [
            ("s3://b/users/", "s3://b/users/part", true),
            ("s3://b", "s3://b/users/part", true),
            ("s3://b/users/dt=*/", "s3://b/users/dt=1/part", true),
            ("s3://b/users/*.csv", "s3://b/users/new/part.csv", false),
            ("s3://b/**/*.csv", "s3://b/users/new/part.csv", true),
            ("s3://b/users", "s3://b/users2/part", false),
            ("s3://b/users", "s3://c/users/part", false),
            ("s3://b/users", "az://b/users/part", false),
            ("s3://b/users", "users/part", false),
            ("users", "s3://b/users/part", false),
        ] {
            assert_eq!(TableSpec::new(pattern).covers(Path::new(path)), expected, "{pattern}: {path}");
        }
    }
}
