# The passes that change nothing: predictions, and every layer's Z and A.  As in _passes.pyx a thread carries tiles of rows through
# all layers; where there are few rows, threads share out each layer instead.
from cython.parallel cimport parallel, prange
from libc.string cimport memcpy

from cymlp cimport _passes
from cymlp._storage cimport *
from cymlp.kernels cimport *

cdef size_t widest(const net_t *net) noexcept nogil:
    cdef size_t width = 0
    cdef int i
    for i in range(net.depth):
        width = max(width, leading_dimension(net, net.layers[i].padded))
    return width


cdef void finish_rows(const net_t *net, size_t n, char *a, size_t lda, char *out) noexcept nogil:
    """What is left to do when the output layer's rows are in `a`, which may be `out` itself."""
    cdef const layer_t *layer = &net.layers[net.depth - 1]
    cdef size_t bytes = layer.n_out * net.kernels.size, i
    if layer.act.kind == CYMLP_SOFTMAX:
        net.kernels.activate(&layer.act, n, layer.n_out, a, lda, NULL)
    if a != out:
        for i in range(n):
            memcpy(out + i * bytes, a + i * lda * net.kernels.size, bytes)


cdef void layer_norm_rows(const net_t *net, const layer_t *layer, size_t n, char *a, size_t lda) noexcept nogil:
    """From A W to the input of the activation, in place, for at most TILE_ROWS rows."""
    cdef double[TILE_ROWS] inverse      # or as many reals of the other type, which nobody reads
    net.kernels.layer_norm(n, layer.n_out, layer.norm.epsilon, a, lda, net.prediction + layer.scales,
                           net.prediction + layer.biases, a, lda, inverse)


cdef void layer_rows(const net_t *net, int l, size_t first, size_t n_out, size_t n, const char *x, size_t ldx, char *a,
                     size_t lda) noexcept nogil:
    """Some columns of one layer's output, from the start of a panel on, for some rows."""
    cdef const layer_t *layer = &net.layers[l]
    cdef size_t size = net.kernels.size
    cdef const char *weights = net.prediction + layer.weights + first * layer.n_in * size
    cdef const char *biases = net.prediction + layer.biases + first * size
    cdef cymlp_act act = layer.act
    if layer.norm.kind == LAYER_NORM:
        act.kind, biases = CYMLP_IDENTITY, NULL
    if n <= net.kernels.few_rows:
        net.kernels.dense_forward_few(n, layer.n_in, n_out, x, ldx, weights, biases, &act, a + first * size, lda)
    else:
        net.kernels.dense_forward(n, layer.n_in, n_out, x, ldx, NULL, weights, biases, &act, a + first * size, lda, NULL, NULL)
    if layer.norm.kind == LAYER_NORM:
        layer_norm_rows(net, layer, n, a, lda)
        net.kernels.activate(&layer.act, n, layer.n_out, a, lda, NULL)


cdef bint predict_rows(const net_t *net, const char *X, size_t n, char *out, bint check, char *scratch) noexcept nogil:
    """Carry rows through all layers, a tile at a time; scratch: two tiles of the widest layer.

    Where `check` is set each tile of X is looked at before it is used: False, and no more rows, after one that is not finite.
    """
    cdef size_t size = net.kernels.size, ld = widest(net), row = 0, count, ldx, lda
    cdef const layer_t *layer = &net.layers[net.depth - 1]
    cdef const char *x
    cdef char *a = NULL
    cdef int l
    cdef size_t n_out = layer.n_out
    lda = ld
    while row < n:
        count = min(TILE_ROWS, n - row)
        x, ldx = X + row * net.layers[0].n_in * size, net.layers[0].n_in
        if check and not net.kernels.is_finite(count * ldx, x):
            return False
        for l in range(net.depth):
            layer = &net.layers[l]
            a, lda = scratch + (l & 1) * min(TILE_ROWS, n) * ld * size, ld
            if l == net.depth - 1 and layer.padded == n_out:
                a, lda = out + row * n_out * size, n_out
            layer_rows(net, l, 0, layer.n_out, count, x, ldx, a, lda)
            x, ldx = a, lda
        finish_rows(net, count, a, lda, out + row * n_out * size)
        row += count
    return True


