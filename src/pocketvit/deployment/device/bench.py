"""Check that the model in this folder gives the right answer on this device, and time it.

    python bench.py
    python bench.py --json --seconds 10

Needs only onnxruntime, numpy and Pillow. The exit code is 1 when the golden picture's answer is wrong.
"""

import argparse
import hashlib
import json
import os
import platform
import sys
import time

import numpy as np
import onnxruntime
from predict import HERE, Model, packed
from preprocessing import load


def check(model, golden):
    """Compare the golden picture's answer with the one that was written when the model was packed.

    Probabilities must agree, and so must the logits, by which a wrong answer shows even where the model is undecided
    and every probability is small.
    """
    expected = np.array(golden["probabilities"])
    given = model(load(HERE / golden["picture"]))
    found = model.scores(given).astype(np.float64)
    logits = centred_logits if model.one_class else independent_logits
    wanted = logits(expected)
    difference = float(np.abs(expected - found).max())
    distance = float(np.linalg.norm(logits(found) - wanted) / (np.linalg.norm(wanted) + 1e-3))
    limits = golden["tolerance"]
    return {
        "matches": difference <= limits["probability"] and distance <= limits["logits"],
        "difference": difference,
        "logits_distance": distance,
        "tolerance": limits,
        "label": ", ".join(one[0] for one in model.answer(given)) or "nothing",
        "expected": golden["label"],
    }


def centred_logits(probabilities):
    """Return the logits up to a constant, which softmax forgets."""
    logits = np.log(np.maximum(probabilities, 1e-12))
    return logits - logits.mean()


def independent_logits(probabilities):
    """Return the logits of labels that are each there or not."""
    clipped = np.clip(probabilities, 1e-6, 1 - 1e-6)
    return np.log(clipped) - np.log(1 - clipped)


def timed(call, seconds):
    """Return p50 and p90 in milliseconds of ``call``, after a warm-up."""
    for _ in range(10):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 20 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return {"p50": float(np.percentile(times, 50)), "p90": float(np.percentile(times, 90)), "runs": len(times)}


def main():
    """Check, time, print; return the exit code."""
    parser = argparse.ArgumentParser(description="Check and time the model in this folder.")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each of the two timings takes (3)")
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    golden = json.loads((HERE / "golden.json").read_text(encoding="utf-8"))
    path = packed()
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != golden["sha256"]:
        print(f"error: {path} is not the file that was packed: copy device.zip again", file=sys.stderr)
        return 1
    model = Model(path, arguments.threads)
    answer = check(model, golden)
    prepared = model.prepare(load(HERE / golden["picture"]))
    result = {
        "model": path.name,
        "sha256": golden["sha256"],
        "golden": answer,
        "latency_ms": timed(lambda: model.run(prepared), arguments.seconds),
        "with_preprocessing_ms": timed(lambda: model(load(HERE / golden["picture"])), arguments.seconds),
        "bytes": os.path.getsize(model.path),
        "threads": arguments.threads,
        "machine": f"{platform.machine()} {platform.system()}, onnxruntime {onnxruntime.__version__}",
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        verdict = "matches" if answer["matches"] else "DOES NOT MATCH"
        print(
            f"golden picture   {verdict}: {answer['label']} (expected {answer['expected']}), largest difference "
            f"{answer['difference']:.2g} (at most {answer['tolerance']['probability']:g})"
        )
        for name, key in (("network", "latency_ms"), ("file to label", "with_preprocessing_ms")):
            print(f"{name:<16} p50 {result[key]['p50']:.2f} ms, p90 {result[key]['p90']:.2f} ms")
        print(f"{'file':<16} {model.path.name}, {result['bytes'] / 1e6:.2f} MB")
        print(f"{'machine':<16} {result['machine']}, {arguments.threads} thread(s), batch 1")
    if not answer["matches"]:
        print("error: this device computes something else; do not use the model here", file=sys.stderr)
    return 0 if answer["matches"] else 1


if __name__ == "__main__":
    sys.exit(main())
