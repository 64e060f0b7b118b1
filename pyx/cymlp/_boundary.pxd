# What _boundary offers to the modules that meet Python.
from libc.stdint cimport int64_t
from cymlp._storage cimport norm_t, weight_t
from cymlp.kernels cimport cymlp_act, cymlp_target

cdef class Array:
    cdef Py_buffer view
    cdef bint held
    cdef char *data

cdef class Target:
    cdef cymlp_target target
    cdef Array y, weights
    cdef double weight_of(self, size_t row, bint is_double) noexcept nogil
    cdef weight_t weigh(self, const int64_t *order, size_t first, size_t last, bint closely, bint is_double) noexcept nogil

cdef int type_number(str kind) noexcept
cdef Py_ssize_t plain_rows(array, int type_number, Py_ssize_t columns) noexcept
cdef char *data_of(array) noexcept
cdef bint is_target(array, other) noexcept
cdef object new_matrix(Py_ssize_t rows, Py_ssize_t columns, int type_number)

cdef int current_isa() noexcept
cdef int check_range(str name, array, Py_ssize_t end) except -1
cdef str kind_of(dtype)
cdef str kind_of_array(array, str name)
cdef cymlp_act activation_of(name, slope, str argument=*) except *
cdef int check_pair(loss, activation) except -1
cdef norm_t norm_of(normalization) except *
cdef int check_name(str argument, name, names) except -1
