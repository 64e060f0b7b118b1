"""The kernels one by one, for verification: ``engine.py`` describes each function, ``reference.py`` has it in NumPy."""
import numpy as np

from cymlp cimport _storage
from cymlp._boundary cimport Array, Target, activation_of, current_isa, check_pair, fill_steps, kind_of_array, moments_of
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
    cdef double total = target.weight_sum(NULL, 0, z.rows, kind == "d"), scale = 1 / total if total > 0 else 0
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
    moments_of(rule)
    if step < 1:
        raise ValueError(f"step must be at least 1; got {step}")
    fill_steps(rule, step - 1, 1, NULL, &constants)
    flush = _storage.flush_enter()
    kernels_of(kind).update(&constants, parameters.ld, parameters.data, gradient.data, NULL, m.data, v.data)
    _storage.flush_leave(flush)
    w[:], state[0][:], state[1][:] = parameters.result()[0], m.result()[0], v.result()[0]


def sum_of_squares(w):
    cdef str kind = kind_of_array(w, "w")
    cdef Tile parameters = vector_tile(w, "w", kind)
    return kernels_of(kind).sum_of_squares(parameters.ld, parameters.data)
