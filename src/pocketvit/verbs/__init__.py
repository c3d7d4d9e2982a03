"""The verbs: each reads its settings and chooses stages of the road. One file each."""

VERBS = {
    "demo": "distill on a real dataset that is built in, in minutes on a laptop's processor",
    "distill": "images and teachers in; a small, exported, measured and reported student out",
    "predict": "labels for images, with a run, a model or an exported file",
    "bench": "accuracy, size, FLOPs, latency and memory of models or exported files, side by side",
    "report": "one self-contained HTML page and a model card from run folders",
    "train": "a teacher or any other model, from scratch or fine-tuned on your classes",
    "label": "let teachers label images once, into a soft-label store; plan its size, verify it",
    "export": "ONNX files of any model, checked against the original, and device.zip",
    "pack": "images into a memory-mapped pack (distill does it by itself)",
    "compare": "methods of distillation on one student: one table with intervals, one plot",
    "run": "a recipe from start to end: its table and report",
}
