// The plain C interface: each function in the variant for the best instruction set that this processor has.
#include <cstdint>

#define FOR_EACH_FUNCTION(X)                                                                                            \
    X(abs_topk, (const float *x, float *y, int32_t *cut, int64_t rows, int64_t d, int64_t k, int threads),              \
      (x, y, cut, rows, d, k, threads))                                                                                 \
    X(abs_topk_backward,                                                                                                \
      (const float *dy, const float *y, const int32_t *cut, float *dx, int64_t rows, int64_t d, int threads),           \
      (dy, y, cut, dx, rows, d, threads))                                                                               \
    X(keep_topk, (float *w, int64_t rows, int64_t cols, int64_t k, int64_t floor, int axis),                            \
      (w, rows, cols, k, floor, axis))

#define DECLARE(name, parameters, arguments)     \
    extern "C" void name##_generic parameters;   \
    extern "C" void name##_avx2 parameters;      \
    extern "C" void name##_avx512 parameters;
FOR_EACH_FUNCTION(DECLARE)

// 0 generic, 1 AVX2 with FMA, 2 AVX-512
extern "C" int openwork_cpu_level() {
#if defined(OPENWORK_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

static const int level = openwork_cpu_level();

#if defined(OPENWORK_X86)
#define DISPATCH(name, parameters, arguments)                  \
    extern "C" void openwork_##name parameters {               \
        if (level == 2)                                        \
            name##_avx512 arguments;                           \
        else if (level == 1)                                   \
            name##_avx2 arguments;                             \
        else                                                   \
            name##_generic arguments;                          \
    }
#else
#define DISPATCH(name, parameters, arguments) \
    extern "C" void openwork_##name parameters { name##_generic arguments; }
#endif
FOR_EACH_FUNCTION(DISPATCH)
