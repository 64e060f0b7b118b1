"""What keeps the code readable: the arrow of imports, the size of files, where threads may be, names and documents."""

import ast
import dataclasses
import graphlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest

from cymlp import _engine, activations, initializers, losses, optimizers, reference

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "cymlp"
PYX = ROOT / "pyx" / "cymlp"

# ---- The arrow ----

# Every module of the package -> what it imports from the package when it is imported; "cymlp" is the package itself.
# A new line, or a new name in one, is a decision about the architecture.
IMPORTS = {
    "__main__": {"cli"},
    "cli": set(),
    "commands": {"cymlp", "arguments", "experiment", "network", "plots", "tables", "tabular", "terminal"},
    "arguments": {"activations", "engine", "experiment", "initializers", "normalizations", "optimizers", "tables",
                  "tabular"},
    "terminal": {"tables"},
    "doctor": {"experiment", "health.forecasting", "health.rules", "history", "network"},
    "experiment": {"_labels", "callbacks", "checkpoints", "network", "optimizers", "rates", "schedules", "stopping",
                   "tables", "tabular"},
    "cymlp": {"activations", "engine", "history", "initializers", "losses", "network", "normalizations", "optimizers"},
    "callbacks": {"_validation"},
    "checkpoints": {"_validation", "persistence"},
    "plots": {"_drawing"},
    "_drawing": set(),
    "displays": {"displays.by_layer", "displays.by_step", "displays.overview"},
    "displays.overview": {"displays.by_layer", "displays.by_step", "plots"},
    "displays.by_layer": {"_drawing", "displays.base"},
    "displays.by_step": {"_drawing", "displays.base", "plots"},
    "displays.base": set(),
    "health.text": set(),
    "rates": {"_scheduling", "_validation", "network", "optimizers", "options", "sources", "training"},
    "tabular": {"tables"},
    "tables": set(),
    "network": {"_validation", "architecture", "computation", "initializers", "layout"},
    "computation": {"_validation", "engine", "parameters"},
    "training": {"_scheduling", "_validation", "checkpoints", "health.monitor", "health.summaries", "history", "lbfgs",
                 "options", "run", "sources", "stopping"},
    "lbfgs": set(),
    "options": {"_scheduling", "_validation", "health.monitor", "optimizers", "orders", "stopping"},
    "health": set(),
    "health.monitor": {"engine", "health.summaries"},
    "health.summaries": {"_formulas", "_labels"},
    "health.report": {"health.applying", "health.remedies", "health.rules", "health.signs",
                      "health.text"},
    "health.applying": {"activations", "health.remedies", "health.setups"},
    "health.remedies": {"activations", "health.forecasting", "health.setups", "initializers", "normalizations"},
    "health.rules": {"health.rules_of_layers", "health.rules_of_learning", "health.signs"},
    "health.rules_of_layers": {"health.rulebook"},
    "health.rules_of_learning": {"health.rulebook"},
    "health.rulebook": set(),
    "health.signs": set(),
    "health.forecasting": {"_formulas", "_validation", "health.depths", "health.measuring", "health.propagation",
                           "health.setups", "health.structured", "health.text", "health.verdicts"},
    "health.setups": {"activations", "architecture", "health.propagation", "health.structured", "initializers",
                      "network", "normalizations", "options"},
    "health.measuring": {"_validation", "engine", "initializers", "layout", "losses", "network"},
    "health.depths": {"health.propagation", "health.theory"},
    "health.structured": {"_formulas", "health.propagation", "health.theory"},
    "health.propagation": {"health.theory"},
    "health.theory": {"_formulas"},
    "health.verdicts": set(),
    "run": {"_validation", "history"},
    "sources": {"_labels", "_validation", "orders"},
    "orders": set(),
    "_labels": set(),
    "history": set(),
    "stopping": {"_validation"},
    "presets": {"estimators", "estimators.documentation", "preprocessing"},
    "preprocessing": set(),
    "estimators": {"estimators.classifier", "estimators.regressor"},
    "estimators.classifier": {"_labels", "activations", "estimators.base", "estimators.documentation",
                              "estimators.examples", "losses", "orders"},
    "estimators.regressor": {"activations", "estimators.base", "estimators.conversion",
                             "estimators.documentation", "estimators.examples", "losses"},
    "estimators.conversion": {"activations", "layout", "network"},
    "estimators.base": {"activations", "engine", "estimators.callbacks", "estimators.coefficients",
                        "estimators.conversion", "estimators.examples", "estimators.health", "estimators.orders",
                        "estimators.regularization", "estimators.solvers", "initializers", "layout", "network"},
    "estimators.health": {"health.monitor", "health.summaries", "optimizers"},
    "estimators.orders": {"_labels", "_random", "_validation", "orders"},
    "estimators.solvers": {"estimators.examples", "estimators.health", "optimizers", "schedules", "training"},
    "estimators.regularization": {"_scheduling", "normalizations", "options"},
    "estimators.coefficients": {"layout"},
    "estimators.callbacks": set(),
    "estimators.documentation": set(),
    "estimators.examples": set(),
    "parameters": {"_validation", "architecture", "engine"},
    "architecture": {"_validation", "activations", "engine", "layout", "losses", "normalizations"},
    "layout": set(),
    "normalizations": set(),
    "persistence": {"_validation", "activations", "layout", "losses", "normalizations"},
    "engine": {"_engine", "reference"},
    "initializers": {"_validation"},
    "activations": set(),
    "losses": set(),
    "optimizers": {"_scheduling"},
    "schedules": {"_scheduling", "_validation"},
    "_scheduling": set(),
    "_validation": set(),
    "reference": {"_formulas", "_reference_checks", "_reference_kernels", "_reference_records"},
    "_reference_kernels": {"_formulas", "_reference_checks"},
    "_reference_checks": {"_formulas"},
    "_reference_records": set(),
    "_formulas": set(),
}  # fmt: skip