cdef bint by_columns(const net_t *net, int l, size_t n, int n_threads) noexcept nogil:
    """Whether threads share the columns of a layer, so that each weight is read once, rather than the rows."""
    cdef size_t panels = (net.layers[l].padded + net.kernels.panel - 1) // net.kernels.panel
    if panels < <size_t>n_threads or net.layers[l].norm.kind == LAYER_NORM:
        return False
    return n < <size_t>n_threads or panels % n_threads == 0 or panels >= <size_t>(4 * n_threads)


cdef void shared_layer(const net_t *net, int l, size_t n, const char *x, size_t ldx, char *a, size_t lda, char *out, int slot,
                       int n_threads) noexcept nogil:
    """A slot's share of one layer for all rows."""
    cdef const layer_t *layer = &net.layers[l]
    cdef size_t size = net.kernels.size, panel = net.kernels.panel, first, last
    cdef size_t panels = (layer.padded + panel - 1) // panel
    if by_columns(net, l, n, n_threads):
        first, last = panels * slot // n_threads * panel, min(panels * (slot + 1) // n_threads * panel, layer.n_out)
        if first < last:
            layer_rows(net, l, first, last - first, n, x, ldx, a, lda)
        return
    first, last = n * slot // n_threads, n * (slot + 1) // n_threads
    if first == last:
        return
    layer_rows(net, l, 0, layer.n_out, last - first, x + first * ldx * size, ldx, a + first * lda * size, lda)
    if l == net.depth - 1:
        finish_rows(net, last - first, a + first * lda * size, lda, out + first * layer.n_out * size)


cdef bint predict_shared(const net_t *net, const char *X, size_t n, char *out, int n_threads, bint check,
                         char *scratch) noexcept nogil:
    """Carry at most TILE_ROWS rows through all layers, each of which is shared out to the threads."""
    cdef size_t size = net.kernels.size, ld = widest(net), n_out = net.layers[net.depth - 1].n_out, reals = n * net.layers[0].n_in
    cdef bint direct = net.layers[net.depth - 1].padded == n_out, last_by_columns = by_columns(net, net.depth - 1, n, n_threads)
    cdef size_t lda = n_out if direct else ld, first, last
    cdef char *z = out if direct else scratch + ((net.depth - 1) & 1) * n * ld * size
    cdef unsigned long flush = 0
    cdef int slot, l = 0, team = _passes.team(n_threads), cpu = _passes.current_cpu()
    cdef bint found = False
    cdef bint *bad = &found         # whoever writes writes True
    with parallel(num_threads=team):
        _passes.leave_cpu(cpu)
        flush = flush_enter()
        for l in range(net.depth):
            for slot in prange(n_threads, schedule="static", chunksize=1):
                if check and l == 0:
                    first = reals * slot // n_threads
                    last = reals * (slot + 1) // n_threads
                    if not net.kernels.is_finite(last - first, X + first * size):
                        bad[0] = True
                shared_layer(net, l, n, <const char *>scratch + (~l & 1) * n * ld * size if l else X,
                             ld if l else net.layers[0].n_in, scratch + (l & 1) * n * ld * size if l < net.depth - 1 else z,
                             ld if l < net.depth - 1 else lda, out, slot, n_threads)
        if last_by_columns:
            for slot in prange(n_threads, schedule="static", chunksize=1):
                first = n * slot // n_threads
                last = n * (slot + 1) // n_threads
                finish_rows(net, last - first, z + first * lda * size, lda, out + first * n_out * size)
        flush_leave(flush)
    return not found


