// RMSNorm of rows: y = x r w with r = 1 / sqrt(mean(x^2) + eps), and AbsTopK of it if wanted, forward and backward in
// one pass each.
#include <cmath>

#include "parallel.h"
#include "select_row.h"
#include "variant.h"

namespace {

// Sum of f(vector index, lanes in use) over a row; the last vector may be partly used.
template <class F>
inline float row_sum(int64_t d, F f) {
    Vec total = {};
    int64_t j = 0;
    for (; j + LANES <= d; j += LANES) total += f(j, int64_t(LANES));
    if (j < d) total += f(j, d - j);
    return sum(total);
}

}  // namespace

// x, y (rows, d), weight (d,); scales (rows,): each row's r. k > 0: of each row of y only the k largest magnitudes, with
// zero_cut (rows,) as abs_topk has it, or null. Returns 0, or 1 where there was no memory.
extern "C" int FUNCTION(rms_norm)(const float *x, const float *weight, float *y, float *scales, int32_t *zero_cut,
                                  int64_t rows, int64_t d, int64_t k, float eps, int threads) {
    int failed = 0;
    const int64_t step = rows_a_part(d);
    const Selection selection{k, 0, zero_cut, nullptr};
    parallel((rows + step - 1) / step, threads, [&](int64_t part) {
        const int64_t end = (part + 1) * step < rows ? (part + 1) * step : rows;
        Scratch dense(k ? d : 0);
        if (k && !dense.data) return __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        int32_t guess = 0;
        for (int64_t r = part * step; r < end; r++) {
            const float *__restrict in = x + r * d;
            float *__restrict out = y + r * d;
            const float square = row_sum(d, [=](int64_t j, int64_t n) {
                const Vec v = some(in + j, n);
                return v * v;
            });
            const float scale = scales[r] = 1.0f / std::sqrt(square / float(d) + eps);
            for (int64_t j = 0; j < d; j++) out[j] = in[j] * scale * weight[j];
            if (k) guess = select_row(selection, y, y, r, d, dense.data, guess);
        }
    });
    return failed;
}

// dx (rows, d), and for each of `parts` ranges of rows its share of dw, dweights (parts, d). y and zero_cut are what the
// selection left, null where there was none. Returns 0, or 1 where there was no memory.
extern "C" int FUNCTION(rms_norm_backward)(const float *dy, const int32_t *y, const int32_t *zero_cut, const float *x,
                                           const float *weight, const float *scales, float *dx, float *dweights,
                                           int64_t rows, int64_t d, int64_t parts, int threads) {
    int failed = 0;
    parallel(parts, threads, [&](int64_t part) {
        float *__restrict dw = dweights + part * d;
        std::memset(dw, 0, size_t(d) * sizeof(float));
        Scratch passed(y ? d : 0);
        if (y && !passed.data) return __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        for (int64_t r = rows * part / parts; r < rows * (part + 1) / parts; r++) {
            if (y) passed_row(dy + r * d, y + r * d, zero_cut[r], passed.data, d);
            const float *__restrict upstream = y ? passed.data : dy + r * d, *__restrict in = x + r * d;
            float *__restrict out = dx + r * d;
            const float scale = scales[r], along = row_sum(d, [=](int64_t j, int64_t n) {
                return some(upstream + j, n) * some(weight + j, n) * some(in + j, n);
            });
            const float back = along * scale * scale * scale / float(d);
            for (int64_t j = 0; j < d; j++) {
                out[j] = upstream[j] * weight[j] * scale - in[j] * back;
                dw[j] += upstream[j] * in[j] * scale;
            }
        }
    });
    return failed;
}
