// exp, sigmoid and tanh for a vector V of float or double. Branch-free; NaN in gives NaN out; infinities saturate.
// Errors were measured over all 2^32 floats (benchmarks/activation_accuracy.py); docs/accuracy.md has the figures per
// ISA. The polynomials are minimax fits (Remez exchange, 60 digits) of the functions named beside them.
#pragma once

#include "simd.h"

namespace fusedrnn::FUSEDRNN_ISA {

template <class T>
struct MathConstants;

template <>
struct MathConstants<float> {
  static constexpr float lowest = -87.33f, highest = 88.37f;  // between these, exp() is a normal number
  static constexpr float largest = 0x1.fffffep127f;
  static constexpr int log1p_terms = 8;             // 9^-8 / 17 = 2^-29
  static constexpr float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it leaves round(x) in the low bits
  static constexpr float log2_e = 1.44269504088896341f;
  static constexpr float ln2_high = 0.693145751953125f,
                         ln2_low = 1.42860682030941723e-6f;  // high: 15 bits, n * high exact
  static constexpr int mantissa = 23;
  // (exp(r) - 1 - r) / r^2 on |r| <= ln(2) / 2, error 2^-28 of exp
  static constexpr float exp_q[] = {0.49999993447796486827f, 0.16666520631709496887f, 0.041668388045313996659f,
                                    0.0083687168797281399469f, 0.0013814598646664034453f};
  // (tanh(x) / x - 1) / x^2 as a polynomial in x^2 on |x| <= 0.625, error 2^-32 of tanh
  static constexpr float tanh_small = 0.625f;
  static constexpr float tanh_p[] = {-0.33333330802723516245f, 0.13333206008151463693f,    -0.053946763041674852261f,
                                     0.021700703143668225759f, -0.0081773980995364152633f, 0.002142961751477318114f};
};

template <>
struct MathConstants<double> {
  static constexpr double lowest = -708.39, highest = 709.43, largest = 0x1.fffffffffffffp1023;
  static constexpr int log1p_terms = 17;                    // 9^-17 / 35 = 2^-59
  static constexpr double to_integer = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double log2_e = 1.44269504088896340736;
  static constexpr double ln2_high = 0x1.62e42fefa0000p-1, ln2_low = 0x1.cf79abc9e3b39p-40;  // high: 36 bits
  static constexpr int mantissa = 52;
  static constexpr double exp_q[] = {0.50000000000000000439,     0.1666666666666668342,    0.041666666666666094269,
                                     0.0083333333333170343817,   0.0013888888889115634019, 0.00019841269896383537154,
                                     0.000024801586926620575104, 2.7557234862161097802e-6, 2.7557581859337941151e-7,
                                     2.5112036766837636659e-8,   2.082662362761640331e-9};
  static constexpr double tanh_small = 0.55;  // error 2^-60 of tanh
  static constexpr double tanh_p[] = {
      -0.33333333333333298411,    0.13333333333326620344,     -0.053968253963760403691,   0.021869488385851169848,
      -0.0088632326013787987482,  0.0035920920299067940943,   -0.0014555428428462446144,  0.00058844447590055510695,
      -0.00023338154249664071896, 0.000083316418865059011008, -0.000019494672030855716281};
};

template <class V>
using Element = decltype(V{}[0] + V{}[0]);

// Horner, from the highest coefficient down.
template <class V, class T, int N>
[[gnu::always_inline]] inline V polynomial(V x, const T (&c)[N]) {
  V p = splat(c[N - 1]);
#pragma GCC unroll 16
  for (int j = N - 2; j >= 0; --j) p = p * x + c[j];
  return p;
}

// e^x = 2^n e^r with n = round(x / ln 2): returns e^r - 1 and sets 2^n. The two are returned separately because the
// functions below need different combinations: they add their 1 to 2^n, which hardly rounds, and multiply once.
template <class V>
[[gnu::always_inline]] inline V exp_parts(V x, V& power) {
  using T = Element<V>;
  using C = MathConstants<T>;
  const V shifted = x * C::log2_e + C::to_integer;
  const V n = shifted - C::to_integer;
  const V r = (x - n * C::ln2_high) - n * C::ln2_low;
  power = (V)(((Bits<V>)shifted << C::mantissa) + (Bits<V>)splat(T(1)));
  return r * r * polynomial(r, C::exp_q) + r;  // NaN for NaN, whatever the bits of `power`
}

inline float square_root(float x) { return __builtin_sqrtf(x); }
inline double square_root(double x) { return __builtin_sqrt(x); }
template <class V>
inline V square_root(V x) {
  for (unsigned l = 0; l < sizeof(V) / sizeof x[0]; ++l) x[l] = square_root(x[l]);
  return x;
}

// Clamped to the range where the result is a normal number.
template <class V>
[[gnu::always_inline]] inline V exp(V x) {
  using C = MathConstants<Element<V>>;
  V power;
  const V q = exp_parts(min(splat(C::highest), max(splat(C::lowest), x)), power);
  return power * (q + Element<V>(1));
}

template <class V>
[[gnu::always_inline]] inline V sigmoid(V x) {
  using T = Element<V>;
  using C = MathConstants<T>;
  V power;
  const V q = exp_parts(-min(splat(-C::lowest), max(splat(-C::highest), x)), power);
  return T(1) / (power * q + (power + T(1)));
}

// Near zero an odd polynomial, elsewhere 1 - 2 / (e^2|x| + 1), which by itself would lose every digit near zero.
template <class V>
[[gnu::always_inline]] inline V tanh(V x) {
  using T = Element<V>;
  using C = MathConstants<T>;
  const Bits<V> sign = (Bits<V>)x & (Bits<V>)splat(T(-0.0));
  const V magnitude = (V)((Bits<V>)x ^ sign);
  const V x2 = x * x;
  const V small = x * x2 * polynomial(x2, C::tanh_p) + x;
  V power;
  const V q = exp_parts(min(splat(C::highest), magnitude + magnitude), power);
  const V large = T(1) - T(2) / (power * q + (power + T(1)));
  return (V)((Bits<V>)(magnitude < C::tanh_small ? small : large) | sign);  // tanh(-0) is -0
}

// log(1 + x) for 0 <= x <= 1: 2 atanh(q) = 2 q (1 + q^2/3 + q^4/5 + ...) with q = x / (2 + x) <= 1/3.
template <class V>
inline V log1p(V x) {
  using T = Element<V>;
  const V twice = (x + x) / (x + T(2)), q2 = twice * twice * T(0.25);  // 2 q: the q of the smallest x would be denormal
  V sum = splat(T(1) / T(2 * MathConstants<T>::log1p_terms - 1));
#pragma GCC unroll 16
  for (int k = MathConstants<T>::log1p_terms - 2; k >= 0; --k) sum = sum * q2 + T(1) / T(2 * k + 1);
  return twice * sum;
}

}  // namespace fusedrnn::FUSEDRNN_ISA
