/*
 * kernels.h - the contract of the kernels: what one core does with one tile.
 *
 * A kernel is serial.  It never allocates, fails, prints or touches Python; the caller has checked every argument.  Each kernel
 * stands once, in a *_template.h, and is compiled for every pair of (real type, instruction set); dispatch.c hands out one table
 * of function pointers for a pair.  Pointers to reals are void here, so that the passes above are written once for both types:
 * a table knows its type, and all reals given to it are of that type.
 *
 * Shapes.  A matrix is row-major with a leading dimension (ld, in reals) that is at least its width rounded up to whole vectors
 * ("padded").  Matrices that kernels write have a padded width, and the padding of a matrix of gradients is always zero, so no
 * kernel has a scalar tail in the direction of columns.  Rows are examples.
 *
 * Packed weights.  W (n_in, n_out) is kept in panels of `panel` columns, the last one as wide as whole vectors need: panel p holds
 * rows k = 0 .. n_in-1 of its columns one after another and starts at p * panel * n_in.  The whole takes n_in * padded(n_out).
 */
#ifndef CYMLP_KERNELS_H
#define CYMLP_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* In the order of the names in _boundary.pyx. */
enum cymlp_activation {
    CYMLP_IDENTITY, CYMLP_SIGMOID, CYMLP_TANH, CYMLP_RELU, CYMLP_LEAKY_RELU, CYMLP_ELU, CYMLP_GELU, CYMLP_SILU, CYMLP_SOFTPLUS,
    CYMLP_EXP, CYMLP_SOFTMAX
};

enum cymlp_loss {
    CYMLP_SQUARED_ERROR, CYMLP_ABSOLUTE_ERROR, CYMLP_HUBER, CYMLP_QUANTILE, CYMLP_POISSON, CYMLP_BINARY_CROSS_ENTROPY,
    CYMLP_CATEGORICAL_CROSS_ENTROPY
};

enum cymlp_rule { CYMLP_SGD, CYMLP_MOMENTUM, CYMLP_NESTEROV, CYMLP_RMSPROP, CYMLP_ADAM };

/* An activation and its parameter. */
typedef struct {
    int kind;               /* enum cymlp_activation */
    double slope;           /* leaky ReLU: factor for z < 0, at least 0 */
    double gain;            /* ReLU, on the way back: its derivative for z > 0, which is 1 or what dropout makes of it */
} cymlp_act;

/* What a minibatch is compared with.  Row i of a tile is example index[i], or i where index is NULL. */
typedef struct {
    int kind;               /* enum cymlp_loss */
    double delta;           /* Huber: where the square turns into a line; quantile: the level */
    double clip;            /* binary cross-entropy: where > 0, probabilities are rounded and kept so far from 0 and 1 in a loss */
    double cap;             /* categorical cross-entropy: the most that a row, without its weight, adds to the loss */
    const void *targets;    /* (n, n_out) reals, leading dimension n_out; or NULL */
    const int64_t *labels;  /* (n,) classes, for the categorical cross-entropy without targets; or NULL */
    const void *weights;    /* (n,) sample weights; or NULL for ones */
} cymlp_target;

/* One step of an optimiser.  Everything that depends on the step number is already inside. */
typedef struct {
    int kind;               /* enum cymlp_rule */
    double rate;            /* factor of the step; for Adam learning_rate sqrt(1 - beta2^t) / (1 - beta1^t) */
    double beta1;           /* momentum; Adam's beta1 */
    double beta2;           /* RMSprop's rho; Adam's beta2 */
    double epsilon;         /* for Adam epsilon sqrt(1 - beta2^t), or epsilon where it is the paper's epsilon-hat */
    double decay;           /* learning_rate * weight_decay, w <- w - decay w before the step; 0: none */
    double l2;              /* of the penalty l2 / 2 w^2, whose gradient l2 w is added to that of the loss; 0: none */
    double l1;              /* of the penalty l1 |w|, whose gradient is l1 sign(w), 0 at 0; 0: none */
} cymlp_step;

