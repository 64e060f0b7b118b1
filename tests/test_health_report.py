"""Reports and what they make of models: networks, estimators, presets, pipelines."""

import functools
import json
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_wine, make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from test_health_rules import FLAT, LEARNED, _data, _evidence, _numbers, _records

from cymlp import MLP, MLPClassifier, MLPRegressor, activations, initializers, losses, optimizers, presets, schedules
from cymlp.health import RULES, Applied, Finding, HealthReport, forecast

SIZES = (8, 16, 16, 16, 2)

VANISHING = {"gradient": np.array([1, 1e-12, 1e-9, 1e-7, 1]) / np.array(SIZES)}
EXPLODING = {"gradient": np.array([1, 1e9, 1e6, 1e3, 1]) / np.array(SIZES)}
RESTLESS = {"update": 5.0}
STILL = {"update": 1e-6}
LARGE = {"input_mean": np.arange(8.0), "input_std": np.full(8, 1e4)}
RARE = {"class_shares": np.array([0.99, 0.01]), "recall": np.array([1.0, 0.0]), "base_loss": 0.7}

CLASSIFIER = {"hidden_layer_sizes": (16, 16, 16), "random_state": 0}


def _report(curve=FLAT, columns=None, data=None, **more):
    return HealthReport(_evidence(curve, SIZES, records=_records(SIZES, **(columns or {})), data=data, **more))


def _net(**more):
    return MLP(SIZES, output_activation="softmax", **({"random_state": 0} | more))


def _regression(curve=(2e4, 1e4), **more):
    hidden = (activations.get("relu"),) * 3
    sizes = (8, 16, 16, 16, 1)
    data = _numbers(target_mean=np.array([150.0]), target_std=np.array([77.0]), base_loss=2964.0, **more)
    identity = {"activations": (*hidden, activations.get("identity")), "loss": losses.get("squared_error")}
    return HealthReport(_evidence(curve, sizes, records=_records(sizes), data=data, **identity))


# ---- What a report says ----


def test_a_report_of_a_run():
    X, y = make_blobs(200, 4, centers=3, random_state=0)
    net = MLP([4, 16, 16, 3], "tanh", "softmax", initializer="zeros", random_state=0)
    report = net.train(X, y, epochs=5, health=True).health
    assert isinstance(report, HealthReport)
    assert not report.is_healthy
    (finding,) = report.findings
    assert (finding.rule, finding.layers, finding.since) == ("symmetric units", (1, 2), 1)
    assert finding.reason == RULES["symmetric units"].reason
    assert finding.change == "initializer 'auto' with gain 1"
    assert finding.evidence == {"share of units": 1.0}
    assert report.forecast.verdict.startswith("Symmetric")
    assert len(report.records) == 6
    assert repr(report) == "<HealthReport: symmetric units>"
    assert str(finding).startswith("symmetric units: 100 %")
    for text in (str(report), report._repr_html_()):
        for part in ("symmetric units", "same weights", "initializer", "Symmetric"):
            assert part in text


def test_a_report_of_a_healthy_run():
    report = _report(LEARNED)
    assert report.is_healthy
    assert report.findings == ()
    assert report.forecast.verdict.startswith("Healthy")
    assert repr(report) == "<HealthReport: healthy>"
    assert "healthy" in str(report)
    applied = report.apply(_net())
    assert applied.changes == ()
    assert applied.training == {}


def test_a_report_is_a_dictionary():
    told = _report(FLAT, VANISHING).to_dict()
    again = json.loads(json.dumps(told))
    assert again["is_healthy"] is False
    assert again["findings"][0]["rule"] == "vanishing gradients"
    assert again["findings"][0]["layers"] == [1, 2, 3]
    assert again["forecast"].startswith("Healthy")
    assert again["records"]["step"][:3] == [1, 2, 4]


def test_a_report_survives_pickling():
    report = _report(FLAT, VANISHING)
    assert report.findings
    again = pickle.loads(pickle.dumps(report))
    assert again.findings == report.findings
    assert again.records == report.records


