/*
 * activation_template.h - activations and their derivatives, elementwise on tiles.
 *
 * A template, included after vector_template.h with the same parameters.  It defines NAME(activate) and
 * NAME(activation_backward), and what softmax_template.h and loss_template.h need.  It is no libm: results below the smallest
 * normal number may be zero, and errno and the exception flags mean nothing.
 *
 * Every function is one of a whole vector, without branches: a comparison is a blend, rounding is an addition and 2^n is a shift.
 * Minima and maxima are written such that NaN takes the side that keeps it: NaN in gives NaN out.
 *
 * "Error" in ULP of the result is the largest one measured over the three instruction sets: float over every 13th of the 2^32
 * patterns against double, double over 4 10^7 points of all magnitudes against long double.
 */
#define MANTISSA CONSTANT(23, 52) /* stored bits */
#define BIAS CONSTANT(127, 1023) /* of the exponent */
#define LN2_HIGH CONSTANT(0x1.63p-1f, 0x1.62e42fee00000p-1) /* few bits: n LN2_HIGH is exact for every exponent n */
#define LN2_LOW CONSTANT(-0x1.bd0106p-13f, 0x1.a39ef35793c76p-33)
#define LOG2_E CONSTANT(0x1.715476p+0f, 0x1.71547652b82fep+0)

/*
 * A cubic polynomial from x and x^2.  Longer ones are made of these: in Horner's scheme every step waits for the one before, and
 * a loop of long chains is slow however independent its elements are, as a core looks only some hundred operations ahead.
 */
INLINE VECTOR NAME(cubic)(VECTOR x, VECTOR x2, REAL c0, REAL c1, REAL c2, REAL c3)
{
    return (c3 * x + c2) * x2 + (c1 * x + c0);
}

/*
 * t = x / ln 2 + ROUNDER(shift) has n = round(x / ln 2), plus BIAS + shift, in its low bits, as 1.5 2^MANTISSA leaves no bits below
 * the units; t - ROUNDER(shift) is n.
 */
#define ROUNDER(shift) (CONSTANT(0x1.8p23f, 0x1.8p52) + BIAS + (shift))

/* 2^(n + shift): a shift makes it of the exponent that `t` ends in. */
INLINE VECTOR NAME(power_of_two)(VECTOR t)
{
    return (VECTOR)((NAME(lane_bits))t << MANTISSA);
}

/*
 * 2^shift exp(x + low) = scale (1 + tail), |low| small.
 *
 * r = x - n ln 2 in two steps, of which the first is exact.  tail = exp(r) - 1 = r + r^2 q(r), q the minimax polynomial on
 * |r| <= ln 2 / 2 relative to exp(r) - 1: error 1.4e-8 with degree 4 (float), 1.9e-17 with degree 9 (double).
 *
 * The exponent n + shift must lie in [-BIAS, BIAS + 1].  The lower end gives scale = 0, which flushes to zero just what is too
 * small for a normal number; the upper end gives infinity.
 */
typedef struct {
    VECTOR scale, tail;
} NAME(power);

INLINE NAME(power) NAME(exp_parts)(VECTOR x, VECTOR low, VECTOR shift)
{
    const VECTOR rounder = ROUNDER(shift), t = x * LOG2_E + rounder, n = t - rounder;
    const VECTOR r = x - n * LN2_HIGH - (n * LN2_LOW - low), r2 = r * r;
#if REAL_IS_DOUBLE
    VECTOR r4 = r2 * r2, q = 0x1.ae975aee32ec9p-26 * r + 0x1.28a1710ff980fp-22;
    q = q * r4 + NAME(cubic)(r, r2, 0x1.6c16c17ec6559p-10, 0x1.a01a0186c802fp-13, 0x1.a019a7d36fc28p-16,
                             0x1.71de6762ab04cp-19);
    q = q * r4 + NAME(cubic)(r, r2, 0x1.0000000000005p-1, 0x1.555555555554fp-3, 0x1.5555555552277p-5, 0x1.1111111114e29p-7);
#else
    VECTOR q = (0x1.6b97d8p-10f * r2 + (0x1.122536p-7f * r + 0x1.5556f6p-5f)) * r2 + (0x1.5554b4p-3f * r + 0x1.fffffep-2f);
#endif
    return (NAME(power)){ NAME(power_of_two)(t), q * r2 + r };
}

