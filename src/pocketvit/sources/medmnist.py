"""Class names of the MedMNIST datasets, which their files leave out.

Source: Yang et al. 2023, MedMNIST v2, doi:10.1038/s41597-022-01721-8.
"""

from __future__ import annotations

CLASSES: dict[str, tuple[str, ...]] = {
    "pathmnist": (
        "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
        "cancer-associated stroma", "colorectal adenocarcinoma epithelium",
    ),
    "dermamnist": (
        "actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions",
        "dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions",
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("0", "1", "2", "3", "4"),
    "breastmnist": ("malignant", "normal, benign"),
    "bloodmnist": (
        "basophil", "eosinophil", "erythroblast",
        "immature granulocytes", "lymphocyte", "monocyte",
        "neutrophil", "platelet",
    ),
    "tissuemnist": (
        "collecting duct, connecting tubule", "distal convoluted tubule", "glomerular endothelial cells",
        "interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments",
        "thick ascending limb",
    ),
    "organamnist": (
        "bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left",
        "lung-right", "pancreas", "spleen",
    ),
}  # fmt: skip
CLASSES["organcmnist"] = CLASSES["organsmnist"] = CLASSES["organamnist"]


def class_names(file_name: str, count: int) -> tuple[str, ...] | None:
    """Return the class names of a file such as "pneumoniamnist_224", or None where it is not known or does not fit."""
    names = CLASSES.get(file_name.lower().split("_")[0])
    return names if names is not None and len(names) == count else None
