// Attention as in attention.cpp, where AbsTopK left few channels of keys and values, at the cost of those it left.
//
// A channel in which a key or a value is zero has no part in its products. So here queries lie in lanes, a block of
// them at a time, and one key after the other meets the block with its own channels alone: in the scores, in what its
// value gives to y and gets from dy, and in its gradients. These are made for the channels that AbsTopK kept; for the
// others, where it lets none pass, they are zero.
#include <cmath>

#include "exponential.h"
#include "parallel.h"
#include "variant.h"
#include "vector.h"

namespace {

constexpr int BLOCK = LANES >= 8 ? 8 : 4;  // vectors of queries: as many as the registers hold of scores
constexpr int64_t WIDTH = BLOCK * LANES;
constexpr int64_t GROUP = 128;  // channels of the heads that are one part of the work, at most
constexpr int64_t AHEAD = 8;    // rows that are fetched before they are read: no processor sees which come next
constexpr float LARGEST = 87.0f;  // that has an exponential

inline IntVec index() {
    IntVec index;
    for (int i = 0; i < LANES; i++) index[i] = i;
    return index;
}

// Neighbouring heads of one sequence, n of d channels, the first of them channel `first` of its row; rows lie `stride`
// apart. They are one part of the work: a row of one head alone is a single line of memory, far from the next.
struct Heads {
    int64_t length, n, d, first, stride;
    float scale;

    int64_t width() const { return n * d; }

    // Queries of a block: all blocks but the last have the same.
    int64_t block() const {
        const int64_t vectors = (length + LANES - 1) / LANES, blocks = (vectors + BLOCK - 1) / BLOCK;
        return (vectors + blocks - 1) / blocks * LANES;
    }
};

// What is left of one head's keys or values: row j has the entries from starts[j] to starts[j + 1].
struct Entries {
    const float *values;
    const int32_t *channels, *starts;
};

// The entries of several heads: all non-zeros of rows x (length, n * d) and, with `cut` (length,), the zeros that
// AbsTopK kept, which stand at most at that channel of a row (zero_cut in abs_topk.cpp).
class Lists {
    const Heads &heads;
    const float *x;
    const int32_t *cut;
    const Scratch memory;

    int32_t *values(int64_t i) const {
        return reinterpret_cast<int32_t *>(memory.data) + i * (2 * room + heads.length + 1);
    }
    int32_t *starts(int64_t i) const { return values(i) + 2 * room; }

    // Which of row j's channels c of head i, and the next ones, are entries; their bits.
    IntVec chosen(int64_t j, int64_t i, int64_t c, IntVec *bits) const {
        const float *from = x + j * heads.stride + i * heads.d + c;
        __builtin_prefetch(from + AHEAD * heads.stride);
        std::memcpy(bits, from, sizeof *bits);
        const IntVec are = (*bits & MAGNITUDE) != 0;
        return cut ? are | (index() + int32_t(heads.first + i * heads.d + c) <= cut[j]) : are;
    }

  public:
    const int64_t room;  // entries of a head at most, and as many more as are written at a time

    Lists(const Heads &h, const float *x, const int32_t *cut)
        : heads(h), x(x), cut(cut), memory(h.n * (2 * (h.length * h.d + LANES) + h.length + 1)),
          room(h.length * h.d + LANES) {
        if (!memory.data) return;
        IntVec bits;
        for (int64_t i = 0; i < h.n; i++) starts(i)[0] = 0;
        for (int64_t j = 0; j < h.length; j++)
            for (int64_t i = 0; i < h.n; i++) {
                int32_t *own = values(i), n = starts(i)[j];
                for (int64_t c = 0; c < h.d; c += LANES) {
                    const IntVec are = chosen(j, i, c, &bits);
                    put_chosen(own + n, are, bits);
                    n += int32_t(put_chosen(own + room + n, are, index() + int32_t(c)));
                }
                starts(i)[j + 1] = n;
            }
    }

    bool there() const { return memory.data; }

    Entries of(int64_t i) const {
        return {reinterpret_cast<const float *>(values(i)), values(i) + room, starts(i)};
    }

