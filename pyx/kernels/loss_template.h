/*
 * loss_template.h - the losses of the output layer and their gradients.
 *
 * A template, included after softmax_template.h with the same parameters; defines NAME(loss_and_gradient).  Rows are taken in
 * blocks, as a single narrow row would spend most of its time in overheads; but what a row gives is computed from that row alone
 * and in one order, so that its bits do not depend on the tile it comes in.  The terms of a loss are reals, their sum over the
 * outputs of a row is a double.  Formulas and their sources stand in losses.py.
 */

/* The sum of a padded row in double, in two vectors of doubles by turns, which are folded pairwise. */
#define DOUBLES (LANES * sizeof(REAL) / sizeof(double))
typedef double NAME(doubles) __attribute__((vector_size(DOUBLES * sizeof(double))));
typedef REAL NAME(singles) __attribute__((vector_size(DOUBLES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

static double NAME(sum)(size_t width, const REAL *x)
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
    EVERY for (size_t half = DOUBLES / 2; half > 0; half /= 2)
        EVERY for (size_t l = 0; l < half; l++)
            parts[l] += parts[l + half];
    return parts[0];
}

/* Up to so many outputs a row is narrow. */
#define NARROW 16

/* memcpy, but without a call for a few reals. */
INLINE void NAME(copy)(size_t n, const REAL *from, REAL *to)
{
    if (n > NARROW) {
        memcpy(to, from, n * sizeof *to);
        return;
    }
    for (size_t j = 0; j < n; j++) {
        __asm__("" : "+r"(j)); /* or the compiler would call memcpy all the same */
        to[j] = from[j];
    }
}

/* At most ROWS rows of a tile, which are taken together. */
typedef struct {
    size_t count;
    size_t example[ROWS];
    double weight[ROWS];
    REAL factor[ROWS];      /* of the gradient */
    double cap;             /* of a row's cross-entropy, without its weight */
    double *loss;
} NAME(block);

/* The smaller one, or `loss` where that is NaN. */
INLINE double NAME(capped)(double loss, double cap)
{
    return loss > cap ? cap : loss;
}

/*
 * Categorical cross-entropy of label k behind a softmax p: with m = max z and S = sum_j exp(z_j - m), the loss is
 * m - z_k + log S and dloss/dz = p - [j = k].
 */
static void NAME(label_rows)(const NAME(block) *block, size_t n, const int64_t *labels, REAL *z, size_t ldz)
{
    const size_t count = block->count, width = PADDED(n);
    REAL chosen[ROWS], label[ROWS] = { 0 }, logs[ROWS];
    NAME(across) x;
    for (size_t i = 0; i < count; i++) {
        const size_t k = (size_t)labels[block->example[i]];
        chosen[i] = z[i * ldz + k];
        label[i] = (REAL)k;
    }
    if (n <= FEW) {
        NAME(exponentials_across)(count, n, z, ldz, &x);
        for (size_t i = 0; i < PADDED(count); i += LANES) {
            const VECTOR factor = *(VECTOR *)(block->factor + i), ratio = factor / *(VECTOR *)(x.total + i);
            for (size_t j = 0; j < n; j++) {
                VECTOR *column = (VECTOR *)(x.columns[j] + i);
                const NAME(lane_test) chosen_here = NAME(equal)(*(VECTOR *)(label + i), IN_LANES((REAL)j));
                *column = *column * ratio - NAME(choose)(chosen_here, factor, IN_LANES(0));
            }
        }
        NAME(lay_along)(count, n, &x, z, ldz);
    } else {
        for (size_t i = 0; i < count; i += LANES) {
            const size_t rows = count - i < LANES ? count - i : LANES;
            const NAME(tops) tops = width == LANES ? NAME(exponentials_along)(rows, n, LANES, z + i * ldz, ldz)
                                                   : NAME(exponentials_along)(rows, n, width, z + i * ldz, ldz);
            NAME(scale_rows)(rows, n, width, z + i * ldz, ldz, *(VECTOR *)(block->factor + i) / tops.total);
            *(VECTOR *)(x.max + i) = tops.max;
            *(VECTOR *)(x.total + i) = tops.total;
        }
        for (size_t i = 0; i < count; i++)
            z[i * ldz + (size_t)labels[block->example[i]]] -= block->factor[i];
    }
    for (size_t i = 0; i < PADDED(count); i += LANES)
        *(VECTOR *)(logs + i) = NAME(log)(*(VECTOR *)(x.total + i));
    for (size_t i = 0; i < count; i++)
        block->loss[i] = block->weight[i] * NAME(capped)(((double)x.max[i] - chosen[i]) + logs[i], block->cap);
}

/*
 * Categorical cross-entropy of targets y behind a softmax p: with m = max z and S = sum_j exp(z_j - m) the loss is
 * sum_j y_j (m - z_j + log S) and dloss/dz is p sum_j y_j - y.  At most LANES rows of a block, `count` from `first` on; y and
 * logits (count, padded n) are scratch.
 */
static void NAME(categorical_rows)(const NAME(block) *block, size_t first, size_t count, size_t n, const REAL *targets, REAL *z,
                                   size_t ldz, REAL *y, REAL *logits)
{
    const size_t width = PADDED(n);
    REAL target_sum[LANES] = { 0 }, top[LANES], logs[LANES], ratio[LANES];
    for (size_t i = 0; i < count; i++) {
        *(VECTOR *)(y + i * width + width - LANES) = IN_LANES(0);
        NAME(copy)(n, targets + block->example[first + i] * n, y + i * width);
        target_sum[i] = (REAL)NAME(sum)(width, y + i * width);
        for (size_t j = 0; j < width; j += LANES)
            *(VECTOR *)(logits + i * width + j) = *(VECTOR *)(z + i * ldz + j);
    }
    const NAME(tops) tops = NAME(exponentials_along)(count, n, width, z, ldz);
    *(VECTOR *)top = tops.max;
    *(VECTOR *)logs = NAME(log)(tops.total);
    *(VECTOR *)ratio = *(VECTOR *)target_sum / tops.total;
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < width; j += LANES) {
            VECTOR *at = (VECTOR *)(z + i * ldz + j), *target = (VECTOR *)(y + i * width + j);
            *at = block->factor[first + i] * (*at * ratio[i] - *target);
            *target *= (top[i] - *(VECTOR *)(logits + i * width + j)) + logs[i];
        }
        NAME(fill_padding)(n, width, z + i * ldz, 0);
        NAME(fill_padding)(n, width, y + i * width, 0);
        block->loss[first + i] = block->weight[first + i] * NAME(capped)(NAME(sum)(width, y + i * width), block->cap);
    }
}

