# The passes of training: layers, tiles of rows, blocks of weights and threads.  Only this file and _predictions.pyx open threads;
# the arithmetic is in kernels/.
#
# A training step has two phases.  In the first, every thread carries tiles of rows through all layers forward, the loss, and
# all gradients of inputs back: a row depends on no other row.  In the second, every thread owns blocks of weights: a block's
# gradient is summed over the whole minibatch in registers and handed to the optimiser at once.  No sum is ever split between
# threads, so the bits do not depend on their number; and nothing but the two barriers is waited for.
#
# Where a network is small, what one core has to fetch from the other after a barrier takes longer than the arithmetic.  Such a run
# is mirrored: each of two slots has the whole network for itself, sums the gradient over its half of the minibatch, tile after tile
# on the way back, and takes the optimiser's step with the sum of both halves.  Only the gradient is fetched, and there is one
# barrier a step.  Both slots compute the same; one thread that is alone computes both halves and updates one network.
from cython.parallel cimport parallel, prange, threadid
from libc.math cimport isfinite
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from cymlp._storage cimport *
from cymlp.kernels cimport *

cdef extern from "threads.h" nogil:
    int cymlp_max_threads()
    int cymlp_openmp
    int cymlp_team(int wanted)
    int cymlp_team_size()
    size_t cymlp_take(size_t *counter)
    int cymlp_cpu()
    void cymlp_leave_cpu(int cpu)
    void cymlp_meet(char *arrivals, int me, int team, unsigned round)

cdef extern from * nogil:
    void prefetch "__builtin_prefetch"(const void *address)

# Rows that one thread carries through all layers at a time.  A tile streams the weights through its core once: at 128 rows that
# takes one byte a cycle at full speed, a tenth of what the last-level cache gives; more rows only push activations out of the
# L2 cache.
cdef size_t TILE_ROWS = 128

# Of one thing that will be used soon at most so much is asked for: a small part of an L2 cache.
cdef size_t AHEAD_BYTES = 64 * 1024

# A run is mirrored where a packed vector has at most so many bytes, as all vectors of a slot should stay in its core's L2 cache,
# and a minibatch at least so many rows: shorter sums read and write gradients more often than is saved.
cdef size_t MIRROR_BYTES = 128 * 1024
cdef size_t MIRROR_ROWS = 32


cdef size_t tile_rows() noexcept:
    return TILE_ROWS


cdef int team(int wanted) noexcept nogil:
    """How many threads a region gets."""
    return cymlp_team(wanted)


cdef int current_cpu() noexcept nogil:
    return cymlp_cpu()


cdef void leave_cpu(int cpu) noexcept nogil:
    cymlp_leave_cpu(cpu)


cdef int max_threads() noexcept:
    return cymlp_max_threads()


cdef int openmp_version() noexcept:
    return cymlp_openmp


# ---- Training -------------------------------------------------------------------------------------------------------------------

cdef size_t batch_rows(const run_t *run, size_t step) noexcept nogil:
    """Rows of minibatch `step` of the epoch: the last one takes what is left."""
    return min(run.batch, run.n - step * run.batch)


cdef bint is_mirrored(const net_t *net, size_t batch) noexcept nogil:
    """Whether training with minibatches of this size is mirrored: a question of sizes alone, as it changes the order of sums."""
    return net.packed_bytes <= MIRROR_BYTES and batch >= MIRROR_ROWS


cdef size_t part_start(const run_t *run, size_t step, size_t part) noexcept nogil:
    """The first row of a part of minibatch `step`: parts are of about the same height."""
    return batch_rows(run, step) * part // run.space.parts


cdef size_t tile_count(size_t rows) noexcept nogil:
    """As few tiles as TILE_ROWS allows; they are of about the same height."""
    return (rows + TILE_ROWS - 1) // TILE_ROWS


