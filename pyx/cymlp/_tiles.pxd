# Runs of training steps, and what all of them do with a tile of rows: inlined, as small networks take a microsecond or two a step.
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from cymlp._monitor cimport monitor_outputs, monitor_t
from cymlp._storage cimport *
from cymlp.kernels cimport *

cdef extern from * nogil:
    void prefetch "__builtin_prefetch"(const void *address)

cdef enum:
    # Of one thing that will be used soon at most so much is asked for: a small part of an L2 cache.
    AHEAD_BYTES = 64 * 1024

cdef enum:
    NO_CLIP, CLIP_VALUE, CLIP_NORM, CLIP_LAYER_NORM

# What a step does beside gradients and the optimiser's update: the same for all steps of a run.
cdef struct regime_t:
    int clipping
    double limit                # of clipping
    bint of_biases              # penalties and decay are those of biases and scales, too
    double max_norm             # of a unit's weights; infinity: none
    uint64_t seed               # of what is dropped
    bint keeps_statistics       # running means and variances stay as they are

# One call's worth of steps, cut into segments of bounded length so that signals can be looked at in between: each stage of the
# first phase of a step is `forward_segments` segments, each of the others `update_segments`.  A mirrored step has a first phase
# only.
cdef struct run_t:
    net_t *net
    workspace_t *space
    const char *X
    size_t n                    # rows of the epoch
    size_t batch
    const int64_t *order        # (n,) or NULL
    cymlp_target target
    regime_t regime
    size_t steps_before         # steps of the optimiser before the epoch's first
    size_t first_step, n_steps  # steps of the epoch: entry 0 of the next arrays belongs to the first
    const cymlp_step *steps     # NULL: write gradients into `gradient` and update nothing
    const double *scale         # 1 / sum of the minibatch's weights
    const weight_t *weights     # where layers have BATCH_NORM
    const double *dropout       # rates by layer, those of a step `dropout_stride` after those of the one before; or NULL
    size_t dropout_stride
    double *loss                # sum of weight * loss over the minibatch
    double *penalty             # of the parameters that the minibatch met
    double *norm                # of the gradient, where it is gathered
    char *gradient              # packed vector
    const monitor_t *monitor    # of a run of one step that is watched, else NULL
    size_t stages, phases       # of a first phase; of others
    size_t forward_segments, update_segments
    bint failed                 # a minibatch had a loss that is not finite: nothing happens any more

cdef inline bint is_penalized(const cymlp_step *rule) noexcept nogil:
    return rule.l2 != 0 or rule.l1 != 0


cdef inline bint clips_norms(const run_t *run) noexcept nogil:
    return run.regime.clipping == CLIP_NORM or run.regime.clipping == CLIP_LAYER_NORM


cdef inline double clip_factor(double norm, double limit) noexcept nogil:
    """What a gradient of this norm is multiplied by."""
    return limit / norm if norm > limit else 1


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
    cdef char *weights = run.space.row_weights + place * size if run.net.n_cuts and run.target.weights else NULL
    for i in range(count):
        example = <size_t>run.order[first + i] if run.order else first + i
        run.space.examples[place + i] = run.X + example * bytes
        if weights:
            memcpy(weights + i * size, <const char *>run.target.weights + example * size, size)
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
    if run.monitor:
        monitor_outputs(run.monitor, net, row, count, space.gradients[l] + place * space.ld[l] * size, space.ld[l])
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


cdef inline cymlp_mask mask_of(const run_t *run, size_t step, int layer) noexcept nogil:
    """What is dropped of a layer's outputs in minibatch `step`; layer 0: of the inputs."""
    cdef cymlp_mask mask
    mask.seed, mask.step, mask.layer = run.regime.seed, <uint32_t>(run.steps_before + step + 1), layer
    mask.rate = run.dropout[(step - run.first_step) * run.dropout_stride + layer] if run.dropout else 0
    return mask


cdef inline double kept_factor(double rate) noexcept nogil:
    """What dropout multiplies by what it keeps."""
    return 1 / (1 - rate) if rate < 1 else 0


cdef inline void drop_outputs(const run_t *run, size_t step, int l, size_t row, size_t count, size_t place) noexcept nogil:
    """Drop units of layer l, for `count` rows from `row` on."""
    cdef const workspace_t *space = run.space
    cdef size_t at = place * space.ld[l] * run.net.kernels.size
    cdef cymlp_mask mask = mask_of(run, step, l + 1)
    if mask.rate > 0:
        run.net.kernels.dropout(&mask, row, count, run.net.layers[l].n_out, space.outputs[l] + at, space.ld[l],
                                space.slopes[l] + at if space.slopes[l] else NULL)


