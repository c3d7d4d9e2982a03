"""device.zip runs without PyTorch, gives the same answers, and notices when it does not."""

from __future__ import annotations

import ast
import json
import runpy
import struct
import subprocess
import sys
import zipfile
import zlib
from importlib.resources import files

import numpy as np
import onnx
import pytest
import tifffile
import torch
from PIL import Image

from pocketvit.deployment import OnnxModel, export_onnx, package, predict_images, write_device_zip
from pocketvit.deployment.package import scores_on_device
from pocketvit.errors import PocketError
from pocketvit.sources.decode import decode, to_rgb8
from pocketvit.views.preprocessing import Preprocessing

from .conftest import ABOUT, CLASSES

SCRIPTS = files("pocketvit.deployment") / "device"
# On a device there is no torch and no pocketvit: an import of either fails here as it would there.
WITHOUT_TORCH = (
    "import runpy, sys\n"
    "for name in ('torch', 'torchvision', 'timm', 'pocketvit', 'onnx'): sys.modules[name] = None\n"
    "sys.path.insert(0, '.')\n"
    "sys.argv = sys.argv[1:]\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')\n"
)


def run_on_device(folder, *arguments):
    command = [sys.executable, "-I", "-c", WITHOUT_TORCH, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, encoding="utf-8")


@pytest.fixture(scope="module")
def device():
    """The names of the device's preprocessing.py."""
    return runpy.run_path(str(SCRIPTS / "preprocessing.py"))


@pytest.fixture
def unpacked(plain, tmp_path):
    archive = write_device_zip(tmp_path / "device.zip", plain.int8)
    folder = tmp_path / "device"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder


@pytest.mark.parametrize("fixed", [False, True])
def test_the_readme_says_what_the_file_takes_and_answers(plain, tmp_path, fixed):
    file = export_onnx(plain.model, tmp_path / "m.onnx", classes=CLASSES, preprocessing=ABOUT, fixed_batch=fixed)
    with zipfile.ZipFile(write_device_zip(tmp_path / "device.zip", file)) as packed:
        text = packed.read("README.txt").decode()
    batch = "1" if fixed else "batch"
    assert f'input "pixels": normalized RGB, float32 [{batch}, 3, 32, 32]' in text
    assert f'output "logits": logits, float32 [{batch}, {len(CLASSES)}]' in text
    graph = onnx.load(file).graph
    assert (graph.input[0].name, graph.output[0].name) == ("pixels", "logits")
    assert (graph.output[0].type.tensor_type.shape.dim[0].dim_value == 1) == fixed


