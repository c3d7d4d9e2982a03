"""What is in a picture, with OpenVINO. Needs openvino, numpy and Pillow.

python example.py photo.jpg [model-int8.xml]
"""

import json
import sys

import openvino
from answers import Network
from preprocessing import load

file = sys.argv[2] if len(sys.argv) > 2 else "model.xml"
model = openvino.Core().read_model(file)  # its .bin lies beside it
exact = {"INFERENCE_PRECISION_HINT": "f32"}  # or "bf16", "f16": faster where the processor has it, and a little off
compiled = openvino.compile_model(model, "CPU", exact)  # or "GPU", "NPU" (which takes "f16"), "AUTO"
about = json.loads(model.get_rt_info(["pocketvit"]).value)
network = Network(about, lambda pixels: compiled(pixels)[0])
print(network.told(load(sys.argv[1], network.window)))
