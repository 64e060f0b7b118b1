# Networks in packed form and workspaces, for _passes and _engine.  All sizes count reals unless a name says bytes.
from libc.stdint cimport int64_t
from cymlp.kernels cimport cymlp_act, cymlp_kernels, cymlp_step

cdef enum:
    CACHE_LINE = 64
    # Rows that one thread carries through all layers at a time.  A tile streams the weights through its core once: at 128 rows
    # that takes one byte a cycle at full speed, a tenth of what the last-level cache gives; more rows only push activations out
    # of the L2 cache.
    TILE_ROWS = 128
    # Blocks of weights end at multiples of so many rows, for any number of threads: all LANES divide it.  Squares are summed up by
    # pieces of as many rows of a panel.
    PIECE_ROWS = 16
    # Statistics of columns are taken by chunks of so many rows of a minibatch, whoever takes them, and joined in order.
    CHUNK_ROWS = 16

cdef enum:
    NO_NORM, BATCH_NORM, LAYER_NORM

# How a layer is normalised before its activation.
cdef struct norm_t:
    int kind
    double epsilon, momentum    # momentum: of running statistics, BATCH_NORM only

# A layer's place in every packed vector of parameters (weights, gradients, moments alike), in bytes.
cdef struct layer_t:
    size_t n_in, n_out, padded  # padded: n_out in whole vectors
    cymlp_act act
    norm_t norm
    size_t weights, biases      # offsets into a packed vector
    size_t scales               # the same, of a normalised layer, whose biases are shifts
    size_t statistics           # offset into net_t.statistics, of BATCH_NORM: running means, then variances
    size_t transposed           # offset into net_t.transposed; the first layer has none
    size_t pieces               # how many pieces of parameters come before its first: those of weights, then one for each panel's
    size_t vector_pieces        # biases from here on, then one for each panel's scales

cdef struct net_t:
    const cymlp_kernels *kernels
    int depth
    layer_t *layers             # (depth,)
    size_t packed_bytes         # of one packed vector
    size_t n_pieces             # of all parameters
    bint normalized             # any layer is
    int n_cuts                  # layers with BATCH_NORM, which cut a pass over the layers
    int *cuts                   # (n_cuts,) which these are
    size_t statistics_bytes
    size_t transposed_bytes
    char *parameters
    char *transposed            # packed W^T of every layer but the first
    char *moments[2]            # of the optimiser; NULL until it needs them
    char *statistics            # running means and variances
    char *prediction            # the parameters that predictions read: `parameters`, or a vector with BATCH_NORM folded in

# A block of weights, with one owner through the second phase of all steps: rows k0 .. k0+count-1 and `width` padded columns
# from n0 on.
cdef struct task_t:
    int layer
    size_t k0, count, n0, width

# What a minibatch weighs, for batch normalisation.
cdef struct weight_t:
    double sum
    double unbiased             # what a biased variance has to be multiplied by; 0 where it cannot be taken

# What a workspace has room for.
cdef struct plan_t:
    size_t batch                # rows of the largest minibatch
    size_t whole                # rows of a whole one, which may be more: sums are cut as its sums are, in a piece of an epoch, too
    int n_slots
    bint mirrored
    bint drops                  # units are dropped: their derivatives are stored
    bint drops_inputs           # inputs are dropped: what is left of them is stored
    bint gathers                # the gradient of a minibatch is complete before the optimiser's step with it

