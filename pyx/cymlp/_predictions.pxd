# The passes that change nothing, for _engine.
from cymlp._storage cimport net_t

cdef size_t predict_bytes(const net_t *net, size_t n, int n_threads) noexcept nogil
cdef bint predict(const net_t *net, const char *X, size_t n, char *out, int n_threads, bint check, char *scratch) noexcept nogil
cdef bint forward(const net_t *net, const char *X, size_t first, size_t last, char **Z, char **A, int n_threads) noexcept nogil
