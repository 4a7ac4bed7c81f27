// One step of Adam with decoupled weight decay over one tensor, in one pass over memory (paper, A.2).
#include <cmath>

#include "parallel.h"
#include "variant.h"

// gradient * scale is what counts; parameter, exp_avg and exp_avg_sq (n,) change in place. `size` is rate / (1 -
// beta1^t), `root` sqrt(1 - beta2^t), `shrink` 1 - rate * decay.
extern "C" void FUNCTION(adam_step)(float *parameter, const float *gradient, float *exp_avg, float *exp_avg_sq,
                                    int64_t n, float scale, float beta1, float beta2, float eps, float size,
                                    float root, float shrink, int threads) {
    parallel((n + PART - 1) / PART, threads, [=](int64_t part) {
        const int64_t first = part * PART, end = n - first < PART ? n - first : PART;
        float *__restrict p = parameter + first, *__restrict m = exp_avg + first, *__restrict v = exp_avg_sq + first;
        const float *__restrict g = gradient + first;
        const float per_root = 1.0f / root;
        for (int64_t i = 0; i < end; i++) {
            const float now = g[i] * scale;
            m[i] += (1.0f - beta1) * (now - m[i]);
            v[i] = beta2 * v[i] + (1.0f - beta2) * now * now;
            p[i] = p[i] * shrink - size * m[i] / (std::sqrt(v[i]) * per_root + eps);
        }
    });
}