cdef size_t predict_bytes(const net_t *net, size_t n, int n_threads) noexcept nogil:
    """What `predict` needs as scratch."""
    return n_threads * 2 * min(TILE_ROWS, n) * widest(net) * net.kernels.size


cdef bint predict(const net_t *net, const char *X, size_t n, char *out, int n_threads, bint check, char *scratch) noexcept nogil:
    """Output activations (n, n_out) of X (n, n_in).  False where X was to be checked and is not finite: `out` is incomplete."""
    cdef size_t size = net.kernels.size, bytes = 2 * min(TILE_ROWS, n) * widest(net) * size, first, last
    cdef unsigned long flush
    cdef int slot, team, cpu, bad = 0
    if n_threads == 1:
        flush = flush_enter()
        bad = not predict_rows(net, X, n, out, check, scratch)
        flush_leave(flush)
        return not bad
    if n <= TILE_ROWS:
        return predict_shared(net, X, n, out, n_threads, check, scratch)
    team, cpu = _passes.team(n_threads), _passes.current_cpu()
    for slot in prange(n_threads, num_threads=team, schedule="static", chunksize=1):
        _passes.leave_cpu(cpu)
        first = n * slot // n_threads
        last = n * (slot + 1) // n_threads
        flush = flush_enter()
        bad += not predict_rows(net, X + first * net.layers[0].n_in * size, last - first,
                                out + first * net.layers[net.depth - 1].n_out * size, check, scratch + slot * bytes)
        flush_leave(flush)
    return bad == 0


cdef void forward_rows(const net_t *net, const char *X, size_t first, size_t last, char **Z, char **A,
                       char *scratch) noexcept nogil:
    """Z and A (n, n_out) of every layer, for some rows; scratch: one tile of the widest layer."""
    cdef size_t size = net.kernels.size, ld = widest(net), row = first, count, i
    cdef const layer_t *layer
    cdef const char *x
    cdef cymlp_act linear
    cdef int l
    linear.kind = CYMLP_IDENTITY
    while row < last:
        count = min(TILE_ROWS, last - row)
        for l in range(net.depth):
            layer = &net.layers[l]
            x = (<const char *>A[l - 1] if l else X) + row * layer.n_in * size
            net.kernels.dense_forward(count, layer.n_in, layer.n_out, x, layer.n_in, NULL, net.prediction + layer.weights,
                                      NULL if layer.norm.kind == LAYER_NORM else net.prediction + layer.biases, &linear, scratch,
                                      ld, NULL, NULL)
            if layer.norm.kind == LAYER_NORM:
                layer_norm_rows(net, layer, count, scratch, ld)
            for i in range(count):
                memcpy(Z[l] + (row + i) * layer.n_out * size, scratch + i * ld * size, layer.n_out * size)
            net.kernels.activate(&layer.act, count, layer.n_out, scratch, ld, NULL)
            for i in range(count):
                memcpy(A[l] + (row + i) * layer.n_out * size, scratch + i * ld * size, layer.n_out * size)
        row += count


cdef bint forward(const net_t *net, const char *X, size_t first, size_t last, char **Z, char **A, int n_threads) noexcept nogil:
    """Z and A of every layer, for rows first .. last-1.  False where memory ran out."""
    cdef size_t bytes = TILE_ROWS * widest(net) * net.kernels.size, n = last - first
    cdef char *scratch = allocate(n_threads * bytes)
    cdef unsigned long flush
    cdef int slot, team = _passes.team(n_threads), cpu = _passes.current_cpu()
    if not scratch:
        return False
    for slot in prange(n_threads, num_threads=team, schedule="static", chunksize=1):
        _passes.leave_cpu(cpu)
        flush = flush_enter()
        forward_rows(net, X, first + n * slot // n_threads, first + n * (slot + 1) // n_threads, Z, A, scratch + slot * bytes)
        flush_leave(flush)
    release(scratch)
    return True
