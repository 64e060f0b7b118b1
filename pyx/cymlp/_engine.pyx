"""The compiled engine: the interface that ``engine.py`` states in words, over the passes of ``_passes`` and the kernels in C.

Here training is: pointers are taken, the GIL is released in slices of about 20 ms, and signals are looked at in between.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport INFINITY, NAN, isfinite
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from time import perf_counter

import numpy as np

from cymlp cimport _mirrored, _monitor, _passes, _storage
from cymlp._boundary cimport Array, Target, check_range
from cymlp._choice cimport *
from cymlp._monitor cimport MONITORED, monitor_t
from cymlp._network cimport SEGMENT_FLOPS_PER_LANE, SLICE, Layers
from cymlp._rules cimport Rule, check_state, dropout_of
from cymlp._storage cimport is_same_plan, plan_t, weight_t
from cymlp._tiles cimport clips_norms, kept_factor, run_t
from cymlp.kernels cimport *

from ._boundary import ACTIVATIONS, LOSSES, available_isas, blocking, isa, max_threads, openmp_version, use_isa
from ._kernels import activate, activation_gradient, batch_norm, batch_norm_backward, clip, dense_backward, dense_forward, dropout
from ._kernels import layer_norm, layer_norm_backward, limit_columns, loss_and_gradient, sum_of_magnitudes, sum_of_squares, update

cdef extern from *:
    """
    /* A product by itself: the compiler may make one operation of it and a sum. */
    static double cymlp_rounded(double product)
    {
        volatile double result = product;
        return result;
    }
    """
    double rounded "cymlp_rounded"(double product) nogil

# Steps whose constants are computed ahead of one call into the passes.
cdef size_t STEPS_AHEAD = 1024
# Seconds between two barriers, where a step has more: the last of them before a look at signals is what Ctrl-C waits for.
cdef double SEGMENT = 0.01
# Part of the work of a segment at first that it has at least.
cdef double LEAST_SEGMENT = 64
# Steps after which the length of segments is looked at again, where steps have several.
cdef size_t STEPS_BETWEEN_CUTS = 16


# What is known of steps ahead of a call into the passes, and told by it.
cdef struct epoch_t:
    cymlp_step *rules
    weight_t *weights
    double *scale
    double *loss
    double *penalty
    double *norm


cdef int epoch_create(epoch_t *epoch, size_t steps) except -1:
    """What has been allocated where memory runs out is still to be freed: rules, weights and scale."""
    epoch.rules = <cymlp_step *>calloc(steps, sizeof(cymlp_step))
    epoch.weights = <weight_t *>calloc(steps, sizeof(weight_t))
    epoch.scale = <double *>calloc(4 * steps, sizeof(double))
    if not epoch.rules or not epoch.weights or not epoch.scale:
        raise MemoryError
    epoch.loss, epoch.penalty, epoch.norm = epoch.scale + steps, epoch.scale + 2 * steps, epoch.scale + 3 * steps
    return 0


cdef class Watched:
    """Which minibatches of an epoch are watched, and where what is seen goes."""

    cdef Array batches, records
    cdef size_t count, at       # of `batches`; the next of them
    cdef Py_ssize_t size        # of a record

    def __cinit__(self, watched, int depth):
        if watched is None:
            return
        if not isinstance(watched, tuple) or len(watched) != 2:
            raise TypeError(f"watched must be None or a tuple (batches, records); got {type(watched).__name__}")
        batches, records = watched
        self.batches = Array(batches, "watched[0]", "i", (-1,))
        self.count, self.size = self.batches.view.shape[0], (depth + 1) * MONITORED
        self.records = Array(records, "watched[1]", "d", (self.count, depth + 1, MONITORED), True)

    cdef int64_t batch(self, size_t i) noexcept:
        return (<const int64_t *>self.batches.data)[i]

    cdef int check(self, size_t n_steps) except -1:
        for i in range(self.count):
            if not (self.batch(i - 1) if i else -1) < self.batch(i) < <int64_t>n_steps:
                raise ValueError(f"watched[0] must be increasing numbers from 0 to {n_steps - 1}; got {self.batch(i)} at {i}")
        return 0

    cdef size_t limit(self, size_t first, size_t steps) noexcept:
        """How many of the steps from `first` on are gone in one piece: one that is watched is gone alone."""
        if self.at == self.count:
            return steps
        return 1 if self.batch(self.at) == <int64_t>first else min(steps, <size_t>self.batch(self.at) - first)

    cdef double *record(self, size_t first) noexcept:
        """Where to write the record of step `first`, or NULL where it is not watched."""
        if self.at == self.count or self.batch(self.at) != <int64_t>first:
            return NULL
        self.at += 1
        return <double *>self.records.data + (self.at - 1) * self.size


cdef bint is_failed(const run_t *run, size_t step) noexcept:
    """Whether a minibatch ended a run."""
    return not isfinite(run.loss[step]) or clips_norms(run) and not isfinite(run.norm[step])


cdef class Network(Layers):
    """A network that can be trained; the interface is described in ``engine.py``."""

    cdef double loss_clip
    cdef size_t steps_done          # of the optimiser
    cdef object rule_name
    # Of the last training run: segments in a slice [by one thread, by all].  Its plan is the workspace's.
    cdef size_t[2] slice_segments
    cdef choice_t training
    # Work of a slot in a segment, and what a segment took in the last slice where steps have several; 0: not known.
    cdef double segment_flops, segment_seconds
    cdef monitor_t monitor

    def __dealloc__(self):
        _monitor.monitor_destroy(&self.monitor)
        _storage.workspace_destroy(&self.space)

    cdef int _prepare(self, run_t *run, Array x, Target target, const plan_t *plan) except -1:
        """Fill in what both kinds of run share, and see that the workspace fits."""
        memset(run, 0, sizeof(run_t))
        # A gradient alone of as many rows as a minibatch had is another kind of run.
        if not is_same_plan(plan, &self.space.plan):
            self.training = choice_t((0, 0), 0, 0, SOON, 0, 0, 0)
            self.slice_segments[0] = self.slice_segments[1] = 2
            _storage.workspace_destroy(&self.space)
        if not self.space.arena and not _storage.workspace_create(&self.space, &self.net, plan):
            raise MemoryError(f"no memory for the activations of a batch of {plan.batch} rows")
        run.net, run.space, run.X, run.n, run.batch = &self.net, &self.space, x.data, x.view.shape[0], plan.batch
        run.target = target.target
        run.stages, run.phases = 2 * self.net.n_cuts + 1, 1
        self._cut(run)
        return 0

    cdef void _cut(self, run_t *run) noexcept:
        """Cut steps into segments of about SEGMENT seconds, by what segments took so far."""
        cdef double change = 1, pieces
        if self.segment_flops == 0:
            self.segment_flops = SEGMENT_FLOPS_PER_LANE * self.net.kernels.lanes
        elif self.segment_seconds > 0:
            change = min(max(SEGMENT / self.segment_seconds, 0.25), 4.0)
            # Where threads outnumber cores, barriers take the time: shorter segments would mean more of them.
            change = max(change, SEGMENT_FLOPS_PER_LANE * self.net.kernels.lanes / LEAST_SEGMENT / self.segment_flops)
            self.segment_flops *= change
        self.segment_seconds = 0
        pieces = self.flops * run.batch / run.space.parts / run.space.n_slots / self.segment_flops / run.stages
        run.forward_segments, run.update_segments = 1 + <size_t>(2 * pieces), 1 + <size_t>pieces

    cdef int _run(self, run_t *run, bint flexible) except -1:
        """All segments of a run, in slices of about SLICE seconds with a look at signals after each."""
        cdef size_t done = 0, total = _passes.segments(run), of_step = max((total - 1) // run.n_steps, <size_t>1), count
        cdef bint parallel = self.space.plan.n_slots > 1
        cdef double seconds, mean = _passes.work(run, total) / total
        while done < total and not run.failed:
            if flexible and self.space.plan.n_slots > 1:
                parallel = in_parallel(&self.training)
            count = min(self.slice_segments[parallel], total - done)
            if flexible and is_trial(&self.training, parallel):
                seconds = self.training.pace[not parallel] * mean  # of a segment
                count = min(count, max(<size_t>(1e-6 * TRIAL_MICROSECONDS / seconds), <size_t>1))
                if of_step * seconds < SLICE / 4:  # whole steps, as estimates of their parts are rough
                    count = min((count + of_step - 1) // of_step * of_step, total - done)
            if done + count + 1 == total:
                count += 1  # the last one is less work than others: alone it would make a way look fast
            started = perf_counter()
            with nogil:
                _passes.run_segments(run, done, done + count, parallel)
            seconds = perf_counter() - started
            if run.forward_segments > 1:
                self.segment_seconds = seconds / count
            if not run.monitor:  # looking at things takes time of its own
                learn(&self.training, parallel, _passes.work(run, done + count) - _passes.work(run, done), seconds)
            if seconds < SLICE / 2 and count == self.slice_segments[parallel]:
                self.slice_segments[parallel] *= 2
            elif seconds > SLICE and self.slice_segments[parallel] > 1:
                self.slice_segments[parallel] //= 2
            done += count
            PyErr_CheckSignals()
        return 0

    cdef int _watch(self, run_t *run, double *record) except -1:
        """Have the one step that follows watched, up to `_watched`."""
        cdef monitor_t *monitor = &self.monitor
        if not monitor.arena or monitor.rows < run.batch or monitor.n_slots != self.space.n_slots:
            _monitor.monitor_destroy(monitor)
            if not _monitor.monitor_create(monitor, &self.net, run.batch, self.space.n_slots):
                raise MemoryError(f"no memory to watch a batch of {run.batch} rows")
        for l in range(self.net.depth):
            monitor.gains[l] = kept_factor(run.dropout[l]) if run.dropout else 1
        with nogil:
            _monitor.monitor_begin(monitor, &self.net, run.steps != NULL, record)
        run.monitor = monitor
        return 0

    cdef int _watched(self, run_t *run, double *record) except -1:
        """Write down what has been seen."""
        run.monitor = NULL
        with nogil:
            _monitor.monitor_end(&self.monitor, &self.net, min(run.batch, run.n - run.first_step * run.batch),
                                 1 / run.scale[0] if run.scale[0] > 0 else 0, run.steps != NULL, record)
        return 0

    def clip_loss(self, double clip):
        self.turns.enter(True)
        self.loss_clip = clip
        self.turns.leave()

    def gradients(self, X, y, sample_weight, out, int n_threads=1, dropout=None, record=None):
        cdef Array x = Array(X, "X", self.kind, (-1, self.n_in)), rates = None, told = None
        cdef size_t n = x.view.shape[0]
        cdef Target target = Target(self.loss[0], self.loss[1], self.loss_clip, self.kind, y, sample_weight, n, self.n_out)
        cdef Array gradient = Array(out, "out", self.kind, (self.n_parameters,), True)
        cdef weight_t weight = target.weigh(NULL, 0, n, True, self.kind == "d")
        cdef double loss = 0, scale = 1 / weight.sum if weight.sum > 0 else 0
        cdef plan_t plan
        cdef run_t run
        memset(&plan, 0, sizeof(plan_t))
        plan.batch = plan.whole = max(n, <size_t>1)
        plan.n_slots = abs(n_threads)
        if dropout is not None:
            seed, step, rates = dropout_of(dropout, self.net.depth, &plan)
        if record is not None:
            told = Array(record, "record", "d", (self.net.depth + 1, MONITORED), True)
        self.turns.enter(True)
        try:
            self._prepare(&run, x, target, &plan)
            run.scale, run.loss, run.weights = &scale, &loss, &weight
            run.regime.keeps_statistics, run.regime.limit = True, INFINITY
            if rates is not None:
                run.regime.seed, run.steps_before, run.dropout = seed, step - 1, <const double *>rates.data
            run.gradient = _storage.packed_vector(&self.net)
            if not run.gradient:
                raise MemoryError(f"no memory for a gradient of {self.n_parameters} parameters")
            run.n_steps = 1
            if told is not None:
                self._watch(&run, <double *>told.data)
            self._run(&run, n_threads < 0)
            if told is not None:
                self._watched(&run, <double *>told.data)
            with nogil:
                _storage.net_unpack(&self.net, run.gradient, gradient.data)
        finally:
            _storage.release(run.gradient)
            # The workspace of a whole data set is no use to the next call.
            _storage.workspace_destroy(&self.space)
            _monitor.monitor_destroy(&self.monitor)
            self.turns.leave()
        return loss * scale

    def reset_optimizer(self):
        self.turns.enter(True)
        for i in range(2):
            _storage.release(self.net.moments[i])
            self.net.moments[i] = NULL
        self.steps_done, self.rule_name, self.space.mirror_is_old = 0, None, True
        self.turns.leave()

    def get_optimizer(self):
        cdef Array vector
        self.turns.enter(False)
        try:
            if self.rule_name is None:
                return None
            moments = [None, None]
            for i in range(2):
                if self.net.moments[i]:
                    moments[i] = np.empty(self.n_parameters, self.dtype)
                    vector = Array(moments[i], "state", self.kind, (self.n_parameters,), True)
                    with nogil:
                        _storage.net_unpack(&self.net, self.net.moments[i], vector.data)
            return (self.rule_name, self.steps_done, *moments)
        finally:
            self.turns.leave()

    def set_optimizer(self, state):
        cdef Array vector
        cdef char *moments[2]
        cdef list vectors
        cdef size_t step
        if state is None:
            self.reset_optimizer()
            return
        name, step, vectors = check_state(state, self.kind, self.n_parameters)
        moments[0] = moments[1] = NULL
        for i in range(2):
            if vectors[i] is not None:
                moments[i] = _storage.packed_vector(&self.net)
                if not moments[i]:
                    _storage.release(moments[0])
                    raise MemoryError(f"no memory for the moments of {self.n_parameters} parameters")
                vector = vectors[i]
                _storage.vector_pack(&self.net, vector.data, moments[i])
        try:
            self.turns.enter(True)
        except BaseException:
            _storage.release(moments[0])
            _storage.release(moments[1])
            raise
        for i in range(2):
            _storage.release(self.net.moments[i])
            self.net.moments[i] = moments[i]
        self.steps_done, self.rule_name, self.space.mirror_is_old = step, name, True
        self.turns.leave()

    cdef int _take_rule(self, Rule rule) except -1:
        """Allocate the moments that a rule needs, and see that it is the rule they belong to."""
        cdef bint[2] needed
        needed[0], needed[1] = rule.keeps_first, rule.keeps_second
        if self.rule_name is not None and self.rule_name != rule.name:
            raise ValueError(f"rule must stay {self.rule_name!r} until reset_optimizer(); got {rule.name!r}")
        for i in range(2):
            if needed[i] and not self.net.moments[i]:
                self.net.moments[i] = _storage.packed_vector(&self.net)
                self.space.mirror_is_old = True
                if not self.net.moments[i]:
                    raise MemoryError(f"no memory for the moments of {self.n_parameters} parameters")
        self.rule_name = rule.name
        return 0

    def train_epoch(self, X, y, sample_weight, order, Py_ssize_t batch_size, rule, int n_threads=1, losses=None, norms=None,
                    watched=None):
        cdef Array x = Array(X, "X", self.kind, (-1, self.n_in))
        cdef size_t n = x.view.shape[0], batch, first, steps, n_steps, step
        cdef Target target = Target(self.loss[0], self.loss[1], self.loss_clip, self.kind, y, sample_weight, n, self.n_out)
        cdef Array rows = None, table = None, written_norms = None
        cdef Watched of_steps = Watched(watched, self.net.depth)
        cdef Rule constants
        cdef run_t run
        cdef plan_t plan
        cdef epoch_t epoch
        cdef double total = 0, weight_sum = 0, mean
        cdef double *record
        cdef bint cut = self.segment_flops > 0
        cdef ptrdiff_t failed = -1
        if order is not None:
            rows = Array(order, "order", "i", (-1,))
            n = rows.view.shape[0]
            check_range("order", order, x.view.shape[0])
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        batch = min(<size_t>batch_size, max(n, <size_t>1))
        n_steps = (n + batch - 1) // batch
        if losses is not None:
            table = Array(losses, "losses", "d", (n_steps, 2), True)
        if norms is not None:
            written_norms = Array(norms, "norms", "d", (n_steps,), True)
        constants = Rule(rule, self.net.depth, n_steps)
        of_steps.check(n_steps)
        if n == 0:
            return 0.0, -1
        memset(&plan, 0, sizeof(plan_t))
        plan.batch, plan.whole, plan.n_slots = batch, batch_size, abs(n_threads)
        plan.mirrored = _mirrored.is_mirrored(&self.net, batch_size)
        constants.plan(&plan, norms is not None)
        self.turns.enter(True)
        memset(&epoch, 0, sizeof(epoch_t))
        try:
            self._take_rule(constants)
            self._prepare(&run, x, target, &plan)
            run.n, run.order = n, <const int64_t *>rows.data if rows is not None else NULL
            run.regime, run.steps_before, run.dropout_stride = constants.regime, self.steps_done, constants.dropout_stride
            run.phases += plan.gathers + (run.regime.max_norm < INFINITY)
            epoch_create(&epoch, min(n_steps, STEPS_AHEAD))
            run.steps, run.scale, run.weights = epoch.rules, epoch.scale, epoch.weights
            run.loss, run.penalty, run.norm = epoch.loss, epoch.penalty, epoch.norm
            first = 0
            while first < n_steps and failed < 0:
                steps = min(n_steps - first, STEPS_AHEAD)
                if run.forward_segments > 1:
                    steps = min(steps, STEPS_BETWEEN_CUTS if cut else 1)
                    self._cut(&run)
                    cut = True
                steps = of_steps.limit(first, steps)
                run.first_step, run.n_steps, run.dropout = first, steps, constants.rates(first)
                for step in range(steps):
                    epoch.weights[step] = target.weigh(run.order, (first + step) * batch, min((first + step + 1) * batch, n),
                                                       self.net.n_cuts > 0, self.kind == "d")
                    epoch.norm[step], epoch.penalty[step] = NAN, 0
                    epoch.scale[step] = 1 / epoch.weights[step].sum if epoch.weights[step].sum > 0 else 0
                constants.fill(self.steps_done, first, steps, epoch.scale, epoch.rules)
                record = of_steps.record(first)
                if record:
                    self._watch(&run, record)
                self._run(&run, n_threads < 0)
                if record:
                    self._watched(&run, record)
                for step in range(steps):
                    if run.failed and is_failed(&run, step):
                        failed = first + step
                        # There was no update, which would have summed it up.
                        run.penalty[step] = _storage.penalty(&self.net, &epoch.rules[step], run.regime.of_biases)
                    mean = rounded(run.loss[step] * epoch.scale[step])
                    if table is not None:
                        (<double *>table.data)[2 * (first + step)] = mean
                        (<double *>table.data)[2 * (first + step) + 1] = run.penalty[step]
                    if written_norms is not None:
                        (<double *>written_norms.data)[first + step] = run.norm[step]
                    total += rounded(epoch.weights[step].sum * (mean + run.penalty[step]))  # as callers add up pieces of an epoch
                    weight_sum += epoch.weights[step].sum
                    if failed >= 0:
                        break
                    self.steps_done += 1
                first += steps
        finally:
            free(epoch.rules)
            free(epoch.weights)
            free(epoch.scale)
            with nogil:
                _storage.net_fold(&self.net)
            self.turns.leave()
        return total / weight_sum if weight_sum > 0 else 0.0, failed
