# The first phase of a training step: tiles of rows forward through all layers, the loss, and back.
#
# A row depends on no other row, until a layer is normalised by what a minibatch has in a column.  Each such layer is a cut: rows
# of all slots go up to it, where statistics are taken by chunks of rows; after a barrier every slot joins those of all chunks, in
# the same order, and rows go on.  On the way back it is the same with the sums that a gradient through statistics needs.  So K cuts
# make 2 K + 1 stages: up to the first cut, ..., from the last cut to the loss and back to it, ..., from the first cut back to the
# inputs.
from libc.string cimport memcpy

from cymlp._monitor cimport monitor_tile
from cymlp._storage cimport *
from cymlp._tiles cimport *
from cymlp.kernels cimport *


cdef size_t part_start(const run_t *run, size_t step, size_t part) noexcept nogil:
    """The first row of a part of minibatch `step`: parts are of about the same height."""
    return batch_rows(run, step) * part // run.space.parts


# ---- Columns of a minibatch ----

cdef char *column(const run_t *run, int slot, int l, int which) noexcept nogil:
    """A slot's vectors for a layer with BATCH_NORM: mean (on the way back the factor of a gradient), 1 / deviation, two sums."""
    cdef const layer_t *layer = &run.net.layers[l]
    return (run.space.columns + slot * run.space.column_bytes + 2 * layer.statistics
            + which * layer.padded * run.net.kernels.size)


cdef const char *weights_of(const run_t *run, size_t row) noexcept nogil:
    """The weights of the rows of a minibatch from `row` on, or NULL for ones."""
    return run.space.row_weights + row * run.net.kernels.size if run.target.weights else NULL


cdef double weight_of(const run_t *run, size_t first, size_t last) noexcept nogil:
    """Of some rows of a minibatch."""
    cdef const char *weights = weights_of(run, 0)
    cdef double total = 0
    cdef size_t i
    if not weights:
        return last - first
    for i in range(first, last):
        total += (<const double *>weights)[i] if run.net.kernels.size == sizeof(double) else (<const float *>weights)[i]
    return total


cdef void take_moments(const run_t *run, int l, size_t row, size_t count) noexcept nogil:
    """Those of A W, by chunks; `row` begins one."""
    cdef const workspace_t *space = run.space
    cdef const layer_t *layer = &run.net.layers[l]
    cdef size_t size = run.net.kernels.size, bytes = layer.padded * size, end = row + count, chunk
    while row < end:
        chunk = row // CHUNK_ROWS
        run.net.kernels.moments(min(<size_t>CHUNK_ROWS, end - row), layer.n_out, space.normalized[l] + row * space.ld[l] * size,
                                space.ld[l], weights_of(run, row), space.chunk_moments[2 * l] + chunk * bytes,
                                space.chunk_moments[2 * l + 1] + chunk * bytes)
        row += CHUNK_ROWS


cdef void take_sums(const run_t *run, int l, size_t row, size_t count) noexcept nogil:
    """Those of dY and dY N, by chunks; `row` begins one."""
    cdef const workspace_t *space = run.space
    cdef const layer_t *layer = &run.net.layers[l]
    cdef size_t size = run.net.kernels.size, bytes = layer.padded * size, end = row + count, chunk, at
    while row < end:
        chunk, at = row // CHUNK_ROWS, row * space.ld[l] * size
        run.net.kernels.normalized_sums(min(<size_t>CHUNK_ROWS, end - row), layer.n_out, space.gradients[l] + at, space.ld[l],
                                        space.normalized[l] + at, space.ld[l], space.chunk_sums[2 * l] + chunk * bytes,
                                        space.chunk_sums[2 * l + 1] + chunk * bytes)
        row += CHUNK_ROWS


