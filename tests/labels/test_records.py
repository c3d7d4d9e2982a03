"""Records of any kind go the same way through the store: dense or ragged, built in or brought from outside."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from label_fakes import SIDE, FakeSource, FakeTeacher, FakeViews

from pocketvit.errors import PocketError
from pocketvit.labels import Boxes, Field, LabelStore, RaggedLabels, Record, register_record, verify, write_labels
from pocketvit.labels import shard as shards
from pocketvit.labels.plan import plan_labels
from pocketvit.labels.ragged import OFFSETS
from pocketvit.labels.shard import read_shard, write_shard


@register_record
@dataclass(frozen=True)
class Spots(Record):
    """A toy: an image's mean, and the place and value of each pixel that is brighter than a bound."""

    kind = "spots"
    per_class = False
    bound: int = 200

    @classmethod
    def of(cls, teacher, k):
        return cls(teacher.num_outputs, k or 0, teacher.bound)

    def fields(self):
        return {
            "mean": Field(np.float32),
            "place": Field(np.int32, (2,), ragged=True),
            "value": Field(np.uint8, ragged=True),
        }

    def ask(self, teacher, pixels):
        return teacher.look(pixels)

    def encode(self, outputs, targets):
        bright = [np.argwhere(image > self.bound) for image in outputs]
        values = [image[tuple(places.T)] for image, places in zip(outputs, bright, strict=True)]
        return {
            OFFSETS: np.concatenate([[0], np.cumsum([len(places) for places in bright])]).astype(np.int64),
            "mean": outputs.mean((1, 2)).astype(np.float32),
            "place": np.concatenate(bright).astype(np.int32).reshape(-1, 2),
            "value": np.concatenate(values).astype(np.uint8),
        }

    def empty(self, images, offsets):
        sizes = {name: (offsets[-1] if one.ragged else images) for name, one in self.fields().items()}
        arrays = {name: np.empty((sizes[name], *one.shape), one.dtype) for name, one in self.fields().items()}
        items = {name: torch.from_numpy(arrays[name]) for name in ("place", "value")}
        return Spotted(torch.from_numpy(offsets), items, torch.from_numpy(arrays["mean"])), arrays

    def difference(self, stored, outputs):
        return (stored.mean - torch.from_numpy(outputs.mean((1, 2)))).abs().float()

    def text(self):
        return f"spots above {self.bound}"


class Spotted(RaggedLabels):
    def __init__(self, offsets, items, mean):
        super().__init__(offsets, items)
        self.mean = mean

    def index(self, rows):
        part = super().index(rows)
        part.mean = self.mean[torch.as_tensor(rows)]
        return part


class Spotter(FakeTeacher):
    """Looks at the red of a picture; has none to three spots in most."""

    kind = "spots"

    def __init__(self, name="spotter", bound=220, pause=0.0):
        super().__init__(name, 1, 0, pause)
        self.bound = bound
        self.fingerprint = {"bound": bound}

    def look(self, pixels):
        self.batches.append(len(pixels))
        return pixels[:, 0].numpy()


class Detector(FakeTeacher):
    """Finds as many boxes as the first pixel says, most of them unlikely."""

    kind = "boxes"

    def __init__(self, name="detector", shift=0.0):
        super().__init__(name, 3)
        self.shift = shift
        self.fingerprint = {"boxes": "from pixels", "precision": "fp32"}

    def detect(self, pixels):
        self.batches.append(len(pixels))
        found = []
        for image in pixels.flatten(1).float():
            count = int(image[0]) % 7
            boxes = image[: 4 * count].reshape(count, 4) / 255
            logits = image[-3 * count :].reshape(count, 3) / 20 - 8 if count else torch.empty(0, 3)
            found.append(((boxes + self.shift).clamp(0, 1), logits))
        return found


def label(folder, teachers, images=50, count=2, mixed=True, **options):
    source = FakeSource(images, 3)
    options = {"batch_size": 8, "rows_per_shard": 16, "progress": False} | options
    return write_labels(folder, source, FakeViews(source, mixed), teachers, count, **options)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def spots(image: np.ndarray, bound: int) -> tuple[list, list]:
    places = np.argwhere(image > bound)
    return places.tolist(), image[tuple(places.T)].tolist()


@pytest.mark.parametrize("mixed", [False, True])
def test_a_record_from_outside_is_stored_and_given_back_image_by_image(tmp_path, mixed):
    """Beside softmax labels of the same images, in the order of the source, whatever order they were labelled in."""
    store = label(tmp_path, [Spotter(), FakeTeacher("a", 3)], mixed=mixed)
    views = FakeViews(FakeSource(50, 3), mixed)
    for view in (0, 1):
        pixels = views.render(np.arange(50), view).pixels[:, 0].numpy()
        labels = store.read("spotter", view)
        assert len(labels) == 50
        for row in range(50):
            found = labels[row]
            assert (found["place"].tolist(), found["value"].tolist()) == spots(pixels[row], 220)
        assert torch.allclose(labels.mean, torch.from_numpy(pixels.mean((1, 2))).float())
        assert len({len(labels[row]["value"]) for row in range(50)}) > 2  # from none to some
    assert store.record("spotter") == Spots(1, 0, 220)
    assert store.read("a", 0).logits.shape == (50, 3)