def test_diverged_runs_have_a_report():
    X = np.random.default_rng(0).standard_normal((200, 4))
    net = MLP([4, 16, 1], random_state=0)
    with pytest.raises(ArithmeticError):
        net.train(X, X[:, :1], epochs=20, optimizer="sgd", learning_rate=1e3, health=True)
    assert [finding.rule for finding in net.history_.health.findings] == ["restless layers"]
    classifier = MLPRegressor(
        hidden_layer_sizes=(16,), solver="sgd", learning_rate_init=1e3, random_state=0, health=True
    )
    with pytest.raises(ArithmeticError):
        classifier.fit(X, X[:, 0])
    assert [finding.rule for finding in classifier.health_.findings] == ["restless layers"]


# ---- Networks ----


def test_the_network_stays_as_it_is():
    net = _net(initializer="normal")
    before, state = net.parameters.copy(), net._rng.bit_generator.state
    report = _report(FLAT, VANISHING, initializers=("normal",) * 4)
    applied = report.apply(net)
    model, verdict = applied
    assert isinstance(applied, Applied)
    assert (model, verdict) == (applied.model, applied.forecast)
    assert np.array_equal(net.parameters, before)
    assert net._rng.bit_generator.state == state
    assert model is not net
    assert model.layer_sizes == net.layer_sizes
    assert np.array_equal(model.parameters, report.apply(net).model.parameters)
    assert applied.changes == ("initializer 'auto' with gain 1",)
    assert applied.forecast.verdict.startswith("Healthy")


def test_the_rest_of_a_network_is_kept():
    net = MLP(
        SIZES,
        activations.leaky_relu(0.2),
        "sigmoid",
        initializer="orthogonal",
        gain=0.01,
        dtype="float32",
        n_threads=1,
        engine="reference",
        random_state=0,
    )
    model, _ = _report(FLAT, VANISHING).apply(net)
    assert model.hidden_activations == net.hidden_activations
    assert model.output_activation == net.output_activation
    assert model.loss == net.loss
    assert (model.dtype, model.n_threads, model.engine) == (net.dtype, 1, "reference")


def test_initial_weights_are_drawn_as_they_were_where_that_is_not_changed():
    report = _report([50.0, 2.0, 1.0], RESTLESS)
    for initializer, gain, deviation in (("orthogonal", 2.0, 0.5), ("glorot_uniform", 1.0, 0.25), ("auto", 1.0, 0.354)):
        net = _net(initializer=initializer, gain=gain)
        model, _ = report.apply(net)
        assert model._initializers == net._initializers
        assert model.weights[1].std() == pytest.approx(deviation, rel=0.15)
        assert not np.array_equal(model.parameters, net.parameters)


def test_weights_of_unknown_origin_are_drawn_as_large_as_they_were():
    report = _report([50.0, 2.0, 1.0], RESTLESS | {"weight": 8.0}, initializers=("callable",) * 4)
    model, verdict = report.apply(_net(initializer=functools.partial(initializers.normal, std=0.5)))
    assert model.weights[1].std() == pytest.approx(0.5, rel=0.2)
    assert verdict.verdict


def test_sigmoid_becomes_relu_and_layers_are_dropped():
    hidden = (activations.get("sigmoid"),) * 3
    report = _report(FLAT, VANISHING, activations=(*hidden, activations.get("softmax")))
    model, _ = report.apply(MLP([8, *[16] * 12, 2], "sigmoid", "softmax", random_state=0))
    assert {one.name for one in model.hidden_activations} == {"relu"}
    assert len(model.layer_sizes) == 14
    narrow = MLP([8, *[2] * 80, 2], "relu", "softmax", random_state=0)
    applied = report.apply(narrow)
    assert 1 <= len(applied.model.layer_sizes) - 2 <= 80
    assert applied.forecast.layer_sizes == applied.model.layer_sizes


