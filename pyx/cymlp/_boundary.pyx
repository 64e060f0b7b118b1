"""Where Python ends: the names of kernels' enums, the choice of an instruction set, and checks of arrays for shape and dtype."""
cimport cython
from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.math cimport INFINITY, log
from libc.stdint cimport int64_t
from libc.string cimport memset

import os

import numpy as np

cimport numpy as cnp

from cymlp cimport _passes, _storage
from cymlp.kernels cimport *

cnp.import_array()

# In the order of the enums in kernels.h.
ACTIVATIONS = ("identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "exp", "softmax")
LOSSES = ("squared_error", "absolute_error", "huber", "quantile", "poisson", "binary_cross_entropy", "categorical_cross_entropy")
ISAS = ("baseline", "avx2", "avx512")
NORMALIZATIONS = ("batch", "layer")

# The output activations a loss can be computed behind; every elementwise one where it is not listed.
OUTPUTS = {
    "poisson": ("sigmoid", "softplus", "exp"),
    "binary_cross_entropy": ("sigmoid",),
    "categorical_cross_entropy": ("softmax",),
}


# ---- Instruction sets and threads ----

def available_isas():
    """Names of the instruction sets this machine can run, the best one last."""
    return ISAS[: _storage.best_isa() + 1]


cdef int _isa = _storage.best_isa()


cdef int current_isa() noexcept:
    return _isa


def isa():
    """Name of the instruction set whose kernels new networks take."""
    return ISAS[_isa]


def use_isa(name):
    """Let new networks take the kernels of `name`; returns the name before.  Raises ValueError for what is not available."""
    global _isa
    if name not in available_isas():
        raise ValueError(f"isa must be one of {', '.join(available_isas())} on this machine; got {name!r}")
    before = ISAS[_isa]
    _isa = ISAS.index(name)
    return before


def blocking(dtype):
    """The sizes at which the kernels in use behave differently, for tests: lanes, panel, block (see kernels.h) and tile_rows."""
    cdef const cymlp_kernels *kernels = _storage.get_kernels(_isa, kind_of(dtype) == "d")
    return {"lanes": kernels.lanes, "panel": kernels.panel, "block": kernels.block_rows, "tile_rows": _storage.TILE_ROWS}


def max_threads():
    """What OpenMP would take now: OMP_NUM_THREADS, limits by threadpoolctl, and 1 inside a parallel region."""
    return _passes.max_threads()


def openmp_version():
    """The date of the OpenMP standard the compiler followed, such as 201511, or 0 without OpenMP."""
    return _passes.openmp_version()


def _cap_isa():
    cap = os.environ.get("CYMLP_ISA")
    if cap is None or cap == "":
        return
    if cap not in ISAS:
        raise ValueError(f"the environment variable CYMLP_ISA must be one of {', '.join(ISAS)}; got {cap!r}")
    use_isa(ISAS[min(ISAS.index(cap), _storage.best_isa())])


_cap_isa()


# ---- Arrays ----

@cython.final
cdef class Array:
    """A C-contiguous array's memory, held while this object lives, after a check of dtype ("f", "d" or "i") and shape (-1: any)."""

    def __cinit__(self, array, str name, str kind, tuple shape, bint writable=False):
        cdef str names = {"f": "float32", "d": "float64", "i": "int64"}[kind]
        try:
            PyObject_GetBuffer(array, &self.view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | (PyBUF_WRITABLE if writable else 0))
            self.held = True
        except (TypeError, ValueError, BufferError) as error:
            raise type(error)(f"{name} must be a C-contiguous{' writable' if writable else ''} {names} array; {error}") from None
        form = self.view.format.decode()
        if form not in {"f": ("f",), "d": ("d",), "i": ("l", "q")}[kind] or self.view.itemsize != (4 if kind == "f" else 8):
            raise TypeError(f"{name} must have dtype {names}; got {getattr(array, 'dtype', form)}")
        found = tuple([self.view.shape[i] for i in range(self.view.ndim)])
        if len(found) != len(shape) or not all([want in (-1, have) for want, have in zip(shape, found)]):
            wanted = ", ".join(["n" if want == -1 else str(want) for want in shape])
            raise ValueError(f"{name} must have shape ({wanted}{',' if len(shape) == 1 else ''}); got {found}")
        self.data = <char *>self.view.buf

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)


# A buffer as above takes a few hundred nanoseconds to get, half of what a small prediction may take.  What follows asks NumPy's
# own structures, of arrays that leave nothing to be checked or converted, and raises nothing.

cdef int type_number(str kind) noexcept:
    return cnp.NPY_FLOAT if kind == "f" else cnp.NPY_DOUBLE


cdef Py_ssize_t plain_rows(array, int type_number, Py_ssize_t columns) noexcept:
    """The rows of a numpy.ndarray (rows, columns), if that is just what kernels read: C-contiguous, aligned, native; else -1."""
    if not cnp.PyArray_CheckExact(array) or cnp.PyArray_NDIM(<cnp.ndarray>array) != 2:
        return -1
    if cnp.PyArray_TYPE(<cnp.ndarray>array) != type_number or not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>array):
        return -1
    return cnp.PyArray_DIM(<cnp.ndarray>array, 0) if cnp.PyArray_DIM(<cnp.ndarray>array, 1) == columns else -1


cdef char *data_of(array) noexcept:
    """Of an array with `plain_rows`."""
    return <char *>cnp.PyArray_DATA(<cnp.ndarray>array)


