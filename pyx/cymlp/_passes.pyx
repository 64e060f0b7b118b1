# The passes of training: segments, and threads for them.  Only this file and _predictions.pyx open threads; the arithmetic is in
# kernels/.
#
# A training step has two phases.  In the first, every thread carries tiles of rows through all layers forward, the loss, and
# all gradients of inputs back: a row depends on no other row.  In the second, every thread owns blocks of weights: a block's
# gradient is summed over the whole minibatch in registers and handed to the optimiser at once.  No sum is ever split between
# threads, so the bits do not depend on their number; and nothing but the two barriers is waited for.
#
# Runs of small networks are mirrored instead: _mirrored.pyx.
from cython.parallel cimport parallel, prange, threadid
from libc.math cimport isfinite
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from cymlp._mirrored cimport mirrored_segment
from cymlp._storage cimport *
from cymlp._tiles cimport *
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


# ---- Workspace ----

cdef bint prepare_workspace(workspace_t *space, const net_t *net, size_t batch, int n_threads, bint mirrored) noexcept nogil:
    """False where memory ran out."""
    if mirrored:
        return workspace_create(space, net, 2 * min((batch + 1) // 2, <size_t>TILE_ROWS), 2, True)
    return workspace_create(space, net, batch, n_threads, False)


# ---- Two phases ----

cdef size_t part_start(const run_t *run, size_t step, size_t part) noexcept nogil:
    """The first row of a part of minibatch `step`: parts are of about the same height."""
    return batch_rows(run, step) * part // run.space.parts


cdef void take_squares(const run_t *run, size_t step) noexcept nogil:
    """Write down the sum of the squares of minibatch `step`, which is over: pieces in order, whoever has summed them up."""
    cdef double total = 0
    cdef size_t i
    if run.steps and run.steps[step - run.first_step].l2 != 0:
        for i in range(run.net.n_pieces):
            total += run.space.squares[i]
        run.squares[step - run.first_step] = total


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
        rule.decay = rule.l2 = 0
    net.kernels.update(&rule, count, net.parameters + at, g, NULL, net.moments[0] + at if net.moments[0] else NULL,
                       net.moments[1] + at if net.moments[1] else NULL)


cdef void sum_squares(const workspace_t *space, const net_t *net, const task_t *task, size_t n, size_t width,
                      const char *weights) noexcept nogil:
    """Those of a task's weights in the panel `width` wide from its column n on, which the optimiser reads next."""
    cdef double *squares = space.squares + piece_at(net, &net.layers[task.layer], task.k0, task.n0 + n)
    cdef size_t rows = PIECE_ROWS, bytes = rows * width * net.kernels.size, i
    for i in range((task.count + rows - 1) // rows):
        squares[i] = net.kernels.sum_of_squares(min(rows, task.count - i * rows) * width, weights + i * bytes)


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
    cdef bint penalized = run.steps != NULL and run.steps[step - run.first_step].l2 != 0
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
        if penalized:
            sum_squares(space, net, task, n, width, net.parameters + weights)
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


# ---- Segments ----

cdef void run_segment(run_t *run, size_t segment, int slot, bint in_parallel) noexcept nogil:
    """A slot's share of a segment.  Slots meet at a barrier after each, so what one wrote the others see in the next."""
    cdef size_t per_part = run.forward_segments + run.update_segments, parts = run.space.parts
    cdef size_t step = run.first_step + segment // (per_part * parts), part = segment // per_part % parts
    if run.failed:
        return
    if run.space.mirrored:
        mirrored_segment(run, segment, slot, in_parallel)
        return
    if slot == 0 and segment > 0 and segment % (per_part * parts) == 0:
        take_squares(run, step - 1)
    if step == run.first_step + run.n_steps:
        return
    if segment % per_part < run.forward_segments:
        first_phase(run, step, part, segment % per_part, slot)
    else:
        second_phase(run, step, part, segment % per_part - run.forward_segments, slot)


cdef size_t segments(const run_t *run) noexcept nogil:
    """Segments of all steps of a run, and one for what is left: the update of a mirrored one, the squares of others."""
    if run.space.mirrored:
        return run.n_steps * run.forward_segments + 1
    return run.n_steps * run.space.parts * (run.forward_segments + run.update_segments) + 1


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
