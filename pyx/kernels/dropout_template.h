/*
 * dropout_template.h - units of a layer that a step drops, by a generator that is a function of a counter.
 *
 * A template, included after vector_template.h with the same parameters; defines NAME(dropout).  The generator is Philox4x32-10 of
 * Salmon, Moraes, Dror & Shaw (2011), Parallel random numbers: as easy as 1, 2, 3.  Ten rounds make four words of a counter:
 *
 *   (c0, c1, c2, c3) <- (high(M1 c2) ^ c1 ^ k0, low(M1 c2), high(M0 c0) ^ c3 ^ k1, low(M0 c0)),  then k0 += W0, k1 += W1
 *
 * A word stands in the low half of a lane of 64 bits, with anything above it, as a product of low halves is one instruction that
 * looks at nothing else.  So units of type float go in two sets of lanes: the even ones and the odd ones of a vector.
 */
#define M0 0xD2511F53u
#define M1 0xCD9E8D57u
#define W0 0x9E3779B9u
#define W1 0xBB67AE85u
#define ROUNDS 10
#define SETS (8 / (int)sizeof(REAL))

typedef unsigned long long NAME(words) __attribute__((vector_size(LANES * sizeof(REAL)), may_alias));
typedef long long NAME(signed_words) __attribute__((vector_size(LANES * sizeof(REAL)), may_alias));
#define WORDS NAME(words)
#define IN_WORDS(x) ((WORDS){ 0 } + (unsigned long long)(x))
#define LOW IN_WORDS(0xFFFFFFFFu)
#if VECTOR_BYTES == 16
#define FIRST_WORDS FIRST_2
#elif VECTOR_BYTES == 32
#define FIRST_WORDS FIRST_4
#else
#define FIRST_WORDS FIRST_8
#endif

/* Of low halves. */
INLINE WORDS NAME(product)(WORDS x, WORDS y)
{
#ifdef INTRINSIC
    return (WORDS)INTRINSIC(mul_epu32)((NAME(signed_words))x, (NAME(signed_words))y);
#else
    return (x & LOW) * (y & LOW);
#endif
}

/* The keys of all rounds, and what the first one makes of step and layer.  A quad is what four rows share: their number by four. */
typedef struct {
    WORDS k0[ROUNDS], k1[ROUNDS], c2;
    uint32_t c0, c1;
} NAME(philox);

INLINE NAME(philox) NAME(philox_start)(const cymlp_mask *mask)
{
    const uint64_t p1 = (uint64_t)M1 * mask->step;
    NAME(philox) start = { .c0 = (uint32_t)(p1 >> 32) ^ (uint32_t)mask->seed, .c1 = (uint32_t)p1 };
    for (uint32_t r = 0; r < ROUNDS; r++) {
        start.k0[r] = IN_WORDS((uint32_t)mask->seed + r * W0);
        start.k1[r] = IN_WORDS((uint32_t)(mask->seed >> 32) + r * W1);
    }
    start.c2 = start.k1[0] ^ IN_WORDS(mask->layer);
    return start;
}

/*
 * What the first three rounds make of the unit alone, which is a quarter of all the work.  The unit begins in c0, the quad in c1.
 * After the first round the unit is in c2 and c3, the quad in c0; after the second the unit is in c0 to c2, the quad in c2 and c3.
 */
typedef struct {
    WORDS second_c2;            /* without high(M0 c0) */
    WORDS third_c0, third_c2;   /* without high(M1 c2), without c3 */
    WORDS third_c3;
} NAME(philox_unit);

INLINE NAME(philox_unit) NAME(philox_of_unit)(const NAME(philox) *start, WORDS unit)
{
    const WORDS first = NAME(product)(unit, IN_WORDS(M0));
    const WORDS second = NAME(product)(first >> 32 ^ start->c2, IN_WORDS(M1));
    const WORDS third = NAME(product)(second >> 32 ^ start->k0[1] ^ IN_WORDS(start->c1), IN_WORDS(M0));
    return (NAME(philox_unit)){ first ^ start->k1[1], second ^ start->k0[2], third >> 32 ^ start->k1[2], third };
}

