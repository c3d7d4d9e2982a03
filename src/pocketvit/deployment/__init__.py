"""The end of the road: one file that runs on a device, checked against the model it came from, and measured."""

from ..models.flops import count_flops, count_parameters
from .budget import Budget, Choice, choose, parse_budget
from .export import export_onnx
from .int8 import quantize_int8
from .latency import Latency, measure, peak_memory
from .model import Model, Network
from .opening import open_model
from .package import write_device_zip
from .parity import Parity, check_parity
from .predict import Prediction, predict_images, predictions
from .run import OnnxModel
from .signature import Signature

__all__ = [
    "Budget",
    "Choice",
    "Latency",
    "Model",
    "Network",
    "OnnxModel",
    "Parity",
    "Prediction",
    "Signature",
    "check_parity",
    "choose",
    "count_flops",
    "count_parameters",
    "export_onnx",
    "measure",
    "open_model",
    "parse_budget",
    "peak_memory",
    "predict_images",
    "predictions",
    "quantize_int8",
    "write_device_zip",
]
