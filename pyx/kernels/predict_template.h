/*
 * predict_template.h - what only predictions need: a look at their inputs while these are on the way into the cache.
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
