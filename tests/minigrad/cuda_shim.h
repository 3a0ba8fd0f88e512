// What a CUDA kernel finds on a GPU, on the CPU: put before its source; CALLABLE(its name) comes after it.
//
// Blocks run one after another. The CUDA threads of a block are
//   in a library: coroutines of one thread, each of which goes on until it ends or comes to a __syncthreads(): cheap,
//     and always in the same order;
//   in a program (-DTHREADS): threads, which meet at a barrier, for a sanitizer to watch.
// There are no warps here (no shuffles), no atomics and no dynamic shared memory: what isn't here doesn't compile.

#pragma once
#include <cmath>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#ifdef THREADS
#include <barrier>
#include <thread>
#define __shared__ static
#else
#include <ucontext.h>
#define __shared__ static thread_local
#endif
#define __global__
#define __device__

using std::exp, std::log;
template <class T> T max(T a, T b) { return std::is_floating_point_v<T> ? std::fmax(a, b) : a < b ? b : a; }
template <class T> T min(T a, T b) { return std::is_floating_point_v<T> ? std::fmin(a, b) : b < a ? b : a; }

struct dim3 { unsigned x = 1, y = 1, z = 1; };
static thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

inline dim3 place(unsigned i, dim3 of) { return {i % of.x, i / of.x % of.y, i / of.x / of.y}; }
inline unsigned count(dim3 of) { return of.x * of.y * of.z; }

#ifdef THREADS

static std::barrier<>* everybody;
#define __syncthreads() shim::everybody->arrive_and_wait()

template <class F> std::string run_block(F kernel) {
    std::barrier<> barrier(count(blockDim));
    everybody = &barrier;
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < count(blockDim); ++i)
        threads.emplace_back([&, block = blockIdx, size = blockDim, grid = gridDim, i] {
            blockIdx = block, blockDim = size, gridDim = grid, threadIdx = place(i, size);
            kernel();
            barrier.arrive_and_drop();
        });
    for (auto& thread : threads) thread.join();
    return "";
}

#else

struct Coroutine {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[65536]};
    int line;  // of the barrier at which it waits; 0 when it has ended
};
static thread_local ucontext_t scheduler;
static thread_local std::vector<Coroutine> coroutines;
static thread_local Coroutine* current;
static thread_local void (*body)(void*);
static thread_local void* body_of;
#define __syncthreads() shim::wait(__LINE__)

inline void wait(int line) {
    current->line = line;
    swapcontext(&current->context, &scheduler);
}
inline void start() {
    body(body_of);
    current->line = 0;
}
template <class F> std::string run_block(F kernel) {
    unsigned n = count(blockDim);
    if (coroutines.size() < n) coroutines.resize(n);
    body = [](void* of) { (*static_cast<F*>(of))(); }, body_of = &kernel;
    for (bool first = true;; first = false) {  // once through all threads, from barrier to barrier
        for (unsigned i = 0; i < n; ++i) {
            current = &coroutines[i], threadIdx = place(i, blockDim);
            if (first) {
                getcontext(&current->context);
                current->context.uc_stack.ss_sp = current->stack.get();
                current->context.uc_stack.ss_size = 65536;
                current->context.uc_link = &scheduler;
                makecontext(&current->context, start, 0);
            }
            swapcontext(&scheduler, &current->context);
        }
        int line = coroutines[0].line;
        for (unsigned i = 1; i < n; ++i)
            if (coroutines[i].line != line)
                return "in block " + std::to_string(blockIdx.x) + " thread 0 is at line " + std::to_string(line) +
                       " and thread " + std::to_string(i) + " at line " + std::to_string(coroutines[i].line) +
                       " (0: at its end), where one of them waits for all the others";
        if (line == 0) return "";
    }
}

#endif

// As CUDA launches: an argument is a pointer to its value.
template <class... A, size_t... I>
std::string launch(void (*kernel)(A...), dim3 grid, dim3 block, void** args, std::index_sequence<I...>) {
    gridDim = grid, blockDim = block;
    for (unsigned i = 0; i < count(grid); ++i) {
        blockIdx = place(i, grid);
        std::string wrong = run_block([&] { kernel(*static_cast<A*>(args[I])...); });
        if (!wrong.empty()) return wrong;
    }
    return "";
}

template <class T> std::string type() {  // NumPy's name for it, as "f4"; with * in front for a pointer
    if constexpr (std::is_pointer_v<T>) return "*" + type<std::remove_cv_t<std::remove_pointer_t<T>>>();
    const char* kind = std::is_same_v<T, bool> ? "b" : std::is_floating_point_v<T> ? "f" : std::is_signed_v<T> ? "i" : "u";
    return kind + std::to_string(sizeof(T));
}
template <class... A> std::string types(void (*)(A...)) {
    std::string all;
    for (const std::string& one : std::initializer_list<std::string>{type<A>()...}) all += one + " ";
    return all;
}

// The program, without options: reads grid, block and for each argument its bytes and how many they are; writes the arrays.
template <class... A> int program(void (*kernel)(A...)) {
    dim3 grid, block;
    bool read = std::fread(&grid, sizeof grid, 1, stdin) && std::fread(&block, sizeof block, 1, stdin);
    std::vector<std::vector<char>> values;
    std::vector<char*> memory;
    std::vector<void*> args;
    for (size_t i = 0; i < sizeof...(A); ++i) {
        unsigned long long n = 0;
        read = read && std::fread(&n, sizeof n, 1, stdin);
        values.emplace_back(n);
        read = read && std::fread(values.back().data(), 1, n, stdin) == n;
    }
    for (auto& value : values) memory.push_back(value.data());
    size_t i = 0;
    ((args.push_back(std::is_pointer_v<A> ? static_cast<void*>(&memory[i]) : values[i].data()), ++i), ...);
    if (!read) return 2;
    launch(kernel, grid, block, args.data(), std::index_sequence_for<A...>{});
    i = 0;
    ((std::is_pointer_v<A> ? std::fwrite(values[i].data(), 1, values[i].size(), stdout) : 0, ++i), ...);
    return 0;
}

template <class... A> std::index_sequence_for<A...> numbered(void (*)(A...));

}  // namespace shim

#define CALLABLE(name)                                                                                  \
    extern "C" const char* shim_types() {                                                               \
        static const std::string types = shim::types(name);                                             \
        return types.c_str();                                                                           \
    }                                                                                                   \
    extern "C" const char* shim_launch(const dim3* grid, const dim3* block, void** args) {              \
        static thread_local std::string wrong;                                                          \
        wrong = shim::launch(name, *grid, *block, args, decltype(shim::numbered(name)){});              \
        return wrong.c_str();                                                                           \
    }                                                                                                   \
    int main(int n, char**) { return n > 1 ? std::puts(shim_types()) < 0 : shim::program(name); }