/* exp(x) for x <= 0.  Error: 1.1. */
INLINE VECTOR NAME(exp_negative)(VECTOR x)
{
    NAME(power) p = NAME(exp_parts)(NAME(at_least)(CONSTANT(-88.0f, -709.0), x), IN_LANES(0), IN_LANES(0));
    return p.scale * (1 + p.tail);
}

/* exp(x) - 1 for x <= 0; harmless nonsense for larger x.  Error: 1.1 (float), 1.3 (double). */
INLINE VECTOR NAME(expm1_negative)(VECTOR x)
{
    NAME(power) p = NAME(exp_parts)(NAME(at_least)(CONSTANT(-88.0f, -709.0), x), IN_LANES(0), IN_LANES(0));
    return p.scale * p.tail + (p.scale - 1);
}

/* exp(x).  For x > 0 half of it is computed, as 2^n may be too large where exp(x) is not.  Error: 1.1. */
INLINE VECTOR NAME(exp)(VECTOR x)
{
    const VECTOR half = NAME(choose)(POSITIVE(x), IN_LANES(-1), IN_LANES(0));
    NAME(power) p = NAME(exp_parts)(NAME(at_most)(CONSTANT(89.0f, 710.0), NAME(at_least)(CONSTANT(-88.0f, -709.0), x)),
                                    IN_LANES(0), half);
    return p.scale * (1 + p.tail) * (1 - half);
}

/*
 * exp(k y) = (c + y) / (c - y) with c = y coth(k y / 2), which is even, and known to a rounding error by far fewer terms than exp:
 * for k = 1 it is 2 + y^2 q(y^2), q the minimax polynomial on |y| <= ln 2 / 2, error of c 4.4e-9 with degree 1 (float), 1.7e-18
 * with degree 4 (double).  Where a quotient is wanted anyhow, its division serves for this one, too.
 */
INLINE VECTOR NAME(coth_part)(REAL k, VECTOR y)
{
    const REAL k3 = k * k * k;
    const VECTOR v = y * y;
#if REAL_IS_DOUBLE
    const REAL k5 = k3 * k * k, k7 = k5 * k * k, k9 = k7 * k * k;
    const VECTOR v2 = v * v;
    const VECTOR high = k9 * 0x1.63737c8019107p-25 * v2 + (k7 * -0x1.bbd415ca63110p-20 * v + k5 * 0x1.1566aaeffca1bp-14);
    const VECTOR q = high * v2 + (k3 * -0x1.6c16c16beb2c1p-9 * v + k * 0x1.555555555553ep-3);
#else
    const VECTOR q = k3 * -0x1.6aa37p-9f * v + k * 0x1.55551ep-3f;
#endif
    return q * v + 2 / k;
}

/*
 * 1 / (1 + exp(-x)) = m / (m + 2^n p) with exp(-x) = 2^n p / m.  Where the result is no normal number any more 2^n becomes
 * infinite, and the result 0.  Error: 2.5.
 */
INLINE VECTOR NAME(sigmoid)(VECTOR x)
{
    const VECTOR bounded = NAME(at_most)(CONSTANT(88.0f, 709.0), NAME(at_least)(CONSTANT(-89.0f, -710.0), x));
    const VECTOR t = bounded * -LOG2_E + ROUNDER(0), n = t - ROUNDER(0);
    const VECTOR r = n * LN2_LOW + (n * LN2_HIGH + bounded), c = NAME(coth_part)(1, r), m = c + r;
    return m / (m + NAME(power_of_two)(t) * (c - r));
}

/*
 * tanh(x) = (e - 1) / (e + 1) with the sign of x, e = exp(2 |x|) = 2^n exp(2 y) = 2^n (c + y) / (c - y).  With m = c - y that is
 * a / (a + 2 m), a = (2^n - 1) m + 2^n 2 y, which loses nothing near 0, where n = 0 and y = |x|, and forgives errors of a where
 * tanh levels off.  So y = |x| - n ln 2 / 2 needs one step only.  For |x| >= 22 the result is 1 in any type.
 * Error: 2.2 (float), 2.5 (double).
 */
