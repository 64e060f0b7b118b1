"""Results as text for a terminal."""

import itertools

__all__ = ["facts_table", "machine_table", "sweep_table", "table"]


def _number(value, form, none="-"):
    return none if value is None else format(value, form)


def _time(seconds):
    """Microseconds with 3 to 4 digits that mean something."""
    micro = 1e6 * seconds
    return f"{micro:.2f}" if micro < 10 else f"{micro:.1f}" if micro < 1000 else f"{micro:.0f}"


def _percent(value):
    return "-" if value is None else f"{100 * value:.0f}%"


def machine_table(facts, measured, problem=None):
    """Lines about the machine: its peaks and bandwidths."""
    cache = facts["last_cache"] / 2**20
    lines = [f"{facts['cpu']}, {facts['cpus']} CPUs, last cache {cache:.0f} MiB; Python {facts['python']}"]
    lines.append(f"cymlp {facts['cymlp']}, {facts['isa']}; NumPy {facts['numpy']}, {facts['blas']}")
    if problem:
        return [*lines, f"peaks and bandwidth not measured, shares left out: {problem}"]
    numbers = sorted({row["threads"] for row in measured["flops"]})
    header = "".join(f"{f'{n} thread' + 's' * (n > 1):>12}" for n in numbers)
    lines += ["", f"{'measured peak':<22}{header}"]
    found = {}
    for row in measured["flops"]:
        found.setdefault(f"{row['isa']} {row['dtype']}", []).append(f"{row['flops_per_second'] / 1e9:.0f} GF/s")
    for row in measured["bandwidth"]:
        found.setdefault(f"memory, {row['kind']}", []).append(f"{row['bytes_per_second'] / 1e9:.1f} GB/s")
    return lines + [f"{name:<22}" + "".join(f"{value:>12}" for value in values) for name, values in found.items()]


def _variant(row):
    """What tells rows of one rival apart."""
    optimizer = {"adam": "Adam", "sgd": "SGD", None: None}[row["optimizer"]]
    return " ".join(filter(None, [row["dtype"].replace("float", "f"), row["activation"], optimizer]))


def _label(row, with_isa, with_variant, with_feature):
    isa = [row["isa"]] if row["isa"] and with_isa else []
    feature = [row["feature"]] if with_feature else []
    return " ".join([row["rival"], *isa, *feature, *([f"({_variant(row)})"] if with_variant else [])])


def _what(row):
    """The work of a row in words."""
    if row["kind"] in ("train", "predict"):
        what = f"a training step of {row['batch']} rows" if row["kind"] == "train" else f"{row['batch']} rows predicted"
    else:
        what = row["what"]
    return f"{what}; {row['flops'] / 1e6:.4g} MFLOP" if row["flops"] else what


def table(rows):
    """Lines for one group of rows: the same work by several rivals."""
    first = rows[0]
    lines = [f"{first['network']}: {_what(first)}; {100 * first['stolen']:.1f} % of CPU time stolen"]
    variants = {_variant(row) for row in rows}
    isas = {row["isa"] for row in rows if row["isa"]}
    if len(variants) == 1:
        lines[0] += f"; {variants.pop()}"
    with_order = any(row.get("order") for row in rows)
    with_feature = any(row.get("feature", "plain") != "plain" for row in rows)
    labels = [_label(row, len(isas) > 1, bool(variants), with_feature) for row in rows]
    width = max(map(len, labels))
    lines.append(
        f"{'rival':<{width}}  {'version':<11}{'threads':>7}{'us':>11}{'fastest':>11}{'spread':>8}{'over ours':>11}"
        f"{'1 to n':>8}{'bound':>11}{'share':>7}" + "   order" * with_order + "  over plain" * with_feature
    )
    for row, label in zip(rows, labels, strict=True):
        start = f"{label:<{width}}  {row['version']:<11}{row['threads']:>7}"
        if row["problem"]:
            lines.append(f"{start}  not timed: {row['problem'][:160]}")
            continue
        numbers = f"{_time(row['seconds']):>11}{_time(row['fastest']):>11}{_percent(row['spread']):>8}"
        numbers += f"{_number(row['over_ours'], '.2f'):>11}{_number(row['speedup'], '.2f'):>8}"
        bound = _time(row["bound"]) if row.get("bound") else "-"
        numbers += f"{bound:>11}{_percent(row.get('share')):>7}"
        if with_order:
            numbers += f"{100 * row['order']:>7.1f}%" if row["order"] else f"{'-':>8}"
        if with_feature:
            numbers += f"{_number(row['over_plain'], '.3f'):>12}"
        lines.append(f"{start}{numbers}")
    for rival, note in sorted({(row["rival"], row["note"]) for row in rows if row["note"]}):
        lines.append(f"  {rival}: {note}")
    lines += [f"  goal: {goal}" for goal in sorted({row["goal"] for row in rows if row.get("goal")})]
    compile_times = {(row["rival"], row["threads"]): row["setup"] for row in rows if (row["setup"] or 0) > 10}
    for (rival, n), seconds in compile_times.items():
        lines.append(f"  {rival}, {n} threads: {seconds:.0f} s to set up and to train what is checked")
    return lines


def sweep_table(rows, cliffs):
    """Lines about how the cost grows: nanoseconds of a row at each point, and the points where it grows too much."""
    lines = ["Sweeps: microseconds of a step or a prediction, and GFLOP/s"]
    for (name, kind, threads), group in itertools.groupby(sorted(rows, key=_sweep_key), _sweep_key):
        group = sorted(group, key=lambda row: row["x"])
        lines.append(f"{name}, {kind}, {threads} thread{'s' * (threads > 1)}")
        cells = [f"{row['x']}: {_time(row['seconds'])} ({row['flops'] / row['seconds'] / 1e9:.0f})" for row in group]
        for start in range(0, len(cells), 6):
            lines.append("  " + "  ".join(f"{cell:<20}" for cell in cells[start : start + 6]).rstrip())
    lines.append("Cliffs: " + ("none" if not cliffs else ""))
    for cliff in cliffs:
        place = f"{cliff['sweep']}, {cliff['kind']}, {cliff['threads']} threads"
        lines.append(f"  {place}, at {cliff['x']}: {cliff['what']}, factor {cliff['factor']:.2f}")
    return lines


def _sweep_key(row):
    return row["sweep"], row["kind"], row["threads"]


def facts_table(rows):
    """Lines about what a fit costs beside floating point operations."""
    lines = ["Facts"]
    for row in rows:
        where = f"{row['what']}, {row['case']}, {row['threads']} threads" if "case" in row else row["what"]
        if "problem" in row:
            text = f"not measured: {row['problem']}"
        elif row["what"] == "overhead":
            text = ", ".join(f"{name} {1e6 * seconds:.2f} us a step" for name, seconds in row["seconds"].items())
        elif row["what"] == "allocations":
            text = f"{max(0.0, row['per_step']):.2f} a step ({row['per_call']} in a call of 320 steps)"
        elif row["what"] == "memory":
            allowed = row["six_copies"] + row["activations"]
            text = f"{row['used'] / 1e6:.1f} MB beside {row['data'] / 1e6:.1f} MB of data; "
            text += f"6 copies of the parameters and the activations of a minibatch are {allowed / 1e6:.1f} MB"
        else:
            text = f"{row['bytes'] / 1e6:.2f} MB"
        lines.append(f"  {where}: {text}")
    return lines
