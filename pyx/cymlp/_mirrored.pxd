# Mirrored runs of training steps, for _engine and _passes.
from cymlp._storage cimport net_t
from cymlp._tiles cimport run_t

cdef bint is_mirrored(const net_t *net, size_t batch) noexcept nogil
cdef void mirrored_segment(run_t *run, size_t segment, int slot, bint in_parallel) noexcept nogil