def test_rates():
    applied = _report([50.0, 2.0, 1.0], RESTLESS, optimizer=optimizers.Adam(1.0), learning_rate=1.0).apply(_net())
    rate = applied.training["optimizer"].learning_rate
    assert applied.training == {"optimizer": optimizers.Adam(rate), "learning_rate": None}
    assert rate == 0.006  # 0.003 of the weights, where it was 0.5
    assert applied.changes == ("learning rate 0.006 instead of 1",)
    sgd = optimizers.SGD(1e-6, momentum=0.9)
    applied = _report(FLAT, STILL, optimizer=sgd, learning_rate=1e-6).apply(_net())
    assert applied.training["optimizer"] == optimizers.SGD(0.03, momentum=0.9)
    schedule = optimizers.Adam(schedules.OneCycle(0.04))
    applied = _report([50.0, 2.0, 1.0], RESTLESS, optimizer=schedule, learning_rate=0.04).apply(_net())
    assert applied.training["optimizer"] == optimizers.Adam(0.0002)
    none = _report([50.0, 2.0, 1.0], RESTLESS, optimizer=optimizers.LBFGS(), learning_rate=None).apply(_net())
    assert none.training == {}
    assert none.changes == ()


def test_what_train_is_given_takes_what_changes():
    X, y = make_blobs(100, 8, centers=2, random_state=0)
    given = {"optimizer": "adam", "learning_rate": 1.0, "clip_value": 0.5, "class_weight": None}
    for report in (
        _report([50.0, 2.0, 1.0], RESTLESS, optimizer=optimizers.Adam(1.0), learning_rate=1.0),
        _report([0.4, 0.4, 0.4], data=_data(**RARE)),
    ):
        applied = report.apply(_net())
        assert applied.training
        applied.model.train(X, y, **(given | applied.training))


def test_clipping():
    gradient = np.where(np.arange(11)[:, None] > 7, 1e8, 1.0) / np.array(SIZES)
    applied = _report([0.6, 0.4, 0.2, 5.0, 9.0], {"gradient": gradient}).apply(_net())
    assert applied.training == {"clip_norm": 1.0, "clip_value": None, "clip_layer_norm": None}
    classifier = MLPClassifier(clip_value=0.1, **CLASSIFIER)
    model = _report([0.6, 0.4, 0.2, 5.0, 9.0], {"gradient": gradient}).apply(classifier).model
    assert (model.clip_norm, model.clip_value) == (1.0, None)


def test_dropout():
    report = _report(FLAT, dropout=(0.0, 0.9, 0.9, 0.9))
    assert report.apply(_net()).training == {"dropout": [0.0, 0.5, 0.5, 0.5]}
    model = report.apply(MLPClassifier(dropout=0.9, **CLASSIFIER)).model
    assert model.dropout == [0.0, 0.5, 0.5, 0.5]


def test_inputs_and_targets():
    applied = _report([30.0, *FLAT], data=_data(**LARGE)).apply(_net())
    X = np.random.default_rng(0).standard_normal((50, 8)) * 1e4 + np.arange(8)
    Z = applied.inputs(X)
    assert np.allclose(Z, (X - np.arange(8)) / 1e4)
    assert np.allclose(applied.inputs.inverse(Z), X)
    assert applied.inputs(X.astype(np.float32)).dtype == np.float32
    assert applied.inputs(np.ones((2, 8), dtype=int)).dtype == np.float64
    assert applied.targets is None
    regression = _regression().apply(MLP((8, 16, 16, 16, 1), random_state=0))
    y = np.array([150.0, 227.0])
    assert np.allclose(regression.targets(y), [0, 1])
    assert np.allclose(regression.targets(y[:, None]), [[0], [1]])
    assert np.allclose(regression.targets.inverse(regression.targets(y)), y)
    assert regression.inputs is None