    // A number for each entry, `room` a head: all zero.
    void clear(float *numbers) const {
        for (int64_t i = 0; i < heads.n; i++)
            std::memset(numbers + i * room, 0, sizeof(float) * size_t(starts(i)[heads.length] + LANES));
    }

    // y (length, n * d) = the numbers where their entries are, and zero elsewhere.
    void spread(const float *numbers, float *y) const {
        IntVec bits;
        for (int64_t j = 0; j < heads.length; j++)
            for (int64_t i = 0; i < heads.n; i++) {
                const float *from = numbers + i * room + starts(i)[j];
                for (int64_t c = 0; c < heads.d; c += LANES) {
                    const IntVec are = chosen(j, i, c, &bits);
                    int64_t n;
                    store(y + j * heads.stride + i * heads.d + c, take_chosen(from, are, n));
                    from += n;
                }
            }
    }
};

// One head: its keys and values, and the gradients of their entries.
struct Head {
    const Entries keys, values;
    const float scale;
    float *dk, *dv;
};

// A block of its queries in lanes: channel c of query first + i lies at [c * WIDTH + i], a number of that query at [i].
// The forward pass has no use for dy, dq, lse and delta, the backward pass none for y, top and total.
struct Block {
    float *q, *y, *dy, *dq, *top, *total, *lse, *delta;
    int64_t first;

    Block from(int64_t i) const {
        return {q + i, y + i, dy + i, dq + i, top + i, total + i, lse + i, delta + i, first + i};
    }

    // Which of the first vector's queries come before key j.
    IntVec before(int64_t j) const { return index() < int32_t(j - first); }
};

// out = row j times each of the queries whose channels are in `lanes`, N vectors of them.
template <int N>
ALWAYS_INLINE void meet(const Entries &rows, int64_t j, const float *lanes, Vec *out) {
    for (int v = 0; v < N; v++) out[v] = Vec{};
    for (int32_t e = rows.starts[j]; e < rows.starts[j + 1]; e++) {
        const Vec value = all(rows.values[e]);
        const float *channel = lanes + rows.channels[e] * WIDTH;
        for (int v = 0; v < N; v++) out[v] += value * load(channel + v * LANES);
    }
}

// lanes += row j times `by`, which is a number for each query; where LATER, those in `before` are left as they are.
template <int N, bool LATER>
ALWAYS_INLINE void give(const Entries &rows, int64_t j, const Vec *by, IntVec before, float *lanes) {
    for (int32_t e = rows.starts[j]; e < rows.starts[j + 1]; e++) {
        const Vec value = all(rows.values[e]);
        float *channel = lanes + rows.channels[e] * WIDTH;
        for (int v = 0; v < N; v++) {
            const Vec old = load(channel + v * LANES), now = old + value * by[v];
            store(channel + v * LANES, LATER && v == 0 ? choose(before, old, now) : now);
        }
    }
}

// For each entry of row j: gradient += the sum over queries of `by` times the entry's channel in `lanes`.
template <int N, bool LATER>
ALWAYS_INLINE void take(const Entries &rows, int64_t j, const Vec *by, IntVec before, const float *lanes,
                        float *gradient) {
    const int32_t end = rows.starts[j + 1];
    for (int32_t e = rows.starts[j]; e < end; e += 4) {
        Vec along[4] = {};
        for (int i = 0; i < 4 && e + i < end; i++) {
            const float *channel = lanes + rows.channels[e + i] * WIDTH;
            along[i] = by[0] * load(channel);
            if (LATER) along[i] = choose(before, Vec{}, along[i]);
            for (int v = 1; v < N; v++) along[i] += by[v] * load(channel + v * LANES);
        }
        const Vec sums = first_four_sums(along);  // zeros for what is the next row's
        for (int i = 0; i < 4; i++) gradient[e + i] += sums[i];
    }
}

// What keys `begin` to `end` do with N vectors of queries; where LATER, some of the first vector's come before them.
template <int N, bool LATER>
void find_top(const Head &head, const Block &block, int64_t begin, int64_t end) {
    Vec top[N];
    for (int v = 0; v < N; v++) top[v] = load(block.top + v * LANES);
    for (int64_t j = begin; j < end; j++) {
        Vec scores[N];
        meet<N>(head.keys, j, block.q, scores);
        for (int v = 0; v < N; v++) scores[v] *= head.scale;
        if (LATER) scores[0] = choose(block.before(j), top[0], scores[0]);
        for (int v = 0; v < N; v++) top[v] = larger(scores[v], top[v]);
    }
    for (int v = 0; v < N; v++) store(block.top + v * LANES, top[v]);
}

template <int N, bool LATER>
void sum_up(const Head &head, const Block &block, int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; j++) {
        const IntVec before = LATER ? block.before(j) : IntVec{};
        Vec p[N];
        meet<N>(head.keys, j, block.q, p);
        for (int v = 0; v < N; v++) {
            const Vec score = p[v] * head.scale - load(block.top + v * LANES);
            p[v] = choose(score > LARGEST, all(LARGEST), score);
        }
        exponentials<N>(p);
        if (LATER) p[0] = choose(before, Vec{}, p[0]);
        for (int v = 0; v < N; v++) store(block.total + v * LANES, load(block.total + v * LANES) + p[v]);
        give<N, LATER>(head.values, j, p, before, block.y);
    }
}

