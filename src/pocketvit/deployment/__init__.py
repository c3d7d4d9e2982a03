"""The end of the road: one file that runs on a device, checked against the model it came from, and measured."""

from .budget import Budget, Choice, choose, parse_budget
from .export import export_onnx
from .flops import count_flops, count_parameters
from .int8 import quantize_int8
from .latency import Latency, Memory, measure, peak_memory
from .package import write_device_zip
from .parity import Parity, check_parity
from .predict import label_pictures, open_model, predict_images
from .run import OnnxModel
from .signature import Signature

__all__ = [
    "Budget",
    "Choice",
    "Latency",
    "Memory",
    "OnnxModel",
    "Parity",
    "Signature",
    "check_parity",
    "choose",
    "count_flops",
    "count_parameters",
    "export_onnx",
    "label_pictures",
    "measure",
    "open_model",
    "parse_budget",
    "peak_memory",
    "predict_images",
    "quantize_int8",
    "write_device_zip",
]