/* dZ, in place of Z, and the term of the loss, in place of y, for every output. */
#define EACH(gradient, term)                                                                                           \
    for (size_t j = 0; j < width; j += LANES) {                                                                        \
        const VECTOR a = *(VECTOR *)(z + j), t = *(VECTOR *)(y + j), s = *(VECTOR *)(slopes + j), d = a - t;           \
        *(VECTOR *)(z + j) = factor * ((gradient) * s);                                                                \
        *(VECTOR *)(y + j) = (term);                                                                                   \
    }                                                                                                                  \
    break

/*
 * The Poisson loss t log(t / a) - t + a, with dloss/dz = (a - t) dlog(a)/dz.  log a and its slope come from z, so that they are
 * right where a itself is 0 or infinite: behind exp they are z and 1; behind a sigmoid -log(1 + exp(-z)) and sigmoid(-z); behind a
 * softplus log(a) and sigmoid(z) / a, which for z < -40 are z and 1 to the last bit.
 */
#define POISSON(value, log_value, log_slope)                                                                                     \
    for (size_t j = 0; j < width; j += LANES) {                                                                                  \
        const VECTOR logit = *(VECTOR *)(z + j), t = *(VECTOR *)(y + j), a = (value);                                            \
        *(VECTOR *)(z + j) = factor * ((a - t) * (log_slope));                                                                   \
        *(VECTOR *)(y + j) = NAME(choose)(POSITIVE(t), t * (NAME(log)(t) - (log_value)), IN_LANES(0)) + (a - t);                   \
    }                                                                                                                            \
    break

