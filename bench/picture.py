"""Results as a picture: time against work, ours, the rivals' and the machine's bound."""

import functools
from pathlib import Path

__all__ = ["draw"]

# Ours is the one line in full colour; rivals keep theirs in every panel.
STYLES = {
    "cymlp": ("cymlp", "#c8102e", "o"),
    "reference": ("NumPy reference", "#8c8c8c", "v"),
    "sklearn": ("scikit-learn", "#e8952c", "s"),
    "sklearn-skylakex": ("scikit-learn, AVX-512 BLAS", "#c9b037", "D"),
    "jax": ("JAX", "#3b75c4", "^"),
    "torch": ("PyTorch", "#7b4fa3", "P"),
    "torch-compile": ("PyTorch, compiled", "#b48ad1", "X"),
    "onnxruntime": ("ONNX Runtime", "#2a9d6f", "<"),
    "openvino": ("OpenVINO", "#35b5c4", ">"),
}
BOUND, DASHES = "#222222", (0, (4, 2))
THREADS_STYLES = ("-", "--", ":", "-.")


def draw(result, path):
    """Write the picture of what `python -m bench` found, as its JSON has it.

    Parameters
    ----------
    result : dict
        With ``rows``, perhaps ``sweep``, ``machine`` and ``facts``.
    path : path-like
        Of the picture; the suffix is the format.
    """
    import matplotlib

    with matplotlib.rc_context(_LOOK):
        figure = _figure(result)
        figure.savefig(Path(path), dpi=130)


_LOOK = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
}


