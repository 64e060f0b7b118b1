"""What a run collects of its layers while it trains: which steps are watched, and the records of these.

Which ones is a function of the step's number alone, so that a run that goes on needs no state for it; and a few hundred
of them, however long the run is.
"""

import array
import weakref

import numpy as np

from ..engine import MONITORED
from .summaries import Evidence, Sample, without_functions

__all__ = ["EVERY", "Monitor", "Records", "as_every", "next_watched", "watched_steps"]

# Every so many steps one is watched where nothing else is asked for.
EVERY = 256

# What is known of epochs, of a history's columns.
_COLUMNS = ("loss", "validation_loss", "learning_rate", "gradient_norm")

# An iteration of L-BFGS is looked at by one in so many rows of the sample, as long as that leaves about 32: of a run of
# a hundred iterations eight are watched, and each would cost as much as the iteration itself.
_SHARE = 8

# As many records there are before they begin to lie further apart: after twice as many steps twice as far.
_DENSE = 256


def as_every(health):
    """Every how many steps one is to be watched.

    Parameters
    ----------
    health : bool or int

    Returns
    -------
    int
        0 for never.

    Raises
    ------
    ValueError, TypeError
        For what is neither a flag nor an integer of at least 1.
    """
    if isinstance(health, (bool, np.bool_)):
        return EVERY if health else 0
    if not isinstance(health, (int, np.integer)):
        raise TypeError(f"health must be True, False or an integer; got {type(health).__name__}")
    if health < 1:
        raise ValueError(f"health must be True, False or an integer >= 1; got {health}")
    return int(health)


