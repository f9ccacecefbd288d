"""Builds torchprof._C against the PyTorch that is installed: run pip with --no-build-isolation."""

import os
import subprocess
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


def libraries_needed(library):
    """The names of the shared libraries that this one asks for; empty where that cannot be told."""
    try:
        found = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # no binutils, or no ELF
        return []
    return [line.partition("[")[2].rstrip("]") for line in found.splitlines() if "(NEEDED)" in line]


def check_libstdcxx(extension, beside):
    """Remove the extension and exit, where it has a copy of libstdc++ and the library that it is loaded beside shares one.

    Two copies in a process crash as soon as the extension writes to a stream.
    """
    needed, shared = libraries_needed(extension), libraries_needed(beside)
    if not needed or not any(name.startswith("libstdc++") for name in shared):
        return
    if not any(name.startswith(("libstdc++", "libc++")) for name in needed):
        extension.unlink()
        compiler = f"CXX={os.environ['CXX']}" if os.environ.get("CXX") else "the compiler"
        sys.exit(
            f"{compiler} linked a copy of libstdc++ into torchprof's extension, which would crash beside that of PyTorch. "
            "Build it with one that links libstdc++.so.6, such as CXX=/usr/bin/g++, and without -static-libstdc++ in LDFLAGS"
        )


class BuildRecorder(BuildExtension):
    """Leaves beside the extension the version of torch it was built for, which is read before it is loaded."""

    def run(self):
        super().run()
        for extension in self.extensions:
            beside = Path(torch.__file__).parent / "lib" / "libc10.so"
            check_libstdcxx(Path(self.get_ext_fullpath(extension.name)), beside)
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
