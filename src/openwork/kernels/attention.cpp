// Causal attention with a sink for small heads, exact, forward and backward (paper, A.1).
//
// With scores s_tj = q_t . k_j / sqrt(D) over keys j <= t and the sink's logit b, p_tj = exp(s_tj - l_t) where l_t =
// log(exp(b) + sum_j exp(s_tj)), and y_t = sum_j p_tj v_j. A head of one sequence is one part of the work: its keys are
// brought into lanes once, and a few queries at a time meet all their keys in registers. Queries are the last ones of
// the keys' positions, so that a new token can meet cached keys. Keys and values of which little is not zero are met in
// selected_attention.cpp.
#include <cmath>

#include "exponential.h"
#include "parallel.h"
#include "variant.h"
#include "vector.h"

namespace {

constexpr int QUERIES = LANES == 16 ? 8 : 4;  // at a time: as many as the registers hold
constexpr int64_t TOGETHER = 8;                 // heads of a single query that are one part of the work

// One head of one sequence: rows of q, k, v and y are `stride` apart.
struct Shape {
    int64_t keys, stride, padded;  // padded: keys, rounded up to whole vectors
    float scale;
};

// x (n, D) into lanes: channel d of key j at lanes[d * padded + j], zeros behind the last key.
template <int D>
void keys_to_lanes(const float *x, const Shape &s, float *lanes) {
    constexpr int WIDTH = LANES;
    alignas(64) float block[D * WIDTH];
    for (int64_t j = 0; j < s.padded; j += WIDTH) {
        to_lanes<WIDTH>(x + j * s.stride, s.stride, s.keys - j < WIDTH ? s.keys - j : WIDTH, D, block);
        for (int d = 0; d < D; d++) store(lanes + d * s.padded + j, load(block + d * WIDTH));
    }
}

// out[i] = a_i . (keys j .. j + LANES in lanes), for the n queries' vectors a (n, D).
template <int D>
inline void dots(const float *a, int64_t stride, const float *lanes, int64_t padded, int64_t j, Vec *out) {
    for (int i = 0; i < QUERIES; i++) out[i] = Vec{};
    for (int d = 0; d < D; d++) {
        const Vec key = load(lanes + d * padded + j);
        for (int i = 0; i < QUERIES; i++) out[i] += all(a[i * stride + d]) * key;
    }
}

// Fetches what the next queries read or (write 1) write while these ones are worked on: rows of one head lie far apart,
// and no processor sees by itself which comes next.
template <int WRITE>
inline void fetch_next(const float *x, const Shape &s, int64_t t) {
    for (int64_t i = t + QUERIES; i < t + 2 * QUERIES; i++) __builtin_prefetch(x + i * s.stride, WRITE);
}

// The vectors (D,) of `here` queries from row t on, one below the other; zeros for those that are missing.
template <int D>
inline void gather(const float *x, const Shape &s, int64_t t, int64_t here, float *rows) {
    std::memset(rows, 0, sizeof(float) * D * QUERIES);
    for (int64_t i = 0; i < here; i++) std::memcpy(rows + i * D, x + (t + i) * s.stride, sizeof(float) * D);
    fetch_next<0>(x, s, t);
}

// Makes of the scores in p (keys,), to which -inf may follow up to a whole vector, and their largest in `most` what a
// query gives to every key, before division by `total`, the sum with the sink's share; `top` is the largest of all.
inline void exponentiate(float *p, int64_t keys, Vec most, float sink, float &top, float &total) {
    const float m = largest(most);
    top = m > sink ? m : sink;
    Vec of_keys = {};
    for (int64_t j = 0; j < keys; j += LANES) {
        const Vec e = exponential(load(p + j) - top);
        of_keys += e;
        store(p + j, e);
    }
    total = sum(of_keys) + exponential(all(sink - top))[0];
}

// p (QUERIES, padded): what each of `here` queries from position t on gives to every key, before division by the
// returned sums (with the sink's share); their largest scores in `top`.
template <int D>
inline void weigh(const float *rows, const float *k_lanes, const Shape &s, int64_t t, int64_t here, float sink, float *p,
                  float *top, float *sums) {
    const int64_t last = t + here - 1;
    Vec most[QUERIES], index;
    for (int i = 0; i < LANES; i++) index[i] = float(i);
    for (int i = 0; i < QUERIES; i++) most[i] = all(-__builtin_inff());
    for (int64_t j = 0; j <= last; j += LANES) {
        Vec scores[QUERIES];
        dots<D>(rows, D, k_lanes, s.padded, j, scores);
        for (int i = 0; i < QUERIES; i++) {
            scores[i] *= s.scale;
            if (j + LANES > t + i) scores[i] = choose(index + float(j) > float(t + i), all(-__builtin_inff()), scores[i]);
            most[i] = larger(scores[i], most[i]);
            store(p + i * s.padded + j, scores[i]);
        }
    }
    for (int i = 0; i < here; i++) exponentiate(p + i * s.padded, last + 1, most[i], sink, top[i], sums[i]);
}

// A single query, that of a new token: its keys are not brought into lanes, which they would leave after one use.
template <int D>
void forward_one(const float *q, const float *k, const float *v, float sink, float *y, float *lse, const Shape &s,
                 float *p) {
    constexpr int N = D / LANES;
    Vec query[N], out[N] = {}, index, most = all(-__builtin_inff());
    for (int n = 0; n < N; n++) query[n] = load(q + n * LANES);
    for (int i = 0; i < LANES; i++) index[i] = float(i);
    for (int64_t j = 0; j < s.keys; j += LANES) {
        Vec parts[LANES] = {};
        for (int64_t i = 0; i < (s.keys - j < LANES ? s.keys - j : LANES); i++) {
            const float *key = k + (j + i) * s.stride;
            for (int n = 0; n < N; n++) parts[i] += query[n] * load(key + n * LANES);
            __builtin_prefetch(key + D);  // the next head's
        }
        const Vec scores = choose(index + float(j) < float(s.keys), sums(parts) * s.scale, all(-__builtin_inff()));
        most = larger(scores, most);
        store(p + j, scores);
    }
    float top, total;
    exponentiate(p, s.keys, most, sink, top, total);
    for (int64_t j = 0; j < s.keys; j++) {
        const float *value = v + j * s.stride;
        for (int n = 0; n < N; n++) out[n] += all(p[j]) * load(value + n * LANES);
        __builtin_prefetch(value + D);
    }
    for (int n = 0; n < N; n++) store(y + n * LANES, out[n] / total);
    *lse = top + std::log(total);
}

template <int D>
void forward(const float *q, const float *k, const float *v, float sink, float *y, float *lse, int64_t queries,
             const Shape &s, float *scratch) {
    constexpr int N = D / LANES;
    float *k_lanes = scratch, *p = scratch + D * s.padded;
    alignas(64) float rows[QUERIES * D];
    keys_to_lanes<D>(k, s, k_lanes);
    const int64_t offset = s.keys - queries;
    for (int64_t t = 0; t < queries; t += QUERIES) {
        const int64_t here = queries - t < QUERIES ? queries - t : QUERIES, first = offset + t;
        float top[QUERIES], sums[QUERIES];
        gather<D>(q, s, t, here, rows);
        fetch_next<1>(y, s, t);
        weigh<D>(rows, k_lanes, s, first, here, sink, p, top, sums);
        Vec out[QUERIES][N] = {};
        for (int64_t j = 0; j <= first; j++)
            for (int n = 0; n < N; n++) {
                const Vec value = load(v + j * s.stride + n * LANES);
                for (int i = 0; i < QUERIES; i++) out[i][n] += all(p[i * s.padded + j]) * value;
            }
        for (int64_t i = 0; i < here; i++) {
            for (int64_t j = first + 1; j <= first + i; j++)  // a later value must not touch an earlier query
                for (int n = 0; n < N; n++) out[i][n] += all(p[i * s.padded + j]) * load(v + j * s.stride + n * LANES);
            for (int n = 0; n < N; n++) store(y + (t + i) * s.stride + n * LANES, out[i][n] / sums[i]);
            lse[t + i] = top[i] + std::log(sums[i]);
        }
    }
}

// ds and p (QUERIES, padded) of `here` queries from position t on, whose q and dy are in `rows` and `dy_rows`.
template <int D>
inline void weigh_again(const float *rows, const float *dy_rows, const float *k_lanes, const float *v_lanes,
                        const Shape &s, int64_t t, int64_t here, const float *lse, const float *delta, float *p,
                        float *ds) {
    for (int64_t j = 0; j < t + here; j += LANES) {
        Vec scores[QUERIES], dp[QUERIES];
        dots<D>(rows, D, k_lanes, s.padded, j, scores);
        dots<D>(dy_rows, D, v_lanes, s.padded, j, dp);
        for (int i = 0; i < QUERIES; i++) {
            const Vec share = exponential(scores[i] * s.scale - lse[i]);
            store(p + i * s.padded + j, share);
            store(ds + i * s.padded + j, share * (dp[i] - delta[i]) * s.scale);
        }
    }
}

// The parts in the gradients of keys begin .. end and of one vector of their channels: dq of the queries from `first`
// on, and dk and dv of the keys.
template <int D>
inline void spread(int first, int64_t begin, int64_t end, const Shape &s, const float *rows, const float *dy_rows,
                   const float *p, const float *ds, const float *k, float *dq, float *dk, float *dv) {
    Vec rest[QUERIES], sums[QUERIES];
    for (int i = 0; i < QUERIES; i++) rest[i] = load(rows + i * D), sums[i] = load(dq + i * D);
    for (int64_t j = begin; j < end; j++) {  // two loops, since the registers do not hold all of q, dy and dq
        const Vec key = load(k + j * s.stride);
        Vec for_key = load(dk + j * D);
        for (int i = first; i < QUERIES; i++) {
            const Vec change = all(ds[i * s.padded + j]);
            sums[i] += change * key;
            for_key += change * rest[i];
        }
        store(dk + j * D, for_key);
    }
    for (int i = 0; i < QUERIES; i++) store(dq + i * D, sums[i]), rest[i] = load(dy_rows + i * D);
    for (int64_t j = begin; j < end; j++) {
        Vec for_value = load(dv + j * D);
        for (int i = first; i < QUERIES; i++) for_value += all(p[i * s.padded + j]) * rest[i];
        store(dv + j * D, for_value);
    }
}

template <int D>
float backward(const float *dy, const float *q, const float *k, const float *v, float sink, const float *y,
               const float *lse, float *dq, float *dk, float *dv, const Shape &s, float *scratch) {
    float *k_lanes = scratch, *v_lanes = k_lanes + D * s.padded, *own_dk = v_lanes + D * s.padded,
          *own_dv = own_dk + D * s.padded, *p = own_dv + D * s.padded, *ds = p + QUERIES * s.padded, dsink = 0.0f;
    alignas(64) float rows[QUERIES * D], dy_rows[QUERIES * D];
    keys_to_lanes<D>(k, s, k_lanes);
    keys_to_lanes<D>(v, s, v_lanes);
    std::memset(own_dk, 0, sizeof(float) * 2 * D * s.padded);
    for (int64_t t = 0; t < s.keys; t += QUERIES) {
        const int64_t here = s.keys - t < QUERIES ? s.keys - t : QUERIES;
        float delta[QUERIES] = {}, normal[QUERIES] = {};
        gather<D>(q, s, t, here, rows);
        gather<D>(dy, s, t, here, dy_rows);
        fetch_next<0>(y, s, t), fetch_next<1>(dq, s, t);
        for (int64_t i = 0; i < here; i++) {
            Vec along = {};
            for (int d = 0; d < D; d += LANES) along += load(dy_rows + i * D + d) * load(y + (t + i) * s.stride + d);
            delta[i] = sum(along);
            normal[i] = lse[t + i];
            dsink -= exponential(all(sink - normal[i]))[0] * delta[i];
        }
        weigh_again<D>(rows, dy_rows, k_lanes, v_lanes, s, t, here, normal, delta, p, ds);
        alignas(64) float sums[QUERIES * D] = {};
        for (int n = 0; n < D; n += LANES) {
            spread<D>(0, 0, t + 1, s, rows + n, dy_rows + n, p, ds, k + n, sums + n, own_dk + n, own_dv + n);
            for (int i = 1; i < here; i++)  // key t + i is met by the queries from i on
                spread<D>(i, t + i, t + i + 1, s, rows + n, dy_rows + n, p, ds, k + n, sums + n, own_dk + n, own_dv + n);
        }
        for (int64_t i = 0; i < here; i++) std::memcpy(dq + (t + i) * s.stride, sums + i * D, sizeof(float) * D);
    }
    for (int64_t j = 0; j < s.keys; j++) {
        std::memcpy(dk + j * s.stride, own_dk + j * D, sizeof(float) * D);
        std::memcpy(dv + j * s.stride, own_dv + j * D, sizeof(float) * D);
    }
    return dsink;
}

inline Shape shape_of(int64_t keys, int64_t stride, int64_t d_head) {
    return {keys, stride, (keys + LANES - 1) / LANES * LANES, 1.0f / std::sqrt(float(d_head))};
}

// f<D>() for the heads that there is code for.
#define FOR_HEAD(d_head, f) (d_head == 16 ? f<16> : d_head == 32 ? f<32> : f<64>)

}  // namespace