@pytest.mark.parametrize("script", package.SCRIPTS)
def test_scripts_need_only_onnxruntime_numpy_and_pillow(script):
    allowed = {"onnxruntime", "numpy", "PIL", "answers", "boxes", "predict", "preprocessing", *sys.stdlib_module_names}
    for node in ast.walk(ast.parse((SCRIPTS / script).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] in allowed


@pytest.mark.parametrize("aspect", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("resample", ["lanczos", "bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("size", [(8, 8), (1, 5), (40, 61), (61, 40), (300, 233)])
@pytest.mark.parametrize("tile", [None, 24])
def test_the_devices_pixels_equal_ours(device, aspect, resample, size, tile):
    """Its numpy resize is written anew; exact sums make it equal nevertheless, to the bit before normalization."""
    about = Preprocessing(28, 20, (0.0,) * 3, (1 / 255,) * 3, resample, aspect=aspect, tile=tile)
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    ours = about.to_input(about.views([picture])).numpy()
    theirs = device["prepare"](picture, about.to_dict())
    np.testing.assert_array_equal(theirs, ours)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "I;16"])
def test_the_device_decodes_as_our_sources_do(device, tmp_path, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    else:
        image = Image.fromarray(pixels, "RGBA").convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    window = (100.0, 40000.0) if mode == "I;16" else None
    np.testing.assert_array_equal(device["load"](path, window), to_rgb8(decode(path), window))


def test_a_photograph_held_upright_is_turned(device, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(device["load"](tmp_path / "a.png"), np.rot90(pixels, -1))


def test_pictures_of_every_kind_are_seen_and_unreadable_ones_named(device, tmp_path):
    kinds = ("a.jfif", "b.jpe", "c.avif", "d.HEIC", "e.pnm")
    for name in (*kinds, "notes.txt"):
        (tmp_path / name).write_bytes(b"no picture at all")
    assert [path.name for path in device["pictures_in"]([tmp_path])] == list(kinds)
    with pytest.raises(ValueError, match="is HEIC, which this Pillow cannot read; save it as JPEG"):
        device["load"](tmp_path / "d.HEIC")


def test_folders_without_pictures_are_named(device, tmp_path):
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert device["without_pictures"]([tmp_path, tmp_path / "empty", tmp_path / "gone.png"]) == [tmp_path / "empty"]


def test_golden_picture_matches_and_times_are_printed(unpacked):
    done = run_on_device(unpacked, "bench.py", "--seconds", "0.05")
    assert done.returncode == 0, done.stderr
    assert "matches" in done.stdout
    assert "p50" in done.stdout
    assert "p90" in done.stdout
    assert "model-int8.onnx" in done.stdout


def test_a_wrong_answer_is_noticed_with_an_exit_code(unpacked):
    golden = json.loads((unpacked / "golden.json").read_text(encoding="utf-8"))
    golden["probabilities"] = golden["probabilities"][::-1]
    (unpacked / "golden.json").write_text(json.dumps(golden), encoding="utf-8")
    done = run_on_device(unpacked, "bench.py", "--json", "--seconds", "0.05")
    assert done.returncode == 1
    assert json.loads(done.stdout)["golden"]["matches"] is False
    assert json.loads(done.stdout)["model"] == golden["model"]
    assert json.loads(done.stdout)["sha256"] == golden["sha256"]
    assert "error" in done.stderr


def test_a_wrong_answer_shows_even_where_every_probability_is_small(unpacked, monkeypatch):
    """With a thousand undecided classes all probabilities agree to 0.03, whatever was computed."""
    monkeypatch.syspath_prepend(str(SCRIPTS))  # bench.py imports the scripts beside it
    bench = runpy.run_path(str(SCRIPTS / "bench.py"))
    monkeypatch.delitem(sys.modules, "predict")
    monkeypatch.delitem(sys.modules, "preprocessing")
    monkeypatch.delitem(sys.modules, "boxes")
    expected, found = (np.random.default_rng(seed).dirichlet(np.full(1000, 50.0)) for seed in (0, 1))
    golden = {"picture": "golden.png", "label": "0", "probabilities": expected, "tolerance": package.TOLERANCE["int8"]}
    bench["check"].__globals__["HERE"] = unpacked

    class Model:
        one_class = True

        def __init__(self, found):
            self.found = found

        def __call__(self, picture):
            return self.found

        def scores(self, found):
            return found

        def answer(self, found):
            return [["0", 1.0]]

    assert np.abs(expected - found).max() < 0.003
    assert bench["check"](Model(expected), golden)["matches"]
    assert not bench["check"](Model(found), golden)["matches"]


def test_predict_on_the_device_answers_as_predict_here(unpacked, plain, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, size in enumerate([(50, 40), (32, 32), (31, 90)]):
        pixels = np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{i}.png")
    done = run_on_device(unpacked, "predict.py", str(pictures), "--json")
    assert done.returncode == 0, done.stderr
    theirs = [json.loads(line) for line in done.stdout.splitlines()]
    ours = [prediction.data for prediction in predict_images(plain.int8, pictures)]
    assert [entry["file"] for entry in theirs] == [entry["file"] for entry in ours]
    assert [entry["label"] for entry in theirs] == [entry["label"] for entry in ours]
    np.testing.assert_allclose([e["score"] for e in theirs], [e["score"] for e in ours], atol=1e-4)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes close otherwise there")
def test_predict_ends_quietly_where_its_reader_has_gone(unpacked):
    process = subprocess.Popen(
        [sys.executable, "predict.py", "golden.png"], cwd=unpacked, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


def test_predict_takes_the_file_that_was_packed(unpacked):
    (unpacked / "a.onnx").write_bytes(b"another, earlier in the alphabet")
    assert run_on_device(unpacked, "predict.py", "golden.png").returncode == 0
    (unpacked / "golden.json").unlink()
    done = run_on_device(unpacked, "predict.py", "golden.png")
    assert "there are 2 .onnx files" in done.stderr
    for model, told in (("a.onnx", "error: a.onnx: "), ("none.onnx", "error: there is no file none.onnx")):
        done = run_on_device(unpacked, "predict.py", "golden.png", "--model", model)
        assert done.returncode == 1
        assert told in done.stderr
        assert "Traceback" not in done.stderr


def test_a_damaged_model_is_noticed_before_it_is_run(unpacked):
    data = bytearray((unpacked / "model-int8.onnx").read_bytes())
    data[len(data) // 2] ^= 0x10
    (unpacked / "model-int8.onnx").write_bytes(data)
    done = run_on_device(unpacked, "bench.py", "--seconds", "0.05")
    assert done.returncode == 1
    assert "is not the file that was packed" in done.stderr


def test_a_picture_that_pillow_would_cut_down_or_not_dare_to_open_is_one_message(device, tmp_path, monkeypatch):
    wide = np.random.default_rng(0).integers(0, 65536, (9, 7, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "wide.tif", wide, photometric="rgb")
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 7, 9, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    (tmp_path / "wide.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    )
    assert decode(tmp_path / "wide.png").dtype == np.uint16
    for name in ("wide.tif", "wide.png"):
        with pytest.raises(ValueError, match="16-bit colour"):
            device["load"](tmp_path / name)
    Image.new("RGB", (40, 40)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="too large to decode safely"):
        device["load"](tmp_path / "bomb.png")


@pytest.mark.parametrize(
    ("dtype", "options", "read"),
    [
        ("uint16", {}, True),
        ("uint16", {"byteorder": ">"}, True),
        ("int16", {}, True),
        ("int32", {}, True),
        ("float32", {}, True),
        ("int8", {}, False),
        ("uint32", {}, False),
        ("uint16", {"photometric": "miniswhite"}, False),
        ("uint8", {"photometric": "miniswhite"}, True),
    ],
)
def test_every_depth_is_read_as_here_or_refused(device, tmp_path, dtype, options, read):
    """Seen of Pillow: uint32 read as int32, int8 as uint8, 16-bit WhiteIsZero not inverted."""
    values = np.arange(-40, 40).reshape(8, 10) if dtype[0] in "if" else np.arange(80).reshape(8, 10)
    path, window = tmp_path / "a.tif", (-40.0, 90.0)
    tifffile.imwrite(path, values.astype(dtype), **options)
    if read:
        np.testing.assert_array_equal(device["load"](path, window), to_rgb8(decode(path), window))
    else:
        with pytest.raises(ValueError, match="that Pillow would misread; save it as 16-bit grey PNG"):
            device["load"](path, window)


def test_a_pnm_above_8_bits_is_refused_for_pillow_stretches_or_cuts_it(device, tmp_path):
    for name, head in (("a.ppm", b"P6 2 2 1023\n"), ("a.pgm", b"P5 2 2 4095\n")):
        (tmp_path / name).write_bytes(head + bytes(24))
        with pytest.raises(ValueError, match="that Pillow would misread"):
            device["load"](tmp_path / name, (0, 1023))


def test_predict_on_the_device_goes_on_after_a_broken_picture(unpacked):
    (unpacked / "broken.png").write_bytes((unpacked / "golden.png").read_bytes()[:200])
    done = run_on_device(unpacked, "predict.py", "broken.png", "--threads", "1", "golden.png", "missing.png")
    golden = json.loads((unpacked / "golden.json").read_text(encoding="utf-8"))
    assert done.returncode == 1
    assert done.stdout.startswith(f"golden.png: {golden['label']}")
    assert "broken.png" in done.stderr
    assert "missing.png" in done.stderr
    assert "Traceback" not in done.stderr


def test_preprocessing_inside_the_graph_packs_as_well(with_picture, tmp_path):
    archive = write_device_zip(tmp_path / "device.zip", with_picture.int8)
    folder = tmp_path / "device"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    done = run_on_device(folder, "bench.py", "--json", "--seconds", "0.05")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["golden"]["difference"] < 1e-5


def test_the_drawn_golden_picture_shows_nothing_of_the_users(plain, tmp_path):
    """And a picture of one's own is packed when it is given."""
    picture = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for golden in (None, picture):
        with zipfile.ZipFile(write_device_zip(tmp_path / "a.zip", plain.int8, golden)) as packed:
            packed.extract("golden.png", tmp_path)
            expected = json.loads(packed.read("golden.json"))
        shown = np.asarray(Image.open(tmp_path / "golden.png"))
        np.testing.assert_array_equal(shown, package.draw_golden(96, 128) if golden is None else picture)
        probabilities = OnnxModel(plain.int8).label([shown])[0]
        np.testing.assert_allclose(expected["probabilities"], probabilities, atol=1e-5)


def test_a_script_that_would_answer_otherwise_is_not_let_out(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(OnnxModel, "label", lambda *_: np.array([[0.0, 0.0, 0.0, 1.0]]))
    with pytest.raises(PocketError, match="answers otherwise"):
        write_device_zip(tmp_path / "device.zip", plain.int8)
    assert not list(tmp_path.iterdir())


def test_no_torch_is_loaded_by_the_scripts():
    """The guard of the other tests works: under it, torch cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_TORCH.replace("runpy.run_path", "import torch#")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert torch.__version__  # it is installed here


def test_names_of_any_alphabet_come_through_a_narrow_pipe(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")  # as Windows' pipes are
    told = "import json; print(json.dumps({'scores': [['\\u732b', 0.5]]}, ensure_ascii=False))"
    (tmp_path / "told.py").write_text(told, "utf-8")
    assert scores_on_device(tmp_path, "told.py").tolist() == [0.5]
