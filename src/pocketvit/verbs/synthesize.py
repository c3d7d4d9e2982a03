"""`pocketvit synthesize --teacher NAME`."""

from __future__ import annotations

import dataclasses

from ..files import human_bytes, human_time
from ..rundir import Outcome, Run
from ..settings import Synthesize, verb


@verb(Synthesize)
def synthesize(settings: Synthesize) -> Outcome:
    """Make images out of a teacher alone: an ordinary source, balanced over the classes, with its provenance."""
    from ..road.adapt import given_teachers, load_teachers
    from ..road.begin import check_device
    from ..road.synthesize import chosen_classes, request_of
    from ..synthesis import gallery
    from ..synthesis.methods import bank_cost, make_bank, words

    check_device(settings.device)
    teacher = chosen_classes(
        load_teachers(settings, given_teachers(settings.teacher)[:1], settings.device or "cpu")[0], settings.classes
    )
    request = dataclasses.replace(request_of(settings, teacher), seed=settings.seed)
    told = [f"teacher  {teacher.name}: input {teacher.input_size} px, {teacher.num_outputs} classes", *teacher.notes]
    if settings.plan:
        seconds, size = bank_cost(teacher, request)
        what = f"{request.images:,} images of {teacher.input_size} px, {request.chosen}"
        told += [f"images   {what}", f"time     about {human_time(seconds)}", f"disk     about {human_bytes(size)}"]
        data = {"images": request.images, "method": request.chosen, "seconds": seconds, "bytes": size}
        return Outcome("\n".join([*told, "nothing was written"]), data)
    run = Run.begin(settings.name or f"{teacher.name}-{request.chosen}", settings)
    with run.logging():
        run.say([])
        bank = make_bank(run.folder, teacher, request)
        pictures = gallery(bank, run.folder / "gallery.png", words(bank))
    lines = [*told, *words(bank), f"images   {bank.file}", f"gallery  {pictures}"]
    teacher_options = f"--teacher {settings.teacher[0]}" + (f" --arch {settings.arch}" if settings.arch else "")
    lines.append(f"next     pocketvit distill {bank.file} {teacher_options}")
    data = {"folder": str(run.folder), "images": str(bank.file), "count": len(bank), "provenance": bank.provenance}
    return Outcome("\n".join(lines), data | {"gallery": str(pictures)})
