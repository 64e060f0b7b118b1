/*
 * vector_template.h - one vector of LANES reals: its bits, choices between two of them, and combinations across lanes.
 *
 * A template: include it with REAL, REAL_IS_DOUBLE, LANE_INDEX, LANES and NAME defined, as instantiate.h does.  INTRINSIC(f),
 * where an instruction set has it, names an intrinsic for its vectors, and MASK_INTRINSICS says that comparisons give AVX-512's
 * masks.  What the compiler would not find by itself comes from there, and is written out for the others: the smaller and the
 * larger of two, for which C has no expression that means the same for NaN, and blends, as gcc 12 makes vectors of masks for them.
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

/* A yes or no for each lane, x > y or x == y (no where one is NaN), and a choice by it. */
#ifdef MASK_INTRINSICS
typedef CONSTANT(__mmask16, __mmask8) NAME(lane_test);

INLINE NAME(lane_test) NAME(above)(VECTOR x, VECTOR y)
{
    return CONSTANT(_mm512_cmp_ps_mask, _mm512_cmp_pd_mask)(x, y, _CMP_GT_OQ);
}

INLINE NAME(lane_test) NAME(equal)(VECTOR x, VECTOR y)
{
    return CONSTANT(_mm512_cmp_ps_mask, _mm512_cmp_pd_mask)(x, y, _CMP_EQ_OQ);
}

INLINE VECTOR NAME(choose)(NAME(lane_test) test, VECTOR yes, VECTOR no)
{
    return (VECTOR)CONSTANT(_mm512_mask_blend_ps, _mm512_mask_blend_pd)(test, no, yes);
}
#else
typedef NAME(lane_mask) NAME(lane_test);

INLINE NAME(lane_test) NAME(above)(VECTOR x, VECTOR y)
{
    return (NAME(lane_test))(x > y);
}

INLINE NAME(lane_test) NAME(equal)(VECTOR x, VECTOR y)
{
    return (NAME(lane_test))(x == y);
}

INLINE VECTOR NAME(choose)(NAME(lane_test) test, VECTOR yes, VECTOR no)
{
    return (VECTOR)((test & (NAME(lane_mask))yes) | (~test & (NAME(lane_mask))no)); /* signed: gcc 12 makes a blend of it */
}
#endif

#define POSITIVE(x) NAME(above)(x, IN_LANES(0))
#define NEGATIVE(x) NAME(above)(IN_LANES(0), x)

/* x > y ? x : y; where one is NaN, y. */
INLINE VECTOR NAME(larger)(VECTOR x, VECTOR y)
{
#ifdef INTRINSIC
    return (VECTOR)CONSTANT(INTRINSIC(max_ps), INTRINSIC(max_pd))(x, y);
#else
    return NAME(choose)(NAME(above)(x, y), x, y);
#endif
}

/* x < y ? x : y; where one is NaN, y. */
INLINE VECTOR NAME(smaller)(VECTOR x, VECTOR y)
{
#ifdef INTRINSIC
    return (VECTOR)CONSTANT(INTRINSIC(min_ps), INTRINSIC(min_pd))(x, y);
#else
    return NAME(choose)(NAME(above)(y, x), x, y);
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

INLINE VECTOR NAME(root)(VECTOR x)
{
#ifdef INTRINSIC
    return (VECTOR)CONSTANT(INTRINSIC(sqrt_ps), INTRINSIC(sqrt_pd))(x);
#else
    EVERY for (int p = 0; p < LANES; p++)
        x[p] = CONSTANT(__builtin_sqrtf, __builtin_sqrt)(x[p]);
    return x;
#endif
}

/* The padding of a row becomes `value`: with one masked vector, as single stores would hold up the next load of that vector. */
static const BITS NAME(edge)[2 * LANES] = { [0 ... LANES - 1] = (BITS)-1 };

INLINE void NAME(fill_padding)(size_t n, size_t width, REAL *row, REAL value)
{
    const NAME(lane_mask) keep = *(const NAME(lane_mask) *)(NAME(edge) + (width - n));
    VECTOR *last = (VECTOR *)(row + width - LANES);
    *last = (VECTOR)((keep & (NAME(lane_mask))*last) | (~keep & (NAME(lane_mask))IN_LANES(value)));
}

#define FIRST_2 0, 1
#define FIRST_4 FIRST_2, 2, 3
#define FIRST_8 FIRST_4, 4, 5, 6, 7
#define FIRST_16 FIRST_8, 8, 9, 10, 11, 12, 13, 14, 15

#if LANES == 2
#define FIRST FIRST_2
#elif LANES == 4
#define FIRST FIRST_4
#elif LANES == 8
#define FIRST FIRST_8
#else
#define FIRST FIRST_16
#endif

INLINE VECTOR NAME(plus)(VECTOR x, VECTOR y)
{
    return x + y;
}

#if defined(__clang__) /* lacks the builtin, but makes shuffles of this */
INLINE VECTOR NAME(shuffle)(VECTOR a, VECTOR b, NAME(lane_mask) from)
{
    VECTOR result;
    EVERY for (int p = 0; p < LANES; p++)
        result[p] = from[p] < LANES ? a[from[p]] : b[from[p] - LANES];
    return result;
}
#else
INLINE VECTOR NAME(shuffle)(VECTOR a, VECTOR b, NAME(lane_mask) from)
{
    return __builtin_shuffle(a, b, from);
}
#endif

/*
 * Sums, or the largest, of the lanes of vectors, always pairwise: l with l + LANES / 2, then with l + LANES / 4, ...
 *
 * FOLD: of one vector, in every lane of it.  COMBINE: lane r of rows[0] gets that of rows[r], of LANES vectors, by a transposition
 * that combines on its way: at distance d, of rows i and i + d the lanes without bit d become one vector, those with it another.
 * The other rows change nothing for a row, so its bits are the same wherever it is, and those of FOLD.  rows is destroyed.
 */
#define FOLD(x, combine) \
    EVERY for (int d = LANES / 2; d > 0; d /= 2) \
        (x) = combine(x, NAME(shuffle)(x, x, (NAME(lane_mask)){ FIRST } ^ d))
#define COMBINE(rows, combine) \
    EVERY for (int d = LANES / 2; d > 0; d /= 2) \
        EVERY for (int i = 0; i < d; i++) { \
            const NAME(lane_mask) lane = { FIRST }; \
            const NAME(lane_mask) from = lane + (((lane & d) != 0) & (LANES - d)); /* lane, or LANES + lane - d */ \
            (rows)[i] = combine(NAME(shuffle)((rows)[i], (rows)[i + d], from), NAME(shuffle)((rows)[i], (rows)[i + d], from + d)); \
        }
