/*
 * normalization_template.h - batch and layer normalisation of a tile, forward and back.
 *
 * A template, included after vector_template.h with the same parameters; defines NAME(moments), NAME(join_moments),
 * NAME(normalize), NAME(normalized_sums), NAME(normalize_backward), NAME(layer_norm) and NAME(layer_norm_backward).
 *
 * A tile comes from the L2 cache, so what counts is how often it is gone through.  Sums over rows go down a few vectors of columns
 * with all sums in registers; what changes a tile goes along a few rows, which share what is loaded for their columns.  Variances
 * are sums of squares of what is left without the mean, never differences of two large sums.
 */

/* Vectors of columns, and rows, that go together: enough chains of additions to fill their latency. */
#define TOGETHER 4

/* function(vectors, ..., n) for columns n on, up to `width`. */
#define DOWN(function, ...)                                                 \
    do {                                                                    \
        size_t n = 0;                                                       \
        for (; n + TOGETHER * LANES <= width; n += TOGETHER * LANES)        \
            function(TOGETHER, __VA_ARGS__);                                \
        for (; n < width; n += LANES)                                       \
            function(1, __VA_ARGS__);                                       \
    } while (0)

/* function(rows, ...) for row i on, up to `rows`. */
#define ALONG(function, ...)                                                \
    do {                                                                    \
        size_t i = 0;                                                       \
        for (; i + TOGETHER <= rows; i += TOGETHER)                         \
            function(TOGETHER, __VA_ARGS__);                                \
        for (; i < rows; i++)                                               \
            function(1, __VA_ARGS__);                                       \
    } while (0)

INLINE void NAME(moments_down)(const int count, const int weighted, size_t rows, const REAL *Z, size_t ldz, const REAL *weights,
                               REAL total, REAL *mean, REAL *squares)
{
    VECTOR centre[TOGETHER] = { { 0 } }, sums[TOGETHER] = { { 0 } };
    for (size_t i = 0; i < rows; i++) {
        /* Shares: a row that outweighs all others is the mean exactly; what it is off would count with all of its weight. */
        const REAL share = weighted ? weights[i] / total : 1;
        EVERY for (int v = 0; v < count; v++)
            centre[v] += share * *(const VECTOR *)(Z + i * ldz + v * LANES);
    }
    if (!weighted)
        EVERY for (int v = 0; v < count; v++)
            centre[v] /= total;
    for (size_t i = 0; i < rows; i++)
        EVERY for (int v = 0; v < count; v++) {
            const VECTOR rest = *(const VECTOR *)(Z + i * ldz + v * LANES) - centre[v];
            sums[v] += (weighted ? weights[i] : 1) * rest * rest;
        }
    EVERY for (int v = 0; v < count; v++) {
        *(VECTOR *)(mean + v * LANES) = centre[v];
        *(VECTOR *)(squares + v * LANES) = sums[v];
    }
}

static void NAME(moments)(size_t rows, size_t n_out, const void *Z, size_t ldz, const void *weights, void *mean, void *squares)
{
    const size_t width = PADDED(n_out);
    const REAL *const z = Z, *const weight = weights;
    REAL *const m = mean, *const s = squares;
    double total = weights ? 0 : (double)rows;
    for (size_t i = 0; weights && i < rows; i++)
        total += weight[i];
    if (total == 0) {
        memset(m, 0, width * sizeof(REAL));
        memset(s, 0, width * sizeof(REAL));
    } else if (weights)
        DOWN(NAME(moments_down), 1, rows, z + n, ldz, weight, (REAL)total, m + n, s + n);
    else
        DOWN(NAME(moments_down), 0, rows, z + n, ldz, NULL, (REAL)total, m + n, s + n);
}

static void NAME(join_moments)(double weight, double more, size_t n, void *mean, void *squares, const void *more_mean,
                               const void *more_squares)
{
    const size_t width = PADDED(n);
    const double total = weight + more;
    const REAL share = (REAL)(more / total), between = (REAL)(weight * (more / total));
    REAL *const m = mean, *const s = squares;
    const REAL *const m2 = more_mean, *const s2 = more_squares;
    if (total == 0)
        return;
    for (size_t j = 0; j < width; j += LANES) {
        const VECTOR difference = *(const VECTOR *)(m2 + j) - *(VECTOR *)(m + j);
        *(VECTOR *)(m + j) += share * difference;
        *(VECTOR *)(s + j) += *(const VECTOR *)(s2 + j) + between * difference * difference;
    }
}

INLINE void NAME(normalize_along)(const int count, size_t width, REAL *Z, size_t ldz, const REAL *mean, const REAL *inverse,
                                  const REAL *scale, const REAL *shift, REAL *Y, size_t ldy)
{
    for (size_t j = 0; j < width; j += LANES) {
        const VECTOR centre = *(const VECTOR *)(mean + j), by = *(const VECTOR *)(inverse + j);
        const VECTOR factor = *(const VECTOR *)(scale + j), start = *(const VECTOR *)(shift + j);
        EVERY for (int r = 0; r < count; r++) {
            VECTOR *const at = (VECTOR *)(Z + r * ldz + j);
            const VECTOR normal = (*at - centre) * by;
            *at = normal;
            *(VECTOR *)(Y + r * ldy + j) = normal * factor + start;
        }
    }
}

