// Vectors of floats as wide as the instruction set has them, and the transposes that carry a block of tokens from rows
// (one token, all channels) into lanes (one channel, neighbouring tokens) and back.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define ALWAYS_INLINE __attribute__((always_inline)) inline

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t IntVec __attribute__((vector_size(LANES * 4)));
constexpr int32_t MAGNITUDE = 0x7fffffff;  // all bits of a float but its sign

[[maybe_unused]] inline Vec load(const float *from) {
    Vec v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

[[maybe_unused]] inline void store(float *to, Vec v) { std::memcpy(to, &v, sizeof v); }

// The first n of the lanes, zeros elsewhere.
[[maybe_unused]] inline Vec load_first(const float *from, int64_t n) {
    Vec v = {};
    std::memcpy(&v, from, size_t(n) * sizeof(float));
    return v;
}

[[maybe_unused]] inline Vec all(float x) { return x - Vec{}; }

// Lane i is that of number places[i] of a's and b's lanes in a row.
[[maybe_unused]] inline Vec shuffled(Vec a, Vec b, IntVec places) {
#if defined(__clang__)
    Vec v;
    for (int i = 0; i < LANES; i++) v[i] = places[i] < LANES ? a[places[i]] : b[places[i] - LANES];
    return v;
#else
    return __builtin_shuffle(a, b, places);
#endif
}

// a or, where the lane of `mask` is 0, b.
[[maybe_unused]] inline Vec choose(IntVec mask, Vec a, Vec b) { return mask ? a : b; }

#if defined(__AVX2__) && !defined(__AVX512F__)
// For each set of lanes, a bit each: in byte i of `together` the place of the i-th of the set, in byte i of `apart` how
// many of the set come before lane i.
struct Places {
    uint64_t together[1 << LANES] = {}, apart[1 << LANES] = {};
    constexpr Places() {
        for (uint64_t set = 0; set < 1 << LANES; set++)
            for (uint64_t i = 0, n = 0; i < LANES; n += set >> i++ & 1) {
                apart[set] |= n << 8 * i;
                if (set >> i & 1) together[set] |= i << 8 * n;
            }
    }
};
constexpr Places PLACES;

// Lane i is that of v whose number is in byte i of `places`.
inline __m256i lanes_at(__m256i v, const uint64_t &places) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(&places));
    return _mm256_permutevar8x32_epi32(v, _mm256_cvtepu8_epi32(bytes));
}
#endif

// Writes the lanes where `mask` is -1 (it is 0 elsewhere) one after the other, and returns how many; what follows them,
// up to LANES in all, is overwritten.
[[maybe_unused]] inline int64_t put_chosen(int32_t *to, IntVec mask, IntVec v) {
#if defined(__AVX512F__)
    const __mmask16 bits = _mm512_movepi32_mask(__m512i(mask));
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(bits, __m512i(v)));
    return __builtin_popcount(bits);
#elif defined(__AVX2__)
    const int bits = _mm256_movemask_ps(__m256(mask));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), lanes_at(__m256i(v), PLACES.together[bits]));
    return __builtin_popcount(unsigned(bits));
#else
    int64_t n = 0;
    for (int i = 0; i < LANES; i++) to[n] = v[i], n -= mask[i];
    return n;
#endif
}

// The way back: the numbers at `from`, one after the other, into the lanes where `mask` is -1, zeros elsewhere; and how
// many these are in n. LANES numbers are read.
[[maybe_unused]] inline Vec take_chosen(const float *from, IntVec mask, int64_t &n) {
#if defined(__AVX512F__)
    const __mmask16 bits = _mm512_movepi32_mask(__m512i(mask));
    n = __builtin_popcount(bits);
    return Vec(_mm512_maskz_expand_ps(bits, _mm512_loadu_ps(from)));
#elif defined(__AVX2__)
    const int bits = _mm256_movemask_ps(__m256(mask));
    n = __builtin_popcount(unsigned(bits));
    const __m256i numbers = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
    return Vec(_mm256_and_si256(lanes_at(numbers, PLACES.apart[bits]), __m256i(mask)));
#else
    int32_t chosen[LANES], numbers[LANES];
    std::memcpy(chosen, &mask, sizeof mask);
    n = 0;
    for (int i = 0; i < LANES; n -= chosen[i++]) std::memcpy(numbers + i, from + n, sizeof(float));
    IntVec bits;
    std::memcpy(&bits, numbers, sizeof bits);
    bits &= mask;
    Vec v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
#endif
}

// Lane i is lane i + BY, and after the last comes the first.
template <int BY>
inline Vec rotated(Vec v) {
    IntVec places;
    for (int i = 0; i < LANES; i++) places[i] = (i + BY) % LANES;
    return shuffled(v, v, places);
}

// Adds the lanes, always in the same tree.
[[maybe_unused]] inline float sum(Vec v) {
    if constexpr (LANES >= 16) v += rotated<8>(v);
    if constexpr (LANES >= 8) v += rotated<4>(v);
    v += rotated<2>(v);
    v += rotated<1>(v);
    return v[0];
}

