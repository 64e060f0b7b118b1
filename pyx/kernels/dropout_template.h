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
#define IN_WORDS(x) ((WORDS){ 0 } + (x))

/* Of low halves. */
INLINE WORDS NAME(product)(WORDS x, WORDS y)
{
#ifdef INTRINSIC
    return (WORDS)INTRINSIC(mul_epu32)((NAME(signed_words))x, (NAME(signed_words))y);
#else
    return (x & 0xFFFFFFFFu) * (y & 0xFFFFFFFFu);
#endif
}

INLINE void NAME(philox_round)(WORDS c[4], WORDS k0, WORDS k1)
{
    const WORDS p0 = NAME(product)(c[0], IN_WORDS(M0)), p1 = NAME(product)(c[2], IN_WORDS(M1));
    c[0] = p1 >> 32 ^ c[1] ^ k0;
    c[1] = p1;
    c[2] = p0 >> 32 ^ c[3] ^ k1;
    c[3] = p0;
}

/* Whether the word of each unit of a vector is at least `threshold`, a word at the upper end of a lane. */
INLINE NAME(lane_test) NAME(is_kept)(const WORDS words[SETS], NAME(lane_bits) threshold)
{
#if REAL_IS_DOUBLE
    const NAME(lane_bits) x = (NAME(lane_bits))(words[0] << 32);
#else
    const NAME(lane_mask) lane = { FIRST }, from = lane + (lane & 1) * (LANES - 1); /* 0 and LANES, 2 and LANES + 2, ... */
    const NAME(lane_bits) x = (NAME(lane_bits))NAME(shuffle)((VECTOR)words[0], (VECTOR)words[1], from);
#endif
#ifdef MASK_INTRINSICS
    return CONSTANT(_mm512_cmp_epu32_mask, _mm512_cmp_epu64_mask)((__m512i)x, (__m512i)threshold, _MM_CMPINT_NLT);
#else
    return (NAME(lane_test))(x >= threshold);
#endif
}

static void NAME(dropout)(const cymlp_mask *mask, size_t first, size_t rows, size_t n, void *A, size_t lda, void *D)
{
    const size_t width = PADDED(n), last = first + rows;
    const REAL factor = (REAL)(1 / (1 - mask->rate));
    const NAME(lane_bits) threshold = (NAME(lane_bits)){ 0 } + ((BITS)(mask->rate * 0x1p32) << (8 * sizeof(REAL) - 32));
    REAL *const a = A, *const d = D;
    WORDS k0[ROUNDS], k1[ROUNDS];
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
    for (uint32_t r = 0; r < ROUNDS; r++) {
        k0[r] = IN_WORDS((uint32_t)mask->seed + r * W0);
        k1[r] = IN_WORDS((uint32_t)(mask->seed >> 32) + r * W1);
    }
    for (size_t j = 0; j < width; j += LANES)
        for (size_t quad = first / 4; 4 * quad < last; quad++) {
            WORDS c[SETS][4] = { { { 0 } } };
            for (int set = 0; set < SETS; set++) {
                for (size_t lane = 0; lane < LANES / SETS; lane++)
                    c[set][0][lane] = j + SETS * lane + set;
                c[set][1] = IN_WORDS((uint32_t)quad);
                c[set][2] = IN_WORDS(mask->step);
                c[set][3] = IN_WORDS(mask->layer);
                for (int r = 0; r < ROUNDS; r++)
                    NAME(philox_round)(c[set], k0[r], k1[r]);
            }
            for (size_t i = 4 * quad, word = 0; word < 4; i++, word++) {
                if (i < first || i >= last)
                    continue;
                WORDS words[SETS];
                for (int set = 0; set < SETS; set++)
                    words[set] = c[set][word];
                const NAME(lane_test) kept = NAME(is_kept)(words, threshold);
                VECTOR *at = (VECTOR *)(a + (i - first) * lda + j);
                *at = NAME(choose)(kept, *at * factor, IN_LANES(0));
                if (d) {
                    at = (VECTOR *)(d + (i - first) * lda + j);
                    *at = NAME(choose)(kept, *at * factor, IN_LANES(0));
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