# The same for imports inside functions: what is loaded only where it is needed.
LATE_IMPORTS = {
    "displays.by_layer": {"health.remedies"},
    "displays.by_step": {"health.rules"},
    "cli": {"commands"},  # says what to install where the packages that commands need are absent
    "commands": {"doctor", "health.forecasting"},
    "doctor": {"displays", "health.text", "plots"},
    "experiment": {"plots"},
    "callbacks": {"persistence", "plots"},
    "network": {"persistence", "training"},
    "rates": {"plots"},
    "health.applying": {"estimators.regularization"},
    "engine": {"cymlp"},  # cymlp: the version, for show_config
    "history": {"health.report"},  # made when it is asked for
}

# The imports against the arrow: of a string, and of the report, which makes networks, that a history hands out.
AGAINST_THE_ARROW = {"engine": {"cymlp"}, "history": {"health.report"}}


def _module_name(path):
    """ "cymlp" for the package itself, "estimators" for a package in it, "estimators.base" for a module in that."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "cymlp"


MODULES = {_module_name(path): path for path in PACKAGE.rglob("*.py")}
KNOWN = set(MODULES) | {path.stem for path in PYX.glob("*.pyx")}


def _names_of_ours(node, package):
    """The modules of the package that an import statement in a module of the (sub)package `package` reaches."""
    if isinstance(node, ast.Import):
        dotted = [alias.name for alias in node.names if alias.name.split(".")[0] == "cymlp"]
        return {name.partition(".")[2] or "cymlp" for name in dotted}
    if node.level == 0:
        module = node.module
    else:
        base = ["cymlp", *filter(None, package.split("."))]
        module = ".".join([*base[: len(base) - node.level + 1], *filter(None, [node.module])])
    if module.split(".")[0] != "cymlp":
        return set()
    inner = module.partition(".")[2]
    names = (f"{inner}.{alias.name}" if inner else alias.name for alias in node.names)
    return {name if name in KNOWN else inner or "cymlp" for name in names}


def _imports(source, package=""):
    """What Python source imports from the package: at the top, and inside functions."""
    tree = ast.parse(source)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    top, late = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            (late if id(node) in inside else top).update(_names_of_ours(node, package))
    return top, late


def test_every_import_of_the_package_is_in_the_table():
    found = {
        name: _imports(path.read_text(encoding="utf-8"), ".".join(path.relative_to(PACKAGE).parts[:-1]))
        for name, path in MODULES.items()
    }
    assert {name: top for name, (top, _) in found.items()} == IMPORTS
    assert {name: late for name, (_, late) in found.items() if late} == LATE_IMPORTS


def test_no_import_goes_against_the_arrow():
    graph = {name: top | LATE_IMPORTS.get(name, set()) for name, top in IMPORTS.items()}
    graph = {name: reached - AGAINST_THE_ARROW.get(name, set()) for name, reached in graph.items()}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names a circle


def test_imports_are_read_as_python_reads_them():
    source = """
        import numpy, cymlp.plots
        from . import engine, __version__
        from .network import MLP
        if True:
            from cymlp import losses
        def function():
            from .persistence import save
            from scipy import special
    """
    top, late = _imports(inspect.cleandoc(source))
    assert top == {"plots", "engine", "cymlp", "network", "losses"}
    assert late == {"persistence"}


# The same for what the compiler eats: cimports and imports of .pyx and .pxd together, and the header each one declares.
CYTHON_IMPORTS = {
    "_engine": {"_boundary", "_choice", "_kernels", "_mirrored", "_monitor", "_network", "_passes", "_rules",
                "_storage", "_tiles", "kernels"},
    "_network": {"_boundary", "_choice", "_predictions", "_storage", "_turns", "kernels"},
    "_kernels": {"_boundary", "_rules", "_storage", "kernels"},
    "_rules": {"_boundary", "_storage", "_tiles", "kernels"},
    "_random": {"_boundary", "mt19937.h", "numpy/random/bitgen.h"},
    "_choice": set(),
    "_turns": set(),
    "_boundary": {"_passes", "_storage", "kernels"},
    "_predictions": {"_passes", "_storage", "kernels"},
    "_passes": {"_mirrored", "_stages", "_storage", "_tiles", "_updates", "threads.h"},
    "_updates": {"_stages", "_storage", "_tiles", "kernels"},
    "_stages": {"_monitor", "_storage", "_tiles", "kernels"},
    "_mirrored": {"_monitor", "_storage", "_tiles", "kernels"},
    "_tiles": {"_monitor", "_storage", "kernels"},
    "_monitor": {"_storage", "kernels"},
    "_storage": {"kernels"},
    "kernels": {"kernels.h"},
}  # fmt: skip

# And for C: our own headers only.
C_INCLUDES = {
    "dispatch.c": {"kernels.h"},
    "isa_baseline.c": {"instantiate.h"},
    "isa_avx2.c": {"instantiate.h"},
    "isa_avx512.c": {"instantiate.h"},
    "instantiate.h": {
        "activation_template.h",
        "clipping_template.h",
        "dropout_template.h",
        "kernels.h",
        "loss_template.h",
        "matmul_template.h",
        "monitor_template.h",
        "normalization_template.h",
        "predict_template.h",
        "softmax_template.h",
        "update_template.h",
        "vector_template.h",
    },
    "activation_template.h": set(),
    "clipping_template.h": set(),
    "dropout_template.h": set(),
    "loss_template.h": set(),
    "matmul_template.h": set(),
    "monitor_template.h": set(),
    "normalization_template.h": set(),
    "predict_template.h": set(),
    "softmax_template.h": set(),
    "update_template.h": set(),
    "vector_template.h": set(),
    "kernels.h": set(),
    "threads.h": set(),
    "mt19937.h": set(),
}


def _cython_imports(source):
    found = set(re.findall(r'^\s*cdef extern from "(.*?)"', source, re.MULTILINE)) - {"stdlib.h"}
    for module, names in re.findall(r"^\s*from +(cymlp[\w.]*|\.\w*) +c?import +(.+)$", source, re.MULTILINE):
        inner = module.removeprefix("cymlp").strip(".")
        found |= {inner} if inner else {name.strip() for name in names.split(",")}
    return found


def test_every_cimport_is_in_the_table():
    found = {}
    for path in (*PYX.glob("*.pyx"), *PYX.glob("*.pxd")):
        if path.name != "__init__.pxd":  # makes the folder a package
            found.setdefault(path.stem, set()).update(_cython_imports(path.read_text(encoding="utf-8")) - {path.stem})
    assert found == CYTHON_IMPORTS
    graphlib.TopologicalSorter(CYTHON_IMPORTS).prepare()


def test_every_include_is_in_the_table():
    sources = _files("pyx", ".c", ".h")
    includes = {path.name: set(re.findall(r'^#include "(.*)"', path.read_text(), re.MULTILINE)) for path in sources}
    assert includes == C_INCLUDES
    graphlib.TopologicalSorter(C_INCLUDES).prepare()


# ---- Files ----


def _files(folder, *suffixes):
    return sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)


def _code(path):
    """The text without comments: what a compiler sees."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".c", ".h"):
        return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
    return re.sub(r"(?m)(^|\s)#(?!\s*(?:pragma|include)).*$", "", text)


