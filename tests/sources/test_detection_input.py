"""Bad annotations: one clear message each, or a count where the rest can go on. No file outside the folder is read."""

from __future__ import annotations

import contextlib
import json

import pytest
import yaml
from drawn_boxes import scenes, write_coco, write_voc, write_yolo
from PIL import Image

from pocketvit.errors import PocketError
from pocketvit.sources import open_images
from pocketvit.sources.unlabelled import unlabelled_as


def opened(path, **options):
    return open_images(path, progress=False, **({"val_fraction": 0} | options))


@pytest.fixture
def coco(tmp_path):
    """A COCO folder, and a function that edits its document."""
    folder = write_coco(tmp_path / "coco", scenes({"train": 6}))
    path = folder / "annotations" / "instances_train.json"

    def edit(change) -> None:
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return folder, edit


@pytest.fixture
def voc(tmp_path):
    return write_voc(tmp_path / "voc", scenes({"train": 6}))


@pytest.fixture
def yolo(tmp_path):
    """A YOLO folder, and a function that changes its data.yaml."""
    folder = write_yolo(tmp_path / "yolo", scenes({"train": 6}))

    def edit(**changes) -> None:
        path = folder / "data.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))

    return folder, edit


def said(dataset, text: str) -> bool:
    return any(text in note for note in dataset.notes)


def test_impossible_boxes_are_left_out_and_counted(coco):
    folder, edit = coco
    before = opened(folder).train.targets

    def spoil(document):
        box = dict(document["annotations"][0])
        for number, sides in enumerate(
            ([5, 5, 0, 4], [5, 5, 4, -1], [60, 5, 4, 4], [-20, 0, 10, 5], [1, None, 3, 4], [40, 30, 30, 4], box["bbox"])
        ):
            document["annotations"].append({**box, "id": 100 + number, "bbox": sides})

    edit(spoil)
    dataset = opened(folder)
    assert len(dataset.train.targets.labels) == len(before.labels) + 1
    assert said(dataset, "2 boxes of zero or negative size were left out (train/train01.png first)")
    assert said(dataset, "2 boxes outside their image were left out")
    assert said(dataset, "1 box with numbers that are not finite was left out")
    assert said(dataset, "1 box that stand twice was left out")
    assert said(dataset, "1 box that reach beyond their image was cut off at its border")
    assert dataset.train.targets.corners[:, 2].max() == 48


def test_ids_that_stand_twice_are_refused(coco):
    folder, edit = coco
    edit(lambda document: document["images"].append(dict(document["images"][0], file_name="train05.png")))
    with pytest.raises(PocketError, match="image id 10 twice"):
        opened(folder)


def test_a_file_that_is_named_twice_is_refused(coco):
    folder, edit = coco
    edit(lambda document: document["images"].append(dict(document["images"][0], id=99)))
    with pytest.raises(PocketError, match=r"names train00.png twice, with the ids 10 and 99"):
        opened(folder)


def test_a_category_id_with_two_names_is_refused(coco):
    folder, edit = coco
    edit(lambda document: document["categories"].append({"id": 5, "name": "other"}))
    with pytest.raises(PocketError, match="category id 5 twice: 'bar' and 'other'"):
        opened(folder)


def test_ids_of_categories_may_be_texts_and_outlines_stand_for_boxes(coco):
    folder, edit = coco
    before = opened(folder).train.targets

    def change(document):
        for category in document["categories"]:
            category["id"] = str(category["id"])
        for note in document["annotations"]:
            note["category_id"] = str(note["category_id"])
            x, y, width, height = note.pop("bbox")
            note["segmentation"] = [[x, y, x + width, y], [x + width, y + height, x, y + height]]

    edit(change)
    assert opened(folder).train.targets.same(before)


