"""What can be said on the command line: options with their types and help, and what their texts mean."""

import contextlib
import csv
import functools
import inspect
import math
import os
import tempfile
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import activations, engine, initializers, normalizations, optimizers
from .experiment import ORDERS, SCHEDULES, Settings
from .tables import check_file
from .tabular import MISSING, SCALINGS, TASKS

MAX_WIDTH = 2**31 - 1  # of a layer, and rows of a batch: what no memory holds
MAX_SEED = 2**32 - 1  # what NumPy and scikit-learn take

_NET, _TRAIN, _REGULAR, _STOP, _FILES = "Network", "Training", "Regularization", "Stopping", "Output"
_RANGE, _DOCTOR = "Range test", "Examination"
_PANELS = (None, _NET, _TRAIN, _REGULAR, _STOP, _RANGE, _DOCTOR, _FILES)


def _choices(name, values):
    return StrEnum(name, {value: value for value in values})


_Task = _choices("Task", TASKS)
_Missing = _choices("Missing", MISSING)
_Scaling = _choices("Scaling", ("auto", *SCALINGS))
_Optimizer = _choices("Optimizer", optimizers.OPTIMIZERS)
_Descent = _choices("Descent", [name for name in optimizers.OPTIMIZERS if name != "lbfgs"])
_Schedule = _choices("Schedule", SCHEDULES)
_Initializer = _choices("Initializer", ("auto", *initializers.INITIALIZERS))
_Normalization = _choices("Normalization", ("none", *normalizations.NORMALIZATIONS))
_ClassWeight = _choices("ClassWeight", ("none", "balanced"))
_Order = _choices("Order", ORDERS)
_OutputActivation = _choices("OutputActivation", activations.ACTIVATIONS)
_Dtype = _choices("Dtype", ("float32", "float64"))
_Engine = _choices("Engine", engine.ENGINES)


def _option(panel, help, *names, **more):
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


# ---- Data ----

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A .csv, .tsv, .parquet or .npz file, or digits: scikit-learn's handwritten digits.",
    ),
]
Target = Annotated[str | None, typer.Option(help="The column (array) to learn; not needed for digits.")]
Task = Annotated[_Task | None, typer.Option(help="What the target is; by default, its values decide.")]
Ignore = Annotated[str, typer.Option(help="Columns (arrays of an .npz file) to leave out: a,b,c.", show_default=False)]
Missing = Annotated[_Missing, typer.Option(help="Missing values; impute: median or most frequent.")]
Scaling = Annotated[
    _Scaling,
    typer.Option(
        help="Divide numbers by each column's deviation, or by a shared one; auto: pixels share; none: take numbers, "
        "a target's, too, as they are."
    ),
]

# ---- The network ----

Layers = Annotated[str, _option(_NET, "Widths of hidden layers, or none.")]
Activation = Annotated[str, _option(_NET, "Of the hidden layers: one name, or a,b,c.")]
Normalization = Annotated[_Normalization, _option(_NET, "Of the hidden layers, before their activation.")]
Initializer = Annotated[_Initializer, _option(_NET, "Initial weights.")]
Gain = Annotated[float, _option(_NET, "Factor of the initial weights.")]
Dtype = Annotated[_Dtype, _option(_NET, "Precision.")]

# ---- Training ----

Optimizer = Annotated[_Optimizer, _option(_TRAIN, "Update rule.")]
Descent = Annotated[_Descent, _option(_TRAIN, "Update rule.")]
LearningRate = Annotated[float | None, _option(_TRAIN, "By default the optimizer's.")]
Schedule = Annotated[
    _Schedule,
    _option(
        _TRAIN,
        "How the learning rate goes on. exponential: to a hundredth. step: a tenth of it at 1/2 and at 3/4 of the run. "
        "inverse: by the root of epochs. polynomial, cosine: to 0. one-cycle: up to it, then down. plateau: a tenth "
        "where the loss has not fallen for 10 epochs.",
    ),
]
WarmUp = Annotated[int, _option(_TRAIN, "Updates in which the learning rate rises from 0, before the schedule.", min=0)]
Epochs = Annotated[int | None, _option(_TRAIN, "Passes over the training rows; 50, or more for few rows.", min=1)]
BatchSize = Annotated[int, _option(_TRAIN, "Rows per update.", min=1, max=MAX_WIDTH)]
ValidationSize = Annotated[float, _option(_TRAIN, "Fraction of rows that chooses the best epoch.")]
TestSize = Annotated[float, _option(_TRAIN, "Fraction of rows kept for the test.")]
Seed = Annotated[int, _option(_TRAIN, "Of the split, the weights and the order of rows.", min=0, max=MAX_SEED)]

