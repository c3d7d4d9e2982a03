"""Few, small biomedical images: which patches, which resizing, which teachers and how much augmentation help?

Shows   one small ViT without pretrained weights on 28-px images enlarged to 56 px, changed one thing at a time: plain,
        shifted and combined patches (summed and concatenated), locality self-attention; nearest, bicubic and Lanczos-5
        enlarging, and none; strong augmentation that leaves the labels alone; labels of a convolution and an
        involution teacher; and all of what the paper puts together. Controls: 28 px in as many tokens (is it the pixels
        or the tokens?), and plain patches at 84 px (about the tokens and FLOPs of the concatenated ones).
Paper   Harnessing the Power of Attention for Patch-Based Biomedical Image Classification (arXiv 2404.00949) combines
        shifted (Lee et al., arXiv 2112.13492) and plain patches, Lanczos-5 and strong augmentation, and says that
        this helps.
Data    a MedMNIST-layout .npz of 28 px: blood cells, pneumonia, retina, breast.
Cost    about 20 minutes per set on one processor core; --small: about 4 minutes.
Command pocketvit run recipes/biomedical.py --images data/blood_28.npz
Result  recipes/biomedical.md
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pocketvit.config import LabelConfig, LossConfig, NetworkConfig, RunConfig, TrainConfig, ViewConfig
from pocketvit.errors import PocketError
from pocketvit.experiments import Arm, report_arms, run_arms
from pocketvit.road.images import open_road
from pocketvit.road.label import label_road
from pocketvit.road.light import LIGHT, train_teacher
from pocketvit.road.viewing import view_config
from pocketvit.sources import Dataset, open_images
from pocketvit.sources.subset import Subset, balanced

SIDE, PATCH = 56, 14  # 16 tokens, as many as 28 px in patches of 7: few, so that a processor sees enough images
SHOWN = 12_000  # images that every student sees, in as many epochs as that takes
MOST = 3000  # training images


def config(small: bool = False, view: ViewConfig | None = None, images: int = MOST) -> RunConfig:
    """The student of every arm; what an arm changes is written beside its name below.

    It is measured with plain patches and AdamW; `distill` takes a convolution before the patches, and Muon.
    """
    epochs = max(2, round((SHOWN // 10 if small else SHOWN) / images))
    return RunConfig(
        network=NetworkConfig("pocket_xs", patch=PATCH, stem="patch"),
        labels=LabelConfig(views=epochs),
        view=view or ViewConfig(view_size=SIDE),
        loss=LossConfig(objective="kl", temperature=2.0, weight=0.9),
        train=TrainConfig(
            epochs=epochs,
            batch_size=32,
            optimizer="adamw",
            learning_rate=5e-4,
            warmup=0.1,
            precision="fp32",
        ),
    )


def with_small_val(dataset: Dataset) -> Dataset:
    """Keep 400 validation images: they are looked at after every epoch, and only the last epoch counts."""
    val = dataset.val
    return dataclasses.replace(dataset, val=Subset(val, balanced(val, 400))) if val and len(val) > 400 else dataset


def recipe(images: str | None, folder: Path, small: bool) -> str:
    """Train the light teachers, store their labels for two sorts of views, train 12 arms x 3 seeds."""
    if images is None:
        raise PocketError("name one set of images: --images FILE.npz, as MedMNIST's files of 28 px.")
    dataset = with_small_val(open_images(images))
    count = min(len(dataset.train), 600 if small else MOST)

    def view_of(augment: str = "medium", size: int = SIDE, resample: str = "lanczos") -> ViewConfig:
        """What is safe for this kind of image, as `distill` would choose it."""
        return view_config(dataset, size=size, augment=augment, resample=resample)

    base = config(small, view_of(), count)
    folder = folder / dataset.name
    road = open_road(dataset, base.view, folder.parents[1] / "shared").reduced(count)

    def arm(key: str, name: str, *, view: ViewConfig = base.view, **network) -> Arm:
        changed = dataclasses.replace(base.network, **network)
        return Arm(key, name, dataclasses.replace(base, network=changed, view=view))

    teaching = TrainConfig(epochs=2 * base.train.epochs, batch_size=32, warmup=0.1, precision="fp32")
    light = view_of(size=28)
    teachers = tuple(train_teacher(road, name, teaching, input_size=28, view=light) for name in LIGHT)

    def taught(key: str, name: str, **changes) -> Arm:
        made = arm(key, name, **changes)
        store = label_road(road.viewed(made.config.view), list(teachers), made.config.labels)
        return dataclasses.replace(made, teachers=teachers, store=store)

    arms = [
        arm("plain", "plain patches, Lanczos-5 to 56 px, medium augmentation, alone"),
        arm("shifted", "shifted patches", stem="shifted"),
        arm("summed", "plain + shifted, summed", stem="summed"),
        arm("concatenated", "plain + shifted, concatenated", stem="concatenated"),
        arm("84px", "plain patches at 84 px (36 tokens; concatenated: 32)", view=view_of(size=84)),
        arm("local", "locality self-attention", attention="local"),
        arm("nearest", "nearest to 56 px", view=view_of(resample="nearest")),
        arm("bicubic", "bicubic to 56 px", view=view_of(resample="bicubic")),
        arm("28px", "28 px as they are, patches of 7", view=light, patch=7),
        arm("strong", "strong augmentation", view=view_of("strong")),
        taught("taught", "distilled from convolution + involution"),
        taught("all", "summed, strong, distilled", stem="summed", view=view_of("strong")),
    ]
    found = run_arms(road, arms, range(3), folder)
    return report_arms(
        road, arms, found, folder, against="plain", teachers=teachers, title=f"{dataset.name}: {__doc__}"
    )
