/*
 * vector_template.h - one vector of LANES reals: its bits, choices between two of them, and combinations across lanes.
 *
 * A template: include it with REAL, REAL_IS_DOUBLE, LANE_INDEX, LANES and NAME defined, as instantiate.h does.  INTRINSIC(f),
 * where an instruction set has it, names an intrinsic for its vectors.  What the compiler would not find by itself comes from
 * there, and is written out below for the others: the smaller and the larger of two, for which C has no expression that means
 * the same for NaN.
 */
#include <float.h>

#if REAL_IS_DOUBLE
#define BITS uint64_t
#define CONSTANT(for_float, for_double) for_double
#else
#define BITS uint32_t
#define CONSTANT(for_float, for_double) for_float
#endif

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define EVERY _Pragma("unroll")
#else
#define EVERY _Pragma("GCC unroll 16")
#endif

/* May stand at any address of a real. */
typedef REAL NAME(lanes) __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
typedef BITS NAME(lane_bits) __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
typedef LANE_INDEX NAME(lane_mask) __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
#define VECTOR NAME(lanes)
#define IN_LANES(x) ((x) - (VECTOR){ 0 })
#define SIGN_BIT ((BITS)1 << (8 * sizeof(REAL) - 1))

/* Rounded up to whole vectors.  A mask, so that the compiler sees that a loop up to it has no tail. */
#define PADDED(n) (((n) + LANES - 1) & ~(size_t)(LANES - 1))

/* yes where the mask (all bits, or none) is set, no elsewhere.  Signed, as gcc 12 knows a blend by that. */
INLINE VECTOR NAME(choose)(NAME(lane_mask) mask, VECTOR yes, VECTOR no)
{
    return (VECTOR)((mask & (NAME(lane_mask))yes) | (~mask & (NAME(lane_mask))no));
}

/* x > y ? x : y; where one is NaN, y. */
INLINE VECTOR NAME(larger)(VECTOR x, VECTOR y)
{
#ifdef INTRINSIC
    return (VECTOR)CONSTANT(INTRINSIC(max_ps), INTRINSIC(max_pd))(x, y);
#else
    return NAME(choose)((NAME(lane_mask))(x > y), x, y);
#endif
}

/* x < y ? x : y; where one is NaN, y. */
INLINE VECTOR NAME(smaller)(VECTOR x, VECTOR y)
{
#ifdef INTRINSIC
    return (VECTOR)CONSTANT(INTRINSIC(min_ps), INTRINSIC(min_pd))(x, y);
#else
    return NAME(choose)((NAME(lane_mask))(x < y), x, y);
#endif
}

/* Both keep NaN. */
INLINE VECTOR NAME(at_least)(REAL low, VECTOR x)
{
    return NAME(larger)(IN_LANES(low), x);
}

INLINE VECTOR NAME(at_most)(REAL high, VECTOR x)
{
    return NAME(smaller)(IN_LANES(high), x);
}

INLINE VECTOR NAME(magnitude)(VECTOR x)
{
    return (VECTOR)((NAME(lane_bits))x & ~SIGN_BIT);
}

/* The padding of a row becomes `value`: with one masked vector, as single stores would hold up the next load of that vector. */
static const BITS NAME(edge)[2 * LANES] = { [0 ... LANES - 1] = (BITS)-1 };

INLINE void NAME(fill_padding)(size_t n, REAL *row, REAL value)
{
    const size_t width = PADDED(n);
    const NAME(lane_mask) keep = *(const NAME(lane_mask) *)(NAME(edge) + (width - n));
    VECTOR *last = (VECTOR *)(row + width - LANES);
    *last = NAME(choose)(keep, *last, IN_LANES(value));
}

INLINE VECTOR NAME(plus)(VECTOR x, VECTOR y)
{
    return x + y;
}

/* In one vector the lanes p of a without bit d, in the other those with it; b fills up. */
INLINE void NAME(part)(int d, VECTOR a, VECTOR b, VECTOR *without, VECTOR *with)
{
#if defined(__clang__) /* lacks the builtin, but makes shuffles of this */
    EVERY for (int p = 0; p < LANES; p++) {
        (*without)[p] = p & d ? b[p - d] : a[p];
        (*with)[p] = p & d ? b[p] : a[p + d];
    }
#else
    NAME(lane_mask) low, high;
    EVERY for (int p = 0; p < LANES; p++) {
        low[p] = p & d ? LANES + p - d : p;
        high[p] = p & d ? LANES + p : p + d;
    }
    *without = __builtin_shuffle(a, b, low);
    *with = __builtin_shuffle(a, b, high);
#endif
}

/*
 * In lane r, all lanes of rows[r] combined pairwise: l with l + LANES / 2, then with l + LANES / 4, ...  This is a transposition
 * that combines on its way.  Rows from `count` on, 1 or LANES, are not looked at; they change nothing for the others, so a row
 * gives the same bits wherever it is and whatever comes with it.  rows is destroyed.
 */
#define COMBINE(count, rows, combine) \
    EVERY for (int d = LANES / 2; d > 0; d /= 2) \
        EVERY for (int i = 0; i < d && i < (count); i++) { \
            VECTOR low, high; \
            NAME(part)(d, (rows)[i], (rows)[i + d], &low, &high); \
            (rows)[i] = combine(low, high); \
        }
