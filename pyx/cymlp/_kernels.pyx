"""The kernels one by one, for verification: ``engine.py`` describes each function, ``reference.py`` has it in NumPy."""
from libc.stdint cimport uint32_t, uint64_t

import numpy as np

from cymlp cimport _storage
from cymlp._boundary cimport Array, Target, activation_of, current_isa, check_pair, kind_of_array
from cymlp._rules cimport Rule
from cymlp.kernels cimport *


cdef const cymlp_kernels *kernels_of(str kind) noexcept:
    return _storage.get_kernels(current_isa(), kind == "d")


cdef class Tile:
    """A copy of a matrix as kernels take it: padded columns, the padding zero."""

    cdef object array
    cdef Array memory
    cdef char *data
    cdef size_t rows, n, ld

    def __cinit__(self, matrix, str name, str kind, tuple shape=(-1, -1)):
        cdef size_t lanes = kernels_of(kind).lanes
        Array(matrix, name, kind, shape)
        self.rows, self.n = matrix.shape
        self.ld = (self.n + lanes - 1) // lanes * lanes
        self.array = np.zeros((self.rows, self.ld), matrix.dtype)
        self.array[:, : self.n] = matrix
        self.memory = Array(self.array, name, kind, (-1, -1), True)
        self.data = self.memory.data

    cdef result(self):
        return np.ascontiguousarray(self.array[:, : self.n])


cdef Tile vector_tile(vector, str name, str kind, Py_ssize_t n=-1):
    """A copy of a vector, as a tile of one row."""
    Array(vector, name, kind, (n,))
    return Tile(np.reshape(vector, (1, -1)), name, kind)


