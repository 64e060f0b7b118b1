"""What both estimators share: scikit-learn's contract around an `MLP`.  Data are checked and encoded here, once.

The names, defaults and rules are those of ``sklearn.neural_network``, and so are the random numbers: one
``random_state`` gives the same initial weights and the same minibatches.
"""

import copy
import inspect
import operator
import time
import warnings
from numbers import Integral, Real

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, validate_data

from .. import activations, engine, initializers
from ..layout import Layout
from ..network import MLP
from . import conversion
from .callbacks import CallbackSupportMixin, as_callbacks, reporters
from .coefficients import Coefficients
from .examples import Examples, dense_blocks
from .health import Watched
from .orders import Order
from .regularization import CONSTRAINTS, Regularization, normalization, refuse_for_lbfgs
from .solvers import Validation, fit_by_descent, fit_by_lbfgs

__all__ = ["BaseMLP"]

_HIDDEN_ACTIVATIONS = {name for name, definition in activations.ACTIVATIONS.items() if definition.hidden}


def _positive():
    return Interval(Real, 0, None, closed="neither")


def _not_negative():
    return Interval(Real, 0, None, closed="left")


def _count():
    return Interval(Integral, 1, None, closed="left")


class BaseMLP(
    Coefficients, Watched, CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """The common part; use `MLPClassifier` or `MLPRegressor`."""

    _parameter_constraints: dict = {  # noqa: RUF012  scikit-learn's name and form
        "hidden_layer_sizes": ["array-like", _count()],
        "activation": [StrOptions(_HIDDEN_ACTIVATIONS | {"logistic"}), activations.Activation, list, tuple],
        "solver": [StrOptions({"lbfgs", "sgd", "adam"})],
        "alpha": [_not_negative()],
        "batch_size": [StrOptions({"auto"}), _count()],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"}), callable],
        "learning_rate_init": [_positive()],
        "power_t": [_not_negative()],
        "max_iter": [_count()],
        "shuffle": ["boolean", StrOptions({"weighted"})],
        "random_state": ["random_state"],
        "tol": [_not_negative()],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both"), callable],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [_positive()],
        "n_iter_no_change": [_count(), Options(Real, {np.inf})],
        "max_fun": [_count()],
        "initializer": [StrOptions({"auto", *initializers.INITIALIZERS}), callable, None],
        "gain": [_positive()],
        **CONSTRAINTS,
        "scoring": [str, callable, None],
        "callbacks": [callable, list, tuple, None],
        "n_threads": [_count(), None],
        "max_time": [_positive(), None],
        "health": ["boolean", _count()],
        "engine": [StrOptions(set(engine.ENGINES))],
    }

    def _keep(self, arguments):
        """Set every parameter of the constructor that calls this, from its ``locals()``; subclasses may have others."""
        for name, value in arguments.items():
            if name != "self":
                setattr(self, name, value)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    @property
    def _stops_early(self):
        return self.early_stopping and self.solver != "lbfgs"

    # ---- Fitting ----

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, validation_data=None):
        """Fit the network to data.

        Parameters
        ----------
        X : array-like, data frame or sparse matrix (n_samples, n_features)
            Not copied where it is a C-contiguous float32 or float64 array; float32 is computed in float32.  Of sparse
            rows a tile at a time is made dense.
        y : array-like (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like (n_samples,), optional
            The loss of a minibatch is the mean weighted by them.
        validation_data : (X, y) or (X, y, sample_weight), optional
            Examples to score after each epoch, in place of a part of X that ``early_stopping`` would hold out.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError, TypeError
            For a parameter out of its range, or data of the wrong kind, shape or content.
        DivergenceError
            A ValueError; where the loss or the parameters stop being finite.  The network keeps those of the last whole
            epoch.
        """
        return self._fit(X, y, sample_weight, validation_data, incremental=False)

    def _fit(self, X, y, sample_weight, validation_data, incremental):
        started, before = time.perf_counter(), self.__dict__.copy()
        if "network_" in before and self.network_._is_training:  # before any of its record is changed
            raise RuntimeError("this estimator is being fitted: neither its callbacks nor another thread can fit it")
        try:
            callbacks = as_callbacks(self.callbacks)
            examples = self._prepare(X, y, sample_weight, incremental)
            order, validation = self._split(examples, validation_data, incremental)
            if self.solver != "lbfgs":
                order = Order(self, examples, order)
                batch_size = self._batch_size(len(order))
                regularization = self._regularization(-(-len(order) // batch_size), incremental)
        except BaseException:  # what was fitted before stays
            self.__dict__ = before
            raise
        report, finish = reporters(self, X, y, sample_weight)
        callbacks += report
        engine_network = self.network_._network
        engine_network.clip_loss(self._loss_clip(self.network_.dtype))
        try:
            if self.solver == "lbfgs":
                fit_by_lbfgs(self, examples, validation, callbacks, started)
            else:
                fit_by_descent(self, order, batch_size, regularization, validation, incremental, callbacks, started)
        finally:
            engine_network.clip_loss(0.0)
        self._handed_out = None
        finish()
        return self

    def _prepare(self, X, y, sample_weight, incremental):
        """Check everything but validation data, and set what training begins with."""
        first = not hasattr(self, "network_") or (not self.warm_start and not incremental)
        hidden = self._hidden_sizes()
        if self.solver == "lbfgs":
            refuse_for_lbfgs(self, len(hidden))
        examples = self._check_examples(X, y, sample_weight, incremental, first)
        sizes = (examples.X.shape[1], *hidden, self.n_outputs_)
        self._random_state = check_random_state(self.random_state)
        if first:
            self._initialize(sizes, examples)
        else:
            self._go_on(sizes)
        return examples

    def _hidden_sizes(self):
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if np.any(np.array(sizes) <= 0):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        try:
            if any(isinstance(size, (bool, np.bool_)) for size in sizes):
                raise TypeError
            return [operator.index(size) for size in sizes]
        except TypeError:
            raise TypeError(f"hidden_layer_sizes must be integers, got {sizes}.") from None

    def _check_examples(self, X, y, sample_weight, incremental=False, first=False, trains=True):
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            multi_output=True,
            dtype=(np.float64, np.float32),
            reset=first,
            **self._checks,
        )
        X, y = self._rows(X, X.dtype if first else self.network_.dtype), self._shape(y)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X).astype(X.dtype, copy=False)
        weight = sample_weight
        if trains:
            self._learn_targets(y, sample_weight, incremental)
        targets = self._encode(y, X.dtype)
        n_outputs = len(self.classes_) if targets.ndim == 1 else targets.shape[1]
        if first:
            self.n_outputs_ = n_outputs
        elif n_outputs != self.n_outputs_:
            raise ValueError(f"y must have {self.n_outputs_} outputs, as in the previous fit; got {n_outputs}")
        if trains:
            weight = self._weigh(y, sample_weight, X.dtype, incremental)
            targets = self._smooth(targets, X.dtype)
        return Examples(X, targets, weight, sample_weight)

    @staticmethod
    def _rows(X, dtype):
        """Checked rows as engines read them, not copied where they are so already."""
        if sparse.issparse(X):
            return X.astype(dtype, copy=False)
        with np.errstate(over="ignore"):  # infinite content is refused where it is read
            return np.require(X, dtype, ["C", "A"])

    def _initialize(self, sizes, examples):
        """Set what a first fit begins with."""
        hidden, output = self._hidden_activations(len(sizes) - 2), self._output_activation()
        loss = self._loss(output)
        kinds = [normalization(self)] * len(hidden)
        layout = Layout(sizes, [*kinds, None])
        flat = np.empty(layout.n_parameters, examples.X.dtype)
        self._draw(layout.views(flat), [*hidden, output])
        drawn = self.initializer or "scikit-learn's"
        self.network_ = MLP._around(flat, sizes, [*hidden, output], loss, self.n_threads, self.engine, drawn, kinds)
        self.network_._bring_in_step(flat.dtype)
        self.n_layers_ = len(sizes)
        self.n_iter_ = self.t_ = 0
        self._settle(output)
        self._begin_record()

    def _settle(self, output):
        """Set what follows from a new network."""
        self._handed_out = self._monitor = None
        self.out_activation_ = conversion.their_name(output.name)
        self._n_features_out = self.network_.layer_sizes[-2]
        self._keep_best()
        self.validation_loss_curve_ = []
        self.gradient_norm_curve_ = []
        self._draws = None

    def _keep_best(self):
        """Note the parameters shown, and what batch normalisation predicts with, as the best so far."""
        self._best_parameters, self._best_statistics = self.network_.parameters.copy(), self.network_.statistics.copy()

    def _begin_record(self):
        """Set what later fits with warm_start go on with."""
        self.loss_curve_ = []
        self._no_improvement_count = 0
        stops_early = self._stops_early
        self.validation_scores_ = [] if stops_early else None
        self.best_validation_score_ = -np.inf if stops_early else None
        self.best_loss_ = None if stops_early else np.inf

    def _go_on(self, sizes):
        """Take up the network of an earlier fit, with the parameters that are set now."""
        network = self._check_fitted()
        self._handed_out = None
        if network.layer_sizes != sizes:
            raise ValueError(
                f"warm_start and partial_fit need the layers of the previous fit, {network.layer_sizes}; "
                f"hidden_layer_sizes and the data make {sizes}"
            )
        chosen = (*self._hidden_activations(len(sizes) - 2), self._output_activation())
        loss, kinds = self._loss(chosen[-1]), (normalization(self),) * (len(sizes) - 2)
        if [*map(type, kinds)] != [*map(type, network.normalizations)]:
            raise ValueError(
                f"warm_start and partial_fit need the normalization of the previous fit, {network.normalizations[0]}; "
                f"batch_norm and layer_norm make {kinds[0]}"
            )
        before = network._activations, network.loss, network.normalizations, network.engine
        if (chosen, loss, kinds, self.engine) != before:
            vectors = network.parameters.copy(), network.statistics.copy()
            self.network_ = MLP._around(
                vectors[0], sizes, chosen, loss, self.n_threads, self.engine, "given", kinds, vectors[1]
            )
        self.network_._n_threads = self.n_threads
        self.network_._bring_in_step(network.dtype)
        if self._stops_early != (self.best_loss_ is None):
            self._begin_record()

    def _hidden_activations(self, n_hidden):
        """One `Activation` for each hidden layer."""
        if isinstance(self.activation, (list, tuple)):
            if len(self.activation) != n_hidden:
                raise ValueError(
                    f"activation must have {n_hidden} entries, one for each hidden layer; got {len(self.activation)}"
                )
            named = [(f"activation[{i}]", one) for i, one in enumerate(self.activation)]
        else:
            named = [("activation", self.activation)] * n_hidden
        hidden = [activations.get(conversion.our_name(one), name) for name, one in named]
        for (name, _), activation in zip(named, hidden, strict=True):
            if not activation.definition.hidden:
                raise ValueError(f"{name} must not be {activation.name!r}, which is for the output")
        return hidden

    def _draw(self, views, chosen):
        """Fill in the initial parameters: scikit-learn's, from its random numbers in its order, or an initialiser's."""
        weights, biases, scales = views
        for scale in filter(lambda one: one is not None, scales):
            scale[:] = 1
        if self.initializer is not None:
            seed = self._random_state.randint(2**32, size=4, dtype=np.uint32)
            rng = np.random.default_rng(seed)
            for W, b, activation in zip(weights, biases, chosen, strict=True):
                W[:] = initializers.get(self.initializer, activation.definition)(rng, *W.shape, gain=float(self.gain))
                b[:] = 0
            return
        # Glorot & Bengio (2010), eq. 16, and half of it for the logistic function; the output as the layer below.
        names = [activation.name for activation in chosen[:-1]]
        names.append(names[-1] if names else getattr(self.activation, "name", conversion.our_name(self.activation)))
        for W, b, name in zip(weights, biases, names, strict=True):
            bound = np.sqrt((2.0 if name == "sigmoid" else 6.0) / sum(W.shape))
            W[:] = self._random_state.uniform(-bound, bound, W.shape) * self.gain
            b[:] = self._random_state.uniform(-bound, bound, b.shape) * self.gain

    def _split(self, examples, validation_data, incremental):
        """The numbers of the rows to train with, and what to validate with, or None."""
        if self._stops_early and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        scoring = self.scoring
        if scoring is not None and scoring != "loss":
            from sklearn.metrics import check_scoring

            scoring = check_scoring(self, scoring)
        order = np.arange(len(examples), dtype=np.int64)
        if validation_data is not None:
            held_out = self._check_validation(validation_data)
            if self.validation_scores_ is None:
                self.validation_scores_ = []
        elif self._stops_early:
            order, rows = train_test_split(
                order,
                random_state=self._random_state,
                test_size=self.validation_fraction,
                stratify=self._strata(examples.targets),
            )
            if len(rows) < 2:
                raise ValueError(
                    "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
                )
            held_out = examples.held_out(rows)
        else:
            return order, None
        return order, Validation(self, held_out, scoring, with_loss=validation_data is not None)

    def _check_validation(self, validation_data):
        if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
            raise TypeError(
                "validation_data must be a tuple (X, y) or (X, y, sample_weight); "
                f"got {type(validation_data).__name__}"
                + (f" of length {len(validation_data)}" if isinstance(validation_data, (tuple, list)) else "")
            )
        X, y, *weight = validation_data
        try:
            return self._check_examples(X, y, weight[0] if weight else None, trains=False)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"validation_data: {error}") from error

    def _batch_size(self, n_rows):
        if self.batch_size == "auto":
            return min(200, n_rows)
        if self.batch_size > n_rows:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
            )
        return int(np.clip(self.batch_size, 1, n_rows))

    def _regularization(self, n_batches, incremental):
        """Of the call that begins; in a stream of calls schedules cannot take its length."""
        solver = self.__dict__.get("_optimizer") if incremental else None
        total_steps = None if incremental else self.max_iter * n_batches
        return Regularization(self, len(self.network_.layer_sizes) - 2, solver, total_steps)

    # ---- Scores, of examples as `_check_examples` makes them ----

    def _data_loss(self, examples):
        """The mean loss, without the penalty."""
        loss = sum(
            self.network_._mean_loss(X, targets, weight)
            * (len(X) if weight is None else float(weight.sum(dtype=np.float64)))
            for X, targets, weight in examples.blocks()
        )
        return self._loss_factor * loss / examples.total_weight

    def _score_by(self, scorer, examples):
        plain = copy.copy(self)
        plain.__dict__.pop("feature_names_in_", None)  # the rows here have none
        arguments = {}
        if examples.weight is not None:
            function = getattr(scorer, "_score_func", scorer)  # what a scorer of scikit-learn's calls
            if "sample_weight" in inspect.signature(function).parameters:
                arguments["sample_weight"] = examples.weight
        return scorer(plain, examples.X, self._decode(examples.targets), **arguments)

    # ---- Prediction ----

    def _outputs(self, X):
        """The activations of the output layer, (n_samples, n_outputs), in a new array."""
        network = self._check_fitted()
        if "feature_names_in_" not in self.__dict__ and (answer := network._answer(X)) is not None:
            return answer
        X = self._rows(validate_data(self, X, accept_sparse="csr", reset=False), network.dtype)
        outputs = np.empty((X.shape[0], network.layer_sizes[-1]), network.dtype)
        for rows, block in dense_blocks(X):
            network.predict(block, out=outputs[rows])
        return outputs

    def transform(self, X, layer=-1):
        """The activations of a hidden layer: features that the network has learned.

        Parameters
        ----------
        X : array-like, data frame or sparse matrix (n_samples, n_features)
        layer : int, default -1
            Which hidden layer, from 0 or, if negative, from the last one.

        Returns
        -------
        ndarray (n_samples, units of that layer)

        Raises
        ------
        ValueError
            Where there is no such layer.
        """
        network = self._check_fitted()
        n_hidden = len(network.layer_sizes) - 2
        if isinstance(layer, bool) or not isinstance(layer, Integral) or not -n_hidden <= layer < n_hidden:
            raise ValueError(f"layer must be the number of one of {n_hidden} hidden layers; got {layer!r}")
        X = self._rows(validate_data(self, X, accept_sparse="csr", reset=False), network.dtype)
        layer = int(layer) % n_hidden
        features = np.empty((X.shape[0], network.layer_sizes[1 + layer]), network.dtype)
        for rows, block in dense_blocks(X):
            features[rows] = network.forward(block).A[layer]
        return features

    # ---- scikit-learn's own classes ----

    @classmethod
    def from_sklearn(cls, estimator):
        """One of ours with the parameters and, where it is fitted, the state of one of scikit-learn's.

        Parameters
        ----------
        estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
            Of the same kind.

        Returns
        -------
        object
            With equal predictions.  The optimiser's state stays behind: `partial_fit` begins a new one.

        Raises
        ------
        TypeError
            For another kind of estimator.
        """
        return conversion.from_sklearn(cls, estimator)

    def to_sklearn(self):
        """A fitted estimator of scikit-learn with equal predictions.

        Returns
        -------
        sklearn.neural_network.MLPClassifier or MLPRegressor
            With those parameters that it has.  Scaling of targets becomes part of its last layer, and batch
            normalisation part of its weights.

        Raises
        ------
        NotFittedError
        ValueError
            Where scikit-learn has no such activation, and for `layer_norm`.
        """
        return conversion.to_sklearn(self)
