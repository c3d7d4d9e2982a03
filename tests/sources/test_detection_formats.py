"""The same images with boxes are the same dataset in every format, and every layout that users have is found."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from drawn_boxes import CLASSES, WRITERS, coco_document, scenes, voc_document, write_coco, write_voc, write_yolo
from drawn_files import dicom
from PIL import ExifTags, Image

from pocketvit.sources import open_images, pack_dataset
from pocketvit.sources.decode import decode
from pocketvit.sources.detection import upright_size
from pocketvit.sources.subset import Subset, balanced, hide_labels


def opened(path, **options):
    return open_images(path, progress=False, **options)


def same_source(one, other) -> None:
    assert list(one.ids) == list(other.ids)
    assert one.fingerprint == other.fingerprint
    for name, column in one.targets.columns().items():
        np.testing.assert_allclose(column, getattr(other.targets, name), atol=1e-4, err_msg=name)


def test_three_formats_give_one_dataset(tmp_path):
    drawn = scenes()
    datasets = {name: opened(write(tmp_path / name, drawn)) for name, write in WRITERS.items()}
    first = datasets["voc"]
    assert first.classes == tuple(sorted(CLASSES))
    assert first.task == "detection"
    truth = {scene.name: scene for scene in drawn}
    for split, source in first.splits.items():
        names = [name.rsplit("/", 1)[-1] for name in source.names]
        assert names == sorted(scene.name for scene in drawn if scene.split == split)
        for row, name in enumerate(names):
            boxes = source.targets[row]
            expected = [(label, *map(float, sides)) for label, *sides in truth[name].boxes]
            found = [(first.classes[k], *c) for k, c in zip(boxes.labels, boxes.corners.tolist(), strict=True)]
            assert sorted(found) == sorted(expected)
            assert boxes.sizes.tolist() == [[40, 48]]
    for other in ("coco", "yolo"):
        assert datasets[other].classes == first.classes
        assert datasets[other].checks.counts == first.checks.counts
        assert datasets[other].checks.images == first.checks.images
        for split, source in first.splits.items():
            same_source(source, datasets[other].splits[split])


def test_one_file_without_splits_is_divided_alike_in_all_formats(tmp_path):
    drawn = scenes({"train": 24})
    datasets = [opened(write(tmp_path / name, drawn), val_fraction=0.2) for name, write in WRITERS.items()]
    assert {split: len(source) for split, source in datasets[0].splits.items()} == {"train": 14, "val": 5, "test": 5}
    for other in datasets[1:]:
        for split, source in datasets[0].splits.items():
            same_source(source, other.splits[split])


def test_classes_are_in_the_order_of_their_names_whatever_a_file_numbers_first(tmp_path):
    drawn = scenes({"train": 30})
    voc = opened(write_voc(tmp_path / "voc", drawn), val_fraction=0.2)
    yolo = opened(write_yolo(tmp_path / "yolo", drawn, order=("dot", "blob", "bar")), val_fraction=0.2)
    folder = write_coco(tmp_path / "coco", drawn)
    path = folder / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    for category in document["categories"]:
        category["id"] = 12 - category["id"]
    for note in document["annotations"]:
        note["category_id"] = 12 - note["category_id"]
    path.write_text(json.dumps(document))
    for other in (yolo, opened(folder, val_fraction=0.2)):
        assert other.classes == voc.classes == ("bar", "blob", "dot")
        for split, source in voc.splits.items():
            same_source(source, other.splits[split])


def test_the_numbers_of_classes_in_the_annotations_are_kept(tmp_path):
    drawn = scenes()
    numbers = {name: opened(write(tmp_path / name, drawn)).numbers for name, write in WRITERS.items()}
    assert numbers["voc"] == {}
    named = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())["names"]
    assert numbers["yolo"] == {name: number for number, name in named.items()}
    document = json.loads((tmp_path / "coco" / "annotations" / "instances_train.json").read_text())
    assert numbers["coco"] == {one["name"]: one["id"] for one in document["categories"]}


def test_roboflow_layouts_are_found(tmp_path):
    drawn = scenes()
    for place, split in (("train", "train"), ("valid", "val"), ("test", "test")):
        chosen = [scene for scene in drawn if scene.split == split]
        document = coco_document(chosen)
        parent = {"id": 0, "name": "things", "supercategory": "none"}  # which no box is of
        document["categories"] = [parent] + [{**one, "supercategory": "things"} for one in document["categories"]]
        for kind in ("coco", "voc", "yolo"):
            (tmp_path / kind / place).mkdir(parents=True)
        for scene in chosen:
            scene.picture.save(tmp_path / "coco" / place / scene.name)
            scene.picture.save(tmp_path / "voc" / place / scene.name)
            (tmp_path / "voc" / place / scene.name).with_suffix(".xml").write_text(voc_document(scene))
        (tmp_path / "coco" / place / "_annotations.coco.json").write_text(json.dumps(document))
    usual = write_yolo(tmp_path / "usual", drawn)
    for place, split in (("train", "train"), ("valid", "val"), ("test", "test")):
        for kind in ("images", "labels"):
            (usual / kind / split).rename(tmp_path / "yolo" / place / kind)
    names = yaml.safe_load((usual / "data.yaml").read_text())["names"]
    splits = {"train": "../train/images", "val": "../valid/images", "test": "../test/images"}  # as it writes them
    (tmp_path / "yolo" / "data.yaml").write_text(yaml.safe_dump({"nc": 3, "names": list(names.values()), **splits}))
    first, *others = (opened(tmp_path / kind) for kind in ("coco", "voc", "yolo"))
    assert first.classes == tuple(sorted(CLASSES))
    for other in others:
        for split, source in first.splits.items():
            same_source(source, other.splits[split])


def test_files_folders_and_lists_lead_to_the_same_images(tmp_path):
    drawn = scenes()
    voc, coco, yolo = (write(tmp_path / name, drawn) for name, write in WRITERS.items())
    (tmp_path / "kit" / "VOCdevkit").mkdir(parents=True)
    voc.rename(tmp_path / "kit" / "VOCdevkit" / "VOC2007")
    voc = tmp_path / "kit" / "VOCdevkit" / "VOC2007"
    expected = opened(yolo)
    images = sorted((yolo / "images" / "train").iterdir())
    (yolo / "train.txt").write_text("\n".join(f"./images/train/{path.name}" for path in images))
    document = yaml.safe_load((yolo / "data.yaml").read_text())
    (yolo / "listed.yaml").write_text(yaml.safe_dump({**document, "path": "elsewhere/yolo", "train": "train.txt"}))
    ways = (tmp_path / "kit", voc / "Annotations", yolo / "data.yaml", yolo / "listed.yaml")
    for way in ways:
        for split, source in expected.splits.items():
            same_source(source, opened(way).splits[split])
    single = opened(coco / "annotations" / "instances_train.json", val_fraction=0)
    same_source(expected.train, single.train)


@pytest.mark.parametrize("how", ["absolute", "relative"])
def test_absolute_paths_of_this_machine_lead_into_the_folder_however_it_is_named(tmp_path, monkeypatch, how):
    """YOLO's users write `path: /home/me/set`, lists hold absolute names, and the folder is typed as it is near."""
    folder = write_yolo(tmp_path / "yolo", scenes())
    expected = opened(folder)
    monkeypatch.chdir(tmp_path)
    images = sorted((folder / "images" / "train").iterdir())
    (folder / "train.txt").write_text("\n".join(map(str, images)))
    document = yaml.safe_load((folder / "data.yaml").read_text())
    for changes in ({"path": str(folder)}, {"path": str(folder), "train": str(folder / "train.txt")}):
        (folder / "data.yaml").write_text(yaml.safe_dump({**document, **changes}))
        dataset = opened(folder if how == "absolute" else "yolo")
        for split, source in expected.splits.items():
            same_source(source, dataset.splits[split])
    (tmp_path / "link").symlink_to(folder)
    same_source(expected.train, opened("link").train)


