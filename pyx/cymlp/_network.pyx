"""A network in the engine's own layout: its parameters and statistics, and the passes that change nothing.

``engine.py`` describes the interface; ``_engine.pyx`` adds training.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport log2
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free

from time import perf_counter

import numpy as np

from cymlp cimport _predictions, _storage
from cymlp._boundary cimport Array, activation_of, check_pair, current_isa, data_of, is_target, kind_of, new_matrix, norm_of
from cymlp._boundary cimport plain_rows, type_number
from cymlp._choice cimport *
from cymlp._storage cimport norm_t
from cymlp._turns cimport Turns
from cymlp.kernels cimport *

SEGMENT_FLOPS_PER_LANE = 1e8
SLICE = 0.02
# The work below which a prediction keeps the GIL, for each real of a vector: 4 microseconds of a thread with AVX-512 and float32,
# which is what asking for threads, letting others run and measuring would cost.
cdef double AT_ONCE_PER_LANE = 6e4


cdef class Layers:
    """What a network computes with the parameters that it has."""

    def __cinit__(self, layer_sizes, activations, loss, dtype, normalizations=None):
        cdef int depth = len(layer_sizes) - 1
        cdef int64_t *sizes
        cdef cymlp_act *acts
        cdef norm_t *norms
        self.kind = kind_of(dtype)
        self.type_number = type_number(self.kind)
        self.dtype = np.dtype(dtype)
        self.loss = loss
        self.turns = Turns()
        if depth < 1 or len(activations) != depth:
            raise ValueError(f"activations must have one entry for each of the {depth} layers; got {len(activations)}")
        if normalizations is None:
            normalizations = (None,) * depth
        if len(normalizations) != depth:
            raise ValueError(f"normalizations must have one entry for each of the {depth} layers; got {len(normalizations)}")
        if normalizations[depth - 1] is not None:
            raise ValueError(f"normalizations must end with None, for the output; got {normalizations[depth - 1]!r}")
        check_pair(loss[0], activations[depth - 1][0])
        if min(layer_sizes) < 1:
            raise ValueError(f"layer_sizes must be at least 1 each; got {min(layer_sizes)}")
        self.n_in, self.n_out = layer_sizes[0], layer_sizes[depth]
        sizes = <int64_t *>calloc(depth + 1, sizeof(int64_t))
        acts = <cymlp_act *>calloc(depth, sizeof(cymlp_act))
        norms = <norm_t *>calloc(depth, sizeof(norm_t))
        try:
            if not sizes or not acts or not norms:
                raise MemoryError
            for i in range(depth + 1):
                sizes[i] = layer_sizes[i]
            for i in range(depth):
                acts[i], norms[i] = activation_of(activations[i][0], activations[i][1]), norm_of(normalizations[i])
                self.flops += 2.0 * sizes[i] * sizes[i + 1]
                self.n_parameters += (sizes[i] + 1) * sizes[i + 1]
                if norms[i].kind != _storage.NO_NORM:
                    self.n_parameters += sizes[i + 1]
                if norms[i].kind == _storage.BATCH_NORM:
                    self.n_statistics += 2 * sizes[i + 1]
            if not _storage.net_create(&self.net, current_isa(), self.kind == "d", depth, sizes, acts, norms):
                raise MemoryError(f"no memory for a network of {self.n_parameters} parameters")
        finally:
            free(sizes)
            free(acts)
            free(norms)

    def __dealloc__(self):
        _storage.net_destroy(&self.net)
        _storage.release(self.scratch.memory)

    def set_parameters(self, flat, statistics=None):
        cdef Array parameters = Array(flat, "parameters", self.kind, (self.n_parameters,))
        cdef Array running = None if statistics is None else Array(statistics, "statistics", self.kind, (self.n_statistics,))
        cdef const char *vector = NULL if running is None else running.data
        self.turns.enter(True)
        with nogil:
            if vector != NULL:
                _storage.statistics_pack(&self.net, vector)
            _storage.net_pack(&self.net, parameters.data)
        self.space.mirror_is_old = True
        self.turns.leave()

    def get_parameters(self, out):
        cdef Array parameters = Array(out, "out", self.kind, (self.n_parameters,), True)
        self.turns.enter(False)
        with nogil:
            _storage.net_unpack(&self.net, self.net.parameters, parameters.data)
        self.turns.leave()

    def get_statistics(self, out):
        cdef Array statistics = Array(out, "out", self.kind, (self.n_statistics,), True)
        self.turns.enter(False)
        with nogil:
            _storage.statistics_unpack(&self.net, statistics.data)
        self.turns.leave()

    def set_statistics(self, flat):
        cdef Array statistics = Array(flat, "flat", self.kind, (self.n_statistics,))
        self.turns.enter(True)
        with nogil:
            _storage.statistics_pack(&self.net, statistics.data)
            _storage.net_fold(&self.net)
        self.turns.leave()

    def is_finite(self):
        cdef bint finite
        self.turns.enter(False)
        with nogil:  # padding is zeros
            finite = (self.net.kernels.is_finite(self.net.packed_bytes // self.net.kernels.size, self.net.parameters)
                      and self.net.kernels.is_finite(self.net.statistics_bytes // self.net.kernels.size, self.net.statistics))
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
