"""`pocketvit synthesize --teacher NAME`."""

from __future__ import annotations

import dataclasses
import shlex

from ..errors import PocketError
from ..files import human_bytes, human_time
from ..rundir import Outcome, Run
from ..settings import Synthesize, listed, verb


@verb(Synthesize)
def synthesize(settings: Synthesize) -> Outcome:
    """Make images out of a teacher alone: an ordinary source, balanced over the classes, with its provenance."""
    from ..road.adapt import given_teachers, load_teachers
    from ..road.begin import check_device
    from ..road.synthesize import chosen_classes, request_of, rival_of
    from ..synthesis import gallery
    from ..synthesis.methods import bank_cost, check_request, make_bank, words
    from ..training.distributed import join_processes

    check_device(settings.device)
    specs = given_teachers(settings)
    if len(specs) > 1:
        raise PocketError("images are made from one teacher: give --teacher once. Others may label them afterwards.")
    device = join_processes(settings.device or "auto").device
    teacher = chosen_classes(load_teachers(settings, specs, str(device))[0], settings.classes)
    rival = rival_of(settings.rival, teacher)
    request = dataclasses.replace(request_of(settings, teacher), seed=settings.seed, rival=rival)
    check_request(teacher, request)
    told = [f"teacher  {teacher.described}, {teacher.num_outputs} classes", *teacher.notes]
    if settings.plan:
        seconds, size = bank_cost(teacher, request)
        what = f"{request.images:,} images of {teacher.input_size} px, {request.method}"
        told += [f"images   {what}", f"time     about {human_time(seconds)}", f"disk     about {human_bytes(size)}"]
        data = {"images": request.images, "method": request.method, "seconds": seconds, "bytes": size}
        return Outcome("\n".join([*told, "nothing was written"]), data)
    run = Run.begin(settings.name or f"{teacher.name}-{request.method}", settings)
    with run.alone(), run.logging():
        run.say([])
        bank = make_bank(run.folder, teacher, request)
        pictures = gallery(bank, run.folder / "gallery.png", words(bank))
    lines = [*told, *words(bank), f"images   {bank.file}", f"gallery  {pictures}"]
    lines.append(f"next     {shlex.join(['pocketvit', 'distill', str(bank.file), *_teacher_options(settings)])}")
    data = {"folder": str(run.folder), "images": str(bank.file), "count": len(bank), "provenance": bank.provenance}
    return Outcome("\n".join(lines), data | {"gallery": str(pictures)})


def _teacher_options(settings: Synthesize) -> list[str]:
    """How the teacher was named, as words to be typed again."""
    named = {"teacher": listed(settings.teacher)[0]}
    named |= {name: getattr(settings, name) for name in ("arch", "weights", "teacher_size", "teacher_norm")}
    told = {
        name: str(value) if isinstance(value, str | int) else "NAME"
        for name, value in named.items()
        if value is not None
    }
    return [word for name, value in told.items() for word in (f"--{name.replace('_', '-')}", value)]
