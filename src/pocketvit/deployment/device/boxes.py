"""From what a detector's file answers to the boxes that it means. Needs only numpy."""

import numpy as np

LEAST = 0.01  # score below which nothing is kept
SHOWN = 0.4  # score from which a box is shown
OVERLAP = 0.6  # from which two boxes of one class are one
CANDIDATES, MOST = 1000, 100  # boxes of a picture that are compared, and that are kept


def best_boxes(output):
    """Return the best boxes, best first, that no better one of their class covers (non-maximum suppression).

    Args:
        output: [P, 4 + C]: left, top, right, bottom as shares of the view's side, and the score of each class.

    Returns:
        [K, 6]: the same four, score and class.
    """
    scores = output[:, 4:].reshape(-1)
    order = np.argsort(-scores, kind="stable")[:CANDIDATES]
    order = order[scores[order] > LEAST]
    places, labels = np.divmod(order, output.shape[1] - 4)
    rows = np.column_stack([output[places, :4].clip(0, 1), scores[order], labels])
    kept: list[np.ndarray] = []
    while len(rows) and len(kept) < MOST:
        kept.append(rows[0])
        rows = rows[1:][(rows[1:, 5] != rows[0, 5]) | (overlaps(rows[0], rows[1:]) <= OVERLAP)]
    return np.array(kept).reshape(-1, 6)


def overlaps(one, others):
    """Return the intersection over union of a box with others [n, 4...]."""
    low, high = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:4], others[:, 2:4])
    common = np.prod((high - low).clip(0), axis=1)
    own, theirs = np.prod(one[2:4] - one[:2]), np.prod(others[:, 2:4] - others[:, :2], axis=1)
    return common / np.maximum(own + theirs - common, 1e-12)


def placed(boxes, picture_size, about):
    """Return boxes in pixels of the picture, of boxes in shares of the view's side.

    Args:
        boxes: [K, 6].
        picture_size: (height, width).
        about: the preprocessing written in the model's file.
    """
    height, width = picture_size
    view, aspect = about["view_size"], about["aspect"]
    if aspect == "stretch":
        scale, shift = np.array([width, height]), np.zeros(2)
    elif aspect == "crop":
        side = min(height, width)
        scale, shift = np.full(2, side), np.array([(width - side) // 2, (height - side) // 2])
    else:
        longest = max(height, width)
        shown = [max(1, (2 * side * view + longest) // (2 * longest)) for side in (width, height)]
        scale = view * np.array([width, height]) / shown
        shift = -scale * [(view - side) // 2 for side in shown] / view
    result = boxes.copy()
    for first in (0, 2):
        result[:, first : first + 2] = (boxes[:, first : first + 2] * scale + shift).clip(0, [width, height])
    return result