template <int N, bool LATER>
void pass_back(const Head &head, const Block &block, int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; j++) {
        const IntVec before = LATER ? block.before(j) : IntVec{};
        Vec p[N], ds[N];
        meet<N>(head.keys, j, block.q, p);
        for (int v = 0; v < N; v++) p[v] = p[v] * head.scale - load(block.lse + v * LANES);
        exponentials<N>(p);
        take<N, LATER>(head.values, j, p, before, block.dy, head.dv);
        meet<N>(head.values, j, block.dy, ds);
        for (int v = 0; v < N; v++) ds[v] = p[v] * (ds[v] - load(block.delta + v * LANES)) * head.scale;
        give<N, LATER>(head.keys, j, ds, before, block.dq);
        take<N, LATER>(head.keys, j, ds, before, block.q, head.dk);
    }
}

// A step for each number of vectors, without and with LATER.
struct Step {
    using Function = void (*)(const Head &, const Block &, int64_t, int64_t);
    Function of[2][BLOCK];
};
#define ROW_4(f, later) f<1, later>, f<2, later>, f<3, later>, f<4, later>
#define ROW_8(f, later) ROW_4(f, later), f<5, later>, f<6, later>, f<7, later>, f<8, later>
#if defined(__AVX2__)
#define STEP(f) {{{ROW_8(f, false)}, {ROW_8(f, true)}}}
#else
#define STEP(f) {{{ROW_4(f, false)}, {ROW_4(f, true)}}}
#endif
constexpr Step FIND_TOP = STEP(find_top), SUM_UP = STEP(sum_up), PASS_BACK = STEP(pass_back);

// Lets every key meet those of the block's `n` queries that do not come before it.
void for_keys(const Step &step, const Head &head, const Block &block, int64_t n) {
    const int64_t vectors = (n + LANES - 1) / LANES;
    step.of[0][vectors - 1](head, block, 0, block.first);
    for (int64_t v = 0; v < vectors; v++) {
        const Block rest = block.from(v * LANES);
        const int64_t left = n - v * LANES;
        step.of[1][vectors - v - 1](head, rest, rest.first, rest.first + (left < LANES ? left : LANES));
    }
}

inline void fill(float *x, float value) {
    for (int64_t t = 0; t < WIDTH; t += LANES) store(x + t, all(value));
}

inline bool all_between(const float *x, int64_t n, float low, float high) {
    bool is = true;
    for (int64_t i = 0; i < n; i++) is &= x[i] > low && x[i] < high;
    return is;
}

