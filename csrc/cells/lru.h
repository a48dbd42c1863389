// LRU: h' = lambda h + gamma a with complex h, lambda and a, element by element; lambda = exp(-exp(nu) + i exp(theta)),
// gamma = exp(g). Orvieto et al. 2023, "Resurrecting recurrent neural networks for long sequences", arXiv:2303.06349;
// python/fusedrnn/reference/cells/lru.py is the same in NumPy. Units 2k and 2k + 1 are the real and the imaginary part
// of the complex unit k, whose parameters both have.
#pragma once

#include "cell.h"

namespace fusedrnn::FUSEDRNN_ISA {

// Exchanges the two parts of every complex number.
template <class V>
[[gnu::always_inline]] inline V swap_parts(V x) {
  constexpr int W = sizeof(V) / sizeof x[0];
#if defined(__clang__)
  V y = x;
  for (int l = 0; l < W; ++l) y[l] = x[l ^ 1];
  return y;
#else
  Bits<V> of;
  for (int l = 0; l < W; ++l) of[l] = l ^ 1;
  return __builtin_shuffle(x, of);
#endif
}

class LRU {
 public:
  static constexpr bool recurrent = false;
  static constexpr int sharing = 2;
  static constexpr int gates = 1, states = 1, skip = 0, saved = 1, unit_parameters = 3;  // nu, theta, g
  static constexpr int order[] = {0};

  inline explicit LRU(const CellOptions&) {}

  // p: the real part of lambda, its imaginary part with the sign that it has in this part of a product, gamma
  template <class V>
  void prepare(V* p) const {
    V sine, cosine;
    sine_and_cosine(exp(p[1]), sine, cosine);
    const V size = exp(-exp(p[0]));
    p[0] = size * cosine;
    p[1] = size * sine * sign<V>();
    p[2] = exp(p[2]);
  }
  template <class V>
  void finish(const V* p, V* dp) const {
    V made[3] = {p[0], p[1], p[2]};
    prepare(made);
    const V imaginary = made[1] * sign<V>(), dimaginary = dp[1] * sign<V>();
    dp[2] = dp[2] * made[2];
    dp[1] = exp(p[1]) * (dimaginary * made[0] - dp[0] * imaginary);
    dp[0] = -exp(p[0]) * (dp[0] * made[0] + dimaginary * imaginary);
    for (int i = 0; i < unit_parameters; ++i) dp[i] = dp[i] + swap_parts(dp[i]);
  }

  template <class V>
  void forward(const V* a, const V* s, const V* p, V* s_new, V* save) const {
    s_new[0] = p[0] * s[0] + (p[1] * swap_parts(s[0]) + p[2] * a[0]);
    save[0] = a[0];
  }
  template <class V>
  void backward(const V* save, const V* s, const V*, const V* p, const V* ds_new, V* da, V* ds, V* dp) const {
    const V dh = ds_new[0];
    da[0] = dh * p[2];
    ds[0] = p[0] * dh + swap_parts(p[1] * dh);
    dp[0] = dh * s[0] + dp[0];
    dp[1] = dh * swap_parts(s[0]) + dp[1];
    dp[2] = dh * save[0] + dp[2];
  }

 private:
  // -1 in real parts, which take minus the product of two imaginary parts; 1 in imaginary parts.
  template <class V>
  static V sign() {
    V s;
    for (unsigned l = 0; l < sizeof(V) / sizeof s[0]; ++l) s[l] = l & 1 ? Element<V>(1) : Element<V>(-1);
    return s;
  }

  // Of angles up to some thousands, by subtraction of a multiple of pi / 2, in three parts, and Taylor polynomials.
  template <class V>
  static void sine_and_cosine(V x, V& sine, V& cosine) {
    using T = Element<V>;
    using C = MathConstants<T>;
    const V shifted = x * T(0.63661977236758134308) + C::to_integer, n = shifted - C::to_integer;
    V r;
    if constexpr (sizeof(T) == 4)
      r = ((x - n * T(1.5703125)) - n * T(4.837512969970703e-4)) - n * T(7.54978995489188e-8);
    else r = ((x - n * T(0x1.921fb544p0)) - n * T(0x1.0b4611a6p-34)) - n * T(0x1.3198a2e037073p-69);
    constexpr T kSine[] = {T(1),           T(-1. / 6),        T(1. / 120),         T(-1. / 5040),
                           T(1. / 362880), T(-1. / 39916800), T(1. / 6227020800.), T(-1. / 1307674368000.)};
    constexpr T kCosine[] = {T(1),
                             T(-1. / 2),
                             T(1. / 24),
                             T(-1. / 720),
                             T(1. / 40320),
                             T(-1. / 3628800),
                             T(1. / 479001600.),
                             T(-1. / 87178291200.),
                             T(1. / 20922789888000.)};
    const V r2 = r * r, s = r * polynomial(r2, kSine), c = polynomial(r2, kCosine);
    const Bits<V> quarter = (Bits<V>)shifted;  // its low bits are n's
    const Bits<V> odd = (quarter & 1) != 0, turned = (quarter & 2) != 0, turned_cosine = ((quarter + 1) & 2) != 0;
    sine = odd ? c : s;
    cosine = odd ? s : c;
    sine = turned ? -sine : sine;
    cosine = turned_cosine ? -cosine : cosine;
  }
};

}  // namespace fusedrnn::FUSEDRNN_ISA