cdef bint is_target(array, other) noexcept:
    """Whether the first of two arrays with `plain_rows` can be written while the other is read."""
    cdef char *first = data_of(array)
    cdef char *second = data_of(other)
    if not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>array):
        return False
    return first + cnp.PyArray_NBYTES(<cnp.ndarray>array) <= second or second + cnp.PyArray_NBYTES(<cnp.ndarray>other) <= first


cdef object new_matrix(Py_ssize_t rows, Py_ssize_t columns, int type_number):
    """An array with anything in it."""
    cdef cnp.npy_intp[2] shape
    shape[0], shape[1] = rows, columns
    return cnp.PyArray_EMPTY(2, shape, type_number, 0)


cdef int check_range(str name, array, Py_ssize_t end) except -1:
    """Every element of an index array is in [0, end): memory is read by it."""
    if array.size and (array.min() < 0 or array.max() >= end):
        raise ValueError(f"{name} must be in [0, {end}); got values from {array.min()} to {array.max()}")
    return 0


cdef str kind_of(dtype):
    """The kind that `Array` takes, of a network's dtype."""
    dtype = np.dtype(dtype)
    if dtype == np.float32:
        return "f"
    if dtype == np.float64:
        return "d"
    raise TypeError(f"dtype must be float32 or float64; got {dtype}")


cdef str kind_of_array(array, str name):
    """The kind that `Array` takes, of an array whose type decides that of a whole call."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a numpy.ndarray; got {type(array).__name__}")
    if array.dtype != np.float32 and array.dtype != np.float64:
        raise TypeError(f"{name} must have dtype float32 or float64; got {array.dtype}")
    return "f" if array.dtype == np.float32 else "d"


cdef int check_name(str argument, name, names) except -1:
    if name not in names:
        raise ValueError(f"{argument} must be one of {', '.join(names)}; got {name!r}")
    return 0


cdef cymlp_act activation_of(name, slope, str argument="activation") except *:
    cdef cymlp_act act
    check_name(argument, name, ACTIVATIONS)
    act.kind, act.slope, act.gain = ACTIVATIONS.index(name), slope, 1
    return act


cdef norm_t norm_of(normalization) except *:
    """None, ("batch", epsilon, momentum) or ("layer", epsilon)."""
    cdef norm_t norm = norm_t(_storage.NO_NORM, 0, 0)
    if normalization is None:
        return norm
    name, *numbers = normalization
    check_name("normalization", name, NORMALIZATIONS)
    if len(numbers) != (2 if name == "batch" else 1):
        raise ValueError(f"normalization {name!r} must have {'epsilon, momentum' if name == 'batch' else 'epsilon'}; got {numbers}")
    norm.kind = _storage.BATCH_NORM if name == "batch" else _storage.LAYER_NORM
    norm.epsilon = numbers[0]
    if not norm.epsilon > 0:
        raise ValueError(f"epsilon must be greater than 0; got {norm.epsilon}")
    if name == "batch":
        norm.momentum = numbers[1]
        if not 0 <= norm.momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1]; got {norm.momentum}")
    return norm


cdef int check_pair(loss, activation) except -1:
    """Raise where a loss cannot be computed behind an output activation."""
    check_name("loss", loss, LOSSES)
    check_name("activation", activation, ACTIVATIONS)
    outputs = OUTPUTS.get(loss, ACTIVATIONS[: len(ACTIVATIONS) - 1])
    if activation not in outputs:
        raise ValueError(f"activation must be one of {', '.join(outputs)} with loss {loss!r}; got {activation!r}")
    return 0


@cython.final
cdef class Target:
    """What a minibatch is compared with, checked against the output layer."""

    def __cinit__(self, loss, double delta, double clip, str kind, y, sample_weight, Py_ssize_t n, Py_ssize_t n_out):
        memset(&self.target, 0, sizeof(cymlp_target))
        self.target.kind, self.target.delta = LOSSES.index(loss), delta
        self.target.clip, self.target.cap = clip, -log(clip) if clip > 0 else INFINITY
        if getattr(y, "ndim", 0) == 1 and loss == "categorical_cross_entropy":
            self.y = Array(y, "y", "i", (n,))
            check_range("y", y, n_out)
            self.target.labels = <const int64_t *>self.y.data
        else:
            self.y = Array(y, "y", kind, (n, n_out))
            self.target.targets = self.y.data
        if sample_weight is not None:
            self.weights = Array(sample_weight, "sample_weight", kind, (n,))
            self.target.weights = self.weights.data

    cdef double weight_of(self, size_t row, bint is_double) noexcept nogil:
        if not self.target.weights:
            return 1
        return (<const double *>self.target.weights)[row] if is_double else (<const float *>self.target.weights)[row]

    cdef weight_t weigh(self, const int64_t *order, size_t first, size_t last, bint closely, bint is_double) noexcept nogil:
        """The weights of rows order[first:last], or of rows first:last: their sum and, `closely`, what it takes of a variance."""
        cdef weight_t total = weight_t(last - first, 0)
        cdef double weight, products = 0  # of all pairs: (sum w)^2 - sum w^2 is twice that, and cancels
        cdef size_t i
        if not self.target.weights:
            total.unbiased = total.sum / (total.sum - 1) if last - first > 1 else 0
            return total
        total.sum = 0
        for i in range(first, last):
            weight = self.weight_of(order[i] if order else i, is_double)
            if closely:
                products += weight * total.sum
            total.sum += weight
        if products > 0:
            total.unbiased = total.sum / products * total.sum / 2
        return total