// y (length, n * d) and lse (n, length); false where there was no memory.
bool forward(const float *q, const float *k, const float *v, const float *sink, const Heads &h, float *y, float *lse) {
    const int64_t size = h.width() * WIDTH, step = h.block();
    const Lists keys(h, k, nullptr), values(h, v, nullptr);
    const Scratch lanes(2 * size + 2 * WIDTH);
    if (!keys.there() || !values.there() || !lanes.data) return false;
    float *q_lanes = lanes.data, *y_lanes = q_lanes + size, *top = y_lanes + size, *total = top + WIDTH;
    for (int64_t first = 0; first < h.length; first += step) {
        const int64_t here = h.length - first < step ? h.length - first : step, row = first * h.stride;
        to_lanes<WIDTH>(q + row, h.stride, here, h.width(), q_lanes);
        for (int64_t i = 0; i < h.n; i++) {
            const int64_t at = i * h.d * WIDTH, end = at + h.d * WIDTH;
            const float own = sink ? sink[i] : -__builtin_inff();
            const Head head{keys.of(i), values.of(i), h.scale, nullptr, nullptr};
            const Block block{q_lanes + at, y_lanes + at, nullptr, nullptr, top, total, nullptr, nullptr, first};
            fill(top, sink ? own : 0.0f);  // what is taken from scores need not be the largest, only not far from it
            for (int again = 0; again < 2; again++) {
                if (again) fill(top, own), for_keys(FIND_TOP, head, block, here);
                for (int64_t t = 0; t < WIDTH; t += LANES) {
                    Vec zero = {};  // NaN if q is not finite, even where no key has its channel
                    for (int64_t c = at; c < end; c += WIDTH) zero += load(q_lanes + c + t) * 0.0f;
                    store(total + t, exponential(own - load(top + t)) + zero);
                }
                std::memset(y_lanes + at, 0, sizeof(float) * size_t(h.d * WIDTH));
                for_keys(SUM_UP, head, block, here);
                if (all_between(total, here, 1e-25f, 1e30f)) break;
            }
            for (int64_t c = at; c < end; c += WIDTH)
                for (int64_t t = 0; t < WIDTH; t += LANES)
                    store(y_lanes + c + t, load(y_lanes + c + t) / load(total + t));
            for (int64_t t = 0; t < here; t++) lse[i * h.length + first + t] = top[t] + std::log(total[t]);
        }
        for (int64_t c = 0; c < h.width(); c += LANES)
            from_lanes<WIDTH>(y_lanes + c * WIDTH, LANES, here, y + row + c, h.stride);
    }
    return true;
}

// dq, dk and dv (length, n * d), and the gradient of each head's sink; false where there was no memory.
bool backward(const float *dy, const float *q, const float *k, const float *v, const float *sink, const float *y,
              const float *lse, const int32_t *k_cut, const int32_t *v_cut, const Heads &h, float *dq, float *dk,
              float *dv, float *dsink) {
    const int64_t size = h.width() * WIDTH, step = h.block();
    const Lists keys(h, k, k_cut), values(h, v, v_cut);
    const Scratch lanes(4 * size + 2 * WIDTH), of_entries(2 * h.n * keys.room);
    if (!keys.there() || !values.there() || !lanes.data || !of_entries.data) return false;
    float *q_lanes = lanes.data, *y_lanes = q_lanes + size, *dy_lanes = y_lanes + size, *dq_lanes = dy_lanes + size;
    float *own_lse = dq_lanes + size, *delta = own_lse + WIDTH;
    float *own_dk = of_entries.data, *own_dv = own_dk + h.n * keys.room;
    keys.clear(own_dk), values.clear(own_dv);
    for (int64_t i = 0; i < h.n; i++) dsink[i] = 0.0f;
    for (int64_t first = 0; first < h.length; first += step) {
        const int64_t here = h.length - first < step ? h.length - first : step, row = first * h.stride;
        to_lanes<WIDTH>(q + row, h.stride, here, h.width(), q_lanes);
        to_lanes<WIDTH>(y + row, h.stride, here, h.width(), y_lanes);
        to_lanes<WIDTH>(dy + row, h.stride, here, h.width(), dy_lanes);
        std::memset(dq_lanes, 0, sizeof(float) * size_t(size));
        for (int64_t i = 0; i < h.n; i++) {
            const int64_t at = i * h.d * WIDTH, end = at + h.d * WIDTH;
            const Head head{keys.of(i), values.of(i), h.scale, own_dk + i * keys.room, own_dv + i * keys.room};
            const Block block{q_lanes + at, nullptr, dy_lanes + at, dq_lanes + at, nullptr,
                              nullptr,      own_lse, delta,         first};
            for (int64_t t = 0; t < WIDTH; t++)
                own_lse[t] = t < here ? lse[i * h.length + first + t] : __builtin_inff();
            Vec of_sink = {};
            for (int64_t t = 0; t < WIDTH; t += LANES) {
                Vec along = {};
                for (int64_t c = at; c < end; c += WIDTH) along += load(y_lanes + c + t) * load(dy_lanes + c + t);
                store(delta + t, along);
                if (sink) of_sink -= exponential(sink[i] - load(own_lse + t)) * along;
            }
            dsink[i] += sum(of_sink);
            for_keys(PASS_BACK, head, block, here);
        }
        for (int64_t c = 0; c < h.width(); c += LANES)
            from_lanes<WIDTH>(dq_lanes + c * WIDTH, LANES, here, dq + row + c, h.stride);
    }
    keys.spread(own_dk, dk), values.spread(own_dv, dv);
    return true;
}

