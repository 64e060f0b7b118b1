"""Schedules: each curve against its formula and PyTorch's values, what is refused, and what a run makes of one."""

import copy
import dataclasses
import itertools
import json
import math
import pickle

import numpy as np
import pytest
from conftest import assert_close

from cymlp import schedules
from cymlp.schedules import (
    SCHEDULES,
    Constant,
    CosineRestarts,
    Exponential,
    InverseScaling,
    OneCycle,
    Polynomial,
    ReduceOnPlateau,
    StepDecay,
    WarmUp,
    bind,
)

# ---- Curves ----

T = 150  # steps of the run


def _half_cosine(start, end, share):
    return (start + end) / 2 + (start - end) / 2 * math.cos(math.pi * share)


def _cosine_cycles(t, initial, final, length, multiplier, restarts=math.inf):
    cycle = 0
    while t >= length and cycle < restarts:
        t, length, cycle = t - length, length * multiplier, cycle + 1
    return final if t >= length else _half_cosine(initial, final, t / length)


def _one_cycle(t, initial, peak, final, rise, length, way):
    top = rise * length
    if t < top:
        return way(initial, peak, t / top)
    return way(peak, final, (t - top) / (length - top)) if t < length else final


def _straight(start, end, share):
    return start + share * (end - start)


# name -> a schedule, and its value at step t of a run of T steps, once more
CURVES = {
    "constant": (Constant(0.3), lambda t: 0.3),
    "every 7 steps": (StepDecay(0.5, 7), lambda t: 0.5 * 0.1 ** (t // 7)),
    "at given steps": (StepDecay(0.5, [3, 4, 90], 0.5), lambda t: 0.5 * 0.5 ** ((t >= 3) + (t >= 4) + (t >= 90))),
    "exponential": (Exponential(0.5), lambda t: 0.5 * math.exp(t / T * math.log(0.01))),
    "exponential, 9 steps": (Exponential(0.5, 0.7, 9), lambda t: 0.5 * math.exp(t / 9 * math.log(0.7))),
    "inverse scaling": (InverseScaling(0.5), lambda t: 0.5 / math.sqrt(t + 1)),
    "inverse, 20 steps": (InverseScaling(0.5, 1, 20), lambda t: 0.5 / (1 + t / 20)),
    "linear": (Polynomial(0.5), lambda t: 0.5 * max(0, 1 - t / T)),
    "polynomial": (
        Polynomial(0.1, 0.4, power=3, steps=40),
        lambda t: 0.4 - 0.3 * (1 - t / 40) ** 3 if t < 40 else 0.4,
    ),
    "cosine": (CosineRestarts(0.5, 0.1), lambda t: _cosine_cycles(t, 0.5, 0.1, T, 1)),
    "restarts": (CosineRestarts(0.5, steps=11), lambda t: _cosine_cycles(t, 0.5, 0.0, 11, 1)),
    "growing cycles": (
        CosineRestarts(0.5, 0.1, steps=3, multiplier=2),
        lambda t: _cosine_cycles(t, 0.5, 0.1, 3, 2),
    ),
    "no restart": (CosineRestarts(0.5, steps=11, restarts=0), lambda t: _cosine_cycles(t, 0.5, 0.0, 11, 1, 0)),
    "2 restarts": (
        CosineRestarts(0.5, 0.1, steps=5, multiplier=3, restarts=2),
        lambda t: _cosine_cycles(t, 0.5, 0.1, 5, 3, 2),
    ),
    "one cycle": (OneCycle(0.02), lambda t: _one_cycle(t, 0.02, 0.5, 0.02 / 1e4, 0.3, T, _half_cosine)),
    "a momentum's cycle": (
        OneCycle(0.95, 0.85, 0.95, rise=0.45, steps=100, shape="linear"),
        lambda t: _one_cycle(t, 0.95, 0.85, 0.95, 0.45, 100, _straight),
    ),
    "only down": (OneCycle(0.1, 0.5, 0.0, rise=0), lambda t: _one_cycle(t, 0.1, 0.5, 0.0, 0, T, _half_cosine)),
    "only up": (OneCycle(0.1, 0.5, 0.2, rise=1), lambda t: _one_cycle(t, 0.1, 0.5, 0.2, 1, T, _half_cosine)),
    "plateau": (ReduceOnPlateau(0.3), lambda t: 0.3),
    "warm-up": (
        WarmUp(CosineRestarts(0.5), 30),
        lambda t: 0.5 * t / 30 if t < 30 else _cosine_cycles(t - 30, 0.5, 0.0, T - 30, 1),
    ),
    "warm-up of a number": (WarmUp(0.5, 8, 0.1), lambda t: 0.1 + 0.4 * min(t / 8, 1)),
    "warm-up of a callable": (
        WarmUp(lambda t: 1 / (t + 2), 8),
        lambda t: 0.5 * t / 8 if t < 8 else 1 / (t - 6),
    ),
}
NAMED = pytest.mark.parametrize("name", CURVES)


@NAMED
def test_curves_follow_their_formulas(name):
    schedule, formula = CURVES[name]
    steps = np.arange(2 * T if "steps" in name or name in ("linear", "polynomial", "restarts", "one cycle") else T)
    desired = np.array([formula(t) for t in steps.tolist()])
    assert_close(schedule(steps, T), desired, 1, kind="update")
    values = bind(schedule, T, "learning_rate").values(0, len(steps)) * np.ones(len(steps))
    assert_close(values, desired, 1, kind="update")


# Of PyTorch 2.13: learning rates before each of 13 steps, where 0.5 is given, to 9 digits.
PYTORCH = {
    "StepLR(4, 0.1)": (
        StepDecay(0.5, 4),
        "0.5 0.5 0.5 0.5 0.05 0.05 0.05 0.05 0.005 0.005 0.005 0.005 0.0005",
    ),
    "MultiStepLR([2, 3, 9], 0.5)": (
        StepDecay(0.5, (2, 3, 9), 0.5),
        "0.5 0.5 0.25 0.125 0.125 0.125 0.125 0.125 0.125 0.0625 0.0625 0.0625 0.0625",
    ),
    "ExponentialLR(0.9)": (
        Exponential(0.5, 0.9, 1),
        "0.5 0.45 0.405 0.3645 0.32805 0.295245 0.2657205 0.23914845 0.215233605 0.193710245 0.17433922 "
        "0.156905298 0.141214768",
    ),
    "PolynomialLR(10, 2.0)": (
        Polynomial(0.5, power=2.0, steps=10),
        "0.5 0.405 0.32 0.245 0.18 0.125 0.08 0.045 0.02 0.005 0 0 0",
    ),
    "CosineAnnealingLR(12, 0.05)": (
        CosineRestarts(0.5, 0.05, restarts=0),
        "0.5 0.492333311 0.469855716 0.434099026 0.3875 0.333234285 0.275 0.216765715 0.1625 0.115900974 "
        "0.0801442841 0.0576666891 0.05",
    ),
    "CosineAnnealingWarmRestarts(3, 2, 0.05)": (
        CosineRestarts(0.5, 0.05, 3, 2),
        "0.5 0.3875 0.1625 0.5 0.469855716 0.3875 0.275 0.1625 0.0801442841 0.5 0.492333311 0.469855716 0.434099026",
    ),
    # Its total_steps and pct_start count the steps of the first and the last value, ours the distances between them.
    "OneCycleLR(0.5, total_steps=13, pct_start=5 / 13)": (
        OneCycle(0.02, rise=4 / 12),
        "0.02 0.0902943725 0.26 0.429705627 0.5 0.480969959 0.426776988 0.345671475 0.250001 0.154330525 "
        "0.0732250118 0.0190320408 2e-06",
    ),
    "OneCycleLR(0.5, total_steps=13, pct_start=5 / 13, anneal_strategy='linear')": (
        OneCycle(0.02, rise=4 / 12, shape="linear"),
        "0.02 0.14 0.26 0.38 0.5 0.43750025 0.3750005 0.31250075 0.250001 0.18750125 0.1250015 0.06250175 2e-06",
    ),
    "SequentialLR([LinearLR(0.1, 1.0, 4), ExponentialLR(0.9)], [4])": (
        WarmUp(Exponential(0.5, 0.9, 1), 4, 0.05),
        "0.05 0.1625 0.275 0.3875 0.5 0.45 0.405 0.3645 0.32805 0.295245 0.2657205 0.23914845 0.215233605",
    ),
}


def _nine_digits(values):
    return " ".join(f"{value:.9g}" for value in values)


@pytest.mark.parametrize("name", PYTORCH)
def test_curves_are_those_of_pytorch(name):
    schedule, values = PYTORCH[name]
    assert _nine_digits(schedule(np.arange(13), 12)) == values


LOSSES = (5, 4, 4.5, 4.2, 4.0, 3.9, 3.8, 3.8, 3.8, 3.9, 4.0, 3.7, 3.6)


# PyTorch's patience is the number of bad epochs that do no harm, ours that of those which do.
@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        # ReduceLROnPlateau(factor=0.5, patience=1, threshold=0, threshold_mode="abs", min_lr=0.1)
        (
            ReduceOnPlateau(0.5, 0.5, patience=2, lowest=0.1),
            "0.5 0.5 0.5 0.5 0.25 0.25 0.25 0.25 0.25 0.125 0.125 0.1 0.1",
        ),
        # ReduceLROnPlateau(factor=0.5, patience=1, threshold=0.15, threshold_mode="abs", cooldown=2)
        (
            ReduceOnPlateau(0.5, 0.5, patience=2, min_change=0.15, cooldown=2),
            "0.5 0.5 0.5 0.5 0.25 0.25 0.25 0.25 0.25 0.125 0.125 0.125 0.125",
        ),
    ],
)
def test_plateaus_are_those_of_pytorch(schedule, values):
    bound, found = bind(schedule, None, "learning_rate"), []
    for step, loss in enumerate(LOSSES):
        found.append(bound.values(step, 1))
        bound.end_epoch(loss)
    assert _nine_digits(found) == values


