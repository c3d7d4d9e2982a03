"""Label pictures (or find objects in them) with the model in this folder. Needs only onnxruntime, numpy and Pillow.

python predict.py photo.jpg more_photos/
python predict.py photo.jpg --json
"""

import argparse
import json
import os
import sys
from pathlib import Path

import onnxruntime
from answers import Network
from preprocessing import load, pictures_in, without_pictures

HERE = Path(__file__).resolve().parent


class Model(Network):
    """The network under ONNX Runtime; its classes and preprocessing are read out of the .onnx file itself."""

    def __init__(self, path=None, threads=1):
        path = packed() if path is None else Path(path)
        if not path.is_file():
            raise SystemExit(f"error: there is no file {path}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.path = path
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            metadata = session.get_modelmeta().custom_metadata_map
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise SystemExit(f"error: {path}: {str(error).splitlines()[0]}") from error
        name = session.get_inputs()[0].name
        if "pocketvit" not in metadata:
            raise SystemExit(f"error: {path} was not exported by PocketViT: it does not say how it is fed")
        about = json.loads(metadata["pocketvit"])
        super().__init__(about, lambda pixels: session.run(None, {name: pixels})[0])


def packed():
    """Return the file that came with this script: what golden.json names, else the only .onnx file beside."""
    golden = HERE / "golden.json"
    if golden.is_file():
        return HERE / json.loads(golden.read_text(encoding="utf-8"))["model"]
    found = sorted(HERE.glob("*.onnx"))
    if len(found) != 1:
        raise SystemExit(f"error: there are {len(found)} .onnx files in {HERE}: name one with --model")
    return found[0]


def main():
    """Label the files given on the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Label pictures with the model in this folder.")
    parser.add_argument("pictures", nargs="+", help="picture files and folders")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--model", help="an .onnx file; by default the one beside this script")
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime (1)")
    arguments = parser.parse_intermixed_args()
    for stream in (sys.stdout, sys.stderr):  # a name that a terminal has no letters for is spelt out
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    model = Model(arguments.model, arguments.threads)
    failed = False
    for folder in without_pictures(arguments.pictures):
        print(f"error: no pictures in {folder}", file=sys.stderr)
        failed = True
    for path in pictures_in(arguments.pictures):
        try:
            given = model(load(path, model.window))
        except (OSError, ValueError, SyntaxError) as error:  # Pillow's decoders raise all three on damaged files
            print(f"error: {path}: {error}", file=sys.stderr)
            failed = True
            continue
        found = model.answer(given)
        if arguments.json:
            scores = [[name, round(float(p), 6)] for name, p in zip(model.classes, model.scores(given), strict=True)]
            first = {"label": found[0][0], "score": found[0][1]} if model.one_class else {"labels": found}
            if model.boxes:
                first = {"boxes": [{"label": label, "score": score, "box": box} for label, score, box in found]}
            print(json.dumps({"file": str(path), **first, "scores": scores}))
        else:
            print(
                f"{path}: "
                + (", ".join(" ".join([name, f"{p:.3f}", *map(str, box)]) for name, p, *box in found) or "none")
            )
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # as in `predict.py ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