# Everything that one training run needs beside the network, allocated once.
cdef struct workspace_t:
    char *arena                 # holds all that follows
    plan_t plan
    size_t parts                # that a minibatch is cut into
    size_t rows                 # examples whose activations are kept: of a part, or of a tile for each slot
    int n_slots                 # shares that the work is cut into, one for each thread
    char **outputs              # (depth,) A of each hidden layer
    char **slopes               # (depth,) phi'(z) where it has to be stored, else NULL
    char **gradients            # (depth,) dZ of each layer
    size_t *ld                  # (depth,) leading dimension of all three
    const void **examples       # (rows,) the rows of X, in the order of the minibatch
    double *row_loss            # (rows * parts,)
    double *penalties           # (n_pieces,) of each piece of parameters
    double *squares             # (n_pieces,) the sum of the squares of each piece of the gradient, where it is gathered
    double *factors             # (n_slots, depth) what each slot multiplies the gradient of a layer by
    char *inputs                # (rows,) what dropout leaves of X, with leading dimension input_ld; or NULL
    size_t input_ld
    # Of normalised layers only: N, and for each chunk of rows sums of dY and of dY N.  Of BATCH_NORM: a chunk's means and centred
    # squares.  Of LAYER_NORM: 1 / standard deviation of each row.
    char **normalized           # (depth,) like outputs
    char **chunk_sums           # (depth, 2) each (chunks, padded)
    char **chunk_moments        # (depth, 2) the same
    char **row_inverse          # (depth,) each (rows,)
    char *row_weights           # (rows,) where examples have weights
    char *columns               # column_bytes for each slot: COLUMNS vectors for each layer with BATCH_NORM, at its `statistics`
    size_t column_bytes
    char *sums                  # packed gradient: parts add to it, or it is gathered there; or NULL
    char *scratch               # scratch_bytes for each slot
    size_t scratch_bytes
    char *arrivals              # a cache line for each slot, for barriers
    char *taken                 # a cache line for each slot: how many of its tasks are taken, [parity of the segment]
    task_t *tasks
    size_t *first_task          # (n_slots + 1,) each slot's share of them
    # Of a mirrored run (see _passes.pyx) only: there are two slots then, and no tasks.
    bint mirrored
    net_t mirror                # the network of the second slot: the same layers, parameters of its own
    bint mirror_is_old          # the network has changed since the mirror was like it
    char *partial[2][2]         # packed gradients and a loss behind each, [parity of the step][slot]
    char *whole[2]              # the sum of both halves' gradients for each slot, where it is gathered
    bint joined[2]              # [parity of the step] the first slot's has the sum of both

cdef inline bint is_same_plan(const plan_t *a, const plan_t *b) noexcept nogil:
    return (a.batch == b.batch and a.whole == b.whole and a.n_slots == b.n_slots and a.mirrored == b.mirrored
            and a.drops == b.drops and a.drops_inputs == b.drops_inputs and a.gathers == b.gathers)


cdef inline size_t whole_pieces(size_t rows) noexcept nogil:
    return (rows + PIECE_ROWS - 1) // PIECE_ROWS * PIECE_ROWS


cdef inline size_t piece_at(const net_t *net, const layer_t *layer, size_t k0, size_t n0) noexcept nogil:
    """The number of the piece of a layer's weights that begins at row k0 and at column n0, where a panel does."""
    return layer.pieces + (n0 // net.kernels.panel * whole_pieces(layer.n_in) + k0) // PIECE_ROWS


cdef char *allocate(size_t bytes) noexcept nogil
cdef char *carve(char **cursor, size_t bytes) noexcept nogil
cdef size_t padded(const net_t *net, size_t n) noexcept nogil
cdef size_t leading_dimension(const net_t *net, size_t n) noexcept nogil
cdef inline size_t vector_piece(const net_t *net, const layer_t *layer, size_t n0, bint of_scales) noexcept nogil:
    """The number of the piece of a layer's biases, or scales, that begins at column n0, where a panel does."""
    cdef size_t panels = (layer.padded + net.kernels.panel - 1) // net.kernels.panel
    return layer.vector_pieces + of_scales * panels + n0 // net.kernels.panel


cdef bint net_create(net_t *net, int isa, bint is_double, int depth, const int64_t *sizes, const cymlp_act *acts,
                     const norm_t *norms) noexcept
cdef void net_destroy(net_t *net) noexcept
cdef char *packed_vector(const net_t *net) noexcept
cdef void release(void *memory) noexcept nogil
cdef double penalty_of(const net_t *net, const cymlp_step *rule, size_t n, const char *w) noexcept nogil
cdef double penalty(const net_t *net, const cymlp_step *rule, bint of_biases) noexcept nogil
cdef void net_fold(net_t *net) noexcept nogil
cdef void statistics_pack(net_t *net, const char *flat) noexcept nogil
cdef void statistics_unpack(const net_t *net, char *flat) noexcept nogil
cdef void net_pack(net_t *net, const char *flat) noexcept nogil
cdef void vector_pack(const net_t *net, const char *flat, char *packed) noexcept nogil
cdef void net_unpack(const net_t *net, const char *packed, char *flat) noexcept nogil

cdef bint workspace_create(workspace_t *space, const net_t *net, const plan_t *plan) noexcept nogil
cdef void workspace_refresh_mirror(workspace_t *space, const net_t *net) noexcept nogil
cdef void workspace_destroy(workspace_t *space) noexcept

# The C functions of these names without the prefix, for modules that are not linked with the kernels.
cdef int best_isa() noexcept
cdef const cymlp_kernels *get_kernels(int isa, bint is_double) noexcept
cdef unsigned long flush_enter() noexcept nogil
cdef void flush_leave(unsigned long state) noexcept nogil
