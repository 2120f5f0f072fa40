//! An index as one run of bytes with vectors and graph, which is searched without being decoded.
//!
//! Layout, numbers little-endian, every section starting at a multiple of 64 bytes:
//! - header: magic (8 bytes), version, dim, layers, entry row (u32 each), count (u64), and the number of
//!   links of each layer (u64 each)
//! - vectors: `[count, dim]` f32
//! - per layer, from layer 0 up: offsets `[count + 1]` u32, links `[links]` u32; item `r` of a layer
//!   links to the rows `links[offsets[r]..offsets[r + 1]]`
//!
//! An exact index has no layers. The bytes in memory after a build are those of the file.

use crate::config::IndexKind;
use crate::error::IndexError;
use crate::reach::Reach;
use crate::vectors::{Rows, norms_of, unit_norm};
use memmap2::{Mmap, MmapMut};
use std::ops::Range;
use std::path::Path;
use twotower_artifacts::{ArtifactError, Fingerprint};

const MAGIC: &[u8; 8] = b"TWOTOWIX";
const VERSION: u32 = 1;
const ALIGN: usize = 64;
const FIXED_HEADER: usize = 32;
/// The most layers that are read. `hnsw_rs` makes at most 16.
const MAX_LAYERS: usize = 64;

/// The vectors and the graph of an index, mapped from its file, or in memory after a build.
#[derive(Debug)]
pub struct Image {
    bytes: Mmap,
    entry: u32,
    norms: Vec<f64>,
    layout: Layout,
}

/// The places of the sections in an image.
#[derive(Debug)]
struct Layout {
    dim: usize,
    count: usize,
    vectors: Range<usize>,
    layers: Vec<(Range<usize>, Range<usize>)>,
    len: usize,
}

impl Layout {
    /// `None` when a size overflows.
    fn new(dim: usize, count: usize, links: &[u64]) -> Option<Self> {
        let mut end = FIXED_HEADER.checked_add(links.len().checked_mul(8)?)?;
        let mut section = |numbers: usize| -> Option<Range<usize>> {
            let start = end.checked_next_multiple_of(ALIGN)?;
            end = start.checked_add(numbers.checked_mul(4)?)?;
            Some(start..end)
        };
        let vectors = section(count.checked_mul(dim)?)?;
        let mut layers = Vec::with_capacity(links.len());
        for links in links {
            layers.push((section(count.checked_add(1)?)?, section(usize::try_from(*links).ok()?)?));
        }
        Some(Self { dim, count, vectors, layers, len: end })
    }
}

/// The links of one layer.
#[derive(Clone, Copy)]
pub(crate) struct Layer<'a> {
    offsets: &'a [u32],
    links: &'a [u32],
}

impl<'a> Layer<'a> {
    /// The rows that item `row` links to.
    #[inline]
    pub fn of(&self, row: u32) -> &'a [u32] {
        let row = row as usize;
        &self.links[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }
}

impl Image {
    /// Makes an image of vectors and of the links of each layer and row.
    ///
    /// # Errors
    /// [`IndexError::TooLarge`] for 2^32 links or more on a layer, [`IndexError::Memory`].
    pub(crate) fn compose(
        dim: usize,
        vectors: &[f32],
        entry: u32,
        layers: &[Vec<Vec<u32>>],
    ) -> Result<Self, IndexError> {
        let links: Vec<u64> = layers.iter().map(|l| l.iter().map(|row| row.len() as u64).sum()).collect();
        let limit = u32::MAX as usize;
        if let Some(count) = links.iter().find(|n| **n > limit as u64) {
            return Err(IndexError::TooLarge { what: "links on a layer", count: *count as usize, limit });
        }
        let count = vectors.len() / dim;
        let layout = Layout::new(dim, count, &links).ok_or(IndexError::TooLarge { what: "items", count, limit })?;
        let memory = |source| IndexError::Memory { bytes: layout.len, source };
        let mut bytes = MmapMut::map_anon(layout.len).map_err(memory)?;
        let mut header = Vec::with_capacity(FIXED_HEADER + links.len() * 8);
        header.extend_from_slice(MAGIC);
        for number in [VERSION, dim as u32, layers.len() as u32, entry] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        header.extend_from_slice(&(count as u64).to_le_bytes());
        links.iter().for_each(|n| header.extend_from_slice(&n.to_le_bytes()));
        bytes[..header.len()].copy_from_slice(&header);
        write_numbers(&mut bytes[layout.vectors.clone()], vectors.iter().map(|v| v.to_bits()));
        for (layer, (offsets, links)) in layers.iter().zip(&layout.layers) {
            let ends = layer.iter().scan(0u32, |end, row| {
                *end += row.len() as u32;
                Some(*end)
            });
            write_numbers(&mut bytes[offsets.clone()], std::iter::once(0).chain(ends));
            write_numbers(&mut bytes[links.clone()], layer.iter().flatten().copied());
        }
        let bytes = bytes.make_read_only().map_err(memory)?;
        Ok(Self { bytes, entry, norms: norms_of(dim, vectors), layout })
    }

