"""What is in a picture, with Core ML, on a Mac. Needs coremltools, numpy and Pillow.

python example.py photo.jpg [model-int8.mlpackage]
"""

import json
import sys

import coremltools
from answers import Network
from preprocessing import load

file = sys.argv[2] if len(sys.argv) > 2 else "model.mlpackage"
model = coremltools.models.MLModel(file)
about = json.loads(model.user_defined_metadata["pocketvit"])
network = Network(about, lambda pixels: next(iter(model.predict({"pixels": pixels}).values())))
print(network.told(load(sys.argv[1], network.window)))
