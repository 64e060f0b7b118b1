"""The fit loop of `MLP.train`: epochs in some order, minibatch after minibatch.

`Run` keeps the network whole; ``lbfgs.py`` has the other loop, ``options.py`` checks the arguments, ``sources.py`` has
the data.
"""

import copy
import functools
import math
import time

import numpy as np

from . import _validation
from . import options as _options
from ._scheduling import bind, take_rates
from .checkpoints import conform
from .health.monitor import Monitor
from .health.summaries import sample_rows
from .history import COLUMNS, DivergenceError, Event, History
from .lbfgs import fit as fit_by_lbfgs
from .run import Run, Validation
from .sources import open_source
from .stopping import Watch

__all__ = ["Descent", "DivergenceError", "Event", "History", "Run", "train"]

# Floating point operations of a piece of an epoch, after each of which a time limit is looked at: some milliseconds.
_TIMED_FLOPS = 1e9


class Descent:
    """Minibatch gradient descent: the loop of a `Run`, and where it is.

    A run goes on from what `state` gives at the end of a minibatch: `restore` takes it, in another process, too.

    Parameters
    ----------
    network : MLP
    source : Arrays, ReadArrays or Stream
    options : Options
    deadline : float
        By `time.perf_counter`.

    Attributes
    ----------
    recorder : Recorder or None
        Of a `Checkpoint`.
    epoch, batch : int
        Whole epochs done, and minibatches of the epoch under way.
    step : int
        Updates done, in the calls included that this one resumes.
    """

    def __init__(self, network, source, options, deadline=math.inf):
        self.network, self.source, self.options, self.deadline = network, source, options, deadline
        self.epoch = self.batch = self.step = self.first_step = 0
        self.order = self.seed = self.rate = None
        self._forget_sums()
        self.recorder = None
        self._ahead = None  # the engine's state, until callbacks have been told of what is shown
        self._bind()

    def _bind(self):
        n_batches = self.source.n_batches
        total = None if n_batches is None else self.first_step + self.options.epochs * n_batches
        self.bound = {name: bind(spec, total, name) for name, spec in self.options.scheduled().items()}

    def _forget_sums(self):
        self.loss_sum = self.weight_sum = self.norm_sum = 0.0

    # ---- The loop ----

    def __call__(self, run):
        self.run = run
        self._go_on()
        recorder = self.recorder
        if recorder is not None and recorder.state is not None:
            recorder.restore(self.restore)
        run.step = self.step
        if run.history.stopped is not None:
            return  # the checkpoint is that of a finished run
        self._prepare()
        if recorder is not None and recorder.state is None:
            recorder.write(self.state())  # whether it can be is seen before the first epoch
        run.begin()
        self._catch_up_with_checkpoint()
        reason = None
        while reason is None:
            reason = self._epoch() or self._end_epoch()
            if reason is None:
                self._record(self.epoch)
        if recorder is not None and reason == "time":
            recorder.write(self.state())  # this run can go on
        run.finish(reason)
        if recorder is not None and reason != "time":
            recorder.write(self.state())

    def _record(self, epoch=None):
        """Write a checkpoint where it is due, after a piece or after `epoch`."""
        run, recorder = self.run, self.recorder
        if recorder is not None and recorder.is_due(self.step, epoch):
            started = time.perf_counter()
            recorder.write(self.state())
            run.started += time.perf_counter() - started  # no part of the epoch

    def _go_on(self):
        """Take up the steps, and the masks of dropout, of a call that is resumed."""
        network, options = self.network, self.options
        resumed = options.resume and network._resumable is not None
        if resumed:
            self.step = self.first_step = network._network.get_optimizer()[1]
            self._bind()
            if self.run.monitor is not None:
                self.run.monitor.go_on_from(self.step)
        if options.dropout:
            if not resumed or network._dropout_seed is None:
                network._dropout_seed = int(network._rng.integers(2**64, dtype=np.uint64))
            self.seed = network._dropout_seed

    def _prepare(self):
        """What is the same for all pieces."""
        options, source = self.options, self.source
        self.rule = options.optimizer.rule() | options.penalties
        if options.dropout:
            self.rule |= {"dropout": list(options.dropout), "seed": self.seed}
        self.is_timed = self.deadline < math.inf or (self.recorder is not None and self.recorder.is_timed)
        self.wants_norms = options.norm_of_clipping
        self.flops = 6.0 * self.network._n_weights * source.batch_size
        # Nothing to be done between minibatches: the epoch of a small network takes a few microseconds.
        # Weights of rows are summed here in another order than in the engine: see `_train`.
        between = self.is_timed or self.recorder is not None or self.wants_norms or self.bound
        between = between or source.is_read or source.weight is not None
        self.whole = None if between else source.piece(None, 0)
        if self.whole is not None:
            self.rule = self._rule(self.whole)
            self.rate = self.rule["learning_rate"]

    def _most(self):
        """How many minibatches the next piece may have at most; None for all that are left."""
        if not self.is_timed and self.recorder is None:
            return None
        limits = [max(1, int(_TIMED_FLOPS / self.flops))] if self.is_timed else []
        if self.recorder is not None and (left := self.recorder.steps_left(self.step)) is not None:
            limits.append(left)
        return min(limits) if limits else None

    def _epoch(self):
        """The rest of an epoch; why it was not ended, or None."""
        source = self.source
        if self.batch == 0:
            self.order = None if source.draw is None else source.draw(self.network._rng)
        if self.whole is not None:
            X, y, weight, _ = self.whole.arguments
            self.loss_sum = self.run.epoch(X, y, weight, self.order, self.whole.batch_size, self.rule)
            self.weight_sum, self.batch, self.step = 1.0, self.whole.count, self.step + self.whole.count
            return None
        source.begin()
        while (piece := source.piece(self.order, self.batch, self._most())) is not None:
            if self.batch > 0 and time.perf_counter() >= self.deadline:
                return "time"
            self._train(piece)
            del piece  # before the next one is read
            if self.batch != source.n_batches:
                self._record()
        return "stream" if self.batch == 0 else None

    def _train(self, piece):
        run, count, optional = self.run, piece.count, {}
        rule = self._rule(piece)
        # The engine's mean is that of the sums below, but for how it adds weights up.
        source, is_weighted = self.source, piece.arguments[2] is not None
        is_part = piece.count != source.n_batches or source.n_rows is None or is_weighted
        if is_part:
            optional["losses"] = losses = np.empty((count, 2))
        if self.wants_norms:
            optional["norms"] = norms = np.empty(count)
        if source.n_rows is None and run.monitor is not None and run.monitor.wants_rows(count):
            rows = sample_rows(piece.batch_size, self.network.layer_sizes[0])
            run.monitor.see(*(None if part is None else part[rows] for part in piece.arguments[:3]))
        mean = run.epoch(*piece.arguments, piece.batch_size, rule, self.batch, **optional)
        if is_part:
            weights = piece.weights()
            if source.n_rows is None:  # whose batches have exponents of their own
                weights = np.ldexp(weights, piece.exponent)
            self.loss_sum = _sum(self.loss_sum, weights * (losses[:, 0] + losses[:, 1]))
            self.weight_sum = _sum(self.weight_sum, weights)
        else:
            self.loss_sum, self.weight_sum = mean, 1.0
        if self.wants_norms:
            self.norm_sum = _sum(self.norm_sum, norms)
        self.batch += count
        self.step += count
        rate = rule["learning_rate"]
        self.rate = float(rate[-1]) if isinstance(rate, np.ndarray) else rate

    def _rule(self, piece):
        """The engine's rule for a piece: numbers, or arrays with one for each minibatch."""
        if not self.bound and piece.exponent == 0:
            return self.rule
        rule = dict(self.rule)
        if "alpha" in rule:  # it is divided by a sum of weights
            with np.errstate(over="ignore"):
                rule["alpha"] = float(np.ldexp(rule["alpha"], -piece.exponent))
        values = {name: bound.values(self.step, piece.count) for name, bound in self.bound.items()}
        rates = take_rates(values, self.options.dropout, piece.count)
        if self.options.dropout:
            rule["dropout"] = rates
        return rule | {name.partition(".")[2]: value for name, value in values.items()}

    def _end_epoch(self):
        """Show the epoch; why training ends with it, or None."""
        run, options = self.run, self.options
        loss = self.loss_sum / self.weight_sum if self.weight_sum > 0 else 0.0
        norm = self.norm_sum / self.batch if self.wants_norms else None
        run.step = self.step
        reason = run.end_epoch(loss, self.batch, learning_rate=self.rate, gradient_norm=norm)
        validation_loss = run.history.validation_loss[-1] if run.validation is not None else None
        for bound in self.bound.values():
            bound.end_epoch(loss, validation_loss)
        self.epoch, self.batch, self.order = self.epoch + 1, 0, None
        self._forget_sums()
        if reason is None and self.epoch >= options.epochs:
            return "epochs"
        if reason is None and time.perf_counter() >= self.deadline:
            return "time"
        return reason

    # ---- Checkpoints ----

    def identity(self, validation):
        """What runs that do the same have in common, as texts by name: of functions and data the names alone."""
        network, source = self.network, self.source
        return {
            "network": repr(network),
            "dtype": source.dtype.name,
            "number of rows": "unknown" if source.n_rows is None else str(source.n_rows),
            "number of batches": "unknown" if source.n_batches is None else str(source.n_batches),
            "number of validation rows": "0" if validation is None else str(len(validation.data[0])),
            **_options.describe(self.options),
            "weights of rows": "none" if getattr(source, "weight", None) is None else "given",
        }

    def state(self):
        """What `restore` needs to go on bit by bit, at the end of a minibatch.

        Returns
        -------
        dict
            Of numbers, lists, dicts and arrays.
        """
        network, run, watch = self.network, self.run, self.run.watch
        within = self.batch > 0
        parameters, statistics = np.empty_like(network._flat), np.empty_like(network._statistics)
        run.engine.get_parameters(parameters)
        if statistics.size:
            run.engine.get_statistics(statistics)
        optimizer = run.engine.get_optimizer()
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "first_step": self.first_step,
            "order": self.order,
            "sums": [self.loss_sum, self.weight_sum, self.norm_sum],
            "rate": self.rate,
            "seconds": time.perf_counter() - run.started if within else 0.0,
            "rng": _plain(network._rng.bit_generator.state),
            "seed": self.seed,
            "schedules": {name: bound.state() for name, bound in self.bound.items()},
            "parameters": parameters,
            "statistics": statistics,
            "optimizer": None if optimizer is None else list(optimizer),
            "shown": [network._flat.copy(), network._statistics.copy()] if within else None,  # the last whole epoch
            "stopping": None if watch is None else watch.state(),
            "best": None if watch is None or watch.best is None else [vector.copy() for vector in watch.best],
            "history": {name: list(getattr(run.history, name)) for name in COLUMNS},
            "stopped": run.history.stopped,
            **({} if run.monitor is None else {"health": run.monitor.state()}),
        }

    def restore(self, state):
        """Go on from the `state` of a run with the same `identity`; ValueError, and no change, where it is none."""
        network, run, watch = self.network, self.run, self.run.watch
        self._check(state)
        self.epoch, self.batch, self.order = (state[name] for name in ("epoch", "batch", "order"))
        self.step, self.first_step = state["step"], state["first_step"]
        self._bind()
        self.loss_sum, self.weight_sum, self.norm_sum = state["sums"]
        self.rate = state["rate"]
        if run.monitor is not None:
            run.monitor.restore(state["health"])
        self.seed = network._dropout_seed = state["seed"]
        for name, bound in self.bound.items():
            bound.restore(state["schedules"][name])
        if watch is not None:
            watch.restore(state["stopping"])
            if state["best"] is not None:
                watch.keep(*state["best"])
        optimizer = None if state["optimizer"] is None else tuple(state["optimizer"])
        self._ahead = state["parameters"], state["statistics"], optimizer
        run.restore(state["shown"] or self._ahead[:2], state["history"], state["seconds"])
        if self.batch == 0:
            self._catch_up_with_checkpoint()
            network._resumable = None if optimizer is None else run.keeps
        network._rng.bit_generator.state = state["rng"]
        run.history.stopped = state["stopped"]

    def _check(self, state):
        network, options, watch = self.network, self.options, self.run.watch
        flat, statistics = vectors = [network._flat, network._statistics]
        draw, rows = self.source.draw, np.broadcast_to(np.int64(0), (self.source.n_rows or 0,))
        conform(
            state,
            {
                **dict.fromkeys(("epoch", "batch", "step", "first_step"), int),
                "order": None if draw is None else (None, rows),
                "sums": [float, float, float],
                "rate": (None, float),
                "seconds": float,
                "rng": dict,
                "seed": int if options.dropout else (None, int),
                "schedules": dict.fromkeys(self.bound, dict),
                "parameters": flat,
                "statistics": statistics,
                "optimizer": (None, [str, int, (None, flat), (None, flat)]),
                "shown": (None, vectors),
                "stopping": None if watch is None else dict,
                "best": None if watch is None else (None, vectors),
                "history": {name: [float] for name in COLUMNS},
                "stopped": (None, str),
                **({} if self.run.monitor is None else {"health": dict}),
            },
        )
        if state["epoch"] != len(state["history"]["loss"]) or min(state["batch"], state["step"]) < 0:
            raise ValueError("its numbers of epochs and minibatches do not agree")
        if state["optimizer"] is not None and state["optimizer"][0] != options.optimizer.rule()["name"]:
            raise ValueError(f"its optimizer is {state['optimizer'][0]!r}")
        if self.run.monitor is not None:
            self.run.monitor.check(state["health"])
        shown = state["shown"] or (state["parameters"], state["statistics"])  # what the engine has may diverge just now
        for vector in (*shown, *(state["best"] or ())):
            _validation.check_finite(vector, "parameters or statistics")
        copy.deepcopy(network._rng.bit_generator).state = state["rng"]

    def _catch_up_with_checkpoint(self):
        """Give the engine what it had when the checkpoint was written."""
        if self._ahead is None:
            return
        (parameters, statistics, optimizer), engine = self._ahead, self.run.engine
        self._ahead = None
        self.network._in_step = False
        engine.set_parameters(parameters, statistics if statistics.size else None)
        engine.set_optimizer(optimizer)
        self.network._in_step = self.batch == 0


