// Functions around e^x of which a selective scan is made: 2^x for decays, softplus, (e^x - 1) / x and its slope, sine
// and cosine for the decays of complex states. Branch-free; NaN in gives NaN out. tests/test_exponentials.py measures
// their errors.
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
  static constexpr float exp2_q[] = {0.6931471880262288f,   0.24022650760568143f,   0.055503571142191184f,
                                     0.009618082557275802f, 0.0013390863364648752f, 0.00015453162945718252f};
  static constexpr float log2_e_low = 1.92596299e-8f;  // log2(e) less MathConstants::log2_e
  // log(1 + x) / x on [0, 1] as a polynomial in x - 1/2, likewise; error 2^-27
  static constexpr float log1p_q[] = {0.8109302199132426355f,   -0.2885271013719793504f,   0.1326090157771871577f,
                                      -0.06768818965399572833f, 0.03663523416633938094f,   -0.0205631824321635383f,
                                      0.01157768518238274659f,  -0.006788016951938559406f, 0.005250270678070282874f,
                                      -0.003176057018431959695f};
  static constexpr float lowest = -127.0f, highest = 128.0f;  // where 2^n is stored as zero, and as infinity
  static constexpr float half_pi[] = {1.5703125f, 4.837512969970703125e-4f, 7.549789954891882e-8f};  // 8 and 11 bits
  static constexpr int phi_terms = 11, sine_terms = 5, cosine_terms = 6;
};

template <>
struct ExponentialConstants<double> {
  // error 2^-57
  static constexpr double exp2_q[] = {0.69314718055994530909,     0.24022650695910098222,   0.055504108664821659818,
                                      0.0096181291076068874067,   0.0013333558146395974121, 0.00015403530441737583645,
                                      0.000015252733853319626181, 1.3215442587138142241e-6, 1.0178051708049970307e-7,
                                      7.0725860847906163526e-9,   4.4566789464797591813e-10};
  static constexpr double log2_e_low = 2.0355273740931033e-17;
  // error 2^-56
  static constexpr double log1p_q[] = {
      0.810930216216328764,      -0.2885270990993238966,     0.1326097537542037542,     -0.06768864331096429562,
      0.03661185452304442513,    -0.02054881191912071423,    0.01183379211549827359,    -0.006945394974985512936,
      0.004136178969492578875,   -0.00249184119479886247,    0.00151538510533750961,    -0.0009288574279277323546,
      0.0005730446084677867223,  -0.0003548204878310238112,  0.0002211917089576656569,  -0.0001421000228999902963,
      0.00008933303406819271381, -0.00004482844325223256342, 0.00002827808358562654376, -0.00003836237445160124533,
      0.00002443797394858094711};
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

// 2^(x a) for K numbers a, each step of the computation for all of them before the next one: the scheduler of a core
// holds less than the whole of a few such chains.
template <int K, class T>
[[gnu::always_inline]] inline void decays(Vec<T> x, const T* a, Vec<T>* result) {
  using C = ExponentialConstants<T>;
  using V = Vec<T>;
  if constexpr (kScales) {
    constexpr int kTerms = sizeof C::exp2_q / sizeof(T);
    V n[K], r[K], p[K];
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) n[k] = x * load(a + k * kLanes<T>) + MathConstants<T>::to_integer;
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) n[k] = n[k] - MathConstants<T>::to_integer;
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) r[k] = x * load(a + k * kLanes<T>) - n[k];
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) p[k] = r[k] * C::exp2_q[kTerms - 1] + C::exp2_q[kTerms - 2];
#pragma GCC unroll 16
    for (int j = kTerms - 3; j >= 0; --j)
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k) p[k] = p[k] * r[k] + C::exp2_q[j];
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) p[k] = unless_far(p[k], r[k], n[k]);
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) result[k] = scale(p[k], n[k]);
  } else {
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) result[k] = exp2(x * load(a + k * kLanes<T>));
  }
}

// e^x, zero where it is no normal number; saturates as exp() does above.
template <class V>
inline V decaying_exp(V x) {
  using T = Element<V>;
  return x < MathConstants<T>::lowest ? V{} : exp(x);
}

// e^x between MathConstants::lowest and highest.
template <class V>
[[gnu::always_inline]] inline V bounded_exp(V x) {
  using T = Element<V>;
  using M = MathConstants<T>;
  using C = ExponentialConstants<T>;
  if constexpr (kScales) {
    const V n = (x * M::log2_e + M::to_integer) - M::to_integer;
    const V r = x * C::log2_e_low + (x * M::log2_e - n);
    return scale(r * polynomial(r, C::exp2_q) + T(1), n);
  } else {
    V power;
    const V q = exp_parts(x, power);
    return power * (q + T(1));
  }
}

// log(1 + e^x), without a division.
template <class V>
[[gnu::always_inline]] inline V softplus(V x) {
  using T = Element<V>;
  const V magnitude = (V)((Bits<V>)x & ~(Bits<V>)splat(T(-0.0)));
  const V e = bounded_exp(max(splat(MathConstants<T>::lowest), -magnitude));
  return max(V{}, x) + e * polynomial(e - T(0.5), ExponentialConstants<T>::log1p_q);
}

// 1 / (1 + e^-x), likewise where the instruction set allows for it.
template <class V>
[[gnu::always_inline]] inline V logistic(V x) {
  using T = Element<V>;
  using M = MathConstants<T>;
  return inverse(T(1) + bounded_exp(-min(splat(-M::lowest), max(splat(-M::highest), x))));
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
  r = min(splat(T(1)), max(splat(T(-1)), r));  // a little more than half a quarter, as n is rounded
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

// phi(x) = (e^x - 1) / x and its slope (e^x - phi(x)) / x, each near zero a series, in which nothing cancels. `power`
// is e^x.
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