@pytest.mark.parametrize("start", ["", "./", "/content/set/", "C:\\sets\\mine\\"])
def test_lists_in_a_folder_of_their_own_name_images_from_the_datasets_folder(tmp_path, start):
    folder = write_yolo(tmp_path / "yolo", scenes())
    expected = opened(folder)
    (folder / "lists").mkdir()
    names = [f"images/train/{path.name}" for path in sorted((folder / "images" / "train").iterdir())]
    if "\\" in start:
        names = [name.replace("/", "\\") for name in names]
    (folder / "lists" / "train.txt").write_text("\n".join(start + name for name in names))
    document = yaml.safe_load((folder / "data.yaml").read_text())
    (folder / "data.yaml").write_text(yaml.safe_dump({**document, "train": "lists/train.txt"}))
    same_source(expected.train, opened(folder).train)


def test_names_may_be_numbered_by_texts(tmp_path):
    folder = write_yolo(tmp_path / "yolo", scenes())
    expected = opened(folder)
    document = yaml.safe_load((folder / "data.yaml").read_text())
    names = {str(number): name for number, name in document["names"].items()}
    (folder / "data.yaml").write_text(yaml.safe_dump({**document, "names": names}))
    same_source(expected.train, opened(folder).train)


def test_the_balance_is_of_classes_that_are_there(tmp_path):
    folder = write_yolo(tmp_path / "yolo", scenes())
    document = yaml.safe_load((folder / "data.yaml").read_text())
    expected = opened(folder).checks.balance
    (folder / "data.yaml").write_text(yaml.safe_dump({**document, "names": [*document["names"].values(), "never"]}))
    dataset = opened(folder)
    assert "never" in dataset.classes
    assert dataset.checks.balance == expected