def test_a_batch_of_ragged_labels_is_gathered_in_any_order_also_twice(tmp_path):
    labels = label(tmp_path, [Spotter()]).read("spotter", 0)
    rows = [7, 3, 3, 49, 0]
    part = labels.index(np.array(rows)).to("cpu")
    assert len(part) == 5
    for place, row in enumerate(rows):
        for name in ("place", "value"):
            assert torch.equal(part[place][name], labels[row][name])
    assert part.rows.tolist() == [place for place, row in enumerate(rows) for _ in labels[row]["value"]]
    assert len(labels.index(np.empty(0, np.int64))) == 0


def test_a_process_may_read_only_its_own_images(tmp_path):
    store = label(tmp_path, [Spotter()])
    rows, whole = np.array([1, 2, 20, 33, 49]), store.read("spotter", 1)
    part = store.read("spotter", 1, rows)
    assert len(part) == 5
    for place, row in enumerate(rows.tolist()):
        assert torch.equal(part[place]["place"], whole[row]["place"])
    assert torch.equal(part.mean, whole.mean[rows])


def test_stopped_and_shared_the_bytes_are_those_of_one_run(tmp_path):
    label(tmp_path / "whole", [Spotter()])
    label(tmp_path / "parts", [Spotter()], count=1)
    store = label(tmp_path / "parts", [Spotter()])
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    store.shards("spotter", 1)[2][0].unlink()
    teacher = Spotter()
    label(tmp_path / "parts", [teacher])
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert sum(teacher.batches) <= 16 + 4 + 4 + 8  # one shard, and what the plan looked at


def test_merged_shards_that_overlap_read_as_one(tmp_path):
    """Two stores of the same labels, cut differently."""
    whole = label(tmp_path / "whole", [Spotter()])
    other = label(tmp_path / "other", [Spotter()], rows_per_shard=24)
    for path, _ in other.shards("spotter", 0)[1:]:
        shutil.copy(path, whole.shards("spotter", 0)[0][0].with_name(path.name))
    merged = LabelStore(tmp_path / "whole")
    assert len(merged.shards("spotter", 0)) > len(other.shards("spotter", 0))
    one, two = merged.read("spotter", 0), other.read("spotter", 0)
    assert torch.equal(one.offsets, two.offsets)
    assert all(torch.equal(one.items[name], two.items[name]) for name in one.items)


def test_any_flipped_byte_of_a_ragged_shard_is_found(tmp_path, monkeypatch):
    store = label(tmp_path, [Spotter()], images=4, count=1)
    path, _ = store.shards("spotter", 0)[0]
    good = path.read_bytes()
    start = shards._read_header(path).start  # what stands before is as in dense shards
    assert len(good) > start + 100
    for place in range(start, len(good)):
        monkeypatch.setattr(shards, "_verified", set())
        path.write_bytes(good[:place] + bytes([good[place] ^ (1 << place % 8)]) + good[place + 1 :])
        with pytest.raises(PocketError, match=f"{path} is damaged"):
            read_shard(path)


def test_offsets_that_fit_no_records_are_refused_though_their_checksums_fit(tmp_path):
    path, info = label(tmp_path, [Spotter()], images=10, count=1).shards("spotter", 0)[0]
    arrays = {name: array.copy() for name, array in read_shard(path)[1].items()}
    arrays[OFFSETS][3] = arrays[OFFSETS][-1] + 1
    write_shard(path, info, arrays)
    with pytest.raises(PocketError, match="offsets do not fit"):
        LabelStore(tmp_path).read("spotter", 0)


def test_the_plan_counts_what_ragged_records_take(tmp_path):
    plan = plan_labels(500, [Spotter()], FakeViews(FakeSource(500, 3), True), 1, batch_size=50, rows_per_shard=500)
    label(tmp_path, [Spotter()], images=500, count=1, batch_size=50, rows_per_shard=500)
    written = sum(len(data) for name, data in contents(tmp_path).items() if name.endswith("safetensors"))
    assert 0.8 * written < plan.bytes < 1.5 * written
    assert "spots above 220, about" in plan.text()


def test_verify_asks_the_record_how_far_it_is_off(tmp_path):
    source = FakeSource(50, 3)
    views = FakeViews(source, True)
    store = label(tmp_path, [Spotter()])
    assert verify(store, source, views, [Spotter()], records=20)[0].worst < 1e-3

    class Brighter(Spotter):
        def look(self, pixels):
            return super().look(pixels) + 1.0

    with pytest.raises(PocketError, match="not what the teacher says now"):
        verify(store, source, views, [Brighter()], records=20)


