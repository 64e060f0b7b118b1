# The phases of a training step after the first, for _passes.
from cymlp._tiles cimport run_t

cdef void update_phase(run_t *run, size_t step, size_t part, size_t phase, size_t segment, int slot) noexcept nogil
cdef void take_penalty(const run_t *run, size_t step) noexcept nogil
