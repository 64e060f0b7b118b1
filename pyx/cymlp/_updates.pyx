# The phases of a training step in which threads own blocks of weights.
#
# In the second phase a block's gradient is summed over the whole minibatch in registers and handed to the optimiser at once.
# Where the gradient has to be known as a whole before the optimiser's step (its norm is to be clipped, or told), it is gathered
# instead, and a third phase takes the step.  A limit of the norms of units' weights is one more phase, as a unit's weights can have
# several owners.
from libc.math cimport isfinite, sqrt
from libc.string cimport memcpy

from cymlp._stages cimport part_start
from cymlp._storage cimport *
from cymlp._tiles cimport *
from cymlp.kernels cimport *

cdef extern from * nogil:
    size_t fetch_add "__atomic_fetch_add"(size_t *counter, size_t more, int order)
    int RELAXED "__ATOMIC_RELAXED"


# ---- Sums over pieces of parameters, in order, whoever has made them ----

cdef void take_penalty(const run_t *run, size_t step) noexcept nogil:
    """Write down the penalty of minibatch `step`, which is over."""
    cdef double total = 0
    cdef size_t i
    if run.steps and not run.space.mirrored and is_penalized(&run.steps[step - run.first_step]):
        for i in range(run.net.n_pieces):
            total += run.space.penalties[i]
        run.penalty[step - run.first_step] = total


cdef bint take_norm(const run_t *run, size_t step, int slot) noexcept nogil:
    """The norm of a gathered gradient, and by what each layer's has to be multiplied.  False where it is not finite."""
    cdef const net_t *net = run.net
    cdef const workspace_t *space = run.space
    cdef double *factors = space.factors + slot * net.depth
    cdef double total = 0, of_layer
    cdef size_t i, end
    cdef int l
    for l in range(net.depth):
        of_layer = 0
        end = net.layers[l + 1].pieces if l + 1 < net.depth else net.n_pieces
        for i in range(net.layers[l].pieces, end):
            of_layer += space.squares[i]
        factors[l] = clip_factor(sqrt(of_layer), run.regime.limit) if run.regime.clipping == CLIP_LAYER_NORM else 1
        total += of_layer
    total = sqrt(total)
    if slot == 0:
        run.norm[step - run.first_step] = total
    if run.regime.clipping == CLIP_NORM:
        for l in range(net.depth):
            factors[l] = clip_factor(total, run.regime.limit)
    return isfinite(total)


# ---- Blocks of weights ----

cdef size_t task_place(const net_t *net, const task_t *task, size_t n) noexcept nogil:
    """Where in a packed vector a task's weights in the panel from its column n on begin."""
    cdef const layer_t *layer = &net.layers[task.layer]
    cdef size_t width = min(net.kernels.panel, task.width - n)
    return layer.weights + ((task.n0 + n) * layer.n_in + task.k0 * width) * net.kernels.size


cdef size_t sums_place(const net_t *net, const task_t *task) noexcept nogil:
    """Where a task has a place for its gradient of weights, one panel after another, in workspace_t.sums."""
    cdef const layer_t *layer = &net.layers[task.layer]
    return layer.weights + (task.n0 * layer.n_in + task.k0 * task.width) * net.kernels.size


