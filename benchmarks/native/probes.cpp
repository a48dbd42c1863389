// What the machine can do: fused multiply-adds on registers, reads from a cache level. Compiled when the benchmark
// runs, for the processor it runs on; each probe is one call at a given number of threads, timed like any peer.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int bytes = 64;
#elif defined(__AVX2__)
constexpr int bytes = 32;
#else
constexpr int bytes = 16;
#endif

// The compiler has to believe that the value is used, and that all memory has changed afterwards.
void keep(const void* value) { asm volatile("" : : "r"(value) : "memory"); }

// Enough independent chains to hide the latency (4 cycles, 2 units), few enough for 16 registers.
constexpr int chains = 12;

template <class T>
void multiply_add(long iterations, T* sink) {
  typedef T Vector __attribute__((vector_size(bytes)));
  // x -> summand - x never settles, as real work doesn't; numbers that stay the same could be cheaper for a core. The
  // factor is unknown to the compiler, or there would be no multiplication.
  volatile T minus_one = -1;
  const Vector a = Vector{} + minus_one;
  Vector b, sum[chains];
  for (unsigned lane = 0; lane < bytes / sizeof(T); ++lane) {
    b[lane] = static_cast<T>(1.1234567) / static_cast<T>(lane + 3);
    for (int i = 0; i < chains; ++i) sum[i][lane] = static_cast<T>(0.7654321 * (i + 1)) / static_cast<T>(lane + 7);
  }
  for (long n = 0; n < iterations; ++n)
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) sum[i] = sum[i] * a + b;
  Vector total{};
  for (int i = 0; i < chains; ++i) total += sum[i];
  for (unsigned lane = 0; lane < bytes / sizeof(T); ++lane) sink[0] += total[lane];
}

template <class T>
void multiply_add_on(int threads, long iterations) {
#pragma omp parallel num_threads(threads)
  {
    T sink[1] = {};
    multiply_add<T>(iterations, sink);
    keep(sink);
  }
}

std::int64_t read(const char* data, std::size_t size) {
  typedef std::int64_t Vector __attribute__((vector_size(bytes)));
  constexpr int lines = 8;
  Vector sum[lines] = {};
  for (std::size_t at = 0; at + lines * bytes <= size; at += lines * bytes)
#pragma GCC unroll 8
    for (int i = 0; i < lines; ++i) sum[i] |= *reinterpret_cast<const Vector*>(data + at + i * bytes);
  Vector total{};
  for (int i = 0; i < lines; ++i) total |= sum[i];
  std::int64_t all = 0;
  for (unsigned lane = 0; lane < bytes / sizeof all; ++lane) all |= total[lane];
  return all;
}

}  // namespace

extern "C" {

int probe_vector_bytes() { return bytes; }

// Bytes of a core's L2 cache, or 0 where the system doesn't tell.
long probe_l2_bytes() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  return sysconf(_SC_LEVEL2_CACHE_SIZE);
#else
  return 0;
#endif
}

// Operations of one iteration on one thread: a multiply-add is two.
long probe_fma_flops(int size_of_type) { return 2L * chains * (bytes / size_of_type); }

void probe_fma_f32(int threads, long iterations) { multiply_add_on<float>(threads, iterations); }
void probe_fma_f64(int threads, long iterations) { multiply_add_on<double>(threads, iterations); }

// A buffer of `size` bytes for each thread, each touched first by whom it belongs to, on huge pages where they are to
// be had: on small ones the translation of addresses would be measured, too.
char* probe_buffers(int threads, std::size_t size) {
  constexpr std::size_t huge = std::size_t{1} << 21;
  const std::size_t all = (size * static_cast<std::size_t>(threads) + huge - 1) / huge * huge;
  char* buffers = static_cast<char*>(std::aligned_alloc(huge, all));
  if (!buffers) return nullptr;
#if defined(__linux__)
  madvise(buffers, all, MADV_HUGEPAGE);
#endif
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) std::memset(buffers + static_cast<std::size_t>(t) * size, 1, size);
  return buffers;
}

void probe_free(char* buffers) { std::free(buffers); }

// Every thread reads its own buffer `times` times.
void probe_read(const char* buffers, int threads, std::size_t size, long times) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t)
    for (long n = 0; n < times; ++n) {
      const std::int64_t seen = read(buffers + static_cast<std::size_t>(t) * size, size);
      keep(&seen);
    }
}
}
