// exp of a vector, to about one unit in the last place; 0 below the smallest normal number, NaN stays NaN.
#pragma once
#include "vector.h"

namespace {

[[maybe_unused]] inline Vec exponential(Vec x) {
    constexpr float LOG2E = 1.44269504088896341f, LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;
    constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, left in the lowest bits
    constexpr float LOWEST = -87.0f, HIGHEST = 88.7f;
    const IntVec tiny = x < LOWEST, huge = x > HIGHEST;
    x = choose(tiny | huge, Vec{}, x);
    const Vec shifted = x * LOG2E + ROUND, n = shifted - ROUND;
    const Vec r = x - n * LN2_HIGH - n * LN2_LOW;
    Vec y = all(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    IntVec bits, power;
    std::memcpy(&bits, &shifted, sizeof bits);
    std::memcpy(&power, &y, sizeof power);
    power += bits << 23;
    Vec result;
    std::memcpy(&result, &power, sizeof result);
    result = choose(x == x, result, x);
    return choose(tiny, Vec{}, choose(huge, all(__builtin_inff()), result));
}

[[maybe_unused]] inline Vec larger(Vec a, Vec b) { return choose(a > b, a, b); }

[[maybe_unused]] inline float largest(Vec v) {
    float m = v[0];
    for (int i = 1; i < LANES; i++) m = m > v[i] ? m : v[i];
    return m;
}

}  // namespace
