"""scikit-learn's own tests of its multilayer perceptrons, from the installed package, run with the classes of cymlp."""

import ast
import inspect
import types

import numpy as np
import pytest
from sklearn import neural_network
from sklearn.neural_network.tests import test_mlp as theirs

import cymlp

OURS = {getattr(neural_network, name): getattr(cymlp, name) for name in ("MLPClassifier", "MLPRegressor")}

# Private attributes of scikit-learn's classes that ours have, too.
KEPT = {"_optimizer", "_no_improvement_count"}

# Tests of other private attributes, and where the same is tested.
PRIVATE = {
    "test_fit": "sets what scikit-learn's first partial_fit makes: test_a_step_worked_out_by_hand, below",
    "test_gradient": "_loss_grad_lbfgs: test_reference.py and test_engine.py compare gradients with differences",
}


@pytest.fixture
def global_random_seed():
    """That of scikit-learn's conftest.py, by default."""
    return 42


def _private_names(function):
    """Attributes with one leading underscore that a function uses."""
    tree = ast.parse(inspect.getsource(function))
    names = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def _swap(value):
    """The same with our classes, wherever in lists and tuples theirs are."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(_swap, value))
    return OURS.get(value, value) if isinstance(value, type) else value


def _with_ours(function):
    """scikit-learn's test function, in whose module and marks the classes are ours."""
    names = {name: _swap(value) for name, value in vars(theirs).items()}
    ours = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    ours.pytestmark = [
        getattr(pytest.mark, mark.name)(*_swap(mark.args), **mark.kwargs).mark
        for mark in getattr(function, "pytestmark", [])
    ]
    return ours


FUNCTIONS = {
    name: function
    for name, function in vars(theirs).items()
    if name.startswith("test_") and isinstance(function, types.FunctionType)
}
globals().update({name: _with_ours(function) for name, function in FUNCTIONS.items() if name not in PRIVATE})


def test_only_tests_of_private_attributes_are_left_out():
    assert {name for name, function in FUNCTIONS.items() if _private_names(function) - KEPT} == set(PRIVATE)
    assert len(FUNCTIONS) - len(PRIVATE) > 30


def test_functions_are_run_as_they_are():
    """No decorator around them keeps scikit-learn's classes."""
    assert not [
        name for name, function in FUNCTIONS.items() if hasattr(function, "__wrapped__") or function.__closure__
    ]


def test_a_step_worked_out_by_hand():
    """The example of scikit-learn's test_fit: one row through 3-2-1 logistic units, one step of gradient descent."""
    X, y, params = np.array([[0.6, 0.8, 0.7]]), [0], {"momentum": 0, "alpha": 0.1, "learning_rate_init": 0.1}
    clf = cymlp.MLPClassifier(2, "logistic", solver="sgd", **params).partial_fit(X, y, classes=[0, 1])
    clf.coefs_ = [np.array([[0.1, 0.2], [0.3, 0.1], [0.5, 0]]), np.array([[0.1], [0.2]])]
    clf.intercepts_ = [np.array([0.1, 0.1]), np.array([1.0])]
    clf.partial_fit(X, y)
    (W, V), (b, c) = clf.coefs_, clf.intercepts_
    np.testing.assert_allclose(W, [[0.098, 0.195756], [0.2956664, 0.096008], [0.4939998, -0.002244]], atol=5e-4)
    np.testing.assert_allclose(V, [[0.04706], [0.154089]], atol=5e-4)
    np.testing.assert_allclose(b, [0.098333, 0.09626], atol=5e-4)
    np.testing.assert_allclose(c, [0.9235], atol=5e-4)
    np.testing.assert_allclose(clf.predict_proba(X), [[0.261, 0.739]], atol=5e-4)
