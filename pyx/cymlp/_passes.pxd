# The passes of training, for _engine.
from cymlp._tiles cimport run_t

cdef void run_segments(run_t *run, size_t first, size_t last, bint in_parallel) noexcept nogil
cdef size_t segments(const run_t *run) noexcept nogil
cdef double work(const run_t *run, size_t count) noexcept nogil

cdef int team(int wanted) noexcept nogil
cdef int current_cpu() noexcept nogil
cdef void leave_cpu(int cpu) noexcept nogil
cdef int max_threads() noexcept
cdef int openmp_version() noexcept
