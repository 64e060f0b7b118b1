# Mirrored runs of training steps.
#
# Where a network is small, what one core has to fetch from the other after a barrier takes longer than the arithmetic.  Such a run
# is mirrored: each of two slots has the whole network for itself, sums the gradient over its half of the minibatch, tile after tile
# on the way back, and takes the optimiser's step with the sum of both halves.  Only the gradient is fetched, and there is one
# barrier a step.  Both slots compute the same; one thread that is alone computes both halves and updates one network.
from libc.math cimport INFINITY, isfinite, sqrt
from libc.string cimport memcpy

from cymlp._monitor cimport monitor_tile
from cymlp._storage cimport *
from cymlp._tiles cimport *
from cymlp.kernels cimport *

# A run is mirrored where a packed vector has at most so many bytes, as all vectors of a slot should stay in its core's L2 cache,
# and a minibatch at least so many rows: shorter sums read and write gradients more often than is saved.
cdef size_t MIRROR_BYTES = 128 * 1024
cdef size_t MIRROR_ROWS = 32


cdef bint is_mirrored(const net_t *net, size_t batch) noexcept nogil:
    """Whether training with minibatches of this size is mirrored: a question of sizes alone, as it changes the order of sums."""
    return net.packed_bytes <= MIRROR_BYTES and batch >= MIRROR_ROWS and not net.normalized


cdef double *partial_loss(const workspace_t *space, size_t step, int slot) noexcept nogil:
    """Where a slot sums up the loss of its half of a minibatch: behind its gradient, in a cache line of its own."""
    return <double *>(space.partial[step & 1][slot] + space.mirror.packed_bytes)


cdef void mirrored_sums(const run_t *run, const net_t *net, int l, size_t place, size_t count, char *gradient,
                        bint add) noexcept nogil:
    """The gradient of layer l's parameters over `count` rows from `place` on, or the sum of it and what is there."""
    cdef const workspace_t *space = run.space
    cdef const layer_t *layer = &net.layers[l]
    cdef size_t size = net.kernels.size, lda = space.ld[l - 1] if l else 0
    cdef const char *a = space.outputs[l - 1] + place * lda * size if l else NULL
    cdef const char *dz = space.gradients[l] + place * space.ld[l] * size
    cdef const void **examples = NULL
    if l == 0:
        first_input(run, place, &a, &lda, &examples)
    net.kernels.weight_gradient(count, layer.n_in, layer.n_out, a, lda, examples, 0, dz, space.ld[l],
                                gradient + layer.weights, net.kernels.panel * layer.n_in, add, NULL)
    net.kernels.bias_gradient(count, layer.padded, dz, space.ld[l], gradient + layer.biases, add)