@pytest.mark.parametrize("folder", ["src", "pyx", "tests", "bench"])
def test_files_are_short_enough_to_read(folder):
    files = _files(folder, ".py", ".pyi", ".pyx", ".pxd", ".c", ".h")
    assert files
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_setup_py_says_only_what_toml_cannot():
    assert len((ROOT / "setup.py").read_text(encoding="utf-8").splitlines()) <= 80


def test_openmp_is_in_the_passes_alone():
    pattern = re.compile(r"\bprange\b|cython\.parallel|#\s*pragma\s+omp|\bomp\.h\b|\bomp_\w+")
    files = [*_files("pyx", ".pyx", ".pxd", ".c", ".h"), *_files("src", ".py")]
    found = {path.name for path in files if pattern.search(_code(path))}
    assert found == {"_passes.pyx", "_predictions.pyx", "threads.h"}


def test_kernels_are_serial_and_neither_allocate_nor_fail_nor_print():
    pattern = re.compile(
        r"\b(?:malloc|calloc|realloc|free|alloca|aligned_alloc|\w*printf|puts|abort|exit|assert|setjmp|errno"
        r"|pthread_\w+|Py\w+|Python\.h|stdio\.h|stdlib\.h)\b"
    )
    files = _files("pyx/kernels", ".c", ".h")
    assert {path.name: found for path in files if (found := pattern.findall(_code(path)))} == {}


