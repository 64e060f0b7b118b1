# Runs of training steps, and what all of them do with a tile of rows: inlined, as small networks take a microsecond or two a step.
from libc.stdint cimport int64_t
from cymlp._storage cimport *
from cymlp.kernels cimport *

cdef extern from * nogil:
    void prefetch "__builtin_prefetch"(const void *address)

cdef enum:
    # Rows that one thread carries through all layers at a time.  A tile streams the weights through its core once: at 128 rows
    # that takes one byte a cycle at full speed, a tenth of what the last-level cache gives; more rows only push activations out
    # of the L2 cache.
    TILE_ROWS = 128
    # Of one thing that will be used soon at most so much is asked for: a small part of an L2 cache.
    AHEAD_BYTES = 64 * 1024

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
    size_t first_step, n_steps  # steps of the epoch: entry 0 of the next four belongs to the first
    const cymlp_step *steps     # NULL: write gradients into `gradient` and update nothing
    const double *scale         # 1 / sum of the minibatch's weights
    double *loss                # sum of weight * loss over the minibatch
    double *squares             # sum of the squares of the weights that the minibatch met, where there is a penalty on them
    char *gradient              # packed vector
    size_t forward_segments, update_segments
    bint failed                 # a minibatch had a loss that is not finite: nothing happens any more

cdef inline size_t batch_rows(const run_t *run, size_t step) noexcept nogil:
    """Rows of minibatch `step` of the epoch: the last one takes what is left."""
    return min(run.batch, run.n - step * run.batch)


cdef inline size_t tile_count(size_t rows) noexcept nogil:
    """As few tiles as TILE_ROWS allows; they are of about the same height."""
    return (rows + TILE_ROWS - 1) // TILE_ROWS


cdef inline void fail(run_t *run, int slot) noexcept nogil:
    """Nothing is to happen after the next barrier.  Slot 0 alone says so: before it, others could not see for themselves."""
    if slot == 0:
        run.failed = True


cdef inline void expect(cymlp_ahead *ahead, const char *at, size_t bytes) noexcept nogil:
    """One more region that will be used soon, unless there is no room for it or it would push out what is used now."""
    if at and bytes <= AHEAD_BYTES and ahead.count < CYMLP_REGIONS:
        ahead.at[ahead.count] = at
        ahead.bytes[ahead.count] = bytes
        ahead.count += 1


cdef inline void list_examples(const run_t *run, size_t step, size_t row, size_t count, size_t place) noexcept nogil:
    """Point at the examples of some rows of minibatch `step`, wherever they are in X; ask for what the loss will read of them."""
    cdef size_t size = run.net.kernels.size, bytes = run.net.layers[0].n_in * size, first = step * run.batch + row, i, example
    cdef size_t n_out = run.net.layers[run.net.depth - 1].n_out
    for i in range(count):
        example = <size_t>run.order[first + i] if run.order else first + i
        run.space.examples[place + i] = run.X + example * bytes
        if run.target.labels:
            prefetch(run.target.labels + example)
        else:
            prefetch(<const char *>run.target.targets + example * n_out * size)
        if run.target.weights:
            prefetch(<const char *>run.target.weights + example * size)


cdef inline void tile_loss(const run_t *run, size_t step, size_t row, size_t count, size_t place, char *work) noexcept nogil:
    """The output layer's Z, in its place among the gradients, becomes dZ."""
    cdef const net_t *net = run.net
    cdef const workspace_t *space = run.space
    cdef int l = net.depth - 1
    cdef size_t size = net.kernels.size, example = step * run.batch + row
    cdef cymlp_target target = run.target
    cdef const ptrdiff_t *index = NULL
    if run.order:
        index = <const ptrdiff_t *>(run.order + example)
    else:
        if target.targets:
            target.targets = <const char *>target.targets + example * net.layers[l].n_out * size
        if target.labels:
            target.labels += example
        if target.weights:
            target.weights = <const char *>target.weights + example * size
    net.kernels.loss_and_gradient(&target, &net.layers[l].act, count, net.layers[l].n_out, index,
                                  run.scale[step - run.first_step], space.gradients[l] + place * space.ld[l] * size,
                                  space.ld[l], space.row_loss + (place if space.mirrored else row), work)


cdef inline void tile_forward(const run_t *run, const net_t *net, size_t step, size_t row, size_t count, size_t place,
                       char *work) noexcept nogil:
    """Forward and loss, for `count` rows from `row` on of minibatch `step`; what is kept is put at `place` in the workspace."""
    cdef const workspace_t *space = run.space
    cdef const layer_t *layer
    cdef const char *x = NULL
    cdef char *slopes
    cdef char *a
    cdef size_t size = net.kernels.size, ldx = 0, at
    cdef cymlp_act linear
    cdef cymlp_ahead ahead
    cdef int l, last = net.depth - 1
    cdef const void **examples = space.examples + place
    linear.kind = CYMLP_IDENTITY
    list_examples(run, step, row, count, place)
    for l in range(net.depth):
        layer = &net.layers[l]
        at = place * space.ld[l] * size
        a = (space.outputs[l] if l < last else space.gradients[l]) + at
        slopes = space.slopes[l] + at if space.slopes[l] else NULL
        ahead.count = 0
        if l < last and not space.mirrored:
            expect(&ahead, net.parameters + net.layers[l + 1].weights, net.layers[l + 1].biases - net.layers[l + 1].weights)
        net.kernels.dense_forward(count, layer.n_in, layer.n_out, x, ldx, examples, net.parameters + layer.weights,
                                  net.parameters + layer.biases, &layer.act if l < last else &linear, a, space.ld[l], slopes,
                                  &ahead)
        x, ldx, examples = a, space.ld[l], NULL
    tile_loss(run, step, row, count, place, work)


cdef inline void layer_backward(const workspace_t *space, const net_t *net, int l, size_t count, size_t place) noexcept nogil:
    """From the gradient of layer l that of the layer below, for `count` rows from `place` on."""
    cdef const layer_t *layer = &net.layers[l]
    cdef size_t size = net.kernels.size, at = place * space.ld[l - 1] * size
    cdef const char *slopes = space.slopes[l - 1] + at if space.slopes[l - 1] else NULL
    cdef cymlp_ahead ahead
    ahead.count = 0
    if not space.mirrored:
        expect(&ahead, space.outputs[l - 1] + at, count * space.ld[l - 1] * size)
        if l > 1:
            expect(&ahead, net.transposed + net.layers[l - 1].transposed, layer.transposed - net.layers[l - 1].transposed)
    net.kernels.dense_backward(count, layer.n_in, layer.n_out, space.gradients[l] + place * space.ld[l] * size, space.ld[l],
                               net.transposed + layer.transposed, &net.layers[l - 1].act, space.outputs[l - 1] + at, slopes,
                               space.ld[l - 1], space.gradients[l - 1] + at, space.ld[l - 1], &ahead)
