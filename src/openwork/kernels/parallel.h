// Work divided among the threads that PyTorch already has.
//
// No OpenMP here: library.py finds GOMP_parallel in the runtime that PyTorch itself loaded and hands it over, so
// there is one pool of threads whatever compiler built this. Without it everything runs on one thread.
#pragma once
#include <cstdint>

using Fork = void (*)(void (*)(void *), void *, unsigned, unsigned);
extern "C" __attribute__((visibility("hidden"))) Fork openwork_fork;

namespace {

struct Work {
    void (*run)(void *, int64_t);
    void *what;
    int64_t parts, next;
};

[[maybe_unused]] void take_parts(void *shared) {
    Work *work = static_cast<Work *>(shared);
    for (;;) {
        int64_t part = __atomic_fetch_add(&work->next, int64_t(1), __ATOMIC_RELAXED);
        if (part >= work->parts) return;
        work->run(work->what, part);
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
    Work work{[](void *what, int64_t part) { (*static_cast<F *>(what))(part); }, &f, parts, 0};
    openwork_fork(take_parts, &work, unsigned(parts < threads ? parts : threads), 0);
}

}  // namespace