cdef void take_pieces(const net_t *net, const cymlp_step *rule, double *pieces, const task_t *task, size_t n, size_t width,
                      const char *x) noexcept nogil:
    """The sums of squares, or the penalties by a rule, of a task's pieces in the panel `width` wide from its column n on."""
    cdef size_t rows = PIECE_ROWS, bytes = rows * width * net.kernels.size, i, reals
    pieces += piece_at(net, &net.layers[task.layer], task.k0, task.n0 + n)
    for i in range((task.count + rows - 1) // rows):
        reals = min(rows, task.count - i * rows) * width
        if rule:
            pieces[i] = penalty_of(net, rule, reals, x + i * bytes)
        else:
            pieces[i] = net.kernels.sum_of_squares(reals, x + i * bytes)


cdef void vector_gradient(const run_t *run, size_t step, size_t part, const task_t *task, bint of_scales, char *g) noexcept nogil:
    """The gradient of the biases of a task's columns, or of their scales."""
    cdef const workspace_t *space = run.space
    cdef const cymlp_kernels *kernels = run.net.kernels
    cdef const layer_t *layer = &run.net.layers[task.layer]
    cdef size_t rows = part_start(run, step, part + 1) - part_start(run, step, part), at = task.n0 * kernels.size
    if layer.norm.kind == NO_NORM:
        kernels.bias_gradient(rows, task.width, space.gradients[task.layer] + at, space.ld[task.layer], g, part > 0)
        return
    kernels.bias_gradient((rows + CHUNK_ROWS - 1) // CHUNK_ROWS, task.width, space.chunk_sums[2 * task.layer + of_scales] + at,
                          layer.padded, g, 0)


cdef void expect_parameters(const net_t *net, const task_t *task, cymlp_ahead *ahead) noexcept nogil:
    """What the optimiser reads of a task after its gradient."""
    cdef size_t n = 0, width, at, bytes
    while n < task.width:
        width = min(net.kernels.panel, task.width - n)
        at, bytes = task_place(net, task, n), task.count * width * net.kernels.size
        expect(ahead, net.parameters + at, bytes)
        expect(ahead, net.moments[0] + at if net.moments[0] else NULL, bytes)
        expect(ahead, net.moments[1] + at if net.moments[1] else NULL, bytes)
        n += width


cdef void update(const run_t *run, const cymlp_step *rule, size_t at, size_t count, char *g) noexcept nogil:
    """The optimiser's step with the gradient of some packed parameters, `at` bytes into them."""
    cdef const net_t *net = run.net
    if run.regime.clipping == CLIP_VALUE:
        net.kernels.clip(count, run.regime.limit, g)
    net.kernels.update(rule, count, net.parameters + at, g, NULL, net.moments[0] + at if net.moments[0] else NULL,
                       net.moments[1] + at if net.moments[1] else NULL)


cdef void finish_panels(const run_t *run, size_t step, const task_t *task, char *g, double factor) noexcept nogil:
    """What is done with a task's gradient of weights: panels (count, panel width) one after another."""
    cdef const net_t *net = run.net
    cdef const layer_t *layer = &net.layers[task.layer]
    cdef const cymlp_step *rule = &run.steps[step - run.first_step] if run.steps else NULL
    cdef size_t size = net.kernels.size, n = 0, width, at
    while n < task.width:
        width, at = min(net.kernels.panel, task.width - n), task_place(net, task, n)
        if not rule:
            memcpy(run.gradient + at, g, task.count * width * size)
        else:
            if is_penalized(rule):
                take_pieces(net, rule, run.space.penalties, task, n, width, net.parameters + at)
            if factor != 1:
                net.kernels.scale(task.count * width, factor, g)
            update(run, rule, at, task.count * width, g)
            if task.layer:
                net.kernels.repack_transposed(layer.n_in, layer.n_out, task.k0, task.count, task.n0 + n,
                                              net.parameters + layer.weights, net.transposed + layer.transposed)
        g += task.count * width * size
        n += width


cdef void finish_vector(const run_t *run, size_t step, const task_t *task, bint of_scales, char *g, double factor) noexcept nogil:
    """What is done with the gradient of the biases, or the scales, of a task's columns."""
    cdef const net_t *net = run.net
    cdef const layer_t *layer = &net.layers[task.layer]
    cdef size_t size = net.kernels.size, at = (layer.scales if of_scales else layer.biases) + task.n0 * size, n = 0, width
    cdef cymlp_step rule
    if not run.steps:
        memcpy(run.gradient + at, g, task.width * size)
        return
    rule = run.steps[step - run.first_step]
    if not run.regime.of_biases:
        rule.decay = rule.l2 = rule.l1 = 0
    while n < task.width and is_penalized(&run.steps[step - run.first_step]):
        width = min(net.kernels.panel, task.width - n)
        run.space.penalties[vector_piece(net, layer, task.n0 + n, of_scales)] = penalty_of(net, &rule, width,
                                                                                         net.parameters + at + n * size)
        n += width
    if factor != 1:
        net.kernels.scale(task.width, factor, g)
    update(run, &rule, at, task.width, g)


# ---- Phases, of one task ----

cdef void gradient_task(const run_t *run, size_t step, size_t part, const task_t *task, char *scratch) noexcept nogil:
    """The gradient of one block of weights, and of its columns' biases and scales with their first block.

    Of a minibatch in several parts each adds to the gradient, which has a place of its own then.  The last part hands it to the
    optimiser, unless it is gathered.
    """
    cdef net_t *net = run.net
    cdef const workspace_t *space = run.space
    cdef const cymlp_kernels *kernels = net.kernels
    cdef const layer_t *layer = &net.layers[task.layer]
    cdef size_t size = kernels.size, rows = part_start(run, step, part + 1) - part_start(run, step, part)
    cdef size_t lda = 0, ld = space.ld[task.layer], n = 0, width
    cdef bint is_last = part + 1 == space.parts, gathers = space.plan.gathers and run.steps != NULL
    cdef char *g = scratch
    cdef char *vector
    cdef const char *a = NULL
    cdef const void **examples = NULL
    cdef int which
    cdef cymlp_ahead ahead
    ahead.count = 0
    if task.layer:
        a, lda = space.outputs[task.layer - 1], space.ld[task.layer - 1]
    else:
        first_input(run, 0, &a, &lda, &examples)
    if space.sums:
        g = space.sums + sums_place(net, task)
    if is_last and run.steps != NULL and task.layer > 0 and not gathers:
        expect_parameters(net, task, &ahead)
    kernels.weight_gradient(rows, task.count, min(task.width, layer.n_out - task.n0), a, lda, examples, task.k0,
                            space.gradients[task.layer] + task.n0 * size, ld, g, kernels.panel * task.count, part > 0, &ahead)
    if is_last and not gathers:
        finish_panels(run, step, task, g, 1)
    while gathers and is_last and n < task.width:
        width = min(kernels.panel, task.width - n)
        take_pieces(net, NULL, space.squares, task, n, width, g + n * task.count * size)
        n += width
    for which in range(0 if task.k0 else 1 if layer.norm.kind == NO_NORM else 2):
        vector = scratch + kernels.block_rows * kernels.block_columns * size
        if space.sums:
            vector = space.sums + (layer.scales if which else layer.biases) + task.n0 * size
        vector_gradient(run, step, part, task, which, vector)
        if is_last and not gathers:
            finish_vector(run, step, task, which, vector, 1)
        n = 0
        while gathers and is_last and n < task.width:
            width = min(kernels.panel, task.width - n)
            space.squares[vector_piece(net, layer, task.n0 + n, which)] = kernels.sum_of_squares(width, vector + n * size)
            n += width


cdef void gathered_task(const run_t *run, size_t step, const task_t *task, double factor) noexcept nogil:
    """The optimiser's step with a block of a gathered gradient."""
    cdef const net_t *net = run.net
    cdef const layer_t *layer = &net.layers[task.layer]
    cdef size_t size = net.kernels.size
    cdef char *sums = run.space.sums
    finish_panels(run, step, task, sums + sums_place(net, task), factor)
    if task.k0 == 0:
        finish_vector(run, step, task, False, sums + layer.biases + task.n0 * size, factor)
        if layer.norm.kind != NO_NORM:
            finish_vector(run, step, task, True, sums + layer.scales + task.n0 * size, factor)


cdef void limit_task(const run_t *run, const task_t *task) noexcept nogil:
    """Limit the norms of the weights of a task's columns, all rows of them with their first block."""
    cdef const net_t *net = run.net
    cdef const layer_t *layer = &net.layers[task.layer]
    cdef size_t n = task.n0, width
    while task.k0 == 0 and n < task.n0 + task.width:
        width = min(net.kernels.panel, task.n0 + task.width - n)
        net.kernels.limit_columns(layer.n_in, width, run.regime.max_norm,
                                  net.parameters + layer.weights + n * layer.n_in * net.kernels.size)
        if task.layer:
            net.kernels.repack_transposed(layer.n_in, layer.n_out, 0, layer.n_in, n, net.parameters + layer.weights,
                                          net.transposed + layer.transposed)
        n += width


# ---- Phases, of all tasks ----

cdef size_t *taken(const workspace_t *space, int slot, size_t parity) noexcept nogil:
    """How many of a slot's tasks are taken in a segment of these phases."""
    return <size_t *>(space.taken + slot * CACHE_LINE) + parity


cdef bint begin_phase(run_t *run, size_t step, size_t part, size_t phase, int slot) noexcept nogil:
    """Whether a slot has anything to do: a minibatch whose loss or gradient is not finite ends the run.

    All slots sum the loss, in the same order, so that all agree; slot 0 writes it down.
    """
    cdef const workspace_t *space = run.space
    cdef double loss = 0
    cdef size_t i
    if part + 1 < space.parts:
        return phase == 0
    if phase == 0:
        for i in range(batch_rows(run, step)):
            loss += space.row_loss[i]
        if slot == 0:
            run.loss[step - run.first_step] = loss
        if run.steps and not isfinite(loss):
            fail(run, slot)
            return False
    elif phase == 1 and space.plan.gathers and not take_norm(run, step, slot) and clips_norms(run):
        fail(run, slot)
        return False
    return True


cdef void update_phase(run_t *run, size_t step, size_t part, size_t phase, size_t segment, int slot) noexcept nogil:
    """A slot's share of one segment of a phase, for a part of minibatch `step`: gradients, steps with gathered ones, limits.

    A slot that has done its own tasks takes those that another one has not begun: blocks do not cost exactly what their sizes say,
    and a core may be slowed down by somebody else.
    """
    cdef const workspace_t *space = run.space
    cdef size_t first, count, i, number = ((step - run.first_step) * space.parts + part) * run.phases + phase
    cdef size_t parity = (number * run.update_segments + segment) & 1
    cdef const task_t *task
    cdef int other, owner
    taken(space, slot, 1 - parity)[0] = 0  # for the next segment; the one before is over
    if not begin_phase(run, step, part, phase, slot):
        return
    for other in range(space.n_slots):
        owner = (slot + other) % space.n_slots
        first = space.first_task[owner]
        count = space.first_task[owner + 1] - first
        first += count * segment // run.update_segments
        count = space.first_task[owner] + count * (segment + 1) // run.update_segments - first
        i = fetch_add(taken(space, owner, parity), 1, RELAXED)
        while i < count:
            task = &space.tasks[first + i]
            if phase == 0:
                gradient_task(run, step, part, task, space.scratch + slot * space.scratch_bytes)
            elif phase == 1 and space.plan.gathers:
                gathered_task(run, step, task, space.factors[slot * run.net.depth + task.layer])
            else:
                limit_task(run, task)
            i = fetch_add(taken(space, owner, parity), 1, RELAXED)