# ---- Regularization ----

LabelSmoothing = Annotated[float, _option(_REGULAR, "How much of a class's certainty all classes share.")]
Dropout = Annotated[
    str, _option(_REGULAR, "Rate for hidden layers, or p0,p1,...: for the inputs and each hidden layer.")
]
L1 = Annotated[float, _option(_REGULAR, "Adds l1 times the sum of the weights' magnitudes to the loss.", "--l1", min=0)]
L2 = Annotated[
    float, _option(_REGULAR, "Adds l2 / 2 times the sum of the weights' squares to the loss.", "--l2", min=0)
]
WeightDecay = Annotated[
    float | None,
    _option(_REGULAR, "Share of the weights, times the learning rate, lost in an update; adamw: 0.01.", min=0),
]
MaxNorm = Annotated[float | None, _option(_REGULAR, "Longest a unit's vector of weights may be.", min=0)]
ClipNorm = Annotated[float | None, _option(_REGULAR, "Longest a gradient may be; longer ones are shortened.", min=0)]

ClipLayerNorm = Annotated[float | None, _option(_REGULAR, "The same for the part of each layer.", min=0)]
ClipValue = Annotated[float | None, _option(_REGULAR, "Largest magnitude of an element of a gradient.", min=0)]
PenalizeBiases = Annotated[bool, _option(_REGULAR, "Penalties and decay are for biases, too.", "--penalize-biases")]
ClassWeight = Annotated[_ClassWeight, _option(_TRAIN, "balanced: rare classes count for more.")]
Order = Annotated[
    _Order,
    _option(
        _TRAIN, "Of the rows: stratified has the mix of classes in each update; weighted draws them by class weight."
    ),
]

# ---- Stopping ----

Patience = Annotated[
    int | None, _option(_STOP, "End after so many epochs in a row without a better validation loss (or loss).", min=1)
]
TargetLoss = Annotated[float | None, _option(_STOP, "End when the validation loss (or loss) is as low.")]
MaxTime = Annotated[float | None, _option(_STOP, "End after so many seconds.", min=0)]

# ---- The range test ----

Lowest = Annotated[float, _option(_RANGE, "First learning rate.")]
Highest = Annotated[float, _option(_RANGE, "Last learning rate, if the loss does not grow before.")]
Steps = Annotated[int, _option(_RANGE, "Updates, one with each rate.", min=10)]

# ---- Examination ----

FewEpochs = Annotated[
    int | None, _option(_TRAIN, "Passes over the training rows; as many as all rules need.", "--epochs", min=1)
]
Every = Annotated[int, _option(_DOCTOR, "Look at the layers every so many updates, and in the first ones.", min=1)]
Apply = Annotated[
    bool, _option(_DOCTOR, "Train the network with the changes, too, and tell whether it is better.", "--apply")
]
Sizes = Annotated[
    str, typer.Argument(metavar="SIZES", help="Widths of all layers: inputs, hidden ones, outputs: 784,256,10.")
]
OutputActivation = Annotated[_OutputActivation, _option(_NET, "Of the output.")]
Bias = Annotated[float, _option(_NET, "Standard deviation of the biases.")]
InputScale = Annotated[float, _option(_NET, "Root mean square of the inputs.")]
Measure = Annotated[
    bool, _option(_DOCTOR, "Draw a network and a batch, and tell what they have, beside it.", "--measure")
]
MeasureSeed = Annotated[int, _option(_DOCTOR, "Of what is drawn.", "--seed", min=0, max=MAX_SEED)]

# ---- Everything else ----