def test_corners_in_place_of_sides_are_refused(coco):
    folder, edit = coco

    def change(document):
        for note in document["annotations"]:
            x, y, width, height = note["bbox"]
            note["bbox"] = [x, y, x + width, y + height]

    edit(change)
    with pytest.raises(PocketError, match=r"look like left, top, right, bottom .*COCO's are left, top, width, height"):
        opened(folder)


def test_boxes_without_image_or_category_are_counted(coco):
    folder, edit = coco
    before = len(opened(folder).train.targets.labels)

    def spoil(document):
        document["annotations"][0]["image_id"] = 77
        document["annotations"][1]["category_id"] = 78

    edit(spoil)
    dataset = opened(folder)
    assert len(dataset.train.targets.labels) == before - 2
    assert said(dataset, "1 boxes in instances_train.json are of images that it does not list")
    assert said(dataset, "1 boxes in instances_train.json are of unknown categories (78)")


def test_images_missing_on_either_side_are_counted(coco):
    folder, edit = coco
    edit(lambda document: document["images"].pop(2))
    (folder / "train" / "train04.png").unlink()
    dataset = opened(folder)
    assert len(dataset.train) == 4
    assert ("train04.png", "is named in instances_train.json but is not there") in dataset.checks.broken
    assert said(dataset, "1 images in coco are in no annotation file")


def test_what_is_no_coco_is_said(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text('{"images": []}')
    with pytest.raises(PocketError, match="no list of annotations, categories"):
        opened(path)
    path.write_text("{")
    with pytest.raises(PocketError, match="cannot be read as JSON"):
        opened(path)


@pytest.mark.parametrize("value", [None, [], [1], {"a": 1}, "x", True, -1, 1e300, float("nan"), 10**30])
def test_values_of_another_type_are_one_sentence_or_are_read(coco, value):
    folder, edit = coco
    whole = json.loads((folder / "annotations" / "instances_train.json").read_text())
    for part in ("images", "annotations", "categories"):
        for name in whole[part][0]:
            edit(lambda document, part=part, name=name: document[part][0].update({name: value}))
            with contextlib.suppress(PocketError):
                opened(folder)
            edit(lambda document: document.update(whole))


def test_two_files_of_one_split_are_refused(coco):
    folder, _ = coco
    path = folder / "annotations" / "instances_train.json"
    (folder / "annotations" / "instances_training2.json").write_text(path.read_text())
    with pytest.raises(PocketError, match="which all mean train"):
        opened(folder)


def test_splits_that_are_not_there_or_are_the_training_images_are_held_out(tmp_path):
    folder = write_yolo(tmp_path / "yolo", scenes({"train": 40}))
    path = folder / "data.yaml"

    def change(**changes):
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))

    change(test="../test/images", val="images/train", path="/content/scenes")
    dataset = opened(folder, val_fraction=0.1)
    assert len(dataset.val) > 0
    assert len(dataset.test) > 0
    assert said(dataset, "names ../test/images as test, which is not there")
    assert said(dataset, "names the same images as train and as val: they count as train")
    (folder / "few.txt").write_text("images/train/train01.png\n")
    change(val="few.txt")
    with pytest.raises(PocketError, match="in the splits train and val"):
        opened(folder)


def test_boxes_before_keypoints_are_no_outlines(yolo):
    folder, change = yolo
    before = opened(folder).train.targets
    change(kpt_shape=[2, 3])
    for path in (folder / "labels" / "train").iterdir():
        path.write_text("\n".join(f"{line} 0.1 0.1 2 0.9 0.9 2" for line in path.read_text().split("\n") if line))
    dataset = opened(folder)
    assert dataset.train.targets.same(before)
    assert said(dataset, "keypoints are left out")


def test_absolute_names_of_another_machine_are_found_by_their_last_part(coco, voc):
    folder, edit = coco
    before = opened(folder).train.targets

    def move(document):
        for image in document["images"]:
            image["file_name"] = "/home/other/" + image["file_name"]

    edit(move)
    assert opened(folder).train.targets.same(before)
    for path in (voc / "Annotations").iterdir():
        path.write_text(path.read_text().replace("<filename>", "<filename>/home/other/"))
    assert len(opened(voc).train) == 6


