"""Which files of functions belong to libraries: to code that is not the user's own.

These are PyTorch and torchprof, what lies in ``site-packages`` or ``dist-packages``, Python's own modules, and code that these
made while the program ran. torch.profiler cuts what files have in common with ``sys.path``, so that a file of a library is
``torch/nn/modules/linear.py``, and one of Python is ``threading.py``: these are known by name.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

__all__ = ["is_library"]

INSTALLED: Final = re.compile(r"(^|/)(site-packages|dist-packages|python\d+\.zip)/|/lib(64)?/python\d+\.\d+/|/Python\d+/Lib/")
MADE: Final = re.compile(
    r"<(frozen |eval_with_key|attrs generated|decorator-gen|__array_function__|lambdifygenerated|makefun-gen|template)"
    r"|(^|/)torchinductor_[^/]*/"
)
"""Code that libraries make while the program runs. Cells of notebooks and ``<string>`` are the user's."""
HERE: Final = Path(__file__).parents[1].as_posix() + "/"
PACKAGES: Final = frozenset(
    """
    torch torchvision torchaudio torchtext torchdata torchao torchtune torchrec torchmetrics torchinfo torchsummary torchprof
    functorch triton numpy scipy pandas sklearn PIL cv2 skimage matplotlib einops transformers tokenizers safetensors datasets
    huggingface_hub accelerate peft trl diffusers timm sentence_transformers open_clip optimum bitsandbytes xformers flash_attn
    deepspeed apex lightning lightning_fabric lightning_utilities pytorch_lightning fairscale ignite skorch fastai kornia monai
    torch_geometric torch_scatter torch_sparse dgl pyro gpytorch botorch higher functorch ultralytics detectron2 mmcv mmengine
    tqdm rich joblib dill cloudpickle ray wandb mlflow tensorboard tensorboardX hydra omegaconf absl fire click typer fsspec
    IPython ipykernel ipywidgets jupyter_client traitlets tornado zmq debugpy pydevd _pytest pytest pluggy hypothesis
    """.split()
)
"""Packages by the names of their folders, for files without a root."""


def is_library(file: str) -> bool:
    """Whether this file of a function belongs to a library."""
    path = file.replace("\\", "/")
    if MADE.search(path) or INSTALLED.search(path) or path.startswith(HERE):
        return True
    if path.startswith(("/", "<")) or re.match(r"[A-Za-z]:/", path):
        return False
    top = path.partition("/")[0].removesuffix(".py")
    return (top in PACKAGES and "/" in path) or top in sys.stdlib_module_names
