"""The headline: DeiT-Ti on CIFAR-100 from a ResNet-56's stored labels, in half an hour of one GPU.

Shows   whether z-scored stored labels beat the published best for DeiT-Ti with a ResNet-56 teacher, 78.55 % after 300
        epochs (z-scored live logits); 78.15 % is locality guidance, 65.08 % the student alone (table 2 of Logit
        Standardization, CVPR 2024, and tiny-transformers). DeiT's transformer (192 wide, 12 blocks, 3 heads, 5.4 M
        parameters) sees the 32-px image in patches of 2: 256 tokens, where the published ones cut an enlarged image
        into 196.
Paper   Logit Standardization in Knowledge Distillation (CVPR 2024); patience and Mixup as in Beyer et al. (CVPR 2022).
Data    CIFAR-100 as a MedMNIST-layout .npz or as torchvision lays it out.
Cost    on one H200, as planned: teacher 8 minutes, store 3 minutes (1 GB), student 30 minutes. Each is printed by
        itself. --small: 13 minutes on one processor core.
Command timeout -s INT 590 pocketvit run recipes/deit_tiny_cifar100.py --images data/cifar100.npz
        again and again until it prints its table: what was done is kept, and every call goes on.
Result  recipes/deit_tiny_cifar100.md
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from pocketvit.config import LabelConfig, LossConfig, NetworkConfig, RunConfig, TrainConfig, ViewConfig
from pocketvit.experiments import Arm, report_arms, run_arms
from pocketvit.files import human_time
from pocketvit.road.images import open_road
from pocketvit.road.label import label_road
from pocketvit.road.light import train_teacher

log = logging.getLogger("pocketvit")
LIGHT = ViewConfig(view_size=32, crop="padded", flip=0.5)
STRONG = ViewConfig(view_size=32, crop="padded", flip=0.5, randaugment_ops=2, erase=0.25, mixup=0.8, cutmix=1.0)


def config(small: bool = False) -> RunConfig:
    """The student, with plain patches and AdamW as DeiT has it (`distill` takes a convolution before them, and Muon).

    The small twin is smaller in everything, and says only that the road holds.
    """
    loss = LossConfig(objective="zscore", temperature=2.0, weight=0.9)
    if small:
        view = ViewConfig(view_size=32, crop="padded", flip=0.5, randaugment_ops=1, erase=0.25)
        train = TrainConfig(epochs=8, batch_size=128, optimizer="adamw", warmup=1 / 8, precision="fp32")
        network = NetworkConfig("pocket_xs", patch=8, stem="patch")
        return RunConfig(network=network, labels=LabelConfig(views=8), view=view, loss=loss, train=train)
    return RunConfig(
        network=NetworkConfig("deit_tiny_patch16_224", patch=2),
        labels=LabelConfig(views=100),
        view=STRONG,
        loss=loss,
        train=TrainConfig(
            epochs=300,
            batch_size=512,
            optimizer="adamw",
            learning_rate=1e-3,
            warmup=10 / 300,
            drop_path=0.05,
            ema=0.999,
            precision="bf16",
            compile=True,
        ),
    )


def recipe(images: str | None, folder: Path, small: bool) -> str:
    """Train the ResNet-56, store its labels, train the student from them (and alone, in the small twin)."""
    road = open_road(images or "data/cifar100.npz", config(small).view, folder.parent / "shared")
    if small:
        road = road.reduced(10000)
        teaching = TrainConfig(epochs=5, batch_size=128, warmup=0.1, precision="fp32")
    else:
        teaching = TrainConfig(epochs=160, batch_size=256, warmup=2 / 160, precision="bf16", compile=True)
    start = time.monotonic()
    name = "cifar_resnet20" if small else "cifar_resnet56"
    teacher = train_teacher(road, name, teaching, input_size=32, view=LIGHT)
    log.info("teacher  %s in this call", human_time(time.monotonic() - start))
    road = road.reduced(4000) if small else road
    start = time.monotonic()
    store = label_road(road, [teacher], config(small).labels)
    log.info("store    %s in this call", human_time(time.monotonic() - start))
    arms = [Arm("distilled", "student, distilled", config(small), (teacher,), store)]
    if small:
        arms.insert(0, Arm("alone", "student alone", config(small)))
    found = run_arms(road, arms, range(3 if small else 1), folder)
    return report_arms(road, arms, found, folder, against=arms[0].key, teachers=[teacher], title=__doc__)