def test_plateaus_look_at_the_validation_loss_where_there_is_one():
    bound = bind(ReduceOnPlateau(1.0, 0.5, patience=1), 10, "learning_rate")
    for loss, validation_loss, rate in ((5, 1, 1.0), (6, 0.5, 1.0), (4, 0.5, 0.5), (9, 0.4, 0.5), (1, math.nan, 0.25)):
        bound.end_epoch(loss, validation_loss)
        assert bound.values(0, 3) == rate


def test_a_plateau_behind_a_warm_up_lowers_where_that_leads():
    bound = bind(WarmUp(ReduceOnPlateau(1.0, 0.5, patience=1), 4), 10, "learning_rate")
    assert bound.values(0, 6).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    bound.end_epoch(1.0)
    bound.end_epoch(1.0)
    assert bound.values(0, 6).tolist() == [0.0, 0.125, 0.25, 0.375, 0.5, 0.5]


# ---- Properties of all ----


def test_every_schedule_is_in_the_registry_and_begins_with_its_initial_value():
    public = {getattr(schedules, name) for name in schedules.__all__ if isinstance(getattr(schedules, name), type)}
    assert set(SCHEDULES.values()) == public - {schedules.Bound, schedules.Schedule, WarmUp}
    for cls in SCHEDULES.values():
        assert next(iter(dataclasses.fields(cls))).name == "initial"
        schedule = cls(0.7, 10) if cls is StepDecay else cls(0.7)
        assert schedule(0, 100) == 0.7
        assert bind(schedule, 100, "dropout").values(0, 1) == 0.7


