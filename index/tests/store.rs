//! Saves indexes in a folder and opens them again.

mod oracle;

use oracle::{build, clustered, recall_at};
use std::fs;
use std::path::Path;
use twotower_artifacts::{Category, Fingerprint};
use twotower_index::{
    Eligibility, Exclusions, IndexError, IndexKind, ItemIndex, Neighbours, Request, noisy_queries, open, save,
};

const KINDS: [IndexKind; 2] = [IndexKind::Exact, IndexKind::Hnsw];

fn answers(index: &dyn ItemIndex) -> Neighbours {
    let queries = noisy_queries(index.dim(), index.image().vectors(), 60, 4);
    let eligible = Eligibility::all(index.count());
    let mut found = Neighbours::default();
    let request = Request { queries: &queries, k: 50, exclude: Exclusions::none(), eligible: &eligible };
    index.search(&request, &mut found).unwrap();
    found
}

fn saved(kind: IndexKind, dir: &Path) -> Box<dyn ItemIndex> {
    let (index, _) = build(kind, 16, &clustered(2000, 16, 10, 1));
    save(&*index, dir).unwrap();
    index
}

#[test]
fn a_reopened_index_is_the_one_saved() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let index = saved(kind, dir.path());
        let reopened = open(dir.path(), &index.manifest().vectors).unwrap();
        assert_eq!(reopened.manifest(), index.manifest());
        assert_eq!(reopened.image().bytes(), index.image().bytes());
        assert_eq!(answers(&*reopened), answers(&*index));
        assert!(reopened.image().unreachable().is_empty());
        let recall = recall_at(&*reopened, &noisy_queries(reopened.dim(), reopened.image().vectors(), 100, 5), 50);
        assert!(recall >= 0.99, "{kind} {recall}");
    }
}

#[test]
fn two_builds_give_the_same_bytes() {
    for kind in KINDS {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        saved(kind, a.path());
        saved(kind, b.path());
        for name in ["index.bin", "index.json"] {
            assert_eq!(fs::read(a.path().join(name)).unwrap(), fs::read(b.path().join(name)).unwrap());
        }
    }
}

#[test]
fn an_index_of_other_vectors_is_refused_naming_both_fingerprints() {
    let dir = tempfile::tempdir().unwrap();
    let index = saved(IndexKind::Exact, dir.path());
    let other = Fingerprint::of(b"other");
    let error = open(dir.path(), &other).unwrap_err();
    assert_eq!(error.category(), Category::Mismatch);
    let message = error.to_string();
    assert!(message.contains(other.as_str()) && message.contains(index.manifest().vectors.as_str()), "{message}");
}

#[test]
fn damaged_files_are_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let index = saved(IndexKind::Hnsw, dir.path());
    let expected = &index.manifest().vectors;
    let path = dir.path().join("index.bin");
    let whole = fs::read(&path).unwrap();
    let refuse = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        let error = open(dir.path(), expected).unwrap_err();
        assert_ne!(error.category(), Category::Usage, "{what}");
        assert!(error.to_string().contains("index.bin"), "{what}: {error}");
        assert!(matches!(error, IndexError::Artifact(_)), "{what}: {error}");
    };
    for part in 0..64 {
        refuse(&whole[..whole.len() * part / 64], &format!("cut at {part}/64"));
    }
    refuse(&[&whole[..], &[0]].concat(), "one byte more");
    // Every byte of the header is changed, and bytes throughout the rest.
    for at in (0..64).chain((64..whole.len()).step_by(whole.len() / 97)) {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            refuse(&bytes, &format!("byte {at} flipped by {flip:#x}"));
        }
    }
    fs::write(&path, &whole).unwrap();
    open(dir.path(), expected).unwrap();
}

#[test]
fn manifests_that_are_cut_newer_or_of_another_kind_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let index = saved(IndexKind::Hnsw, dir.path());
    let path = dir.path().join("index.json");
    let text = fs::read_to_string(&path).unwrap();
    let open_with = |text: &str| {
        fs::write(&path, text).unwrap();
        open(dir.path(), &index.manifest().vectors).unwrap_err()
    };
    assert_eq!(open_with(&text[..text.len() / 2]).category(), Category::Data);
    assert!(open_with(&text.replace("\"format\": 1", "\"format\": 2")).to_string().contains("format version 2"));
    let error = open_with(&text.replace("\"hnsw\"", "\"exact\""));
    assert!(matches!(error, IndexError::Kind { .. }), "{error}");
    assert_eq!(open_with(&text.replace("\"count\": 2000", "\"count\": 2001")).category(), Category::Data);
    fs::remove_file(&path).unwrap();
    assert_eq!(open(dir.path(), &index.manifest().vectors).unwrap_err().category(), Category::Other);
}
