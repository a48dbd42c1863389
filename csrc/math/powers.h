// 2^x taken apart and put together by instructions of their own, where the instruction set has them. Beside simd.h, the
// only file with conditionals on the instruction set.
#pragma once

#include "simd.h"

namespace fusedrnn::FUSEDRNN_ISA {

// x - nearest(x) is 0 for infinities, and p * 2^n becomes zero or infinite in time.
#if defined(__AVX512F__)
inline constexpr bool kScales = true;
inline Vec<float> nearest(Vec<float> x) { return (Vec<float>)_mm512_maskz_roundscale_ps(0xFFFF, (__m512)x, 8); }
inline Vec<double> nearest(Vec<double> x) { return (Vec<double>)_mm512_maskz_roundscale_pd(0xFF, (__m512d)x, 8); }
inline Vec<float> past_nearest(Vec<float> x) { return (Vec<float>)_mm512_maskz_reduce_ps(0xFFFF, (__m512)x, 8); }
inline Vec<double> past_nearest(Vec<double> x) { return (Vec<double>)_mm512_maskz_reduce_pd(0xFF, (__m512d)x, 8); }
inline Vec<float> scale(Vec<float> p, Vec<float> n) {
  return (Vec<float>)_mm512_maskz_scalef_ps(0xFFFF, (__m512)p, (__m512)n);
}
inline Vec<double> scale(Vec<double> p, Vec<double> n) {
  return (Vec<double>)_mm512_maskz_scalef_pd(0xFF, (__m512d)p, (__m512d)n);
}
#else
inline constexpr bool kScales = false;
template <class V>
inline V nearest(V x) {
  return x;
}
template <class V>
inline V past_nearest(V x) {
  return x;
}
template <class V>
inline V scale(V p, V) {
  return p;
}
#endif

}  // namespace fusedrnn::FUSEDRNN_ISA
