"""Relations: not a teacher's features but how they differ from image to image, or from place to place.

No projection is needed, because a relation has the same shape on both sides. Functions return a scalar.
Shape legend: B images, C channels (of either side), N places.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RKD_DISTANCE, RKD_ANGLE = 25.0, 50.0  # weights of the two parts, the paper's
SIMILARITY = 3000.0  # gamma of the paper
MANIFOLD_PLACES, MANIFOLD_IMAGES, MANIFOLD_RANDOM = 4.0, 0.1, 0.2  # weights of the three parts, of the authors' command
MANIFOLD_SAMPLES = 192  # tokens of the whole batch that are related at random (K of the paper)
_SMALL = 1e-12


def rkd(student_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """Distances and angles among the images of a batch: Park et al., Relational Knowledge Distillation, CVPR 2019.

    ``25 huber(d_s, d_t) + 50 huber(cos_s, cos_t)``, d the distances of pairs over their mean, cos the angle at the
    middle one of three images.
    """
    with torch.no_grad():
        teacher_distance, teacher_angle = _distances(teacher_BC), _angles(teacher_BC)
    distance = F.smooth_l1_loss(_distances(student_BC), teacher_distance)
    return RKD_DISTANCE * distance + RKD_ANGLE * F.smooth_l1_loss(_angles(student_BC), teacher_angle)


def _distances(features_BC: Tensor) -> Tensor:
    """Euclidean distances [B, B] over the mean of those between different images."""
    squares = features_BC.square().sum(1)
    # clamp: rounding may leave a square below 0, and the root has no slope at 0
    distance = (squares[:, None] + squares[None] - 2 * features_BC @ features_BC.T).clamp_min(_SMALL).sqrt()
    distance = distance * (1 - torch.eye(len(distance), device=distance.device))
    count = max(1, len(distance) * (len(distance) - 1))
    return distance / (distance.sum() / count).clamp_min(_SMALL)


def _angles(features_BC: Tensor) -> Tensor:
    """Cosines [B, B, B]: at image i, between the directions to j and k."""
    direction = F.normalize(features_BC[None] - features_BC[:, None], dim=2)
    return direction @ direction.transpose(1, 2)


def similarity(student_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """``3000 |G_s - G_t|^2 / B^2``, G the Gram matrix with rows of length 1: Tung & Mori, ICCV 2019, eq. 4."""
    grams = [F.normalize(features @ features.T, dim=1) for features in (student_BC, teacher_BC)]
    return SIMILARITY * (grams[0] - grams[1]).square().mean()


def correlation(student_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """``mean |K_s - K_t|^2``, K a Gaussian kernel of unit vectors: Peng et al., Correlation Congruence, ICCV 2019.

    ``K = exp(-gamma |x - y|^2)`` with gamma = 0.4, the exponential by itself rather than by the authors' series.
    """
    kernels = []
    for features in (student_BC, teacher_BC):
        unit = F.normalize(features, dim=1)
        kernels.append(torch.exp(-0.4 * (2 - 2 * unit @ unit.T)))
    return (kernels[0] - kernels[1]).square().mean()


def manifold(student_BNC: Tensor, teacher_BNC: Tensor) -> Tensor:
    """Relations of patches: Hao et al., Learning Efficient Vision Transformers via Fine-Grained Manifold Distillation.

    NeurIPS 2022. Mean squared differences of Gram matrices of unit tokens: 4 times those within each image (N x N), 0.1
    times those among images at each place (B x B), 0.2 times those among 192 tokens of the batch at random. That is the
    paper's decoupling of the one B N x B N matrix, which is too big.
    """
    student, teacher = F.normalize(student_BNC, dim=2), F.normalize(teacher_BNC, dim=2)
    chosen = torch.randperm(student.shape[0] * student.shape[1], device=student.device)[:MANIFOLD_SAMPLES]
    loss = student.new_zeros(())
    for weight, take in (
        (MANIFOLD_PLACES, lambda t: t),
        (MANIFOLD_IMAGES, lambda t: t.transpose(0, 1)),
        (MANIFOLD_RANDOM, lambda t: t.flatten(0, 1)[chosen][None]),
    ):
        s, t = take(student), take(teacher)
        loss = loss + weight * (s @ s.transpose(1, 2) - t @ t.transpose(1, 2)).square().mean()
    return loss