def _figure(result):
    """One row of panels for each kind of result that there is."""
    from matplotlib.figure import Figure

    rows = _comparable(result["rows"])
    train = [row for row in rows if row["kind"] == "train"]
    networks = list(dict.fromkeys(row["network"] for row in rows if row["kind"] == "predict"))
    sweeps = list(dict.fromkeys(row["sweep"] for row in result.get("sweep") or ()))
    bands = []
    if train:
        bands.append((4.6, "Training", [functools.partial(_training, train)]))
    if networks:
        one_each = [
            functools.partial(
                _prediction, [row for row in rows if (row["kind"], row["network"]) == ("predict", network)]
            )
            for network in networks
        ]
        bands.append((3.4, "Prediction", one_each))
    if sweeps:
        one_each = [
            functools.partial(_sweep, [row for row in result["sweep"] if row["sweep"] == sweep], result["machine"])
            for sweep in sweeps
        ]
        bands.append((3.2, "Sweeps", one_each))
    heights = [height for height, _, _ in bands] or [2.0]
    figure = Figure(figsize=(14, sum(heights) + 1.1), layout="constrained")
    figure.suptitle(_headline(result, rows), x=0.01, ha="left", fontsize=11, color="#333333")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (_, name, panels) in zip(parts, bands, strict=False):
        axes = part.subplots(1, len(panels), squeeze=False, sharey=name == "Sweeps")[0]
        for axis, panel in zip(axes, panels, strict=True):
            panel(axis)
        handles = {
            label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        part.legend(handles.values(), handles.keys(), loc="outside right upper")
    return figure


def _comparable(rows):
    """Of all variants (dtype, activation, optimiser, instruction set) the first, with the most threads."""
    timed = [row for row in rows if not row["problem"] and row["rival"] in STYLES]
    if not timed:
        return []
    keys = ("dtype", "activation")
    first = [timed[0][key] for key in keys]
    most = max(row["threads"] for row in timed)
    isas = [row["isa"] for row in timed if row["rival"] == "cymlp"][:1]
    return [
        row
        for row in timed
        if [row[key] for key in keys] == first and row["threads"] == most and row["isa"] in (None, *isas)
        and row["optimizer"] in (None, timed[0]["optimizer"])
    ]  # fmt: skip


def _headline(result, rows):
    facts = result["facts"]
    title = f"cymlp {facts['cymlp']} on {facts['cpu']}, {facts['isa']}"
    if rows:
        threads = rows[0]["threads"]
        title += f"; {rows[0]['dtype']}, {rows[0]['activation']}, {threads} thread{'s' * (threads > 1)}, medians"
    return title


def _lines(axis, rows, x):
    """A line for each rival, ours on top, and the bound."""
    axis.set_xscale("log")
    axis.set_yscale("log")
    for name, (label, color, marker) in STYLES.items():
        mine = sorted((row for row in rows if row["rival"] == name), key=lambda row: row[x])
        if not mine:
            continue
        ours = name == "cymlp"
        axis.plot(
            [row[x] for row in mine], [row["seconds"] for row in mine], label=label, color=color, marker=marker,
            markersize=6 if ours else 4.5, linewidth=2.4 if ours else 1.2, alpha=1 if ours else 0.85,
            zorder=5 if ours else 3, markeredgecolor="white", markeredgewidth=0.6,
        )  # fmt: skip
    times = [row["seconds"] for row in rows]
    axis.set_ylim(min(times) / 4, 2 * max(times))  # a bound far below everybody is no reason to make the rest small
    bounds = sorted((row[x], row["bound"]) for row in rows if row["rival"] == "cymlp" and row.get("bound"))
    if bounds:
        works, at_best = zip(*bounds, strict=True)
        axis.plot(works, at_best, label="bound of the machine", color=BOUND, linestyle=DASHES, linewidth=1.2)
        axis.fill_between(works, at_best, 1e-12, color="#f3f3f3", zorder=1)
    axis.yaxis.set_major_formatter(lambda seconds, _: _duration(seconds))


def _duration(seconds):
    """1e-5 as 10 µs."""
    for unit, name in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= 0.999 * unit:
            return f"{seconds / unit:g} {name}"
    return f"{seconds / 1e-9:g} ns"


def _training(rows, axis):
    _lines(axis, rows, "flops")
    axis.set_title(f"A training step, {_optimizer(rows)}: time against work")
    axis.set_xlabel("floating point operations of a step")
    axis.set_ylabel("time of a step")
    named = axis.secondary_xaxis("top")
    works = {row["flops"]: f"{row['network']} @{row['batch']}" for row in rows}
    named.set_xticks(
        list(works), list(works.values()), rotation=35, ha="left", va="bottom", rotation_mode="anchor", fontsize=8
    )
    named.minorticks_off()
    named.tick_params(length=3, pad=1)
    named.spines["top"].set_visible(False)


def _optimizer(rows):
    return {"adam": "Adam", "sgd": "SGD"}[rows[0]["optimizer"]]


def _prediction(rows, axis):
    _lines(axis, rows, "batch")
    axis.set_title(rows[0]["network"])
    axis.set_xlabel("rows")
    axis.set_xticks(sorted({row["batch"] for row in rows}))
    axis.xaxis.set_major_formatter(lambda n, _: f"{n:.0f}")
    axis.minorticks_off()
    axis.set_ylabel("time of a prediction" if axis.get_subplotspec().is_first_col() else "")


def _sweep(rows, measured, axis):
    """GFLOP/s, so that a plateau is one and a cliff stands out."""
    from matplotlib.ticker import LogLocator

    counts = sorted({row["threads"] for row in rows})
    for kind, color in (("train", "#c8102e"), ("predict", "#3b75c4")):
        for threads, style in zip(counts[::-1], THREADS_STYLES, strict=False):
            mine = sorted((row["x"], row["flops"] / row["seconds"] / 1e9) for row in rows
                          if (row["kind"], row["threads"]) == (kind, threads))  # fmt: skip
            what = {"train": "training", "predict": "prediction"}[kind]
            label = f"{what}, {threads} thread{'s' * (threads > 1)}"
            axis.plot(
                *zip(*mine, strict=True), style, color=color, marker=".", markersize=4, linewidth=1.4, label=label
            )
    best = [row for row in (measured or {"flops": []})["flops"] if row["dtype"] == "float32"]
    for threads in counts:
        peaks = [row["flops_per_second"] / 1e9 for row in best if row["threads"] == threads]
        if peaks:
            axis.axhline(max(peaks), color=BOUND, linestyle=DASHES, linewidth=1, label="peak")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter(lambda n, _: f"{n:g}")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
    axis.minorticks_off()
    what, _, network = rows[0]["sweep"].partition(", ")
    axis.set_title(network)
    axis.set_xlabel({"batch": "rows of a minibatch or a prediction"}.get(what, what))
    axis.set_ylabel("GFLOP/s" if axis.get_subplotspec().is_first_col() else "")
