"""The compiled engine: the interface that ``engine.py`` states in words, over the passes of ``_passes`` and the kernels in C.

Here pointers are taken, the GIL is released in slices of about 20 ms, and signals are looked at in between.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport isfinite, log2
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from time import perf_counter

import numpy as np

from cymlp cimport _mirrored, _passes, _predictions, _storage
from cymlp._boundary cimport Array, Target, activation_of, check_pair, check_range, check_state, current_isa, data_of, fill_steps
from cymlp._boundary cimport is_target, kind_of, moments_of, new_matrix, plain_rows, type_number
from cymlp._choice cimport *
from cymlp._storage cimport net_t, workspace_t
from cymlp._tiles cimport run_t
from cymlp._turns cimport Turns
from cymlp.kernels cimport *

from ._boundary import ACTIVATIONS, LOSSES, available_isas, blocking, isa, max_threads, openmp_version, use_isa
from ._kernels import activate, activation_gradient, dense_backward, dense_forward, loss_and_gradient, sum_of_squares, update

# Steps whose constants are computed ahead of one call into the passes.
cdef size_t STEPS_AHEAD = 1024
# Seconds between two barriers, where a step has more: the last of them before a look at signals is what Ctrl-C waits for.
cdef double SEGMENT = 0.01
# The work that such a segment is given at first, for each real of a vector: 1.6 GFLOP of a thread with AVX-512 and float32.
cdef double SEGMENT_FLOPS_PER_LANE = 1e8
# Part of that work that a segment has at least.
cdef double LEAST_SEGMENT = 64
# Steps after which the length of segments is looked at again, where steps have several.
cdef size_t STEPS_BETWEEN_CUTS = 16
# Seconds between two looks at signals.
cdef double SLICE = 0.02
# The work below which a prediction keeps the GIL, for each real of a vector: 4 microseconds of a thread with AVX-512 and float32,
# which is what asking for threads, letting others run and measuring would cost.
cdef double AT_ONCE_PER_LANE = 6e4
# How many sizes of predictions, each twice the one before, have a choice of their own between one thread and all.
cdef enum:
    PREDICTION_SIZES = 24


# ---- Networks ----

cdef struct scratch_t:
    char *memory
    size_t bytes


cdef class Network:
    """A network in the engine's own layout; the interface is described in ``engine.py``."""

    cdef net_t net
    cdef workspace_t space
    cdef str kind
    cdef object loss
    cdef double loss_clip
    cdef readonly object dtype
    cdef Py_ssize_t n_parameters, n_in, n_out
    cdef double flops               # of one row, forward
    cdef size_t steps_done          # of the optimiser
    cdef object rule_name
    cdef Turns turns
    # Of the last training run: rows of its largest minibatch, shares of its work, segments in a slice [by one thread, by all].
    cdef size_t batch, n_threads
    cdef size_t[2] slice_segments
    cdef choice_t training
    cdef choice_t[PREDICTION_SIZES] predictions     # of 2^i rows and more
    cdef int type_number
    cdef scratch_t scratch          # for predictions
    # Work of a slot in a segment, and what a segment took in the last slice where steps have several; 0: not known.
    cdef double segment_flops, segment_seconds

    def __cinit__(self, layer_sizes, activations, loss, dtype):
        cdef int depth = len(layer_sizes) - 1
        cdef int64_t *sizes
        cdef cymlp_act *acts
        cdef bint made
        self.kind = kind_of(dtype)
        self.type_number = type_number(self.kind)
        self.dtype = np.dtype(dtype)
        self.loss = loss
        self.turns = Turns()
        if depth < 1 or len(activations) != depth:
            raise ValueError(f"activations must have one entry for each of the {depth} layers; got {len(activations)}")
        check_pair(loss[0], activations[depth - 1][0])
        if min(layer_sizes) < 1:
            raise ValueError(f"layer_sizes must be at least 1 each; got {min(layer_sizes)}")
        self.n_in, self.n_out = layer_sizes[0], layer_sizes[depth]
        for i in range(depth):
            self.n_parameters += (layer_sizes[i] + 1) * layer_sizes[i + 1]
            self.flops += 2.0 * layer_sizes[i] * layer_sizes[i + 1]
        sizes = <int64_t *>calloc(depth + 1, sizeof(int64_t))
        acts = <cymlp_act *>calloc(depth, sizeof(cymlp_act))
        try:
            if not sizes or not acts:
                raise MemoryError
            for i in range(depth + 1):
                sizes[i] = layer_sizes[i]
            for i in range(depth):
                acts[i] = activation_of(activations[i][0], activations[i][1])
            if not _storage.net_create(&self.net, current_isa(), self.kind == "d", depth, sizes, acts):
                raise MemoryError(f"no memory for a network of {self.n_parameters} parameters")
        finally:
            free(sizes)
            free(acts)

    def __dealloc__(self):
        _storage.workspace_destroy(&self.space)
        _storage.net_destroy(&self.net)
        _storage.release(self.scratch.memory)

    def set_parameters(self, flat):
        cdef Array parameters = Array(flat, "parameters", self.kind, (self.n_parameters,))
        self.turns.enter(True)
        with nogil:
            _storage.net_pack(&self.net, parameters.data)
        self.space.mirror_is_old = True
        self.turns.leave()

    def get_parameters(self, out):
        cdef Array parameters = Array(out, "out", self.kind, (self.n_parameters,), True)
        self.turns.enter(False)
        with nogil:
            _storage.net_unpack(&self.net, self.net.parameters, parameters.data)
        self.turns.leave()

    def is_finite(self):
        cdef bint finite
        self.turns.enter(False)
        with nogil:  # padding is zeros
            finite = self.net.kernels.is_finite(self.net.packed_bytes // self.net.kernels.size, self.net.parameters)
        self.turns.leave()
        return finite

    def predict(self, X, out, int n_threads=1):
        cdef Array x = Array(X, "X", self.kind, (-1, self.n_in))
        cdef Array result = Array(out, "out", self.kind, (x.view.shape[0], self.n_out), True)
        self._predict(x.data, x.view.shape[0], result.data, n_threads, False)

    def answer(self, X, out, threads):
        cdef Py_ssize_t n = plain_rows(X, self.type_number, self.n_in)
        cdef bint unchecked = True
        cdef char *x
        cdef scratch_t scratch
        if n <= 0:
            return None
        x = data_of(X)
        if out is None:
            out = new_matrix(n, self.n_out, self.type_number)
        elif plain_rows(out, self.type_number, self.n_out) != n or not is_target(out, X):
            return None
        else:  # which an error leaves as it was
            with nogil:
                unchecked = not self.net.kernels.is_finite(n * self.n_in, x)
            if unchecked:
                return None
        if self.flops * n >= AT_ONCE_PER_LANE * self.net.kernels.lanes:
            return out if self._predict(x, n, data_of(out), threads(self.flops * n), unchecked) else None
        # While this thread keeps the GIL no other one begins a pass.  One that is in a pass which changes something has a writer.
        if self.turns.writer is not None:
            return None
        scratch = self._borrow(_predictions.predict_bytes(&self.net, n, 1))
        finite = _predictions.predict(&self.net, x, n, data_of(out), 1, unchecked, scratch.memory)
        self._give_back(scratch)
        return out if finite else None

    cdef scratch_t _borrow(self, size_t bytes) except *:
        """What was given back last, if that is large enough: memory that is new costs a page fault every 4 KiB."""
        cdef scratch_t scratch = self.scratch
        self.scratch = scratch_t(NULL, 0)
        if scratch.bytes < bytes:
            _storage.release(scratch.memory)
            scratch = scratch_t(_storage.allocate(bytes), bytes)
            if not scratch.memory:
                raise MemoryError("no memory for the activations of a tile of rows")
        return scratch

    cdef void _give_back(self, scratch_t scratch) noexcept:
        if scratch.bytes < self.scratch.bytes:
            self.scratch, scratch = scratch, self.scratch
        _storage.release(self.scratch.memory)
        self.scratch = scratch

    cdef bint _predict(self, const char *x, size_t n, char *out, int n_threads, bint check) except -1:
        """`_passes.predict` in slices, with all threads or with one."""
        cdef size_t size = self.net.kernels.size, row = 0, count, threads = abs(n_threads)
        cdef double flops = SEGMENT_FLOPS_PER_LANE * self.net.kernels.lanes * threads, seconds
        cdef size_t step = max(threads, <size_t>(flops / self.flops))
        cdef bint parallel = threads > 1, finite = True
        cdef choice_t *choice
        cdef scratch_t scratch = scratch_t(NULL, 0)
        self.turns.enter(False)
        try:
            scratch = self._borrow(_predictions.predict_bytes(&self.net, n, threads))
            while finite and row < n:
                count = min(step, n - row)
                choice = &self.predictions[min(PREDICTION_SIZES - 1, <int>log2(<double>count))]
                if n_threads < -1:
                    parallel = in_parallel(choice)
                started = perf_counter()
                with nogil:
                    finite = _predictions.predict(&self.net, x + row * self.n_in * size, count, out + row * self.n_out * size,
                                             threads if parallel else 1, check, scratch.memory)
                seconds = perf_counter() - started
                if n_threads < -1:
                    learn(choice, parallel, count, seconds)
                row += count
                if row < n:
                    PyErr_CheckSignals()
                    if seconds < SLICE / 2:
                        step *= 2
        finally:
            self._give_back(scratch)
            self.turns.leave()
        return finite

    def forward(self, X, int n_threads=1):
        cdef Array x = Array(X, "X", self.kind, (-1, self.n_in)), view
        cdef size_t n = x.view.shape[0], row = 0, count, threads = abs(n_threads)
        cdef size_t step = max(threads, <size_t>(SEGMENT_FLOPS_PER_LANE * self.net.kernels.lanes * threads / self.flops))
        cdef int depth = self.net.depth
        cdef char **pointers = <char **>calloc(2 * depth, sizeof(char *))
        cdef bint done
        cdef list views = []
        if not pointers:
            raise MemoryError
        self.turns.enter(False)
        try:
            result = [[], []]
            for i in range(2 * depth):
                array = np.empty((n, self.net.layers[i % depth].n_out), self.dtype)
                view = Array(array, "Z", self.kind, (-1, -1), True)
                views.append(view)
                pointers[i] = view.data
                result[i // depth].append(array)
            while row < n:
                count = min(step, n - row)
                with nogil:
                    done = _predictions.forward(&self.net, x.data, row, row + count, pointers, pointers + depth, threads)
                if not done:
                    raise MemoryError("no memory for the activations of a tile of rows")
                row += count
                PyErr_CheckSignals()
            return result[0], result[1]
        finally:
            self.turns.leave()
            free(pointers)

    cdef int _prepare(self, run_t *run, Array x, Target target, size_t batch, size_t n_threads, bint mirrored) except -1:
        """Fill in what both kinds of run share, and see that the workspace fits."""
        memset(run, 0, sizeof(run_t))
        # A gradient alone of as many rows as a minibatch had is another kind of run.
        if batch != self.batch or n_threads != self.n_threads or mirrored != self.space.mirrored:
            self.batch, self.n_threads = batch, n_threads
            self.training = choice_t((0, 0), 0, 0, SOON, 0, 0, 0)
            self.slice_segments[0] = self.slice_segments[1] = 2
            _storage.workspace_destroy(&self.space)
        if not self.space.arena and not _passes.prepare_workspace(&self.space, &self.net, batch, n_threads, mirrored):
            raise MemoryError(f"no memory for the activations of a batch of {batch} rows")
        run.net, run.space, run.X, run.n, run.batch = &self.net, &self.space, x.data, x.view.shape[0], batch
        run.target = target.target
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
            self.training.pace[0] *= change
            self.training.pace[1] *= change
        self.segment_seconds = 0
        pieces = self.flops * run.batch / run.space.parts / run.space.n_slots / self.segment_flops
        run.forward_segments, run.update_segments = 1 + <size_t>(2 * pieces), 1 + <size_t>pieces

    cdef int _run(self, run_t *run, bint flexible) except -1:
        """All segments of a run, in slices of about SLICE seconds with a look at signals after each."""
        cdef size_t done = 0, total = _passes.segments(run), count
        cdef bint parallel = self.n_threads > 1
        cdef double seconds
        while done < total and not run.failed:
            if flexible and self.n_threads > 1:
                parallel = in_parallel(&self.training)
            count = min(self.slice_segments[parallel], total - done)
            if flexible and is_trial(&self.training, parallel):
                count = min(count, max(<size_t>(1e-6 * TRIAL_MICROSECONDS / self.training.pace[not parallel]), <size_t>1))
            started = perf_counter()
            with nogil:
                _passes.run_segments(run, done, done + count, parallel)
            seconds = perf_counter() - started
            if run.forward_segments > 1:
                self.segment_seconds = seconds / count
            learn(&self.training, parallel, count, seconds)
            if seconds < SLICE / 2 and count == self.slice_segments[parallel]:
                self.slice_segments[parallel] *= 2
            elif seconds > SLICE and self.slice_segments[parallel] > 1:
                self.slice_segments[parallel] //= 2
            done += count
            PyErr_CheckSignals()
        return 0

    def clip_loss(self, double clip):
        self.turns.enter(True)
        self.loss_clip = clip
        self.turns.leave()

    def gradients(self, X, y, sample_weight, out, int n_threads=1):
        cdef Array x = Array(X, "X", self.kind, (-1, self.n_in))
        cdef size_t n = x.view.shape[0]
        cdef Target target = Target(self.loss[0], self.loss[1], self.loss_clip, self.kind, y, sample_weight, n, self.n_out)
        cdef Array gradient = Array(out, "out", self.kind, (self.n_parameters,), True)
        cdef double loss = 0, weight = target.weight_sum(NULL, 0, n, self.kind == "d"), scale
        cdef run_t run
        scale = 1 / weight if weight > 0 else 0
        self.turns.enter(True)
        try:
            self._prepare(&run, x, target, max(n, <size_t>1), abs(n_threads), False)
            run.scale, run.loss = &scale, &loss
            run.gradient = _storage.packed_vector(&self.net)
            if not run.gradient:
                raise MemoryError(f"no memory for a gradient of {self.n_parameters} parameters")
            run.n_steps = 1
            self._run(&run, n_threads < 0)
            with nogil:
                _storage.net_unpack(&self.net, run.gradient, gradient.data)
        finally:
            _storage.release(run.gradient)
            # The workspace of a whole data set is no use to the next call.
            _storage.workspace_destroy(&self.space)
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

    cdef int _take_rule(self, rule) except -1:
        """Allocate the moments that a rule needs, and see that it is the rule they belong to."""
        needed_moments = moments_of(rule)
        if self.rule_name is not None and self.rule_name != rule["name"]:
            raise ValueError(f"rule must stay {self.rule_name!r} until reset_optimizer(); got {rule['name']!r}")
        for i, needed in enumerate(needed_moments):
            if needed and not self.net.moments[i]:
                self.net.moments[i] = _storage.packed_vector(&self.net)
                self.space.mirror_is_old = True
                if not self.net.moments[i]:
                    raise MemoryError(f"no memory for the moments of {self.n_parameters} parameters")
        self.rule_name = rule["name"]
        return 0

    def train_epoch(self, X, y, sample_weight, order, Py_ssize_t batch_size, rule, int n_threads=1, losses=None):
        cdef Array x = Array(X, "X", self.kind, (-1, self.n_in))
        cdef size_t n = x.view.shape[0], batch, first, steps, n_steps, step
        cdef Target target = Target(self.loss[0], self.loss[1], self.loss_clip, self.kind, y, sample_weight, n, self.n_out)
        cdef Array rows = None, table = None
        cdef run_t run
        cdef double total = 0, weight_sum = 0, penalty
        cdef bint cut = self.segment_flops > 0, failed
        cdef cymlp_step *rules = NULL
        cdef double *numbers = NULL
        cdef double *weights
        cdef double *scale
        cdef double *written = NULL
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
            written = <double *>table.data
        if n == 0:
            return 0.0, -1
        self.turns.enter(True)
        try:
            self._take_rule(rule)
            self._prepare(&run, x, target, batch, abs(n_threads), _mirrored.is_mirrored(&self.net, batch))
            run.n, run.order = n, <const int64_t *>rows.data if rows is not None else NULL
            rules = <cymlp_step *>calloc(min(n_steps, STEPS_AHEAD), sizeof(cymlp_step))
            numbers = <double *>calloc(4 * min(n_steps, STEPS_AHEAD), sizeof(double))
            if not rules or not numbers:
                raise MemoryError
            steps = min(n_steps, STEPS_AHEAD)
            weights, scale = numbers, numbers + steps
            run.steps, run.scale, run.loss, run.squares = rules, scale, numbers + 2 * steps, numbers + 3 * steps
            first = 0
            while first < n_steps:
                steps = min(n_steps - first, STEPS_AHEAD)
                if run.forward_segments > 1:
                    steps = min(steps, STEPS_BETWEEN_CUTS if cut else 1)
                    self._cut(&run)
                    cut = True
                run.first_step, run.n_steps = first, steps
                for step in range(steps):
                    weights[step] = target.weight_sum(run.order, (first + step) * batch, min((first + step + 1) * batch, n),
                                                      self.kind == "d")
                    scale[step] = 1 / weights[step] if weights[step] > 0 else 0
                fill_steps(rule, self.steps_done, steps, scale, rules)
                self._run(&run, n_threads < 0)
                for step in range(steps):
                    failed = not isfinite(run.loss[step])
                    if failed and rules[step].l2 != 0:  # there was no update, which would have summed them up
                        run.squares[step] = _storage.sum_of_squares(&self.net)
                    penalty = rules[step].l2 / 2 * run.squares[step] if rules[step].l2 != 0 else 0
                    if written:
                        written[2 * (first + step)] = run.loss[step] * scale[step]
                        written[2 * (first + step) + 1] = penalty
                    if failed:
                        self.steps_done += step
                        return run.loss[step], first + step
                    total += run.loss[step] + weights[step] * penalty
                    weight_sum += weights[step]
                self.steps_done += steps
                first += steps
        finally:
            free(rules)
            free(numbers)
            self.turns.leave()
        return total / weight_sum if weight_sum > 0 else 0.0, -1
