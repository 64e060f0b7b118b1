# The passes of training, for _engine.
from libc.stdint cimport int64_t
from cymlp._storage cimport net_t, workspace_t
from cymlp.kernels cimport cymlp_step, cymlp_target

# One call's worth of steps, cut into segments of bounded length so that signals can be looked at in between: each step is
# `forward_segments` segments of its first phase and then `update_segments` of its second.  A mirrored step has no second phase.
cdef struct run_t:
    net_t *net
    workspace_t *space
    const char *X
    size_t n                    # rows of the epoch
    size_t batch
    const int64_t *order        # (n,) or NULL
    cymlp_target target
    size_t first_step, n_steps  # steps of the epoch: entry 0 of the next three belongs to the first
    const cymlp_step *steps     # NULL: write gradients into `gradient` and update nothing
    const double *scale         # 1 / sum of the minibatch's weights
    double *loss                # sum of weight * loss over the minibatch
    char *gradient              # packed vector
    size_t forward_segments, update_segments
    bint failed                 # a minibatch had a loss that is not finite: nothing happens any more

cdef void run_segments(run_t *run, size_t first, size_t last, bint in_parallel) noexcept nogil
cdef size_t segments(const run_t *run) noexcept nogil
cdef bint is_mirrored(const net_t *net, size_t batch) noexcept nogil
cdef bint prepare_workspace(workspace_t *space, const net_t *net, size_t batch, int n_threads, bint mirrored) noexcept nogil

cdef size_t tile_rows() noexcept
cdef int team(int wanted) noexcept nogil
cdef int current_cpu() noexcept nogil
cdef void leave_cpu(int cpu) noexcept nogil
cdef int max_threads() noexcept
cdef int openmp_version() noexcept
