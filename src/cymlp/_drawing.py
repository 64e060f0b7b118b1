"""What pictures have in common: colors, axes, and how numbers are shown that an axis cannot hold."""

import math

import numpy as np

__all__ = [
    "BLUE",
    "GRAY",
    "GREEN",
    "VERMILION",
    "edges",
    "frame",
    "frame_below_legend",
    "integers",
    "log_axis",
    "mark_unfinite",
    "new_axes",
    "shades",
    "widths",
    "written_out",
]

# Okabe and Ito's palette: safe for colour blindness.
BLUE, VERMILION, GREEN, GRAY = "#0072b2", "#d55e00", "#009e73", "#666666"
MARKERS = "os^Dv"
_LARGEST = 160.0  # powers of ten of an axis, and of its ends: roots of squares have no more, ticks overflow at 308
NOT_FINITE = "not finite"


def new_axes(ax):
    """`ax`, or for None those of a new figure of pyplot's."""
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots(layout="constrained")
    return ax


def frame(ax, loc="best", **legend):
    """A grid, no frame, and a legend where something has a name."""
    ax.grid(color="#808080", alpha=0.27, linewidth=0.6)  # pale on white and on black
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(edgecolor="none", framealpha=0.85, loc=loc, **legend)


def integers(axis):
    """Ticks of an axis that counts: at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def written_out(axis):
    """Ticks of a logarithmic axis of few powers of ten: between them, too, and numbers written out."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def shades(n, ax):
    """`n` colors of an order: of viridis, which is safe for color blindness, without those that are lost on `ax`."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    if n < 2:
        return [BLUE][:n]
    first, last = (0.78, 0.0) if sum(to_rgb(ax.get_facecolor())) > 1.5 else (0.3, 1.0)
    return [colormaps["viridis"](first + (last - first) * i / (n - 1)) for i in range(n)]


def widths(n):
    """`n` widths of lines, first to last: a line is seen below a later one that runs along it."""
    return [2.8 - 1.5 * i / (n - 1) if n > 1 else 1.6 for i in range(n)]


def edges(centers, log):
    """Borders of columns around ascending numbers, one more than these: in the middle, or in that of the logarithms."""
    centers = np.log(centers) if log else np.asarray(centers, dtype=float)
    between = (centers[1:] + centers[:-1]) / 2
    first, last = (between[0] - centers[0], centers[-1] - between[-1]) if len(between) else (0.5, 0.5)
    found = np.concatenate([[centers[0] - first], between, [centers[-1] + last]])
    return np.exp(found) if log else found


def log_axis(ax, values, least=10.0):
    """A logarithmic y axis for numbers that are not negative; zeros have a place of their own at its bottom.

    Parameters
    ----------
    ax : matplotlib Axes
        What is drawn there by lines counts, too.
    values : array-like
        What is drawn otherwise; what is not finite does not count.
    least : float, default 10
        The ratio of the axis' ends is larger, so that what hardly varies looks level.

    Notes
    -----
    Linear where no number is positive.
    """
    drawn = [line.get_ydata() for line in ax.lines if line.get_transform().contains_branch_seperately(ax.transData)[1]]
    drawn = np.concatenate([np.ravel(np.asarray(one, dtype=float)) for one in (*drawn, values)])
    drawn = drawn[np.isfinite(drawn)]
    positive = drawn[drawn > 0]
    ax.autoscale(False, axis="y")
    if not len(positive):
        ax.set_yscale("linear")
        ax.set_ylim(-0.05, 1)
        return
    low, high = np.clip(np.log10([positive.min(), positive.max()]), -_LARGEST, _LARGEST)
    middle, half = (low + high) / 2, max(high - low, math.log10(least)) / 2
    low, high = middle - 1.08 * half, middle + 1.08 * half
    low = max(low, high - _LARGEST)
    if len(positive) < len(drawn):
        linear = 10.0 ** math.floor(low)
        ax.set_yscale("symlog", linthresh=linear, linscale=max(0.4, 0.08 * (high - low)))
        ax.yaxis.get_major_locator().set_params(numticks=9)
        ax.set_ylim(-0.25 * linear, 10.0**high)
        return
    ax.set_yscale("log")
    if high - low < 3:
        written_out(ax.yaxis)
    ax.set_ylim(10.0**low, 10.0**high)


def mark_unfinite(ax, x, values, color):
    """Crosses below the top edge where a line has no finite numbers."""
    x, values = np.asarray(x), np.asarray(values, dtype=float)
    where = ~np.isfinite(values)
    if where.any():
        label = None if _crosses(ax) else NOT_FINITE
        style = {"color": color, "linestyle": "none", "marker": "x", "markersize": 5, "label": label, "gid": NOT_FINITE}
        ax.plot(x[where], np.full(where.sum(), 0.97), transform=ax.get_xaxis_transform(), zorder=4, **style)


def _crosses(ax):
    return [line for line in ax.lines if line.get_gid() == NOT_FINITE]


def frame_below_legend(ax, columns):
    """`frame`, with the legend above all that is drawn: the y axis is made longer for it, and for the crosses."""
    handles, labels = ax.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i] == NOT_FINITE)  # what is no line comes last
    crosses = _crosses(ax)
    height = ax.get_position().height * ax.figure.get_figheight()
    # In inches: a line of a legend in small letters, and its borders.
    legend = min(0.5, (0.19 * math.ceil(len(labels) / columns) + 0.12) / height)
    between = min(0.04, 0.16 / max(1, len(crosses)))
    room = legend + between * (len(crosses) + 1 if crosses else 0)
    for i, line in enumerate(crosses):
        line.set_ydata(np.full(len(line.get_xdata()), 1 - legend - between * (i + 0.8)))
    scale = ax.yaxis.get_transform()
    low, high = scale.transform(np.array(ax.get_ylim()))
    top = scale.inverted().transform(np.array([high + (high - low) * room / (1 - room)]))[0]
    # Next to the end of float64's range there may be none.
    ax.set_ylim(top=top if math.isfinite(top) else None)
    handles, labels = [handles[i] for i in order], [labels[i] for i in order]
    frame(ax, loc="upper left", handles=handles, labels=labels, ncols=columns, fontsize="small", borderaxespad=0.2)
