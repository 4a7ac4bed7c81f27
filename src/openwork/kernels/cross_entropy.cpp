// Cross-entropy of rows of logits: one pass that reads forward, one that reads and writes backward.
#include <cmath>

#include "exponential.h"
#include "parallel.h"
#include "variant.h"

// losses, lse (rows,): -log softmax(logits)[target] and log sum exp(logits), of logits (rows, d), targets (rows,) in
// [0, d).
extern "C" void FUNCTION(cross_entropy)(const float *logits, const int64_t *targets, float *losses, float *lse,
                                        int64_t rows, int64_t d, int threads) {
    const int64_t step = rows_a_part(d);
    parallel((rows + step - 1) / step, threads, [=](int64_t part) {
        const int64_t end = (part + 1) * step < rows ? (part + 1) * step : rows;
        for (int64_t r = part * step; r < end; r++) {
            const float *x = logits + r * d;
            Vec most = all(-__builtin_inff()), total = {};
            int64_t j = 0;
            for (; j + LANES <= d; j += LANES) most = larger(load(x + j), most);
            float top = largest(most);
            for (int64_t i = j; i < d; i++) top = top > x[i] ? top : x[i];
            for (int64_t i = 0; i + LANES <= d; i += LANES) total += exponential(load(x + i) - top);
            float rest = 0.0f;
            for (; j < d; j++) rest += exponential(all(x[j] - top))[0];
            lse[r] = top + std::log(sum(total) + rest);
            losses[r] = lse[r] - x[targets[r]];
        }
    });
}

// dlogits = scale (softmax(logits) - [target])
extern "C" void FUNCTION(cross_entropy_backward)(const float *logits, const int64_t *targets, const float *lse,
                                                 float *dlogits, float scale, int64_t rows, int64_t d, int threads) {
    const int64_t step = rows_a_part(d);
    parallel((rows + step - 1) / step, threads, [=](int64_t part) {
        const int64_t end = (part + 1) * step < rows ? (part + 1) * step : rows;
        for (int64_t r = part * step; r < end; r++) {
            const float *x = logits + r * d;
            float *dx = dlogits + r * d;
            int64_t j = 0;
            for (; j + LANES <= d; j += LANES) store(dx + j, exponential(load(x + j) - lse[r]) * scale);
            for (; j < d; j++) dx[j] = exponential(all(x[j] - lse[r]))[0] * scale;
            dx[targets[r]] -= scale;
        }
    });
}
