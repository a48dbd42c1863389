// The vector type of the ISA this file is compiled for. It uses GNU vector extensions, so V reads like float, and `a *
// b + c` becomes an FMA where the ISA has one. Of the files compiled once per ISA, this one and powers.h
// alone have per-ISA conditionals. Includes no STL: an inline standard function compiled here with AVX flags could be
// the copy the linker keeps for everybody.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define FUSEDRNN_X86 1
#endif

namespace fusedrnn::FUSEDRNN_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
inline constexpr int kRegisters = 32;
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
inline constexpr int kRegisters = 16;
#elif defined(__aarch64__)
inline constexpr int kVectorBytes = 16;
inline constexpr int kRegisters = 32;
#else
inline constexpr int kVectorBytes = 16;
inline constexpr int kRegisters = 16;
#endif

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename VectorOf<T>::type;

template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// The same vector type at any address. Unlike memcpy, an access through it aliases only T: after a store of numbers,
// the compiler need not reload sizes and pointers from memory.
template <class T>
struct UnalignedVectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes), aligned(alignof(T))));
};

template <class T>
inline Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename UnalignedVectorOf<T>::type*>(p);
}

template <class T>
inline void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename UnalignedVectorOf<T>::type*>(p) = v;
}

template <class T>
inline Vec<T> splat(T x) {
  return x - Vec<T>{};  // broadcasts; x - 0 keeps the sign of a zero, x + 0 would not
}

// Stores past the caches, for arrays that exceed them: a line that is not read is not fetched either. p is aligned to a
// vector. stores_done() comes before other threads may read.
#if defined(__AVX512F__)
inline void store_past_cache(float* p, Vec<float> v) { _mm512_stream_ps(p, (__m512)v); }
inline void store_past_cache(double* p, Vec<double> v) { _mm512_stream_pd(p, (__m512d)v); }
#elif defined(__AVX__)
inline void store_past_cache(float* p, Vec<float> v) { _mm256_stream_ps(p, (__m256)v); }
inline void store_past_cache(double* p, Vec<double> v) { _mm256_stream_pd(p, (__m256d)v); }
#elif defined(FUSEDRNN_X86)
inline void store_past_cache(float* p, Vec<float> v) { _mm_stream_ps(p, (__m128)v); }
inline void store_past_cache(double* p, Vec<double> v) { _mm_stream_pd(p, (__m128d)v); }
#else
template <class T>
inline void store_past_cache(T* p, Vec<T> v) {
  store(p, v);
}
#endif
inline void stores_done() {
#if defined(FUSEDRNN_X86)
  _mm_sfence();
#endif
}

// The last block of a row may hold fewer units than the vector has lanes: nothing beyond `count` is accessed.
template <class T>
inline Vec<T> load_partial(const T* p, ptrdiff_t count) {
  if (count >= kLanes<T>) return load(p);
  T lanes[kLanes<T>] = {};
  for (ptrdiff_t l = 0; l < count; ++l) lanes[l] = p[l];
  return load(lanes);
}

template <class T>
inline void store_partial(T* p, Vec<T> v, ptrdiff_t count) {
  if (count >= kLanes<T>) return store(p, v);
  T lanes[kLanes<T>];
  store(lanes, v);
  for (ptrdiff_t l = 0; l < count; ++l) p[l] = lanes[l];
}

// The sum of all lanes, by repeated halving.
template <class T, int N>
struct LanesOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <class T, int N = kLanes<T>>
inline T sum_lanes(const typename LanesOf<T, N>::type& v) {
  if constexpr (N == 2) {
    return v[0] + v[1];
  } else {
    typename LanesOf<T, N / 2>::type low, high;
    __builtin_memcpy(&low, &v, sizeof low);
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
    return sum_lanes<T, N / 2>(low + high);
  }
}

