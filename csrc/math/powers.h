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
// Whether n is far from where a sum with MathConstants::to_integer is no integer any more; else p becomes 1.
inline Vec<float> unless_far(Vec<float> p, Vec<float> r, Vec<float> n) {
  const __mmask16 near = _mm512_cmp_ps_mask(_mm512_abs_ps((__m512)n), _mm512_set1_ps(2097152.0f), _CMP_LT_OQ);
  return (Vec<float>)_mm512_mask3_fmadd_ps((__m512)p, (__m512)r, _mm512_set1_ps(1.0f), near);
}
inline Vec<double> unless_far(Vec<double> p, Vec<double> r, Vec<double> n) {
  const __mmask8 near = _mm512_cmp_pd_mask(_mm512_abs_pd((__m512d)n), _mm512_set1_pd(1125899906842624.0), _CMP_LT_OQ);
  return (Vec<double>)_mm512_mask3_fmadd_pd((__m512d)p, (__m512d)r, _mm512_set1_pd(1.0), near);
}
// 1 / x for 0 < x < the largest number, without a division, which would keep the whole core waiting: 14 bits, then
// Newton's steps.
inline Vec<float> inverse(Vec<float> x) {
  const Vec<float> y = (Vec<float>)_mm512_maskz_rcp14_ps(0xFFFF, (__m512)x);
  return y * (1.0f - x * y) + y;
}
inline Vec<double> inverse(Vec<double> x) {
  Vec<double> y = (Vec<double>)_mm512_maskz_rcp14_pd(0xFF, (__m512d)x);
  y = y * (1.0 - x * y) + y;
  return y * (1.0 - x * y) + y;
}
#else
template <class V>
inline V inverse(V x) {
  return 1 / x;
}
inline constexpr bool kScales = false;
template <class V>
inline V unless_far(V p, V, V) {
  return p;
}
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