static void NAME(normalize)(size_t rows, size_t n, void *Z, size_t ldz, const void *mean, const void *inverse, const void *scale,
                            const void *shift, void *Y, size_t ldy)
{
    const size_t width = PADDED(n);
    REAL *const z = Z, *const y = Y;
    ALONG(NAME(normalize_along), width, z + i * ldz, ldz, mean, inverse, scale, shift, y + i * ldy, ldy);
}

INLINE void NAME(sums_down)(const int count, size_t rows, const REAL *dY, size_t lddy, const REAL *N, size_t ldn, REAL *sum,
                            REAL *products)
{
    VECTOR plain[TOGETHER] = { { 0 } }, multiplied[TOGETHER] = { { 0 } };
    for (size_t i = 0; i < rows; i++)
        EVERY for (int v = 0; v < count; v++) {
            const VECTOR d = *(const VECTOR *)(dY + i * lddy + v * LANES);
            plain[v] += d;
            multiplied[v] += d * *(const VECTOR *)(N + i * ldn + v * LANES);
        }
    EVERY for (int v = 0; v < count; v++) {
        *(VECTOR *)(sum + v * LANES) = plain[v];
        *(VECTOR *)(products + v * LANES) = multiplied[v];
    }
}

static void NAME(settle_moments)(size_t n, double weight, double unbiased, double epsilon, double momentum, const void *mean,
                                 void *squares, void *running_mean, void *running_variance)
{
    const size_t width = PADDED(n);
    const REAL *const m = mean;
    REAL *const s = squares, *const rm = running_mean, *const rv = running_variance;
    const REAL total = (REAL)weight, least = (REAL)epsilon, change = (REAL)momentum, factor = (REAL)unbiased;
    for (size_t j = 0; j < width; j += LANES) {
        const VECTOR variance = *(VECTOR *)(s + j) / total;
        *(VECTOR *)(s + j) = 1 / NAME(root)(variance + least);
        if (rm) {
            *(VECTOR *)(rm + j) += change * (*(const VECTOR *)(m + j) - *(VECTOR *)(rm + j));
            *(VECTOR *)(rv + j) += change * (factor * variance - *(VECTOR *)(rv + j));
        }
    }
}

static void NAME(multiply)(size_t n, const void *a, const void *b, void *out)
{
    for (size_t j = 0; j < n; j += LANES)
        *(VECTOR *)((REAL *)out + j) = *(const VECTOR *)((const REAL *)a + j) * *(const VECTOR *)((const REAL *)b + j);
}

static void NAME(add)(size_t n, const void *a, const void *b, void *out)
{
    for (size_t j = 0; j < n; j += LANES)
        *(VECTOR *)((REAL *)out + j) = *(const VECTOR *)((const REAL *)a + j) + *(const VECTOR *)((const REAL *)b + j);
}

static void NAME(normalized_sums)(size_t rows, size_t n_out, const void *dY, size_t lddy, const void *N, size_t ldn, void *sum,
                                  void *products)
{
    const size_t width = PADDED(n_out);
    const REAL *const d = dY, *const normal = N;
    REAL *const s = sum, *const p = products;
    DOWN(NAME(sums_down), rows, d + n, lddy, normal + n, ldn, s + n, p + n);
}

INLINE void NAME(normalize_backward_along)(const int count, size_t width, REAL *dY, size_t lddy, const REAL *N, size_t ldn,
                                           const REAL *weights, REAL share, const REAL *factor, const REAL *sum,
                                           const REAL *products)
{
    REAL part[TOGETHER];
    EVERY for (int r = 0; r < count; r++)
        part[r] = weights ? share * weights[r] : share;
    for (size_t j = 0; j < width; j += LANES) {
        const VECTOR by = *(const VECTOR *)(factor + j);
        const VECTOR s = *(const VECTOR *)(sum + j), p = *(const VECTOR *)(products + j);
        EVERY for (int r = 0; r < count; r++) {
            VECTOR *const at = (VECTOR *)(dY + r * lddy + j);
            *at = by * (*at - part[r] * (s + *(const VECTOR *)(N + r * ldn + j) * p));
        }
    }
}

static void NAME(normalize_backward)(size_t rows, size_t n, void *dY, size_t lddy, const void *N, size_t ldn, const void *weights,
                                     double share, const void *factor, const void *sum, const void *products)
{
    const size_t width = PADDED(n);
    REAL *const d = dY;
    const REAL *const normal = N, *const weight = weights;
    ALONG(NAME(normalize_backward_along), width, d + i * lddy, lddy, normal + i * ldn, ldn, weight ? weight + i : NULL,
          (REAL)share, factor, sum, products);
}

