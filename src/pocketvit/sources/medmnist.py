"""The 2D sets of MedMNIST v2 and MedMNIST+: what their files leave out, found by file name.

Source: Yang et al. 2023, MedMNIST v2, doi:10.1038/s41597-022-01721-8, and the table that its authors publish
(`medmnist/info.py` of MedMNIST/MedMNIST, version 3.0.2). The three organ sets lost a few images in version 3.0, when
larger sizes came: both releases' numbers are here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .base import SPLITS


@dataclass(frozen=True)
class MedMNIST:
    """One set of the table.

    Attributes:
        title: as its authors write it.
        classes: names, in the order of the labels.
        task: "multi-class", "binary-class", "multi-label, binary-class" or "ordinal-regression".
        samples: images in train, val and test, one row a release that differs.
        modality: kind of image: "xray", "ct", "ultrasound", "fundus", "oct", "microscopy", "histology", "dermatoscopy".
    """

    title: str
    classes: tuple[str, ...]
    task: str
    samples: tuple[tuple[int, int, int], ...]
    modality: str
    licence: str = "CC BY 4.0"

    @property
    def kind(self) -> str:
        """The kind of image, as people write it."""
        return {"xray": "X-ray", "ct": "CT", "oct": "OCT"}.get(self.modality, self.modality)

    def is_official(self, counts: dict[str, int]) -> bool:
        """Whether images per split are those of a release."""
        return tuple(counts.get(split, 0) for split in SPLITS) in self.samples


_ORGANS = (
    "bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left",
    "lung-right", "pancreas", "spleen",
)  # fmt: skip

SETS: dict[str, MedMNIST] = {
    "pathmnist": MedMNIST(
        "PathMNIST",
        (
            "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
            "cancer-associated stroma", "colorectal adenocarcinoma epithelium",
        ),
        "multi-class", ((89996, 10004, 7180),), "histology",
    ),
    "chestmnist": MedMNIST(
        "ChestMNIST",
        (
            "atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
            "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia",
        ),
        "multi-label, binary-class", ((78468, 11219, 22433),), "xray",
    ),
    "dermamnist": MedMNIST(
        "DermaMNIST",
        (
            "actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions",
            "dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions",
        ),
        "multi-class", ((7007, 1003, 2005),), "dermatoscopy", licence="CC BY-NC 4.0",
    ),
    "octmnist": MedMNIST(
        "OCTMNIST", ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        "multi-class", ((97477, 10832, 1000),), "oct",
    ),
    "pneumoniamnist": MedMNIST(
        "PneumoniaMNIST", ("normal", "pneumonia"), "binary-class", ((4708, 524, 624),), "xray",
    ),
    "retinamnist": MedMNIST(
        "RetinaMNIST", ("0", "1", "2", "3", "4"), "ordinal-regression", ((1080, 120, 400),), "fundus",
    ),
    "breastmnist": MedMNIST(
        "BreastMNIST", ("malignant", "normal, benign"), "binary-class", ((546, 78, 156),), "ultrasound",
    ),
    "bloodmnist": MedMNIST(
        "BloodMNIST",
        (
            "basophil", "eosinophil", "erythroblast", "immature granulocytes", "lymphocyte", "monocyte", "neutrophil",
            "platelet",
        ),
        "multi-class", ((11959, 1712, 3421),), "microscopy",
    ),
    "tissuemnist": MedMNIST(
        "TissueMNIST",
        (
            "collecting duct, connecting tubule", "distal convoluted tubule", "glomerular endothelial cells",
            "interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments",
            "thick ascending limb",
        ),
        "multi-class", ((165466, 23640, 47280),), "microscopy",
    ),
    "organamnist": MedMNIST(
        "OrganAMNIST", _ORGANS, "multi-class", ((34561, 6491, 17778), (34581, 6491, 17778)), "ct",
    ),
    "organcmnist": MedMNIST(
        "OrganCMNIST", _ORGANS, "multi-class", ((12975, 2392, 8216), (13000, 2392, 8268)), "ct",
    ),
    "organsmnist": MedMNIST(
        "OrganSMNIST", _ORGANS, "multi-class", ((13932, 2452, 8827), (13940, 2452, 8829)), "ct",
    ),
}  # fmt: skip


def named(file_name: str) -> MedMNIST | None:
    """Return the set of a file such as "pneumoniamnist_224"; None if it is not named after one."""
    return SETS.get(file_name.lower().split("_")[0])


def resembling(file_name: str) -> MedMNIST | None:
    """Return the set that a file such as "blood" or "blood_28" may show, though it does not claim to be of MedMNIST."""
    match = re.fullmatch(r"([a-z]+?)(_\d+)?", file_name.lower())
    return SETS.get(match[1] + "mnist") if match else None