// Calls f(heads, b) for every sequence b and every group of its heads; returns 1 where one gave false, else 0. What
// comes out for a head does not depend on its group: they are smaller where threads would have nothing to do.
template <class F>
int for_groups(int64_t batch, int64_t heads, int64_t length, int64_t d, int threads, F f) {
    int64_t together = d < GROUP ? GROUP / d : 1;
    while (together > 1 && batch * ((heads + together - 1) / together) < threads) together /= 2;
    const int64_t groups = (heads + together - 1) / together;
    int failed = 0;
    parallel(batch * groups, threads, [&](int64_t part) {
        const int64_t i = part % groups * together, n = heads - i < together ? heads - i : together;
        if (!f(Heads{length, n, d, i * d, heads * d, 1.0f / std::sqrt(float(d))}, part / groups))
            __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    });
    return failed;
}

}  // namespace

// y (batch, length, heads * d_head) and lse (batch, heads, length) of q, k and v, shaped like y; sink (heads,) or null.
// d_head is a multiple of 16. Returns 0, or 1 where there was no memory.
extern "C" int FUNCTION(selected_attention)(const float *q, const float *k, const float *v, const float *sink, float *y,
                                            float *lse, int64_t batch, int64_t heads, int64_t length, int64_t d_head,
                                            int threads) {
    return for_groups(batch, heads, length, d_head, threads, [&](const Heads &h, int64_t b) {
        const int64_t at = b * length * h.stride + h.first, i = h.first / d_head;
        return forward(q + at, k + at, v + at, sink ? sink + i : nullptr, h, y + at, lse + (b * heads + i) * length);
    });
}

// dq, dk, dv (batch, length, heads * d_head) and, for each sequence, dsink (batch, heads), of y and lse as
// selected_attention made them; k_cut and v_cut (batch, length) are the zero_cut of AbsTopK, which made k and v.
// Returns 0, or 1 where there was no memory.
extern "C" int FUNCTION(selected_attention_backward)(const float *dy, const float *q, const float *k, const float *v,
                                                     const float *sink, const float *y, const float *lse,
                                                     const int32_t *k_cut, const int32_t *v_cut, float *dq, float *dk,
                                                     float *dv, float *dsink, int64_t batch, int64_t heads,
                                                     int64_t length, int64_t d_head, int threads) {
    return for_groups(batch, heads, length, d_head, threads, [&](const Heads &h, int64_t b) {
        const int64_t at = b * length * h.stride + h.first, i = h.first / d_head, of_head = b * heads + i;
        return backward(dy + at, q + at, k + at, v + at, sink ? sink + i : nullptr, y + at, lse + of_head * length,
                        k_cut + b * length, v_cut + b * length, h, dq + at, dk + at, dv + at, dsink + of_head);
    });
}
