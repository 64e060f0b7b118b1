"""What pyproject.toml cannot say: the extension modules, and whether the compiler has OpenMP.

Switches, for development: CYMLP_DEBUG=1 (bounds checks, no optimisation), CYMLP_SANITIZE=address,undefined.
"""

import os
import tempfile
from glob import glob
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("CYMLP_DEBUG") == "1"
SANITIZE = os.environ.get("CYMLP_SANITIZE", "")

# Contraction to multiply-adds is what the kernels are made of; the other two let the compiler turn comparisons into
# blends and call sqrt as an instruction.  None of them changes the floating point mode of the process.
COMPILE = ["-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
# Loops keep their place in cache lines, whatever else changes: up to 3 % of a step.  Python asks for symbols: -g0.
COMPILE += ["-falign-functions=64", "-g0"]
# What Cython generates is not ours to mend.
COMPILE += ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-array-bounds"]
LINK = [f"-fsanitize={SANITIZE}"] if SANITIZE else []
if DEBUG:
    COMPILE += ["-O0", "-g"]
if SANITIZE:
    COMPILE += [*LINK, "-g", "-fno-omit-frame-pointer"]

# The C kernels are linked into _storage, which hands them to the others in a table.
SOURCES = dict.fromkeys([Path(name).stem for name in sorted(glob("pyx/cymlp/*.pyx"))], ())
SOURCES["_storage"] = sorted(glob("pyx/kernels/*.c"))
HEADERS = [*glob("pyx/*.h"), *glob("pyx/kernels/*.h"), *glob("pyx/cymlp/*.pxd")]
MACROS = [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": DEBUG,
}


class BuildExt(build_ext):
    """Adds the OpenMP flags that this compiler understands, or says that there are none."""

    def build_extensions(self):
        choices = (["-fopenmp"], ["-Xpreprocessor", "-fopenmp", "-lomp"])
        flags = next((flags for flags in choices if self._compiles(flags)), [])
        if not flags:
            self.warn("this compiler has no OpenMP: cymlp will use one thread")
        for extension in self.extensions:
            extension.extra_compile_args += flags
            extension.extra_link_args += flags
        super().build_extensions()

    def _compiles(self, flags):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
                self.compiler.link_executable(objects, str(Path(folder, "probe")), extra_postargs=flags)
            except Exception:
                return False
        return True


def extension(name):
    sources = [f"pyx/cymlp/{name}.pyx", *SOURCES[name]]
    flags = {"extra_compile_args": list(COMPILE), "extra_link_args": list(LINK)}
    include = ["pyx", "pyx/kernels", numpy.get_include()]
    return Extension(f"cymlp.{name}", sources, depends=HEADERS, include_dirs=include, define_macros=MACROS, **flags)


modules = [extension(name) for name in SOURCES]
built = cythonize(modules, include_path=["pyx"], build_dir="build/cython", compiler_directives=DIRECTIVES)
setup(cmdclass={"build_ext": BuildExt}, ext_modules=built)