INLINE VECTOR NAME(tanh)(VECTOR x)
{
    const REAL half_ln2 = CONSTANT(0x1.62e430p-2f, 0x1.62e42fefa39efp-2);
    const VECTOR w = NAME(at_most)(22, NAME(magnitude)(x));
    const VECTOR t = w * (2 * LOG2_E) + ROUNDER(0), n = t - ROUNDER(0), scale = NAME(power_of_two)(t);
    const VECTOR y = w - n * half_ln2, m = NAME(coth_part)(2, y) - y, a = (scale - 1) * m + scale * (2 * y);
    return (VECTOR)((NAME(lane_bits))(a / (a + 2 * m)) | ((NAME(lane_bits))x & SIGN_BIT));
}

/*
 * 2 atanh(s / 2), |s| <= 2/3, = s (1 + v a(v)) with v = s^2; a is the minimax polynomial on v <= 4/9 relative to atanh: error
 * 4.6e-9 with degree 3 (float), 5.0e-17 with degree 8 (double).
 */
INLINE VECTOR NAME(twice_atanh_half)(VECTOR s)
{
    VECTOR v = s * s, v2 = v * v;
#if REAL_IS_DOUBLE
    VECTOR v4 = v2 * v2, a = IN_LANES(0x1.6b80dc698e741p-22);
    a = a * v4 + NAME(cubic)(v, v2, 0x1.7462591e3df79p-14, 0x1.3aa89966fe418p-16, 0x1.164475733772bp-18,
                             0x1.956da16078d0dp-21);
    a = a * v4 + NAME(cubic)(v, v2, 0x1.5555555555947p-4, 0x1.99999998e9875p-7, 0x1.2492497913075p-9, 0x1.c71c4a15ace19p-12);
#else
    VECTOR a = NAME(cubic)(v, v2, 0x1.5555p-4f, 0x1.99d29ep-7f, 0x1.1eb3a2p-9f, 0x1.1f0578p-11f);
#endif
    return s * (v * a) + s;
}

/*
 * log(1 + exp(x)) = max(x, 0) + log(1 + e), e = exp(-|x|), and log(1 + e) = 2 atanh((e / (1 + e / 2)) / 2), in which the smallest
 * e is never halved.  Error: 2.9 (float), 3.0 (double).
 */
INLINE VECTOR NAME(softplus)(VECTOR x)
{
    const VECTOR w = NAME(at_most)(CONSTANT(88.0f, 709.0), NAME(magnitude)(x));
    const NAME(power) p = NAME(exp_parts)(-w, IN_LANES(0), IN_LANES(0));
    const VECTOR e = p.scale * (1 + p.tail);
    return NAME(at_least)(0, x) + NAME(twice_atanh_half)(e / (1 + (REAL)0.5 * e));
}

/*
 * log(x) for normal x > 0, infinity and NaN.  x = 2^k m with m in [sqrt(1/2), sqrt(2)): adding 1 - sqrt(1/2) to the bits carries
 * into the exponent exactly where the mantissa is at least that of sqrt(1/2); k becomes a real as the low bits of 2^MANTISSA + k.
 * log(m) = 2 atanh(f / (2 + f)) with f = m - 1.  Error: 2.0 (float), 2.3 (double).
 */
INLINE VECTOR NAME(log)(VECTOR x)
{
    const BITS root = CONSTANT(0x3f3504f3u, 0x3fe6a09e667f3bcdu), one = (BITS)BIAS << MANTISSA;
    const NAME(lane_bits) b = (NAME(lane_bits))x + (one - root);
    const VECTOR k = (VECTOR)(b >> MANTISSA | (BITS)(BIAS + MANTISSA) << MANTISSA) - (CONSTANT(0x1p23f, 0x1p52) + BIAS);
    const VECTOR f = (VECTOR)((b & (((BITS)1 << MANTISSA) - 1)) + root) - 1;
    const VECTOR result = k * LN2_HIGH + (k * LN2_LOW + NAME(twice_atanh_half)(f / (1 + (REAL)0.5 * f)));
    return NAME(choose)(NAME(above)(IN_LANES(CONSTANT(__builtin_inff(), __builtin_inf())), x), result, x);
}

