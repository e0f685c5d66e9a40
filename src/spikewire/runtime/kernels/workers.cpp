#include "workers.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace spikewire {
namespace {

// Between two layers lie microseconds: a thread looks that long for work before it sleeps.
constexpr int PATIENCE = 20000;

inline void pause() {
#if defined(__x86_64__)
    _mm_pause();
#else
    std::this_thread::yield();
#endif
}

// Denormal numbers are numbers here, whatever the process has set: results must not depend on it.
class ExactNumbers {
#if defined(__x86_64__)
  public:
    ExactNumbers() : before_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
    ~ExactNumbers() { _mm_setcsr(before_); }

  private:
    unsigned before_;
#endif
};

class Pool {
  public:
    void share(int threads, int parts, Workers::Work work, void* context) {
        const std::lock_guard lock(busy_);
        count_ = parts;
        helpers_ = born(std::min({threads, parts, Workers::MOST_THREADS}) - 1);
        failure_ = nullptr;
        work_ = work;
        context_ = context;
        next_.store(0, std::memory_order_relaxed);
        if (helpers_ > 0) {
            {
                const std::lock_guard sleepers(asleep_);
                signal_.store((signal_.load() / ROUND + 1) * ROUND);
            }
            wake_.notify_all();
        }
        take(0);
        // Only who has begun is waited for: on a busy machine the others may not even run.
        signal_.fetch_or(CLOSED);
        while (signal_.load(std::memory_order_acquire) % CLOSED) pause();
        if (failure_) std::rethrow_exception(failure_);
    }

  private:
    // What the signal is made of: threads at work, whether others may join, the number of the piece
    // of work. In one, as a thread must not join a piece that is over, or the one after it.
    static constexpr std::uint64_t CLOSED = 1 << 16, ROUND = CLOSED << 1;

    // As many helpers as are wanted, or as the system lets be.
    int born(int wanted) {
        try {
            for (; born_ < wanted; ++born_)
                std::thread([this, number = born_, seen = signal_.load() / ROUND] {
                    serve(number, seen);
                }).detach();
        } catch (const std::system_error&) {
        }
        return std::min(wanted, born_);
    }

    void take(int thread) {
        const ExactNumbers exact;
        try {
            for (int part; (part = next_.fetch_add(1, std::memory_order_relaxed)) < count_;)
                work_(context_, part, thread);
        } catch (...) {
            const std::lock_guard lock(failing_);
            if (!failure_) failure_ = std::current_exception();
            next_.store(count_, std::memory_order_relaxed);
        }
    }

    void serve(int number, std::uint64_t seen) {
        for (;;) {
            for (int i = 0; i < PATIENCE && signal_.load() / ROUND == seen; ++i) pause();
            if (signal_.load() / ROUND == seen) {
                std::unique_lock lock(asleep_);
                wake_.wait(lock, [&] { return signal_.load() / ROUND != seen; });
            }
            std::uint64_t now = signal_.load();
            seen = now / ROUND;
            if (now & CLOSED || !join(now)) continue;
            if (number < helpers_) take(number + 1);
            signal_.fetch_sub(1, std::memory_order_release);
        }
    }

    bool join(std::uint64_t now) {
        const std::uint64_t round = now / ROUND;
        while (now / ROUND == round && !(now & CLOSED))
            if (signal_.compare_exchange_weak(now, now + 1)) return true;
        return false;
    }

    std::mutex busy_, asleep_, failing_;
    std::exception_ptr failure_;
    std::condition_variable wake_;
    std::atomic<std::uint64_t> signal_{CLOSED};
    std::atomic<int> next_{0};
    int count_ = 0, helpers_ = 0, born_ = 0;
    Workers::Work work_ = nullptr;
    void* context_ = nullptr;
};

// Never destroyed: its threads live as long as the process.
Pool* pool = new Pool;

// A child process has none of the threads.
[[maybe_unused]] const int forked = pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });

}  // namespace

void Workers::share(int threads, int count, Work work, void* context) {
    pool->share(threads, count, work, context);
}

}  // namespace spikewire
