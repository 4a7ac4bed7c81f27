// The plain C interface: each function in the variant for the best instruction set that this processor has.
#include <cstdint>

#include "parallel.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

#define FOR_EACH_FUNCTION(X)                                                                                         \
    X(void, abs_topk, (const int32_t *x, int32_t *y, int32_t *cut, int64_t rows, int64_t d, int64_t k, int threads), \
      (x, y, cut, rows, d, k, threads))                                                                              \
    X(void, abs_topk_backward,                                                                                       \
      (const int32_t *dy, const int32_t *y, const int32_t *cut, int32_t *dx, int64_t rows, int64_t d, int threads),  \
      (dy, y, cut, dx, rows, d, threads))                                                                            \
    X(void, abs_topk_zero_cut,                                                                                       \
      (const int32_t *y, int32_t *cut, int64_t rows, int64_t d, int64_t k, int threads),                             \
      (y, cut, rows, d, k, threads))                                                                                 \
    X(int, keep_topk, (const void *matrices, int64_t n, int threads), (matrices, n, threads))                        \
    X(int64_t, compress_starts, (const int32_t *w, int32_t *starts, int64_t rows, int64_t cols, int threads),        \
      (w, starts, rows, cols, threads))                                                                              \
    X(void, compress,                                                                                                \
      (const int32_t *w, const int32_t *starts, int32_t *columns, int32_t *values, int32_t *t_starts,                \
       int32_t *t_rows, int32_t *order, int64_t rows, int64_t cols, int threads),                                    \
      (w, starts, columns, values, t_starts, t_rows, order, rows, cols, threads))                                    \
    X(int, sparse_linear,                                                                                            \
      (const float *x, const void *products, int64_t n, int64_t tokens, int64_t d_in, int threads),                  \
      (x, products, n, tokens, d_in, threads))                                                                       \
    X(int, sparse_vector,                                                                                            \
      (const float *x, const void *weights, int64_t n, int64_t tokens, int64_t d_in, int threads),                   \
      (x, weights, n, tokens, d_in, threads))                                                                        \
    X(int, sparse_linear_backward,                                                                                   \
      (const float *x, const void *gradients, int64_t n, float *dx, int64_t tokens, int64_t d_in, int64_t parts,     \
       int threads),                                                                                                 \
      (x, gradients, n, dx, tokens, d_in, parts, threads))                                                           \
    X(int, skipping_product,                                                                                         \
      (const float *a, const float *b, const float *bias, float *c, int64_t m, int64_t k, int64_t n,                 \
       int64_t a_turned, int64_t b_turned, int threads),                                                             \
      (a, b, bias, c, m, k, n, a_turned, b_turned, threads))                                                         \
    X(void, adam_step,                                                                                               \
      (float *parameter, const float *gradient, float *exp_avg, float *exp_avg_sq, int64_t n, float scale,           \
       float beta1, float beta2, float eps, float size, float root, float shrink, int threads),                      \
      (parameter, gradient, exp_avg, exp_avg_sq, n, scale, beta1, beta2, eps, size, root, shrink, threads))          \
    X(int, attention,                                                                                                \
      (const float *q, const float *k, const float *v, const float *sink, float *y, float *lse, int64_t batch,       \
       int64_t heads, int64_t queries, int64_t keys, int64_t d_head, int threads),                                   \
      (q, k, v, sink, y, lse, batch, heads, queries, keys, d_head, threads))                                         \
    X(int, attention_backward,                                                                                       \
      (const float *dy, const float *q, const float *k, const float *v, const float *sink, const float *y, const     \
       float *lse, float *dq, float *dk, float *dv, float *dsink, int64_t batch, int64_t heads, int64_t length,      \
       int64_t d_head, int threads),                                                                                 \
      (dy, q, k, v, sink, y, lse, dq, dk, dv, dsink, batch, heads, length, d_head, threads))                         \
    X(int, selected_attention,                                                                                       \
      (const float *q, const float *k, const float *v, const float *sink, float *y, float *lse, int64_t batch,       \
       int64_t heads, int64_t length, int64_t d_head, int threads),                                                  \
      (q, k, v, sink, y, lse, batch, heads, length, d_head, threads))                                                \
    X(int, selected_attention_backward,                                                                              \
      (const float *dy, const float *q, const float *k, const float *v, const float *sink, const float *y, const     \
       float *lse, const int32_t *k_cut, const int32_t *v_cut, float *dq, float *dk, float *dv, float *dsink,        \
       int64_t batch, int64_t heads, int64_t length, int64_t d_head, int threads),                                   \
      (dy, q, k, v, sink, y, lse, k_cut, v_cut, dq, dk, dv, dsink, batch, heads, length, d_head, threads))           \
    X(int, rms_norm,                                                                                                 \
      (const float *x, const float *weight, float *y, float *scales, int32_t *cut, int64_t rows, int64_t d,          \
       int64_t k, float eps, int threads),                                                                           \
      (x, weight, y, scales, cut, rows, d, k, eps, threads))                                                         \
    X(int, rms_norm_backward,                                                                                        \
      (const float *dy, const int32_t *y, const int32_t *cut, const float *x, const float *weight,                   \
       const float *scales, float *dx, float *dweights, int64_t rows, int64_t d, int64_t parts, int threads),        \
      (dy, y, cut, x, weight, scales, dx, dweights, rows, d, parts, threads))                                        \
    X(void, gelu,                                                                                                    \
      (const float *x, float *y, int64_t n, int threads),                                                            \
      (x, y, n, threads))                                                                                            \
    X(void, gelu_backward,                                                                                           \
      (const float *dy, const float *x, float *dx, int64_t n, int threads),                                          \
      (dy, x, dx, n, threads))                                                                                       \
    X(int, gelu_abs_topk,                                                                                            \
      (const float *x, float *y, float *slopes, int64_t rows, int64_t d, int64_t k, int threads),                    \
      (x, y, slopes, rows, d, k, threads))                                                                           \
    X(void, gelu_abs_topk_backward,                                                                                  \
      (const float *dy, const float *slopes, float *dx, int64_t n, int threads),                                     \
      (dy, slopes, dx, n, threads))                                                                                  \
    X(void, cross_entropy,                                                                                           \
      (const float *logits, const int64_t *targets, float *losses, float *lse, int64_t rows, int64_t d, int          \
       threads),                                                                                                     \
      (logits, targets, losses, lse, rows, d, threads))                                                              \
    X(void, cross_entropy_backward,                                                                                  \
      (const float *logits, const int64_t *targets, const float *lse, float *dlogits, float scale, int64_t rows,     \
       int64_t d, int threads),                                                                                      \
      (logits, targets, lse, dlogits, scale, rows, d, threads))

