"""`pocketvit train IMAGES --model NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..rundir import Run, speak

if TYPE_CHECKING:
    from ..sources import Dataset


def train(
    images: str | Path | Dataset,
    *,
    model: str = "cifar_resnet20",
    pretrained: bool = False,
    weights: str | None = None,
    freeze: bool = False,
    replace_norm: Literal["group", "group-ws", "layer", "instance", "frozen"] | None = None,
    resume: bool | str = False,
    epochs: int | None = None,
    size: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: Literal["adamw", "sgd"] = "adamw",
    augment: Literal["none", "light", "medium", "strong"] = "light",
    flip: bool | None = None,
    vertical_flip: bool | None = None,
    modality: str | None = None,
    resample: Literal["lanczos", "bicubic", "bilinear", "nearest"] = "lanczos",
    aspect: Literal["crop", "pad", "stretch"] = "crop",
    balance: Literal["none", "sampling", "weights"] = "none",
    label_smoothing: float | None = None,
    labels: str | None = None,
    group: str | None = None,
    tile: int | None = None,
    window: str | None = None,
    ema: float = 0.0,
    accumulate: int = 1,
    drop_path: float = 0.0,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    compile: bool = False,
    seed: int = 0,
    device: str | None = None,
    name: str | None = None,
    out: str = "runs",
    no_images: bool = False,
) -> Run:
    """Train a teacher, or any other model, on labelled images: from scratch, or fine-tuned from published weights.

    Args:
        images: "digits", a folder (class/name.jpg, or train/val/test folders of that), a .npz or .csv file
        model: any timm model, cifar_resnet20 to 110, rednet26 to 152, cifar_rednet11 to 56, or a pocket_ student
        pretrained: start from published weights, with a new head
        weights: start from this weights file of the model, or from a model folder as RUN/student (at another --size its
            position embeddings are resampled), with a new head
        freeze: train the head alone (a linear probe)
        replace_norm: what takes the place of BatchNorm, for batches of fewer than 16 images; trained weights are
            converted on some of the training images first
        resume: go on with the last run of this name (or with the named run folder)
        epochs: by default about 60,000 images are seen, in 10 to 100 epochs
        size: side of the views in pixels; by default the images' own up to 64, then up to 224
        batch_size: images a step
        lr: learning rate; by default 0.002 for batches of 128 from scratch, 0.0001 when fine-tuning
        optimizer: of the weights
        augment: how much views vary; strong adds Mixup and CutMix
        flip: mirrored views; by default unless the kind of images forbids it (switch off where left and right matter,
            as in digits)
        vertical_flip: upside-down views; by default only where the kind of images has no up and down
        modality: kind of images, which decides what augmentation leaves their label alone: photo, xray, ct, ultrasound,
            oct, fundus, microscopy, histology, dermatoscopy; by default that of a known MedMNIST file, else photo
        resample: how images are brought to the view's size
        aspect: how other shapes become square: the middle cut out, black borders, or stretched
        balance: of classes of unequal size: show every class equally often, or weigh its ground truth accordingly
        label_smoothing: of the cross-entropy; by default 0.1, or none where images have several labels
        labels: CSV file of file names and labels of the images in a folder
        group: column of that file, as patient, whose images stay on one side of every split
        tile: cut large images into squares of this many pixels; figures are per image
        window: intensities LOW,HIGH that become black and white in images that are not 8-bit
        ema: decay a step of the weight average that is evaluated; 0 is off
        accumulate: batches a step
        drop_path: of networks that have it
        precision: of training; auto is measured once
        compile: use torch.compile
        seed: of everything random
        device: cpu or cuda
        name: of the run; by default that of the images and the model
        out: the folder of runs
        no_images: leave every picture of the data out of the report
    """
    from ..config import LossConfig, RunConfig, TeacherConfig
    from ..errors import PocketError
    from ..sources import open_images
    from . import defaults
    from .fit_model import fit_model
    from .options import check_device, check_numbers, parse_window
    from .several import check_several

    speak()
    check_device(device)
    if isinstance(resume, str):
        run = Run.made_by("train", resume)
        return fit_model(run, run.config, images=run.config.images, no_images=no_images, device=device)
    check_numbers(
        epochs=epochs, batch_size=batch_size, lr=lr, label_smoothing=label_smoothing, ema=ema, accumulate=accumulate,
        drop_path=drop_path, seed=seed,
    )  # fmt: skip
    dataset = open_images(images, labels=labels, window=parse_window(window), group=group, tile=tile)
    if not dataset.classes:
        raise PocketError(
            f"{images} has no labels to train on. Sort the images into one folder a class, or give --labels."
        )
    check_several(dataset, balance=balance)
    if weights is not None and Path(weights).is_dir():  # a folder says what model it holds
        model, weights, pretrained = str(weights), None, True
    smoothing = label_smoothing if label_smoothing is not None else 0.0 if dataset.train.multilabel else 0.1
    adapting = pretrained or weights is not None
    count = len(dataset.train)
    batch = batch_size or defaults.batch_size_for(count)
    rate = lr or (1e-4 if adapting else 2e-3 * (batch / 128) ** 0.5)
    config = RunConfig(
        verb="train",
        images=str(images) if isinstance(images, str | Path) else f"({dataset.name})",
        labels=labels,
        window=parse_window(window),
        group=group,
        tile=tile,
        modality=modality,
        teachers=(TeacherConfig(model, weights=weights, input_size=size if Path(model).is_dir() else None),)
        if adapting
        else (),
        fine_tune=not freeze if adapting else None,
        student=model,
        replace_norm=replace_norm,
        baseline=False,
        view=defaults.view_config(
            dataset,
            size=size,
            augment=augment,
            flip=flip,
            vertical_flip=vertical_flip,
            resample=resample,
            aspect=aspect,
            modality=modality,
        ),
        loss=LossConfig(
            weight=0.0,
            label_smoothing=smoothing,
            class_weights=defaults.class_weights(dataset.train, balance),
        ),
        train=defaults.train_config(
            count,
            epochs=epochs if epochs is not None or not adapting else 5,
            batch_size=batch,
            learning_rate=rate,
            optimizer=optimizer,
            ema=ema,
            accumulate=accumulate,
            drop_path=drop_path,
            balance=balance,
            precision=precision,
            compile=compile,
            seed=seed,
        ),
    )
    if freeze and not adapting:
        raise PocketError("--freeze trains a head on finished features: name them with --pretrained or --weights FILE.")
    title = name or f"{dataset.name}-{Path(model).name.replace(':', '_')}"
    run = Run.begin(out, title, config, resume=resume, device=device)
    return fit_model(run, config, images=dataset, no_images=no_images, device=device)
