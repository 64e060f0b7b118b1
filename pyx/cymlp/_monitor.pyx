# What is told of a minibatch while it trains: collected in the passes, where its numbers are in a cache.
from libc.math cimport INFINITY, NAN, floor, sqrt
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from cymlp._storage cimport *
from cymlp.kernels cimport *

cdef extern from *:
    # Saturated: the derivative is less than 5 % of its largest, 1 - a^2 < 0.05 of tanh and 4 a (1 - a) < 0.05 of the sigmoid.
    """
    #define CYMLP_SATURATED 0.97467943448089639 /* sqrt(0.95) */
    """
    double SATURATED_FROM "CYMLP_SATURATED"

# Units are twins where two projections of their weights differ by less than this part of the layer's root mean square: beyond
# what rounding makes of equal ones, and by chance less than one pair in 10^9.
cdef double SAME = 1e-5


# ---- Room -----------------------------------------------------------------------------------------------------------------------

cdef size_t width_of(const net_t *net, int l) noexcept nogil:
    """Units of layer l, 0 for the inputs."""
    return net.layers[l - 1].n_out if l else net.layers[0].n_in


cdef size_t lay_out(monitor_t *monitor, const net_t *net, char *arena) noexcept nogil:
    """Point everything into an arena and return its size; without an arena only the size is of use."""
    cdef size_t size = net.kernels.size
    cdef char *cursor = arena
    cdef char *piece
    cdef int l, i
    monitor.activations = <double *>carve(&cursor, (net.depth + 1) * monitor.rows * sizeof(double))
    monitor.gradients = <double *>carve(&cursor, net.depth * monitor.rows * sizeof(double))
    monitor.gains = <double *>carve(&cursor, net.depth * sizeof(double))
    monitor.count_bytes = (2 * net.depth * sizeof(double) + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE
    monitor.counts = <double *>carve(&cursor, monitor.n_slots * monitor.count_bytes)
    monitor.largest = <char **>carve(&cursor, monitor.n_slots * net.depth * sizeof(char *))
    for i in range(monitor.n_slots):
        for l in range(net.depth):
            piece = carve(&cursor, padded(net, width_of(net, l)) * size)
            if arena:
                monitor.largest[i * net.depth + l] = piece
    monitor.input_ld = monitor.output_ld = 0
    for l in range(net.depth):
        monitor.input_ld = max(monitor.input_ld, padded(net, net.layers[l].n_in))
        monitor.output_ld = max(monitor.output_ld, net.layers[l].padded)
    monitor.directions = carve(&cursor, 2 * monitor.input_ld * size)
    monitor.projections = carve(&cursor, 2 * monitor.output_ld * size)
    monitor.before = carve(&cursor, net.packed_bytes)
    return cursor - arena


cdef bint monitor_create(monitor_t *monitor, const net_t *net, size_t rows, int n_slots) noexcept nogil:
    """False where memory ran out."""
    cdef double at
    cdef size_t i, k
    memset(monitor, 0, sizeof(monitor_t))
    monitor.rows, monitor.n_slots = rows, n_slots
    monitor.arena = allocate(lay_out(monitor, net, NULL))
    if not monitor.arena:
        return False
    lay_out(monitor, net, monitor.arena)
    for k in range(2):
        for i in range(monitor.input_ld):
            # Evenly spread over [0.5, 1.5), each in an order of its own (Weyl's sequences).
            at = (i + 1) * (0.7548776662466927 if k else 0.6180339887498949)
            at += 0.5 - floor(at)
            if net.kernels.size == sizeof(double):
                (<double *>monitor.directions)[k * monitor.input_ld + i] = at
            else:
                (<float *>monitor.directions)[k * monitor.input_ld + i] = at
    return True


cdef void monitor_destroy(monitor_t *monitor) noexcept nogil:
    free(monitor.arena)
    memset(monitor, 0, sizeof(monitor_t))


# ---- Of parameters --------------------------------------------------------------------------------------------------------------

cdef size_t twins(const monitor_t *monitor, const net_t *net, int l) noexcept nogil:
    """How many units of layer l (from 0) have a twin."""
    cdef const cymlp_kernels *kernels = net.kernels
    cdef const layer_t *layer = &net.layers[l]
    cdef char *row
    cdef int i
    cdef cymlp_act linear
    linear.kind = CYMLP_IDENTITY
    kernels.dense_forward(2, layer.n_in, layer.n_out, monitor.directions, monitor.input_ld, NULL, net.parameters + layer.weights,
                          net.parameters + layer.biases, &linear, monitor.projections, monitor.output_ld, NULL, NULL)
    for i in range(2 if layer.norm.kind != NO_NORM else 0):
        row = monitor.projections + i * monitor.output_ld * kernels.size
        kernels.add(layer.padded, row, net.parameters + layer.scales, row)
    return kernels.twins(layer.n_out, monitor.projections, monitor.output_ld, SAME)


cdef void monitor_begin(monitor_t *monitor, const net_t *net, bint updates, double *record) noexcept nogil:
    """Before the minibatch: what is told of the parameters that it meets."""
    cdef const layer_t *layer
    cdef double *row
    cdef int l, i
    for i in range((net.depth + 1) * MONITORED):
        record[i] = NAN
    for l in range(net.depth):
        layer, row = &net.layers[l], record + (l + 1) * MONITORED
        row[WEIGHT] = sqrt(net.kernels.exact_squares(layer.n_in * layer.padded, net.parameters + layer.weights, NULL))
        row[TWINS] = <double>twins(monitor, net, l) / layer.n_out
    if updates:
        memcpy(monitor.before, net.parameters, net.packed_bytes)
    memset(monitor.counts, 0, monitor.n_slots * monitor.count_bytes)
    for i in range(monitor.n_slots):
        for l in range(net.depth):
            memset(monitor.largest[i * net.depth + l], 0, padded(net, width_of(net, l)) * net.kernels.size)


# ---- Of rows --------------------------------------------------------------------------------------------------------------------

cdef void row_squares(const net_t *net, size_t count, size_t n, const char *x, size_t ld, const void **examples,
                      double *sums) noexcept nogil:
    cdef size_t i
    for i in range(count):
        sums[i] = net.kernels.exact_squares(n, examples[i] if examples else x + i * ld * net.kernels.size, NULL)


cdef void monitor_outputs(const monitor_t *monitor, const net_t *net, size_t row, size_t count, const char *z,
                          size_t ld) noexcept nogil:
    """The last layer's Z, for `count` rows of the minibatch from `row` on, before it becomes a gradient."""
    row_squares(net, count, width_of(net, net.depth), z, ld, NULL, monitor.activations + net.depth * monitor.rows + row)


cdef void monitor_tile(const monitor_t *monitor, const net_t *net, const workspace_t *space, size_t row, size_t count, size_t place,
                       int slot) noexcept nogil:
    """Inputs, activations and gradients of `count` rows from `row` on, which are kept at `place`."""
    cdef double *counts = <double *>(<char *>monitor.counts + slot * monitor.count_bytes)
    cdef const char *a
    cdef const void **examples
    cdef size_t ld, n, size = net.kernels.size
    cdef double middle, reach
    cdef int l, kind
    for l in range(net.depth):
        n, examples, middle, reach = width_of(net, l), NULL, 0, INFINITY
        if l == 0 and not space.inputs:
            a, ld, examples = NULL, 0, space.examples + place
        elif l == 0:
            a, ld = space.inputs + place * space.input_ld * size, space.input_ld
        else:
            ld, kind = space.ld[l - 1], net.layers[l - 1].act.kind
            a = space.outputs[l - 1] + place * ld * size
            if kind == CYMLP_TANH:
                reach = SATURATED_FROM * monitor.gains[l]
            elif kind == CYMLP_SIGMOID:
                middle, reach = 0.5 * monitor.gains[l], 0.5 * SATURATED_FROM * monitor.gains[l]
        row_squares(net, count, n, a, ld, examples, monitor.activations + l * monitor.rows + row)
        net.kernels.look_at_units(count, n, a, ld, examples, middle, reach, monitor.largest[slot * net.depth + l], counts + 2 * l)
        row_squares(net, count, net.layers[l].n_out, space.gradients[l] + place * space.ld[l] * size, space.ld[l], NULL,
                    monitor.gradients + l * monitor.rows + row)


# ---- The end --------------------------------------------------------------------------------------------------------------------

cdef double mean(const double *sums, size_t rows, size_t n) noexcept nogil:
    cdef double total = 0
    cdef size_t i
    for i in range(rows):
        total += sums[i]
    return total / rows / n


cdef double dead(const monitor_t *monitor, const net_t *net, int l) noexcept nogil:
    """The share of the units of layer l that were 0 in all rows."""
    cdef size_t size = net.kernels.size, n = width_of(net, l), j, found = 0
    cdef bint alive
    cdef const char *at
    cdef int i
    for j in range(n):
        alive = False
        for i in range(monitor.n_slots):
            at = monitor.largest[i * net.depth + l] + j * size
            alive = alive or ((<const double *>at)[0] if size == sizeof(double) else (<const float *>at)[0]) != 0
        found += not alive
    return <double>found / n


cdef void monitor_end(const monitor_t *monitor, const net_t *net, size_t rows, double weight, bint updates,
                      double *record) noexcept nogil:
    """After a minibatch of `rows` rows, whose weights sum to `weight`: what its rows come to, and the step of each layer."""
    cdef const layer_t *layer
    cdef double *told
    cdef double zeros, saturated
    cdef const double *counts
    cdef size_t n
    cdef int l, i
    for l in range(net.depth + 1):
        n, told = width_of(net, l), record + l * MONITORED
        told[ACTIVATION] = mean(monitor.activations + l * monitor.rows, rows, n)
        if l < net.depth:
            zeros = saturated = 0
            for i in range(monitor.n_slots):
                counts = <const double *>(<const char *>monitor.counts + i * monitor.count_bytes) + 2 * l
                zeros, saturated = zeros + counts[0], saturated + counts[1]
            told[ZERO], told[DEAD] = zeros / rows / n, dead(monitor, net, l)
            told[SATURATED] = saturated / (<double>rows * n - zeros) if saturated > 0 else 0
        if l > 0:
            layer = &net.layers[l - 1]
            told[GRADIENT] = mean(monitor.gradients + (l - 1) * monitor.rows, rows, n) * weight * weight
            told[UPDATE] = 0
            if updates:
                told[UPDATE] = sqrt(net.kernels.exact_squares(layer.n_in * layer.padded, net.parameters + layer.weights,
                                                              monitor.before + layer.weights))
