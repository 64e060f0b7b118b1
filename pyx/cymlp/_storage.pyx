# Where the numbers live: networks in the kernels' packed form, and the workspace of a training run.
#
# This module is the one that the C kernels are linked into; the others reach them through its functions and net_t.kernels.
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from cymlp.kernels cimport *

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size)


cdef char *allocate(size_t bytes) noexcept nogil:
    """Whole cache lines, at the start of one: no two buffers share a line.  NULL where memory ran out."""
    return <char *>aligned_alloc(64, (bytes // 64 + 1) * 64)


cdef void release(void *memory) noexcept nogil:
    free(memory)


cdef int best_isa() noexcept:
    return cymlp_best_isa()


cdef const cymlp_kernels *get_kernels(int isa, bint is_double) noexcept:
    return cymlp_get_kernels(isa, is_double)


cdef unsigned long flush_enter() noexcept nogil:
    return cymlp_flush_enter()


cdef void flush_leave(unsigned long state) noexcept nogil:
    cymlp_flush_leave(state)


cdef size_t padded(const net_t *net, size_t n) noexcept nogil:
    return (n + net.kernels.lanes - 1) // net.kernels.lanes * net.kernels.lanes


cdef size_t leading_dimension(const net_t *net, size_t n) noexcept nogil:
    """The padded width in an odd number of cache lines: powers of two would map the same columns of all rows to few sets of L1."""
    cdef size_t line = 64 // net.kernels.size
    return ((n + line - 1) // line | 1) * line


# ---- Networks -------------------------------------------------------------------------------------------------------------------

cdef char *packed_vector(const net_t *net) noexcept:
    """A packed vector of zeros, or NULL."""
    cdef char *memory = allocate(net.packed_bytes)
    if memory:
        memset(memory, 0, net.packed_bytes)
    return memory


cdef bint net_create(net_t *net, int isa, bint is_double, int depth, const int64_t *sizes, const cymlp_act *acts,
                     const norm_t *norms) noexcept:
    """Parameters are zeros, running means 0 and variances 1.  False where memory ran out (then net_destroy is still due)."""
    cdef layer_t *layer
    memset(net, 0, sizeof(net_t))
    net.kernels = cymlp_get_kernels(isa, is_double)
    net.depth = depth
    net.layers = <layer_t *>calloc(depth, sizeof(layer_t))
    net.cuts = <int *>calloc(depth, sizeof(int))
    if not net.layers or not net.cuts:
        return False
    for i in range(depth):
        layer = &net.layers[i]
        layer.n_in, layer.n_out = sizes[i], sizes[i + 1]
        layer.padded = padded(net, layer.n_out)
        layer.act, layer.norm = acts[i], norms[i]
        layer.weights = net.packed_bytes
        layer.biases = layer.weights + layer.n_in * layer.padded * net.kernels.size
        net.packed_bytes = layer.biases + layer.padded * net.kernels.size
        if layer.norm.kind != NO_NORM:
            net.normalized = True
            layer.scales = net.packed_bytes
            net.packed_bytes += layer.padded * net.kernels.size
        if layer.norm.kind == BATCH_NORM:
            net.cuts[net.n_cuts] = i
            net.n_cuts += 1
            layer.statistics = net.statistics_bytes
            net.statistics_bytes += 2 * layer.padded * net.kernels.size
        layer.pieces = net.n_pieces
        layer.vector_pieces = piece_at(net, layer, 0, layer.padded + net.kernels.panel - 1)
        net.n_pieces = vector_piece(net, layer, layer.padded + net.kernels.panel - 1, layer.norm.kind != NO_NORM)
        if i:
            layer.transposed = net.transposed_bytes
            net.transposed_bytes += layer.n_out * padded(net, layer.n_in) * net.kernels.size
    net.parameters = packed_vector(net)
    net.prediction = packed_vector(net) if net.n_cuts else net.parameters
    net.transposed = allocate(net.transposed_bytes)
    net.statistics = allocate(net.statistics_bytes)
    if not net.parameters or not net.prediction or not net.transposed or not net.statistics:
        return False
    memset(net.transposed, 0, net.transposed_bytes)
    statistics_pack(net, NULL)
    return True


cdef void net_destroy(net_t *net) noexcept:
    free(net.layers)
    free(net.cuts)
    if net.prediction != net.parameters:
        free(net.prediction)
    free(net.parameters)
    free(net.statistics)
    free(net.transposed)
    free(net.moments[0])
    free(net.moments[1])
    memset(net, 0, sizeof(net_t))


cdef void vector_pack(const net_t *net, const char *flat, char *packed) noexcept nogil:
    """Take a packed vector, whose padding is zeros, from natural order."""
    cdef size_t size = net.kernels.size
    cdef const layer_t *layer
    cdef int i
    for i in range(net.depth):
        layer = &net.layers[i]
        net.kernels.pack(layer.n_in, layer.n_out, flat, packed + layer.weights)
        flat += layer.n_in * layer.n_out * size
        memcpy(packed + layer.biases, flat, layer.n_out * size)
        flat += layer.n_out * size
        if layer.norm.kind != NO_NORM:
            memcpy(packed + layer.scales, flat, layer.n_out * size)
            flat += layer.n_out * size


cdef void net_pack(net_t *net, const char *flat) noexcept nogil:
    """Take the parameters from a flat vector in natural order."""
    cdef size_t n0
    cdef layer_t *layer
    cdef int i
    vector_pack(net, flat, net.parameters)
    for i in range(net.depth):
        layer = &net.layers[i]
        n0 = 0
        while i > 0 and n0 < layer.n_out:
            net.kernels.repack_transposed(layer.n_in, layer.n_out, 0, layer.n_in, n0, net.parameters + layer.weights,
                                          net.transposed + layer.transposed)
            n0 += net.kernels.panel
    net_fold(net)


cdef void net_unpack(const net_t *net, const char *packed, char *flat) noexcept nogil:
    """Write a packed vector (parameters, a gradient, moments) in natural order."""
    cdef size_t size = net.kernels.size
    cdef const layer_t *layer
    cdef int i
    for i in range(net.depth):
        layer = &net.layers[i]
        net.kernels.unpack(layer.n_in, layer.n_out, packed + layer.weights, flat)
        flat += layer.n_in * layer.n_out * size
        memcpy(flat, packed + layer.biases, layer.n_out * size)
        flat += layer.n_out * size
        if layer.norm.kind != NO_NORM:
            memcpy(flat, packed + layer.scales, layer.n_out * size)
            flat += layer.n_out * size


cdef void statistics_pack(net_t *net, const char *flat) noexcept nogil:
    """Take the running means and variances from a flat vector; NULL stands for 0 and 1."""
    cdef size_t size = net.kernels.size, bytes, i
    cdef const layer_t *layer
    cdef char *variances
    cdef int l
    memset(net.statistics, 0, net.statistics_bytes)
    for l in range(net.depth):
        layer = &net.layers[l]
        if layer.norm.kind != BATCH_NORM:
            continue
        bytes = layer.n_out * size
        variances = net.statistics + layer.statistics + layer.padded * size
        if flat:
            memcpy(net.statistics + layer.statistics, flat, bytes)
            memcpy(variances, flat + bytes, bytes)
            flat += 2 * bytes
            continue
        for i in range(layer.n_out):
            if size == sizeof(double):
                (<double *>variances)[i] = 1
            else:
                (<float *>variances)[i] = 1


cdef void statistics_unpack(const net_t *net, char *flat) noexcept nogil:
    cdef size_t size = net.kernels.size, bytes
    cdef const layer_t *layer
    cdef int l
    for l in range(net.depth):
        layer = &net.layers[l]
        if layer.norm.kind == BATCH_NORM:
            bytes = layer.n_out * size
            memcpy(flat, net.statistics + layer.statistics, bytes)
            memcpy(flat + bytes, net.statistics + layer.statistics + layer.padded * size, bytes)
            flat += 2 * bytes


cdef void fold_layer(net_t *net, const layer_t *layer) noexcept nogil:
    """With f = scale / sqrt(running variance + epsilon): W f for W, b - running mean f for b."""
    cdef const cymlp_kernels *kernels = net.kernels
    cdef size_t bytes = layer.padded * kernels.size, n = 0, width, at, k
    cdef const char *mean = net.statistics + layer.statistics
    # The places of scales and biases serve as room: one for f, the other for Z = 0, whose N is not looked at.
    cdef char *factor = net.prediction + layer.scales
    cdef char *shift = net.prediction + layer.biases
    cdef char *zeros = net.prediction + layer.weights
    memcpy(factor, mean + bytes, bytes)
    kernels.settle_moments(layer.padded, 1, 0, layer.norm.epsilon, 0, mean, factor, NULL, NULL)
    memset(zeros, 0, bytes)
    kernels.normalize(1, layer.n_out, zeros, layer.padded, mean, factor, net.parameters + layer.scales,
                      net.parameters + layer.biases, shift, layer.padded)
    kernels.multiply(layer.padded, factor, net.parameters + layer.scales, factor)
    while n < layer.padded:
        width = min(kernels.panel, layer.padded - n)
        for k in range(layer.n_in):
            at = layer.weights + (n * layer.n_in + k * width) * kernels.size
            kernels.multiply(width, net.parameters + at, factor + n * kernels.size, net.prediction + at)
        n += width


cdef void net_fold(net_t *net) noexcept nogil:
    """Make what predictions read: parameters with running statistics folded in."""
    cdef const layer_t *layer
    cdef size_t bytes
    cdef int l
    for l in range(net.depth if net.n_cuts else 0):
        layer = &net.layers[l]
        if layer.norm.kind == BATCH_NORM:
            fold_layer(net, layer)
        else:
            bytes = layer.padded * net.kernels.size * (2 if layer.norm.kind == LAYER_NORM else 1)
            memcpy(net.prediction + layer.weights, net.parameters + layer.weights, layer.biases - layer.weights + bytes)


cdef double penalty_of(const net_t *net, const cymlp_step *rule, size_t n, const char *w) noexcept nogil:
    """Of n (padded) parameters, where padding is zeros."""
    cdef double total = 0
    if rule.l2 != 0:
        total = rule.l2 / 2 * net.kernels.sum_of_squares(n, w)
    if rule.l1 != 0:
        total += rule.l1 * net.kernels.sum_of_magnitudes(n, w)
    return total


cdef double penalty(const net_t *net, const cymlp_step *rule, bint of_biases) noexcept nogil:
    """Of all weights, layer by layer, and where asked of biases and scales, too."""
    cdef double total = 0
    cdef const layer_t *layer
    cdef int i
    for i in range(net.depth):
        layer = &net.layers[i]
        total += penalty_of(net, rule, layer.n_in * layer.padded, net.parameters + layer.weights)
        if of_biases:
            total += penalty_of(net, rule, layer.padded, net.parameters + layer.biases)
            if layer.norm.kind != NO_NORM:
                total += penalty_of(net, rule, layer.padded, net.parameters + layer.scales)
    return total


# ---- Workspaces -----------------------------------------------------------------------------------------------------------------

# A large minibatch goes through both phases in parts, so that what the first leaves is still in a cache when the second reads it:
# rows, activations and gradients of a part take about so many bytes, or twice what the parameters take, which every part reads, as
# it does the sums of gradients; and there are at least so many rows, as each reading is worth 6 operations a row.
cdef size_t PART_BYTES = 2 * 1024 * 1024
cdef size_t PART_ROWS = 512
# Where so many rows take more than a cache has, nothing is gained but memory, and parts are larger.
cdef size_t CACHE_BYTES = 16 * 1024 * 1024
cdef size_t UNCACHED_PART_ROWS = 4096


cdef size_t part_count(const net_t *net, size_t batch) noexcept nogil:
    """How many parts a minibatch is cut into: a question of sizes alone, as it changes the order of sums."""
    cdef size_t reals = net.layers[0].n_in, row_bytes, rows
    cdef int i
    for i in range(net.depth):
        reals += 2 * net.layers[i].padded
    row_bytes = reals * net.kernels.size
    rows = max(max(PART_BYTES, 2 * net.packed_bytes) // row_bytes,
               PART_ROWS if PART_ROWS * row_bytes <= CACHE_BYTES else UNCACHED_PART_ROWS)
    return (batch + rows - 1) // rows


cdef size_t cut_tasks(const net_t *net, size_t block_rows, size_t block_columns, task_t *tasks) noexcept nogil:
    """Cut all weights into blocks of equal height within a layer, in whole pieces; tasks may be NULL to count only.

    Blocks of a layer come in the order in which a slot's share of them reads less: along the shorter side first.
    """
    cdef size_t n = 0, height, down, across, i, k0, n0
    cdef const layer_t *layer
    cdef int l
    for l in range(net.depth):
        layer = &net.layers[l]
        down = (layer.n_in + block_rows - 1) // block_rows
        height = whole_pieces((layer.n_in + down - 1) // down)
        down = (layer.n_in + height - 1) // height
        across = (layer.padded + block_columns - 1) // block_columns
        for i in range(down * across):
            if tasks:
                k0 = (i // across if layer.n_in > layer.n_out else i % down) * height
                n0 = (i % across if layer.n_in > layer.n_out else i // down) * block_columns
                tasks[n] = task_t(l, k0, min(height, layer.n_in - k0), n0, min(block_columns, layer.padded - n0))
            n += 1
    return n


cdef void share_tasks(workspace_t *space, size_t n_tasks) noexcept nogil:
    """Cut the tasks into runs of about equal cost, one for each slot."""
    cdef double total = 0, done = 0
    cdef size_t i
    cdef int slot = 1
    for i in range(n_tasks):
        total += space.tasks[i].count * space.tasks[i].width
    space.first_task[0] = 0
    for i in range(n_tasks):
        # A task belongs to the slot in which its middle lies.
        done += 0.5 * space.tasks[i].count * space.tasks[i].width
        while slot < space.n_slots and done >= total * slot / space.n_slots:
            space.first_task[slot] = i
            slot += 1
        done += 0.5 * space.tasks[i].count * space.tasks[i].width
    while slot <= space.n_slots:
        space.first_task[slot] = n_tasks
        slot += 1


cdef char *carve(char **cursor, size_t bytes) noexcept nogil:
    """The next piece of an arena, in whole cache lines."""
    cdef char *piece = cursor[0]
    cursor[0] += (bytes + 63) // 64 * 64
    return piece


cdef void lay_out_normalized(workspace_t *space, const net_t *net, char **cursor) noexcept nogil:
    """What normalised layers need besides."""
    cdef size_t size = net.kernels.size, chunks = (space.rows + CHUNK_ROWS - 1) // CHUNK_ROWS, bytes
    cdef bint arena = space.outputs != NULL
    cdef char *piece
    cdef int l, i
    space.normalized = <char **>carve(cursor, net.depth * sizeof(char *))
    space.chunk_sums = <char **>carve(cursor, 2 * net.depth * sizeof(char *))
    space.chunk_moments = <char **>carve(cursor, 2 * net.depth * sizeof(char *))
    space.row_inverse = <char **>carve(cursor, net.depth * sizeof(char *))
    space.row_weights = carve(cursor, space.rows * size)
    space.column_bytes = 2 * net.statistics_bytes
    space.columns = carve(cursor, space.n_slots * space.column_bytes)
    for l in range(net.depth):
        bytes = space.rows * leading_dimension(net, net.layers[l].padded) * size
        piece = carve(cursor, bytes) if net.layers[l].norm.kind != NO_NORM else NULL
        if arena:
            space.normalized[l] = piece
        piece = carve(cursor, space.rows * size) if net.layers[l].norm.kind == LAYER_NORM else NULL
        if arena:
            space.row_inverse[l] = piece
        for i in range(2):
            bytes = chunks * net.layers[l].padded * size
            piece = carve(cursor, bytes) if net.layers[l].norm.kind != NO_NORM else NULL
            if arena:
                space.chunk_sums[2 * l + i] = piece
            piece = carve(cursor, bytes) if net.layers[l].norm.kind == BATCH_NORM else NULL
            if arena:
                space.chunk_moments[2 * l + i] = piece


cdef size_t lay_out(workspace_t *space, const net_t *net, size_t n_tasks, char *arena) noexcept nogil:
    """Point everything in `space` into an arena and return the arena's size; without an arena only the size is of use."""
    cdef size_t size = net.kernels.size, depth = net.depth, bytes
    cdef char *cursor = arena
    cdef char *gradients
    cdef char *outputs
    cdef char *slopes
    cdef bint stored
    cdef int i
    space.outputs = <char **>carve(&cursor, depth * sizeof(char *))
    space.slopes = <char **>carve(&cursor, depth * sizeof(char *))
    space.gradients = <char **>carve(&cursor, depth * sizeof(char *))
    space.ld = <size_t *>carve(&cursor, depth * sizeof(size_t))
    space.row_loss = <double *>carve(&cursor, space.rows * space.parts * sizeof(double))
    space.penalties = <double *>carve(&cursor, net.n_pieces * sizeof(double))
    space.squares = <double *>carve(&cursor, net.n_pieces * sizeof(double) if space.plan.gathers else 0)
    space.factors = <double *>carve(&cursor, space.n_slots * depth * sizeof(double))
    space.arrivals = carve(&cursor, space.n_slots * CACHE_LINE)
    space.taken = carve(&cursor, space.n_slots * CACHE_LINE)
    space.tasks = <task_t *>carve(&cursor, n_tasks * sizeof(task_t))
    space.first_task = <size_t *>carve(&cursor, (space.n_slots + 1) * sizeof(size_t))
    space.examples = <const void **>carve(&cursor, space.rows * sizeof(char *))
    # In the second phase a task's gradient and its biases' gradient; in the first, work for the loss of one row.
    space.scratch_bytes = max((net.kernels.block_rows + 1) * net.kernels.block_columns, 2 * net.layers[depth - 1].padded) * size
    space.scratch_bytes = (space.scratch_bytes + 127) // 128 * 128
    space.scratch = carve(&cursor, space.n_slots * space.scratch_bytes)
    for i in range(net.depth):
        bytes = space.rows * leading_dimension(net, net.layers[i].padded) * size
        gradients = carve(&cursor, bytes)
        outputs = carve(&cursor, bytes) if i < net.depth - 1 else NULL
        # Dropout leaves of ReLU's outputs those above 0 whose derivative is not 0; of others their derivatives go along.
        stored = cymlp_needs_slope(net.layers[i].act.kind) or space.plan.drops and net.layers[i].act.kind != CYMLP_RELU
        slopes = carve(&cursor, bytes) if i < net.depth - 1 and stored else NULL
        if arena:
            space.ld[i] = leading_dimension(net, net.layers[i].padded)
            space.gradients[i], space.outputs[i], space.slopes[i] = gradients, outputs, slopes
    if space.plan.drops_inputs:
        space.input_ld = leading_dimension(net, padded(net, net.layers[0].n_in))
        space.inputs = carve(&cursor, space.rows * space.input_ld * size)
    if net.normalized:
        lay_out_normalized(space, net, &cursor)
    if not space.mirrored and (space.parts > 1 or space.plan.gathers):
        space.sums = carve(&cursor, net.packed_bytes)
    if space.mirrored:
        for i in range(2 if space.plan.gathers else 0):
            space.whole[i] = carve(&cursor, net.packed_bytes)
        for i in range(4):
            space.partial[i // 2][i % 2] = carve(&cursor, net.packed_bytes + CACHE_LINE)
        space.mirror = net[0]
        space.mirror.parameters = carve(&cursor, net.packed_bytes)
        space.mirror.transposed = carve(&cursor, net.transposed_bytes)
        for i in range(2):
            space.mirror.moments[i] = carve(&cursor, net.packed_bytes)
    return cursor - arena


cdef bint workspace_create(workspace_t *space, const net_t *net, const plan_t *plan) noexcept nogil:
    """False where memory ran out.  A mirrored run looks after its parts by itself; statistics are those of a whole minibatch."""
    cdef size_t block_rows = net.kernels.block_rows, block_columns = net.kernels.block_columns, n_tasks
    cdef size_t rows = 2 * min((plan.batch + 1) // 2, <size_t>TILE_ROWS) if plan.mirrored else plan.batch
    cdef int n_slots = 2 if plan.mirrored else plan.n_slots
    cdef bint mirrored = plan.mirrored
    memset(space, 0, sizeof(workspace_t))
    space.plan = plan[0]
    space.parts, space.n_slots = 1 if mirrored or net.normalized else part_count(net, plan.whole), n_slots
    space.rows = (rows + space.parts - 1) // space.parts
    space.mirrored, space.mirror_is_old = mirrored, True
    # Large blocks read least, small ones share out evenly: a sixteenth of a slot's work is as much as one may wait for another.
    n_tasks = 0 if mirrored else cut_tasks(net, block_rows, block_columns, NULL)
    while (not mirrored and n_tasks < <size_t>(16 * n_slots)
           and (block_columns > net.kernels.panel or block_rows > PIECE_ROWS)):
        if block_rows > 48 or block_columns == net.kernels.panel:
            block_rows = whole_pieces(block_rows // 2)
        else:
            block_columns = max(net.kernels.panel, block_columns // 2)
        n_tasks = cut_tasks(net, block_rows, block_columns, NULL)
    space.arena = allocate(lay_out(space, net, n_tasks, NULL))
    if not space.arena:
        return False
    lay_out(space, net, n_tasks, space.arena)
    if not mirrored:
        cut_tasks(net, block_rows, block_columns, space.tasks)
    share_tasks(space, n_tasks)
    return True


cdef void workspace_refresh_mirror(workspace_t *space, const net_t *net) noexcept nogil:
    """Make the mirror like the network."""
    cdef int i
    memcpy(space.mirror.parameters, net.parameters, net.packed_bytes)
    memcpy(space.mirror.transposed, net.transposed, net.transposed_bytes)
    for i in range(2):
        if net.moments[i]:
            memcpy(space.mirror.moments[i], net.moments[i], net.packed_bytes)
    space.mirror_is_old = False


cdef void workspace_destroy(workspace_t *space) noexcept:
    free(space.arena)
    memset(space, 0, sizeof(workspace_t))
