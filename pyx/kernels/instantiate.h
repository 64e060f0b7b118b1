/*
 * instantiate.h - every kernel for one instruction set: float32, then float64, and the two tables.
 *
 * Included once by each isa_*.c.  Parameters:
 *   ISA            suffix: baseline, avx2, avx512
 *   VECTOR_BYTES   16, 32 or 64
 *   TILE_NV, TILE_MR   see matmul_template.h
 *   ISA_TABLES     name of the pair of tables to define: const cymlp_kernels ISA_TABLES[2], float32 first
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

#define JOIN_(f, type, isa) f##_##type##_##isa
#define JOIN(f, type, isa) JOIN_(f, type, isa)

/*
 * The largest block of weights that a task of the second phase sums up: 192 rows by 1 KiB of columns.  Its gradient (192 KiB)
 * stays in the L2 cache while the minibatch streams past; per example and multiply-add it reads a quarter of what 48 x 256
 * bytes would, or the last level cache would not keep up with wide layers.  192 is a multiple of every LANES and of TILE_MR =
 * 6.
 */
#define BLOCK_ROWS 192
#define BLOCK_BYTES 1024

/* Rows up to which a product has a kernel of its own, made for reading weights that are in no cache near by. */
#define FEW_ROWS 3

#define TABLE(REAL_SIZE) \
    { \
        .size = REAL_SIZE, .lanes = LANES, .panel = PANEL, .block_rows = BLOCK_ROWS, \
        .block_columns = BLOCK_BYTES / REAL_SIZE, .pack = NAME(pack), .unpack = NAME(unpack), \
        .repack_transposed = NAME(repack_transposed), .dense_forward = NAME(dense_forward), \
        .dense_backward = NAME(dense_backward), .weight_gradient = NAME(weight_gradient), .bias_gradient = NAME(bias_gradient), \
        .activate = NAME(activate), .activation_backward = NAME(activation_backward), \
        .loss_and_gradient = NAME(loss_and_gradient), .update = NAME(update), .sum_of_squares = NAME(sum_of_squares), \
        .sum_of_magnitudes = NAME(sum_of_magnitudes), .clip = NAME(clip), .scale = NAME(scale), \
        .limit_columns = NAME(limit_columns), .exact_squares = NAME(exact_squares), \
        .look_at_units = NAME(look_at_units), .twins = NAME(twins), .dropout = NAME(dropout), .moments = NAME(moments), \
        .join_moments = NAME(join_moments), .settle_moments = NAME(settle_moments), \
        .multiply = NAME(multiply), .add = NAME(add), .normalize = NAME(normalize), .normalized_sums = NAME(normalized_sums), \
        .normalize_backward = NAME(normalize_backward), .layer_norm = NAME(layer_norm), \
        .layer_norm_backward = NAME(layer_norm_backward), .is_finite = NAME(is_finite), .few_rows = FEW_ROWS, \
        .dense_forward_few = NAME(dense_forward_few), \
    }

#define REAL float
#define LANE_INDEX int32_t
#define REAL_IS_DOUBLE 0
#define LANES (VECTOR_BYTES / 4)
#define NAME(f) JOIN(f, f32, ISA)
#include "vector_template.h"
#include "activation_template.h"
#include "softmax_template.h"
#include "loss_template.h"
#include "dropout_template.h"
#include "normalization_template.h"
#include "clipping_template.h"
#include "monitor_template.h"
#include "update_template.h"
#include "matmul_template.h"
#include "predict_template.h"
static const cymlp_kernels NAME(table) = TABLE(4);
#undef REAL
#undef REAL_IS_DOUBLE
#undef LANES
#undef NAME
#undef PANEL
#undef PADDED

#undef LANE_INDEX
#define REAL double
#define LANE_INDEX int64_t
#define REAL_IS_DOUBLE 1
#define LANES (VECTOR_BYTES / 8)
#define NAME(f) JOIN(f, f64, ISA)
#include "vector_template.h"
#include "activation_template.h"
#include "softmax_template.h"
#include "loss_template.h"
#include "dropout_template.h"
#include "normalization_template.h"
#include "clipping_template.h"
#include "monitor_template.h"
#include "update_template.h"
#include "matmul_template.h"
#include "predict_template.h"
static const cymlp_kernels NAME(table) = TABLE(8);

const cymlp_kernels *const ISA_TABLES[2] = {&JOIN(table, f32, ISA), &JOIN(table, f64, ISA)};
