# Mirrored runs of training steps.
#
# Where a network is small, what one core has to fetch from the other after a barrier takes longer than the arithmetic.  Such a run
# is mirrored: each of two slots has the whole network for itself, sums the gradient over its half of the minibatch, tile after tile
# on the way back, and takes the optimiser's step with the sum of both halves.  Only the gradient is fetched, and there is one
# barrier a step.  Both slots compute the same; one thread that is alone computes both halves and updates one network.
from libc.math cimport isfinite

from cymlp._storage cimport *
from cymlp._tiles cimport *
from cymlp.kernels cimport *

# A run is mirrored where a packed vector has at most so many bytes, as all vectors of a slot should stay in its core's L2 cache,
# and a minibatch at least so many rows: shorter sums read and write gradients more often than is saved.
cdef size_t MIRROR_BYTES = 128 * 1024
cdef size_t MIRROR_ROWS = 32


cdef bint is_mirrored(const net_t *net, size_t batch) noexcept nogil:
    """Whether training with minibatches of this size is mirrored: a question of sizes alone, as it changes the order of sums."""
    return net.packed_bytes <= MIRROR_BYTES and batch >= MIRROR_ROWS


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
    net.kernels.weight_gradient(count, layer.n_in, layer.n_out, a, lda, NULL if l else space.examples + place, 0, dz, space.ld[l],
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
            layer_backward(space, net, l, own + others, place)


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


cdef void mirrored_update(const run_t *run, net_t *net, size_t step) noexcept nogil:
    """The optimiser's step with the sum of both halves' gradients."""
    cdef const char *g = run.space.partial[step & 1][0]
    cdef const char *more = NULL if run.space.joined[step & 1] else run.space.partial[step & 1][1]
    cdef char *m = net.moments[0]
    cdef char *v = net.moments[1]
    cdef const layer_t *layer
    cdef cymlp_step rule = run.steps[step - run.first_step]
    cdef size_t size = net.kernels.size, weights, biases, n
    cdef int l
    for l in range(net.depth):
        layer = &net.layers[l]
        weights, biases = layer.weights, layer.biases
        net.kernels.update(&rule, (biases - weights) // size, net.parameters + weights, g + weights,
                           more + weights if more else NULL, m + weights if m else NULL, v + weights if v else NULL)
        n = 0
        while l > 0 and n < layer.n_out:
            net.kernels.repack_transposed(layer.n_in, layer.n_out, 0, layer.n_in, n, net.parameters + layer.weights,
                                          net.transposed + layer.transposed)
            n += net.kernels.panel
    rule.decay = rule.l2 = 0
    for l in range(net.depth):
        layer = &net.layers[l]
        biases = layer.biases
        net.kernels.update(&rule, layer.padded, net.parameters + biases, g + biases, more + biases if more else NULL,
                           m + biases if m else NULL, v + biases if v else NULL)


cdef void mirrored_segment(run_t *run, size_t segment, int slot, bint in_parallel) noexcept nogil:
    """A slot's share of a segment: the update of the step before, where there was one, then rows of this step.

    What is read here, gradients and losses of the step before, is written again two steps later: after another barrier.
    """
    cdef workspace_t *space = run.space
    cdef size_t step = run.first_step + segment // run.forward_segments, before = step - 1
    cdef net_t *net = &space.mirror if in_parallel and slot == 1 else run.net
    cdef double loss
    segment = segment % run.forward_segments
    if segment == 0 and step > run.first_step:
        loss = partial_loss(space, before, 0)[0]
        if not space.joined[before & 1]:
            loss += partial_loss(space, before, 1)[0]
        if slot == 0:
            run.loss[before - run.first_step] = loss
        if not isfinite(loss):
            fail(run, slot)
            return
        if slot == 0 and run.steps[before - run.first_step].l2 != 0:
            run.squares[before - run.first_step] = sum_of_squares(net)
        if slot == 0 or in_parallel:
            mirrored_update(run, net, before)
    if step < run.first_step + run.n_steps:
        mirrored_half(run, net, step, segment, slot, in_parallel)
