// AbsTopK of GELU, without the dense values in memory in between.
#include "parallel.h"
#include "select_row.h"
#include "variant.h"

// x, y (rows, d): y is gelu(x) with all but the k largest magnitudes of each row set to zero.
// slopes (rows, d), if not null: those of gelu at x where an entry was kept, zeros elsewhere; computed here, where they
// cost a tenth of what they would cost alone. Returns 0, or 1 where there was no memory.
extern "C" int FUNCTION(gelu_abs_topk)(const float *x, float *y, float *slopes, int64_t rows, int64_t d, int64_t k,
                                       int threads) {
    int failed = 0;
    const int64_t step = rows_a_part(d);
    const Selection selection{k, 1, nullptr, slopes};
    parallel((rows + step - 1) / step, threads, [&](int64_t part) {
        const int64_t end = (part + 1) * step < rows ? (part + 1) * step : rows;
        Scratch dense(d);
        if (!dense.data) return __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        int32_t guess = 0;
        for (int64_t r = part * step; r < end; r++) guess = select_row(selection, x, y, r, d, dense.data, guess);
    });
    return failed;
}

// dx (n,) = dy times the slopes, zero where these are.
extern "C" void FUNCTION(gelu_abs_topk_backward)(const float *dy, const float *slopes, float *dx, int64_t n,
                                                 int threads) {
    parallel((n + PART - 1) / PART, threads, [=](int64_t part) {
        for_vectors(part * PART, (part + 1) * PART < n ? (part + 1) * PART : n,
                    [=](int64_t i, int64_t m) { put(dx + i, sloped(dy, slopes, i, m), m); });
    });
}