def test_no_compiler_flag_changes_the_machine_or_the_arithmetic_of_the_process():
    """-march=native builds for one machine; fast-math links code that sets flush-to-zero for the whole process."""
    forbidden = re.compile(r"fast-math|-Ofast|unsafe-math|-march=|-mcpu=|-mtune=native")
    setup = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    strings = [node.value for node in ast.walk(setup) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    strings.append(str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))))
    strings += [_code(path) for path in _files("pyx", ".pyx", ".pxd", ".c", ".h")]
    assert [text for text in strings if forbidden.search(text)] == []


# ---- Registries ----


def test_both_engines_have_what_the_registries_name():
    assert tuple(reference.ACTIVATIONS) == _engine.ACTIVATIONS == tuple(activations.ACTIVATIONS)
    assert tuple(reference.LOSSES) == _engine.LOSSES == tuple(losses.LOSSES)


@pytest.mark.parametrize("definition", [*activations.ACTIVATIONS.values(), *losses.LOSSES.values()])
def test_definitions_are_complete(definition):
    texts = {field.name: getattr(definition, field.name) for field in dataclasses.fields(definition)}
    required = {"formula", "source"} | {"derivative", "gradient"} & set(texts)
    assert all(isinstance(texts[name], str) and texts[name].strip() for name in required)


def test_activations_name_initializers_that_exist():
    assert {definition.initializer for definition in activations.ACTIVATIONS.values()} <= set(initializers.INITIALIZERS)


def test_losses_name_output_activations_that_exist():
    outputs = {definition.output_activation for definition in losses.LOSSES.values()}
    assert outputs - {None} <= set(activations.ACTIVATIONS)


def test_every_initializer_is_in_the_registry_under_its_name():
    public = [name for name in initializers.__all__ if name not in ("INITIALIZERS", "get")]
    assert {name: getattr(initializers, name) for name in public} == initializers.INITIALIZERS