/*
 * SiLU and GELU far on the left are w times something that is too small for a normal number long before the product is, so the
 * exponentials there are carried with a factor 2^TINY that is taken back last.  Arguments below TINY_END are zero even so.
 */
#define TINY CONSTANT(8, 16)
#define TINY_INVERSE CONSTANT(0x1p-8f, 0x1p-16)
#define TINY_END CONSTANT(-93.5f, -720.0)

typedef struct {
    VECTOR a, d;
} NAME(pair);

/*
 * SiLU, a = z s(z), and its derivative s + z s (1 - s).  With w = |z|, e = exp(-w) and d = 1 + e: s = 1 / d and 1 - s = e / d for
 * z >= 0, the other way round for z < 0, so that the derivative is (d + w e) / d^2 or e (d - w) / d^2.  d^2 as 1 + e (2 + e)
 * collects fewer errors than d d.
 *
 * Error of a: 3.3 (float), 3.2 (double); of the derivative: 3.9, 3.7, but for -3 < z < -0.5, where it has a zero, 1.3 2^-24,
 * 1.3 2^-53 in absolute terms.
 */
INLINE NAME(pair) NAME(silu)(VECTOR z)
{
    const NAME(lane_test) negative = NEGATIVE(z);
    const VECTOR w = NAME(at_most)(-TINY_END, NAME(magnitude)(z));
    NAME(power) p = NAME(exp_parts)(-w, IN_LANES(0), IN_LANES(TINY));
    const VECTOR large = p.scale * (1 + p.tail), e = large * TINY_INVERSE, d = 1 + e;
    const VECTOR back = NAME(choose)(negative, IN_LANES(TINY_INVERSE), IN_LANES(1));
    NAME(pair) result;
    result.a = NAME(choose)(negative, -(w * large), z) / d * back;
    result.d = NAME(choose)(negative, large * (d - w), d + w * e) / (1 + e * (2 + e)) * back;
    return result;
}

/*
 * GELU, a = z Phi(z), and its derivative Phi(z) + z phi(z).  With w = |z|: 1 - Phi(w) = exp(-w^2 / 2) R(w), where
 * R(w) = erfc(w / sqrt 2) exp(w^2 / 2) / 2 falls slowly, like 1 / (w sqrt(2 pi)).  So (w + K) R(w) stays between 0.39 and 1.4, and
 * is a minimax polynomial in t = (w - K) / (w + K), which maps all w to [-1, 1): relative error 9.3e-9 with degree 11 up to
 * w = 13.7 (float, K = 1.5), 3.0e-17 with degree 24 up to w = 38 (double; of all K near 2.5 this one rounds the coefficients to
 * best advantage).  The polynomial sees w as rounded in w + K, and the rest of w follows by R' = w R - 1 / sqrt(2 pi).
 * For z < 0 the derivative is g = exp(-w^2 / 2) (R(w) - w / sqrt(2 pi)), for z > 0 it is 1 - g.
 *
 * w^2 / 2 must be known far better than to a rounding error, as exp multiplies its relative error by w^2 / 2: with h = w cut to
 * half of its bits h^2 is exact, and the rest is (w - h) (w + h).
 *
 * Error of a: 3.5 (float), 4.0 (double); of the derivative: 3.6, 3.8, but for -1.5 < z < -0.2, where it has a zero, 1.2 2^-24,
 * 1.7 2^-53 in absolute terms.
 */