def test_images_that_are_not_there_are_told_before_classes(voc):
    for path in (voc / "JPEGImages").iterdir():
        path.unlink()
    with pytest.raises(PocketError, match="name no image that is there"):
        opened(voc)


def test_yolo_without_its_yaml_file_is_recognized(yolo):
    folder, _ = yolo
    (folder / "data.yaml").unlink()
    with pytest.raises(PocketError, match=r"looks like YOLO without its data.yaml.*train: images/train"):
        opened(folder)
    for path in (folder / "labels" / "train").iterdir():
        path.rename(folder / "images" / "train" / path.name)
    with pytest.raises(PocketError, match=r"looks like YOLO without its data.yaml.*train: images/train"):
        opened(folder)
    with pytest.raises(PocketError, match=r"looks like YOLO without its data.yaml.*train: \. "):
        opened(folder / "images" / "train")  # LabelImg's, with classes.txt


def test_no_file_outside_the_folder_is_read(tmp_path, coco, yolo, voc):
    Image.new("RGB", (48, 40)).save(tmp_path / "secret.png")
    folder, edit = coco

    def climb(document):
        document["images"][0]["file_name"] = "../../secret.png"
        document["images"][1]["file_name"] = str(tmp_path / "secret.png")

    edit(climb)
    dataset = opened(folder)
    assert len(dataset.train) == 4
    why = dict(dataset.checks.broken)
    assert "is not there" in why["../../secret.png"]  # wherever in the folder that could be
    assert "leaves the folder" in why[str(tmp_path / "secret.png")]
    folder, change = yolo
    (folder / "train.txt").write_text("./images/train/train01.png\n../secret.png\n")
    change(train="train.txt")
    dataset = opened(folder)
    assert len(dataset.train) == 1
    assert ("../secret.png", "leaves the folder of its annotations; move the image into it") in dataset.checks.broken
    change(train=str(tmp_path))
    with pytest.raises(PocketError, match="which is outside its folder"):
        opened(folder)
    change(train="images/train", path=str(tmp_path))
    with pytest.raises(PocketError, match="which is outside its folder"):
        opened(folder)
    (tmp_path / "apart").mkdir()
    document = yaml.safe_load((folder / "data.yaml").read_text())
    (tmp_path / "apart" / "data.yaml").write_text(yaml.safe_dump({**document, "path": f"../{folder.name}"}))
    with pytest.raises(PocketError, match=rf"`path: ../{folder.name}`, which is outside its folder"):
        opened(tmp_path / "apart" / "data.yaml")
    path = voc / "Annotations" / "train01.xml"
    path.write_text(path.read_text().replace("train01.png", "../../secret.png"))
    dataset = opened(voc)
    assert len(dataset.train) == 5
    assert any("leaves the folder" in why for _, why in dataset.checks.broken)


def test_xml_entities_are_never_resolved(tmp_path, voc):
    (tmp_path / "secret.txt").write_text("blob")
    path = voc / "Annotations" / "train01.xml"
    entity = f'<!DOCTYPE annotation [<!ENTITY x SYSTEM "file://{tmp_path}/secret.txt">]>'
    path.write_text(entity + path.read_text().replace("<name>blob", "<name>&x;"))
    (voc / "Annotations" / "train02.xml").write_text("<annotation><object>")
    dataset = opened(voc)
    assert len(dataset.train) == 4
    why = dict(dataset.checks.broken)
    assert "never resolved" in why["Annotations/train01.xml"]
    assert "cannot be read as XML" in why["Annotations/train02.xml"]