def _sum(start, terms):
    """start + terms[0] + terms[1] + ..., one after another: the same bits however an epoch is cut."""
    return float(np.add.accumulate(np.concatenate(((start,), terms)))[-1])


def _plain(value):
    """The state of a bit generator as JSON can hold it."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


# ---- A call ----


def _length(value):
    return f" of length {len(value)}" if isinstance(value, (tuple, list)) else ""


def _check_validation(network, validation_data, dtype, metric):
    if validation_data is None:
        return None
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
        raise TypeError(
            "validation_data must be a tuple (X, y) or (X, y, sample_weight); "
            f"got {type(validation_data).__name__}{_length(validation_data)}"
        )
    X, y, *weight = validation_data
    names = tuple(f"validation_data[{i}]" for i in range(3))
    return Validation(network._check_data(X, y, weight[0] if weight else None, dtype, names), y, metric)


def _monitor(network, source, options, is_weighted):
    """The `Monitor` of a call, which has seen some of its rows."""
    rate = getattr(options.optimizer, "learning_rate", None)
    facts = {
        "optimizer": options.optimizer,
        "learning_rate": None if callable(rate) else rate,
        "batch_size": source.n_rows if options.is_lbfgs else source.batch_size,
        "n_rows": source.n_rows,
        "dropout": options.dropout,
        "class_weight": options.class_weight is not None,
        "sample_weight": is_weighted,
        "clipping": options.clips,
    }
    monitor = Monitor(options.health, network, facts)
    if source.n_rows is not None:
        try:
            some = source.take(sample_rows(source.n_rows, network.layer_sizes[0]))
        except ValueError:
            return monitor  # one that is bad is told of when training comes to it
        labels = source.y.ndim == 1 and not source.is_read and network.output_activation.name == "softmax"
        monitor.see(*some, np.bincount(source.y, minlength=network.layer_sizes[-1]) if labels else None)
    return monitor


def train(network, X, y, sample_weight, validation_data, **given):
    """Fit the parameters of `network`, an `MLP`: what `MLP.train` does, with its arguments.

    Parameters
    ----------
    network : MLP
    X, y, sample_weight, validation_data
        As there.
    **given
        The other ones, all of them.

    Returns
    -------
    History

    Raises
    ------
    ValueError, TypeError
        For wrong arguments, before anything has changed.
    DivergenceError
        Where the loss or the parameters stop being finite.
    RuntimeError
        Where `network` is being trained already.
    """
    started = time.perf_counter()
    options = _options.check(network, given, validation_data is not None)
    source = open_source(network, X, y, sample_weight, options)
    while True:  # again where another thread's data have decided for another dtype
        validation = _check_validation(network, validation_data, source.dtype, options.metric)
        _options.check_epsilon(options.optimizer, source.dtype)
        watch = None
        if options.stopping is not None:
            watch = Watch(options.stopping, validation is not None, options.metric is not None)
        deadline = math.inf if options.max_time is None else started + options.max_time
        loop = None if options.is_lbfgs else Descent(network, source, options, deadline)
        if network._in_step or network._bring_in_step(source.dtype):
            break
        source = source.reopen(network.dtype)
    if options.checkpoint is not None:
        loop.recorder = options.checkpoint.recorder(loop.identity(validation))
    keeps = None if options.is_lbfgs else type(options.optimizer).__name__
    monitor = _monitor(network, source, options, sample_weight is not None) if options.health else None
    run = Run(network, keeps, options.epochs, validation, watch, options.callbacks, monitor)
    if loop is None:
        loop = functools.partial(fit_by_lbfgs, source=source, options=options, deadline=deadline)
    return run.go(loop, options.resume)
