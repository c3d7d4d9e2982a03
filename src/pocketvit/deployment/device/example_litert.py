"""What is in a picture, with LiteRT. Needs ai-edge-litert, numpy and Pillow.

python example.py photo.jpg [model-int8.tflite]
"""

import json
import sys
import zipfile

from ai_edge_litert.interpreter import Interpreter
from answers import Network
from preprocessing import load

file = sys.argv[2] if len(sys.argv) > 2 else "model.tflite"
model = Interpreter(model_path=file, num_threads=1)
model.allocate_tensors()


def run(pixels):
    model.set_tensor(model.get_input_details()[0]["index"], pixels)
    model.invoke()
    return model.get_tensor(model.get_output_details()[0]["index"])


about = json.loads(zipfile.ZipFile(file).read("pocketvit.json"))  # behind the model, as labels lie in such files
network = Network(about, run)
print(network.told(load(sys.argv[1], network.window)))