cdef bint prepare_workspace(workspace_t *space, const net_t *net, size_t batch, int n_threads, bint mirrored) noexcept nogil:
    """False where memory ran out."""
    if mirrored:
        return workspace_create(space, net, 2 * min((batch + 1) // 2, TILE_ROWS), 2, True)
    return workspace_create(space, net, batch, n_threads, False)


cdef void list_examples(const run_t *run, size_t step, size_t row, size_t count, size_t place) noexcept nogil:
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


cdef void tile_loss(const run_t *run, size_t step, size_t row, size_t count, size_t place, char *work) noexcept nogil:
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


cdef void expect(cymlp_ahead *ahead, const char *at, size_t bytes) noexcept nogil:
    """One more region that will be used soon, unless there is no room for it or it would push out what is used now."""
    if at and bytes <= AHEAD_BYTES and ahead.count < CYMLP_REGIONS:
        ahead.at[ahead.count] = at
        ahead.bytes[ahead.count] = bytes
        ahead.count += 1


cdef void tile_forward(const run_t *run, const net_t *net, size_t step, size_t row, size_t count, size_t place,
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


cdef void layer_backward(const workspace_t *space, const net_t *net, int l, size_t count, size_t place) noexcept nogil:
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


cdef void fail(run_t *run, int slot) noexcept nogil:
    """Nothing is to happen after the next barrier.  Slot 0 alone says so: before it, others could not see for themselves."""
    if slot == 0:
        run.failed = True


# ---- Two phases ----

cdef void first_phase(const run_t *run, size_t step, size_t part, size_t segment, int slot) noexcept nogil:
    """A slot's share of one segment of the rows of a part of minibatch `step`."""
    cdef const workspace_t *space = run.space
    cdef size_t start = part_start(run, step, part), rows = part_start(run, step, part + 1) - start
    cdef size_t pieces = run.forward_segments * space.n_slots, piece = segment * space.n_slots + slot
    cdef size_t row = rows * piece // pieces, last = rows * (piece + 1) // pieces, tiles = tile_count(last - row), count
    cdef int l
    while row < last:
        count = (last - row + tiles - 1) // tiles
        tile_forward(run, run.net, step, start + row, count, row, space.scratch + slot * space.scratch_bytes)
        for l in range(run.net.depth - 1, 0, -1):
            layer_backward(space, run.net, l, count, row)
        row += count
        tiles -= 1


cdef void take_gradient(const run_t *run, size_t step, bint of_biases, size_t at, size_t count, const char *g) noexcept nogil:
    """Hand the gradient of a piece of the packed parameters, `at` bytes into them, to the optimiser or to the caller."""
    cdef net_t *net = run.net
    cdef cymlp_step rule
    if not run.steps:
        memcpy(run.gradient + at, g, count * net.kernels.size)
        return
    rule = run.steps[step - run.first_step]
    if of_biases:
        rule.decay = 0
    net.kernels.update(&rule, count, net.parameters + at, g, NULL, net.moments[0] + at if net.moments[0] else NULL,
                       net.moments[1] + at if net.moments[1] else NULL)


cdef void second_phase_task(const run_t *run, size_t step, size_t part, const task_t *task, char *scratch) noexcept nogil:
    """The gradient of one block of weights, and of its columns' biases with their first block, and the optimiser's step with it.

    Of a minibatch in several parts each adds to the gradient, which has a place of its own then, and the last one makes the step.
    """
    cdef net_t *net = run.net
    cdef const workspace_t *space = run.space
    cdef const cymlp_kernels *kernels = net.kernels
    cdef const layer_t *layer = &net.layers[task.layer]
    cdef size_t size = kernels.size, rows = part_start(run, step, part + 1) - part_start(run, step, part)
    cdef size_t lda = 0, ld = space.ld[task.layer], n = 0, width, weights, biases = layer.biases + task.n0 * size
    cdef char *g = scratch
    cdef bint is_last = part + 1 == space.parts
    cdef char *bias_g = scratch + kernels.block_rows * kernels.block_columns * size
    cdef const char *a = NULL
    cdef const void **examples = NULL
    cdef const char *dz = space.gradients[task.layer] + task.n0 * size
    cdef cymlp_ahead ahead
    ahead.count = 0
    if task.layer:
        a, lda = space.outputs[task.layer - 1], space.ld[task.layer - 1]
    else:
        examples = space.examples
    if space.sums:
        g = space.sums + layer.weights + (task.n0 * layer.n_in + task.k0 * task.width) * size
        bias_g = space.sums + biases
    while is_last and run.steps != NULL and task.layer > 0 and n < task.width:
        width = min(kernels.panel, task.width - n)
        weights = layer.weights + ((task.n0 + n) * layer.n_in + task.k0 * width) * size
        expect(&ahead, net.parameters + weights, task.count * width * size)
        expect(&ahead, net.moments[0] + weights if net.moments[0] else NULL, task.count * width * size)
        expect(&ahead, net.moments[1] + weights if net.moments[1] else NULL, task.count * width * size)
        n += width
    n = 0
    kernels.weight_gradient(rows, task.count, min(task.width, layer.n_out - task.n0), a, lda, examples, task.k0, dz, ld, g,
                            kernels.panel * task.count, part > 0, &ahead)
    if task.k0 == 0:
        kernels.bias_gradient(rows, task.width, dz, ld, bias_g, part > 0)
    if not is_last:
        return
    while n < task.width:
        width = min(kernels.panel, task.width - n)
        weights = layer.weights + ((task.n0 + n) * layer.n_in + task.k0 * width) * size
        take_gradient(run, step, False, weights, task.count * width, g + n * task.count * size)
        if task.layer and run.steps:
            kernels.repack_transposed(layer.n_in, layer.n_out, task.k0, task.count, task.n0 + n, net.parameters + layer.weights,
                                      net.transposed + layer.transposed)
        n += width
    if task.k0 == 0:
        take_gradient(run, step, True, biases, task.width, bias_g)


cdef size_t *taken(const workspace_t *space, int slot, size_t parity) noexcept nogil:
    """How many of a slot's tasks are taken in an update segment."""
    return <size_t *>(space.taken + slot * CACHE_LINE) + parity


cdef void second_phase(run_t *run, size_t step, size_t part, size_t segment, int slot) noexcept nogil:
    """A slot's share of one segment of the blocks of weights, for a part of minibatch `step`, unless the loss is not finite.

    A slot that has done its own tasks takes those that another one has not begun: blocks do not cost exactly what their sizes say,
    and a core may be slowed down by somebody else.  All slots sum the loss, in the same order, so that all agree; slot 0 writes it
    down.
    """
    cdef const workspace_t *space = run.space
    cdef size_t first, count, i
    cdef size_t parity = (((step - run.first_step) * space.parts + part) * run.update_segments + segment) & 1
    cdef double loss = 0
    cdef int other, owner
    if part + 1 == space.parts:
        for i in range(batch_rows(run, step)):
            loss += space.row_loss[i]
        if slot == 0:
            run.loss[step - run.first_step] = loss
        if run.steps and not isfinite(loss):
            fail(run, slot)
            return
    taken(space, slot, 1 - parity)[0] = 0  # for the next segment; the one before is over
    for other in range(space.n_slots):
        owner = (slot + other) % space.n_slots
        first = space.first_task[owner]
        count = space.first_task[owner + 1] - first
        first += count * segment // run.update_segments
        count = space.first_task[owner] + count * (segment + 1) // run.update_segments - first
        i = cymlp_take(taken(space, owner, parity))
        while i < count:
            second_phase_task(run, step, part, &space.tasks[first + i], space.scratch + slot * space.scratch_bytes)
            i = cymlp_take(taken(space, owner, parity))


# ---- Mirrored ----

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
    rule.decay = 0
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
        if slot == 0 or in_parallel:
            mirrored_update(run, net, before)
    if step < run.first_step + run.n_steps:
        mirrored_half(run, net, step, segment, slot, in_parallel)


# ---- Segments ----

cdef void run_segment(run_t *run, size_t segment, int slot, bint in_parallel) noexcept nogil:
    """A slot's share of a segment.  Slots meet at a barrier after each, so what one wrote the others see in the next."""
    cdef size_t per_part = run.forward_segments + run.update_segments, parts = run.space.parts
    cdef size_t step = run.first_step + segment // (per_part * parts), part = segment // per_part % parts
    if run.failed:
        return
    if run.space.mirrored:
        mirrored_segment(run, segment, slot, in_parallel)
    elif segment % per_part < run.forward_segments:
        first_phase(run, step, part, segment % per_part, slot)
    else:
        second_phase(run, step, part, segment % per_part - run.forward_segments, slot)


cdef size_t segments(const run_t *run) noexcept nogil:
    """Segments of all steps of a run.  Of a mirrored one the last is an update alone."""
    if run.space.mirrored:
        return run.n_steps * run.forward_segments + 1
    return run.n_steps * run.space.parts * (run.forward_segments + run.update_segments)


cdef void run_segments(run_t *run, size_t first, size_t last, bint in_parallel) noexcept nogil:
    """Segments first .. last-1 of the steps from run.first_step on: by a thread for each slot, or all by this thread."""
    cdef workspace_t *space = run.space
    cdef int slot = 0, n_slots = space.n_slots, team = cymlp_team(n_slots) if in_parallel else 1, cpu
    cdef size_t s = 0
    cdef unsigned long flush = 0
    if first == 0:
        memset(space.taken, 0, n_slots * CACHE_LINE)
    if team == 1:
        flush = flush_enter()
        for s in range(first, last):
            for slot in range(n_slots):
                run_segment(run, s, slot, False)
        flush_leave(flush)
        space.mirror_is_old = True
        return
    if space.mirrored and space.mirror_is_old:
        workspace_refresh_mirror(space, run.net)
    memset(space.arrivals, 0, n_slots * CACHE_LINE)
    cpu = cymlp_cpu()
    with parallel(num_threads=team):
        cymlp_leave_cpu(cpu)
        flush = flush_enter()
        for s in range(first, last):
            slot = threadid()
            while slot < n_slots:
                run_segment(run, s, slot, True)
                slot = slot + cymlp_team_size()
            cymlp_meet(space.arrivals, threadid(), cymlp_team_size(), s - first + 1)
        flush_leave(flush)