def test_voc_folders_may_be_written_small(tmp_path):
    folder = write_voc(tmp_path / "voc", scenes())
    expected = opened(folder)
    (folder / "Annotations").rename(folder / "annotations")
    (folder / "JPEGImages").rename(folder / "images")
    for way in (folder, folder / "annotations"):
        for split, source in expected.splits.items():
            same_source(source, opened(way).splits[split])


def test_trainval_is_training_where_there_is_no_train(tmp_path):
    folder = write_voc(tmp_path / "voc", scenes({"train": 8, "test": 3}))
    lists = folder / "ImageSets" / "Main"
    (lists / "train.txt").rename(lists / "trainval.txt")
    dataset = opened(folder, val_fraction=0)
    assert {split: len(source) for split, source in dataset.splits.items()} == {"train": 8, "test": 3}


def test_crowds_and_difficult_objects_are_marked(tmp_path):
    drawn = scenes({"train": 4})
    voc, coco = write_voc(tmp_path / "voc", drawn), write_coco(tmp_path / "coco", drawn)
    for path in (voc / "Annotations").iterdir():
        path.write_text(path.read_text().replace("<difficult>0", "<difficult>1", 1))
    path = coco / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    for note in document["annotations"]:
        note["iscrowd"] = int(note["category_id"] == 6)
    path.write_text(json.dumps(document))
    difficult = opened(voc, val_fraction=0).train.targets
    assert difficult.ignored.sum() == 3  # the first of each image that has any
    crowds = opened(coco, val_fraction=0).train.targets
    assert (crowds.ignored == (crowds.labels == 1)).all()
    assert set(crowds.flags) == {0, 1}


def test_outlines_are_boxes_around_them(tmp_path):
    folder = write_yolo(tmp_path / "yolo", scenes({"train": 3}))
    (folder / "labels" / "train" / "train01.txt").write_text("1 0.25 0.5 0.75 0.25 0.5 0.875\n")
    dataset = opened(folder, val_fraction=0)
    boxes = dataset.train.targets[1]
    assert boxes.corners.tolist() == [[12, 10, 36, 35]]
    assert any("1 outlines" in note for note in dataset.notes)


def test_images_that_nobody_annotated_are_no_images_without_objects(tmp_path):
    drawn = scenes({"train": 6})
    folder = write_voc(tmp_path / "voc", drawn)
    (folder / "Annotations" / "train03.xml").unlink()
    dataset = opened(folder, val_fraction=0)
    assert dataset.train.targets.known.tolist() == [True, True, True, False, True, True]
    assert dataset.train.targets.counts.tolist() == [0, 2, 3, 0, 2, 3]
    assert any("1 images of the lists have no annotation" in note for note in dataset.notes)
    assert any("1 images without objects are kept" in note for note in dataset.notes)


def test_packs_and_subsets_keep_boxes(tmp_path):
    dataset = opened(write_coco(tmp_path / "coco", scenes()))
    packed = pack_dataset(dataset, tmp_path / "packs", progress=False)
    assert packed.train.targets.same(dataset.train.targets)
    assert np.array_equal(packed.train[2][0], dataset.train[2][0])
    again = pack_dataset(dataset, tmp_path / "packs", progress=False)
    assert again.train.targets.same(dataset.train.targets)
    some = Subset(dataset.train, np.array([5, 2]))
    assert some.targets.counts.tolist() == dataset.train.targets.counts[[5, 2]].tolist()
    assert some.target(0).same(dataset.train.targets[5])
    hidden = hide_labels(dataset.train, balanced(dataset.train, 3))
    assert hidden.targets.known.sum() == 3
    assert hidden.targets.counts.sum() == dataset.train.targets.counts[hidden.targets.known].sum()


