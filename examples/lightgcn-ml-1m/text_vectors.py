"""Vectors of movies from their titles and genres: python examples/lightgcn-ml-1m/text_vectors.py movies.dat OUT.parquet

Writes a row for each movie: `item_id`, and `vector`, 256 floats of unit length. The encoder is WordLlama, a small model of
static embeddings whose weights are part of its package: pip install wordllama pyarrow. Any other sentence encoder will
do, as long as it writes such a table.
"""
import os
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import wordllama


def movies(path):
    """The id and the text of each movie; lines are `id::Title, The (year)::Genre|Genre`."""
    with open(path, encoding="latin-1") as file:
        for line in file:
            movie, title, genres = line.rstrip("\n").split("::")
            name, _, year = title.rpartition(" (")
            # An article that was put behind stands in front again.
            for article in ("The", "A", "An"):
                if name.endswith(f", {article}"):
                    name = f"{article} {name.removesuffix(f', {article}')}"
            yield movie, f"{name}, a film of {year.rstrip(')')}. {genres.replace('|', ', ')}."


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.splitlines()[0])
    ids, texts = zip(*movies(sys.argv[1]))
    # The package holds its files where it looks for downloaded ones, if it is told to look within itself.
    encoder = wordllama.WordLlama.load(cache_dir=os.path.dirname(wordllama.__file__), disable_download=True)
    vectors = encoder.embed(list(texts), norm=True)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1])
    pq.write_table(pa.table({"item_id": pa.array(map(int, ids), pa.int64()), "vector": column}), sys.argv[2])
    print(f"{len(ids)} movies, vectors of {vectors.shape[1]} floats")


if __name__ == "__main__":
    main()