static void NAME(poisson)(int activation, size_t width, REAL factor, REAL *restrict z, REAL *restrict y)
{
    switch (activation) {
    case CYMLP_SIGMOID:
        POISSON(NAME(sigmoid)(logit), -NAME(softplus)(-logit), NAME(sigmoid)(-logit));
    case CYMLP_SOFTPLUS:
        POISSON(NAME(softplus)(logit), NAME(choose)(NAME(above)(IN_LANES(-40), logit), logit, NAME(log)(a)),
                NAME(one_or)(NAME(above)(IN_LANES(-40), logit), NAME(sigmoid)(logit) / a));
    default: /* CYMLP_EXP */
        POISSON(NAME(exp)(logit), logit, 1);
    }
}

#undef POISSON

/* Every other loss, whatever rows the outputs belong to: z (width, padded) becomes dZ, y the terms; slopes is scratch. */
static void NAME(elementwise)(const cymlp_target *target, const cymlp_act *act, size_t width, REAL factor, REAL *restrict z,
                              REAL *restrict y, REAL *restrict slopes)
{
    const REAL delta = (REAL)target->delta, above = (REAL)(1 - target->delta);
    if (target->kind == CYMLP_BINARY_CROSS_ENTROPY) {
        /* Behind a sigmoid, from z: max(z, 0) - z y + log(1 + exp(-|z|)); dZ = sigmoid(z) - y.  Or with the probabilities that
         * others compute, 1 - p of which has lost its last digits where p is near 1. */
        const VECTOR clip = IN_LANES((REAL)target->clip);
        for (size_t j = 0; j < width; j += LANES) {
            const VECTOR logit = *(VECTOR *)(z + j), t = *(VECTOR *)(y + j);
            *(VECTOR *)(z + j) = factor * (NAME(sigmoid)(logit) - t);
            if (target->clip > 0) {
                const VECTOR p = 1 / (1 + NAME(exp)(-logit)), q = 1 - p;
                *(VECTOR *)(y + j) = -(t * NAME(log)(NAME(choose)(NAME(above)(clip, p), clip, p))
                                       + (1 - t) * NAME(log)(NAME(choose)(NAME(above)(clip, q), clip, q)));
            } else {
                *(VECTOR *)(y + j) = NAME(softplus)(logit) - logit * t;
            }
        }
        return;
    }
    if (target->kind == CYMLP_POISSON) {
        NAME(poisson)(act->kind, width, factor, z, y);
        return;
    }
    NAME(activate)(act, 1, width, z, width, slopes);
    switch (target->kind) {
    case CYMLP_SQUARED_ERROR:
        EACH(d, (REAL)0.5 * d * d);
    case CYMLP_ABSOLUTE_ERROR:
        EACH(NAME(one_or)(POSITIVE(d), NAME(choose)(NEGATIVE(d), IN_LANES(-1), IN_LANES(0))), NAME(magnitude)(d));
    case CYMLP_QUANTILE: /* delta is the level */
        EACH(NAME(choose)(POSITIVE(d), IN_LANES(above), NAME(choose)(NEGATIVE(d), IN_LANES(-delta), IN_LANES(0))),
             NAME(larger)(-delta * d, above * d));
    default: /* CYMLP_HUBER */
        EACH(NAME(at_most)(delta, NAME(at_least)(-delta, d)),
             NAME(choose)(NAME(above)(NAME(magnitude)(d), IN_LANES(delta)), delta * (NAME(magnitude)(d) - (REAL)0.5 * delta),
                          (REAL)0.5 * d * d));
    }
}

