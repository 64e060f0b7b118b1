"""What is shipped: the sdist is complete and builds anywhere, the wheel holds what users need and nothing else.

Everything is built once, in a temporary folder outside git, from a copy of the files that git would have.
"""

import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SOURCES = (".c", ".h", ".pyx", ".pxd")
LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.so")
MODULES = {path.stem for path in (ROOT / "pyx" / "cymlp").glob("*.pyx")}


def _has_build_requirements():
    """Whether this environment can build by itself; if not, pip and build fetch what pyproject.toml names."""
    return importlib.util.find_spec("Cython") is not None and int(version("setuptools").partition(".")[0]) >= 77


def _run(*command, folder, check=True, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def _build_wheel(source, target, **options):
    isolation = ["--no-build-isolation"] if _has_build_requirements() else []
    command = ["-m", "pip", "wheel", "--no-deps", *isolation, "--wheel-dir", target, source]
    return _run(*command, folder=target, **options)


@pytest.fixture(scope="session")
def sdist(tmp_path_factory):
    """The path of a source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "copy", ignore=LEFT_OUT)
    isolation = ["--no-isolation"] if _has_build_requirements() else []
    _run("-m", "build", "--sdist", *isolation, "--outdir", folder, folder / "copy", folder=folder)
    (path,) = folder.glob("*.tar.gz")
    return path


@pytest.fixture(scope="session")
def unpacked(sdist, tmp_path_factory):
    """The folder of the unpacked sdist, in which the wheel is built."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="session")
def wheel(unpacked, tmp_path_factory):
    """The path of a wheel built from the sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    _build_wheel(unpacked, folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """A folder into which the wheel is installed."""
    folder = tmp_path_factory.mktemp("installed")
    _run("-m", "pip", "install", "--no-deps", "--no-index", "--target", folder, wheel, folder=folder)
    return folder


def _shared_objects(installed):
    return {path.name.partition(".")[0]: path for path in (installed / "cymlp").glob("*.so")}


def test_sdist_holds_all_sources(unpacked):
    expected = {
        str(path.relative_to(ROOT))
        for folder, suffixes in (
            ("pyx", SOURCES),
            ("src", (".py", ".pyi", ".typed")),
            ("tests", (".py",)),
            ("docs", (".md", ".py")),
        )
        for path in (ROOT / folder).rglob("*")
        if path.suffix in suffixes or path.name == "py.typed"
    }
    expected |= {"setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"}
    found = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert expected - found == set()


def test_sdist_holds_nothing_that_was_built(sdist):
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    built = re.compile(r"\.so$|\.o$|\.pyc$|^build/|^src/.*\.c$|^pyx/cymlp/.*\.c$")
    assert [name for name in names if built.search(name)] == []


def test_wheel_holds_modules_and_types_and_no_sources(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    folders = {name.partition("/")[0] for name in names}
    assert folders == {"cymlp", f"cymlp-{version('cymlp')}.dist-info"}
    assert [name for name in names if name.endswith((*SOURCES, ".cpp", ".o", ".pyc"))] == []
    assert {name.partition("/")[2].partition(".")[0] for name in names if name.endswith(".so")} == MODULES
    python = {f"cymlp/{path.name}" for path in (ROOT / "src" / "cymlp").iterdir() if path.suffix in (".py", ".pyi")}
    assert python | {"cymlp/py.typed"} <= set(names)


def test_wheel_is_small(wheel):
    assert wheel.stat().st_size < 3_000_000


def test_wheel_works_where_it_is_installed(installed, tmp_path):
    code = """
        import json, numpy as np, cymlp
        rng = np.random.default_rng(0)
        X = rng.standard_normal((256, 4))
        y = (X[:, 0] * X[:, 1] > 0).astype(int)
        network = cymlp.MLP([4, 32, 2], output_activation="softmax", n_threads=2, random_state=0)
        loss = network.train(X, y, epochs=50).loss
        print(json.dumps({"file": cymlp.__file__, "first": loss[0], "last": loss[-1], **cymlp.show_config()}))
    """
    script = tmp_path / "train.py"
    script.write_text("\n".join(line.strip() for line in code.splitlines()))
    result = json.loads(_run(script, folder=tmp_path, PYTHONPATH=str(installed)).stdout)
    assert Path(result["file"]).is_relative_to(installed)
    assert result["last"] < 0.5 * result["first"]
    assert result["version"] == version("cymlp")


def test_a_failed_compile_fails_the_build(wheel, unpacked, tmp_path):
    """With the C of Cython in place from building the wheel; only the compiler is missing."""
    (unpacked / "pyx" / "kernels" / "dispatch.c").touch()
    compiler = shutil.which("false")
    done = _build_wheel(unpacked, tmp_path, check=False, CC=compiler)
    assert done.returncode != 0
    assert not list(tmp_path.glob("*.whl"))
    assert compiler in done.stdout + done.stderr


def _stack_flags(path):
    """The permissions (1 execute, 2 write, 4 read) that an ELF file asks for its stack; None where it does not say."""
    data = path.read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01", "a 64-bit little-endian ELF file"
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<II", data, offset + i * size) for i in range(count)]
    return next((flags for kind, flags in headers if kind == 0x6474E551), None)  # PT_GNU_STACK


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")
@pytest.mark.parametrize("module", sorted(MODULES))
def test_shared_objects_need_no_executable_stack(installed, module):
    assert _stack_flags(_shared_objects(installed)[module]) == 6


@pytest.mark.parametrize("module", sorted(MODULES))
def test_shared_objects_do_not_set_the_floating_point_mode_when_loaded(installed, module):
    """crtfastmath.o, which -ffast-math links in, is a constructor of this name."""
    assert b"set_fast_math" not in _shared_objects(installed)[module].read_bytes()


@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="instruction sets of x86-64")
@pytest.mark.parametrize("module", sorted(MODULES))
def test_instructions_beyond_the_baseline_are_only_where_a_name_says_so(installed, module):
    """Any x86-64 machine may run the rest: no function without avx2 or avx512 in its name has a wide register."""
    listing = subprocess.run(
        ["objdump", "--disassemble", "--no-show-raw-insn", _shared_objects(installed)[module]],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    functions = re.split(r"^[0-9a-f]+ <(.+)>:$", listing, flags=re.MULTILINE)
    wide = {name for name, code in zip(functions[1::2], functions[2::2], strict=True) if re.search(r"%[yz]mm\d", code)}
    assert {name for name in wide if "avx" not in name} == set()
    assert not wide or module == "_storage"
    if module == "_storage":  # the names are there to be told apart
        assert {isa for isa in ("avx2", "avx512") if any(isa in name for name in wide)} == {"avx2", "avx512"}
