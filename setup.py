"""Builds torchprof._C against the PyTorch that is installed: run pip with --no-build-isolation."""

import os
import sys
from pathlib import Path

from setuptools import setup

try:
    import pybind11
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError as error:
    sys.exit(
        f"torchprof is built against the PyTorch you use, and {error.name} is not installed here. Install torch, pybind11, "
        "ninja and setuptools, then run `pip install --no-build-isolation .`"
    )

# TORCHPROF_SANITIZE=1 builds with AddressSanitizer and UndefinedBehaviorSanitizer: see README.md, "Sanitizers".
sanitize = os.environ.get("TORCHPROF_SANITIZE") == "1"
sanitizers = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-fno-sanitize=vptr"] if sanitize else []


class BuildRecorder(BuildExtension):
    """Leaves beside the extension the version of torch it was built for, which is read before it is loaded."""

    def run(self):
        super().run()
        package = Path("torchprof") if self.inplace else Path(self.build_lib, "torchprof")
        (package / "_built_for.py").write_text(f'TORCH_VERSION = "{torch.__version__}"\n')


setup(
    ext_modules=[
        CppExtension(
            "torchprof._C",
            sorted(str(path) for path in Path("csrc").glob("*.cpp")),
            include_dirs=[pybind11.get_include()],
            depends=sorted(str(path) for path in Path("csrc").glob("*.h")),
            # NDEBUG: RecordFunction has other members without it; see csrc/op_observer.h.
            extra_compile_args=[
                "-O1" if sanitize else "-O3",
                "-g1" if sanitize else "-g0",
                "-DNDEBUG",
                "-std=c++20",
                "-fvisibility=hidden",
                "-Wall",
                "-Wextra",
                "-Wno-unused-parameter",
                "-Wno-missing-field-initializers",
                *sanitizers,
            ],
            extra_link_args=sanitizers,
        )
    ],
    cmdclass={"build_ext": BuildRecorder.with_options(use_ninja=True)},
)
