# What a training step does, as Python says it, for _engine and _kernels.
from libc.stdint cimport uint64_t
from cymlp._boundary cimport Array
from cymlp._storage cimport plan_t
from cymlp._tiles cimport regime_t
from cymlp.kernels cimport cymlp_step

# A number that stays, or one for each minibatch of an epoch.
cdef struct number_t:
    double value
    const double *each

cdef class Rule:
    cdef readonly str name
    cdef readonly bint keeps_first, keeps_second    # moments
    cdef regime_t regime
    cdef int kind, depth
    cdef bint epsilon_hat
    cdef number_t rate, beta1, decay
    cdef double beta2, epsilon, alpha, l1, l2
    cdef size_t dropout_stride                      # from one minibatch's rates to the next one's
    cdef Array dropout
    cdef list held
    cdef number_t number(self, dict rule, str key, double default, Py_ssize_t n_steps) except *
    cdef int take_regime(self, dict rule, Py_ssize_t n_steps) except -1
    cdef int plan(self, plan_t *plan, bint with_norms) except -1
    cdef const double *rates(self, size_t first) noexcept
    cdef int fill(self, size_t done, size_t first, size_t count, const double *scale, cymlp_step *steps) except -1

cdef tuple check_state(state, str kind, Py_ssize_t n)
cdef tuple dropout_of(dropout, int depth, plan_t *plan)