/* Which units of a layer's output are dropped in a step.  Unit j of row i of the minibatch is dropped where word i mod 4 of
 * Philox4x32-10 with the counter (j, i / 4, step, layer) and the key (low, high half of the seed) is below rate 2^32. */
typedef struct {
    uint64_t seed;
    uint32_t step;          /* of the optimiser, from 1 on, modulo 2^32 */
    uint32_t layer;         /* 0: the inputs */
    double rate;            /* 0 .. 1 */
} cymlp_mask;

/* Memory that will be used soon.  A kernel that has the time asks for its cache lines bit by bit, or does nothing about it. */
enum { CYMLP_REGIONS = 6 };

typedef struct {
    int count;              /* of regions */
    const void *at[CYMLP_REGIONS];
    size_t bytes[CYMLP_REGIONS];
} cymlp_ahead;

typedef struct {
    size_t size;            /* bytes of a real */
    size_t lanes;           /* reals in a vector; widths are padded to a multiple of it */
    size_t panel;           /* columns of a full panel of weights */
    size_t block_rows;      /* weights that weight_gradient takes at most in one call: rows, a multiple of lanes, and */
    size_t block_columns;   /* columns, a multiple of panel */

    /* Packing.  pack: W (n_in, n_out), natural order -> packed.  unpack: back.  repack_transposed: packed W -> packed W^T, of
     * which rows k0 .. k0+rows-1 of W (k0 a multiple of lanes) have changed, in the panel that starts at column n0. */
    void (*pack)(size_t n_in, size_t n_out, const void *W, void *packed);
    void (*unpack)(size_t n_in, size_t n_out, const void *packed, void *W);
    void (*repack_transposed)(size_t n_in, size_t n_out, size_t k0, size_t rows, size_t n0, const void *packed, void *transposed);

    /* A = phi(X W + b) for a tile of rows; X (rows, n_in), or row i at list[i] where list is not NULL (then X is not looked at);
     * packed W, b (padded n_out) or NULL for zeros, A (rows, padded n_out).  D (like A, with the same ld) takes phi'(z) where
     * needs_slope(act) and is NULL otherwise, or where no gradient will follow.  softmax is left to the caller (activate): A is
     * then Z.  ahead, here and below, may be NULL. */
    void (*dense_forward)(size_t rows, size_t n_in, size_t n_out, const void *X, size_t ldx, const void *const *list,
                          const void *W, const void *b, const cymlp_act *act, void *A, size_t lda, void *D,
                          const cymlp_ahead *ahead);

    /* dZ_in = (dZ W^T) * phi'(z_in) for a tile of rows; dZ (rows, n_out), packed W^T, A_in and D_in as dense_forward left them
     * for the layer below, dZ_in (rows, padded n_in), which may not overlap the others. */
    void (*dense_backward)(size_t rows, size_t n_in, size_t n_out, const void *dZ, size_t lddz, const void *Wt,
                           const cymlp_act *act_in, const void *A_in, const void *D_in, size_t lda_in, void *dZ_in, size_t lddz_in,
                           const cymlp_ahead *ahead);

    /* G = A^T dZ over `rows` examples, for rows k0 .. k0+count-1 of W and `width` columns from the start of a panel on (dZ points
     * at its first; G has them padded); A (rows, n_in), or row i at list[i] where list is not NULL.  G is in panels (count, panel
     * width), each `panel_stride` reals after the one before.  Each element is a sum of sums over blocks of rows, all in order;
     * where `add` is true they are added to what is there. */
    void (*weight_gradient)(size_t rows, size_t count, size_t width, const void *A, size_t lda, const void *const *list,
                            size_t k0, const void *dZ, size_t lddz, void *G, size_t panel_stride, int add,
                            const cymlp_ahead *ahead);

    /* g = sum of dZ over rows, in the same blocks, or g + sum; dZ (rows, width), width padded. */
    void (*bias_gradient)(size_t rows, size_t width, const void *dZ, size_t lddz, void *g, int add);

    /* Activations in place on Z (rows, padded n): A = phi(Z), D = phi'(Z) unless D is NULL.  D of softmax is not defined. */
    void (*activate)(const cymlp_act *act, size_t rows, size_t n, void *Z, size_t ldz, void *D);

    /* dA (rows, padded n) *= phi'(z), from the output A, or from D where needs_slope(act). */
    void (*activation_backward)(const cymlp_act *act, size_t rows, size_t n, const void *A, const void *D, size_t lda,
                                void *dA, size_t ldda);

    /* Z (rows, padded n) of the output layer, before its activation, becomes dZ = scale * weight_i * dloss_i/dZ with zero padding;
     * loss[i] = weight_i * loss_i, not scaled.  work: 2 * padded(n) reals. */
    void (*loss_and_gradient)(const cymlp_target *target, const cymlp_act *act, size_t rows, size_t n, const ptrdiff_t *index,
                              double scale, void *Z, size_t ldz, double *loss, void *work);

    /* One optimiser step on n (padded) parameters, with the gradient g, or g + more where `more` is not NULL; m and v as the rule
     * needs them, else NULL. */
    void (*update)(const cymlp_step *step, size_t n, void *w, const void *g, const void *more, void *m, void *v);

    /* The sum of the squares, or of the magnitudes, of n (padded) reals: in reals over pieces of 64 vectors, in double over
     * these. */
    double (*sum_of_squares)(size_t n, const void *x);
    double (*sum_of_magnitudes)(size_t n, const void *x);

    /* n (padded) reals in place: each to the nearest number in [-limit, limit] (NaN stays NaN), or times a factor. */
    void (*clip)(size_t n, double limit, void *x);
    void (*scale)(size_t n, double factor, void *x);

    /* The columns of a panel of packed weights, n_in rows of `width` (padded), whose Euclidean norm is above `limit`, are scaled
     * to it. */
    void (*limit_columns)(size_t n_in, size_t width, double limit, void *W);

    /* The sum, in double, of the squares of n reals (not padded), or of x - less where that is not NULL. */
    double (*exact_squares)(size_t n, const void *x, const void *less);

    /* Of A (rows, n), or row i at list[i] where list is not NULL: largest (padded n) becomes the largest magnitude of each column
     * where that is more; to counts are added the number of zeros, and of others that are more than `reach` away from `middle`. */
    void (*look_at_units)(size_t rows, size_t n, const void *A, size_t lda, const void *const *list, double middle,
                          double reach, void *largest, double counts[2]);

    /* How many of n units have a twin: another one whose two projections, in rows ld reals apart, are the same but for `tolerance`
     * times the root mean square of all. */
    size_t (*twins)(size_t n, const void *projections, size_t ld, double tolerance);

    /* A (rows, padded n) times 1 / (1 - rate), or 0 where a unit is dropped; the same for D, with the same ld, unless it is NULL.
     * Row 0 is row `first` of the minibatch.  What is dropped becomes 0 whatever it was; with rate 1 all of it. */
    void (*dropout)(const cymlp_mask *mask, size_t first, size_t rows, size_t n, void *A, size_t lda, void *D);

    /* Batch normalisation.  moments: of Z (rows, padded n) with the weights of its rows (reals; NULL for ones), the weighted mean
     * of each column and the weighted sum of squares of what is left without it, both (padded n); zeros where the weights sum to
     * 0.  join_moments: those of rows that weigh `weight` and of others that weigh `more`, together, take the place of the first
     * (Chan, Golub & LeVeque 1983); where both are 0 nothing happens. */
    void (*moments)(size_t rows, size_t n, const void *Z, size_t ldz, const void *weights, void *mean, void *squares);
    void (*join_moments)(double weight, double more, size_t n, void *mean, void *squares, const void *more_mean,
                         const void *more_squares);

    /* N = (Z - mean) * inverse takes the place of Z (rows, padded n); Y = N * scale + shift (rows, padded n).  mean, inverse,
     * scale, shift: (padded n), the last two with zeros for padding. */
    void (*normalize)(size_t rows, size_t n, void *Z, size_t ldz, const void *mean, const void *inverse, const void *scale,
                      const void *shift, void *Y, size_t ldy);

    /* sum = sums of dY over rows, products = those of dY * N; both (padded n), of dY, N (rows, padded n). */
    void (*normalized_sums)(size_t rows, size_t n, const void *dY, size_t lddy, const void *N, size_t ldn, void *sum,
                            void *products);

    /* dZ = factor * (dY - share_i * (sum + N * products)) takes the place of dY; share_i is `share` times the weight of row i
     * (reals; NULL for ones).  factor, sum, products: (padded n). */
    void (*normalize_backward)(size_t rows, size_t n, void *dY, size_t lddy, const void *N, size_t ldn, const void *weights,
                               double share, const void *factor, const void *sum, const void *products);

    /* What the joined moments of a minibatch of this weight (> 0) come to: squares becomes 1 / sqrt(variance + epsilon) with the
     * variance squares / weight; running <- running + momentum * (x - running) for the mean and for the variance times `unbiased`,
     * unless running_mean is NULL.  All (padded n). */
    void (*settle_moments)(size_t n, double weight, double unbiased, double epsilon, double momentum, const void *mean,
                           void *squares, void *running_mean, void *running_variance);

    /* out = a * b, and a + b, of n (padded) reals; out may be one of them. */
    void (*multiply)(size_t n, const void *a, const void *b, void *out);
    void (*add)(size_t n, const void *a, const void *b, void *out);

    /* Layer normalisation: as normalize with each row's mean and 1 / sqrt(variance + epsilon) over its n columns, which goes to
     * inverse (rows,).  The padding of N is 0, that of Z may be anything.  Backward: dZ = inverse_i * (g - mean(g) - N mean(g N))
     * with g = dY * scale takes the place of dY, means over the n columns of a row. */
    void (*layer_norm)(size_t rows, size_t n, double epsilon, void *Z, size_t ldz, const void *scale, const void *shift,
                       void *Y, size_t ldy, void *inverse);
    void (*layer_norm_backward)(size_t rows, size_t n, void *dY, size_t lddy, const void *N, size_t ldn, const void *scale,
                                const void *inverse);

    /* dense_forward, to the last bit, for 1 to `few_rows` rows with one leading dimension and without D. */
    size_t few_rows;
    void (*dense_forward_few)(size_t rows, size_t n_in, size_t n_out, const void *X, size_t ldx, const void *W, const void *b,
                              const cymlp_act *act, void *A, size_t lda);

    /* Whether n reals, one after another, are neither NaN nor infinite. */
    int (*is_finite)(size_t n, const void *x);
} cymlp_kernels;

/* True where phi' cannot be told from phi and is stored by the forward pass. */
static inline int cymlp_needs_slope(int activation)
{
    return activation == CYMLP_GELU || activation == CYMLP_SILU;
}

enum cymlp_isa { CYMLP_ISA_BASELINE, CYMLP_ISA_AVX2, CYMLP_ISA_AVX512, CYMLP_ISA_COUNT };

/* The best instruction set that this CPU and operating system can run. */
int cymlp_best_isa(void);

/* The kernels for an instruction set at most cymlp_best_isa(), float32 or float64. */
const cymlp_kernels *cymlp_get_kernels(int isa, int is_double);

/* The flush-to-zero state of the calling thread, as an opaque word; enter sets it and returns what was there, leave restores. */
unsigned long cymlp_flush_enter(void);
void cymlp_flush_leave(unsigned long state);

#endif