#undef EACH

/*
 * Narrow rows are put together without their padding: of a single output it would be all but one lane.  Whole vectors are copied,
 * of which the next row overwrites what is padding.
 */
static void NAME(narrow_rows)(const NAME(block) *block, const cymlp_target *target, const cymlp_act *act, size_t n, REAL *Z,
                              size_t ldz)
{
    REAL z[ROWS * NARROW + LANES], y[ROWS * NARROW + LANES], slopes[ROWS * NARROW + LANES];
    const size_t size = block->count * n, width = PADDED(n);
    for (size_t i = 0; i < block->count; i++) {
        for (size_t j = 0; j < width; j += LANES)
            *(VECTOR *)(z + i * n + j) = *(VECTOR *)(Z + i * ldz + j);
        NAME(copy)(n, (const REAL *)target->targets + block->example[i] * n, y + i * n);
    }
    *(VECTOR *)(z + size) = *(VECTOR *)(y + size) = (VECTOR){ 0 };
    NAME(elementwise)(target, act, PADDED(size), 1, z, y, slopes);
    for (size_t i = 0; i < block->count; i++) {
        double sum = 0;
        for (size_t j = 0; j < n; j++)
            sum += y[i * n + j];
        block->loss[i] = block->weight[i] * sum;
        for (size_t j = 0; j < width; j += LANES)
            *(VECTOR *)(Z + i * ldz + j) = block->factor[i] * *(VECTOR *)(z + i * n + j);
        NAME(fill_padding)(n, width, Z + i * ldz, 0);
    }
}

static void NAME(loss_and_gradient)(const cymlp_target *target, const cymlp_act *act, size_t rows, size_t n,
                                    const ptrdiff_t *index, double scale, void *Z, size_t ldz, double *loss, void *work)
{
    const size_t width = PADDED(n);
    REAL *y = work, *second = y + width, *z = Z;
    for (size_t first = 0; first < rows; first += ROWS, z += ROWS * ldz) {
        NAME(block) block;
        block.count = rows - first < ROWS ? rows - first : ROWS;
        block.loss = loss + first;
        block.cap = target->cap;
        memset(block.factor, 0, sizeof block.factor); /* also of the rows that vectors reach beyond the last */
        for (size_t i = 0; i < block.count; i++) {
            const size_t example = index ? (size_t)index[first + i] : first + i;
            block.example[i] = example;
            block.weight[i] = target->weights ? ((const REAL *)target->weights)[example] : 1.0;
            block.factor[i] = (REAL)(scale * block.weight[i]);
        }
        if (!target->targets) {
            NAME(label_rows)(&block, n, target->labels, z, ldz);
            continue;
        }
        if (target->kind == CYMLP_CATEGORICAL_CROSS_ENTROPY) {
            REAL room[2][LANES * NARROW];
            const size_t most = n <= NARROW ? LANES : 1;
            for (size_t i = 0; i < block.count; i += most)
                NAME(categorical_rows)(&block, i, block.count - i < most ? block.count - i : most, n, target->targets,
                                       z + i * ldz, ldz, n <= NARROW ? room[0] : y, n <= NARROW ? room[1] : second);
        } else if (n <= NARROW) {
            NAME(narrow_rows)(&block, target, act, n, z, ldz);
        } else {
            for (size_t i = 0; i < block.count; i++) {
                REAL *row = z + i * ldz;
                *(VECTOR *)(y + width - LANES) = IN_LANES(0);
                NAME(copy)(n, (const REAL *)target->targets + block.example[i] * n, y);
                NAME(elementwise)(target, act, width, block.factor[i], row, y, second);
                NAME(fill_padding)(n, width, row, 0);
                NAME(fill_padding)(n, width, y, 0);
                block.loss[i] = block.weight[i] * NAME(sum)(width, y);
            }
        }
    }
}

#undef NARROW
#undef ROWS
#undef FEW
#undef DOUBLES