INLINE NAME(pair) NAME(gelu)(VECTOR z)
{
    const REAL K = CONSTANT(1.5f, 2.78125), density = CONSTANT(0x1.988454p-2f, 0x1.9884533d43651p-2);
    VECTOR w = NAME(at_most)(CONSTANT(13.67f, 37.95), NAME(magnitude)(z));
    VECTOR h = (VECTOR)((NAME(lane_bits))w & (BITS)-1 << CONSTANT(12, 27));
    NAME(power) p = NAME(exp_parts)((REAL)-0.5 * h * h, (REAL)-0.5 * (w - h) * (w + h), IN_LANES(TINY));
    VECTOR s = w + K, near = s - K, t = (near - K) / s;
    VECTOR t2 = t * t, t4 = t2 * t2;
#if REAL_IS_DOUBLE
    VECTOR R = -0x1.4da24c41fa082p-28 * t2 + (-0x1.40d76242e12d0p-27 * t + 0x1.e49a25ae9618ep-26);
    R = R * t4 + NAME(cubic)(t, t2, -0x1.9a961458333b5p-22, -0x1.42dd8a2f40b89p-22, -0x1.04414a3a81686p-26,
                             0x1.68ba5b216ecedp-24);
    R = R * t4 + NAME(cubic)(t, t2, -0x1.5133f5cb961b2p-19, 0x1.1e7145c9e998cp-19, 0x1.d0ee915f91b51p-20,
                             0x1.3992ac32cd0c1p-22);
    R = R * t4 + NAME(cubic)(t, t2, 0x1.9e23d76af74c7p-14, 0x1.21f26884b20cdp-15, -0x1.6f1b9631b5324p-17,
                             -0x1.a522c3eb0d151p-17);
    R = R * t4 + NAME(cubic)(t, t2, 0x1.3b77fd1d66723p-9, -0x1.b819f394c2724p-12, -0x1.05a33a2f27baap-11,
                             -0x1.5ef77221bd36ap-16);
    R = R * t4 + NAME(cubic)(t, t2, 0x1.81f5cc5d7744cp-3, -0x1.4a9d804979e8fp-6, -0x1.06951670c832bp-6,
                             0x1.ee7d6bb7ae824p-9);
    R = R * t - 0x1.ea83cfcdb0c84p-2;
    R = R * t + 0x1.70d2dff7299abp-1;
#else
    VECTOR R = 0x1.523ac6p-13f * t + 0x1.ef83e6p-12f;
    R = R * t4 + NAME(cubic)(t, t2, -0x1.3e3506p-9f, -0x1.616e5ep-9f, -0x1.140a4cp-10f, 0x1.e5751ep-13f);
    R = R * t4 + NAME(cubic)(t, t2, -0x1.d70066p-5f, 0x1.253abap-6f, 0x1.20fe7ep-6f, 0x1.050b96p-8f);
    R = R * t - 0x1.8f9056p-3f;
    R = R * t + 0x1.3c1440p-1f;
#endif
    R /= s;
    VECTOR rest = (w - near) * (w * R - density), slope = R - density * w;
    VECTOR q = p.scale * (R + (R * p.tail + rest)), g = p.scale * (slope + (slope * p.tail + rest)) * TINY_INVERSE;
    NAME(pair) result;
    result.a = NAME(choose)(NEGATIVE(z), -(w * q) * TINY_INVERSE, z * (1 - q * TINY_INVERSE));
    result.d = NAME(choose)(NEGATIVE(z), g, 1 - g);
    return result;
}

/* In softmax_template.h. */
static void NAME(softmax)(size_t rows, size_t n, REAL *z, size_t ldz);

/* 1 where the test says yes, else `other`. */
INLINE VECTOR NAME(one_or)(NAME(lane_test) test, VECTOR other)
{
    return NAME(choose)(test, IN_LANES(1), other);
}

/* dA *= the derivative in terms of the output a, for every element of a tile; ends a case of a switch. */
#define EACH(...)                                                                                                      \
    for (size_t i = 0; i < rows; i++) {                                                                                \
        const REAL *restrict a_row = (const REAL *)A + i * lda;                                                        \
        REAL *restrict da_row = (REAL *)dA + i * ldda;                                                                 \
        for (size_t j = 0; j < width; j += LANES) {                                                                    \
            const VECTOR a = *(const VECTOR *)(a_row + j);                                                             \
            *(VECTOR *)(da_row + j) *= __VA_ARGS__;                                                                    \
        }                                                                                                              \
    }                                                                                                                  \
    break

static void NAME(activation_backward)(const cymlp_act *act, size_t rows, size_t n, const void *A, const void *D, size_t lda,
                                      void *dA, size_t ldda)
{
    size_t width = PADDED(n);
    const REAL slope = (REAL)act->slope, gain = (REAL)act->gain;
    if (lda == width && ldda == width) {
        width *= rows;
        rows = 1;
    }
    switch (act->kind) {
    case CYMLP_SIGMOID:
        EACH(a * (1 - a));
    case CYMLP_TANH:
        EACH(1 - a * a);
    case CYMLP_RELU:
        EACH(NAME(choose)(POSITIVE(a), IN_LANES(gain), IN_LANES(0)));
    case CYMLP_LEAKY_RELU:
        EACH(NAME(one_or)(POSITIVE(a), IN_LANES(slope)));
    case CYMLP_ELU:
        EACH(NAME(one_or)(POSITIVE(a), a + 1));
    case CYMLP_SOFTPLUS:
        EACH(-NAME(expm1_negative)(-a));
    case CYMLP_EXP:
        EACH(a);
    case CYMLP_GELU:
    case CYMLP_SILU:
        A = D; /* the derivative itself */
        EACH(a);
    default: /* identity: 1; softmax: nothing elementwise */
        break;
    }
}