cdef void join_moments(const run_t *run, size_t step, int l, int slot) noexcept nogil:
    """Mean and 1 / deviation of the columns of minibatch `step`, or the running ones where it is too small to have any."""
    cdef const cymlp_kernels *kernels = run.net.kernels
    cdef const layer_t *layer = &run.net.layers[l]
    cdef size_t bytes = layer.padded * kernels.size, rows = batch_rows(run, step), row = CHUNK_ROWS
    cdef const char *means = run.space.chunk_moments[2 * l]
    cdef const char *squares = run.space.chunk_moments[2 * l + 1]
    cdef char *mean = column(run, slot, l, 0)
    cdef char *inverse = column(run, slot, l, 1)
    cdef char *running = run.net.statistics + layer.statistics
    cdef weight_t weight = run.weights[step - run.first_step]
    cdef double joined, more
    cdef bint updates = slot == 0 and not run.regime.keeps_statistics
    if weight.unbiased == 0:
        memcpy(mean, running, bytes)
        memcpy(inverse, running + bytes, bytes)
        kernels.settle_moments(layer.padded, 1, 0, layer.norm.epsilon, 0, mean, inverse, NULL, NULL)
        return
    memcpy(mean, means, bytes)
    memcpy(inverse, squares, bytes)
    joined = weight_of(run, 0, min(rows, row))
    while row < rows:
        more = weight_of(run, row, min(rows, row + CHUNK_ROWS))
        kernels.join_moments(joined, more, layer.padded, mean, inverse, means + row // CHUNK_ROWS * bytes,
                             squares + row // CHUNK_ROWS * bytes)
        joined += more
        row += CHUNK_ROWS
    kernels.settle_moments(layer.padded, joined, weight.unbiased, layer.norm.epsilon, layer.norm.momentum, mean, inverse,
                           running if updates else NULL, running + bytes if updates else NULL)


cdef void join_sums(const run_t *run, size_t step, int l, int slot) noexcept nogil:
    """What the gradient through the statistics of minibatch `step` needs."""
    cdef const cymlp_kernels *kernels = run.net.kernels
    cdef const layer_t *layer = &run.net.layers[l]
    cdef size_t chunks = (batch_rows(run, step) + CHUNK_ROWS - 1) // CHUNK_ROWS
    cdef int i
    for i in range(2):
        kernels.bias_gradient(chunks, layer.padded, run.space.chunk_sums[2 * l + i], layer.padded, column(run, slot, l, 2 + i), 0)
    kernels.multiply(layer.padded, column(run, slot, l, 1), run.net.parameters + layer.scales, column(run, slot, l, 0))


# ---- Layers ----

cdef void activate(const run_t *run, size_t step, int l, size_t row, size_t count) noexcept nogil:
    """What follows when a normalised layer's Z is in the place of its outputs."""
    cdef const workspace_t *space = run.space
    cdef const layer_t *layer = &run.net.layers[l]
    cdef size_t at = row * space.ld[l] * run.net.kernels.size
    run.net.kernels.activate(&layer.act, count, layer.n_out, space.outputs[l] + at, space.ld[l],
                             space.slopes[l] + at if space.slopes[l] else NULL)
    if space.plan.drops:
        drop_outputs(run, step, l, row, count, row)


cdef void batch_norm_forward(const run_t *run, size_t step, int l, size_t row, size_t count, int slot) noexcept nogil:
    cdef const workspace_t *space = run.space
    cdef const layer_t *layer = &run.net.layers[l]
    cdef size_t at = row * space.ld[l] * run.net.kernels.size
    run.net.kernels.normalize(count, layer.n_out, space.normalized[l] + at, space.ld[l], column(run, slot, l, 0),
                              column(run, slot, l, 1), run.net.parameters + layer.scales, run.net.parameters + layer.biases,
                              space.outputs[l] + at, space.ld[l])
    activate(run, step, l, row, count)


cdef void batch_norm_backward(const run_t *run, size_t step, int l, size_t row, size_t count, int slot) noexcept nogil:
    cdef const workspace_t *space = run.space
    cdef size_t at = row * space.ld[l] * run.net.kernels.size
    cdef weight_t weight = run.weights[step - run.first_step]
    run.net.kernels.normalize_backward(count, run.net.layers[l].n_out, space.gradients[l] + at, space.ld[l],
                                       space.normalized[l] + at, space.ld[l], weights_of(run, row),
                                       1 / weight.sum if weight.unbiased != 0 else 0, column(run, slot, l, 0),
                                       column(run, slot, l, 2), column(run, slot, l, 3))


cdef void layer_norm_forward(const run_t *run, size_t step, int l, size_t row, size_t count) noexcept nogil:
    cdef const workspace_t *space = run.space
    cdef const layer_t *layer = &run.net.layers[l]
    cdef size_t size = run.net.kernels.size, at = row * space.ld[l] * size
    run.net.kernels.layer_norm(count, layer.n_out, layer.norm.epsilon, space.normalized[l] + at, space.ld[l],
                               run.net.parameters + layer.scales, run.net.parameters + layer.biases, space.outputs[l] + at,
                               space.ld[l], space.row_inverse[l] + row * size)
    activate(run, step, l, row, count)


cdef void layer_norm_backward(const run_t *run, int l, size_t row, size_t count) noexcept nogil:
    cdef const workspace_t *space = run.space
    cdef const layer_t *layer = &run.net.layers[l]
    cdef size_t size = run.net.kernels.size, at = row * space.ld[l] * size
    run.net.kernels.layer_norm_backward(count, layer.n_out, space.gradients[l] + at, space.ld[l], space.normalized[l] + at,
                                        space.ld[l], run.net.parameters + layer.scales, space.row_inverse[l] + row * size)


# ---- Stages ----

cdef void normalized_tile(const run_t *run, size_t step, size_t stage, size_t row, size_t count, int slot) noexcept nogil:
    """One stage of `count` rows from `row` on, of a network with normalised layers."""
    cdef const net_t *net = run.net
    cdef const workspace_t *space = run.space
    cdef size_t cuts = net.n_cuts
    cdef int l = 0, kind
    if stage <= cuts:
        if stage == 0:
            tile_inputs(run, step, row, count, row)
        else:
            l = net.cuts[stage - 1]
            batch_norm_forward(run, step, l, row, count, slot)
            l += 1
        while l < net.depth:
            kind = net.layers[l].norm.kind
            layer_forward(run, net, step, l, row, count, row,
                          NULL if kind == NO_NORM else space.normalized[l] + row * space.ld[l] * net.kernels.size)
            if kind == BATCH_NORM:
                take_moments(run, l, row, count)
                return
            if kind == LAYER_NORM:
                layer_norm_forward(run, step, l, row, count)
            l += 1
        tile_loss(run, step, row, count, row, space.scratch + slot * space.scratch_bytes)
        l = net.depth - 1
    else:
        l = net.cuts[2 * cuts - stage]
        batch_norm_backward(run, step, l, row, count, slot)
    while l > 0:
        layer_backward(run, net, step, l, count, row)
        l -= 1
        kind = net.layers[l].norm.kind
        if kind != NO_NORM:
            take_sums(run, l, row, count)
        if kind == BATCH_NORM:
            return
        if kind == LAYER_NORM:
            layer_norm_backward(run, l, row, count)
    if run.monitor:
        monitor_tile(run.monitor, net, space, row, count, row, slot)


cdef void plain_tile(const run_t *run, size_t step, size_t start, size_t row, size_t count, int slot) noexcept nogil:
    """Forward, loss and back, for `count` rows from `row` on of a part of a minibatch that begins at `start`."""
    cdef const workspace_t *space = run.space
    cdef int l
    tile_forward(run, run.net, step, start + row, count, row, space.scratch + slot * space.scratch_bytes)
    for l in range(run.net.depth - 1, 0, -1):
        layer_backward(run, run.net, step, l, count, row)
    if run.monitor:
        monitor_tile(run.monitor, run.net, space, start + row, count, row, slot)


cdef void first_phase(const run_t *run, size_t step, size_t part, size_t stage, size_t segment, int slot) noexcept nogil:
    """A slot's share of one segment of a stage, for the rows of a part of minibatch `step`."""
    cdef const workspace_t *space = run.space
    cdef size_t start = part_start(run, step, part), rows = part_start(run, step, part + 1) - start
    cdef size_t pieces = run.forward_segments * space.n_slots, piece = segment * space.n_slots + slot
    # Tiles of normalised networks are made of whole chunks.
    cdef size_t unit = CHUNK_ROWS if run.net.normalized else 1, units = (rows + unit - 1) // unit, cuts = run.net.n_cuts
    cdef size_t row = units * piece // pieces * unit, last = min(rows, units * (piece + 1) // pieces * unit), tiles, count
    if segment == 0 and stage > cuts:
        join_sums(run, step, run.net.cuts[2 * cuts - stage], slot)
    elif segment == 0 and stage > 0:
        join_moments(run, step, run.net.cuts[stage - 1], slot)
    if row >= last:
        return
    tiles = tile_count(last - row)
    while row < last:
        count = ((last - row + tiles - 1) // tiles + unit - 1) // unit * unit
        count = min(count, last - row)
        if run.net.normalized:
            normalized_tile(run, step, stage, row, count, slot)
        else:
            plain_tile(run, step, start, row, count, slot)
        row += count
        tiles -= 1
