# The first phase of a training step, for _passes.
from cymlp._tiles cimport run_t

cdef size_t part_start(const run_t *run, size_t step, size_t part) noexcept nogil
cdef void first_phase(const run_t *run, size_t step, size_t part, size_t stage, size_t segment, int slot) noexcept nogil
