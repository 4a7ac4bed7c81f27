// exp of a vector of numbers up to 88, to about one unit in the last place; 0 below the smallest normal number, NaN
// stays NaN.
#pragma once
#include "vector.h"

namespace {

[[maybe_unused]] inline Vec exponential(Vec x) {
    constexpr float LOG2E = 1.44269504088896341f, LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;
    // 1.5 * 2^23: adding it rounds to an integer n, left in the lowest bits; with 127, n is biased as an exponent is.
    constexpr float ROUND = 12582912.0f + 127.0f, LOWEST = -87.0f;
    const Vec shifted = x * LOG2E + ROUND, n = shifted - ROUND;
    const Vec r = x - n * LN2_HIGH - n * LN2_LOW;
    Vec y = all(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    IntVec bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits <<= 23;
    Vec power;  // 2^n; NaN in y outlives whatever this is
    std::memcpy(&power, &bits, sizeof power);
    return choose(x < LOWEST, Vec{}, y * power);
}

[[maybe_unused]] inline Vec larger(Vec a, Vec b) { return choose(a > b, a, b); }

[[maybe_unused]] inline float largest(Vec v) {
    float m = v[0];
    for (int i = 1; i < LANES; i++) m = m > v[i] ? m : v[i];
    return m;
}

}  // namespace
