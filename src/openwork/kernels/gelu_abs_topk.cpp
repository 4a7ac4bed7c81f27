// AbsTopK of GELU, without the dense values in memory in between.
#include "gelu.h"
#include "parallel.h"
#include "select_row.h"
#include "variant.h"

namespace {

inline void gelu_of_row(const float *x, float *y, int64_t d) {
    for_vectors(0, d, [=](int64_t j, int64_t m) { put(y + j, gelu_of(some(x + j, m)), m); });
}

inline void gelu_and_slope_of_row(const float *x, float *y, float *slopes, int64_t d) {
    for_vectors(0, d, [=](int64_t j, int64_t m) {
        const Vec v = some(x + j, m);
        const Normal p = normal(v);
        put(y + j, gelu_of(v, p), m);
        put(slopes + j, gelu_slope(v, p), m);
    });
}

// slopes, where y's entry was kept (see abs_topk_backward); zero elsewhere.
inline void clear_slopes(const int32_t *y, int32_t cut, float *slopes, int64_t d) {
    for (int32_t j = 0; j < int32_t(d); j++) slopes[j] = ((y[j] & MAGNITUDE) != 0) | (j <= cut) ? slopes[j] : 0.0f;
}

}  // namespace

// x, y (rows, d): y is gelu(x) with all but the k largest magnitudes of each row set to zero.
// slopes (rows, d), if not null: those of gelu at x where an entry was kept, zeros elsewhere; computed here, where they
// cost a tenth of what they would cost alone. Returns 0, or 1 where there was no memory.
extern "C" int FUNCTION(gelu_abs_topk)(const float *x, int32_t *y, float *slopes, int64_t rows, int64_t d, int64_t k,
                                       int threads) {
    int failed = 0;
    const int64_t step = rows_a_part(d);
    parallel((rows + step - 1) / step, threads, [&](int64_t part) {
        const int64_t end = (part + 1) * step < rows ? (part + 1) * step : rows;
        Scratch dense(d);
        if (!dense.data) return __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        int32_t guess = 0;
        for (int64_t r = part * step; r < end; r++) {
            if (slopes)
                gelu_and_slope_of_row(x + r * d, dense.data, slopes + r * d, d);
            else
                gelu_of_row(x + r * d, dense.data, d);
            int32_t zero_cut;
            guess = one_row(reinterpret_cast<const int32_t *>(dense.data), y + r * d, &zero_cut, d, k, guess);
            if (slopes) clear_slopes(y + r * d, zero_cut, slopes + r * d, d);
        }
    });
    return failed;
}

// dx (n,) = dy times the slopes, zero where these are: an entry that was not kept passes nothing on, not even NaN.
extern "C" void FUNCTION(gelu_abs_topk_backward)(const float *dy, const float *slopes, float *dx, int64_t n,
                                                 int threads) {
    parallel((n + PART - 1) / PART, threads, [=](int64_t part) {
        for_vectors(part * PART, (part + 1) * PART < n ? (part + 1) * PART : n, [=](int64_t i, int64_t m) {
            const Vec slope = some(slopes + i, m);
            put(dx + i, choose(slope == 0.0f, Vec{}, some(dy + i, m) * slope), m);
        });
    });
}
