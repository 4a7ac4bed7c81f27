// GELU, x P(x) with P the normal distribution function, and its derivative P(x) + x P'(x).
//
// P(-|x|) = exp(-x^2 / 2) t (a1 + a2 t + ... + a5 t^4) / 2 with t = 1 / (1 + p |x| / sqrt 2), which is off by less than
// 1e-7 (Abramowitz and Stegun, 7.1.26).
#pragma once
#include "exponential.h"

namespace {

struct Normal {
    Vec distribution, density;
};

inline Normal normal(Vec x) {
    const Vec size = choose(x < 0.0f, -x, x), bell = exponential(x * x * -0.5f);
    const Vec t = 1.0f / (1.0f + size * (0.3275911f * 0.70710678f));
    Vec tail = all(1.061405429f);
    tail = tail * t - 1.453152027f;
    tail = tail * t + 1.421413741f;
    tail = tail * t - 0.284496736f;
    tail = tail * t + 0.254829592f;
    tail = tail * t * bell * 0.5f;
    return {choose(x < 0.0f, tail, 1.0f - tail), bell * 0.39894228f};
}

[[maybe_unused]] inline Vec gelu_of(Vec x, Normal p) { return x * p.distribution; }

[[maybe_unused]] inline Vec gelu_slope(Vec x, Normal p) { return p.distribution + x * p.density; }

[[maybe_unused]] inline Vec gelu_of(Vec x) { return gelu_of(x, normal(x)); }

[[maybe_unused]] inline Vec gelu_slope(Vec x) { return gelu_slope(x, normal(x)); }

// Calls f(place, how many) for all vectors of a range; the last may be partly used.
template <class F>
inline void for_vectors(int64_t begin, int64_t end, F f) {
    int64_t i = begin;
    for (; i + LANES <= end; i += LANES) f(i, int64_t(LANES));
    if (i < end) f(i, end - i);
}

}  // namespace
