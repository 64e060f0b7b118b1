# Declarations of kernels/kernels.h, where every argument is described; nothing else.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "kernels.h" nogil:
    enum:
        CYMLP_SGD, CYMLP_MOMENTUM, CYMLP_NESTEROV, CYMLP_RMSPROP, CYMLP_ADAM
        CYMLP_IDENTITY, CYMLP_SIGMOID, CYMLP_TANH, CYMLP_RELU, CYMLP_SILU, CYMLP_SOFTMAX
        CYMLP_REGIONS
        CYMLP_ISA_BASELINE, CYMLP_ISA_AVX2, CYMLP_ISA_AVX512, CYMLP_ISA_COUNT

    ctypedef struct cymlp_act:
        int kind
        double slope, gain

    ctypedef struct cymlp_target:
        int kind
        double delta, clip, cap
        const void *targets
        const int64_t *labels
        const void *weights

    ctypedef struct cymlp_step:
        int kind
        double rate, beta1, beta2, epsilon, decay, l2, l1

    ctypedef struct cymlp_mask:
        uint64_t seed
        uint32_t step, layer
        double rate

    ctypedef struct cymlp_ahead:
        int count
        const void *at[6]
        size_t bytes[6]

    ctypedef struct cymlp_kernels:
        size_t size, lanes, panel, block_rows, block_columns
        void (*pack)(size_t n_in, size_t n_out, const void *W, void *packed) noexcept nogil
        void (*unpack)(size_t n_in, size_t n_out, const void *packed, void *W) noexcept nogil
        void (*repack_transposed)(size_t n_in, size_t n_out, size_t k0, size_t rows, size_t n0, const void *packed,
                                  void *transposed) noexcept nogil
        void (*dense_forward)(size_t rows, size_t n_in, size_t n_out, const void *X, size_t ldx, const void *const *list,
                              const void *W, const void *b, const cymlp_act *act, void *A, size_t lda, void *D,
                              const cymlp_ahead *ahead) noexcept nogil
        void (*dense_backward)(size_t rows, size_t n_in, size_t n_out, const void *dZ, size_t lddz, const void *Wt,
                               const cymlp_act *act_in, const void *A_in, const void *D_in, size_t lda_in, void *dZ_in,
                               size_t lddz_in, const cymlp_ahead *ahead) noexcept nogil
        void (*weight_gradient)(size_t rows, size_t count, size_t width, const void *A, size_t lda, const void *const *list,
                                size_t k0, const void *dZ, size_t lddz, void *G, size_t panel_stride, int add,
                                const cymlp_ahead *ahead) noexcept nogil
        void (*bias_gradient)(size_t rows, size_t width, const void *dZ, size_t lddz, void *g, int add) noexcept nogil
        void (*activate)(const cymlp_act *act, size_t rows, size_t n, void *Z, size_t ldz, void *D) noexcept nogil
        void (*activation_backward)(const cymlp_act *act, size_t rows, size_t n, const void *A, const void *D, size_t lda,
                                    void *dA, size_t ldda) noexcept nogil
        void (*loss_and_gradient)(const cymlp_target *target, const cymlp_act *act, size_t rows, size_t n,
                                  const ptrdiff_t *index, double scale, void *Z, size_t ldz, double *loss,
                                  void *work) noexcept nogil
        void (*update)(const cymlp_step *step, size_t n, void *w, const void *g, const void *more, void *m,
                       void *v) noexcept nogil
        double (*sum_of_squares)(size_t n, const void *x) noexcept nogil
        double (*sum_of_magnitudes)(size_t n, const void *x) noexcept nogil
        void (*clip)(size_t n, double limit, void *x) noexcept nogil
        void (*scale)(size_t n, double factor, void *x) noexcept nogil
        void (*limit_columns)(size_t n_in, size_t width, double limit, void *W) noexcept nogil
        double (*exact_squares)(size_t n, const void *x, const void *less) noexcept nogil
        void (*look_at_units)(size_t rows, size_t n, const void *A, size_t lda, const void *const *list, double middle,
                              double reach, void *largest, double *counts) noexcept nogil
        size_t (*twins)(size_t n, const void *projections, size_t ld, double tolerance) noexcept nogil
        void (*dropout)(const cymlp_mask *mask, size_t first, size_t rows, size_t n, void *A, size_t lda,
                        void *D) noexcept nogil
        void (*moments)(size_t rows, size_t n, const void *Z, size_t ldz, const void *weights, void *mean,
                        void *squares) noexcept nogil
        void (*join_moments)(double weight, double more, size_t n, void *mean, void *squares, const void *more_mean,
                             const void *more_squares) noexcept nogil
        void (*normalize)(size_t rows, size_t n, void *Z, size_t ldz, const void *mean, const void *inverse, const void *scale,
                          const void *shift, void *Y, size_t ldy) noexcept nogil
        void (*normalized_sums)(size_t rows, size_t n, const void *dY, size_t lddy, const void *N, size_t ldn, void *sum,
                                void *products) noexcept nogil
        void (*normalize_backward)(size_t rows, size_t n, void *dY, size_t lddy, const void *N, size_t ldn, const void *weights,
                                   double share, const void *factor, const void *sum, const void *products) noexcept nogil
        void (*settle_moments)(size_t n, double weight, double unbiased, double epsilon, double momentum, const void *mean,
                               void *squares, void *running_mean, void *running_variance) noexcept nogil
        void (*multiply)(size_t n, const void *a, const void *b, void *out) noexcept nogil
        void (*add)(size_t n, const void *a, const void *b, void *out) noexcept nogil
        void (*layer_norm)(size_t rows, size_t n, double epsilon, void *Z, size_t ldz, const void *scale, const void *shift,
                           void *Y, size_t ldy, void *inverse) noexcept nogil
        void (*layer_norm_backward)(size_t rows, size_t n, void *dY, size_t lddy, const void *N, size_t ldn, const void *scale,
                                    const void *inverse) noexcept nogil
        size_t few_rows
        void (*dense_forward_few)(size_t rows, size_t n_in, size_t n_out, const void *X, size_t ldx, const void *W, const void *b,
                                  const cymlp_act *act, void *A, size_t lda) noexcept nogil
        int (*is_finite)(size_t n, const void *x) noexcept nogil

    int cymlp_needs_slope(int activation)
    int cymlp_best_isa()
    const cymlp_kernels *cymlp_get_kernels(int isa, int is_double)
    unsigned long cymlp_flush_enter()
    void cymlp_flush_leave(unsigned long state)
