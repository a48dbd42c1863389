// Complex numbers whose real and imaginary parts are vectors of their own, and the same operations for real vectors, so
// that one kernel is written for both.
#pragma once

#include "simd.h"

namespace fusedrnn::FUSEDRNN_ISA {

template <class T>
struct Complex {
  Vec<T> re, im;
};

template <class T>
inline Complex<T> operator+(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class T>
inline Complex<T> operator-(Complex<T> a, Complex<T> b) {
  return {a.re - b.re, a.im - b.im};
}
template <class T>
inline Complex<T> operator*(Complex<T> a, Complex<T> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <class T>
inline Complex<T> operator*(Vec<T> a, Complex<T> b) {
  return {a * b.re, a * b.im};
}

// conj(a) b; for real numbers the product.
template <class T>
inline Vec<T> conjugate_times(Vec<T> a, Vec<T> b, T) {
  return a * b;
}
template <class T>
inline Complex<T> conjugate_times(Complex<T> a, Complex<T> b, T) {
  return {a.re * b.re + a.im * b.im, a.re * b.im - a.im * b.re};
}

// Re(conj(a) b)
template <class T>
inline Vec<T> real_product(Vec<T> a, Vec<T> b, T) {
  return a * b;
}
template <class T>
inline Vec<T> real_product(Complex<T> a, Complex<T> b, T) {
  return a.re * b.re + a.im * b.im;
}

template <class T>
inline void add_real(Vec<T>& x, T number) {
  x += number;
}
template <class T>
inline void add_real(Complex<T>& x, T number) {
  x.re += number;
}

template <class T>
inline Vec<T> reciprocal(Vec<T> x, T) {
  return T(1) / x;
}
template <class T>
inline Complex<T> reciprocal(Complex<T> x, T) {
  const Vec<T> square = x.re * x.re + x.im * x.im;
  return {x.re / square, -(x.im / square)};
}

template <class T>
inline Vec<T> square_of(Vec<T> x, T) {
  return x * x;
}
template <class T>
inline Vec<T> square_of(Complex<T> x, T) {
  return x.re * x.re + x.im * x.im;
}

template <class T>
inline Vec<T> choose(Bits<Vec<T>> which, Vec<T> yes, Vec<T> no) {
  return which ? yes : no;
}
template <class T>
inline Complex<T> choose(Bits<Vec<T>> which, Complex<T> yes, Complex<T> no) {
  return {which ? yes.re : no.re, which ? yes.im : no.im};
}

// Vectors that make up a number: one, or two side by side in memory.
template <class T, class S>
struct PartsOf {
  static constexpr int kCount = 1;
  static S zero() { return S{}; }
  static S read(const T* p) { return load(p); }
  static void write(T* p, S x) { store(p, x); }
};
template <class T>
struct PartsOf<T, Complex<T>> {
  static constexpr int kCount = 2;
  static Complex<T> zero() { return {Vec<T>{}, Vec<T>{}}; }
  static Complex<T> read(const T* p) { return {load(p), load(p + kLanes<T>)}; }
  static void write(T* p, Complex<T> x) { store(p, x.re), store(p + kLanes<T>, x.im); }
};

}  // namespace fusedrnn::FUSEDRNN_ISA
