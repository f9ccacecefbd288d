"""Builds torchprof._C against the PyTorch that is installed: run pip with --no-build-isolation."""

import os
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.egg_info import egg_info

try:
    import pybind11
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths
except ImportError as error:
    sys.exit(
        f"torchprof is built against the PyTorch you use, and {error.name} is not installed here. Install torch, pybind11, "
        "ninja and setuptools, then run `pip install --no-build-isolation .`"
    )

SOURCES = Path("csrc")

# TORCHPROF_SANITIZE builds with sanitizers: see dev.py. ThreadSanitizer cannot be had together with the others. It sees no
# fences, and GCC warns of each.
SANITIZERS = {
    "1": ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-fno-sanitize=vptr", "-fno-wrapv"],
    "thread": ["-fsanitize=thread", "-fno-omit-frame-pointer", "-Wno-tsan"],
}
sanitizers = SANITIZERS.get(os.environ.get("TORCHPROF_SANITIZE", ""), [])

# TORCHPROF_DEVELOP=1 makes warnings errors, as dev.py does. An install never fails because of what a newer compiler warns of.
warnings = ["-Wall", "-Wextra", *(["-Werror"] if os.environ.get("TORCHPROF_DEVELOP") == "1" else [])]

# Headers of others are system headers: what is wrong in them is not reported here.
others = [option for path in [*include_paths(), pybind11.get_include()] for option in ("-isystem", path)]


class DescribeWheel(egg_info):
    """TORCHPROF_WHEEL=1: the version names the torch that the extension is built for, and that one is required.

    A wheel that is given to others must not be installed beside another torch. What is built where it is used needs none of it.
    """

    def initialize_options(self):
        super().initialize_options()
        if os.environ.get("TORCHPROF_WHEEL") == "1":
            built_for = torch.__version__.partition("+")[0]
            self.tag_build = f"+torch{built_for}"
            metadata = self.distribution.metadata
            others = [each for each in metadata.install_requires if not each.startswith("torch")]
            self.distribution.install_requires = metadata.install_requires = [f"torch=={built_for}", *others]


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
            sorted(map(str, SOURCES.rglob("*.cpp"))),
            include_dirs=[str(SOURCES.resolve())],
            depends=sorted(map(str, SOURCES.rglob("*.h"))),
            # NDEBUG: RecordFunction has other members without it; see csrc/record/op_observer.h.
            extra_compile_args=[
                "-O1" if sanitizers else "-O3",
                "-g1" if sanitizers else "-g0",
                "-DNDEBUG",
                "-std=c++20",
                "-fvisibility=hidden",
                *warnings,
                *others,
                *sanitizers,
            ],
            extra_link_args=sanitizers,
        )
    ],
    cmdclass={"egg_info": DescribeWheel, "build_ext": BuildRecorder.with_options(use_ninja=True)},
)