def test_constant_inputs_are_not_divided_by_nothing():
    data = _data(input_mean=np.full(8, 3e5), input_std=np.r_[np.zeros(4), 1e-3, np.full(3, 1e3)])
    applied = _report([30.0, *FLAT], data=data).apply(_net())
    assert applied.inputs.scale.tolist() == [1, 1, 1, 1, 1, 1e3, 1e3, 1e3]


# ---- Estimators ----


def test_estimators_get_parameters():
    classifier = MLPClassifier(activation="logistic", learning_rate_init=1.0, **CLASSIFIER)
    before = classifier.get_params()
    report = _report(FLAT, VANISHING, initializers=("scikit-learn's",) * 4)
    model, verdict = report.apply(classifier)
    assert type(model) is MLPClassifier
    assert model is not classifier
    assert (model.initializer, model.gain, model.activation) == ("auto", 1.0, "relu") or model.initializer == "auto"
    assert classifier.get_params() == before
    assert verdict.verdict.startswith("Healthy")
    restless = _report([50.0, 2.0, 1.0], RESTLESS, learning_rate=1.0).apply(classifier)
    assert restless.model.learning_rate_init == 0.006
    assert restless.training == {}


def test_their_class_weight_and_targets():
    applied = _report([0.4, 0.4, 0.4], data=_data(**RARE)).apply(MLPClassifier(**CLASSIFIER))
    assert applied.model.class_weight == "balanced"
    applied = _regression().apply(MLPRegressor(**CLASSIFIER))
    assert applied.model.target_scaling == "standard"
    assert applied.targets is None


def test_their_inputs_are_standardized_by_a_pipeline():
    report = _report([30.0, *FLAT], data=_data(**LARGE))
    applied = report.apply(MLPClassifier(**CLASSIFIER))
    assert isinstance(applied.model, Pipeline)
    assert [type(step) for _, step in applied.model.steps] == [StandardScaler, MLPClassifier]
    assert applied.model[-1].get_params() == MLPClassifier(**CLASSIFIER).get_params()
    assert applied.inputs is None