cdef Tile packed_tile(W, str kind):
    """Packed W (n_in, n_out), as one row."""
    cdef const cymlp_kernels *kernels = kernels_of(kind)
    cdef Array w = Array(W, "W", kind, (-1, -1))
    n_in, n_out = W.shape
    cdef Tile packed = Tile(np.zeros((1, n_in * (-(-n_out // kernels.lanes) * kernels.lanes)), W.dtype), "W", kind)
    kernels.pack(n_in, n_out, w.data, packed.data)
    return packed


cdef double limit_of(str name, value) except -1:
    """A number above 0, or infinity."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number; got {type(value).__name__}")
    if not value > 0:
        raise ValueError(f"{name} must be greater than 0; got {value}")
    return value


cdef uint64_t count_of(str name, value, least, bits) except? 0:
    """An integer of at most so many bits."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer; got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}; got {value}")
    if value >= 2**bits:
        raise ValueError(f"{name} must be less than 2**{bits}; got {value}")
    return value


def activate(name, Z, double slope=0.01):
    cdef str kind = kind_of_array(Z, "Z")
    cdef cymlp_act act = activation_of(name, slope, "name")
    cdef Tile z = Tile(Z, "Z", kind)
    cdef unsigned long flush = _storage.flush_enter()
    kernels_of(kind).activate(&act, z.rows, z.n, z.data, z.ld, NULL)
    _storage.flush_leave(flush)
    return z.result()


def activation_gradient(name, Z, double slope=0.01):
    cdef str kind = kind_of_array(Z, "Z")
    cdef const cymlp_kernels *kernels = kernels_of(kind)
    cdef cymlp_act act = activation_of(name, slope, "name")
    cdef Tile a = Tile(Z, "Z", kind), slopes = Tile(Z, "Z", kind), d = Tile(np.ones_like(Z), "Z", kind)
    cdef char *stored = slopes.data if cymlp_needs_slope(act.kind) else NULL
    cdef unsigned long flush
    if act.kind == CYMLP_SOFTMAX:
        raise ValueError("activation_gradient is for elementwise activations; got 'softmax'")
    flush = _storage.flush_enter()
    kernels.activate(&act, a.rows, a.n, a.data, a.ld, stored)
    kernels.activation_backward(&act, a.rows, a.n, a.data, stored, a.ld, d.data, d.ld)
    _storage.flush_leave(flush)
    return d.result()


def dense_forward(A, W, b):
    cdef str kind = kind_of_array(W, "W")
    cdef Tile w = packed_tile(W, kind), bias = vector_tile(b, "b", kind, W.shape[1])
    cdef Array a = Array(A, "A", kind, (-1, W.shape[0]))
    cdef Tile z = Tile(np.empty((A.shape[0], W.shape[1]), W.dtype), "Z", kind)
    cdef cymlp_act linear = activation_of("identity", 0)
    cdef unsigned long flush = _storage.flush_enter()
    kernels_of(kind).dense_forward(z.rows, W.shape[0], z.n, a.data, W.shape[0], NULL, w.data, bias.data, &linear, z.data, z.ld,
                                   NULL, NULL)
    _storage.flush_leave(flush)
    return z.result()


def dense_backward(A, W, dZ):
    cdef str kind = kind_of_array(W, "W")
    cdef const cymlp_kernels *kernels = kernels_of(kind)
    cdef size_t n_in = W.shape[0], n_out = W.shape[1], n
    cdef Tile w = packed_tile(W, kind)
    cdef Tile a = Tile(A, "A", kind, (-1, n_in)), dz = Tile(dZ, "dZ", kind, (A.shape[0], n_out))
    cdef Tile da = Tile(np.empty_like(A), "A", kind), db = Tile(np.empty((1, n_out), W.dtype), "b", kind)
    cdef Tile dw = Tile(np.empty((1, n_in * dz.ld), W.dtype), "W", kind)
    cdef Tile transposed = Tile(np.zeros((1, n_out * a.ld), W.dtype), "W", kind)
    dW = np.empty_like(W)
    cdef Array result = Array(dW, "W", kind, (-1, -1), True)
    cdef cymlp_act linear = activation_of("identity", 0)
    cdef unsigned long flush = _storage.flush_enter()
    for n in range(0, n_out, kernels.panel):
        kernels.repack_transposed(n_in, n_out, 0, n_in, n, w.data, transposed.data)
    kernels.weight_gradient(a.rows, n_in, n_out, a.data, a.ld, NULL, 0, dz.data, dz.ld, dw.data, n_in * kernels.panel,
                            False, NULL)
    kernels.dense_backward(a.rows, n_in, n_out, dz.data, dz.ld, transposed.data, &linear, a.data, NULL, a.ld, da.data, da.ld,
                           NULL)
    kernels.bias_gradient(dz.rows, dz.ld, dz.data, dz.ld, db.data, False)
    kernels.unpack(n_in, n_out, dw.data, result.data)
    _storage.flush_leave(flush)
    return da.result(), dW, db.result()[0]


def loss_and_gradient(loss, activation, Z, y, sample_weight=None, double delta=1.0, double slope=0.01, double clip=0.0):
    check_pair(loss, activation)
    cdef str kind = kind_of_array(Z, "Z")
    cdef Tile z = Tile(Z, "Z", kind), work = Tile(np.zeros((2, Z.shape[1]), Z.dtype), "Z", kind)
    cdef Target target = Target(loss, delta, clip, kind, y, sample_weight, z.rows, z.n)
    cdef cymlp_act act = activation_of(activation, slope)
    cdef double total = target.weigh(NULL, 0, z.rows, False, kind == "d").sum, scale = 1 / total if total > 0 else 0
    cdef double[::1] row_loss = np.zeros(z.rows + 1)
    cdef unsigned long flush = _storage.flush_enter()
    kernels_of(kind).loss_and_gradient(&target.target, &act, z.rows, z.n, NULL, scale, z.data, z.ld, &row_loss[0], work.data)
    _storage.flush_leave(flush)
    return float(np.sum(row_loss)) * scale, z.result()


def update(rule, Py_ssize_t step, w, g, state):
    cdef str kind = kind_of_array(w, "w")
    cdef Tile parameters = vector_tile(w, "w", kind), gradient = vector_tile(g, "g", kind, w.size)
    cdef Tile m = vector_tile(state[0], "state", kind, w.size), v = vector_tile(state[1], "state", kind, w.size)
    cdef cymlp_step constants
    cdef unsigned long flush
    cdef Rule numbers = Rule(rule, 1, 1)
    if step < 1:
        raise ValueError(f"step must be at least 1; got {step}")
    numbers.fill(step - 1, 0, 1, NULL, &constants)
    flush = _storage.flush_enter()
    kernels_of(kind).update(&constants, parameters.ld, parameters.data, gradient.data, NULL, m.data, v.data)
    _storage.flush_leave(flush)
    w[:], state[0][:], state[1][:] = parameters.result()[0], m.result()[0], v.result()[0]


def sum_of_squares(w):
    cdef str kind = kind_of_array(w, "w")
    cdef Tile parameters = vector_tile(w, "w", kind)
    return kernels_of(kind).sum_of_squares(parameters.ld, parameters.data)


def sum_of_magnitudes(w):
    cdef str kind = kind_of_array(w, "w")
    cdef Tile parameters = vector_tile(w, "w", kind)
    return kernels_of(kind).sum_of_magnitudes(parameters.ld, parameters.data)


def clip(g, limit):
    cdef str kind = kind_of_array(g, "g")
    cdef Tile gradient = vector_tile(g, "g", kind)
    kernels_of(kind).clip(gradient.ld, limit_of("limit", limit), gradient.data)
    return gradient.result()[0]


def limit_columns(W, limit):
    cdef str kind = kind_of_array(W, "W")
    cdef const cymlp_kernels *kernels = kernels_of(kind)
    cdef Tile packed = packed_tile(W, kind)
    cdef size_t n_in = W.shape[0], n_out = W.shape[1], n, width
    result = np.empty_like(W)
    cdef Array out = Array(result, "W", kind, (-1, -1), True)
    cdef double most = limit_of("limit", limit)
    cdef unsigned long flush = _storage.flush_enter()
    for n in range(0, n_out, kernels.panel):
        width = min(kernels.panel, (n_out - n + kernels.lanes - 1) // kernels.lanes * kernels.lanes)
        kernels.limit_columns(n_in, width, most, packed.data + n * n_in * kernels.size)
    kernels.unpack(n_in, n_out, packed.data, out.data)
    _storage.flush_leave(flush)
    return result


def dropout(A, rate, seed, step, layer, first_row=0):
    cdef str kind = kind_of_array(A, "A")
    cdef Tile a = Tile(A, "A", kind)
    cdef cymlp_mask mask
    cdef size_t first = count_of("first_row", first_row, 0, 32)
    cdef unsigned long flush
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.integer, np.floating)):
        raise TypeError(f"rate must be a number; got {type(rate).__name__}")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be in [0, 1]; got {rate}")
    mask.seed, mask.rate = count_of("seed", seed, 0, 64), rate
    mask.step, mask.layer = <uint32_t>count_of("step", step, 1, 64), <uint32_t>count_of("layer", layer, 0, 32)
    flush = _storage.flush_enter()
    kernels_of(kind).dropout(&mask, first, a.rows, a.n, a.data, a.ld, NULL)
    _storage.flush_leave(flush)
    return a.result()


# ---- Normalisation ----

# Passes take the moments of as many rows at a time, and join them.
cdef size_t CHUNK = 32


cdef Tile zeros(size_t n, dtype, str kind):
    """A vector, as a tile of one row."""
    return Tile(np.zeros((1, n), dtype), "Z", kind)


cdef class Statistics:
    """Those of the columns of a matrix, once they are taken."""

    cdef Tile z, weights, mean, squares, inverse, chunk_mean, chunk_squares
    cdef double[::1] chunk_weights
    cdef double total

    def __cinit__(self, Tile z, sample_weight, str kind):
        dtype = z.array.dtype
        self.z = z
        self.weights = None if sample_weight is None else vector_tile(sample_weight, "sample_weight", kind, z.rows)
        weights = np.ones(z.rows) if sample_weight is None else sample_weight
        sums = [weights[row : row + CHUNK].sum(dtype=np.float64) for row in range(0, z.rows, CHUNK)]
        self.chunk_weights = np.array([*sums, 0.0])  # never empty
        self.mean, self.squares, self.inverse = [zeros(z.n, dtype, kind) for _ in range(3)]
        self.chunk_mean, self.chunk_squares = zeros(z.n, dtype, kind), zeros(z.n, dtype, kind)

    cdef char *weights_from(self, size_t row, size_t size) noexcept:
        return NULL if self.weights is None else self.weights.data + row * size

    cdef void take(self, const cymlp_kernels *kernels, double epsilon) noexcept:
        cdef Tile z = self.z
        cdef size_t row
        cdef double more
        for row in range(0, z.rows, CHUNK):
            more = self.chunk_weights[row // CHUNK]
            kernels.moments(min(CHUNK, z.rows - row), z.n, z.data + row * z.ld * kernels.size, z.ld,
                            self.weights_from(row, kernels.size), self.chunk_mean.data, self.chunk_squares.data)
            kernels.join_moments(self.total, more, z.n, self.mean.data, self.squares.data, self.chunk_mean.data,
                                 self.chunk_squares.data)
            self.total += more
        kernels.add(self.squares.ld, self.squares.data, self.inverse.data, self.inverse.data)
        kernels.settle_moments(z.n, self.total, 1, epsilon, 0, self.mean.data, self.inverse.data, NULL, NULL)


def batch_norm(Z, scale, shift, sample_weight=None, epsilon=1e-5):
    cdef str kind = kind_of_array(Z, "Z")
    cdef const cymlp_kernels *kernels = kernels_of(kind)
    cdef Tile z = Tile(Z, "Z", kind), y = Tile(Z, "Z", kind)
    cdef Tile factor = vector_tile(scale, "scale", kind, z.n), start = vector_tile(shift, "shift", kind, z.n)
    cdef Statistics found = Statistics(z, sample_weight, kind)
    cdef double least = limit_of("epsilon", epsilon)
    cdef unsigned long flush = _storage.flush_enter()
    found.take(kernels, least)
    kernels.normalize(z.rows, z.n, z.data, z.ld, found.mean.data, found.inverse.data, factor.data, start.data, y.data, y.ld)
    _storage.flush_leave(flush)
    return y.result(), found.mean.result()[0], found.squares.result()[0] / Z.dtype.type(found.total)


def batch_norm_backward(dY, Z, scale, sample_weight=None, epsilon=1e-5):
    cdef str kind = kind_of_array(Z, "Z")
    cdef const cymlp_kernels *kernels = kernels_of(kind)
    cdef Tile z = Tile(Z, "Z", kind), y = Tile(Z, "Z", kind), dy = Tile(dY, "dY", kind, Z.shape)
    cdef Tile factor = vector_tile(scale, "scale", kind, z.n), start = zeros(z.n, Z.dtype, kind)
    cdef Tile sums = zeros(z.n, Z.dtype, kind), products = zeros(z.n, Z.dtype, kind)
    cdef Tile more = zeros(z.n, Z.dtype, kind), more_products = zeros(z.n, Z.dtype, kind)
    cdef Statistics found = Statistics(z, sample_weight, kind)
    cdef double least = limit_of("epsilon", epsilon)
    cdef size_t row
    cdef unsigned long flush = _storage.flush_enter()
    found.take(kernels, least)
    kernels.normalize(z.rows, z.n, z.data, z.ld, found.mean.data, found.inverse.data, factor.data, start.data, y.data, y.ld)
    for row in range(0, z.rows, CHUNK):
        kernels.normalized_sums(min(CHUNK, z.rows - row), z.n, dy.data + row * dy.ld * kernels.size, dy.ld,
                                z.data + row * z.ld * kernels.size, z.ld, more.data, more_products.data)
        kernels.add(sums.ld, sums.data, more.data, sums.data)
        kernels.add(sums.ld, products.data, more_products.data, products.data)
    kernels.multiply(factor.ld, factor.data, found.inverse.data, factor.data)
    kernels.normalize_backward(z.rows, z.n, dy.data, dy.ld, z.data, z.ld, found.weights_from(0, kernels.size), 1 / found.total,
                               factor.data, sums.data, products.data)
    _storage.flush_leave(flush)
    return dy.result(), products.result()[0], sums.result()[0]


def layer_norm(Z, scale, shift, epsilon=1e-5):
    cdef str kind = kind_of_array(Z, "Z")
    cdef Tile z = Tile(Z, "Z", kind), y = Tile(Z, "Z", kind), inverse = zeros(z.rows, Z.dtype, kind)
    cdef Tile factor = vector_tile(scale, "scale", kind, z.n), start = vector_tile(shift, "shift", kind, z.n)
    cdef double least = limit_of("epsilon", epsilon)
    cdef unsigned long flush = _storage.flush_enter()
    kernels_of(kind).layer_norm(z.rows, z.n, least, z.data, z.ld, factor.data, start.data, y.data, y.ld, inverse.data)
    _storage.flush_leave(flush)
    return y.result()


def layer_norm_backward(dY, Z, scale, epsilon=1e-5):
    cdef str kind = kind_of_array(Z, "Z")
    cdef const cymlp_kernels *kernels = kernels_of(kind)
    cdef Tile z = Tile(Z, "Z", kind), y = Tile(Z, "Z", kind), inverse = zeros(z.rows, Z.dtype, kind)
    cdef Tile factor = vector_tile(scale, "scale", kind, z.n), dy = Tile(dY, "dY", kind, Z.shape)
    cdef Tile sums = zeros(z.n, Z.dtype, kind), products = zeros(z.n, Z.dtype, kind)
    cdef double least = limit_of("epsilon", epsilon)
    cdef unsigned long flush = _storage.flush_enter()
    kernels.layer_norm(z.rows, z.n, least, z.data, z.ld, factor.data, sums.data, y.data, y.ld, inverse.data)
    kernels.normalized_sums(z.rows, z.n, dy.data, dy.ld, z.data, z.ld, sums.data, products.data)
    kernels.layer_norm_backward(z.rows, z.n, dy.data, dy.ld, z.data, z.ld, factor.data, inverse.data)
    _storage.flush_leave(flush)
    return dy.result(), products.result()[0], sums.result()[0]