def test_every_optimizer_is_in_the_registry_and_has_a_rule_that_engines_read():
    public = [name for name in optimizers.__all__ if inspect.isclass(getattr(optimizers, name))]
    assert {name: cls.__name__ for name, cls in optimizers.OPTIMIZERS.items()} == {
        name.lower(): name for name in public
    }
    with_rule = [cls() for cls in optimizers.OPTIMIZERS.values() if hasattr(cls, "rule")]
    rules = {optimizer.rule()["name"]: tuple(optimizer.rule())[1:] for optimizer in with_rule}
    assert {name: set(keys) - set(reference.OPTIONS[name]) for name, keys in rules.items()} == {
        name: set(keys) for name, keys in reference.RULES.items()
    }


# ---- One interface: stub, compiled module, reference ----

# What the compiled module has beside the interface, of which the reference knows nothing.
COMPILED_ONLY = {"available_isas", "blocking", "isa", "max_threads", "openmp_version", "use_isa"}
STUB = ast.parse((PACKAGE / "_engine.pyi").read_text(encoding="utf-8"))


def _public(body, *kinds):
    return {node.name: node for node in body if isinstance(node, kinds) and not node.name.startswith("_")}


def _stub_parameters(function):
    """(name, default) in order; `inspect.Parameter.empty` where there is none."""
    arguments = function.args
    defaults = [inspect.Parameter.empty] * (len(arguments.args) - len(arguments.defaults))
    defaults += [ast.literal_eval(default) for default in arguments.defaults]
    return [(argument.arg, default) for argument, default in zip(arguments.args, defaults, strict=True)]


def _parameters(function):
    return [(parameter.name, parameter.default) for parameter in inspect.signature(function).parameters.values()]


def _public_functions(owner):
    names = [name for name in dir(owner) if not name.startswith("_")]
    return {name: getattr(owner, name) for name in names if inspect.isroutine(getattr(owner, name))}


STUB_FUNCTIONS = _public(STUB.body, ast.FunctionDef)
STUB_NETWORK = _public(STUB.body, ast.ClassDef)["Network"]
STUB_METHODS = {
    name: node
    for name, node in _public(STUB_NETWORK.body, ast.FunctionDef).items()
    if not any(isinstance(decorator, ast.Name) and decorator.id == "property" for decorator in node.decorator_list)
}


def test_stub_compiled_module_and_reference_have_the_same_functions():
    ours = {
        name: function
        for name, function in _public_functions(_engine).items()
        if function.__module__ and function.__module__.startswith("cymlp.")
    }
    assert set(STUB_FUNCTIONS) == set(ours)
    public = {name for name in reference.__all__ if inspect.isfunction(getattr(reference, name))}
    assert set(STUB_FUNCTIONS) - COMPILED_ONLY == public
    for name, node in STUB_FUNCTIONS.items():
        assert _stub_parameters(node) == _parameters(ours[name]), name
        if name not in COMPILED_ONLY:
            assert _stub_parameters(node) == _parameters(getattr(reference, name)), name


def test_stub_compiled_module_and_reference_have_the_same_network():
    compiled, oracle = _public_functions(_engine.Network), _public_functions(reference.Network)
    assert set(STUB_METHODS) == set(compiled) == set(oracle)
    for name, node in STUB_METHODS.items():
        assert _stub_parameters(node) == _parameters(compiled[name]) == _parameters(oracle[name]), name
    # A compiled constructor shows no signature: it has to take what the reference's takes, by position and by name.
    constructor = next(
        node for node in STUB_NETWORK.body if isinstance(node, ast.FunctionDef) and node.name == "__new__"
    )
    arguments = {
        "layer_sizes": (2, 1),
        "activations": [("identity", 0.0)],
        "loss": ("squared_error", 1.0),
        "dtype": "float64",
    }
    optional = {"normalizations": None}
    parameters = [*((name, inspect.Parameter.empty) for name in arguments), *optional.items()]
    assert _stub_parameters(constructor)[1:] == parameters == _parameters(reference.Network)
    for network in (reference.Network, _engine.Network):
        network(**arguments)
        network(**arguments, **optional)
        network(*arguments.values())
        network(*arguments.values(), *optional.values())
        with pytest.raises(TypeError):
            network(*arguments.values(), *optional.values(), None)
