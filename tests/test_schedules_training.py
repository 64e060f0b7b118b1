"""Schedules where they are used: in optimisers, and in training."""

import dataclasses
import pickle

import numpy as np
import pytest

from cymlp import MLP, optimizers
from cymlp.schedules import Constant, CosineRestarts, OneCycle, ReduceOnPlateau, StepDecay, WarmUp, bind

# ---- Optimisers ----


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam", "adamw"])
def test_optimizers_take_schedules_where_engines_take_arrays(name):
    cls = optimizers.OPTIMIZERS[name]
    rate = WarmUp(OneCycle(0.1), 5)
    fields = [field.name for field in dataclasses.fields(cls) if field.name in optimizers.SCHEDULED]
    optimizer = cls(**dict.fromkeys(fields, CosineRestarts(0.5, steps=9)))
    assert all(optimizer.rule()[field] == CosineRestarts(0.5, steps=9) for field in fields)
    assert pickle.loads(pickle.dumps(optimizer)) == optimizer
    assert dataclasses.asdict(optimizer)["learning_rate"]["steps"] == 9
    assert "CosineRestarts" in repr(optimizer)
    assert optimizers.get(name, rate) == cls(rate)
    for field in fields:
        with pytest.raises(ValueError, match=rf"{cls.__name__}.{field} must be a .* at each step; got initial=-1"):
            cls(**{field: Constant(-1)})
    assert cls(**dict.fromkeys(fields, abs)).rule()["learning_rate"] is abs


@pytest.mark.parametrize("cls", [optimizers.SGD, optimizers.RMSprop])
def test_weight_decay_is_in_a_rule_where_there_is_any(cls):
    assert "weight_decay" not in cls().rule()
    assert cls(weight_decay=0.25).rule() == {**cls().rule(), "weight_decay": 0.25}
    with pytest.raises(ValueError, match="weight_decay must be a finite number >= 0; got -1"):
        cls(weight_decay=-1)


def test_other_constants_are_numbers():
    with pytest.raises(ValueError, match=r"Adam\.beta2 must be a number"):
        optimizers.Adam(beta2=Constant(0.9))
    with pytest.raises(ValueError, match="learning_rate has no meaning for optimizer='lbfgs'"):
        optimizers.get("lbfgs", Constant(0.1))


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam", "adamw"])
def test_training_with_schedules_is_training_with_their_values(name, engine_name, dtype, rng):
    """One step at a time with numbers, and all at once with schedules, to the last bit."""
    X, y = rng.normal(size=(40, 3)).astype(dtype), rng.normal(size=(40, 2)).astype(dtype)
    cls = optimizers.OPTIMIZERS[name]
    curves = {
        "learning_rate": WarmUp(CosineRestarts(0.05, steps=3), 4, 0.001),
        "momentum": OneCycle(0.9, 0.5, 0.9),
        "beta1": lambda step: 0.9 - 0.1 * step,
        "weight_decay": StepDecay(0.2, 3, 0.5),
    }
    curves = {key: curve for key, curve in curves.items() if key in {field.name for field in dataclasses.fields(cls)}}
    nets = [MLP([3, 5, 2], "tanh", dtype=dtype, random_state=1, engine=engine_name) for _ in range(2)]
    arguments = {"batch_size": 40, "shuffle": False}
    history = nets[0].train(X, y, epochs=8, optimizer=cls(**curves), **arguments)
    bound = {key: bind(curve, 8, key) for key, curve in curves.items()}
    for step in range(8):
        optimizer = cls(**{key: one.values(step, 1) for key, one in bound.items()})
        nets[1].train(X, y, epochs=1, optimizer=optimizer, resume=True, **arguments)
    assert nets[0].parameters.tobytes() == nets[1].parameters.tobytes()
    assert history.learning_rate == [bound["learning_rate"].values(step, 1) for step in range(8)]


def test_a_plateau_lowers_the_rate_of_a_training(engine_name, rng):
    X, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 1))
    net = MLP([3, 4, 1], "tanh", random_state=1, engine=engine_name)
    rate = WarmUp(ReduceOnPlateau(0.1, 0.5, patience=2, min_change=0.005), 3)
    history = net.train(X, y, epochs=30, batch_size=10, optimizer="sgd", learning_rate=rate, validation_data=(X, y))
    bound, rates = bind(rate, None, "learning_rate"), []
    for epoch, losses in enumerate(zip(history.loss, history.validation_loss, strict=True)):
        rates.append(np.broadcast_to(bound.values(4 * epoch, 4), 4)[-1])
        bound.end_epoch(*losses)
    assert history.learning_rate == rates
    assert rates[-1] < 0.03