// Memory for the threads' scratch, aligned for vectors; freed at the end of its scope. `data` is null without memory.
struct Scratch {
    float *data;
    explicit Scratch(int64_t floats)
        : data(static_cast<float *>(std::aligned_alloc(64, size_t(floats * 4 + 63) / 64 * 64))) {}
    ~Scratch() { std::free(data); }
    Scratch(const Scratch &) = delete;
};

template <int STEP>
inline void exchange(Vec &a, Vec &b) {
    // Lanes come in groups of STEP: a keeps its even groups and takes b's even ones, b gets the odd ones of both.
    IntVec low, high;
    for (int i = 0; i < LANES; i++) {
        const bool odd = i / STEP % 2;
        low[i] = odd ? LANES + i - STEP : i;
        high[i] = odd ? LANES + i : i + STEP;
    }
    const Vec x = shuffled(a, b, low), y = shuffled(a, b, high);
    a = x, b = y;
}

template <int STEP>
inline void exchange_all(Vec *rows) {
    for (int i = 0; i < LANES; i++)
        if (i / STEP % 2 == 0) exchange<STEP>(rows[i], rows[i + STEP]);
}

// rows[i][j] becomes rows[j][i].
[[maybe_unused]] inline void transpose(Vec *rows) {
    exchange_all<1>(rows);
    exchange_all<2>(rows);
    if constexpr (LANES >= 8) exchange_all<4>(rows);
    if constexpr (LANES >= 16) exchange_all<8>(rows);
}

template <int STEP>
inline void merge(Vec *v) {
    if constexpr (STEP < LANES) {
        for (int i = 0; i < LANES; i += 2 * STEP) exchange<STEP>(v[i], v[i + STEP]), v[i] += v[i + STEP];
        merge<2 * STEP>(v);
    }
}

// The sum of the lanes of v[i], in lane i, always in the same tree; half the exchanges of a transpose.
[[maybe_unused]] inline Vec sums(Vec *v) {
    merge<1>(v);
    return v[0];
}

// In lanes 0 to 3 the sums of the lanes of v[0] to v[3], always in the same tree.
[[maybe_unused]] ALWAYS_INLINE Vec first_four_sums(Vec *v) {
    exchange<1>(v[0], v[1]), exchange<1>(v[2], v[3]);
    Vec a = v[0] + v[1], b = v[2] + v[3];
    exchange<2>(a, b);
    a += b;
    if constexpr (LANES >= 16) a += rotated<8>(a);
    if constexpr (LANES >= 8) a += rotated<4>(a);
    return a;
}

// The first n lanes from memory, n being at most LANES; and back.
[[maybe_unused]] inline Vec some(const float *from, int64_t n) {
    return n == LANES ? load(from) : load_first(from, n);
}

[[maybe_unused]] inline void put(float *to, Vec v, int64_t n) {
    if (n == LANES)
        store(to, v);
    else
        std::memcpy(to, &v, size_t(n) * sizeof(float));
}

// Rows of d channels become lanes (d, WIDTH): channel c of token t at lanes[c * WIDTH + t]. read(t, c, n) gives the n
// channels of token t from c on. Tokens from `tokens` to WIDTH are zeros.
template <int WIDTH, class F>
inline void rows_to_lanes(int64_t tokens, int64_t d, float *lanes, F read) {
    static_assert(WIDTH % LANES == 0);
    Vec rows[LANES];
    for (int64_t t = 0; t < WIDTH; t += LANES)
        for (int64_t c = 0; c < d; c += LANES) {
            const int64_t width = d - c < LANES ? d - c : LANES;
            if (width == LANES && t + LANES <= tokens) {
                for (int i = 0; i < LANES; i++) rows[i] = read(t + i, c, int64_t(LANES));
            } else {
                for (int i = 0; i < LANES; i++) rows[i] = t + i < tokens ? read(t + i, c, width) : Vec{};
            }
            transpose(rows);
            for (int64_t i = 0; i < width; i++) store(lanes + (c + i) * WIDTH + t, rows[i]);
        }
}

// The same of x (tokens, d), row-major with `stride`.
template <int WIDTH>
inline void to_lanes(const float *x, int64_t stride, int64_t tokens, int64_t d, float *lanes) {
    rows_to_lanes<WIDTH>(tokens, d, lanes, [=](int64_t t, int64_t c, int64_t n) { return some(x + t * stride + c, n); });
}

// The way back for at most LANES channels: lanes (n, WIDTH) become columns of y (tokens, ...), row-major with `stride`.
template <int WIDTH>
inline void from_lanes(const float *lanes, int64_t n, int64_t tokens, float *y, int64_t stride) {
    Vec rows[LANES] = {};
    for (int64_t t = 0; t < tokens; t += LANES) {
        for (int64_t i = 0; i < n; i++) rows[i] = load(lanes + i * WIDTH + t);
        transpose(rows);
        const int64_t end = tokens - t < LANES ? tokens - t : LANES;
        if (n == LANES)
            for (int64_t i = 0; i < end; i++) {
                store(y + (t + i) * stride, rows[i]);
                __builtin_prefetch(y + (t + i) * stride + LANES, 1);  // written next: no processor sees that by itself
            }
        else
            for (int64_t i = 0; i < end; i++) std::memcpy(y + (t + i) * stride, &rows[i], size_t(n) * sizeof(float));
    }
}

}  // namespace
