// Functions around e^x of which a selective scan is made: 2^x for decays, softplus, (e^x - 1) / x and its slope, sine and
// cosine for the decays of complex states. Branch-free; NaN in gives NaN out. tests/test_exponentials.py measures their
// errors.
#pragma once

#include "math.h"
#include "powers.h"
#include "split_complex.h"

namespace fusedrnn::FUSEDRNN_ISA {

template <class T>
struct ExponentialConstants;

template <>
struct ExponentialConstants<float> {
  // (2^r - 1) / r on |r| <= 1/2, interpolated at Chebyshev's points; error 2^-27 of 2^r
  static constexpr float exp2_q[] = {0.6931471880262288f,   0.24022650760568143f,  0.055503571142191184f,
                                     0.009618082557275802f, 0.0013390863364648752f, 0.00015453162945718252f};
  static constexpr float lowest = -127.0f, highest = 128.0f;  // where 2^n is stored as zero, and as infinity
  static constexpr float half_pi[] = {1.5703125f, 4.837512969970703125e-4f, 7.549789954891882e-8f};  // 8 and 11 bits
  static constexpr int phi_terms = 11, sine_terms = 5, cosine_terms = 6;
};

template <>
struct ExponentialConstants<double> {
  // error 2^-57
  static constexpr double exp2_q[] = {0.69314718055994530909,    0.24022650695910098222,    0.055504108664821659818,
                                      0.0096181291076068874067,  0.0013333558146395974121,  0.00015403530441737583645,
                                      0.000015252733853319626181, 1.3215442587138142241e-6, 1.0178051708049970307e-7,
                                      7.0725860847906163526e-9,  4.4566789464797591813e-10};
  static constexpr double lowest = -1023.0, highest = 1024.0;
  static constexpr double half_pi[] = {1.57079632673412561417, 6.07710050650619224932e-11, 0.0};  // 33 and 53 bits
  static constexpr int phi_terms = 19, sine_terms = 9, cosine_terms = 10;
};

// 2^x. Where it is no normal number it is zero, or infinite.
template <class V>
[[gnu::always_inline]] inline V exp2(V x) {
  using T = Element<V>;
  using C = ExponentialConstants<T>;
  if constexpr (kScales) {
    const V r = past_nearest(x);
    return scale(r * polynomial(r, C::exp2_q) + T(1), nearest(x));
  } else {
    x = min(splat(C::highest), max(splat(C::lowest), x));
    const V shifted = x + MathConstants<T>::to_integer, r = x - (shifted - MathConstants<T>::to_integer);
    const V power = (V)(((Bits<V>)shifted << MathConstants<T>::mantissa) + (Bits<V>)splat(T(1)));
    return power * (r * polynomial(r, C::exp2_q) + T(1));
  }
}

// e^x, zero where it is no normal number; saturates as exp() does above.
template <class V>
inline V decaying_exp(V x) {
  using T = Element<V>;
  return x < MathConstants<T>::lowest ? V{} : exp(x);
}

template <class V>
inline V softplus(V x) {
  using T = Element<V>;
  const V magnitude = (V)((Bits<V>)x & ~(Bits<V>)splat(T(-0.0)));
  return max(V{}, x) + log1p(exp(-magnitude));
}

// Both of one angle. Beyond 2^16 (2^20) quarter turns the angle itself is known to few digits, and the results are
// any numbers of a magnitude of at most 1.
template <class T>
inline Complex<T> unit_circle(Vec<T> x) {
  using C = ExponentialConstants<T>;
  using V = Vec<T>;
  const V shifted = x * T(0.63661977236758134308) + MathConstants<T>::to_integer;
  const V n = shifted - MathConstants<T>::to_integer;
  V r = ((x - n * C::half_pi[0]) - n * C::half_pi[1]) - n * C::half_pi[2];
  r = min(splat(T(0.7854)), max(splat(T(-0.7854)), r));
  const V r2 = r * r;
  // Taylor: sin r = r (1 - r^2/6 (1 - r^2/20 (...))), and cos r likewise.
  V sine = splat(T(1)), cosine = splat(T(1));
  for (int k = C::sine_terms; k > 1; --k) sine = T(1) - sine * r2 * (T(1) / T((2 * k - 1) * (2 * k - 2)));
  for (int k = C::cosine_terms; k > 1; --k) cosine = T(1) - cosine * r2 * (T(1) / T((2 * k - 2) * (2 * k - 3)));
  sine *= r;
  const Bits<V> quarter = (Bits<V>)shifted, one = Bits<V>{} + 1;
  const Bits<V> swapped = (quarter & one) != 0, minus = (Bits<V>)splat(T(-0.0));
  const V y = swapped ? cosine : sine, z = swapped ? sine : cosine;
  const Bits<V> of_sine = (quarter & 2) != 0 ? minus : Bits<V>{};
  const Bits<V> of_cosine = ((quarter + one) & 2) != 0 ? minus : Bits<V>{};
  return {(V)((Bits<V>)z ^ of_cosine), (V)((Bits<V>)y ^ of_sine)};
}

template <class T>
inline Vec<T> exp_of(Vec<T> x, T) {
  return decaying_exp(x);
}
template <class T>
inline Complex<T> exp_of(Complex<T> x, T) {
  return decaying_exp(x.re) * unit_circle<T>(x.im);
}

// phi(x) = (e^x - 1) / x and its slope (e^x - phi(x)) / x, each near zero a series, in which nothing cancels. `power` is
// e^x.
template <class T, class S>
inline S phi(S x, S power) {
  S near = PartsOf<T, S>::zero(), difference = power;
  add_real(near, T(1));
  for (int k = ExponentialConstants<T>::phi_terms; k > 0; --k) {
    near = splat(T(1) / T(k + 1)) * (near * x);
    add_real(near, T(1));
  }
  add_real(difference, T(-1));
  return choose<T>(square_of(x, T()) < T(1), near, difference * reciprocal(x, T()));
}
template <class T, class S>
inline S phi_slope(S x, S power, S of_phi) {
  S near = PartsOf<T, S>::zero();
  add_real(near, T(1));
  // Terms x^k (k + 1) / (k + 2)!: each is the one before times x (k + 1) / (k (k + 2)).
  for (int k = ExponentialConstants<T>::phi_terms; k > 0; --k) {
    near = splat(T(k + 1) / T(k * (k + 2))) * (near * x);
    add_real(near, T(1));
  }
  return choose<T>(square_of(x, T()) < T(1), splat(T(0.5)) * near, (power - of_phi) * reciprocal(x, T()));
}

}  // namespace fusedrnn::FUSEDRNN_ISA
