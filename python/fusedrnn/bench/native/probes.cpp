// What the machine can do: fused multiply-adds on registers, reads from a cache level. Compiled when the benchmark runs,
// for the processor it runs on; each probe is one call at a given number of threads, timed like any peer.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#if defined(__linux__)
#include <sys/mman.h>
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

// Enough independent chains to hide the latency (4 cycles, 2 units), few enough for 16 registers.
constexpr int chains = 12;

template <class T>
void multiply_add(long iterations, T* sink) {
  typedef T Vector __attribute__((vector_size(bytes)));
  const Vector a = Vector{} + static_cast<T>(0.999), b = Vector{} + static_cast<T>(0.001);
  Vector sum[chains];
  for (int i = 0; i < chains; ++i) sum[i] = Vector{} + static_cast<T>(i);
  for (long n = 0; n < iterations; ++n)
#pragma GCC unroll 12
    for (int i = 0; i < chains; ++i) sum[i] = sum[i] * a + b;
  Vector total{};
  for (int i = 0; i < chains; ++i) total += sum[i];
  sink[0] = total[0];
}

template <class T>
void multiply_add_on(int threads, long iterations) {
#pragma omp parallel num_threads(threads)
  {
    T sink[1];
    multiply_add<T>(iterations, sink);
    volatile T kept = sink[0];
    (void)kept;
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
  return total[0];
}

}  // namespace

extern "C" {

int probe_vector_bytes() { return bytes; }

// Operations of one iteration on one thread: a multiply-add is two.
long probe_fma_flops(int size_of_type) { return 2L * chains * (bytes / size_of_type); }

void probe_fma_f32(int threads, long iterations) { multiply_add_on<float>(threads, iterations); }
void probe_fma_f64(int threads, long iterations) { multiply_add_on<double>(threads, iterations); }

// A buffer of `size` bytes for each thread, each touched first by whom it belongs to, on huge pages where they are to be
// had: on small ones the translation of addresses would be measured, too.
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
      volatile std::int64_t kept = read(buffers + static_cast<std::size_t>(t) * size, size);
      (void)kept;
    }
}
}
