"""Which functions are the user's own, and which are of libraries.

Of libraries are PyTorch and torchprof, what lies in ``site-packages`` or ``dist-packages``, Python's own modules, and code that
these made while the program ran. torch.profiler cuts what files have in common with ``sys.path``, so that a file of a library
is ``torch/nn/modules/linear.py``, and one of Python is ``threading.py``: these are known by name.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from torchprof.analysis.remembered import remembered
from torchprof.trace.trace import Trace

__all__ = ["counted_rows", "has_user_code", "is_library"]

Ints = npt.NDArray[np.int64]

INSTALLED: Final = re.compile(r"(^|/)(site-packages|dist-packages|python\d+\.zip)/|/lib(64)?/python\d+\.\d+/|/Python\d+/Lib/")
MADE: Final = re.compile(
    r"<(frozen |eval_with_key|attrs generated|decorator-gen|__array_function__|lambdifygenerated|makefun-gen|template)"
    r"|(^|/)torchinductor_[^/]*/"
)
"""Code that libraries make while the program runs. Cells of notebooks and ``<string>`` are the user's."""
HERE: Final = Path(__file__).parents[2].as_posix() + "/"
OF_TORCH: Final = ("/torch/nn/modules/module.py", "/torch/autograd/graph.py", "/torch/optim/optimizer.py")
"""Files that tell where PyTorch is, where it is not installed but built in its sources."""
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


@remembered
def has_user_code(trace: Trace) -> bool:
    """Whether any function in the stacks is the user's own."""
    return bool(_is_users(trace)[trace.stacks["function"]].any())


@remembered
def counted_rows(trace: Trace, libraries: bool) -> Ints:
    """For every row of ``trace.stacks``, the innermost row in it whose line counts; -1: none.

    Args:
        libraries: whether lines of libraries count: all of which the file is known. They do too where there are no others.
    """
    counts = trace.functions["file"] >= 0 if libraries or not has_user_code(trace) else _is_users(trace)
    of_functions: list[bool] = counts.tolist()
    found: list[int] = []
    columns = zip(trace.stacks["parent"].tolist(), trace.stacks["function"].tolist(), strict=True)
    for row, (parent, function) in enumerate(columns):
        found.append(row if of_functions[function] else found[parent] if parent >= 0 else -1)
    return np.array(found, dtype=np.int64)


def _is_users(trace: Trace) -> npt.NDArray[np.bool_]:
    """Which rows of ``trace.functions`` are the user's own."""
    files = np.unique(trace.functions["file"]).tolist()
    paths = {file: trace.strings[file].replace("\\", "/") for file in files if file >= 0}
    roots = {path[: -len(end)] + "/torch/" for path in paths.values() for end in OF_TORCH if path.endswith(end)}
    users = [file for file, path in paths.items() if not is_library(path) and not path.startswith(tuple(roots - {"/torch/"}))]
    return np.isin(trace.functions["file"], users)
