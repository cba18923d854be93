"""Choices, limits and defaults of options that users set.

They are separate from the modules that use them, so that `talkinghead COMMAND --help` imports no torch.
"""

DEVICES = ("cpu", "cuda", "auto")
PRECISIONS = ("fp32", "fp16", "bf16")
TRAINING_PRECISIONS = ("fp32", "bf16")
DETECTORS = ("auto", "network", "dlib", "face-alignment")
DETECTOR_ENDINGS = (".task", ".onnx", ".safetensors")
"""Endings of files that hold a landmark detector."""

DEFAULT_MODEL = "portrait"
PAPER_FORM_MODEL = "small"
"""Default model when a person's file is to hold no reference images."""

# finetune, demo
DEFAULT_SHOTS = 8
MAX_REFERENCE_IMAGES = 32
MIN_IMAGES_TO_HOLD_OUT = 4
"""Fewest reference images of which one is held out; with fewer, early stopping compares augmented views."""

# completion
SHELLS = ("bash", "zsh", "fish")

# animate
LAYOUTS = ("result", "side-by-side")
RETARGET = ("auto", "on", "off")
MAX_SCALE = 8
"""Largest factor by which a video is enlarged."""

# export
ENGINE_FORMATS = ("onnx", "tensorrt", "aoti")
ENGINE_ENDINGS = {"onnx": (".onnx",), "aoti": (".pt2",), "tensorrt": (".engine", ".plan", ".trt")}
"""Endings of engine files by format, the usual one first."""
WEB_FORMAT = "web"
"""Format of `export` that is no engine: a folder of static files, a page."""
ENGINE_INPUTS = ("points", "image")
ENGINE_OUTPUTS = ("uint8", "float")
MAX_BATCH = 8
"""Largest batch an engine is built for."""

# prepare
MIN_FACE_PIXELS = 48.0
MIN_SHOT_FRAMES = 16
MIN_SHARPNESS = 0.05
MAX_SECOND_FACE_RATIO = 0.1
SHARD_CLIPS = 16
"""Clips after which a shard is finished."""

# train-landmarks
LANDMARK_NETWORKS = ("landmarks", "detection")

# train
PRESETS = ("portrait", "paper", "small", "tiny")
VARIANTS = ("ft", "ff")

PERCEPTUAL_NETWORKS = ("vgg19", "vggface", "efficientnet-lite0")
"""Networks whose features the content loss compares."""

# train
TRACKERS = ("tensorboard", "wandb", "mlflow")
"""Experiment trackers that a run writes to."""
EVALUATE_EVERY = 1000
"""Steps between two evaluations of a run."""

# evaluate
EVALUATION_SHOTS = (1, 8, 32)
NUM_HELD_OUT = 32
FINE_TUNED_METHODS = {
    "fine-tuned": "fine-tuned",
    "no-adversarial": "fine-tuned without adversarial",
    "random-weights": "the same steps from random weights",
}
METHODS = {
    "feed-forward": "feed-forward",
    **FINE_TUNED_METHODS,
    "nearest": "nearest frame",
    "warped": "nearest frame, warped to the landmarks",
}
"""Methods that `evaluate` compares: name on the command line -> name in tables."""
DEFAULT_METHODS = tuple(name for name in METHODS if name != "no-adversarial")