cdef inline void drop_inputs(const run_t *run, size_t step, size_t row, size_t count, size_t place) noexcept nogil:
    """Copy inputs and drop some, for `count` rows from `row` on."""
    cdef const workspace_t *space = run.space
    cdef size_t size = run.net.kernels.size, n_in = run.net.layers[0].n_in, bytes = space.input_ld * size, i
    cdef cymlp_mask mask = mask_of(run, step, 0)
    for i in range(place, place + count):
        memcpy(space.inputs + i * bytes, space.examples[i], n_in * size)
    if mask.rate > 0:
        run.net.kernels.dropout(&mask, row, count, n_in, space.inputs + place * bytes, space.input_ld, NULL)


cdef inline void first_input(const run_t *run, size_t place, const char **x, size_t *ldx, const void ***examples) noexcept nogil:
    """Where the first layer reads its rows from `place` on: one after another, or wherever they are in X."""
    cdef const workspace_t *space = run.space
    x[0], ldx[0], examples[0] = NULL, 0, space.examples + place
    if space.inputs:
        x[0], ldx[0], examples[0] = space.inputs + place * space.input_ld * run.net.kernels.size, space.input_ld, NULL


cdef inline void layer_forward(const run_t *run, const net_t *net, size_t step, int l, size_t row, size_t count, size_t place,
                               char *z) noexcept nogil:
    """One layer, for `count` rows from `row` on of minibatch `step`, to its output, or to the product A W in `z` instead."""
    cdef const workspace_t *space = run.space
    cdef const layer_t *layer = &net.layers[l]
    cdef size_t size = net.kernels.size, at = place * space.ld[l] * size, ldx
    cdef int last = net.depth - 1
    cdef const char *x
    cdef char *a = (space.outputs[l] if l < last else space.gradients[l]) + at
    cdef char *slopes = space.slopes[l] + at if space.slopes[l] else NULL
    cdef const void **examples = NULL
    cdef cymlp_act linear
    cdef cymlp_ahead ahead
    linear.kind = CYMLP_IDENTITY
    if l:
        ldx = space.ld[l - 1]
        x = space.outputs[l - 1] + place * ldx * size
    else:
        first_input(run, place, &x, &ldx, &examples)
    ahead.count = 0
    if l < last and not space.mirrored:
        expect(&ahead, net.parameters + net.layers[l + 1].weights, net.layers[l + 1].biases - net.layers[l + 1].weights)
    net.kernels.dense_forward(count, layer.n_in, layer.n_out, x, ldx, examples, net.parameters + layer.weights,
                              NULL if z else net.parameters + layer.biases, &layer.act if l < last and not z else &linear,
                              z if z else a, space.ld[l], NULL if z else slopes, &ahead)
    if space.plan.drops and l < last and not z:
        drop_outputs(run, step, l, row, count, place)


cdef inline void tile_inputs(const run_t *run, size_t step, size_t row, size_t count, size_t place) noexcept nogil:
    """Find the inputs of `count` rows from `row` on of minibatch `step`."""
    list_examples(run, step, row, count, place)
    if run.space.inputs:
        drop_inputs(run, step, row, count, place)


cdef inline void tile_forward(const run_t *run, const net_t *net, size_t step, size_t row, size_t count, size_t place,
                              char *work) noexcept nogil:
    """Forward and loss, for `count` rows from `row` on of minibatch `step`; what is kept is put at `place` in the workspace."""
    cdef int l
    tile_inputs(run, step, row, count, place)
    for l in range(net.depth):
        layer_forward(run, net, step, l, row, count, place, NULL)
    tile_loss(run, step, row, count, place, work)


cdef inline void layer_backward(const run_t *run, const net_t *net, size_t step, int l, size_t count, size_t place) noexcept nogil:
    """From the gradient of layer l that of the layer below, for `count` rows from `place` on."""
    cdef const workspace_t *space = run.space
    cdef const layer_t *layer = &net.layers[l]
    cdef size_t size = net.kernels.size, at = place * space.ld[l - 1] * size
    cdef const char *slopes = space.slopes[l - 1] + at if space.slopes[l - 1] else NULL
    cdef cymlp_act act = net.layers[l - 1].act
    cdef cymlp_ahead ahead
    ahead.count = 0
    if slopes:
        act.kind = CYMLP_SILU  # or any other whose derivative is what has been stored
    elif space.plan.drops and run.dropout:
        act.gain = kept_factor(mask_of(run, step, l).rate)
    if not space.mirrored:
        expect(&ahead, space.outputs[l - 1] + at, count * space.ld[l - 1] * size)
        if l > 1:
            expect(&ahead, net.transposed + net.layers[l - 1].transposed, layer.transposed - net.layers[l - 1].transposed)
    net.kernels.dense_backward(count, layer.n_in, layer.n_out, space.gradients[l] + place * space.ld[l] * size, space.ld[l],
                               net.transposed + layer.transposed, &act, space.outputs[l - 1] + at, slopes,
                               space.ld[l - 1], space.gradients[l - 1] + at, space.ld[l - 1], &ahead)
