"""`pocketvit distill IMAGES`: the whole road."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..rundir import Outcome, Run, speak

if TYPE_CHECKING:
    from torch import nn

    from ..sources import Dataset
    from ..teachers import Teacher


def distill(
    images: str | Path | Dataset | None = None,
    *,
    teacher: str | nn.Module | Teacher | Sequence[str | nn.Module | Teacher] | None = None,
    student: str = "pocket_s",
    fit: str | None = None,
    plan: bool = False,
    resume: bool | str = False,
    epochs: int | None = None,
    views: int | None = None,
    size: int | None = None,
    patch: int | None = None,
    tokens: int = 0,
    stem: Literal["patch", "shifted", "summed", "concatenated", "coadvise"] = "patch",
    attention: Literal["plain", "local"] = "plain",
    batch_size: int | None = None,
    lr: float | None = None,
    objective: Literal["auto", "kl", "hard", "zscore", "dkd", "dist", "mld"] = "auto",
    temperature: float | None = None,
    match: str | None = None,
    store_features: str | None = None,
    teacher_share: float = 0.9,
    teacher_weights: Literal["fixed", "confidence", "agreement", "per_class", "learned"] = "fixed",
    augment: Literal["none", "light", "medium", "strong"] = "medium",
    flip: bool | None = None,
    vertical_flip: bool | None = None,
    modality: str | None = None,
    resample: Literal["lanczos", "bicubic", "bilinear", "nearest"] = "lanczos",
    aspect: Literal["crop", "pad", "stretch"] = "crop",
    balance: Literal["none", "sampling", "weights"] = "none",
    labels: str | None = None,
    group: str | None = None,
    tile: int | None = None,
    folds: int | None = None,
    window: str | None = None,
    arch: str | None = None,
    weights: str | None = None,
    input: int | None = None,
    norm: str | None = None,
    fine_tune: bool = False,
    freeze: bool = False,
    top_k: int | None = None,
    approximate_tail: bool = False,
    baseline: bool = True,
    against: str | None = None,
    ema: float = 0.0,
    accumulate: int = 1,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    compile: bool = False,
    seed: int = 0,
    device: str | None = None,
    name: str | None = None,
    out: str = "runs",
    no_images: bool = False,
) -> Run | Outcome:
    """Turn teachers and images into a small vision transformer: exported, measured, reported.

    Checks and splits the images, makes every teacher answer in their classes, stores the teachers' labels once,
    trains the student (and, for comparison, the same student without a teacher), exports it to ONNX (fp32 and int8),
    measures the files and writes the report. What is there already is reused.

    Args:
        images: "digits", a folder (class/name.jpg, or train/val/test folders of that), a .npz or .csv file
        teacher: timm name, hf-hub:NAME, local-dir:FOLDER, a weights file (with --arch), MODULE:FUNCTION; in Python
            also an nn.Module; repeat for several; none: two light ones are trained on your labels
        student: a size of the ladder (pocket_xs, pocket_s, pocket_m, pocket_l, pocket_xl)
        fit: choose the largest student that fits, as in 3MB,20ms (the int8 file; time at batch 1)
        plan: print images, split, hours and bytes, and write nothing
        resume: go on with the last run of this name (or with the named run folder) to the result of an unbroken one
        epochs: of the student; by default about 60,000 images are seen, in 10 to 100 epochs
        views: augmented views stored an image; epoch e uses view e mod V; by default at most 10
        size: side of the views in pixels; by default the images' own up to 64, then up to 224
        patch: side of the student's patches in pixels
        tokens: distillation tokens of the student: 0, 1, or one a teacher
        stem: how the student cuts pictures up: plain patches, shifted ones (of the picture and its four half-patch
            shifts), both summed, or both side by side; coadvise, with --tokens 2, puts a convolution and an involution
            before its patches: the first teacher's token starts from the convolution, the second's from the involution
        attention: of the student; local has a learned temperature a head, and no token looks at itself
        batch_size: images a step
        lr: learning rate; by default 0.001 for batches of 128, by the square root of the batch
        objective: what the student matches; auto is zscore, kl where only the top logits are stored or there are two
            classes, or mld (a binary KL a label) where images have several labels
        temperature: of the objective; by default 2, or 1 where only the top logits are stored or images have several
            labels
        match: features of the teachers to match besides their answers: NAME, NAME:WEIGHT or
            NAME:WEIGHT@STUDENT_LAYER>TEACHER_LAYER, several with commas between (fitnets, locality, vkd, vitkd, rkd,
            similarity, correlation, manifold, attention_transfer, patch_attention, minilm, cskd, mean_teacher)
        store_features: store these features if they take no more than this, as in 2GB; else the teachers run on
            every batch
        teacher_share: weight of the teachers beside the ground truth, 0 to 1
        teacher_weights: how several teachers are weighed for each image: equally, by confidence, by agreement with the
            others, by validation accuracy on the class, or by a gate fitted on the validation split
        augment: how much views vary; strong adds Mixup and CutMix
        flip: mirrored views; by default unless the kind of images forbids it (switch off where left and right matter,
            as in digits)
        vertical_flip: upside-down views; by default only where the kind of images has no up and down
        modality: kind of images, which decides what augmentation leaves their label alone: photo, xray, ct, ultrasound,
            oct, fundus, microscopy, histology, dermatoscopy; by default that of a known MedMNIST file, else photo
        resample: how images are brought to the view's size; lanczos has 5 lobes
        aspect: how other shapes become square: the middle cut out, black borders, or stretched
        balance: of classes of unequal size: show every class equally often, or weigh its ground truth accordingly
        labels: CSV file of file names and labels of the images in a folder
        group: column of that file, as patient, whose images stay on one side of every split
        tile: cut large images into squares of this many pixels; figures are per image
        folds: also train a student a fold, so that every image is tested by one that never saw it; by default 5 where
            there are fewer than 500 labelled images without a split of their own and it takes up to five minutes; 0 is
            none
        window: intensities LOW,HIGH that become black and white in images that are not 8-bit
        arch: architecture of a weights file named as teacher
        weights: weights file for an architecture or MODULE:FUNCTION named as teacher
        input: side in pixels of what the teacher sees, where its file does not say
        norm: normalization of the teacher where its file does not say: imagenet, half or none
        fine_tune: fine-tune a teacher that has other classes, however long that takes
        freeze: only train a linear probe on such a teacher
        top_k: logits stored a record; by default all up to 256 classes, then 100; 0 is all
        approximate_tail: let objectives that need all logits use top-k labels with an approximated rest
        baseline: also train the same student without a teacher
        against: also fine-tune this pretrained timm model for as many epochs, as in mobilenetv3_small_100
        ema: decay a step of the weight average that is evaluated; 0 is off
        accumulate: batches a step
        precision: of training; auto is measured once
        compile: use torch.compile
        seed: of everything random but the stored views
        device: cpu or cuda; by default cuda where there is one
        name: of the run; by default that of the images
        out: the folder of runs
        no_images: leave every picture of the data out of the report
    """
    from ..config import LossConfig, RunConfig
    from ..errors import PocketError
    from ..files import parse_bytes
    from ..sources import open_images
    from . import defaults
    from .options import (
        check_against,
        check_device,
        check_images,
        check_numbers,
        check_stem,
        check_student,
        check_tokens,
        parse_match,
        parse_window,
    )
    from .several import check_several
    from .teach import LIGHT, load_teachers, teacher_config
    from .walk import walk

    speak()
    check_device(device)
    teachers, specs = teacher_config(teacher, arch, weights, input, norm)
    if isinstance(resume, str):
        run = Run.made_by("distill", resume)
        config = run.config
        specs = specs or [options.name for options in config.teachers]
        return walk(run, config, specs, images=images or config.images, no_images=no_images, device=device)
    if images is None:
        raise PocketError("name the images: `pocketvit distill photos/ --teacher NAME` (or `--resume RUN`).")
    check_numbers(
        epochs=epochs, views=views, patch=patch, batch_size=batch_size, lr=lr, temperature=temperature, input=input,
        teacher_share=teacher_share, ema=ema, accumulate=accumulate, seed=seed,
        folds=folds, tile=tile,
    )  # fmt: skip
    check_tokens(tokens, len(specs) or len(LIGHT))
    check_stem(stem, attention, tokens, student)
    check_against(against)
    terms = parse_match(match, ema)
    if store_features is not None:
        parse_bytes(store_features, "--store-features")
    if fine_tune and freeze:
        raise PocketError("--fine-tune and --freeze exclude each other: all weights are trained, or the head alone.")
    check_student(student)
    check_images(images)
    specs = load_teachers(teachers, specs, "cpu")  # a mistyped one is told before the images are read
    dataset = open_images(images, labels=labels, seed=0, window=parse_window(window), group=group, tile=tile)
    check_several(
        dataset, objective=objective, teacher_weights=teacher_weights, balance=balance, tokens=tokens, top_k=top_k,
        terms=terms,
    )  # fmt: skip
    several = dataset.train.multilabel
    count = len(dataset.train)
    view = defaults.view_config(
        dataset,
        size=size,
        augment=augment,
        flip=flip,
        vertical_flip=vertical_flip,
        resample=resample,
        aspect=aspect,
        modality=modality,
    )
    train = defaults.train_config(
        count,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=lr,
        ema=ema,
        accumulate=accumulate,
        balance=balance,
        precision=precision,
        compile=compile,
        seed=seed,
    )
    classes = len(dataset.classes) or max((one.num_outputs for one in specs), default=0)
    stored_whole = classes <= 256 if top_k is None else top_k == 0
    auto = "mld" if several else "zscore" if stored_whole and classes != 2 else "kl"
    chosen = objective if objective != "auto" else auto
    usual = 1.0 if several else 2.0 if stored_whole or objective != "auto" else 1.0
    heat = temperature if temperature is not None else usual
    notes: tuple[str, ...] = ()
    if fit:
        from ..deployment.budget import choose, parse_budget

        choice = choose(
            parse_budget(fit), num_classes=max(classes, 1), image_size=view.view_size, patch_size=patch,
            tokens=tokens, stem=stem, attention=attention,
        )  # fmt: skip
        student, notes = choice.candidate.name, choice.notes
    config = RunConfig(
        images=str(images) if isinstance(images, str | Path) else f"({dataset.name})",
        labels=labels,
        window=parse_window(window),
        group=group,
        tile=tile,
        modality=modality,
        folds=folds,
        teachers=teachers,
        fine_tune=True if fine_tune else False if freeze else None,
        student=student,
        patch_size=patch,
        tokens=tokens,
        stem=stem,
        attention=attention,
        views=min(train.epochs, 10 if views is None else views),
        top_k=top_k,
        approximate_tail=approximate_tail,
        baseline=baseline,
        against=against,
        view=view,
        store_features=store_features,
        loss=LossConfig(
            objective=chosen,
            temperature=heat,
            weight=teacher_share,
            teacher_weights=teacher_weights,
            class_weights=defaults.class_weights(dataset.train, balance),
            terms=terms,
        ),
        train=train,
        fit=fit,
    )
    if plan:
        from .planning import plan_text

        return plan_text(dataset, config, specs, notes)
    title = name or dataset.name
    run = Run.begin(out, title, config, resume=resume, device=device)
    return walk(run, config, specs, images=dataset, given=images, notes=notes, no_images=no_images, device=device)
