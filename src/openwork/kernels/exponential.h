// exp of vectors of numbers up to 88, to about one unit in the last place; 0 below the smallest normal number, NaN
// stays NaN.
#pragma once
#include "vector.h"

namespace {

// N of them, step by step, so that none waits for its own step before.
template <int N>
ALWAYS_INLINE void exponentials(Vec *x) {
    constexpr float LOG2E = 1.44269504088896341f, LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;
    // 1.5 * 2^23: adding it rounds to an integer n, left in the lowest bits; with 127, n is biased as an exponent is.
    constexpr float ROUND = 12582912.0f + 127.0f, LOWEST = -87.0f;
    constexpr float TERMS[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                               5.0000001201e-1f};
    if constexpr (N > 4) {  // as many as the registers hold
        exponentials<4>(x), exponentials<N - 4>(x + 4);
    } else {
        Vec shifted[N], r[N], y[N];
        for (int i = 0; i < N; i++) shifted[i] = x[i] * LOG2E + ROUND;
        for (int i = 0; i < N; i++) y[i] = shifted[i] - ROUND;
        for (int i = 0; i < N; i++) r[i] = x[i] - y[i] * LN2_HIGH - y[i] * LN2_LOW;
        for (int i = 0; i < N; i++) y[i] = all(1.9875691500e-4f);
        for (float term : TERMS)
            for (int i = 0; i < N; i++) y[i] = y[i] * r[i] + term;
        for (int i = 0; i < N; i++) y[i] = y[i] * r[i] * r[i] + r[i] + 1.0f;
        for (int i = 0; i < N; i++) {
            IntVec bits;
            std::memcpy(&bits, &shifted[i], sizeof bits);
            bits <<= 23;
            Vec power;  // 2^n; NaN in y outlives whatever this is
            std::memcpy(&power, &bits, sizeof power);
            x[i] = choose(x[i] < LOWEST, Vec{}, y[i] * power);
        }
    }
}

[[maybe_unused]] ALWAYS_INLINE Vec exponential(Vec x) {
    exponentials<1>(&x);
    return x;
}

[[maybe_unused]] inline Vec larger(Vec a, Vec b) { return choose(a > b, a, b); }

[[maybe_unused]] inline float largest(Vec v) {
    float m = v[0];
    for (int i = 1; i < LANES; i++) m = m > v[i] ? m : v[i];
    return m;
}

}  // namespace