/* The lanes of the last vector of a row that are no padding. */
#define LAST(n) (*(const NAME(lane_mask) *)(NAME(edge) + (PADDED(n) - (n))))
#define WITHIN(mask, x) ((VECTOR)((mask) & (NAME(lane_mask))(x)))

/* The padding of Z may hold anything.  Each row is summed in the same order, however many go together. */
INLINE void NAME(layer_norm_along)(const int count, size_t n, REAL epsilon, REAL *Z, size_t ldz, const REAL *scale,
                                   const REAL *shift, REAL *Y, size_t ldy, REAL *inverse)
{
    const size_t end = PADDED(n) - LANES;
    const NAME(lane_mask) last = LAST(n);
    VECTOR mean[TOGETHER], sums[TOGETHER];
    EVERY for (int r = 0; r < count; r++)
        sums[r] = WITHIN(last, *(const VECTOR *)(Z + r * ldz + end));
    for (size_t j = 0; j < end; j += LANES)
        EVERY for (int r = 0; r < count; r++)
            sums[r] += *(const VECTOR *)(Z + r * ldz + j);
    EVERY for (int r = 0; r < count; r++) {
        FOLD(sums[r], NAME(plus));
        mean[r] = sums[r] / (REAL)n;
        const VECTOR rest = WITHIN(last, *(const VECTOR *)(Z + r * ldz + end) - mean[r]);
        sums[r] = rest * rest;
    }
    for (size_t j = 0; j < end; j += LANES)
        EVERY for (int r = 0; r < count; r++) {
            const VECTOR rest = *(const VECTOR *)(Z + r * ldz + j) - mean[r];
            sums[r] += rest * rest;
        }
    EVERY for (int r = 0; r < count; r++) {
        FOLD(sums[r], NAME(plus));
        sums[r] = 1 / NAME(root)(sums[r] / (REAL)n + epsilon);
        inverse[r] = sums[r][0];
    }
    for (size_t j = 0; j <= end; j += LANES) {
        const VECTOR factor = *(const VECTOR *)(scale + j), start = *(const VECTOR *)(shift + j);
        EVERY for (int r = 0; r < count; r++) {
            VECTOR *const at = (VECTOR *)(Z + r * ldz + j);
            VECTOR normal = (*at - mean[r]) * sums[r];
            if (j == end)
                normal = WITHIN(last, normal);
            *at = normal;
            *(VECTOR *)(Y + r * ldy + j) = normal * factor + start;
        }
    }
}

static void NAME(layer_norm)(size_t rows, size_t n, double epsilon, void *Z, size_t ldz, const void *scale, const void *shift,
                             void *Y, size_t ldy, void *inverse)
{
    REAL *const z = Z, *const y = Y, *const inv = inverse;
    ALONG(NAME(layer_norm_along), n, (REAL)epsilon, z + i * ldz, ldz, scale, shift, y + i * ldy, ldy, inv + i);
}

/* The padding of dY and of N is zero. */
INLINE void NAME(layer_norm_backward_along)(const int count, size_t n, REAL *dY, size_t lddy, const REAL *N, size_t ldn,
                                            const REAL *scale, const REAL *inverse)
{
    const size_t end = PADDED(n) - LANES;
    const NAME(lane_mask) last = LAST(n);
    VECTOR sums[TOGETHER], products[TOGETHER];
    EVERY for (int r = 0; r < count; r++)
        sums[r] = products[r] = IN_LANES(0);
    for (size_t j = 0; j <= end; j += LANES) {
        const VECTOR factor = *(const VECTOR *)(scale + j);
        EVERY for (int r = 0; r < count; r++) {
            const VECTOR g = factor * *(const VECTOR *)(dY + r * lddy + j);
            sums[r] += g;
            products[r] += g * *(const VECTOR *)(N + r * ldn + j);
        }
    }
    EVERY for (int r = 0; r < count; r++) {
        FOLD(sums[r], NAME(plus));
        FOLD(products[r], NAME(plus));
        sums[r] /= (REAL)n;
        products[r] /= (REAL)n;
    }
    for (size_t j = 0; j <= end; j += LANES) {
        const VECTOR factor = *(const VECTOR *)(scale + j);
        EVERY for (int r = 0; r < count; r++) {
            VECTOR *const at = (VECTOR *)(dY + r * lddy + j);
            const VECTOR dz = inverse[r] * (factor * *at - sums[r] - *(const VECTOR *)(N + r * ldn + j) * products[r]);
            *at = j == end ? WITHIN(last, dz) : dz;
        }
    }
}

static void NAME(layer_norm_backward)(size_t rows, size_t n, void *dY, size_t lddy, const void *N, size_t ldn, const void *scale,
                                      const void *inverse)
{
    REAL *const d = dY;
    const REAL *const normal = N, *const inv = inverse;
    ALONG(NAME(layer_norm_backward_along), n, d + i * lddy, lddy, normal + i * ldn, ldn, scale, inv + i);
}

#undef TOGETHER
#undef DOWN
#undef ALONG
#undef LAST
#undef WITHIN
