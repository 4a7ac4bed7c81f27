// Exact selection of the largest magnitudes without sorting; ties go to the lower index. See twins.py for the same in PyTorch.
//
// A float's magnitude, read as an integer, orders like the float: NaN above infinity above the rest. So every comparison below
// is one of integers, no NaN is lost, and the same entries are chosen on every machine.
//
// This file is compiled once per instruction set, with VARIANT naming it, and cpu.cpp calls the best one the machine has.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define PASTE(a, b) a##_##b
#define NAMED(a, b) PASTE(a, b)
#define FUNCTION(name) NAMED(name, VARIANT)

namespace {

constexpr uint32_t MAGNITUDE = 0x7fffffffu;
constexpr uint32_t PROTECTED = 0x80000000u;

inline int32_t magnitude(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return int32_t(bits & MAGNITUDE);
}

inline int32_t at_least(const int32_t *keys, int64_t n, int32_t bound) {
    int32_t count = 0;
    for (int64_t j = 0; j < n; j++) count += keys[j] >= bound;
    return count;
}

inline float as_float(int32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline int32_t as_bits(float value) {
    int32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

// The largest bound that at least k keys reach. Halves the interval of values first, that of bit patterns where this stalls.
inline int32_t threshold(const int32_t *keys, int64_t n, int64_t k, int32_t largest) {
    int32_t low = 0, high = largest;
    if (at_least(keys, n, high) >= k) return high;  // low is reached by at least k keys, high by fewer
    for (int round = 0; high - low > 1; round++) {
        int32_t middle = as_bits(0.5f * (as_float(low) + as_float(high)));
        if (round >= 24 || middle <= low || middle >= high) middle = low + (high - low) / 2;
        int64_t count = at_least(keys, n, middle);
        if (count == k) return middle;
        (count > k ? low : high) = middle;
    }
    return low;
}

}  // namespace

// Each row of x keeps its k largest magnitudes in y. zero_cut: the last index at which a zero was kept, or -1.
extern "C" void FUNCTION(abs_topk)(const float *x, float *y, int32_t *zero_cut, int64_t rows, int64_t d, int64_t k,
                                   int threads) {
#pragma omp parallel num_threads(threads) if (threads > 1 && rows > 1)
    {
        std::vector<int32_t> keys(d);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            const float *in = x + r * d;
            float *out = y + r * d;
            int32_t largest = 0;
            for (int64_t j = 0; j < d; j++) {
                keys[j] = magnitude(in[j]);
                largest = std::max(largest, keys[j]);
            }
            int32_t bound = threshold(keys.data(), d, k, largest);
            int64_t ties_over = at_least(keys.data(), d, bound) - k;
            for (int64_t j = 0; j < d; j++) out[j] = keys[j] >= bound ? in[j] : 0.0f;
            int64_t last = d - 1;  // ties from here on are dropped, the last ones first
            for (; ties_over > 0; last--)
                if (keys[last] == bound) {
                    out[last] = 0.0f;
                    ties_over--;
                }
            zero_cut[r] = bound == 0 ? int32_t(last) : -1;
        }
    }
}

extern "C" void FUNCTION(abs_topk_backward)(const float *dy, const float *y, const int32_t *zero_cut, float *dx,
                                            int64_t rows, int64_t d, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1 && rows > 1)
    for (int64_t r = 0; r < rows; r++) {
        const int32_t cut = zero_cut[r];
        for (int64_t j = 0; j < d; j++) {
            int64_t i = r * d + j;
            dx[i] = (y[i] != 0.0f) | (int32_t(j) <= cut) ? dy[i] : 0.0f;
        }
    }
}

namespace {

// Marks the `floor` largest of every line as protected: rows (line_stride = cols, step = 1) or columns (1, cols).
void protect(uint32_t *keys, int64_t lines, int64_t length, int64_t line_stride, int64_t step,
             int64_t floor) {
    std::vector<int64_t> best(floor);
    for (int64_t line = 0; line < lines; line++) {
        const int64_t start = line * line_stride;
        int64_t held = 0;
        for (int64_t j = 0; j < length; j++) {
            const int64_t i = start + j * step;
            if (held == floor && keys[i] <= keys[best[held - 1]]) continue;
            int64_t place = held < floor ? held++ : held - 1;
            for (; place > 0 && keys[best[place - 1]] < keys[i]; place--) best[place] = best[place - 1];
            best[place] = i;
        }
        for (int64_t b = 0; b < held; b++) keys[best[b]] |= PROTECTED;
    }
}

// The k-th largest of the keys: a histogram of their high bits, then the one bin in which it lies.
uint32_t kth_largest(const uint32_t *keys, int64_t n, int64_t k) {
    constexpr int SHIFT = 19;
    std::vector<int64_t> bins(size_t(1) << (32 - SHIFT), 0);
    for (int64_t i = 0; i < n; i++) bins[keys[i] >> SHIFT]++;
    int64_t above = 0, bin = int64_t(bins.size()) - 1;
    while (above + bins[bin] < k) above += bins[bin--];
    std::vector<uint32_t> inside;
    inside.reserve(bins[bin]);
    for (int64_t i = 0; i < n; i++)
        if (int64_t(keys[i] >> SHIFT) == bin) inside.push_back(keys[i]);
    auto nth = inside.begin() + (k - above - 1);
    std::nth_element(inside.begin(), nth, inside.end(), std::greater<uint32_t>());
    return *nth;
}

}  // namespace

// w (rows, cols) keeps its k largest magnitudes, and the `floor` largest of every row (axis 1) or column (axis 0) among them.
extern "C" void FUNCTION(keep_topk)(float *w, int64_t rows, int64_t cols, int64_t k, int64_t floor, int axis) {
    const int64_t n = rows * cols;
    std::vector<uint32_t> keys(n);
    for (int64_t i = 0; i < n; i++) keys[i] = uint32_t(magnitude(w[i]));
    if (floor > 0) {
        if (axis == 1)
            protect(keys.data(), rows, cols, cols, 1, floor);
        else
            protect(keys.data(), cols, rows, 1, cols, floor);
    }
    const uint32_t bound = kth_largest(keys.data(), n, k);
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        kept += keys[i] >= bound;
        w[i] = keys[i] >= bound ? w[i] : 0.0f;
    }
    for (int64_t i = n - 1; kept > k; i--)
        if (keys[i] == bound) {
            w[i] = 0.0f;
            kept--;
        }
}