Fork openwork_fork = nullptr;
int64_t openwork_seats = 0;
__thread int64_t openwork_seat = -1;

// GOMP_parallel of the OpenMP runtime that PyTorch uses.
EXPORT void openwork_set_fork(Fork fork) { openwork_fork = fork; }

// Identifies the sources that this was compiled from, see build.py.
EXPORT const char *openwork_sources() { return OPENWORK_SOURCES; }

// 0 generic, 1 AVX2 with FMA, 2 AVX-512
EXPORT int openwork_best_level() {
#ifdef OPENWORK_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

static int level = openwork_best_level();

// For tests: use a lower level than the best.
EXPORT void openwork_set_level(int wanted) { level = wanted < openwork_best_level() ? wanted : openwork_best_level(); }

#define VISIBLE_HERE extern "C" __attribute__((visibility("hidden")))
#ifdef OPENWORK_X86
#define DISPATCH(type, name, parameters, arguments)                                                                  \
    VISIBLE_HERE type name##_generic parameters;                                                                     \
    VISIBLE_HERE type name##_avx2 parameters;                                                                        \
    VISIBLE_HERE type name##_avx512 parameters;                                                                      \
    EXPORT type openwork_##name parameters {                                                                         \
        return level == 2 ? name##_avx512 arguments : level == 1 ? name##_avx2 arguments : name##_generic arguments; \
    }
#else
#define DISPATCH(type, name, parameters, arguments)                                                                  \
    VISIBLE_HERE type name##_generic parameters;                                                                     \
    EXPORT type openwork_##name parameters { return name##_generic arguments; }
#endif
FOR_EACH_FUNCTION(DISPATCH)
