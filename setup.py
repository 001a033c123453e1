"""The C++ kernels, which are optional: without a compiler gatewise installs and runs on its reference executor.

All else stands in pyproject.toml. setuptools does what is needed here; scikit-build-core would bring CMake, and
nanobind a C++ interface, for one module of four functions.
"""

import sys

from setuptools import Extension, setup

CSRC = "src/gatewise/scan/csrc"
flags = [] if sys.platform == "win32" else ["-std=c++17", "-O3", "-fno-math-errno", "-Wno-psabi", "-g0"]

# Of an inline function of the library the linker takes the first copy: the portable one, not one with AVX-512 in it.
kernels = Extension(
    "gatewise.scan._kernels",
    sources=[f"{CSRC}/{name}.cpp" for name in ("module", "memory", "choose", "portable", "avx2", "avx512", "pairs")],
    depends=[f"{CSRC}/{name}.h" for name in ("program", "reader", "kernels", "scan", "products", "tape", "vectors")],
    extra_compile_args=flags,
    extra_link_args=[] if sys.platform == "win32" else ["-pthread"],
    language="c++",
    py_limited_api=True,
    optional=True,
)
setup(ext_modules=[kernels], options={"bdist_wheel": {"py_limited_api": "cp311"}})
