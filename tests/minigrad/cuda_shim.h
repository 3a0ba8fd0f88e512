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
#include <cstdlib>
#include <type_traits>
#include <utility>
#ifdef THREADS
#include <pthread.h>
#define __shared__ static
#define __syncthreads() shim::wait()
#else
#include <setjmp.h>
#include <ucontext.h>
#define __shared__ static thread_local
#define __syncthreads() shim::wait(__LINE__)
#endif
#define __global__
#define __device__

using std::exp, std::log;
template <class T> T max(T a, T b) { return std::is_floating_point_v<T> ? std::fmax(a, b) : a < b ? b : a; }
template <class T> T min(T a, T b) { return std::is_floating_point_v<T> ? std::fmin(a, b) : b < a ? b : a; }

struct dim3 { unsigned x = 1, y = 1, z = 1; };
static thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

constexpr unsigned MOST = 1024;  // threads of a block
inline dim3 place(unsigned i, dim3 of) { return {i % of.x, i / of.x % of.y, i / of.x / of.y}; }
inline unsigned count(dim3 of) { return of.x * of.y * of.z; }
static thread_local char wrong[200];  // what, if anything

#ifdef THREADS

// Two in turn: with one, a thread that is slow to leave it would seem to have waited for those already at the next.
static pthread_barrier_t barriers[2];
static thread_local unsigned passed;
inline void wait() { pthread_barrier_wait(&barriers[passed++ % 2]); }

template <class F> void run_block(F kernel) {
    struct Start { F kernel; dim3 thread, block, size, grid; };
    static pthread_t threads[MOST];
    unsigned n = count(blockDim);
    for (auto& barrier : barriers) pthread_barrier_init(&barrier, nullptr, n);
    for (unsigned i = 0; i < n; ++i)
        pthread_create(&threads[i], nullptr, [](void* argument) -> void* {
            Start* start = static_cast<Start*>(argument);
            threadIdx = start->thread, blockIdx = start->block, blockDim = start->size, gridDim = start->grid;
            start->kernel();
            delete start;
            return nullptr;
        }, new Start{kernel, place(i, blockDim), blockIdx, blockDim, gridDim});
    for (unsigned i = 0; i < n; ++i) pthread_join(threads[i], nullptr);
    for (auto& barrier : barriers) pthread_barrier_destroy(&barrier);
}

#else

constexpr size_t STACK = 65536;
struct Coroutine {
    jmp_buf place;  // where it goes on
    void* stack;
    int line;  // of the barrier at which it waits; 0 when it has ended
};
static thread_local Coroutine* coroutines;  // MOST, made when first needed, and used again
static thread_local Coroutine* current;
static thread_local jmp_buf scheduler;
static thread_local void (*body)(void*);
static thread_local void* argument;

inline void wait(int line) {
    current->line = line;
    if (!_setjmp(current->place)) _longjmp(scheduler, 1);
}
inline void live() {
    for (;;) body(argument), wait(0);
}
__attribute__((noinline)) inline void go_on() {
    if (_setjmp(scheduler)) return;
    if (current->stack) _longjmp(current->place, 1);
    ucontext_t context;  // only to come onto a stack of its own: a jump is cheaper, for it asks nothing of the system
    getcontext(&context);
    context.uc_stack.ss_sp = current->stack = malloc(STACK);
    context.uc_stack.ss_size = STACK;
    makecontext(&context, live, 0);
    setcontext(&context);
}
template <class F> void run_block(F kernel) {
    unsigned n = count(blockDim);
    if (!coroutines) coroutines = static_cast<Coroutine*>(calloc(MOST, sizeof(Coroutine)));
    body = [](void* of) { (*static_cast<F*>(of))(); }, argument = &kernel;
    do {  // once through all threads, from barrier to barrier
        for (unsigned i = 0; i < n; ++i) {
            current = &coroutines[i], threadIdx = place(i, blockDim);
            go_on();
        }
        for (unsigned i = 1; i < n && !*wrong; ++i)
            if (coroutines[i].line != coroutines[0].line)
                snprintf(wrong, sizeof wrong, "thread 0 waits at line %d, and thread %u at line %d (0: at its end)",
                         coroutines[0].line, i, coroutines[i].line);
    } while (coroutines[0].line && !*wrong);
    for (unsigned i = 0; i < n && *wrong; ++i) free(coroutines[i].stack), coroutines[i].stack = nullptr;
}

#endif

// As CUDA launches: an argument is a pointer to its value.
template <class... A, size_t... I>
void launch(void (*kernel)(A...), dim3 grid, dim3 block, void** args, std::index_sequence<I...>) {
    gridDim = grid, blockDim = block, *wrong = 0;
    for (unsigned i = 0; i < count(grid) && !*wrong; ++i) {
        blockIdx = place(i, grid);
        run_block([=] { kernel(*static_cast<A*>(args[I])...); });
    }
}

// The types of a kernel's parameters, as NumPy names them: "f4", and with * in front of it a pointer to one.
template <class T> void print_type(char*& to, char* end) {
    using V = std::remove_cv_t<std::remove_pointer_t<T>>;
    char kind = std::is_same_v<V, bool> ? 'b' : std::is_floating_point_v<V> ? 'f' : std::is_signed_v<V> ? 'i' : 'u';
    to += snprintf(to, end - to, "%s%c%zu ", std::is_pointer_v<T> ? "*" : "", kind, sizeof(V));
}
template <class... A> const char* types(void (*)(A...)) {
    static thread_local char text[1000];
    char* to = text;
    (print_type<A>(to, text + sizeof text), ...);
    return text;
}

// The program: reads grid, block and for each argument its bytes and how many they are; writes the arrays.
template <class... A> int program(void (*kernel)(A...)) {
    constexpr bool is_array[] = {std::is_pointer_v<A>...};
    constexpr size_t n = sizeof...(A);
    dim3 grid, block;
    unsigned long long sizes[n];
    void *memory[n], *args[n];
    bool read = fread(&grid, sizeof grid, 1, stdin) && fread(&block, sizeof block, 1, stdin);
    for (size_t i = 0; i < n && read; ++i) {
        read = fread(&sizes[i], sizeof sizes[i], 1, stdin);
        memory[i] = malloc(sizes[i]);
        read = read && fread(memory[i], 1, sizes[i], stdin) == sizes[i];
        args[i] = is_array[i] ? &memory[i] : memory[i];
    }
    if (!read) return 2;
    launch(kernel, grid, block, args, std::index_sequence_for<A...>{});
    for (size_t i = 0; i < n; ++i)
        if (is_array[i]) fwrite(memory[i], 1, sizes[i], stdout);
    return 0;
}

template <class... A> std::index_sequence_for<A...> numbered(void (*)(A...));

}  // namespace shim

#define CALLABLE(name)                                                                            \
    extern "C" const char* shim_types() { return shim::types(name); }                             \
    extern "C" const char* shim_launch(const dim3* grid, const dim3* block, void** args) {        \
        shim::launch(name, *grid, *block, args, decltype(shim::numbered(name)){});                \
        return shim::wrong;                                                                       \
    }                                                                                             \
    int main(int n, char**) { return n > 1 ? puts(shim_types()) < 0 : shim::program(name); }
