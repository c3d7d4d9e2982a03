"""What a user can do wrong: one message that names what, where and what to do, exit code 2, and nothing left behind."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from walk_fakes import Own, tiny

from pocketvit import cli

OWN = "--teacher walk_fakes:make_own --teacher-size 16 --teacher-norm half"


@pytest.fixture
def place(walked, photos, tmp_path, monkeypatch):
    """A folder with photographs, a finished run, broken models and recipes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "done").symlink_to(walked.run.folder)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "not.onnx").write_bytes(b"no model")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "none.py").write_text("x = 1\n")
    (tmp_path / "wrong.py").write_text("def recipe(:\n")
    (tmp_path / "needs.py").write_text("import no_such_module_here\n")
    torch.save(Own(), tmp_path / "module.pt")
    torch.save(tiny(3).state_dict(), tmp_path / "weights.pth")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(walked.run.folder / "config.yaml", unfinished)
    return tmp_path


MISTAKES = {
    f"distill photos {OWN} --student done/student --patch 2": "say what shape it has",
    f"distill photos {OWN} --student done/student --tokens 1": "say what shape it has",
    # images
    "distill nowhere --teacher resnet18": "there is no nowhere",
    "distill": "name the images, as in `pocketvit distill",
    f"distill empty {OWN}": "empty",
    f"distill notes.txt {OWN}": "notes.txt",
    "train nowhere": "there is no nowhere",
    "compare nowhere --teacher resnet18": "there is no nowhere",
    "label nowhere --teacher resnet18": "there is no nowhere",
    "pack nowhere": "there is no nowhere",
    "bench done --images nowhere": "there is no nowhere",
    "predict done nowhere.png": "there is no file or folder nowhere.png",
    "predict done empty": "holds no pictures",
    "compress nowhere --prune 0.5": "there is no nowhere",
    "compress done": "nothing to do: give --prune",
    "compress done --prune 0.5 --fit 1MB": "Leave --prune away",
    "compress done --quantize static --epochs 3": "trains nothing",
    "compress photos --prune 0.5": "is not a run folder",
    "compress unfinished --prune 0.5": "has no student yet",
    "serve done": "npm install onnxruntime-web",
    "export done --target web": "npm install onnxruntime-web",
    "export resnet18 --target phone": "is no run folder",
    "export done --target web --picture 64x64": "Leave it away",
    "export done --target openvino --picture 64x64": "Leave it away",
    # teachers and models
    "distill photos --teacher resnett18": "Did you mean resnet18",
    "distill photos --teacher ./no/teacher": "there is no ./no/teacher",
    "distill photos --teacher module.pt": "torch.save",
    "distill photos --teacher weights.pth": "--arch NAME",
    "distill photos --teacher weights.pth --arch test_vit": "are not those of test_vit",
    "label photos": "name the teacher",
    "train photos --model resnett18": "Did you mean resnet18",
    "train photos --model test_resnet --freeze": "--freeze trains a head",
    "train photos --init pretrained": "name the model of timm whose published weights are meant, with --model",
    "train photos --init pretrained --model cifar_resnet20": "--init pretrained: cifar_resnet20 has no published",
    "distill photos --teacher pocket_s": "pocket_s has no published weights. Name a run",
    "train photos --init pretrained --freeze --epochs 3": "--epochs 3: --freeze fits the head at once",
    "train photos --init pretrained --freeze --lr 0.1": "--lr 0.1: --freeze fits the head at once",
    "train photos --init pretrained --drop-path 0.1": "--drop-path 0.1: trained weights are taken as they are",
    "bench nowhere.onnx": "nowhere.onnx",
    "bench not.onnx": "not.onnx",
    "bench empty": "empty",
    "bench done --on=-oProxyCommand=x": "give a device as `ssh` takes it",
    "bench done --on pi;x": "give a device as `ssh` takes it",
    "bench done --on pi@-x": "give a device as `ssh` takes it",
    "bench resnet18 --on pi": "--on takes runs and ONNX files",
    "bench done --images photos --split best": "--split",
    "export not_a_model": "unknown model 'not_a_model'",
    "export done --picture big": "--picture 640x480",
    "export done --classes a,b": "2 class names were given",
    "predict nowhere photo.png": "there is no nowhere",
    "predict empty photos": "empty",
    "predict not.onnx photos": "not.onnx",
    # options
    f"distill photos {OWN} --lr nan": "--lr nan: give a number above 0",
    "train photos --lr nan": "--lr nan: give a number above 0",
    f"distill photos {OWN} --fine-tune --freeze": "exclude each other",
    "distill photos --fine-tune": "this is for a teacher that has other classes",
    "distill photos --teacher weights.pth --arch test_vit --weights weights.pth": "weights.pth says this itself",
    "distill photos --teacher walk_fakes:make_own --arch test_vit": "walk_fakes:make_own says this itself",
    "compress done --quantize static --lr 0.1": "--lr 0.1: --quantize static trains nothing",
    "export done --max-drop 0.1": "--target cpu scores on no images",
    "export done --runtime photos": "it is for a page. Add --target web",
    f"distill photos {OWN} --controls none,noise": "none stands alone",
    "distill --resume photos": "name the images first",
    f"distill photos {OWN} --tokens 3": "--tokens 3: ",
    f"distill photos {OWN} --stem coadvise": "Give --tokens 2 with it",
    "distill photos --tokens 2 --stem coadvise --student resnet18": "--stem coadvise needs a student of the ladder",
    f"distill photos {OWN} --stem shifted --student resnet18": "resnet18 is no plain ViT",
    f"distill photos {OWN} --attention global": "global",
    f"distill photos {OWN} --device gpu": "--device gpu: give cpu or cuda",
    f"distill photos {OWN} --fit small": "--fit small",
    f"distill photos {OWN} --fit 1kB": "fits into 1,000 bytes (--fit)",
    f"distill photos {OWN} --window 3": "--window 3: give two numbers",
    f"distill photos {OWN} --name a/b": "--name a/b",
    f"distill photos {OWN} --student pocket_xxl": "unknown model 'pocket_xxl'",
    f"distill photos {OWN} --top-k 1": "--top-k must be 0",
    "predict done photos --top 0": "--top 0",
    "demo --seed -1": "--seed -1",
    f"compare photos {OWN} --methods klx": "there is no method 'klx'. Did you mean kl",
    f"compare photos {OWN} --seeds 0": "--seeds 0: give a whole number from 1",
    f"compare photos {OWN} --name a/b": "--name a/b",
    # runs
    "distill --resume nowhere": "there is no nowhere",
    f"distill photos {OWN} --resume": "nothing to resume",
    "report nowhere": "nowhere",
    "report empty": "empty",
    "report unfinished": "unfinished",
    # recipes
    "run nowhere.py": "there is no nowhere.py",
    "run notes.txt": "notes.txt is not a recipe",
    "run none.py": "it has no function recipe",
    "run wrong.py": "wrong.py",
    "run needs.py": "no_such_module_here",
    # places that cannot be written to
    f"distill photos {OWN} --out file/runs": "could not write file/runs",
    "train photos --model test_resnet --out file/runs": "could not write file/runs",
    f"label photos {OWN} --out file/runs": "could not write file/runs",
    f"label photos {OWN} --store file/store": "could not write file/store",
    "pack photos --out file/runs": "could not write file/runs",
    "export done --out file/there": "could not write file/there",
    "report done --out file/page.html": "could not write file/page.html",
    "demo --out file/runs": "could not write file/runs",
    f"compare photos {OWN} --out file/runs": "could not write file/runs",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_each_mistake_is_one_message(command, place, capfd):
    assert cli.main(command.split()) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    message = err[err.index("error: ") :]
    assert message.count("error: ") == 1
    assert MISTAKES[command] in message
    assert message.rstrip()[-1] in ".?'`)s" or len(message.splitlines()) > 1


@pytest.mark.parametrize(
    "command", ["distill photos --out there/runs " + OWN, "pack photos --out there/runs", "demo --out there/runs"]
)
def test_a_read_only_place_is_one_message(command, place, capfd, monkeypatch):
    """As on a mounted disc; root may write into any folder, so the refusal is the system's in the test alone."""
    mkdir = Path.mkdir

    def refuse(self, *args, **kwargs):
        if "there" in self.parts:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        return mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert cli.main(command.split()) == 2
    assert "no permission to write there/runs" in capfd.readouterr().err
