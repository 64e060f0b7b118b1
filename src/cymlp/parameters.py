"""What an MLP is before it computes anything: layers, one flat vector of parameters, and an engine that has the same.

Every layer's weights, biases and scales are views into the vector (``layout.py``), which is the truth.  The engine's
parameters run ahead of it during an epoch, and an interrupt can leave them there, even in the middle of putting them
back: ``_in_step`` is False from before they may differ until they are known to be the same, and whoever finds it False
puts the engine in step first.  All of this holds for a second vector, the running statistics of batch-normalised
layers, empty where there are none.
"""

import copy
import functools
import threading
import time

import numpy as np

from . import _validation, engine
from .architecture import Architecture

__all__ = ["LayeredParameters"]

# Seconds after which a call that waits for another one looks again.
_WAIT = 0.0005


class _Call:
    """A call that has a network for itself, or waits for that.  Whether it goes on is asked of Python, and not noted.

    A lock, or a note "training", would stay behind where a second interrupt keeps the call from taking it back, and in
    a child process that was forked while another thread held it.
    """

    __slots__ = ("steps", "thread", "training")

    def __init__(self):
        self.steps = None  # the generator that does the work
        self.thread = threading.current_thread()
        self.training = False  # whether it is at that

    def goes_on(self):
        # A generator knows whether it runs, whatever ended it.  In a forked child those of other threads seem to run.
        return self.steps.gi_running and self.thread in threading.enumerate()

    def is_here(self):
        return self.thread is threading.current_thread()


def _read_only(vector):
    # Over a buffer that is read-only NumPy refuses to make a view writable; over an array that is not it would.
    return np.frombuffer(memoryview(vector).toreadonly(), vector.dtype)


