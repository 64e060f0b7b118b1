/*
 * monitor_template.h - what is told of a layer while it trains: sizes of its numbers, units that do nothing, units that are alike.
 *
 * A template, included after vector_template.h with the same parameters; defines NAME(exact_squares), NAME(look_at_units) and
 * NAME(twins).  Gradients of 1e-30 are what one looks for here, whose squares float32 does not have: squares are summed in double.
 */

/* Half a vector of reals is a whole one of doubles. */
#if REAL_IS_DOUBLE
#define HALF_LANES LANES
typedef VECTOR NAME(doubles);
#define AS_DOUBLES(address) (*(const VECTOR *)(address))
#else
#define HALF_LANES (LANES / 2)
typedef float NAME(half) __attribute__((vector_size(HALF_LANES * 4), aligned(4), may_alias));
typedef double NAME(doubles) __attribute__((vector_size(HALF_LANES * 8), aligned(8), may_alias));
#define AS_DOUBLES(address) __builtin_convertvector(*(const NAME(half) *)(address), NAME(doubles))
#endif
#define SUMS 4

/* Not padded: what is left at the end is taken one by one. */
static double NAME(exact_squares)(size_t n, const void *x, const void *less)
{
    const REAL *a = x, *b = less;
    NAME(doubles) sums[SUMS] = { { 0 } };
    double total = 0;
    size_t i = 0;
    for (; i + SUMS * HALF_LANES <= n; i += SUMS * HALF_LANES)
        EVERY for (int s = 0; s < SUMS; s++) {
            NAME(doubles) at = AS_DOUBLES(a + i + s * HALF_LANES);
            if (b)
                at -= AS_DOUBLES(b + i + s * HALF_LANES);
            sums[s] += at * at;
        }
    for (; i < n; i++) {
        const double at = (double)a[i] - (b ? (double)b[i] : 0);
        total += at * at;
    }
    sums[0] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    EVERY for (int p = 0; p < HALF_LANES; p++)
        total += sums[0][p];
    return total;
}

/* A vector of a row, of which the last one may be short: zeros follow then. */
INLINE VECTOR NAME(lanes_of_row)(const REAL *row, size_t j, size_t n)
{
    VECTOR x = { 0 };
    if (n - j >= LANES)
        return *(const VECTOR *)(row + j);
    memcpy(&x, row + j, (n - j) * sizeof(REAL));
    return x;
}

static void NAME(look_at_units)(size_t rows, size_t n, const void *A, size_t lda, const void *const *list, double middle,
                                double reach, void *largest, double counts[2])
{
    for (size_t j = 0; j < n; j += LANES) {
        VECTOR *const top = (VECTOR *)((REAL *)largest + j);
        VECTOR most = *top, zeros = { 0 }, far = { 0 };
        for (size_t i = 0; i < rows; i++) {
            const REAL *const row = list ? (const REAL *)list[i] : (const REAL *)A + i * lda;
            const VECTOR a = NAME(lanes_of_row)(row, j, n);
            const VECTOR one = NAME(choose)(NAME(equal)(a, IN_LANES(0)), IN_LANES(1), IN_LANES(0));
            const VECTOR away = NAME(magnitude)(a - (REAL)middle);
            most = NAME(larger)(NAME(magnitude)(a), most);
            zeros += one;
            far += NAME(choose)(NAME(above)(away, IN_LANES((REAL)reach)), IN_LANES(1) - one, IN_LANES(0));
        }
        *top = most;
        for (size_t p = 0; p < LANES && j + p < n; p++) {
            counts[0] += zeros[p];
            counts[1] += far[p];
        }
    }
}

/* Nothing is near where numbers are NaN; the smallest of numbers is added for those that are all the same. */
INLINE REAL NAME(nearness)(size_t n, const REAL *x, double tolerance)
{
    return (REAL)(tolerance * sqrt(NAME(exact_squares)(n, x, NULL) / n)) + CONSTANT(FLT_MIN, DBL_MIN);
}

static size_t NAME(twins)(size_t n, const void *projections, size_t ld, double tolerance)
{
    const REAL *const first = projections, *const second = first + ld;
    const REAL near_first = NAME(nearness)(n, first, tolerance), near_second = NAME(nearness)(n, second, tolerance);
    size_t count = 0;
    for (size_t j = 0; j < n; j++) {
        VECTOR alike = { 0 };
        size_t k = 0;
        double found = 0;
        for (; k + LANES <= n; k += LANES) {
            const VECTOR one = NAME(magnitude)(*(const VECTOR *)(first + k) - first[j]);
            const VECTOR other = NAME(magnitude)(*(const VECTOR *)(second + k) - second[j]);
            const VECTOR near = NAME(choose)(NAME(above)(IN_LANES(near_second), other), IN_LANES(1), IN_LANES(0));
            alike += NAME(choose)(NAME(above)(IN_LANES(near_first), one), near, IN_LANES(0));
        }
        FOLD(alike, NAME(plus));
        for (; k < n; k++)
            found += fabs((double)first[k] - first[j]) < near_first && fabs((double)second[k] - second[j]) < near_second;
        count += alike[0] + found > 1; /* one is itself */
    }
    return count;
}

#undef HALF_LANES
#undef AS_DOUBLES
#undef SUMS
