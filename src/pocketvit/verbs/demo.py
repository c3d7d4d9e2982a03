"""`pocketvit demo`: the whole road on images that come with scikit-learn."""

from __future__ import annotations

from ..rundir import Run, speak

LABELS = 50  # that students see, of 1,259


def demo(*, resume: bool | str = False, seed: int = 0, out: str = "runs", no_images: bool = False) -> Run:
    """Distill on handwritten digits in minutes: two light teachers, few labels, a ViT of half a million parameters.

    A convolution and an involution teacher learn from all labels. The student sees all images but only 50 labels, and
    what the teachers say. Beside it stand the same student with the 50 labels alone, and with all labels.

    Args:
        resume: go on with the last demo (or with the named run folder)
        seed: of the student
        out: the folder of runs
        no_images: leave every picture out of the report
    """
    from ..config import LossConfig, RunConfig, TrainConfig, ViewConfig
    from .options import check_numbers
    from .walk import walk

    speak()
    check_numbers(seed=seed)
    config = RunConfig(
        verb="demo",
        images="digits",
        student="pocket_xs",
        patch_size=4,
        views=10,
        few_labels=LABELS,
        view=ViewConfig(view_size=16, crop="padded", crop_padding=2),
        loss=LossConfig(objective="zscore", temperature=2.0, weight=0.9),
        train=TrainConfig(
            epochs=28, batch_size=32, learning_rate=1.5e-3, warmup_epochs=2.0, precision="fp32", seed=seed
        ),
    )
    if isinstance(resume, str):
        run = Run.made_by("demo", resume)
        return walk(run, run.config, [], images="digits", no_images=no_images)
    run = Run.begin(out, "demo", config, resume=resume, device=None)
    return walk(run, config, [], images="digits", no_images=no_images)
