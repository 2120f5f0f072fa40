//! Sequences of a field, packed one after another without padding.

use twotower_artifacts::Ragged;
use twotower_artifacts::schema::PADDING;

/// Marks a row without elements, which gets the zero vector.
pub(crate) const NO_OUTPUT: u32 = u32::MAX;

/// Elements of a chunk, beyond which the next sequence begins a new chunk. Chunks are computed each by one thread, and
/// depend on the lengths of sequences alone.
pub(super) const CHUNK: usize = 512;

/// Packed sequences, and which of their elements' outputs the rows of a batch take.
#[derive(Debug, Default, Clone)]
pub(crate) struct PackedSequences {
    /// `[elements]` codes, the oldest of each sequence first.
    pub codes: Vec<u32>,
    /// `[elements]` times on the scale of intervals; empty where elements have none.
    pub times: Vec<i32>,
    /// `[sequences + 1]` the first element of each sequence.
    pub offsets: Vec<usize>,
    /// `[outputs]` elements whose outputs are wanted, ascending.
    pub wanted: Vec<usize>,
    /// `[sequences + 1]` the first wanted element of each sequence.
    pub wanted_offsets: Vec<usize>,
    /// `[rows]` the output that a row takes, or [`NO_OUTPUT`].
    pub output_of: Vec<u32>,
}

/// A run of sequences that one thread computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Sequences.
    pub sequences: std::ops::Range<usize>,
    /// Elements.
    pub elements: std::ops::Range<usize>,
    /// Outputs.
    pub outputs: std::ops::Range<usize>,
}

impl PackedSequences {
    /// Forgets all sequences and rows.
    pub fn clear(&mut self) {
        self.codes.clear();
        self.times.clear();
        self.wanted.clear();
        self.output_of.clear();
        for offsets in [&mut self.offsets, &mut self.wanted_offsets] {
            offsets.clear();
            offsets.push(0);
        }
    }

    /// Takes the newest `max_len` real elements of some rows, each a sequence whose newest element's output its row
    /// takes.
    pub fn pack(&mut self, ragged: &Ragged, rows: std::ops::Range<usize>, max_len: usize) {
        self.clear();
        let mut real = Ragged::default();
        for row in rows {
            let (codes, times) = newest(ragged, row, max_len, &mut real);
            if codes.is_empty() {
                self.output_of.push(NO_OUTPUT);
                continue;
            }
            self.codes.extend_from_slice(codes);
            self.times.extend_from_slice(times);
            self.want_newest();
            self.end_sequence();
        }
    }

    /// As [`PackedSequences::pack`], but a row whose sequence begins with all of the sequence before it continues that
    /// one. So successive events of a user have one sequence, which is computed once for all of them. Outputs are the
    /// same but for rounding.
    pub fn pack_together(&mut self, ragged: &Ragged, max_len: usize) {
        self.clear();
        let (mut real, mut first) = (Ragged::default(), 0);
        for row in 0..ragged.rows() {
            let (codes, times) = newest(ragged, row, max_len, &mut real);
            if codes.is_empty() {
                self.output_of.push(NO_OUTPUT);
                continue;
            }
            let before = self.codes.len() - first;
            let continues = before > 0
                && codes.starts_with(&self.codes[first..])
                && (times.is_empty() || times.starts_with(&self.times[first..]));
            match continues {
                true if codes.len() == before => {
                    self.output_of.push(self.wanted.len() as u32 - 1);
                    continue;
                }
                true => {
                    self.codes.extend_from_slice(&codes[before..]);
                    self.times.extend_from_slice(times.get(before..).unwrap_or_default());
                }
                false => {
                    if before > 0 {
                        self.end_sequence();
                    }
                    first = self.codes.len();
                    self.codes.extend_from_slice(codes);
                    self.times.extend_from_slice(times);
                }
            }
            self.want_newest();
        }
        if first < self.codes.len() {
            self.end_sequence();
        }
    }