def next_watched(every, step):
    """The first step after `step` that is watched.

    Those below `every` are the powers of two.  From there on they are the multiples of `every`, from step 512 `every`
    on those of 2 `every`, and each time that the number of steps doubles those of twice as much.

    Parameters
    ----------
    every, step : int

    Examples
    --------
    >>> next_watched(200, 0), next_watched(200, 1), next_watched(200, 128), next_watched(200, 200)
    (1, 2, 200, 400)
    >>> next_watched(200, 512 * 200)
    102800
    """
    if step < every:
        return min(1 << step.bit_length(), every)
    doublings = (step // (_DENSE * every)).bit_length() - 1
    distance = every << max(0, doublings)
    return (step // distance + 1) * distance


def watched_steps(every, first, count):
    """Which of some steps are watched.

    Parameters
    ----------
    every : int
    first : int
        Steps done before them.
    count : int

    Returns
    -------
    ndarray of int64
        Their numbers, from 0: of step first + 1 it is 0.

    Examples
    --------
    >>> watched_steps(200, 0, 500)
    array([  0,   1,   3,   7,  15,  31,  63, 127, 199, 399])
    """
    found, step = [], next_watched(every, first)
    while step <= first + count:
        found.append(step - first - 1)
        step = next_watched(every, step)
    return np.array(found, dtype=np.int64)


class Records:
    """What was seen of the layers in the steps that were watched, oldest first.

    Parameters
    ----------
    steps, epochs : ndarray (n,) of int64
    values : ndarray (n, L+1, 8) of float64

    Attributes
    ----------
    steps : ndarray (n,)
        The steps' numbers, from 1; of L-BFGS iterations.
    epochs : ndarray (n,)
        How many whole epochs were done before.
    activation : ndarray (n, L+1)
        Mean square of what each layer hands on in that step, the inputs first; of the output that of Z.
    gradient : ndarray (n, L+1)
        Mean square, over rows and units, of the gradients of the rows' own losses by Z (by the sums A W of a normalised
        layer).  NaN for the inputs.
    zero, dead : ndarray (n, L+1)
        Share of the elements of a layer, and of its units for all rows of the minibatch, that are exactly 0.  NaN for
        the output.
    saturated : ndarray (n, L+1)
        Share of the elements, but for zeros, of "sigmoid" and "tanh" whose slope is less than 5 % of the largest.  NaN
        for the output.
    weight, update : ndarray (n, L+1)
        Frobenius norms of each layer's weights, and of what the step changed of them.  NaN for the inputs.
    update_ratio : ndarray (n, L+1)
        update / weight: 0 where both are 0, infinite where the weights alone are.
    twins : ndarray (n, L+1)
        Share of the units with the weights and the bias of another unit of the layer.  NaN for the inputs.
    """

    def __init__(self, steps, epochs, values):
        self.steps, self.epochs, self.values = steps, epochs, values

    def __len__(self):
        return len(self.steps)

    def __repr__(self):
        return f"<Records of {len(self)} steps, {self.values.shape[1] - 1} layers>"

    def __eq__(self, other):
        if not isinstance(other, Records):
            return NotImplemented
        mine, theirs = ((one.steps, one.epochs, one.values) for one in (self, other))
        return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(mine, theirs, strict=True))

    __hash__ = None

    @property
    def update_ratio(self):
        weight, update = self.weight, self.update
        with np.errstate(all="ignore"):
            return np.where((weight == 0) & (update == 0), 0.0, update / weight)

    def to_dict(self):
        """All of it.

        Returns
        -------
        dict of lists
            "step" and "epoch", (n,), and the columns, each a list of one list for each step.
        """
        columns = {name: getattr(self, name).tolist() for name in (*MONITORED, "update_ratio")}
        return {"step": self.steps.tolist(), "epoch": self.epochs.tolist(), **columns}

    def to_pandas(self):
        """A row for each step and layer.

        Returns
        -------
        pandas.DataFrame
            "step", "epoch", "layer" and the columns.

        Raises
        ------
        ImportError
            Where pandas is not installed.
        """
        import pandas

        n_steps, n_layers = self.values.shape[:2]
        columns = {name: getattr(self, name).ravel() for name in (*MONITORED, "update_ratio")}
        steps, epochs = np.repeat(self.steps, n_layers), np.repeat(self.epochs, n_layers)
        return pandas.DataFrame(
            {"step": steps, "epoch": epochs, "layer": np.tile(np.arange(n_layers), n_steps), **columns}
        )


def _column(number):
    return property(lambda records: records.values[:, :, number])


for _number, _name in enumerate(MONITORED):
    setattr(Records, _name, _column(_number))


class Monitor:
    """Collects the records of a run, and of those that go on with it, and what else a report is made of.

    Parameters
    ----------
    every : int
        At least 1.
    network : MLP
        With its dtype decided.
    facts : dict
        What `Evidence` has besides, but for what the monitor knows.
    loss_factor : float
        Of the losses in the history.
    gain : float, optional
        Of the initialiser; None where the network knows it.

    Attributes
    ----------
    history : History
        Of the call that trains, or the last one.
    step : int
        Steps done.
    due : int
        The next one that is watched.
    diverged : DivergenceError or None
    has_ended : bool
        Whether no call is at work.
    """

    def __init__(self, every, network, facts, loss_factor=1.0, gain=None):
        self.every, self.step, self.due = every, 0, next_watched(every, 0)
        self.diverged = self.history = None
        self._n_layers = len(network.layer_sizes)
        # (steps and epochs before, minibatches, values): one thing, so that an interrupt leaves all of it or nothing.
        self._chunks = []
        self._iteration = None, None  # of L-BFGS: the record of the one under way, and the parameters before it
        # Of the histories before this one: in arrays, as a stream makes one epoch for each of its calls.
        self._past, self._n_past = {name: array.array("d") for name in _COLUMNS}, 0
        self._network, self.has_ended = None, False
        self._drawn = {"initializers": tuple(network._initializers), "gain": network._gain if gain is None else gain}
        self._describe(network, facts)
        self._sample = Sample(network.layer_sizes, network.output_activation.name, network.loss, loss_factor)

    def _describe(self, network, facts):
        self._facts = facts | {
            "layer_sizes": network.layer_sizes,
            "activations": tuple(network._activations),
            "normalizations": network.normalizations,
            "loss": network.loss,
            "dtype": network.dtype,
        }

    def go_on_with(self, every, network, facts):
        """Be the monitor of another run with the same layers; arguments as above."""
        self.every = every
        self._describe(network, facts)
        self.go_on_from(self.step)

    # ---- While it trains ----

    def begin(self, history, network):
        """Go on with another call that trains this network, whose history this is."""
        if self.history is not None:
            for name, past in self._past.items():
                past.extend(getattr(self.history, name))
            self._n_past += self.history.epochs
        self.history, self.diverged, self.has_ended, self._network = history, None, False, weakref.ref(network)
        self._sample.forget_answers()
        history._monitor = self

    def go_on_from(self, step):
        """Count steps from here."""
        self.step, self.due = step, next_watched(self.every, step)

    def watch(self, count):
        """For the next minibatches, so many, what ``train_epoch`` is to take for `watched`: one of them is `due`."""
        batches = watched_steps(self.every, self.step, count)
        return batches, np.empty((len(batches), self._n_layers, len(MONITORED)))

    def keep(self, count, watched, failed=-1):
        """Take notice of these minibatches: all of them are done, or number `failed` was not.

        Parameters
        ----------
        count : int
        watched : pair
            What `watch` gave.
        failed : int
        """
        batches, values = watched
        if failed >= 0:
            count = failed
            met = int(np.searchsorted(batches, failed, side="right"))
            batches, values = batches[:met], values[:met]
        self._chunks.append((self.step, self._n_past + self.history.epochs, batches, values))
        self.go_on_from(self.step + count)

    def iterate(self, network, is_first=False):
        """Take notice of an iteration of L-BFGS, and look at the layers before the next one where that is watched.

        Parameters
        ----------
        network : MLP
            Whose engine has the parameters that an iteration ends with.
        is_first : bool
            Whether it is those that the first one begins with.
        """
        engine, (record, before) = network._network, self._iteration
        self._iteration = None, None
        if is_first:
            record = None  # of an iteration that an earlier call did not begin
        if record is not None:
            after = np.empty_like(before)
            engine.get_parameters(after)
            steps = network._layout.views(after.astype(np.float64) - before).weights
            record[1:, MONITORED.index("update")] = [np.linalg.norm(step) for step in steps]
            self.keep(1, (np.zeros(1, np.int64), record[np.newaxis]))
        elif not is_first:
            self.step += 1
        rows = self._sample.newest
        if rows is not None and self.step + 1 >= self.due:
            record = np.full((self._n_layers, len(MONITORED)), np.nan)
            before, gradient = np.empty_like(network._flat), np.empty_like(network._flat)
            engine.get_parameters(before)
            part = slice(None, None, min(_SHARE, max(1, len(rows[0]) // 32)))
            rows = [None if array is None else np.ascontiguousarray(array[part]) for array in rows]
            engine.gradients(*rows, gradient, 1, record=record)
            self._iteration = record, before

    def wants_rows(self, count):
        """Whether rows of the next minibatches, so many, are to be shown to `see`."""
        return self._sample.is_open or self.step + count >= self.due

    def see(self, X, y, weight, counts=None):
        """Keep some rows that are trained with.

        Parameters
        ----------
        X, y, weight
            As engines take them, copies: at most `summaries.sample_size` rows.
        counts : ndarray, optional
            How many rows of each class there are in all.
        """
        self._sample.add(X, y, weight, counts)

    def end(self, error=None):
        """Note that the call has ended.

        Parameters
        ----------
        error : DivergenceError, optional
        """
        if error is not None:  # without the frames that it came through
            self.diverged = type(error)(str(error), error.epoch, error.batch, error.layer)
            (record, _), self._iteration = self._iteration, (None, None)
            if record is not None:  # what the iteration of L-BFGS that failed has met; it has taken no step
                record[1:, MONITORED.index("update")] = np.nan
                self.keep(1, (np.zeros(1, np.int64), record[np.newaxis]))
        self.has_ended = True

    # ---- Checkpoints ----

    def state(self):
        """What `restore` takes: a dict of numbers and arrays."""
        records = self.records()
        return {"step": self.step, "steps": records.steps, "epochs": records.epochs, "values": records.values}

    def check(self, state):
        """Raise ValueError where `state` cannot have given this."""
        step, *arrays = (state.get(name) for name in ("step", "steps", "epochs", "values"))
        n = len(arrays[0]) if isinstance(arrays[0], np.ndarray) and arrays[0].ndim == 1 else 0
        forms = [(np.int64, (n,)), (np.int64, (n,)), (np.float64, (n, self._n_layers, len(MONITORED)))]
        good = type(step) is int and step >= 0
        for one, (dtype, shape) in zip(arrays, forms, strict=True):
            good = good and isinstance(one, np.ndarray) and (one.dtype, one.shape) == (dtype, shape)
        if not good:
            raise ValueError("its records of the layers are none")

    def restore(self, state):
        """Go on from what `state` gave."""
        self._chunks = _one_chunk(state["steps"], state["epochs"], state["values"])
        self.go_on_from(state["step"])

    # ---- What it has seen ----

    def records(self):
        """`Records` of all steps so far that were watched."""
        steps, epochs, values = [np.empty(0, np.int64)], [np.empty(0, np.int64)], []
        for step, epoch, batches, some in list(self._chunks):
            steps.append(step + 1 + batches)
            epochs.append(np.broadcast_to(epoch, batches.shape))
            values.append(some)
        values = [np.empty((0, self._n_layers, len(MONITORED))), *values]
        return Records(*map(np.concatenate, (steps, epochs, values)))

    def version(self):
        """What is another one where there is more to report."""
        return len(self._chunks), self.history.epochs, self.has_ended

    def evidence(self):
        """`Evidence` of what is known so far."""
        history = {name: [*past, *getattr(self.history, name)] for name, past in self._past.items()}
        facts = self._facts | self._drawn
        if facts["learning_rate"] is None and history["learning_rate"]:
            facts["learning_rate"] = history["learning_rate"][0]
        return Evidence(
            records=self.records(),
            history=history,
            **facts,
            diverged=self.diverged,
            data=self._summary(),
        )

    def _summary(self):
        """Of the data; with what the network answers once training has ended, as long as nothing else trains it.

        Then, and not at once: that takes longer than a short call of training may be lengthened by.
        """
        network = None if self._network is None else self._network()
        if self.has_ended and network is not None and network._history is self.history and network._in_step:
            self._sample.answer(network)
        return self._sample.summary()

    def __getstate__(self):
        self._summary()  # the copy has neither rows nor a network
        records = self.records()
        chunks = _one_chunk(records.steps, records.epochs, records.values)
        dropped = {"_iteration": (None, None), "_network": None}
        return self.__dict__ | {"_chunks": chunks, "_facts": without_functions(self._facts), **dropped}


def _one_chunk(steps, epochs, values):
    return [(0, epochs, steps - 1, values)] if len(steps) else []
