"""From pictures to what a network says of them, whatever runs it. Needs only numpy and Pillow."""

import json

import numpy as np
from boxes import SHOWN, best_boxes, placed
from preprocessing import prepare

PRESENT = 0.5  # of several labels, those of at least this probability are there


class Network:
    """A network with its classes and preprocessing.

    Args:
        about: What its file says of itself under "pocketvit", read as JSON.
        run: Its function: from float32 [1, 3, S, S] to its outputs [1, ...].
    """

    def __init__(self, about, run):
        self.about, self._run = about, run
        self.classes = about["classes"]
        self.one_class = about["activation"] == "softmax"  # else each label is there or not
        self.boxes = about["activation"] == "boxes"
        self.window = about["preprocessing"]["window"]

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
        outputs = [self._run(one[None])[0] for one in prepared]
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

    def told(self, picture):
        """Return the answer to a picture (uint8 [H, W, 3]) and how sure each class is, as a line of JSON."""
        found = self(picture)
        scores = [[name, round(float(score), 6)] for name, score in zip(self.classes, self.scores(found), strict=True)]
        return json.dumps({"answer": self.answer(found), "scores": scores})
