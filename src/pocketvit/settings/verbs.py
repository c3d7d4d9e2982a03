"""The settings of each verb: groups, and what only this verb has. A new verb is one class more, and a file in `verbs/`.

A class's text is what ``--help`` and Python's ``help`` say of the verb; its first line stands in the list of verbs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from ..config import TermConfig
from ..errors import PocketError
from .base import ImageSet, Model, Settings, listed, setting, settings_of
from .devices import Bench, Compress, Export, Predict, Report, Serve
from .groups import (
    BUILT_IN,
    IMAGES,
    Architecture,
    Device,
    Evidence,
    Images,
    Labels,
    Objective,
    Output,
    Pictures,
    Place,
    Reading,
    Resumable,
    Steps,
    Synthesis,
    Training,
    Views,
)
from .teachers import LIGHT_TEACHERS, TEACHER, Adapting, Teachers, check_model
from .values import (
    Budget,
    parse_budget,
    parse_match,
    read_budget,
    read_bytes,
    read_match,
    read_methods,
    read_names,
)

_UNTAUGHT = "this is for a student with a teacher, and --teacher none wants none"
_FROZEN = "--freeze fits the head at once, in no such steps. Leave one of them away"


class Demo(Resumable, Pictures, Place, verb="demo"):
    """Distill on a real dataset that is built in, in minutes on a laptop's processor.

    A large teacher learns handwritten digits from all labels. The student sees all images but only 50 labels, and what
    the teacher says. Beside it stand the same student with the 50 labels alone, the teacher's own int8 file, and what
    one would do without any of this: scikit-learn's SVM, on the 50 labels and on all.
    """

    makes = "distill"

    task: Literal["classification", "detection"] = setting(
        "detection finds shapes and digits in scenes that it draws itself, with boxes on 60 of 300 of them",
        default="classification", common=True,
    )  # fmt: skip
    seed: int = setting("of the student", default=0, low=0, high=2**63 - 1)


class Distilling(Images, Views, Teachers, Adapting, Labels, Architecture, Objective, Steps):
    """What `Distill` and `Compare` have in common."""

    teacher: Model | Sequence[Model] | None = setting(
        f"{TEACHER}. Repeat for several; without any, two light ones are trained on your labels (with few --hours the "
        "student learns from these labels alone, as it does with none)",
        default=(), metavar="NAME", common=True, group="teachers",
    )  # fmt: skip
    student: str | Path = setting(
        "a size of the ladder (pocket_xxs, _xs, _s, _m, _l, _xl), or any timm model; pretrained where weights are "
        "named: NAME.TAG, hf-hub:NAME, local-dir:FOLDER; auto is pocket_s, or for images of 96 pixels and more a small "
        "pretrained ViT where the hub can be reached",
        default="auto", metavar="NAME", group="student", common=True,
    )  # fmt: skip

    assistant: str | None = setting(
        "a network of a size between teacher and student, named as students are: it learns the teachers' labels first, "
        "and the student learns from its labels in place of theirs (compare: in methods with +assistant)",
        default=None, metavar="NAME", group="student",
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        teachers = len(listed(self.teacher)) or LIGHT_TEACHERS
        if self.tokens not in (0, 1, teachers):
            raise self.refused("tokens", f"give 0, 1, or one per teacher, which is {teachers} here")
        if self.untaught:
            self._check_untaught()
        if self.assistant is None:
            return
        if self.tokens > 1:
            raise self.refused("tokens", f"the student's only teacher is the assistant {self.assistant}. Give 0 or 1")
        if self.init_from == "teacher":
            raise self.refused(
                "init_from", "the student's teacher is the assistant, which is not there yet. Name weights"
            )

    def _check_untaught(self) -> None:
        """Refuse what needs a teacher where there is to be none."""
        if len(listed(self.teacher)) > 1:
            raise self.refused("teacher", "none stands for no teacher at all. Leave it or the others away")
        needs: dict[str, Any] = {"assistant": None, "terms": (), "unlabelled": None, "teacher_labels": None}
        needs |= {"tokens": 0, "data_free": False, "objective": "auto", "fine_tune": False, "freeze": False}
        for name, usual in needs.items():
            if getattr(self, name, usual) != usual:
                raise self.refused("match" if name == "terms" else name, _UNTAUGHT)
        for name in ("stem", "init_from"):
            if getattr(self, name) == "teacher":
                raise self.refused(name, "--teacher none wants no teacher. Leave one of the two away")

    def check_given(self, given: Collection[str]) -> None:
        super().check_given(given)
        for one in settings_of(type(self)) if self.untaught else ():
            used = one.group in ("labels", "objective") and one.name != "match"  # of which none is no objective
            if used and one.name in given and getattr(self, one.name) != one.default:
                raise self.refused(one.name, _UNTAUGHT)

    def look(self) -> None:
        super().look()
        check_model(self, "student", self.student)
        check_model(self, "assistant", self.assistant)


class Distill(Distilling, Synthesis, Training, Evidence, Output, Resumable, verb="distill"):
    """Turn images and teachers into a small vision transformer: exported, measured, reported.

    Checks and splits the images, makes every teacher answer in their classes, stores the teachers' labels once,
    trains the student (and, for comparison, the same student without a teacher), exports it to ONNX (fp32 and int8),
    measures the files and writes the report. What is there already is reused.
    """

    fit: str | None = setting(
        "choose the largest student that fits: the int8 file's size, the time at batch 1, or both",
        default=None, metavar="3MB,20ms", read=read_budget, common=True, group="student",
    )  # fmt: skip
    teacher_labels: str | Path | None = setting(
        "stored answers in a teacher's place: the boxes that it found in these images, in COCO's results format",
        default=None, metavar="FILE", exists="a JSON file of detections", regular=True, group="teachers",
    )  # fmt: skip
    plan: bool = setting(
        "print images, split, hours and bytes, and write nothing",
        default=False,
        common=True,
        group="output",
        saved=False,
    )
    unlabelled: ImageSet | None = setting(
        "a folder of images without labels, which the teachers label too", default=None, exists=IMAGES, group="images"
    )
    objective: Literal["auto", "kl", "hard", "zscore", "dkd", "dist", "mld", "boxes", "apart", "grid"] = setting(
        "what the student matches of the teachers' answers; auto is zscore, kl where only the top logits are stored or "
        "there are two classes, mld (a binary KL per label) where images have several labels, or boxes where they have "
        "boxes (those of several teachers fused; apart learns each teacher's by themselves; grid, from Python, needs a "
        "detector of the student's own places, run live)",
        default="auto", group="objective",
    )  # fmt: skip
    hard_share: float | None = setting(
        "share of the epochs, in the middle, that learn the labels alone, in views that are not stored (soft, hard, "
        "soft); by default a third where one or two views are stored, each to be seen four times or more, and all "
        "images have labels",
        default=None, low=0, below=1, group="objective",
    )  # fmt: skip
    match: str | Sequence[str] | None = setting(
        "features of the teachers to match too: NAME, NAME:WEIGHT or NAME:WEIGHT@STUDENT_LAYER>TEACHER_LAYER, with "
        "commas between (fitnets, locality, vkd, vitkd, rkd, similarity, correlation, pkt, crd, manifold, "
        "attention_transfer, patch_attention, minilm, cskd, mean_teacher), or none; unasked fitnets, where pictures "
        "are made, or small and the teachers convolutional",
        default=None, read=read_match, metavar="NAMES", group="objective",
    )  # fmt: skip
    store_features: str | None = setting(
        "store these features if they take no more than this, as in 2GB (unasked where they are matched unasked); else "
        "the teachers run on every batch",
        default=None, read=read_bytes, metavar="SIZE", group="labels",
    )  # fmt: skip
    data_free: bool = setting(
        "use no image at all: they are made from the teacher", default=False, common=True, group="data-free"
    )
    controls: str | Sequence[str] | None = setting(
        "where the images are synthetic and there are real test images: other ways of making them, with commas "
        "between (drawn, inverted, generated, photograph, noise), whose students stand beside; none for none",
        default=("noise",), read=read_methods, metavar="METHODS", group="data-free",
    )  # fmt: skip

    @property
    def budget(self) -> Budget | None:
        """What the device allows."""
        return None if self.fit is None else parse_budget(self.fit)

    @property
    def terms(self) -> tuple[TermConfig, ...]:
        """The objectives on features."""
        return parse_match(self.match)  # type: ignore[arg-type]

    def check(self) -> None:
        remedy = "Add --data-free" if self.images is None else "Leave it away, or make some: --data-free without IMAGES"
        for one in settings_of(Synthesis):  # before what these say of each other: no --method would help
            if one.group == "data-free" and not self.data_free and getattr(self, one.name) != one.default:
                raise self.refused(one.name, f"this is for images made from the teacher. {remedy}")
        super().check()
        if self.hard_share and (self.data_free or self.terms):
            why = "images made from the teacher have no labels" if self.data_free else "--match compares every batch"
            raise self.refused("hard_share", f"{why}. Leave one of them away")
        if self.hard_share and self.hours is not None:
            raise self.refused(
                "hard_share", "by the clock nobody knows where the middle is. Name --epochs, not --hours"
            )
        if self.teacher_labels is not None and self.teacher:
            raise self.refused("teacher_labels", "they stand in a teacher's place. Leave --teacher away")
        if self.data_free and self.assistant is not None:
            raise self.refused(
                "assistant",
                "the controls beside a student without images learn from the teacher itself. Leave one away",
            )
        if self.data_free and self.images is not None:
            raise PocketError("--data-free uses no images. A few real ones beside it are given with --data FOLDER.")
        for name in ("val", "table", "group", "tile", "unlabelled", "few_labels", "folds"):
            if self.data_free and getattr(self, name):
                raise self.refused(name, "with --data-free there are no images to divide or to read labels of. Leave "
                                         "it away; --test names images to score on")  # fmt: skip

    def require_images(self) -> None:
        if self.data_free:
            self.require_teacher()
        else:
            super().require_images()


class Train(Images, Views, Architecture, Training, Output, Resumable, verb="train"):
    """Train a teacher, or any other model, on labelled images: from scratch, or fine-tuned from weights."""

    model: str | Path = setting(
        "any timm model (pretrained: NAME.TAG, hf-hub:NAME, local-dir:FOLDER), cifar_resnet20 to 110, rednet26 to 152, "
        "cifar_rednet20 to 56, or a pocket_ student; auto is cifar_resnet20, or pocket_m where images have boxes",
        default="auto", metavar="NAME", common=True,
    )  # fmt: skip
    init: str | Path | None = setting(
        "start from this weights file of the model, from a model folder as RUN/student (at another --size its position "
        "embeddings are resampled), or from published weights (pretrained), with a new head", default=None,
        metavar="FILE", exists="a weights file, a model folder, or 'pretrained'", besides=("pretrained",), common=True,
        was="weights",
    )  # fmt: skip
    freeze: bool = setting("train the head alone (a linear probe)", default=False, common=True)
    replace_norm: Literal["group", "group-ws", "layer", "instance", "frozen"] | None = setting(
        "what takes the place of BatchNorm, for batches of fewer than 16 images; trained weights are converted on some "
        "of the training images first", default=None,
    )  # fmt: skip
    label_smoothing: float | None = setting(
        "of the cross-entropy; by default 0.1, or none where images have several labels",
        default=None, low=0, below=1, group="training",
    )  # fmt: skip
    drop_path: float = setting("of networks that have it", default=0.0, low=0, below=1, group="training")
    statistics_card: bool = setting(
        "save means and variances of what the network's layers are fed by the training images beside it, for "
        "`synthesize --statistics`: without BatchNorm there is little else to invert it by; they say something of the "
        "images", default=False, group="output",
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        if self.tokens > 1:
            raise self.refused("tokens", "one per teacher is for `distill`, and nobody teaches here. Give 0 or 1")
        for one in settings_of(Architecture):
            if self.init is not None and getattr(self, one.name) != one.default:
                raise self.refused(one.name, f"--init {self.init} says what shape the network has. Leave one away")

    def check_given(self, given: Collection[str]) -> None:
        super().check_given(given)
        for name in ("augment", "flip", "vertical_flip") if self.freeze else ():
            if name in given and getattr(self, name) not in ("auto", None):
                raise self.refused(name, _FROZEN)

    def look(self) -> None:
        super().look()
        for one in settings_of(type(self)) if self.freeze else ():
            used = one.group != "training" or one.name in ("balance", "precision", "seed")
            if not used and getattr(self, one.name) != one.default:
                raise self.refused(one.name, _FROZEN)
        check_model(self, "model", self.model)
        plain = re.fullmatch(r"\w+", str(self.model)) and not Path(self.model).is_dir()
        if self.drop_path and (self.init is not None or not plain):
            raise self.refused(
                "drop_path", "trained weights are taken as they are, and no block is skipped. Leave it away"
            )
        if self.freeze and self.init is None and plain:
            raise PocketError(
                "--freeze trains a head on finished features. Name them with --init FILE, or a pretrained --model."
            )


class Label(Images, Views, Teachers, Adapting, Labels, Device, Place, verb="label"):
    """Let teachers label every view of the training images, once, into a soft-label store.

    More views and more teachers only add files. `distill` with the same images, views and teachers finds the store
    under OUT/shared/labels by itself.
    """

    views: int = setting(
        "augmented views stored per image", default=10, low=1, high=10_000, common=True, group="labels"
    )
    plan: bool = setting("print bytes and time, and write nothing", default=False, common=True, saved=False)
    verify: bool = setting("recompute 256 random records with the live teacher and compare", default=False, saved=False)
    store: str | Path | None = setting(
        "the store's folder; by default under OUT/shared/labels", default=None, metavar="FOLDER"
    )

    def check(self) -> None:
        super().check()
        if self.plan and self.verify:
            raise PocketError(
                "--plan and --verify exclude each other: the one writes nothing, the other reads records."
            )

    def look(self) -> None:
        super().look()
        self.require_teacher()


class Synthesize(Teachers, Synthesis, Output, Resumable, verb="synthesize"):
    """Make images out of a teacher alone: an ordinary source, balanced over the classes, with its provenance."""

    plan: bool = setting("print time and bytes, and write nothing", default=False, common=True, saved=False)
    classes: str | Sequence[str] | None = setting(
        "names or numbers (from 0) of the classes to make, with commas between; by default all",
        default=(), read=read_names, metavar="NAMES",
    )  # fmt: skip
    rival: Model | None = setting(
        "a student of this teacher, as RUN/student: images are also optimized until it answers otherwise (a second "
        "round, to be learned beside the first; of --method inverted)", default=None, metavar="NAME",
    )  # fmt: skip
    seed: int = setting("of everything random", default=0, low=0, high=2**63 - 1)

    def check(self) -> None:
        super().check()
        if self.rival is not None and self.method not in ("auto", "inverted"):
            raise self.refused("rival", "other methods optimize nothing. Add --method inverted")

    def look(self) -> None:
        super().look()
        self.require_teacher()
        check_model(self, "rival", self.rival)


class Pack(Reading, Place, verb="pack"):
    """Put images into memory-mapped packs, which other verbs find again (they do it by themselves)."""

    images: ImageSet = setting(
        '"digits", a folder, a .npz or .csv file', kw_only=False, exists=IMAGES, besides=BUILT_IN
    )


class Compare(Distilling, Output, verb="compare"):
    """Compare methods of distillation: the same student, images, steps and seeds; one table, one plot, one report.

    Each method is trained once per seed. Differences to the baseline (alone where it is among the methods, else the
    first one) are paired over the seeds and have intervals. Typed again, it goes on where it stopped; with more methods
    or seeds it trains only these.
    """

    methods: str | Sequence[str] | None = setting(
        "names with commas between: alone, mutual (two students that teach each other), an objective (kl, hard, "
        "zscore, dkd, dist), or with + added an objective on features (as in kl+rkd; its teachers run live), a way of "
        "weighing several teachers (as in kl+learned) or assistant (as in kl+assistant, with --assistant NAME); by "
        "default alone, every objective that the stored labels serve, and assistant where one is named",
        default=(), read=read_names, metavar="NAMES", common=True, compared=False,
    )  # fmt: skip
    seeds: int = setting(
        "trainings of each method; three are needed to claim a difference",
        default=3, low=1, high=1000, common=True, compared=False,
    )  # fmt: skip
    images_limit: int | None = setting(
        "use so many training images, the classes taking turns", default=None, low=2, high=1_000_000_000, group="images"
    )
    views: int | None = setting(
        "augmented views stored per image; by default one per epoch, so that all methods see the same pictures",
        default=None, low=1, high=10_000, group="labels",
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        if self.untaught:
            raise self.refused("teacher", "methods are compared with a teacher; `alone` among --methods has none")


class RunRecipe(Place, verb="run"):
    """Run a recipe from start to end: its table and report. Typed again, it goes on where it stopped."""

    recipe: str | Path = setting(
        "a file with a function `recipe(images, folder, small)`, as in recipes/",
        kw_only=False, exists="the file of a recipe (`ls recipes/`)", regular=True,
    )  # fmt: skip
    images: str | Path | None = setting("the data it asks for; its text says which, and how to get them", default=None)
    small: bool = setting("its small twin, minutes on two processor cores", default=False)


# The verbs in the order of the road; the first ones stand on the first page.
VERBS: dict[str, type[Settings]] = {
    kind.verb: kind
    for kind in (
        Demo, Distill, Predict, Bench, Report,
        Train, Label, Synthesize, Compress, Export, Serve, Pack, Compare, RunRecipe,
    )
}  # fmt: skip
