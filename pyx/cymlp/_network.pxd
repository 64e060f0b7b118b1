# A network with the passes that change nothing, for _engine.
from cymlp._choice cimport choice_t
from cymlp._storage cimport net_t, workspace_t
from cymlp._turns cimport Turns

cdef enum:
    # How many sizes of predictions, each twice the one before, have a choice of their own between one thread and all.
    PREDICTION_SIZES = 24

# The work that a segment is given at first, for each real of a vector: 1.6 GFLOP of a thread with AVX-512 and float32.
cdef double SEGMENT_FLOPS_PER_LANE
# Seconds between two looks at signals.
cdef double SLICE

cdef struct scratch_t:
    char *memory
    size_t bytes

cdef class Layers:
    cdef net_t net
    cdef workspace_t space          # of training; here only told that parameters have changed
    cdef str kind
    cdef object loss
    cdef readonly object dtype
    cdef Py_ssize_t n_parameters, n_statistics, n_in, n_out
    cdef double flops               # of one row, forward
    cdef Turns turns
    cdef choice_t[PREDICTION_SIZES] predictions     # of 2^i rows and more
    cdef int type_number
    cdef scratch_t scratch          # for predictions
    cdef scratch_t _borrow(self, size_t bytes) except *
    cdef void _give_back(self, scratch_t scratch) noexcept
    cdef bint _predict(self, const char *x, size_t n, char *out, int n_threads, bint check) except -1
