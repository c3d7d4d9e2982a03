"""Label pictures (or find objects in them) with the model in this folder. Needs only onnxruntime, numpy and Pillow.

python predict.py photo.jpg more_photos/
python predict.py photo.jpg --json
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from boxes import SHOWN, best_boxes, placed
from preprocessing import load, pictures_in, prepare, without_pictures

HERE = Path(__file__).resolve().parent
PRESENT = 0.5  # of several labels, those of at least this probability are there


class Model:
    """The network with its classes and preprocessing, both read out of the .onnx file itself."""

    def __init__(self, path=None, threads=1):
        if path is None:
            path = next(iter(sorted(HERE.glob("*.onnx"))), None)
            if path is None:
                raise SystemExit(f"error: there is no .onnx file in {HERE}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.path = Path(path)
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.about = json.loads(self.session.get_modelmeta().custom_metadata_map["pocketvit"])
        self.classes = self.about["classes"]
        self.one_class = self.about["activation"] == "softmax"  # else each label is there or not
        self.boxes = self.about["activation"] == "boxes"
        self.window = self.about["preprocessing"]["window"]

    def prepare(self, picture):
        """Turn a picture (uint8 [H, W, 3]) into what the file takes, a batch of one or of its tiles."""
        size = self.about["source_size"]
        if size is None:
            return prepare(picture, self.about["preprocessing"])
        if list(picture.shape[:2]) != size:
            raise ValueError(f"has {picture.shape[1]}x{picture.shape[0]} pixels; this model takes {size[1]}x{size[0]}")
        return picture[None]

    def run(self, prepared):
        """Return the probabilities [C] of a prepared picture, the mean of its tiles; of a detector its boxes [K, 6]."""
        outputs = [self.session.run(None, {self.input: one[None]})[0][0] for one in prepared]
        if self.boxes:
            return best_boxes(outputs[0])
        return np.mean([self.probabilities(one) for one in outputs], axis=0)

    def probabilities(self, output):
        """Return what the network's output [C] says, as probabilities [C]."""
        if self.about["source_size"]:
            return output
        if not self.one_class:
            return 1 / (1 + np.exp(-np.clip(output, -80, 80)))
        exponent = np.exp(output - output.max())
        return exponent / exponent.sum()

    def __call__(self, picture):
        """Return the probabilities [C] of a picture (uint8 [H, W, 3]), or its boxes [K, 6] in pixels."""
        found = self.run(self.prepare(picture))
        return placed(found, picture.shape[:2], self.about["preprocessing"]) if self.boxes else found

    def scores(self, found):
        """Return how sure each class is there, [C], of what a call returned."""
        if not self.boxes:
            return found
        best = np.zeros(len(self.classes))
        np.maximum.at(best, found[:, 5].astype(int), found[:, 4])
        return best

    def answer(self, found):
        """Return [label, score] of the likeliest class, or of every label (or box) that is there, the best first.

        Of a box also left, top, right and bottom.
        """
        if self.boxes:
            shown = found[found[:, 4] >= SHOWN]
            return [[self.classes[int(one[5])], float(one[4]), [round(float(x), 1) for x in one[:4]]] for one in shown]
        probabilities = found
        ranked = [[self.classes[i], float(probabilities[i])] for i in np.argsort(-probabilities, kind="stable")]
        return ranked[:1] if self.one_class else [one for one in ranked if one[1] >= PRESENT]


def main():
    """Label the files given on the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Label pictures with the model in this folder.")
    parser.add_argument("pictures", nargs="+", help="picture files and folders")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--model", help="an .onnx file; by default the one beside this script")
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime (1)")
    arguments = parser.parse_intermixed_args()
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
            print(json.dumps({"file": str(path), **first, "scores": scores}, ensure_ascii=False))
        else:
            print(
                f"{path}: "
                + (", ".join(" ".join([name, f"{p:.3f}", *map(str, box)]) for name, p, *box in found) or "none")
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
