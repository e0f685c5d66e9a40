// A small pool of threads that share the parts of one piece of work.
#pragma once

#include <type_traits>

namespace spikewire {

class Workers {
  public:
    static constexpr int MOST_THREADS = 256;

    // Call work(context, part, thread) for parts 0 .. count - 1, on up to `threads` threads, this
    // one among them; parts are taken one after the other. One piece of work at a time. The first
    // exception ends the work and comes back.
    using Work = void (*)(void* context, int part, int thread);
    static void share(int threads, int count, Work work, void* context);

    template <class F> static void share(int threads, int count, F&& f) {
        share(threads, count,
              [](void* context, int part, int thread) {
                  (*static_cast<std::remove_reference_t<F>*>(context))(part, thread);
              },
              &f);
    }
};

}  // namespace spikewire
