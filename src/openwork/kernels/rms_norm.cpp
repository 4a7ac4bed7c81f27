// RMSNorm of rows: y = x r w with r = 1 / sqrt(mean(x^2) + eps), forward and backward in one pass each.
#include <cmath>

#include "parallel.h"
#include "variant.h"
#include "vector.h"

namespace {

constexpr int64_t PART = 16384;

inline int64_t rows_a_part(int64_t d) { return d < PART ? PART / (d + !d) : 1; }

// Sum of f(vector index, lanes in use) over a row; the last vector may be partly used.
template <class F>
inline float row_sum(int64_t d, F f) {
    Vec total = {};
    int64_t j = 0;
    for (; j + LANES <= d; j += LANES) total += f(j, int64_t(LANES));
    if (j < d) total += f(j, d - j);
    return sum(total);
}

inline Vec some(const float *from, int64_t n) { return n == LANES ? load(from) : load_first(from, n); }

}  // namespace

// x, y (rows, d), weight (d,); scales (rows,): each row's r.
extern "C" void FUNCTION(rms_norm)(const float *x, const float *weight, float *y, float *scales, int64_t rows,
                                   int64_t d, float eps, int threads) {
    const int64_t step = rows_a_part(d);
    parallel((rows + step - 1) / step, threads, [=](int64_t part) {
        const int64_t end = (part + 1) * step < rows ? (part + 1) * step : rows;
        for (int64_t r = part * step; r < end; r++) {
            const float *__restrict in = x + r * d;
            float *__restrict out = y + r * d;
            const float square = row_sum(d, [=](int64_t j, int64_t n) {
                const Vec v = some(in + j, n);
                return v * v;
            });
            const float scale = scales[r] = 1.0f / std::sqrt(square / float(d) + eps);
            for (int64_t j = 0; j < d; j++) out[j] = in[j] * scale * weight[j];
        }
    });
}

// dx (rows, d), and for each of `parts` ranges of rows its share of dw, dweights (parts, d).
extern "C" void FUNCTION(rms_norm_backward)(const float *dy, const float *x, const float *weight, const float *scales,
                                            float *dx, float *dweights, int64_t rows, int64_t d, int64_t parts,
                                            int threads) {
    parallel(parts, threads, [=](int64_t part) {
        float *__restrict dw = dweights + part * d;
        std::memset(dw, 0, size_t(d) * sizeof(float));
        for (int64_t r = rows * part / parts; r < rows * (part + 1) / parts; r++) {
            const float *__restrict upstream = dy + r * d, *__restrict in = x + r * d;
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
}