class LayeredParameters(Architecture):
    """Layers, their parameters, and the engine's network in step with them; `MLP` adds what they compute.

    Whoever makes one calls `_around`, or `_configure` and sets `_dtype`, `_dtype_decided`, `_flat`, `_statistics` and
    `_initializers`.  The engine's network is made when it is first needed.
    """

    _gain = 1.0  # of the initialiser

    def _configure(self, *architecture):
        """Check and set everything but dtype and parameters; the arguments are those of `Architecture`."""
        super()._configure(*architecture)
        self._history = None
        self.metadata = {}
        self._detach()

    @classmethod
    def _around(
        cls,
        flat,
        layer_sizes,
        activations,
        loss,
        n_threads,
        engine,
        initializer="file",
        normalizations=None,
        statistics=None,
    ):
        """A network with vectors that are good already, and become its own; statistics of None are those at first."""
        network = cls.__new__(cls)
        *hidden, output = activations
        network._configure(layer_sizes, hidden, output, loss, n_threads, None, engine, normalizations)
        network._dtype_decided, network._dtype = True, flat.dtype
        network._initializers = [initializer] * len(activations)
        network._flat = flat
        network._statistics = network._layout.first_statistics(flat.dtype) if statistics is None else statistics
        return network

    def _detach(self):
        """Begin without an engine, and with nothing at work."""
        self._network = None
        self._in_step = False
        self._resumable = None  # the class of the optimiser whose state the engine holds, by name
        self._dropout_seed = None  # of the masks that a call which resumes goes on with
        self._kept = None  # of a copy, until it has an engine: that name, and the state
        self._unfinished = None
        self._calls = {}  # a dict for its order: each `_Call` -> None

    def _alone(self, work, trains=False):
        """Do `work()` while no other call is in here for this network; one that trains puts the engine in step before.

        Returns
        -------
        _Call or None
            None where the work was done.  Else a call that cannot be waited for, as it trains, or is below this one.
        """
        call = _Call()
        call.steps = self._in_turn(call, work, trains)
        try:
            return next(call.steps, None)
        finally:
            call.steps.close()

    def _in_turn(self, call, work, trains):
        self._calls[call] = None
        try:
            while (other := self._first_before(call)) is not None:
                if other.training and other.is_here() and self._in_step and not trains:
                    break  # this is its callback, between two epochs
                if other.training or other.is_here():
                    yield other
                    return
                time.sleep(_WAIT)
            if trains:
                self._put_in_step()
                call.training = True
            work()
        finally:
            self._calls.pop(call, None)

    def _first_before(self, call):
        """The first call that goes on and came before `call`, or None.  Notes of calls that were ended are dropped."""
        for other in list(self._calls):
            if other is call:
                break
            if other.goes_on():
                return other
            self._calls.pop(other, None)
        return None

    @property
    def _is_training(self):
        """Whether a call that trains goes on, in this thread or another."""
        return any(call.training and call.goes_on() for call in list(self._calls))

    def _commit(self, write):
        """Change what is shown by `write()`, which can be done twice: once begun, whoever comes next completes it."""
        self._unfinished = write
        write()
        self._unfinished = None

    def _catch_up(self):
        """Complete what an interrupt kept `_commit` from."""
        if self._unfinished is not None:
            self._alone(self._put_in_step)

    def _put_in_step(self, dtype=None):
        """Make the engine's parameters those shown, for a call that is alone; an open dtype becomes `dtype`."""
        if self._unfinished is not None:
            self._commit(self._unfinished)
        if self._in_step:
            return
        flat, statistics, network = self._flat, self._statistics, self._network
        if not self._dtype_decided:
            if dtype is None:
                return
            flat = _validation.as_native(flat, dtype)
            _validation.check_finite(flat, "parameters", self._flat)
            statistics = _validation.as_native(statistics, dtype)
            _validation.check_finite(statistics, "statistics", self._statistics)
        if network is None:
            pairs = [(activation.name, float(activation.slope)) for activation in self._activations]
            loss = (self._loss.name, self._loss.parameter)
            kinds = [None if one is None else one.pair() for one in self._layout.normalizations]
            optional = {"normalizations": kinds} if any(kinds) else {}
            network = engine.choose(self._engine).Network(self._layer_sizes, pairs, loss, flat.dtype, **optional)
        network.set_parameters(flat, statistics if statistics.size else None)
        resumable, state = (None, None) if self._kept is None else self._kept
        network.set_optimizer(state)
        # At once: an interrupt, or another thread, meets all of these or none.
        self.__dict__.update(
            _dtype=flat.dtype,
            _dtype_decided=True,
            _flat=flat,
            _statistics=statistics,
            _network=network,
            _resumable=resumable,
            _kept=None,
            _in_step=True,
        )

    def _take_from_engine(self):
        """Write the engine's parameters and statistics over those shown; doing it again does no harm.

        Without a copy in between: whoever calls knows them to be finite, and to stay what they are until this is done.
        """
        self._network.get_parameters(self._flat)
        if self._statistics.size:
            self._network.get_statistics(self._statistics)

    def _bring_in_step(self, dtype):
        """What users of the engine do where `_in_step` is False; they check their data again where this is False.

        Parameters
        ----------
        dtype : numpy.dtype
            Of the data, all found good: if these are the first, it is the network's from now on.

        Returns
        -------
        bool
            Whether the network's dtype is `dtype`: another thread's data may have been first.
        """
        other = self._alone(functools.partial(self._put_in_step, dtype))
        if other is not None and other.is_here():
            raise RuntimeError(
                "this network is at work in this very thread: within an epoch a metric, schedule, iterable of "
                "batches or a signal handler cannot use it"
            )
        return self._dtype == dtype  # while another thread trains, the engine takes turns by itself

    def _fill(self, targets, arrays, name):
        """Check arrays given by the user and copy them into views of a flat vector of the network's dtype, or None."""
        if len(arrays) != len(targets):
            raise ValueError(f"{name} must have {len(targets)} arrays, one for each layer; got {len(arrays)}")
        for i, (target, array) in enumerate(zip(targets, arrays, strict=True)):
            if target is None:
                if array is not None:
                    raise ValueError(f"{name}[{i}] must be None, as layer {i + 1} has none; got {array!r}")
                continue
            array = _validation.as_real_array(array, f"{name}[{i}]")
            if array.shape != target.shape:
                raise ValueError(f"{name}[{i}] must have shape {target.shape}; got {array.shape}")
            native = _validation.as_native(array, self._dtype)
            _validation.check_finite(native, f"{name}[{i}]", array)
            target[...] = native

    @property
    def dtype(self):
        """numpy.dtype of the parameters; float64 as long as the first data have not decided."""
        return self._dtype

    @property
    def history_(self):
        """`History` of the last call of `train`, complete or not; None before."""
        self._catch_up()
        return self._history

    @property
    def parameters(self):
        """All parameters, (n_parameters,): W_1 (n_in, n_out) row by row, b_1, its scale if normalised, W_2, b_2, ...

        A read-only view that follows training; assign a vector of finite numbers to set them, which copies it.  Where
        the first data decide for float32 the vector becomes a new one, which views taken before do not follow.
        """
        self._catch_up()
        return _read_only(self._flat)

    @parameters.setter
    def parameters(self, vector):
        self._set("parameters", lambda: _validation.as_vector(vector, "parameters", self._n_parameters, self._dtype))

    @property
    def weights(self):
        """List of read-only views (n_in, n_out) into `parameters`, by layer; assign a list of arrays to set them."""
        return self._layout.views(self.parameters).weights

    @weights.setter
    def weights(self, arrays):
        self._set_views(0, arrays, "weights")

    @property
    def biases(self):
        """List of read-only views (n_out,) into `parameters`, by layer; assign a list of arrays to set them."""
        return self._layout.views(self.parameters).biases

    @biases.setter
    def biases(self, arrays):
        self._set_views(1, arrays, "biases")

    @property
    def scales(self):
        """List of read-only views (n_out,) into `parameters`, None for layers that are not normalised; can be set."""
        return self._layout.views(self.parameters).scales

    @scales.setter
    def scales(self, arrays):
        self._set_views(2, arrays, "scales")

    @property
    def statistics(self):
        """What batch-normalised layers predict with, one vector: running mean and running variance, layer by layer.

        A read-only view as `parameters`, and set like those; empty where there is no such layer.
        """
        self._catch_up()
        return _read_only(self._statistics)

    @statistics.setter
    def statistics(self, vector):
        def checked():
            good = _validation.as_vector(vector, "statistics", self._layout.n_statistics, self._dtype)
            self._layout.check_variances(good, "statistics")
            return good

        self._set("statistics", checked)

    @property
    def running_means(self):
        """List of read-only views (n_out,) into `statistics`, None for layers without; assign a list to set them."""
        return self._layout.statistics(self.statistics).means

    @running_means.setter
    def running_means(self, arrays):
        self._set_statistics(0, arrays, "running_means")

    @property
    def running_variances(self):
        """List of read-only views (n_out,) into `statistics`, None for layers without; assign a list to set them."""
        return self._layout.statistics(self.statistics).variances

    @running_variances.setter
    def running_variances(self, arrays):
        self._set_statistics(1, arrays, "running_variances")

    def _set_views(self, which, arrays, name):
        arrays = _validation.as_list(arrays, name)

        def changed():
            flat = self._flat.copy()
            self._fill(self._layout.views(flat)[which], arrays, name)
            return flat

        self._set("parameters", changed)

    def _set_statistics(self, which, arrays, name):
        arrays = _validation.as_list(arrays, name)

        def changed():
            vector = self._statistics.copy()
            self._fill(self._layout.statistics(vector)[which], arrays, name)
            self._layout.check_variances(vector, name)
            return vector

        self._set("statistics", changed)

    def _set(self, kind, make):
        """Set "parameters" or "statistics" to the vector that `make()` returns, finite and of the network's dtype."""

        def work():
            if self._unfinished is not None:
                self._put_in_step()
            vector = make()
            was_in_step = self._in_step
            self._in_step = False
            if was_in_step and vector.size:  # else whoever needs the engine will do it
                getattr(self._network, f"set_{kind}")(vector)
            own = self._flat if kind == "parameters" else self._statistics
            self._commit(functools.partial(np.copyto, own, vector))
            self._in_step = was_in_step

        other = self._alone(work)
        if other is not None:
            where = "this very thread, and not between two epochs" if other.is_here() else "another thread"
            raise RuntimeError(f"{kind} must not be set while this network is at work in {where}")

    def _dtype_for(self, X):
        """The dtype that the network has, or will have if X is the first data it gets."""
        if self._dtype_decided:
            return self._dtype
        return np.dtype(np.float32 if X.dtype.kind == "f" and X.dtype.itemsize == 4 else np.float64)

    def _check_inputs(self, X, name="X", dtype=None):
        array = _validation.as_real_array(X, name)
        return _validation.as_matrix(array, name, self._layer_sizes[0], dtype or self._dtype_for(array))

    def _check_data(self, X, y, sample_weight, dtype=None, names=("X", "y", "sample_weight")):
        """Rows, targets and weights as engines take them; at least one row."""
        X = self._check_inputs(X, names[0], dtype)
        if len(X) == 0:
            raise ValueError(f"{names[0]} must have at least 1 row; got shape {X.shape}")
        output, loss = self.output_activation.name, self._loss.name
        y = _validation.as_targets(y, len(X), self._layer_sizes[-1], output, loss, X.dtype, names[1])
        return X, y, _validation.as_sample_weight(sample_weight, len(X), X.dtype, names[2])

    def _threads(self, flops):
        return engine.resolve_n_threads(self._n_threads, flops)

    def summary(self):
        """A table of the layers: index, shape of the weights, activation, number of parameters, initialiser; the total.

        Where a layer is normalised, a column tells by what.

        Returns
        -------
        str

        Examples
        --------
        >>> from cymlp import MLP
        >>> print(MLP([4, 8, 3], "tanh", "softmax", engine="reference").summary())
        layer  shape  activation  parameters     initializer
            1  4 x 8        tanh          40  glorot_uniform
            2  8 x 3     softmax          27  glorot_uniform
        total                             67
        """
        rows = [("layer", "shape", "normalization", "activation", "parameters", "initializer")]
        for layer, (weights, normalization) in enumerate(zip(self.weights, self._layout.normalizations, strict=True)):
            n_in, n_out = weights.shape
            size = f"{(n_in + (1 if normalization is None else 2)) * n_out:,}"
            kind = "" if normalization is None else str(normalization)
            activation, initializer = str(self._activations[layer]), self._initializers[layer]
            rows.append((str(layer + 1), f"{n_in} x {n_out}", kind, activation, size, initializer))
        rows.append(("total", "", "", "", f"{self._n_parameters:,}", ""))
        if not any(self.normalizations):
            rows = [(*row[:2], *row[3:]) for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    def __repr__(self):
        hidden = [str(activation) for activation in self.hidden_activations]
        kinds = [None if one is None else str(one) for one in self.normalizations]
        normalization = f", normalization={kinds}" if any(kinds) else ""
        return (
            f"MLP({list(self._layer_sizes)}, hidden_activation={hidden}, output_activation='{self.output_activation}', "
            f"loss='{self._loss}', dtype={self._dtype.name if self._dtype_decided else None}, engine={self._engine!r}"
            f"{normalization})"
        )

    def __getstate__(self):
        # The generator and the mutable rest are copied, so that copy.copy, too, gives an independent network.
        self._catch_up()
        state = {}
        own = ("_calls", "_flat", "_in_step", "_network", "_resumable", "_rng", "_statistics", "_unfinished")

        def take():
            rest = {name: value for name, value in self.__dict__.items() if name not in own}
            state.update(copy.deepcopy(rest), _rng=copy.deepcopy(self._rng))
            state.update(_flat=self._flat.copy(), _statistics=self._statistics.copy())

        def take_all():
            take()
            if self._in_step and self._resumable is not None:
                state["_kept"] = self._resumable, self._network.get_optimizer()

        if self._alone(take_all) is not None:
            take()  # while an epoch is running the engine's state is not that of the parameters shown
        return state

    def __setstate__(self, state):
        self._detach()
        self.__dict__.update(state)
        for name in ("_flat", "_statistics"):
            vector = getattr(self, name)
            if type(vector) is not np.ndarray or not vector.flags.writeable:
                setattr(self, name, np.array(vector))  # joblib maps files, read-only or not; training writes into these
