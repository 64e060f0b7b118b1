# What is told of a minibatch while it trains, for _tiles, _stages, _mirrored and _engine; engine.py says what a record holds.
from cymlp._storage cimport net_t, workspace_t

cdef enum:
    # The columns of a record.
    ACTIVATION, GRADIENT, ZERO, DEAD, SATURATED, WEIGHT, UPDATE, TWINS, MONITORED

# Of one minibatch.  Rows are summed one by one and units looked at by each slot for itself, so that it does not matter who has
# which; all of it is put together after the minibatch.
cdef struct monitor_t:
    char *arena                 # holds all that follows
    size_t rows                 # room for so many
    int n_slots
    double *activations         # (depth + 1, rows) sums of squares of each row: of inputs, of each hidden A, of the last Z
    double *gradients           # (depth, rows) the same of each layer's gradient
    double *gains               # (depth,) what dropout multiplies by what it keeps: of inputs, of each hidden A
    double *counts              # for each slot count_bytes: (depth, 2) numbers of zeros, and of saturated ones
    size_t count_bytes
    char **largest              # (n_slots, depth) the largest magnitude of each unit
    char *directions            # (2, input_ld) what incoming weights are projected on
    size_t input_ld
    char *projections           # (2, output_ld)
    size_t output_ld
    char *before                # a packed vector: parameters before the step

cdef bint monitor_create(monitor_t *monitor, const net_t *net, size_t rows, int n_slots) noexcept nogil
cdef void monitor_destroy(monitor_t *monitor) noexcept nogil
cdef void monitor_begin(monitor_t *monitor, const net_t *net, bint updates, double *record) noexcept nogil
cdef void monitor_outputs(const monitor_t *monitor, const net_t *net, size_t row, size_t count, const char *z,
                          size_t ld) noexcept nogil
cdef void monitor_tile(const monitor_t *monitor, const net_t *net, const workspace_t *space, size_t row, size_t count, size_t place,
                       int slot) noexcept nogil
cdef void monitor_end(const monitor_t *monitor, const net_t *net, size_t rows, double weight, bint updates,
                      double *record) noexcept nogil