/* The words of a vector of units and a quad: what is left of the second and third rounds, and all others. */
INLINE void NAME(philox_words)(const NAME(philox) *start, const NAME(philox_unit) of[SETS], uint32_t quad, WORDS c[SETS][4])
{
    const uint64_t second = (uint64_t)M0 * (start->c0 ^ quad);
    EVERY for (int s = 0; s < SETS; s++) {
        c[s][1] = NAME(product)(of[s].second_c2 ^ IN_WORDS(second >> 32), IN_WORDS(M1));
        c[s][0] = c[s][1] >> 32 ^ of[s].third_c0;
        c[s][2] = of[s].third_c2 ^ IN_WORDS((uint32_t)second);
        c[s][3] = of[s].third_c3;
    }
    EVERY for (int r = 3; r < ROUNDS; r++)
        EVERY for (int s = 0; s < SETS; s++) {
            const WORDS p0 = NAME(product)(c[s][0], IN_WORDS(M0)), p1 = NAME(product)(c[s][2], IN_WORDS(M1));
            c[s][0] = p1 >> 32 ^ (c[s][1] ^ start->k0[r]);
            c[s][2] = p0 >> 32 ^ (c[s][3] ^ start->k1[r]);
            c[s][1] = p1;
            c[s][3] = p0;
        }
}

/* Whether the word of each unit of a vector is at least `threshold`.  In lanes of 64 bits they are compared as doubles 2^52 + word:
 * SSE2 has no comparison of such integers, AVX2 none of unsigned ones. */
INLINE NAME(lane_test) NAME(is_kept)(const WORDS words[SETS], uint32_t threshold)
{
#if REAL_IS_DOUBLE
    const WORDS low = words[0] & LOW;
    return NAME(above)((VECTOR)(low | (WORDS)IN_LANES(0x1p52)), IN_LANES(0x1p52 - 1 + threshold));
#else
    const NAME(lane_mask) lane = { FIRST }, from = lane + (lane & 1) * (LANES - 1); /* 0 and LANES, 2 and LANES + 2, ... */
    const NAME(lane_bits) x = (NAME(lane_bits))NAME(shuffle)((VECTOR)words[0], (VECTOR)words[1], from);
#ifdef MASK_INTRINSICS
    return _mm512_cmp_epu32_mask((__m512i)x, _mm512_set1_epi32((int)threshold), _MM_CMPINT_NLT);
#else
    return (NAME(lane_test))(x >= threshold);
#endif
#endif
}

INLINE void NAME(keep)(NAME(lane_test) kept, REAL factor, REAL *row)
{
    *(VECTOR *)row = NAME(choose)(kept, *(VECTOR *)row * factor, IN_LANES(0));
}

static void NAME(dropout)(const cymlp_mask *mask, size_t first, size_t rows, size_t n, void *A, size_t lda, void *D)
{
    const size_t width = PADDED(n), last = first + rows;
    const REAL factor = (REAL)(1 / (1 - mask->rate));
    const uint32_t threshold = mask->rate < 1 ? (uint32_t)(mask->rate * 0x1p32) : 0;
    REAL *a = A, *d = D;
    NAME(philox) start;
    WORDS unit[SETS];
    if (mask->rate == 0)
        return;
    if (mask->rate >= 1) {
        for (size_t i = 0; i < rows; i++) {
            memset(a + i * lda, 0, width * sizeof(REAL));
            if (d)
                memset(d + i * lda, 0, width * sizeof(REAL));
        }
        return;
    }
    start = NAME(philox_start)(mask);
    for (int set = 0; set < SETS; set++)
        unit[set] = (WORDS){ FIRST_WORDS } * IN_WORDS(SETS) + IN_WORDS(set);
    for (size_t j = 0; j < width; j += LANES, a += LANES, d = d ? d + LANES : NULL) {
        NAME(philox_unit) of[SETS];
        EVERY for (int set = 0; set < SETS; set++) {
            of[set] = NAME(philox_of_unit)(&start, unit[set]);
            unit[set] += IN_WORDS(LANES);
        }
        for (size_t i = first & ~(size_t)3; i < last; i += 4) {
            WORDS c[SETS][4];
            NAME(philox_words)(&start, of, (uint32_t)(i / 4), c);
            EVERY for (int word = 0; word < 4; word++) {
                const size_t row = i + word - first; /* wraps for rows before the first */
                WORDS words[SETS];
                EVERY for (int set = 0; set < SETS; set++)
                    words[set] = c[set][word];
                if (row < rows) {
                    const NAME(lane_test) kept = NAME(is_kept)(words, threshold);
                    NAME(keep)(kept, factor, a + row * lda);
                    if (d)
                        NAME(keep)(kept, factor, d + row * lda);
                }
            }
        }
    }
}

#undef M0
#undef M1
#undef W0
#undef W1
#undef ROUNDS
#undef SETS
#undef WORDS
#undef IN_WORDS
#undef LOW
#undef FIRST_WORDS