@NAMED
def test_schedules_can_be_copied_pickled_printed_and_compared(name):
    schedule, _ = CURVES[name]
    assert copy.deepcopy(schedule) == schedule
    assert type(schedule).__name__ in repr(schedule)
    if name != "warm-up of a callable":
        assert pickle.loads(pickle.dumps(schedule)) == schedule
        assert eval(repr(schedule), vars(schedules)) == schedule
        assert hash(schedule) == hash(copy.copy(schedule))
    assert set(dataclasses.asdict(schedule)) >= {"schedule" if isinstance(schedule, WarmUp) else "initial"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(schedule, dataclasses.fields(schedule)[0].name, 1.0)


@NAMED
def test_steps_may_be_numbers_or_arrays_of_any_shape(name):
    schedule, _ = CURVES[name]
    steps = np.arange(24, dtype=np.int32).reshape(4, 6)
    values = schedule(steps, T)
    assert values.shape == (4, 6)
    assert values.dtype == np.float64
    assert type(schedule(np.int64(5), T)) is float
    assert schedule(5, T) == values[0, 5]
    assert schedule(np.zeros(0, int), T).shape == (0,)


@pytest.mark.parametrize("step", [-1, 0.5, "1", None, [1, -2], True, 2**63, 2**54])
def test_steps_that_are_none_are_refused(step):
    with pytest.raises(ValueError, match="step must be an integer >= 0"):
        Constant(1.0)(step)


@NAMED
def test_values_do_not_depend_on_how_a_run_is_divided(name, rng):
    schedule, _ = CURVES[name]
    bound = bind(schedule, T, "learning_rate")
    whole = bound.values(0, T) * np.ones(T)
    for _ in range(20):
        cuts = [0, *sorted(set(rng.integers(1, T, rng.integers(1, 6)).tolist())), T]
        pieces = [bound.values(a, b - a) * np.ones(b - a) for a, b in itertools.pairwise(cuts)]
        assert np.concatenate(pieces).tobytes() == whole.tobytes()


@NAMED
def test_what_is_constant_is_a_float(name):
    schedule, formula = CURVES[name]
    bound = bind(schedule, T, "learning_rate")
    for first, count in ((0, 1), (0, 3), (91, 40), (0, T)):
        values = bound.values(first, count)
        if len({formula(t) for t in range(first, first + count)}) == 1:
            assert type(values) is float
        else:
            assert values.shape == (count,)
            assert values.dtype == np.float64
            assert values.flags.c_contiguous


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_rounding_leads_beyond_no_end(shape, rng):
    """A momentum that begins with 1 would be refused in its last bit."""
    for _ in range(200):
        low, high, steps = rng.uniform(0, 1), 1.0, int(rng.integers(1, 300))
        curves = [OneCycle(high, low, high, shape=shape, steps=steps), Polynomial(low, high, 0.5, steps)]
        curves.append(CosineRestarts(low, high, steps, restarts=0) if shape == "cosine" else WarmUp(high, steps, low))
        for curve in curves:
            values = curve(np.arange(steps + 1))
            assert low <= values.min()
            assert values.max() <= high
            assert values[-1] == high


def test_numbers_and_callables_are_schedules():
    assert bind(0.25, None, "dropout[0]").values(3, 9) == 0.25
    assert bind(np.float32(0.5), None, "dropout[0]").values(3, 9) == 0.5
    asked = []

    def rate(step):
        asked.append(step)
        return np.float32(1) / (step + 1) if step % 2 else np.array(step)

    values = bind(rate, None, "learning_rate").values(3, 4)
    assert asked == [3, 4, 5, 6]
    assert all(type(step) is int for step in asked)
    assert values.tolist() == [0.25, 4.0, np.float32(1) / 6, 6.0]
    assert bind(WarmUp(rate, 4), None, "learning_rate").values(70, 1) == 66.0
    assert asked[4:] == [66]


def test_blocks_that_are_there_are_those_of_the_same_plateau(rng):
    bound = bind(ReduceOnPlateau(1.0, 0.5, patience=1), 10, "learning_rate")
    assert bound.values(3, 2) == 1.0
    bound.end_epoch(1.0)
    bound.end_epoch(1.0)
    assert bound.values(3, 2) == 0.5
    bound = bind(Polynomial(1.0), 10, "learning_rate")
    values = bound.values(2, 3)
    values[:] = 7.0  # whoever has them may write to them
    assert bound.values(3, 2).tolist() == [0.7, 0.6]
    assert bound.values(60, 8) == 0.0


def test_states_are_json_and_go_on_where_they_were_taken(rng):
    spec = WarmUp(ReduceOnPlateau(1.0, 0.5, patience=2, cooldown=1), 3)
    losses = rng.integers(0, 5, 40).tolist()
    bound = bind(spec, None, "learning_rate")
    assert bind(CosineRestarts(1.0), 10, "learning_rate").state() == bind(0.1, 10, "learning_rate").state() == {}
    for epoch, loss in enumerate(losses):
        other = bind(spec, None, "learning_rate")
        other.restore(json.loads(json.dumps(bound.state(), allow_nan=False)))
        for later in losses[epoch:]:
            other.end_epoch(later)
        bound.end_epoch(loss)
    assert other.state() == bound.state()
    assert bound.values(9, 1) == other.values(9, 1) < 0.1


# ---- What is refused ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant("a"), "Constant.initial must be a finite number; got 'a'"),
        (lambda: Constant(True), "Constant.initial must be a finite number; got True"),
        (lambda: Polynomial(0.1, math.nan), "Polynomial.final must be a finite number; got nan"),
        (lambda: Polynomial(10**400), "Polynomial.initial must be a finite number; got 1000"),
        (lambda: Polynomial(0.1, power=0), "Polynomial.power must be a finite number > 0; got 0"),
        (lambda: Polynomial(0.1, steps=0), "Polynomial.steps must be an integer >= 1; got 0"),
        (lambda: Exponential(0.1, -1), "Exponential.factor must be a finite number > 0; got -1"),
        (lambda: InverseScaling(0.1, steps=0), "InverseScaling.steps must be an integer >= 1; got 0"),
        (lambda: StepDecay(0.1, 0), "StepDecay.steps must be an integer >= 1; got 0"),
        (lambda: StepDecay(0.1, 10**30), r"StepDecay.steps must be an integer <= 2\^53; got 1000"),
        (lambda: StepDecay(0.1, ()), r"StepDecay.steps must rise, and have at least one number; got \(\)"),
        (lambda: StepDecay(0.1, (5, 5)), r"StepDecay.steps must rise, and have at least one number; got \(5, 5\)"),
        (lambda: CosineRestarts(0.1, multiplier=0), "CosineRestarts.multiplier must be an integer >= 1; got 0"),
        (lambda: CosineRestarts(0.1, restarts=-1), "CosineRestarts.restarts must be an integer >= 0; got -1"),
        (lambda: OneCycle(0.1, math.inf), "OneCycle.peak must be a finite number; got inf"),
        (lambda: OneCycle(0.1, rise=1.5), r"OneCycle.rise must be a number in \[0, 1\]; got 1.5"),
        (lambda: OneCycle(0.1, shape="sine"), "OneCycle.shape must be 'cosine' or 'linear'; got 'sine'"),
        (lambda: ReduceOnPlateau(0.1, 1), r"ReduceOnPlateau.factor must be a number in \(0, 1\); got 1"),
        (lambda: ReduceOnPlateau(0.1, patience=0), "ReduceOnPlateau.patience must be an integer >= 1; got 0"),
        (
            lambda: ReduceOnPlateau(0.1, min_change=-1),
            "ReduceOnPlateau.min_change must be a finite number >= 0; got -1",
        ),
        (lambda: ReduceOnPlateau(0.1, lowest=1), "ReduceOnPlateau.lowest must not be above initial, 0.1; got 1"),
        (lambda: ReduceOnPlateau(0.1, cooldown=-1), "ReduceOnPlateau.cooldown must be an integer >= 0; got -1"),
        (
            lambda: WarmUp("a", 5),
            "WarmUp.schedule must be a schedule other than WarmUp, a callable or a number; got 'a'",
        ),
        (lambda: WarmUp(WarmUp(1.0, 5), 5), "WarmUp.schedule must be a schedule other than WarmUp"),
        (lambda: WarmUp(math.inf, 5), "WarmUp.schedule must be a finite number; got inf"),
        (lambda: WarmUp(1.0, 0), "WarmUp.steps must be an integer >= 1; got 0"),
    ],
)
def test_schedules_refuse_what_makes_no_curve(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("cls", [Exponential, Polynomial, CosineRestarts, OneCycle])
def test_a_run_of_unknown_length_needs_steps(cls):
    message = f"{cls.__name__}.steps must be given where the length of the run is not known, as for a stream"
    with pytest.raises(ValueError, match=message):
        cls(0.1)(0)
    for spec in (cls(0.1), WarmUp(cls(0.1), 4)):
        with pytest.raises(ValueError, match=f"SGD.learning_rate: {message}"):
            bind(spec, None, "SGD.learning_rate")
    assert bind(cls(0.1, steps=10), None, "SGD.learning_rate").values(0, 1) == 0.1


@pytest.mark.parametrize(
    ("spec", "name", "message"),
    [
        (Constant(-0.1), "learning_rate", r"must be a finite number >= 0 at each step; got initial=-0.1 in Constant\("),
        (
            OneCycle(0.5, 1.5, 0.5),
            "SGD.momentum",
            r"must be a number in \[0, 1\] at each step; got peak=1.5 in One",
        ),
        (
            WarmUp(Polynomial(0.5, 1.0), 3),
            "Adam.beta1",
            r"must be a number in \[0, 1\) at each step; got final=1.0 in",
        ),
        (WarmUp(0.5, 3, -1), "weight_decay", "must be a finite number >= 0 at each step; got start=-1 in WarmUp"),
        (WarmUp(2, 3), "dropout[1]", r"must be a number in \[0, 1\]; got 2"),
        (ReduceOnPlateau(0.5, lowest=-1), "learning_rate", "must be a finite number >= 0 at each step; got lowest=-1"),
        (math.nan, "learning_rate", "must be a finite number >= 0; got nan"),
        (10**400, "learning_rate", "must be a finite number >= 0; got 1000"),
        (Constant, "dropout[2]", r"must be a number in \[0, 1\], a schedule, or a callable of the step; got <class"),
        ("0.1", "dropout[2]", r"must be a number in \[0, 1\], a schedule, or a callable of the step; got '0.1'"),
        (None, "dropout[2]", r"must be a number in \[0, 1\], a schedule, or a callable of the step; got None"),
    ],
)
def test_what_is_out_of_range_is_refused_before_the_first_step(spec, name, message):
    with pytest.raises(ValueError, match=f"^{name}".replace("[", r"\[").replace("]", r"\]") + " " + message):
        bind(spec, 100, name)


@pytest.mark.parametrize(
    ("spec", "name", "message"),
    [
        (lambda t: 0.5 - t, "learning_rate", "a finite number >= 0 at each step; .*lambda.* gives -2.5 at step 3"),
        (
            lambda t: 0.5 if t < 4 else math.nan,
            "weight_decay",
            "a finite number >= 0 at .*; .* gives nan at step 4",
        ),
        (lambda t: t / 5, "Adam.beta1", r"a number in \[0, 1\) at each step; .* gives 1.0 at step 5"),
        (lambda t: t / 5, "dropout[0]", r"a number in \[0, 1\] at each step; .* gives 1.2 at step 6"),
        (lambda t: 10**400, "learning_rate", "a finite number >= 0 at each step; .* gives inf at step 3"),
        (StepDecay(1.0, 4, 1e300), "learning_rate", r"at each step; StepDecay\(.*\) gives inf at step 8"),
        (Exponential(0.5, 2, 5), "momentum", r"at each step; Exponential\(.*\) gives 1.14.* at step 6"),
    ],
)
def test_values_that_are_out_of_range_are_refused_with_their_step(spec, name, message):
    bound = bind(spec, 100, name)
    with np.errstate(all="raise"), pytest.raises(ValueError, match=message):
        bound.values(3, 6)


@pytest.mark.parametrize("value", ["a", None, True, 1j, [0.1], np.ones(1)])
def test_callables_must_give_numbers(value):
    with pytest.raises(TypeError, match=r"a schedule must give a number for each step; .* at step 2"):
        bind(lambda step: value, None, "learning_rate").values(2, 1)