def test_numbers_that_are_not_finite_name_the_image_also_behind_offsets(tmp_path):
    class Broken(Detector):
        def detect(self, pixels):
            found = super().detect(pixels)
            _, logits = next(one for one in found[2:] if len(one[0]))
            logits[-1] = float("nan")
            return found

    with pytest.raises(PocketError, match=r"not finite.*for 1 images of a batch, first image-\d+"):
        label(tmp_path, [Broken()], mixed=False)


def test_outputs_of_another_form_name_the_teacher(tmp_path):
    class Wide(Detector):
        def detect(self, pixels):
            return [(torch.zeros(2, 5), torch.zeros(2, 3)) for _ in pixels]

    with pytest.raises(PocketError, match=r"the teacher detector returned boxes \[2, 5\]"):
        label(tmp_path, [Wide()])


def test_boxes_come_back_in_16_bits_and_only_the_likely_ones(tmp_path):
    store = label(tmp_path, [Detector()], k=3)
    assert store.record("detector") == Boxes(3, 3)
    labels, views = store.read("detector", 0), FakeViews(FakeSource(50, 3), True)
    kept = 0
    for row, (boxes, logits) in enumerate(Detector().detect(views.render(np.arange(50), 0).pixels)):
        scores = logits.sigmoid().amax(1) if len(logits) else torch.empty(0)
        best = scores.topk(min(3, len(scores))).indices
        best = best[scores[best] >= 0.01].sort().values  # in the detector's order
        part = labels.index(torch.tensor([row]))
        assert torch.allclose(part.boxes, boxes[best], atol=1 / 65535)
        assert torch.allclose(part.logits, logits[best], atol=4e-3)
        kept += len(best)
    assert kept == len(labels.boxes) > 40
    assert int(labels.offsets.diff().max()) == 3


@pytest.mark.parametrize("shift", [0.0, 0.02])
def test_boxes_are_verified_by_the_nearest_one(tmp_path, shift):
    source = FakeSource(50, 3)
    views = FakeViews(source, True)
    store = label(tmp_path, [Detector()])
    if shift:
        with pytest.raises(PocketError, match="not what the teacher says now"):
            verify(store, source, views, [Detector(shift=shift)], records=30)
    else:
        assert verify(store, source, views, [Detector()], records=30)[0].worst < 2e-3


def test_a_missing_box_counts_by_how_far_it_stands_above_the_threshold():
    record, box = Boxes(1, 0, least=0.25), torch.tensor([[0.5, 0.5, 0.1, 0.1]])
    score = torch.tensor([[0.0]])  # probability 1/2
    none = (torch.empty(0, 4), torch.empty(0, 1))
    labels, arrays = record.empty(1, np.array([0, 1]))
    encoded = record.encode([(box, score)], torch.zeros(1, 2))
    for name, array in arrays.items():
        array[:] = encoded[name]
    assert record.difference(labels, [none]).tolist() == pytest.approx([0.25])
    assert record.difference(labels, [(box, score)]).tolist() == pytest.approx([0.0], abs=1e-4)
    assert record.difference(labels, [(box + 0.1, score)]).tolist() == pytest.approx([0.1], abs=1e-4)


def test_a_softmax_detector_keeps_no_object_and_is_scored_without_it():
    record = Boxes(2, activation="softmax")
    assert record.fields()["logits"].shape == (3,)
    logits = torch.tensor([[1.0, 2.0, 9.0], [3.0, 0.0, 0.0]])
    assert torch.allclose(record.scores(logits), logits.softmax(1)[:, :2].amax(1))


def test_older_versions_are_told_to_update_and_unknown_kinds_to_import(tmp_path):
    """Kinds that version 0.1 knows keep its format; others say that they are newer."""
    store = label(tmp_path, [Spotter(), FakeTeacher("a", 3)])
    formats = {one["teacher"]["name"]: one["format"] for one in store.manifest.values()}
    assert formats == {"spotter": 2, "a": 1}
    assert store.shards("spotter", 0)[0][1].format == 2
    manifest = next(path for path in tmp_path.glob("spotter-*/manifest.json"))
    manifest.write_text(manifest.read_text().replace('"spots"', '"dots"'))
    with pytest.raises(PocketError, match="no labels of the kind 'dots' here"):
        LabelStore(tmp_path).read("spotter", 0)


def test_shards_stay_small_whatever_a_record_takes():
    """Features of large layers are bounded by bytes, not only by rows and time."""

    class Wide(FakeTeacher):
        kind, num_outputs = "layer", 100_000

        def logits(self, pixels):
            return torch.zeros(len(pixels), self.num_outputs)

    teacher = Wide()
    teacher.num_outputs = 100_000
    plan = plan_labels(10_000, [teacher], FakeViews(FakeSource(SIDE)), 1, batch_size=8, probe=False)
    assert plan.rows_per_shard * plan.record_bytes[0] <= 128 << 20
    assert plan.rows_per_shard > 600
