/*
 * update_template.h - one step of an optimiser on a run of parameters.
 *
 * A template with the parameters of activation_template.h; defines NAME(update).  Each rule is one loop over w, g and its state;
 * constants are computed in double and rounded once.  Formulas and their sources stand in optimizers.py.
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

/* The gradient is g, or g + more where `two` is true: a constant wherever this is inlined. */
static inline __attribute__((always_inline)) void NAME(apply)(const int two, const cymlp_step *step, size_t n, REAL *restrict w,
                                                              const REAL *restrict g, const REAL *restrict more,
                                                              REAL *restrict m, REAL *restrict v)
{
    const REAL rate = (REAL)step->rate, epsilon = (REAL)step->epsilon, decay = (REAL)step->decay;
    const REAL beta1 = (REAL)step->beta1, beta2 = (REAL)step->beta2;
    const REAL new1 = (REAL)(1 - step->beta1), new2 = (REAL)(1 - step->beta2);
    n &= ~(size_t)(LANES - 1); /* it is a multiple already; this tells the compiler so */
#define EACH(...)                                         \
    for (size_t i = 0; i < n; i++) {                      \
        const REAL gradient = two ? g[i] + more[i] : g[i]; \
        __VA_ARGS__                                       \
    }                                                     \
    break
    switch (step->kind) {
    case CYMLP_SGD:
        EACH(w[i] -= rate * gradient;);
    case CYMLP_MOMENTUM:
        EACH(m[i] = beta1 * m[i] - rate * gradient; w[i] += m[i];);
    case CYMLP_NESTEROV:
        EACH(m[i] = beta1 * m[i] - rate * gradient; w[i] += beta1 * m[i] - rate * gradient;);
    case CYMLP_RMSPROP:
        EACH(v[i] = beta2 * v[i] + new2 * (gradient * gradient); w[i] -= rate * (gradient / (SQRT(v[i]) + epsilon)););
    default: /* CYMLP_ADAM */
        EACH(m[i] = beta1 * m[i] + new1 * gradient; v[i] = beta2 * v[i] + new2 * (gradient * gradient);
             w[i] -= decay * w[i] + rate * (m[i] / (SQRT(v[i]) + epsilon)););
    }
#undef EACH
}

/* Of two gradients one comes from another core: its lines are asked for a piece ahead, while the optimiser works on this one. */
#define PIECE 512

static void NAME(update)(const cymlp_step *step, size_t n, void *w, const void *g, const void *more, void *m, void *v)
{
    if (!more) {
        NAME(apply)(0, step, n, w, g, NULL, m, v);
        return;
    }
    for (size_t first = 0; first < n; first += PIECE) {
        const REAL *one = (const REAL *)g + first, *other = (const REAL *)more + first;
        for (size_t i = 0; i < PIECE; i += 64 / sizeof(REAL)) {
            __builtin_prefetch(one + PIECE + i);
            __builtin_prefetch(other + PIECE + i);
        }
        NAME(apply)(1, step, n - first < PIECE ? n - first : PIECE, (REAL *)w + first, one, other, m ? (REAL *)m + first : NULL,
                    v ? (REAL *)v + first : NULL);
    }
}

#undef PIECE
#undef SQRT