// min and max return their second operand when either is NaN, so a NaN in x survives clamping when the bound comes
// first. GCC 12 compiles `a < b ? a : b` to a compare and a blend; hence the intrinsics.
#if defined(__AVX512F__)
// The maskz forms with a full mask are the plain instructions; inside the other forms, GCC 12 warns of an undefined
// value.
inline Vec<float> min(Vec<float> a, Vec<float> b) {
  return (Vec<float>)_mm512_maskz_min_ps(0xFFFF, (__m512)a, (__m512)b);
}
inline Vec<float> max(Vec<float> a, Vec<float> b) {
  return (Vec<float>)_mm512_maskz_max_ps(0xFFFF, (__m512)a, (__m512)b);
}
inline Vec<double> min(Vec<double> a, Vec<double> b) {
  return (Vec<double>)_mm512_maskz_min_pd(0xFF, (__m512d)a, (__m512d)b);
}
inline Vec<double> max(Vec<double> a, Vec<double> b) {
  return (Vec<double>)_mm512_maskz_max_pd(0xFF, (__m512d)a, (__m512d)b);
}
#elif defined(__AVX__)
inline Vec<float> min(Vec<float> a, Vec<float> b) { return (Vec<float>)_mm256_min_ps((__m256)a, (__m256)b); }
inline Vec<float> max(Vec<float> a, Vec<float> b) { return (Vec<float>)_mm256_max_ps((__m256)a, (__m256)b); }
inline Vec<double> min(Vec<double> a, Vec<double> b) { return (Vec<double>)_mm256_min_pd((__m256d)a, (__m256d)b); }
inline Vec<double> max(Vec<double> a, Vec<double> b) { return (Vec<double>)_mm256_max_pd((__m256d)a, (__m256d)b); }
#elif defined(FUSEDRNN_X86)
inline Vec<float> min(Vec<float> a, Vec<float> b) { return (Vec<float>)_mm_min_ps((__m128)a, (__m128)b); }
inline Vec<float> max(Vec<float> a, Vec<float> b) { return (Vec<float>)_mm_max_ps((__m128)a, (__m128)b); }
inline Vec<double> min(Vec<double> a, Vec<double> b) { return (Vec<double>)_mm_min_pd((__m128d)a, (__m128d)b); }
inline Vec<double> max(Vec<double> a, Vec<double> b) { return (Vec<double>)_mm_max_pd((__m128d)a, (__m128d)b); }
#else
template <class V>
inline V min(V a, V b) {
  return a < b ? a : b;
}
template <class V>
inline V max(V a, V b) {
  return a > b ? a : b;
}
#endif

// The integer vector of the same width; reinterpreting is free.
template <class V>
using Bits = decltype(V{} < V{});

// Exchanges the lanes of `a` whose number has bit STEP set with the lanes of `b` whose number does not.
template <int STEP, class T>
inline void exchange(Vec<T>& a, Vec<T>& b) {
  constexpr int W = kLanes<T>;
  const Vec<T> x = a, y = b;
#if defined(__clang__)
  for (int l = 0; l < W; ++l) {
    a[l] = l & STEP ? y[l & ~STEP] : x[l];
    b[l] = l & STEP ? y[l] : x[l | STEP];
  }
#else
  Bits<Vec<T>> of_a, of_b;  // lanes of x, then lanes of y
  for (int l = 0; l < W; ++l) {
    of_a[l] = l & STEP ? W + (l & ~STEP) : l;
    of_b[l] = l & STEP ? W + l : l | STEP;
  }
  a = __builtin_shuffle(x, y, of_a);
  b = __builtin_shuffle(x, y, of_b);
#endif
}

// Transposes a square of kLanes<T> rows in place: bit by bit, row and lane numbers are exchanged.
template <class T, int STEP = 1>
inline void transpose(Vec<T>* rows) {
  constexpr int W = kLanes<T>;
  if constexpr (STEP < W) {
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i)
      if (!(i & STEP)) exchange<STEP, T>(rows[i], rows[i | STEP]);
    transpose<T, 2 * STEP>(rows);
  }
}
template <class T>
inline void transpose(const T* from, ptrdiff_t from_row, T* to, ptrdiff_t to_row) {
  constexpr int W = kLanes<T>;
  Vec<T> rows[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) rows[i] = load(from + i * from_row);
  transpose<T>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) store(to + i * to_row, rows[i]);
}

// Rounding to nearest, no traps, and denormals flushed while a kernel runs; afterwards the caller's state is restored.
// Without the flush, a decaying state or a vanishing gradient makes a layer 20 times slower.
class FloatingPointState {
 public:
#if defined(FUSEDRNN_X86)
  FloatingPointState() : saved_(_mm_getcsr()) { _mm_setcsr(0x9FC0); }  // all exceptions masked, nearest, FTZ and DAZ
  ~FloatingPointState() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FloatingPointState() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    __asm__ volatile("msr fpcr, %0" : : "r"(uint64_t{1} << 24));  // FZ, nearest
  }
  ~FloatingPointState() { __asm__ volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#else
  FloatingPointState() {}
  ~FloatingPointState() {}

 private:
#endif
  FloatingPointState(const FloatingPointState&);
  void operator=(const FloatingPointState&);
};

// Tells the core that this loop waits for another core.
inline void pause_core() {
#if defined(FUSEDRNN_X86)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace fusedrnn::FUSEDRNN_ISA
