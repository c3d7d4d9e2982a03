"""`pocketvit compare IMAGES --teacher NAME --methods alone,kl,zscore`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..rundir import Outcome, speak

if TYPE_CHECKING:
    from torch import nn

    from ..config import RunConfig
    from ..sources import Dataset
    from ..teachers import Teacher


def compare(
    images: str | Path | Dataset,
    *,
    teacher: str | nn.Module | Teacher | Sequence[str | nn.Module | Teacher] | None = None,
    methods: str | Sequence[str] | None = None,
    seeds: int = 3,
    student: str = "pocket_s",
    images_limit: int | None = None,
    epochs: int | None = None,
    views: int | None = None,
    size: int | None = None,
    patch: int | None = None,
    tokens: int = 0,
    batch_size: int | None = None,
    lr: float | None = None,
    temperature: float | None = None,
    teacher_share: float = 0.9,
    teacher_weights: Literal["fixed", "confidence", "agreement", "per_class", "learned"] = "fixed",
    augment: Literal["none", "light", "medium", "strong"] = "medium",
    flip: bool | None = None,
    vertical_flip: bool | None = None,
    modality: str | None = None,
    resample: Literal["lanczos", "bicubic", "bilinear", "nearest"] = "lanczos",
    aspect: Literal["crop", "pad", "stretch"] = "crop",
    labels: str | None = None,
    group: str | None = None,
    tile: int | None = None,
    window: str | None = None,
    arch: str | None = None,
    weights: str | None = None,
    input: int | None = None,
    norm: str | None = None,
    fine_tune: bool = False,
    freeze: bool = False,
    top_k: int | None = None,
    approximate_tail: bool = False,
    ema: float = 0.0,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    compile: bool = False,
    device: str | None = None,
    name: str | None = None,
    out: str = "runs",
    no_images: bool = False,
) -> Outcome:
    """Compare methods of distillation: the same student, images, steps and seeds; one table, one plot, one report.

    Each method is trained once a seed. Differences to the baseline (alone where it is among the methods, else the first
    one) are paired over the seeds and have intervals. Typed again, it goes on where it stopped; with more methods or
    seeds it trains only these.

    Args:
        images: "digits", a folder (class/name.jpg, or train/val/test folders of that), a .npz or .csv file
        teacher: as for distill; repeat for several; none: two light ones are trained on your labels
        methods: names with commas between: alone, an objective (kl, hard, zscore, dkd, dist), or with + added an
            objective on features (as in kl+rkd; its teachers run live) or a way of weighing several teachers (as in
            kl+learned); by default alone and every objective that the stored labels serve
        seeds: trainings of each method; three are needed to claim a difference
        student: a size of the ladder (pocket_xs, pocket_s, pocket_m, pocket_l, pocket_xl)
        images_limit: use so many training images, the classes taking turns
        epochs: of each student; by default about 60,000 images are seen, in 10 to 100 epochs
        views: augmented views stored an image; by default one an epoch, so that all methods see the same pictures
        size: side of the views in pixels; by default the images' own up to 64, then up to 224
        patch: side of the student's patches in pixels
        tokens: distillation tokens of the student: 0, 1, or one a teacher
        batch_size: images a step
        lr: learning rate; by default 0.001 for batches of 128, by the square root of the batch
        temperature: of the objectives; by default 2, or 1 where only the top logits are stored
        teacher_share: weight of the teachers beside the ground truth, 0 to 1
        teacher_weights: how several teachers are weighed where a method does not say
        augment: how much views vary; strong adds Mixup and CutMix
        flip: mirrored views; by default unless the kind of images forbids it (switch off where left and right matter,
            as in digits)
        vertical_flip: upside-down views; by default only where the kind of images has no up and down
        modality: kind of images, which decides what augmentation leaves their label alone: photo, xray, ct, ultrasound,
            oct, fundus, microscopy, histology, dermatoscopy; by default that of a known MedMNIST file, else photo
        resample: how images are brought to the view's size; lanczos has 5 lobes
        aspect: how other shapes become square: the middle cut out, black borders, or stretched
        labels: CSV file of file names and labels of the images in a folder
        group: column of that file, as patient, whose images stay on one side of every split
        tile: cut large images into squares of this many pixels; figures are per image
        window: intensities LOW,HIGH that become black and white in images that are not 8-bit
        arch: architecture of a weights file named as teacher
        weights: weights file for an architecture or MODULE:FUNCTION named as teacher
        input: side in pixels of what the teacher sees, where its file does not say
        norm: normalization of the teacher where its file does not say: imagenet, half or none
        fine_tune: fine-tune a teacher that has other classes, however long that takes
        freeze: only train a linear probe on such a teacher
        top_k: logits stored a record; by default all up to 256 classes, then 100; 0 is all
        approximate_tail: let objectives that need all logits use top-k labels with an approximated rest
        ema: decay a step of the weight average that is evaluated; 0 is off
        precision: of training; auto is measured once
        compile: use torch.compile
        device: cpu or cuda; by default cuda where there is one
        name: of the folder; by default that of the images, with -compare
        out: the folder of runs
        no_images: leave every picture of the data out of the report
    """
    import dataclasses
    import logging

    from ..config import LossConfig, RunConfig
    from ..errors import PocketError
    from ..files import read_json
    from ..labels.record import choose_k
    from ..sources import open_images
    from . import defaults
    from .arms import Arm, report_arms, run_arms
    from .methods import ALONE, parse_methods, served, why_not
    from .options import check_device, check_images, check_numbers, check_student, check_tokens, parse_window
    from .stages import describe, label_road, open_road, reduced
    from .teach import LIGHT, load_teachers, ready_teachers, teacher_config

    speak()
    check_device(device)
    check_numbers(
        seeds=seeds, images_limit=images_limit, epochs=epochs, views=views, patch=patch, batch_size=batch_size, lr=lr,
        temperature=temperature, input=input, teacher_share=teacher_share, ema=ema,
    )  # fmt: skip
    if fine_tune and freeze:
        raise PocketError("--fine-tune and --freeze exclude each other: all weights are trained, or the head alone.")
    teachers, specs = teacher_config(teacher, arch, weights, input, norm)
    count = len(specs) or len(LIGHT)
    check_tokens(tokens, count)
    check_student(student)
    if methods is not None:  # a mistake in them is told before the images are read
        averaged = [one.name for one in parse_methods(methods, LossConfig(), teachers=count) if one.averaged]
        if averaged and not ema:
            raise PocketError(
                f"--methods {averaged[0]} learns from an average of the student's weights. Give --ema 0.999, say; all "
                "methods then keep and are scored by such an average."
            )
    check_images(images)
    specs = load_teachers(teachers, specs, "cpu")
    dataset = open_images(images, labels=labels, window=parse_window(window), group=group, tile=tile)
    if dataset.train.multilabel:
        raise PocketError(
            f"the images of {dataset.name} have several labels each, and compare knows methods for one class an image. "
            "Run `pocketvit distill` on them."
        )
    scored = [source for source in (dataset.test, dataset.val) if source is not None and len(source)]
    if not (dataset.train.targets >= 0).any() or not any((source.targets >= 0).any() for source in scored):
        raise PocketError(
            f"{images} has no labels, and methods are compared by their accuracy. Sort the images into one folder a "
            "class, or give --labels."
        )
    classes = len(dataset.classes)
    whole = choose_k(classes, top_k) == 0
    heat = temperature if temperature is not None else 2.0 if whole else 1.0
    loss = LossConfig("zscore" if whole and classes != 2 else "kl", heat, teacher_share, teacher_weights)
    chosen = parse_methods(methods or served(classes, whole or approximate_tail, heat), loss, teachers=count)
    for method in chosen:
        reason = why_not(method.loss.objective, classes, whole or approximate_tail or method.live, heat)
        if method.taught and reason:
            raise PocketError(f"--methods {method.name}: {method.loss.objective} cannot be learned here: {reason}.")
    train = defaults.train_config(
        min(images_limit or len(dataset.train), len(dataset.train)), epochs=epochs, batch_size=batch_size,
        learning_rate=lr, ema=ema, precision=precision, compile=compile,
    )  # fmt: skip
    config = RunConfig(
        verb="compare",
        images=str(images) if isinstance(images, str | Path) else f"({dataset.name})",
        labels=labels,
        window=parse_window(window),
        group=group,
        tile=tile,
        modality=modality,
        teachers=teachers,
        fine_tune=True if fine_tune else False if freeze else None,
        student=student,
        patch_size=patch,
        tokens=tokens,
        views=min(train.epochs, views or train.epochs),
        top_k=top_k,
        approximate_tail=approximate_tail,
        images_limit=images_limit or 0,
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
        loss=loss,
        train=train,
    )
    seen = {
        "images": {split: source.fingerprint for split, source in dataset.splits.items()},
        "teachers": [teacher.fingerprint for teacher in specs],
    }
    folder = _folder(out, name or f"{dataset.name}-compare", config, seen)
    say = logging.getLogger("pocketvit").info
    say("compare  %s with %d seeds, in %s", ", ".join(method.name for method in chosen), seeds, folder)
    say("student  %s", describe(config))
    road = open_road(config, folder.parent / "shared", images=dataset, device=device)
    road = reduced(road, images_limit) if images_limit and images_limit < len(road.dataset.train) else road
    ready = ready_teachers(road, config, specs) if any(method.taught for method in chosen) else []
    stored = any(method.taught and not method.live for method in chosen)
    store = label_road(road, ready, config) if stored else None
    arms = [
        Arm(
            method.name,
            method.shown,
            dataclasses.replace(config, loss=method.loss),
            tuple(ready) if method.taught else (),
            store if method.taught and not method.live else None,
            method.live,
        )
        for method in chosen
    ]
    against = next((arm.key for arm in arms if arm.key == ALONE), arms[0].key)
    found = run_arms(road, arms, range(seeds), folder)
    notes = []
    if config.views < train.epochs:
        notes.append(
            f"Stored labels have {config.views} views an image for {train.epochs} epochs; the student alone and live "
            "teachers see a fresh one every epoch."
        )
    text = report_arms(
        road, arms, found, folder, against=against, teachers=ready, notes=notes, images=not no_images,
        title=f"{dataset.name}: {student}, {len(arms)} methods compared over {seeds} seed{'s' * (seeds > 1)}",
    )  # fmt: skip
    files = {"folder": str(folder), "report": str(folder / "report.html"), "plot": str(folder / "differences.svg")}
    data = {**files, "against": against, "table": text, "methods": read_json(folder / "results.json")["comparison"]}
    return Outcome(f"{text}\n\nplot    {files['plot']}\nreport  {files['report']}", data)


def _folder(out: str, name: str, config: RunConfig, seen: dict[str, Any]) -> Path:
    """Return the comparison's folder, new or to go on with; one of other choices is an error that names them.

    Args:
        out: The folder of runs.
        name: Of the comparison.
        config: What all methods share.
        seen: Fingerprints of "images" and "teachers", as a path or a module may come to hold others.
    """
    import yaml

    from ..config import differences, to_dict
    from ..errors import PocketError
    from ..files import read_json, write_json, write_text
    from ..rundir import Run

    if Path(name).name != name:
        raise PocketError(f"--name {name}: a comparison's name is one word; --out takes the folder it goes into.")
    folder = Path(out) / name
    if (folder / "config.yaml").is_file():
        changes = differences(to_dict(Run(folder).config), to_dict(config))
        if changes:
            raise PocketError(
                f"{folder} holds a comparison of other choices ({'; '.join(changes[:4])}). Give the same options to go "
                "on with it, or --name another one."
            )
        other = [what for what, known in read_json(folder / "inputs.json").items() if known != seen[what]]
        if other:
            raise PocketError(
                f"{folder} holds a comparison with other {' and '.join(other)} under the same name. --name another one."
            )
    else:
        write_json(folder / "inputs.json", seen)
        write_text(folder / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False))
    return folder
