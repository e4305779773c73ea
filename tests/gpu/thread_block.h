// A block of CUDA threads on the CPU: the kernels' own source, run without a GPU. Each thread is a fiber that yields at a barrier.
//
// Correctness only. Ends the process if some threads of a block wait at a barrier that others never reach.
#pragma once
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

struct Index3 { unsigned x = 0, y = 0, z = 0; };
static Index3 blockIdx, threadIdx, blockDim, gridDim;

#define __global__
#define __shared__ static
#define __launch_bounds__(...)

namespace thread_block {

constexpr size_t STACK = 256 * 1024;
inline ucontext_t scheduler;
inline std::vector<ucontext_t> fibers;
inline std::vector<bool> finished, waiting;
inline unsigned current;
inline std::function<void()> body;

inline void start() {
  body();
  finished[current] = true;
  swapcontext(&fibers[current], &scheduler);
}

inline void barrier() {
  waiting[current] = true;
  swapcontext(&fibers[current], &scheduler);
}

inline void run_block(unsigned threads) {
  static std::vector<char> stacks(threads * STACK);
  fibers.assign(threads, ucontext_t{});
  finished.assign(threads, false);
  waiting.assign(threads, false);
  for (unsigned t = 0; t < threads; t++) {
    getcontext(&fibers[t]);
    fibers[t].uc_stack.ss_sp = stacks.data() + t * STACK;
    fibers[t].uc_stack.ss_size = STACK;
    fibers[t].uc_link = nullptr;
    makecontext(&fibers[t], start, 0);
  }
  for (;;) {
    unsigned done = 0, held = 0;
    for (unsigned t = 0; t < threads; t++) {
      if (!finished[t]) {
        current = t;
        threadIdx.x = t;
        waiting[t] = false;
        swapcontext(&scheduler, &fibers[t]);
      }
      done += finished[t];
      held += waiting[t];
    }
    if (done == threads) return;
    if (done != 0 || held != threads) {
      std::fprintf(stderr, "%u of %u threads wait at a barrier, %u have ended\n", held, threads, done);
      std::abort();
    }
  }
}

template <class Kernel, class... Arguments>
void launch(unsigned blocks, unsigned threads, Kernel kernel, Arguments... arguments) {
  blockDim.x = threads;
  gridDim.x = blocks;
  body = [=] { kernel(arguments...); };
  for (unsigned b = 0; b < blocks; b++) {
    blockIdx.x = b;
    run_block(threads);
  }
}

// For kernels that never wait: thread after thread, last one first, so that what depends on their order shows.
template <class Kernel, class... Arguments>
void launch_without_barriers(unsigned blocks, unsigned threads, Kernel kernel, Arguments... arguments) {
  blockDim.x = threads;
  gridDim.x = blocks;
  for (blockIdx.x = blocks; blockIdx.x-- > 0;)
    for (threadIdx.x = threads; threadIdx.x-- > 0;) kernel(arguments...);
}

}  // namespace thread_block

inline void __syncthreads() { thread_block::barrier(); }
inline int atomicAdd(int* address, int value) {
  int old = *address;
  *address += value;
  return old;
}
