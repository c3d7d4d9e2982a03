"""What is in a picture, with ExecuTorch. Needs executorch (which brings PyTorch), numpy and Pillow.

python example.py photo.jpg [model-int8.pte]
"""

import json
import sys

import torch
from answers import Network
from executorch.runtime import Runtime
from preprocessing import load

file = sys.argv[2] if len(sys.argv) > 2 else "model.pte"
program = Runtime.get().load_program(file)
forward = program.load_method("forward")
about = json.loads(program.load_method("pocketvit").execute([])[0])
network = Network(about, lambda pixels: forward.execute([torch.from_numpy(pixels).contiguous()])[0].numpy())
print(network.told(load(sys.argv[1], network.window)))