def test_voc_lists_that_overlap_or_name_nothing(voc):
    lists = voc / "ImageSets" / "Main"
    (lists / "train.txt").write_text("train01\ntrain02\ntrain09\n")
    dataset = opened(voc)
    assert len(dataset.train) == 2
    assert ("train09", "is named in the train list of ImageSets but is not there") in dataset.checks.broken
    assert said(dataset, "4 annotations of voc are in no list of ImageSets")
    (lists / "val.txt").write_text("train02\n")
    with pytest.raises(PocketError, match="train02 is in the lists of"):
        opened(voc)


def test_an_image_of_another_size_than_annotated_is_left_out(voc):
    path = voc / "JPEGImages" / "train03.png"
    Image.open(path).resize((96, 80)).save(path)
    dataset = opened(voc)
    assert len(dataset.train) == 5
    assert ("JPEGImages/train03.png", "is 96x80, but its boxes were measured in 48x40") in dataset.checks.broken


def test_yolo_classes_and_lines_are_checked(yolo):
    folder, change = yolo
    path = folder / "labels" / "train" / "train01.txt"
    path.write_text("7 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n")
    dataset = opened(folder)
    assert dataset.train.targets[1].counts.tolist() == [1]
    assert said(dataset, "1 boxes are of classes (7) that data.yaml does not name")
    path.write_text("0 0.5 0.5 0.1\n")
    with pytest.raises(PocketError, match=r"train01.txt line 1 has 4 numbers"):
        opened(folder)
    path.write_text("dot 0.5 0.5 0.1 0.1\n")
    with pytest.raises(PocketError, match="line 1 is no `class cx cy width height`"):
        opened(folder)
    path.unlink()
    assert said(opened(folder), "1 images have no txt file")
    change(names=["a", "a", "b"])
    with pytest.raises(PocketError, match="class 'a' twice"):
        opened(folder)
    change(names=["a", "b", "c"], nc=4)
    with pytest.raises(PocketError, match="nc: 4, but names 3"):
        opened(folder)
    change(nc=3, train="images/nowhere")
    with pytest.raises(PocketError, match="names images/nowhere, which is not there"):
        opened(folder)


def test_a_folder_in_two_formats_asks_which(tmp_path):
    drawn = scenes({"train": 4})
    folder = write_voc(tmp_path / "both", drawn)
    write_yolo(folder, drawn)
    with pytest.raises(PocketError, match=r"several formats: Pascal VOC \(XML\), YOLO \(data.yaml\)"):
        opened(folder)


def test_images_that_are_all_empty_teach_nothing(yolo):
    folder, _ = yolo
    for path in (folder / "labels" / "train").iterdir():
        path.write_text("")
    with pytest.raises(PocketError, match="has a box: there is nothing to learn"):
        opened(folder)


def test_boxes_are_not_cut_into_tiles(voc):
    with pytest.raises(PocketError, match="leave --tile away"):
        opened(voc, tile=16)


def test_a_broken_image_goes_with_its_boxes(yolo):
    folder, _ = yolo
    (folder / "images" / "train" / "train02.png").write_bytes(b"no image")
    dataset = opened(folder)
    assert len(dataset.train) == 5
    assert len(dataset.train.targets) == 5
    assert not any("outside" in note or "zero" in note for note in dataset.notes)


def test_images_without_annotations_become_a_set_that_nobody_looked_at(tmp_path):
    for number, size in enumerate(((30, 20), (20, 30), (24, 24))):
        Image.new("RGB", size, (number, 9, 9)).save(tmp_path / f"{number}.png")
    dataset = unlabelled_as(open_images(tmp_path, val_fraction=0), "detection", 2)
    assert dataset.task == "detection"
    assert dataset.train.targets.sizes.tolist() == [[20, 30], [30, 20], [24, 24]]
    assert not dataset.train.targets.known.any()
    assert len(dataset.train.targets) == 3
    several = unlabelled_as(open_images(tmp_path, val_fraction=0), "multilabel", 2)
    assert (several.train.targets == -1).all()
    assert several.train.targets.shape == (3, 2)
