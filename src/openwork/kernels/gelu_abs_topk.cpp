// AbsTopK of GELU, without the dense values in memory in between.
#include "gelu.h"
#include "parallel.h"
#include "select_row.h"
#include "variant.h"

// x, y (rows, d): y is gelu(x) with all but the k largest magnitudes of each row set to zero; zero_cut as in abs_topk.
// Returns 0, or 1 where there was no memory.
extern "C" int FUNCTION(gelu_abs_topk)(const float *x, int32_t *y, int32_t *zero_cut, int64_t rows, int64_t d,
                                       int64_t k, int threads) {
    int failed = 0;
    const int64_t step = rows_a_part(d);
    parallel((rows + step - 1) / step, threads, [&](int64_t part) {
        const int64_t end = (part + 1) * step < rows ? (part + 1) * step : rows;
        Scratch dense(d);
        if (!dense.data) return __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        int32_t guess = 0;
        for (int64_t r = part * step; r < end; r++) {
            for_vectors(0, d, [&](int64_t j, int64_t m) { put(dense.data + j, gelu_of(some(x + r * d + j, m)), m); });
            guess = one_row(reinterpret_cast<const int32_t *>(dense.data), y + r * d, zero_cut + r, d, k, guess);
        }
    });
    return failed;
}

// dx = dy times the slope of gelu at x where y's entry was kept.
extern "C" void FUNCTION(gelu_abs_topk_backward)(const float *dy, const float *x, const float *y,
                                                 const int32_t *zero_cut, float *dx, int64_t rows, int64_t d,
                                                 int threads) {
    const int64_t step = rows_a_part(d);
    parallel((rows + step - 1) / step, threads, [=](int64_t part) {
        const int64_t end = (part + 1) * step < rows ? (part + 1) * step : rows;
        for (int64_t r = part * step; r < end; r++)
            for_vectors(0, d, [&](int64_t j, int64_t m) {
                const int64_t at = r * d + j;
                IntVec index;
                for (int i = 0; i < LANES; i++) index[i] = int32_t(j) + i;
                const IntVec kept = (some(y + at, m) != 0.0f) | (index <= zero_cut[r]);
                put(dx + at, choose(kept, some(dy + at, m) * gelu_slope(some(x + at, m)), Vec{}), m);
            });
    });
}
