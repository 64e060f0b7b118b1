/*
 * loss_template.h - the losses of the output layer and their gradients, row by row.
 *
 * A template, included after activation_template.h with the same parameters; defines NAME(loss_and_gradient).  A row is computed
 * alone and in one order, so that its bits do not depend on the tile it comes in.  The terms of a loss are reals, their sum over
 * the outputs of a row is a double.  Formulas and their sources stand in losses.py.
 */

/* The sum of a padded row in double, in two vectors of doubles by turns, which are folded pairwise. */
#define DOUBLES (LANES * sizeof(REAL) / sizeof(double))
typedef double NAME(doubles) __attribute__((vector_size(DOUBLES * sizeof(double))));
typedef REAL NAME(singles) __attribute__((vector_size(DOUBLES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

static __attribute__((noinline)) double NAME(sum)(size_t width, const REAL *x)
{
    NAME(doubles) even = { 0 }, odd = { 0 };
    size_t j = 0;
    for (; j + 2 * DOUBLES <= width; j += 2 * DOUBLES) {
        even += __builtin_convertvector(*(const NAME(singles) *)(x + j), NAME(doubles));
        odd += __builtin_convertvector(*(const NAME(singles) *)(x + j + DOUBLES), NAME(doubles));
    }
    if (j < width)
        even += __builtin_convertvector(*(const NAME(singles) *)(x + j), NAME(doubles));
    even += odd;
    double parts[DOUBLES];
    memcpy(parts, &even, sizeof parts);
    FOLD(parts, DOUBLES, SUM);
    return parts[0];
}

/*
 * Categorical cross-entropy behind a softmax p: with m = max z and S = sum_j exp(z_j - m), the loss of a label k is
 * m - z_k + log S and dloss/dz = p - [j = k]; of targets y, sum_j y_j (m - z_j + log S) and p sum_j y_j - y.
 */
static double NAME(label_row)(size_t n, size_t label, REAL factor, REAL *restrict z)
{
    const double chosen = z[label];
    REAL max;
    const REAL total = NAME(exponentials)(n, z, &max), ratio = factor / total;
    const size_t width = PADDED(n);
    for (size_t j = 0; j < width; j++)
        z[j] *= ratio;
    NAME(fill_padding)(n, z, 0);
    z[label] -= factor;
    return (max - chosen) + NAME(log)(total);
}

static double NAME(categorical_row)(size_t n, REAL factor, REAL *restrict z, REAL *restrict y, REAL *restrict logits)
{
    const size_t width = PADDED(n);
    const REAL target_sum = (REAL)NAME(sum)(width, y);
    REAL max;
    memcpy(logits, z, width * sizeof *z);
    const REAL total = NAME(exponentials)(n, z, &max), log_total = NAME(log)(total), ratio = target_sum / total;
    for (size_t j = 0; j < width; j++) {
        z[j] = factor * (z[j] * ratio - y[j]);
        y[j] *= (max - logits[j]) + log_total;
    }
    NAME(fill_padding)(n, z, 0);
    return NAME(sum)(width, y);
}

/* dZ, in place of Z, and the term of the loss, in place of y, for every output of a row. */
#define EACH(gradient, term)                                                                                           \
    for (size_t j = 0; j < width; j++) {                                                                               \
        const REAL a = z[j], t = y[j], d = a - t;                                                                      \
        z[j] = factor * (gradient);                                                                                    \
        y[j] = (term);                                                                                                 \
    }                                                                                                                  \
    break

/*
 * The Poisson loss t log(t / a) - t + a, with dloss/dz = (a - t) dlog(a)/dz.  log a and its slope come from z, so that they are
 * right where a itself is 0 or infinite: behind exp they are z and 1; behind a sigmoid -log(1 + exp(-z)) and sigmoid(-z); behind a
 * softplus log(a) and sigmoid(z) / a, which for z < -40 are z and 1 to the last bit.
 */
#define POISSON(value, log_value, log_slope)                                                                                     \
    for (size_t j = 0; j < width; j++) {                                                                                         \
        const REAL logit = z[j], t = y[j], a = (value);                                                                          \
        z[j] = factor * ((a - t) * (log_slope));                                                                                 \
        y[j] = (t > 0 ? t * (NAME(log)(t) - (log_value)) : 0) + (a - t);                                                         \
    }                                                                                                                            \
    break

static void NAME(poisson_row)(int activation, size_t width, REAL factor, REAL *restrict z, REAL *restrict y)
{
    switch (activation) {
    case CYMLP_SIGMOID:
        POISSON(NAME(sigmoid)(logit), -NAME(softplus)(-logit), NAME(sigmoid)(-logit));
    case CYMLP_SOFTPLUS:
        POISSON(NAME(softplus)(logit), logit < -40 ? logit : NAME(log)(a), logit < -40 ? 1 : NAME(sigmoid)(logit) / a);
    default: /* CYMLP_EXP */
        POISSON(NAME(exp)(logit), logit, 1);
    }
}

#undef POISSON

/* Every other loss: z (padded n) becomes dZ, y (padded n) is destroyed, slopes (padded n) is scratch. */
static double NAME(elementwise_row)(const cymlp_target *target, const cymlp_act *act, size_t n, REAL factor, REAL *restrict z,
                                    REAL *restrict y, REAL *restrict slopes)
{
    const size_t width = PADDED(n);
    const REAL delta = (REAL)target->delta;
    if (target->kind == CYMLP_BINARY_CROSS_ENTROPY) {
        /* Behind a sigmoid, from z: max(z, 0) - z y + log(1 + exp(-|z|)); dZ = sigmoid(z) - y. */
        for (size_t j = 0; j < width; j++) {
            const REAL logit = z[j], t = y[j];
            z[j] = factor * (NAME(sigmoid)(logit) - t);
            y[j] = NAME(softplus)(logit) - logit * t;
        }
    } else if (target->kind == CYMLP_POISSON) {
        NAME(poisson_row)(act->kind, width, factor, z, y);
    } else {
        NAME(activate)(act, 1, n, z, width, slopes);
        switch (target->kind) {
        case CYMLP_SQUARED_ERROR:
            EACH(d * slopes[j], (REAL)0.5 * d * d);
        case CYMLP_ABSOLUTE_ERROR:
            EACH(((d > 0 ? (REAL)1 : (REAL)0) - (d < 0 ? (REAL)1 : (REAL)0)) * slopes[j], NAME(magnitude)(d));
        default: /* CYMLP_HUBER */
            EACH(NAME(at_most)(delta, NAME(at_least)(-delta, d)) * slopes[j],
                 NAME(magnitude)(d) > delta ? delta * (NAME(magnitude)(d) - (REAL)0.5 * delta) : (REAL)0.5 * d * d);
        }
    }
    NAME(fill_padding)(n, z, 0);
    NAME(fill_padding)(n, y, 0);
    return NAME(sum)(width, y);
}

#undef EACH

static void NAME(loss_and_gradient)(const cymlp_target *target, const cymlp_act *act, size_t rows, size_t n,
                                    const ptrdiff_t *index, double scale, void *Z, size_t ldz, double *loss, void *work)
{
    const size_t width = PADDED(n);
    REAL *y = work, *second = y + width;
    for (size_t i = 0; i < rows; i++) {
        const size_t example = index ? (size_t)index[i] : i;
        const double weight = target->weights ? ((const REAL *)target->weights)[example] : 1.0;
        const REAL factor = (REAL)(scale * weight);
        REAL *z = (REAL *)Z + i * ldz;
        double value;
        if (target->targets) {
            memcpy(y, (const REAL *)target->targets + example * n, n * sizeof *y);
            memset(y + n, 0, (width - n) * sizeof *y);
            value = target->kind == CYMLP_CATEGORICAL_CROSS_ENTROPY
                        ? NAME(categorical_row)(n, factor, z, y, second)
                        : NAME(elementwise_row)(target, act, n, factor, z, y, second);
        } else {
            value = NAME(label_row)(n, (size_t)target->labels[example], factor, z);
        }
        loss[i] = weight * value;
    }
}

#undef INLINE
#undef DOUBLES
#undef SUM
#undef FOLD
#undef FOLD_HALF
#undef BITS
#undef CONSTANT
#undef PADDED
