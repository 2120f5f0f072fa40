#!/usr/bin/env python3
"""Load exported towers in Python's onnxruntime and embed random rows.

    check_onnx.py [--rows N] [--seed N] FILE...

Needs numpy and onnxruntime; runs onnx.checker too where the onnx package is installed.
Prints one line a file: inputs, dimension, and the range of the vectors' norms. Exits 1 when a file
does not load, does not pass the checker, or gives vectors that are not finite and of length 1
(0 for a row that pools to nothing).
"""

import argparse
import json
import sys

import numpy as np
import onnxruntime


def random_inputs(schema, rows, rng):
    """Random valid inputs, by the rules in the model's own metadata: ragged fields right-aligned."""
    inputs = {}
    for field in schema["fields"]:
        shape = field["shape"]
        if shape == "code":
            values = rng.integers(0, field["cardinality"], rows, dtype=np.int32)
        elif shape in ("bag", "sequence"):
            length = int(rng.integers(1, field["max_len"] + 1))
            values = rng.integers(1, max(field["cardinality"], 2), (rows, length), dtype=np.int32)
            padding = rng.integers(0, length + 1, (rows, 1))
            values[np.arange(length)[None, :] < padding] = 0
        elif shape == "dense":
            values = rng.standard_normal((rows, field["width"]), dtype=np.float32)
        else:
            raise ValueError(f"field {field['name']}: unknown shape {shape}")
        inputs[field["name"]] = values
    return inputs


def check(path, rows, rng):
    """Checks one file and returns the line to print."""
    try:
        import onnx
    except ImportError:
        checked = "onnx.checker not installed"
    else:
        onnx.checker.check_model(path, full_check=True)
        checked = "onnx.checker passed"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    if "twotower.schema" not in metadata:
        raise ValueError("no `twotower.schema` in its metadata: not a tower exported by twotower")
    schema = json.loads(metadata["twotower.schema"])
    inputs = random_inputs(schema, rows, rng)
    (output,) = session.get_outputs()
    (vectors,) = session.run([output.name], inputs)
    if vectors.shape != (rows, int(metadata["twotower.dim"])):
        raise ValueError(f"output of shape {vectors.shape}, expected ({rows}, {metadata['twotower.dim']})")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors are not finite")
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if (np.abs(norms[norms > 0] - 1) > 1e-5).any():
        raise ValueError(f"norms from {norms.min()} to {norms.max()}, expected 1 or 0")
    return (
        f"{path}: {metadata['twotower.side']} tower, {len(inputs)} inputs, dim {vectors.shape[1]}, "
        f"{rows} rows, norms {norms.min():.7f}..{norms.max():.7f}, "
        f"encoder {metadata['twotower.encoder_fingerprint']}, {checked}"
    )


def main():
    parser = argparse.ArgumentParser(description="Check exported towers in Python's onnxruntime.")
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    failed = False
    for path in arguments.files:
        try:
            print(check(path, arguments.rows, rng))
        except Exception as error:
            print(f"{path}: {error}", file=sys.stderr)
            failed = True
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