Threads = Annotated[int | None, typer.Option(min=1, help="Threads; by default the work decides.")]
EngineOption = Annotated[_Engine, typer.Option("--engine", help="reference computes with NumPy.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
ModelOutput = Annotated[Path | None, _option(_FILES, "Model file; default: DATA.safetensors here.", "--output", "-o")]
CurvesPlot = Annotated[Path | None, _option(_FILES, "Picture of the learning curves; default: MODEL-curves.png.")]
RatesPlot = Annotated[Path | None, _option(_FILES, "Picture of the loss by rate; default: DATA-rates.png here.")]
HealthPlot = Annotated[Path | None, _option(_FILES, "Pictures of the layers; default: DATA-health.png here.")]
ForecastPlot = Annotated[Path | None, _option(_FILES, "Picture of the forecast.")]
NoPlot = Annotated[bool, _option(_FILES, "Draw no picture.", "--no-plot")]
Checkpoint = Annotated[
    Path | None,
    _option(_FILES, "File to keep the state of the training in after each epoch, and to go on from if it is there."),
]
Log = Annotated[Path | None, _option(_FILES, "Table of the epochs: .csv or .jsonl.")]


# ---- What several commands are told alike ----


@dataclass
class Common:
    """The options that `train`, `rates` and `doctor` share: data, network, and what decides a step of its training."""

    data: Data
    target: Target = None
    task: Task = None
    ignore: Ignore = ""
    missing: Missing = "error"
    scaling: Scaling = "auto"
    layers: Layers = "256,128"
    activation: Activation = "relu"
    normalization: Normalization = "none"
    initializer: Initializer = "auto"
    gain: Gain = 1.0
    dtype: Dtype = "float32"
    batch_size: BatchSize = 32
    seed: Seed = 0
    class_weight: ClassWeight = "none"
    order: Order = "shuffled"
    label_smoothing: LabelSmoothing = 0.05
    dropout: Dropout = "0"
    l1: L1 = 0.0
    l2: L2 = 0.0
    weight_decay: WeightDecay = None
    max_norm: MaxNorm = None
    penalize_biases: PenalizeBiases = False
    clip_norm: ClipNorm = None
    clip_layer_norm: ClipLayerNorm = None
    clip_value: ClipValue = None
    threads: Threads = None
    engine: EngineOption = "compiled"
    as_json: Json = False
    quiet: Quiet = False

    def settings(self, optimizer, learning_rate=None, **more):
        """`Settings` of these options and of more."""
        hidden = parse_layers(self.layers)
        check_fraction(self.label_smoothing, "--label-smoothing")
        check_gain(self.gain)
        same = {field.name for field in fields(Settings)} & {field.name for field in fields(self)}
        told = {name: getattr(self, name) for name in same} | more
        told = {name: str(value) if isinstance(value, StrEnum) else value for name, value in told.items()}
        told |= {
            "hidden_layers": hidden,
            "hidden_activation": parse_activations(self.activation, len(hidden)),
            "normalization": None if self.normalization == "none" else str(self.normalization),
            "optimizer": parse_optimizer(str(optimizer), learning_rate, self.weight_decay),
            "dropout": parse_dropout(self.dropout, len(hidden)),
            "n_threads": self.threads,
        }
        return Settings(**told)


def _panel(parameter):
    (option,) = parameter.annotation.__metadata__
    return _PANELS.index(option.rich_help_panel)


def with_common_options(command):
    """A command with the options of `Common` beside its own; it is given them as its first argument."""
    shared = inspect.signature(Common).parameters
    _, *own = inspect.signature(command).parameters.values()

    @functools.wraps(command)
    def wrapper(**told):
        common = Common(**{name: told.pop(name) for name in shared})
        return command(common, **told)

    # In the help panels stand in the order of their first options.
    parameters = sorted([*own, *shared.values()], key=_panel)
    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    wrapper.__signature__ = inspect.Signature(keyword)
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


# ---- What texts mean ----


def usage(message, option):
    """The error for an option that is wrong: exit code 2."""
    return typer.BadParameter(message, param_hint=f"'{option}'")


def parse_layers(text):
    if text.strip().lower() == "none":
        return ()
    try:
        layers = tuple(int(part) for part in text.split(","))
    except ValueError:
        layers = (0,)
    if not all(1 <= width <= MAX_WIDTH for width in layers):
        raise usage(f"must be whole numbers from 1 to {MAX_WIDTH} such as 128,64, or none; got {text!r}", "--layers")
    return layers


def parse_sizes(text):
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) < 2 or not all(1 <= width <= MAX_WIDTH for width in sizes):
        raise usage(f"must be at least 2 whole numbers from 1 to {MAX_WIDTH} such as 784,256,10; got {text!r}", "SIZES")
    return sizes


def parse_activations(text, n_layers):
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in activations.ACTIVATIONS or not activations.ACTIVATIONS[name].hidden:
            hidden = [known for known, definition in activations.ACTIVATIONS.items() if definition.hidden]
            raise usage(f"must be of {', '.join(hidden)}; got {name!r}", "--activation")
    if len(names) not in (1, n_layers):
        raise usage(f"must be one name, or {n_layers}: one per hidden layer; got {len(names)}", "--activation")
    return names[0] if len(names) == 1 else names


def parse_dropout(text, n_layers):
    """One rate for all hidden layers, or a list of them: for the inputs and each hidden layer."""
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = [-1.0]
    if not all(0 <= rate <= 1 for rate in rates):
        raise usage(f"must be a number in [0, 1], or several between commas; got {text!r}", "--dropout")
    if len(rates) not in (1, n_layers + 1):
        raise usage(
            f"must be one number, or {n_layers + 1}: for the inputs and each hidden layer; got {len(rates)}",
            "--dropout",
        )
    return rates[0] if len(rates) == 1 else rates


def parse_optimizer(name, learning_rate, weight_decay):
    try:
        optimizer = optimizers.get(name, learning_rate)
    except ValueError as error:
        raise usage(str(error), "--learning-rate") from None
    if weight_decay is None:
        return optimizer
    if not hasattr(optimizer, "weight_decay"):
        hint = "; use adamw" if name == "adam" else ""
        raise usage(f"has no meaning for the optimizer {name}{hint}", "--weight-decay")
    constants = {"weight_decay": weight_decay} | ({} if learning_rate is None else {"learning_rate": learning_rate})
    try:
        return type(optimizer)(**constants)
    except ValueError as error:
        raise usage(str(error), "--weight-decay") from None


def check_gain(gain):
    if gain <= 0 or not math.isfinite(gain):
        raise usage(f"must be a finite number > 0; got {gain}", "--gain")


def check_schedule(optimizer, schedule, warm_up):
    if optimizer == "lbfgs" and (schedule != "constant" or warm_up):
        raise usage("has no meaning for the optimizer lbfgs", "--warm-up" if warm_up else "--schedule")


def check_fraction(value, option):
    if not 0 <= value < 1:
        raise usage(f"must be a fraction in [0, 1); got {value}", option)


def output_file(path, option, suffixes=None):
    """Check that a file can be written, before any work is done for it."""
    if suffixes is not None and path.suffix.lower() not in suffixes:
        raise usage(f"must end in {' or '.join(suffixes)}; got {str(path)!r}", option)
    target = Path(os.path.realpath(path))  # a link stays one: what it points to is written
    try:
        for folder in (path.parent, target.parent):
            if not folder.is_dir():
                raise ValueError(f"{option}: there is no folder {str(folder)!r}")
        if target.is_dir():
            raise ValueError(f"{option}: {str(path)!r} is a folder")
        with contextlib.suppress(FileNotFoundError), open(target, "r+b"):  # OSError for a long name or a locked file
            pass
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".cymlp-"):
            pass
    except OSError as error:
        raise ValueError(f"{option}: cannot write {str(path)!r}: {error.strerror}") from None
    return path


def check_distinct(**files):
    """A usage error where two options, or an option and the data, name one file: the later one would replace it."""
    known = {}
    for name, path in files.items():
        if path is None:
            continue
        option = "DATA" if name == "data" else f"--{name}"
        other = known.setdefault(os.path.realpath(path), option)
        if other != option:
            raise usage(f"must not be the same file as {other}; got {str(path)!r}", option)


def file_of(data, ending):
    """Where something of data is written, in this folder, if the command line does not say."""
    if data != "digits":
        check_file(data)
    return Path(Path(data).stem + ending)


def split_names(text):
    """Names between commas, quoted as in a .csv file where they have commas themselves."""
    return tuple(name.strip() for name in next(csv.reader([text], skipinitialspace=True), ()) if name.strip())