def test_pipelines():
    report = _report([30.0, *FLAT], VANISHING | {"twins": 1.0}, data=_data(**LARGE), initializers=("zeros",) * 4)
    given = make_pipeline(MinMaxScaler((0, 1e4)), MLPClassifier(initializer="zeros", **CLASSIFIER))
    names = [name for name, _ in given.steps]
    model, _ = report.apply(given)
    assert [name for name, _ in model.steps] == ["minmaxscaler", "standardscaler", "mlpclassifier"]
    assert model[-1].initializer == "auto"
    assert [name for name, _ in given.steps] == names
    assert given[-1].initializer == "zeros"
    scaled = make_pipeline(StandardScaler(with_std=False), MLPClassifier(**CLASSIFIER))
    model, _ = _report([30.0, *FLAT], data=_data(**LARGE)).apply(scaled)
    assert [name for name, _ in model.steps] == ["standardscaler", "standardscaler_", "mlpclassifier"]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(
    "model",
    [
        MLPClassifier(**CLASSIFIER),
        MLPClassifier(solver="lbfgs", **CLASSIFIER),
        MLPClassifier(activation=["relu", "tanh", "logistic"], dropout=[0.1, 0.2, 0.3, 0.4], **CLASSIFIER),
        MLPClassifier(activation="tanh", initializer="zeros", gain=2.0, batch_norm=True, **CLASSIFIER),
        MLPClassifier((16,) * 70, layer_norm=True, random_state=0),
        MLPClassifier((), random_state=0),
        presets.TabularClassifier(random_state=0),
        presets.TabularClassifier(hidden_layer_sizes=(16,) * 60, activation="tanh", random_state=0),
        make_pipeline(StandardScaler(), MLPClassifier(**CLASSIFIER)),
        make_pipeline(StandardScaler(), presets.TabularClassifier(random_state=0)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_every_change_can_be_made_to_every_estimator(name, model):
    finding = Finding(name, "", (), 1, "", "", {})
    before = {key: value for key, value in model.get_params().items() if not hasattr(value, "fit")}
    applied = _report([30.0, *FLAT], RESTLESS).apply(model, finding)
    assert {key: value for key, value in model.get_params().items() if not hasattr(value, "fit")} == before
    assert applied.forecast.verdict
    last = applied.model[-1] if isinstance(applied.model, Pipeline) else applied.model
    X, y = make_blobs(60, 8, centers=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert applied.model.set_params(**_short(applied.model, last)).fit(X, y).predict(X).shape == (60,)


def _short(model, last):
    prefix = f"{model.steps[-1][0]}__" if isinstance(model, Pipeline) else ""
    few = {f"{prefix}max_iter": 2}
    return few | ({f"{prefix}n_members": 2} if hasattr(last, "n_members") else {})


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("made", [{}, {"normalization": "batch"}, {"initializer": initializers.xavier, "gain": 2.0}])
def test_every_change_can_be_made_to_every_network(name, made):
    finding = Finding(name, "", (), 1, "", "", {})
    net = _net(**made)
    applied = _report([30.0, *FLAT], RESTLESS).apply(net, finding)
    X, y = make_blobs(60, 8, centers=2, random_state=0)
    if applied.inputs is not None:
        X = applied.inputs(X)
    assert applied.model.train(X, y, epochs=1, **applied.training).epochs == 1


def test_findings_can_be_chosen():
    report = _report([30.0, *FLAT], {"twins": 1.0}, data=_data(**LARGE), initializers=("zeros",) * 4)
    assert [finding.rule for finding in report.findings] == ["symmetric units", "inputs not scaled"]
    net = _net(initializer="zeros")
    assert len(report.apply(net).changes) == 2
    assert report.apply(net, report.findings[1]).changes == ("standardized inputs",)
    assert report.apply(net, report.findings[:1]).changes == ("initializer 'auto' with gain 1",)
    assert report.apply(net, ()).changes == ()


def test_other_models_are_refused():
    report = _report(FLAT, VANISHING)
    for model in (None, "net", LogisticRegression(), make_pipeline(StandardScaler(), LogisticRegression()), MLP):
        with pytest.raises(TypeError, match="model must be an MLP"):
            report.apply(model)
    for findings in ("vanishing gradients", [1], [Finding("odd", "", (), 1, "", "", {})]):
        with pytest.raises(TypeError, match="findings must be of this report"):
            report.apply(_net(), findings)


# ---- The way of a user ----


def test_from_raw_data_to_a_network_that_learns():
    X, y = load_wine(return_X_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier = MLPClassifier(random_state=0, health=True).fit(X, y)
        model, verdict = classifier.health_.apply(classifier)
        assert model.fit(X, y).score(X, y) > 0.99 > classifier.score(X, y)
        assert model[-1].health_.is_healthy
        assert verdict.verdict.startswith("Healthy")
        X, y = load_diabetes(return_X_y=True)
        regressor = MLPRegressor(random_state=0, health=True).fit(X, y)
        model, _ = regressor.health_.apply(regressor)
        assert model.fit(X, y).score(X, y) > 0.5 > 0 > regressor.score(X, y)


def test_the_forecast_is_that_of_the_network():
    report = _report()
    expected = forecast(SIZES, "relu", output_activation="softmax")
    assert report.forecast.verdict == expected.verdict
    assert np.allclose(report.forecast.gradient_scale, expected.gradient_scale)


def test_the_code_of_the_document_runs(capsys):
    page = (Path(__file__).parent.parent / "docs" / "health.md").read_text(encoding="utf-8")
    namespace, printed = {}, []
    for kind, code in re.findall(r"```(\w*)\n(.*?)```", page, re.DOTALL):
        if kind == "python":
            exec(compile(code, "docs/health.md", "exec"), namespace)
        else:
            printed.append(code)
    assert capsys.readouterr().out == "".join(printed)
