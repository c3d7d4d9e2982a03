"""Reading soft labels: a view of top-100 records with ids, read from the page cache and gathered in shuffled order.

    python benchmarks/store.py [--json]

One view of 1,000 classes lies in shards as `label` writes them. An epoch reads the
shards in sequence into memory (in a thread, while the epoch before it runs) and gathers batch by batch in a shuffled
order, in the stored types: that gather is ``records_per_second``. Beside it stand the reading, the first reading in a
process (which also verifies checksums), both together, the gather with fp32 and int64 results as losses see them, and
the plain alternative: a row of memory-mapped arrays at a time, as a ``Dataset`` with ``__getitem__`` would.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from _timing import alternate, print_table, run

from pocketvit.files import write_json
from pocketvit.labels import LabelStore, TopLabels, shard
from pocketvit.labels.record import Softmax

CLASSES, K, SHARD = 1000, 100, 65_536
BATCH = 1024


def make_store(folder: Path, images: int) -> LabelStore:
    """Write one view of random records through the store's own shard writer."""
    record = Softmax(CLASSES, K)
    manifest = {
        "format": record.format,
        "teacher": {"name": "random", "outputs": CLASSES, "fingerprint": "teacher"},
        "source": {"images": images, "fingerprint": "source"},
        "views": {"fingerprint": "views"},
        "k": K,
        "ordered": True,
        "batch": BATCH,
        "rows_per_shard": SHARD,
    }
    write_json(folder / "random" / "manifest.json", manifest)
    rng = np.random.default_rng(0)
    for start in range(0, images, SHARD):
        rows = min(SHARD, images - start)
        arrays = {name: np.empty((rows, *field.shape), field.dtype) for name, field in record.fields().items()}
        arrays["ids"][:] = rng.integers(0, CLASSES, arrays["ids"].shape, dtype=np.uint16)
        arrays["values"][:] = -rng.random(arrays["values"].shape, dtype=np.float32)
        for name in ("maximum", "lse_rest", "mean_rest", "std_rest"):
            arrays[name][:] = rng.random(rows, dtype=np.float32)
        info = shard.ShardInfo("teacher", "source", "views", 0, start, rows, CLASSES, K, True)
        shard.write_shard(folder / "random" / "view-00000" / shard.shard_name(start), info, arrays)
    return LabelStore(folder)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Print the rates and return the keys."""
    images = int(arguments.images)
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), images)
        order = torch.randperm(images, generator=torch.Generator().manual_seed(0))
        batches = order.split(BATCH)
        held: dict[str, TopLabels] = {"view": store.read("random", 0)}
        mapped = SimpleNamespace(
            ids=np.memmap(Path(folder) / "ids", np.uint16, "w+", shape=(images, K)),
            values=np.memmap(Path(folder) / "values", np.float16, "w+", shape=(images, K)),
        )

        def read() -> None:
            held["view"] = LabelStore(folder).read("random", 0)

        def first_read() -> None:
            shard._verified.clear()
            read()

        def gather() -> None:
            for rows in batches:
                held["view"].index(rows)

        def epoch() -> None:
            read()
            gather()

        def wide() -> None:
            for rows in batches:
                soft = held["view"].index(rows)
                assert soft.ids is not None
                assert soft.values is not None

        def one_by_one() -> None:  # a fiftieth of the records is enough to time it
            for row in order[: images // 50].tolist():
                torch.from_numpy(np.array(mapped.ids[row])), torch.from_numpy(np.array(mapped.values[row]))

        candidates = {
            "read and gather": epoch,
            "read": read,
            "first read, with checksums": first_read,
            "gather": gather,
            "gather to fp32 and int64": wide,
            "a row at a time": one_by_one,
        }
        medians = alternate(candidates, arguments.seconds)
        size = store.record("random").bytes_per_image
    counts = {name: images // 50 if name == "a row at a time" else images for name in candidates}
    rates = {name: counts[name] / seconds for name, seconds in medians.items()}
    print(f"{images:,} records of top {K} of {CLASSES} classes, {size} bytes each, batches of {BATCH}")
    print_table(
        ["path", "million records/s", "GB/s"],
        [[name, rate / 1e6, rate * size / 1e9] for name, rate in rates.items()],
    )
    return {
        "records_per_second": rates["gather"],
        "read_and_gathered_per_second": rates["read and gather"],
        "bytes_per_record": float(size),
    }


if __name__ == "__main__":
    run(measure, __doc__, seconds=10.0, images=400_000)
