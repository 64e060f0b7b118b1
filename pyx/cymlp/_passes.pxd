# What _passes offers to _engine: networks in packed form, and the passes over them.  All sizes count reals unless a name says bytes.
from libc.stdint cimport int64_t
from cymlp.kernels cimport cymlp_act, cymlp_kernels, cymlp_step, cymlp_target

# A layer's place in every packed vector of parameters (weights, gradients, moments alike), in bytes.
cdef struct layer_t:
    size_t n_in, n_out, padded  # padded: n_out in whole vectors
    cymlp_act act
    size_t weights, biases      # offsets into a packed vector
    size_t transposed           # offset into net_t.transposed; the first layer has none

cdef struct net_t:
    const cymlp_kernels *kernels
    int depth
    layer_t *layers             # (depth,)
    size_t packed_bytes         # of one packed vector
    size_t transposed_bytes
    char *parameters
    char *transposed            # packed W^T of every layer but the first
    char *moments[2]            # of the optimiser; NULL until it needs them

# A block of weights, with one owner through the second phase of all steps: rows k0 .. k0+count-1 of the panel of `width` columns at n0.
cdef struct task_t:
    int layer
    size_t k0, count, n0, width

# Everything that one training run needs beside the network, allocated once.
cdef struct workspace_t:
    char *arena                 # holds all that follows
    size_t rows                 # of the largest minibatch
    int n_slots                 # shares that the work is cut into, one for each thread
    char **outputs              # (depth,) A of each hidden layer, whole minibatch
    char **slopes               # (depth,) phi'(z) where it has to be stored, else NULL
    char **gradients            # (depth,) dZ of each layer
    size_t *ld                  # (depth,) leading dimension of all three
    char *gathered              # rows of X in the order of the minibatch
    size_t gathered_ld
    double *row_loss            # (rows,)
    char *scratch               # scratch_bytes for each slot
    size_t scratch_bytes
    task_t *tasks
    size_t *first_task          # (n_slots + 1,) each slot's share of them

# One call's worth of steps, cut into segments of bounded length so that signals can be looked at in between: each step is
# `forward_segments` segments of its first phase and then `update_segments` of its second.
cdef struct run_t:
    net_t *net
    workspace_t *space
    const char *X
    size_t n                    # rows of the epoch
    size_t batch
    const int64_t *order        # (n,) or NULL
    cymlp_target target
    size_t first_step           # the step of the epoch that entry 0 of the next three belongs to
    const cymlp_step *steps     # NULL: write gradients into `gradient` and update nothing
    const double *scale         # 1 / sum of the minibatch's weights
    double *loss                # sum of weight * loss over the minibatch
    char *gradient              # packed vector
    size_t forward_segments, update_segments
    bint failed                 # a minibatch had a loss that is not finite: nothing happens any more

cdef bint net_create(net_t *net, int isa, bint is_double, int depth, const int64_t *sizes, const cymlp_act *acts) noexcept
cdef void net_destroy(net_t *net) noexcept
cdef char *packed_vector(const net_t *net) noexcept
cdef void release(void *memory) noexcept nogil
cdef void net_pack(net_t *net, const char *flat) noexcept nogil
cdef void net_unpack(const net_t *net, const char *packed, char *flat) noexcept nogil

cdef bint workspace_create(workspace_t *space, const net_t *net, size_t rows, int n_slots) noexcept
cdef void workspace_destroy(workspace_t *space) noexcept

cdef bint predict(const net_t *net, const char *X, size_t n, char *out, int n_threads) noexcept nogil
cdef bint forward(const net_t *net, const char *X, size_t n, char **Z, char **A, int n_threads) noexcept nogil
cdef void run_segments(run_t *run, size_t first, size_t last, bint in_parallel) noexcept nogil
cdef size_t segments(const run_t *run, size_t n_steps) noexcept nogil

# The C functions of these names without the prefix, for modules that are not linked with the kernels.
cdef int best_isa() noexcept
cdef const cymlp_kernels *get_kernels(int isa, bint is_double) noexcept
cdef unsigned long flush_enter() noexcept nogil
cdef void flush_leave(unsigned long state) noexcept nogil

cdef size_t tile_rows() noexcept
cdef int max_threads() noexcept
cdef int openmp_version() noexcept