def test_counts_say_boxes_and_images(tmp_path):
    lines = opened(write_voc(tmp_path / "voc", scenes())).checks.lines()
    assert "train: 8 images" in lines
    assert "classes: 3 (bar, blob, dot), with 2 to 7 training boxes each" in lines


@pytest.mark.parametrize("name", WRITERS)
def test_opening_twice_gives_the_same(tmp_path, name):
    folder = WRITERS[name](tmp_path / name, scenes())
    same_source(opened(folder).train, opened(folder).train)


def turned_files(folder):
    """Write a picture of 12 x 20 in every format that has an orientation, or a reader of its own; turned by 90 degrees.

    Returns the files; all but DICOM are shown as 20 x 12.
    """
    heif = pytest.importorskip("pillow_heif")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    paths = [folder / name for name in ("a.jpg", "b.png", "c.webp", "d.tif")]
    for path in paths:
        picture.save(path, exif=exif)
    heif.from_pillow(picture).save(folder / "e.heic", exif=exif.tobytes())
    (folder / "f.dcm").write_bytes(dicom(np.arange(240, dtype=np.uint16).reshape(12, 20)))
    return [*paths, folder / "e.heic", folder / "f.dcm"]


def test_the_size_that_boxes_lie_in_is_that_of_the_decoded_picture(tmp_path):
    for path in turned_files(tmp_path):
        assert upright_size(path) == decode(path).shape[:2], path.name
    assert upright_size(tmp_path / "d.tif") == (20, 12)


def test_boxes_of_heic_and_dicom_are_kept(tmp_path):
    turned_files(tmp_path)
    sizes = {"a.jpg": (20, 12), "e.heic": decode(tmp_path / "e.heic").shape[:2], "f.dcm": (12, 20)}
    images = [
        {"id": number, "file_name": name, "height": height, "width": width}
        for number, (name, (height, width)) in enumerate(sizes.items())
    ]
    boxes = [{"id": number, "image_id": number, "category_id": 1, "bbox": [2, 3, 6, 5]} for number in range(3)]
    document = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "blob"}]}
    (tmp_path / "train.json").write_text(json.dumps(document))
    dataset = open_images(tmp_path / "train.json", progress=False, val_fraction=0, window=(0, 240))
    assert dataset.train.targets.counts.tolist() == [1, 1, 1]
    assert dataset.train.targets.sizes.tolist() == [list(size) for size in sizes.values()]


def test_an_image_is_never_replaced_by_one_of_another_split(tmp_path):
    folder = write_coco(tmp_path / "coco", scenes({"train": 4, "val": 3}))
    (folder / "val" / "val01.png").rename(folder / "train" / "val01.png")
    dataset = open_images(folder, progress=False)
    assert ("val01.png", "is named in instances_val.json but is not there") in dataset.checks.broken
    assert len(dataset.val) == 2


def test_names_in_lists_may_have_spaces(tmp_path):
    drawn = scenes({"train": 4, "val": 3})
    for scene in drawn:
        scene.name = scene.name.replace("train", "a train ").replace("val", "a val ")
    folder = write_voc(tmp_path / "voc", drawn)
    lists = folder / "ImageSets" / "Main"
    names = (lists / "val.txt").read_text().splitlines()
    (lists / "val.txt").write_text("".join(f"{name}  {number - 1}\n" for number, name in enumerate(names)))
    dataset = open_images(folder, progress=False)
    assert (len(dataset.train), len(dataset.val)) == (4, 3)


@pytest.mark.parametrize("names", ["[yes, no, 007]", "\n- yes\n- no\n- 007", "{0: yes, 1: no, 2: 007}"])
def test_names_stay_as_they_are_written(tmp_path, names):
    """To YAML they are True, False and 7."""
    folder = write_yolo(tmp_path / "yolo", scenes())
    rest = [line for line in (folder / "data.yaml").read_text().splitlines() if ": images" in line]
    (folder / "data.yaml").write_text("\n".join([f"names: {names}", "nc: 3", *rest]))
    assert sorted(open_images(folder).classes) == ["007", "no", "yes"]