cdef void mirrored_tile(const run_t *run, const net_t *net, size_t step, size_t row, size_t own, size_t others, int slot,
                        bint first) noexcept nogil:
    """Add the gradients and losses of a tile of `own` rows to those of the slot's half of the minibatch; the first tile begins
    them.

    `others` rows that follow are those of the other half, where one thread joins both: their sums are added to the first half's,
    which makes the same bits as adding them later.
    """
    cdef workspace_t *space = run.space
    cdef char *gradient = space.partial[step & 1][slot]
    cdef double *total = partial_loss(space, step, slot)
    cdef double loss = 0
    cdef size_t place = 0 if others else slot * (space.rows // 2), i
    cdef int l
    tile_forward(run, net, step, row, own + others, place, space.scratch + slot * space.scratch_bytes)
    for i in range(place, place + own):
        loss += space.row_loss[i]
    total[0] = loss if first else total[0] + loss
    loss = 0
    for i in range(place + own, place + own + others):
        loss += space.row_loss[i]
    if others:
        total[0] += loss
    for l in range(net.depth - 1, -1, -1):
        mirrored_sums(run, net, l, place, own, gradient, not first)
        if others:
            mirrored_sums(run, net, l, place + own, others, gradient, True)
        if l:
            layer_backward(run, net, step, l, own + others, place)
    if run.monitor:
        monitor_tile(run.monitor, net, space, row, own + others, place, slot)


cdef void mirrored_half(const run_t *run, const net_t *net, size_t step, size_t segment, int slot, bint in_parallel) noexcept nogil:
    """One segment of a slot's half of minibatch `step`.  Where tiles are cut depends on the minibatch alone.

    Whether both halves are joined is decided in a step's first segment: in the others the number of threads may have changed.
    """
    cdef size_t rows = batch_rows(run, step), first = rows * slot // 2, last = rows * (slot + 1) // 2, tiles, tile, row
    cdef bint joined = not in_parallel and rows <= run.space.rows if segment == 0 else run.space.joined[step & 1]
    if slot == 0 and run.space.joined[step & 1] != joined:
        run.space.joined[step & 1] = joined
    if joined:
        if slot == 0 and segment == 0:
            mirrored_tile(run, net, step, 0, last, rows - last, 0, True)
        return
    rows = last - first
    tiles = max(tile_count(rows), <size_t>1)
    for tile in range(tiles * segment // run.forward_segments, tiles * (segment + 1) // run.forward_segments):
        row = rows * tile // tiles
        mirrored_tile(run, net, step, first + row, rows * (tile + 1) // tiles - row, 0, slot, tile == 0)


cdef void clip_part(const run_t *run, const net_t *net, char *g, size_t at, size_t bytes, double factor) noexcept nogil:
    """Clip the gradient of some packed parameters, `at` bytes into it."""
    cdef size_t n = bytes // net.kernels.size
    if run.regime.clipping == CLIP_VALUE:
        net.kernels.clip(n, run.regime.limit, g + at)
    elif factor != 1:
        net.kernels.scale(n, factor, g + at)


cdef bint gather(const run_t *run, const net_t *net, size_t step, int slot) noexcept nogil:
    """Sum both halves' gradients in a place of the slot's own, and clip.  False where its norm is asked for and not finite."""
    cdef const workspace_t *space = run.space
    cdef const cymlp_kernels *kernels = net.kernels
    cdef char *g = space.whole[slot]
    cdef double *squares = space.factors + slot * net.depth
    cdef double total = 0
    cdef const layer_t *layer
    cdef int l
    if space.joined[step & 1]:
        memcpy(g, space.partial[step & 1][0], net.packed_bytes)
    else:
        kernels.add(net.packed_bytes // kernels.size, space.partial[step & 1][0], space.partial[step & 1][1], g)
    for l in range(net.depth):
        layer = &net.layers[l]
        squares[l] = (kernels.sum_of_squares((layer.biases - layer.weights) // kernels.size, g + layer.weights)
                      + kernels.sum_of_squares(layer.padded, g + layer.biases))
        total += squares[l]
    total = sqrt(total)
    if slot == 0:
        run.norm[step - run.first_step] = total
    for l in range(net.depth):
        layer = &net.layers[l]
        clip_part(run, net, g, layer.weights, layer.biases - layer.weights + layer.padded * kernels.size,
                  clip_factor(total if run.regime.clipping == CLIP_NORM else sqrt(squares[l]), run.regime.limit))
    return isfinite(total)


cdef void mirrored_update(const run_t *run, net_t *net, size_t step, const char *g, const char *more) noexcept nogil:
    """The optimiser's step with the gradient g, or g + more."""
    cdef char *m = net.moments[0]
    cdef char *v = net.moments[1]
    cdef const layer_t *layer
    cdef cymlp_step rule = run.steps[step - run.first_step]
    cdef size_t size = net.kernels.size, weights, biases, n, width
    cdef int l
    for l in range(net.depth):
        layer = &net.layers[l]
        weights, biases = layer.weights, layer.biases
        net.kernels.update(&rule, (biases - weights) // size, net.parameters + weights, g + weights,
                           more + weights if more else NULL, m + weights if m else NULL, v + weights if v else NULL)
        n = 0
        while run.regime.max_norm < INFINITY and n < layer.padded:
            width = min(net.kernels.panel, layer.padded - n)
            net.kernels.limit_columns(layer.n_in, width, run.regime.max_norm,
                                      net.parameters + layer.weights + n * layer.n_in * size)
            n += width
        n = 0
        while l > 0 and n < layer.n_out:
            net.kernels.repack_transposed(layer.n_in, layer.n_out, 0, layer.n_in, n, net.parameters + layer.weights,
                                          net.transposed + layer.transposed)
            n += net.kernels.panel
    if not run.regime.of_biases:
        rule.decay = rule.l2 = rule.l1 = 0
    for l in range(net.depth):
        layer = &net.layers[l]
        biases = layer.biases
        net.kernels.update(&rule, layer.padded, net.parameters + biases, g + biases, more + biases if more else NULL,
                           m + biases if m else NULL, v + biases if v else NULL)


cdef bint finish_step(run_t *run, net_t *net, size_t step, int slot, bint in_parallel) noexcept nogil:
    """What is left of a step when both halves have been summed: a slot that has a network to itself, or slot 0, updates it.

    False where the loss, or a norm that is to be clipped, is not finite.
    """
    cdef workspace_t *space = run.space
    cdef const char *more = NULL if space.joined[step & 1] else space.partial[step & 1][1]
    cdef const char *g = space.partial[step & 1][0]
    cdef cymlp_step rule = run.steps[step - run.first_step]
    cdef double loss = partial_loss(space, step, 0)[0]
    if not space.joined[step & 1]:
        loss += partial_loss(space, step, 1)[0]
    if slot == 0:
        run.loss[step - run.first_step] = loss
    if not isfinite(loss):
        return False
    if slot == 1 and not in_parallel:
        return True
    if space.plan.gathers:
        if not gather(run, net, step, slot) and clips_norms(run):
            return False
        g, more = space.whole[slot], NULL
    if slot == 0 and is_penalized(&rule):
        run.penalty[step - run.first_step] = penalty(net, &rule, run.regime.of_biases)
    mirrored_update(run, net, step, g, more)
    return True


cdef void mirrored_segment(run_t *run, size_t segment, int slot, bint in_parallel) noexcept nogil:
    """A slot's share of a segment: what is left of the step before, where there was one, then rows of this step.

    What is read here, gradients and losses of the step before, is written again two steps later: after another barrier.
    """
    cdef workspace_t *space = run.space
    cdef size_t step = run.first_step + segment // run.forward_segments
    cdef net_t *net = &space.mirror if in_parallel and slot == 1 else run.net
    segment = segment % run.forward_segments
    if segment == 0 and step > run.first_step:
        if not finish_step(run, net, step - 1, slot, in_parallel):
            fail(run, slot)
            return
    if step < run.first_step + run.n_steps:
        mirrored_half(run, net, step, segment, slot, in_parallel)
