// Work divided among the threads that PyTorch already has.
//
// No OpenMP here: library.py finds GOMP_parallel in the runtime that PyTorch itself loaded and hands it over, so
// there is one pool of threads whatever compiler built this. Without it everything runs on one thread.
#pragma once
#include <cstdint>

using Fork = void (*)(void (*)(void *), void *, unsigned, unsigned);
extern "C" __attribute__((visibility("hidden"))) Fork openwork_fork;
// How many threads have a number, and this thread's; -1 before its first work.
extern "C" __attribute__((visibility("hidden"))) int64_t openwork_seats;
extern "C" __attribute__((visibility("hidden"))) __thread int64_t openwork_seat;

namespace {

constexpr int64_t RANGES = 64;
constexpr int64_t PART = 1 << 14;  // elements enough for a thread to be worth waking

// How many rows of d elements make a part.
[[maybe_unused]] inline int64_t rows_a_part(int64_t d) { return d < PART ? PART / (d + !d) : 1; }

struct Work {
    void (*run)(void *, int64_t);
    void *what;
    int64_t parts, ranges, next[RANGES];
};

// A thread begins with its own range of the parts, the same one in every call, and then helps with the others: what it
// wrote in one call is what it reads in the next, still in its own cache.
[[maybe_unused]] void take_parts(void *shared) {
    Work *work = static_cast<Work *>(shared);
    if (openwork_seat < 0) openwork_seat = __atomic_fetch_add(&openwork_seats, int64_t(1), __ATOMIC_RELAXED);
    for (int64_t i = 0; i < work->ranges; i++) {
        const int64_t range = (openwork_seat + i) % work->ranges, end = work->parts * (range + 1) / work->ranges;
        for (;;) {
            const int64_t part = __atomic_fetch_add(&work->next[range], int64_t(1), __ATOMIC_RELAXED);
            if (part >= end) break;
            work->run(work->what, part);
        }
    }
}

// Calls f(part) for every part, in any order, and returns when all are done. Results must depend on the part alone,
// never on the thread that took it: then they are the same bits on every run, also where fewer threads come than were
// asked for.
template <class F>
[[maybe_unused]] inline void parallel(int64_t parts, int threads, F f) {
    if (threads <= 1 || parts <= 1 || !openwork_fork) {
        for (int64_t part = 0; part < parts; part++) f(part);
        return;
    }
    const int64_t takers = parts < threads ? parts : threads, ranges = takers < RANGES ? takers : RANGES;
    Work work{[](void *what, int64_t part) { (*static_cast<F *>(what))(part); }, &f, parts, ranges, {}};
    for (int64_t range = 0; range < ranges; range++) work.next[range] = parts * range / ranges;
    openwork_fork(take_parts, &work, unsigned(takers), 0);
}

}  // namespace
