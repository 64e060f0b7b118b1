/*
 * update_template.h - one step of an optimiser on a run of parameters.
 *
 * A template, included after vector_template.h with the same parameters; defines NAME(update).  Each rule is one loop over w, g and
 * its state; constants are computed in double and rounded once.  Formulas and their sources stand in optimizers.py.  Where there
 * are penalties, g is that of the loss plus l2 w + l1 sign(w).  Every rule may decay: decay w is taken from w with the step.
 *
 *   SGD        w <- w - rate g
 *   momentum   m <- beta1 m - rate g;  w <- w + m
 *   Nesterov   m <- beta1 m - rate g;  w <- w + beta1 m - rate g
 *   RMSprop    v <- beta2 v + (1 - beta2) g^2;  w <- w - rate g / (sqrt(v) + epsilon)
 *   Adam       m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2;
 *              w <- w - decay w - rate m / (sqrt(v) + epsilon)
 */

#if REAL_IS_DOUBLE
#define SQRT __builtin_sqrt
#else
#define SQRT __builtin_sqrtf
#endif

/* The gradient is g, or g + more where `two` is true.  Only where it is `penalized` there are penalties, or a decay of other rules
 * than Adam.  Both are constants wherever this is inlined. */
INLINE void NAME(apply)(const int two, const int penalized, const cymlp_step *step, size_t n, REAL *restrict w,
                        const REAL *restrict g, const REAL *restrict more, REAL *restrict m, REAL *restrict v)
{
    const REAL rate = (REAL)step->rate, epsilon = (REAL)step->epsilon, decay = (REAL)step->decay;
    const REAL l2 = (REAL)step->l2, l1 = (REAL)step->l1;
    const REAL beta1 = (REAL)step->beta1, beta2 = (REAL)step->beta2;
    const REAL new1 = (REAL)(1 - step->beta1), new2 = (REAL)(1 - step->beta2);
    n &= ~(size_t)(LANES - 1); /* it is a multiple already; this tells the compiler so */
#define DECAYED (penalized ? w[i] - decay * w[i] : w[i])
#define EACH(...)                                                                   \
    for (size_t i = 0; i < n; i++) {                                                \
        const REAL of_loss = two ? g[i] + more[i] : g[i];                           \
        const REAL of_l1 = (w[i] > 0 ? l1 : 0) - (w[i] < 0 ? l1 : 0);               \
        const REAL gradient = penalized ? of_loss + l2 * w[i] + of_l1 : of_loss;    \
        __VA_ARGS__                                                                 \
    }                                                                               \
    break
    switch (step->kind) {
    case CYMLP_SGD:
        EACH(w[i] = DECAYED - rate * gradient;);
    case CYMLP_MOMENTUM:
        EACH(m[i] = beta1 * m[i] - rate * gradient; w[i] = DECAYED + m[i];);
    case CYMLP_NESTEROV:
        EACH(m[i] = beta1 * m[i] - rate * gradient; w[i] = DECAYED + (beta1 * m[i] - rate * gradient););
    case CYMLP_RMSPROP:
        EACH(v[i] = beta2 * v[i] + new2 * (gradient * gradient); w[i] = DECAYED - rate * (gradient / (SQRT(v[i]) + epsilon)););
    default: /* CYMLP_ADAM */
        EACH(m[i] = beta1 * m[i] + new1 * gradient; v[i] = beta2 * v[i] + new2 * (gradient * gradient);
             w[i] -= decay * w[i] + rate * (m[i] / (SQRT(v[i]) + epsilon)););
    }
#undef EACH
#undef DECAYED
}

/* Of two gradients one comes from another core: its lines are asked for a piece ahead, while the optimiser works on this one. */
#define PIECE 512

INLINE void NAME(apply_all)(const int penalized, const cymlp_step *step, size_t n, REAL *w, const REAL *g, const REAL *more,
                            REAL *m, REAL *v)
{
    if (!more) {
        NAME(apply)(0, penalized, step, n, w, g, NULL, m, v);
        return;
    }
    for (size_t first = 0; first < n; first += PIECE) {
        const REAL *one = g + first, *other = more + first;
        for (size_t i = 0; i < PIECE; i += 64 / sizeof(REAL)) {
            __builtin_prefetch(one + PIECE + i);
            __builtin_prefetch(other + PIECE + i);
        }
        NAME(apply)(1, penalized, step, n - first < PIECE ? n - first : PIECE, w + first, one, other, m ? m + first : NULL,
                    v ? v + first : NULL);
    }
}

/* Functions of their own, or gcc 12 would lose sight of n being a multiple of LANES. */
static __attribute__((noinline)) void NAME(update_penalized)(const cymlp_step *step, size_t n, void *w, const void *g,
                                                             const void *more, void *m, void *v)
{
    NAME(apply_all)(1, step, n, w, g, more, m, v);
}

static __attribute__((noinline)) void NAME(update_plain)(const cymlp_step *step, size_t n, void *w, const void *g, const void *more,
                                                         void *m, void *v)
{
    NAME(apply_all)(0, step, n, w, g, more, m, v);
}

static void NAME(update)(const cymlp_step *step, size_t n, void *w, const void *g, const void *more, void *m, void *v)
{
    if (step->l2 != 0 || step->l1 != 0 || (step->decay != 0 && step->kind != CYMLP_ADAM))
        NAME(update_penalized)(step, n, w, g, more, m, v);
    else
        NAME(update_plain)(step, n, w, g, more, m, v);
}

#undef PIECE

#undef SQRT

/* Of all templates so far. */
#undef INLINE
#undef EVERY
#undef COMBINE
#undef FOLD
#undef FIRST
#undef VECTOR
#undef IN_LANES
#undef POSITIVE
#undef NEGATIVE
#undef FIRST_2
#undef FIRST_4
#undef FIRST_8
#undef FIRST_16
#undef SIGN_BIT
#undef BITS
#undef CONSTANT
#undef PADDED
