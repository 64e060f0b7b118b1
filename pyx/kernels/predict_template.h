/*
 * predict_template.h - what only predictions need: products with few rows, and a look at the rows on their way into the cache.
 *
 * Included once per (real type, instruction set) by instantiate.h, after matmul_template.h.  Parameters: REAL, LANES and NAME as
 * there.
 */

/* Accumulators of a sum of which only one bit is of interest: enough to add one vector per cycle, at a latency of 4. */
#define SUMS 4

/* x * 0 is 0 for every finite x and NaN for all others, and a sum keeps NaN. */
static int NAME(is_finite)(size_t n, const void *X)
{
    const REAL *x = X;
    NAME(vec) sums[SUMS] = {{ 0 }}, total;
    REAL rest = 0, lanes[LANES];
    size_t i = 0;
    for (; i + SUMS * LANES <= n; i += SUMS * LANES)
        for (int j = 0; j < SUMS; j++)
            sums[j] += *(const NAME(vec) *)(x + i + j * LANES) * 0;
    for (; i < n; i++)
        rest += x[i] * 0;
    total = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    memcpy(lanes, &total, sizeof lanes);
    for (int j = 0; j < LANES; j++)
        rest += lanes[j];
    return rest == 0;
}

#undef SUMS

/*
 * With few rows the weights do not come from a cache near by, and what counts is how fast they stream.  A core streams several
 * panels at once faster than one: its prefetchers follow several streams, none of which ends soon.  As many panels as keep at most
 * 24 accumulators (12 with 16 registers): 4 for one row, 2 for two or three.
 */
#define STREAMS(mr) ((mr) == 1 ? 4 : 2)

/* C (mr rows, `panels` full panels) = start + A B over `depth`: the sums are those of NAME(tile), in the same order. */
static inline __attribute__((always_inline)) void NAME(streams)(int mr, int panels, size_t depth, const REAL *a, size_t lda,
                                                                const REAL *b, size_t stride, const REAL *start,
                                                                size_t start_ld, REAL *c, size_t ldc)
{
    NAME(vec) acc[FEW_ROWS][STREAMS(1) * TILE_NV];
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int j = 0; j < panels * TILE_NV; j++)
            acc[i][j] = (NAME(vec)){ 0 };
    for (size_t k = 0; k < depth; k++, b += PANEL)
        UNROLL for (int j = 0; j < panels * TILE_NV; j++) {
            const NAME(vec) row = *(const NAME(vec) *)(b + j / TILE_NV * stride + j % TILE_NV * LANES);
            UNROLL for (int i = 0; i < mr; i++)
                acc[i][j] += a[i * lda + k] * row;
        }
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int j = 0; j < panels * TILE_NV; j++)
            *(NAME(vec) *)(c + i * ldc + j * LANES) = *(const NAME(vec) *)(start + i * start_ld + j * LANES) + acc[i][j];
}

#define STREAMED(mr) \
    static void NAME(streams_##mr)(size_t depth, const REAL *a, size_t lda, const REAL *b, size_t stride, const REAL *start, \
                                   size_t start_ld, REAL *c, size_t ldc) \
    { NAME(streams)(mr, STREAMS(mr), depth, a, lda, b, stride, start, start_ld, c, ldc); }
STREAMED(1) STREAMED(2) STREAMED(3)

static void NAME(dense_forward_few)(size_t rows, size_t n_in, size_t n_out, const void *X, size_t ldx, const void *W,
                                    const void *b, const cymlp_act *act, void *A, size_t lda)
{
    static void (*const streams[FEW_ROWS])(size_t, const REAL *, size_t, const REAL *, size_t, const REAL *, size_t, REAL *,
                                           size_t) = {NAME(streams_1), NAME(streams_2), NAME(streams_3)};
    static const REAL none[STREAMS(1) * PANEL];
    const size_t width = STREAMS(rows) * PANEL;
    const REAL *x = X, *w = W, *bias = b;
    REAL *c = A;
    size_t n = 0;
    for (; n + width <= n_out; n += width)
        for (size_t k = 0; k < n_in; k += DEPTH_BLOCK) {
            size_t count = n_in - k < DEPTH_BLOCK ? n_in - k : DEPTH_BLOCK;
            streams[rows - 1](count, x + k, ldx, w + n * n_in + k * PANEL, PANEL * n_in, k ? c + n : bias ? bias + n : none,
                              k ? lda : 0, c + n, lda);
        }
    if (n && act->kind != CYMLP_SOFTMAX && act->kind != CYMLP_IDENTITY)
        NAME(activate)(act, rows, n, A, lda, NULL);
    if (n < n_out)
        NAME(dense_forward)(rows, n_in, n_out - n, X, ldx, NULL, w + n * n_in, bias ? bias + n : NULL, act, c + n,
                            lda, NULL, NULL);
}

#undef STREAMS
#undef STREAMED
#undef UNROLL
#undef DEPTH_BLOCK