    /// Reads the image of a mapped file, and checks everything that a search relies on.
    ///
    /// # Errors
    /// [`ArtifactError::Corrupt`] with what was expected and found, [`ArtifactError::Version`].
    pub(crate) fn parse(bytes: Mmap, path: &Path) -> Result<Self, IndexError> {
        let corrupt = |reason: String| ArtifactError::Corrupt { path: path.to_path_buf(), reason };
        let short = |expected: usize| corrupt(format!("{} bytes, expected {expected}", bytes.len()));
        if bytes.len() < FIXED_HEADER {
            return Err(short(FIXED_HEADER).into());
        }
        if &bytes[..8] != MAGIC {
            return Err(corrupt("not an item index (its first bytes are unlike)".to_string()).into());
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let (version, dim, layers, entry) = (word(8), word(12) as usize, word(16) as usize, word(20));
        if version > VERSION {
            return Err(ArtifactError::Version { path: path.to_path_buf(), found: version, supported: VERSION }.into());
        }
        let count = usize::try_from(long(24)).unwrap_or(usize::MAX);
        if dim == 0 || count == 0 || count >= u32::MAX as usize || layers > MAX_LAYERS || entry as usize >= count {
            let found = format!("dim {dim}, {count} items, {layers} layers, entry {entry}");
            return Err(corrupt(format!("impossible header: {found}")).into());
        }
        if bytes.len() < FIXED_HEADER + layers * 8 {
            return Err(short(FIXED_HEADER + layers * 8).into());
        }
        let links: Vec<u64> = (0..layers).map(|l| long(FIXED_HEADER + l * 8)).collect();
        let layout = Layout::new(dim, count, &links).ok_or_else(|| corrupt("impossible sizes".to_string()))?;
        if bytes.len() != layout.len {
            return Err(short(layout.len).into());
        }
        let mut image = Self { bytes, entry, norms: Vec::new(), layout };
        image.check_content().map_err(|reason| ArtifactError::Corrupt { path: path.to_path_buf(), reason })?;
        image.norms = norms_of(dim, image.vectors());
        Ok(image)
    }

    fn check_content(&self) -> Result<(), String> {
        for (row, vector) in self.vectors().chunks_exact(self.dim()).enumerate() {
            unit_norm("item", row, vector).map_err(|e| e.to_string())?;
        }
        for l in 0..self.layers() {
            let Layer { offsets, links } = self.layer(l);
            let ends = (offsets[0], offsets[offsets.len() - 1] as usize);
            if ends != (0, links.len()) || offsets.windows(2).any(|w| w[0] > w[1]) {
                return Err(format!("layer {l}: link offsets do not partition its {} links", links.len()));
            }
            if let Some(row) = links.iter().find(|row| **row as usize >= self.count()) {
                return Err(format!("layer {l}: link to row {row}, expected rows below {}", self.count()));
            }
        }
        Ok(())
    }

    /// Floats per vector.
    pub fn dim(&self) -> usize {
        self.layout.dim
    }

    /// Number of items.
    pub fn count(&self) -> usize {
        self.layout.count
    }

    /// The unit vectors, row-major.
    pub fn vectors(&self) -> &[f32] {
        // SAFETY: any four bytes are a valid f32.
        unsafe { self.numbers(&self.layout.vectors) }
    }

    pub(crate) fn rows(&self) -> Rows<'_> {
        Rows { dim: self.dim(), vectors: self.vectors(), norms: &self.norms }
    }

    /// Number of graph layers. 0 for an exact index.
    pub fn layers(&self) -> usize {
        self.layout.layers.len()
    }

    /// The kind of index that this image is of.
    pub fn kind(&self) -> IndexKind {
        if self.layers() == 0 { IndexKind::Exact } else { IndexKind::Hnsw }
    }

    /// Rows that cannot be reached from the entry on layer 0. After a build there are none.
    pub fn unreachable(&self) -> Vec<u32> {
        if self.layers() == 0 {
            return Vec::new();
        }
        let layer = self.layer(0);
        let mut reach = Reach::from(self.entry, self.count());
        reach.spread(|row| layer.of(row));
        reach.missed()
    }

    pub(crate) fn entry(&self) -> u32 {
        self.entry
    }

    pub(crate) fn layer(&self, l: usize) -> Layer<'_> {
        let (offsets, links) = &self.layout.layers[l];
        // SAFETY: any four bytes are a valid u32.
        unsafe { Layer { offsets: self.numbers(offsets), links: self.numbers(links) } }
    }

    /// All bytes, as they are stored.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Fingerprint of all bytes.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.bytes)
    }

    /// A section as numbers of four bytes.
    ///
    /// # Safety
    /// Any four bytes must be a valid `T`, and `size_of::<T>()` must be 4.
    unsafe fn numbers<T>(&self, section: &Range<usize>) -> &[T] {
        let bytes = &self.bytes[section.clone()];
        debug_assert!(bytes.as_ptr().cast::<T>().is_aligned() && size_of::<T>() == 4);
        // SAFETY: the slice above has checked the bounds. A mapping starts at a page and a section at a
        // multiple of 64 bytes in it, so the pointer is aligned. The mapping outlives the borrow of `self`.
        // Index files are replaced by renaming and never written in place.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / 4) }
    }
}

fn write_numbers(bytes: &mut [u8], numbers: impl Iterator<Item = u32>) {
    for (to, number) in bytes.chunks_exact_mut(4).zip(numbers) {
        to.copy_from_slice(&number.to_le_bytes());
    }
}