#undef EACH

/* z becomes phi(z) for every element of a tile; ends a case of a switch. */
#define EACH(...)                                                                                                      \
    for (size_t i = 0; i < rows; i++) {                                                                                \
        REAL *restrict z_row = (REAL *)Z + i * ldz;                                                                    \
        for (size_t j = 0; j < width; j += LANES) {                                                                    \
            const VECTOR z = *(VECTOR *)(z_row + j);                                                                   \
            *(VECTOR *)(z_row + j) = __VA_ARGS__;                                                                      \
        }                                                                                                              \
    }                                                                                                                  \
    break

/* The same with the derivative beside it, which goes to D. */
#define EACH_PAIR(function)                                                                                            \
    for (size_t i = 0; i < rows; i++) {                                                                                \
        REAL *restrict z_row = (REAL *)Z + i * ldz;                                                                    \
        REAL *restrict d_row = (REAL *)D + i * ldz;                                                                    \
        for (size_t j = 0; j < width; j += LANES) {                                                                    \
            NAME(pair) both = function(*(VECTOR *)(z_row + j));                                                        \
            *(VECTOR *)(z_row + j) = both.a;                                                                           \
            *(VECTOR *)(d_row + j) = both.d;                                                                           \
        }                                                                                                              \
    }                                                                                                                  \
    break

/* D = 1, for activation_backward to make phi' of it. */
static void NAME(fill_ones)(size_t rows, size_t width, REAL *D, size_t ldd)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < width; j++)
            D[i * ldd + j] = 1;
}

static void NAME(activate)(const cymlp_act *act, size_t rows, size_t n, void *Z, size_t ldz, void *D)
{
    const size_t all_rows = rows;
    size_t width = PADDED(n);
    const REAL slope = (REAL)act->slope;
    if (act->kind == CYMLP_SOFTMAX) {
        NAME(softmax)(rows, n, Z, ldz);
        return;
    }
    if (ldz == width) {
        width *= rows;
        rows = 1;
    }
    switch (act->kind) {
    case CYMLP_SIGMOID:
        EACH(NAME(sigmoid)(z));
    case CYMLP_TANH:
        EACH(NAME(tanh)(z));
    case CYMLP_LEAKY_RELU:
        if (slope > 0) { /* else -infinity times slope were NaN */
            EACH(NAME(choose)(POSITIVE(z), z, slope * z));
        } /* fall through */
    case CYMLP_RELU:
        EACH(NAME(at_least)(0, z));
    case CYMLP_ELU:
        EACH(NAME(choose)(POSITIVE(z), z, NAME(expm1_negative)(z)));
    case CYMLP_SOFTPLUS:
        EACH(NAME(softplus)(z));
    case CYMLP_EXP:
        EACH(NAME(exp)(z));
    case CYMLP_SILU:
        if (D) {
            EACH_PAIR(NAME(silu));
        }
        EACH(NAME(silu)(z).a);
    case CYMLP_GELU:
        if (D) {
            EACH_PAIR(NAME(gelu));
        }
        EACH(NAME(gelu)(z).a);
    default: /* identity */
        break;
    }
    if (D && !cymlp_needs_slope(act->kind)) {
        NAME(fill_ones)(rows, width, D, ldz);
        NAME(activation_backward)(act, all_rows, n, Z, NULL, ldz, D, ldz);
    }
}

#undef EACH
#undef EACH_PAIR
#undef TINY
#undef TINY_INVERSE
#undef TINY_END
#undef LN2_HIGH
#undef LN2_LOW
#undef LOG2_E
#undef ROUNDER
#undef MANTISSA
#undef BIAS
