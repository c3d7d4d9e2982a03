"""A folder for any static web server: a page that runs the model in the browser, and nothing is sent anywhere.

The model runs under onnxruntime-web (WebAssembly), whose files, 14 MB, come from its npm package. The page asks no
other server for anything.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import shutil
import socket
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np

from .. import files as storage
from ..errors import PocketError
from .package import TOLERANCE, draw_golden, golden_size
from .run import OnnxModel

RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PAGE = ("index.html", "app.mjs", "preprocessing.mjs")
_PATIENCE = 300  # seconds that the check may take
_CHECK = """
import { readFileSync } from "node:fs";
import * as ort from "./ort/ort.wasm.min.mjs";
import { prepare, probabilities } from "./preprocessing.mjs";
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
ort.env.wasm.wasmBinary = readFileSync("./ort/ort-wasm-simd-threaded.wasm");
const about = JSON.parse(readFileSync("./model.json"));
const picture = JSON.parse(readFileSync(process.argv[2]));
const session = await ort.InferenceSession.create(readFileSync(about.file), { executionProviders: ["wasm"] });
const side = about.preprocessing.input_size;
const answers = [];
for (const tile of prepare({ ...picture, data: Uint8Array.from(picture.data) }, about.preprocessing)) {
  const feed = { [session.inputNames[0]]: new ort.Tensor("float32", tile, [1, 3, side, side]) };
  answers.push(probabilities((await session.run(feed))[session.outputNames[0]].data, about.activation));
}
console.log(JSON.stringify(answers));
"""


def find_runtime(given: Path | str | None = None) -> Path:
    """Return the folder with onnxruntime-web's files: the given one, or that of ``node_modules`` here or above.

    Raises:
        PocketError: It is not there; says how to get it.
    """
    here = Path.cwd()
    places = [Path(given), Path(given) / "dist"] if given else []
    if not given:
        places = [folder / "node_modules" / "onnxruntime-web" / "dist" for folder in (here, *here.parents)]
    for place in places:
        if all((place / name).is_file() for name in RUNTIME):
            return place
    where = f"is not in {given}" if given else "is not here"
    raise PocketError(
        f"onnxruntime-web {where}, which runs the model in the browser. Get it once with `npm install onnxruntime-web` "
        "in this folder, or give --runtime FOLDER (its dist folder)."
    )


def write_web(folder: Path | str, onnx_path: Path | str, runtime: Path, *, name: str | None = None) -> str:
    """Write the page, the model and its runtime into ``folder``; return what was checked, in words.

    Args:
        folder: Made if need be.
        onnx_path: An exported file without the preprocessing inside.
        runtime: Of `find_runtime`.
        name: What to call the model in messages; by default the file's.

    Raises:
        PocketError: The file cannot be shown, or answers otherwise under onnxruntime-web than here.
    """
    folder, onnx_path = Path(folder), Path(onnx_path)
    model = OnnxModel(onnx_path)
    about = model.signature
    reason = (
        "has its preprocessing inside: export it without --picture" if about.source_size
        else "takes more than 8 bits a pixel, which a browser does not read" if about.preprocessing.window
        else "finds objects" if about.task.kind == "boxes"
        else None
    )  # fmt: skip
    if reason:
        raise PocketError(
            f"{name or onnx_path} {reason}; the page shows what a model answers to a whole 8-bit picture. "
            "`pocketvit predict` answers here, and predict.py of device.zip elsewhere."
        )
    values = {
        "file": onnx_path.name,
        "classes": list(model.classes),
        "activation": about.task.kind,
        "preprocessing": about.preprocessing.to_dict(),
    }
    with storage.whole_folder(folder) as new:
        (new / "ort").mkdir()
        for file in RUNTIME:
            shutil.copyfile(runtime / file, new / "ort" / file)
        for page in PAGE:
            (new / page).write_text((files(__package__) / "web" / page).read_text(encoding="utf-8"), encoding="utf-8")
        shutil.copyfile(onnx_path, new / onnx_path.name)
        storage.write_json(new / "model.json", values)
        return _check(new, model)


def _check(folder: Path, model: OnnxModel) -> str:
    """Let node run the page's own code on a drawn picture; it must answer as this package does."""
    node = shutil.which("node")
    if node is None:
        return "not checked: there is no node here to run it; open the page to try it"
    picture = draw_golden(*golden_size(model))
    expected = model.label([picture])[0]
    given, script = folder / "picture.json", folder / "check.mjs"
    storage.write_json(given, {"height": picture.shape[0], "width": picture.shape[1], "data": picture.ravel().tolist()})
    script.write_text(_CHECK, encoding="utf-8")
    command = [node, script.name, given.name]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise PocketError(
            f"onnxruntime-web gave no answer to one picture within {_PATIENCE} seconds: nothing was written. The model "
            "is too large for a browser, or this machine is busy."
        ) from error
    for path in (given, script):
        path.unlink()
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if "Error" in line] or ["no message"]
        raise PocketError(f"onnxruntime-web does not run this model: {lines[0].strip()}. Nothing was written.")
    found = np.mean(json.loads(done.stdout.strip().splitlines()[-1]), axis=0)
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE[model.signature.precision]["probability"]:
        raise PocketError(
            f"onnxruntime-web answers otherwise than here (difference {difference:.2g} of a probability): nothing was "
            "written. Export the fp32 file, and please report this."
        )
    return f"checked under onnxruntime-web: largest difference of a probability {difference:.2g}"


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {  # noqa: RUF012
        **http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm",
    }  # fmt: skip

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: every picture would be a line."""


def server(folder: Path, port: int, host: str = "127.0.0.1") -> http.server.ThreadingHTTPServer:
    """Return a server of a folder, not yet running; port 0 takes any.

    Raises:
        PocketError: The port is taken, or the address is none of this machine's.
    """
    try:
        return http.server.ThreadingHTTPServer((host, port), functools.partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise PocketError(
            f"--host {host} --port {port} cannot be used ({error.strerror or error}). Give another port, or 0 for any; "
            "as host 127.0.0.1 for this machine alone, 0.0.0.0 for all of its addresses."
        ) from error


def address_of(page: http.server.HTTPServer) -> str:
    """Return where a server's page is opened; of one that answers on all addresses, the one that a phone can reach."""
    host, port = str(page.server_address[0]), page.server_address[1]
    if host == "0.0.0.0":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way, contextlib.suppress(OSError):
            way.connect(("192.0.2.1", 9))  # an address that nobody has: asks for the way there, and sends nothing
            host = way.getsockname()[0]
    return f"http://{host}:{port}"
