"""Any detector is a teacher: its boxes, logits and classes come out in one form, whatever its own."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from pocketvit.errors import PocketError
from pocketvit.labels import record_of
from pocketvit.models import save_model
from pocketvit.models.decoding import best_boxes
from pocketvit.models.detector import create_detector
from pocketvit.tasks import task_named
from pocketvit.teachers import align, detector_teacher, hugging_face, load_teacher
from pocketvit.teachers.classes import without_background
from pocketvit.teachers.detector_forms import FAMILIES
from pocketvit.teachers.detectors import _classes_in

SIDE = 32


class Set(nn.Module):
    """A fixed answer of three boxes, as detectors of transformers give it."""

    def __init__(self, logits) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.tensor(logits, dtype=torch.float32))
        self.seen: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen = x
        boxes = torch.tensor([[0.5, 0.5, 1, 1], [0.25, 0.25, 0.5, 0.5], [0.75, 0.5, 0.25, 0.5]])
        return {"logits": self.answer.expand(len(x), -1, -1), "pred_boxes": boxes.expand(len(x), -1, -1)}


LOGITS = [[2.0, -1.0, 0.0], [-3.0, 1.0, 0.5], [0.0, 0.0, 4.0]]
PIXELS = torch.randint(0, 256, (2, 3, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_a_sigmoid_and_a_softmax_are_read_each_by_its_rule():
    sigmoid = detector_teacher(Set(LOGITS), activation="sigmoid", input_size=SIDE)
    softmax = detector_teacher(Set(LOGITS), activation="softmax", input_size=SIDE)
    assert (sigmoid.num_outputs, softmax.num_outputs) == (3, 2)
    logits = torch.tensor(LOGITS)
    outputs = sigmoid.logits(PIXELS)
    assert torch.allclose(outputs[1, :, 4:], logits.sigmoid())
    assert torch.allclose(outputs[1, :, :4], torch.tensor([[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.625, 0.25, 0.875, 0.75]]))
    assert torch.allclose(softmax.logits(PIXELS)[0, :, 4:], logits.softmax(1)[:, :2])
    assert sigmoid.module.seen.shape == (2, 3, SIDE, SIDE)


def test_what_is_not_known_is_asked_for():
    with pytest.raises(PocketError, match="give activation='sigmoid'"):
        detector_teacher(Set(LOGITS), input_size=SIDE)
    with pytest.raises(PocketError, match="4 class names"):
        detector_teacher(Set(LOGITS), activation="sigmoid", input_size=SIDE, classes="abcd")
    with pytest.raises(PocketError, match="must return `logits`"):
        detector_teacher(nn.Flatten(), activation="sigmoid", input_size=SIDE)
    with pytest.raises(PocketError, match="cannot take a picture of 3 x 32 x 32"):
        detector_teacher(nn.Linear(5, 5), activation="sigmoid", input_size=SIDE)


def test_a_form_of_ones_own_needs_one_function():
    class Mine(nn.Module):
        def forward(self, x):
            return [torch.full((len(x), 5, 4), 0.5), torch.zeros(len(x), 5, 2)]

    teacher = detector_teacher(Mine(), activation="sigmoid", read=tuple, input_size=SIDE, classes=("a", "b"))
    boxes, logits = teacher.detect(PIXELS)[0]
    assert (boxes.shape, logits.shape) == ((5, 4), (5, 2))


def test_classes_are_mapped_by_name():
    names = ("Cat", "dog", "a bird")
    sigmoid = detector_teacher(Set(LOGITS), activation="sigmoid", input_size=SIDE, classes=names)
    mapped = align(sigmoid, ("a_bird", "cat"))
    assert mapped.columns.tolist() == [2, 0]
    assert "2 of its 3 classes matched by name" in mapped.notes[-1]
    assert torch.allclose(mapped.detect(PIXELS)[0][1], torch.tensor(LOGITS)[:, [2, 0]])
    assert mapped.fingerprint != sigmoid.fingerprint
    assert align(sigmoid, ("cat", "fish")) is None
    softmax = detector_teacher(Set(LOGITS), activation="softmax", input_size=SIDE, classes=names[:2])
    mapped = align(softmax, ("dog",))
    logits = mapped.detect(PIXELS)[0][1]
    expected = torch.tensor(LOGITS).softmax(1)[:, 1]
    assert torch.allclose(logits.softmax(1)[:, 0], expected)  # not renormalized over the classes that are left
    record = record_of(mapped)
    assert record.fields()["logits"].shape == (2,)
    stored = record.encode(mapped.detect(PIXELS), torch.zeros(2, 2))
    assert len(stored["boxes"]) == 6


def test_our_detectors_are_teachers(tmp_path):
    torch.manual_seed(0)
    detector = create_detector("pocket_xs", num_classes=2, image_size=SIDE, channels=32, convs=1).eval()
    nn.init.constant_(detector.head.classification_head.cls_logits.bias, 0.0)
    save_model(detector, tmp_path, classes=("a", "b"), task=task_named("detection"))
    teacher = load_teacher(str(tmp_path))
    assert (teacher.kind, teacher.classes, teacher.input_size, teacher.num_outputs) == ("boxes", ("a", "b"), SIDE, 2)
    outputs, own = teacher.logits(PIXELS), detector(teacher._input(PIXELS))
    assert torch.allclose(outputs[..., 4:], own[..., 4:], atol=1e-5)
    found = teacher.detect(PIXELS)
    answers = best_boxes(own)
    for (boxes, logits), rows in zip(found, answers, strict=True):
        kept = {round(float(score), 4) for score in logits.sigmoid().flatten()}
        assert {round(float(score), 4) for score in rows[rows[:, 4] > 0][:, 4]} <= kept
        assert len(boxes) <= 100
    dense = teacher.dense(PIXELS)
    assert torch.equal(dense[0], detector.forward_heads(teacher._input(PIXELS))[0])
    teacher.check_unchanged()
    with pytest.raises(PocketError, match="none of ours"):
        detector_teacher(Set(LOGITS), activation="sigmoid", input_size=SIDE).dense(PIXELS)


def test_detectors_of_torchvision_are_teachers_and_nothing_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("weights were fetched"))
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    with pytest.raises(PocketError, match="give it as --weights FILE"):
        load_teacher(f"torchvision:{name}")
    with pytest.raises(PocketError, match="torchvision has no detector 'fcos'"):
        load_teacher("torchvision:fcos")
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=4)
    network.roi_heads.score_thresh = 0.0
    network.transform.min_size, network.transform.max_size = (64,), 64
    path = tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    teacher = load_teacher(f"torchvision:{name}", weights=path, input_size=64)
    assert (teacher.num_outputs, teacher.kind, teacher.mean) == (4, "boxes", (0.0, 0.0, 0.0))
    teacher = detector_teacher(network, input_size=48, classes=("background", "a", "b", "c"))
    with torch.no_grad():
        own = network.eval()([picture / 255 for picture in PIXELS])
    for (boxes, logits), found in zip(teacher.detect(PIXELS), own, strict=True):
        count = len(found["boxes"])
        assert count > 3
        rows = torch.arange(count)
        assert torch.allclose(logits[rows, found["labels"]].sigmoid(), found["scores"], atol=1e-4)
        half = boxes[:count, 2:] / 2
        corners = torch.cat([boxes[:count, :2] - half, boxes[:count, :2] + half], 1) * 48
        assert torch.allclose(corners, found["boxes"], atol=1e-3)
        assert (logits[count:] < -10).all()


@pytest.mark.parametrize(
    "name", ["fcos_resnet50_fpn", "retinanet_resnet50_fpn", "ssd300_vgg16", "ssdlite320_mobilenet_v3_large"]
)
def test_the_classes_in_torchvisions_weights_are_counted(name):
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=4)
    assert _classes_in(network.state_dict()) == 4


def test_the_first_class_of_torchvisions_detectors_is_the_background_where_there_is_one_too_many():
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    network = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=3)
    teacher = detector_teacher(network, input_size=48)
    aligned = align(teacher, ("a", "b"))
    assert aligned.columns.tolist() == [1, 2]
    assert "assumed to be the images' classes in order (1 a, 2 b)" in aligned.notes[-1]
    assert align(teacher, ("a", "b", "c")).columns is None
    assert without_background(teacher).columns.tolist() == [1, 2]  # whatever it is asked for, it never answers 0
    retina = torchvision.models.get_model("retinanet_resnet50_fpn", weights=None, weights_backbone=None, num_classes=3)
    assert without_background(detector_teacher(retina, input_size=48)).columns is None  # here 0 may be a class
    retina = torchvision.models.get_model("retinanet_resnet50_fpn", weights=None, weights_backbone=None)
    assert len(without_background(detector_teacher(retina, input_size=48)).columns) == 80  # of COCO's 91 numbers
    assert align(detector_teacher(Set(LOGITS), activation="sigmoid", input_size=SIDE), ("a", "b")) is None


def test_classes_without_names_are_numbered_as_the_annotations_number_them():
    """A detector was trained on data.yaml's or COCO's numbers, and ours are in the order of their names."""
    classes, yolo, coco = (
        ("apple", "mast", "zebra"),
        {"zebra": 0, "apple": 1, "mast": 2},
        {"apple": 3, "mast": 5, "zebra": 1},
    )

    def columns(network, numbers, **options):
        return align(detector_teacher(network, input_size=48, **options), classes, numbers).columns.tolist()

    def torchvisions(count):
        name = "ssdlite320_mobilenet_v3_large"
        return torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=count)

    assert columns(torchvisions(4), yolo) == [2, 3, 1]  # behind the background
    assert columns(torchvisions(4), coco) == [2, 3, 1]
    assert columns(torchvisions(6), coco) == [3, 5, 1]  # by the very numbers, with their gaps
    aligned = align(detector_teacher(Set(LOGITS), activation="sigmoid", input_size=SIDE), classes, yolo)
    assert aligned.columns.tolist() == [1, 2, 0]
    assert "assumed to be those of the annotations in order (0 zebra, 1 apple, 2 mast)" in aligned.notes[-1]


def test_every_detector_of_transformers_has_its_activation(tmp_path):
    transformers = pytest.importorskip("transformers")
    known = set(transformers.models.auto.modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES)
    documents = {name for name in known if name.startswith("pp_")}  # of pages, with post-processing of their own
    assert known - documents == set(FAMILIES)
    config = transformers.YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, image_size=[SIDE, SIDE],
        patch_size=8, num_detection_tokens=5, use_mid_position_embeddings=False, id2label={0: "a", 1: "b"},
    )  # fmt: skip
    network = transformers.YolosForObjectDetection(config).eval()
    teacher = load_teacher(network)
    assert (teacher.activation, teacher.classes, teacher.input_size) == ("softmax", ("a", "b"), SIDE)
    with torch.no_grad():
        own = network(teacher._input(PIXELS))
    boxes, logits = teacher.detect(PIXELS)[1]
    assert torch.allclose(logits, own.logits[1])
    assert torch.allclose(boxes, own.pred_boxes[1])
    network.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "size": {"height": 40, "width": 40}}'
    )
    loaded = load_teacher(f"local-dir:{tmp_path}", input_size=SIDE)
    assert (loaded.mean, loaded.classes, loaded.input_size) == ((0.5,) * 3, ("a", "b"), SIDE)
    assert load_teacher(tmp_path, norm="half", input_size=SIDE).std == (0.5,) * 3


def test_what_the_hub_says_of_the_input_is_read(tmp_path, monkeypatch):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(
        '{"do_normalize": false, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "size": 640}'
    )
    monkeypatch.setattr(hugging_face, "hf_hub_download", lambda place, name: path if place == "user/detr" else 1 / 0)
    assert hugging_face.processor_of("user/detr") == {"input_size": 640, "norm": ((0.0,) * 3, (1.0,) * 3)}
    assert hugging_face.processor_of("user/nothing") == {}
    path.write_text(
        '{"do_center_crop": true, "size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 8}}'
    )
    assert hugging_face.processor_of("user/detr") == {"input_size": 8}


def test_a_family_that_is_not_normalized_is_not_and_what_is_assumed_is_said():
    network = Set(LOGITS)
    assert any("assumed ImageNet's" in note for note in detector_teacher(network, activation="sigmoid").notes)
    vars(network)["config"] = SimpleNamespace(model_type="rt_detr_v2", id2label={0: "a", 1: "b", 2: "c"})
    teacher = detector_teacher(network)
    assert (teacher.mean, teacher.std) == ((0.0,) * 3, (1.0,) * 3)
    assert any("assumed none (values of 0 to 1)" in note for note in teacher.notes)
    assert not any("normalization" in note for note in detector_teacher(network, norm=((0.5,) * 3, (0.5,) * 3)).notes)


def test_boxes_that_are_not_numbers_stop_the_labelling():
    broken = Set(LOGITS)
    teacher = detector_teacher(broken, activation="sigmoid", input_size=SIDE)
    with torch.no_grad():
        teacher.module.answer.fill_(np.nan)
    with pytest.raises(PocketError, match="not finite"):
        teacher.detect(PIXELS)
