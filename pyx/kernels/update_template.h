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

static void NAME(update)(const cymlp_step *step, size_t n, void *parameters, const void *gradient, void *first, void *second)
{
    REAL *restrict w = parameters, *restrict m = first, *restrict v = second;
    const REAL *restrict g = gradient;
    const REAL rate = (REAL)step->rate, epsilon = (REAL)step->epsilon, decay = (REAL)step->decay;
    const REAL beta1 = (REAL)step->beta1, beta2 = (REAL)step->beta2;
    const REAL new1 = (REAL)(1 - step->beta1), new2 = (REAL)(1 - step->beta2);
    n &= ~(size_t)(LANES - 1); /* it is a multiple already; this tells the compiler so */
    switch (step->kind) {
    case CYMLP_SGD:
        for (size_t i = 0; i < n; i++)
            w[i] -= rate * g[i];
        break;
    case CYMLP_MOMENTUM:
        for (size_t i = 0; i < n; i++) {
            m[i] = beta1 * m[i] - rate * g[i];
            w[i] += m[i];
        }
        break;
    case CYMLP_NESTEROV:
        for (size_t i = 0; i < n; i++) {
            m[i] = beta1 * m[i] - rate * g[i];
            w[i] += beta1 * m[i] - rate * g[i];
        }
        break;
    case CYMLP_RMSPROP:
        for (size_t i = 0; i < n; i++) {
            v[i] = beta2 * v[i] + new2 * (g[i] * g[i]);
            w[i] -= rate * (g[i] / (SQRT(v[i]) + epsilon));
        }
        break;
    default: /* CYMLP_ADAM */
        for (size_t i = 0; i < n; i++) {
            m[i] = beta1 * m[i] + new1 * g[i];
            v[i] = beta2 * v[i] + new2 * (g[i] * g[i]);
            w[i] -= decay * w[i] + rate * (m[i] / (SQRT(v[i]) + epsilon));
        }
        break;
    }
}

#undef SQRT
