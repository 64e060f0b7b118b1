/*
 * clipping_template.h - norms of parameters and gradients, and what keeps them within limits.
 *
 * A template, included after vector_template.h with the same parameters; defines NAME(sum_of_squares), NAME(sum_of_magnitudes),
 * NAME(clip), NAME(scale) and NAME(limit_columns).
 */

/* Four sums go on side by side, as an addition takes that many cycles; every so many reals they end, and go on in double. */
#define PIECE (64 * LANES)
#define SUM(...)                                                       \
    double total = 0;                                                  \
    for (const REAL *w = x, *const end = w + n; w < end;) {            \
        const REAL *const stop = end - w < PIECE ? end : w + PIECE;    \
        VECTOR sums[4] = { { 0 } };                                    \
        for (; stop - w >= 4 * LANES; w += 4 * LANES)                  \
            EVERY for (int s = 0; s < 4; s++) {                        \
                const VECTOR at = ((const VECTOR *)w)[s];              \
                sums[s] += __VA_ARGS__;                                \
            }                                                          \
        for (; w < stop; w += LANES) {                                 \
            const VECTOR at = *(const VECTOR *)w;                      \
            sums[0] += __VA_ARGS__;                                    \
        }                                                              \
        sums[0] = (sums[0] + sums[1]) + (sums[2] + sums[3]);           \
        FOLD(sums[0], NAME(plus));                                     \
        total += sums[0][0];                                           \
    }                                                                  \
    return total

static double NAME(sum_of_squares)(size_t n, const void *x)
{
    SUM(at * at);
}

static double NAME(sum_of_magnitudes)(size_t n, const void *x)
{
    SUM(NAME(magnitude)(at));
}

#undef SUM
#undef PIECE

static void NAME(clip)(size_t n, double limit, void *x)
{
    const REAL high = (REAL)limit;
    for (VECTOR *at = x, *const end = (VECTOR *)((REAL *)x + n); at < end; at++)
        *at = NAME(at_most)(high, NAME(at_least)(-high, *at));
}

static void NAME(scale)(size_t n, double factor, void *x)
{
    const REAL by = (REAL)factor;
    for (VECTOR *at = x, *const end = (VECTOR *)((REAL *)x + n); at < end; at++)
        *at *= by;
}

/*
 * `count` vectors of columns, rows of `width` reals.  Two sums for each column go on side by side, of even and of odd rows.  Where
 * a norm is NaN, or no norm is too large, nothing changes.
 */
INLINE void NAME(limit_vectors)(const int count, size_t rows, size_t width, REAL limit, REAL *W)
{
    VECTOR even[TILE_NV] = { { 0 } }, odd[TILE_NV] = { { 0 } }, factor[TILE_NV], least = IN_LANES(1);
    const REAL *w = W;
    size_t k = 0;
    for (; k + 2 <= rows; k += 2, w += 2 * width)
        EVERY for (int v = 0; v < count; v++) {
            const VECTOR x = *(const VECTOR *)(w + v * LANES), y = *(const VECTOR *)(w + width + v * LANES);
            even[v] += x * x;
            odd[v] += y * y;
        }
    if (k < rows)
        EVERY for (int v = 0; v < count; v++)
            even[v] += *(const VECTOR *)(w + v * LANES) * *(const VECTOR *)(w + v * LANES);
    EVERY for (int v = 0; v < count; v++) {
        const VECTOR norm = NAME(root)(even[v] + odd[v]);
        factor[v] = NAME(choose)(NAME(above)(norm, IN_LANES(limit)), limit / norm, IN_LANES(1));
        least = NAME(smaller)(least, factor[v]);
    }
    FOLD(least, NAME(smaller));
    if (least[0] == 1)
        return;
    for (REAL *at = W, *const end = W + rows * width; at < end; at += width)
        EVERY for (int v = 0; v < count; v++)
            *(VECTOR *)(at + v * LANES) *= factor[v];
}

static void NAME(limit_columns)(size_t n_in, size_t width, double limit, void *W)
{
    REAL *const w = W;
    size_t n = 0;
    for (; n + TILE_NV * LANES <= width; n += TILE_NV * LANES) /* a full panel */
        NAME(limit_vectors)(TILE_NV, n_in, width, (REAL)limit, w + n);
    for (; n < width; n += LANES)
        NAME(limit_vectors)(1, n_in, width, (REAL)limit, w + n);
}
