// Products of complex numbers in a vector: real and imaginary parts alternate, as in a complex64 or complex128 array.
#pragma once

#include "simd.h"

namespace fusedrnn::FUSEDRNN_ISA {

template <class T>
inline Vec<T> swap_pairs(Vec<T> x) {
  Vec<T> y;
#if defined(__clang__)
  for (int l = 0; l < kLanes<T>; ++l) y[l] = x[l ^ 1];
#else
  Bits<Vec<T>> from;
  for (int l = 0; l < kLanes<T>; ++l) from[l] = l ^ 1;
  y = __builtin_shuffle(x, from);
#endif
  return y;
}

// Every pair (re, im) of x becomes (re, re), or (im, im).
template <class T, int PART>
inline Vec<T> part_of_pairs(Vec<T> x) {
  Vec<T> y;
#if defined(__clang__)
  for (int l = 0; l < kLanes<T>; ++l) y[l] = x[(l & ~1) | PART];
#else
  Bits<Vec<T>> from;
  for (int l = 0; l < kLanes<T>; ++l) from[l] = (l & ~1) | PART;
  y = __builtin_shuffle(x, from);
#endif
  return y;
}

// The sign of each lane is flipped in the real parts (PART = 0) or the imaginary parts (PART = 1).
template <class T, int PART>
inline Vec<T> negate_part(Vec<T> x) {
  Vec<T> sign = {};
  for (int l = PART; l < kLanes<T>; l += 2) sign[l] = T(-0.0);
  return (Vec<T>)((Bits<Vec<T>>)x ^ (Bits<Vec<T>>)sign);
}

// a x + c
template <class T>
inline Vec<T> complex_product(Vec<T> a, Vec<T> x, Vec<T> c) {
  const Vec<T> imaginary = negate_part<T, 0>(part_of_pairs<T, 1>(a));
  return part_of_pairs<T, 0>(a) * x + (imaginary * swap_pairs<T>(x) + c);
}

// conj(a) x
template <class T>
inline Vec<T> conjugate_product(Vec<T> a, Vec<T> x) {
  const Vec<T> imaginary = negate_part<T, 1>(part_of_pairs<T, 1>(a));
  return part_of_pairs<T, 0>(a) * x + imaginary * swap_pairs<T>(x);
}

}  // namespace fusedrnn::FUSEDRNN_ISA
