"""Results as text for a terminal."""

__all__ = ["machine_table", "table"]


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
    optimizer = {"adam": "Adam", "sgd": "SGD", None: ""}[row["optimizer"]]
    return " ".join(filter(None, [row["dtype"].replace("float", "f"), row["activation"], optimizer]))


def table(rows):
    """Lines for one group of rows: the same work by several rivals."""
    first = rows[0]
    what = (
        f"a training step of {first['batch']} rows" if first["kind"] == "train" else f"{first['batch']} rows predicted"
    )
    work = first["flops"] / 1e6
    lines = [f"{first['network']}: {what}; {work:.4g} MFLOP; {100 * first['stolen']:.1f} % of CPU time stolen"]
    variants = {_variant(row) for row in rows}
    isas = {row["isa"] for row in rows if row["isa"]}
    if len(variants) == 1:
        lines[0] += f"; {variants.pop()}"
    columns = (
        f"{'threads':>8}{'us':>11}{'fastest':>11}{'spread':>8}{'over ours':>11}{'1 to n':>8}{'bound':>10}{'share':>7}"
    )
    lines.append(f"{'rival':<34}{'version':<13}{columns}")
    for row in rows:
        name = " ".join([row["rival"], *([row["isa"]] if row["isa"] and len(isas) > 1 else [])])
        name += f" ({_variant(row)})" if variants else ""
        start = f"{name:<34}{row['version']:<13}{row['threads']:>8}"
        if row["problem"]:
            lines.append(f"{start}  not timed: {row['problem'][:160]}")
            continue
        numbers = f"{_time(row['seconds']):>11}{_time(row['fastest']):>11}{_percent(row['spread']):>8}"
        numbers += f"{_number(row['over_ours'], '.2f'):>11}{_number(row['speedup'], '.2f'):>8}"
        bound = _time(row["bound"]) if row.get("bound") else "-"
        lines.append(f"{start}{numbers}{bound:>10}{_percent(row.get('share')):>7}")
    for rival, note in sorted({(row["rival"], row["note"]) for row in rows if row["note"]}):
        lines.append(f"  {rival}: {note}")
    compile_times = {(row["rival"], row["threads"]): row["setup"] for row in rows if (row["setup"] or 0) > 10}
    for (rival, n), seconds in compile_times.items():
        lines.append(f"  {rival}, {n} threads: {seconds:.0f} s to set up and to train what is checked")
    return lines