// y (batch, queries, heads * d_head) and lse (batch, heads, queries) of q, shaped like y, and of k and v (batch, keys,
// heads * d_head); sink (heads,) or null. d_head is 16, 32 or 64. Returns 0, or 1 where there was no memory.
extern "C" int FUNCTION(attention)(const float *q, const float *k, const float *v, const float *sink, float *y,
                                   float *lse, int64_t batch, int64_t heads, int64_t queries, int64_t keys,
                                   int64_t d_head, int threads) {
    int failed = 0;
    const int64_t stride = heads * d_head, group = queries == 1 ? TOGETHER : 1, all_heads = batch * heads;
    const Shape s = shape_of(keys, stride, d_head);
    parallel((all_heads + group - 1) / group, threads, [&](int64_t part) {
        Scratch scratch((d_head + QUERIES) * s.padded);
        if (!scratch.data) return __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        for (int64_t i = part * group; i < (part + 1) * group && i < all_heads; i++) {
            const int64_t b = i / heads, h = i % heads, at = b * queries * stride + h * d_head;
            const int64_t key_at = b * keys * stride + h * d_head;
            const float own = sink ? sink[h] : -__builtin_inff();
            if (queries == 1)
                FOR_HEAD(d_head, forward_one)(q + at, k + key_at, v + key_at, own, y + at, lse + i, s, scratch.data);
            else
                FOR_HEAD(d_head, forward)(q + at, k + key_at, v + key_at, own, y + at, lse + i * queries, queries, s,
                                          scratch.data);
        }
    });
    return failed;
}

// dq, dk, dv (batch, length, heads * d_head) and, for each sequence, dsink (batch, heads), of y and lse as attention
// made them with as many queries as keys. Returns 0, or 1 where there was no memory.
extern "C" int FUNCTION(attention_backward)(const float *dy, const float *q, const float *k, const float *v,
                                            const float *sink, const float *y, const float *lse, float *dq, float *dk,
                                            float *dv, float *dsink, int64_t batch, int64_t heads, int64_t length,
                                            int64_t d_head, int threads) {
    int failed = 0;
    const int64_t stride = heads * d_head;
    const Shape s = shape_of(length, stride, d_head);
    parallel(batch * heads, threads, [&](int64_t part) {
        const int64_t h = part % heads, at = part / heads * length * stride + h * d_head;
        Scratch scratch((4 * d_head + 2 * QUERIES) * s.padded);
        if (!scratch.data) return __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        dsink[part] = FOR_HEAD(d_head, backward)(dy + at, q + at, k + at, v + at, sink ? sink[h] : -__builtin_inff(),
                                                 y + at, lse + part * length, dq + at, dk + at, dv + at, s,
                                                 scratch.data);
    });
    return failed;
}