    /// Gives the next row the output of the newest element so far.
    fn want_newest(&mut self) {
        self.output_of.push(self.wanted.len() as u32);
        self.wanted.push(self.codes.len() - 1);
    }

    /// Ends a sequence, whose elements and wanted elements were added.
    fn end_sequence(&mut self) {
        self.offsets.push(self.codes.len());
        self.wanted_offsets.push(self.wanted.len());
    }

    /// Chunks in order. No sequence is in two.
    pub fn chunks(&self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let (mut first, sequences) = (0, self.offsets.len() - 1);
        while first < sequences {
            let elements = self.offsets[first];
            let mut end = first + 1;
            while end < sequences && self.offsets[end + 1] - elements <= CHUNK {
                end += 1;
            }
            chunks.push(Chunk {
                sequences: first..end,
                elements: elements..self.offsets[end],
                outputs: self.wanted_offsets[first]..self.wanted_offsets[end],
            });
            first = end;
        }
        chunks
    }
}

/// The newest `max_len` real elements of a row, the oldest first, and their times, if they have any. `real` is working
/// memory.
fn newest<'a>(ragged: &'a Ragged, row: usize, max_len: usize, real: &'a mut Ragged) -> (&'a [u32], &'a [i32]) {
    let (codes, times) = (ragged.row(row), ragged.row_times(row));
    let (codes, times) = match codes.contains(&PADDING) {
        false => (codes, times),
        true => {
            real.clear();
            let kept = || codes.iter().enumerate().filter(|(_, code)| **code != PADDING);
            real.values.extend(kept().map(|(_, code)| code));
            real.times.extend(kept().filter_map(|(at, _)| times.get(at)));
            (&real.values[..], &real.times[..])
        }
    };
    (&codes[codes.len().saturating_sub(max_len)..], &times[times.len().saturating_sub(max_len)..])
}

/// The elements of a chunk's sequences that ask, as queries of attention do, and the elements that they see.
#[derive(Debug, Default)]
pub(super) struct Queries {
    /// `[sequences + 1]` the first query of each sequence.
    pub offsets: Vec<usize>,
    /// `[queries]` the place of each query in its sequence, ascending within it. It sees the elements up to its own.
    pub places: Vec<usize>,
}

/// The sequences of a chunk, counted from its own first element.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// `[sequences + 1]` the first element of each sequence.
    pub offsets: Vec<usize>,
    /// All elements.
    pub all: Queries,
    /// The wanted ones.
    pub wanted: Queries,
}

impl Places {
    pub fn of(packed: &PackedSequences, chunk: &Chunk) -> Self {
        let range = chunk.sequences.start..chunk.sequences.end + 1;
        let offsets: Vec<usize> = packed.offsets[range.clone()].iter().map(|at| at - chunk.elements.start).collect();
        let all = offsets.windows(2).flat_map(|pair| 0..pair[1] - pair[0]).collect();
        let wanted = chunk.sequences.clone().flat_map(|s| {
            let elements = &packed.wanted[packed.wanted_offsets[s]..packed.wanted_offsets[s + 1]];
            elements.iter().map(move |element| element - packed.offsets[s])
        });
        let wanted = wanted.collect();
        let wanted_offsets = packed.wanted_offsets[range].iter().map(|at| at - chunk.outputs.start).collect();
        Self {
            all: Queries { offsets: offsets.clone(), places: all },
            wanted: Queries { offsets: wanted_offsets, places: wanted },
            offsets,
        }
    }

    /// The element of each query, in order.
    pub fn elements<'a>(&'a self, queries: &'a Queries) -> impl Iterator<Item = usize> + 'a {
        let sequences = self.offsets.iter().zip(queries.offsets.windows(2));
        sequences.flat_map(|(first, pair)| queries.places[pair[0]..pair[1]].iter().map(move |place| first + place))
    }
}
